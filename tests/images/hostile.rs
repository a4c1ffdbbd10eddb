//! Files that must be refused, each for the right reason.

use alexnet::image::{self, DecodeOptions};

use super::{DEFAULT, FAST, UPRIGHT, decode, make, refusal};
use crate::testdata;

/// A whole file of each format and the options that take the most code.
fn whole_files() -> Vec<(&'static str, Vec<u8>, DecodeOptions)> {
    let picture = make::picture(40, 30);
    vec![
        ("JPEG", make::jpeg(&picture), DEFAULT),
        ("progressive JPEG", make::progressive_jpeg(&picture), DEFAULT),
        ("CMYK JPEG", make::cmyk_jpeg(&picture, false), DEFAULT),
        ("JPEG, fast", make::jpeg(&picture), FAST),
        ("progressive JPEG, fast", make::progressive_jpeg(&picture), FAST),
        ("PNG", make::png_with_exif(&picture, &make::exif(6, true)), UPRIGHT),
        ("animated PNG", make::ANIMATED_PNG.into(), DEFAULT),
        ("WebP", make::webp_with_exif(&picture, &make::exif(6, true)), UPRIGHT),
        ("lossy WebP", make::LOSSY_WEBP.into(), DEFAULT),
        ("animated WebP", make::ANIMATED_WEBP.into(), DEFAULT),
        ("BMP", make::bmp(&picture), DEFAULT),
        ("GIF", make::small_gif(), DEFAULT),
    ]
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for (format, bytes, options) in whole_files() {
        decode(&bytes, options);
        for len in 0..bytes.len() {
            let reason = refusal(&bytes[..len], options);
            assert!(!reason.contains("the decoder failed"), "{format} cut to {len} bytes: {reason}");
        }
    }
}

#[test]
fn large_jpegs_cut_anywhere_are_refused() {
    for file in ["landscape", "progressive-444", "gray", "cmyk"] {
        let bytes = testdata::bytes(&format!("tests/data/images/{file}.jpg"));
        let lens = (0..bytes.len()).step_by(bytes.len() / 40).chain(bytes.len() - 4..bytes.len());
        for len in lens {
            for options in [DEFAULT, FAST] {
                refusal(&bytes[..len], options);
            }
            // With an end marker put on, the data before it is what is missing. The fast decoder does not notice.
            if len < bytes.len() - 4 {
                refusal(&[&bytes[..len], &[0xff, 0xd9]].concat(), DEFAULT);
            }
        }
    }
}

#[test]
fn bytes_after_the_end_are_ignored() {
    for (format, mut bytes, options) in whole_files() {
        let expected = decode(&bytes, options);
        bytes.extend(b"\xff\xd8 and more");
        assert_eq!(decode(&bytes, options), expected, "{format}");
    }
}

#[test]
fn other_content_is_named() {
    for (bytes, found) in [
        (&b""[..], "an empty file"),
        (b"hello, world", "text, \"hello, world\""),
        (b"II*\0\x08\0\0\0", "Tiff"),
        (b"\x01\x02\0\xff", "the bytes [01, 02, 00, ff]"),
    ] {
        let reason = refusal(bytes, DEFAULT);
        assert_eq!(reason, format!("not a picture: found {found}; JPEG, PNG, WebP, BMP and GIF are read"));
    }
}

/// `bytes` with `patch` at `at`.
fn patched(mut bytes: Vec<u8>, at: usize, patch: &[u8]) -> Vec<u8> {
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

fn patched_png(at: usize, patch: &[u8]) -> Vec<u8> {
    let mut png = patched(make::png(&make::picture(4, 4)), at, patch);
    make::fix_png_checksums(&mut png);
    png
}

/// Position of the height in the frame header.
fn jpeg_height(jpeg: &[u8]) -> usize {
    jpeg.windows(2).position(|pair| matches!(pair, [0xff, 0xc0 | 0xc2])).unwrap() + 5
}

/// A WebP of one picture chunk, in a canvas of 4 x 4 if `canvas` is given.
fn webp(canvas: bool, name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let chunk = |name: &[u8; 4], data: &[u8]| [&name[..], &(data.len() as u32).to_le_bytes(), data].concat();
    let mut chunks = b"WEBP".to_vec();
    if canvas {
        chunks.extend(chunk(b"VP8X", &[0, 0, 0, 0, 3, 0, 0, 3, 0, 0]));
    }
    chunks.extend(chunk(name, data));
    chunk(b"RIFF", &chunks)
}

#[test]
fn a_huge_size_is_refused_from_the_header() {
    let picture = make::picture(16, 16);
    let baseline = make::jpeg(&picture);
    let progressive = make::progressive_jpeg(&picture);
    let (at, progressive_at) = (jpeg_height(&baseline), jpeg_height(&progressive));
    let bmp = make::bmp(&picture);
    let gif = make::small_gif();
    // The frame's descriptor follows the header and the 16 colours; its size follows its position.
    let frame = gif.iter().skip(13 + 48).position(|&b| b == b',').unwrap() + 13 + 48 + 5;
    // A lossy frame header: key frame, start code, 16383 x 16383.
    let lossy = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f, 0, 0];
    let files = [
        ("JPEG, both sides", patched(baseline.clone(), at, &[0xea, 0x60, 0xea, 0x60])),
        ("JPEG, one side", patched(baseline.clone(), at, &[0x40, 0x01, 0, 16])),
        ("JPEG, pixels", patched(baseline.clone(), at, &[0x40, 0, 0x40, 0])),
        ("progressive JPEG", patched(progressive, progressive_at, &[0xea, 0x60, 0xea, 0x60])),
        ("PNG, both sides", patched_png(16, &[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60])),
        ("PNG, 31 bits", patched_png(16, &[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff])),
        ("PNG, pixels", patched_png(16, &[0, 0, 0x40, 0, 0, 0, 0x40, 0])),
        // 9000 x 9000 x 8 bytes: few enough pixels, too many bytes.
        ("PNG, bytes", patched_png(16, &[0, 0, 0x23, 0x28, 0, 0, 0x23, 0x28, 16, 6])),
        ("BMP, both sides", patched(bmp.clone(), 18, &[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0])),
        ("BMP, pixels", patched(bmp.clone(), 18, &[0, 0x40, 0, 0, 0, 0x40, 0, 0])),
        ("GIF, canvas", patched(gif.clone(), 6, &[0x60, 0xea, 0x60, 0xea])),
        ("GIF, frame", patched(gif, frame, &[0x60, 0xea, 0x60, 0xea])),
        ("WebP, lossless", webp(false, b"VP8L", &[0x2f, 0xfe, 0xbf, 0xff, 0x0f, 0, 0, 0])),
        ("WebP, lossy", webp(false, b"VP8 ", &lossy)),
        ("WebP, canvas", patched(webp(true, b"VP8 ", &lossy), 24, &[0x60, 0xea, 0, 0x60, 0xea, 0])),
        ("WebP, lossy in a small canvas", webp(true, b"VP8 ", &lossy)),
    ];
    for (file, bytes) in files {
        let reason = refusal(&bytes, DEFAULT);
        assert!(reason.contains("too large"), "{file}: {reason}");
        if file.contains("JPEG") {
            refusal(&bytes, FAST);
        }
    }
}

#[test]
fn nested_webp_frames_do_not_exhaust_the_stack() {
    const LEVELS: usize = 200_000;
    let mut chunks = Vec::new();
    for level in 0..LEVELS {
        chunks.extend(b"ANMF");
        chunks.extend((24 * (LEVELS - level) as u32 - 8).to_le_bytes());
        chunks.extend([0; 16]);
    }
    refusal(&webp(true, b"ANMF", &chunks), DEFAULT);
}

#[test]
fn a_size_of_zero_is_refused() {
    let picture = make::picture(16, 16);
    let jpeg = make::jpeg(&picture);
    let at = jpeg_height(&jpeg);
    for options in [DEFAULT, FAST] {
        refusal(&patched(jpeg.clone(), at, &[0, 0]), options);
        refusal(&patched(jpeg.clone(), at + 2, &[0, 0]), options);
    }
    refusal(&patched_png(16, &[0; 4]), DEFAULT);
    refusal(&patched_png(20, &[0; 4]), DEFAULT);
    refusal(&patched(make::bmp(&picture), 18, &[0; 4]), DEFAULT);
    refusal(&patched(make::bmp(&picture), 22, &[0; 4]), DEFAULT);
    refusal(&webp(false, b"VP8 ", &[0x10, 0, 0, 0x9d, 0x01, 0x2a, 0, 0, 4, 0]), DEFAULT);
    let empty_frame = make::gif((4, 4), &[0; 6], (0, 0, 4, 4), &[0; 16], None);
    let at = 13 + 6 + empty_frame[19..].iter().position(|&b| b == b',').unwrap() + 5;
    refusal(&patched(empty_frame, at, &[0; 4]), DEFAULT);
}

#[test]
fn corrupt_jpeg_data_is_refused() {
    let bytes = testdata::bytes("tests/data/images/landscape.jpg");
    // A restart marker where none belongs, in the middle of the data.
    let reason = refusal(&patched(bytes.clone(), bytes.len() / 2, &[0xff, 0xd3]), DEFAULT);
    assert!(reason.starts_with("JPEG: Corrupt JPEG data"), "{reason}");
    // A comment there: the rest of the data is gone for either decoder.
    for options in [DEFAULT, FAST] {
        refusal(&patched(bytes.clone(), bytes.len() / 2, &[0xff, 0xfe, 0, 2]), options);
    }
}

#[test]
fn many_scans_are_refused() {
    let bytes = make::progressive_jpeg(&make::picture(16, 16));
    let last = bytes.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
    let (start, scan) = (&bytes[..last], &bytes[last..bytes.len() - 2]);
    let before = bytes.windows(2).filter(|pair| pair == &[0xff, 0xda]).count();
    let with = |scans: usize| [start, &scan.repeat(scans + 1 - before), &[0xff, 0xd9]].concat();
    for options in [DEFAULT, FAST] {
        let reason = refusal(&with(101), options);
        assert!(reason.contains("101 scans, more than 100"), "{reason}");
        // Refused or not, it is not for their number.
        if let Err(error) = image::decode(&with(100), options) {
            assert!(!error.to_string().contains("scans, more"), "{error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    use std::fs;
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refused = |name: &str| image::read_file(&path(name)).unwrap_err().to_string();

    fs::write(path("file"), b"content").unwrap();
    symlink(path("file"), path("link")).unwrap();
    assert_eq!(image::read_file(&path("file")).unwrap(), b"content");
    assert_eq!(image::read_file(&path("link")).unwrap(), b"content");

    // Opening it would block: nobody writes to it.
    assert!(std::process::Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    symlink(path("fifo"), path("fifo-link")).unwrap();
    symlink("/dev/zero", path("device")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    for name in ["fifo", "fifo-link", "device", "socket"] {
        assert_eq!(refused(name), "not a regular file but a pipe, a socket or a device", "{name}");
    }
    assert_eq!(refused("."), "not a regular file but a folder");

    assert!(refused("missing").starts_with("cannot be read: "));
    symlink(path("loop"), path("loop")).unwrap();
    assert!(refused("loop").starts_with("cannot be read: "));

    fs::File::create(path("large")).unwrap().set_len((512 << 20) + (1 << 20)).unwrap();
    assert_eq!(refused("large"), "513 MiB, more than the 512 MiB that are read");
}

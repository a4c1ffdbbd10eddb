//! Pictures: decoding, limits, resize and crop.

mod hostile;
mod make;
mod mutations;
mod resize;

use alexnet::image::{self, DecodeOptions, Decoder, Exif, RgbImage};

use crate::testdata;

const DEFAULT: DecodeOptions = DecodeOptions { decoder: Decoder::Mozjpeg, exif: Exif::Ignore };
const FAST: DecodeOptions = DecodeOptions { decoder: Decoder::Fast, exif: Exif::Ignore };
const UPRIGHT: DecodeOptions = DecodeOptions { decoder: Decoder::Mozjpeg, exif: Exif::Apply };

#[track_caller]
fn decode(bytes: &[u8], options: DecodeOptions) -> RgbImage {
    image::decode(bytes, options).unwrap_or_else(|e| panic!("{e}"))
}

/// The message with which `bytes` are refused.
#[track_caller]
fn refusal(bytes: &[u8], options: DecodeOptions) -> String {
    match image::decode(bytes, options) {
        Err(alexnet::Error::Input(reason)) => reason,
        Err(error) => panic!("not refused as input: {error:?}"),
        Ok(image) => panic!("not refused: {} x {}", image.width, image.height),
    }
}

#[test]
fn pixels_equal_torchvisions() {
    let mut checked = 0;
    for entry in std::fs::read_dir(testdata::path("tests/data/images/expected")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (file, size) = name.trim_end_matches(".png").rsplit_once('.').unwrap();
        let (file, options) = match file.strip_suffix(".exif-applied") {
            Some(file) => (file, UPRIGHT),
            None => (file, DEFAULT),
        };
        let size = size.parse().unwrap();
        let expected = decode(&testdata::bytes(&format!("tests/data/images/expected/{name}")), DEFAULT);
        let mut found = vec![0; size * size * 3];
        image::load(&testdata::path(&format!("tests/data/images/{file}")), options, size, &mut found).unwrap();
        assert_eq!((expected.width, expected.height), (size, size), "{name}");
        let wrong = found.iter().zip(&expected.pixels).filter(|(a, b)| a != b).count();
        assert_eq!(wrong, 0, "{name}: {wrong} of {} bytes differ", found.len());
        checked += 1;
    }
    assert_eq!(checked, 23);
}

#[test]
fn sizes_are_those_of_the_files() {
    let index = testdata::json("tests/data/images/index.json");
    for (file, about) in index.as_object().unwrap() {
        let image = decode(&testdata::bytes(&format!("tests/data/images/{file}")), DEFAULT);
        assert_eq!(serde_json::json!([image.width, image.height]), about["size"], "{file}");
    }
}

#[test]
fn the_fast_decoder_is_near() {
    // Largest difference of a byte.
    for (file, bound) in [
        ("landscape", 16),
        ("portrait", 16),
        ("panorama", 16),
        ("small", 16),
        ("exif-rotated", 16),
        ("progressive-444", 4),
        ("gray", 4),
        ("cmyk", 0),
    ] {
        let bytes = testdata::bytes(&format!("tests/data/images/{file}.jpg"));
        let (exact, fast) = (decode(&bytes, DEFAULT), decode(&bytes, FAST));
        assert_eq!((exact.width, exact.height), (fast.width, fast.height));
        let worst = exact.pixels.iter().zip(&fast.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= bound, "{file}: {worst}");
    }
}

/// Where each pixel of the 3 x 2 picture `abcdef` goes, by EXIF orientation.
const TURNED: [(usize, &[u8; 6]); 8] = [
    (3, b"abcdef"),
    (3, b"cbafed"),
    (3, b"fedcba"),
    (3, b"defabc"),
    (2, b"adbecf"),
    (2, b"daebfc"),
    (2, b"fcebda"),
    (2, b"cfbead"),
];

#[test]
fn every_orientation_of_every_format_is_applied() {
    let pixels: Vec<u8> = (0..18).map(|i| i * 13).collect();
    let picture = RgbImage { width: 3, height: 2, pixels };
    for (orientation, (width, order)) in (1..).zip(TURNED) {
        for big_endian in [false, true] {
            let exif = make::exif(orientation, big_endian);
            for (format, bytes) in [
                ("JPEG", make::jpeg_with_exif(&picture, &exif)),
                ("PNG", make::png_with_exif(&picture, &exif)),
                ("WebP", make::webp_with_exif(&picture, &exif)),
            ] {
                let stored = decode(&bytes, DEFAULT);
                assert_eq!((stored.width, stored.height), (3, 2));
                let turned = decode(&bytes, UPRIGHT);
                let stored: Vec<_> = stored.pixels.chunks(3).collect();
                let expected = order.map(|letter| stored[usize::from(letter - b'a')]).concat();
                assert_eq!((turned.width, turned.pixels), (width, expected), "{format} {orientation} {big_endian}");
            }
        }
    }
}

#[test]
fn an_unusable_orientation_changes_nothing() {
    let picture = make::picture(3, 2);
    for exif in [make::exif(0, false), make::exif(9, true), vec![], b"II*\0\xff\xff\xff\xff".into(), vec![0; 40]] {
        assert_eq!(decode(&make::png_with_exif(&picture, &exif), UPRIGHT), picture, "{exif:?}");
    }
}

#[test]
fn lossless_formats_give_the_pixels_back() {
    let picture = make::picture(30, 21);
    for (format, bytes) in [("PNG", make::png(&picture)), ("WebP", make::webp(&picture)), ("BMP", make::bmp(&picture))]
    {
        assert_eq!(decode(&bytes, DEFAULT), picture, "{format}");
    }
}

#[test]
fn sixteen_bits_give_the_high_byte_and_alpha_is_dropped() {
    use ::image::{DynamicImage, ImageBuffer, ImageFormat::Png};
    let samples: Vec<u16> = (0..24).map(|i| i * 2711 + 200).collect();
    let high: Vec<u8> = samples.iter().map(|s| (s >> 8) as u8).collect();
    let check = |image: DynamicImage, expected: Vec<u8>| {
        let mut png = std::io::Cursor::new(Vec::new());
        image.write_to(&mut png, Png).unwrap();
        assert_eq!(decode(png.get_ref(), DEFAULT).pixels, expected);
    };
    let samples = || samples.clone();
    check(DynamicImage::ImageLuma16(ImageBuffer::from_raw(6, 4, samples()).unwrap()), triple(high.iter()));
    check(DynamicImage::ImageLumaA16(ImageBuffer::from_raw(3, 4, samples()).unwrap()), triple(high.iter().step_by(2)));
    check(DynamicImage::ImageRgb16(ImageBuffer::from_raw(2, 4, samples()).unwrap()), high.clone());
    let opaque = high.chunks(4).flat_map(|p| p[..3].to_vec()).collect();
    check(DynamicImage::ImageRgba16(ImageBuffer::from_raw(2, 3, samples()).unwrap()), opaque);
}

fn triple<'a>(grey: impl Iterator<Item = &'a u8>) -> Vec<u8> {
    grey.flat_map(|&g| [g; 3]).collect()
}

#[test]
fn adobes_cmyk_and_ycck_have_their_colours() {
    // Stored inverted: 255 is no ink. Without black ink, RGB is what is stored.
    let picture = make::picture(24, 16);
    for (ycck, bound) in [(false, 1), (true, 8)] {
        let bytes = make::cmyk_jpeg(&picture, ycck);
        for options in [DEFAULT, FAST] {
            let found = decode(&bytes, options);
            let worst = found.pixels.iter().zip(&picture.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= bound, "YCCK {ycck}, {options:?}: {worst}");
        }
    }
}

#[test]
fn a_gif_frame_lies_on_its_canvas_as_in_pillow() {
    const PALETTE: [u8; 12] = [10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42];
    // A frame of 2 x 2 at (1, 1) of a canvas of 3 x 2: it reaches one row past it.
    let indices = |transparent| {
        let bytes = make::gif((3, 2), &PALETTE, (1, 1, 2, 2), &[1, 3, 2, 1], transparent);
        let image = decode(&bytes, DEFAULT);
        assert_eq!((image.width, image.height), (3, 3));
        image.pixels.chunks(3).map(|p| p[0] / 10 - 1).collect::<Vec<_>>()
    };
    assert_eq!(indices(None), [0, 0, 0, 0, 1, 3, 0, 2, 1]);
    assert_eq!(indices(Some(2)), [2, 2, 2, 2, 1, 3, 2, 2, 1]);
}

#[test]
fn the_first_frame_of_an_animation_counts() {
    let first = [0, 0, 0, 15, 0, 9, 30, 0, 18, 0, 20, 9, 15, 20, 18, 30, 20, 27];
    for (format, bytes) in [("WebP", make::ANIMATED_WEBP), ("PNG", make::ANIMATED_PNG)] {
        let image = decode(bytes, DEFAULT);
        assert_eq!((image.width, image.height, &image.pixels[..]), (3, 2, &first[..]), "{format}");
    }
}

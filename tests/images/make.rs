//! Small picture files of every format.

use std::io::Cursor;

use ::image::codecs::{png::PngEncoder, webp::WebPEncoder};
use ::image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat};
use alexnet::image::RgbImage;
use mozjpeg::{ColorSpace, Compress, Marker};

/// 16 x 12, made with libwebp.
pub const LOSSY_WEBP: &[u8] = b"\
    RIFF<\0\0\0WEBPVP8 0\0\0\0\xd0\x01\0\x9d\x01*\x10\0\x0c\0\x04\0h%\xb0\x02\xb0\x01\x0f\x0c\x12\xe5\xdc\0\xfe\
    \xf37\xb0d\x06\x1e\xa3\xa9\xef\xb3*\xa9\xbfo?'\x99\x8f\xdf}\xa5\xb0\0";

/// Two frames of 3 x 2, made with Pillow.
pub const ANIMATED_WEBP: &[u8] = b"\
    RIFF\xaa\0\0\0WEBPVP8X\x0a\0\0\0\x12\0\0\0\x02\0\0\x01\0\0ANIM\x06\0\0\0\0\0\0\0\0\0ANMF>\0\0\0\0\0\0\0\0\0\
    \x02\0\0\x01\0\0\0\0\0\x02VP8L%\0\0\0/\x02@\0\0/ \x10H\x86\xc8\x9fp\xa0y\x98\x84\xf9\x8fH\x87\x0eA!\xdb\x08p\
    \xe8^\x8fS\xb8\x88\xfe\xc7\xf2\x02\0ANMF8\0\0\0\0\0\0\0\0\0\x02\0\0\x01\0\0\0\0\0\0VP8L \0\0\0/\x02@\0\x10' \
    \x10H\x82\xd8\x9fp\xa0\xf1\x98\x84\xf9\x0f\xc0\xf4\x12\x08$m\xf1\xb6?\xa2\xff1\x1f";

/// Two frames of 3 x 2, made with Pillow.
pub const ANIMATED_PNG: &[u8] = b"\
    \x89PNG\x0d\x0a\x1a\x0a\0\0\0\x0dIHDR\0\0\0\x03\0\0\0\x02\x08\x02\0\0\0\x12\x16\xf1M\0\0\0\x08acTL\0\0\0\x02\
    \0\0\0\0\xf3\x8d\x93p\0\0\0\x1afcTL\0\0\0\0\0\0\0\x03\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\x0e\x83\x9a\
    \x09\0\0\0\x1cIDATx\x9ccd``\xe0g\xe0\xe4g\xe0da\x10\xe1d`\xe0d`\xe0\x04\0\x03\xf0\0ey\x0aDp\0\0\0\x1afcTL\0\
    \0\0\x01\0\0\0\x03\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\x95\xf0p\xdd\0\0\0 fdAT\0\0\0\x02x\x9cc\x90c\x10\
    \xe2g\xe0d```a\x10\xe1d`````\0\0\x05\xf5\0j\x16\xf7\x92\xa5\0\0\0\0IEND\xaeB`\x82";

/// A picture with gradients and some texture.
pub fn picture(width: usize, height: usize) -> RgbImage {
    let pixel = |x: usize, y: usize| [x * 7 + y, y * 9 + x * y % 5, (x + y) * 5 + (x ^ y) % 3].map(|v| (v % 256) as u8);
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    RgbImage { width, height, pixels }
}

fn write(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let buffer =
        ::image::RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.pixels.clone()).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(buffer).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub fn png(picture: &RgbImage) -> Vec<u8> {
    write(picture, ImageFormat::Png)
}

pub fn webp(picture: &RgbImage) -> Vec<u8> {
    write(picture, ImageFormat::WebP)
}

pub fn bmp(picture: &RgbImage) -> Vec<u8> {
    write(picture, ImageFormat::Bmp)
}

fn with_exif(mut encoder: impl ImageEncoder, picture: &RgbImage, exif: &[u8]) {
    encoder.set_exif_metadata(exif.into()).unwrap();
    let (width, height) = (picture.width as u32, picture.height as u32);
    encoder.write_image(&picture.pixels, width, height, ExtendedColorType::Rgb8).unwrap();
}

pub fn png_with_exif(picture: &RgbImage, exif: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    with_exif(PngEncoder::new(&mut bytes), picture, exif);
    bytes
}

pub fn webp_with_exif(picture: &RgbImage, exif: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    with_exif(WebPEncoder::new_lossless(&mut bytes), picture, exif);
    bytes
}

pub fn jpeg_with_exif(picture: &RgbImage, exif: &[u8]) -> Vec<u8> {
    jpeg_with(picture, |compress| compress.set_quality(90.0), Some(exif))
}

/// 4:2:0, baseline.
pub fn jpeg(picture: &RgbImage) -> Vec<u8> {
    jpeg_with(picture, |compress| compress.set_chroma_sampling_pixel_sizes((2, 2), (2, 2)), None)
}

pub fn progressive_jpeg(picture: &RgbImage) -> Vec<u8> {
    jpeg_with(picture, Compress::set_progressive_mode, None)
}

fn jpeg_with(picture: &RgbImage, configure: impl FnOnce(&mut Compress), exif: Option<&[u8]>) -> Vec<u8> {
    let mut compress = Compress::new(ColorSpace::JCS_RGB);
    compress.set_fastest_defaults();
    compress.set_size(picture.width, picture.height);
    configure(&mut compress);
    let mut started = compress.start_compress(Vec::new()).unwrap();
    if let Some(exif) = exif {
        started.write_marker(Marker::APP(1), &[b"Exif\0\0", exif].concat());
    }
    started.write_scanlines(&picture.pixels).unwrap();
    started.finish().unwrap()
}

/// CMYK as Adobe stores it, inverted and without black ink, so that its RGB colours are those of `picture`.
pub fn cmyk_jpeg(picture: &RgbImage, ycck: bool) -> Vec<u8> {
    let mut compress = Compress::new(ColorSpace::JCS_CMYK);
    compress.set_color_space(if ycck { ColorSpace::JCS_YCCK } else { ColorSpace::JCS_CMYK });
    compress.set_size(picture.width, picture.height);
    compress.set_quality(100.0);
    let mut started = compress.start_compress(Vec::new()).unwrap();
    let inks: Vec<u8> = picture.pixels.chunks(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    started.write_scanlines(&inks).unwrap();
    started.finish().unwrap()
}

/// One frame, `(left, top, width, height)`, of palette `indices`.
pub fn gif(
    canvas: (u16, u16),
    palette: &[u8],
    (left, top, width, height): (u16, u16, u16, u16),
    indices: &[u8],
    transparent: Option<u8>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, canvas.0, canvas.1, palette).unwrap();
    let buffer = indices.into();
    encoder.write_frame(&gif::Frame { left, top, width, height, transparent, buffer, ..Default::default() }).unwrap();
    drop(encoder);
    bytes
}

/// 24 x 18 in 16 colours.
pub fn small_gif() -> Vec<u8> {
    let palette: Vec<u8> = (0..48).map(|i| i * 5).collect();
    let indices: Vec<u8> = (0..24 * 18).map(|i: usize| ((i / 24 + i % 24 + i % 7) % 16) as u8).collect();
    gif((24, 18), &palette, (0, 0, 24, 18), &indices, None)
}

/// A TIFF structure with nothing but an orientation.
pub fn exif(orientation: u16, big_endian: bool) -> Vec<u8> {
    let short = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let long = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let order = if big_endian { b"MM" } else { b"II" };
    // Magic, offset of the directory, one entry: tag, SHORT, count, value, padding; no further directory.
    let entry = [&short(0x112)[..], &short(3), &long(1), &short(orientation), &short(0)].concat();
    [order, &short(42)[..], &long(8), &short(1), &entry, &long(0)].concat()
}

/// Recomputes the checksum of every whole chunk, so that a change is not stopped by it.
pub fn fix_png_checksums(png: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = png.get(at..at + 4) {
        let len = u32::from_be_bytes(head.try_into().unwrap()) as usize;
        let end = at + 8 + len;
        if png.len() < end + 4 {
            return;
        }
        let crc = crc32(&png[at + 4..end]);
        png[end..end + 4].copy_from_slice(&crc.to_be_bytes());
        at = end + 4;
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}

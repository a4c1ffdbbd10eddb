//! Pictures as the networks see them: the bytes of a JPEG, PNG, WebP, BMP or GIF file become 8-bit RGB, then Pillow's
//! resize and a centre crop, byte for byte what torchvision's `Resize` and `CenterCrop` give on Pillow images.
//!
//! A file either gives every pixel or an [`Error::Input`]: a file that stops before its format's end, or that the
//! decoder has to repair, is refused. Bytes after the end are ignored. Sizes are checked in the header, before memory is
//! taken for pixels: at most 16384 a side, 100 million pixels, 512 MiB decoded.
//!
//! What Pillow would show is what comes out: alpha is dropped, not blended; colour profiles are ignored; of an animation
//! the first frame is read. Where Pillow has no useful rule there is one here: 16-bit samples give their high byte.
//! Known differences: 5 and 6-bit samples of 16-bit BMP files round where Pillow truncates (one level), and translucent
//! pixels of an animated WebP may round differently.

mod containers;
mod gif;
mod jpeg;
mod resize;

use std::io::Cursor;
use std::panic;
use std::path::Path;

use ::image::codecs::{bmp::BmpDecoder, png::PngDecoder, webp::WebPDecoder};
use ::image::metadata::Orientation;
use ::image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits};

pub use resize::{resize_crop, resize_short_side};

use crate::{Error, Result, file};

/// Largest width and height, in pixels.
const MAX_SIDE: u32 = 16384;
/// Largest width times height, in pixels.
const MAX_PIXELS: u64 = 100_000_000;
/// Largest file, and largest decoded picture in the decoder's own layout, in bytes.
const MAX_BYTES: u64 = 512 << 20;

/// Which library decodes JPEG files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decoder {
    /// libjpeg (mozjpeg): the same bytes as Pillow.
    #[default]
    Mozjpeg,
    /// zune-jpeg, in Rust: subsampled files come out up to 16 levels off, others up to 4. Missing data that is covered
    /// up by an end marker goes unnoticed. Files that it would get wrong (CMYK, Adobe RGB, arithmetic coding,
    /// sequential files of several scans) go to libjpeg all the same.
    Fast,
}

/// Whether the EXIF orientation turns the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exif {
    /// Pixels as stored: what torchvision sees.
    #[default]
    Ignore,
    /// Pixels as a viewer shows them (JPEG, PNG and WebP; a PNG's `eXIf` chunk counts only ahead of the pixels).
    Apply,
}

/// How [`decode`] works; the default is torchvision's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// The JPEG library.
    pub decoder: Decoder,
    /// The EXIF orientation.
    pub exif: Exif,
}

/// A decoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Pixels a row, 1 to 16384.
    pub width: usize,
    /// Rows, 1 to 16384.
    pub height: usize,
    /// `(height, width, 3)`, row-major: red, green, blue.
    pub pixels: Vec<u8>,
}

/// Decodes a JPEG, PNG, WebP, BMP or GIF file; the content decides which, never a name.
///
/// # Errors
/// [`Error::Input`] for anything but a whole picture within the limits (see the [module](self)). The message does not
/// name the file.
pub fn decode(bytes: &[u8], options: DecodeOptions) -> Result<RgbImage> {
    // No decoder unwinds further; this needs `panic = "unwind"`. libjpeg's errors arrive here too, as
    // an `Error`.
    panic::catch_unwind(|| decode_unguarded(bytes, options)).unwrap_or_else(|payload| {
        Err(payload.downcast::<Error>().map_or_else(
            |_| invalid("the decoder failed on this file: it is damaged, or made to break decoders; save it again"),
            |error| *error,
        ))
    })
}

fn decode_unguarded(bytes: &[u8], options: DecodeOptions) -> Result<RgbImage> {
    let format = ::image::guess_format(bytes).ok();
    let (image, exif) = match format {
        Some(ImageFormat::Jpeg) => jpeg::decode(bytes, options.decoder)?,
        Some(ImageFormat::Png) => {
            containers::check_png(bytes)?;
            let mut limits = Limits::no_limits();
            limits.max_image_width = Some(MAX_SIDE);
            limits.max_image_height = Some(MAX_SIDE);
            limits.max_alloc = Some(MAX_BYTES);
            read(PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(refused)?)?
        }
        Some(ImageFormat::WebP) => {
            let whole = containers::check_webp(bytes)?;
            read(WebPDecoder::new(Cursor::new(whole)).map_err(refused)?)?
        }
        Some(ImageFormat::Bmp) => read(BmpDecoder::new(Cursor::new(bytes)).map_err(refused)?)?,
        Some(ImageFormat::Gif) => {
            containers::check_gif(bytes)?;
            (gif::decode(bytes)?, None)
        }
        _ => {
            let found = describe(bytes, format);
            return Err(invalid(format!("not a picture: found {found}; JPEG, PNG, WebP, BMP and GIF are read")));
        }
    };
    Ok(match options.exif {
        Exif::Ignore => image,
        Exif::Apply => turn(image, exif.as_deref()),
    })
}

/// The file's bytes, for [`decode`]. Only a regular file, or a link to one, is opened: a pipe or a device would block.
///
/// # Errors
/// [`Error::Input`] where the file is missing, unreadable, not a regular file or larger than 512 MiB.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    file::read_regular(path, MAX_BYTES).map_err(Error::Input)
}

/// [`read_file`] and [`decode_to`].
///
/// # Errors
/// [`Error::Input`] as those give it; `out` is then unchanged.
///
/// # Panics
/// If `out` has another length.
pub fn load(path: &Path, options: DecodeOptions, input_size: usize, out: &mut [u8]) -> Result<()> {
    decode_to(&read_file(path)?, options, input_size, out)
}

/// [`decode`] and [`resize_crop`] into `out`, `(input_size, input_size, 3)` bytes.
///
/// # Errors
/// [`Error::Input`] as [`decode`] gives it; `out` is then unchanged.
///
/// # Panics
/// If `out` has another length.
pub fn decode_to(bytes: &[u8], options: DecodeOptions, input_size: usize, out: &mut [u8]) -> Result<()> {
    let image = decode(bytes, options)?;
    resize_crop(&image, resize_short_side(input_size), input_size, out);
    Ok(())
}

/// The picture and the EXIF block of a decoder whose header has been read.
fn read(mut decoder: impl ImageDecoder) -> Result<(RgbImage, Option<Vec<u8>>)> {
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    check_size(width, height, color.bytes_per_pixel().into())?;
    let exif = decoder.exif_metadata().map_err(refused)?;
    let mut raw = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut raw).map_err(refused)?;
    Ok((RgbImage { width: width as usize, height: height as usize, pixels: to_rgb(color, raw) }, exif))
}

/// Grey to RGB, alpha dropped, the high byte of 16-bit samples (in native byte order).
fn to_rgb(color: ColorType, raw: Vec<u8>) -> Vec<u8> {
    if color == ColorType::Rgb8 {
        return raw;
    }
    let pixel = usize::from(color.bytes_per_pixel());
    let sample = pixel / usize::from(color.channel_count());
    let red = if cfg!(target_endian = "little") { sample - 1 } else { 0 };
    let next = if color.has_color() { sample } else { 0 };
    let mut rgb = Vec::with_capacity(raw.len() / pixel * 3);
    for p in raw.chunks_exact(pixel) {
        rgb.extend_from_slice(&[p[red], p[red + next], p[red + 2 * next]]);
    }
    rgb
}

/// The picture turned upright by the orientation in `exif`, a TIFF structure that may start with `Exif\0\0`.
fn turn(image: RgbImage, exif: Option<&[u8]>) -> RgbImage {
    let tiff = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
    let orientation = match tiff.and_then(Orientation::from_exif_chunk) {
        None | Some(Orientation::NoTransforms) => return image,
        Some(orientation) => orientation,
    };
    let buffer = ::image::RgbImage::from_raw(image.width as u32, image.height as u32, image.pixels);
    let mut turned = DynamicImage::from(buffer.expect("three bytes a pixel"));
    turned.apply_orientation(orientation);
    let (width, height) = (turned.width() as usize, turned.height() as usize);
    RgbImage { width, height, pixels: turned.into_bytes() }
}

/// Refuses a picture outside the limits, from its header.
fn check_size(width: u32, height: u32, bytes_per_pixel: u64) -> Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(invalid(format!("no pixels: {width} x {height}")));
    }
    if width > MAX_SIDE || height > MAX_SIDE || pixels > MAX_PIXELS || pixels * bytes_per_pixel > MAX_BYTES {
        return Err(too_large(format!("{width} x {height}")));
    }
    Ok(())
}

fn too_large(what: impl std::fmt::Display) -> Error {
    invalid(format!("{what} is too large: at most 16384 a side, 100 million pixels and 512 MiB; make it smaller"))
}

/// What a decoder said, as this crate's error.
fn refused(error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => too_large("the picture"),
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => truncated("image"),
        error => invalid(error.to_string()),
    }
}

fn truncated(format: &str) -> Error {
    invalid(format!("the {format} file stops before its end: it is cut short or damaged; fetch it again"))
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::Input(reason.into())
}

/// What the content of a file that is not read looks like.
fn describe(bytes: &[u8], format: Option<ImageFormat>) -> String {
    let head = &bytes[..bytes.len().min(24)];
    match (format, std::str::from_utf8(head)) {
        (Some(format), _) => format!("{format:?}"),
        (None, _) if bytes.is_empty() => "an empty file".into(),
        (None, Ok(text)) if !text.contains('\0') => format!("text, {text:?}"),
        (None, _) => format!("the bytes {head:02x?}"),
    }
}

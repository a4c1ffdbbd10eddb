//! JPEG: libjpeg made strict, zune-jpeg, and a walk over the markers for what neither tells.

use std::os::raw::c_int;
use std::{mem, panic};

use mozjpeg::{ColorSpace, decompress::DecompressBuilder};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, jpeg_std_error};
use zune_jpeg::zune_core::{bytestream::ZCursor, options::DecoderOptions};

use super::{Decoder, MAX_SIDE, Result, RgbImage, check_size, invalid, truncated};

/// Each scan of a progressive file costs a pass over the whole picture, however few its bytes.
const MAX_SCANS: usize = 100;

/// The picture and its EXIF block.
pub fn decode(bytes: &[u8], decoder: Decoder) -> Result<(RgbImage, Option<Vec<u8>>)> {
    let markers = Markers::find(bytes);
    if !markers.ended {
        return Err(truncated("JPEG"));
    }
    if markers.scans > MAX_SCANS {
        return Err(invalid(format!("JPEG: {} scans, more than {MAX_SCANS}; save it again", markers.scans)));
    }
    let fast = decoder == Decoder::Fast && markers.suit_zune();
    let image = if fast { zune(bytes)? } else { libjpeg(bytes)? };
    Ok((image, markers.exif.map(Vec::from)))
}

/// libjpeg's defaults are Pillow's settings: the accurate integer DCT, fancy upsampling, block smoothing.
fn libjpeg(bytes: &[u8]) -> Result<RgbImage> {
    let failed = |error: std::io::Error| invalid(format!("JPEG: {error}"));
    let header = DecompressBuilder::new().with_err(strict_errors()).from_mem(bytes).map_err(failed)?;
    let (width, height) = header.size();
    let (target, channels) = match header.color_space() {
        ColorSpace::JCS_GRAYSCALE => (ColorSpace::JCS_GRAYSCALE, 1),
        ColorSpace::JCS_YCbCr | ColorSpace::JCS_RGB => (ColorSpace::JCS_RGB, 3),
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => (ColorSpace::JCS_CMYK, 4),
        other => return Err(invalid(format!("JPEG: {} colour channels ({other:?})", header.components().len()))),
    };
    check_size(width as u32, height as u32, channels as u64)?;
    let mut raw = vec![0; width * height * channels];
    let mut body = header.to_colorspace(target).map_err(failed)?;
    body.read_scanlines_into(&mut raw).map_err(failed)?;
    // Reads on to the end of the file, where a progressive file may still be corrupt.
    body.finish().map_err(failed)?;
    let pixels = match channels {
        1 => raw.iter().flat_map(|&grey| [grey; 3]).collect(),
        4 => raw.as_chunks().0.iter().flat_map(|&cmyk| inverted_cmyk_to_rgb(cmyk)).collect(),
        _ => raw,
    };
    Ok(RgbImage { width, height, pixels })
}

/// Pillow takes every CMYK file for Adobe's, which store 255 for no ink.
fn inverted_cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|light| {
        // Pillow's rounded division by 255.
        let product = u32::from(255 - light) * u32::from(k) + 128;
        k.saturating_sub((((product >> 8) + product) >> 8) as u8)
    })
}

/// An error manager for which a warning is an error: libjpeg warns where it repairs corrupt or missing data.
fn strict_errors() -> jpeg_error_mgr {
    // SAFETY: the struct is plain C data (integers, nullable function pointers and raw pointers), for which all zero
    // bytes are valid; jpeg_std_error fills it in and keeps no pointer to it, so that it may move.
    let mut errors: jpeg_error_mgr = unsafe { mem::zeroed() };
    // SAFETY: as above.
    unsafe { jpeg_std_error(&mut errors) };
    errors.error_exit = Some(unwind);
    errors.emit_message = Some(unwind_on_warning);
    errors
}

extern "C-unwind" fn unwind_on_warning(info: &mut jpeg_common_struct, level: c_int) {
    if level < 0 {
        unwind(info);
    }
}

/// Ends decoding with libjpeg's message; `super::decode` catches it.
extern "C-unwind" fn unwind(info: &mut jpeg_common_struct) {
    /// libjpeg's JMSG_LENGTH_MAX.
    type Message = [u8; 200];
    type Format = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &mut Message);
    // SAFETY: libjpeg calls this with the error manager that `strict_errors` made and the decoder keeps.
    let format = unsafe { (*info.err).format_message }.expect("set by jpeg_std_error");
    // SAFETY: the C function takes a pointer to the decoder and one to JMSG_LENGTH_MAX bytes that it writes to. The
    // binding declares the second as shared and as 80 bytes long.
    let format: Format = unsafe { mem::transmute(format) };
    let mut message: Message = [0; 200];
    // SAFETY: both pointers are valid for the call, `message` is as long as the function may write.
    unsafe { format(info, &mut message) };
    let text = message.split(|&byte| byte == 0).next().unwrap_or_default();
    let error = invalid(format!("JPEG: {}", String::from_utf8_lossy(text)));
    // Not a panic: no hook runs and nothing is printed.
    panic::resume_unwind(Box::new(error));
}

fn zune(bytes: &[u8]) -> Result<RgbImage> {
    let failed = |error: zune_jpeg::errors::DecodeErrors| invalid(format!("JPEG: {error}"));
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .jpeg_set_max_scans(MAX_SCANS);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(failed)?;
    let (width, height) = decoder.dimensions().expect("the header has been read");
    check_size(width as u32, height as u32, 3)?;
    let pixels = decoder.decode().map_err(failed)?;
    Ok(RgbImage { width, height, pixels })
}

/// What the markers of a JPEG say, up to the first end of image.
#[derive(Default)]
struct Markers<'a> {
    /// The frame's marker, which names the coding; 0 without a frame.
    frame: u8,
    /// Colour channels of the frame.
    components: u8,
    scans: usize,
    /// Whether any segment follows a scan.
    more_after_scan: bool,
    /// The colour transform that an Adobe segment names.
    adobe_transform: Option<u8>,
    /// The first EXIF segment.
    exif: Option<&'a [u8]>,
    /// Whether the end-of-image marker was found.
    ended: bool,
}

impl<'a> Markers<'a> {
    fn find(bytes: &'a [u8]) -> Self {
        let mut markers = Self::default();
        let mut rest = bytes;
        // Compressed data is skipped like any other byte between segments: in it 0xFF is followed by 0 or is a restart.
        while let Some(at) = rest.iter().position(|&byte| byte == 0xff) {
            rest = &rest[at + 1..];
            let Some(&marker) = rest.first() else { break };
            match marker {
                // Padding, of which the last byte starts the marker.
                0xff => continue,
                0xd9 => {
                    markers.ended = true;
                    break;
                }
                // Markers without data: stuffing, TEM, restarts, SOI.
                0x00 | 0x01 | 0xd0..=0xd8 => {
                    rest = &rest[1..];
                    continue;
                }
                _ => {}
            }
            let len = rest.get(1..3).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
            // The length counts itself.
            let Some(data) = rest.get(3..1 + len) else { break };
            markers.more_after_scan = markers.scans > 0;
            match (marker, data) {
                (0xda, _) => markers.scans += 1,
                // DHT, JPG and DAC lie among the frame headers.
                (0xc0..=0xcf, [_, _, _, _, _, components, ..]) if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    markers.frame = marker;
                    markers.components = *components;
                }
                (0xe1, _) if data.starts_with(b"Exif\0\0") => markers.exif = markers.exif.or(Some(data)),
                (0xee, [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..]) => {
                    markers.adobe_transform = Some(*transform);
                }
                _ => {}
            }
            rest = &rest[1 + len..];
        }
        markers
    }

    /// Whether zune-jpeg reads such a file as libjpeg does. It takes Adobe's RGB for CMYK, and where a segment or a
    /// scan interrupts a sequential scan it returns what it has, without an error.
    fn suit_zune(&self) -> bool {
        let coding = match self.frame {
            0xc0 | 0xc1 => !self.more_after_scan,
            marker => marker == 0xc2,
        };
        coding && matches!(self.components, 1 | 3) && matches!(self.adobe_transform, None | Some(1))
    }
}

//! Is the file whole? The decoders stop reading once they have the pixels, and accept some files that are cut before.
//! These walks follow a format's blocks to its end marker and touch no pixel.

use super::{Result, check_size, truncated};

/// A PNG must reach its `IEND` chunk.
pub fn check_png(bytes: &[u8]) -> Result<()> {
    let mut rest = &bytes[8..];
    loop {
        let (head, body) = rest.split_first_chunk::<8>().ok_or_else(|| truncated("PNG"))?;
        let len = u32::from_be_bytes(head[..4].try_into().expect("4 bytes")) as usize;
        // The checksum follows the data.
        rest = body.get(len..).and_then(|body| body.get(4..)).ok_or_else(|| truncated("PNG"))?;
        if head.ends_with(b"IEND") {
            return Ok(());
        }
    }
}

/// A GIF must reach its trailer, past all frames.
pub fn check_gif(bytes: &[u8]) -> Result<()> {
    gif_end(bytes).ok_or_else(|| truncated("GIF"))
}

fn gif_end(bytes: &[u8]) -> Option<()> {
    let color_table = |flags: u8| if flags & 0x80 != 0 { 6 << (flags & 7) } else { 0 };
    let mut at = 13 + color_table(*bytes.get(10)?);
    loop {
        let block = *bytes.get(at)?;
        at += match block {
            // An extension: its label.
            b'!' => 2,
            // A frame: its descriptor, colour table and code size.
            b',' => 11 + color_table(*bytes.get(at + 9)?),
            // The trailer; or an unknown block, which the decoder refuses if it gets there.
            _ => return Some(()),
        };
        while *bytes.get(at)? != 0 {
            at += 1 + usize::from(bytes[at]);
        }
        at += 1;
    }
}

/// A WebP must be as long as it says, its chunks too, and its lossy frames within the limits: they have a size of their
/// own, which the decoder compares with the picture's only once it has decoded them.
///
/// Returns the file up to its end: the decoder would look for chunks past it.
pub fn check_webp(bytes: &[u8]) -> Result<&[u8]> {
    let whole = chunk_head(bytes).and_then(|(_, size)| bytes.get(..8 + size));
    let whole = whole.ok_or_else(|| truncated("WebP"))?;
    check_webp_chunks(whole.get(12..).ok_or_else(|| truncated("WebP"))?, false)?;
    Ok(whole)
}

fn check_webp_chunks(mut chunks: &[u8], in_frame: bool) -> Result<()> {
    while let Some((name, size)) = chunk_head(chunks) {
        let data = chunks.get(8..8 + size).ok_or_else(|| truncated("WebP"))?;
        match (&name, data) {
            (b"VP8 ", [_, _, _, _, _, _, w0, w1, h0, h1, ..]) => {
                let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
                check_size(side(*w0, *w1), side(*h0, *h1), 3)?;
            }
            // A frame of an animation: chunks of its own behind its position. Frames do not nest, nor does this call.
            (b"ANMF", [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, frame @ ..]) if !in_frame => {
                check_webp_chunks(frame, true)?
            }
            _ => {}
        }
        chunks = chunks.get(8 + size.next_multiple_of(2)..).unwrap_or_default();
    }
    Ok(())
}

fn chunk_head(chunk: &[u8]) -> Option<([u8; 4], usize)> {
    let (name, rest) = chunk.split_first_chunk::<4>()?;
    Some((*name, u32::from_le_bytes(*rest.first_chunk()?) as usize))
}

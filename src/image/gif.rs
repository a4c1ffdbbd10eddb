//! The first frame of a GIF on its canvas, as Pillow composes it.

use ::gif::{ColorOutput, MemoryLimit};

use super::{MAX_BYTES, Result, RgbImage, check_size, invalid};

/// The picture; `bytes` start with a GIF signature.
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    let failed = |error: ::gif::DecodingError| invalid(format!("GIF: {error}"));
    let mut options = ::gif::DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(MAX_BYTES.try_into().expect("not zero")));
    let mut decoder = options.read_info(bytes).map_err(failed)?;
    let frame = decoder.next_frame_info().map_err(failed)?.ok_or_else(|| invalid("GIF: no picture in the file"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent;
    // A frame that reaches past the canvas extends it.
    let width = (left + frame_width).max(decoder.width().into());
    let height = (top + frame_height).max(decoder.height().into());
    check_size(frame_width as u32, frame_height as u32, 1)?;
    check_size(width as u32, height as u32, 3)?;

    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(failed)?;
    let palette = decoder.palette().map_err(failed)?.as_chunks::<3>().0;
    // An index past the palette is black.
    let color = |index: u8| palette.get(usize::from(index)).copied().unwrap_or_default();

    // Transparency keeps its colour, and what the frame does not cover has the transparent index.
    let mut pixels = color(transparent.unwrap_or(0)).repeat(width * height);
    let rows = pixels.chunks_exact_mut(width * 3).skip(top);
    for (row, indices) in rows.zip(indices.chunks_exact(frame_width)) {
        for (pixel, &index) in row.as_chunks_mut::<3>().0[left..].iter_mut().zip(indices) {
            *pixel = color(index);
        }
    }
    Ok(RgbImage { width, height, pixels })
}

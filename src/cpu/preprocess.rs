//! uint8 RGB pixels (N, H, W, 3) to the f32 network input of the same shape.

use rayon::prelude::*;

use crate::net::Preprocess;

/// Pixels a task: large enough to hide the cost of a task, small enough to split one image.
const CHUNK: usize = 16 * 1024;

/// A table per channel: 256 values decide everything, and the arithmetic is the description's own.
pub fn forward(preprocess: &Preprocess, pixels: &[u8], output: &mut [f32]) {
    let table: [[f32; 256]; 3] =
        std::array::from_fn(|channel| std::array::from_fn(|value| preprocess.apply(value as u8, channel)));
    let source: [usize; 3] = std::array::from_fn(|channel| preprocess.source(channel));
    output.par_chunks_mut(3 * CHUNK).zip(pixels.par_chunks(3 * CHUNK)).for_each(|(output, pixels)| {
        for (output, pixel) in output.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
            for channel in 0..3 {
                output[channel] = table[channel][usize::from(pixel[source[channel]])];
            }
        }
    });
}

//! uint8 RGB pixels (N, H, W, 3) to the f32 network input of the same shape.

use super::team::{Parts, Team};
use crate::net::Preprocess;

/// Pixels a task: large enough to hide the cost of a task, small enough to split one image.
const CHUNK: usize = 16 * 1024;

/// A table per channel: 256 values decide everything, and the arithmetic is the description's own.
pub struct Table {
    /// Channel of the pixel that each of the output's is.
    source: [usize; 3],
    values: [[f32; 256]; 3],
}

impl Table {
    pub fn new(preprocess: &Preprocess) -> Self {
        Table {
            source: std::array::from_fn(|channel| preprocess.source(channel)),
            values: std::array::from_fn(|channel| std::array::from_fn(|value| preprocess.apply(value as u8, channel))),
        }
    }

    /// # Panics
    /// If the lengths differ.
    pub fn forward(&self, team: &Team<'_>, pixels: &[u8], output: &mut [f32]) {
        assert_eq!(pixels.len(), output.len());
        let len = output.len();
        let parts = &Parts::of(output);
        team.for_each(len.div_ceil(3 * CHUNK), |task| {
            let range = task * 3 * CHUNK..len.min((task + 1) * 3 * CHUNK);
            // SAFETY: the range is within the output, and this task's alone.
            let output = unsafe { std::slice::from_raw_parts_mut(parts.start().add(range.start), range.len()) };
            for (output, pixel) in output.chunks_exact_mut(3).zip(pixels[range].chunks_exact(3)) {
                for channel in 0..3 {
                    output[channel] = self.values[channel][usize::from(pixel[self.source[channel]])];
                }
            }
        });
    }
}

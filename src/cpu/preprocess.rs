//! uint8 RGB pixels (N, H, W, 3) to the f32 network input of the same shape.

use super::team::Team;
use crate::net::Preprocess;

/// Pixels a task: large enough to hide the cost of a task, small enough to split one image.
const CHUNK: usize = 16 * 1024;

/// A table per channel: 256 values decide everything, and the arithmetic is the description's own.
pub struct Table {
    /// By the pixel's channels, red first.
    values: [[f32; 256]; 3],
    /// Whether the network's channels are in the other order.
    reversed: bool,
}

impl Table {
    pub fn new(preprocess: &Preprocess) -> Self {
        let source: [usize; 3] = std::array::from_fn(|channel| preprocess.source(channel));
        let mut values = [[0.0; 256]; 3];
        for (channel, source) in source.into_iter().enumerate() {
            values[source] = std::array::from_fn(|value| preprocess.apply(value as u8, channel));
        }
        Table { values, reversed: source != [0, 1, 2] }
    }

    /// # Panics
    /// If the lengths differ.
    pub fn forward(&self, team: &Team<'_>, pixels: &[u8], output: &mut [f32]) {
        assert_eq!(pixels.len(), output.len());
        team.for_each_chunk(output, 3 * CHUNK, |task, output| {
            let pixels = &pixels[task * 3 * CHUNK..][..output.len()];
            let [red, green, blue] = &self.values;
            for (output, &[r, g, b]) in output.as_chunks_mut().0.iter_mut().zip(pixels.as_chunks().0) {
                let pixel = [red[usize::from(r)], green[usize::from(g)], blue[usize::from(b)]];
                *output = if self.reversed { [pixel[2], pixel[1], pixel[0]] } else { pixel };
            }
        });
    }
}

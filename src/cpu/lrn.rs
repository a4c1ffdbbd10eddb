//! Local response normalisation across the channels of each pixel.

use rayon::prelude::*;

use crate::net::Lrn;
use crate::plan::LRN_BETA;

/// Pixels a task.
const CHUNK: usize = 512;

/// `input` and `output` are (pixels, channels).
pub fn forward(lrn: &Lrn, channels: usize, input: &[f32], output: &mut [f32]) {
    assert_eq!(lrn.beta, LRN_BETA, "this kernel has one exponent");
    output.par_chunks_mut(CHUNK * channels).zip(input.par_chunks(CHUNK * channels)).for_each(|(output, input)| {
        let tower = channels / lrn.scope.towers();
        for (output, input) in output.chunks_exact_mut(tower).zip(input.chunks_exact(tower)) {
            normalise(lrn, input, output);
        }
    });
}

/// One pixel's channels of one tower.
fn normalise(lrn: &Lrn, input: &[f32], output: &mut [f32]) {
    let reach = lrn.size / 2;
    let scale = (lrn.alpha / lrn.size as f64) as f32;
    let k = lrn.k as f32;
    for (channel, output) in output.iter_mut().enumerate() {
        let window = &input[channel.saturating_sub(reach)..(channel + reach + 1).min(input.len())];
        let base = k + scale * window.iter().map(|a| a * a).sum::<f32>();
        // x^0.75 with square roots, at a tenth of powf's cost.
        *output = input[channel] / (base.sqrt() * base.sqrt().sqrt());
    }
}

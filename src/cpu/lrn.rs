//! Local response normalisation across the channels of each pixel.

use rayon::prelude::*;

use crate::net::Lrn;
use crate::plan::{LRN_BETA, Step};

/// Pixels a task.
const CHUNK: usize = 512;

/// `input` is (pixels, `step.input.c`), `output` (pixels, `step.output.c`): fewer channels of the output than of the input are
/// those from [`Step::first_taken`] on.
pub fn forward(lrn: &Lrn, step: &Step, input: &[f32], output: &mut [f32]) {
    assert_eq!(lrn.beta, LRN_BETA, "this kernel has one exponent");
    let (from, to, first) = (step.input.c, step.output.c, step.first_taken());
    output.par_chunks_mut(CHUNK * to).zip(input.par_chunks(CHUNK * from)).for_each(|(output, input)| {
        let towers = lrn.scope.towers();
        for (output, input) in output.chunks_exact_mut(to / towers).zip(input.chunks_exact(from / towers)) {
            normalise(lrn, first, input, output);
        }
    });
}

/// One pixel's channels of one tower; `output` is of those from `first` on.
fn normalise(lrn: &Lrn, first: usize, input: &[f32], output: &mut [f32]) {
    let reach = lrn.size / 2;
    let scale = (lrn.alpha / lrn.size as f64) as f32;
    let k = lrn.k as f32;
    for (channel, output) in (first..).zip(output) {
        let window = &input[channel.saturating_sub(reach)..(channel + reach + 1).min(input.len())];
        let base = k + scale * window.iter().map(|a| a * a).sum::<f32>();
        // x^0.75 with square roots, at a tenth of powf's cost.
        *output = input[channel] / (base.sqrt() * base.sqrt().sqrt());
    }
}

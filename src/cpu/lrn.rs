//! Local response normalisation across the channels of each pixel.

use super::team::Team;
use super::vector::{Kernel, LANES, Vector};
use crate::net::Lrn;
use crate::plan::{LRN_BETA, Step};

/// Pixels a task.
const CHUNK: usize = 64;

/// `input` is (pixels, `step.input.c`), `output` (pixels, `step.output.c`): fewer channels of the output than of the input are
/// those from [`Step::first_taken`] on.
///
/// # Panics
/// If the lengths are not those of whole pixels.
pub fn forward(lrn: &Lrn, step: &Step, team: &Team<'_>, input: &[f32], output: &mut [f32]) {
    assert_eq!(lrn.beta, LRN_BETA, "this kernel has one exponent");
    // Each tower of a pixel is a pixel of its own.
    let towers = lrn.scope.towers();
    let (from, to, first) = (step.input.c / towers, step.output.c / towers, step.first_taken());
    let pixels = output.len() / to;
    assert!(input.len() == pixels * from && output.len() == pixels * to && first + to <= from, "{pixels} pixels");
    let reach = lrn.size / 2;
    team.for_each_chunk(output, CHUNK * to, |task, output| {
        // Squares, with zeros for the channels that are not there, and for the last vector's.
        team.scratch.with(2 * reach + from + 2 * LANES, |squares| {
            squares.fill(0.0);
            for (pixel, output) in (task * CHUNK..).zip(output.chunks_exact_mut(to)) {
                // SAFETY: both have this pixel; channels end where the input's do; the squares are as long as the kernel takes
                // them.
                unsafe {
                    team.isa.run(Normalise {
                        input: input.as_ptr().add(pixel * from),
                        channels: from,
                        squares: squares.as_mut_ptr(),
                        reach,
                        scale: (lrn.alpha / lrn.size as f64) as f32,
                        k: lrn.k as f32,
                        first,
                        output: output.as_mut_ptr(),
                        count: to,
                    });
                }
            }
        });
    });
}

/// One pixel. Its promises: `input` has `channels`, and `output`, of those from `first` on, `count`; `squares` is zero outside
/// `reach` to `reach` + `channels`, and has a vector more than twice the reach and the channels.
struct Normalise {
    input: *const f32,
    channels: usize,
    squares: *mut f32,
    reach: usize,
    scale: f32,
    k: f32,
    first: usize,
    output: *mut f32,
    count: usize,
}

impl Kernel for Normalise {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: channels are those of the promises; a vector of squares ends at most one vector after the last one's reach.
        unsafe {
            for channel in (0..self.channels).step_by(LANES) {
                let part = (self.channels - channel).min(LANES);
                let value = V::load_part(self.input.add(channel), part);
                value.mul(value).store_part(self.squares.add(self.reach + channel), part);
            }
            let (scale, k) = (V::splat(self.scale), V::splat(self.k));
            for index in (0..self.count).step_by(LANES) {
                let (channel, part) = (self.first + index, (self.count - index).min(LANES));
                let mut sum = V::splat(0.0);
                for neighbour in 0..=2 * self.reach {
                    sum = sum.add(V::load(self.squares.add(channel + neighbour)));
                }
                let root = sum.mul_add(scale, k).sqrt();
                // x^0.75 with square roots, at a tenth of powf's cost.
                let value = V::load_part(self.input.add(channel), part);
                value.div(root.mul(root.sqrt())).store_part(self.output.add(index), part);
            }
        }
    }
}

//! Max pool and adaptive average pool over NHWC activations, one output row a task.

use std::ops::Range;

use super::team::Team;
use super::vector::{Kernel, LANES, Vector};
use crate::net::{Pool, Shape};

/// Max over `pool.kernel` x `pool.kernel` windows; no padding. A NaN in a window is its maximum, as in PyTorch.
///
/// # Panics
/// If the lengths are not those of whole images.
pub fn max(pool: Pool, input: Shape, output: Shape, team: &Team<'_>, source: &[f32], target: &mut [f32]) {
    let window = |index: usize| index * pool.stride..index * pool.stride + pool.kernel;
    run(window, window, Reduction::Max, input, output, team, source, target);
}

/// Mean over windows that cover the input: output row p averages rows floor(p*H/P) to ceil((p+1)*H/P).
///
/// # Panics
/// As [`max`].
pub fn adaptive_avg(input: Shape, output: Shape, team: &Team<'_>, source: &[f32], target: &mut [f32]) {
    let window =
        |index: usize, input: usize, output: usize| index * input / output..((index + 1) * input).div_ceil(output);
    let rows = |p: usize| window(p, input.h, output.h);
    let columns = |q: usize| window(q, input.w, output.w);
    run(rows, columns, Reduction::Mean, input, output, team, source, target);
}

#[derive(Clone, Copy)]
enum Reduction {
    Max,
    Mean,
}

/// Output row p, column q is of the window `rows(p)`, `columns(q)`.
#[expect(clippy::too_many_arguments, reason = "a step's shapes, source and target beside the two windows")]
fn run(
    rows: impl Fn(usize) -> Range<usize> + Sync + Send,
    columns: impl Fn(usize) -> Range<usize> + Sync + Send,
    reduction: Reduction,
    input: Shape,
    output: Shape,
    team: &Team<'_>,
    source: &[f32],
    target: &mut [f32],
) {
    let images = target.len() / output.len();
    assert!(source.len() == images * input.len() && target.len() == images * output.len(), "{images} images");
    team.for_each_chunk(target, output.w * output.c, |row, target| {
        let (image, p) = (row / output.h, row % output.h);
        let rows = rows(p);
        assert!(rows.end <= input.h);
        for q in 0..output.w {
            let columns = columns(q);
            assert!(columns.end <= input.w);
            let first = ((image * input.h + rows.start) * input.w + columns.start) * input.c;
            // SAFETY: the window's rows and columns are the image's, as asserted, and the target is a row of pixels.
            unsafe {
                team.isa.run(Window {
                    source: source.as_ptr().add(first),
                    rows: rows.len(),
                    row_pitch: input.w * input.c,
                    columns: columns.len(),
                    channels: input.c,
                    target: target.as_mut_ptr().add(q * output.c),
                    reduction,
                });
            }
        }
    });
}

/// One pixel of the output. Its promises: `source` can be read at row * row_pitch + column * channels + channel, `target` written
/// for all channels.
struct Window {
    source: *const f32,
    rows: usize,
    row_pitch: usize,
    columns: usize,
    channels: usize,
    target: *mut f32,
    reduction: Reduction,
}

impl Kernel for Window {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the promises.
        unsafe {
            match (self.reduction, self.rows, self.columns) {
                // AlexNet's own, written out.
                (Reduction::Max, 3, 3) => Window { rows: 3, columns: 3, ..self }.reduce::<V, true>(),
                (Reduction::Max, ..) => self.reduce::<V, true>(),
                (Reduction::Mean, ..) => self.reduce::<V, false>(),
            }
        }
    }
}

impl Window {
    #[inline(always)]
    unsafe fn reduce<V: Vector, const MAX: bool>(self) {
        // SAFETY: rows, columns and channels are those of the promises.
        unsafe {
            let count = V::splat((self.rows * self.columns) as f32);
            for channel in (0..self.channels).step_by(LANES) {
                let part = (self.channels - channel).min(LANES);
                let mut result = V::splat(if MAX { f32::NEG_INFINITY } else { 0.0 });
                for row in 0..self.rows {
                    for column in 0..self.columns {
                        let from = self.source.add(row * self.row_pitch + column * self.channels + channel);
                        let value = V::load_part(from, part);
                        result = if MAX { result.max_or_nan(value) } else { result.add(value) };
                    }
                }
                let result = if MAX { result } else { result.div(count) };
                result.store_part(self.target.add(channel), part);
            }
        }
    }
}

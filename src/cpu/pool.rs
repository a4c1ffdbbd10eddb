//! Max pool and adaptive average pool over NHWC activations, one output row a task.

use rayon::prelude::*;

use crate::net::{Pool, Shape};

/// Max over `pool.kernel` x `pool.kernel` windows; no padding. A NaN in a window is its maximum, as in PyTorch.
pub fn max(pool: Pool, input: Shape, output: Shape, source: &[f32], target: &mut [f32]) {
    for_each_output_row(output, target, |image, p, row| {
        for (q, maxima) in row.chunks_exact_mut(output.c).enumerate() {
            maxima.fill(f32::NEG_INFINITY);
            for h in p * pool.stride..p * pool.stride + pool.kernel {
                for w in q * pool.stride..q * pool.stride + pool.kernel {
                    for (maximum, &value) in maxima.iter_mut().zip(pixel(input, source, image, h, w)) {
                        // Nothing is greater than a NaN, so one that got in stays.
                        if value > *maximum || value.is_nan() {
                            *maximum = value;
                        }
                    }
                }
            }
        }
    });
}

/// Mean over windows that cover the input: output row p averages rows floor(p*H/P) to ceil((p+1)*H/P).
pub fn adaptive_avg(input: Shape, output: Shape, source: &[f32], target: &mut [f32]) {
    let window =
        |index: usize, input: usize, output: usize| index * input / output..((index + 1) * input).div_ceil(output);
    for_each_output_row(output, target, |image, p, row| {
        let rows = window(p, input.h, output.h);
        for (q, means) in row.chunks_exact_mut(output.c).enumerate() {
            let columns = window(q, input.w, output.w);
            means.fill(0.0);
            for h in rows.clone() {
                for w in columns.clone() {
                    for (mean, value) in means.iter_mut().zip(pixel(input, source, image, h, w)) {
                        *mean += value;
                    }
                }
            }
            let count = (rows.len() * columns.len()) as f32;
            means.iter_mut().for_each(|mean| *mean /= count);
        }
    });
}

/// Calls `body(image, p, row)` for every output row, in parallel; `row` is (Q, C).
fn for_each_output_row(output: Shape, target: &mut [f32], body: impl Fn(usize, usize, &mut [f32]) + Sync) {
    let rows = target.par_chunks_exact_mut(output.w * output.c).enumerate();
    rows.for_each(|(index, row)| body(index / output.h, index % output.h, row));
}

/// Channels of one input pixel.
fn pixel(shape: Shape, source: &[f32], image: usize, h: usize, w: usize) -> &[f32] {
    let start = ((image * shape.h + h) * shape.w + w) * shape.c;
    &source[start..start + shape.c]
}

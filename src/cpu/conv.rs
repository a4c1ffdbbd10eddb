//! Convolution as im2col and GEMM: GEMM_M = N * P * Q output pixels, GEMM_N = K filters, GEMM_K = R * S * C.
//!
//! [`Filters`] and [`forward`] are the whole interface, so that a faster algorithm can take this file's place.

use std::cell::RefCell;

use rayon::prelude::*;

use super::bias_relu;
use super::gemm::multiply_transposed;
use crate::net::{Conv, Shape};
use crate::weights::LayerWeights;

/// f32 elements of a task's im2col matrix: 4 MB, past which more rows no longer pay for packing the filters.
const MAX_COLUMN_ELEMENTS: usize = 1 << 20;

thread_local! {
    /// A thread's im2col matrix; it grows to the largest layer in the first run and stays.
    static COLUMNS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A convolution's filters: GEMM_N x GEMM_K of each group, one after the other.
pub struct Filters {
    /// (K, R, S, C / groups).
    rows: Vec<f32>,
    /// (K).
    bias: Vec<f32>,
}

impl Filters {
    /// From (K, C / groups, R, S).
    pub fn pack(conv: Conv, weights: LayerWeights) -> Self {
        let LayerWeights { weight, bias } = weights.channels_last(conv.kernel * conv.kernel);
        Filters { rows: weight, bias }
    }

    /// Elements of filters and biases.
    pub fn len(&self) -> usize {
        self.rows.len() + self.bias.len()
    }

    /// K.
    pub fn width(&self) -> usize {
        self.bias.len()
    }
}

/// Convolution + bias, + ReLU: `source` (N, H, W, C) to `target` (N, P, Q, K).
pub fn forward(
    filters: &Filters,
    conv: Conv,
    relu: bool,
    input: Shape,
    output: Shape,
    source: &[f32],
    target: &mut [f32],
) {
    let (group_c, group_k) = (input.c / conv.groups, output.c / conv.groups);
    let gemm_k = conv.kernel * conv.kernel * group_c;
    let row_len = output.w * output.c;

    // A task is a run of output rows, across images where they are small: as many as give every thread an equal share,
    // within the im2col matrix's size.
    let rows = target.len() / row_len;
    let most = (MAX_COLUMN_ELEMENTS / (output.w * gemm_k)).max(1);
    let tasks = rows.div_ceil(most).next_multiple_of(rayon::current_num_threads());
    let task_rows = rows.div_ceil(tasks).max(1);

    target.par_chunks_mut(task_rows * row_len).enumerate().for_each(|(task, target)| {
        let first_row = task * task_rows;
        let gemm_m = target.len() / output.c;
        COLUMNS.with_borrow_mut(|columns| {
            columns.resize(columns.len().max(gemm_m * gemm_k), 0.0);
            for group in 0..conv.groups {
                let columns = &mut columns[..gemm_m * gemm_k];
                im2col(&conv, group, input, output, source, first_row, columns);
                let rows = &filters.rows[group * group_k * gemm_k..][..group_k * gemm_k];
                let target = &mut target[group * group_k..];
                assert!(target.len() >= (gemm_m - 1) * output.c + group_k);
                // SAFETY: `columns` has gemm_m rows and `rows` group_k; `target` holds gemm_m rows of group_k elements at
                // stride output.c, as asserted, and is borrowed mutably.
                unsafe { multiply_transposed(columns, rows, gemm_k, target.as_mut_ptr(), output.c) };
            }
        });
        bias_relu(target, &filters.bias, relu);
    });
}

/// Writes (P rows, Q, R, S, C / groups) of one group, for output rows from `first_row` on, counted across images.
fn im2col(
    conv: &Conv,
    group: usize,
    input: Shape,
    output: Shape,
    source: &[f32],
    first_row: usize,
    columns: &mut [f32],
) {
    let group_c = input.c / conv.groups;
    let taps_row = conv.kernel * group_c;
    for (row, columns) in columns.chunks_exact_mut(output.w * conv.kernel * taps_row).enumerate() {
        let (image, p) = ((first_row + row) / output.h, (first_row + row) % output.h);
        for (q, columns) in columns.chunks_exact_mut(conv.kernel * taps_row).enumerate() {
            // Columns S that fall inside the input; the others are padding.
            let w0 = (q * conv.stride) as isize - conv.padding as isize;
            let begin = (-w0).max(0) as usize;
            let end = (input.w as isize - w0).clamp(0, conv.kernel as isize) as usize;
            for (r, taps) in columns.chunks_exact_mut(taps_row).enumerate() {
                let h = (p * conv.stride + r).wrapping_sub(conv.padding);
                if h >= input.h || begin >= end {
                    taps.fill(0.0);
                    continue;
                }
                taps[..begin * group_c].fill(0.0);
                taps[end * group_c..].fill(0.0);
                let start = ((image * input.h + h) * input.w).wrapping_add_signed(w0 + begin as isize) * input.c;
                let taps = &mut taps[begin * group_c..end * group_c];
                if conv.groups == 1 {
                    taps.copy_from_slice(&source[start..start + taps.len()]);
                } else {
                    let pixels = source[start..].chunks(input.c).map(|pixel| &pixel[group * group_c..][..group_c]);
                    taps.chunks_exact_mut(group_c).zip(pixels).for_each(|(tap, pixel)| tap.copy_from_slice(pixel));
                }
            }
        }
    }
}

//! Fully connected layers. Up to [`DOT_BATCH`] images are bound by reading the weights and take dot products; more images
//! take a GEMM.

use rayon::prelude::*;

use super::bias_relu;
use super::gemm::multiply_transposed;
use crate::net::Shape;
use crate::weights::LayerWeights;

/// Largest batch for which one pass of dot products over the weights beats a GEMM that repacks them.
const DOT_BATCH: usize = 4;

/// Accumulators of a dot product: independent sums that vectorise.
const LANES: usize = 16;

/// Weights as (out, in), `in` in (H, W, C) order.
pub struct Matrix {
    inputs: usize,
    /// (out, in).
    rows: Vec<f32>,
    /// (out).
    bias: Vec<f32>,
}

impl Matrix {
    /// From (out, C * H * W), where `input` is the shape that was flattened.
    pub fn pack(input: Shape, weights: LayerWeights) -> Self {
        let LayerWeights { weight, bias } = weights.channels_last(input.h * input.w);
        Matrix { inputs: input.len(), rows: weight, bias }
    }

    /// Elements of weights and biases.
    pub fn len(&self) -> usize {
        self.rows.len() + self.bias.len()
    }

    /// Outputs.
    pub fn width(&self) -> usize {
        self.bias.len()
    }
}

/// What computes it for `images` images, in words.
pub fn how(images: usize) -> &'static str {
    if images <= DOT_BATCH { "dot products" } else { "gemm" }
}

/// x * W^T + bias, + ReLU: `source` (N, in) to `target` (N, out).
pub fn forward(matrix: &Matrix, relu: bool, images: usize, source: &[f32], target: &mut [f32]) {
    if images <= DOT_BATCH {
        dot_products(matrix, images, source, target);
    } else {
        multiply(matrix, images, source, target);
    }
    bias_relu(target, &matrix.bias, relu);
}

fn dot_products(matrix: &Matrix, images: usize, source: &[f32], target: &mut [f32]) {
    let outputs = matrix.bias.len();
    assert!(source.len() == images * matrix.inputs && target.len() == images * outputs);
    let columns = &Columns { start: target.as_mut_ptr() };
    matrix.rows.par_chunks_exact(matrix.inputs).enumerate().with_min_len(16).for_each(|(output, row)| {
        for (image, input) in source.chunks_exact(matrix.inputs).enumerate() {
            // SAFETY: image < images and output < outputs by the lengths asserted above, so the element lies in `target`,
            // which is borrowed for this call; `output` differs between tasks, so no two write one element.
            unsafe { *columns.start.add(image * outputs + output) = dot(row, input) };
        }
    });
}

/// Start of an (images, outputs) matrix whose columns are written by different tasks.
struct Columns {
    start: *mut f32,
}
// SAFETY: tasks share the pointer and write disjoint columns; see `dot_products`.
unsafe impl Sync for Columns {}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// Output columns are split between the threads, each a GEMM of its own over all images.
fn multiply(matrix: &Matrix, images: usize, source: &[f32], target: &mut [f32]) {
    let outputs = matrix.bias.len();
    assert!(source.len() == images * matrix.inputs && target.len() == images * outputs);
    let width = outputs.div_ceil(rayon::current_num_threads());
    let columns = &Columns { start: target.as_mut_ptr() };
    matrix.rows.par_chunks(width * matrix.inputs).enumerate().for_each(|(task, rows)| {
        // SAFETY: `source` is images x inputs and `rows` is (its own count) x inputs, contiguous; the task writes columns
        // task * width and on of `target`, at most `outputs` of them in all, which no other task touches; lengths are
        // asserted above.
        unsafe { multiply_transposed(source, rows, matrix.inputs, columns.start.add(task * width), outputs) };
    });
}

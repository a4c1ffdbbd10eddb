//! Fully connected layers: a product of few rows, bound by reading the weights up to some ten images.

use half::f16;

use super::gemm::{Packed, Panels, Target};
use super::team::{Ahead, Parts, Team};
use super::vector::LANES;
use crate::net::Shape;
use crate::weights::StoredLayer;
use crate::{Error, Result};

/// Tasks a thread, so that one that is held up leaves work to the others.
const TASKS: usize = 4;

/// Elements a task of those that lay out the inputs: below that a task costs more than it does.
const BLOCKED: usize = 1 << 14;

/// The least that half precision rounds to infinity.
const BEYOND_FLOAT16: f32 = 65520.0;

/// Weights, in the type that they are stored in.
pub enum Matrix {
    Float32(Panels<f32>),
    /// Rounded to half precision: half of the memory and of the time to read it. Computing is in float32.
    Float16(Panels<f16>),
}

impl Matrix {
    /// From (out, C * H * W), where `input` is the shape that was flattened.
    ///
    /// # Errors
    /// Those of the weights, [`Error::Device`] where memory is short, [`Error::Usage`] for a weight that half precision does not
    /// hold.
    pub fn pack(input: Shape, weights: &StoredLayer, half: bool) -> Result<Self> {
        let (bias, given, pixels) = (weights.bias()?, weights.filter_len(), input.h * input.w);
        if !half {
            let read = |first: usize, rows: &mut [f32]| weights.read_filters(first, rows);
            return Ok(Matrix::Float32(Panels::pack(bias, given, pixels, read)?));
        }
        let read = |first: usize, rows: &mut [f32]| {
            weights.read_filters(first, rows)?;
            match rows.iter().find(|weight| weight.abs() >= BEYOND_FLOAT16) {
                None => Ok(()),
                Some(weight) => Err(Error::Usage(format!(
                    "{weights} has a weight of {weight}, beyond the range of float16; say --precision float32"
                ))),
            }
        };
        Ok(Matrix::Float16(Panels::pack(bias, given, pixels, read)?))
    }

    /// The first `bytes` that are read, to be asked for before.
    pub fn ahead(&self, bytes: usize) -> Ahead {
        match self {
            Matrix::Float32(panels) => panels.ahead(bytes),
            Matrix::Float16(panels) => panels.ahead(bytes),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Matrix::Float32(panels) => panels.bytes(),
            Matrix::Float16(panels) => panels.bytes(),
        }
    }

    /// Outputs.
    pub fn width(&self) -> usize {
        match self {
            Matrix::Float32(panels) => panels.columns(),
            Matrix::Float16(panels) => panels.columns(),
        }
    }

    /// x * W^T + bias, + ReLU: `source` (N, in) to `target` (N, out).
    ///
    /// # Panics
    /// If the lengths are not those of `images` images.
    pub fn forward(&self, relu: bool, team: &Team<'_>, images: usize, source: &[f32], target: &mut [f32]) {
        match self {
            Matrix::Float32(panels) => multiply(panels, relu, team, images, source, target),
            Matrix::Float16(panels) => multiply(panels, relu, team, images, source, target),
        }
    }
}

fn multiply<B: Packed>(
    panels: &Panels<B>,
    relu: bool,
    team: &Team<'_>,
    images: usize,
    source: &[f32],
    target: &mut [f32],
) {
    let (columns, inputs) = (panels.columns(), source.len() / images);
    assert_eq!(target.len(), images * columns, "the output of {images} images");
    assert_eq!(source.len(), images * inputs, "the input of {images} images");
    assert_eq!(inputs.next_multiple_of(LANES), panels.terms(), "{inputs} inputs");
    team.scratch.with(images * panels.terms(), |blocked| {
        let (block_len, task_blocks) = (images * LANES, BLOCKED.div_ceil(images * LANES));
        team.for_each_chunk(blocked, task_blocks * block_len, |task, blocks| {
            for (index, rows) in blocks.chunks_exact_mut(block_len).enumerate() {
                let first = (task * task_blocks + index) * LANES;
                for (row, source) in rows.chunks_exact_mut(LANES).zip(source.chunks_exact(inputs)) {
                    let run = (inputs - first).min(LANES);
                    row[..run].copy_from_slice(&source[first..][..run]);
                    row[run..].fill(0.0);
                }
            }
        });
        let (alone, target, blocked) = (&team.alone(), &Parts::of(target), &*blocked);
        let tasks = (TASKS * team.threads).min(panels.panels());
        team.for_each(tasks, |task| {
            let share = |task: usize| panels.panels() * task / tasks;
            // SAFETY: `target` has `columns` elements a row, and each task its own panels' columns of them.
            unsafe {
                let target = Target { start: target.start(), pitch: columns };
                panels.multiply(alone, share(task)..share(task + 1), relu, images, blocked, target);
            }
        });
    });
}

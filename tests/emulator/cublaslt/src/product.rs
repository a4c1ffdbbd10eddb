//! The product itself.

use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use rayon::prelude::*;

use crate::driver::{Fault, Memory};
use crate::problem::{Kind, Matrix, Problem};

/// Runs of in-place algorithms.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// A product with its addresses and scalars.
pub struct Product {
    pub problem: Problem,
    pub alpha: f32,
    pub beta: f32,
    /// Of A, B, C and D; C's may be 0 where beta is.
    pub addresses: [u64; 4],
    /// Address and bytes.
    pub workspace: (u64, usize),
    /// Whether the order of the sums changes from run to run.
    pub in_place: bool,
}

impl Product {
    /// Runs it over device memory.
    pub fn run(&self, memory: &Memory) -> Result<(), Fault> {
        self.spoil_workspace(memory)?;
        let (m, n, k) = self.problem.sizes();
        let [a, b, c, d] = self.problem.matrices;
        let [transposed_a, transposed_b] = self.problem.transposed;
        let mut left = read(memory, self.addresses[0], &a, transposed_a)?;
        let mut right = read(memory, self.addresses[1], &b, transposed_b)?;
        if self.problem.tf32 {
            left.iter_mut().chain(&mut right).for_each(|value| *value = to_tf32(*value));
        }
        let mut result = match self.beta {
            0.0 => vec![0.0; m * n],
            _ => read(memory, self.addresses[2], &c, false)?,
        };
        let bias = match self.problem.bias {
            Some(address) => read(memory, address, &Matrix { columns: 1, step: m, ..d }, false)?,
            None => vec![0.0; m],
        };
        let backwards = self.in_place && RUNS.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        result.par_chunks_mut(m).zip(right.par_chunks(k)).for_each(|(column, right)| {
            let mut sums = vec![0.0f32; m];
            for i in 0..k {
                let i = if backwards { k - 1 - i } else { i };
                sums.iter_mut().zip(&left[i * m..][..m]).for_each(|(sum, left)| *sum += left * right[i]);
            }
            for ((value, sum), bias) in column.iter_mut().zip(sums).zip(&bias) {
                *value = self.alpha * sum + self.beta * *value + bias;
                // Not `max`, which would hide NaN.
                if self.problem.relu && (*value < 0.0 || value.is_nan() && relu_drops_nan()) {
                    *value = 0.0;
                }
            }
        });
        for (i, column) in result.chunks(m).enumerate() {
            memory.write(address_of_column(self.addresses[3], &d, i), &encode(column, d.kind))?;
        }
        self.spoil_workspace(memory)
    }

    /// Overwrites the workspace: it may hold no live data.
    fn spoil_workspace(&self, memory: &Memory) -> Result<(), Fault> {
        let (address, bytes) = self.workspace;
        memory.write(address, &vec![0xA5; bytes])
    }
}

/// Nothing that NVIDIA documents says it does not.
fn relu_drops_nan() -> bool {
    std::env::var("CUEMU_CUBLASLT_RELU").is_ok_and(|setting| setting == "drops-nan")
}

fn address_of_column(start: u64, matrix: &Matrix, column: usize) -> u64 {
    start.wrapping_add((column * matrix.step * matrix.kind.bytes()) as u64)
}

/// The matrix, transposed or not, without gaps between its columns.
fn read(memory: &Memory, address: u64, matrix: &Matrix, transposed: bool) -> Result<Vec<f32>, Fault> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let mut values = vec![0.0; rows * columns];
    let mut bytes = vec![0; rows * matrix.kind.bytes()];
    for i in 0..columns {
        memory.read(address_of_column(address, matrix, i), &mut bytes)?;
        let column = decode(&bytes, matrix.kind);
        if transposed {
            column.into_iter().enumerate().for_each(|(j, value)| values[i + j * columns] = value);
        } else {
            values[i * rows..][..rows].copy_from_slice(&column);
        }
    }
    Ok(values)
}

fn decode(bytes: &[u8], kind: Kind) -> Vec<f32> {
    let (halves, _) = bytes.as_chunks::<2>();
    match kind {
        Kind::F32 => bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Kind::F16 => halves.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Kind::Bf16 => halves.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
    }
}

fn encode(values: &[f32], kind: Kind) -> Vec<u8> {
    match kind {
        Kind::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Kind::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Kind::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
    }
}

/// To 10 bits of mantissa, to nearest, ties away from zero.
fn to_tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits(value.to_bits().wrapping_add(1 << 12) & !0x1FFF) } else { value }
}

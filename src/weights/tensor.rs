//! One named array of a checkpoint, in the precision it was stored in.

use std::fmt;

use half::{bf16, f16};
use rayon::prelude::*;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }
}

/// A dense tensor: shape as PyTorch has it (OIHW for convolutions; out, in for linear layers; n for biases) and its
/// elements, row-major and little-endian.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Elements decoded by one task: large enough to hide the cost of a task, small enough for all cores to share a layer.
const BLOCK: usize = 1 << 16;

impl Tensor {
    /// A tensor of `bytes`, little-endian and row-major.
    ///
    /// # Panics
    ///
    /// If `bytes` is not as long as `shape` and `dtype` say. Readers of files check that first.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Self {
        let expected = shape.iter().try_fold(dtype.size(), |total, &dim| total.checked_mul(dim));
        assert_eq!(expected, Some(bytes.len()), "bytes of a {dtype:?} tensor of shape {shape:?}");
        Self { dtype, shape, bytes }
    }

    /// An [`F32`](DType::F32) tensor of `values`, row-major.
    ///
    /// # Panics
    ///
    /// If there are not as many values as `shape` says.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Self {
        Self::new(DType::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The elements as stored: little-endian, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements in f32: f64 rounds to nearest even, f16 and bf16 widen exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        let blocks = self.bytes.par_chunks(BLOCK * self.dtype.size());
        values.par_chunks_mut(BLOCK).zip(blocks).for_each(|(values, bytes)| decode(self.dtype, bytes, values));
        values
    }

    /// Row-major index of the first element that is NaN, infinite, or beyond the range of f32.
    pub fn first_non_finite(&self) -> Option<usize> {
        let blocks = self.bytes.par_chunks(BLOCK * self.dtype.size()).enumerate();
        let firsts = blocks.map(|(block, bytes)| {
            let mut values = vec![0.0; bytes.len() / self.dtype.size()];
            decode(self.dtype, bytes, &mut values);
            values.iter().position(|v| !v.is_finite()).map(|index| block * BLOCK + index)
        });
        firsts.find_first(Option::is_some).flatten()
    }
}

/// Writes the elements of `bytes` to `values`, one for one.
fn decode(dtype: DType, bytes: &[u8], values: &mut [f32]) {
    match dtype {
        DType::F64 => each(bytes, values, |b| f64::from_le_bytes(b) as f32),
        DType::F32 => each(bytes, values, f32::from_le_bytes),
        DType::F16 => each(bytes, values, |b| f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => each(bytes, values, |b| bf16::from_le_bytes(b).to_f32()),
    }
}

fn each<const N: usize>(bytes: &[u8], values: &mut [f32], element: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = element(*bytes);
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor").field("dtype", &self.dtype).field("shape", &self.shape).finish_non_exhaustive()
    }
}

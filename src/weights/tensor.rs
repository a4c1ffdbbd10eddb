//! One named array of a checkpoint, in the precision it was stored in.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

use super::source::Source;
use crate::Result;

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
/// elements, row-major and little-endian. Those of a file are read when they are asked for, and not kept, unless they were
/// scattered there.
#[derive(Clone)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    source: Arc<Source>,
    /// Bytes of `source`.
    range: Range<usize>,
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
        let range = 0..bytes.len();
        Self::within(&Arc::new(Source::Memory(bytes)), range, dtype, shape)
    }

    /// The tensor that `range` of `source` holds, which has as many bytes.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub(super) fn within(source: &Arc<Source>, range: Range<usize>, dtype: DType, shape: Vec<usize>) -> Self {
        let expected = shape.iter().try_fold(dtype.size(), |total, &dim| total.checked_mul(dim));
        assert_eq!(expected, Some(range.len()), "bytes of a {dtype:?} tensor of shape {shape:?}");
        Self { dtype, shape, source: Arc::clone(source), range }
    }

    /// An [`F32`](DType::F32) tensor of `values`, row-major.
    ///
    /// # Panics
    ///
    /// If there are not as many values as `shape` says.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = match cfg!(target_endian = "little") {
            true => bytemuck::cast_slice(values).to_vec(),
            false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Self::new(DType::F32, shape, bytes)
    }

    /// The elements as stored: little-endian, row-major.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`](crate::Error::Weights) if their file can no longer be read.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.source.bytes(self.range.clone()).map_err(|e| self.source.failed(e))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The elements in f32: f64 rounds to nearest even, f16 and bf16 widen exactly.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.part_to_f32(0..self.len())
    }

    /// As [`to_f32`](Self::to_f32), of the elements of `part` alone.
    pub(super) fn part_to_f32(&self, part: Range<usize>) -> Result<Vec<f32>> {
        let mut values = vec![0.0; part.len()];
        let blocks = values.par_chunks_mut(BLOCK).enumerate();
        blocks.try_for_each(|(block, values)| self.read(part.start + block * BLOCK, values))?;
        Ok(values)
    }

    /// Fills `values` with the elements from `first` on, in f32.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub(super) fn read(&self, first: usize, values: &mut [f32]) -> Result<()> {
        let size = self.dtype.size();
        let start = self.range.start + first * size;
        let range = start..start + values.len() * size;
        assert!(range.end <= self.range.end, "{} elements from {first} on, of {}", values.len(), self.len());
        if let Some(bytes) = self.source.in_memory(range.clone()) {
            decode(self.dtype, bytes, values);
        } else if self.dtype == DType::F32 {
            self.source.read(start, bytemuck::cast_slice_mut(values)).map_err(|e| self.source.failed(e))?;
            values.iter_mut().for_each(|value| *value = f32::from_bits(u32::from_le(value.to_bits())));
        } else {
            let bytes = self.source.bytes(range).map_err(|e| self.source.failed(e))?;
            decode(self.dtype, &bytes, values);
        }
        Ok(())
    }

    /// Row-major index of the first element that is NaN, infinite, or beyond the range of f32.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes).
    pub fn first_non_finite(&self) -> Result<Option<usize>> {
        let blocks = (0..self.len().div_ceil(BLOCK)).into_par_iter();
        let firsts = blocks.map_init(Vec::new, |values, block| {
            let first = block * BLOCK;
            values.resize(BLOCK.min(self.len() - first), 0.0);
            self.read(first, values)?;
            Ok(values.iter().position(|v| !v.is_finite()).map(|index| first + index))
        });
        firsts.find_first(|found| !matches!(found, Ok(None))).unwrap_or(Ok(None))
    }
}

/// Equal types, shapes and bytes. What can no longer be read equals nothing.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        let alike = (self.dtype, &self.shape) == (other.dtype, &other.shape);
        alike && matches!((self.bytes(), other.bytes()), (Ok(a), Ok(b)) if a == b)
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

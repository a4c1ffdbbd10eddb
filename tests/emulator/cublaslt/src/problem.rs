//! Which products are taken, and what an algorithm for one needs.

use crate::abi::{Outcome, Status};
use crate::descriptors::{Layout, Operation, Preference};

const COMPUTE_32F: u32 = 68;
const COMPUTE_32F_FAST_TF32: u32 = 77;
const RELU: u32 = 2;
const BIAS: u32 = 4;
/// Of `cublasLtReductionScheme_t`.
const IN_PLACE: u32 = 1;
const COMPUTE_TYPE: u32 = 2;

/// Type of a matrix's elements.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    F32,
    F16,
    Bf16,
}

impl Kind {
    /// Of a `cudaDataType`.
    fn of(kind: u32) -> Outcome<Kind> {
        match kind {
            0 => Ok(Kind::F32),
            2 => Ok(Kind::F16),
            14 => Ok(Kind::Bf16),
            _ => Err(Status::NOT_SUPPORTED),
        }
    }

    pub fn bytes(self) -> usize {
        if self == Kind::F32 { 4 } else { 2 }
    }
}

/// A column-major matrix.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub kind: Kind,
    pub rows: usize,
    pub columns: usize,
    /// Elements from one column to the next.
    pub step: usize,
}

impl Matrix {
    fn of(layout: &Layout) -> Outcome<Matrix> {
        let kind = Kind::of(layout.kind)?;
        if layout.order != 0 || layout.batch != 1 {
            return Err(Status::NOT_SUPPORTED);
        }
        let size = |value: u64| usize::try_from(value).ok().filter(|size| (1..1 << 31).contains(size));
        let (rows, columns) = (size(layout.rows), size(layout.columns));
        let step = u64::try_from(layout.step).ok().and_then(size);
        match (rows, columns, step) {
            (Some(rows), Some(columns), Some(step)) if step >= rows => Ok(Matrix { kind, rows, columns, step }),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

/// A product that is taken: D = epilogue(alpha * op(A) * op(B) + beta * C).
#[derive(Clone, Copy)]
pub struct Problem {
    /// A, B, C and D.
    pub matrices: [Matrix; 4],
    pub transposed: [bool; 2],
    pub tf32: bool,
    pub relu: bool,
    /// Address of the bias, 0 for an address to be set.
    pub bias: Option<u64>,
}

impl Problem {
    /// # Errors
    /// `INVALID_VALUE` for sizes that don't fit together, `NOT_SUPPORTED` for what is not imitated.
    pub fn new(operation: &Operation, layouts: [Layout; 4]) -> Outcome<Problem> {
        let [a, b, c, d] = layouts;
        let matrices = [Matrix::of(&a)?, Matrix::of(&b)?, Matrix::of(&c)?, Matrix::of(&d)?];
        let [a, b, c, d] = matrices;
        let transposed = [operation.transposed[0] != 0, operation.transposed[1] != 0];
        let of_op = |matrix: Matrix, transposed| match transposed {
            true => (matrix.columns, matrix.rows),
            false => (matrix.rows, matrix.columns),
        };
        let ((m, k), (k_of_b, n)) = (of_op(a, transposed[0]), of_op(b, transposed[1]));
        if k != k_of_b || [c, d].iter().any(|matrix| (matrix.rows, matrix.columns) != (m, n)) {
            return Err(Status::INVALID_VALUE);
        }
        let tf32 = operation.compute == COMPUTE_32F_FAST_TF32;
        let supported = matches!(operation.epilogue, 1 | RELU | BIAS | 6)
            && (operation.compute == COMPUTE_32F || tf32 && a.kind == Kind::F32)
            && operation.scale == 0
            && operation.pointer_mode == 0
            && operation.transposed[2] == 0
            && operation.transposed.iter().all(|transposed| *transposed <= 2)
            && a.kind == b.kind
            && c.kind == d.kind
            && (d.kind == a.kind || d.kind == Kind::F32);
        if !supported {
            return Err(Status::NOT_SUPPORTED);
        }
        let bias = (operation.epilogue & BIAS != 0).then_some(operation.bias);
        if bias.is_some() && operation.bias_kind.is_some_and(|kind| Kind::of(kind) != Ok(d.kind)) {
            return Err(Status::NOT_SUPPORTED);
        }
        Ok(Problem { matrices, transposed, tf32, relu: operation.epilogue & RELU != 0, bias })
    }

    /// m, n, k.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let [a, _, _, d] = &self.matrices;
        (d.rows, d.columns, if self.transposed[0] { a.rows } else { a.columns })
    }

    /// Algorithms for the preference, the fastest first.
    pub fn algorithms(&self, preference: &Preference) -> Vec<Algorithm> {
        let (m, n, _) = self.sizes();
        if n > most_columns() {
            return vec![];
        }
        let large = (m as u64 * n as u64 * 4).next_multiple_of(256);
        let new = |workspace, in_place| Algorithm { workspace, in_place, alignment: preference.alignment };
        let candidates = [(IN_PLACE, new(0, true)), (COMPUTE_TYPE, new(large, false)), (0, new(0, false))];
        let allowed = candidates.into_iter().filter(|(reduction, algorithm)| {
            preference.reductions & reduction == *reduction && algorithm.workspace <= preference.workspace
        });
        allowed.map(|(_, algorithm)| algorithm).collect()
    }
}

/// Columns of D beyond which there is no algorithm.
fn most_columns() -> usize {
    std::env::var("CUEMU_CUBLASLT_COLUMNS").ok().and_then(|most| most.parse().ok()).unwrap_or(usize::MAX)
}

/// What an algorithm needs; its `cublasLtMatmulAlgo_t` holds nothing else.
pub struct Algorithm {
    /// Bytes.
    pub workspace: u64,
    /// Whether parts of k are added up in the output, in whatever order they are done.
    pub in_place: bool,
    /// Bytes that A, B, C and D are aligned to.
    pub alignment: [u32; 4],
}

/// `cublasLtMatmulAlgo_t`.
pub type AlgorithmData = [u64; 8];

/// Marks the data of an algorithm as ours.
const MAGIC: u64 = 0x656d_7561_6c67_6f31;

impl Algorithm {
    pub fn data(&self) -> AlgorithmData {
        let [a, b, c, d] = self.alignment.map(u64::from);
        [MAGIC, self.workspace, a, b, c, d, self.in_place.into(), 0]
    }

    /// # Errors
    /// `INVALID_VALUE` for data that no heuristic returned.
    pub fn read(data: AlgorithmData) -> Outcome<Algorithm> {
        let [MAGIC, workspace, alignment @ .., in_place @ 0..=1, 0] = data else { return Err(Status::INVALID_VALUE) };
        Ok(Algorithm { workspace, in_place: in_place == 1, alignment: alignment.map(|bytes| bytes as u32) })
    }
}

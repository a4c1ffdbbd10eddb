//! The part of cuBLASLt that cudarc calls, over the emulated driver: one matrix product with its epilogue.
//!
//! - Column-major matrices, A and B transposed or not, batch count 1, scalars from the host.
//! - A and B both f16, bf16 or f32; C and D both of that type or f32; compute type 32F, or 32F_FAST_TF32 for f32, which
//!   rounds A and B to tf32 (to nearest, ties away from zero).
//! - Epilogues DEFAULT, RELU, BIAS and RELU_BIAS; the bias is of D's type, one value for each row of D. NaN stays NaN, by default.
//! - The sum is taken in f32 in the order of k, each product rounded.
//!
//! The heuristic answers `NOT_SUPPORTED` to anything else. It offers, as far as the preference allows, an algorithm that
//! reduces in place, which sums backwards every other time, one that needs 4 bytes of workspace for each element of D and
//! reduces in the compute type, then one that needs neither. A product is refused that gives less workspace, one that
//! isn't aligned to 256 bytes, or matrices that are aligned less than the preference said (256 bytes if
//! it said nothing). The whole workspace is overwritten before the matrices are read and after D is written, so that a
//! workspace with live data in it shows.
//!
//! CUEMU_CUBLASLT_VERSION is what `cublasLtGetVersion` returns, CUEMU_CUBLASLT_COLUMNS the most columns of D that there is
//! an algorithm for. With CUEMU_CUBLASLT_RELU=drops-nan a NaN becomes 0 in a ReLU.
//!
//! A product is queued, captured and replayed as a kernel is. Its addresses and what it reads are checked as it runs,
//! which is what faults the context.

mod abi;
mod descriptors;
mod driver;
mod exports;
mod problem;
mod product;

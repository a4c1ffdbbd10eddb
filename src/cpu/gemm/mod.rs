//! C = A * B in float32, B packed once: GEMM_M rows, GEMM_N columns, GEMM_K terms, in that order of sums whatever the shape.
//!
//! Activations are blocked, (columns / 8, rows, 8), as A and as C, so that the micro kernel reads and writes memory in order, and
//! the product of one step can be what the next one takes. B is in [`Panels`].

mod micro;
mod panels;

pub use micro::{Product, WIDTH};
pub use panels::{Packed, Panels};

//! The `gemm` crate's f32 product as convolutions and fully connected layers need it.

use gemm::{Parallelism, gemm};

/// target = left * right^T on the calling thread: `left` (m, k) and `right` (n, k) row-major, `target` m rows of n elements,
/// `target_stride` elements apart.
///
/// # Safety
/// `target` may be written at every `row * target_stride + column` with row < m = `left.len() / k` and column < n =
/// `right.len() / k`, and no other thread touches those elements meanwhile.
///
/// # Panics
/// If a slice is not whole rows of k.
pub unsafe fn multiply_transposed(left: &[f32], right: &[f32], k: usize, target: *mut f32, target_stride: usize) {
    assert!(left.len().is_multiple_of(k) && right.len().is_multiple_of(k), "rows of {k}");
    // SAFETY: `left` and `right` hold m and n whole rows of k, each read with a row stride of k; they cannot overlap the
    // target, which the caller may write at the elements named.
    unsafe {
        gemm(
            left.len() / k,
            right.len() / k,
            k,
            target,
            1,
            target_stride as isize,
            false,
            left.as_ptr(),
            1,
            k as isize,
            right.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

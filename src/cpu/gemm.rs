//! The `gemm` crate's f32 product as convolutions and fully connected layers need it.
//!
//! An element's bits depend on its two rows alone, so that images, pixels and filters may be divided between tasks, threads
//! and towers in any way. The crate by itself sums in another order where a product is small, has a single row or column, or
//! has at most 64 of both; the constants here keep clear of that, and a test holds them to it.

use std::cell::RefCell;

use gemm::{Parallelism, gemm};

/// Elements of a product up to which the crate takes dot products along k.
const SMALL: usize = 256;

/// Rows and columns that a small product is filled up to: the square exceeds [`SMALL`].
const FILLED: usize = 17;

/// Terms that the crate sums in one go, whatever the product's size; longer sums are taken in parts, added up in order.
const MAX_DEPTH: usize = 512;

thread_local! {
    /// Both factors and the product of a product that is filled up.
    static FILLED_UP: RefCell<[Vec<f32>; 3]> = const { RefCell::new([const { vec![] }; 3]) };
}

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
    let (m, n) = (left.len() / k, right.len() / k);
    let least = if m * n <= SMALL { FILLED } else { 2 };
    if m == 0 || n == 0 {
        return;
    }
    if m >= least && n >= least {
        // SAFETY: the factors are whole rows, and the caller allows the target.
        return unsafe { multiply(left, right, k, target, target_stride) };
    }
    FILLED_UP.with_borrow_mut(|[left_memory, right_memory, product]| {
        let left = fill_up(left, least * k, left_memory);
        let right = fill_up(right, least * k, right_memory);
        let (rows, columns) = (left.len() / k, right.len() / k);
        product.resize(product.len().max(rows * columns), 0.0);
        // SAFETY: the factors are whole rows; `product` has room for the rows and columns of both, and is borrowed mutably.
        unsafe { multiply(left, right, k, product.as_mut_ptr(), columns) };
        for (row, product) in product.chunks_exact(columns).take(m).enumerate() {
            // SAFETY: row < m, and `product` has columns >= n elements: the caller allows writing n in each of m rows, and
            // this thread's scratch memory overlaps none of them.
            unsafe { std::ptr::copy_nonoverlapping(product.as_ptr(), target.add(row * target_stride), n) };
        }
    });
}

/// `rows`, with zeros after them where they are fewer than `len` elements.
fn fill_up<'a>(rows: &'a [f32], len: usize, memory: &'a mut Vec<f32>) -> &'a [f32] {
    if rows.len() >= len {
        return rows;
    }
    memory.clear();
    memory.extend_from_slice(rows);
    memory.resize(len, 0.0);
    memory
}

/// As [`multiply_transposed`], for products that the crate sums in the one order.
///
/// # Safety
/// As there; `left` and `right` are whole rows of k.
unsafe fn multiply(left: &[f32], right: &[f32], k: usize, target: *mut f32, target_stride: usize) {
    let depth = k.div_ceil(k.div_ceil(MAX_DEPTH));
    for first in (0..k).step_by(depth) {
        let (left_part, right_part) = (&left[first..], &right[first..]);
        // SAFETY: of the m and n rows of k that `left` and `right` hold, each is read from element `first` on, `depth` elements
        // or up to its end, with a row stride of k; they cannot overlap the target, which the caller may write at the elements
        // named. It is read from the second part on, when the first has written all of it.
        unsafe {
            gemm(
                left.len() / k,
                right.len() / k,
                depth.min(k - first),
                target,
                1,
                target_stride as isize,
                first > 0,
                left_part.as_ptr(),
                1,
                k as isize,
                right_part.as_ptr(),
                k as isize,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn product(left: &[f32], right: &[f32], k: usize) -> Vec<f32> {
        let (m, n) = (left.len() / k, right.len() / k);
        let mut target = vec![f32::NAN; m * n];
        // SAFETY: `target` has m rows of n elements and is this function's own.
        unsafe { multiply_transposed(left, right, k, target.as_mut_ptr(), n) };
        target
    }

    /// However rows and columns are divided, down to one by one: the same bits, which are those of a sum in f64 but for
    /// rounding.
    #[test]
    fn bits_do_not_depend_on_how_a_product_is_divided() {
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        for case in 0..44 {
            let k = [1, 2, 3, 75, 363, 512, 513, 600, 1024, 1025, 1200][case % 11];
            let mut side =
                |most| if rng.random_bool(0.5) { rng.random_range(1..20) } else { rng.random_range(20..most) };
            let (m, n) = if case % 2 == 0 { (side(90), side(300)) } else { (side(300), side(90)) };
            let mut draw = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0f32)).collect::<Vec<_>>();
            let (left, right) = (draw(m * k), draw(n * k));
            let whole = product(&left, &right, k);
            for (index, found) in whole.iter().enumerate() {
                let (left, right) = (&left[index / n * k..][..k], &right[index % n * k..][..k]);
                let exact: f64 = left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum();
                assert!((f64::from(*found) - exact).abs() < 1e-6 * k as f64, "{m} x {n} x {k}: {found}, not {exact}");
            }
            let (rows, columns) = match case % 4 {
                0 => (1, n),
                1 => (m, 1),
                2 => (1, 1),
                _ => (rng.random_range(1..=m), rng.random_range(1..=n)),
            };
            for (row, left) in left.chunks(rows * k).enumerate() {
                for (column, right) in right.chunks(columns * k).enumerate() {
                    let block = product(left, right, k);
                    let width = right.len() / k;
                    for (index, found) in block.iter().enumerate() {
                        let place = (row * rows + index / width) * n + column * columns + index % width;
                        assert_eq!(
                            found.to_bits(),
                            whole[place].to_bits(),
                            "{m} x {n} x {k} in blocks of {rows} x {columns}"
                        );
                    }
                }
            }
        }
    }
}

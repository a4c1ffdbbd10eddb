//! What the CPU reaches: a large product by the `gemm` crate, a large copy by all threads.

use std::time::{Duration, Instant};

use gemm::{Parallelism, gemm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

use super::{threads, zeroed};
use crate::record::Ceilings;
use crate::{Error, Result};

/// Sides of square products, each tried until one takes [`LONG_ENOUGH`].
const SIDES: [usize; 6] = [256, 512, 1024, 2048, 4096, 8192];
const LONG_ENOUGH: Duration = Duration::from_millis(5);
/// The best of so many runs counts, of fewer where they take longer than [`PATIENCE`].
const RUNS: usize = 10;
const PATIENCE: Duration = Duration::from_millis(300);
/// f32 elements that are copied, 256 MB: far more than caches have.
const COPIED: usize = 64 << 20;
/// Elements a task of a copy.
const CHUNK: usize = 64 << 10;

/// Of `count` threads.
///
/// # Errors
/// [`Error::Device`] where they cannot be started, or memory is short.
pub fn measure(count: usize) -> Result<Ceilings> {
    let pool = ThreadPoolBuilder::new().num_threads(count).build();
    let pool = pool.map_err(|e| Error::Device(format!("cannot start {count} threads: {e}; lower -j")))?;
    pool.install(|| {
        let (side, flops_per_sec) = product(count)?;
        Ok(Ceilings {
            flops_per_sec,
            product: format!("{side} x {side} x {side} in float32 by gemm, {}", threads(count)),
            bytes_per_sec: copy()?,
            copy: format!("{} MB by {}", (4 * COPIED) >> 20, threads(count)),
        })
    })
}

/// The side of the largest product, and the rate of its best run.
fn product(count: usize) -> Result<(usize, f64)> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut found = (0, 0.0);
    for side in SIDES {
        let mut draw = || {
            let mut values = zeroed(side * side)?;
            values.iter_mut().for_each(|value| *value = rng.random_range(-1.0..1.0));
            Ok(values)
        };
        let (left, right) = (draw()?, draw()?);
        let mut target = zeroed(side * side)?;
        let best = best(|| multiply(side, &left, &right, &mut target, count));
        found = (side, 2.0 * (side as f64).powi(3) / best.as_secs_f64());
        if best >= LONG_ENOUGH {
            break;
        }
    }
    Ok(found)
}

/// Bytes a second, those read and those written.
fn copy() -> Result<f64> {
    let (mut source, mut target) = (zeroed(COPIED)?, zeroed(COPIED)?);
    let fill = |(index, chunk): (usize, &mut [f32])| {
        let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
        let start: f32 = rng.random_range(-1.0..1.0);
        chunk.iter_mut().enumerate().for_each(|(place, value)| *value = start * place as f32);
    };
    source.par_chunks_mut(CHUNK).enumerate().for_each(fill);
    let best = best(|| {
        let chunks = target.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK));
        chunks.for_each(|(target, source)| target.copy_from_slice(source));
        std::hint::black_box(&target);
    });
    Ok(2.0 * (4 * COPIED) as f64 / best.as_secs_f64())
}

/// The shortest of several runs; the first, which takes memory, does not count.
fn best(mut run: impl FnMut()) -> Duration {
    run();
    let begin = Instant::now();
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
        if begin.elapsed() >= PATIENCE {
            break;
        }
    }
    best
}

/// `target` = `left` x `right`, all (side, side) row-major, on `count` threads.
fn multiply(side: usize, left: &[f32], right: &[f32], target: &mut [f32], count: usize) {
    let len = side * side;
    assert!(left.len() == len && right.len() == len && target.len() == len);
    let stride = side as isize;
    // SAFETY: all three have `side` rows of `side` elements; `target` is borrowed mutably, so that it overlaps neither. It is
    // written, not read.
    unsafe {
        gemm(
            side,
            side,
            side,
            target.as_mut_ptr(),
            1,
            stride,
            false,
            left.as_ptr(),
            1,
            stride,
            right.as_ptr(),
            1,
            stride,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(count),
        );
    }
}

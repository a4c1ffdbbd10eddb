//! What a device reaches: a large product by cuBLASLt or our own kernels, and a large copy within its memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaSlice, result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cublaslt::{CublasLt, Matmul, WORKSPACE_BYTES, square};
use super::launch::Launcher;
use super::select::{self, Rules};
use super::shared::{Shared, to_device};
use super::steps::fits;
use super::timeline::{elapsed, timed};
use super::tower::address;
use super::watch::Watch;
use super::{Addresses, args::DevicePtr, encode_filter, failed_on};
use crate::record::Ceilings;
use crate::{Error, Result};

/// Sides of square products, each tried until one takes [`LONG_ENOUGH`].
const SIDES: [usize; 7] = [128, 256, 512, 1024, 2048, 4096, 8192];
/// Bytes that are copied, tried likewise.
const COPIED: [usize; 6] = [1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30];
const LONG_ENOUGH: Duration = Duration::from_millis(5);
/// The best of so many runs counts, of fewer where they take longer than [`PATIENCE`].
const RUNS: usize = 20;
const PATIENCE: Duration = Duration::from_millis(200);
/// What events tell apart.
const RESOLUTION: Duration = Duration::from_micros(1);
/// Random values that memory is filled with, over and over.
const DRAWN: usize = 1 << 20;
const DOING: &str = "measuring what the device reaches";

/// Of the device of `shared`, in its precision.
///
/// # Errors
/// Those of the device.
pub(super) fn measure(shared: &Shared) -> Result<Ceilings> {
    let launcher = shared.launcher.fork()?;
    let bench = Bench { shared, launcher };
    // The best product there is, whatever runs the network.
    let library = shared.cublaslt.clone().or_else(|| CublasLt::open(&shared.device).ok().map(Arc::new));
    let (side, (product, how)) = grown(&SIDES, |side| bench.product(library.as_ref(), side))?;
    let (bytes, (copy, ())) = grown(&COPIED, |bytes| bench.copy(bytes))?;
    // A memory pool gives memory back when a stream is next waited for, and the next arena is sized by what is free.
    // SAFETY: the stream is alive. Nothing is under way on it: every run was waited for.
    let _ = unsafe { result::stream::synchronize(bench.launcher.own_stream().cu_stream()) };
    Ok(Ceilings {
        flops_per_sec: 2.0 * (side as f64).powi(3) / product.as_secs_f64(),
        product: format!("{side} x {side} x {side} in {} by {how}", shared.rules.precision.name()),
        bytes_per_sec: 2.0 * bytes as f64 / copy.as_secs_f64(),
        copy: format!("{} MB within the device", bytes >> 20),
    })
}

/// The first of `sizes` whose runs take long enough, else the largest that the device has memory for.
fn grown<T>(sizes: &[usize], run: impl Fn(usize) -> Result<(Duration, T)>) -> Result<(usize, (Duration, T))> {
    let mut found = None;
    for &size in sizes {
        match run(size) {
            Ok(measured) => {
                let enough = measured.0 >= LONG_ENOUGH;
                found = Some((size, measured));
                if enough {
                    break;
                }
            }
            Err(Error::DeviceMemory(_)) if found.is_some() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found.expect("there are sizes"))
}

/// A stream to measure on.
struct Bench<'a> {
    shared: &'a Shared,
    launcher: Launcher,
}

/// Device memory, leaked where the device hangs.
struct Buffer<'a> {
    slice: Option<CudaSlice<u8>>,
    start: DevicePtr,
    watch: &'a Watch,
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        if self.watch.hangs() {
            std::mem::forget(self.slice.take());
        }
    }
}

impl Bench<'_> {
    /// The best time of a product of square matrices, and what computed it.
    fn product(&self, library: Option<&Arc<CublasLt>>, side: usize) -> Result<(Duration, String)> {
        let rules = Rules { deterministic: false, ..self.shared.rules };
        let element = rules.element();
        let step = square("a product", side, false);
        let launch = select::select(&step, side, &rules);
        let rows = side.min(DRAWN / side) * side;
        let (left, right) = (draw(rows, 0), draw(rows, 1));
        let bytes = side * side * element.bytes();
        let source = self.filled(&element.encode(&left), bytes)?;
        let filter = self.filled(&encode_filter(rules.precision, step.layers[0], &right, side)?, bytes)?;
        let (bias, rounded_bias) = (&left[..side], element.encode(&left[..side]));
        let bias = self.filled(bytemuck::cast_slice(bias), 4 * side)?;
        let rounded_bias = self.filled(&rounded_bias, side * element.bytes())?;
        let target = self.allocate(bytes)?;
        let workspace = self.allocate(WORKSPACE_BYTES)?;
        let partial = self.allocate(4 * select::partial_elements(&launch, &step, side))?;
        let addresses = Addresses {
            source: source.start,
            target: target.start,
            filter: filter.start,
            bias: bias.start,
            partial: partial.start,
            workspace: workspace.start,
        };
        let matmul = library.map(|library| Matmul::new(library, &step, side, &rules, rounded_bias.start));
        let stream = self.launcher.own_stream();
        if let (Some(matmul), Some(library)) = (matmul.transpose()?.flatten(), library) {
            // SAFETY: matrices of `side` rows of `side` elements, the filter's without padding since `side` is a multiple of 8;
            // all live until the last run was waited for, on this one stream.
            let best = self.best(|| unsafe { matmul.run(stream, &addresses) })?;
            return Ok((best, library.to_string()));
        }
        // SAFETY: as above, and the splits' sums have room.
        let best = self.best(|| unsafe { self.launcher.launch_step(&launch, &step, side, &rules, 0, &addresses) })?;
        Ok((best, launch.kernel.name().into()))
    }

    /// The best time of a copy.
    fn copy(&self, bytes: usize) -> Result<(Duration, ())> {
        let source = self.filled(bytemuck::cast_slice(&draw(DRAWN, 0)), bytes)?;
        let target = self.allocate(bytes)?;
        Ok((self.best(|| self.copy_within(target.start, source.start, bytes))?, ()))
    }

    /// The shortest of several runs of what `start` queues; the first, which may load a kernel, does not count.
    fn best(&self, start: impl Fn() -> Result<()>) -> Result<Duration> {
        let stream = self.launcher.own_stream();
        let wait = || self.shared.watch.wait_for(stream, DOING);
        start()?;
        wait()?;
        let began = Instant::now();
        let mut best = Duration::MAX;
        for _ in 0..RUNS {
            let begin = timed(stream)?;
            start()?;
            let end = timed(stream)?;
            wait()?;
            best = best.min(elapsed(&begin, &end)?);
            if began.elapsed() >= PATIENCE {
                break;
            }
        }
        Ok(best.max(RESOLUTION))
    }

    /// Memory of `len` bytes, none of which is written.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] where it would leave others too little.
    fn allocate(&self, len: usize) -> Result<Buffer<'_>> {
        let stream = self.launcher.own_stream();
        let failed = |e| failed_on(stream.context(), DOING, e);
        let (free, total) = stream.context().mem_get_info().map_err(failed)?;
        if !fits(len, free, total) {
            let (needed, free) = (len.div_ceil(1 << 20), free >> 20);
            return Err(Error::DeviceMemory(format!("{DOING} needs {needed} MB of the {free} MB that are free")));
        }
        // SAFETY: uninitialised memory, which `filled` writes before it is read, or which is only written.
        let slice = unsafe { stream.alloc::<u8>(len.max(1)) }.map_err(failed)?;
        Ok(Buffer { start: address(&slice, stream), slice: Some(slice), watch: &self.shared.watch })
    }

    /// Memory of `len` bytes filled with `values` over and over.
    fn filled(&self, values: &[u8], len: usize) -> Result<Buffer<'_>> {
        let buffer = self.allocate(len)?;
        let mut there = values.len().min(len);
        let first = to_device(&self.launcher, &self.shared.watch, &values[..there])?;
        self.copy_within(buffer.start, address(&first, self.launcher.own_stream()), there)?;
        while there < len {
            let more = there.min(len - there);
            self.copy_within(buffer.start + there as DevicePtr, buffer.start, more)?;
            there += more;
        }
        Ok(buffer)
    }

    /// Queues a copy between two places of this bench's memory, each with `len` bytes.
    fn copy_within(&self, to: DevicePtr, from: DevicePtr, len: usize) -> Result<()> {
        let stream = self.launcher.own_stream();
        // SAFETY: both places are allocations of this stream with `len` bytes, which do not overlap; what is freed afterwards
        // is freed in the stream's order.
        let copied = stream
            .context()
            .bind_to_thread()
            .and_then(|()| unsafe { result::memcpy_dtod_async(to, from, len, stream.cu_stream()) });
        copied.map_err(|e| failed_on(stream.context(), DOING, e))
    }
}

/// `len` values from -1 to 1.
fn draw(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

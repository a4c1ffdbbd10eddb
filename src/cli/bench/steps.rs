//! Batches that were counted, and the figures over them.

use std::fs;
use std::time::Duration;

use alexnet::record::{BenchResult, Mode, Windows};
use alexnet::statistics::Spread;
use alexnet::{BatchTimes, Interval, Precision};

use super::Measuring;

/// The batches of a measurement, in order.
#[derive(Default)]
pub struct Steps {
    pub seconds: Vec<f64>,
    /// Images of each that came out.
    pub images: Vec<usize>,
    /// Inputs of all of them that did not.
    pub failed: usize,
    /// From the first one's begin to the last one's end.
    pub elapsed: Duration,
    /// Of other batches, which the device timed.
    pub clocked: Vec<BatchTimes>,
}

impl Steps {
    /// The figures.
    pub fn result(self, mode: Mode, precision: Precision, batch_size: usize, how: &Measuring) -> BenchResult {
        let Steps { seconds, images, failed, elapsed, clocked } = self;
        let percentiles = &how.percentile;
        let spread = |times: Vec<f64>| (!times.is_empty()).then(|| Spread::with(times, percentiles));
        let part = |part: fn(&BatchTimes) -> Option<Duration>| {
            spread(clocked.iter().filter_map(part).map(|time| 1e3 * time.as_secs_f64()).collect())
        };
        let times: Vec<f64> = seconds.iter().map(|seconds| 1e3 * seconds).collect();
        let latency_ms = Spread::with(times.clone(), percentiles);
        BenchResult {
            program: "alexnet".into(),
            configuration: None,
            mode,
            precision: precision.name().into(),
            batch_size,
            samples_per_sec: images.iter().sum::<usize>() as f64 / elapsed.as_secs_f64(),
            step_time_ms: latency_ms.mean,
            latency_ms,
            // What copies nothing to the host queues nothing: it computes when it is asked for results.
            enqueue_ms: part(|times| times.copy_out.map(|_| times.enqueue)),
            h2d_ms: part(|times| times.copy_in.as_ref().map(Interval::length)),
            compute_ms: part(|times| Some(times.compute.length())),
            d2h_ms: part(|times| times.copy_out.as_ref().map(Interval::length)),
            windows: Windows::of(&seconds, &images),
            steps: seconds.len(),
            images: images.iter().sum(),
            failed,
            sequential_share: None,
            peak_resident_bytes: peak_resident_bytes(),
            step_times_ms: how.step_times.then_some(times),
        }
    }
}

/// Linux tells how much memory a process has had in use at most.
fn peak_resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

//! Throughput and latency of whole networks.

use serde::{Deserialize, Serialize};

use super::{Machine, Subject};
use crate::statistics::Spread;

/// A run of `alexnet bench`, or of another program on the same task: uint8 pixels to classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    /// What it ran on.
    pub machine: Machine,
    /// What was run.
    #[serde(flatten)]
    pub subject: Subject,
    /// What was measured end to end, where something was.
    pub inputs: Option<Inputs>,
    /// Run before anything is counted.
    pub warm_up_s: f64,
    /// Asked for, a measurement.
    pub duration_s: f64,
    /// Steps that a measurement has at least.
    pub iterations: usize,
    /// A measurement each.
    pub results: Vec<BenchResult>,
    /// From a process's start to its first prediction, where that was asked for.
    pub cold_start: Option<ColdStart>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Files to measure end to end on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// As they were named.
    pub names: Vec<String>,
    /// What is done about EXIF orientation.
    pub exif: String,
    /// The JPEG decoder.
    pub decoder: String,
}

/// One mode at one precision and batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// `alexnet`, `pytorch`, `jax`, `onnxruntime`, ...
    pub program: String,
    /// How that program runs, where it can in several ways: `eager, channels_last`.
    pub configuration: Option<String>,
    /// What was measured.
    pub mode: Mode,
    /// `float32`, `tf32`, `float16`, `bfloat16`.
    pub precision: String,
    /// Images a step.
    pub batch_size: usize,
    /// Images over the time from the first counted step to the last.
    pub samples_per_sec: f64,
    /// Mean milliseconds from one batch's results to the next one's.
    pub step_time_ms: f64,
    /// Of steps: from a batch's submission to its results in [`Mode::Latency`], from one's results to the next one's otherwise.
    pub latency_ms: Spread,
    /// Host time that it takes to queue a batch; none where nothing is queued. This and the three after it are of a pass of
    /// their own, in which the clock is read between the parts of each batch.
    pub enqueue_ms: Option<Spread>,
    /// Pixels to the device; none where they are there before, and on a CPU.
    pub h2d_ms: Option<Spread>,
    /// From the first kernel to the classes on the device.
    pub compute_ms: Option<Spread>,
    /// Classes to the host; none on a CPU.
    pub d2h_ms: Option<Spread>,
    /// Whether the speed held still.
    pub windows: Option<Windows>,
    /// Steps counted.
    pub steps: usize,
    /// Images in them.
    pub images: usize,
    /// Inputs that could not be decoded; end to end and decoding only.
    pub failed: usize,
    /// End to end on a CPU: `samples_per_sec` over 1 / (1 / decoding's + 1 / computing's), what as many threads reach that do
    /// one after the other without loss.
    pub sequential_share: Option<f64>,
    /// The most memory that the process has had in use since its start; none where the system does not tell.
    pub peak_resident_bytes: Option<u64>,
    /// Every step's time in order, where that was asked for.
    pub step_times_ms: Option<Vec<f64>>,
}

/// What a measurement is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// From pixels to classes, one batch at a time, both in the host's memory: what a single request takes.
    Latency,
    /// Pixels that the device holds to classes, batch after batch.
    Compute,
    /// As compute, with pixels copied to the device for each batch.
    Copied,
    /// Files to pixels in memory: what the host does for [`Mode::EndToEnd`] before anything is computed.
    Decode,
    /// Files to classes in memory.
    EndToEnd,
}

impl Mode {
    /// Its name in words.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Latency => "latency",
            Mode::Compute => "compute",
            Mode::Copied => "copied",
            Mode::Decode => "decode",
            Mode::EndToEnd => "end to end",
        }
    }
}

/// Speeds of the last three windows of a measurement, which is divided into three to ten of equal length, as many as have
/// five steps each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    /// Images per second of each.
    pub samples_per_sec: [f64; 3],
    /// Whether each is within 10 % of their mean.
    pub stable: bool,
}

impl Windows {
    /// Of steps that took `seconds` each, one after the other, for so many `images`. A step that two windows share counts in
    /// each by its part of the time. None for fewer than three steps.
    pub fn of(seconds: &[f64], images: &[usize]) -> Option<Self> {
        if seconds.len() < 3 {
            return None;
        }
        let count = (seconds.len() / 5).clamp(3, 10);
        let length = seconds.iter().sum::<f64>() / count as f64;
        let mut speeds = vec![0.0; count];
        let mut begin = 0.0;
        for (&seconds, &images) in seconds.iter().zip(images) {
            let end = begin + seconds;
            for (window, speed) in speeds.iter_mut().enumerate() {
                let (from, to) = (window as f64 * length, (window + 1) as f64 * length);
                let shared = end.min(to) - begin.max(from);
                if shared > 0.0 {
                    *speed += images as f64 * (shared / seconds) / length;
                }
            }
            begin = end;
        }
        let samples_per_sec: [f64; 3] = speeds.last_chunk().copied()?;
        let mean = samples_per_sec.iter().sum::<f64>() / 3.0;
        Some(Windows {
            samples_per_sec,
            stable: samples_per_sec.iter().all(|speed| (speed - mean).abs() <= 0.1 * mean),
        })
    }
}

/// From a process's start to its first prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColdStart {
    /// Over fresh processes.
    pub first_prediction_ms: Spread,
    /// How many.
    pub processes: usize,
    /// What they did and what was warm.
    pub how: String,
    /// Other programs that did the same, a process of each in turn.
    #[serde(default)]
    pub peers: Vec<PeerStart>,
}

/// From the start of another program's process to its first prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStart {
    /// `pytorch`, ...
    pub program: String,
    /// Over fresh processes, as many as of this program.
    pub first_prediction_ms: Spread,
    /// The median of this program's times over the median of that one's.
    pub ratio: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy.diff(numpy.interp(edges, ends, images so far)) / length, with edges = numpy.linspace(0, ends[-1], count + 1).
    #[test]
    fn windows_are_numpys() {
        let steady: Vec<f64> = (0..23).map(|step| 0.1 + 0.01 * f64::from(step % 4)).collect();
        let slower: Vec<f64> = (0..23).map(|step| 0.1 + 0.004 * f64::from((step - 10).max(0))).collect();
        let many: Vec<f64> = (0..200).map(|step| 0.01 * (1.0 + f64::from(step % 7) / 70.0)).collect();
        let last_is_small: Vec<usize> = (0..23).map(|step| if step == 22 { 3 } else { 8 }).collect();
        for (seconds, images, expected, stable) in [
            (&steady[..], &[8; 23][..], [68.30279986173518, 70.51503629450393, 69.40891807811961], true),
            (&slower, &last_is_small, [78.58431172366852, 66.29851346543533, 49.23662350921151], false),
            (&[0.5, 0.25, 0.125, 1.0], &[4, 0, 4, 2], [6.4, 7.6, 2.0], false),
            (&many, &[1; 200], [96.07978765606605, 96.01902299723285, 95.95576116064011], true),
        ] {
            let found = Windows::of(seconds, images).unwrap();
            for (found, expected) in found.samples_per_sec.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
            }
            assert_eq!(found.stable, stable, "{found:?}");
        }
        assert_eq!(Windows::of(&[1.0; 2], &[1; 2]), None);
    }

    /// A tenth from the mean is stable, a little more is not.
    #[test]
    fn the_limit_is_a_tenth() {
        for (third, stable) in [(81, true), (80, false)] {
            let found = Windows::of(&[1.0; 3], &[90, 99, third]).unwrap();
            assert_eq!((found.samples_per_sec, found.stable), ([90.0, 99.0, third as f64], stable));
        }
    }
}

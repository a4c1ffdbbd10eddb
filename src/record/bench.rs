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
    /// Host time that it takes to queue a batch; none where nothing is queued.
    pub enqueue_ms: Option<Spread>,
    /// Pixels to the device.
    pub h2d_ms: Option<Spread>,
    /// The network, on the device.
    pub compute_ms: Option<Spread>,
    /// Results to the host.
    pub d2h_ms: Option<Spread>,
    /// Whether the speed held still.
    pub windows: Option<Windows>,
    /// Steps counted.
    pub steps: usize,
    /// Images in them.
    pub images: usize,
    /// Inputs that could not be decoded; end to end only.
    pub failed: usize,
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
    /// Files to classes in memory.
    EndToEnd,
}

/// Speeds of the last three windows of a measurement, which has as many of equal length as it has room for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    /// Images per second of each.
    pub samples_per_sec: [f64; 3],
    /// Whether each is within 10 % of their mean.
    pub stable: bool,
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
}

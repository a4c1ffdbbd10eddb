//! Where a network's time goes.

use serde::{Deserialize, Serialize};

use super::{Machine, Subject};
use crate::statistics::Spread;

/// A run of `alexnet profile`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// What it ran on.
    pub machine: Machine,
    /// What was run.
    #[serde(flatten)]
    pub subject: Subject,
    /// What it computes in.
    pub precision: String,
    /// Images a run.
    pub batch_size: usize,
    /// What the device reaches, measured in the same run.
    pub ceilings: Ceilings,
    /// A track a device or tower.
    pub tracks: Vec<ProfileTrack>,
    /// Runs that are timed step by step, as many as without.
    pub runs: usize,
    /// Of runs step by step, from begin to end.
    pub stepwise_ms: Spread,
    /// Of runs at full speed, no clock read between steps, which took turns with the others.
    pub run_ms: Spread,
    /// Sum of the steps' medians over the median of `run_ms`; of the longest track where there are several.
    pub steps_over_run: f64,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Rates that nothing on the device exceeds by much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Of a large matrix product in the same precision, two a multiply-add.
    pub flops_per_sec: f64,
    /// Which product, by what.
    pub product: String,
    /// Of a large copy within the device's memory, reads and writes both counted.
    pub bytes_per_sec: f64,
    /// Which copy.
    pub copy: String,
}

/// A device's or a tower's steps, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileTrack {
    /// Which part, on which device, in words.
    pub place: String,
    /// Its steps and joins.
    pub steps: Vec<ProfileStep>,
}

/// A step of a plan, or a join of two towers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileStep {
    /// `conv1 + relu1`, or `join conv3`.
    pub name: String,
    /// `preprocess`, `conv`, `pool`, `lrn`, `linear`, `dropout`, `join`.
    pub kind: String,
    /// What runs it: kernel, grid, splits.
    pub kernel: String,
    /// (N, H, W, C).
    pub input_shape: [usize; 4],
    /// (N, H, W, C).
    pub output_shape: [usize; 4],
    /// Weights and biases.
    pub params: usize,
    /// Of the batch.
    pub mult_adds: usize,
    /// Of the batch, where the device's algorithm takes fewer than multiply-adds: what the roofline is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiplications: Option<usize>,
    /// Of the batch, two a multiply-add.
    pub flops: f64,
    /// What it must read and write, each value once.
    pub bytes: f64,
    /// Over all runs.
    pub time_ms: Spread,
    /// Of the track's sum of medians, in percent.
    pub percentage: f64,
    /// At the median time.
    pub flops_per_sec: f64,
    /// At the median time.
    pub bytes_per_sec: f64,
    /// The least time that the ceilings allow over the median time, in percent.
    pub roofline_percentage: f64,
    /// Which ceiling that is.
    pub bound: Bound,
}

/// What limits a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The rate of products.
    Compute,
    /// The rate of memory.
    Memory,
}

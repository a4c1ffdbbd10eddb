//! Single kernels beside what the vendor's libraries do for the same layer.

use serde::{Deserialize, Serialize};

use super::Machine;
use super::profile::{Bound, Ceilings};
use crate::statistics::Spread;

/// A run of the kernel benchmarks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernels {
    /// What it ran on.
    pub machine: Machine,
    /// What the device reaches, measured in the same run, for each precision.
    pub ceilings: Vec<(String, Ceilings)>,
    /// Every case that ran.
    pub cases: Vec<KernelCase>,
    /// How operands were made and caches kept cold, what was left out and why.
    pub notes: Vec<String>,
}

/// A layer, or a few that are fused, at one precision and batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelCase {
    /// `conv`, `fc`, `pool_lrn`, `preprocess`, `network`.
    pub group: String,
    /// The variant that it is from.
    pub variant: String,
    /// `conv1 + relu1`.
    pub layer: String,
    /// What it computes in.
    pub precision: String,
    /// Images.
    pub batch_size: usize,
    /// What ran it: kernel, grid, splits.
    pub kernel: String,
    /// A run, over criterion's samples.
    pub time_us: Spread,
    /// Of a run, two a multiply-add.
    pub flops: f64,
    /// What a run must read and write, each value once.
    pub bytes: f64,
    /// At the median time.
    pub flops_per_sec: f64,
    /// At the median time.
    pub bytes_per_sec: f64,
    /// The least time that the ceilings allow over the median time, in percent.
    pub roofline_percentage: f64,
    /// Which ceiling that is.
    pub bound: Bound,
    /// The same layer by other libraries, in the same run.
    pub peers: Vec<KernelPeer>,
}

/// A layer by another library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelPeer {
    /// `cudnn`, `cublaslt`.
    pub library: String,
    /// What it ran.
    pub how: String,
    /// A run.
    pub time_us: Spread,
    /// Its median time over ours: above 1 where we are faster.
    pub ratio: f64,
}

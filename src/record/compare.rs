//! Layouts of one network against each other.

use serde::{Deserialize, Serialize};

use super::{Machine, Subject};
use crate::statistics::{SpeedUp, Spread};

/// A run of `alexnet compare`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    /// What it ran on.
    pub machine: Machine,
    /// What was run; how it is divided is what the layouts differ in.
    #[serde(flatten)]
    pub subject: Subject,
    /// What it computes in.
    pub precision: String,
    /// Of the pictures.
    pub seed: u64,
    /// Asked for, a layout and batch size.
    pub duration_s: f64,
    /// The first is what speed-ups are against.
    pub layouts: Vec<LayoutRow>,
    /// Always true: a comparison of layouts that differ ends before it is measured.
    pub equal: bool,
    /// Of each layout, bit for bit, over all batch sizes.
    pub logits_compared: usize,
    /// What the comparison means.
    pub notes: Vec<String>,
    /// By batch size, layouts in order.
    pub results: Vec<CompareResult>,
}

impl Compare {
    /// The results of each batch size, in order.
    pub fn batches(&self) -> impl Iterator<Item = &[CompareResult]> {
        self.results.chunk_by(|a, b| a.batch_size == b.batch_size)
    }
}

/// A layout, in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayoutRow {
    /// `single`, `two-stream`, `two-gpu`, `data-parallel`.
    pub layout: String,
    /// What it is.
    pub meaning: String,
    /// Where it runs.
    pub device: String,
}

/// A layout at a batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompareResult {
    /// Which layout.
    pub layout: String,
    /// Images a batch.
    pub batch_size: usize,
    /// Of the rounds, with as many batches under way as the layout takes.
    pub images_per_second: Spread,
    /// Of single batches.
    pub latency_ms: Spread,
    /// Of images per second against the first layout; none for that one.
    pub speed_up: Option<SpeedUp>,
    /// What each tower did when.
    pub timeline: Towers,
    /// What a pipeline of the layout takes.
    pub memory: Vec<Memory>,
    /// A slice of work each.
    pub rounds: Vec<Round>,
}

/// A slice of work at full speed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Images in it.
    pub images: usize,
    /// What they took.
    pub seconds: f64,
}

impl Round {
    /// Its speed.
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.seconds
    }
}

/// Memory that a part of a layout takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Which part, on which device, in words.
    pub place: String,
    /// Filters and biases.
    pub weights_bytes: usize,
    /// Inputs, layers and results.
    pub buffers_bytes: usize,
}

/// The run whose total is the median.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Towers {
    /// From the run's begin to its end.
    pub total_ms: f64,
    /// Time in which all towers compute over the computing time of the one that computes least; none for a single tower.
    pub overlap: Option<f64>,
    /// A track each.
    pub towers: Vec<Tower>,
    /// Totals of all runs, in the order in which they were taken.
    pub runs_ms: Vec<f64>,
}

/// A track and its sums: computing, joins and idle are the total.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tower {
    /// Which part, on which device, in words.
    pub place: String,
    /// In its layers.
    pub computing_ms: f64,
    /// From when it could go on to when it has the other's half.
    pub joins_ms: f64,
    /// From its last span to the run's end.
    pub idle_ms: f64,
    /// What it got from the other towers.
    pub exchanged_bytes: usize,
    /// In order, without gaps.
    pub spans: Vec<TowerSpan>,
}

/// Something a tower did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TowerSpan {
    /// What.
    #[serde(flatten)]
    pub work: TowerWork,
    /// Since the run's begin.
    pub begin_ms: f64,
    /// Since the run's begin.
    pub end_ms: f64,
}

impl TowerSpan {
    /// How long it took.
    pub fn ms(&self) -> f64 {
        self.end_ms - self.begin_ms
    }
}

/// What a tower does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum TowerWork {
    /// Computes these layers.
    Layers {
        /// Their names.
        layers: Vec<String>,
    },
    /// Waits for the other tower's half.
    Join {
        /// The layer that takes it.
        layer: String,
        /// What comes from the other tower.
        bytes: usize,
    },
}

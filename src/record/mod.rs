//! What measurements leave behind: JSON that later runs, pages, pictures and scripts read again.
//!
//! Each kind of record names itself in `schema`. Units are in the names of fields: `_ms`, `_us`, `_s`, `_bytes`, `_per_sec`.
//! Scripts in `benches/peers/` write [`Bench`] records as well, so that other programs stand beside this one.

mod bench;
mod compare;
mod kernels;
mod machine;
mod profile;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use bench::{Bench, BenchResult, ColdStart, Inputs, Mode, PeerStart, Windows};
pub use compare::{Compare, CompareResult, LayoutRow, Memory, Round, Tower, TowerSpan, TowerWork, Towers};
pub use kernels::{KernelCase, KernelPeer, Kernels};
pub use machine::{Clocks, Machine};
pub use profile::{Bound, Ceilings, Profile, ProfileStep, ProfileTrack};

use crate::net::Network;
use crate::{Error, Result, file};

/// Of a file that is read: thousands of records.
const MOST_BYTES: u64 = 256 << 20;

/// Any record, told from the others by its `schema`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "schema")]
#[allow(clippy::large_enum_variant)] // a handful at a time
pub enum Record {
    /// Of `alexnet bench`, and of other programs on the same task.
    #[serde(rename = "alexnet.bench.1")]
    Bench(Bench),
    /// Of `alexnet profile`.
    #[serde(rename = "alexnet.profile.1")]
    Profile(Profile),
    /// Of `alexnet compare`.
    #[serde(rename = "alexnet.compare.1")]
    Compare(Compare),
    /// Of the kernel benchmarks in `benches/`.
    #[serde(rename = "alexnet.kernels.1")]
    Kernels(Kernels),
}

impl Record {
    /// Reads a file that [`json`](Self::json) was written to.
    ///
    /// # Errors
    /// [`Error::Usage`] with the file's name where it is missing or not one record.
    pub fn read(path: &Path) -> Result<Record> {
        let records = Self::read_all(path)?;
        let count = records.len();
        <[Record; 1]>::try_from(records)
            .map(|[record]| record)
            .map_err(|_| Error::Usage(format!("{}: {count} records, where one is wanted", path.display())))
    }

    /// Reads a file that holds a record, or a list of them as those in `benches/record` do.
    ///
    /// # Errors
    /// [`Error::Usage`] with the file's name where it is missing or holds anything else.
    pub fn read_all(path: &Path) -> Result<Vec<Record>> {
        let refused = |reason: String| Error::Usage(format!("{}: {reason}", path.display()));
        let bytes = file::read_regular(path, MOST_BYTES).map_err(refused)?;
        let text = String::from_utf8(bytes).map_err(|e| refused(e.to_string()))?;
        let is_list = text.trim_start().starts_with('[');
        let records =
            if is_list { serde_json::from_str(&text) } else { serde_json::from_str(&text).map(|record| vec![record]) };
        records.map_err(|e| {
            refused(format!(
                "no record of a measurement ({e}); take a file that --json or a script in benches/peers wrote"
            ))
        })
    }

    /// The record as JSON that people can read too, with a newline at the end.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a record has only strings and finite numbers") + "\n"
    }

    /// What it was measured on.
    pub fn machine(&self) -> &Machine {
        match self {
            Record::Bench(record) => &record.machine,
            Record::Profile(record) => &record.machine,
            Record::Compare(record) => &record.machine,
            Record::Kernels(record) => &record.machine,
        }
    }
}

/// Which network a record is of, and every switch that it was run with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// The variant.
    pub model: String,
    /// A file's name or `seed:N`.
    pub checkpoint: String,
    /// Side of the square input.
    pub input_size: usize,
    /// Classes.
    pub classes: usize,
    /// Parameters.
    pub param_count: usize,
    /// Multiply-adds an image, in 1e9.
    pub gmacs: f64,
    /// Values that the layers with weights give for an image, in 1e6.
    pub macts: f64,
    /// How the network is divided; none for the whole one.
    pub split: Option<String>,
    /// What computes fully connected layers on a GPU, where that was said.
    pub fc: Option<String>,
    /// Whether each image's bits do not depend on its batch.
    pub deterministic: bool,
    /// Threads of the CPU.
    pub threads: usize,
}

impl Subject {
    /// Of `network`, with the switches at their defaults.
    pub fn of(network: &Network, checkpoint: &str, threads: usize) -> Self {
        let summary = network.summary(1);
        let weighted = summary.layers.iter().filter(|row| row.params > 0);
        Subject {
            model: network.variant.name.into(),
            checkpoint: checkpoint.into(),
            input_size: network.input_size,
            classes: network.classes(),
            param_count: summary.total_params,
            gmacs: summary.total_mult_adds as f64 / 1e9,
            macts: weighted.map(|row| row.output_shape.iter().product::<usize>()).sum::<usize>() as f64 / 1e6,
            split: None,
            fc: None,
            deterministic: false,
            threads,
        }
    }
}

//! The machine, its software and the state it was in.

use std::collections::BTreeMap;
use std::fs;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::Model;

/// What a record was measured on. What could not be found out is none, never guessed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// When the measuring began, `2026-11-29T22:21:16Z`.
    pub date: String,
    /// The program and its version.
    pub program: String,
    /// The commit it was built from, with `-dirty` where the sources had changes.
    pub commit: Option<String>,
    /// Operating system and kernel.
    pub system: String,
    /// The CPU's name.
    pub cpu: Option<String>,
    /// Cores that the process may use.
    pub cores: usize,
    /// The device in words, as the program names it.
    pub device: String,
    /// Names of the GPUs in use, none for the CPU.
    pub gpus: Vec<String>,
    /// NVIDIA's driver.
    pub driver: Option<String>,
    /// Clocks of the first GPU, when the measuring began.
    pub clocks: Option<Clocks>,
    /// Versions of libraries and tools that had a part: `cuda`, `cublaslt`, `rustc`, `torch`, ...
    pub versions: BTreeMap<String, String>,
}

/// A GPU's clocks, in MHz, and power limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// Of the multiprocessors, now.
    pub sm_mhz: u32,
    /// Of the multiprocessors, at most.
    pub sm_max_mhz: u32,
    /// Of the memory, now.
    pub memory_mhz: u32,
    /// Watts that the card may take.
    pub power_limit_w: f64,
}

impl Machine {
    /// The machine as it is now, on which `model` runs.
    pub fn of(model: &Model) -> Self {
        let system = [("ostype", "/proc/sys/kernel/ostype"), ("osrelease", "/proc/sys/kernel/osrelease")]
            .map(|(_, file)| {
                fs::read_to_string(file).map_or(std::env::consts::OS.into(), |text| text.trim().to_string())
            })
            .join(" ");
        let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
            Some(line.trim_start_matches([' ', '\t', ':']).to_string())
        });
        Machine {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            program: concat!("alexnet ", env!("CARGO_PKG_VERSION")).into(),
            commit: None,
            system,
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            device: model.device(),
            gpus: vec![],
            driver: None,
            clocks: None,
            versions: BTreeMap::new(),
        }
    }
}

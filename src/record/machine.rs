//! The machine, its software and the state it was in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::error::NvmlError;
use serde::{Deserialize, Serialize};

use crate::Model;
use crate::backend::Gpu;

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
        let system = ["ostype", "osrelease"].map(|file| {
            let text = fs::read_to_string(Path::new("/proc/sys/kernel").join(file));
            text.map_or(std::env::consts::OS.into(), |text| text.trim().to_string())
        });
        let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
            Some(line.trim_start_matches([' ', '\t', ':']).to_string())
        });
        let gpus = model.gpus();
        // Of the CUDA driver's devices: without one, whatever NVIDIA's management library sees is not in use.
        let nvml = gpus.first().and_then(|first| Some((first, Nvml::init().ok()?)));
        let known = |text: &str| (!text.is_empty()).then(|| text.to_string());
        let rustc = known(env!("ALEXNET_RUSTC")).map(|version| ("rustc".to_string(), version));
        Machine {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            program: concat!("alexnet ", env!("CARGO_PKG_VERSION")).into(),
            commit: known(env!("ALEXNET_COMMIT")),
            system: system.join(" "),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            device: model.device(),
            driver: nvml.as_ref().and_then(|(_, nvml)| nvml.sys_driver_version().ok()),
            clocks: nvml.as_ref().and_then(|(first, nvml)| Clocks::of(nvml, first).ok()),
            versions: model.versions().into_iter().map(|(name, version)| (name.into(), version)).chain(rustc).collect(),
            gpus: gpus.into_iter().map(|gpu| gpu.name).collect(),
        }
    }
}

impl Clocks {
    /// Of `gpu`, which is looked for by its place: numbers are others where some GPUs are hidden from CUDA.
    fn of(nvml: &Nvml, gpu: &Gpu) -> Result<Self, NvmlError> {
        let device = nvml.device_by_pci_bus_id(gpu.pci_bus_id.as_str())?;
        Ok(Clocks {
            sm_mhz: device.clock_info(Clock::SM)?,
            sm_max_mhz: device.max_clock_info(Clock::SM)?,
            memory_mhz: device.clock_info(Clock::Memory)?,
            power_limit_w: f64::from(device.power_management_limit()?) / 1e3,
        })
    }
}

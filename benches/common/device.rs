//! What the environment asks for: device, precisions, batches.

use std::env;
use std::rc::Rc;

use alexnet::cuda::lone::{Lane, Round};
use alexnet::cuda::{CudaDevice, Rules};
use alexnet::{Device, Fc, Options, Precision};

/// Where benchmarks run.
#[derive(Clone)]
pub enum Place {
    Cpu,
    Cuda(Rc<Lane>),
}

/// Where and what.
#[derive(Clone)]
pub struct Choice {
    pub place: Place,
    /// For a [`Model`](alexnet::Model) on the same device.
    device: Device,
    pub precisions: Vec<Precision>,
    pub batches: Vec<usize>,
    pub round: Round,
    /// Whether the device is the emulated one, whose times mean nothing.
    pub emulated: bool,
}

impl Choice {
    /// Ends the process with a word about what is wrong where there is no such choice.
    pub fn from_environment() -> Self {
        Self::read().unwrap_or_else(|reason| {
            eprintln!("error: {reason}");
            std::process::exit(2)
        })
    }

    fn read() -> Result<Self, String> {
        let (ordinal, emulated) = match env::var("ALEXNET_BENCH_DEVICE").as_deref() {
            Err(_) | Ok("auto") => (first_usable(), false),
            Ok("cpu") => (None, false),
            Ok("emulated") => {
                load_emulated()?;
                (Some(0), true)
            }
            Ok("cuda") => (Some(0), false),
            Ok(other) => {
                let number = other.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                let refused = || format!("ALEXNET_BENCH_DEVICE is '{other}'; say auto, cpu, cuda or cuda:N");
                (Some(number.ok_or_else(refused)?), false)
            }
        };
        let (place, device) = match ordinal {
            None => (Place::Cpu, Device::Cpu),
            Some(ordinal) => {
                let opened = CudaDevice::open(ordinal).and_then(|device| Lane::open(&device));
                (Place::Cuda(Rc::new(opened.map_err(|e| e.to_string())?)), Device::Cuda(vec![ordinal]))
            }
        };
        match &place {
            Place::Cpu => eprintln!("benchmarks run on the CPU"),
            Place::Cuda(lane) => eprintln!("benchmarks run on {}", lane.device()),
        }
        let on_cpu = matches!(place, Place::Cpu);
        let batches = list("ALEXNET_BENCH_BATCHES", "numbers of images, such as 1,256", |text| {
            text.parse().ok().filter(|images| *images > 0)
        })?;
        let precisions = list("ALEXNET_BENCH_PRECISIONS", "float32, tf32, float16 or bfloat16", |text| {
            Precision::ALL.into_iter().find(|precision| precision.name() == text)
        })?;
        let precisions = match precisions {
            Some(asked) if on_cpu && asked != [Precision::Float32] => {
                return Err("the CPU computes in float32; leave ALEXNET_BENCH_PRECISIONS out".into());
            }
            Some(asked) => asked,
            None if on_cpu => vec![Precision::Float32],
            None => Precision::ALL.to_vec(),
        };
        let default = if on_cpu { [1, 8, 32] } else { [1, 32, 256] };
        let batches = batches.unwrap_or_else(|| default.to_vec());
        let round = if emulated { Round { cold_bytes: 0, runs: 1 } } else { Round::default() };
        Ok(Choice { place, device, precisions, batches, round, emulated })
    }

    /// For a model on the same device.
    pub fn options(&self, precision: Precision) -> Options {
        Options { device: self.device.clone(), precision, ..Options::default() }
    }

    /// What kernels of ours are chosen by.
    pub fn rules(&self, precision: Precision) -> Rules {
        let multiprocessors = match &self.place {
            Place::Cpu => 0,
            Place::Cuda(lane) => lane.device().multiprocessors(),
        };
        Rules { precision, multiprocessors, deterministic: false, fc: Some(Fc::Own) }
    }

    /// Which of the backends runs, in a case's name.
    pub fn by(&self) -> &'static str {
        match self.place {
            Place::Cpu => "cpu",
            Place::Cuda(_) => "cuda",
        }
    }
}

/// The first of the devices that passes preflight.
fn first_usable() -> Option<usize> {
    const MOST: usize = 16; // devices of one machine
    let found = (0..MOST).find(|ordinal| CudaDevice::open(*ordinal).is_ok());
    if found.is_none()
        && let Err(reason) = CudaDevice::open(0)
    {
        eprintln!("no GPU: {reason}");
    }
    found
}

/// From here on cudarc finds the emulated driver, cuBLASLt and cuDNN when it asks for NVIDIA's. They are never unloaded.
fn load_emulated() -> Result<(), String> {
    for library in ["libcuemu.so", "libcublaslt_emulated.so", "libcudnn_emulated.so"] {
        let path = cuemu::driver::library::built_library(library);
        // SAFETY: the library's initialisers are those of a Rust cdylib, which run no code of its own.
        let loaded = unsafe { libloading::Library::new(&path) };
        std::mem::forget(loaded.map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(())
}

/// What a variable lists, where it is set.
fn list<T>(variable: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<Vec<T>>, String> {
    let Ok(text) = env::var(variable) else { return Ok(None) };
    let item = |item: &str| parse(item.trim()).ok_or_else(|| format!("{variable} has '{item}'; list {wanted}"));
    text.split(',').map(item).collect::<Result<_, _>>().map(Some)
}

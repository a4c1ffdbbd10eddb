//! The CUDA backend: the kernels in `kernels/`, loaded as PTX, on streams with memory that never moves.
//!
//! [`select`] and [`args`] are pure: which kernel a step takes, its grid, and the struct it is given. [`CudaDevice`] checks the
//! driver before anything is called, [`Launcher`] is the one place that starts kernels.

mod arena;
pub mod args;
mod ceilings;
mod cublaslt;
mod depth;
mod device;
mod element;
mod exchange;
mod explain;
mod footprint;
pub mod fuse;
pub mod kernels;
mod launch;
pub mod lone;
mod nvtx;
mod pinned;
mod pipeline;
mod results;
pub mod select;
mod session;
mod shared;
mod steps;
mod stopwatch;
mod timeline;
mod tower;
mod watch;
mod wide;

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, DriverError};

use crate::backend::{Backend, Gpu, Holding, Pipeline, Score, Session, StepAsRun};
use crate::net::Network;
use crate::options::{Fc, Precision, Split};
use crate::pixels::Pixels;
use crate::plan::{Plan, Step};
use crate::record::Ceilings;
use crate::split;
use crate::weights::Weights;
use crate::{Error, Result};

pub use args::Addresses;
pub use cublaslt::WORKSPACE_BYTES;
pub use device::CudaDevice;
pub use element::{Element, encode_filter, round_to_tf32};
pub use exchange::Link;
pub use explain::explain;
pub use footprint::Footprint;
pub use launch::Launcher;
use pinned::Pinned;
use pipeline::CudaPipeline;
pub use select::Rules;
use session::CudaSession;
use shared::{DeviceLayer, Shared};
use steps::Placement;
use watch::Watch;
use wide::Wide;

/// How to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What is computed in.
    pub precision: Precision,
    /// One order of sums for every batch, see [`Rules`].
    pub deterministic: bool,
    /// What computes fully connected layers, see [`Options::fc`](crate::Options::fc).
    pub fc: Option<Fc>,
    /// Longest time that a batch may take: a device that has not answered by then is given up.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let (precision, patience) = (Precision::default(), Duration::from_secs(60));
        Settings { precision, deterministic: false, fc: None, patience }
    }
}

/// A network's weights on a CUDA device, or divided between two towers.
pub struct CudaBackend {
    placement: Placement,
}

impl CudaBackend {
    /// Uploads `weights`, which several devices may share.
    ///
    /// # Errors
    /// [`Error::Usage`] for a weight that the precision cannot hold, and for cuBLASLt with `deterministic`;
    /// [`Error::DeviceMemory`] where the device lacks memory, [`Error::Device`] where cuBLASLt was asked for and cannot be used.
    pub fn new(weights: impl Into<Arc<Weights>>, device: &CudaDevice, settings: Settings) -> Result<Self> {
        let weights = weights.into();
        let watch = Arc::new(Watch::new(settings.patience));
        let mut part = Shared::new(&weights, None, device, settings, Arc::clone(&watch))?;
        part.wide = Wide::beside(device, weights, settings, watch);
        Ok(CudaBackend { placement: Placement { parts: vec![Arc::new(part)], split: None, link: None } })
    }

    /// Uploads half of `weights` to each of two towers, which run on two streams of the first device or on both devices. Every
    /// choice is made as on the first one.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); [`Error::Usage`] for a network that cannot be split, and for cuBLASLt.
    pub fn split(weights: impl Into<Arc<Weights>>, devices: Towers<'_>, settings: Settings) -> Result<Self> {
        let weights = weights.into();
        let settings = Settings { fc: own_if_split(settings.fc, Some(Split::TwoStream))?, ..settings };
        // Before anything is uploaded.
        split::towers(&Plan::new(weights.network(), 1, &[])?)?;
        let watch = Arc::new(Watch::new(settings.patience));
        let (first, second, split, link) = match devices {
            Towers::TwoStream(device) => (device, device, Split::TwoStream, None),
            Towers::TwoGpu(first, second) => (first, second, Split::TwoGpu, Some(Link::open(first, second)?)),
        };
        let part = |tower, device| Shared::new(&weights, Some(tower), device, settings, Arc::clone(&watch));
        let (mut part_0, mut part_1) = (part(0, first)?, part(1, second)?);
        part_1.rules = part_0.rules;
        part_0.wide = Wide::beside(first, weights, settings, watch);
        let parts = vec![Arc::new(part_0), Arc::new(part_1)];
        Ok(CudaBackend { placement: Placement { parts, split: Some(split), link } })
    }
}

/// Where two towers run.
#[derive(Clone, Copy)]
pub enum Towers<'a> {
    /// On two streams of a device.
    TwoStream(&'a CudaDevice),
    /// On two devices.
    TwoGpu(&'a CudaDevice, &'a CudaDevice),
}

impl Backend for CudaBackend {
    fn description(&self) -> String {
        let Placement { parts, split, link } = &self.placement;
        let shared = &parts[0];
        let Rules { precision, deterministic, .. } = shared.rules;
        let order = if deterministic { "deterministic" } else { "last bits depend on the batch size" };
        let fc = shared.fully_connected();
        let device = match (split, link) {
            (None, _) => shared.device.to_string(),
            (Some(_), None) => format!("{}, split between two streams", shared.device),
            (Some(_), Some(Link::Peer)) => {
                format!("{} and {}, split between the two, with peer access", shared.device, parts[1].device)
            }
            (Some(_), Some(Link::Host)) => {
                format!("{} and {}, split between the two, by way of the host's memory", shared.device, parts[1].device)
            }
        };
        format!("{device}, {}, fully connected layers by {fc}, {order}", precision.name())
    }

    fn gpus(&self) -> Vec<Gpu> {
        let mut gpus: Vec<Gpu> = vec![];
        for part in &self.placement.parts {
            if !gpus.contains(&part.gpu) {
                gpus.push(part.gpu.clone()); // two streams are of one
            }
        }
        gpus
    }

    fn versions(&self) -> Vec<(&'static str, String)> {
        let shared = &self.placement.parts[0];
        let cublaslt = shared.cublaslt.as_ref().map(|library| ("cublaslt", library.version()));
        device::version().map(|version| ("cuda", version)).into_iter().chain(cublaslt).collect()
    }

    fn session(&self, plan: Plan) -> Result<Box<dyn Session>> {
        plan.check(self.network())?;
        Ok(Box::new(CudaSession::new(&self.placement, plan)?))
    }

    fn pipeline(&self, plan: Plan, k: usize, score: Score) -> Result<Box<dyn Pipeline>> {
        plan.check(self.network())?;
        Ok(Box::new(CudaPipeline::new(&self.placement, plan, k, score)?))
    }

    fn pixels(&self, len: usize) -> Result<Pixels> {
        let shared = &self.placement.parts[0];
        Ok(Pixels::new(Pinned::new(shared.launcher.own_stream().context(), &shared.watch, len)?))
    }

    fn holdings(&self, plan: Plan) -> Result<Vec<Holding>> {
        plan.check(self.network())?;
        let Placement { parts, split, .. } = &self.placement;
        let rules = &parts[0].rules;
        let buffers = footprint::buffers(self.network(), &plan, rules, *split)?;
        let holdings = parts.iter().enumerate().map(|(tower, part)| Holding {
            place: steps::place(parts.len(), tower, &part.device),
            weights: part.layers.iter().map(DeviceLayer::bytes).sum(),
            buffers: buffers.get(tower).map_or(0, |layout| layout.bytes),
        });
        Ok(holdings.collect())
    }

    fn steps(&self, plan: &Plan) -> Result<Vec<Vec<StepAsRun>>> {
        plan.check(self.network())?;
        let Placement { parts, split, .. } = &self.placement;
        let plans = steps::by_device(self.network(), plan, &parts[0].rules, *split)?;
        // On one device tower 0 makes the input for both.
        let towers = plans
            .into_iter()
            .flat_map(|plans| plans.into_iter().enumerate().map(|(tower, plan)| (usize::from(tower > 0), plan)));
        let tracks = towers.zip(parts).map(|((first, plan), part)| {
            let as_run = |step: &Step| {
                let kernel = explain::runs(part.route(step, plan.batch), step, plan.batch, &part.rules);
                StepAsRun { step: step.clone(), kernel, multiplications: None }
            };
            plan.steps[first..].iter().map(as_run).collect()
        });
        Ok(tracks.collect())
    }

    fn ceilings(&self) -> Result<Ceilings> {
        ceilings::measure(&self.placement.parts[0])
    }
}

impl CudaBackend {
    fn network(&self) -> &Network {
        &self.placement.parts[0].network
    }
}

/// What computes fully connected layers where a network is split: own kernels.
///
/// # Errors
/// [`Error::Usage`] where cuBLASLt was asked for.
fn own_if_split(fc: Option<Fc>, split: Option<Split>) -> Result<Option<Fc>> {
    match (fc, split) {
        (_, None) => Ok(fc),
        (Some(Fc::CublasLt), Some(_)) => Err(Error::Usage(
            "cuBLASLt sums in another order for half of a layer, so that a split network would not give the whole one's bits; \
             leave --fc out, or say --fc own"
                .into(),
        )),
        (_, Some(_)) => Ok(Some(Fc::Own)),
    }
}

/// What to do about a device that fails before anything ran on it.
const UNUSABLE: &str = "; see nvidia-smi and the system's log for the device's state, or say --device cpu";

/// What the driver said while `doing` something.
fn failed(doing: &str, error: DriverError) -> Error {
    let code = error.0 as i32;
    let reason = match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => "the driver does not know this error".into(),
    };
    let what = format!("CUDA error {code} while {doing}: {reason}");
    match error.0 {
        cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Error::DeviceMemory(what + "; lower --batch-size, or free memory on the device")
        }
        _ => Error::Device(what + UNUSABLE),
    }
}

/// [`failed`], where it was done on the device of `context`.
fn failed_on(context: &CudaContext, doing: &str, error: DriverError) -> Error {
    failed(&format!("{doing} on cuda:{}", context.ordinal()), error)
}

/// What went wrong in a run that had begun: the device is not asked again.
fn lost(error: Error) -> Error {
    match error {
        Error::Device(what) => {
            let what = what.trim_end_matches(UNUSABLE);
            Error::DeviceLost(format!("{what}; what was finished before is good, run the rest again"))
        }
        other => other,
    }
}

//! The CUDA backend: the kernels in `kernels/`, loaded as PTX, on streams with memory that never moves.
//!
//! [`select`] and [`args`] are pure: which kernel a step takes, its grid, and the struct it is given. [`CudaDevice`] checks the
//! driver before anything is called, [`Launcher`] is the one place that starts kernels.

mod arena;
pub mod args;
mod cublaslt;
mod depth;
mod device;
mod element;
mod explain;
mod footprint;
pub mod fuse;
pub mod kernels;
mod launch;
mod pinned;
mod pipeline;
mod results;
pub mod select;
mod session;
mod shared;
mod steps;
mod watch;
mod wide;

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::DriverError;

use crate::backend::{Backend, Holding, Pipeline, Score, Session};
use crate::options::{Fc, Precision};
use crate::pixels::Pixels;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, Result};

pub use args::Addresses;
pub use cublaslt::WORKSPACE_BYTES;
pub use device::CudaDevice;
pub use element::{Element, encode_filter, round_to_tf32};
pub use explain::explain;
pub use footprint::Footprint;
pub use launch::Launcher;
use pinned::Pinned;
use pipeline::CudaPipeline;
pub use select::Rules;
use session::CudaSession;
use shared::Shared;
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

/// A network's weights on a CUDA device.
pub struct CudaBackend {
    /// The device in words.
    device: String,
    shared: Arc<Shared>,
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
        let mut shared = Shared::new(&weights, device, settings, Arc::clone(&watch))?;
        if settings.precision != Precision::Float32 {
            shared.wide = Some(Wide::new(device, weights, settings, watch));
        }
        Ok(CudaBackend { device: device.to_string(), shared: Arc::new(shared) })
    }
}

impl Backend for CudaBackend {
    fn description(&self) -> String {
        let Rules { precision, deterministic, .. } = self.shared.rules;
        let order = if deterministic { "deterministic" } else { "last bits depend on the batch size" };
        let fc = self.shared.fully_connected();
        format!("{}, {}, fully connected layers by {fc}, {order}", self.device, precision.name())
    }

    fn session(&self, plan: Plan) -> Result<Box<dyn Session>> {
        plan.check(&self.shared.network)?;
        Ok(Box::new(CudaSession::new(Arc::clone(&self.shared), plan)?))
    }

    fn pipeline(&self, plan: Plan, k: usize, score: Score) -> Result<Box<dyn Pipeline>> {
        plan.check(&self.shared.network)?;
        Ok(Box::new(CudaPipeline::new(Arc::clone(&self.shared), plan, k, score)?))
    }

    fn pixels(&self, len: usize) -> Result<Pixels> {
        let context = self.shared.launcher.own_stream().context();
        Ok(Pixels::new(Pinned::new(context, &self.shared.watch, len)?))
    }

    fn holdings(&self, plan: Plan) -> Result<Vec<Holding>> {
        plan.check(&self.shared.network)?;
        let Footprint { weights, arena, .. } = Footprint::of(&self.shared.network, plan.batch, &self.shared.rules)?;
        Ok(vec![Holding { place: self.device.clone(), weights, buffers: arena }])
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

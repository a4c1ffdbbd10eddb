//! The CUDA backend: the kernels in `kernels/`, loaded as PTX, on streams with memory that never moves.
//!
//! [`select`] and [`args`] are pure: which kernel a step takes, its grid, and the struct it is given. [`CudaDevice`] checks the
//! driver before anything is called, [`Launcher`] is the one place that starts kernels.

mod arena;
pub mod args;
mod depth;
mod device;
mod element;
mod explain;
mod footprint;
pub mod kernels;
mod launch;
mod pinned;
mod pipeline;
mod results;
pub mod select;
mod session;
mod steps;
mod watch;
mod wide;

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaSlice, DeviceRepr, DriverError};

use crate::backend::{Backend, Pipeline, Score, Session};
use crate::model::Precision;
use crate::net::{Network, Op};
use crate::pixels::Pixels;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, Result};

pub use args::Addresses;
use depth::Depth;
pub use device::CudaDevice;
pub use element::{Element, encode_filter, round_to_tf32};
pub use explain::explain;
pub use footprint::Footprint;
pub use launch::Launcher;
use pinned::Pinned;
use pipeline::CudaPipeline;
pub use select::Rules;
use session::CudaSession;
use watch::Watch;
use wide::Wide;

/// How to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What is computed in.
    pub precision: Precision,
    /// One order of sums for every batch, see [`Rules`].
    pub deterministic: bool,
    /// Longest time that a batch may take: a device that has not answered by then is given up.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { precision: Precision::default(), deterministic: false, patience: Duration::from_secs(60) }
    }
}

/// A network's weights on a CUDA device.
pub struct CudaBackend {
    description: String,
    shared: Arc<Shared>,
}

/// What every session needs.
struct Shared {
    launcher: Launcher,
    rules: Rules,
    network: Network,
    /// How the first convolution is rearranged, where it is.
    depth: Option<Depth>,
    layers: Vec<DeviceLayer>,
    watch: Arc<Watch>,
    /// For what a narrow precision cannot hold; `None` in float32.
    wide: Option<Wide>,
}

/// A weighted layer on the device.
struct DeviceLayer {
    /// (K, R, S, C / groups), elements and rows as [`encode_filter`] gives them; of a fully connected layer (K, C).
    filter: CudaSlice<u8>,
    /// The same for the rearranged input, of the first convolution.
    depth_filter: Option<CudaSlice<u8>>,
    /// (K).
    bias: CudaSlice<f32>,
}

impl CudaBackend {
    /// Uploads `weights`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a weight that the precision cannot hold, [`Error::DeviceMemory`] where the device lacks memory.
    pub fn new(weights: Weights, device: &CudaDevice, settings: Settings) -> Result<Self> {
        let watch = Arc::new(Watch::new(settings.patience));
        let mut shared = Shared::new(&weights, device, settings, Arc::clone(&watch))?;
        if settings.precision != Precision::Float32 {
            shared.wide = Some(Wide::new(device, weights, settings, watch));
        }
        let order = if settings.deterministic { "deterministic" } else { "last bits depend on the batch size" };
        let description = format!("{device}, {}, {order}", settings.precision.name());
        Ok(CudaBackend { description, shared: Arc::new(shared) })
    }
}

impl Shared {
    fn new(weights: &Weights, device: &CudaDevice, settings: Settings, watch: Arc<Watch>) -> Result<Self> {
        let Settings { precision, deterministic, .. } = settings;
        let rules = Rules { precision, multiprocessors: device.multiprocessors(), deterministic };
        let launcher = Launcher::new(device, precision)?;
        let network = weights.network().clone();
        let weighted = network.nodes.iter().filter(|n| n.weight_shape().is_some());
        let depth = Depth::of(&network, precision);
        let layers = weighted.zip(weights.layers()).enumerate().map(|(index, (node, layer))| {
            let taps = match node.layer.op {
                Op::Conv(conv) => conv.kernel * conv.kernel,
                _ => node.input.h * node.input.w,
            };
            let layer = layer.clone().channels_last(taps);
            let upload = |filter: &[f32]| {
                let gemm_k = filter.len() / layer.bias.len();
                to_device(&launcher, &encode_filter(precision, node.layer.name, filter, gemm_k)?)
            };
            let rearranged = depth.filter(|_| index == 0).map(|depth| upload(&depth.filter(&layer.weight)));
            Ok(DeviceLayer {
                filter: upload(&layer.weight)?,
                depth_filter: rearranged.transpose()?,
                bias: to_device(&launcher, &layer.bias)?,
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Shared { launcher, rules, network, depth, layers, watch, wide: None })
    }
}

impl Backend for CudaBackend {
    fn description(&self) -> String {
        self.description.clone()
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
}

/// Uploads `values`, and waits until they are there.
fn to_device<T: DeviceRepr>(launcher: &Launcher, values: &[T]) -> Result<CudaSlice<T>> {
    let stream = launcher.own_stream();
    let uploaded = stream.clone_htod(values).and_then(|slice| stream.synchronize().map(|()| slice));
    uploaded.map_err(|e| {
        launcher.settle(); // the values are the caller's again
        failed("uploading weights", e)
    })
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

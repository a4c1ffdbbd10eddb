//! The CUDA backend: the kernels in `kernels/`, loaded as PTX, on one stream with buffers that never move.
//!
//! [`select`] and [`args`] are pure: which kernel a step takes, its grid, and the struct it is given. [`CudaDevice`] checks the
//! driver before anything is called, [`Launcher`] is the one place that starts kernels.

pub mod args;
mod depth;
mod device;
mod element;
mod explain;
pub mod fuse;
pub mod kernels;
mod launch;
pub mod select;
mod session;

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DeviceRepr, DriverError};

use crate::backend::{Backend, Session};
use crate::model::Precision;
use crate::net::{Network, Op};
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, Result};

pub use args::Addresses;
use depth::Depth;
pub use device::CudaDevice;
pub use element::{Element, encode_filter, round_to_tf32};
pub use explain::explain;
pub use launch::Launcher;
pub use select::Rules;
use session::CudaSession;

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
    /// Uploads `weights` to compute in `precision`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a weight that the precision cannot hold, [`Error::Device`] where the device lacks memory.
    pub fn new(weights: Weights, device: &CudaDevice, precision: Precision, deterministic: bool) -> Result<Self> {
        let rules = Rules { precision, multiprocessors: device.multiprocessors(), deterministic };
        let launcher = Launcher::new(device, precision)?;
        let (network, layers) = weights.into_parts();
        let weighted = network.nodes.iter().filter(|n| n.weight_shape().is_some());
        let depth = Depth::of(&network, precision);
        let layers = weighted.zip(layers).enumerate().map(|(index, (node, layer))| {
            let taps = match node.layer.op {
                Op::Conv(conv) => conv.kernel * conv.kernel,
                _ => node.input.h * node.input.w,
            };
            let layer = layer.channels_last(taps);
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
        let description =
            format!("{device}, {}", precision.name()) + if deterministic { ", deterministic" } else { "" };
        Ok(CudaBackend { description, shared: Arc::new(Shared { launcher, rules, network, depth, layers }) })
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
        _ => Error::Device(what),
    }
}

/// What went wrong in a run that had begun: the device is not asked again.
fn lost(error: Error) -> Error {
    match error {
        Error::Device(what) => {
            Error::DeviceLost(format!("{what}; what was finished before is good, run the rest again"))
        }
        other => other,
    }
}

//! The CUDA backend: the kernels in `kernels/`, loaded as PTX, on one stream with buffers that never move.
//!
//! [`select`] and [`args`] are pure: which kernel a step takes, its grid, and the struct it is given. [`CudaDevice`] checks the
//! driver before anything is called, [`Launcher`] is the one place that starts kernels.

pub mod args;
mod cublaslt;
mod depth;
mod device;
mod element;
mod explain;
pub mod kernels;
mod launch;
pub mod select;
mod session;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaSlice, DeviceRepr, DriverError};

use crate::backend::{Backend, Session};
use crate::net::{Network, Op};
use crate::options::{Fc, Precision};
use crate::plan::Plan;
use crate::weights::{LayerWeights, Weights};
use crate::{Error, Result};

pub use args::Addresses;
pub use cublaslt::WORKSPACE_BYTES;
use cublaslt::{CublasLt, Unusable, encode_bias};
use depth::Depth;
pub use device::CudaDevice;
pub use element::{Element, encode_filter, round_to_tf32};
pub use explain::explain;
pub use launch::Launcher;
pub use select::Rules;
use session::CudaSession;

/// A network's weights on a CUDA device.
pub struct CudaBackend {
    /// The device in words.
    device: String,
    /// Why fully connected layers are not cuBLASLt's, where they might have been.
    why_not: Option<String>,
    shared: Arc<Shared>,
}

/// What every session needs.
struct Shared {
    launcher: Launcher,
    rules: Rules,
    /// Where fully connected layers may be its.
    cublaslt: Option<Arc<CublasLt>>,
    /// Layers and numbers of images for which cuBLASLt had no algorithm, and our own kernels stepped in.
    without_algorithm: Mutex<BTreeSet<(&'static str, usize)>>,
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
    /// The same in the type of activations, of a fully connected layer that cuBLASLt may compute, where that is not float32.
    rounded_bias: Option<CudaSlice<u8>>,
}

impl Shared {
    fn note_missing_algorithm(&self, layer: &'static str, images: usize) {
        self.without_algorithm.lock().unwrap_or_else(PoisonError::into_inner).insert((layer, images));
    }
}

impl CudaBackend {
    /// Uploads `weights` to compute in `precision`, fully connected layers as [`Options::fc`](crate::Options::fc) says.
    ///
    /// # Errors
    /// [`Error::Usage`] for a weight that the precision cannot hold, and for cuBLASLt with `deterministic`; [`Error::Device`]
    /// where the device lacks memory, and where cuBLASLt was asked for and cannot be used.
    pub fn new(
        weights: Weights,
        device: &CudaDevice,
        precision: Precision,
        deterministic: bool,
        fc: Option<Fc>,
    ) -> Result<Self> {
        Fc::check(fc, deterministic)?;
        let launcher = Launcher::new(device, precision)?;
        let (network, layers) = weights.into_parts();
        let opened = match fc {
            _ if deterministic => Err(None),
            Some(Fc::Own) => Err(None),
            Some(Fc::CublasLt) | None => open_cublaslt(device, &network, &layers, precision).map_err(Some),
        };
        let (cublaslt, why_not) = match opened {
            Ok(library) => (Some(Arc::new(library)), None),
            Err(Some(Unusable { reason, fix })) if fc == Some(Fc::CublasLt) => {
                return Err(Error::Device(format!("cuBLASLt cannot be used: {reason}; {fix}")));
            }
            Err(unusable) => (None, unusable.map(|unusable| unusable.reason)),
        };
        let fc = if cublaslt.is_some() { fc } else { Some(Fc::Own) };
        let rules = Rules { precision, multiprocessors: device.multiprocessors(), deterministic, fc };
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
            let linear = matches!(node.layer.op, Op::Linear { .. });
            let rounds = linear && cublaslt.is_some() && rules.element() != Element::F32;
            let rounded_bias = rounds.then(|| to_device(&launcher, &rules.element().encode(&layer.bias)));
            Ok(DeviceLayer {
                filter: upload(&layer.weight)?,
                depth_filter: rearranged.transpose()?,
                bias: to_device(&launcher, &layer.bias)?,
                rounded_bias: rounded_bias.transpose()?,
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        let without_algorithm = Mutex::default();
        let shared = Shared { launcher, rules, cublaslt, without_algorithm, network, depth, layers };
        Ok(CudaBackend { device: device.to_string(), why_not, shared: Arc::new(shared) })
    }
}

impl Backend for CudaBackend {
    fn description(&self) -> String {
        let Shared { rules, cublaslt, without_algorithm, .. } = &*self.shared;
        let mut text = format!("{}, {}, fully connected layers by ", self.device, rules.precision.name());
        match (cublaslt, &self.why_not) {
            (Some(library), _) => {
                text += &library.to_string();
                let layers = without_algorithm.lock().unwrap_or_else(PoisonError::into_inner);
                let layers: Vec<_> = layers.iter().map(|(layer, images)| format!("{layer} with {images}")).collect();
                if !layers.is_empty() {
                    text += &format!(" but for {} images, which it has no algorithm for", layers.join(", "));
                }
            }
            (None, Some(reason)) => text += &format!("own kernels ({reason})"),
            (None, None) => text += "own kernels",
        }
        text + if rules.deterministic { ", deterministic" } else { "" }
    }

    fn session(&self, plan: Plan) -> Result<Box<dyn Session>> {
        plan.check(&self.shared.network)?;
        Ok(Box::new(CudaSession::new(Arc::clone(&self.shared), plan)?))
    }
}

/// cuBLASLt for the layers of `network`.
///
/// # Errors
/// Those of [`encode_bias`] and [`CublasLt::open`].
fn open_cublaslt(
    device: &CudaDevice,
    network: &Network,
    layers: &[LayerWeights],
    precision: Precision,
) -> Result<CublasLt, Unusable> {
    let weighted = network.nodes.iter().filter(|n| n.weight_shape().is_some());
    for (node, layer) in weighted.zip(layers).filter(|(node, _)| matches!(node.layer.op, Op::Linear { .. })) {
        encode_bias(Element::of(precision), node.layer.name, &layer.bias)?;
    }
    CublasLt::open(device)
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

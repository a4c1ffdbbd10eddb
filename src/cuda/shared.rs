//! A network's weights on a device, and what all its sessions compute by.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaSlice, DeviceRepr};

use super::cublaslt::{CublasLt, Unusable, encode_bias};
use super::depth::Depth;
use super::element::{Element, encode_filter};
use super::launch::Launcher;
use super::select::{self, Route, Rules};
use super::watch::Watch;
use super::wide::Wide;
use super::{CudaDevice, Settings, failed_on};
use crate::backend::Gpu;
use crate::net::{Network, Op};
use crate::options::Fc;
use crate::plan::Step;
use crate::weights::Weights;
use crate::{Error, Result};

/// What every session needs.
pub(super) struct Shared {
    pub device: CudaDevice,
    pub gpu: Gpu,
    pub launcher: Launcher,
    pub rules: Rules,
    /// Where fully connected layers may be its.
    pub cublaslt: Option<Arc<CublasLt>>,
    /// Why they are not, where they might have been.
    why_not: Option<String>,
    /// Layers and numbers of images for which cuBLASLt had no algorithm, and our own kernels stepped in.
    without_algorithm: Mutex<BTreeSet<(&'static str, usize)>>,
    /// The whole one.
    pub network: Network,
    /// All of its weighted layers; of a tower, its half of each, and the last with the first tower alone.
    pub layers: Vec<DeviceLayer>,
    pub watch: Arc<Watch>,
    /// For what a narrow precision cannot hold; `None` in float32.
    pub wide: Option<Wide>,
}

/// A weighted layer on the device.
pub(super) struct DeviceLayer {
    /// (K, R, S, C / groups), elements and rows as [`encode_filter`] gives them; of a fully connected layer (K, C).
    pub filter: CudaSlice<u8>,
    /// The same for the rearranged input, of the first convolution.
    pub depth_filter: Option<CudaSlice<u8>>,
    /// (K).
    pub bias: CudaSlice<f32>,
    /// The same in the type of activations, of a fully connected layer that cuBLASLt may compute, where that is not float32.
    pub rounded_bias: Option<CudaSlice<u8>>,
}

impl DeviceLayer {
    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<CudaSlice<u8>>| bytes.as_ref().map_or(0, CudaSlice::len);
        self.filter.len() + length(&self.depth_filter) + 4 * self.bias.len() + length(&self.rounded_bias)
    }
}

impl Shared {
    /// Uploads `weights`, all of them or those of a tower.
    ///
    /// # Errors
    /// Those of [`CudaBackend::new`](super::CudaBackend::new).
    pub fn new(
        weights: &Weights,
        tower: Option<usize>,
        device: &CudaDevice,
        settings: Settings,
        watch: Arc<Watch>,
    ) -> Result<Self> {
        let Settings { precision, deterministic, fc, .. } = settings;
        Fc::check(fc, deterministic)?;
        let launcher = Launcher::new(device, precision)?;
        let rules = Rules { precision, multiprocessors: device.multiprocessors(), deterministic, fc };
        let opened = match fc {
            _ if deterministic => Err(None),
            Some(Fc::Own) => Err(None),
            Some(Fc::CublasLt) | None => open_cublaslt(device, weights, (&launcher, &watch), &rules)?.map_err(Some),
        };
        let (cublaslt, why_not) = match opened {
            Ok(library) => (Some(library), None),
            Err(Some(Unusable { reason, fix })) if fc == Some(Fc::CublasLt) => {
                return Err(Error::Device(format!("cuBLASLt cannot be used: {reason}; {fix}")));
            }
            Err(unusable) => (None, unusable.map(|unusable| unusable.reason)),
        };
        let rules = Rules { fc: if cublaslt.is_some() { fc } else { Some(Fc::Own) }, ..rules };
        let network = weights.network().clone();
        let depth = Depth::of(&network, precision);
        let layers = network.weighted().zip(weights.part(tower)).enumerate().map(|(index, (node, layer))| {
            let taps = match node.layer.op {
                Op::Conv(conv) => conv.kernel * conv.kernel,
                _ => node.input.h * node.input.w,
            };
            let layer = layer.channels_last(taps);
            let upload = |filter: &[f32]| {
                let gemm_k = filter.len() / layer.bias.len();
                to_device(&launcher, &watch, &encode_filter(precision, node.layer.name, filter, gemm_k)?)
            };
            let rearranged = depth.filter(|_| index == 0).map(|depth| upload(&depth.filter(&layer.weight)));
            let linear = matches!(node.layer.op, Op::Linear { .. });
            let rounds = linear && cublaslt.is_some() && rules.element() != Element::F32;
            let rounded_bias = rounds.then(|| to_device(&launcher, &watch, &rules.element().encode(&layer.bias)));
            Ok(DeviceLayer {
                filter: upload(&layer.weight)?,
                depth_filter: rearranged.transpose()?,
                bias: to_device(&launcher, &watch, &layer.bias)?,
                rounded_bias: rounded_bias.transpose()?,
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        let without_algorithm = Mutex::default();
        let (gpu, device) = (device.gpu()?, device.clone());
        Ok(Shared {
            device,
            gpu,
            launcher,
            rules,
            cublaslt,
            why_not,
            without_algorithm,
            network,
            layers,
            watch,
            wide: None,
        })
    }

    /// What runs `step` for `images` images, but where cuBLASLt has turned out to have no algorithm for it.
    pub fn route(&self, step: &Step, images: usize) -> Route {
        let missing = self.without_algorithm.lock().unwrap_or_else(PoisonError::into_inner);
        match missing.contains(&(step.layers[0], images)) {
            true => Route::Kernel(select::select(step, images, &self.rules)),
            false => select::route(step, images, &self.rules),
        }
    }

    pub fn note_missing_algorithm(&self, layer: &'static str, images: usize) {
        self.without_algorithm.lock().unwrap_or_else(PoisonError::into_inner).insert((layer, images));
    }

    /// What computes fully connected layers, in words.
    pub fn fully_connected(&self) -> String {
        let Some(library) = &self.cublaslt else {
            let reason = self.why_not.as_ref().map(|reason| format!(" ({reason})"));
            return format!("own kernels{}", reason.unwrap_or_default());
        };
        let layers = self.without_algorithm.lock().unwrap_or_else(PoisonError::into_inner);
        let layers: Vec<_> = layers.iter().map(|(layer, images)| format!("{layer} with {images}")).collect();
        match layers.is_empty() {
            true => library.to_string(),
            false => format!("{library} but for {} images, which it has no algorithm for", layers.join(", ")),
        }
    }
}

/// cuBLASLt for the layers of `weights`.
///
/// # Errors
/// Those of the device; where the library cannot be used, why.
fn open_cublaslt(
    device: &CudaDevice,
    weights: &Weights,
    (launcher, watch): (&Launcher, &Watch),
    rules: &Rules,
) -> Result<Result<Arc<CublasLt>, Unusable>> {
    let weighted = weights.network().weighted().zip(weights.layers());
    for (node, layer) in weighted.filter(|(node, _)| matches!(node.layer.op, Op::Linear { .. })) {
        if let Err(unusable) = encode_bias(rules.element(), node.layer.name, &layer.bias) {
            return Ok(Err(unusable));
        }
    }
    let library = match CublasLt::open(device) {
        Ok(library) => Arc::new(library),
        Err(unusable) => return Ok(Err(unusable)),
    };
    let reason = match library.keeps_nan(launcher, watch, rules)? {
        Some(true) => return Ok(Ok(library)),
        Some(false) => format!("the ReLU of {library} turns NaN to 0, which would hide an overflow"),
        None => format!("{library} has no algorithm for a small product"),
    };
    Ok(Err(Unusable { reason, fix: "say --fc own" }))
}

/// Uploads `values`, and waits until they are there.
pub(super) fn to_device<T: DeviceRepr>(launcher: &Launcher, watch: &Watch, values: &[T]) -> Result<CudaSlice<T>> {
    const DOING: &str = "uploading weights";
    let stream = launcher.own_stream();
    let copied = stream.clone_htod(values).map_err(|e| failed_on(stream.context(), DOING, e));
    let uploaded = copied.and_then(|slice| watch.wait_for(stream, DOING).map(|()| slice));
    if uploaded.is_err() {
        watch.settle(stream); // the values are the caller's again
    }
    uploaded
}

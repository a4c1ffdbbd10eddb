//! [`Model`]: a network with its weights on a device, ready to predict.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
#[cfg(feature = "cuda")]
use std::{panic::resume_unwind, sync::Arc, thread};

use rayon::prelude::*;

use crate::backend::{
    Activation, Backend, Done, Gpu, Holding, Input, Pipeline, Prediction, Score, Scored, Session, StepAsRun,
};
use crate::cpu::{self, CpuBackend, CpuTowers};
#[cfg(feature = "cuda")]
use crate::cuda::{CudaBackend, CudaDevice, Settings, Towers};
use crate::image::{self, DecodeOptions};
use crate::net::{Network, Variant};
use crate::options::{Device, Fc, Options, Precision, Split, check_ordinals};
#[cfg(feature = "cuda")]
use crate::parallel::Parallel;
use crate::pixels::Pixels;
use crate::plan::Plan;
use crate::record::Ceilings;
use crate::weights::{Checkpoint, StoredWeights, imagenet1k_v1, seeded};
use crate::{Error, Result};

/// The demo checkpoint that is used where none is named: ten kinds of drawn shapes, torchvision's topology.
static DEMO: &[u8] = include_bytes!("../samples/shapes.safetensors");

/// Images that [`Model`]'s own calls run at once.
const CALL_BATCH: usize = 32;

/// Said of an image whose logits are not all finite.
pub const NOT_FINITE: &str = "the network's output is not finite: values overflow its precision on this picture";

/// A network with its weights on a device. Shared freely between threads.
pub struct Model {
    network: Network,
    labels: Option<Vec<String>>,
    backend: Box<dyn Backend>,
    fallback: Option<String>,
    /// Sessions without kept layers that no call is using.
    idle: Mutex<Vec<Box<dyn Session>>>,
}

/// A checkpoint by what a user calls it: a file, `IMAGENET1K_V1` or `seed:N`.
///
/// `variant` is needed for `seed:N` alone, where torchvision is the default.
///
/// # Errors
/// [`Error::Usage`] for a missing file, [`Error::Weights`] for one that cannot be read.
pub fn open_checkpoint(name: impl AsRef<Path>, variant: Option<&'static Variant>) -> Result<Checkpoint> {
    let path = name.as_ref();
    let name = path.to_string_lossy();
    if let Some(seed) = name.strip_prefix("seed:") {
        let seed = seed.parse();
        let seed =
            seed.map_err(|_| Error::Usage(format!("'{name}' is no seed; say seed:N with N from 0 to 2^64 - 1")))?;
        return seeded::checkpoint(variant.map_or_else(|| Variant::by_name("torchvision"), Ok)?, seed);
    }
    if name == "IMAGENET1K_V1" { Checkpoint::open(&imagenet1k_v1()?) } else { Checkpoint::open(path) }
}

/// The demo checkpoint that is built into the crate: torchvision's topology, ten kinds of drawn shapes.
pub fn demo_checkpoint() -> Checkpoint {
    Checkpoint::from_bytes(Path::new("the built-in demo checkpoint"), DEMO).expect("tested with the crate")
}

impl Model {
    /// Loads a checkpoint: a file, `IMAGENET1K_V1` (torchvision's, from PyTorch's cache) or `seed:N`.
    ///
    /// ```no_run
    /// use alexnet::{Device, Model, Options};
    ///
    /// let model = Model::load("model.safetensors", &Options { device: Device::Cpu, ..Options::default() })?;
    /// println!("{} classes on {}", model.network().classes(), model.device());
    /// # Ok::<(), alexnet::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Usage`] for a missing file or an option that does not fit, [`Error::Weights`] with every tensor that does
    /// not, [`Error::Device`] where the device cannot be used.
    pub fn load(checkpoint: impl AsRef<Path>, options: &Options) -> Result<Self> {
        // The device first: it takes a moment to ask, and the checkpoint may take seconds to read.
        let device = OpenDevice::open(options)?;
        Self::build(open_checkpoint(checkpoint, options.variant)?, options, device)
    }

    /// The built-in demo model, which names ten kinds of drawn shapes.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn demo(options: &Options) -> Result<Self> {
        Self::from_checkpoint(demo_checkpoint(), options)
    }

    /// Loads a checkpoint that is in memory.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_checkpoint(checkpoint: Checkpoint, options: &Options) -> Result<Self> {
        Self::build(checkpoint, options, OpenDevice::open(options)?)
    }

    fn build(checkpoint: Checkpoint, options: &Options, device: (OpenDevice, Option<String>)) -> Result<Self> {
        let (device, fallback) = device;
        let variant = checkpoint.choose_variant(options.variant)?;
        let input_size = options.input_size.unwrap_or(variant.input_size);
        let classes = checkpoint.network(variant, input_size)?.classes();
        let labels = checkpoint.choose_labels(options.labels.as_deref(), classes)?;
        let weights = checkpoint.into_stored(variant, input_size)?;
        let network = weights.network().clone();
        let backend = device.upload(weights)?;
        Ok(Model { network, labels, backend, fallback, idle: Mutex::default() })
    }

    /// The network with every layer's shapes.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The device in words.
    pub fn device(&self) -> String {
        self.backend.description()
    }

    /// The GPUs that it computes on, none on the CPU.
    pub fn gpus(&self) -> Vec<Gpu> {
        self.backend.gpus()
    }

    /// Versions of the libraries that it computes with, by name.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        self.backend.versions()
    }

    /// Name of class `index`, `class_N` where the checkpoint names none.
    pub fn label(&self, index: usize) -> String {
        let name = self.labels.as_ref().and_then(|labels| labels.get(index));
        name.cloned().unwrap_or_else(|| format!("class_{index}"))
    }

    /// Why [`Device::Auto`] took the CPU, where it did.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// What was given up while the rest went on, and why: of several devices those that failed, in that order.
    pub fn given_up(&self) -> Vec<String> {
        self.backend.given_up()
    }

    /// Buffers for running up to `batch` images at once, keeping the outputs of the layers named in `keep`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a batch of 0 or a layer the network lacks, [`Error::Device`] where memory is short.
    pub fn session(&self, batch: usize, keep: &[&str]) -> Result<Box<dyn Session>> {
        self.backend.session(Plan::new(&self.network, batch, keep)?)
    }

    /// As [`session`](Self::session), for the forward pass of training: with dropout, whose masks follow from
    /// [`Session::reseed`].
    ///
    /// # Errors
    /// As [`session`](Self::session).
    pub fn train_session(&self, batch: usize, keep: &[&str]) -> Result<Box<dyn Session>> {
        self.backend.session(Plan::train(&self.network, batch, keep)?)
    }

    /// Batches of up to `batch` images through the device at its full speed, the `k` best classes of each.
    ///
    /// # Errors
    /// [`Error::Usage`] for a batch of 0, [`Error::DeviceMemory`] where a smaller one may fit.
    pub fn pipeline(&self, batch: usize, k: usize, score: Score) -> Result<Box<dyn Pipeline>> {
        self.backend.pipeline(Plan::new(&self.network, batch, &[])?, k, score)
    }

    /// Memory for a [`pipeline`](Self::pipeline)'s images, from which the device copies fastest.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] where the system refuses that much.
    pub fn pixels(&self, images: usize) -> Result<Pixels> {
        let len = images.checked_mul(self.network.input().len());
        len.map_or_else(
            || Err(Error::DeviceMemory(format!("{images} images fit no memory"))),
            |len| self.backend.pixels(len),
        )
    }

    /// What a [`pipeline`](Self::pipeline) for batches of `batch` images takes, on each device.
    ///
    /// # Errors
    /// [`Error::Usage`] for a batch of 0.
    pub fn holdings(&self, batch: usize) -> Result<Vec<Holding>> {
        self.backend.holdings(Plan::new(&self.network, batch, &[])?)
    }

    /// What a run of `batch` images is made of: the steps of each of a [`Timeline`](crate::Timeline)'s tracks, and what runs
    /// them.
    ///
    /// # Errors
    /// [`Error::Usage`] for a batch of 0.
    pub fn steps(&self, batch: usize) -> Result<Vec<Vec<StepAsRun>>> {
        self.backend.steps(&Plan::new(&self.network, batch, &[])?)
    }

    /// What the device reaches at most, measured now, for a moment; of several devices the first.
    ///
    /// # Errors
    /// Those of the device.
    pub fn ceilings(&self) -> Result<Ceilings> {
        self.backend.ceilings()
    }

    /// The `k` best classes of each picture file, best first. Files are decoded on all threads, a batch at a time.
    ///
    /// A file that cannot be used has an error of its own, as has one for which the network's output overflows float32.
    ///
    /// # Errors
    /// Those of the device.
    pub fn predict_files<P: AsRef<Path> + Sync>(&self, files: &[P], k: usize) -> Result<Vec<Result<Vec<Prediction>>>> {
        let size = self.network.input_size;
        let image_len = self.network.input().len();
        let mut results = Vec::with_capacity(files.len());
        let mut pixels = vec![0; files.len().min(CALL_BATCH) * image_len];
        for files in files.chunks(CALL_BATCH) {
            let slots = pixels.par_chunks_exact_mut(image_len).zip(files);
            let load = |(slot, file): (&mut [u8], &P)| {
                let file = file.as_ref();
                let named = |reason| Error::Input(format!("{}: {reason}", file.display()));
                image::load(file, DecodeOptions::default(), size, slot).map_err(named)
            };
            // A file that failed leaves its slot as it was; its prediction is not looked at.
            let loaded: Vec<Result<()>> = slots.map(load).collect();
            let predictions = self.predict_pixels(&pixels[..files.len() * image_len], k)?;
            results.extend(loaded.into_iter().zip(predictions).zip(files).map(|((loaded, predictions), file)| {
                loaded?;
                match predictions.iter().all(|p| p.score.is_finite()) {
                    true => Ok(predictions),
                    false => Err(Error::Input(format!("{}: {NOT_FINITE}", file.as_ref().display()))),
                }
            }));
        }
        Ok(results)
    }

    /// The `k` best classes of each image of `pixels`, RGB (N, H, W, 3) at the network's input size; scores are
    /// probabilities. Images whose logits overflow a narrow precision are computed in float32; where that overflows too,
    /// scores are NaN.
    ///
    /// # Errors
    /// [`Error::Usage`] when `pixels` is not a whole number of images, [`Error::DeviceMemory`] where what float32 takes does
    /// not fit.
    pub fn predict_pixels(&self, pixels: &[u8], k: usize) -> Result<Vec<Vec<Prediction>>> {
        let (mut results, overflowed) = self.predict(Input::Pixels(pixels), k)?;
        if overflowed.is_empty() || k == 0 {
            return Ok(results);
        }
        // A pipeline sees to that.
        let mut pipeline = self.pipeline(1, k, Score::Prob)?;
        let mut image = self.pixels(1)?;
        let len = image.len();
        for index in overflowed {
            image.copy_from_slice(&pixels[index * len..][..len]);
            pipeline.submit(image)?;
            let Done { pixels, mut scored, .. } = pipeline.collect()?.expect("one was submitted");
            let Scored { predictions, finite, .. } = scored.pop().expect("an outcome an image");
            let known = |p: Prediction| if finite { p } else { Prediction { score: f32::NAN, ..p } };
            results[index] = predictions.into_iter().map(known).collect();
            image = pixels;
        }
        Ok(results)
    }

    /// As [`predict_pixels`](Self::predict_pixels), from a preprocessed input, (N, H, W, 3) in the network's channel order,
    /// and in the model's precision alone: scores are NaN for an image whose logits overflow it.
    ///
    /// # Errors
    /// [`Error::Usage`] when `values` is not a whole number of images.
    pub fn predict_tensor(&self, values: &[f32], k: usize) -> Result<Vec<Vec<Prediction>>> {
        let (mut results, overflowed) = self.predict(Input::Tensor(values), k)?;
        for index in overflowed {
            results[index].iter_mut().for_each(|prediction| prediction.score = f32::NAN);
        }
        Ok(results)
    }

    /// Logits, (N, classes).
    ///
    /// # Errors
    /// [`Error::Usage`] when the input is not a whole number of images.
    pub fn logits(&self, input: Input<'_>) -> Result<Vec<f32>> {
        let mut logits = vec![];
        self.for_each_batch(input, |session| {
            logits.extend_from_slice(session.logits()?);
            Ok(())
        })?;
        Ok(logits)
    }

    /// Outputs of the named layers, in the order asked for. `conv1` and `relu1` both give the values after the ReLU;
    /// `input` is the preprocessed input.
    ///
    /// # Errors
    /// [`Error::Usage`] when the input is not a whole number of images or a layer is unknown.
    pub fn activations(&self, input: Input<'_>, layers: &[&str]) -> Result<Vec<Activation>> {
        let images = self.whole_images(&input)?;
        let mut session = self.session(images.clamp(1, CALL_BATCH), layers)?;
        let mut found: Vec<Option<Activation>> = vec![None; layers.len()];
        run_in_batches(session.as_mut(), input, |session| {
            for (found, layer) in found.iter_mut().zip(layers) {
                let part = session.activation(layer)?;
                match found {
                    None => *found = Some(part),
                    Some(found) => {
                        found.shape[0] += part.shape[0];
                        found.values.extend_from_slice(&part.values);
                    }
                }
            }
            Ok(())
        })?;
        // An input of no images ran nothing: ask for the shapes that a run would have filled.
        found
            .into_iter()
            .zip(layers)
            .map(|(found, layer)| found.map_or_else(|| session.activation(layer), Ok))
            .collect()
    }

    /// The `k` best classes of each image, and which images' logits are not all finite.
    fn predict(&self, input: Input<'_>, k: usize) -> Result<(Vec<Vec<Prediction>>, Vec<usize>)> {
        let (mut results, mut overflowed) = (vec![], vec![]);
        self.for_each_batch(input, |session| {
            let classes = session.plan().classes();
            let first = results.len();
            let logits = session.logits()?.chunks_exact(classes);
            let images = logits.len();
            let overflows = logits.enumerate().filter(|(_, logits)| !logits.iter().all(|logit| logit.is_finite()));
            overflowed.extend(overflows.map(|(image, _)| first + image));
            let predictions = session.top_k(k, Score::Prob)?;
            let k = k.min(classes);
            results.extend((0..images).map(|image| predictions[image * k..(image + 1) * k].to_vec()));
            Ok(())
        })?;
        Ok((results, overflowed))
    }

    /// Runs `input` on an idle session, or a new one, and shows each batch's results to `collect`.
    fn for_each_batch(&self, input: Input<'_>, collect: impl FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        let batch = self.whole_images(&input)?.clamp(1, CALL_BATCH).next_power_of_two();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = idle.iter().position(|session| session.plan().batch >= batch);
        let taken = fitting.map(|index| idle.swap_remove(index));
        drop(idle);
        let mut session = taken.map_or_else(|| self.session(batch, &[]), Ok)?;
        run_in_batches(session.as_mut(), input, collect)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        Ok(())
    }

    /// Number of images in `input`.
    fn whole_images(&self, input: &Input<'_>) -> Result<usize> {
        let (len, image_len) = (input.len(), self.network.input().len());
        if len % image_len != 0 {
            let shape = self.network.input();
            return Err(Error::Usage(format!("an input of {len} values is not a whole number of {shape} images")));
        }
        Ok(len / image_len)
    }
}

/// Runs `session` over `input`, as many images at a time as it takes.
fn run_in_batches(
    session: &mut dyn Session,
    input: Input<'_>,
    mut collect: impl FnMut(&mut dyn Session) -> Result<()>,
) -> Result<()> {
    let len = session.plan().input.len() * session.plan().batch;
    let mut run = |input| {
        session.run(input)?;
        collect(session)
    };
    match input {
        Input::Pixels(pixels) => pixels.chunks(len).try_for_each(|chunk| run(Input::Pixels(chunk))),
        Input::Tensor(values) => values.chunks(len).try_for_each(|chunk| run(Input::Tensor(chunk))),
    }
}

/// A device that is ready to take weights.
enum OpenDevice {
    Cpu {
        settings: cpu::Settings,
        towers: bool,
    },
    #[cfg(feature = "cuda")]
    Cuda {
        devices: Vec<CudaDevice>,
        settings: Settings,
        split: Option<Split>,
    },
}

impl OpenDevice {
    /// The device asked for, and why it is not a better one where any would do.
    fn open(options: &Options) -> Result<(Self, Option<String>)> {
        let all = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = options.threads.unwrap_or_else(all).get();
        let precision = options.precision;
        let settings = cpu::Settings { float16: precision == Precision::Float16, ..cpu::Settings::new(threads) };
        let cpu = OpenDevice::Cpu { settings, towers: options.split == Some(Split::TwoStream) };
        Fc::check(options.fc, options.deterministic)?;
        let cublaslt = options.fc == Some(Fc::CublasLt);
        let two_gpus = options.split == Some(Split::TwoGpu);
        let cpu_computes = matches!(precision, Precision::Float32 | Precision::Float16) && !cublaslt && !two_gpus;
        let asked = match (cublaslt, two_gpus) {
            (true, _) => "cuBLASLt",
            (_, true) => "a split between two GPUs",
            _ => precision.name(),
        };
        match &options.device {
            Device::Cpu if cublaslt => {
                Err(Error::Usage("the CPU has no use for cuBLASLt; leave that out, or say --device cuda".into()))
            }
            Device::Cpu if two_gpus => Err(Error::Usage(
                "the CPU is not two GPUs; say --split two-stream for two groups of its threads".into(),
            )),
            Device::Cpu if cpu_computes => Ok((cpu, None)),
            Device::Cpu => Err(Error::Usage(format!(
                "the CPU computes in float32, with weights of fully connected layers in float16 where that is asked for, not in {asked}; \
                 leave that out, or say --device cuda"
            ))),
            Device::Cuda(ordinals) => Ok((Self::cuda(ordinals, options)?, None)),
            Device::Auto => match Self::cuda(&[0], options) {
                Ok(device) => Ok((device, None)),
                // What the CPU does for another precision is not what was asked for: it has to be named.
                Err(Error::Device(reason)) if cpu_computes && precision == Precision::Float32 => {
                    Ok((cpu, Some(reason)))
                }
                Err(Error::Device(reason)) => Err(Error::Device(format!(
                    "{asked} needs a GPU: {reason}; --device cpu computes in float32, and with --precision float16 stores the \
                     weights of fully connected layers so"
                ))),
                Err(error) => Err(error),
            },
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(ordinals: &[usize], options: &Options) -> Result<Self> {
        let &Options { precision, deterministic, fc, patience, split, .. } = options;
        check_ordinals(ordinals)?;
        let ordinals = match (split, ordinals) {
            (Some(Split::TwoGpu), [0]) => &[0, 1],
            (Some(Split::TwoGpu), ordinals) if ordinals.len() != 2 => {
                return Err(Error::Usage("a split between two GPUs takes two devices: say --device cuda:0,1".into()));
            }
            _ => ordinals,
        };
        let patience = patience.unwrap_or(Settings::default().patience);
        let devices = on_each(ordinals, |&ordinal| {
            let device = CudaDevice::open(ordinal)?;
            device.load(precision)?; // a device whose driver refuses the kernels is no device
            Ok(device)
        })?;
        Ok(OpenDevice::Cuda { devices, settings: Settings { precision, deterministic, fc, patience }, split })
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(ordinals: &[usize], _: &Options) -> Result<Self> {
        check_ordinals(ordinals)?;
        Err(Error::Device("built without the feature cuda; build with it, or say --device cpu".into()))
    }

    fn upload(self, weights: StoredWeights) -> Result<Box<dyn Backend>> {
        match self {
            OpenDevice::Cpu { settings, towers: true } => Ok(Box::new(CpuTowers::new(weights, settings)?)),
            OpenDevice::Cpu { settings, towers: false } => Ok(Box::new(CpuBackend::new(weights, settings)?)),
            #[cfg(feature = "cuda")]
            OpenDevice::Cuda { devices, settings, split } => {
                let weights = Arc::new(weights.read()?);
                if let (Some(Split::TwoGpu), [first, second]) = (split, &devices[..]) {
                    return Ok(Box::new(CudaBackend::split(weights, Towers::TwoGpu(first, second), settings)?));
                }
                let upload = |device: &CudaDevice| {
                    let weights = Arc::clone(&weights);
                    let backend = match split {
                        None => CudaBackend::new(weights, device, settings)?,
                        Some(_) => CudaBackend::split(weights, Towers::TwoStream(device), settings)?,
                    };
                    Ok((device.to_string(), Box::new(backend) as Box<dyn Backend>))
                };
                let mut backends = on_each(&devices, upload)?;
                match backends.len() {
                    1 => Ok(backends.remove(0).1),
                    _ => Ok(Box::new(Parallel::new(backends))),
                }
            }
        }
    }
}

/// What `make` makes of every item, of several on a thread each.
#[cfg(feature = "cuda")]
fn on_each<T: Sync, U: Send>(items: &[T], make: impl Fn(&T) -> Result<U> + Sync) -> Result<Vec<U>> {
    if let [item] = items {
        return Ok(vec![make(item)?]);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| make(item))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

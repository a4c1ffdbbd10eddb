//! One plan's buffers on the device, and the walk over its steps.

use std::borrow::Cow;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr as _, DeviceRepr};

use super::args::{Addresses, DevicePtr, TopKArgs};
use super::depth::{arrange, lowered};
use super::fuse::fused;
use super::launch::Launcher;
use super::select::{self, Launch};
use super::{DeviceLayer, Element, Shared, failed, lost};
use crate::backend::{Activation, Input, Prediction, Score, Session};
use crate::net::Shape;
use crate::plan::{Plan, Step, StepKind};
use crate::{Error, Result};

pub struct CudaSession {
    shared: Arc<Shared>,
    plan: Plan,
    /// uint8 input, (batch, H, W, 3).
    pixels: CudaSlice<u8>,
    /// One a plan buffer, for `plan.batch` images.
    buffers: Vec<CudaSlice<u8>>,
    /// Partial sums of convolutions whose GEMM_K is split.
    partial: CudaSlice<f32>,
    /// Room for the best classes, (batch, k) of the largest k so far.
    indices: CudaSlice<i32>,
    scores: CudaSlice<f32>,
    /// Images of the last run.
    images: usize,
    /// A launch a step for a number of images, that of the last run.
    launches: (usize, Vec<Launch>),
    seed: u64,
    host: Host,
}

/// Results on the host, in memory that is kept from run to run.
#[derive(Default)]
struct Host {
    /// An input tensor as the device takes it.
    input: Vec<u8>,
    /// A step's output as the device gives it.
    output: Vec<u8>,
    logits: Vec<f32>,
    indices: Vec<i32>,
    scores: Vec<f32>,
    predictions: Vec<Prediction>,
}

/// Largest number of elements of a buffer: kernels count them, and the rows of a GEMM up to the end of its last tile, in a
/// signed 32-bit integer.
const MAX_ELEMENTS: usize = i32::MAX as usize - 128;

impl CudaSession {
    pub fn new(shared: Arc<Shared>, plan: Plan) -> Result<Self> {
        let rules = shared.rules;
        let plan = fused(lowered(shared.depth, plan), &rules);
        let largest = plan.buffers.iter().max().copied().unwrap_or(0);
        if plan.batch.saturating_mul(largest) > MAX_ELEMENTS {
            return Err(Error::Usage(match MAX_ELEMENTS / largest {
                0 => format!(
                    "one image needs a buffer of {largest} elements, more than the {MAX_ELEMENTS} that kernels count"
                ),
                most => format!("a batch of {} needs too large a buffer; lower --batch-size to {most}", plan.batch),
            }));
        }
        let pixels = allocate(&shared, plan.batch * plan.input.len())?;
        let bytes = rules.element().buffer_bytes(&plan);
        let buffers = bytes.into_iter().map(|bytes| allocate(&shared, bytes * plan.batch));
        let buffers = buffers.collect::<Result<_>>()?;
        let partial = plan.steps.iter().map(|step| select::most_partial_elements(step, plan.batch, &rules));
        let partial = allocate(&shared, partial.max().unwrap_or(0))?;
        let (indices, scores) = (allocate(&shared, plan.batch)?, allocate(&shared, plan.batch)?);
        Ok(CudaSession {
            shared,
            plan,
            pixels,
            buffers,
            partial,
            indices,
            scores,
            images: 0,
            launches: (0, vec![]),
            seed: 0,
            host: Host::default(),
        })
    }

    fn address<T>(&self, slice: &CudaSlice<T>) -> DevicePtr {
        // Without event tracking the guard does nothing; the slice lives as long as the session.
        slice.device_ptr(self.shared.launcher.own_stream()).0
    }

    /// Starts the kernel of step `index`, whose source is `source`.
    fn start(&self, index: usize, source: DevicePtr) -> Result<()> {
        let (step, launch) = (&self.plan.steps[index], &self.launches.1[index]);
        let layer = match step.kind {
            StepKind::Conv { weights, .. } | StepKind::Linear { weights, .. } => Some(&self.shared.layers[weights]),
            _ => None,
        };
        let addresses = Addresses {
            source,
            target: self.address(&self.buffers[step.target]),
            filter: layer.map_or(0, |layer| self.address(self.filter(layer))),
            bias: layer.map_or(0, |layer| self.address(&layer.bias)),
            partial: self.address(&self.partial),
        };
        // SAFETY: source and target are different buffers of the session, which holds them until it is dropped; dropping
        // frees them in stream order, as it does the layers. Plan::check made sure that buffers have room for the step's
        // shapes, windows lie within their inputs and the layer's tensors have the step's shapes; the session's batch
        // bounds `images`, of which there is at least one, and its size was checked against MAX_ELEMENTS.
        unsafe {
            self.shared.launcher.launch_step(launch, step, self.images, &self.shared.rules, self.seed, &addresses)
        }
    }

    /// The layer's filter for the layout that preprocessing gives.
    fn filter<'a>(&self, layer: &'a DeviceLayer) -> &'a CudaSlice<u8> {
        match (&layer.depth_filter, self.plan.steps[0].kind) {
            (Some(filter), StepKind::Preprocess { depth: Some(_), .. }) => filter,
            _ => &layer.filter,
        }
    }

    /// Queues the copy of the input and every step.
    fn enqueue(&mut self, input: Input<'_>) -> Result<()> {
        if self.launches.0 != self.images {
            let launches = self.plan.steps.iter().map(|step| select::select(step, self.images, &self.shared.rules));
            self.launches = (self.images, launches.collect());
        }
        let stream = self.shared.launcher.own_stream();
        let copying = |e| failed("copying the input", e);
        let first = self.plan.steps.first().expect("a plan has steps");
        match input {
            Input::Pixels(pixels) => {
                stream.memcpy_htod(pixels, &mut self.pixels.slice_mut(..pixels.len())).map_err(copying)?;
                self.start(0, self.address(&self.pixels))?;
            }
            // A tensor takes the place of the preprocessing's output.
            Input::Tensor(values) => {
                let element = self.shared.rules.element();
                let encoded = match first.kind {
                    StepKind::Preprocess { depth: Some(layout), .. } => {
                        Cow::Owned(element.encode(&arrange(first, layout, values)).into_owned())
                    }
                    _ => element.encode(values),
                };
                let bytes = match encoded {
                    Cow::Borrowed(bytes) => bytes,
                    Cow::Owned(bytes) => {
                        self.host.input = bytes; // until the copy has read it
                        &self.host.input
                    }
                };
                let target = &mut self.buffers[first.target].slice_mut(..bytes.len());
                stream.memcpy_htod(bytes, target).map_err(copying)?;
            }
        }
        for index in 1..self.plan.steps.len() {
            let source = self.plan.steps[index].source.expect("only the first step reads the input");
            self.start(index, self.address(&self.buffers[source]))?;
        }
        Ok(())
    }
}

/// The output of `step` for `images` images into `values`, by way of `bytes`.
fn download_output(
    shared: &Shared,
    step: &Step,
    (buffer, images): (&CudaSlice<u8>, usize),
    bytes: &mut Vec<u8>,
    values: &mut Vec<f32>,
) -> Result<()> {
    let element = shared.rules.element().of_output(step);
    download(&shared.launcher, buffer, images * step.output.len() * element.bytes(), bytes)?;
    element.decode(bytes, values);
    Ok(())
}

/// Copies `slice` up to `len` to the host, and waits for it and everything before it.
fn download<T: DeviceRepr + Default + Clone>(
    launcher: &Launcher,
    slice: &CudaSlice<T>,
    len: usize,
    host: &mut Vec<T>,
) -> Result<()> {
    host.resize(len, T::default());
    let stream = launcher.own_stream();
    let copied = stream.memcpy_dtoh(&slice.slice(..len), host).and_then(|()| stream.synchronize());
    copied.map_err(|e| {
        launcher.settle(); // `host` must not be written to once its owner has it back
        lost(failed("running the network", e))
    })
}

impl Session for CudaSession {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn reseed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn run(&mut self, input: Input<'_>) -> Result<()> {
        self.images = input.images(&self.plan)?;
        if self.images == 0 {
            return Ok(());
        }
        let queued = self.enqueue(input);
        let launcher = &self.shared.launcher;
        let wait = |()| launcher.own_stream().synchronize().map_err(|e| failed("running the network", e));
        let done = queued.and_then(wait);
        if done.is_err() {
            launcher.settle(); // the input is the caller's again
            self.images = 0;
        }
        done.map_err(lost)
    }

    fn logits(&mut self) -> Result<&[f32]> {
        let step = self.plan.logits();
        let buffer = (&self.buffers[step.target], self.images);
        download_output(&self.shared, step, buffer, &mut self.host.output, &mut self.host.logits)?;
        Ok(&self.host.logits)
    }

    fn top_k(&mut self, k: usize, score: Score) -> Result<&[Prediction]> {
        let classes = self.plan.classes();
        let k = k.min(classes);
        let logits = self.plan.logits();
        if self.shared.rules.element().of_output(logits) != Element::F32 {
            return Err(Error::Usage(format!("'{}' gives no logits to rank", logits.layers[0])));
        }
        self.host.predictions.clear();
        if self.images == 0 || k == 0 {
            return Ok(&[]);
        }
        if self.indices.len() < self.plan.batch * k {
            self.indices = allocate(&self.shared, self.plan.batch * k)?;
            self.scores = allocate(&self.shared, self.plan.batch * k)?;
        }
        let args = TopKArgs {
            logits: self.address(&self.buffers[self.plan.logits().target]),
            indices: self.address(&self.indices),
            scores: self.address(&self.scores),
            n: self.images as i32,
            classes: classes as i32,
            k: k as i32,
            probabilities: i32::from(score == Score::Prob),
        };
        // SAFETY: top_k() selects the kernel that takes these args; logits are (images, classes) in a buffer of the plan,
        // the two outputs have room for (batch, k) and are buffers of their own, all held by the session.
        unsafe { self.shared.launcher.launch(&select::top_k(self.images), args).map_err(lost)? };
        let Host { indices, scores, predictions, .. } = &mut self.host;
        download(&self.shared.launcher, &self.indices, self.images * k, indices)?;
        download(&self.shared.launcher, &self.scores, self.images * k, scores)?;
        let pairs = indices.iter().zip(&*scores);
        predictions.extend(pairs.map(|(&index, &score)| Prediction { index: index as usize, score }));
        Ok(predictions)
    }

    fn activation(&mut self, name: &str) -> Result<Activation> {
        let step = self.plan.kept(name)?;
        let Shape { h, w, c } = step.output;
        let mut values = vec![];
        let buffer = (&self.buffers[step.target], self.images);
        download_output(&self.shared, step, buffer, &mut self.host.output, &mut values)?;
        Ok(Activation { shape: [self.images, h, w, c], values })
    }
}

/// Memory for `len` elements on the device, at least one, since the driver has no empty allocations.
fn allocate<T: DeviceRepr>(shared: &Shared, len: usize) -> Result<CudaSlice<T>> {
    let stream = shared.launcher.own_stream();
    // SAFETY: uninitialised device memory, which a step of the same run writes before another reads it; Plan::check and the
    // number of images bound what is read by what was written. Tools that look for uninitialised reads see it so.
    let slice = unsafe { stream.alloc(len.max(1)) };
    slice.map_err(|e| failed(&format!("allocating {} MB", (len * size_of::<T>()) >> 20), e))
}

//! One plan's buffers on the device, and the walk over its steps.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr as _, DeviceRepr, ValidAsZeroBits};

use super::args::{DevicePtr, TopKArgs};
use super::launch::Addresses;
use super::{Shared, failed, select};
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
    buffers: Vec<CudaSlice<f32>>,
    /// Room for the best classes, (batch, k) of the largest k so far.
    indices: CudaSlice<i32>,
    scores: CudaSlice<f32>,
    /// Images of the last run.
    images: usize,
    seed: u64,
    // Results on the host, kept from run to run.
    logits: Vec<f32>,
    predictions: Vec<Prediction>,
}

impl CudaSession {
    pub fn new(shared: Arc<Shared>, plan: Plan) -> Result<Self> {
        // Kernels count a buffer's pixels and a GEMM's rows in 32 bits.
        let largest = plan.buffers.iter().max().copied().unwrap_or(0);
        if plan.batch.saturating_mul(largest) > i32::MAX as usize {
            return Err(Error::Usage(format!(
                "a batch of {} needs a buffer of more than 2^31 elements; lower --batch-size to {}",
                plan.batch,
                i32::MAX as usize / largest
            )));
        }
        let pixels = zeroed(&shared, plan.batch * plan.input.len())?;
        let buffers = plan.buffers.iter().map(|elements| zeroed(&shared, elements * plan.batch));
        let buffers = buffers.collect::<Result<_>>()?;
        let (indices, scores) = (zeroed(&shared, plan.batch)?, zeroed(&shared, plan.batch)?);
        let (logits, predictions) = (vec![], vec![]);
        Ok(CudaSession { shared, plan, pixels, buffers, indices, scores, images: 0, seed: 0, logits, predictions })
    }

    fn address<T>(&self, slice: &CudaSlice<T>) -> DevicePtr {
        // Without event tracking the guard does nothing; the slice lives as long as the session.
        slice.device_ptr(self.shared.launcher.stream()).0
    }

    /// Starts the kernel of `step`, whose source is `source`.
    fn start(&self, step: &Step, source: DevicePtr) -> Result<()> {
        let layer = match step.kind {
            StepKind::Conv { weights, .. } | StepKind::Linear { weights, .. } => Some(&self.shared.layers[weights]),
            _ => None,
        };
        let addresses = Addresses {
            source,
            target: self.address(&self.buffers[step.target]),
            filter: layer.map_or(0, |layer| self.address(&layer.filter)),
            bias: layer.map_or(0, |layer| self.address(&layer.bias)),
        };
        // SAFETY: source and target are different buffers of the session, which holds them until it is dropped; dropping
        // frees them in stream order, as it does the layers. Plan::check made sure that buffers have room for the step's
        // shapes, windows lie within their inputs and the layer's tensors have the step's shapes; the session's batch
        // bounds `images`, and its size was checked to fit 32 bits.
        unsafe { self.shared.launcher.launch_step(step, self.images, self.seed, addresses) }
    }

    /// Copies `slice` up to `len` to the host, and waits for it and everything before it.
    fn download<T: DeviceRepr + Default + Clone>(
        &self,
        slice: &CudaSlice<T>,
        len: usize,
        host: &mut Vec<T>,
    ) -> Result<()> {
        let stream = self.shared.launcher.stream();
        host.resize(len, T::default());
        let copied = stream.memcpy_dtoh(&slice.slice(..len), host).and_then(|()| stream.synchronize());
        copied.map_err(|e| failed("running the network", e))
    }
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
        let stream = self.shared.launcher.stream();
        let copying = |e| failed("copying the input", e);
        let (first, rest) = self.plan.steps.split_first().expect("a plan has steps");
        match input {
            Input::Pixels(pixels) => {
                stream.memcpy_htod(pixels, &mut self.pixels.slice_mut(..pixels.len())).map_err(copying)?;
                self.start(first, self.address(&self.pixels))?;
            }
            // A tensor takes the place of the preprocessing's output.
            Input::Tensor(values) => {
                let target = &mut self.buffers[first.target].slice_mut(..values.len());
                stream.memcpy_htod(values, target).map_err(copying)?;
            }
        }
        for step in rest {
            let source = step.source.expect("only the first step reads the input");
            self.start(step, self.address(&self.buffers[source]))?;
        }
        // Pageable host memory may be read until the copy is over.
        stream.synchronize().map_err(|e| failed("running the network", e))
    }

    fn logits(&mut self) -> Result<&[f32]> {
        let step = self.plan.logits();
        let mut logits = std::mem::take(&mut self.logits);
        let len = self.images * step.output.len();
        let copied = self.download(&self.buffers[step.target], len, &mut logits);
        self.logits = logits;
        copied.map(|()| &self.logits[..])
    }

    fn top_k(&mut self, k: usize, score: Score) -> Result<&[Prediction]> {
        let classes = self.plan.classes();
        let k = k.min(classes);
        self.predictions.clear();
        if self.images == 0 || k == 0 {
            return Ok(&self.predictions);
        }
        if self.indices.len() < self.plan.batch * k {
            self.indices = zeroed(&self.shared, self.plan.batch * k)?;
            self.scores = zeroed(&self.shared, self.plan.batch * k)?;
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
        unsafe { self.shared.launcher.launch(&select::top_k(self.images), args)? };
        let (mut indices, mut scores) = (vec![], vec![]);
        self.download(&self.indices, self.images * k, &mut indices)?;
        self.download(&self.scores, self.images * k, &mut scores)?;
        let pairs = indices.into_iter().zip(scores);
        self.predictions.extend(pairs.map(|(index, score)| Prediction { index: index as usize, score }));
        Ok(&self.predictions)
    }

    fn activation(&mut self, name: &str) -> Result<Activation> {
        let step = self.plan.kept(name)?;
        let Shape { h, w, c } = step.output;
        let mut values = vec![];
        self.download(&self.buffers[step.target], self.images * step.output.len(), &mut values)?;
        Ok(Activation { shape: [self.images, h, w, c], values })
    }
}

/// `len` zeros on the device; at least one, since the driver has no empty allocations.
fn zeroed<T: DeviceRepr + ValidAsZeroBits>(shared: &Shared, len: usize) -> Result<CudaSlice<T>> {
    let stream = shared.launcher.stream();
    stream.alloc_zeros(len.max(1)).map_err(|e| failed(&format!("allocating {} MB", (len * size_of::<T>()) >> 20), e))
}

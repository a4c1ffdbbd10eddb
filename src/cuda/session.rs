//! A plan run batch after batch, whose layers can be looked at.

use std::borrow::Cow;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaSlice, result};

use super::args::DevicePtr;
use super::depth::arrange;
use super::results::Results;
use super::steps::{Prepared, Steps, address};
use super::{Element, Shared, failed, lost};
use crate::backend::{Activation, Input, Prediction, Score, Session, Span, Timeline, Track, Work};
use crate::net::Shape;
use crate::plan::{Plan, StepKind};
use crate::{Error, Result};

pub struct CudaSession {
    steps: Steps,
    /// Reached when everything queued before is done.
    done: CudaEvent,
    /// The best classes, for the largest k so far.
    results: Option<CudaSlice<u8>>,
    /// Images of the last run.
    images: usize,
    /// What runs each step for a number of images, that of the last run.
    prepared: (usize, Vec<Prepared>),
    seed: u64,
    host: Host,
}

/// Results on the host, in memory that is kept from run to run.
#[derive(Default)]
struct Host {
    /// An input tensor as the device takes it.
    input: Vec<u8>,
    /// What came from the device.
    bytes: Vec<u8>,
    logits: Vec<f32>,
    predictions: Vec<Prediction>,
}

impl CudaSession {
    pub fn new(shared: Arc<Shared>, plan: Plan) -> Result<Self> {
        let steps = Steps::new(shared, plan, 1, 0)?;
        let done = steps.stream().context().new_event(None).map_err(|e| failed("making an event", e))?;
        Ok(CudaSession { steps, done, results: None, images: 0, prepared: (0, vec![]), seed: 0, host: Host::default() })
    }

    /// Queues the copy of the input and every step.
    fn enqueue(&mut self, input: Input<'_>) -> Result<()> {
        let prepared = &self.prepared.1;
        let first = self.steps.plan.steps.first().expect("a plan has steps");
        match input {
            Input::Pixels(pixels) => {
                upload(&self.steps, self.steps.pixels(0), pixels)?;
                self.steps.preprocess(prepared, self.images, 0)?;
            }
            // A tensor takes the place of the preprocessing's output.
            Input::Tensor(values) => {
                let element = self.steps.shared.rules.element();
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
                upload(&self.steps, self.steps.output(0), bytes)?;
            }
        }
        self.steps.forward(prepared, self.images, self.seed)
    }

    /// Waits for everything queued so far.
    fn wait(&self) -> Result<()> {
        let stream = self.steps.stream();
        self.done.record(stream).map_err(|e| lost(failed("running the network", e)))?;
        self.steps.shared.watch.wait(&self.done, stream)
    }

    /// The output of step `index` of the last run, in place of what `values` had.
    fn output(&mut self, index: usize, values: &mut Vec<f32>) -> Result<()> {
        let step = &self.steps.plan.steps[index];
        let element = self.steps.shared.rules.element().of_output(step);
        let bytes = self.images * step.output.len() * element.bytes();
        self.download(self.steps.output(index), bytes)?;
        element.decode(&self.host.bytes, values);
        Ok(())
    }

    /// Copies `len` bytes at `from` to the host, and waits for them and everything before.
    fn download(&mut self, from: DevicePtr, len: usize) -> Result<()> {
        self.host.bytes.resize(len, 0);
        let stream = self.steps.stream();
        // SAFETY: `from` has `len` bytes in the arena or the results; `bytes` stays until the wait below, or settle, is over. Where the device hangs it is given up, below.
        let copied = unsafe { result::memcpy_dtoh_async(&mut self.host.bytes, from, stream.cu_stream()) };
        let done = copied.map_err(|e| lost(failed("running the network", e))).and_then(|()| self.wait());
        if done.is_err() {
            self.steps.settle();
            if self.steps.shared.watch.hangs() {
                std::mem::forget(std::mem::take(&mut self.host.bytes));
            }
        }
        done
    }
}

/// Queues the copy of `bytes` to `to`, which has room for them in an allocation of the session. They must stay as they are
/// until it is done.
fn upload(steps: &Steps, to: DevicePtr, bytes: &[u8]) -> Result<()> {
    let stream = steps.stream();
    let copying = |e| failed("copying the input", e);
    stream.context().bind_to_thread().map_err(copying)?;
    // SAFETY: room and lifetime are the callers' promise, which both keep: run waits.
    unsafe { result::memcpy_htod_async(to, bytes, stream.cu_stream()) }.map_err(copying)
}

impl Drop for CudaSession {
    fn drop(&mut self) {
        if self.steps.shared.watch.hangs() {
            std::mem::forget(self.results.take());
        }
    }
}

impl Session for CudaSession {
    fn plan(&self) -> &Plan {
        &self.steps.plan
    }

    fn reseed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn run(&mut self, input: Input<'_>) -> Result<()> {
        self.images = input.images(&self.steps.plan)?;
        if self.images == 0 {
            return Ok(());
        }
        if self.prepared.0 != self.images {
            self.prepared = (0, vec![]);
            self.prepared = (self.images, self.steps.prepare(self.images)?);
        }
        let done = self.enqueue(input).map_err(lost).and_then(|()| self.wait());
        if done.is_err() {
            self.steps.settle(); // the input is the caller's again
            if self.steps.shared.watch.hangs() {
                // It may be read for ever, as may the caller's: the device then gets whatever is there.
                std::mem::forget(std::mem::take(&mut self.host.input));
            }
            self.images = 0;
        }
        done
    }

    fn logits(&mut self) -> Result<&[f32]> {
        let mut logits = std::mem::take(&mut self.host.logits);
        let downloaded = self.output(self.steps.plan.steps.len() - 1, &mut logits);
        self.host.logits = logits;
        downloaded.map(|()| &self.host.logits[..])
    }

    fn top_k(&mut self, k: usize, score: Score) -> Result<&[Prediction]> {
        let classes = self.steps.plan.classes();
        let logits = self.steps.plan.logits();
        if self.steps.shared.rules.element().of_output(logits) != Element::F32 {
            return Err(Error::Usage(format!("'{}' gives no logits to rank", logits.layers[0])));
        }
        self.host.predictions.clear();
        let results = Results { images: self.images, k: k.min(classes) };
        if results.images == 0 || results.k == 0 {
            return Ok(&[]);
        }
        let stream = self.steps.stream();
        if self.results.as_ref().is_none_or(|memory| memory.len() < results.bytes()) {
            let most = Results { images: self.steps.plan.batch, ..results };
            // SAFETY: the kernel below writes what is read.
            let memory = unsafe { stream.alloc(most.bytes()) };
            self.results = Some(memory.map_err(|e| failed("allocating memory for results", e))?);
        }
        let at = address(self.results.as_ref().expect("just made"), stream);
        // SAFETY: logits are (images, classes) float32 in the session's arena; the results have room for all images and k
        // classes each, and are an allocation of their own.
        unsafe { self.steps.rank(&results, score, at)? };
        self.wait()?; // patiently, which a copy to pageable memory would not be
        self.download(at, results.bytes())?;
        self.host.predictions.extend(results.predictions(&self.host.bytes));
        Ok(&self.host.predictions)
    }

    fn activation(&mut self, name: &str) -> Result<Activation> {
        let step = self.steps.plan.kept(name)?;
        let Shape { h, w, c } = step.output;
        let index = self.steps.plan.steps.iter().position(|other| std::ptr::eq(other, step)).expect("one of them");
        let mut values = vec![];
        self.output(index, &mut values)?;
        Ok(Activation { shape: [self.images, h, w, c], values })
    }

    fn timeline(&mut self, input: Input<'_>) -> Result<Timeline> {
        // To be measured by events.
        let start = std::time::Instant::now();
        self.run(input)?;
        let layers = self.steps.plan.steps.iter().flat_map(|step| step.layers.clone()).collect();
        let span = Span { work: Work::Layers(layers), begin: std::time::Duration::ZERO, end: start.elapsed() };
        Ok(Timeline { tracks: vec![Track { place: "cuda".into(), spans: vec![span] }] })
    }
}

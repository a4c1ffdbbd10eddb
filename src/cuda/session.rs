//! A plan run batch after batch, whose layers can be looked at.

use std::borrow::Cow;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, result};

use super::args::DevicePtr;
use super::depth::arrange;
use super::nvtx::Range;
use super::results::Results;
use super::steps::{Mark, Placement, Run, Steps};
use super::timeline::Clock;
use super::tower::{Prepared, Tower, address};
use super::{Element, failed_on, lost};
use crate::backend::{Activation, Input, Prediction, Score, Session, Timeline};
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
    prepared: (usize, Run),
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
    /// A tower's part of a layer.
    half: Vec<f32>,
    predictions: Vec<Prediction>,
}

impl CudaSession {
    pub fn new(placement: &Placement, plan: Plan) -> Result<Self> {
        let steps = Steps::new(placement, plan, 1, 0)?;
        let context = steps.stream().context();
        let done = context.new_event(None).map_err(|e| failed_on(context, "making an event", e))?;
        Ok(CudaSession { steps, done, results: None, images: 0, prepared: (0, vec![]), seed: 0, host: Host::default() })
    }

    /// Queues the copy of the input and every step.
    fn enqueue(&mut self, input: Input<'_>, mut mark: impl FnMut(usize, Mark) -> Result<()>) -> Result<()> {
        let CudaSession { steps, images, prepared: (_, run), seed, host, .. } = self;
        let images = *images;
        let tensor = match input {
            Input::Pixels(_) => None,
            Input::Tensor(values) => {
                let first = steps.towers()[0].plan.steps.first().expect("a plan has steps");
                let element = steps.shared().rules.element();
                let encoded = match first.kind {
                    StepKind::Preprocess { depth: Some(layout), .. } => {
                        Cow::Owned(element.encode(&arrange(first, layout, values)).into_owned())
                    }
                    _ => element.encode(values),
                };
                Some(match encoded {
                    Cow::Borrowed(bytes) => bytes,
                    Cow::Owned(bytes) => {
                        host.input = bytes; // until the copy has read it
                        &host.input
                    }
                })
            }
        };
        for (tower, at) in steps.inputs(0) {
            match (input, tensor) {
                // A tensor takes the place of the preprocessing's output.
                (_, Some(tensor)) => upload(tower, tower.buffer(0), tensor)?,
                (Input::Pixels(pixels), None) => upload(tower, at, pixels)?,
                (Input::Tensor(_), None) => unreachable!("encoded above"),
            }
        }
        mark(0, Mark::Input)?;
        let first = |tower: &Tower, prepared: &[Prepared], at: DevicePtr| match tensor {
            Some(_) => Ok(()),
            None => tower.start(prepared, 0, images, at, 0),
        };
        steps.enqueue(run, images, *seed, 0, first, mark)
    }

    /// Runs the plan; `mark` is told what is queued.
    fn run_marked(&mut self, input: Input<'_>, mark: impl FnMut(usize, Mark) -> Result<()>) -> Result<()> {
        self.images = input.images(&self.steps.plan)?;
        if self.images == 0 {
            return Ok(());
        }
        if self.prepared.0 != self.images {
            self.prepared = (0, vec![]);
            self.prepared = (self.images, self.steps.prepare(self.images)?);
        }
        let _range = Range::new(format_args!("run {} images", self.images));
        let done = self.enqueue(input, mark).map_err(lost).and_then(|()| self.wait());
        if done.is_err() {
            self.steps.settle(); // the input is the caller's again
            if self.steps.shared().watch.hangs() {
                // It may be read for ever, as may the caller's: the device then gets whatever is there.
                std::mem::forget(std::mem::take(&mut self.host.input));
            }
            self.images = 0;
        }
        done
    }

    /// Waits for everything queued so far.
    fn wait(&self) -> Result<()> {
        let stream = self.steps.stream();
        self.done.record(stream).map_err(|e| lost(failed_on(stream.context(), "running the network", e)))?;
        self.steps.wait(&self.done)
    }

    /// The output of the last run of the step whose layers have `layer`, in place of what `values` had.
    fn output(&mut self, layer: &str, values: &mut Vec<f32>) -> Result<()> {
        let (mut both, images) = (false, self.images);
        for number in 0..self.steps.towers().len() {
            let tower = &self.steps.towers()[number];
            let Some(index) = tower.plan.steps.iter().position(|step| step.layers.contains(&layer)) else { continue };
            let step = &tower.plan.steps[index];
            let element = self.steps.shared().rules.element().of_output(step);
            let (from, bytes) = (tower.buffer(index), images * step.room() * element.bytes());
            let (channels, pitch, first, is_half) = (step.output.c, step.pitch(), step.first(), step.half.is_some());
            let stream = Arc::clone(tower.stream());
            self.download(&stream, from, bytes)?;
            if !is_half {
                element.decode(&self.host.bytes, values);
                break;
            }
            // Halves next to each other, pixel by pixel.
            element.decode(&self.host.bytes, &mut self.host.half);
            let pixels = self.host.half.len() / pitch;
            if !both {
                values.clear();
                values.resize(2 * pixels * channels, 0.0);
                both = true;
            }
            let targets = values.chunks_exact_mut(2 * channels).zip(self.host.half.chunks_exact(pitch));
            targets.for_each(|(to, from)| {
                to[number * channels..][..channels].copy_from_slice(&from[first..first + channels]);
            });
        }
        Ok(())
    }

    /// Copies `len` bytes at `from` to the host by `stream`, and waits for them and everything before.
    fn download(&mut self, stream: &Arc<CudaStream>, from: DevicePtr, len: usize) -> Result<()> {
        self.host.bytes.resize(len, 0);
        let running = |e| lost(failed_on(stream.context(), "running the network", e));
        stream.context().bind_to_thread().map_err(running)?;
        // SAFETY: `from` has `len` bytes in the arena or the results; `bytes` stays until the wait below, or settle, is over.
        // Where the device hangs it is given up, below.
        let copied = unsafe { result::memcpy_dtoh_async(&mut self.host.bytes, from, stream.cu_stream()) };
        let done = copied.map_err(running).and_then(|()| {
            let copied = stream.record_event(None).map_err(running)?;
            self.steps.shared().watch.wait(&copied, stream, &[])
        });
        if done.is_err() {
            self.steps.settle();
            if self.steps.shared().watch.hangs() {
                std::mem::forget(std::mem::take(&mut self.host.bytes));
            }
        }
        done
    }
}

/// Queues the copy of `bytes` to `to`, which has room for them in an allocation of the session. They must stay as they are
/// until it is done.
fn upload(tower: &Tower, to: DevicePtr, bytes: &[u8]) -> Result<()> {
    let stream = tower.stream();
    let copying = |e| failed_on(stream.context(), "copying the input", e);
    stream.context().bind_to_thread().map_err(copying)?;
    // SAFETY: room and lifetime are the callers' promise, which both keep: run waits.
    unsafe { result::memcpy_htod_async(to, bytes, stream.cu_stream()) }.map_err(copying)
}

impl Drop for CudaSession {
    fn drop(&mut self) {
        if self.steps.shared().watch.hangs() {
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
        self.run_marked(input, |_, _| Ok(()))
    }

    fn logits(&mut self) -> Result<&[f32]> {
        let mut logits = std::mem::take(&mut self.host.logits);
        let downloaded = self.output(self.steps.plan.logits().layers[0], &mut logits);
        self.host.logits = logits;
        downloaded.map(|()| &self.host.logits[..])
    }

    fn top_k(&mut self, k: usize, score: Score) -> Result<&[Prediction]> {
        let classes = self.steps.plan.classes();
        let logits = self.steps.plan.logits();
        if self.steps.shared().rules.element().of_output(logits) != Element::F32 {
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
            self.results = Some(memory.map_err(|e| failed_on(stream.context(), "allocating memory for results", e))?);
        }
        let at = address(self.results.as_ref().expect("just made"), stream);
        // SAFETY: logits are (images, classes) float32 in the session's arena; the results have room for all images and k
        // classes each, and are an allocation of their own.
        unsafe { self.steps.rank(&results, score, at)? };
        self.wait()?; // patiently, which a copy to pageable memory would not be
        let stream = Arc::clone(self.steps.stream());
        self.download(&stream, at, results.bytes())?;
        self.host.predictions.extend(results.predictions(&self.host.bytes));
        Ok(&self.host.predictions)
    }

    fn activation(&mut self, name: &str) -> Result<Activation> {
        let step = self.steps.plan.kept(name)?;
        let Shape { h, w, c } = step.output;
        let mut values = vec![];
        self.output(name, &mut values)?;
        Ok(Activation { shape: [self.images, h, w, c], values })
    }

    fn timeline(&mut self, input: Input<'_>) -> Result<Timeline> {
        let mut clock = Clock::new(&self.steps)?;
        let streams: Vec<_> = self.steps.towers().iter().map(|tower| Arc::clone(tower.stream())).collect();
        self.run_marked(input, |tower, mark| clock.mark(&streams[tower], tower, mark))?;
        clock.read(&self.steps, self.images)
    }
}

//! Batch after batch at full speed: while one is computed, the next one is copied to the device.
//!
//! Two slots, each with memory for a batch of pixels on the device and for its results on the host. Copies run on a stream of
//! their own; an event tells the stream that computes when a slot's pixels are there. All kernels of a batch and the copy of
//! its results are one CUDA graph. The last batch of a run is filled up to one of few numbers of images. The first batch of
//! a number runs kernel by kernel, since a first launch may load a kernel, which no capture allows, and a number that comes
//! once is not worth a graph; later ones are captured when a slot first sees them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, result};

use super::launch::capture;
use super::nvtx::Range;
use super::pinned::Pinned;
use super::results::Results;
use super::steps::{Placement, Run, Steps};
use super::stopwatch::Stopwatch;
use super::tower::{Prepared, Tower};
use super::{failed_on, lost};
use crate::backend::{Done, Input, Pipeline, Prediction, Score, Scored};
use crate::pixels::{Memory as _, Pixels};
use crate::plan::Plan;
use crate::{Error, Result};

/// Batches under way at once: one is computed, one is copied.
pub(super) const SLOTS: usize = 2;

pub struct CudaPipeline {
    /// Before the memory that they know the addresses of.
    slots: [Slot; SLOTS],
    /// What runs each step, by number of images, for those that ran.
    prepared: HashMap<usize, Run>,
    steps: Steps,
    /// A stream a device.
    copies: Vec<Arc<CudaStream>>,
    k: usize,
    score: Score,
    under_way: VecDeque<UnderWay>,
    /// The next batch's.
    slot: usize,
    /// Where batches are timed.
    stopwatch: Option<Stopwatch>,
}

/// A batch's place.
struct Slot {
    /// By number of images.
    graphs: HashMap<usize, CudaGraph>,
    /// Where graphs copy results to.
    results: Pinned,
    /// The pixels are there, for each device.
    copied: Vec<CudaEvent>,
    /// The results are on the host.
    done: CudaEvent,
}

// SAFETY: graphs are used by one thread at a time, since every use takes the pipeline exclusively.
unsafe impl Send for Slot {}

/// A batch that was submitted.
struct UnderWay {
    pixels: Pixels,
    images: usize,
    /// Of the graph, which fills the batch up.
    results: Results,
    slot: usize,
    /// Whether its pixels were on the device before.
    resident: bool,
    /// Host time that queueing all of it took; only once that is over does `done` stand for this batch.
    started: Option<Duration>,
}

impl CudaPipeline {
    pub fn new(placement: &Placement, plan: Plan, k: usize, score: Score) -> Result<Self> {
        let k = k.clamp(1, plan.classes());
        let most = Results { images: plan.batch, k };
        let steps = Steps::new(placement, plan, SLOTS, most.bytes())?;
        let context = steps.stream().context();
        let watch = &steps.shared().watch;
        let opening = |context: &CudaContext, e| failed_on(context, "making streams and events", e);
        let event = |context: &Arc<CudaContext>| context.new_event(None).map_err(|e| opening(context, e));
        let slot = || {
            Ok(Slot {
                graphs: HashMap::new(),
                results: Pinned::new(context, watch, most.bytes())?,
                copied: steps.inputs(0).map(|(tower, _)| event(tower.stream().context())).collect::<Result<_>>()?,
                done: event(context)?,
            })
        };
        let slots = [slot()?, slot()?];
        let copies = steps.inputs(0).map(|(tower, _)| {
            let open = || {
                let copies = tower.stream().context().new_stream()?;
                // The pixels' memory is cleared on the other stream.
                copies.wait(&tower.stream().record_event(None)?)?;
                Ok(copies)
            };
            open().map_err(|e| opening(tower.stream().context(), e))
        });
        let copies = copies.collect::<Result<_>>()?;
        Ok(CudaPipeline {
            slots,
            prepared: HashMap::new(),
            steps,
            copies,
            k,
            score,
            under_way: VecDeque::new(),
            slot: 0,
            stopwatch: None,
        })
    }

    /// The number of images that a batch of `images` is filled up to: few numbers, few graphs.
    fn tier(&self, images: usize) -> usize {
        images.next_power_of_two().min(self.steps.plan.batch)
    }

    /// Makes `pixels` the newest batch under way, and queues it; where they are `resident`, without a copy.
    fn push(&mut self, pixels: Pixels, resident: bool) -> Result<()> {
        let begin = Instant::now();
        assert!(self.under_way.len() < SLOTS, "more batches than a pipeline holds");
        let images = Input::Pixels(&pixels).images(&self.steps.plan)?;
        if images == 0 {
            return Err(Error::Usage("a batch of no images".into()));
        }
        let results = Results { images: self.tier(images), k: self.k };
        self.under_way.push_back(UnderWay { pixels, images, results, slot: self.slot, resident, started: None });
        self.slot = (self.slot + 1) % SLOTS;
        self.start()?;
        self.under_way.back_mut().expect("it is there").started = Some(begin.elapsed());
        Ok(())
    }

    /// Queues the newest batch that is under way.
    fn start(&mut self) -> Result<()> {
        let UnderWay { pixels, results, slot: number, images, resident, .. } =
            self.under_way.back().expect("one was submitted");
        let _range = Range::new(format_args!("submit {images} images"));
        let (number, results, resident) = (*number, *results, *resident);
        if !self.prepared.contains_key(&results.images) {
            let prepared = self.steps.prepare(results.images)?;
            self.prepared.insert(results.images, prepared);
        } else if self.steps.is_capturable() && !self.slots[number].graphs.contains_key(&results.images) {
            let graph = self.capture(number, results).map_err(lost)?;
            self.slots[number].graphs.insert(results.images, graph);
        }
        let (slot, stream) = (&self.slots[number], self.steps.stream());
        let moments = self.stopwatch.as_ref().map(|stopwatch| stopwatch.slot(number));
        let starting = |stream: &CudaStream, e| lost(failed_on(stream.context(), "starting a batch", e));
        let devices = self.steps.inputs(number).zip(&self.copies).zip(&slot.copied).enumerate();
        for (device, (((tower, to), copies), copied)) in devices {
            if resident {
                break;
            }
            copies.context().bind_to_thread().map_err(|e| starting(copies, e))?;
            moments
                .map_or(Ok(()), |moments| moments.copy_in[device].begin.record(copies))
                .map_err(|e| starting(copies, e))?;
            // SAFETY: the slot's memory holds a batch of pixels, and the batch that used it before was waited for; the pixels
            // stay with this pipeline until the copy is over, or for ever where the device hangs.
            let queued = unsafe { result::memcpy_htod_async(to, pixels, copies.cu_stream()) };
            let queued =
                queued.and_then(|()| moments.map_or(Ok(()), |moments| moments.copy_in[device].end.record(copies)));
            let queued = queued.and_then(|()| copied.record(copies));
            queued.and_then(|()| tower.stream().wait(copied)).map_err(|e| starting(copies, e))?;
        }
        let starting = |e| starting(stream, e);
        stream.context().bind_to_thread().map_err(starting)?;
        moments.map_or(Ok(()), |moments| moments.begun.record(stream)).map_err(starting)?;
        match slot.graphs.get(&results.images) {
            Some(graph) => graph.launch().map_err(starting)?,
            None => self.enqueue(number, results, false).map_err(lost)?,
        }
        moments.map_or(Ok(()), |moments| moments.copied_out.record(stream)).map_err(starting)?;
        slot.done.record(stream).map_err(starting)
    }

    /// The graph of all kernels for a number of images, from pixels in slot `number` to results on the host.
    fn capture(&self, number: usize, results: Results) -> Result<CudaGraph> {
        capture(self.steps.stream(), || self.enqueue(number, results, true))
    }

    /// All kernels of a batch and the copy of its results, now or, `captured`, in a graph.
    fn enqueue(&self, number: usize, results: Results, captured: bool) -> Result<()> {
        let (run, images) = (&self.prepared[&results.images], results.images);
        let preprocess = |tower: &Tower, prepared: &[Prepared], at| tower.start(prepared, 0, images, at, 0);
        self.steps.enqueue(run, images, 0, number, preprocess, |_, _| Ok(()))?;
        let (from, stream) = (self.steps.results(), self.steps.stream());
        // SAFETY: results of the plan's whole batch have room in the arena, where no step uses it.
        unsafe { self.steps.rank(&results, self.score, from)? };
        if let Some(stopwatch) = &self.stopwatch {
            stopwatch.slot(number).ranked(stream, captured)?;
        }
        let host = self.slots[number].results.bytes();
        // SAFETY: page-locked memory of that many bytes and more, which the slot keeps as long as its graphs. Nobody looks at
        // it before `done`.
        let copied = unsafe {
            let host = std::slice::from_raw_parts_mut(host.as_ptr().cast::<u8>(), results.bytes());
            result::memcpy_dtoh_async(host, from, stream.cu_stream())
        };
        copied.map_err(|e| failed_on(stream.context(), "copying results", e))
    }

    /// The results of a batch that is done, those that overflowed computed again.
    fn read(&self, batch: &UnderWay) -> Result<Vec<Scored>> {
        let UnderWay { images, results, slot, .. } = *batch;
        // SAFETY: the copy that writes them is over, and the slot's next one not begun.
        let bytes = unsafe { self.slots[slot].results.bytes().as_ref() };
        let predictions: Vec<Prediction> = results.predictions(bytes).collect();
        let precision = self.steps.shared().rules.precision;
        let image_len = self.steps.plan.input.len();
        let scored = predictions.chunks_exact(results.k).zip(results.finite(bytes)).take(images).enumerate();
        let scored = scored.map(|(index, (predictions, finite))| match &self.steps.shared().wide {
            Some(wide) if !finite => {
                wide.score(&batch.pixels[index * image_len..][..image_len], self.k, self.score).map_err(lost)
            }
            _ => Ok(Scored { predictions: predictions.to_vec(), precision, finite }),
        });
        scored.collect()
    }
}

impl Pipeline for CudaPipeline {
    fn depth(&self) -> usize {
        SLOTS
    }

    fn submit(&mut self, pixels: Pixels) -> Result<()> {
        self.push(pixels, false)
    }

    fn resubmit(&mut self, pixels: Pixels) -> Result<()> {
        self.push(pixels, true)
    }

    fn collect(&mut self) -> Result<Option<Done>> {
        let Some(batch) = self.under_way.front() else { return Ok(None) };
        let Some(enqueue) = batch.started else {
            return Err(Error::DeviceLost("a batch did not start, and has no results; submit it again".into()));
        };
        let _range = Range::new(format_args!("collect {} images", batch.images));
        self.steps.wait(&self.slots[batch.slot].done)?;
        let scored = self.read(batch)?;
        let times = self.stopwatch.as_ref().map(|stopwatch| stopwatch.read(batch.slot, enqueue, batch.resident));
        let times = times.transpose()?;
        let batch = self.under_way.pop_front().expect("it is there");
        Ok(Some(Done { pixels: batch.pixels, scored, times }))
    }

    fn time(&mut self) -> Result<()> {
        assert!(self.under_way.is_empty(), "batches are under way");
        // They record no events, or those of an earlier stopwatch.
        self.slots.iter_mut().for_each(|slot| slot.graphs.clear());
        self.stopwatch = Some(Stopwatch::start(&self.steps)?);
        Ok(())
    }

    fn abandon(&mut self) -> Vec<Pixels> {
        self.settle();
        self.slot = 0;
        let pixels = self.under_way.drain(..).map(|batch| batch.pixels);
        if self.steps.shared().watch.hangs() {
            pixels.for_each(std::mem::forget); // it may still read them
            return vec![];
        }
        pixels.collect()
    }
}

impl CudaPipeline {
    /// Waits until the device touches none of the slots any more, unless it hangs.
    fn settle(&self) {
        for copies in &self.copies {
            self.steps.shared().watch.settle(copies);
        }
        self.steps.settle();
    }
}

impl Drop for CudaPipeline {
    fn drop(&mut self) {
        self.abandon();
    }
}

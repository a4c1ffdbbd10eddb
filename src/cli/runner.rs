//! Batches through a pipeline that shrinks where the device's memory is short.

use std::collections::VecDeque;

use alexnet::input::{self, Fed, Feed, Row};
use alexnet::{BatchTimes, Done, Error, Model, Pipeline, Pixels, Result, Score, Scored};

use super::{note, note_given_up};

/// Batch buffers of a run at least, so that decoders work ahead of a pipeline that takes one batch at a time.
const LEAST_BUFFERS: usize = 3;
/// Pictures in the buffers of a run on the CPU at least, so that all threads find one to decode.
const LOOK_AHEAD: usize = 64;

/// Runs batches in pieces of at most its own size, which it halves when memory runs out; results come out in order.
pub struct Runner<'a> {
    model: &'a Model,
    on_cpu: bool,
    batch: usize,
    k: usize,
    score: Score,
    /// `None` only while it is replaced, and after an error.
    pipeline: Option<Box<dyn Pipeline>>,
    /// Pieces in the pipeline.
    under_way: usize,
    /// Pixels that wait for it.
    waiting: VecDeque<Pixels>,
    /// Batches as they were submitted, oldest first.
    batches: VecDeque<Batch>,
    /// Devices whose end was told.
    told: usize,
    /// Times of batches, where they are asked for.
    times: Option<Vec<BatchTimes>>,
}

/// A batch, of which a part may have come out.
struct Batch {
    images: usize,
    pixels: Option<Pixels>,
    scored: Vec<Scored>,
}

impl<'a> Runner<'a> {
    /// For batches of `batch` images, at least one, or as many as there is memory for.
    ///
    /// # Errors
    /// Those of the device, when there is no memory for one image.
    pub fn new(model: &'a Model, batch: usize, k: usize, score: Score) -> Result<Self> {
        let mut runner = Runner {
            model,
            on_cpu: model.gpus().is_empty(),
            batch,
            k,
            score,
            pipeline: None,
            under_way: 0,
            waiting: VecDeque::new(),
            batches: VecDeque::new(),
            told: model.given_up().len(),
            times: None,
        };
        runner.open()?;
        Ok(runner)
    }

    /// Pictures of a batch, fewer than were asked for where they did not fit.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// From now on, between runs, batches are timed as [`Pipeline::time`] says.
    ///
    /// # Errors
    /// Those of the device.
    pub fn time(&mut self) -> Result<()> {
        self.times = Some(vec![]);
        self.pipeline.as_mut().map_or(Ok(()), |pipeline| pipeline.time())
    }

    /// The times of all batches, or pieces of batches, since the last call.
    pub fn take_times(&mut self) -> Vec<BatchTimes> {
        self.times.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Memory for batches of the runner's size, which is halved where there is not as much: for those that are under way and
    /// one that is decoded.
    ///
    /// # Errors
    /// Those of the device.
    pub fn buffers(&mut self) -> Result<Vec<Pixels>> {
        loop {
            let depth = self.pipeline.as_ref().map_or(0, |pipeline| pipeline.depth());
            let ahead = if self.on_cpu { LOOK_AHEAD.div_ceil(self.batch) } else { depth + 1 };
            match (0..LEAST_BUFFERS.max(ahead)).map(|_| self.model.pixels(self.batch)).collect() {
                Err(Error::DeviceMemory(reason)) => self.shrink(reason)?,
                other => return other,
            }
        }
    }

    /// Runs everything that `feed` gives, in [`buffers`](Self::buffers), and shows each batch's rows and what came out for
    /// them to `take`, in order. After an error it runs no more.
    ///
    /// # Errors
    /// Those of the device, and of `take`.
    pub fn run(&mut self, feed: &mut Feed, take: impl FnMut(&[Row], &[Scored]) -> Result<()>) -> Result<()> {
        let done = self.run_all(feed, take);
        note_given_up(self.model, &mut self.told);
        if done.is_err() {
            self.pipeline = None; // before the feed's memory, which would wait for a device that hangs
        }
        done
    }

    fn run_all(&mut self, feed: &mut Feed, mut take: impl FnMut(&[Row], &[Scored]) -> Result<()>) -> Result<()> {
        let mut rows: VecDeque<Vec<Row>> = VecDeque::new();
        loop {
            let fed = feed.next_batch();
            let idle = !matches!(fed, Fed::Batch(_));
            let ended = matches!(fed, Fed::End);
            match fed {
                Fed::Batch(batch) if self.on_cpu => {
                    feed.alone(|feed| self.compute(batch, feed, &mut take))?;
                    continue;
                }
                Fed::Batch(batch) => {
                    rows.push_back(batch.rows);
                    self.submit(batch.pixels)?;
                }
                Fed::Pause | Fed::End => {}
            }
            while self.is_full() || idle {
                let Some(done) = self.collect()? else { break };
                note_given_up(self.model, &mut self.told);
                feed.give_back(done.pixels);
                take(&rows.pop_front().expect("rows for every batch"), &done.scored)?;
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Computes `batch`, and what is ready of `feed` by then, on the threads that decode at other times.
    fn compute(
        &mut self,
        batch: input::Batch,
        feed: &mut Feed,
        take: &mut impl FnMut(&[Row], &[Scored]) -> Result<()>,
    ) -> Result<()> {
        let mut next = Some(batch);
        while let Some(input::Batch { rows, pixels }) = next {
            self.submit(pixels)?;
            let done = self.collect()?.expect("a batch was submitted");
            feed.give_back(done.pixels);
            take(&rows, &done.scored)?;
            next = feed.ready_batch();
        }
        Ok(())
    }

    /// Whether another batch would have to wait.
    fn is_full(&self) -> bool {
        self.pipeline.as_ref().is_some_and(|pipeline| self.under_way == pipeline.depth())
    }

    fn submit(&mut self, pixels: Pixels) -> Result<()> {
        let images = pixels.len() / self.model.network().input().len();
        self.batches.push_back(Batch { images, pixels: None, scored: vec![] });
        self.waiting.push_back(pixels);
        self.advance()
    }

    /// Fills the pipeline with pixels that wait.
    fn advance(&mut self) -> Result<()> {
        let bytes = self.model.network().input().len();
        while !self.is_full() {
            let Some(mut pixels) = self.waiting.pop_front() else { break };
            let piece = pixels.split_to(pixels.len().min(self.batch * bytes));
            if !pixels.is_empty() {
                self.waiting.push_front(pixels);
            }
            self.under_way += 1;
            let submitted = self.pipeline.as_mut().expect("one is open between calls").submit(piece);
            self.unless_memory_is_short(submitted)?;
        }
        Ok(())
    }

    /// Waits for the oldest batch; `None` where none is under way.
    fn collect(&mut self) -> Result<Option<Done>> {
        while let Some(batch) = self.batches.front_mut() {
            if batch.scored.len() == batch.images {
                let Batch { pixels, scored, .. } = self.batches.pop_front().expect("it is there");
                return Ok(pixels.map(|pixels| Done { pixels, scored, times: None }));
            }
            let collected = self.pipeline.as_mut().expect("one is open between calls").collect();
            if let Some(Some(done)) = self.unless_memory_is_short(collected)? {
                self.under_way -= 1;
                let batch = self.batches.front_mut().expect("pieces are of the oldest batch");
                batch.scored.extend(done.scored);
                if let Some(all) = &mut self.times {
                    all.extend(done.times);
                }
                match &mut batch.pixels {
                    Some(pixels) => pixels.join(done.pixels),
                    none => *none = Some(done.pixels),
                }
            }
            self.advance()?;
        }
        Ok(None)
    }

    /// The result, or `None` where memory was short: then everything under way waits again, for a smaller pipeline.
    fn unless_memory_is_short<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        let reason = match result {
            Err(Error::DeviceMemory(reason)) => reason,
            other => return other.map(Some),
        };
        if let Some(mut pipeline) = self.pipeline.take() {
            let pixels = pipeline.abandon();
            if pixels.len() < self.under_way {
                return Err(Error::DeviceLost(
                    "the device does not answer; what was finished before is good, run the rest again, with --patience \
                     SECONDS if the device is only slow"
                        .into(),
                ));
            }
            for pixels in pixels.into_iter().rev() {
                self.waiting.push_front(pixels);
            }
        }
        self.shrink(reason)?;
        Ok(None)
    }

    /// Replaces the pipeline, in which nothing is under way any more, by one of half the batch.
    fn shrink(&mut self, reason: String) -> Result<()> {
        self.pipeline = None; // its memory goes before the next one's comes
        self.under_way = 0;
        self.halve(reason)?;
        self.open()
    }

    /// A pipeline for the largest batch that fits.
    fn open(&mut self) -> Result<()> {
        loop {
            match self.model.pipeline(self.batch, self.k, self.score) {
                Ok(mut pipeline) => {
                    if self.times.is_some() {
                        pipeline.time()?;
                    }
                    self.pipeline = Some(pipeline);
                    return Ok(());
                }
                Err(Error::DeviceMemory(reason)) => self.halve(reason)?,
                Err(error) => return Err(error),
            }
        }
    }

    fn halve(&mut self, reason: String) -> Result<()> {
        if self.batch == 1 {
            return Err(Error::DeviceMemory(reason));
        }
        self.batch /= 2;
        note(&format!("no memory for that batch, going on with {}: {reason}", self.batch));
        Ok(())
    }
}

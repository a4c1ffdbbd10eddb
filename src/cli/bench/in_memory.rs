//! Batches of the same pictures, one after another.

use std::time::Instant;

use alexnet::record::Mode;
use alexnet::weights::seeded;
use alexnet::{BatchTimes, Model, Pipeline, Pixels, Result, Score};

use super::Measuring;
use super::steps::Steps;

/// A pipeline, and pixels that go round in it.
struct Round {
    pipeline: Box<dyn Pipeline>,
    mode: Mode,
    free: Vec<Pixels>,
    under_way: usize,
}

impl Round {
    fn new(model: &Model, mode: Mode, batch_size: usize) -> Result<Self> {
        let mut pipeline = model.pipeline(batch_size, 1, Score::Prob)?;
        let size = model.network().input_size;
        let mut free: Vec<Pixels> = vec![];
        // The device has as many places, whatever is measured.
        for _ in 0..pipeline.depth() {
            let mut pixels = model.pixels(batch_size)?;
            match free.last() {
                Some(drawn) => pixels.copy_from_slice(drawn),
                None => seeded::pictures(0, size, &mut pixels),
            }
            pipeline.submit(pixels)?;
            free.extend(pipeline.collect()?.map(|done| done.pixels));
        }
        Ok(Round { pipeline, mode, free, under_way: 0 })
    }

    /// As many batches under way as the mode has, then one less: its times, where it is timed.
    fn step(&mut self) -> Result<Option<BatchTimes>> {
        let depth = if self.mode == Mode::Latency { 1 } else { self.pipeline.depth() };
        while self.under_way < depth {
            let pixels = self.free.pop().expect("one for each place");
            match self.mode {
                Mode::Compute => self.pipeline.resubmit(pixels)?,
                _ => self.pipeline.submit(pixels)?,
            }
            self.under_way += 1;
        }
        self.collect()
    }

    fn collect(&mut self) -> Result<Option<BatchTimes>> {
        let Some(done) = self.pipeline.collect()? else { return Ok(None) };
        self.free.push(done.pixels);
        self.under_way -= 1;
        Ok(done.times)
    }

    /// Times of batches of a pass of their own.
    fn clocked(&mut self, how: &Measuring) -> Result<Vec<BatchTimes>> {
        while self.under_way > 0 {
            self.collect()?;
        }
        self.pipeline.time()?;
        // The first in each place make its graph anew.
        for _ in 0..2 * self.pipeline.depth() {
            self.step()?;
        }
        let (begin, mut times) = (Instant::now(), vec![]);
        while !how.is_clocked(times.len(), begin.elapsed()) {
            times.extend(self.step()?);
        }
        Ok(times)
    }
}

pub fn measure(model: &Model, mode: Mode, batch_size: usize, how: &Measuring) -> Result<Steps> {
    let mut round = Round::new(model, mode, batch_size)?;
    let warm_up = Instant::now();
    while warm_up.elapsed() < how.warmup {
        round.step()?;
    }
    let begin = Instant::now();
    let mut seconds = vec![];
    while seconds.len() < how.iterations as usize || begin.elapsed() < how.duration {
        let begin = Instant::now();
        round.step()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    let elapsed = begin.elapsed();
    let images = vec![batch_size; seconds.len()];
    Ok(Steps { seconds, images, failed: 0, elapsed, clocked: round.clocked(how)? })
}

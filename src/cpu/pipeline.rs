//! Batches in order on the CPU, each computed when it is collected: pictures are decoded by other threads meanwhile.

use std::time::{Duration, Instant};

use crate::backend::{BatchTimes, Done, Input, Interval, Pipeline, Score, Scored, Session};
use crate::options::Precision;
use crate::pixels::Pixels;
use crate::{Error, Result};

pub struct CpuPipeline {
    session: Box<dyn Session>,
    k: usize,
    score: Score,
    precision: Precision,
    /// With the time that submitting took.
    waiting: Option<(Pixels, Duration)>,
    /// Since when batches are timed.
    started: Option<Instant>,
}

impl CpuPipeline {
    /// Of `session`'s plan, the `k` best classes of each image, at least one, computed in `precision`.
    pub fn new(session: Box<dyn Session>, k: usize, score: Score, precision: Precision) -> Self {
        let k = k.clamp(1, session.plan().classes());
        CpuPipeline { session, k, score, precision, waiting: None, started: None }
    }
}

impl Pipeline for CpuPipeline {
    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, pixels: Pixels) -> Result<()> {
        let begin = Instant::now();
        assert!(self.waiting.is_none(), "more batches than a pipeline holds");
        if Input::Pixels(&pixels).images(self.session.plan())? == 0 {
            return Err(Error::Usage("a batch of no images".into()));
        }
        self.waiting = Some((pixels, begin.elapsed()));
        Ok(())
    }

    fn resubmit(&mut self, pixels: Pixels) -> Result<()> {
        self.submit(pixels)
    }

    fn collect(&mut self) -> Result<Option<Done>> {
        let Some((pixels, enqueue)) = &self.waiting else { return Ok(None) };
        let (enqueue, begin) = (*enqueue, self.started.map(|started| (started, started.elapsed())));
        self.session.run(Input::Pixels(pixels))?;
        let classes = self.session.plan().classes();
        let logits = self.session.logits()?.chunks_exact(classes);
        let finite: Vec<bool> = logits.map(|logits| logits.iter().all(|l| l.is_finite())).collect();
        let predictions = self.session.top_k(self.k, self.score)?.chunks_exact(self.k);
        let scored = predictions.zip(finite).map(|(predictions, finite)| Scored {
            predictions: predictions.to_vec(),
            precision: self.precision,
            finite,
        });
        let scored = scored.collect();
        let times = begin.map(|(started, begin)| {
            let compute = Interval { begin, end: started.elapsed() };
            BatchTimes { enqueue, copy_in: None, compute, copy_out: None }
        });
        Ok(self.waiting.take().map(|(pixels, _)| Done { pixels, scored, times }))
    }

    fn time(&mut self) -> Result<()> {
        assert!(self.waiting.is_none(), "batches are under way");
        self.started = Some(Instant::now());
        Ok(())
    }

    fn abandon(&mut self) -> Vec<Pixels> {
        self.waiting.take().into_iter().map(|(pixels, _)| pixels).collect()
    }
}

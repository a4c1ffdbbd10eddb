//! Runs step by step and at full speed, in turns.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use alexnet::weights::seeded;
use alexnet::{BatchTimes, Done, Error, Input, Model, Pipeline, Pixels, Result, Score, Timeline};

/// Run before anything counts, and at least twice.
const WARM_UP: Duration = Duration::from_millis(200);
/// Runs of each kind at least.
const MIN_RUNS: usize = 10;
/// Batches of the trace, after as many that get the pipeline going.
const TRACED: usize = 4;

/// What was measured.
pub struct Measured {
    /// Of runs step by step.
    pub timelines: Vec<Timeline>,
    /// Milliseconds of runs at full speed, one each.
    pub run_ms: Vec<f64>,
    /// Whether those are of the device's own clock, over a CUDA graph.
    pub on_gpu: bool,
    /// Batches one after another through the pipeline, where they were asked for.
    pub batches: Vec<BatchTimes>,
}

/// `model` on batches of `batch` random pictures, for `duration` at least.
///
/// # Errors
/// Those of the device.
pub fn measure(model: &Model, batch: usize, seed: u64, duration: Duration, traced: bool) -> Result<Measured> {
    let size = model.network().input_size;
    let filled = || -> Result<Pixels> {
        let mut pixels = model.pixels(batch)?;
        seeded::pictures(seed, size, &mut pixels);
        Ok(pixels)
    };
    let pixels = filled()?;
    let mut session = model.session(batch, &[])?;
    let pipeline = model.pipeline(batch, 1, Score::Prob)?;
    let on_gpu = pipeline.depth() > 1;
    let mut batches = match on_gpu || traced {
        true => Some(Batches::new(pipeline, filled)?),
        false => None,
    };
    let mut run = |session: &mut dyn alexnet::Session| match &mut batches {
        Some(batches) if on_gpu => Ok(ms(batches.next()?.compute.length())),
        _ => {
            let begin = Instant::now();
            session.run(Input::Pixels(&pixels))?;
            Ok(ms(begin.elapsed()))
        }
    };
    let (mut timelines, mut run_ms) = (vec![], vec![]);
    let warm_up = Instant::now();
    while timelines.len() < 2 || warm_up.elapsed() < WARM_UP {
        timelines.push(session.timeline(Input::Pixels(&pixels))?);
        run(&mut *session)?;
    }
    timelines.clear();
    let begin = Instant::now();
    while timelines.len() < MIN_RUNS || begin.elapsed() < duration {
        // First the one, then the other: what falls from run to run falls on both.
        if timelines.len().is_multiple_of(2) {
            run_ms.push(run(&mut *session)?);
            timelines.push(session.timeline(Input::Pixels(&pixels))?);
        } else {
            timelines.push(session.timeline(Input::Pixels(&pixels))?);
            run_ms.push(run(&mut *session)?);
        }
    }
    drop(session);
    let batches =
        if traced { batches.expect("made above").at_full_speed(2 * TRACED)?.split_off(TRACED) } else { vec![] };
    Ok(Measured { timelines, run_ms, on_gpu, batches })
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Batches of the same pictures through a pipeline that tells what took how long.
struct Batches {
    pipeline: Box<dyn Pipeline>,
    /// In the order in which their places come.
    free: VecDeque<Pixels>,
}

impl Batches {
    /// With every place of the pipeline filled, and every graph made.
    fn new(mut pipeline: Box<dyn Pipeline>, filled: impl Fn() -> Result<Pixels>) -> Result<Self> {
        pipeline.time()?;
        let free = (0..pipeline.depth()).map(|_| filled()).collect::<Result<_>>()?;
        let mut batches = Batches { pipeline, free };
        // The first batch runs kernel by kernel, later ones are captured once in each place.
        let rounds = 2 * batches.pipeline.depth();
        batches.at_full_speed(rounds)?;
        Ok(batches)
    }

    /// One batch on the pixels that the device holds.
    fn next(&mut self) -> Result<BatchTimes> {
        let pixels = self.free.pop_front().expect("one for each place");
        self.pipeline.resubmit(pixels)?;
        self.collect()
    }

    /// `count` batches, each copied while the one before is computed.
    fn at_full_speed(&mut self, count: usize) -> Result<Vec<BatchTimes>> {
        let mut times = vec![];
        for _ in 0..count {
            if self.free.is_empty() {
                times.push(self.collect()?);
            }
            self.pipeline.submit(self.free.pop_front().expect("one came back"))?;
        }
        while times.len() < count {
            times.push(self.collect()?);
        }
        Ok(times)
    }

    fn collect(&mut self) -> Result<BatchTimes> {
        let Done { pixels, times, .. } = self.pipeline.collect()?.expect("one is under way");
        self.free.push_back(pixels);
        times.ok_or_else(|| {
            Error::DeviceLost("a batch came back without its times; this is a mistake, report it".into())
        })
    }
}

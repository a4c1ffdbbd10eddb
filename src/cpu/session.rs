//! A plan's buffers, and its run.
//!
//! Up to the fully connected layers a picture's way does not meet another's: groups of pictures go through all those steps, each
//! group on one thread, so that what lies between them stays in the caches. Pictures too few to divide evenly are one group, whose
//! steps all threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::clock::Clock;
use super::memory::{Memory, Scratch};
use super::softmax::TopK;
use super::team::{Parts, Team};
use super::{Shared, run_step, start};
use crate::Result;
use crate::backend::{Activation, Input, Prediction, Score, Session, Timeline, Work};
use crate::net::Shape;
use crate::plan::{Plan, Step, StepKind};

/// Pictures of a group at most: enough to use each filter for many of them, few enough for the caches.
const GROUP: usize = 4;
/// Bytes of the first fully connected layer that are asked for while the convolutions of a few pictures run: half of what a large
/// cache of the last level holds.
const AHEAD: usize = 16 << 20;

pub struct CpuSession {
    shared: Arc<Shared>,
    plan: Plan,
    /// Steps that groups go through.
    front: usize,
    /// One a plan buffer, for `plan.batch` images: what outlives a group.
    buffers: Vec<Memory<f32>>,
    /// Elements an image of the two buffers that a group works in.
    slot: [usize; 2],
    scratch: Scratch,
    /// Images of the last run.
    images: usize,
    seed: u64,
    top_k: TopK,
}

/// How many groups of pictures go through the front, and whether each is on one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Groups {
    count: usize,
    alone: bool,
}

impl Groups {
    fn new(images: usize, threads: usize) -> Self {
        let rounds = images.div_ceil(GROUP * threads);
        let count = rounds * threads;
        // In one round the largest group is waited for: a seventh of the time at most.
        let even = rounds > 1 || 7 * count * images.div_ceil(count) <= 8 * images;
        if threads == 1 || images >= threads && even {
            Groups { count: count.min(images), alone: true }
        } else {
            Groups { count: 1, alone: false }
        }
    }
}

impl CpuSession {
    /// For `plan`, which has been checked.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`](crate::Error::DeviceMemory) where memory is short.
    pub fn new(shared: Arc<Shared>, plan: Plan) -> Result<Self> {
        let joint = |step: &Step| matches!(step.kind, StepKind::Linear { .. } | StepKind::Dropout { .. });
        let front = plan.steps.iter().position(joint).unwrap_or(plan.steps.len());
        let (mut whole, mut slot) = (vec![0; plan.buffers.len()], [0; 2]);
        for (index, step) in plan.steps.iter().enumerate() {
            let len = step.output.len();
            match lasts(&plan, front, index) {
                true => whole[step.target] = len.max(whole[step.target]),
                false => slot[step.target] = len.max(slot[step.target]),
            }
        }
        let buffers =
            whole.into_iter().map(|elements| Memory::of_batch(elements * plan.batch)).collect::<Result<_>>()?;
        let scratch = Scratch::default();
        Ok(CpuSession { shared, plan, front, buffers, slot, scratch, images: 0, seed: 0, top_k: TopK::default() })
    }

    /// Bytes of inputs, layers and results.
    pub fn bytes(&self) -> usize {
        let threads = self.shared.group.threads;
        let groups = Groups::new(self.plan.batch, threads);
        let (at_once, images) = (if groups.alone { threads.min(groups.count) } else { 1 }, self.plan.batch);
        let slots = at_once * images.div_ceil(groups.count) * (self.slot[0] + self.slot[1]);
        size_of::<f32>() * slots + self.buffers.iter().map(Memory::bytes).sum::<usize>()
    }

    fn run_steps(&mut self, input: Input<'_>, clock: &mut Clock) -> Result<()> {
        self.images = input.images(&self.plan)?;
        if self.images == 0 {
            return Ok(());
        }
        let CpuSession { shared, plan, front, buffers, slot, scratch, images, seed, .. } = self;
        let (group, images) = (&shared.group, *images);
        let groups = Groups::new(images, group.threads);
        group.run(scratch, |team| {
            let whole: Vec<Parts<f32>> = buffers.iter_mut().map(|buffer| Parts::of(buffer)).collect();
            let run = Front {
                shared,
                plan,
                len: *front,
                whole: &whole,
                slot: *slot,
                seed: *seed,
                times: clock.times(*front),
            };
            let begin = Instant::now();
            let ahead = group.ahead(plan.steps.get(*front), AHEAD);
            let inner = if groups.alone { team.alone() } else { Team { ahead: ahead.as_ref(), ..team } };
            let one = |index: usize| {
                let range = images * index / groups.count..images * (index + 1) / groups.count;
                run.group(&inner, input, range);
            };
            let outer = if groups.alone { team } else { team.alone() };
            outer.for_each(groups.count, one);
            clock.shares(begin.elapsed(), plan.steps[..*front].iter().map(layers).zip(&run.times));
            for step in &plan.steps[*front..] {
                let source = step.source.expect("preprocessing alone has none");
                let both = buffers.get_disjoint_mut([source, step.target]);
                let [source, target] = both.expect("plans never write the buffer that a step reads");
                let (source, target) =
                    (&source[..images * step.input.len()], &mut target[..images * step.output.len()]);
                run_step(step, group, &team, images, *seed, source, target);
                clock.done(|| layers(step));
            }
        })
    }
}

fn layers(step: &Step) -> Work {
    Work::Layers(step.layers.clone())
}

/// Images `range` of `input`.
fn part<'a>(input: Input<'a>, range: &std::ops::Range<usize>, plan: &Plan) -> Input<'a> {
    let len = plan.input.len();
    let range = range.start * len..range.end * len;
    match input {
        Input::Pixels(pixels) => Input::Pixels(&pixels[range]),
        Input::Tensor(values) => Input::Tensor(&values[range]),
    }
}

/// Whether the output of step `index` outlives its group, where `front` steps are run in groups.
fn lasts(plan: &Plan, front: usize, index: usize) -> bool {
    plan.steps[index].kept || index + 1 >= front
}

/// The steps that a group of pictures goes through.
struct Front<'a> {
    shared: &'a Shared,
    plan: &'a Plan,
    len: usize,
    /// For all images.
    whole: &'a [Parts<f32>],
    /// Elements an image.
    slot: [usize; 2],
    seed: u64,
    /// Nanoseconds of each step on all threads, where somebody asks.
    times: Vec<AtomicU64>,
}

impl Front<'_> {
    /// Images `range` of `input`.
    fn group(&self, team: &Team<'_>, input: Input<'_>, range: std::ops::Range<usize>) {
        let images = range.len();
        team.scratch.with(images * (self.slot[0] + self.slot[1]), |slot| {
            let (first, second) = slot.split_at_mut(images * self.slot[0]);
            let slot = [Parts::of(first), Parts::of(second)];
            let place = |index: usize, step: &Step| {
                let len = step.output.len();
                let start = match lasts(self.plan, self.len, index) {
                    // SAFETY: the buffer has room for this output of all images.
                    true => unsafe { self.whole[step.target].start().add(range.start * len) },
                    false => slot[step.target].start(),
                };
                (start, images * len)
            };
            for (index, step) in self.plan.steps[..self.len].iter().enumerate() {
                let begin = (!self.times.is_empty()).then(Instant::now);
                let (target, len) = place(index, step);
                // SAFETY: a slot has room for the outputs that do not last, whole buffers have these images' part of those that
                // do, which is this group's alone. Plans never write the buffer that a step reads.
                let output = unsafe { std::slice::from_raw_parts_mut(target, len) };
                match index.checked_sub(1) {
                    None => start(step, &self.shared.table, team, part(input, &range, self.plan), output),
                    Some(before) => {
                        let (source, len) = place(before, &self.plan.steps[before]);
                        // SAFETY: as above; it was written by the step before.
                        let source = unsafe { std::slice::from_raw_parts(source, len) };
                        run_step(step, &self.shared.group, team, images, self.seed, source, output);
                    }
                }
                if let Some(begin) = begin {
                    self.times[index].fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
            }
        });
    }
}

impl Session for CpuSession {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn reseed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn run(&mut self, input: Input<'_>) -> Result<()> {
        self.run_steps(input, &mut Clock::idle())
    }

    fn logits(&mut self) -> Result<&[f32]> {
        let step = self.plan.logits();
        Ok(&self.buffers[step.target][..self.images * step.output.len()])
    }

    fn top_k(&mut self, k: usize, score: Score) -> Result<&[Prediction]> {
        let step = self.plan.logits();
        let logits = &self.buffers[step.target][..self.images * step.output.len()];
        Ok(self.top_k.find(logits, step.output.len(), k, score))
    }

    fn activation(&mut self, name: &str) -> Result<Activation> {
        let step = self.plan.kept(name)?;
        let Shape { h, w, c } = step.output;
        let values = self.buffers[step.target][..self.images * step.output.len()].to_vec();
        Ok(Activation { shape: [self.images, h, w, c], values })
    }

    fn timeline(&mut self, input: Input<'_>) -> Result<Timeline> {
        let mut clock = Clock::from(Instant::now());
        self.run_steps(input, &mut clock)?;
        Ok(Timeline { tracks: vec![clock.track("CPU".into())] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_divided_evenly() {
        let groups = |images, threads| {
            let Groups { count, alone } = Groups::new(images, threads);
            (count, alone)
        };
        assert_eq!(
            [1, 2, 4, 5, 32].map(|images| groups(images, 1)),
            [(1, true), (1, true), (1, true), (2, true), (8, true)]
        );
        assert_eq!(
            [1, 2, 3, 7, 8].map(|images| groups(images, 2)),
            [(1, false), (2, true), (1, false), (2, true), (2, true)]
        );
        assert_eq!([9, 32, 33].map(|images| groups(images, 2)), [(4, true), (8, true), (10, true)]);
        assert_eq!([8, 16, 17, 64].map(|images| groups(images, 16)), [(1, false), (16, true), (1, false), (16, true)]);
    }
}

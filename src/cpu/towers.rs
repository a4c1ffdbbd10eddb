//! A network in two towers, each with threads, weights and buffers of its own, as two machines would have them: what one needs
//! of the other is sent to it, and nothing else. [`split`] says what that is.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use rayon::prelude::*;

use super::clock::Clock;
use super::group::Group;
use super::memory::Scratch;
use super::pipeline::CpuPipeline;
use super::preprocess::Table;
use super::softmax::TopK;
use super::{Settings, as_run, ceilings, pixels, run_step, start, threads, zeroed};
use crate::backend::{
    Activation, Backend, Holding, Input, Pipeline, Prediction, Score, Session, StepAsRun, Timeline, Work,
};
use crate::net::{Network, Shape};
use crate::pixels::Pixels;
use crate::plan::{Plan, Step};
use crate::record::Ceilings;
use crate::weights::{StoredWeights, all_or_problems};
use crate::{Error, Result, split};

/// A network's weights in two towers on the CPU, each with half of every layer's filters; the first has all of the last layer's.
pub struct CpuTowers {
    settings: Settings,
    shared: Arc<Shared>,
}

/// What every session needs.
struct Shared {
    network: Network,
    table: Table,
    groups: [Group; 2],
}

impl CpuTowers {
    /// Starts threads, one at least for each tower, which read `weights` and lay them out for the kernels.
    ///
    /// # Errors
    /// As [`CpuBackend::new`](super::CpuBackend::new), and [`Error::Usage`] naming a layer that cannot be divided.
    pub fn new(weights: impl Into<StoredWeights>, settings: Settings) -> Result<Self> {
        settings.check()?;
        let weights = weights.into();
        let plans = split::towers(&Plan::new(weights.network(), 1, &[])?)?;
        let (network, layers) = weights.into_parts();
        let steps = plans.each_ref().map(|plan| plan.steps.iter().filter(|step| step.weights().is_some()));
        let (mut halves, mut rest) = ([vec![], vec![]], vec![]);
        for ((index, layer), step) in layers.into_iter().enumerate().zip(steps[0].clone()) {
            match step.half {
                Some(_) => {
                    for (number, halves) in halves.iter_mut().enumerate() {
                        let step = steps[number].clone().nth(index).expect("both have this half");
                        halves.push((step.clone(), layer.half(number)));
                    }
                }
                None => rest.push((step.clone(), layer)),
            }
        }
        let [mut first, second] = halves;
        first.append(&mut rest);
        let threads = settings.threads;
        let groups = all_or_problems([
            Group::new(&settings, threads.div_ceil(2).max(1), first.into_iter()),
            Group::new(&settings, (threads / 2).max(1), second.into_iter()),
        ])?;
        let Ok(groups) = groups.try_into() else { unreachable!("a group a tower") };
        let table = Table::new(&network.variant.preprocess);
        Ok(CpuTowers { settings, shared: Arc::new(Shared { network, table, groups }) })
    }

    fn open(&self, plan: Plan) -> Result<TowersSession> {
        plan.check(&self.shared.network)?;
        let plans = Arc::new(split::towers(&plan)?);
        for (plan, group) in plans.iter().zip(&self.shared.groups) {
            for step in &plan.steps {
                let layer = step.weights().map(|weights| group.layers.get(weights));
                if layer.is_some_and(|layer| layer.is_none_or(|layer| layer.width() != step.output.c)) {
                    let layer = step.layers[0];
                    return Err(Error::Usage(format!(
                        "a plan that ends with {layer} has no two towers in this network"
                    )));
                }
            }
        }
        let tower = |index| Tower::new(index, Arc::clone(&self.shared), Arc::clone(&plans));
        let towers = [tower(0)?, tower(1)?];
        Ok(TowersSession { plan, towers, images: 0, top_k: TopK::default() })
    }
}

impl Backend for CpuTowers {
    fn description(&self) -> String {
        let [first, second] = self.shared.groups.each_ref().map(|group| group.threads);
        format!("CPU, two towers on {first} + {second} threads, {}", self.settings.arithmetic())
    }

    fn session(&self, plan: Plan) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.open(plan)?))
    }

    fn pipeline(&self, plan: Plan, k: usize, score: Score) -> Result<Box<dyn Pipeline>> {
        Ok(Box::new(CpuPipeline::new(self.session(plan)?, k, score, self.settings.precision())))
    }

    fn pixels(&self, len: usize) -> Result<Pixels> {
        pixels(len)
    }

    fn holdings(&self, plan: Plan) -> Result<Vec<Holding>> {
        let session = self.open(plan)?;
        let holding = |tower: &Tower| Holding {
            place: tower.place(),
            weights: tower.group().weights(),
            buffers: tower.buffers.iter().chain([&tower.joined, &tower.letter]).map(|buffer| 4 * buffer.len()).sum(),
        };
        Ok(session.towers.iter().map(holding).collect())
    }

    fn steps(&self, plan: &Plan) -> Result<Vec<Vec<StepAsRun>>> {
        plan.check(&self.shared.network)?;
        let towers = split::towers(plan)?;
        Ok(towers.iter().zip(&self.shared.groups).map(|(tower, group)| as_run(tower, group.threads)).collect())
    }

    fn ceilings(&self) -> Result<Ceilings> {
        ceilings::measure(self.shared.groups.iter().map(|group| group.threads).sum())
    }
}

struct TowersSession {
    /// The whole network's.
    plan: Plan,
    towers: [Tower; 2],
    /// Images of the last run.
    images: usize,
    top_k: TopK,
}

/// One tower's buffers for its plan.
struct Tower {
    index: usize,
    shared: Arc<Shared>,
    /// Both towers'.
    plans: Arc<[Plan; 2]>,
    /// One a buffer of its plan, each with the tower's own channels.
    buffers: Vec<Vec<f32>>,
    /// (N, H, W, both towers' channels): what a step takes that needs the other's. Channels that it does not need are not there.
    joined: Vec<f32>,
    /// (N, H, W, channels that the other takes), on its way. The towers swap theirs wherever they meet.
    letter: Vec<f32>,
    scratch: Scratch,
}

impl Tower {
    fn new(index: usize, shared: Arc<Shared>, plans: Arc<[Plan; 2]>) -> Result<Self> {
        let plan = &plans[index];
        let joined = plan.steps.iter().filter(|step| step.is_joined()).map(Step::room).max();
        let joined = joined.unwrap_or(0) * plan.batch;
        let buffers = plan.buffers.iter().map(|elements| zeroed(elements * plan.batch)).collect::<Result<_>>()?;
        let (joined, letter) = (zeroed(joined)?, zeroed(letter_len(&plans))?);
        Ok(Tower { index, shared, plans, buffers, joined, letter, scratch: Scratch::default() })
    }

    fn group(&self) -> &Group {
        &self.shared.groups[self.index]
    }

    fn place(&self) -> String {
        format!("tower {}, {} of the CPU", self.index, threads(self.group().threads))
    }

    /// Runs the tower's plan, or what it can of it without the other, which ends early by an error of its own.
    ///
    /// # Errors
    /// As [`Group::run`].
    fn run(&mut self, images: usize, input: Input<'_>, link: Link, clock: &mut Clock) -> Result<()> {
        let Tower { index, shared, plans, buffers, joined, letter, scratch } = self;
        let (group, plan, other) = (&shared.groups[*index], &plans[*index], &plans[1 - *index]);
        letter.resize(letter_len(plans), 0.0); // one that was on its way when a run ended early is gone
        let mut meets = false;
        for (place, step) in plan.steps.iter().enumerate() {
            // Taken out of the list, so that source and target can be borrowed at once; a plan never has them equal.
            let mut target = std::mem::take(&mut buffers[step.target]);
            let output = &mut target[..images * step.output.len()];
            // Threads of the group never wait for the other tower, which may need them for another session.
            let done = group.run(scratch, |team| match step.source {
                None => start(step, &shared.table, &team, input, output),
                Some(source) => {
                    let source = if meets { &*joined } else { &buffers[source] };
                    run_step(step, group, &team, images, 0, &source[..images * step.input.len()], output);
                }
            });
            buffers[step.target] = target;
            done?;
            let output = &buffers[step.target][..images * step.output.len()];
            clock.done(|| Work::Layers(step.layers.clone()));
            meets = step.is_joined();
            if meets {
                group.pool.install(|| write(step, output, letter));
                let Some(received) = link.swap(std::mem::take(letter)) else { return Ok(()) };
                *letter = received;
                if let Some(next) = plan.steps.get(place + 1) {
                    let from = &other.steps[place];
                    let joined = &mut joined[..images * step.room()];
                    group.pool.install(|| join(step, from, output, letter, joined));
                    let bytes = size_of::<f32>() * images * from.given_values();
                    clock.done(|| Work::Join { layer: next.layers[0], bytes });
                }
            }
        }
        Ok(())
    }

    /// The output of the step of index `step`, of a run of `images` images.
    fn output(&self, step: usize, images: usize) -> &[f32] {
        let step = &self.plans[self.index].steps[step];
        &self.buffers[step.target][..images * step.output.len()]
    }
}

/// Values of the longest letter.
fn letter_len(plans: &[Plan; 2]) -> usize {
    let longest = plans.iter().flat_map(|plan| &plan.steps).map(Step::given_values).max();
    longest.unwrap_or(0) * plans[0].batch
}

/// One tower's end of what the two swap letters over. Dropped, as by a panic, it ends the other's waiting.
struct Link {
    to: SyncSender<Vec<f32>>,
    from: Receiver<Vec<f32>>,
}

impl Link {
    fn pair() -> [Link; 2] {
        let (to_second, from_first) = sync_channel(1);
        let (to_first, from_second) = sync_channel(1);
        [Link { to: to_second, from: from_second }, Link { to: to_first, from: from_first }]
    }

    /// Waits for the other; `None` where it is gone.
    fn swap(&self, letter: Vec<f32>) -> Option<Vec<f32>> {
        self.to.send(letter).ok()?;
        self.from.recv().ok()
    }
}

/// Some channels of the pixels of a buffer.
struct Channels {
    /// Channels that a pixel has.
    pitch: usize,
    /// The first of those meant.
    first: usize,
}

/// Pixels a task of [`copy`].
const CHUNK: usize = 512;

/// Copies `count` channels of each pixel.
fn copy(count: usize, source: &[f32], from: Channels, target: &mut [f32], to: Channels) {
    if count == 0 {
        return;
    }
    let chunks = target.par_chunks_mut(CHUNK * to.pitch).zip(source.par_chunks(CHUNK * from.pitch));
    chunks.for_each(|(target, source)| {
        for (target, source) in target.chunks_exact_mut(to.pitch).zip(source.chunks_exact(from.pitch)) {
            target[to.first..to.first + count].copy_from_slice(&source[from.first..from.first + count]);
        }
    });
}

/// What the other tower takes of `output`, to `letter`.
fn write(step: &Step, output: &[f32], letter: &mut [f32]) {
    let given = step.given();
    let from = Channels { pitch: step.output.c, first: given.start - step.first() };
    copy(given.len(), output, from, letter, Channels { pitch: given.len(), first: 0 });
}

/// The tower's own `output` and the `letter` of the other's step `from` side by side, to `joined`.
fn join(step: &Step, from: &Step, output: &[f32], letter: &[f32], joined: &mut [f32]) {
    if cfg!(debug_assertions) {
        joined.fill(f32::NAN); // seen where a step takes more than was given
    }
    let (c, given) = (step.output.c, from.given());
    let place = |first| Channels { pitch: step.pitch(), first };
    copy(c, output, Channels { pitch: c, first: 0 }, joined, place(step.first()));
    copy(given.len(), letter, Channels { pitch: given.len(), first: 0 }, joined, place(given.start));
}

impl TowersSession {
    fn run_towers(&mut self, input: Input<'_>, clocks: &mut [Clock; 2]) -> Result<()> {
        self.images = input.images(&self.plan)?;
        if self.images == 0 {
            return Ok(());
        }
        let images = self.images;
        let ([first, second], [first_clock, second_clock]) = (&mut self.towers, clocks);
        let [first_link, second_link] = Link::pair();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("alexnet-tower-1".into());
            let thread = thread.spawn_scoped(scope, || second.run(images, input, second_link, second_clock));
            let thread =
                thread.map_err(|e| Error::Device(format!("cannot start a thread for the second tower: {e}")))?;
            let first = first.run(images, input, first_link, first_clock);
            // A tower without the other ends early; whichever failed is heard of.
            first.and(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }
}

impl Session for TowersSession {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Plans with dropout are not divided.
    fn reseed(&mut self, _: u64) {}

    fn run(&mut self, input: Input<'_>) -> Result<()> {
        self.run_towers(input, &mut [Clock::idle(), Clock::idle()])
    }

    fn logits(&mut self) -> Result<&[f32]> {
        Ok(self.towers[0].output(self.plan.steps.len() - 1, self.images))
    }

    fn top_k(&mut self, k: usize, score: Score) -> Result<&[Prediction]> {
        let logits = self.towers[0].output(self.plan.steps.len() - 1, self.images);
        Ok(self.top_k.find(logits, self.plan.classes(), k, score))
    }

    fn activation(&mut self, name: &str) -> Result<Activation> {
        let step = self.plan.kept(name)?;
        let index = self.plan.steps.iter().position(|other| std::ptr::eq(other, step)).expect("one of the plan's");
        let Shape { h, w, c } = step.output;
        let mut values = vec![0.0; self.images * step.output.len()];
        for (number, tower) in self.towers.iter().enumerate() {
            match &tower.plans[number].steps[index].half {
                Some(_) => {
                    let from = Channels { pitch: c / 2, first: 0 };
                    let to = Channels { pitch: c, first: number * c / 2 };
                    copy(c / 2, tower.output(index, self.images), from, &mut values, to);
                }
                None => {
                    values.copy_from_slice(tower.output(index, self.images));
                    break;
                }
            }
        }
        Ok(Activation { shape: [self.images, h, w, c], values })
    }

    fn timeline(&mut self, input: Input<'_>) -> Result<Timeline> {
        let start = Instant::now();
        let mut clocks = [Clock::from(start), Clock::from(start)];
        self.run_towers(input, &mut clocks)?;
        let tracks = clocks.into_iter().zip(&self.towers).map(|(clock, tower)| clock.track(tower.place()));
        Ok(Timeline { tracks: tracks.collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::net::Variant;
    use crate::weights::seeded;

    /// LRN across the border takes two channels of the other tower; the rest of its half is not there to be read.
    #[test]
    fn the_border_alone_is_copied() {
        let caffe = Variant::by_name("caffe").unwrap();
        let network = Network::with_widths(caffe, &[12, 4, 4, 4, 4, 4, 4, 4], caffe.input_size).unwrap();
        let plans = split::towers(&Plan::new(&network, 1, &[]).unwrap()).unwrap();
        let steps = plans.each_ref().map(|plan| &plan.steps[1]);
        assert_eq!(steps[0].layers[0], "conv1");
        let output = |tower: usize| (0..55 * 55 * 6).map(|i| (6 * tower + i % 6) as f32).collect::<Vec<_>>();
        for (tower, there) in [0..8, 4..12].into_iter().enumerate() {
            let (step, other) = (steps[tower], steps[1 - tower]);
            let (mut letter, mut joined) = (vec![f32::NAN; other.given_values()], vec![f32::NAN; step.room()]);
            write(other, &output(1 - tower), &mut letter);
            join(step, other, &output(tower), &letter, &mut joined);
            for pixel in joined.chunks_exact(12) {
                for (channel, value) in pixel.iter().enumerate() {
                    assert!(
                        if there.contains(&channel) { *value == channel as f32 } else { value.is_nan() },
                        "{pixel:?}"
                    );
                }
            }
        }
    }

    /// Either tower's panic is the run's, and the other does not wait for it; the session can be run again.
    #[test]
    fn a_panic_in_a_tower_ends_the_run() {
        let checkpoint = crate::demo_checkpoint();
        let variant = checkpoint.choose_variant(None).unwrap();
        let towers = CpuTowers::new(checkpoint.into_stored(variant, 95).unwrap(), Settings::new(3)).unwrap();
        let plan = Plan::new(&towers.shared.network, 1, &[]).unwrap();
        let pixels = seeded::picture(1, 0, 95);
        for tower in [0, 1] {
            let mut session = towers.open(plan.clone()).unwrap();
            session.run(Input::Pixels(&pixels)).unwrap();
            let expected = session.logits().unwrap().to_vec();
            let joined = std::mem::take(&mut session.towers[tower].joined); // the first join needs it
            let run = || session.run(Input::Pixels(&pixels));
            catch_unwind(AssertUnwindSafe(run)).expect_err("a tower panics");
            session.towers[tower].joined = joined;
            session.run(Input::Pixels(&pixels)).unwrap();
            assert_eq!(session.logits().unwrap(), expected);
        }
    }
}

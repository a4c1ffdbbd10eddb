//! Data parallel: several devices, each with all weights, which compute whole batches in turn.
//!
//! A pipeline of [`Parallel`] has one on each device. Batches go to them in rotation, as many rounds as they are deep, and
//! come out in the order in which they went in. So the n-th batch has the place of the one `depth` before, whose pixels the
//! device still holds, and that one is always out when the place is needed: nobody searches, nothing overtakes. The price is
//! that a device much slower than the others holds them up, since the oldest batch is waited for.
//!
//! A device that fails or hangs is given up for good, unless it is the last. What is under way then begins again on the
//! others, in order, what has no room there waiting for it: a few batches are computed twice, once, and no result is lost.
//! Each batch stays here beside the device that computes it, since one that hangs gives none back.
//!
//! Results are those of one device with the same batch size, where the devices are alike. On unlike ones last bits may
//! depend on which of them computes a batch, as kernels are chosen by the number of multiprocessors; with
//! [`deterministic`](crate::Options::deterministic) they do not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{Backend, Done, Gpu, Holding, Input, Pipeline, Score, Session, StepAsRun};
use crate::pixels::Pixels;
use crate::plan::Plan;
use crate::record::Ceilings;
use crate::{Error, Result};

/// Several devices as one. What is no pipeline is the first one's that works.
pub struct Parallel {
    devices: Arc<Devices>,
}

struct Devices {
    /// By name, in words, with which its description begins.
    all: Vec<(String, Box<dyn Backend>)>,
    /// Those that failed, and why; never all of them.
    given_up: Mutex<Vec<(usize, String)>>,
}

impl Devices {
    /// The numbers of those not given up, at least one.
    fn working(&self) -> Vec<usize> {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        (0..self.all.len()).filter(|device| given_up.iter().all(|(other, _)| other != device)).collect()
    }

    /// Does without `device` from now on.
    ///
    /// # Errors
    /// `error` itself where it is not a failure of the device, or no other one works.
    fn give_up(&self, device: usize, error: Error) -> Result<()> {
        if !matches!(error, Error::Device(_) | Error::DeviceLost(_)) {
            return Err(error);
        }
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let known = given_up.iter().any(|(other, _)| *other == device);
        if given_up.len() + usize::from(!known) == self.all.len() {
            return Err(error);
        }
        if !known {
            let error = error.to_string();
            let cause = error.split("; ").next().unwrap_or_default(); // what follows is advice to somebody without others
            let name = &self.all[device].0;
            given_up.push((device, format!("{name} is given up, and its images go to the others: {cause}")));
        }
        Ok(())
    }

    /// What the first device that works gives.
    fn ask<T>(&self, ask: impl Fn(&dyn Backend) -> Result<T>) -> Result<T> {
        loop {
            let first = self.working()[0];
            match ask(&*self.all[first].1) {
                Ok(answer) => return Ok(answer),
                Err(error) => self.give_up(first, error)?,
            }
        }
    }
}

impl Parallel {
    /// Devices with the same network's weights, each with its name, with which its description begins.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(devices: Vec<(String, Box<dyn Backend>)>) -> Self {
        assert!(!devices.is_empty(), "no device");
        Parallel { devices: Arc::new(Devices { all: devices, given_up: Mutex::default() }) }
    }
}

impl Backend for Parallel {
    fn description(&self) -> String {
        let (all, working) = (&self.devices.all, self.devices.working());
        let described = all.iter().enumerate().map(|(number, (name, device))| {
            let until = if working.contains(&number) { "" } else { " until it was given up" };
            let description = device.description();
            let how = description.strip_prefix(name.as_str()).unwrap_or_default().to_string();
            (format!("{name}{until}"), how)
        });
        let (names, hows): (Vec<String>, Vec<String>) = described.unzip();
        if hows.windows(2).all(|pair| pair[0] == pair[1]) {
            return names.join(", ") + &hows[0];
        }
        let whole: Vec<String> = names.into_iter().zip(hows).map(|(name, how)| name + &how).collect();
        whole.join("; ")
    }

    fn given_up(&self) -> Vec<String> {
        let given_up = self.devices.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.iter().map(|(_, reason)| reason.clone()).collect()
    }

    fn gpus(&self) -> Vec<Gpu> {
        self.devices.all.iter().flat_map(|(_, device)| device.gpus()).collect()
    }

    fn versions(&self) -> Vec<(&'static str, String)> {
        self.devices.all[0].1.versions() // of one process
    }

    fn session(&self, plan: Plan) -> Result<Box<dyn Session>> {
        self.devices.ask(|device| device.session(plan.clone()))
    }

    fn pipeline(&self, plan: Plan, k: usize, score: Score) -> Result<Box<dyn Pipeline>> {
        let mut pipelines: Vec<_> = self.devices.all.iter().map(|_| None).collect();
        for device in self.devices.working() {
            match self.devices.all[device].1.pipeline(plan.clone(), k, score) {
                Ok(pipeline) => pipelines[device] = Some(pipeline),
                Err(error) => self.devices.give_up(device, error)?,
            }
        }
        let rotation = rotation(&pipelines);
        Ok(Box::new(ParallelPipeline {
            devices: Arc::clone(&self.devices),
            plan,
            depth: rotation.len(),
            pipelines,
            rotation,
            turn: 0,
            batches: VecDeque::new(),
        }))
    }

    fn pixels(&self, len: usize) -> Result<Pixels> {
        self.devices.ask(|device| device.pixels(len))
    }

    fn holdings(&self, plan: Plan) -> Result<Vec<Holding>> {
        let working = self.devices.working().into_iter();
        let each = working.map(|device| self.devices.all[device].1.holdings(plan.clone()));
        Ok(each.collect::<Result<Vec<_>>>()?.concat())
    }

    fn steps(&self, plan: &Plan) -> Result<Vec<Vec<StepAsRun>>> {
        self.devices.ask(|device| device.steps(plan))
    }

    fn ceilings(&self) -> Result<Ceilings> {
        self.devices.ask(|device| device.ceilings())
    }
}

struct ParallelPipeline {
    devices: Arc<Devices>,
    plan: Plan,
    /// Of all pipelines that it began with.
    depth: usize,
    /// By the device's number, one at least; `None` of a device that was given up.
    pipelines: Vec<Option<Box<dyn Pipeline>>>,
    /// Whose turn it is, one batch after another.
    rotation: Vec<usize>,
    turn: usize,
    /// Those under way, oldest first: some that devices have, no more than the rotation is long, then those that wait.
    batches: VecDeque<Batch>,
}

struct Batch {
    pixels: Pixels,
    /// Who has it, where somebody does.
    device: Option<usize>,
}

/// Round after round of all devices, each as often as its pipeline is deep.
fn rotation(pipelines: &[Option<Box<dyn Pipeline>>]) -> Vec<usize> {
    let depths: Vec<usize> = pipelines.iter().map(|p| p.as_ref().map_or(0, |pipeline| pipeline.depth())).collect();
    let rounds = depths.iter().copied().max().unwrap_or(0);
    let all =
        (0..rounds).flat_map(|round| depths.iter().enumerate().map(move |(device, depth)| (round, device, *depth)));
    all.filter(|(round, _, depth)| round < depth).map(|(_, device, _)| device).collect()
}

impl ParallelPipeline {
    /// Makes `pixels` the newest batch under way.
    fn push(&mut self, pixels: Pixels) -> Result<()> {
        assert!(self.batches.len() < self.depth, "more batches than a pipeline holds");
        if Input::Pixels(&pixels).images(&self.plan)? == 0 {
            return Err(Error::Usage("a batch of no images".into()));
        }
        self.batches.push_back(Batch { pixels, device: None });
        Ok(())
    }

    /// Gives devices what waits, as far as they have room. `resident` says that the newest batch's pixels are those of the
    /// batch `depth` before it.
    fn advance(&mut self, resident: bool) -> Result<()> {
        loop {
            let started = self.batches.iter().take_while(|batch| batch.device.is_some()).count();
            if started == self.batches.len().min(self.rotation.len()) {
                return Ok(());
            }
            let device = self.rotation[self.turn];
            self.turn = (self.turn + 1) % self.rotation.len();
            let batch = &mut self.batches[started];
            batch.device = Some(device);
            // SAFETY: nobody writes to a batch under way. Once it is out, or abandoned, its pipeline looks at it no more, or is
            // that of a device that hangs, which may still copy from it what nobody will look at.
            let pixels = unsafe { batch.pixels.share() };
            let pipeline = self.pipelines[device].as_mut().expect("only those there are have turns");
            // With a device less, another batch was in this place.
            let submitted = match resident && self.rotation.len() == self.depth {
                true => pipeline.resubmit(pixels),
                false => pipeline.submit(pixels),
            };
            if let Err(error) = submitted {
                self.go_on_without(device, error)?;
            }
        }
    }

    /// Gives a device up, whose error this is; what is under way begins again.
    ///
    /// # Errors
    /// As [`give_up`](Self::give_up) and [`recall`](Self::recall).
    fn go_on_without(&mut self, device: usize, error: Error) -> Result<()> {
        self.give_up(device, error)?;
        self.recall()
    }

    /// # Errors
    /// `error` where it is no failure of the device, or the device is the last.
    fn give_up(&mut self, device: usize, error: Error) -> Result<()> {
        if self.pipelines.iter().flatten().count() == 1 {
            return Err(error);
        }
        self.devices.give_up(device, error)?;
        self.pipelines[device] = None;
        Ok(())
    }

    /// Takes all batches back from the devices, of which those that hang are given up.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] where the last one hangs.
    fn recall(&mut self) -> Result<()> {
        let mut recalled = Ok(());
        for device in 0..self.pipelines.len() {
            let Some(pipeline) = &mut self.pipelines[device] else { continue };
            let had = self.batches.iter().filter(|batch| batch.device == Some(device)).count();
            if pipeline.abandon().len() < had {
                let hangs = "the device does not answer; what was finished before is good, run the rest again";
                recalled = recalled.and(self.give_up(device, Error::DeviceLost(hangs.into())));
            }
        }
        self.batches.iter_mut().for_each(|batch| batch.device = None);
        self.rotation = rotation(&self.pipelines);
        self.turn = 0;
        recalled
    }
}

impl Pipeline for ParallelPipeline {
    fn depth(&self) -> usize {
        self.depth
    }

    fn submit(&mut self, pixels: Pixels) -> Result<()> {
        self.push(pixels)?;
        self.advance(false)
    }

    fn resubmit(&mut self, pixels: Pixels) -> Result<()> {
        self.push(pixels)?;
        self.advance(true)
    }

    fn collect(&mut self) -> Result<Option<Done>> {
        loop {
            self.advance(false)?;
            let Some(oldest) = self.batches.front() else { return Ok(None) };
            let device = oldest.device.expect("there is room for one");
            match self.pipelines[device].as_mut().expect("it has the batch").collect() {
                Ok(done) => {
                    let Done { scored, times, .. } = done.expect("it has the batch");
                    let Batch { pixels, .. } = self.batches.pop_front().expect("it is there");
                    return Ok(Some(Done { pixels, scored, times }));
                }
                Err(error) => self.go_on_without(device, error)?,
            }
        }
    }

    fn time(&mut self) -> Result<()> {
        assert!(self.batches.is_empty(), "batches are under way");
        for device in 0..self.pipelines.len() {
            let Some(pipeline) = &mut self.pipelines[device] else { continue };
            if let Err(error) = pipeline.time() {
                self.go_on_without(device, error)?;
            }
        }
        Ok(())
    }

    fn abandon(&mut self) -> Vec<Pixels> {
        let recalled = self.recall();
        let pixels = self.batches.drain(..).map(|batch| batch.pixels);
        match recalled {
            Ok(()) => pixels.collect(),
            Err(_) => {
                pixels.for_each(std::mem::forget); // the device may still read them
                vec![]
            }
        }
    }
}

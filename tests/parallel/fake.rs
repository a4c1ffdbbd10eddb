//! Devices made of nothing: an image's class is the device's number, its score the first byte of the batch as the device has
//! it. Every call goes right or wrong as asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use alexnet::backend::Backend;
use alexnet::net::{Network, VARIANTS};
use alexnet::plan::Plan;
use alexnet::record::Ceilings;
use alexnet::{
    BatchTimes, Done, Error, Holding, Interval, Pipeline, Pixels, Precision, Prediction, Result, Score, Scored,
    Session, StepAsRun,
};

/// Images of a batch.
pub const IMAGES: usize = 2;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Call {
    /// Of a pipeline.
    Open,
    Submit,
    Collect,
    Abandon,
    Time,
    Session,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Effect {
    /// As all later ones.
    Fails,
    /// Likewise, and pixels never come back.
    Hangs,
    /// This once.
    LacksMemory,
}

/// The call with this number, from 1, of a kind on a device.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub device: usize,
    pub call: Call,
    pub number: usize,
    pub effect: Effect,
}

struct Fake {
    state: Arc<Mutex<State>>,
    depth: usize,
}

struct State {
    name: String,
    number: usize,
    fault: Option<Fault>,
    calls: Vec<Call>,
    fails: bool,
    hangs: bool,
}

impl State {
    /// Counts a call, and lets it go wrong when it is its turn.
    fn call(&mut self, call: Call) -> Result<()> {
        assert!(!self.hangs || call == Call::Abandon, "{} hangs: {call:?}", self.name);
        self.calls.push(call);
        let number = self.calls.iter().filter(|other| **other == call).count();
        let effect = self.fault.filter(|fault| fault.call == call && fault.number == number).map(|fault| fault.effect);
        self.fails |= matches!(effect, Some(Effect::Fails | Effect::Hangs));
        self.hangs |= effect == Some(Effect::Hangs);
        let name = &self.name;
        match (effect, call) {
            (Some(Effect::LacksMemory), _) => Err(Error::DeviceMemory(format!("{name} is full"))),
            (_, Call::Open | Call::Session) if self.fails => {
                Err(Error::Device(format!("{name} is no good; see to it")))
            }
            _ if self.fails => Err(Error::DeviceLost(format!("{name} is lost; run the rest again"))),
            _ => Ok(()),
        }
    }
}

pub fn devices(depths: &[usize], faults: &[Fault]) -> Vec<(String, Box<dyn Backend>)> {
    let device = |(number, depth): (usize, &usize)| {
        let name = format!("fake:{number}");
        let fault = faults.iter().find(|fault| fault.device == number).copied();
        let state = State { name: name.clone(), number, fault, calls: vec![], fails: false, hangs: false };
        let fake = Fake { state: Arc::new(Mutex::new(state)), depth: *depth };
        (name, Box::new(fake) as Box<dyn Backend>)
    };
    depths.iter().enumerate().map(device).collect()
}

/// Of a small network.
pub fn plan() -> Plan {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    let network = NETWORK.get_or_init(|| Network::with_widths(&VARIANTS[0], &[8; 8], 63).unwrap());
    Plan::new(network, IMAGES, &[]).unwrap()
}

/// Batch `number`, whose bytes all say so.
pub fn batch(number: usize) -> Pixels {
    let mut pixels = Pixels::zeroed(IMAGES * plan().input.len()).unwrap();
    pixels.fill(number as u8);
    pixels
}

impl Backend for Fake {
    fn description(&self) -> String {
        format!("{}, made up", self.state.lock().unwrap().name)
    }

    fn session(&self, _: Plan) -> Result<Box<dyn Session>> {
        let mut state = self.state.lock().unwrap();
        state.call(Call::Session)?;
        Err(Error::Usage(format!("a session of {}", state.name)))
    }

    fn pipeline(&self, _: Plan, _: usize, _: Score) -> Result<Box<dyn Pipeline>> {
        self.state.lock().unwrap().call(Call::Open)?;
        let slots = vec![0; self.depth];
        let state = Arc::clone(&self.state);
        Ok(Box::new(FakePipeline { state, slots, slot: 0, timed: false, under_way: VecDeque::new() }))
    }

    fn pixels(&self, len: usize) -> Result<Pixels> {
        Ok(Pixels::zeroed(len).unwrap())
    }

    fn holdings(&self, _: Plan) -> Result<Vec<Holding>> {
        let place = self.state.lock().unwrap().name.clone();
        Ok(vec![Holding { place, weights: 1, buffers: 2 }])
    }

    fn steps(&self, _: &Plan) -> Result<Vec<Vec<StepAsRun>>> {
        unimplemented!("nothing runs")
    }

    fn ceilings(&self) -> Result<Ceilings> {
        unimplemented!("nothing runs")
    }
}

struct FakePipeline {
    state: Arc<Mutex<State>>,
    /// The first byte of what the device holds.
    slots: Vec<u8>,
    slot: usize,
    timed: bool,
    /// With their slots.
    under_way: VecDeque<(Pixels, usize)>,
}

impl FakePipeline {
    fn push(&mut self, pixels: Pixels) -> Result<()> {
        assert!(self.under_way.len() < self.slots.len(), "more batches than a pipeline holds");
        self.under_way.push_back((pixels, self.slot));
        self.slot = (self.slot + 1) % self.slots.len();
        self.state.lock().unwrap().call(Call::Submit)
    }
}

impl Pipeline for FakePipeline {
    fn depth(&self) -> usize {
        self.slots.len()
    }

    fn submit(&mut self, pixels: Pixels) -> Result<()> {
        self.push(pixels)?;
        let (pixels, slot) = self.under_way.back().unwrap();
        self.slots[*slot] = pixels[0];
        Ok(())
    }

    fn resubmit(&mut self, pixels: Pixels) -> Result<()> {
        self.push(pixels)
    }

    fn collect(&mut self) -> Result<Option<Done>> {
        if self.under_way.is_empty() {
            return Ok(None);
        }
        let mut state = self.state.lock().unwrap();
        state.call(Call::Collect)?;
        let (pixels, slot) = self.under_way.pop_front().unwrap();
        let predictions = vec![Prediction { index: state.number, score: f32::from(self.slots[slot]) }];
        let scored = vec![Scored { predictions, precision: Precision::Float32, finite: true }; IMAGES];
        // The device's number is its batches' time.
        let end = Duration::from_millis(state.number as u64);
        let compute = Interval { begin: Duration::ZERO, end };
        let times = BatchTimes { enqueue: Duration::ZERO, copy_in: None, compute, copy_out: None };
        let times = self.timed.then_some(times);
        Ok(Some(Done { pixels, scored, times }))
    }

    fn time(&mut self) -> Result<()> {
        self.timed = true;
        self.state.lock().unwrap().call(Call::Time)
    }

    fn abandon(&mut self) -> Vec<Pixels> {
        let mut state = self.state.lock().unwrap();
        let _ = state.call(Call::Abandon);
        self.slot = 0;
        let pixels = self.under_way.drain(..).map(|(pixels, _)| pixels);
        if state.hangs {
            pixels.for_each(std::mem::forget);
            return vec![];
        }
        pixels.collect()
    }
}

//! A block: its warps, its shared memory, its barriers.

use super::warp::{Stop, Warp, thread};
use super::{Context, Raised};
use crate::alu::LANES;
use crate::check::{BlockOrder, SharedRaces};
use crate::counters::Counters;
use crate::decode::Barrier;
use crate::fault::{Fault, FaultKind};
use crate::store::Store;

/// Runs one block after the other with the same warps and shared memory.
pub struct Runner<'a> {
    context: &'a Context<'a>,
    warps: Vec<Warp>,
    states: Vec<Progress>,
    state: State,
}

/// What the warps of a running block share.
pub struct State {
    /// The block's number in the grid, and which others it comes after.
    pub order: BlockOrder,
    pub shared: Store,
    /// Where races are checked and there is shared memory to race in.
    pub races: Option<SharedRaces>,
    pub counters: Counters,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Running,
    /// At a barrier, with its instruction number.
    Waiting(Barrier, u32),
    Done,
}

impl<'a> Runner<'a> {
    /// `None` when the host has no memory for a block.
    pub fn new(context: &'a Context<'a>) -> Option<Runner<'a>> {
        let threads = context.launch.block.iter().product::<u32>();
        let count = threads.div_ceil(LANES as u32);
        let warps = (0..count).map(|i| Warp::new(context.code, context.launch, i)).collect::<Option<Vec<_>>>()?;
        let shared = Store::new(context.shared_bytes as usize)?;
        let states = vec![Progress::Running; warps.len()];
        let races = match context.checks.races && context.shared_bytes > 0 {
            true => Some(SharedRaces::new(context.code, context.shared_bytes, warps.len())?),
            false => None,
        };
        let state = State { order: BlockOrder::default(), shared, races, counters: Counters::default() };
        Some(Runner { context, warps, states, state })
    }

    /// Runs block `index` of the grid.
    pub fn run(&mut self, index: u64) -> Result<(), Box<Fault>> {
        let [x, y, _] = self.context.launch.grid.map(u64::from);
        let block = [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32];
        self.state.order = BlockOrder::new(index as u32);
        self.state.shared.clear_written();
        if let Some(races) = &mut self.state.races {
            races.start();
        }
        self.states.fill(Progress::Running);
        for warp in &mut self.warps {
            warp.reset(self.context.code, block);
        }
        loop {
            for (i, warp) in self.warps.iter_mut().enumerate() {
                if self.states[i] == Progress::Running {
                    let stop = warp.run(self.context, &mut self.state);
                    self.states[i] = match stop.map_err(|raised| fault(self.context, block, i, *raised))? {
                        Stop::Barrier(barrier, pc) => Progress::Waiting(barrier, pc),
                        Stop::Done => Progress::Done,
                    };
                }
            }
            if self.states.iter().all(|state| *state == Progress::Done) {
                return Ok(());
            }
            if !self.open_barrier() {
                return Err(self.deadlock(block));
            }
        }
    }

    /// The counts since the last call.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.state.counters)
    }

    /// Every warp waits or has ended: lets those go on whose barrier is complete. Whether there were any.
    fn open_barrier(&mut self) -> bool {
        let live = self.states.iter().filter(|state| **state != Progress::Done).count();
        let mut opened = false;
        for i in 0..self.states.len() {
            let Progress::Waiting(barrier, _) = self.states[i] else { continue };
            let here = |state: &Progress| matches!(state, Progress::Waiting(other, _) if *other == barrier);
            // Without a count the barrier is for all of the block's warps; ended ones count as arrived.
            let needed = barrier.threads.map_or(live, |threads| threads as usize / LANES);
            if self.states.iter().filter(|state| here(state)).count() >= needed {
                if let Some(races) = &mut self.state.races {
                    let member = |(i, state): (usize, &Progress)| here(state).then_some(i);
                    match barrier.threads {
                        None => races.sync_all(),
                        Some(_) => {
                            let members = self.states.iter().enumerate().filter_map(member);
                            races.sync_warps(&members.take(needed).collect::<Vec<_>>());
                        }
                    }
                }
                self.states
                    .iter_mut()
                    .filter(|state| here(state))
                    .take(needed)
                    .for_each(|state| *state = Progress::Running);
                opened = true;
            }
        }
        opened
    }

    fn deadlock(&self, block: [u32; 3]) -> Box<Fault> {
        let mut places = Vec::new();
        for (i, state) in self.states.iter().enumerate() {
            places.push(match state {
                Progress::Waiting(barrier, pc) => {
                    format!(
                        "warp {i} waits at barrier {} in line {}",
                        barrier.id, self.context.code.sources[*pc as usize].0
                    )
                }
                _ => format!("warp {i} has ended"),
            });
        }
        let waiting = |(i, state): (usize, &Progress)| match state {
            Progress::Waiting(_, pc) => Some((i, *pc)),
            _ => None,
        };
        let (warp, pc) = self.states.iter().enumerate().find_map(waiting).unwrap_or((0, 0));
        let lane = self.warps[warp].live.trailing_zeros() as usize % LANES;
        let detail = places.join(", ");
        fault(self.context, block, warp, Raised { kind: FaultKind::Deadlock, pc, lane, address: None, detail })
    }
}

fn fault(context: &Context, block: [u32; 3], warp: usize, raised: Raised) -> Box<Fault> {
    let Raised { kind, pc, lane, address, detail } = raised;
    let (line, text) = &context.code.sources[pc as usize];
    Box::new(Fault {
        kind,
        kernel: context.kernel.name().to_string(),
        line: *line,
        instruction: text.to_string(),
        block,
        thread: thread(context.launch, (warp * LANES + lane) as u32),
        address,
        detail,
    })
}

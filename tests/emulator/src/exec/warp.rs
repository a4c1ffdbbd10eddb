//! One warp: its registers, its lanes' places in the code, and the loop that runs them.

use super::block::State;
use super::copies::Copies;
use super::transfer::each;
use super::{Context, Raised, lanes};
use crate::alu::{LANES, Registers};
use crate::decode::{Barrier, Code, Kind, Special};
use crate::fault::FaultKind;
use crate::launch::Launch;
use crate::store::Store;

/// Why a warp stopped.
pub enum Stop {
    /// Its lanes wait at the barrier of this instruction.
    Barrier(Barrier, u32),
    Done,
}

/// Instructions of a warp remember which allocation they met last.
pub const RECENT: usize = 64;

pub struct Warp {
    pub registers: Registers,
    /// Next instruction of each lane.
    pub pcs: [u32; LANES],
    /// Lanes that have not exited.
    pub live: u32,
    /// Lanes that wait for others of the warp at a barrier, shuffle or vote.
    pub waiting: u32,
    pub local: Store,
    /// Indices into the context's allocations, by instruction number.
    pub recent: [u32; RECENT],
    pub copies: Copies,
    /// Number of the warp in its block.
    pub index: usize,
    initial: u32,
}

impl Warp {
    /// Warp `index` of a block; `None` when the host has no memory for its local arrays.
    pub fn new(code: &Code, launch: &Launch, index: u32) -> Option<Warp> {
        let layout = &code.layout;
        let mut registers = Registers {
            narrow: vec![[0; LANES]; layout.narrow],
            wide: vec![[0; LANES]; layout.wide],
            predicates: vec![0; layout.predicates],
        };
        for (slot, value) in &layout.narrow_constants {
            registers.narrow[*slot as usize] = [*value; LANES];
        }
        for (slot, value) in &layout.wide_constants {
            registers.wide[*slot as usize] = [*value; LANES];
        }
        for (slot, value) in &layout.predicate_constants {
            registers.predicates[*slot as usize] = *value;
        }
        let threads = launch.block.iter().product::<u32>() - index * LANES as u32;
        let initial = if threads >= LANES as u32 { u32::MAX } else { (1 << threads) - 1 };
        let local = Store::new(stride(code) * LANES)?;
        let mut warp = Warp {
            registers,
            pcs: [0; LANES],
            live: 0,
            waiting: 0,
            local,
            recent: [0; RECENT],
            copies: Copies::new(index as usize),
            index: index as usize,
            initial,
        };
        for (slot, special) in &layout.specials {
            let row: [u32; LANES] = std::array::from_fn(|lane| {
                let bit = 1u32 << lane;
                match *special {
                    Special::Tid(axis) => thread(launch, index * LANES as u32 + lane as u32)[axis],
                    Special::Ntid(axis) => launch.block[axis],
                    Special::Nctaid(axis) => launch.grid[axis],
                    // Set for each block.
                    Special::Ctaid(_) => 0,
                    Special::LaneId => lane as u32,
                    Special::LaneMaskEq => bit,
                    Special::LaneMaskLt => bit - 1,
                    Special::LaneMaskLe => bit | (bit - 1),
                    Special::LaneMaskGt => !(bit | (bit - 1)),
                    Special::LaneMaskGe => !(bit - 1),
                }
            });
            warp.registers.narrow[*slot as usize] = row;
        }
        Some(warp)
    }

    /// Puts the warp at the start of a block.
    pub fn reset(&mut self, code: &Code, block: [u32; 3]) {
        (self.pcs, self.live, self.waiting) = ([0; LANES], self.initial, 0);
        self.copies.reset();
        for (slot, special) in &code.layout.specials {
            if let Special::Ctaid(axis) = special {
                self.registers.narrow[*slot as usize] = [block[*axis]; LANES];
            }
        }
    }

    /// Runs until the warp waits at a barrier or ends. Of diverged lanes, those with the lowest instruction run first.
    pub fn run(&mut self, context: &Context, block: &mut State) -> Result<Stop, Box<Raised>> {
        let insts = &context.code.insts[..];
        'schedule: loop {
            let runnable = self.live & !self.waiting;
            if runnable == 0 {
                if self.live == 0 {
                    return Ok(Stop::Done);
                }
                self.release(context.code)?;
                continue;
            }
            let (mut pc, active, limit) = self.lowest(runnable);
            loop {
                let inst = &insts[pc as usize];
                let mask = active & (self.registers.predicates[inst.guard as usize] ^ inst.negate);
                block.counters.classes[inst.class as usize] += 1;
                match &inst.kind {
                    // SAFETY: `Alu::run` gives a function for this CPU.
                    Kind::Alu { run, slots } => unsafe { run(&mut self.registers, *slots, mask) },
                    Kind::Load(access) => self.load(context, block, access, mask, pc)?,
                    Kind::Store(access) => self.store(context, block, access, mask, pc)?,
                    Kind::Atomic(atomic) => self.atomic(context, block, atomic, mask, pc)?,
                    Kind::Copy(copy) => self.copy(context, block, copy, mask, pc)?,
                    Kind::Commit => self.copies.commit(mask),
                    Kind::Wait(most) => self.copies.wait(context, block, *most, mask)?,
                    Kind::Branch(target) => {
                        if mask == active {
                            pc = *target;
                            if pc >= limit {
                                self.park(active, pc);
                                continue 'schedule;
                            }
                            continue;
                        }
                        if mask != 0 {
                            self.park(mask, *target);
                            self.park(active & !mask, pc + 1);
                            continue 'schedule;
                        }
                    }
                    Kind::Exit => {
                        self.park(active & !mask, pc + 1);
                        self.exit(context.code, mask, pc)?;
                        continue 'schedule;
                    }
                    Kind::Trap => {
                        if let Some(lane) = lanes(mask).next() {
                            let detail = "the kernel stopped itself".into();
                            return Err(Box::new(Raised { kind: FaultKind::Trap, pc, lane, address: None, detail }));
                        }
                    }
                    Kind::Fence { device } => {
                        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                        if *device && mask != 0 {
                            block.order.fence();
                        }
                    }
                    Kind::ActiveMask { destination } => {
                        let row = &mut self.registers.narrow[*destination as usize];
                        lanes(mask).for_each(|lane| row[lane] = mask);
                    }
                    // The lanes that the guard holds back go on; the others meet here.
                    _ if mask != active => {
                        if mask != 0 {
                            self.park(active & !mask, pc + 1);
                            self.park(mask, pc);
                            continue 'schedule;
                        }
                    }
                    Kind::Barrier(barrier) => {
                        if self.arrive(context.code, pc, active) {
                            return Ok(Stop::Barrier(*barrier, pc));
                        }
                        continue 'schedule;
                    }
                    Kind::Shuffle(_)
                    | Kind::Vote(_)
                    | Kind::WarpBarrier { .. }
                    | Kind::Mma(_)
                    | Kind::LoadMatrix(_) => {
                        let Some(group) = self.gather(context.code, pc, active)? else { continue 'schedule };
                        // Matrix instructions take the whole warp, but order none of its accesses to memory.
                        let orders = !matches!(inst.kind, Kind::Mma(_) | Kind::LoadMatrix(_));
                        if let Some(races) = &mut block.races
                            && orders
                        {
                            races.sync_lanes(self.index, group, self.live & !group == 0);
                        }
                        match &inst.kind {
                            Kind::Shuffle(shuffle) => self.shuffle(shuffle, group, pc)?,
                            Kind::Vote(vote) => self.vote(vote, group),
                            Kind::Mma(mma) => self.mma(mma, group, pc)?,
                            Kind::LoadMatrix(load) => self.load_matrix(context, block, load, group, pc)?,
                            _ => {}
                        }
                        if group != active {
                            self.waiting &= !group;
                            self.park(active, pc);
                            self.park(group, pc + 1);
                            continue 'schedule;
                        }
                    }
                }
                pc += 1;
                if pc >= limit {
                    self.park(active, pc);
                    continue 'schedule;
                }
            }
        }
    }

    /// The lowest instruction of the runnable lanes, the lanes at it, and the next one that others are at.
    fn lowest(&self, runnable: u32) -> (u32, u32, u32) {
        let first = self.pcs[runnable.trailing_zeros() as usize % LANES];
        if self.at(runnable, first) == runnable {
            return (first, runnable, u32::MAX);
        }
        let pc = lanes(runnable).map(|lane| self.pcs[lane]).min().unwrap_or(first);
        let active = self.at(runnable, pc);
        let limit = lanes(runnable & !active).map(|lane| self.pcs[lane]).min().unwrap_or(u32::MAX);
        (pc, active, limit)
    }

    /// Those of `mask` that are at `pc`.
    pub fn at(&self, mask: u32, pc: u32) -> u32 {
        (0..LANES).fold(0, |found, lane| found | u32::from(self.pcs[lane] == pc) << lane) & mask
    }

    pub fn park(&mut self, mask: u32, pc: u32) {
        each(mask, |lane| self.pcs[lane] = pc);
    }
}

/// Bytes from one lane's local memory to the next.
pub fn stride(code: &Code) -> usize {
    code.local_bytes.next_multiple_of(16) as usize
}

/// `%tid` of a block's thread.
pub fn thread(launch: &Launch, index: u32) -> [u32; 3] {
    let [x, y, _] = launch.block;
    [index % x, index / x % y, index / x / y]
}

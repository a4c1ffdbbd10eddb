//! Where the lanes of a warp meet: `bar.sync`, shuffles, votes, matrix instructions.
//!
//! Lanes that arrive before others wait. Since the lowest instruction runs first, a part of a warp may arrive early only
//! because the compiler placed the others' code further down, so waiting itself is no fault; it becomes one when the
//! others exit or wait elsewhere.

use super::warp::Warp;
use super::{Raised, lanes, list};
use crate::alu::LANES;
use crate::decode::{Code, Kind, Shuffle, ShuffleMode, Vote, VoteMode};
use crate::fault::FaultKind;

impl Warp {
    /// Whether all of the warp is at the barrier now; otherwise the lanes wait.
    pub fn arrive(&mut self, code: &Code, pc: u32, active: u32) -> bool {
        if active == self.live {
            self.park(active, pc + 1);
            return true;
        }
        let here = active | self.at(self.waiting, pc);
        self.end_returning(code, !here);
        self.park(active, pc);
        if here == self.live {
            self.waiting = 0;
            self.park(here, pc + 1);
            return true;
        }
        self.waiting |= active;
        false
    }

    /// The lanes that execute the shuffle or vote at `pc` together, or `None` when `active` must wait for others. May be
    /// less than `active`, where the lanes name different members.
    pub fn gather(&mut self, code: &Code, pc: u32, active: u32) -> Result<Option<u32>, Box<Raised>> {
        let candidates = active | self.at(self.waiting, pc);
        let Some(first) = lanes(active).next() else { return Ok(Some(active)) };
        let (members, group) = self.members(code, pc, candidates, first);
        if let Some(lane) = lanes(group & !members).next() {
            let detail = format!("lane {lane} executes it, but its member mask names only {}", list(members));
            return Err(self.raise(code, pc, lane, detail));
        }
        if members & self.live & !group != 0 {
            self.end_returning(code, members & !group);
        }
        if members & self.live & !group == 0 {
            return Ok(Some(group));
        }
        self.waiting |= group;
        self.park(active, pc);
        Ok(None)
    }

    /// Ends those runnable lanes of `mask` that have nothing left to do: they count as exited, wherever the compiler
    /// has placed their return.
    fn end_returning(&mut self, code: &Code, mask: u32) {
        for lane in lanes(mask & self.live & !self.waiting) {
            if returns(code, self.pcs[lane]) {
                self.live &= !(1 << lane);
            }
        }
    }

    /// The mask that `lane` waits for at `pc`, and the candidates that wait for the same.
    fn members(&self, code: &Code, pc: u32, candidates: u32, lane: usize) -> (u32, u32) {
        let slot = match &code.insts[pc as usize].kind {
            Kind::Shuffle(shuffle) => shuffle.members,
            Kind::Vote(vote) => vote.members,
            Kind::WarpBarrier { members } => *members,
            Kind::Mma(_) | Kind::LoadMatrix(_) => return (u32::MAX, candidates),
            // A barrier waits for the whole warp.
            _ => return (self.live, candidates),
        };
        let row = &self.registers.narrow[slot as usize];
        let same = (0..LANES).fold(0, |found, other| found | u32::from(row[other] == row[lane]) << other);
        (row[lane], candidates & same)
    }

    /// All live lanes wait: lets those go on that wait only for lanes that have exited since. A fault if there are none.
    pub fn release(&mut self, code: &Code) -> Result<(), Box<Raised>> {
        for lane in lanes(self.waiting) {
            let pc = self.pcs[lane];
            let (members, group) = self.members(code, pc, self.at(self.waiting, pc), lane);
            if members & self.live & !group == 0 {
                self.waiting &= !group;
                return Ok(());
            }
        }
        let waiting = || lanes(self.waiting).map(|lane| (self.pcs[lane], lane));
        let (pc, lane) = waiting().min().unwrap_or((0, 0));
        let here = self.at(self.waiting, pc);
        let other = waiting().map(|(pc, _)| pc).find(|other| *other != pc);
        let elsewhere = other.map_or(0, |pc| code.sources[pc as usize].0);
        let detail = format!("{} wait here, {} at line {elsewhere}", list(here), list(self.waiting & !here));
        Err(self.raise(code, pc, lane, detail))
    }

    /// Ends the lanes of `mask`, which nobody may be waiting for.
    pub fn exit(&mut self, code: &Code, mask: u32, pc: u32) -> Result<(), Box<Raised>> {
        for lane in lanes(self.waiting).filter(|_| mask != 0) {
            let at = self.pcs[lane];
            let here = self.at(self.waiting, at);
            if self.members(code, at, here, lane).0 & mask != 0 {
                let line = code.sources[pc as usize].0;
                let detail = format!("{} wait here for {}, which exited at line {line}", list(here), list(mask));
                return Err(self.raise(code, at, lane, detail));
            }
        }
        self.live &= !mask;
        Ok(())
    }

    fn raise(&self, code: &Code, pc: u32, lane: usize, detail: String) -> Box<Raised> {
        let kind = match code.insts[pc as usize].kind {
            Kind::Barrier(_) => FaultKind::DivergentBarrier,
            Kind::Shuffle(_) => FaultKind::InactiveShuffle,
            Kind::Mma(_) | Kind::LoadMatrix(_) => FaultKind::DivergentMatrix,
            _ => FaultKind::DivergentVote,
        };
        Box::new(Raised { kind, pc, lane, address: None, detail })
    }

    pub fn shuffle(&mut self, shuffle: &Shuffle, group: u32, pc: u32) -> Result<(), Box<Raised>> {
        let narrow = &self.registers.narrow;
        let (values, lane_row, clamp_row) =
            (narrow[shuffle.value as usize], narrow[shuffle.lane as usize], narrow[shuffle.clamp as usize]);
        let mut in_range = 0;
        for lane in lanes(group) {
            let (amount, clamp) = (lane_row[lane] & 31, clamp_row[lane] & 31);
            let segment = clamp_row[lane] >> 8 & 31;
            let own = lane as u32;
            let last = own & segment | clamp & !segment;
            let (source, inside) = match shuffle.mode {
                // The clamp of `up` is the segment's first lane.
                ShuffleMode::Up => (own.wrapping_sub(amount), own >= last + amount),
                ShuffleMode::Down => (own + amount, own + amount <= last),
                ShuffleMode::Butterfly => (own ^ amount, own ^ amount <= last),
                ShuffleMode::Index => {
                    let source = own & segment | amount & !segment;
                    (source, source <= last)
                }
            };
            let source = if inside { source as usize } else { lane };
            if group >> source & 1 == 0 {
                let detail = format!("lane {lane} reads lane {source}, only {} take part", list(group));
                return Err(Box::new(Raised { kind: FaultKind::InactiveShuffle, pc, lane, address: None, detail }));
            }
            in_range |= u32::from(inside) << lane;
            self.registers.narrow[shuffle.destination as usize][lane] = values[source];
        }
        if let Some(slot) = shuffle.in_range {
            let old = &mut self.registers.predicates[slot as usize];
            *old = *old & !group | in_range;
        }
        Ok(())
    }

    pub fn vote(&mut self, vote: &Vote, group: u32) {
        let votes = (self.registers.predicates[vote.source as usize] ^ vote.negate) & group;
        let agreed = match vote.mode {
            VoteMode::Ballot => {
                let row = &mut self.registers.narrow[vote.destination as usize];
                return lanes(group).for_each(|lane| row[lane] = votes);
            }
            VoteMode::All => votes == group,
            VoteMode::Any => votes != 0,
            VoteMode::Uniform => votes == group || votes == 0,
        };
        let old = &mut self.registers.predicates[vote.destination as usize];
        *old = if agreed { *old | group } else { *old & !group };
    }
}

/// Whether a lane at `pc` does nothing but return.
fn returns(code: &Code, mut pc: u32) -> bool {
    // The rows of the constants are set up so that a guard at `always` is no guard; jumps in a circle give up.
    let (always, _) = code.layout.predicate_constants[0];
    for _ in 0..4 {
        match &code.insts[pc as usize] {
            inst if inst.guard != always => return false,
            inst => match inst.kind {
                Kind::Exit => return true,
                Kind::Branch(target) => pc = target,
                _ => return false,
            },
        }
    }
    false
}

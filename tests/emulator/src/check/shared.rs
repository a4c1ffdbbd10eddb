//! Races in a block's shared memory.
//!
//! One access comes before another if the same thread executes both in that order, or through any chain of these: `bar.sync`
//! orders the warps it takes, `bar.warp.sync`, shuffles and votes order the lanes they name. Warps in lockstep order
//! nothing. A thread that has exited counts as arrived at whatever all others of its warp or block arrive at; a barrier with
//! a thread count orders only the warps that it waited for.
//!
//! The history of a cell is its last write, and for every warp the last time it read it. A write that comes after all of
//! these takes their place: whatever races with them races with it, or has been found to. After [`clocks::LAST`]
//! synchronisations in one block the history is forgotten once.
//!
//! [`clocks::LAST`]: super::clocks::LAST

use std::collections::HashMap;

use bytemuck::allocation::try_zeroed_vec;

use super::clocks::{Clocks, Group, LAST};
use super::{cell_shift, each, try_each};
use crate::alu::LANES;
use crate::decode::{Code, Space};

/// A stamp's bits: a pending copy, the time, and the thread or (from `SEVERAL` on) the warp of which several lanes wrote the
/// same value at once.
const PENDING: u32 = 1 << 31;
const TIME: u32 = 11;
const WHO: u32 = (1 << TIME) - 1;
const SEVERAL: u32 = 1024;

/// The stamp of the last write, and the time of the last read in a stamp's place.
type Cell = [u32; 2];
const WRITE: usize = 0;
const READ: usize = 1;

pub struct SharedRaces {
    shift: u32,
    warps: usize,
    clocks: Clocks,
    cells: Vec<Cell>,
    /// By warp and cell: the time of its last reads, and their lanes at that time.
    reads: Vec<u64>,
    /// Reads before those, where some lanes of the warp have met since.
    earlier: HashMap<usize, Vec<Group>>,
    /// The lanes of `SEVERAL`.
    several: HashMap<usize, u32>,
    /// Atomics since the last write.
    atomics: HashMap<usize, Vec<Group>>,
    /// Whether there may be pending copies.
    copies: bool,
}

/// An access that races with an earlier one.
pub struct Conflict {
    /// Of the access.
    pub lane: usize,
    /// Number of the other thread in its block.
    pub other: usize,
    /// What that one did.
    pub earlier: Earlier,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    Write,
    Read,
    Atomic,
    /// A copy that its thread has not waited for.
    Copy,
    /// Another lane's write in the same instruction.
    Same,
}

impl SharedRaces {
    /// `None` when the host has no memory for them.
    pub fn new(code: &Code, shared_bytes: u32, warps: usize) -> Option<SharedRaces> {
        let shift = cell_shift(code, Space::Shared);
        let cells = (shared_bytes as usize).div_ceil(1 << shift);
        Some(SharedRaces {
            shift,
            warps,
            clocks: Clocks::new(warps),
            cells: try_zeroed_vec(cells).ok()?,
            reads: try_zeroed_vec(cells * warps).ok()?,
            earlier: HashMap::new(),
            several: HashMap::new(),
            atomics: HashMap::new(),
            copies: false,
        })
    }

    /// Begins a block.
    pub fn start(&mut self) {
        if std::mem::take(&mut self.copies) {
            self.cells.iter_mut().filter(|cell| cell[WRITE] & PENDING != 0).for_each(|cell| cell[WRITE] = 0);
        }
        self.sync_all();
    }

    /// All the block's warps meet.
    pub fn sync_all(&mut self) {
        self.clocks.sync_all();
        self.earlier.clear();
        self.several.clear();
        self.atomics.clear();
        self.keep_time();
    }

    /// Some of its warps meet.
    pub fn sync_warps(&mut self, members: &[usize]) {
        self.clocks.sync_warps(members);
        self.keep_time();
    }

    /// Lanes of a warp meet: `all` of the live ones or only some.
    pub fn sync_lanes(&mut self, warp: usize, lanes: u32, all: bool) {
        if self.clocks.sync_lanes(warp, lanes, all) {
            self.keep_time();
        }
    }

    fn keep_time(&mut self) {
        if self.clocks.now() == LAST {
            self.clocks = Clocks::new(self.warps);
            let kept = |write: u32| if write & PENDING == 0 { 0 } else { write };
            self.cells.iter_mut().for_each(|cell| *cell = [kept(cell[WRITE]), 0]);
            self.reads.fill(0);
            self.earlier.clear();
            self.several.clear();
            self.atomics.clear();
        }
    }

    /// At the offset of each lane of `mask` that lane's `readers` read `bytes`.
    pub fn load(
        &mut self,
        warp: usize,
        offsets: &[usize; LANES],
        bytes: usize,
        mask: u32,
        readers: &[u32; LANES],
    ) -> Result<(), Conflict> {
        self.clocks.touch(warp);
        let (now, limit, shift) = (self.clocks.now(), (self.clocks.safe(warp) + 1) << TIME, self.shift);
        let mut late = !self.atomics.is_empty();
        let cells = &mut self.cells[..];
        each(mask, |lane| {
            for cell in &mut cells[offsets[lane] >> shift..(offsets[lane] + bytes) >> shift] {
                late |= cell[WRITE] >= limit;
                cell[READ] = now << TIME;
            }
        });
        if late {
            try_each(mask, |lane| {
                for cell in offsets[lane] >> shift..(offsets[lane] + bytes) >> shift {
                    self.after_write(cell, warp, readers[lane])?;
                    self.after_atomics(cell, warp, readers[lane])?;
                }
                Ok(())
            })?;
        }
        let ordered = self.clocks.seen(warp, warp);
        let count = self.cells.len();
        let row = &mut self.reads[warp * count..][..count];
        let (earlier, partial) = (&mut self.earlier, self.clocks.partial(warp));
        each(mask, |lane| {
            let first = offsets[lane] >> shift;
            let readers = readers[lane];
            for (i, last) in row[first..(offsets[lane] + bytes) >> shift].iter_mut().enumerate() {
                let time = (*last >> 32) as u32;
                if time == now {
                    *last |= u64::from(readers);
                    continue;
                }
                let mut lanes = readers;
                if time > ordered {
                    if partial {
                        let group = Group { warp, time, lanes: *last as u32 };
                        earlier.entry(first + i).or_default().push(group);
                    } else {
                        // None of its lanes have met since, so nobody can tell that the earlier reads were not now.
                        lanes |= *last as u32;
                    }
                }
                *last = u64::from(now) << 32 | u64::from(lanes);
            }
        });
        Ok(())
    }

    /// Each lane of `mask` writes `bytes` at its offset. `same` says whether two lanes write the same value.
    pub fn store(
        &mut self,
        warp: usize,
        offsets: &[usize; LANES],
        bytes: usize,
        mask: u32,
        same: impl Fn(usize, usize) -> bool,
    ) -> Result<(), Conflict> {
        self.before_write(warp, offsets, bytes, mask)?;
        let now = self.clocks.now();
        try_each(mask, |lane| {
            let who = (warp * LANES + lane) as u32;
            for cell in offsets[lane] >> self.shift..(offsets[lane] + bytes) >> self.shift {
                let old = self.cells[cell][WRITE];
                self.cells[cell][WRITE] = now << TIME | who;
                // Since the write was in order, what has this time and is another's is of this instruction.
                if old >> TIME == now && old & WHO != who {
                    let lanes = self.writers(cell, old).lanes;
                    let other = lanes.trailing_zeros() as usize;
                    if !same(lane, other) {
                        return Err(Conflict { lane, other: warp * LANES + other, earlier: Earlier::Same });
                    }
                    self.cells[cell][WRITE] = now << TIME | (SEVERAL + warp as u32);
                    self.several.insert(cell, lanes | 1 << lane);
                }
                if !self.atomics.is_empty() {
                    self.atomics.remove(&cell);
                }
            }
            Ok(())
        })
    }

    /// Each lane of `mask` updates the word at its offset in one step.
    pub fn atomic(&mut self, warp: usize, offsets: &[usize; LANES], mask: u32) -> Result<(), Conflict> {
        self.clocks.touch(warp);
        let time = self.clocks.now();
        try_each(mask, |lane| {
            for cell in offsets[lane] >> self.shift..(offsets[lane] + 4) >> self.shift {
                self.after_write(cell, warp, 1 << lane)?;
                self.after_reads(cell, warp, lane)?;
                let groups = self.atomics.entry(cell).or_default();
                match groups.iter_mut().find(|group| (group.warp, group.time) == (warp, time)) {
                    Some(group) => group.lanes |= 1 << lane,
                    None => groups.push(Group { warp, time, lanes: 1 << lane }),
                }
            }
            Ok(())
        })
    }

    /// Each lane of `mask` begins to copy `bytes` to its offset.
    pub fn issue(&mut self, warp: usize, offsets: &[usize; LANES], bytes: usize, mask: u32) -> Result<(), Conflict> {
        self.before_write(warp, offsets, bytes, mask)?;
        self.copies = true;
        try_each(mask, |lane| {
            for cell in offsets[lane] >> self.shift..(offsets[lane] + bytes) >> self.shift {
                let old = self.cells[cell][WRITE];
                if old & PENDING != 0 {
                    return Err(Conflict { lane, other: (old & WHO) as usize, earlier: Earlier::Same });
                }
                self.cells[cell][WRITE] = PENDING | (warp * LANES + lane) as u32;
            }
            Ok(())
        })
    }

    /// The copies of `mask` have been waited for.
    pub fn complete(&mut self, warp: usize, offsets: &[usize; LANES], bytes: usize, mask: u32) {
        self.clocks.touch(warp);
        let time = self.clocks.now() << TIME;
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
            let cells = offsets[lane] >> self.shift..(offsets[lane] + bytes) >> self.shift;
            self.cells[cells].iter_mut().for_each(|cell| cell[WRITE] = time | (warp * LANES + lane) as u32);
        }
    }

    /// Whether writes come after everything else.
    fn before_write(&mut self, warp: usize, offsets: &[usize; LANES], bytes: usize, mask: u32) -> Result<(), Conflict> {
        self.clocks.touch(warp);
        let (limit, shift) = ((self.clocks.safe(warp) + 1) << TIME, self.shift);
        let mut late = !self.atomics.is_empty();
        each(mask, |lane| {
            for [write, read] in &self.cells[offsets[lane] >> shift..(offsets[lane] + bytes) >> shift] {
                late |= *write >= limit || *read >= limit;
            }
        });
        if !late {
            return Ok(());
        }
        try_each(mask, |lane| {
            for cell in offsets[lane] >> shift..(offsets[lane] + bytes) >> shift {
                self.after_write(cell, warp, 1 << lane)?;
                self.after_reads(cell, warp, lane)?;
                self.after_atomics(cell, warp, 1 << lane)?;
            }
            Ok(())
        })
    }

    /// Whether `lanes` come after the last write.
    fn after_write(&self, cell: usize, warp: usize, lanes: u32) -> Result<(), Conflict> {
        let stamp = self.cells[cell][WRITE];
        if stamp & PENDING != 0 {
            let lane = lanes.trailing_zeros() as usize;
            return Err(Conflict { lane, other: (stamp & WHO) as usize, earlier: Earlier::Copy });
        }
        self.after(self.writers(cell, stamp), warp, lanes, Earlier::Write)
    }

    fn writers(&self, cell: usize, stamp: u32) -> Group {
        let (time, who) = (stamp >> TIME, stamp & WHO);
        if who < SEVERAL {
            let (warp, lane) = (who as usize / LANES, who as usize % LANES);
            return Group { warp, time, lanes: 1 << lane };
        }
        // Forgotten ones are those that all come after.
        let lanes = self.several.get(&cell).copied().unwrap_or(u32::MAX);
        Group { warp: (who - SEVERAL) as usize, time, lanes }
    }

    fn after_reads(&self, cell: usize, warp: usize, lane: usize) -> Result<(), Conflict> {
        if self.cells[cell][READ] <= self.clocks.safe(warp) << TIME {
            return Ok(());
        }
        for (other, read) in self.reads[cell..].iter().step_by(self.cells.len()).enumerate() {
            let group = Group { warp: other, time: (*read >> 32) as u32, lanes: *read as u32 };
            self.after(group, warp, 1 << lane, Earlier::Read)?;
        }
        let earlier = self.earlier.get(&cell).map_or(&[][..], |groups| groups);
        earlier.iter().try_for_each(|group| self.after(*group, warp, 1 << lane, Earlier::Read))
    }

    fn after_atomics(&self, cell: usize, warp: usize, lanes: u32) -> Result<(), Conflict> {
        let groups = self.atomics.get(&cell).map_or(&[][..], |groups| groups);
        groups.iter().try_for_each(|group| self.after(*group, warp, lanes, Earlier::Atomic))
    }

    fn after(&self, group: Group, warp: usize, lanes: u32, earlier: Earlier) -> Result<(), Conflict> {
        match self.clocks.unordered(group, warp, lanes) {
            None => Ok(()),
            Some((lane, other)) => Err(Conflict { lane, other: group.warp * LANES + other, earlier }),
        }
    }
}

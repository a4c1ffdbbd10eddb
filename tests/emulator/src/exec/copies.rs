//! Asynchronous copies from global to shared memory.
//!
//! A device does such a copy at any time between its issue and the wait of its thread that covers it. Here both its halves,
//! the read and the write, are done in that wait, the latest moment there is, or never where no wait covers it: what a
//! kernel reads too early is then always the old bytes.

use std::collections::VecDeque;

use super::access::unwritten;
use super::block::State;
use super::place::{Found, missed, offsets, window};
use super::races::shared_race;
use super::transfer::{Offsets, each};
use super::warp::Warp;
use super::{Context, Raised, lanes};
use crate::alu::LANES;
use crate::check::Access;
use crate::counters::{Counters, sectors, wavefronts};
use crate::decode::AsyncCopy;
use crate::fault::FaultKind;
use crate::store::Store;

/// The copies of a warp that no wait has covered yet.
pub struct Copies {
    warp: usize,
    pending: VecDeque<Pending>,
    /// Groups that each lane has committed: the number of its open group.
    committed: [u32; LANES],
    /// The largest of them.
    most: u32,
}

#[derive(Clone, Copy)]
struct Pending {
    pc: u32,
    /// Lanes whose copy is still to be done.
    mask: u32,
    /// The group of each lane's copy.
    groups: [u32; LANES],
    /// The smallest of them.
    first: u32,
    /// The source among the context's allocations; `None` writes zeros.
    source: Option<usize>,
    from: Offsets,
    to: Offsets,
    /// Bytes that are written, and that each lane reads.
    bytes: usize,
    source_bytes: [u8; LANES],
}

impl Copies {
    /// Those of the block's warp of that number.
    pub fn new(warp: usize) -> Copies {
        Copies { warp, pending: VecDeque::new(), committed: [0; LANES], most: 0 }
    }

    /// Forgets the copies that were never waited for.
    pub fn reset(&mut self) {
        self.pending.clear();
        (self.committed, self.most) = ([0; LANES], 0);
    }

    fn push(&mut self, mut copy: Pending) {
        if let Some(first) = lanes(copy.mask).map(|lane| copy.groups[lane]).min() {
            copy.first = first;
            self.pending.push_back(copy);
        }
    }

    /// Closes the open group of each lane, empty or not.
    pub fn commit(&mut self, mask: u32) {
        each(mask, |lane| self.committed[lane] += 1);
        self.most = self.committed.into_iter().max().unwrap_or(0);
    }

    /// Does the copies of the lanes, but for those of the `left` groups committed last and of the open one. With `None`
    /// all of them.
    pub fn wait(
        &mut self,
        context: &Context,
        block: &mut State,
        left: Option<u32>,
        mask: u32,
    ) -> Result<(), Box<Raised>> {
        for copy in &mut self.pending {
            let done = match left {
                None => copy.mask & mask,
                Some(left) if copy.first.saturating_add(left) >= self.most => continue,
                Some(left) => {
                    let over = |lane: usize| copy.groups[lane].saturating_add(left) < self.committed[lane];
                    (0..LANES).fold(0, |found, lane| found | u32::from(over(lane)) << lane) & copy.mask & mask
                }
            };
            if done != 0 {
                copy.run(self.warp, context, block, done)?;
                copy.mask &= !done;
            }
        }
        while self.pending.front().is_some_and(|copy| copy.mask == 0) {
            self.pending.pop_front();
        }
        Ok(())
    }
}

impl Pending {
    fn run(&self, warp: usize, context: &Context, block: &mut State, mask: u32) -> Result<(), Box<Raised>> {
        let Pending { from, to, bytes, source_bytes, .. } = self;
        let source = self.source.map(|index| &context.live[index]);
        if let Some(source) = source.filter(|_| context.checks.initialised) {
            let unread = |lane: &usize| {
                !pieces(source_bytes[*lane].into()).all(|(at, size)| source.store.is_written(from[*lane] + at, size))
            };
            if let Some(lane) = lanes(mask).find(unread) {
                let address = source.address + from[lane] as u64;
                return Err(unwritten(FaultKind::UninitialisedGlobal, self.pc, lane, address));
            }
        }
        let shared = &block.shared;
        if let Some(races) = &mut block.races {
            races.complete(warp, to, *bytes, mask);
        }
        each(mask, |lane| {
            let read = usize::from(source_bytes[lane]);
            if let Some(source) = source
                && read == *bytes
            {
                let words = (0..*bytes).step_by(4);
                return words.for_each(|at| shared.store_word(to[lane] + at, source.store.load_word(from[lane] + at)));
            }
            for at in (0..*bytes).step_by(4) {
                let value = match source {
                    Some(source) if read >= at + 4 => source.store.load_word(from[lane] + at),
                    Some(source) if read > at => source.store.load(from[lane] + at, read - at),
                    _ => 0,
                };
                shared.store_word(to[lane] + at, value);
            }
        });
        if context.checks.initialised {
            mark(shared, to, *bytes, mask);
        }
        Ok(())
    }
}

fn mark(shared: &Store, to: &Offsets, bytes: usize, mask: u32) {
    each(mask, |lane| (0..bytes).step_by(4).for_each(|at| shared.mark(to[lane] + at, 4)));
}

/// Where the words of `bytes` bytes begin, and how much of each belongs to them.
fn pieces(bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..bytes).step_by(4).map(move |at| (at, (bytes - at).min(4)))
}

impl Warp {
    /// Issues a copy: checks it and puts it in the open group of each lane.
    pub fn copy(
        &mut self,
        context: &Context,
        block: &mut State,
        copy: &AsyncCopy,
        mask: u32,
        pc: u32,
    ) -> Result<(), Box<Raised>> {
        let size = usize::from(copy.bytes);
        let (target, source) = (self.addresses(&copy.to), self.addresses(&copy.from));
        window(&target, mask, size as u64, context.shared_bytes, "shared memory", pc)?;
        let to = offsets(&target, 0);
        if let Some(races) = &mut block.races {
            races.issue(self.index, &to, size, mask).map_err(|found| shared_race(context, found, pc, &target))?;
        }
        let mut source_bytes = [copy.bytes; LANES];
        if let Some(slot) = copy.source_bytes {
            let row = self.registers.narrow[slot as usize];
            if let Some(lane) = lanes(mask).find(|lane| row[*lane] as usize > size) {
                let (kind, detail) = (FaultKind::OutOfBounds, format!("{} source bytes of {size}", row[lane]));
                return Err(Box::new(Raised { kind, pc, lane, address: Some(source[lane]), detail }));
            }
            source_bytes = row.map(|bytes| bytes as u8);
        }
        let reading = |what: fn(u8, u8) -> bool| {
            (0..LANES).fold(0, |found, lane| found | u32::from(what(source_bytes[lane], copy.bytes)) << lane) & mask
        };
        let (mut whole, partly) = (reading(|read, all| read == all), reading(|read, all| 0 < read && read < all));
        count(&mut block.counters, context.checks.traffic, &source, &to, &source_bytes, size, mask);
        let mut pending = Pending {
            pc,
            mask: mask & !whole & !partly,
            groups: self.copies.committed,
            first: 0,
            source: None,
            from: to,
            to,
            bytes: size,
            source_bytes,
        };
        self.copies.push(pending);
        while whole != 0 {
            let (found, group) = self.find(context, &source, whole, size as u64, pc)?;
            whole &= !group;
            (pending.mask, pending.source) = (group, None);
            if let Some(found) = found {
                pending.source = Some(found.index);
                pending.from = offsets(&source, found.allocation.address);
                found.note(context, block, &pending.from, size, group, Access::Read, pc)?;
            }
            self.copies.push(pending);
        }
        for lane in lanes(partly) {
            let (address, bytes) = (source[lane], source_bytes[lane].into());
            let index = context.live.partition_point(|allocation| allocation.address <= address).wrapping_sub(1);
            let holds = context.live.get(index).filter(|found| {
                let last = found.bytes.checked_sub(bytes);
                address.is_multiple_of(size as u64) && last.is_some_and(|last| address - found.address <= last)
            });
            (pending.mask, pending.source) = (1 << lane, None);
            if let Some(allocation) = holds {
                pending.source = Some(index);
                pending.from = offsets(&source, allocation.address);
                let found = Found { index, allocation };
                found.note(context, block, &pending.from, bytes as usize, 1 << lane, Access::Read, pc)?;
            } else if context.checks.memory {
                return Err(missed(context, address, bytes, size as u64, lane, pc));
            }
            self.copies.push(pending);
        }
        Ok(())
    }
}

fn count(
    counters: &mut Counters,
    traffic: bool,
    source: &[u64; LANES],
    to: &Offsets,
    source_bytes: &[u8; LANES],
    bytes: usize,
    mask: u32,
) {
    counters.global_load_bytes += lanes(mask).map(|lane| u64::from(source_bytes[lane])).sum::<u64>();
    counters.shared_store_bytes += u64::from(mask.count_ones()) * bytes as u64;
    if traffic && mask != 0 {
        let reading = lanes(mask).filter(|lane| source_bytes[*lane] != 0).fold(0, |found, lane| found | 1 << lane);
        counters.copy_requests += 1;
        counters.copy_sectors += sectors(source, reading);
        counters.copy_wavefronts += wavefronts(to, bytes, mask);
    }
}

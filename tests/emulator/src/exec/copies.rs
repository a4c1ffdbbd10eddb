//! Asynchronous copies from global to shared memory.
//!
//! A device does such a copy at any time between its issue and the wait of its thread that covers it. Here both its halves,
//! the read and the write, are done in that wait, the latest moment there is, or never where no wait covers it: what a
//! kernel reads too early is then always the old bytes.

use std::collections::VecDeque;

use super::access::{missed, offsets, unwritten, window};
use super::block::State;
use super::transfer::{Offsets, each};
use super::warp::Warp;
use super::{Context, Raised, lanes};
use crate::alu::LANES;
use crate::decode::AsyncCopy;
use crate::fault::FaultKind;
use crate::store::Store;

/// The copies of a warp that no wait has covered yet.
#[derive(Default)]
pub struct Copies {
    pending: VecDeque<Pending>,
    /// Groups that each lane has committed: the number of its open group.
    committed: [u32; LANES],
    /// The largest of them.
    most: u32,
}

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
    /// Forgets the copies that were never waited for.
    pub fn reset(&mut self) {
        self.pending.clear();
        (self.committed, self.most) = ([0; LANES], 0);
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
                copy.run(context, block, done)?;
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
    fn run(&self, context: &Context, block: &mut State, mask: u32) -> Result<(), Box<Raised>> {
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
        each(mask, |lane| {
            let read = usize::from(source_bytes[lane]);
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
        let bytes = u64::from(copy.bytes);
        let (to, from) = (self.addresses(&copy.to), self.addresses(&copy.from));
        window(&to, mask, bytes, context.shared_bytes, "shared memory", pc)?;
        let mut source_bytes = [copy.bytes; LANES];
        if let Some(slot) = copy.source_bytes {
            let row = self.registers.narrow[slot as usize];
            if let Some(lane) = lanes(mask).find(|lane| row[*lane] > bytes as u32) {
                let detail = format!("{} bytes of the source for a copy of {bytes}", row[lane]);
                return Err(Box::new(Raised {
                    kind: FaultKind::OutOfBounds,
                    pc,
                    lane,
                    address: Some(from[lane]),
                    detail,
                }));
            }
            source_bytes = row.map(|size| size as u8);
        }
        let of_size =
            |size: u8| (0..LANES).fold(0, |found, lane| found | u32::from(source_bytes[lane] == size) << lane);
        let (mut whole, none) = (mask & of_size(copy.bytes), mask & of_size(0));
        let to = offsets(&to, 0);
        block.counters.global_load_bytes += lanes(mask).map(|lane| u64::from(source_bytes[lane])).sum::<u64>();
        while whole != 0 {
            let (found, group) = self.find(context, &from, whole, bytes, pc)?;
            let zero = found.is_none();
            let (source, base) = found.map_or((None, 0), |found| (Some(found.index), found.allocation.address));
            let sizes = if zero { [0; LANES] } else { source_bytes };
            self.push(Pending::new(pc, group, source, offsets(&from, base), to, copy.bytes, sizes));
            whole &= !group;
        }
        for lane in lanes(mask & !of_size(copy.bytes) & !none) {
            let (address, size) = (from[lane], u64::from(source_bytes[lane]));
            let index = context.live.partition_point(|allocation| allocation.address <= address).wrapping_sub(1);
            let holds = context.live.get(index).filter(|allocation| {
                let last = allocation.bytes.checked_sub(size);
                last.is_some_and(|last| address - allocation.address <= last) && address.is_multiple_of(bytes)
            });
            let pending = match holds {
                Some(found) => Pending::new(
                    pc,
                    1 << lane,
                    Some(index),
                    offsets(&from, found.address),
                    to,
                    copy.bytes,
                    source_bytes,
                ),
                None if context.checks.memory => return Err(missed(context, address, size, bytes, lane, pc)),
                None => Pending::new(pc, 1 << lane, None, offsets(&from, 0), to, copy.bytes, [0; LANES]),
            };
            self.push(pending);
        }
        if none != 0 {
            self.push(Pending::new(pc, none, None, offsets(&from, 0), to, copy.bytes, [0; LANES]));
        }
        Ok(())
    }

    fn push(&mut self, mut copy: Pending) {
        copy.groups = self.copies.committed;
        copy.first = lanes(copy.mask).map(|lane| copy.groups[lane]).min().unwrap_or(0);
        self.copies.pending.push_back(copy);
    }
}

impl Pending {
    fn new(
        pc: u32,
        mask: u32,
        source: Option<usize>,
        from: Offsets,
        to: Offsets,
        bytes: u8,
        source_bytes: [u8; LANES],
    ) -> Pending {
        Pending { pc, mask, groups: [0; LANES], first: 0, source, from, to, bytes: bytes.into(), source_bytes }
    }
}

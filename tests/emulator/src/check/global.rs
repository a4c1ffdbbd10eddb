//! Races between the blocks of a launch in global memory.
//!
//! A cell's state says what its accesses so far have in common. It does not depend on their order, so a race is found
//! whichever of its two accesses really came first. Pages of states are made where a launch accesses memory, a fourth as
//! large as the memory where it is only accessed in 16-byte pieces, as large as it in 4-byte ones.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::release::{BlockOrder, Releases};
use super::{cell_shift, each, try_each};
use crate::alu::LANES;
use crate::decode::{Code, Kind, Space};
use crate::memory::Allocation;

/// Cells of a page.
const PAGE: usize = 4096;

/// A state's kinds, above the number of the block they are about. 0 is a cell that nobody has accessed.
const READ: u32 = 1 << 29;
const ATOMIC: u32 = 2 << 29;
/// Written, or both read and updated atomically.
const OWNED: u32 = 3 << 29;
/// Read by several blocks.
const READS: u32 = 4 << 29;
/// Updated atomically by several blocks.
const ATOMICS: u32 = 5 << 29;
const BLOCK: u32 = READ - 1;

pub struct GlobalRaces {
    shift: u32,
    /// The live allocations: the cells of each, and its pages.
    allocations: Vec<(usize, OnceLock<Box<[Page]>>)>,
    /// Where the kernel has fences.
    releases: Option<Releases>,
}

type Page = OnceLock<Box<[AtomicU32]>>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Atomic,
}

/// What an access races with.
pub struct Rival {
    /// Of the access.
    pub lane: usize,
    /// The other block's number, if it was one.
    pub block: Option<u32>,
    pub access: Access,
}

impl GlobalRaces {
    pub fn new(code: &Code, live: &[Arc<Allocation>]) -> GlobalRaces {
        let shift = cell_shift(code, Space::Global);
        let cells = |allocation: &Arc<Allocation>| (allocation.bytes as usize).div_ceil(1 << shift);
        let fences = code.insts.iter().any(|inst| matches!(inst.kind, Kind::Fence { device: true }));
        GlobalRaces {
            shift,
            allocations: live.iter().map(|found| (cells(found), OnceLock::new())).collect(),
            releases: fences.then(Releases::default),
        }
    }

    /// The lanes of `mask` in a block access `bytes` at their offsets in the live allocation of that index.
    pub fn access(
        &self,
        index: usize,
        offsets: &[usize; LANES],
        bytes: usize,
        mask: u32,
        access: Access,
        order: &BlockOrder,
    ) -> Result<(), Rival> {
        let (cells, pages) = &self.allocations[index];
        let pages = pages.get_or_init(|| (0..cells.div_ceil(PAGE)).map(|_| Page::new()).collect());
        let block = order.number & BLOCK;
        try_each(mask, |lane| {
            let first = offsets[lane] >> self.shift;
            let count = (offsets[lane] + bytes).div_ceil(1 << self.shift) - first;
            // An aligned access does not reach over the end of a page.
            let page = pages[first / PAGE].get_or_init(|| bytemuck::allocation::zeroed_slice_box(PAGE));
            for state in &page[first % PAGE..][..count] {
                let mut old = state.load(Relaxed);
                loop {
                    let new = match next(old, access, block) {
                        Ok(new) => new,
                        Err(_) if self.comes_after(old, (index, first), order) => OWNED | block,
                        Err((block, access)) => return Err(Rival { lane, block, access }),
                    };
                    if new == old {
                        break;
                    }
                    match state.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                        Ok(_) => break,
                        Err(found) => old = found,
                    }
                }
            }
            Ok(())
        })
    }

    /// Whether a fence and an atomic order the block after the others that made this state.
    fn comes_after(&self, state: u32, word: (usize, usize), order: &BlockOrder) -> bool {
        match state & !BLOCK {
            READS => false,
            ATOMICS => self.releases.as_ref().is_some_and(|releases| releases.last(word, order)),
            _ => order.knows(state & BLOCK),
        }
    }

    /// The lanes of `mask` are going to update words atomically.
    pub fn release(&self, index: usize, offsets: &[usize; LANES], mask: u32, order: &BlockOrder) {
        if let Some(releases) = &self.releases {
            each(mask, |lane| releases.release((index, offsets[lane] >> self.shift), order));
        }
    }

    /// They have done so.
    pub fn acquire(&self, index: usize, offsets: &[usize; LANES], mask: u32, order: &mut BlockOrder) {
        if let Some(releases) = &self.releases {
            each(mask, |lane| releases.acquire((index, offsets[lane] >> self.shift), order));
        }
    }
}

/// The state after an access, or what it races with.
#[inline(always)]
fn next(old: u32, access: Access, block: u32) -> Result<u32, (Option<u32>, Access)> {
    let (kind, owner) = (old & !BLOCK, old & BLOCK);
    let mine = owner == block;
    Ok(match (kind, access) {
        (0, Access::Read) => READ | block,
        (0, Access::Write) => OWNED | block,
        (0, Access::Atomic) => ATOMIC | block,
        (READ, Access::Read) if mine => old,
        (READ | READS, Access::Read) => READS,
        (ATOMIC, Access::Atomic) if mine => old,
        (ATOMIC | ATOMICS, Access::Atomic) => ATOMICS,
        (READ | ATOMIC | OWNED, _) if mine => OWNED | block,
        (READ, _) => return Err((Some(owner), Access::Read)),
        (READS, _) => return Err((None, Access::Read)),
        (ATOMIC, _) => return Err((Some(owner), Access::Atomic)),
        (ATOMICS, _) => return Err((None, Access::Atomic)),
        _ => return Err((Some(owner), Access::Write)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sequence of six accesses by three blocks, against all its pairs.
    #[test]
    fn states_find_what_pairs_do() {
        let accesses = [Access::Read, Access::Write, Access::Atomic];
        for code in 0..9u32.pow(6) {
            let sequence: [(u32, Access); 6] = std::array::from_fn(|i| {
                (code / 9u32.pow(i as u32) % 3, accesses[(code / 9u32.pow(i as u32) / 3 % 3) as usize])
            });
            let races = |a: &(u32, Access), b: &(u32, Access)| a.0 != b.0 && (a.1 != b.1 || a.1 == Access::Write);
            let expected = (0..6).find(|i| (0..*i).any(|j| races(&sequence[j], &sequence[*i])));
            let mut state = 0;
            let found = sequence.iter().position(|(block, access)| match next(state, *access, *block) {
                Ok(new) => {
                    state = new;
                    false
                }
                Err(_) => true,
            });
            assert_eq!(found, expected, "sequence {code}");
        }
    }
}

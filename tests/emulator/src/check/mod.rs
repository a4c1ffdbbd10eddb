//! Race checkers: accesses to the same bytes, one of them a write, that nothing orders. Beside them, the count of what is
//! touched at all.
//!
//! Both work on cells, pieces of memory as large as the kernel's smallest access to that space. Every access is aligned to
//! its size, so two of them touch the same cell exactly if they touch the same bytes.

mod clocks;
mod global;
mod release;
mod shared;
mod touched;

pub use global::{Access, GlobalRaces};
pub use release::BlockOrder;
pub use shared::{Conflict, Earlier, SharedRaces};
pub use touched::Touched;

use crate::alu::LANES;
use crate::decode::{Code, Kind, Space};

/// Bytes of the kernel's smallest access to shared or global memory, as a power of two.
fn cell_shift(code: &Code, space: Space) -> u32 {
    let sizes = code.insts.iter().filter_map(|inst| match &inst.kind {
        Kind::Load(access) | Kind::Store(access) if access.space == space => {
            Some(u32::from(access.element * access.count))
        }
        Kind::Atomic(atomic) if atomic.space == space => Some(4),
        Kind::Copy(copy) => Some(match copy.source_bytes {
            // Any number of bytes may be read.
            Some(_) if space == Space::Global => 4,
            _ => copy.bytes.into(),
        }),
        Kind::LoadMatrix(_) if space == Space::Shared => Some(16),
        _ => None,
    });
    sizes.min().unwrap_or(4).trailing_zeros()
}

/// Runs `act` for the lanes of a mask. Called from one place, so that it is inlined there.
#[inline(always)]
fn each(mask: u32, mut act: impl FnMut(usize)) {
    for lane in 0..LANES {
        if mask >> lane & 1 == 1 {
            act(lane);
        }
    }
}

/// Runs `act` for the lanes of a mask until it fails.
#[inline(always)]
fn try_each<E>(mask: u32, mut act: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
    (0..LANES).filter(|lane| mask >> lane & 1 == 1).try_for_each(&mut act)
}

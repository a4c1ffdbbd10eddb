//! Where accesses lie: addresses of lanes, the allocations that hold them, the bounds of a space.

use super::transfer::Offsets;
use super::warp::{RECENT, Warp};
use super::{Context, Raised, lanes};
use crate::alu::LANES;
use crate::decode::Address;
use crate::fault::FaultKind;
use crate::memory::{AccessError, Allocation};

/// An allocation and its index among the live ones.
pub struct Found<'a> {
    pub index: usize,
    pub allocation: &'a Allocation,
}

impl Warp {
    #[inline]
    pub fn addresses(&self, address: &Address) -> [u64; LANES] {
        if address.wide {
            let row = &self.registers.wide[address.slot as usize];
            std::array::from_fn(|lane| row[lane].wrapping_add(address.offset as u64))
        } else {
            let row = &self.registers.narrow[address.slot as usize];
            std::array::from_fn(|lane| row[lane].wrapping_add(address.offset as u32).into())
        }
    }

    /// The allocation that holds the first lane's access, and the lanes whose access it holds as well. `None` for lanes
    /// that miss while the check is off.
    pub fn find<'a>(
        &mut self,
        context: &'a Context,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u64,
        pc: u32,
    ) -> Result<(Option<Found<'a>>, u32), Box<Raised>> {
        let recent = &mut self.recent[pc as usize % RECENT];
        let index = *recent as usize;
        if let Some(allocation) = context.live.get(index)
            && all_inside(addresses, mask, bytes, allocation.address, allocation.bytes)
        {
            return Ok((Some(Found { index, allocation }), mask));
        }
        let lane = mask.trailing_zeros() as usize;
        let address = addresses[lane];
        let index = context.live.partition_point(|allocation| allocation.address <= address).wrapping_sub(1);
        if let Some(allocation) = context.live.get(index) {
            let group = inside(addresses, mask, bytes, allocation.address, allocation.bytes);
            if group >> lane & 1 == 1 {
                *recent = index as u32;
                return Ok((Some(Found { index, allocation }), group));
            }
        }
        if !context.checks.memory {
            return Ok((None, 1 << lane));
        }
        Err(missed(context, address, bytes, bytes, lane, pc))
    }
}

/// Why `bytes` at a global address that is to be a multiple of `align` cannot be accessed.
pub fn missed(context: &Context, address: u64, bytes: u64, align: u64, lane: usize, pc: u32) -> Box<Raised> {
    let (kind, detail) = if address.is_multiple_of(align) {
        let error = context.memory.describe(address, bytes);
        let kind = match error {
            AccessError::OutOfBounds { .. } => FaultKind::OutOfBounds,
            AccessError::UseAfterFree { .. } => FaultKind::UseAfterFree,
        };
        (kind, error.to_string())
    } else {
        (FaultKind::Misaligned, format!("{bytes} bytes at {address:#x}, not a multiple of {align}"))
    };
    Box::new(Raised { kind, pc, lane, address: Some(address), detail })
}

#[inline]
pub fn offsets(addresses: &[u64; LANES], base: u64) -> Offsets {
    std::array::from_fn(|lane| addresses[lane].wrapping_sub(base) as usize)
}

#[inline]
pub fn local_offsets(addresses: &[u64; LANES], stride: usize) -> Offsets {
    std::array::from_fn(|lane| (addresses[lane] as usize).wrapping_add(lane * stride))
}

/// Whether the accesses of `mask` are aligned and lie in `size` bytes at `base`. `bytes` is a power of two.
#[inline]
fn all_inside(addresses: &[u64; LANES], mask: u32, bytes: u64, base: u64, size: u64) -> bool {
    inside(addresses, mask, bytes, base, size) == mask
}

/// Those of `mask` whose access is aligned and lies in `size` bytes at `base`.
#[inline]
fn inside(addresses: &[u64; LANES], mask: u32, bytes: u64, base: u64, size: u64) -> u32 {
    let Some(last) = size.checked_sub(bytes) else { return 0 };
    let mut found = 0;
    for (lane, address) in addresses.iter().enumerate() {
        let fits = (address.wrapping_sub(base) <= last) & (address & (bytes - 1) == 0);
        found |= u32::from(fits) << lane;
    }
    found & mask
}

/// A fault unless the accesses of `mask` are aligned and lie in a space of `size` bytes.
pub fn window(
    addresses: &[u64; LANES],
    mask: u32,
    bytes: u64,
    size: u32,
    what: &str,
    pc: u32,
) -> Result<(), Box<Raised>> {
    let good = inside(addresses, mask, bytes, 0, size.into());
    let Some(lane) = lanes(mask & !good).next() else { return Ok(()) };
    let address = addresses[lane];
    let (kind, detail) = if address.is_multiple_of(bytes) {
        (FaultKind::OutOfBounds, format!("{bytes} bytes at {address:#x} of {size} bytes of {what}"))
    } else {
        (FaultKind::Misaligned, format!("{bytes} bytes of {what} at {address:#x}, not a multiple of {bytes}"))
    };
    Err(Box::new(Raised { kind, pc, lane, address: Some(address), detail }))
}

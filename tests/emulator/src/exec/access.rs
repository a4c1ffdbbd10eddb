//! Loads, stores and atomics of a warp.

use super::block::State;
use super::place::{Found, local_offsets, offsets, window};
use super::races::shared_race;
use super::transfer::{Offsets, each, load_from, load_zero, store_to, stores_same, update};
use super::warp::{Warp, stride};
use super::{Context, Raised, lanes};
use crate::alu::LANES;
use crate::check::Access as Global;
use crate::counters::{sectors, wavefronts};
use crate::decode::{Access, Atomic, Space};
use crate::fault::FaultKind;
use crate::store::Store;

impl Warp {
    pub fn load(
        &mut self,
        context: &Context,
        block: &mut State,
        access: &Access,
        mask: u32,
        pc: u32,
    ) -> Result<(), Box<Raised>> {
        if access.space == Space::Param {
            return self.load_param(context, access, mask, pc);
        }
        let bytes = u64::from(access.element * access.count);
        let addresses = self.addresses(&access.address);
        match access.space {
            Space::Global => {
                block.counters.global_load_bytes += u64::from(mask.count_ones()) * bytes;
                if context.checks.traffic && mask != 0 {
                    block.counters.global_load_requests += 1;
                    block.counters.global_load_sectors += sectors(&addresses, mask);
                }
                let mut rest = mask;
                while rest != 0 {
                    let (allocation, group) = self.find(context, &addresses, rest, bytes, pc)?;
                    rest &= !group;
                    match allocation {
                        Some(found) => {
                            let offsets = offsets(&addresses, found.allocation.address);
                            found.note(context, block, &offsets, bytes as usize, group, Global::Read, pc)?;
                            let found = found.allocation;
                            if context.checks.initialised {
                                check_written(&found.store, &offsets, bytes, group).map_err(|lane| {
                                    unwritten(FaultKind::UninitialisedGlobal, pc, lane, addresses[lane])
                                })?;
                            }
                            load_from(&mut self.registers, &found.store, &offsets, access, group);
                        }
                        None => load_zero(&mut self.registers, access, group),
                    }
                }
            }
            Space::Shared => self.load_shared(context, block, access, mask, pc, false)?,
            Space::Const => {
                window(&addresses, mask, bytes, context.code.constant_bytes, "constant memory", pc)?;
                load_from(&mut self.registers, &context.code.constants, &offsets(&addresses, 0), access, mask);
            }
            Space::Local | Space::Param => {
                window(&addresses, mask, bytes, context.code.local_bytes, "local memory", pc)?;
                let offsets = local_offsets(&addresses, stride(context.code));
                load_from(&mut self.registers, &self.local, &offsets, access, mask);
            }
        }
        Ok(())
    }

    /// Loads from shared memory; with `matrix` for the whole warp, else each lane for itself.
    pub fn load_shared(
        &mut self,
        context: &Context,
        block: &mut State,
        access: &Access,
        mask: u32,
        pc: u32,
        matrix: bool,
    ) -> Result<(), Box<Raised>> {
        let bytes = u64::from(access.element * access.count);
        let addresses = self.addresses(&access.address);
        window(&addresses, mask, bytes, context.shared_bytes, "shared memory", pc)?;
        let offsets = offsets(&addresses, 0);
        let counters = &mut block.counters;
        counters.shared_load_bytes += u64::from(mask.count_ones()) * bytes;
        if context.checks.traffic && mask != 0 {
            let steps = wavefronts(&offsets, bytes as usize, mask);
            if matrix {
                counters.matrix_wavefronts += steps;
            } else {
                counters.shared_load_requests += 1;
                counters.shared_load_wavefronts += steps;
            }
        }
        let (distinct, readers) = match bytes {
            _ if matrix => (mask, [u32::MAX; LANES]),
            ..8 => (mask, std::array::from_fn(|lane| 1 << lane)),
            _ if context.checks.initialised || block.races.is_some() => shared_reads(&offsets, bytes as usize, mask),
            _ => (mask, [0; LANES]),
        };
        if let Some(races) = &mut block.races {
            races
                .load(self.index, &offsets, bytes as usize, distinct, &readers)
                .map_err(|found| shared_race(context, found, pc, &addresses))?;
        }
        if context.checks.initialised {
            check_written(&block.shared, &offsets, bytes, distinct)
                .map_err(|lane| unwritten(FaultKind::UninitialisedShared, pc, lane, addresses[lane]))?;
        }
        load_from(&mut self.registers, &block.shared, &offsets, access, mask);
        Ok(())
    }

    pub fn store(
        &mut self,
        context: &Context,
        block: &mut State,
        access: &Access,
        mask: u32,
        pc: u32,
    ) -> Result<(), Box<Raised>> {
        let bytes = u64::from(access.element * access.count);
        let addresses = self.addresses(&access.address);
        match access.space {
            Space::Global => {
                block.order.store();
                block.counters.global_store_bytes += u64::from(mask.count_ones()) * bytes;
                if context.checks.traffic && mask != 0 {
                    block.counters.global_store_requests += 1;
                    block.counters.global_store_sectors += sectors(&addresses, mask);
                }
                let mut rest = mask;
                while rest != 0 {
                    let (allocation, group) = self.find(context, &addresses, rest, bytes, pc)?;
                    rest &= !group;
                    if let Some(found) = allocation {
                        let offsets = offsets(&addresses, found.allocation.address);
                        found.note(context, block, &offsets, bytes as usize, group, Global::Write, pc)?;
                        // Marked even when reads are not checked: a later launch may check them.
                        store_to(&self.registers, &found.allocation.store, &offsets, access, group, true);
                    }
                }
            }
            Space::Shared => {
                window(&addresses, mask, bytes, context.shared_bytes, "shared memory", pc)?;
                let offsets = offsets(&addresses, 0);
                block.counters.shared_store_bytes += u64::from(mask.count_ones()) * bytes;
                if context.checks.traffic && mask != 0 {
                    block.counters.shared_store_requests += 1;
                    block.counters.shared_store_wavefronts += wavefronts(&offsets, bytes as usize, mask);
                }
                if let Some(races) = &mut block.races {
                    let same = |a, b| stores_same(&self.registers, access, a, b);
                    races
                        .store(self.index, &offsets, bytes as usize, mask, same)
                        .map_err(|found| shared_race(context, found, pc, &addresses))?;
                }
                store_to(&self.registers, &block.shared, &offsets, access, mask, context.checks.initialised);
            }
            _ => {
                window(&addresses, mask, bytes, context.code.local_bytes, "local memory", pc)?;
                let offsets = local_offsets(&addresses, stride(context.code));
                store_to(&self.registers, &self.local, &offsets, access, mask, false);
            }
        }
        Ok(())
    }

    pub fn atomic(
        &mut self,
        context: &Context,
        block: &mut State,
        atomic: &Atomic,
        mask: u32,
        pc: u32,
    ) -> Result<(), Box<Raised>> {
        let addresses = self.addresses(&atomic.address);
        if atomic.space == Space::Shared {
            window(&addresses, mask, 4, context.shared_bytes, "shared memory", pc)?;
            let offsets = offsets(&addresses, 0);
            block.counters.shared_load_bytes += u64::from(mask.count_ones()) * 4;
            block.counters.shared_store_bytes += u64::from(mask.count_ones()) * 4;
            if let Some(races) = &mut block.races {
                races
                    .atomic(self.index, &offsets, mask)
                    .map_err(|found| shared_race(context, found, pc, &addresses))?;
            }
            if context.checks.initialised {
                check_written(&block.shared, &offsets, 4, mask)
                    .map_err(|lane| unwritten(FaultKind::UninitialisedShared, pc, lane, addresses[lane]))?;
            }
            update(&mut self.registers, &block.shared, &offsets, atomic, mask);
            return Ok(());
        }
        block.counters.global_load_bytes += u64::from(mask.count_ones()) * 4;
        block.counters.global_store_bytes += u64::from(mask.count_ones()) * 4;
        let mut rest = mask;
        while rest != 0 {
            let (allocation, group) = self.find(context, &addresses, rest, 4, pc)?;
            rest &= !group;
            let Some(found) = allocation else { continue };
            let offsets = offsets(&addresses, found.allocation.address);
            found.note(context, block, &offsets, 4, group, Global::Atomic, pc)?;
            let Found { index, allocation: found } = found;
            if context.checks.initialised {
                check_written(&found.store, &offsets, 4, group)
                    .map_err(|lane| unwritten(FaultKind::UninitialisedGlobal, pc, lane, addresses[lane]))?;
            }
            if let Some(races) = &context.races {
                races.release(index, &offsets, group, &block.order);
            }
            update(&mut self.registers, &found.store, &offsets, atomic, group);
            if let Some(races) = &context.races {
                races.acquire(index, &offsets, group, &mut block.order);
            }
        }
        Ok(())
    }

    fn load_param(&mut self, context: &Context, access: &Access, mask: u32, pc: u32) -> Result<(), Box<Raised>> {
        let size = access.element as usize;
        let first = self.addresses(&access.address)[0];
        for (part, slot) in access.registers[..access.count as usize].iter().enumerate() {
            let at = first.wrapping_add((part * size) as u64);
            let found = usize::try_from(at).ok().and_then(|at| context.launch.params.get(at..)?.get(..size));
            let Some(found) = found else {
                let (kind, lane) = (FaultKind::OutOfBounds, mask.trailing_zeros() as usize % LANES);
                let detail = format!("{size} bytes at {at} of {} bytes of parameters", context.launch.params.len());
                return Err(Box::new(Raised { kind, pc, lane, address: Some(at), detail }));
            };
            let mut bytes = [0; 8];
            bytes[..size].copy_from_slice(found);
            let unused = 64 - 8 * size;
            let value = u64::from_le_bytes(bytes);
            let value = if access.signed { ((value << unused) as i64 >> unused) as u64 } else { value };
            for lane in lanes(mask) {
                if access.wide {
                    self.registers.wide[*slot as usize][lane] = value;
                } else {
                    self.registers.narrow[*slot as usize][lane] = value as u32 & access.keep;
                }
            }
        }
        Ok(())
    }
}

/// Lanes of `mask` whose offsets are all different, with the lanes that have the same as each: kernels load the same 16
/// bytes in many lanes, which are checked once. Some may be left apart.
fn shared_reads(offsets: &Offsets, bytes: usize, mask: u32) -> (u32, [u32; LANES]) {
    let (mut distinct, mut readers, mut table) = (0, [0; LANES], [LANES; LANES]);
    each(mask, |lane| {
        let found = &mut table[offsets[lane] / bytes % LANES];
        if *found < LANES && offsets[*found] == offsets[lane] {
            readers[*found] |= 1 << lane;
            return;
        }
        if *found == LANES {
            *found = lane;
        }
        distinct |= 1 << lane;
        readers[lane] = 1 << lane;
    });
    (distinct, readers)
}

/// The first lane of `mask` that reads bytes nobody has written, as the error.
fn check_written(store: &Store, offsets: &Offsets, bytes: u64, mask: u32) -> Result<(), usize> {
    let bytes = bytes as usize;
    let mut good = 0u32;
    each(mask, |lane| {
        let at = offsets[lane];
        let written = (at..at + bytes).step_by(4).all(|at| store.is_written(at, bytes.min(4)));
        good |= u32::from(written) << lane;
    });
    lanes(mask & !good).next().map_or(Ok(()), Err)
}

pub fn unwritten(kind: FaultKind, pc: u32, lane: usize, address: u64) -> Box<Raised> {
    let detail = "a read of bytes that nobody has written".into();
    Box::new(Raised { kind, pc, lane, address: Some(address), detail })
}

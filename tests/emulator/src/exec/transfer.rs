//! Moving values between registers and a [`Store`], addresses already checked.

use super::lanes;
use crate::alu::{LANES, Registers};
use crate::decode::{Access, Atomic, AtomicOp};
use crate::store::Store;

/// Where in a store each lane's access begins.
pub type Offsets = [usize; LANES];

pub fn load_from(registers: &mut Registers, store: &Store, offsets: &Offsets, access: &Access, mask: u32) {
    if access.element == 4 && !access.wide {
        for (part, slot) in access.registers[..access.count as usize].iter().enumerate() {
            let row = &mut registers.narrow[*slot as usize];
            each(mask, |lane| row[lane] = store.load_word(offsets[lane] + part * 4));
        }
        return;
    }
    let size = access.element as usize;
    for (part, slot) in access.registers[..access.count as usize].iter().enumerate() {
        for lane in lanes(mask) {
            let at = offsets[lane] + part * size;
            let value = if size == 8 {
                u64::from(store.load_word(at)) | u64::from(store.load_word(at + 4)) << 32
            } else {
                let value = u64::from(store.load(at, size));
                let unused = 64 - 8 * size;
                if access.signed { ((value << unused) as i64 >> unused) as u64 } else { value }
            };
            if access.wide {
                registers.wide[*slot as usize][lane] = value;
            } else {
                registers.narrow[*slot as usize][lane] = value as u32 & access.keep;
            }
        }
    }
}

pub fn load_zero(registers: &mut Registers, access: &Access, mask: u32) {
    for slot in &access.registers[..access.count as usize] {
        for lane in lanes(mask) {
            if access.wide {
                registers.wide[*slot as usize][lane] = 0;
            } else {
                registers.narrow[*slot as usize][lane] = 0;
            }
        }
    }
}

pub fn store_to(registers: &Registers, store: &Store, offsets: &Offsets, access: &Access, mask: u32, mark: bool) {
    if access.element == 4 && !access.wide {
        for (part, slot) in access.registers[..access.count as usize].iter().enumerate() {
            let row = &registers.narrow[*slot as usize];
            each(mask, |lane| store.store_word(offsets[lane] + part * 4, row[lane]));
            if mark {
                each(mask, |lane| store.mark(offsets[lane] + part * 4, 4));
            }
        }
        return;
    }
    let size = access.element as usize;
    for (part, slot) in access.registers[..access.count as usize].iter().enumerate() {
        for lane in lanes(mask) {
            let at = offsets[lane] + part * size;
            let value = if access.wide {
                registers.wide[*slot as usize][lane]
            } else {
                registers.narrow[*slot as usize][lane].into()
            };
            store.store(at, size.min(4), value as u32);
            if size == 8 {
                store.store_word(at + 4, (value >> 32) as u32);
            }
            for at in (at..at + size).step_by(4).filter(|_| mark) {
                store.mark(at, size.min(4));
            }
        }
    }
}

/// Whether two lanes store the same value.
pub fn stores_same(registers: &Registers, access: &Access, a: usize, b: usize) -> bool {
    let unused = 64 - 8 * u32::from(access.element);
    access.registers[..access.count as usize].iter().all(|slot| {
        let value = |lane: usize| match access.wide {
            true => registers.wide[*slot as usize][lane],
            false => registers.narrow[*slot as usize][lane].into(),
        };
        value(a) << unused == value(b) << unused
    })
}

pub fn update(registers: &mut Registers, store: &Store, offsets: &Offsets, atomic: &Atomic, mask: u32) {
    for lane in lanes(mask) {
        let value = registers.narrow[atomic.value as usize][lane];
        let other = registers.narrow[atomic.other as usize][lane];
        let signed = value as i32;
        let old = store.update_word(offsets[lane], |old| match atomic.op {
            AtomicOp::Add => old.wrapping_add(value),
            AtomicOp::AddFloat => {
                let sum = f32::from_bits(old) + f32::from_bits(value);
                if sum.is_nan() { 0x7FFF_FFFF } else { sum.to_bits() }
            }
            AtomicOp::MinSigned => signed.min(old as i32) as u32,
            AtomicOp::MaxSigned => signed.max(old as i32) as u32,
            AtomicOp::MinUnsigned => old.min(value),
            AtomicOp::MaxUnsigned => old.max(value),
            AtomicOp::And => old & value,
            AtomicOp::Or => old | value,
            AtomicOp::Xor => old ^ value,
            AtomicOp::Exchange => value,
            AtomicOp::Increment => {
                if old >= value {
                    0
                } else {
                    old + 1
                }
            }
            AtomicOp::Decrement => {
                if old == 0 || old > value {
                    value
                } else {
                    old - 1
                }
            }
            AtomicOp::Swap => {
                if old == value {
                    other
                } else {
                    old
                }
            }
        });
        if let Some(slot) = atomic.destination {
            registers.narrow[slot as usize][lane] = old;
        }
    }
}

/// Runs `act` for the lanes of a mask; a full one needs no search for them.
#[inline(always)]
pub fn each(mask: u32, mut act: impl FnMut(usize)) {
    if mask == u32::MAX {
        (0..LANES).for_each(act);
    } else {
        lanes(mask).for_each(&mut act);
    }
}

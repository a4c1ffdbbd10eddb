//! Integer arithmetic, logic and moves. PTX leaves division by zero to the machine: here it gives all ones, and the
//! dividend as remainder.

use super::{Alu, alu};

/// Where the generic addresses of shared memory begin, below all global ones. Nothing can be accessed there: loads and
/// stores name their space.
const SHARED_WINDOW: u64 = 1 << 32;

/// Forms that exist for several types.
macro_rules! arithmetic {
    ($($ty:ident $name:literal $bits:literal)+) => {
        &[$(&alu! {
            concat!("add.", $name) => |a: $ty, b: $ty| -> $ty { a.wrapping_add(b) }
            concat!("sub.", $name) => |a: $ty, b: $ty| -> $ty { a.wrapping_sub(b) }
            concat!("mul.lo.", $name) => |a: $ty, b: $ty| -> $ty { a.wrapping_mul(b) }
            concat!("mad.lo.", $name) => |a: $ty, b: $ty, c: $ty| -> $ty { a.wrapping_mul(b).wrapping_add(c) }
            concat!("div.", $name) => |a: $ty, b: $ty| -> $ty {
                if b == 0 { !0 } else { a.wrapping_div(b) }
            }
            concat!("rem.", $name) => |a: $ty, b: $ty| -> $ty { if b == 0 { a } else { a.wrapping_rem(b) } }
            concat!("min.", $name) => |a: $ty, b: $ty| -> $ty { a.min(b) }
            concat!("max.", $name) => |a: $ty, b: $ty| -> $ty { a.max(b) }
            // Amounts past the width shift everything out.
            concat!("shr.", $name) => |a: $ty, n: u32| -> $ty {
                let low = a >> n.min($bits - 1);
                if n < $bits { low } else { low >> 1 }
            }
        }),+]
    };
}

macro_rules! logic {
    ($($ty:ident $name:literal $bits:literal)+) => {
        [$(&alu! {
            concat!("and.", $name) => |a: $ty, b: $ty| -> $ty { a & b }
            concat!("or.", $name) => |a: $ty, b: $ty| -> $ty { a | b }
            concat!("xor.", $name) => |a: $ty, b: $ty| -> $ty { a ^ b }
            concat!("not.", $name) => |a: $ty| -> $ty { !a }
            concat!("shl.", $name) => |a: $ty, n: u32| -> $ty { if n < $bits { a << n } else { 0 } }
        } as &[Alu]),+]
    };
}

macro_rules! moves {
    ($($ty:ident $name:literal)+) => {
        alu! {$(
            concat!("mov.", $name) => |a: $ty| -> $ty { a }
            concat!("selp.", $name) => |a: $ty, b: $ty, p: bool| -> $ty { if p { a } else { b } }
        )+}
    };
}

pub const FORMS: &[&[Alu]] = arithmetic! {
    u16 "u16" 16
    i16 "s16" 16
    u32 "u32" 32
    i32 "s32" 32
    u64 "u64" 64
    i64 "s64" 64
};

const LOGIC: [&[Alu]; 3] = logic! { u16 "b16" 16 u32 "b32" 32 u64 "b64" 64 };

const MOVES: &[Alu] = &moves! {
    u16 "b16" u16 "u16" u16 "s16"
    u32 "b32" u32 "u32" u32 "s32" u32 "f32"
    u64 "b64" u64 "u64" u64 "s64"
};

const OTHER: &[Alu] = &alu! {
    "mul.wide.u16" => |a: u16, b: u16| -> u32 { u32::from(a) * u32::from(b) }
    "mul.wide.s16" => |a: i16, b: i16| -> i32 { i32::from(a) * i32::from(b) }
    "mul.wide.u32" => |a: u32, b: u32| -> u64 { u64::from(a) * u64::from(b) }
    "mul.wide.s32" => |a: i32, b: i32| -> i64 { i64::from(a) * i64::from(b) }
    "mad.wide.u32" => |a: u32, b: u32, c: u64| -> u64 { (u64::from(a) * u64::from(b)).wrapping_add(c) }
    "mad.wide.s32" => |a: i32, b: i32, c: i64| -> i64 { (i64::from(a) * i64::from(b)).wrapping_add(c) }
    "mul.hi.u16" => |a: u16, b: u16| -> u16 { ((u32::from(a) * u32::from(b)) >> 16) as u16 }
    "mul.hi.s16" => |a: i16, b: i16| -> i16 { ((i32::from(a) * i32::from(b)) >> 16) as i16 }
    "mul.hi.u32" => |a: u32, b: u32| -> u32 { ((u64::from(a) * u64::from(b)) >> 32) as u32 }
    "mul.hi.s32" => |a: i32, b: i32| -> i32 { ((i64::from(a) * i64::from(b)) >> 32) as i32 }
    "mul.hi.u64" => |a: u64, b: u64| -> u64 { ((u128::from(a) * u128::from(b)) >> 64) as u64 }
    "mul.hi.s64" => |a: i64, b: i64| -> i64 { ((i128::from(a) * i128::from(b)) >> 64) as i64 }
    "neg.s16" => |a: i16| -> i16 { a.wrapping_neg() }
    "neg.s32" => |a: i32| -> i32 { a.wrapping_neg() }
    "neg.s64" => |a: i64| -> i64 { a.wrapping_neg() }
    "abs.s32" => |a: i32| -> i32 { a.wrapping_abs() }
    "abs.s64" => |a: i64| -> i64 { a.wrapping_abs() }
    "shr.b32" => |a: u32, n: u32| -> u32 { if n < 32 { a >> n } else { 0 } }
    "shr.b64" => |a: u64, n: u32| -> u64 { if n < 64 { a >> n } else { 0 } }
    "and.pred" => |a: bool, b: bool| -> bool { a & b }
    "or.pred" => |a: bool, b: bool| -> bool { a | b }
    "xor.pred" => |a: bool, b: bool| -> bool { a ^ b }
    "not.pred" => |a: bool| -> bool { !a }
    "mov.pred" => |a: bool| -> bool { a }
    // The other way round `cvt` may cut off the upper half instead.
    "cvta.shared.u64" => |a: u64| -> u64 { a.wrapping_add(SHARED_WINDOW) }
    "cvta.to.shared.u64" => |a: u64| -> u64 { a.wrapping_sub(SHARED_WINDOW) }
    // `mov` with a vector operand: decoded to these names, which no text can spell.
    "pack mov.b32" => |low: u16, high: u16| -> u32 { u32::from(low) | u32::from(high) << 16 }
    "pack mov.b64" => |low: u32, high: u32| -> u64 { u64::from(low) | u64::from(high) << 32 }
    "low mov.b32" => |a: u32| -> u16 { a as u16 }
    "high mov.b32" => |a: u32| -> u16 { (a >> 16) as u16 }
    "low mov.b64" => |a: u64| -> u32 { a as u32 }
    "high mov.b64" => |a: u64| -> u32 { (a >> 32) as u32 }
};

const FIELDS: &[Alu] = &alu! {
    "popc.b32" => |a: u32| -> u32 { a.count_ones() }
    "popc.b64" => |a: u64| -> u32 { a.count_ones() }
    "clz.b32" => |a: u32| -> u32 { a.leading_zeros() }
    "clz.b64" => |a: u64| -> u32 { a.leading_zeros() }
    "brev.b32" => |a: u32| -> u32 { a.reverse_bits() }
    "brev.b64" => |a: u64| -> u64 { a.reverse_bits() }
    "bfind.u32" => |a: u32| -> u32 { 31u32.wrapping_sub(a.leading_zeros()) }
    "bfind.s32" => |a: i32| -> u32 { 31u32.wrapping_sub((a ^ a >> 31).leading_zeros()) }
    "bfind.shiftamt.u32" => |a: u32| -> u32 { if a == 0 { u32::MAX } else { a.leading_zeros() } }
    "bfind.shiftamt.s32" => |a: i32| -> u32 {
        let a = a ^ a >> 31;
        if a == 0 { u32::MAX } else { a.leading_zeros() }
    }
    "bfe.u32" => |a: u32, position: u32, length: u32| -> u32 {
        (u64::from(a) >> (position & 255).min(32) & ones(length & 255)) as u32
    }
    // Past the top the field repeats the sign: that of the field's last bit, or of bit 31.
    "bfe.s32" => |a: i32, position: u32, length: u32| -> i32 {
        let (position, length) = (position & 255, length & 255);
        let unused = 64 - length.clamp(1, 32);
        let field = (i64::from(a) >> position.min(63)) << unused >> unused;
        if length == 0 { 0 } else { field as i32 }
    }
    "bfi.b32" => |a: u32, b: u32, position: u32, length: u32| -> u32 {
        let position = (position & 255).min(32);
        let mask = ones(length & 255) << position;
        (u64::from(b) & !mask | u64::from(a) << position & mask) as u32
    }
    "bfi.b64" => |a: u64, b: u64, position: u32, length: u32| -> u64 {
        let (position, length) = (position & 255, (length & 255).min(64));
        let field = u64::MAX.checked_shr(64 - length).unwrap_or(0);
        let mask = field.checked_shl(position).unwrap_or(0);
        b & !mask | a.checked_shl(position).unwrap_or(0) & mask
    }
    "shf.l.wrap.b32" => |a: u32, b: u32, n: u32| -> u32 { (pair(a, b) << (n & 31) >> 32) as u32 }
    "shf.r.wrap.b32" => |a: u32, b: u32, n: u32| -> u32 { (pair(a, b) >> (n & 31)) as u32 }
    "shf.l.clamp.b32" => |a: u32, b: u32, n: u32| -> u32 { (pair(a, b) << n.min(32) >> 32) as u32 }
    "shf.r.clamp.b32" => |a: u32, b: u32, n: u32| -> u32 { (pair(a, b) >> n.min(32)) as u32 }
    // Bit 3 of a selector nibble replicates the chosen byte's sign.
    "prmt.b32" => |a: u32, b: u32, selector: u32| -> u32 {
        let mut out = 0;
        for i in 0..4 {
            let nibble = selector >> (4 * i) & 15;
            let byte = (pair(a, b) >> (8 * (nibble & 7))) as u8;
            let byte = if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
            out |= u32::from(byte) << (8 * i);
        }
        out
    }
    "lop3.b32" => |a: u32, b: u32, c: u32, table: u32| -> u32 {
        let mut out = 0;
        for i in 0..8 {
            let term = (if i & 4 == 0 { !a } else { a }) & (if i & 2 == 0 { !b } else { b })
                & (if i & 1 == 0 { !c } else { c });
            out |= if table >> i & 1 == 1 { term } else { 0 };
        }
        out
    }
};

pub const BITS: &[&[Alu]] = &[LOGIC[0], LOGIC[1], LOGIC[2], MOVES, OTHER, FIELDS];

#[inline(always)]
fn ones(length: u32) -> u64 {
    (1 << length.min(32)) - 1
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

//! f16 arithmetic, alone and in pairs: computed in f32, rounded when a result is written. Sums and products of two f16
//! lose nothing to the rounding in between: f32 has more than twice the digits of f16 and two.

use super::convert::to_integers;
use super::float::{Round, maximum, minimum};
use super::lane::{LANES, Lane, Registers};
use super::packed::{CANONICAL_NAN, Packed, lanes, packed, positive};
use super::{Alu, alu};
use crate::ptx::Width;

/// An f16 as its value; rounded to nearest when it is written.
#[derive(Clone, Copy)]
pub struct Half(pub f32);

/// Two f16 in a 32-bit register, the low one first.
#[derive(Clone, Copy)]
pub struct Pair(pub [f32; 2]);

lanes!(Half, Pair, widen, narrow);

const INFINITY: u32 = 0x7C00;

/// The value of an f16's bits. Like [`narrow`] free of branches, so that loops over lanes become vector instructions.
#[inline(always)]
fn widen(bits: u32) -> f32 {
    // Moved to an f32's fields it lacks a factor of 2^112, which also makes the subnormal ones normal.
    let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if bits & INFINITY == INFINITY { 0xFF << 23 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// The bits of the nearest f16.
#[inline(always)]
fn narrow(value: f32) -> u32 {
    // From 65520 on everything rounds to 2^16, whose bits are those of infinity.
    let magnitude = value.abs().min(65536.0);
    // Next to 2^13 times its power of two, an f32 has as many digits left as an f16.
    let power = magnitude.to_bits().max((127 - 14) << 23) & 0xFF << 23;
    let large = f32::from_bits(power + (13 << 23));
    let rounded = (magnitude + large) - large;
    let bits = (rounded * f32::from_bits((127 - 112) << 23)).to_bits() >> 13;
    if value.is_nan() { CANONICAL_NAN } else { bits | value.to_bits() >> 16 & 0x8000 }
}

/// `value` rounded once to the digits and range of an f16.
#[inline(always)]
fn rounded(value: f64, round: Round) -> f32 {
    const LARGEST: f64 = 65504.0;
    let magnitude = value.abs().min(2.0 * LARGEST);
    let power = f64::from_bits(magnitude.to_bits().max((1023 - 14) << 52) & 0x7FF << 52);
    // Units in the last place: scaling by powers of two is exact.
    let units = magnitude / power * 1024.0;
    let away = match round {
        Round::Nearest => true,
        Round::Zero => false,
        Round::Down => value < 0.0,
        Round::Up => value > 0.0,
    };
    let whole = match round {
        Round::Nearest => units.round_ties_even(),
        _ if away => units.ceil(),
        _ => units.floor(),
    };
    let result = whole * (power / 1024.0);
    let result = if result <= LARGEST {
        result
    } else if away || value.is_infinite() {
        f64::INFINITY
    } else {
        LARGEST
    };
    if value.is_nan() { f32::NAN } else { result.copysign(value) as f32 }
}

/// `a * b + c` in f32, rounded to odd: towards zero, with the last bit set if that loses anything. The second rounding,
/// to an f16 of fewer digits, then gives what one rounding of the exact value would.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    // Exact, and far from the limits of f32, so that `lost` is exact as well (Knuth's two-sum).
    let product = a * b;
    let sum = product + c;
    let back = sum - product;
    let lost = (product - (sum - back)) + (c - back);
    let bits = sum.to_bits();
    let away_from_zero = (lost.to_bits() ^ bits) >> 31;
    // Not for an infinite sum or NaN, where `lost` is NaN.
    if lost.abs() > 0.0 { f32::from_bits(bits.wrapping_sub(away_from_zero) | 1) } else { sum }
}

/// [0, 1], NaN becomes +0.
#[inline(always)]
fn saturated(a: f32) -> f32 {
    if a > 0.0 { a.min(1.0) } else { 0.0 }
}

macro_rules! from_integer {
    ($($ty:ident $name:literal)+) => {
        [$(&alu! {
            concat!("cvt.rn.f16.", $name) => |a: $ty| -> Half { Half(rounded(a as f64, Round::Nearest)) }
            concat!("cvt.rz.f16.", $name) => |a: $ty| -> Half { Half(rounded(a as f64, Round::Zero)) }
            concat!("cvt.rm.f16.", $name) => |a: $ty| -> Half { Half(rounded(a as f64, Round::Down)) }
            concat!("cvt.rp.f16.", $name) => |a: $ty| -> Half { Half(rounded(a as f64, Round::Up)) }
        } as &[Alu]),+]
    };
}

const FROM_INTEGER: [&[Alu]; 6] = from_integer! { u16 "u16" i16 "s16" u32 "u32" i32 "s32" u64 "u64" i64 "s64" };

pub const FORMS: &[&[Alu]] = &[
    &packed! {
        Half "f16", Pair "f16x2":
        "add" |a, b| { a + b }
        "add.rn" |a, b| { a + b }
        "add.sat" |a, b| { saturated(a + b) }
        "sub" |a, b| { a - b }
        "sub.rn" |a, b| { a - b }
        "sub.sat" |a, b| { saturated(a - b) }
        "mul" |a, b| { a * b }
        "mul.rn" |a, b| { a * b }
        "mul.sat" |a, b| { saturated(a * b) }
        "fma.rn" |a, b, c| { fused(a, b, c) }
        "fma.rn.sat" |a, b, c| { saturated(fused(a, b, c)) }
        "fma.rn.relu" |a, b, c| { positive(fused(a, b, c)) }
        "min" |a, b| { minimum(a, b) }
        "max" |a, b| { maximum(a, b) }
        "min.NaN" |a, b| { if a.is_nan() || b.is_nan() { f32::NAN } else { minimum(a, b) } }
        "max.NaN" |a, b| { if a.is_nan() || b.is_nan() { f32::NAN } else { maximum(a, b) } }
        "abs" |a| { a.abs() }
        "neg" |a| { -a }
    },
    &alu! {
        "cvt.f32.f16" => |a: Half| -> f32 { a.0 }
        "cvt.rn.f16.f32" => |a: f32| -> Half { Half(a) }
        "cvt.rz.f16.f32" => |a: f32| -> Half { Half(rounded(a.into(), Round::Zero)) }
        "cvt.rm.f16.f32" => |a: f32| -> Half { Half(rounded(a.into(), Round::Down)) }
        "cvt.rp.f16.f32" => |a: f32| -> Half { Half(rounded(a.into(), Round::Up)) }
        // The first source becomes the high half.
        "cvt.rn.f16x2.f32" => |a: f32, b: f32| -> Pair { Pair([b, a]) }
        "cvt.rz.f16x2.f32" => |a: f32, b: f32| -> Pair {
            Pair([rounded(b.into(), Round::Zero), rounded(a.into(), Round::Zero)])
        }
        "cvt.rni.f16.f16" => |a: Half| -> Half { Half(a.0.round_ties_even()) }
        "cvt.rzi.f16.f16" => |a: Half| -> Half { Half(a.0.trunc()) }
        "cvt.rmi.f16.f16" => |a: Half| -> Half { Half(a.0.floor()) }
        "cvt.rpi.f16.f16" => |a: Half| -> Half { Half(a.0.ceil()) }
    },
    FROM_INTEGER[0],
    FROM_INTEGER[1],
    FROM_INTEGER[2],
    FROM_INTEGER[3],
    FROM_INTEGER[4],
    FROM_INTEGER[5],
    &to_integers! { Half "" "f16" |a| a.0 },
];

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn conversions_of_every_f16() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits);
            let value = widen(bits.into());
            assert!(value.to_bits() == expected.to_f32().to_bits() || value.is_nan() && expected.is_nan(), "{bits:#x}");
            let back = if expected.is_nan() { CANONICAL_NAN } else { bits.into() };
            assert_eq!(narrow(value), back, "{bits:#x}");
            // Around each value and around the middle between it and the next one.
            let next = widen(u32::from(bits).wrapping_add(1) & 0xFFFF);
            for near in [value, (value + next) / 2.0] {
                for near in [near.next_down(), near, near.next_up()].into_iter().filter(|near| !near.is_nan()) {
                    let expected = f16::from_f32(near).to_bits();
                    assert_eq!(narrow(near), expected.into(), "{near:e}");
                    assert_eq!(narrow(rounded(near.into(), Round::Nearest)), expected.into(), "{near:e}");
                }
            }
        }
    }
}

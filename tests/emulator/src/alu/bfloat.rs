//! bf16 arithmetic, alone and in pairs, as far as compute capability 8.0 has it: computed in f32, rounded when a result is
//! written. nvcc makes sums and products of `fma` with a constant.

use super::float::{maximum, minimum};
use super::lane::{LANES, Lane, Registers};
use super::packed::{CANONICAL_NAN, Packed, lanes, packed, positive};
use super::{Alu, alu};
use crate::ptx::Width;

/// A bf16 as its value; rounded to nearest when it is written.
#[derive(Clone, Copy)]
pub struct Bfloat(pub f32);

/// Two bf16 in a 32-bit register, the low one first.
#[derive(Clone, Copy)]
pub struct BfloatPair(pub [f32; 2]);

lanes!(Bfloat, BfloatPair, widen, narrow);

/// The value of a bf16's bits, which are the upper half of an f32's.
#[inline(always)]
fn widen(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// The bits of the nearest bf16.
#[inline(always)]
fn narrow(value: f32) -> u32 {
    let bits = value.to_bits();
    // Half a unit in the last place, less one where a tie goes down. A carry goes on into the exponent, to infinity at
    // last; in infinity itself there is none.
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { CANONICAL_NAN } else { rounded }
}

/// `value` without the digits that a bf16 lacks.
#[inline(always)]
fn truncated(value: f32) -> f32 {
    let bits = value.to_bits() & 0xFFFF_0000;
    // A NaN may have all its set bits in the part that is lost.
    if value.is_nan() { value } else { f32::from_bits(bits) }
}

/// `a * b + c` rounded to odd: towards zero, with the last bit set if that loses anything. The last rounding, to a bf16 of
/// far fewer digits, then gives what one rounding of the exact value would.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let c = f64::from(c);
    // Exact, and far from the limits of f64, so that `lost` is exact as well (Knuth's two-sum). In f32 neither would be.
    let product = f64::from(a) * f64::from(b);
    let sum = product + c;
    let back = sum - product;
    let lost = (product - (sum - back)) + (c - back);
    let bits = sum.to_bits();
    let away_from_zero = (lost.to_bits() ^ bits) >> 63;
    // Not for an infinite sum or NaN, where `lost` is NaN.
    let sum = if lost.abs() > 0.0 { f64::from_bits(bits.wrapping_sub(away_from_zero) | 1) } else { sum };
    let single = sum as f32;
    let outward = u32::from(f64::from(single).abs() > sum.abs());
    let odd = f32::from_bits(single.to_bits().wrapping_sub(outward) | 1);
    if f64::from(single) == sum || sum.is_nan() { single } else { odd }
}

pub const FORMS: &[&[Alu]] = &[
    &packed! {
        Bfloat "bf16", BfloatPair "bf16x2":
        "fma.rn" |a, b, c| { fused(a, b, c) }
        "fma.rn.relu" |a, b, c| { positive(fused(a, b, c)) }
        "min" |a, b| { minimum(a, b) }
        "max" |a, b| { maximum(a, b) }
        "min.NaN" |a, b| { if a.is_nan() || b.is_nan() { f32::NAN } else { minimum(a, b) } }
        "max.NaN" |a, b| { if a.is_nan() || b.is_nan() { f32::NAN } else { maximum(a, b) } }
        "abs" |a| { a.abs() }
        "neg" |a| { -a }
    },
    &alu! {
        "cvt.rn.bf16.f32" => |a: f32| -> Bfloat { Bfloat(a) }
        "cvt.rz.bf16.f32" => |a: f32| -> Bfloat { Bfloat(truncated(a)) }
        "cvt.rn.relu.bf16.f32" => |a: f32| -> Bfloat { Bfloat(positive(a)) }
        "cvt.rz.relu.bf16.f32" => |a: f32| -> Bfloat { Bfloat(positive(truncated(a))) }
        // The first source becomes the high half.
        "cvt.rn.bf16x2.f32" => |a: f32, b: f32| -> BfloatPair { BfloatPair([b, a]) }
        "cvt.rz.bf16x2.f32" => |a: f32, b: f32| -> BfloatPair { BfloatPair([truncated(b), truncated(a)]) }
        "cvt.rn.relu.bf16x2.f32" => |a: f32, b: f32| -> BfloatPair { BfloatPair([positive(b), positive(a)]) }
        "cvt.rz.relu.bf16x2.f32" => |a: f32, b: f32| -> BfloatPair {
            BfloatPair([positive(truncated(b)), positive(truncated(a))])
        }
    },
];

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn conversions_of_every_bf16() {
        for bits in 0..=u16::MAX {
            let expected = bf16::from_bits(bits);
            let value = widen(bits.into());
            assert!(value.to_bits() == expected.to_f32().to_bits() || value.is_nan() && expected.is_nan(), "{bits:#x}");
            let back = if expected.is_nan() { CANONICAL_NAN } else { bits.into() };
            assert_eq!(narrow(value), back, "{bits:#x}");
            // Around each value and around the middle between it and the next one.
            let middle = f32::from_bits(value.to_bits() | 0x8000);
            for near in [value, middle] {
                for near in [near.next_down(), near, near.next_up()].into_iter().filter(|near| !near.is_nan()) {
                    assert_eq!(narrow(near), bf16::from_f32(near).to_bits().into(), "{near:e}");
                }
            }
        }
    }
}

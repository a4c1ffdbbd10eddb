//! f32 arithmetic. `.approx` forms give the correctly rounded result: tests that use them need a tolerance.

use super::{Alu, alu};

/// Forms with and without `.ftz`, the modifier after the given prefix.
macro_rules! flushing {
    ($($head:literal $tail:literal |$($arg:ident),+| $body:block)+) => {
        alu! {$(
            concat!($head, $tail) => |$($arg: f32),+| -> f32 $body
            concat!($head, ".ftz", $tail) => |$($arg: f32),+| -> f32 {
                $(let $arg = flush($arg);)+
                flush($body)
            }
        )+}
    };
}

pub const FORMS: &[&[Alu]] = &[
    &flushing! {
        "add" ".f32" |a, b| { a + b }
        "add.rn" ".f32" |a, b| { a + b }
        "sub" ".f32" |a, b| { a - b }
        "sub.rn" ".f32" |a, b| { a - b }
        "mul" ".f32" |a, b| { a * b }
        "mul.rn" ".f32" |a, b| { a * b }
        "fma.rn" ".f32" |a, b, c| { a.mul_add(b, c) }
        "div.rn" ".f32" |a, b| { a / b }
        "div.full" ".f32" |a, b| { a / b }
        "div.approx" ".f32" |a, b| { a / b }
        "rcp.rn" ".f32" |a| { 1.0 / a }
        "rcp.approx" ".f32" |a| { 1.0 / a }
        "sqrt.rn" ".f32" |a| { a.sqrt() }
        "sqrt.approx" ".f32" |a| { a.sqrt() }
        "rsqrt.approx" ".f32" |a| { (1.0 / f64::from(a).sqrt()) as f32 }
        "ex2.approx" ".f32" |a| { f64::from(a).exp2() as f32 }
        "lg2.approx" ".f32" |a| { f64::from(a).log2() as f32 }
        "min" ".f32" |a, b| { minimum(a, b) }
        "max" ".f32" |a, b| { maximum(a, b) }
        "min" ".NaN.f32" |a, b| { if a.is_nan() || b.is_nan() { f32::NAN } else { minimum(a, b) } }
        "max" ".NaN.f32" |a, b| { if a.is_nan() || b.is_nan() { f32::NAN } else { maximum(a, b) } }
        "abs" ".f32" |a| { a.abs() }
        "neg" ".f32" |a| { -a }
    },
    &alu! {
        "add.rz.f32" => |a: f32, b: f32| -> f32 { directed(a.into(), b.into(), Round::Zero) }
        "add.rm.f32" => |a: f32, b: f32| -> f32 { directed(a.into(), b.into(), Round::Down) }
        "add.rp.f32" => |a: f32, b: f32| -> f32 { directed(a.into(), b.into(), Round::Up) }
        "fma.rz.f32" => |a: f32, b: f32, c: f32| -> f32 { directed(product(a, b), c.into(), Round::Zero) }
        "fma.rm.f32" => |a: f32, b: f32, c: f32| -> f32 { directed(product(a, b), c.into(), Round::Down) }
        "fma.rp.f32" => |a: f32, b: f32, c: f32| -> f32 { directed(product(a, b), c.into(), Round::Up) }
        // The sign of the first, the magnitude of the second.
        "copysign.f32" => |a: f32, b: f32| -> f32 { b.copysign(a) }
    },
];

/// Flushes subnormals to zero, sign kept.
#[inline(always)]
pub fn flush(a: f32) -> f32 {
    if a.abs() < f32::MIN_POSITIVE { 0f32.copysign(a) } else { a }
}

/// The smaller one; the other where one is NaN; -0 is smaller than +0.
#[inline(always)]
pub fn minimum(a: f32, b: f32) -> f32 {
    let ordered = if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b {
        a
    } else {
        b
    };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        ordered
    }
}

/// The larger one, by the same rules.
#[inline(always)]
pub fn maximum(a: f32, b: f32) -> f32 {
    -minimum(-a, -b)
}

#[derive(Clone, Copy, PartialEq)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// Exact: 48 bits of significand and every f32 exponent sum fit an f64.
#[inline(always)]
fn product(a: f32, b: f32) -> f64 {
    f64::from(a) * f64::from(b)
}

/// `a + b` rounded once, in the given direction. Both have at most 48 significant bits and exponents far from an f64's
/// limits, so the error of their f64 sum is itself an f64 (Knuth's two-sum).
fn directed(a: f64, b: f64, round: Round) -> f32 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum as f32;
    }
    let b_rounded = sum - a;
    let error = (a - (sum - b_rounded)) + (b - b_rounded);
    if sum == 0.0 {
        // An exact zero from opposite signs is -0 only when rounding down; equal signs keep theirs.
        let negative =
            if a.is_sign_negative() == b.is_sign_negative() { a.is_sign_negative() } else { round == Round::Down };
        return if negative { -0.0 } else { 0.0 };
    }
    let nearest = sum as f32;
    let above = f64::from(nearest) > sum || (f64::from(nearest) == sum && error < 0.0);
    let below = f64::from(nearest) < sum || (f64::from(nearest) == sum && error > 0.0);
    match round {
        Round::Down | Round::Zero if above && (round == Round::Down || sum > 0.0) => nearest.next_down(),
        Round::Up | Round::Zero if below && (round == Round::Up || sum < 0.0) => nearest.next_up(),
        _ => nearest,
    }
}

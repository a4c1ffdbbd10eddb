//! `setp`: comparisons to predicates, and `set`: to numbers.

use super::float::flush;
use super::half::{Half, Pair};
use super::{Alu, alu};

macro_rules! integers {
    ($($ty:ident $name:literal)+) => {
        [$(&alu! {
            concat!("setp.eq.", $name) => |a: $ty, b: $ty| -> bool { a == b }
            concat!("setp.ne.", $name) => |a: $ty, b: $ty| -> bool { a != b }
            concat!("setp.lt.", $name) => |a: $ty, b: $ty| -> bool { a < b }
            concat!("setp.le.", $name) => |a: $ty, b: $ty| -> bool { a <= b }
            concat!("setp.gt.", $name) => |a: $ty, b: $ty| -> bool { a > b }
            concat!("setp.ge.", $name) => |a: $ty, b: $ty| -> bool { a >= b }
        } as &[Alu]),+]
    };
}

macro_rules! bits {
    ($($ty:ident $name:literal)+) => {
        alu! {$(
            concat!("setp.eq.", $name) => |a: $ty, b: $ty| -> bool { a == b }
            concat!("setp.ne.", $name) => |a: $ty, b: $ty| -> bool { a != b }
        )+}
    };
}

macro_rules! floats {
    ($($name:literal |$a:ident, $b:ident| $body:expr;)+) => {
        alu! {$(
            concat!("setp.", $name, ".f32") => |$a: f32, $b: f32| -> bool { $body }
            concat!("setp.", $name, ".ftz.f32") => |$a: f32, $b: f32| -> bool {
                let ($a, $b) = (flush($a), flush($b));
                $body
            }
            concat!("set.", $name, ".f32.f32") => |$a: f32, $b: f32| -> f32 { if $body { 1.0 } else { 0.0 } }
            concat!("setp.", $name, ".f16") => |$a: Half, $b: Half| -> bool {
                let (Half($a), Half($b)) = ($a, $b);
                $body
            }
            concat!("set.", $name, ".f16.f16") => |$a: Half, $b: Half| -> Half {
                let (Half($a), Half($b)) = ($a, $b);
                Half(if $body { 1.0 } else { 0.0 })
            }
            concat!("set.", $name, ".f16x2.f16x2") => |$a: Pair, $b: Pair| -> Pair {
                let mut pair = [0.0; 2];
                for (i, half) in pair.iter_mut().enumerate() {
                    let ($a, $b) = ($a.0[i], $b.0[i]);
                    *half = if $body { 1.0 } else { 0.0 };
                }
                Pair(pair)
            }
            // All ones in each half where it holds.
            concat!("set.", $name, ".u32.f16x2") => |$a: Pair, $b: Pair| -> u32 {
                let mut out = 0;
                for i in 0..2 {
                    let ($a, $b) = ($a.0[i], $b.0[i]);
                    out |= if $body { 0xFFFF << (16 * i) } else { 0 };
                }
                out
            }
        )+}
    };
}

const INTEGERS: [&[Alu]; 6] = integers! { u16 "u16" i16 "s16" u32 "u32" i32 "s32" u64 "u64" i64 "s64" };

pub const FORMS: &[&[Alu]] = &[
    INTEGERS[0],
    INTEGERS[1],
    INTEGERS[2],
    INTEGERS[3],
    INTEGERS[4],
    INTEGERS[5],
    &bits! { u16 "b16" u32 "b32" u64 "b64" },
    // The names that end in u are true when an operand is NaN.
    &floats! {
        "eq" |a, b| a == b;
        "ne" |a, b| !unordered(a, b) && a != b;
        "lt" |a, b| a < b;
        "le" |a, b| a <= b;
        "gt" |a, b| a > b;
        "ge" |a, b| a >= b;
        "equ" |a, b| unordered(a, b) || a == b;
        "neu" |a, b| a != b;
        "ltu" |a, b| unordered(a, b) || a < b;
        "leu" |a, b| unordered(a, b) || a <= b;
        "gtu" |a, b| unordered(a, b) || a > b;
        "geu" |a, b| unordered(a, b) || a >= b;
        "num" |a, b| !unordered(a, b);
        "nan" |a, b| unordered(a, b);
    },
];

#[inline(always)]
fn unordered(a: f32, b: f32) -> bool {
    a.is_nan() | b.is_nan()
}

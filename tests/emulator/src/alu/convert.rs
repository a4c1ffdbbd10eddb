//! `cvt`: conversions. Float to integer saturates, and NaN becomes 0, or the top bit alone in 64-bit results.

use super::float::flush;
use super::{Alu, alu};

/// The bits of a register that a tf32 has: sign, exponent, 10 bits of the fraction.
pub const TF32_BITS: u32 = !0x1FFF;

macro_rules! integers {
    ($($from:ident $from_name:literal: $($to:ident $to_name:literal),+;)+) => {
        alu! {$($(
            concat!("cvt.", $to_name, ".", $from_name) => |a: $from| -> $to { a as $to }
        )+)+}
    };
}

/// From a float format to every integer type in every rounding: the format's lane, what stands between rounding and type,
/// its name, and a lane's value.
macro_rules! to_integers {
    ($float:ident $modifier:literal $float_name:literal |$a:ident| $value:expr) => {
        to_integers! { $float $modifier $float_name |$a| $value;
            u16 "u16" 0, i16 "s16" 0, u32 "u32" 0, i32 "s32" 0, u64 "u64" 1 << 63, i64 "s64" i64::MIN
        }
    };
    ($float:ident $modifier:literal $float_name:literal |$a:ident| $value:expr; $($ty:ident $name:literal $nan:expr),+) => {
        alu! {$(
            concat!("cvt.rni", $modifier, ".", $name, ".", $float_name) =>
                |$a: $float| -> $ty { let value = $value; if value.is_nan() { $nan } else { value.round_ties_even() as $ty } }
            concat!("cvt.rzi", $modifier, ".", $name, ".", $float_name) =>
                |$a: $float| -> $ty { let value = $value; if value.is_nan() { $nan } else { value as $ty } }
            concat!("cvt.rmi", $modifier, ".", $name, ".", $float_name) =>
                |$a: $float| -> $ty { let value = $value; if value.is_nan() { $nan } else { value.floor() as $ty } }
            concat!("cvt.rpi", $modifier, ".", $name, ".", $float_name) =>
                |$a: $float| -> $ty { let value = $value; if value.is_nan() { $nan } else { value.ceil() as $ty } }
        )+}
    };
}
pub(super) use to_integers;

pub const FORMS: &[&[Alu]] = &[
    &to_integers! { f32 "" "f32" |a| a },
    &to_integers! { f32 ".ftz" "f32" |a| flush(a) },
    &integers! {
        u8 "u8": u16 "u16", i16 "s16", u32 "u32", i32 "s32", u64 "u64", i64 "s64";
        i8 "s8": u16 "u16", i16 "s16", u32 "u32", i32 "s32", u64 "u64", i64 "s64";
        u16 "u16": u32 "u32", i32 "s32", u64 "u64", i64 "s64";
        i16 "s16": u32 "u32", i32 "s32", u64 "u64", i64 "s64";
        u32 "u32": u16 "u16", i16 "s16", u64 "u64", i64 "s64";
        i32 "s32": u16 "u16", i16 "s16", u64 "u64", i64 "s64";
        u64 "u64": u16 "u16", i16 "s16", u32 "u32", i32 "s32";
        i64 "s64": u16 "u16", i16 "s16", u32 "u32", i32 "s32";
    },
    &alu! {
        "cvt.rn.f32.u8" => |a: u8| -> f32 { a.into() }
        "cvt.rn.f32.s8" => |a: i8| -> f32 { a.into() }
        "cvt.rn.f32.u16" => |a: u16| -> f32 { a.into() }
        "cvt.rn.f32.s16" => |a: i16| -> f32 { a.into() }
        "cvt.rn.f32.u32" => |a: u32| -> f32 { a as f32 }
        "cvt.rn.f32.s32" => |a: i32| -> f32 { a as f32 }
        "cvt.rn.f32.u64" => |a: u64| -> f32 { a as f32 }
        "cvt.rn.f32.s64" => |a: i64| -> f32 { a as f32 }
        "cvt.rni.f32.f32" => |a: f32| -> f32 { a.round_ties_even() }
        "cvt.rzi.f32.f32" => |a: f32| -> f32 { a.trunc() }
        "cvt.rmi.f32.f32" => |a: f32| -> f32 { a.floor() }
        "cvt.rpi.f32.f32" => |a: f32| -> f32 { a.ceil() }
        "cvt.rni.ftz.f32.f32" => |a: f32| -> f32 { flush(a).round_ties_even() }
        "cvt.rzi.ftz.f32.f32" => |a: f32| -> f32 { flush(a).trunc() }
        "cvt.rmi.ftz.f32.f32" => |a: f32| -> f32 { flush(a).floor() }
        "cvt.rpi.ftz.f32.f32" => |a: f32| -> f32 { flush(a).ceil() }
        // Saturation to [0, 1] turns NaN into +0, and -0 too.
        "cvt.sat.f32.f32" => |a: f32| -> f32 { if a > 0.0 { a.min(1.0) } else { 0.0 } }
        // To nearest, ties away from zero; a carry goes on into the exponent. NaN is only cut off, as on devices of compute
        // capability 8.0 to 9.0: one whose set bits are all among the last 13 becomes infinity.
        "cvt.rna.tf32.f32" => |a: u32| -> u32 {
            (if a & 0x7FFF_FFFF < 0x7F80_0000 { a + (1 << 12) } else { a }) & TF32_BITS
        }
        "cvt.ftz.f32.f32" => |a: f32| -> f32 { flush(a) }
        "cvt.ftz.sat.f32.f32" => |a: f32| -> f32 { if a > 0.0 { flush(a).min(1.0) } else { 0.0 } }
    },
];

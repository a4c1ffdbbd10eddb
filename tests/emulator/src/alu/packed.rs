//! What the 16-bit float formats share: their lanes, alone and in pairs, and how a table lists their forms.

use super::lane::{LANES, Lane};

/// Two elements in a 32-bit register.
pub trait Packed: Lane<Row = [u32; LANES]> {
    /// The low one first.
    fn values(self) -> [f32; 2];
}

/// The lanes of a 16-bit format and of pairs of it: `$widen` gives an f32 for bits, `$narrow` bits for an f32.
macro_rules! lanes {
    ($one:ident, $pair:ident, $widen:ident, $narrow:ident) => {
        impl Lane for $one {
            const WIDTH: Width = Width::W16;
            const ZERO: $one = $one(0.0);
            type Row = [u32; LANES];

            #[inline(always)]
            fn row(registers: &Registers, slot: u16) -> &Self::Row {
                u32::row(registers, slot)
            }

            #[inline(always)]
            fn get(row: &Self::Row, lane: usize) -> $one {
                $one($widen(row[lane]))
            }

            #[inline(always)]
            fn put(registers: &mut Registers, slot: u16, values: [$one; LANES], mask: u32) {
                let mut bits = [0; LANES];
                for lane in 0..LANES {
                    bits[lane] = $narrow(values[lane].0);
                }
                u32::put(registers, slot, bits, mask);
            }
        }

        impl Lane for $pair {
            const WIDTH: Width = Width::W32;
            const ZERO: $pair = $pair([0.0; 2]);
            type Row = [u32; LANES];

            #[inline(always)]
            fn row(registers: &Registers, slot: u16) -> &Self::Row {
                u32::row(registers, slot)
            }

            #[inline(always)]
            fn get(row: &Self::Row, lane: usize) -> $pair {
                $pair([$widen(row[lane] & 0xFFFF), $widen(row[lane] >> 16)])
            }

            #[inline(always)]
            fn put(registers: &mut Registers, slot: u16, values: [$pair; LANES], mask: u32) {
                let mut bits = [0; LANES];
                for lane in 0..LANES {
                    let $pair([low, high]) = values[lane];
                    bits[lane] = $narrow(low) | $narrow(high) << 16;
                }
                u32::put(registers, slot, bits, mask);
            }
        }

        impl Packed for $pair {
            #[inline(always)]
            fn values(self) -> [f32; 2] {
                self.0
            }
        }
    };
}
pub(super) use lanes;

/// The version for one element and the version for pairs of each form.
macro_rules! packed {
    (
        $one:ident $one_name:literal, $pair:ident $pair_name:literal:
        $($head:literal |$($arg:ident),+| $body:block)+
    ) => {
        alu! {$(
            concat!($head, ".", $one_name) => |$($arg: $one),+| -> $one {
                $(let $one($arg) = $arg;)+
                $one($body)
            }
            concat!($head, ".", $pair_name) => |$($arg: $pair),+| -> $pair {
                let mut pair = [0.0; 2];
                for (i, element) in pair.iter_mut().enumerate() {
                    $(let $arg = $arg.0[i];)+
                    *element = $body;
                }
                $pair(pair)
            }
        )+}
    };
}
pub(super) use packed;

/// The one NaN of arithmetic results in either format.
pub const CANONICAL_NAN: u32 = 0x7FFF;

/// Negative values become +0, NaN stays.
#[inline(always)]
pub fn positive(a: f32) -> f32 {
    if a <= 0.0 { 0.0 } else { a }
}

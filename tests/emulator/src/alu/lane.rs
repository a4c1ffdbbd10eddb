//! Registers of a warp and the types that a lane of one can be read as.

use crate::ptx::Width;

/// Lanes of a warp.
pub const LANES: usize = 32;

/// A warp's registers. Slots are rows; constants and special registers occupy rows like any other.
pub struct Registers {
    /// 16- and 32-bit registers; 16-bit ones are zero-extended.
    pub narrow: Vec<[u32; LANES]>,
    pub wide: Vec<[u64; LANES]>,
    /// A bit for each lane.
    pub predicates: Vec<u32>,
}

/// A value that a register can hold.
pub trait Lane: Copy {
    const WIDTH: Width;
    const ZERO: Self;
    /// A row of the register file.
    type Row: Copy;
    fn row(registers: &Registers, slot: u16) -> &Self::Row;
    fn get(row: &Self::Row, lane: usize) -> Self;
    /// Writes the lanes of `mask`.
    fn put(registers: &mut Registers, slot: u16, values: [Self; LANES], mask: u32);
}

macro_rules! lane {
    ($($ty:ty, $width:ident, $file:ident: $raw:ty, |$from:ident| $get:expr, |$to:ident| $put:expr;)+) => {$(
        impl Lane for $ty {
            const WIDTH: Width = Width::$width;
            const ZERO: Self = 0 as $ty;
            type Row = [$raw; LANES];

            #[inline(always)]
            fn row(registers: &Registers, slot: u16) -> &Self::Row {
                &registers.$file[slot as usize]
            }

            #[inline(always)]
            fn get(row: &Self::Row, lane: usize) -> Self {
                let $from = row[lane];
                $get
            }

            #[inline(always)]
            fn put(registers: &mut Registers, slot: u16, values: [Self; LANES], mask: u32) {
                let row = &mut registers.$file[slot as usize];
                if mask == u32::MAX {
                    for lane in 0..LANES {
                        let $to = values[lane];
                        row[lane] = $put;
                    }
                } else {
                    for lane in 0..LANES {
                        let $to = values[lane];
                        row[lane] = if mask >> lane & 1 == 1 { $put } else { row[lane] };
                    }
                }
            }
        }
    )+};
}

/// Arithmetic results that are NaN have one bit pattern on the device.
const CANONICAL_NAN: u32 = 0x7FFF_FFFF;

lane! {
    // The 8-bit types are only ever the low byte of a source.
    u8, W16, narrow: u32, |raw| raw as u8, |value| value.into();
    i8, W16, narrow: u32, |raw| raw as i8, |value| (value as u8).into();
    u16, W16, narrow: u32, |raw| raw as u16, |value| value.into();
    i16, W16, narrow: u32, |raw| raw as i16, |value| (value as u16).into();
    u32, W32, narrow: u32, |raw| raw, |value| value;
    i32, W32, narrow: u32, |raw| raw as i32, |value| value as u32;
    f32, W32, narrow: u32, |raw| f32::from_bits(raw), |value| if value.is_nan() { CANONICAL_NAN } else { value.to_bits() };
    u64, W64, wide: u64, |raw| raw, |value| value;
    i64, W64, wide: u64, |raw| raw as i64, |value| value as u64;
}

impl Lane for bool {
    const WIDTH: Width = Width::Pred;
    const ZERO: bool = false;
    type Row = u32;

    #[inline(always)]
    fn row(registers: &Registers, slot: u16) -> &u32 {
        &registers.predicates[slot as usize]
    }

    #[inline(always)]
    fn get(row: &u32, lane: usize) -> bool {
        row >> lane & 1 == 1
    }

    #[inline(always)]
    fn put(registers: &mut Registers, slot: u16, values: [bool; LANES], mask: u32) {
        let bits = (0..LANES).fold(0, |bits, lane| bits | u32::from(values[lane]) << lane);
        let old = &mut registers.predicates[slot as usize];
        *old = bits & mask | *old & !mask;
    }
}

/// Applies a scalar expression to every lane, and writes those of the mask.
macro_rules! apply {
    ($registers:ident, $slots:ident, $mask:ident, |$($arg:ident: $ty:ty),+| -> $out:ty $body:block) => {{
        use crate::alu::lane::{LANES, Lane};
        let mut slots = $slots[1..].iter();
        $(let $arg = <$ty as Lane>::row($registers, *slots.next().expect("a slot for each source"));)+
        let mut values = [<$out as Lane>::ZERO; LANES];
        // No closure: one could be left outside the function that may use the CPU's wider instructions.
        for lane in 0..LANES {
            $(let $arg = <$ty as Lane>::get($arg, lane);)+
            values[lane] = $body;
        }
        <$out as Lane>::put($registers, $slots[0], values, $mask);
    }};
}
pub(crate) use apply;

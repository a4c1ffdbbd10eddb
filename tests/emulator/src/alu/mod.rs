//! The lane-wise instructions: a table of forms, each with the scalar function it applies to every lane.

mod compare;
mod convert;
mod float;
mod integer;
mod lane;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use lane::{LANES, Registers};

use crate::ptx::Width;

/// Runs one form over the lanes of `mask`: destination slot first, then the sources.
///
/// # Safety
/// A function from [`Alu::wide`] needs a CPU with AVX2 and FMA.
pub type AluFn = unsafe fn(&mut Registers, [u16; 5], u32);

/// A supported form.
pub struct Alu {
    /// Opcode with all its modifiers.
    pub form: &'static str,
    pub destination: Width,
    pub sources: &'static [Width],
    plain: AluFn,
    wide: AluFn,
}

impl Alu {
    /// The version for this CPU.
    pub fn run(&self) -> AluFn {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return self.wide;
        }
        self.plain
    }
}

/// Entries of the table: `"form" => |a: A, b: B| -> D { expression }`. The body is compiled twice, once for CPUs with AVX2
/// and FMA, where `mul_add` is one instruction instead of a call.
macro_rules! alu {
    ($($form:expr => |$($arg:ident: $ty:ty),+| -> $out:ty $body:block)+) => {
        [$(crate::alu::Alu {
            form: $form,
            destination: <$out as crate::alu::lane::Lane>::WIDTH,
            sources: &[$(<$ty as crate::alu::lane::Lane>::WIDTH),+],
            plain: {
                fn run(registers: &mut crate::alu::Registers, slots: [u16; 5], mask: u32) {
                    crate::alu::lane::apply!(registers, slots, mask, |$($arg: $ty),+| -> $out $body);
                }
                run
            },
            wide: {
                #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,popcnt,lzcnt"))]
                fn run(registers: &mut crate::alu::Registers, slots: [u16; 5], mask: u32) {
                    crate::alu::lane::apply!(registers, slots, mask, |$($arg: $ty),+| -> $out $body);
                }
                run
            },
        }),+]
    };
}
pub(crate) use alu;

/// The entry for `form`.
pub fn lookup(form: &str) -> Option<&'static Alu> {
    static INDEX: LazyLock<HashMap<&'static str, &'static Alu>> =
        LazyLock::new(|| all().map(|alu| (alu.form, alu)).collect());
    INDEX.get(form).copied()
}

/// Every entry.
pub fn all() -> impl Iterator<Item = &'static Alu> {
    [integer::FORMS, integer::BITS, float::FORMS, compare::FORMS, convert::FORMS]
        .into_iter()
        .flatten()
        .copied()
        .flatten()
}

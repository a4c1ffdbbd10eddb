//! The lane-wise instructions: a table of forms, each with the scalar function it applies to every lane.

mod bfloat;
mod compare;
mod convert;
mod float;
mod half;
mod integer;
mod lane;
mod packed;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use bfloat::BfloatPair;
pub use convert::TF32_BITS;
pub use half::Pair;
pub use lane::{LANES, Lane, Registers};
pub use packed::Packed;

use crate::ptx::Width;

/// Runs one form over the lanes of `mask`: destination slot first, then the sources.
///
/// # Safety
/// One of the `wide` functions needs a CPU that [`wide_cpu`] accepts.
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
        if wide_cpu() { self.wide } else { self.plain }
    }
}

/// Whether this CPU has what the wide versions are compiled for: AVX2, FMA, POPCNT, LZCNT.
pub fn wide_cpu() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("lzcnt");
    #[cfg(not(target_arch = "x86_64"))]
    false
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
    [integer::FORMS, integer::BITS, float::FORMS, half::FORMS, bfloat::FORMS, compare::FORMS, convert::FORMS]
        .into_iter()
        .flatten()
        .copied()
        .flatten()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The integration tests see only the version for this CPU.
    #[test]
    fn both_versions_agree() {
        if !wide_cpu() {
            return;
        }
        let seed = 99;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for alu in all() {
            for mask in [u32::MAX, 0x1234_5678, 0] {
                let mut fresh = || Registers {
                    narrow: (0..5)
                        .map(|_| std::array::from_fn(|_| rng.random::<u32>() >> rng.random_range(0..32)))
                        .collect(),
                    wide: (0..5)
                        .map(|_| std::array::from_fn(|_| rng.random::<u64>() >> rng.random_range(0..64)))
                        .collect(),
                    predicates: (0..5).map(|_| rng.random()).collect(),
                };
                let mut first = fresh();
                let mut second = Registers {
                    narrow: first.narrow.clone(),
                    wide: first.wide.clone(),
                    predicates: first.predicates.clone(),
                };
                // SAFETY: the CPU has what the wide version needs, as checked above.
                unsafe {
                    (alu.plain)(&mut first, [0, 1, 2, 3, 4], mask);
                    (alu.wide)(&mut second, [0, 1, 2, 3, 4], mask);
                }
                let equal =
                    first.narrow == second.narrow && first.wide == second.wide && first.predicates == second.predicates;
                assert!(equal, "{} with mask {mask:#x}, seed {seed}", alu.form);
            }
        }
    }
}

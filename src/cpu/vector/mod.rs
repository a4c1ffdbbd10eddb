//! Eight f32 at once, whatever the CPU has for that: kernels are written once over [`Vector`] and compiled for each [`Isa`].

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

use portable::Portable;

/// f32 that a [`Vector`] holds.
pub const LANES: usize = 8;

/// [`LANES`] f32.
///
/// A value exists only where the CPU has its instructions: whoever makes one says so, and arithmetic relies on it.
pub trait Vector: Copy {
    /// `value` in every lane.
    ///
    /// # Safety
    /// The CPU has the instructions of this type.
    unsafe fn splat(value: f32) -> Self;

    /// From memory of any alignment.
    ///
    /// # Safety
    /// As [`splat`](Self::splat), and [`LANES`] elements can be read.
    unsafe fn load(from: *const f32) -> Self;

    /// As [`load`](Self::load), from IEEE half precision.
    ///
    /// # Safety
    /// As [`load`](Self::load).
    unsafe fn load_f16(from: *const half::f16) -> Self;

    /// To memory of any alignment.
    ///
    /// # Safety
    /// [`LANES`] elements can be written.
    unsafe fn store(self, to: *mut f32);

    /// self + other.
    fn add(self, other: Self) -> Self;

    /// self - other.
    fn sub(self, other: Self) -> Self;

    /// self * other.
    fn mul(self, other: Self) -> Self;

    /// self / other.
    fn div(self, other: Self) -> Self;

    /// self * factor + addend, rounded once where the CPU can.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// Square root.
    fn sqrt(self) -> Self;

    /// The larger one; `other` where either is a NaN.
    fn max(self, other: Self) -> Self;

    /// The larger one; a NaN where either is.
    fn max_or_nan(self, other: Self) -> Self;

    /// The first `count` elements, and zeros.
    ///
    /// # Safety
    /// As [`load`](Self::load), for `count` elements, at most [`LANES`].
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        if count == LANES {
            // SAFETY: the caller's promise.
            return unsafe { Self::load(from) };
        }
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller allows reading `count`, which `lanes` has room for, and the instructions.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    /// The first `count` lanes.
    ///
    /// # Safety
    /// As [`store`](Self::store), for `count` elements, at most [`LANES`].
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        if count == LANES {
            // SAFETY: the caller's promise.
            return unsafe { self.store(to) };
        }
        let mut lanes = [0.0; LANES];
        // SAFETY: `lanes` has room for all, and the caller allows writing `count`.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
}

/// Asks for the cache line at `address`, which may be any, to be in the L2 cache soon.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint: it reads nothing that the program sees, and faults on no address. All x86-64 CPUs have it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// What an [`Isa`] runs.
pub trait Kernel {
    /// Runs it. Implementations are `#[inline(always)]`, and so is what they call that uses `V`: only then are they compiled with
    /// its instructions.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`, and what the kernel's fields promise holds.
    unsafe fn run<V: Vector>(self);
}

/// Instructions that kernels are compiled for and the CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// What every CPU has.
    pub const PORTABLE: Isa = Isa(Kind::Portable);

    /// The best that this CPU has.
    pub fn best() -> Isa {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return Isa(Kind::Avx2);
        }
        Isa::PORTABLE
    }

    /// Its name in words.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "AVX2",
            Kind::Portable => "portable",
        }
    }

    /// Runs `kernel`.
    ///
    /// # Safety
    /// What the kernel's fields promise holds.
    #[inline]
    pub unsafe fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this value is made only where the CPU has AVX2, FMA and F16C; the rest is the caller's promise.
            Kind::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: every CPU has it; the rest is the caller's promise.
            Kind::Portable => unsafe { kernel.run::<Portable>() },
        }
    }
}

/// Writes `body` out for each of at most seven values of `index` below `count`, which the compiler knows: whatever depends on
/// them is decided when it compiles.
macro_rules! unrolled {
    ($index:ident < $count:expr, $body:block) => {
        $crate::cpu::vector::unrolled!(@ $index, $count, $body, 0 1 2 3 4 5 6)
    };
    (@ $index:ident, $count:expr, $body:block, $($value:literal)*) => {
        $({
            let $index: usize = $value;
            if $index < $count $body
        })*
    };
}
pub(crate) use unrolled;

#[cfg(test)]
mod tests {
    use super::*;

    struct Everything<'a>(&'a mut Vec<[f32; LANES]>);

    impl Kernel for Everything<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let a = [1.5, -2.0, f32::NAN, 0.0, -0.0, f32::INFINITY, 3.0, 1e-40];
            let b = [2.0, -3.0, 1.0, f32::NAN, 0.0, 1.0, f32::NEG_INFINITY, 1e-40];
            let halves = [1.0f32, -0.5, 65504.0, 6e-8, f32::NAN, f32::INFINITY, -0.0, 1e-3].map(half::f16::from_f32);
            // SAFETY: the caller's promise about the instructions; all arrays have LANES elements.
            unsafe {
                let (x, y) = (V::load(a.as_ptr()), V::load(b.as_ptr()));
                let results = [
                    x.add(y),
                    x.sub(y),
                    x.mul(y),
                    x.div(y),
                    x.mul_add(y, V::splat(1.0)),
                    y.sqrt(),
                    x.max(y),
                    x.max_or_nan(y),
                    V::load_f16(halves.as_ptr()),
                    V::load_part(a.as_ptr(), 3),
                ];
                for result in results {
                    let mut lanes = [0.0; LANES];
                    result.store(lanes.as_mut_ptr());
                    self.0.push(lanes);
                }
                let mut lanes = [7.0; LANES];
                x.store_part(lanes.as_mut_ptr(), 2);
                self.0.push(lanes);
            }
        }
    }

    /// Every lane of every operation against scalar arithmetic.
    #[test]
    fn every_operation_on_every_isa() {
        let nan = f32::NAN;
        let (a, b) = (
            [1.5, -2.0, nan, 0.0, -0.0, f32::INFINITY, 3.0, 1e-40f32],
            [2.0, -3.0, 1.0, nan, 0.0, 1.0, f32::NEG_INFINITY, 1e-40f32],
        );
        let each = |f: fn(f32, f32) -> f32| -> [f32; LANES] { std::array::from_fn(|i| f(a[i], b[i])) };
        let expected = [
            each(|a, b| a + b),
            each(|a, b| a - b),
            each(|a, b| a * b),
            each(|a, b| a / b),
            each(|a, b| a.mul_add(b, 1.0)),
            each(|_, b| b.sqrt()),
            [2.0, -2.0, 1.0, nan, 0.0, f32::INFINITY, 3.0, 1e-40],
            [2.0, -2.0, nan, nan, 0.0, f32::INFINITY, 3.0, 1e-40],
            [1.0, -0.5, 65504.0, 5.9604645e-8, nan, f32::INFINITY, -0.0, 0.0010004044],
            [1.5, -2.0, nan, 0.0, 0.0, 0.0, 0.0, 0.0],
            [1.5, -2.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0],
        ];
        for isa in [Isa::best(), Isa::PORTABLE] {
            let mut found = vec![];
            // SAFETY: it has no conditions but the instructions.
            unsafe { isa.run(Everything(&mut found)) };
            for (operation, (found, expected)) in found.iter().zip(&expected).enumerate() {
                for (found, expected) in found.iter().zip(expected) {
                    let equal = found == expected || found.is_nan() && expected.is_nan();
                    assert!(equal, "{}, operation {operation}: {found}, not {expected}", isa.name());
                }
            }
            assert_eq!(found.len(), expected.len());
        }
    }
}

//! C = A * B for a single row of A, whose zeros cost nothing: after a ReLU half of the values are, and the weights that they would
//! meet are not even read.

use super::micro::{Stored, WIDTH};
use crate::cpu::vector::{Kernel, LANES, Vector, prefetch};

/// Terms that are asked for ahead of the one that is added.
const AHEAD: usize = 24;

/// C = A * B, or C += A * B, for one row and some panels. Sums are those of [`Product`](super::Product), bit for bit: a term with a
/// zero changes none, weights being finite.
///
/// Its promises: `a` can be read at each of `terms`, `b` has `panels` panels of (`depth`, 16), `depth` above all of `terms`, and
/// `c` can be written for 16 columns a panel; where `accumulate` is set, it has been written before. Nothing else touches C
/// meanwhile, and it overlaps neither A nor B.
pub struct Row<'a, B> {
    /// Places of the terms that are not zero, in order.
    pub terms: &'a [u32],
    pub a: *const f32,
    pub b: *const B,
    pub depth: usize,
    pub panels: usize,
    pub c: *mut f32,
    pub accumulate: bool,
}

impl<B: Stored> Kernel for Row<'_, B> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let mut panel = 0;
        // Two panels at once give a term twice as much to add.
        while panel + 2 <= self.panels {
            // SAFETY: the panels are there.
            unsafe { self.sum::<V, 4>(panel) };
            panel += 2;
        }
        if panel < self.panels {
            // SAFETY: as above.
            unsafe { self.sum::<V, 2>(panel) };
        }
    }
}

impl<B: Stored> Row<'_, B> {
    /// `W` vectors of columns, two a panel.
    #[expect(clippy::needless_range_loop, reason = "iterators' own functions are not always compiled into this one")]
    #[inline(always)]
    unsafe fn sum<V: Vector, const W: usize>(&self, panel: usize) {
        let panel_len = self.depth * WIDTH;
        // SAFETY: terms, panels and columns are those of the promises; `prefetch` takes any address.
        unsafe {
            let b = self.b.add(panel * panel_len);
            let mut sums = [V::splat(0.0); W];
            for index in 0..self.terms.len() {
                if index + AHEAD < self.terms.len() {
                    let term = *self.terms.get_unchecked(index + AHEAD) as usize;
                    prefetch(b.wrapping_add(term * WIDTH));
                    if W == 4 {
                        prefetch(b.wrapping_add(panel_len + term * WIDTH));
                    }
                }
                let term = *self.terms.get_unchecked(index) as usize;
                let (value, b) = (V::splat(*self.a.add(term)), b.add(term * WIDTH));
                for vector in 0..W {
                    let factor = B::load(b.add(vector / 2 * panel_len + vector % 2 * LANES));
                    sums[vector] = value.mul_add(factor, sums[vector]);
                }
            }
            for vector in 0..W {
                let c = self.c.add(panel * WIDTH + vector * LANES);
                let sum = if self.accumulate { sums[vector].add(V::load(c)) } else { sums[vector] };
                sum.store(c);
            }
        }
    }
}

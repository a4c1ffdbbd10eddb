//! The micro kernel: up to 6 rows by 16 columns of C in registers.

use std::sync::atomic::{Ordering, compiler_fence};

use half::f16;

use crate::cpu::vector::{Kernel, LANES, Vector, prefetch};

/// Columns of a panel of B.
pub const WIDTH: usize = 2 * LANES;

/// Rows of C that a call of the micro kernel computes at most: with 6, 12 of AVX2's 16 registers are sums, and two loads of B
/// and six of A feed 12 multiply-adds.
const ROWS: usize = 6;

/// Element types of B.
pub trait Stored: Copy + Send + Sync {
    /// # Safety
    /// As [`Vector::load`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const f16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(from) }
    }
}

/// C = A * B, or C += A * B, for some rows and some panels.
///
/// Its promises: `a` can be read at `block * a_block + row * 8 + lane` and `c` written at `vector * c_vector + row * 8 + lane` for
/// every block of 8 terms, every vector of 8 columns, every row and lane; where `accumulate` is set, `c` has been written before. `b`
/// has `panels` panels of (terms, 16). Nothing else touches C meanwhile, and it overlaps neither A nor B.
pub struct Product<B> {
    pub rows: usize,
    /// Blocks of 8 terms.
    pub blocks: usize,
    pub a: *const f32,
    pub a_block: usize,
    pub b: *const B,
    pub panels: usize,
    pub c: *mut f32,
    pub c_vector: usize,
    pub accumulate: bool,
}

impl<B: Stored> Kernel for Product<B> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let panel_len = self.blocks * LANES * WIDTH;
        let mut panel = 0;
        while panel < self.panels {
            // Few rows wait for memory and for sums to be added: two panels at once give them twice as many to add.
            let pair = self.rows <= 3 && panel + 1 < self.panels;
            let parts = self.rows.div_ceil(ROWS);
            let mut row = 0;
            for part in 0..parts {
                let rows = (self.rows - row).div_ceil(parts - part);
                // SAFETY: panel and row are within what the fields promise.
                unsafe {
                    let block = Block {
                        blocks: self.blocks,
                        a: self.a.add(row * LANES),
                        a_block: self.a_block,
                        b: self.b.add(panel * panel_len),
                        b_panel: panel_len,
                        c: self.c.add(2 * panel * self.c_vector + row * LANES),
                        c_vector: self.c_vector,
                        accumulate: self.accumulate,
                    };
                    // The first rows of a panel ask for the next panel.
                    match (rows, pair, part == 0) {
                        (1, true, _) => block.run::<V, 1, 4, true>(),
                        (2, true, _) => block.run::<V, 2, 4, true>(),
                        (3, true, _) => block.run::<V, 3, 4, true>(),
                        (1, false, _) => block.run::<V, 1, 2, true>(),
                        (2, false, _) => block.run::<V, 2, 2, true>(),
                        (3, false, _) => block.run::<V, 3, 2, true>(),
                        (4, _, true) => block.run::<V, 4, 2, true>(),
                        (4, _, false) => block.run::<V, 4, 2, false>(),
                        (5, _, true) => block.run::<V, 5, 2, true>(),
                        (5, _, false) => block.run::<V, 5, 2, false>(),
                        (6, _, true) => block.run::<V, 6, 2, true>(),
                        _ => block.run::<V, 6, 2, false>(),
                    }
                }
                row += rows;
            }
            panel += if pair { 2 } else { 1 };
        }
    }
}

/// A call's part of a [`Product`], with the same promises; the second panel is `b_panel` after the first.
struct Block<B> {
    blocks: usize,
    a: *const f32,
    a_block: usize,
    b: *const B,
    b_panel: usize,
    c: *mut f32,
    c_vector: usize,
    accumulate: bool,
}

impl<B: Stored> Block<B> {
    /// `R` rows by `W` vectors, two a panel. `AHEAD` asks for the panel after those while it reads them.
    ///
    /// # Safety
    /// The struct's promises, and the CPU has the instructions of `V`.
    #[expect(clippy::needless_range_loop, reason = "iterators' own functions are not always compiled into this one")]
    #[inline(always)]
    unsafe fn run<V: Vector, const R: usize, const W: usize, const AHEAD: bool>(self) {
        // SAFETY: all addresses are of the elements that the promises name; `prefetch` takes any address.
        unsafe {
            let mut sums = [[V::splat(0.0); W]; R];
            let (mut a, mut b) = (self.a, self.b);
            for _ in 0..self.blocks {
                for term in 0..LANES {
                    let b = b.add(term * WIDTH);
                    if AHEAD {
                        prefetch(b.wrapping_add(self.b_panel * W / 2));
                        if W == 4 {
                            prefetch(b.wrapping_add(self.b_panel * 3));
                        }
                    }
                    let mut factors = [V::splat(0.0); W];
                    for vector in 0..W {
                        factors[vector] = B::load(b.add(vector / 2 * self.b_panel + vector % 2 * LANES));
                    }
                    for row in 0..R {
                        let value = V::splat(*a.add(row * LANES + term));
                        for vector in 0..W {
                            sums[row][vector] = value.mul_add(factors[vector], sums[row][vector]);
                        }
                    }
                    // Keeps the compiler from loading the next term's factors before there is a register for them.
                    compiler_fence(Ordering::SeqCst);
                }
                a = a.add(self.a_block);
                b = b.add(LANES * WIDTH);
            }
            for row in 0..R {
                for vector in 0..W {
                    let c = self.c.add(vector * self.c_vector + row * LANES);
                    let sum = if self.accumulate { sums[row][vector].add(V::load(c)) } else { sums[row][vector] };
                    sum.store(c);
                }
            }
        }
    }
}

//! B, packed once, with a bias a column.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::micro::{Product, Stored, WIDTH};
use super::row::Row;
use crate::Result;
use crate::cpu::memory::Memory;
use crate::cpu::team::{Ahead, Parts, Team};
use crate::cpu::vector::{Kernel, LANES, Vector};

/// Terms that are summed in one go: a panel of as many is to stay in the L1 cache beside the rows of A that it meets.
const DEPTH: usize = 256;

/// Columns of (terms), cut into parts of [`DEPTH`] terms and panels of [`WIDTH`] columns, both filled up with zeros:
/// (parts, panels, terms, 16).
pub struct Panels<B> {
    values: Memory<B>,
    /// A multiple of 8.
    terms: usize,
    columns: usize,
    /// (columns), filled up.
    bias: Vec<f32>,
}

/// Where a product goes: (rows, columns).
#[derive(Clone, Copy)]
pub struct Target {
    pub start: *mut f32,
    /// Elements from a row to the next.
    pub pitch: usize,
}

/// An element type that panels are packed in.
pub trait Packed: Stored + bytemuck::Pod {
    fn pack(values: &[f32; WIDTH]) -> [Self; WIDTH];
}

impl Packed for f32 {
    fn pack(values: &[f32; WIDTH]) -> [f32; WIDTH] {
        *values
    }
}

impl Packed for f16 {
    fn pack(values: &[f32; WIDTH]) -> [f16; WIDTH] {
        let mut rounded = [f16::ZERO; WIDTH];
        rounded.convert_from_f32_slice(values);
        rounded
    }
}

impl<B: Packed> Panels<B> {
    /// From rows (columns, channels, taps) to terms (taps, channels), a row being `given` values. `read` fills what it is given
    /// with whole rows, from the one of a number on.
    ///
    /// # Errors
    /// Those of `read`, of several the one of the lowest rows; [`Error::Device`](crate::Error::Device) where memory is short.
    pub fn pack(
        mut bias: Vec<f32>,
        given: usize,
        taps: usize,
        read: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Self> {
        let columns = bias.len();
        let (terms, panels) = (given.next_multiple_of(LANES), columns.div_ceil(WIDTH));
        let mut values: Memory<B> = Memory::of_weights(panels * terms * WIDTH)?;
        let parts = &Parts::of(&mut values);
        let pack_panel = |rows: &mut Vec<f32>, panel: usize| {
            let first = panel * WIDTH;
            let filled = (columns - first).min(WIDTH);
            rows.resize(filled * given, 0.0);
            read(first, rows)?;
            transpose(rows, given, taps, |term, row| {
                let part = term / DEPTH * DEPTH;
                let depth = DEPTH.min(terms - part);
                let target = (part * panels + panel * depth + term - part) * WIDTH;
                // SAFETY: parts before have DEPTH terms of every panel, panels before `depth` terms: the place is this panel's
                // alone, and less than panels * terms * WIDTH.
                unsafe { parts.start().add(target).cast::<[B; WIDTH]>().write_unaligned(B::pack(row)) };
            });
            Ok(())
        };
        let packed = (0..panels).into_par_iter().map_init(Vec::new, pack_panel);
        packed.find_first(Result::is_err).unwrap_or(Ok(()))?;
        bias.resize(panels * WIDTH, 0.0);
        Ok(Panels { values, terms, columns, bias })
    }

    /// The first `bytes` that are read, to be asked for before.
    pub fn ahead(&self, bytes: usize) -> Ahead {
        Ahead::of(&self.values, bytes)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.values.bytes() + size_of::<f32>() * self.bias.len()
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Terms, filled up to a multiple of 8.
    pub fn terms(&self) -> usize {
        self.terms
    }

    pub fn panels(&self) -> usize {
        self.bias.len() / WIDTH
    }

    /// Product, bias and ReLU: columns of `panels` of `target`. `a` is (terms / 8, rows, 8).
    ///
    /// # Safety
    /// `target` may be written at start + row * pitch + column for every row and every column of the panels, and nothing else touches
    /// those meanwhile.
    ///
    /// # Panics
    /// If `a` has another length, or there are no such panels.
    pub unsafe fn multiply(
        &self,
        team: &Team<'_>,
        panels: Range<usize>,
        relu: bool,
        rows: usize,
        a: &[f32],
        target: Target,
    ) {
        assert_eq!(a.len(), rows * self.terms, "{rows} rows of {} terms", self.terms);
        assert!(panels.start < panels.end && panels.end <= self.panels(), "panels {panels:?}");
        team.scratch.with(panels.len() * WIDTH * rows, |sums| {
            let mut places = vec![];
            for part in (0..self.terms).step_by(DEPTH) {
                let depth = DEPTH.min(self.terms - part);
                // SAFETY: the values have `depth` terms of each panel from this part's place on.
                let b = unsafe { self.values.as_ptr().add((part * self.panels() + panels.start * depth) * WIDTH) };
                let (panels, c, accumulate) = (panels.len(), sums.as_mut_ptr(), part > 0);
                if rows == 1 {
                    let row = &a[part..part + depth];
                    places.clear();
                    places.extend((0..depth as u32).filter(|&term| row[term as usize] != 0.0));
                    // SAFETY: the row has `depth` terms; the sums, this call's own, are those of as many panels.
                    unsafe { team.isa.run(Row { terms: &places, a: row.as_ptr(), b, depth, panels, c, accumulate }) };
                    continue;
                }
                // SAFETY: `a` has `rows` rows of all terms, and the sums, this call's own, the rows of as many panels.
                unsafe {
                    team.isa.run(Product {
                        rows,
                        blocks: depth / LANES,
                        a: a.as_ptr().add(part * rows),
                        a_block: rows * LANES,
                        b,
                        panels,
                        c,
                        c_vector: rows * LANES,
                        accumulate,
                    });
                }
            }
            let first = panels.start * WIDTH;
            // SAFETY: the sums are as the kernel takes them, the bias is of the columns from the first on, and the caller allows
            // the target.
            unsafe {
                team.isa.run(Finish {
                    rows,
                    columns: self.columns.min(panels.end * WIDTH) - first,
                    sums: sums.as_ptr(),
                    bias: self.bias.as_ptr().add(first),
                    relu,
                    target: target.start.add(first),
                    pitch: target.pitch,
                });
            }
        });
    }
}

/// Shows the terms (taps, channels) of up to 16 rows (channels, taps), each with its number, in the order of the rows' memory.
fn transpose(rows: &[f32], given: usize, taps: usize, mut show: impl FnMut(usize, &[f32; WIDTH])) {
    let channels = given / taps;
    let (mut channel, mut tap) = (0, 0);
    // Rows are often a multiple of a page apart: the caches hold few lines of such, so each is read to its end before the next.
    for block in (0..given).step_by(WIDTH) {
        let run = (given - block).min(WIDTH);
        let mut terms = [[0.0; WIDTH]; WIDTH];
        for (column, row) in rows.chunks_exact(given).enumerate().take(WIDTH) {
            for (term, value) in terms.iter_mut().zip(&row[block..block + run]) {
                term[column] = *value;
            }
        }
        for term in &terms[..run] {
            show(tap * channels + channel, term);
            tap += 1;
            if tap == taps {
                (channel, tap) = (channel + 1, 0);
            }
        }
    }
}

/// Sums, (columns / 8, rows, 8), + bias, + ReLU, to (rows, columns). A NaN stays a NaN.
///
/// Its promises: `sums` and `bias` have the columns, filled up to a multiple of 8; `target` can be written at row * pitch + column.
struct Finish {
    rows: usize,
    columns: usize,
    sums: *const f32,
    bias: *const f32,
    relu: bool,
    target: *mut f32,
    pitch: usize,
}

impl Kernel for Finish {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: rows and columns are those of the promises.
        unsafe {
            let zero = V::splat(0.0);
            for column in (0..self.columns).step_by(LANES) {
                let bias = V::load(self.bias.add(column));
                let part = (self.columns - column).min(LANES);
                for row in 0..self.rows {
                    let sum = V::load(self.sums.add(column * self.rows + row * LANES)).add(bias);
                    let sum = if self.relu { zero.max(sum) } else { sum };
                    sum.store_part(self.target.add(row * self.pitch + column), part);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that blocks of 16 do not divide, fewer than 16 of them; with one tap nothing moves.
    #[test]
    fn terms_are_in_the_order_of_taps() {
        for (columns, channels, taps) in [(16, 5, 7), (3, 4, 9), (16, 32, 1), (1, 1, 36)] {
            let given = channels * taps;
            let rows: Vec<f32> = (0..columns * given).map(|place| place as f32).collect();
            let mut shown = vec![0; given];
            transpose(&rows, given, taps, |term, row| {
                let (tap, channel) = (term / channels, term % channels);
                for (column, value) in row.iter().enumerate() {
                    let expected = if column < columns { column * given + channel * taps + tap } else { 0 };
                    assert_eq!(
                        *value, expected as f32,
                        "{columns} x {channels} x {taps}, term {term}, column {column}"
                    );
                }
                shown[term] += 1;
            });
            assert!(shown.iter().all(|times| *times == 1), "{shown:?}");
        }
    }
}

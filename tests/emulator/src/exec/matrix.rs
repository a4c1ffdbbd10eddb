//! The tensor cores' instructions: `mma` and `ldmatrix`.
//!
//! A register of 16-bit elements holds an 8 by 8 block, row by row: lane l has the elements 2l and 2l + 1, so lanes 4r to
//! 4r + 3 have row r. Two registers of f32 hold such a block as well, element 2l in the first and 2l + 1 in the second.
//! So even and odd columns stay apart in what follows. A register of tf32 holds an 8 by 4 block, lane l has element l.

use super::block::State;
use super::warp::Warp;
use super::{Context, Raised, list};
use crate::alu::{BfloatPair, LANES, Lane, Packed, Pair, Registers, TF32_BITS, wide_cpu};
use crate::decode::{Access, Element, LoadMatrix, Mma, Space};
use crate::fault::FaultKind;

impl Warp {
    pub fn mma(&mut self, mma: &Mma, group: u32, pc: u32) -> Result<(), Box<Raised>> {
        whole(group, pc)?;
        multiply(&mut self.registers, mma);
        Ok(())
    }

    /// The matrices' rows are read as an ordinary load of 16 bytes by the lanes that give their addresses, with all its
    /// checks; then they are spread over the warp. As to races every lane reads every row.
    pub fn load_matrix(
        &mut self,
        context: &Context,
        block: &mut State,
        load: &LoadMatrix,
        group: u32,
        pc: u32,
    ) -> Result<(), Box<Raised>> {
        whole(group, pc)?;
        let rows = Access {
            space: Space::Shared,
            address: load.address,
            count: 4,
            element: 4,
            signed: false,
            wide: false,
            keep: u32::MAX,
            registers: std::array::from_fn(|word| load.scratch + word as u16),
        };
        let mask = u32::MAX >> (LANES as u32 - 8 * u32::from(load.count));
        self.load_shared(context, block, &rows, mask, pc, true)?;
        let words: [_; 4] = std::array::from_fn(|word| self.registers.narrow[rows.registers[word] as usize]);
        for (matrix, slot) in load.registers[..load.count as usize].iter().enumerate() {
            let element = |row: usize, column: usize| {
                let word = words[column / 2][8 * matrix + row];
                word >> (16 * (column % 2)) & 0xFFFF
            };
            self.registers.narrow[*slot as usize] = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                if load.transposed {
                    element(column, row) | element(column + 1, row) << 16
                } else {
                    words[lane % 4][8 * matrix + row]
                }
            });
        }
        Ok(())
    }
}

/// A fault unless `group`, the lanes that have not exited, is all of the warp.
fn whole(group: u32, pc: u32) -> Result<(), Box<Raised>> {
    if group == u32::MAX {
        return Ok(());
    }
    let detail = format!("only {} of the warp are left to execute it", list(group));
    let lane = group.trailing_zeros() as usize % LANES;
    Err(Box::new(Raised { kind: FaultKind::DivergentMatrix, pc, lane, address: None, detail }))
}

fn multiply(registers: &mut Registers, mma: &Mma) {
    #[cfg(target_arch = "x86_64")]
    if wide_cpu() {
        // SAFETY: the CPU has AVX2 and FMA.
        return unsafe { multiply_wide(registers, mma) };
    }
    multiply_plain(registers, mma);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_wide(registers: &mut Registers, mma: &Mma) {
    multiply_plain(registers, mma);
}

/// Each result is a chain of f32 fused multiply-adds that starts with c, in order of k; f16 results are rounded once at
/// its end. Tensor cores add in another order and drop digits that f32 keeps, so tests of kernels need a tolerance
/// unless every partial sum is exact.
#[inline(always)]
fn multiply_plain(registers: &mut Registers, mma: &Mma) {
    match (mma.element, mma.depth) {
        (Element::Half, 8) => multiply_pairs::<Pair, 8>(registers, mma),
        (Element::Half, _) => multiply_pairs::<Pair, 16>(registers, mma),
        (Element::Bfloat, 8) => multiply_pairs::<BfloatPair, 8>(registers, mma),
        (Element::Bfloat, _) => multiply_pairs::<BfloatPair, 16>(registers, mma),
        (Element::Tensor, 4) => multiply_words::<4>(registers, mma),
        (Element::Tensor, _) => multiply_words::<8>(registers, mma),
    }
}

/// Factors of 16-bit elements.
#[inline(always)]
fn multiply_pairs<P: Packed, const DEPTH: usize>(registers: &mut Registers, mma: &Mma) {
    let narrow = &registers.narrow;
    // Blocks of a: upper and lower half of the first eight columns, then of the others.
    let mut a: [Block; 4] = [[[0.0; LANES]; 2]; 4];
    for (a, slot) in a.iter_mut().zip(&mma.a[..DEPTH / 4]) {
        *a = halves::<P>(&narrow[*slot as usize]);
    }
    // Blocks of b are stored column by column. Transposed, eight words are a row's pairs.
    let mut b = [[0.0; 8]; DEPTH];
    for (b, slot) in b.as_chunks_mut::<8>().0.iter_mut().zip(&mma.b) {
        let words = &narrow[*slot as usize];
        let mut transposed = [0; LANES];
        for (i, word) in transposed.iter_mut().enumerate() {
            let (pair, column) = (i / 8, COLUMNS[i % 8]);
            *word = words[4 * column + pair];
        }
        for (parity, values) in halves::<P>(&transposed).iter().enumerate() {
            for (pair, row) in values.as_chunks::<8>().0.iter().enumerate() {
                b[2 * pair + parity] = *row;
            }
        }
    }
    accumulate::<DEPTH, true>(registers, mma, a.as_flattened(), &b);
}

/// Factors of tf32. The last 13 bits of their registers are ignored, not rounded: that is for `cvt` to do.
#[inline(always)]
fn multiply_words<const DEPTH: usize>(registers: &mut Registers, mma: &Mma) {
    let narrow = &registers.narrow;
    // Upper and lower half of the first four columns, then of the others.
    let mut a = [[0.0; LANES]; 4];
    for (a, slot) in a.iter_mut().zip(&mma.a[..DEPTH / 2]) {
        for (value, word) in a.iter_mut().zip(&narrow[*slot as usize]) {
            *value = f32::from_bits(word & TF32_BITS);
        }
    }
    let mut b = [[0.0; 8]; DEPTH];
    for (k, row) in b.iter_mut().enumerate() {
        let words = &narrow[mma.b[k / 4] as usize];
        for (value, column) in row.iter_mut().zip(COLUMNS) {
            *value = f32::from_bits(words[4 * column + k % 4] & TF32_BITS);
        }
    }
    accumulate::<DEPTH, false>(registers, mma, &a, &b);
}

/// Adds a b to c. An array of `a` has four columns of eight rows; with `PAIRS` two in turn have the even and odd columns of
/// eight. The columns of b are in the order of [`COLUMNS`].
#[inline(always)]
fn accumulate<const DEPTH: usize, const PAIRS: bool>(
    registers: &mut Registers,
    mma: &Mma,
    a: &[[f32; LANES]],
    b: &[[f32; 8]; DEPTH],
) {
    let narrow = &registers.narrow;
    // The upper and the lower half.
    let mut results: [Block; 2] = [[[0.0; LANES]; 2]; 2];
    for (half, result) in results.iter_mut().enumerate() {
        let c = if mma.single {
            [singles(&narrow[mma.c[2 * half] as usize]), singles(&narrow[mma.c[2 * half + 1] as usize])]
        } else {
            halves::<Pair>(&narrow[mma.c[half] as usize])
        };
        let mut d = joined(&c);
        for (row, d) in d.iter_mut().enumerate() {
            for (k, b) in b.iter().enumerate() {
                let (array, column) =
                    if PAIRS { (2 * (half + k / 8 * 2) + k % 2, k % 8 / 2) } else { (half + k / 4 * 2, k % 4) };
                let a = a[array][4 * row + column];
                for (d, b) in d.iter_mut().zip(b) {
                    *d = a.mul_add(*b, *d);
                }
            }
        }
        *result = parted(&d);
    }
    for (half, [even, odd]) in results.into_iter().enumerate() {
        if mma.single {
            f32::put(registers, mma.d[2 * half], even, u32::MAX);
            f32::put(registers, mma.d[2 * half + 1], odd, u32::MAX);
        } else {
            let mut pairs = [Pair::ZERO; LANES];
            for (lane, pair) in pairs.iter_mut().enumerate() {
                *pair = Pair([even[lane], odd[lane]]);
            }
            Pair::put(registers, mma.d[half], pairs, u32::MAX);
        }
    }
}

/// An 8 by 8 block: each lane's element of an even column, then those of odd columns.
type Block = [[f32; LANES]; 2];

/// The order of columns in rows of b, c and d.
const COLUMNS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// A block's rows.
#[inline(always)]
fn joined(block: &Block) -> [[f32; 8]; 8] {
    let mut rows = [[0.0; 8]; 8];
    for (i, value) in rows.as_flattened_mut().iter_mut().enumerate() {
        *value = block[i % 8 / 4][i / 8 * 4 + i % 4];
    }
    rows
}

/// The block of these rows.
#[inline(always)]
fn parted(rows: &[[f32; 8]; 8]) -> Block {
    let mut block = [[0.0; LANES]; 2];
    for (i, value) in block.as_flattened_mut().iter_mut().enumerate() {
        *value = rows[i % LANES / 4][i / LANES * 4 + i % 4];
    }
    block
}

/// The block in a register of 16-bit elements.
#[inline(always)]
fn halves<P: Packed>(row: &[u32; LANES]) -> Block {
    let mut block = [[0.0; LANES]; 2];
    let [even, odd] = &mut block;
    for (lane, (even, odd)) in even.iter_mut().zip(odd).enumerate() {
        [*even, *odd] = P::get(row, lane).values();
    }
    block
}

#[inline(always)]
fn singles(row: &[u32; LANES]) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    for (lane, value) in values.iter_mut().enumerate() {
        *value = f32::get(row, lane);
    }
    values
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The integration tests see only the version for this CPU.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn both_versions_agree() {
        if !wide_cpu() {
            return;
        }
        let seed = 77;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for round in 0..800 {
            let (element, depth, single) = [
                (Element::Half, 8, true),
                (Element::Half, 16, true),
                (Element::Half, 8, false),
                (Element::Half, 16, false),
                (Element::Bfloat, 8, true),
                (Element::Bfloat, 16, true),
                (Element::Tensor, 4, true),
                (Element::Tensor, 8, true),
            ][round % 8];
            let mma = Mma { element, depth, single, d: [4, 5, 6, 7], a: [0, 1, 2, 3], b: [4, 5], c: [6, 7, 8, 9] };
            // Any bits, or only finite values of moderate size.
            let keep = if round % 16 < 8 { u32::MAX } else { 0xBFFF_BFFF };
            let rows = (0..10).map(|_| std::array::from_fn(|_| rng.random::<u32>() & keep)).collect();
            let fresh =
                |narrow: &Vec<_>| Registers { narrow: narrow.clone(), wide: Vec::new(), predicates: Vec::new() };
            let (mut first, mut second) = (fresh(&rows), fresh(&rows));
            multiply_plain(&mut first, &mma);
            // SAFETY: the CPU has what the wide version needs, as checked above.
            unsafe { multiply_wide(&mut second, &mma) };
            assert_eq!(first.narrow, second.narrow, "round {round}, seed {seed}");
        }
    }
}

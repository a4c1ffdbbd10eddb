//! C = A * B in float32, B packed once: GEMM_M rows, GEMM_N columns, GEMM_K terms, in that order of sums whatever the shape.
//!
//! Activations are blocked, (columns / 8, rows, 8), as A and as C, so that the micro kernel reads and writes memory in order, and
//! the product of one step can be what the next one takes. B is in [`Panels`].

mod micro;
mod panels;
mod row;

pub use micro::{Product, WIDTH};
pub use panels::{Packed, Panels, Target};

#[cfg(test)]
mod tests {
    use half::f16;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::cpu::crew::Crew;
    use crate::cpu::memory::Scratch;
    use crate::cpu::team::Team;
    use crate::cpu::vector::{Isa, LANES};

    /// What the columns that a product must not touch hold.
    const CANARY: f32 = -7.0;

    /// Product + bias of `rows` (m, k) by the panels `taken`, with two elements more a row, in which nothing may be written.
    fn product<B: Packed>(
        isa: Isa,
        panels: &Panels<B>,
        taken: std::ops::Range<usize>,
        rows: &[f32],
        k: usize,
    ) -> Vec<f32> {
        let (m, terms, pitch) = (rows.len() / k, panels.terms(), panels.columns() + 2);
        let mut a = vec![0.0; m * terms];
        for (index, value) in rows.iter().enumerate() {
            let (row, term) = (index / k, index % k);
            a[(term / LANES * m + row) * LANES + term % LANES] = *value;
        }
        let mut target = vec![CANARY; m * pitch];
        let scratch = Scratch::default();
        let team = Team { isa, threads: 1, crew: &Crew::new(), scratch: &scratch, ahead: None };
        // SAFETY: the target has `pitch` elements a row, more than there are columns, and is this function's own.
        unsafe { panels.multiply(&team, taken, false, m, &a, Target { start: target.as_mut_ptr(), pitch }) };
        target
    }

    /// However rows and columns are divided: the same bits, which are those of a sum in f64 but for rounding, and nothing beside
    /// them is touched.
    #[test]
    fn bits_do_not_depend_on_how_a_product_is_divided() {
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        for case in 0..60 {
            let k = [1, 2, 3, 75, 255, 256, 257, 363, 513, 600][case % 10];
            let (m, n) = (rng.random_range(1..30), rng.random_range(1..90));
            let mut draw = |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0f32)).collect::<Vec<_>>();
            let (left, right, bias) = (draw(m * k), draw(n * k), draw(n));
            let rounded: Vec<f32> = right.iter().map(|value| f16::from_f32(*value).to_f32()).collect();
            // Rows are packed from (channels, taps) to (taps, channels).
            let taps = [5, 3, 1].into_iter().find(|taps| k % taps == 0).unwrap();
            let given = |rows: &[f32], first: usize, target: &mut [f32]| {
                for (row, target) in rows[first * k..].chunks_exact(k).zip(target.chunks_exact_mut(k)) {
                    for (place, value) in target.iter_mut().enumerate() {
                        *value = row[place % taps * (k / taps) + place / taps];
                    }
                }
                Ok(())
            };
            let panels =
                Panels::<f32>::pack(bias.clone(), k, taps, |first, target| given(&rounded, first, target)).unwrap();
            let halves =
                Panels::<f16>::pack(bias.clone(), k, taps, |first, target| given(&right, first, target)).unwrap();
            let all = 0..panels.panels();
            for isa in [Isa::best(), Isa::PORTABLE] {
                let whole = product(isa, &panels, all.clone(), &left, k);
                assert_eq!(whole, product(isa, &halves, all.clone(), &left, k), "{m} x {n} x {k}, half precision");
                for (index, found) in whole.iter().enumerate() {
                    let (row, column) = (index / (n + 2), index % (n + 2));
                    if column >= n {
                        assert_eq!(*found, CANARY);
                        continue;
                    }
                    let (left, right) = (&left[row * k..][..k], &rounded[column * k..][..k]);
                    let exact: f64 = left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum();
                    let exact = exact + f64::from(bias[column]);
                    assert!(
                        (f64::from(*found) - exact).abs() < 1e-6 * (k + 1) as f64,
                        "{m} x {n} x {k}: {found}, not {exact}"
                    );
                }
                let panel = case % panels.panels();
                let part = product(isa, &panels, panel..panel + 1, &left[(case % m) * k..], k);
                let rest = &whole[(case % m) * (n + 2)..];
                for (index, (part, whole)) in part.iter().zip(rest).enumerate() {
                    let column = index % (n + 2);
                    let taken = column < n && column / WIDTH == panel;
                    assert_eq!(
                        part.to_bits(),
                        if taken { *whole } else { CANARY }.to_bits(),
                        "{m} x {n} x {k}, column {column}"
                    );
                }
            }
        }
    }
}

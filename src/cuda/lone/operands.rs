//! What lone steps compute on: never zeros, with which a GPU draws less power and clocks higher. Free of CUDA.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Lone;
use crate::cuda::element::{Element, round_to_tf32};
use crate::cuda::select::Problem;
use crate::options::Precision;
use crate::plan::StepKind;

/// Random operands, in values that the precision holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Operands {
    /// Of the first step, (N, H, W, C).
    pub source: Source,
    /// For each step its filter, (K, R, S, C / groups), and its bias, (K); none without weights.
    pub weights: Vec<Option<(Vec<f32>, Vec<f32>)>>,
}

/// An input.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Of preprocessing.
    Pixels(Vec<u8>),
    /// Of all else, uniform in -1..1.
    Values(Vec<f32>),
}

impl Operands {
    /// Those of `lone` that follow from `seed`. Sums of products stay about as large as the values.
    pub fn random(lone: &Lone, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let precision = lone.rules.precision;
        let first = &lone.steps[0];
        let count = lone.images * first.input.len();
        let source = match first.kind {
            StepKind::Preprocess { .. } => {
                let mut pixels = vec![0; count];
                rng.fill_bytes(&mut pixels);
                Source::Pixels(pixels)
            }
            _ => Source::Values(uniform(&mut rng, precision, count, 1.0)),
        };
        let weights = lone.steps.iter().map(|step| {
            let Problem { gemm_k, .. } = Problem::of(step, lone.images)?;
            let filters = step.output.c;
            let filter = uniform(&mut rng, precision, filters * gemm_k, (3.0 / gemm_k as f32).sqrt());
            Some((filter, uniform(&mut rng, precision, filters, 1.0)))
        });
        Operands { source, weights: weights.collect() }
    }
}

fn uniform(rng: &mut impl Rng, precision: Precision, count: usize, bound: f32) -> Vec<f32> {
    let mut values: Vec<f32> = (0..count).map(|_| rng.random_range(-bound..bound)).collect();
    match precision {
        Precision::Float32 => {}
        Precision::Tf32 => values.iter_mut().for_each(|value| *value = round_to_tf32(*value)),
        Precision::Float16 | Precision::Bfloat16 => {
            let element = Element::of(precision);
            let bytes = element.encode(&values).into_owned();
            element.decode(&bytes, &mut values);
        }
    }
    values
}

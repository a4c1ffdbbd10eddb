//! Fresh weights for a network: the three usual schemes, seeded.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};
use rayon::prelude::*;

use super::{Network, Parameter};

/// How fresh weights are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// torchvision's: convolutions normal with deviation sqrt(2 / fan-out), fully connected N(0, 0.01), biases 0.
    Kaiming,
    /// PyTorch's default: weights and biases uniform within 1 / sqrt(fan-in).
    Pytorch,
    /// The paper's: N(0, 0.01); biases 1 in conv2, conv4, conv5, fc6 and fc7, else 0.
    Paper,
}

/// Layers whose biases the paper starts at 1, so that their ReLUs begin in the positive range.
const PAPER_UNIT_BIASES: [&str; 5] = ["conv2", "conv4", "conv5", "fc6", "fc7"];

/// Weight (PyTorch's layout) and bias values of every weighted layer of `network`, in order.
///
/// The same scheme, seed and network give the same values; a tensor's values do not depend on the other tensors.
pub fn draw(network: &Network, scheme: Scheme, seed: u64) -> Vec<(Parameter, Vec<f32>, Vec<f32>)> {
    let parameters: Vec<Parameter> = network.parameters().collect();
    parameters
        .into_par_iter()
        .enumerate()
        .map(|(index, parameter)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(index as u64);
            let (weights, biases) = draw_layer(&parameter, scheme, &mut rng);
            (parameter, weights, biases)
        })
        .collect()
}

fn draw_layer(parameter: &Parameter, scheme: Scheme, rng: &mut impl Rng) -> (Vec<f32>, Vec<f32>) {
    let width = parameter.weight_shape[0];
    let count = width * parameter.fan_in();
    let is_conv = parameter.weight_shape.len() == 4;
    match scheme {
        Scheme::Kaiming => {
            let deviation = if is_conv { (2.0 / parameter.fan_out() as f64).sqrt() } else { 0.01 };
            (normal(deviation, count, rng), vec![0.0; width])
        }
        Scheme::Pytorch => {
            let bound = (parameter.fan_in() as f64).sqrt().recip() as f32;
            let uniform = Uniform::new(-bound, bound).expect("the bound is finite and positive");
            let mut draw = |n| (0..n).map(|_| rng.sample(uniform)).collect();
            (draw(count), draw(width))
        }
        Scheme::Paper => {
            let bias = if PAPER_UNIT_BIASES.contains(&parameter.layer) { 1.0 } else { 0.0 };
            (normal(0.01, count, rng), vec![bias; width])
        }
    }
}

fn normal(deviation: f64, count: usize, rng: &mut impl Rng) -> Vec<f32> {
    let normal = Normal::new(0.0, deviation as f32).expect("the deviation is finite");
    (0..count).map(|_| normal.sample(rng)).collect()
}

//! Weights and pictures as pure functions of a seed and a name: full-size networks for benchmarks and tests, without files.

use rayon::prelude::*;

use super::{Checkpoint, Tensor};
use crate::Result;
use crate::net::{Network, Variant};

/// Full-width `variant` with 1000 classes: every tensor uniform within sqrt(6 / fan-in) for weights and 1 / sqrt(fan-in)
/// for biases, drawn by the stream of its name.
///
/// # Errors
/// None for a variant of [`VARIANTS`](crate::net::VARIANTS).
pub fn checkpoint(variant: &'static Variant, seed: u64) -> Result<Checkpoint> {
    let mut tensors = vec![];
    for parameter in Network::published(variant, 1000)?.parameters() {
        let fan_in = parameter.fan_in() as f64;
        let width = parameter.weight_shape[0];
        tensors.push((parameter.bias(), vec![width], fan_in.powf(-0.5)));
        tensors.push((parameter.weight(), parameter.weight_shape, (6.0 / fan_in).sqrt()));
    }
    let tensors = tensors.into_iter().map(|(name, shape, bound)| {
        let values = uniform(seed, &name, shape.iter().product(), bound as f32);
        (name, Tensor::from_f32(shape, &values))
    });
    Ok(Checkpoint {
        path: format!("seed:{seed}").into(),
        tensors: tensors.collect(),
        variant: Some(variant.name.into()),
        labels: None,
        metadata: Default::default(),
    })
}

/// RGB pixels (size, size, 3) of picture `index`: a ramp and noise, half each.
pub fn picture(seed: u64, index: usize, size: usize) -> Vec<u8> {
    let noise = Stream::new(seed, &format!("image.{index}"));
    let pixel = |flat: usize| {
        let (x, y, c) = (flat / 3 % size, flat / 3 / size, flat % 3);
        let ramp = (x * 3 + y * 5 + c * 50 + index * 17) & 255;
        (ramp + (noise.at(flat) >> 56) as usize) / 2
    };
    (0..size * size * 3).map(|flat| pixel(flat) as u8).collect()
}

/// The first pictures, as many as `pixels`, (N, size, size, 3), has room for.
pub fn pictures(seed: u64, size: usize, pixels: &mut [u8]) {
    let images = pixels.par_chunks_exact_mut(size * size * 3).enumerate();
    images.for_each(|(index, image)| image.copy_from_slice(&picture(seed, index, size)));
}

/// `count` values of the stream `name`, uniform in -bound..bound, computed in f32.
fn uniform(seed: u64, name: &str, count: usize, bound: f32) -> Vec<f32> {
    let stream = Stream::new(seed, name);
    let value = |i| {
        let unit = (stream.at(i) >> 40) as f32 * 2f32.powi(-24);
        (unit * 2.0 - 1.0) * bound
    };
    (0..count).into_par_iter().with_min_len(1 << 16).map(value).collect()
}

/// A named sequence of 64-bit values: SplitMix64's finaliser over a counter that starts at FNV-1a(name) ^ seed.
struct Stream {
    start: u64,
}

impl Stream {
    fn new(seed: u64, name: &str) -> Self {
        let fnv1a = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        Stream { start: name.bytes().fold(0xCBF2_9CE4_8422_2325, fnv1a) ^ seed }
    }

    fn at(&self, index: usize) -> u64 {
        let mut z = self.start.wrapping_add((index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

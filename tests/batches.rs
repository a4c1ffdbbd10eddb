//! Every layer of the six variants in batches of 1 to 9, 64, 130 and 257 images: each number takes other kernels, tiles and
//! splits, and the last tiles of its layers are filled differently. Widths are an eighth of the published ones, images are of
//! the published size, so that every layer has its own geometry.

use alexnet::backend::{Backend, Input};
use alexnet::cuda::{CudaBackend, Settings};
use alexnet::net::{Network, VARIANTS, Variant};
use alexnet::plan::Plan;
use alexnet::weights::{LayerWeights, Weights, seeded};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{self, CPU, CUDA, CUDA_BF16, CUDA_F16, CUDA_TF32, Target};

/// Random weights that keep activations of the order of 1.
fn weights(variant: &'static Variant) -> Weights {
    let mut widths = variant.widths().map(|width| width / 8);
    widths[7] = 40; // classes
    let network = Network::with_widths(variant, &widths, variant.input_size).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(31);
    let layers = network.parameters().map(|parameter| {
        let bound = (6.0 / parameter.fan_in() as f32).sqrt();
        let mut draw = |count: usize| (0..count).map(|_| rng.random_range(-bound..bound)).collect();
        let filters = parameter.weight_shape[0];
        LayerWeights { weight: draw(filters * parameter.fan_in()), bias: draw(filters) }
    });
    let layers = layers.collect();
    Weights::new(network, layers).unwrap()
}

/// Logits of the first `images` of `pixels`.
fn logits(backend: &dyn Backend, network: &Network, pixels: &[u8], images: usize) -> Vec<f32> {
    let mut session = backend.session(Plan::new(network, images, &[]).unwrap()).unwrap();
    session.run(Input::Pixels(&pixels[..images * network.input().len()])).unwrap();
    session.logits().unwrap().to_vec()
}

/// In every batch each image has the logits that the CPU gives it, within the precision's bound; with `deterministic`, those
/// that it has in another batch, to the bit.
fn check(on: Target, variant: &'static Variant, batches: &[usize]) {
    let weights = weights(variant);
    let network = weights.network().clone();
    let most = *batches.iter().max().unwrap();
    let pixels: Vec<u8> = (0..most).flat_map(|index| seeded::picture(9, index, network.input_size)).collect();
    let expected = logits(&*device::backend(CPU, weights.clone()), &network, &pixels, most);
    let rms = (expected.iter().map(|l| f64::from(*l).powi(2)).sum::<f64>() / expected.len() as f64).sqrt();
    let backend = device::backend(on, weights.clone());
    for &images in batches {
        let found = logits(&*backend, &network, &pixels, images);
        let differences = found.iter().zip(&expected).map(|(f, e)| f64::from((f - e).abs()));
        let error = differences.fold(0.0, f64::max) / rms;
        assert!(error < on.network_error(), "{}, {on:?}, {images} images: {error:e} of the rms", variant.name);
    }
    let settings = Settings { precision: on.precision, deterministic: true, ..Settings::default() };
    let backend = CudaBackend::new(weights, device::cuda(), settings).unwrap();
    let all = logits(&backend, &network, &pixels, most);
    let few = logits(&backend, &network, &pixels, batches[0]);
    assert!(few == all[..few.len()], "{}, {on:?}, deterministic: {} of {most} images", variant.name, batches[0]);
}

#[test]
#[ignore = "half a minute, run by .ci/run"]
fn few_images_in_float16() {
    for variant in &VARIANTS {
        check(CUDA_F16, variant, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}

#[test]
#[ignore = "half a minute, run by .ci/run"]
fn few_images_in_other_precisions() {
    for on in [CUDA, CUDA_TF32, CUDA_BF16] {
        for variant in ["torchvision", "paper"] {
            check(on, Variant::by_name(variant).unwrap(), &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        }
    }
}

#[test]
#[ignore = "two minutes, run by .ci/run"]
fn many_images_in_float16() {
    check(CUDA_F16, Variant::by_name("torchvision").unwrap(), &[64, 130]);
    check(CUDA_F16, Variant::by_name("paper").unwrap(), &[64, 257]);
}

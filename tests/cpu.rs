//! What the CPU promises beyond the kernels' sums: errors of Winograd's filtering, bits that depend on nothing but the picture,
//! half-precision weights.

use std::fmt::Write;

use alexnet::backend::{Backend, Input};
use alexnet::cpu::{Algorithm, CpuBackend, Isa, Settings};
use alexnet::net::{Network, Op, VARIANTS, Variant};
use alexnet::plan::Plan;
use alexnet::weights::{LayerWeights, Weights, seeded};
use alexnet::{Precision, Score};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cases::{published_layers, uniform};
use crate::device::CPU;
use crate::kernels::{bits, nmse, run, run_oracle};
use crate::testdata;

/// Limits of a published convolution: sum of squared errors over sum of squares, and the largest error over the largest value.
const NMSE: f64 = 2e-11;
const LARGEST: f64 = 2e-5;

/// Every published convolution against f64, on inputs like those that a ReLU gives; the figures are written down in docs/cpu.md.
#[test]
#[ignore = "a dozen seconds, run by .ci/run"]
fn errors_of_published_convolutions() {
    println!("seed 12");
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let mut table = String::from("| layer | computed as | NMSE | max error / max value |\n|---|---|---|---|\n");
    for case in published_layers() {
        let Op::Conv(conv) = case.op else { continue };
        let algorithm = Algorithm::choose(conv, case.input, (case.output.h, case.output.w));
        let Algorithm::Winograd(geometry) = algorithm else { panic!("{case:?}: {algorithm:?}") };
        let bound = (6.0 / (conv.kernel * conv.kernel * case.input.c / conv.groups) as f32).sqrt();
        let weights = case.weights(true, || bound * uniform(&mut rng));
        let values: Vec<f32> = (0..case.input.len()).map(|_| uniform(&mut rng).max(0.0)).collect();
        let found = run(CPU, &weights, 1, Input::Tensor(&values));
        let expected = run_oracle(&weights, &values);
        let error = nmse(&found, &expected);
        let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        let off = found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).abs() / largest).fold(0.0, f64::max);
        println!("{} {}: NMSE {error:e}, largest {off:e}", case.variant, case.name);
        assert!(error <= NMSE && off <= LARGEST, "{case:?}: NMSE {error:e}, largest {off:e}");
        let how = geometry.how();
        writeln!(table, "| {} {} | {how} | {error:.0e} | {off:.0e} |", case.variant, case.name).unwrap();
    }
    write!(table, "\nLimits that a test holds them to: NMSE {NMSE:e}, largest error {LARGEST:e}.").unwrap();
    if Isa::best() == Isa::PORTABLE {
        println!("docs/cpu.md has the figures of a CPU with fused multiply-adds, and was not compared");
    } else {
        testdata::generated("docs/cpu.md", "errors", &table);
    }
}

/// A picture's logits, in bits, are the same alone and in any batch, on any number of threads.
#[test]
fn bits_depend_on_the_picture_alone() {
    for (variant, widths) in VARIANTS.iter().zip([[16, 24, 32, 24, 16, 40, 48, 7]; 6]) {
        let network = Network::with_widths(variant, &widths, variant.input_size).unwrap();
        let weights = random(&network, 31);
        let pixels: Vec<u8> = (0..11).flat_map(|index| seeded::picture(5, index, variant.input_size)).collect();
        let image = network.input().len();
        let logits = |threads: usize, images: usize| {
            let backend = CpuBackend::new(weights.clone(), Settings::new(threads)).unwrap();
            let mut session = backend.session(Plan::new(&network, images, &[]).unwrap()).unwrap();
            let mut all = vec![];
            for pixels in pixels.chunks(images * image) {
                session.run(Input::Pixels(pixels)).unwrap();
                all.extend_from_slice(session.logits().unwrap());
            }
            bits(&all)
        };
        let expected = logits(1, 1);
        for (threads, images) in [(1, 11), (2, 1), (2, 3), (2, 11), (3, 4), (5, 11)] {
            assert!(logits(threads, images) == expected, "{}, {threads} threads, {images} images", variant.name);
        }
    }
}

/// Kept layers and the pipeline give what a plain run does, whatever groups pictures go in.
#[test]
fn kept_layers_change_no_bits() {
    let variant = Variant::by_name("paper").unwrap();
    let network = Network::with_widths(variant, &[16, 24, 32, 24, 16, 40, 48, 7], variant.input_size).unwrap();
    let backend = CpuBackend::new(random(&network, 32), Settings::new(2)).unwrap();
    let pixels: Vec<u8> = (0..9).flat_map(|index| seeded::picture(6, index, variant.input_size)).collect();
    let run = |keep: &[&str]| {
        let mut session = backend.session(Plan::new(&network, 9, keep).unwrap()).unwrap();
        session.run(Input::Pixels(&pixels)).unwrap();
        let kept: Vec<_> = keep.iter().map(|name| bits(&session.activation(name).unwrap().values)).collect();
        (bits(session.logits().unwrap()), kept)
    };
    let all = ["input", "conv1", "norm1", "pool1", "conv2", "conv4", "pool5", "fc6", "fc7"];
    let (logits, kept) = run(&all);
    assert_eq!(run(&[]).0, logits);
    for (name, kept) in all.iter().zip(kept) {
        assert_eq!(run(&[name]), (logits.clone(), vec![kept]), "{name}");
    }
}

/// Fully connected weights in half precision: logits move by what rounding the weights moves them, and the device says so.
#[test]
fn half_precision_weights() {
    let variant = Variant::by_name("torchvision").unwrap();
    let network = Network::with_widths(variant, &[16, 24, 32, 24, 16, 40, 48, 7], variant.input_size).unwrap();
    let weights = random(&network, 33);
    let mut rounded = weights.layers().to_vec();
    for layer in &mut rounded[5..] {
        layer.weight.iter_mut().for_each(|weight| *weight = half::f16::from_f32(*weight).to_f32());
    }
    let rounded = Weights::new(network.clone(), rounded).unwrap();
    let pixels: Vec<u8> = (0..3).flat_map(|index| seeded::picture(7, index, variant.input_size)).collect();
    for isa in [Isa::best(), Isa::PORTABLE] {
        let logits = |weights: &Weights, float16| {
            let backend = CpuBackend::new(weights.clone(), Settings { isa, float16, ..Settings::new(2) }).unwrap();
            assert_eq!(backend.description().contains("float16"), float16);
            let mut session = backend.session(Plan::new(&network, 3, &[]).unwrap()).unwrap();
            session.run(Input::Pixels(&pixels)).unwrap();
            session.logits().unwrap().to_vec()
        };
        assert_eq!(bits(&logits(&weights, true)), bits(&logits(&rounded, false)), "{}", isa.name());
    }
    let backend = CpuBackend::new(weights.clone(), Settings { float16: true, ..Settings::new(2) }).unwrap();
    let mut pipeline = backend.pipeline(Plan::new(&network, 3, &[]).unwrap(), 1, Score::Prob).unwrap();
    let mut input = backend.pixels(pixels.len()).unwrap();
    input.copy_from_slice(&pixels);
    pipeline.submit(input).unwrap();
    let done = pipeline.collect().unwrap().unwrap();
    assert!(done.scored.iter().all(|scored| scored.precision == Precision::Float16));

    let mut large = weights.layers().to_vec();
    large[6].weight[5] = 1e6;
    let large = Weights::new(network, large).unwrap();
    let error = CpuBackend::new(large, Settings { float16: true, ..Settings::new(1) }).err().unwrap().to_string();
    assert!(error.contains("1000000") && error.contains("65504"), "{error}");
}

fn random(network: &Network, seed: u64) -> Weights {
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let layers = network.parameters().map(|parameter| {
        let bound = (6.0 / parameter.fan_in() as f32).sqrt();
        let mut values = |count: usize| (0..count).map(|_| rng.random_range(-bound..bound)).collect();
        LayerWeights {
            weight: values(parameter.weight_shape[0] * parameter.fan_in()),
            bias: values(parameter.weight_shape[0]),
        }
    });
    Weights::new(network.clone(), layers.collect()).unwrap()
}

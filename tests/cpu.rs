//! What the CPU promises beyond the kernels' sums: errors of Winograd's filtering, bits that depend on nothing but the picture,
//! half-precision weights.

use std::fmt::Write;

use alexnet::backend::{Backend, Input};
use alexnet::cpu::{Algorithm, CpuBackend, CpuTowers, Isa, Settings};
use alexnet::net::{Network, Op, VARIANTS, Variant};
use alexnet::plan::Plan;
use alexnet::weights::{LayerWeights, Weights, seeded};
use alexnet::{Error, Precision, Score};
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
    let mut table = String::from(
        "| layer | computed as | multiplications, millions an image | NMSE | max error / max value |\n|---|---|---|---|---|\n",
    );
    let mut torchvision = [0; 2];
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
        let filters = case.input.c / conv.groups * case.output.c;
        let few = filters * geometry.multiplications();
        let many = filters * case.output.h * case.output.w * conv.kernel * conv.kernel;
        if case.variant == "torchvision" {
            torchvision = [torchvision[0] + few, torchvision[1] + many];
        }
        let multiplications = format!("{} of {}", millions(few), millions(many));
        writeln!(table, "| {} {} | {how} | {multiplications} | {error:.0e} | {off:.0e} |", case.variant, case.name)
            .unwrap();
    }
    let [few, many] = torchvision.map(millions);
    writeln!(table, "\nOf the {many} million multiplications of torchvision's convolutions {few} million are left.")
        .unwrap();
    write!(table, "\nLimits that a test holds them to: NMSE {NMSE:e}, largest error {LARGEST:e}.").unwrap();
    if Isa::best() == Isa::PORTABLE {
        println!("docs/cpu.md has the figures of a CPU with fused multiply-adds, and was not compared");
    } else {
        testdata::generated("docs/cpu.md", "errors", &table);
    }
}

fn millions(count: usize) -> String {
    format!("{:.1}", count as f64 / 1e6)
}

/// A picture's logits, in bits, are the same alone and in any batch, on any number of threads, whatever the pictures beside it.
#[test]
fn bits_depend_on_the_picture_alone() {
    for variant in &VARIANTS {
        // More filters than are packed side by side, in groups and without.
        let network = Network::with_widths(variant, &[16, 136, 72, 24, 16, 40, 48, 7], variant.input_size).unwrap();
        let weights = random(&network, 31);
        let mut pixels: Vec<u8> = (0..11).flat_map(|index| seeded::picture(5, index, variant.input_size)).collect();
        let image = network.input().len();
        for isa in [Isa::best(), Isa::PORTABLE] {
            let logits = |threads: usize, images: usize, pixels: &[u8]| {
                let backend = CpuBackend::new(weights.clone(), Settings { isa, ..Settings::new(threads) }).unwrap();
                let mut session = backend.session(Plan::new(&network, images, &[]).unwrap()).unwrap();
                let mut all = vec![];
                for pixels in pixels.chunks(images * image) {
                    session.run(Input::Pixels(pixels)).unwrap();
                    all.extend_from_slice(session.logits().unwrap());
                }
                bits(&all)
            };
            let expected = logits(1, 1, &pixels);
            let sizes = [(2, 3), (1, 11), (2, 1), (2, 11), (3, 4), (5, 11)];
            for &(threads, images) in if isa == Isa::best() { &sizes[..] } else { &sizes[..2] } {
                let found = logits(threads, images, &pixels);
                assert!(found == expected, "{}, {}, {threads} threads, {images} images", variant.name, isa.name());
            }
            pixels.truncate(4 * image); // enough for the other instructions
        }
    }
}

/// A picture without a finite value leaves those beside it alone.
#[test]
fn a_nan_stays_in_its_picture() {
    for variant in &VARIANTS {
        let network = Network::with_widths(variant, &[16, 24, 32, 24, 16, 40, 48, 7], variant.input_size).unwrap();
        let backend = CpuBackend::new(random(&network, 35), Settings::new(2)).unwrap();
        let image = network.input().len();
        let mut rng = ChaCha8Rng::seed_from_u64(35);
        let good: Vec<f32> = (0..image).map(|_| uniform(&mut rng)).collect();
        let logits = |pictures: &[&[f32]]| {
            let mut session = backend.session(Plan::new(&network, pictures.len(), &[]).unwrap()).unwrap();
            session.run(Input::Tensor(&pictures.concat())).unwrap();
            session.logits().unwrap().to_vec()
        };
        let expected = bits(&logits(&[&good]));
        for value in [f32::NAN, f32::INFINITY] {
            let bad = vec![value; image];
            let found = logits(&[&good, &bad, &good, &good, &bad, &good, &bad]);
            for (index, logits) in found.chunks_exact(7).enumerate() {
                match [1, 4, 6].contains(&index) {
                    true => assert!(logits.iter().all(|logit| !logit.is_finite()), "{}: {logits:?}", variant.name),
                    false => assert_eq!(bits(logits), expected, "{}, picture {index}", variant.name),
                }
            }
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

/// More than the system gives is refused as what a smaller batch may fit into, and the device goes on.
#[test]
fn a_batch_beyond_memory() {
    let variant = Variant::by_name("paper").unwrap();
    let network = Network::with_widths(variant, &[16, 24, 32, 24, 16, 40, 48, 7], variant.input_size).unwrap();
    let weights = random(&network, 34);
    let pixels = seeded::picture(8, 0, variant.input_size);
    let whole = CpuBackend::new(weights.clone(), Settings::new(2)).unwrap();
    for backend in [&whole as &dyn Backend, &CpuTowers::new(weights, Settings::new(2)).unwrap()] {
        let error = backend.session(Plan::new(&network, 1 << 40, &[]).unwrap()).err().unwrap();
        assert!(matches!(&error, Error::DeviceMemory(text) if text.contains("lower --batch-size")), "{error}");
        assert!(matches!(backend.pixels(1 << 50), Err(Error::DeviceMemory(_))));
        let mut session = backend.session(Plan::new(&network, 1, &[]).unwrap()).unwrap();
        session.run(Input::Pixels(&pixels)).unwrap();
        assert!(session.logits().unwrap().iter().all(|logit| logit.is_finite()));
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
    assert!(error.contains("classifier.4.weight has a weight of 1000000") && error.contains("--precision"), "{error}");
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

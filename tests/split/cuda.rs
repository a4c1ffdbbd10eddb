//! Two towers on CUDA devices against the whole network: bit for bit, layer by layer.

use std::process::Command;

use alexnet::backend::Backend;
use alexnet::cuda::{CudaBackend, Settings, Towers};
use alexnet::net::{Network, Parameter, VARIANTS, Variant};
use alexnet::plan::Plan;
use alexnet::weights::{LayerWeights, Weights, seeded};
use alexnet::{Error, Fc, Input, Score};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::cases::uniform;
use crate::device::{self, CUDA, CUDA_BF16, CUDA_F16, CUDA_TF32, Target};
use crate::on_every_precision;

on_every_precision! {
    pipelines_of_towers_give_the_same_rows
}

/// Halves of whole vectors of any type, but for fc6; of odd numbers of channels, of which conv5's are one each.
const WIDTHS: [[usize; 8]; 2] = [[32, 16, 32, 64, 32, 24, 64, 9], [6, 10, 14, 12, 2, 34, 18, 7]];

/// Weights of a network, and pictures for it.
fn drawn(variant: &'static Variant, widths: &[usize; 8], images: usize) -> (Weights, Vec<u8>) {
    // For an adaptive pool the smallest at which it has something to do.
    drawn_at(if variant.is_resizable() { 127 } else { variant.input_size }, variant, widths, images)
}

/// Of torchvision's network, for the smallest pictures that it takes: soonest done on an emulated device.
fn drawn_small(widths: &[usize; 8], images: usize) -> (Weights, Vec<u8>) {
    drawn_at(63, Variant::by_name("torchvision").unwrap(), widths, images)
}

fn drawn_at(size: usize, variant: &'static Variant, widths: &[usize; 8], images: usize) -> (Weights, Vec<u8>) {
    let mut rng = ChaCha8Rng::seed_from_u64(23);
    let network = Network::with_widths(variant, widths, size).unwrap();
    let mut layer = |p: &Parameter| {
        let bound = (6.0 / p.fan_in() as f32).sqrt();
        let mut values = |count: usize| (0..count).map(|_| bound * uniform(&mut rng)).collect();
        LayerWeights { weight: values(p.weight_shape[0] * p.fan_in()), bias: values(p.weight_shape[0]) }
    };
    let layers = network.parameters().map(|p| layer(&p)).collect();
    let pixels = (0..images).flat_map(|i| seeded::picture(6, i, size)).collect();
    (Weights::new(network, layers).unwrap(), pixels)
}

fn settings(on: Target) -> Settings {
    Settings { precision: on.precision, fc: on.fc, ..Settings::default() }
}

/// The whole network, and its towers on two streams and on two devices.
fn layouts(weights: &Weights, settings: Settings) -> (CudaBackend, Vec<(&'static str, CudaBackend)>) {
    let whole = CudaBackend::new(weights.clone(), device::cuda(), settings).unwrap();
    let split = |towers| CudaBackend::split(weights.clone(), towers, settings).unwrap();
    let mut towers = vec![("two streams", split(Towers::TwoStream(device::cuda())))];
    if let Some(second) = device::second() {
        towers.push(("two devices", split(Towers::TwoGpu(device::cuda(), &second))));
    }
    (whole, towers)
}

/// Logits, and with `keep` the layers' values.
fn values(backend: &CudaBackend, plan: &Plan, keep: &[&str], input: Input<'_>) -> Vec<(String, Vec<f32>)> {
    let mut session = backend.session(plan.clone()).unwrap();
    // Twice: the second run works in buffers that hold the first one's values.
    session.run(input).unwrap();
    session.run(input).unwrap();
    let layers = keep.iter().map(|name| (name.to_string(), session.activation(name).unwrap().values));
    let mut values: Vec<_> = layers.collect();
    values.push(("logits".into(), session.logits().unwrap().to_vec()));
    values
}

fn same(what: &str, found: &[(String, Vec<f32>)], expected: &[(String, Vec<f32>)]) {
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let differ = found.iter().zip(expected).position(|(f, e)| f.to_bits() != e.to_bits());
        assert!(found.len() == expected.len() && differ.is_none(), "{what}, {name}: value {differ:?} differs");
    }
    assert_eq!(found.len(), expected.len());
}

/// The values of the layers in `keep`, and the logits.
fn halves_make_the_whole(on: Target, (weights, pixels): &(Weights, Vec<u8>), keep: &[&str]) {
    let network = weights.network();
    let images = pixels.len() / network.input().len();
    let (whole, towers) = layouts(weights, settings(on));
    let plan = Plan::new(network, images, keep).unwrap();
    let expected = values(&whole, &plan, keep, Input::Pixels(pixels));
    for (layout, backend) in &towers {
        let what = format!("{}, {}, {layout}, {images} images", network.variant.name, on.precision.name());
        same(&what, &values(backend, &plan, keep, Input::Pixels(pixels)), &expected);
    }
}

/// A network whose towers share layers, and those with windows across the border, before and after a pool.
#[test]
fn halves_make_the_whole_in_float16() {
    for name in ["paper", "caffe", "caffenet"] {
        halves_make_the_whole(CUDA_F16, &drawn(Variant::by_name(name).unwrap(), &WIDTHS[0], 1), &[]);
    }
}

#[test]
#[ignore = "minutes, run by .ci/run"]
fn halves_make_the_whole_in_every_variant_and_in_every_precision() {
    for on in [CUDA, CUDA_TF32, CUDA_F16, CUDA_BF16] {
        // Steps, and whether they are split, are alike in every precision; by themselves kernels are run beside another tower's
        // channels in each. So of the other precisions a few networks do: vectors fused, odd numbers of channels one by one.
        let all = on == CUDA_F16;
        for variant in VARIANTS.iter().filter(|variant| all || ["paper", "caffenet"].contains(&variant.name)) {
            for (widths, images) in WIDTHS.iter().zip([2, 1]) {
                let drawn = drawn(variant, widths, images);
                let steps = Plan::new(drawn.0.network(), 1, &[]).unwrap().steps;
                let every: Vec<_> = steps.iter().map(|step| *step.layers.last().unwrap()).collect();
                // Without kept layers, steps are fused and buffers shared; with all of them kept, each can be looked at.
                for keep in [&[][..], &every].into_iter().filter(|keep| all || keep.is_empty() == (images == 2)) {
                    halves_make_the_whole(on, &drawn, keep);
                }
            }
        }
    }
}

/// Batch after batch, on two streams as graphs: the same predictions, in the same order.
fn pipelines_of_towers_give_the_same_rows(on: Target) {
    let (weights, pixels) = drawn_small(&WIDTHS[0], 3);
    let image = weights.network().input().len();
    let rows = |backend: &CudaBackend| {
        let plan = Plan::new(weights.network(), 2, &[]).unwrap();
        let mut pipeline = backend.pipeline(plan, 3, Score::Logit).unwrap();
        let mut rows = vec![];
        let mut collect = |pipeline: &mut dyn alexnet::Pipeline| {
            rows.extend(pipeline.collect().unwrap().unwrap().scored);
        };
        // Each slot runs each number of images eagerly, captured, and as a graph again.
        for batch in 0..9 {
            let (first, images) = (batch % 2, 1 + usize::from(batch % 3 != 0));
            let mut input = backend.pixels(images * image).unwrap();
            input.copy_from_slice(&pixels[first * image..][..images * image]);
            if batch >= pipeline.depth() {
                collect(&mut *pipeline);
            }
            pipeline.submit(input).unwrap();
        }
        while rows.len() < 15 {
            rows.extend(pipeline.collect().unwrap().unwrap().scored);
        }
        rows
    };
    let (whole, towers) = layouts(&weights, settings(on));
    let expected = rows(&whole);
    for (layout, backend) in &towers {
        assert_eq!(rows(backend), expected, "{layout}");
    }
}

/// Every layer where the unsplit network sums in several parts, or by a GEMV, and where it doesn't: 9 images and 2.
#[test]
fn sums_are_in_the_order_of_the_whole_network() {
    for (images, widths) in [(9, [16, 32, 32, 32, 32, 64, 64, 9]), (2, [48, 128, 96, 96, 64, 256, 128, 10])] {
        let (weights, pixels) = drawn_small(&widths, images);
        let plan = Plan::new(weights.network(), images, &[]).unwrap();
        let (whole, towers) = layouts(&weights, settings(CUDA_F16));
        let expected = values(&whole, &plan, &[], Input::Pixels(&pixels));
        for (layout, backend) in &towers {
            same(layout, &values(backend, &plan, &[], Input::Pixels(&pixels)), &expected);
        }
    }
}

/// A tensor in place of pixels goes to both devices.
#[test]
fn tensors_go_to_both() {
    let (weights, _) = drawn(Variant::by_name("caffe").unwrap(), &WIDTHS[0], 1);
    let plan = Plan::new(weights.network(), 1, &["pool2"]).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let tensor: Vec<f32> = (0..plan.input.len()).map(|_| 100.0 * uniform(&mut rng)).collect();
    let (whole, towers) = layouts(&weights, settings(CUDA_F16));
    let expected = values(&whole, &plan, &["pool2"], Input::Tensor(&tensor));
    for (layout, backend) in &towers {
        same(layout, &values(backend, &plan, &["pool2"], Input::Tensor(&tensor)), &expected);
    }
}

/// Each tower has half of the weights, the first one the last layer besides, and no more is allocated on its device.
#[test]
fn weights_are_halved() {
    let mut alone = Command::new(std::env::current_exe().unwrap());
    let output = alone.args(["split::cuda::what_devices_have", "--exact", "--ignored"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "asked by another test, in a process whose devices have nothing else"]
fn what_devices_have() {
    let (weights, _) = drawn(Variant::by_name("paper").unwrap(), &[96, 256, 384, 384, 256, 64, 64, 10], 1);
    let plan = || Plan::new(weights.network(), 2, &[]).unwrap();
    let f32_settings = Settings { fc: Some(Fc::Own), ..Settings::default() };
    let (whole, towers) = layouts(&weights, f32_settings);
    // Filters and biases: the paper's convolutions, and fully connected layers of 64.
    let convolutions =
        [96 * (363 + 1), 256 * (48 * 25 + 1), 384 * (256 * 9 + 1), 384 * (192 * 9 + 1), 256 * (192 * 9 + 1)];
    let hidden = convolutions.iter().sum::<usize>() + 64 * (256 * 36 + 1) + 64 * 65;
    let last = 10 * 65;
    assert_eq!(whole.holdings(plan()).unwrap()[0].weights, 4 * (hidden + last));
    for (layout, backend) in &towers {
        let holdings = backend.holdings(plan()).unwrap();
        let weights: Vec<_> = holdings.iter().map(|holding| holding.weights).collect();
        assert_eq!(weights, [4 * (hidden / 2 + last), 4 * hidden / 2], "{layout}");
    }
    // What the second device has of them, it has allocated; and of the first one's no more than that.
    let Some(second) = device::second() else { return };
    let used = || second.memory().map(|(free, total)| total - free).unwrap();
    let before = used();
    let backend = CudaBackend::split(weights.clone(), Towers::TwoGpu(device::cuda(), &second), f32_settings).unwrap();
    let allocated = used() - before;
    let expected = 4 * hidden / 2;
    assert!((expected..expected + (64 << 10)).contains(&allocated), "{allocated} of {expected}");
    // So are the buffers.
    let holdings = backend.holdings(plan()).unwrap();
    let pipeline = backend.pipeline(plan(), 1, Score::Prob).unwrap();
    let allocated = used() - before - allocated;
    assert!((holdings[1].buffers..holdings[1].buffers + 4096).contains(&allocated), "{allocated}: {holdings:?}");
    drop(pipeline);
    // Both towers have the whole input; the rest is halved.
    let whole = whole.holdings(plan()).unwrap()[0].buffers;
    assert!(holdings[1].buffers < whole * 9 / 10, "{holdings:?}, whole {whole}");
}

#[test]
fn what_cannot_be_split_is_refused_before_anything_is_uploaded() {
    let refused = |widths: &[usize; 8], settings: Settings| {
        let (weights, _) = drawn(Variant::by_name("torchvision").unwrap(), widths, 1);
        match CudaBackend::split(weights, Towers::TwoStream(device::cuda()), settings) {
            Err(Error::Usage(reason)) => reason,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was split"),
        }
    };
    let odd = refused(&[8, 8, 9, 8, 8, 8, 8, 8], settings(CUDA_F16));
    assert!(odd.contains("conv3") && odd.contains('9'), "{odd}");
    let cublaslt = refused(&[8; 8], Settings { fc: Some(Fc::CublasLt), ..settings(CUDA_F16) });
    assert!(cublaslt.contains("--fc own"), "{cublaslt}");
}

/// These tests where devices cannot reach each other, and on streams that do everything late.
#[test]
#[ignore = "these tests four times, run by .ci/run"]
fn late_streams_and_no_peer_access() {
    for (streams, peer) in [("deferred", "1"), ("overtaking", "1"), ("deferred", "0"), ("overtaking", "0")] {
        let mut suite = Command::new(std::env::current_exe().unwrap());
        suite.args(["split::cuda", "--test-threads", "2"]).env("ALEXNET_TEST_DEVICE", "emulated");
        suite.envs(device::WITHOUT_RACES);
        let output = suite.env("CUEMU_STREAMS", streams).env("CUEMU_PEER", peer).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("tensors_go_to_both"), "{streams}, peer {peer}: {text}");
    }
}

//! Dropout in the forward pass of training: where it stands, its mask's statistics, and that inference has none.

use alexnet::Model;
use alexnet::Session;
use alexnet::backend::Input;
use alexnet::net::VARIANTS;
use alexnet::plan::{Plan, StepKind};
use alexnet::weights::seeded;

use crate::device::{self, CPU, CUDA, CUDA_F16, Target, options};
use crate::{on_every_device, testdata};

on_every_device! { elements_are_dropped_or_doubled }

fn run(session: &mut dyn Session, seed: u64, pixels: &[u8], layer: &str) -> Vec<f32> {
    session.reseed(seed);
    session.run(Input::Pixels(pixels)).unwrap();
    session.activation(layer).unwrap().values
}

fn pixels(images: usize, size: usize) -> Vec<u8> {
    (0..images).flat_map(|index| seeded::picture(9, index, size)).collect()
}

/// torchvision and half drop the inputs of fc6 and fc7; the others the outputs of their ReLUs.
#[test]
fn placement() {
    for variant in &VARIANTS {
        let network = alexnet::net::Network::published(variant, 10).unwrap();
        let plan = Plan::train(&network, 1, &[]).unwrap();
        let before_dropout: Vec<_> = plan
            .steps
            .windows(2)
            .filter(|pair| matches!(pair[1].kind, StepKind::Dropout { p: 0.5, .. }))
            .map(|pair| pair[0].layers[0])
            .collect();
        let expected = match variant.name {
            "torchvision" | "half" => ["pool5", "fc6"],
            _ => ["fc6", "fc7"],
        };
        assert_eq!(before_dropout, expected, "{}", variant.name);
        let inference = Plan::new(&network, 1, &[]).unwrap();
        assert!(inference.steps.iter().all(|s| !matches!(s.kind, StepKind::Dropout { .. })));
    }
}

/// Every element is zero or exactly doubled, by the demo checkpoints of both placements.
fn elements_are_dropped_or_doubled(on: Target) {
    for (checkpoint, before) in [("shapes", "pool5"), ("shapes-paper", "fc6")] {
        let path = testdata::path(&format!("samples/{checkpoint}.safetensors"));
        let model = Model::load(&path, &options(on)).unwrap();
        let mut session = model.train_session(2, &[before, "drop6"]).unwrap();
        let pixels = pixels(2, model.network().input_size);
        let dropped = run(session.as_mut(), 1, &pixels, "drop6");
        let input = session.activation(before).unwrap().values;
        assert!(input.iter().any(|&v| v != 0.0));
        let mut kept = 0;
        for (&input, &output) in input.iter().zip(&dropped).filter(|(input, _)| **input != 0.0) {
            assert!(output == 0.0 || output == 2.0 * input, "{input} {output}");
            kept += usize::from(output != 0.0);
        }
        let count = input.iter().filter(|&&v| v != 0.0).count();
        let deviations = (kept as f64 - count as f64 / 2.0) / (count as f64 / 4.0).sqrt();
        assert!(deviations.abs() < 5.0, "{checkpoint}: {kept} of {count} kept");
    }
}

/// Masks of a million elements: half kept, and none depends on its neighbours, another image, layer or seed.
#[test]
fn masks_are_independent() {
    use crate::cases::Case;
    use alexnet::net::{Op, Shape};

    let shape = Shape { h: 64, w: 64, c: 64 };
    let images = 4;
    let case = Case { variant: "dropout", name: "dropout", op: Op::Dropout { p: 0.5 }, input: shape, output: shape };
    let weights = case.weights(false, || 0.0);
    let plan = Plan::train(weights.network(), images, &["layer"]).unwrap();
    let ones = vec![1.0; images * shape.len()];
    let mask_on = |on: Target, seed: u64, layer: u32| -> Vec<f64> {
        let mut plan = plan.clone();
        for step in &mut plan.steps {
            if let StepKind::Dropout { layer: number, .. } = &mut step.kind {
                *number = layer;
            }
        }
        let mut session = device::backend(on, weights.clone()).session(plan).unwrap();
        session.reseed(seed);
        session.run(Input::Tensor(&ones)).unwrap();
        session.activation("layer").unwrap().values.iter().map(|&v| f64::from(v) - 1.0).collect()
    };
    let mask = |seed: u64, layer: u32| mask_on(CPU, seed, layer);
    // Kept is +1, dropped is -1: the mean of a product of independent masks is 0 within 5 / sqrt(n).
    let limit = |n: usize| 5.0 / (n as f64).sqrt();
    let product = |a: &[f64], b: &[f64]| {
        let n = a.len().min(b.len());
        (a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / n as f64, limit(n))
    };
    let first = mask(0, 0);
    // Every part of the seed and the layer's number matter, and are the same to all.
    let (seed, layer) = (0x1234_5678_9ABC_DEF0, 7);
    for on in [CUDA, CUDA_F16] {
        assert!(mask(seed, layer) == mask_on(on, seed, layer), "{on:?}: another mask than the CPU's");
    }
    assert!(first.iter().all(|v| v.abs() == 1.0));
    assert!(first == mask(0, 0), "the same seed gives the same mask");
    let mean = first.iter().sum::<f64>() / first.len() as f64;
    assert!(mean.abs() < limit(first.len()), "mean {mean}");
    let others = [
        ("next element", first[1..].to_vec()),
        ("same word of the next call", first[4..].to_vec()),
        ("next pixel", first[64..].to_vec()),
        ("next image", first[shape.len()..].to_vec()),
        ("next seed", mask(1, 0)),
        ("a seed above 32 bits", mask(1 << 32, 0)),
        ("next layer", mask(0, 1)),
    ];
    for (what, other) in others {
        let (found, limit) = product(&first, &other);
        assert!(found.abs() < limit, "{what}: {found}, limit {limit}");
    }
}

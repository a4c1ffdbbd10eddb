//! uint8 pixels to the network's input: on the CPU f32 for each preprocessing that the variants have, on a GPU in the layout
//! and type of each precision.

mod common;

use alexnet::Precision;
use alexnet::backend::{Backend, Input};
use alexnet::cpu::{CpuBackend, Settings};
use alexnet::net::{Op, Pool, Shape, Variant};
use alexnet::plan::{Plan, StepKind};
use alexnet::roofline::Demand;
use alexnet::weights::{Weights, seeded};
use common::{Bench, Case, Place, Routine, cases};

fn main() {
    let mut bench = Bench::open();
    match bench.choice.place {
        Place::Cpu => {
            let batches = bench.choice.batches.clone();
            let variants =
                ["torchvision", "paper", "caffe"].map(|name| Variant::by_name(name).expect("one of the six"));
            let cases = variants.iter().flat_map(|variant| batches.iter().map(|&batch| case(variant, batch)));
            bench.run("preprocess", cases.collect());
        }
        Place::Cuda(_) => bench.layers("preprocess", |kind| matches!(kind, StepKind::Preprocess { .. })),
    }
    bench.finish();
}

/// The preprocessing of `variant` alone.
fn case(variant: &'static Variant, batch: usize) -> Case<'static> {
    let weights = one_layer(variant);
    let network = weights.network();
    let step = &plan(&weights, batch).steps[0];
    Case {
        variant: variant.name,
        layer: "input".into(),
        precision: Precision::Float32,
        batch,
        demands: vec![Demand::of(network, step, batch, Precision::Float32)],
        make: Box::new(move || {
            let plan = plan(&weights, batch);
            let backend = CpuBackend::new(weights, Settings::new(common::cpu::threads())).expect("threads start");
            let how = backend.steps(&plan).expect("the network's own")[0][0].kernel.clone();
            let mut session = backend.session(plan).expect("memory for a batch");
            let picture = |index| seeded::picture(1, index, variant.input_size);
            let pixels: Vec<u8> = (0..batch).flat_map(picture).collect();
            let round = Box::new(move || session.run(Input::Pixels(&pixels)).expect("the input fits"));
            Routine { how, runs: 1, round }
        }),
        peers: vec![],
    }
}

/// A network of that input and a pool that changes nothing.
fn one_layer(variant: &Variant) -> Weights {
    let shape = Shape { h: variant.input_size, w: variant.input_size, c: 3 };
    let pool = Op::MaxPool(Pool { kernel: 1, stride: 1 });
    let case = cases::Case { variant: variant.name, name: "input", op: pool, input: shape, output: shape };
    case.weights_with(variant.preprocess, false, false, || 0.0)
}

fn plan(weights: &Weights, batch: usize) -> Plan {
    let mut plan = Plan::new(weights.network(), batch, &[]).expect("a batch of at least one");
    plan.steps.truncate(1); // the preprocessing alone
    plan.steps[0].logits = true;
    plan
}

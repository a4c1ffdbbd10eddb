//! Layers on the CPU backend with all threads: one at a time, from the list that the tests share.

use alexnet::Precision;
use alexnet::backend::{Backend, Input};
use alexnet::cpu::{CpuBackend, Settings};
use alexnet::net::Op;
use alexnet::plan::{Plan, StepKind};
use alexnet::roofline::Demand;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::cases::{Case as Layer, published_layers, uniform};
use super::{Case, Choice, Routine};

pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Every published layer that `wanted` picks, on random values.
pub fn layers<'a>(choice: &Choice, wanted: impl Fn(&StepKind) -> bool) -> Vec<Case<'a>> {
    let mut cases = vec![];
    for layer in published_layers() {
        let relu = matches!(layer.op, Op::Conv(_));
        // Without values, for its shapes.
        let network = layer.weights(relu, || 0.0).network().clone();
        for &batch in &choice.batches {
            let plan = Plan::new(&network, batch, &[]).expect("a batch of at least one");
            let step = &plan.steps[1]; // after the input
            if !wanted(&step.kind) {
                continue;
            }
            cases.push(Case {
                variant: layer.variant,
                layer: layer.name.into(),
                precision: Precision::Float32,
                batch,
                demands: vec![Demand::of(&network, step, batch, Precision::Float32)],
                make: Box::new(move || routine(layer, relu, batch)),
                peers: vec![],
            });
        }
    }
    cases
}

fn routine(layer: Layer, relu: bool, batch: usize) -> Routine<'static> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let weights = layer.weights(relu, || uniform(&mut rng));
    let values: Vec<f32> = (0..batch * layer.input.len()).map(|_| uniform(&mut rng)).collect();
    let plan = Plan::new(weights.network(), batch, &[]).expect("a batch of at least one");
    let backend = CpuBackend::new(weights, Settings::new(threads())).expect("threads start");
    let how = backend.steps(&plan).expect("the network's own")[0][1].kernel.clone();
    let mut session = backend.session(plan).expect("memory for a layer");
    let round = Box::new(move || session.run(Input::Tensor(&values)).expect("the input fits"));
    Routine { how, runs: 1, round }
}

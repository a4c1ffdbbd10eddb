//! uint8 pixels to the f32 network input, for each preprocessing that the variants have.

mod layers;

use alexnet::backend::{Backend, Input};
use alexnet::cpu::CpuBackend;
use alexnet::net::{Op, Pool, Shape, Variant};
use alexnet::plan::Plan;
use alexnet::weights::seeded;
use criterion::{BenchmarkId, Throughput};
use layers::cases::Case;

fn main() {
    let mut criterion = layers::criterion();
    let mut group = criterion.benchmark_group("preprocess");
    for name in ["torchvision", "paper", "caffe"] {
        let variant = Variant::by_name(name).expect("one of the six");
        let size = variant.input_size;
        let shape = Shape { h: size, w: size, c: 3 };
        let pool = Op::MaxPool(Pool { kernel: 1, stride: 1 });
        let case = Case { variant: variant.name, name: "preprocess", op: pool, input: shape, output: shape };
        let weights = case.weights_with(variant.preprocess, false, false, || 0.0);
        let network = weights.network().clone();
        let backend = CpuBackend::new(weights, layers::threads()).expect("threads start");
        for batch in layers::BATCHES {
            let mut plan = Plan::new(&network, batch, &[]).expect("a batch of at least one");
            plan.steps.truncate(1); // the preprocessing alone
            let mut session = backend.session(plan).expect("memory for a batch");
            let pixels: Vec<u8> = (0..batch).flat_map(|index| seeded::picture(1, index, size)).collect();
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new(name, batch), |b| {
                b.iter(|| session.run(Input::Pixels(&pixels)).expect("the input fits"));
            });
        }
    }
    group.finish();
    criterion.final_summary();
}

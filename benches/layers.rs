//! One layer a case, from the list that the tests share, on the CPU backend with all threads.

#![allow(dead_code)] // every benchmark takes the part it needs

#[path = "../tests/cases.rs"]
pub mod cases;

use std::time::Duration;

use alexnet::backend::{Backend, Input};
use alexnet::cpu::CpuBackend;
use alexnet::net::Op;
use alexnet::plan::Plan;
use criterion::{BenchmarkId, Criterion, Throughput};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Batch sizes of every case.
pub const BATCHES: [usize; 3] = [1, 8, 32];

/// Criterion for kernels of some milliseconds on a machine that others may share.
pub fn criterion() -> Criterion {
    let short = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300));
    short.measurement_time(Duration::from_secs(1)).configure_from_args()
}

pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Benchmarks the published layers that `wanted` picks. Throughput is in multiply-adds where the layer has weights, else
/// in bytes read and written. Inputs and weights are random.
pub fn bench(criterion: &mut Criterion, name: &str, wanted: impl Fn(&Op) -> bool) {
    let mut group = criterion.benchmark_group(name);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for case in cases::published_layers().into_iter().filter(|case| wanted(&case.op)) {
        let weights = case.weights(matches!(case.op, Op::Conv(_)), || cases::uniform(&mut rng));
        let network = weights.network().clone();
        let backend = CpuBackend::new(weights, threads()).expect("threads start");
        for batch in BATCHES {
            let values: Vec<f32> = (0..batch * case.input.len()).map(|_| cases::uniform(&mut rng)).collect();
            let plan = Plan::new(&network, batch, &[]).expect("a batch of at least one");
            let mut session = backend.session(plan).expect("memory for a layer");
            let macs: usize = network.summary(batch).total_mult_adds;
            group.throughput(match macs {
                0 => Throughput::Bytes((4 * batch * (case.input.len() + case.output.len())) as u64),
                _ => Throughput::Elements(macs as u64),
            });
            let id = BenchmarkId::new(format!("{}/{}", case.variant, case.name), batch);
            group.bench_function(id, |b| b.iter(|| session.run(Input::Tensor(&values)).expect("the input fits")));
        }
    }
    group.finish();
}

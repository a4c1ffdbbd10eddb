//! One layer a case, from the list that the tests share, on the CPU backend with all threads; and on a GPU, where there is
//! one, what its kernels can fuse.

#![allow(dead_code)] // every benchmark takes the part it needs

#[path = "../tests/cases.rs"]
pub mod cases;

use std::time::{Duration, Instant};

use alexnet::Precision;
use alexnet::backend::{Backend, Input};
use alexnet::cpu::CpuBackend;
use alexnet::cuda::{Addresses, CudaDevice, Launcher, Rules, fuse, select};
use alexnet::net::{Network, Op, VARIANTS};
use alexnet::plan::{Plan, Step, StepKind};
use criterion::{BenchmarkId, Criterion, Throughput};
use cudarc::driver::DevicePtr;
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

/// Benchmarks the published pairs of steps that `wanted` picks by what they are fused to, in f16 on the first CUDA device: in
/// one kernel and in two. Without a device there is nothing to measure.
pub fn bench_pairs(criterion: &mut Criterion, name: &str, wanted: impl Fn(&StepKind) -> bool) {
    let Ok(device) = CudaDevice::open(0) else { return };
    let precision = Precision::Float16;
    let rules = Rules {
        precision,
        multiprocessors: device.multiprocessors(),
        deterministic: false,
        fc: Some(alexnet::Fc::Own),
    };
    let launcher = Launcher::new(&device, precision).expect("the device takes the kernels");
    let mut group = criterion.benchmark_group(name);
    let mut seen = vec![];
    for variant in &VARIANTS {
        let network = Network::published(variant, 1000).expect("published widths fit");
        for batch in [1, 32, 128] {
            let steps = Plan::new(&network, batch, &[]).expect("a batch of at least one").steps;
            for pair in steps.windows(2) {
                let Some(both) = fuse::pair(&pair[0], &pair[1], &rules).filter(|both| wanted(&both.kind)) else {
                    continue;
                };
                let same = (both.kind, both.input, batch);
                if seen.contains(&same) {
                    continue;
                }
                seen.push(same);
                for (way, steps) in [("fused", &[both.clone()][..]), ("separate", pair)] {
                    let id = BenchmarkId::new(format!("{}/{}/{way}", variant.name, both.layers.join("+")), batch);
                    group.bench_function(id, |b| b.iter_custom(|runs| time(&launcher, steps, batch, &rules, runs)));
                }
            }
        }
    }
    group.finish();
}

/// What `runs` runs of `steps`, one after the other, take on the device. Operands are zeros.
fn time(launcher: &Launcher, steps: &[Step], images: usize, rules: &Rules, runs: u64) -> Duration {
    // SAFETY: everything here runs on this one stream.
    let stream = unsafe { launcher.stream() };
    let zeros = |elements: usize| stream.alloc_zeros::<u8>(4 * elements.max(4)).expect("memory for a layer");
    let first = steps[0].input;
    let mut buffers = vec![zeros(images * first.len())];
    buffers.extend(steps.iter().map(|step| zeros(images * step.output.len())));
    let launches: Vec<_> = steps.iter().map(|step| select::select(step, images, rules)).collect();
    let partial = steps.iter().map(|step| select::most_partial_elements(step, images, rules)).max();
    // Four bytes an element are room enough for f16 in rows of whole vectors.
    let taps =
        steps.iter().filter_map(|step| select::Problem::of(step, images)).map(|p| p.gemm_k * p.gemm_n * p.groups);
    let (partial, filter) = (zeros(partial.unwrap_or(0)), zeros(taps.max().unwrap_or(0)));
    let bias = zeros(steps[0].output.c);
    let address = |slice: &cudarc::driver::CudaSlice<u8>| slice.device_ptr(stream).0;
    let synchronize = || stream.synchronize().expect("the device is there");
    synchronize();
    let start = Instant::now();
    for _ in 0..runs {
        for (index, (step, launch)) in steps.iter().zip(&launches).enumerate() {
            let addresses = Addresses {
                source: address(&buffers[index]),
                target: address(&buffers[index + 1]),
                filter: address(&filter),
                bias: address(&bias),
                partial: address(&partial),
                workspace: 0, // cuBLASLt's
            };
            // SAFETY: the steps are a plan's own or fused from two of them; the buffers have room for float32 of their
            // shapes, which live until the device is done.
            unsafe { launcher.launch_step(launch, step, images, rules, 0, &addresses).expect("the kernel starts") };
        }
    }
    synchronize();
    start.elapsed()
}

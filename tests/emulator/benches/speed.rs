//! Warp instructions a second on one thread, with the checks on and off.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use cuemu::{Checks, GlobalMemory, Launch, Module, launch};

const PTX: [&str; 3] = [
    include_str!("../tests/ptx/speed.ptx"),
    include_str!("../tests/ptx/tensor.ptx"),
    include_str!("../tests/ptx/pipeline.ptx"),
];

fn speed(c: &mut Criterion) {
    let modules = PTX.map(|ptx| Module::load(ptx).expect("the kernels are supported"));
    let memory = GlobalMemory::new(1 << 30);
    let n = 128u32;
    let matrix = || {
        let address = memory.alloc(u64::from(n * n) * 4).expect("memory is left");
        memory.fill(address, 0, u64::from(n * n) * 4).expect("it is all allocated");
        address
    };
    let [a, b, out] = [matrix(), matrix(), matrix()];
    let one = |rounds: u32| [&out.to_le_bytes()[..], &rounds.to_le_bytes()].concat();
    let three = [a.to_le_bytes(), b.to_le_bytes(), out.to_le_bytes()].concat();
    let grid = |grid, block, params| Launch { grid, block, dynamic_shared: 0, params };
    let gemm = grid([n / 64, n / 64, 1], [128, 1, 1], [&three[..], &[n.to_le_bytes(); 3].concat()].concat());
    let cases = [
        ("fma_loop", grid([8, 1, 1], [128, 1, 1], one(1000))),
        ("shared_loop", grid([8, 1, 1], [256, 1, 1], one(500))),
        ("matmul", grid([n / 32, n / 32, 1], [64, 1, 1], [&three[..], &n.to_le_bytes()].concat())),
        ("mma_loop", grid([8, 1, 1], [128, 1, 1], one(100))),
        ("tensor_gemm", gemm.clone()),
        ("pipeline_gemm", gemm),
    ];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread can be started");
    let mut group = c.benchmark_group("speed");
    for (name, case) in &cases {
        let kernel = modules.iter().find_map(|module| module.kernel(name)).expect("a module has it");
        for (label, checks) in [("checked", Checks::ALL), ("unchecked", Checks::NONE)] {
            let run = || pool.install(|| launch(kernel, case, &memory, checks).expect("no fault"));
            group.throughput(Throughput::Elements(run().warp_instructions()));
            group.bench_function(BenchmarkId::new(*name, label), |bencher| bencher.iter(run));
        }
    }
    group.finish();
}

criterion_group!(benches, speed);
criterion_main!(benches);

//! How long the emulated device takes for full-width torchvision at batch 1, all its checkers on: what a test of that size
//! costs. It says nothing about a GPU.

use alexnet::backend::Input;
use alexnet::net::VARIANTS;
use alexnet::weights::seeded;
use alexnet::{Device, Model, Options, Precision};
use criterion::{Criterion, criterion_group, criterion_main};

fn emulated(criterion: &mut Criterion) {
    // From here on cudarc finds this library when it asks for libcuda.so. It is never unloaded.
    // SAFETY: the library's initialisers are those of a Rust cdylib, which run no code of its own.
    let driver = unsafe { libloading::Library::new(cuemu::driver::library::library_path()) };
    std::mem::forget(driver.expect("the emulated driver loads"));
    let variant = &VARIANTS[0];
    let pixels = seeded::picture(0, 0, variant.input_size);
    let mut group = criterion.benchmark_group("emulated/torchvision");
    group.sample_size(10);
    for precision in [Precision::Float16, Precision::Float32] {
        let checkpoint = seeded::checkpoint(variant, 0).expect("published widths fit");
        let options = Options { device: Device::Cuda(vec![0]), precision, ..Options::default() };
        let model = Model::from_checkpoint(checkpoint, &options).expect("the emulated device takes it");
        let mut session = model.session(1, &[]).expect("memory for one image");
        group.bench_function(precision.name(), |b| {
            b.iter(|| session.run(Input::Pixels(&pixels)).expect("no checker has found anything"));
        });
    }
    group.finish();
}

criterion_group!(benches, emulated);
criterion_main!(benches);

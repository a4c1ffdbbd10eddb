//! Whole networks at full width, pixels in memory to the best class in memory.

mod layers;

use alexnet::backend::{Input, Score};
use alexnet::net::VARIANTS;
use alexnet::weights::seeded;
use alexnet::{Model, Options};
use criterion::{BenchmarkId, Throughput};

fn main() {
    let mut criterion = layers::criterion();
    let mut group = criterion.benchmark_group("network");
    for variant in &VARIANTS {
        let checkpoint = seeded::checkpoint(variant, 0).expect("published widths fit");
        let model = Model::from_checkpoint(checkpoint, &Options::default()).expect("seeded weights fit");
        for batch in layers::BATCHES {
            let pixels: Vec<u8> = (0..batch).flat_map(|i| seeded::picture(0, i, variant.input_size)).collect();
            let mut session = model.session(batch, &[]).expect("memory for a batch");
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new(variant.name, batch), |b| {
                b.iter(|| {
                    session.run(Input::Pixels(&pixels)).expect("the input fits");
                    session.top_k(1, Score::Prob).expect("the run succeeded").len()
                });
            });
        }
    }
    group.finish();
    criterion.final_summary();
}

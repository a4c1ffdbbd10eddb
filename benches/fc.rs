//! Fully connected layers, every published layer; on a GPU by our own kernels, beside cuBLASLt.

mod common;

use alexnet::plan::StepKind;

fn main() {
    let mut bench = common::Bench::open();
    bench.layers("fc", |kind| matches!(kind, StepKind::Linear { .. }));
    bench.finish();
}

//! Convolution + bias + ReLU, every published layer; on a GPU beside cuDNN, and with the max pool that follows in one kernel
//! and in two.

mod common;

use alexnet::plan::StepKind;

fn main() {
    let mut bench = common::Bench::open();
    bench.layers("conv", |kind| matches!(kind, StepKind::Conv { .. }));
    bench.pairs("conv_pool", |kind| matches!(kind, StepKind::Conv { .. }));
    bench.finish();
}

//! Convolution + bias + ReLU, every published layer; on a GPU also with the max pool that follows, in one kernel and in two.

mod layers;

use alexnet::net::Op;
use alexnet::plan::StepKind;

fn main() {
    let mut criterion = layers::criterion();
    layers::bench(&mut criterion, "conv", |op| matches!(op, Op::Conv(_)));
    layers::bench_pairs(&mut criterion, "conv_pool", |kind| matches!(kind, StepKind::Conv { .. }));
    criterion.final_summary();
}

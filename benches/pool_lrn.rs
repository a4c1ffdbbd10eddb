//! Max pool and local response normalisation, every published layer; on a GPU also both in one kernel and in two.

mod layers;

use alexnet::net::Op;
use alexnet::plan::StepKind;

fn main() {
    let mut criterion = layers::criterion();
    layers::bench(&mut criterion, "pool_lrn", |op| matches!(op, Op::MaxPool(_) | Op::Lrn(_)));
    layers::bench_pairs(&mut criterion, "lrn_pool", |kind| !matches!(kind, StepKind::Conv { .. }));
    criterion.final_summary();
}

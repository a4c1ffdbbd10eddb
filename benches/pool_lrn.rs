//! Max pool and local response normalisation, every published layer; on a GPU also both in one kernel and in two.

mod common;

use alexnet::plan::StepKind;

fn main() {
    let mut bench = common::Bench::open();
    let pools_or_normalises = |kind: &StepKind| {
        use StepKind::{AvgPool, Lrn, LrnMaxPool, MaxPool, MaxPoolLrn};
        matches!(kind, MaxPool(_) | Lrn(_) | AvgPool | LrnMaxPool(_) | MaxPoolLrn(_))
    };
    bench.layers("pool_lrn", pools_or_normalises);
    bench.pairs("lrn_pool", pools_or_normalises);
    bench.finish();
}

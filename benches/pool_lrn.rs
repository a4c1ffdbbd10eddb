//! Max pool and local response normalisation, every published layer.

mod layers;

use alexnet::net::Op;

fn main() {
    let mut criterion = layers::criterion();
    layers::bench(&mut criterion, "pool_lrn", |op| matches!(op, Op::MaxPool(_) | Op::Lrn(_)));
    criterion.final_summary();
}

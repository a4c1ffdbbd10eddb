//! Convolution + bias + ReLU, every published layer.

mod layers;

use alexnet::net::Op;

fn main() {
    let mut criterion = layers::criterion();
    layers::bench(&mut criterion, "conv", |op| matches!(op, Op::Conv(_)));
    criterion.final_summary();
}

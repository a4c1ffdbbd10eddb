//! Fully connected layers, every published layer.

mod layers;

use alexnet::net::Op;

fn main() {
    let mut criterion = layers::criterion();
    layers::bench(&mut criterion, "fc", |op| matches!(op, Op::Linear { .. }));
    criterion.final_summary();
}

//! The case list that tests and benchmarks share: every layer of every variant, and any layer as a network of its own.
//!
//! A one-layer network goes through the same plan, backend and session as a whole one, so a case runs on every backend.

use alexnet::net::{Layer, Network, Node, Op, Pool, Preprocess, Shape, VARIANTS, Variant};
use alexnet::weights::{LayerWeights, Weights};
use rand::{Rng, RngExt};

/// One layer with its shapes.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub variant: &'static str,
    #[allow(dead_code)] // benchmarks print it, tests print the whole case
    pub name: &'static str,
    pub op: Op,
    pub input: Shape,
    pub output: Shape,
}

/// Every layer of every variant at its published widths, but for ReLU and dropout, which take no step of their own.
/// Layers that are the same in two variants come once.
pub fn published_layers() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    for variant in &VARIANTS {
        for node in Network::published(variant, 1000).expect("published widths fit").nodes {
            let Node { layer, input, output } = node;
            let same = |c: &Case| (c.op, c.input, c.output) == (layer.op, input, output);
            let is_step = !matches!(layer.op, Op::Relu | Op::Dropout { .. } | Op::AdaptiveAvgPool { .. });
            if is_step && !cases.iter().any(same) {
                cases.push(Case { variant: variant.name, name: layer.name, op: layer.op, input, output });
            }
        }
    }
    cases
}

impl Case {
    /// This layer as a network with weights from `draw`; `relu` adds a ReLU, which plans fuse. Its outputs are logits.
    pub fn weights(&self, relu: bool, draw: impl FnMut() -> f32) -> Weights {
        self.weights_with(VARIANTS[0].preprocess, relu, false, draw)
    }

    /// As [`weights`](Self::weights), with pixels preprocessed so; `hidden` adds a pool that changes nothing, so that the
    /// outputs are not logits.
    pub fn weights_with(
        &self,
        preprocess: Preprocess,
        relu: bool,
        hidden: bool,
        mut draw: impl FnMut() -> f32,
    ) -> Weights {
        let layer = |name, op| Layer { name, module: name, op };
        let mut layers = vec![layer("layer", self.op)];
        if relu {
            layers.push(layer("relu", Op::Relu));
        }
        if hidden {
            layers.push(layer("hidden", Op::MaxPool(Pool { kernel: 1, stride: 1 })));
        }
        // Leaked: descriptions are constants everywhere else, and a test process has room for a few hundred.
        let variant: &'static Variant = Box::leak(Box::new(Variant {
            name: "one layer",
            input_size: self.input.h,
            preprocess,
            layers: Box::leak(layers.into_boxed_slice()),
            torch_class: None,
        }));
        let nodes = variant.layers.iter().enumerate().map(|(index, layer)| {
            let input = if index == 0 { self.input } else { self.output };
            Node { layer, input, output: self.output }
        });
        let network = Network { variant, input_size: self.input.h, nodes: nodes.collect() };
        let parameters: Vec<_> = network.parameters().collect();
        let mut values = |count| (0..count).map(|_| draw()).collect();
        let layers = parameters.iter().map(|p| {
            let width = p.weight_shape[0];
            LayerWeights { weight: values(width * p.fan_in()), bias: values(width) }
        });
        let layers = layers.collect();
        Weights::new(network, layers).expect("drawn to the network's shapes")
    }
}

/// Uniform in -1..1.
pub fn uniform(rng: &mut impl Rng) -> f32 {
    rng.random_range(-1.0..1.0)
}

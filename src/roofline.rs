//! What a step must do at least, and the time that a device's ceilings leave for it: the roofline model.

use crate::net::Network;
use crate::options::Precision;
use crate::plan::{Step, StepKind};
use crate::record::{Bound, Ceilings};

/// What a step must do for some number of images. Only products of layers with weights count as operations: all else is
/// bound by memory on any device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Weights and biases of the layer, or of its half.
    pub params: usize,
    /// Products added up, those of padding with them. Unlike torchinfo's, without one for each bias.
    pub mult_adds: usize,
    /// Bytes of the input, filter, bias and output, each once.
    pub bytes: usize,
}

impl Demand {
    /// Of `step`, of `network`, whether as the plan has it or as a device runs it, for `images` images, with activations and
    /// filters stored as computing in `precision` has them.
    ///
    /// Operations are the network's: zeros that a device fills filters up with are none. Bytes are of the operands that the
    /// step has.
    pub fn of(network: &Network, step: &Step, images: usize, precision: Precision) -> Self {
        let element = precision.bytes();
        let (input, output) = (step.input.len(), step.output.len());
        let input_bytes = match step.kind {
            StepKind::Preprocess { .. } => input, // pixels
            _ => input * element,
        };
        let Some(weights) = step.weights() else {
            return Demand { params: 0, mult_adds: 0, bytes: images * (input_bytes + output * element) };
        };
        let stored_taps = match step.kind {
            StepKind::Conv { conv, .. } => conv.kernel * conv.kernel * step.input.c / conv.groups,
            _ => input,
        };
        let layer = network.parameters().nth(weights).expect("the step is of this network");
        let taps: usize = layer.weight_shape[1..].iter().product();
        // Sums and biases are float32 in every precision, and so are logits.
        const WIDE: usize = size_of::<f32>();
        let output_element = if step.logits { WIDE } else { element };
        let filters = step.output.c;
        Demand {
            params: filters * (taps + 1),
            mult_adds: images * step.unpooled().len() * taps,
            bytes: images * (input_bytes + output * output_element) + filters * (stored_taps * element + WIDE),
        }
    }

    /// Two a multiply-add.
    pub fn flops(&self) -> f64 {
        2.0 * self.mult_adds as f64
    }

    /// The least time in seconds that `ceilings` allow, and which of them does not allow less.
    pub fn least_seconds(&self, ceilings: &Ceilings) -> (f64, Bound) {
        let compute = self.flops() / ceilings.flops_per_sec;
        let memory = self.bytes as f64 / ceilings.bytes_per_sec;
        if compute > memory { (compute, Bound::Compute) } else { (memory, Bound::Memory) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Variant;
    use crate::plan::Plan;
    use crate::split;

    fn paper() -> Network {
        Network::published(Variant::by_name("paper").unwrap(), 1000).unwrap()
    }

    fn step<'a>(plan: &'a Plan, layer: &str) -> &'a Step {
        plan.steps.iter().find(|step| step.layers.contains(&layer)).unwrap()
    }

    /// Every figure worked out from the layer's published sizes.
    #[test]
    fn demands_are_those_of_the_published_layers() {
        let network = paper();
        let plan = Plan::new(&network, 4, &[]).unwrap();
        let demand = |layer, precision| Demand::of(&network, step(&plan, layer), 4, precision);
        for (layer, params, mult_adds, bytes_f16, bytes_f32) in [
            // 227 x 227 x 3 pixels of a byte each, to as many values.
            ("input", 0, 0, 4 * 154_587 * (1 + 2), 4 * 154_587 * (1 + 4)),
            // 256 filters of 5 x 5 x 48 in two groups, over 27 x 27; 27 x 27 x 96 in.
            (
                "conv2",
                256 * 1200 + 256,
                4 * 186_624 * 1200,
                2 * (4 * (69_984 + 186_624) + 307_200) + 4 * 256,
                4 * (4 * (69_984 + 186_624) + 307_200) + 4 * 256,
            ),
            // 27 x 27 x 256 in, 13 x 13 x 256 out.
            ("pool2", 0, 0, 2 * 4 * (186_624 + 43_264), 4 * 4 * (186_624 + 43_264)),
            (
                "fc6",
                4096 * 9216 + 4096,
                4 * 4096 * 9216,
                2 * (4 * (9216 + 4096) + 4096 * 9216) + 4 * 4096,
                4 * (4 * (9216 + 4096) + 4096 * 9216) + 4 * 4096,
            ),
            // Logits are float32.
            (
                "fc8",
                1000 * 4096 + 1000,
                4 * 1000 * 4096,
                2 * (4 * 4096 + 4_096_000) + 4 * 4 * 1000 + 4 * 1000,
                4 * (4 * (4096 + 1000) + 4_096_000) + 4 * 1000,
            ),
        ] {
            for (precision, bytes) in [
                (Precision::Float16, bytes_f16),
                (Precision::Bfloat16, bytes_f16),
                (Precision::Float32, bytes_f32),
                (Precision::Tf32, bytes_f32),
            ] {
                assert_eq!(demand(layer, precision), Demand { params, mult_adds, bytes }, "{layer}, {precision:?}");
            }
        }
    }

    /// A tower has half of the filters; of conv3, which is not grouped, it reads all of the input.
    #[test]
    fn halves_count_their_half() {
        let network = paper();
        let towers = split::towers(&Plan::new(&network, 2, &[]).unwrap()).unwrap();
        let demand = |tower: &Plan, layer| Demand::of(&network, step(tower, layer), 2, Precision::Float32);
        for tower in &towers {
            let conv2 = Demand {
                params: 128 * 1200 + 128,
                mult_adds: 2 * 93_312 * 1200,
                bytes: 4 * (2 * (34_992 + 93_312) + 128 * 1200 + 128),
            };
            assert_eq!(demand(tower, "conv2"), conv2);
            let conv3 = Demand {
                params: 192 * 2304 + 192,
                mult_adds: 2 * 13 * 13 * 192 * 2304,
                bytes: 4 * (2 * 13 * 13 * (256 + 192) + 192 * 2304 + 192),
            };
            assert_eq!(demand(tower, "conv3"), conv3);
        }
        let whole = Plan::new(&network, 2, &[]).unwrap();
        let sum = |plan: &Plan| -> usize {
            plan.steps.iter().map(|step| Demand::of(&network, step, 2, Precision::Float32).mult_adds).sum()
        };
        assert_eq!(sum(&towers[0]) + sum(&towers[1]), sum(&whole));
    }

    #[test]
    fn the_slower_ceiling_is_the_bound() {
        let ceilings = |flops_per_sec, bytes_per_sec| Ceilings {
            flops_per_sec,
            product: String::new(),
            bytes_per_sec,
            copy: String::new(),
        };
        let demand = Demand { params: 0, mult_adds: 500, bytes: 200 };
        assert_eq!(demand.least_seconds(&ceilings(1000.0, 400.0)), (1.0, Bound::Compute));
        assert_eq!(demand.least_seconds(&ceilings(1000.0, 100.0)), (2.0, Bound::Memory));
    }
}

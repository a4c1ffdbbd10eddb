//! The first convolution on tensor cores: its three channels are too few for them, so that preprocessing lays blocks of
//! pixels out as the channels of one, and the filters follow. Free of CUDA.

use super::kernels::SPACE_TO_DEPTH_BLOCK;
use crate::net::{Conv, Network, Op, Shape};
use crate::options::Precision;
use crate::plan::{Plan, SpaceToDepth, Step, StepKind};

/// The rearranged first convolution of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    layout: SpaceToDepth,
    /// Of the convolution as the network has it.
    conv: Conv,
    input: Shape,
    output: Shape,
}

impl Depth {
    /// `None` without tensor cores, and for a network whose first layer is not a convolution in strides of a block.
    pub(super) fn of(network: &Network, precision: Precision) -> Option<Self> {
        if precision == Precision::Float32 {
            return None;
        }
        let node = network.nodes.first()?;
        let Op::Conv(conv) = node.layer.op else { return None };
        let fits = conv.groups == 1 && node.input.c == 3 && conv.stride == SPACE_TO_DEPTH_BLOCK;
        let layout = SpaceToDepth { block: conv.stride, padding: conv.padding };
        fits.then_some(Depth { layout, conv, input: node.input, output: node.output })
    }

    /// Blocks a filter's side.
    fn taps(&self) -> usize {
        self.conv.kernel.div_ceil(self.layout.block)
    }

    /// Values a block.
    fn channels(&self) -> usize {
        self.layout.block * self.layout.block * self.input.c
    }

    /// Values a filter.
    pub(super) fn gemm_k(&self) -> usize {
        self.taps() * self.taps() * self.channels()
    }

    /// One image's blocks, as many as the convolution's windows reach.
    fn shape(&self) -> Shape {
        let count = |outputs: usize| outputs + self.taps() - 1;
        Shape { h: count(self.output.h), w: count(self.output.w), c: self.channels() }
    }

    /// `plan` with this layout between its first two steps; `None` where its input is kept, which has the network's layout.
    fn lower(&self, plan: &Plan) -> Option<Plan> {
        let mut plan = plan.clone();
        let [first, second, ..] = &mut plan.steps[..] else { return None };
        let (StepKind::Preprocess { depth, .. }, StepKind::Conv { conv, .. }) = (&mut first.kind, &mut second.kind)
        else {
            return None;
        };
        if first.kept {
            return None;
        }
        *depth = Some(self.layout);
        (conv.kernel, conv.stride, conv.padding) = (self.taps(), 1, 0);
        (first.output, second.input) = (self.shape(), self.shape());
        let room = &mut plan.buffers[first.target];
        *room = (*room).max(self.shape().len());
        Some(plan)
    }

    /// Filters (K, R, S, 3) as (K, taps, taps, block * block * 3), zero where a block is larger than the filter.
    pub(super) fn filter(&self, filter: &[f32]) -> Vec<f32> {
        let (kernel, taps, block) = (self.conv.kernel, self.taps(), self.layout.block);
        let filters = filter.len() / (kernel * kernel * 3);
        let mut rearranged = vec![0.0; filters * taps * taps * self.channels()];
        for k in 0..filters {
            for (r, s) in (0..kernel).flat_map(|r| (0..kernel).map(move |s| (r, s))) {
                let from = ((k * kernel + r) * kernel + s) * 3;
                let block_index = (k * taps + r / block) * taps + s / block;
                let to = block_index * self.channels() + (r % block * block + s % block) * 3;
                rearranged[to..to + 3].copy_from_slice(&filter[from..from + 3]);
            }
        }
        rearranged
    }
}

/// `plan` as `depth` rearranges it, where it does.
pub(super) fn lowered(depth: Option<Depth>, plan: Plan) -> Plan {
    depth.and_then(|depth| depth.lower(&plan)).unwrap_or(plan)
}

/// Values (N, H, W, 3) in the layout that `step`, a preprocessing step, gives to `images` images.
pub(super) fn arrange(step: &Step, layout: SpaceToDepth, values: &[f32]) -> Vec<f32> {
    let (from, to) = (step.input, step.output);
    let SpaceToDepth { block, padding } = layout;
    let mut arranged = vec![0.0; values.len() / from.len() * to.len()];
    for (image, target) in values.chunks_exact(from.len()).zip(arranged.chunks_exact_mut(to.len())) {
        for (h, w) in (0..from.h).flat_map(|h| (0..from.w).map(move |w| (h, w))) {
            let (row, column) = (h + padding, w + padding);
            // Pixels that no window reaches have no place.
            if row / block < to.h && column / block < to.w {
                let at = (row / block * to.w + column / block) * to.c + (row % block * block + column % block) * 3;
                target[at..at + 3].copy_from_slice(&image[(h * from.w + w) * 3..][..3]);
            }
        }
    }
    arranged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::naive;
    use crate::net::VARIANTS;
    use crate::weights::LayerWeights;

    /// The rearranged convolution of the rearranged input is the convolution: exactly, on small integers.
    #[test]
    fn rearranged_operands_give_the_same_sums() {
        for variant in &VARIANTS {
            let widths = [2, 1, 1, 1, 1, 1, 1, 1].map(|w| 2 * w);
            let network = Network::with_widths(variant, &widths, variant.input_size).unwrap();
            let depth = Depth::of(&network, Precision::Float16).unwrap();
            let plan = Plan::new(&network, 1, &[]).unwrap();
            let lowered = depth.lower(&plan).unwrap();
            let (first, second) = (&lowered.steps[0], &lowered.steps[1]);
            let StepKind::Conv { conv, .. } = second.kind else { unreachable!() };
            let StepKind::Preprocess { depth: Some(layout), .. } = first.kind else { unreachable!() };
            assert_eq!((second.input, second.output), (first.output, plan.steps[1].output));
            assert_eq!(first.output.c % 8, 0);

            let integers = |count: usize, step: usize| (0..count).map(move |i| ((i * step) % 7) as f32 - 3.0);
            let values: Vec<f32> = integers(first.input.len(), 5).collect();
            let filters = second.output.c;
            // (K, R, S, C) as kernels read them, and (K, C, R, S) as the oracle does.
            let filter: Vec<f32> = integers(filters * depth.conv.kernel.pow(2) * 3, 3).collect();
            let sums = |conv: &Conv, input: Shape, filter: &[f32], values: &[f32]| {
                let nchw = |shape: Shape, values: &[f32]| -> Vec<f64> {
                    let at = |c: usize, i: usize| f64::from(values[i * shape.c + c]);
                    (0..shape.c).flat_map(|c| (0..shape.h * shape.w).map(move |i| at(c, i))).collect()
                };
                let tap = Shape { h: conv.kernel, w: conv.kernel, c: input.c };
                let weight = filter.chunks_exact(tap.len()).flat_map(|f| nchw(tap, f)).map(|v| v as f32).collect();
                let weights = LayerWeights { weight, bias: vec![0.0; filters] };
                naive::convolve(conv, &weights, input, second.output, &nchw(input, values))
            };
            let expected = sums(&depth.conv, first.input, &filter, &values);
            let found = sums(&conv, second.input, &depth.filter(&filter), &arrange(first, layout, &values));
            assert!(found == expected, "{}", variant.name);
        }
    }

    #[test]
    fn a_kept_input_keeps_its_layout() {
        let network = Network::published(&VARIANTS[0], 10).unwrap();
        let depth = Depth::of(&network, Precision::Float16).unwrap();
        assert!(depth.lower(&Plan::new(&network, 1, &["input"]).unwrap()).is_none());
        assert!(depth.lower(&Plan::new(&network, 1, &["conv1"]).unwrap()).is_some());
    }
}

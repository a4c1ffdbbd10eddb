//! A network and a batch size, turned into fused steps over a few buffers. Pure data: every backend runs the same plan.

use crate::net::{Conv, Lrn, Network, Op, Pool, Preprocess, Shape};
use crate::split::Half;
use crate::{Error, Result};

/// Fused steps for up to `batch` images, and the buffers they work in.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Largest number of images in one run.
    pub batch: usize,
    /// Shape of one input image.
    pub input: Shape,
    /// Steps in order; each reads the output of the one before it.
    pub steps: Vec<Step>,
    /// Elements per image of each buffer.
    pub buffers: Vec<usize>,
}

/// One kernel's worth of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Layers computed by this step; any of the names asks for its output, the value after the last of them.
    pub layers: Vec<&'static str>,
    /// What to compute.
    pub kind: StepKind,
    /// One image's input.
    pub input: Shape,
    /// One image's output.
    pub output: Shape,
    /// Buffer read; `None` for the input itself.
    pub source: Option<usize>,
    /// Buffer written.
    pub target: usize,
    /// True when the output must outlive the run, because it was asked for.
    pub kept: bool,
    /// True for the last step, whose output is the logits.
    pub logits: bool,
    /// Which half of a step of the whole network this is, in a tower's plan.
    pub half: Option<Box<Half>>,
}

/// What a [`Step`] computes. `weights` counts the weighted layers from conv1 = 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StepKind {
    /// uint8 RGB pixels to the network input.
    Preprocess {
        /// The values.
        preprocess: Preprocess,
        /// Another layout, where a device has asked for it: the output's shape is then that of the blocks.
        depth: Option<SpaceToDepth>,
    },
    /// Convolution + bias, + ReLU.
    Conv {
        /// Geometry and groups; the width is `output.c`.
        conv: Conv,
        /// Index of the layer's weights.
        weights: usize,
        /// Whether negative outputs become zero.
        relu: bool,
        /// One image's output before the 3x3 max pool of stride 2 that a device has fused, where it has.
        unpooled: Option<Shape>,
    },
    /// Fully connected layer + bias, + ReLU; its input is flattened in (H, W, C) order.
    Linear {
        /// Index of the layer's weights.
        weights: usize,
        /// Whether negative outputs become zero.
        relu: bool,
    },
    /// Local response normalisation.
    Lrn(Lrn),
    /// Max pool.
    MaxPool(Pool),
    /// Local response normalisation and the 3x3 max pool of stride 2 after it, where a device has fused them.
    LrnMaxPool(Lrn),
    /// The same pool and the local response normalisation after it, likewise.
    MaxPoolLrn(Lrn),
    /// Adaptive average pool to the output's size.
    AvgPool,
    /// Inverted dropout, in training plans.
    Dropout {
        /// Probability of zeroing an element.
        p: f32,
        /// Position of the layer in the network: layers draw different masks.
        layer: u32,
    },
}

/// Blocks of pixels laid out as the channels of one, (block row, block column, channel): a convolution with a stride of the
/// block's side becomes one with stride 1 and channels that tensor cores can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceToDepth {
    /// Pixels a block's side, the stride of the convolution that follows.
    pub block: usize,
    /// Zeros before the first row and column, the padding of the convolution that follows.
    pub padding: usize,
}

impl StepKind {
    /// A word for it, the same for those that are fused.
    pub fn name(&self) -> &'static str {
        match self {
            StepKind::Preprocess { .. } => "preprocess",
            StepKind::Conv { .. } => "conv",
            StepKind::Linear { .. } => "linear",
            StepKind::Lrn(_) | StepKind::LrnMaxPool(_) | StepKind::MaxPoolLrn(_) => "lrn",
            StepKind::MaxPool(_) | StepKind::AvgPool => "pool",
            StepKind::Dropout { .. } => "dropout",
        }
    }
}

impl Step {
    /// Its layers' names, `conv1 + relu1`.
    pub fn name(&self) -> String {
        self.layers.join(" + ")
    }

    /// Index of the weights that it takes, if any.
    pub fn weights(&self) -> Option<usize> {
        match self.kind {
            StepKind::Conv { weights, .. } | StepKind::Linear { weights, .. } => Some(weights),
            _ => None,
        }
    }

    /// One image's output, before a pool that a device has fused with the convolution.
    pub fn unpooled(&self) -> Shape {
        match self.kind {
            StepKind::Conv { unpooled: Some(shape), .. } => shape,
            _ => self.output,
        }
    }
}

impl Plan {
    /// The inference plan of `network` for up to `batch` images, keeping the outputs of the layers named in `keep`.
    ///
    /// Dropout is the identity and takes no step, nor does an adaptive pool whose input has its output's size. A name in
    /// `keep` may be any layer of the network or `input`, the preprocessed input; `conv1` and `relu1` are one step and
    /// give the same values, those after the ReLU.
    ///
    /// # Errors
    /// [`Error::Usage`] when `batch` is 0 or `keep` has a name that the network lacks.
    pub fn new(network: &Network, batch: usize, keep: &[&str]) -> Result<Self> {
        Self::with_steps(network, batch, keep, fuse(network, false))
    }

    /// As [`new`](Self::new), with dropout: the forward pass of training. Masks follow from the session's seed.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn train(network: &Network, batch: usize, keep: &[&str]) -> Result<Self> {
        Self::with_steps(network, batch, keep, fuse(network, true))
    }

    fn with_steps(network: &Network, batch: usize, keep: &[&str], mut steps: Vec<Step>) -> Result<Self> {
        if batch == 0 {
            return Err(Error::Usage("a batch needs at least one image".into()));
        }
        for name in keep {
            let step = steps.iter_mut().find(|s| s.layers.contains(name));
            step.ok_or_else(|| unknown_layer(network, name))?.kept = true;
        }
        let buffers = assign_buffers(&mut steps);
        Ok(Plan { batch, input: network.input(), steps, buffers })
    }

    /// Checks what backends rely on: steps form a chain over buffers that are large enough, whose last one alone gives the
    /// logits, and read weights that `network` has, in shapes that fit; nothing else is written where a kept output is; LRN has
    /// the one exponent that kernels have, 0.75.
    /// Plans made by this type pass for their network; their fields are public.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first step that does not fit.
    pub fn check(&self, network: &Network) -> Result<()> {
        let parameters: Vec<_> = network.parameters().collect();
        let mut shape = network.input();
        let mut source = None;
        let bytes = self
            .buffers
            .iter()
            .chain([&self.input.len()])
            .max()
            .and_then(|e| e.checked_mul(self.batch)?.checked_mul(4));
        if self.input != shape
            || self.batch == 0
            || self.steps.is_empty()
            || bytes.is_none_or(|b| b > isize::MAX as usize)
        {
            return Err(Error::Usage(format!(
                "a plan for {} images of {} does not fit {shape}",
                self.batch, self.input
            )));
        }
        for step in &self.steps {
            let room = self.buffers.get(step.target).is_some_and(|&elements| elements >= step.output.len());
            let first = matches!(step.kind, StepKind::Preprocess { .. });
            let linked = step.input == shape && step.source == source && source.is_none() == first;
            let ends = step.logits == std::ptr::eq(step, self.logits());
            // Halves are made from a plan that was checked.
            let chained = linked && source != Some(step.target) && room && ends && step.half.is_none();
            let writers = self.steps.iter().filter(|other| other.target == step.target).count();
            let lasts = !step.kept || writers == 1;
            let weight_fits =
                |index: usize, expected: &[usize]| parameters.get(index).is_some_and(|p| p.weight_shape == expected);
            let (from, to) = (step.input, step.output);
            let windows = |kernel: usize, stride: usize, padding: usize| {
                let fits = |size: usize, count: usize| count > 0 && (count - 1) * stride + kernel <= size + 2 * padding;
                stride > 0 && fits(from.h, to.h) && fits(from.w, to.w)
            };
            let fits = match step.kind {
                StepKind::Preprocess { depth, .. } => from == to && depth.is_none(),
                StepKind::Conv { conv, weights, unpooled, .. } => {
                    unpooled.is_none()
                        && conv.groups > 0
                        && from.c % conv.groups == 0
                        && to.c % conv.groups == 0
                        && windows(conv.kernel, conv.stride, conv.padding)
                        && weight_fits(weights, &[to.c, from.c / conv.groups, conv.kernel, conv.kernel])
                }
                StepKind::Linear { weights, .. } => (to.h, to.w) == (1, 1) && weight_fits(weights, &[to.c, from.len()]),
                StepKind::MaxPool(pool) => from.c == to.c && windows(pool.kernel, pool.stride, 0),
                StepKind::AvgPool => from.c == to.c && !to.is_empty(),
                StepKind::Lrn(lrn) => {
                    from == to
                        && from.c % lrn.scope.towers() == 0
                        && lrn.beta == LRN_BETA
                        && (1..=MAX_LRN_SIZE).contains(&lrn.size)
                }
                StepKind::Dropout { .. } => from == to,
                // A device's own, made from a plan that was checked.
                StepKind::LrnMaxPool(..) | StepKind::MaxPoolLrn(..) => false,
            };
            if !chained || !lasts || !fits {
                return Err(Error::Usage(format!("a plan's step does not fit its network: {step:?}")));
            }
            (shape, source) = (to, Some(step.target));
        }
        Ok(())
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.logits().output.c
    }

    /// The last step, whose output is the logits.
    pub fn logits(&self) -> &Step {
        self.steps.last().expect("a plan has steps")
    }

    /// The step that computes layer `name` and whose output was kept.
    ///
    /// # Errors
    /// [`Error::Usage`] when the plan does not keep it.
    pub fn kept(&self, name: &str) -> Result<&Step> {
        let step = self.steps.iter().find(|s| s.kept && s.layers.contains(&name));
        step.ok_or_else(|| Error::Usage(format!("the plan was made without keeping '{name}'")))
    }
}

/// Channels that LRN may sum over: more than any network does, few enough to count in any type.
const MAX_LRN_SIZE: usize = 1 << 12;

/// LRN's exponent, the same in all variants: kernels take it with square roots instead of a power.
pub(crate) const LRN_BETA: f64 = 0.75;

/// Dropout's mask: an element whose random word is below the first number is dropped, the others are multiplied by the
/// second, 1 / (1 - p). Every backend takes both from here, so that masks and values agree to the bit.
pub(crate) fn dropout_mask(p: f32) -> (u32, f32) {
    ((f64::from(p) * 2f64.powi(32)) as u32, 1.0 / (1.0 - p))
}

/// Layers to steps: conv + ReLU and linear + ReLU are one each; only training has dropout.
fn fuse(network: &Network, training: bool) -> Vec<Step> {
    let input = network.input();
    let step = |name, kind, input, output| Step {
        layers: vec![name],
        kind,
        input,
        output,
        source: None,
        target: 0,
        kept: false,
        logits: false,
        half: None,
    };
    let preprocess = StepKind::Preprocess { preprocess: network.variant.preprocess, depth: None };
    let mut steps = vec![step("input", preprocess, input, input)];
    let mut weights = 0;
    for (layer, node) in network.nodes.iter().enumerate() {
        let kind = match node.layer.op {
            Op::Conv(conv) => StepKind::Conv { conv, weights, relu: false, unpooled: None },
            Op::Linear { .. } => StepKind::Linear { weights, relu: false },
            Op::Lrn(lrn) => StepKind::Lrn(lrn),
            Op::MaxPool(pool) => StepKind::MaxPool(pool),
            Op::Dropout { p } if training => StepKind::Dropout { p, layer: layer as u32 },
            Op::AdaptiveAvgPool { .. } if node.input != node.output => StepKind::AvgPool,
            Op::Relu | Op::Dropout { .. } | Op::AdaptiveAvgPool { .. } => {
                let last = steps.last_mut().expect("the input step is there");
                last.layers.push(node.layer.name);
                if node.layer.op == Op::Relu {
                    let (StepKind::Conv { relu, .. } | StepKind::Linear { relu, .. }) = &mut last.kind else {
                        unreachable!("every ReLU of the six variants follows a weighted layer")
                    };
                    *relu = true;
                }
                continue;
            }
        };
        weights += usize::from(matches!(kind, StepKind::Conv { .. } | StepKind::Linear { .. }));
        steps.push(step(node.layer.name, kind, node.input, node.output));
    }
    steps.last_mut().expect("the input step is there").logits = true;
    steps
}

/// Gives kept steps buffers of their own, and all others the first of two that its source does not occupy.
pub(crate) fn assign_buffers(steps: &mut [Step]) -> Vec<usize> {
    let mut buffers = vec![0, 0];
    let mut source = None;
    for step in steps {
        step.source = source;
        step.target = if step.kept {
            buffers.push(0);
            buffers.len() - 1
        } else {
            usize::from(source == Some(0))
        };
        buffers[step.target] = buffers[step.target].max(step.output.len());
        source = Some(step.target);
    }
    buffers
}

fn unknown_layer(network: &Network, name: &str) -> Error {
    let names: Vec<_> = network.nodes.iter().map(|n| n.layer.name).collect();
    Error::Usage(format!("{} has no layer '{name}'; it has input, {}", network.variant.name, names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::VARIANTS;

    #[test]
    fn steps_form_a_chain_over_disjoint_buffers() {
        for variant in &VARIANTS {
            let network = Network::published(variant, 1000).unwrap();
            let plan = Plan::new(&network, 8, &["pool1", "relu3", "fc7"]).unwrap();
            let mut shape = plan.input;
            let mut source = None;
            for step in &plan.steps {
                assert_eq!((step.input, step.source), (shape, source), "{}: {step:?}", variant.name);
                assert_ne!(step.source, Some(step.target), "in place: {step:?}");
                assert!(step.output.len() <= plan.buffers[step.target]);
                (shape, source) = (step.output, Some(step.target));
            }
            for name in ["pool1", "relu3", "fc7"] {
                let target = plan.kept(name).unwrap().target;
                assert_eq!(plan.steps.iter().filter(|s| s.target == target).count(), 1, "{name} is overwritten");
            }
            assert_eq!(plan.classes(), 1000);
        }
    }

    #[test]
    fn both_names_of_a_fused_step_reach_it() {
        let network = Network::published(&VARIANTS[0], 10).unwrap();
        let plan = Plan::new(&network, 1, &["fc6"]).unwrap();
        assert_eq!(plan.kept("relu6").unwrap(), plan.kept("fc6").unwrap());
        assert!(matches!(plan.kept("fc7"), Err(Error::Usage(_))));
        let error = Plan::new(&network, 1, &["norm1"]).unwrap_err().to_string();
        assert!(error.contains("norm1") && error.contains("pool1"), "{error}");
    }

    #[test]
    fn the_adaptive_pool_is_a_step_only_where_it_changes_something() {
        let widths = VARIANTS[0].widths();
        let has_pool = |size| {
            let network = Network::with_widths(&VARIANTS[0], &widths, size).unwrap();
            let plan = Plan::new(&network, 1, &["avgpool"]).unwrap();
            plan.steps.iter().any(|s| s.kind == StepKind::AvgPool)
        };
        assert_eq!((has_pool(224), has_pool(320)), (false, true));
    }
}

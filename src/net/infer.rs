//! Shape inference: a variant, the widths that a checkpoint has, and an input size give every layer's shapes.

use std::collections::BTreeMap;
use std::fmt;

use super::{Layer, LrnScope, Op, Variant};
use crate::{Error, Result};

/// Largest input side: activations beyond it would need gigabytes an image.
const MAX_INPUT_SIZE: usize = 1024;

/// A variant with widths and input size: every layer's input and output shape.
#[derive(Debug, Clone)]
pub struct Network {
    /// The description this network follows.
    pub variant: &'static Variant,
    /// Side of the square input in pixels.
    pub input_size: usize,
    /// All layers, in order.
    pub nodes: Vec<Node>,
}

/// A layer with its shapes.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// The layer of the description. Its published widths need not be this network's.
    pub layer: &'static Layer,
    /// Shape of one image's input to this layer.
    pub input: Shape,
    /// Shape of one image's output.
    pub output: Shape,
}

/// Height, width and channels of one image's activation; a vector is 1 x 1 x C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Channels or features.
    pub c: usize,
}

impl Shape {
    /// Elements in one image's activation.
    pub fn len(self) -> usize {
        self.h * self.w * self.c
    }

    /// True for a shape without elements, which no layer of a valid network has.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    fn vector(c: usize) -> Self {
        Shape { h: 1, w: 1, c }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape { h: 1, w: 1, c } => write!(f, "{c}"),
            Shape { h, w, c } => write!(f, "{h}x{w}x{c}"),
        }
    }
}

/// Name and shapes of a weighted layer's two tensors, in PyTorch's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Layer name, `conv1` to `fc8`.
    pub layer: &'static str,
    /// Module path: tensors are `{module}.weight` and `{module}.bias`.
    pub module: &'static str,
    /// (K, C / groups, R, S) for a convolution, (out, in) for a fully connected layer.
    pub weight_shape: Vec<usize>,
}

impl Parameter {
    /// Name of the weight tensor.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.module)
    }

    /// Name of the bias tensor, of shape (K).
    pub fn bias(&self) -> String {
        format!("{}.bias", self.module)
    }

    /// Inputs that feed one output: C / groups * R * S.
    pub fn fan_in(&self) -> usize {
        self.weight_shape[1..].iter().product()
    }

    /// PyTorch's fan-out: K * R * S.
    pub fn fan_out(&self) -> usize {
        self.weight_shape[0] * self.weight_shape[2..].iter().product::<usize>()
    }

    /// Elements of weight and bias.
    pub fn len(&self) -> usize {
        self.weight_shape[0] * (self.fan_in() + 1)
    }

    /// True for a layer without elements, which no valid network has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Network {
    /// The variant at its published widths with `classes` outputs, at its own input size.
    ///
    /// # Errors
    /// [`Error::Usage`] when `classes` is 0.
    pub fn published(variant: &'static Variant, classes: usize) -> Result<Self> {
        let mut widths = variant.widths();
        widths[7] = classes;
        Self::with_widths(variant, &widths, variant.input_size)
    }

    /// The variant with the given widths of conv1 to conv5 and fc6 to fc8.
    ///
    /// # Errors
    /// [`Error::Usage`] when a width is 0 or does not divide into the variant's groups or towers, or when the variant
    /// does not take `input_size`.
    pub fn with_widths(variant: &'static Variant, widths: &[usize; 8], input_size: usize) -> Result<Self> {
        check_input_size(variant, input_size)?;
        let mut remaining = widths.iter();
        let mut shape = Shape { h: input_size, w: input_size, c: 3 };
        let mut nodes = Vec::with_capacity(variant.layers.len());
        for layer in variant.layers {
            let input = shape;
            shape = match layer.op {
                Op::Conv(conv) => {
                    let c = *remaining.next().expect("eight weighted layers");
                    let side = window_count(input.h + 2 * conv.padding, conv.kernel, conv.stride);
                    let side = side.ok_or_else(|| too_small(variant, input_size))?;
                    for (what, channels) in [("input", input.c), ("output", c)] {
                        if channels == 0 || channels % conv.groups != 0 {
                            return Err(Error::Usage(format!(
                                "{}: {channels} {what} channels do not divide into {} groups",
                                layer.name, conv.groups
                            )));
                        }
                    }
                    Shape { h: side, w: side, c }
                }
                Op::MaxPool(pool) => {
                    let side = window_count(input.h, pool.kernel, pool.stride);
                    let side = side.ok_or_else(|| too_small(variant, input_size))?;
                    Shape { h: side, w: side, c: input.c }
                }
                Op::Lrn(lrn) if !input.c.is_multiple_of(lrn.scope.towers()) => {
                    return Err(Error::Usage(format!(
                        "{}: {} channels do not divide into two towers",
                        layer.name, input.c
                    )));
                }
                Op::AdaptiveAvgPool { output } => Shape { h: output, w: output, c: input.c },
                Op::Linear { .. } => match *remaining.next().expect("eight weighted layers") {
                    0 => return Err(Error::Usage(format!("{}: a layer needs at least one output", layer.name))),
                    c => Shape::vector(c),
                },
                Op::Relu | Op::Lrn(_) | Op::Dropout { .. } => input,
            };
            nodes.push(Node { layer, input, output: shape });
        }
        Ok(Network { variant, input_size, nodes })
    }

    /// The network that tensors of these names and shapes make, at `input_size`.
    ///
    /// # Errors
    /// The outer error is [`Error::Usage`] for an input size the variant does not take. The inner one lists every
    /// tensor that cannot fit, as `tensor: expected ..., found ...`.
    pub fn infer(
        variant: &'static Variant,
        shapes: &BTreeMap<&str, &[usize]>,
        input_size: usize,
    ) -> Result<Result<Self, Vec<String>>> {
        check_input_size(variant, input_size)?;
        let mut problems = Vec::new();
        let widths = infer_widths(variant, shapes, &mut problems);
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        Self::with_widths(variant, &widths, input_size).map(Ok)
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.nodes.last().expect("a variant has layers").output.c
    }

    /// The input's shape: `input_size` x `input_size` x 3.
    pub fn input(&self) -> Shape {
        self.nodes[0].input
    }

    /// Widths of conv1 to conv5 and fc6 to fc8.
    pub fn widths(&self) -> [usize; 8] {
        let mut widths = [0; 8];
        for (width, parameter) in widths.iter_mut().zip(self.parameters()) {
            *width = parameter.weight_shape[0];
        }
        widths
    }

    /// The layers with weights, in order.
    pub fn weighted(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.weight_shape().is_some())
    }

    /// The weighted layers' tensors, in order.
    pub fn parameters(&self) -> impl Iterator<Item = Parameter> {
        self.nodes.iter().filter_map(|node| Some((node, node.weight_shape()?))).map(|(node, weight_shape)| Parameter {
            layer: node.layer.name,
            module: node.layer.module,
            weight_shape,
        })
    }
}

impl Node {
    /// Shape of this layer's weight tensor in PyTorch's layout, if it has one.
    pub fn weight_shape(&self) -> Option<Vec<usize>> {
        match self.layer.op {
            Op::Conv(conv) => Some(vec![self.output.c, self.input.c / conv.groups, conv.kernel, conv.kernel]),
            Op::Linear { .. } => Some(vec![self.output.c, self.input.len()]),
            _ => None,
        }
    }
}

fn check_input_size(variant: &'static Variant, input_size: usize) -> Result<()> {
    if input_size == variant.input_size {
        return Ok(());
    }
    if !variant.is_resizable() {
        return Err(Error::Usage(format!(
            "{} takes {}x{} input only: its fc6 is tied to that size (torchvision alone has an adaptive pool); \
             leave out --input-size",
            variant.name, variant.input_size, variant.input_size
        )));
    }
    if input_size > MAX_INPUT_SIZE {
        return Err(Error::Usage(format!("--input-size {input_size} is too large; the largest is {MAX_INPUT_SIZE}")));
    }
    Ok(())
}

fn too_small(variant: &Variant, input_size: usize) -> Error {
    Error::Usage(format!(
        "--input-size {input_size} is too small for {}: a layer would have no output; 63 is the least",
        variant.name
    ))
}

/// Windows of `kernel` at `stride` that fit into `size`.
pub(super) fn window_count(size: usize, kernel: usize, stride: usize) -> Option<usize> {
    Some(size.checked_sub(kernel)? / stride + 1)
}

/// Side of fc6's input window at the variant's own input size; an adaptive pool keeps it for every other size.
fn flattened_side(variant: &'static Variant) -> usize {
    let published = Network::published(variant, 1).expect("published widths are consistent");
    let fc6 = published.nodes.iter().find(|n| matches!(n.layer.op, Op::Linear { .. }));
    fc6.expect("a variant has fully connected layers").input.h
}

/// Widths as the tensors have them; what cannot fit goes to `problems`, and inference goes on from what was found.
fn infer_widths(
    variant: &'static Variant,
    shapes: &BTreeMap<&str, &[usize]>,
    problems: &mut Vec<String>,
) -> [usize; 8] {
    let mut widths = variant.widths();
    let mut known = vec![];
    let mut channels = 3;
    let mut side = Some(flattened_side(variant)); // taken by the first fully connected layer
    let mut index = 0;
    for layer in variant.layers {
        // Everything of the expected weight shape but its first extent, the width, which the checkpoint chooses.
        let (tail, divisor) = match layer.op {
            Op::Conv(conv) => (vec![channels / conv.groups, conv.kernel, conv.kernel], conv.groups),
            Op::Linear { .. } => (vec![side.take().map_or(channels, |s| channels * s * s)], 1),
            Op::Lrn(lrn) if lrn.scope == LrnScope::Tower && channels % 2 != 0 => {
                problems.push(format!(
                    "{}: expected an even number of channels (two towers), found {channels}",
                    layer.name
                ));
                continue;
            }
            _ => continue,
        };
        let (weight, bias) = (format!("{}.weight", layer.module), format!("{}.bias", layer.module));
        let (weight_shape, bias_shape) = (shapes.get(weight.as_str()), shapes.get(bias.as_str()));
        if channels % divisor != 0 {
            problems.push(format!("{weight}: expected {divisor} groups of input channels, found {channels} channels"));
        }
        let width = weight_shape.and_then(|s| s.first()).or(bias_shape.and_then(|s| s.first())).copied();
        let width = width.unwrap_or(widths[index]);
        if width == 0 || width % divisor != 0 {
            problems
                .push(format!("{weight}: expected a positive multiple of {divisor} output channels, found {width}"));
        }
        match weight_shape {
            Some(found) if found.len() == tail.len() + 1 && found[1..] == tail => {}
            found => problems.push(mismatch(&weight, None, &tail, found)),
        }
        match bias_shape {
            Some([found]) if *found == width => {}
            found => problems.push(mismatch(&bias, Some(width), &[], found)),
        }
        known.extend([weight, bias]);
        widths[index] = width;
        channels = width;
        index += 1;
    }
    for (name, shape) in shapes {
        if !known.iter().any(|k| k == name) {
            problems.push(format!("{name}: expected no such tensor in {}, found {shape:?}", variant.name));
        }
    }
    widths
}

/// `tensor: expected [N, 64, 5, 5], found [192, 48, 5, 5]`; a width that the checkpoint may choose prints as N.
fn mismatch(tensor: &str, width: Option<usize>, tail: &[usize], found: Option<&&[usize]>) -> String {
    let width = width.map_or("N".to_string(), |w| w.to_string());
    let expected: Vec<_> = std::iter::once(width).chain(tail.iter().map(ToString::to_string)).collect();
    let expected = expected.join(", ");
    match found {
        Some(found) => format!("{tensor}: expected [{expected}], found {found:?}"),
        None => format!("{tensor}: expected [{expected}], found no such tensor"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::VARIANTS;

    #[test]
    fn parameter_counts_of_the_published_networks() {
        let counts = VARIANTS
            .each_ref()
            .map(|v| Network::published(v, 1000).unwrap().parameters().map(|p| p.len()).sum::<usize>());
        // torchvision's own documentation; paper, caffe, caffenet and the others as recorded with the goldens.
        assert_eq!(counts[0], 61_100_840);
        assert_eq!(counts[3..], [60_965_224; 3]);
    }

    #[test]
    fn input_sizes() {
        let torchvision = Variant::by_name("torchvision").unwrap();
        let widths = torchvision.widths();
        for size in [63, 127, 224, 227, 512, 1024] {
            assert_eq!(Network::with_widths(torchvision, &widths, size).unwrap().classes(), 1000, "{size}");
        }
        for size in [0, 1, 62, 1025, usize::MAX] {
            assert!(matches!(Network::with_widths(torchvision, &widths, size), Err(Error::Usage(_))), "{size}");
        }
        let paper = Variant::by_name("paper").unwrap();
        assert!(matches!(Network::with_widths(paper, &paper.widths(), 224), Err(Error::Usage(_))));
    }

    #[test]
    fn every_mismatch_is_listed() {
        let paper = Variant::by_name("paper").unwrap();
        let mut owned: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for parameter in Network::published(paper, 10).unwrap().parameters() {
            owned.insert(parameter.bias(), vec![parameter.weight_shape[0]]);
            owned.insert(parameter.weight(), parameter.weight_shape);
        }
        owned.remove("conv3.bias");
        owned.insert("conv2.weight".into(), vec![256, 96, 5, 5]); // ungrouped
        owned.insert("fc1.weight".into(), vec![4096, 9217]);
        owned.insert("extra".into(), vec![1]);
        let shapes = owned.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        let problems = Network::infer(paper, &shapes, 227).unwrap().unwrap_err();
        assert_eq!(
            problems,
            [
                "conv2.weight: expected [N, 48, 5, 5], found [256, 96, 5, 5]",
                "conv3.bias: expected [384], found no such tensor",
                "fc1.weight: expected [N, 9216], found [4096, 9217]",
                "extra: expected no such tensor in paper, found [1]",
            ]
        );
    }
}

//! Networks as data: six AlexNets, each one constant description, and the shapes that a checkpoint gives them.
//!
//! [`Variant`] is the description (layers, constants, preprocessing); [`Network`] is a variant with widths and an input
//! size, every layer's shapes worked out. The printed network, the plan and the initialiser all read these two.

mod infer;
pub mod init;
mod print;
mod summary;
mod variants;

pub use infer::{Network, Node, Parameter, Shape};
pub use summary::{Summary, SummaryRow};
pub use variants::VARIANTS;

use crate::{Error, Result};

/// One of the six networks, as data. Compare by [`name`](Variant::name).
#[derive(Debug)]
pub struct Variant {
    /// The name on the command line and in metadata.
    pub name: &'static str,
    /// Side of the square input in pixels.
    pub input_size: usize,
    /// From uint8 pixels to the network's input.
    pub preprocess: Preprocess,
    /// Layers in order. Flattening to (C, H, W) order happens before the first [`Op::Linear`].
    pub layers: &'static [Layer],
    /// Class name of the PyTorch module with this printed form, where there is one.
    pub torch_class: Option<&'static str>,
}

/// A layer: its name in results, the module path its tensors are stored under, and what it does.
#[derive(Debug)]
pub struct Layer {
    /// `conv1`, `relu1`, `pool1`, `norm1`, `fc6`, ...: the name that [`activations`](crate::Model::activations) takes.
    pub name: &'static str,
    /// PyTorch module path; tensors are `{module}.weight` and `{module}.bias`. Empty where PyTorch has no module.
    pub module: &'static str,
    /// The operation.
    pub op: Op,
}

/// What a layer does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Square convolution with bias.
    Conv(Conv),
    /// max(x, 0); a NaN stays a NaN.
    Relu,
    /// Local response normalisation across channels.
    Lrn(Lrn),
    /// Square max pool without padding, output size rounded down.
    MaxPool(Pool),
    /// Average over `output` x `output` windows that cover the input, PyTorch's `AdaptiveAvgPool2d`.
    AdaptiveAvgPool {
        /// Output height and width.
        output: usize,
    },
    /// Inverted dropout; the identity in inference.
    Dropout {
        /// Probability of zeroing an element.
        p: f32,
    },
    /// Fully connected layer with bias.
    Linear {
        /// Published width; the last layer's is the class count.
        out_features: usize,
    },
}

/// A convolution's published width and geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Published number of filters; a checkpoint may have fewer or more.
    pub out_channels: usize,
    /// Kernel side.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Zero padding on all four sides.
    pub padding: usize,
    /// Channel groups: 2 where the paper's towers do not see each other.
    pub groups: usize,
}

/// LRN: `a / (k + alpha / size * sum of a^2 over size adjacent channels)^beta`; missing channels count as zero.
///
/// Dividing alpha by the window is the convention of PyTorch, Caffe and the authors' released source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lrn {
    /// Window in channels, centred.
    pub size: usize,
    /// Scale of the mean square.
    pub alpha: f64,
    /// Exponent.
    pub beta: f64,
    /// Added constant.
    pub k: f64,
    /// How far the window reaches.
    pub scope: LrnScope,
}

/// Which channels an LRN window may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LrnScope {
    /// The window stops at the border between the two halves of the channels: one LRN per GPU, as in 2012.
    Tower,
    /// The window runs over all channels.
    All,
}

impl LrnScope {
    /// Number of equal channel ranges that the windows stay within.
    pub fn towers(self) -> usize {
        match self {
            LrnScope::Tower => 2,
            LrnScope::All => 1,
        }
    }
}

/// A max pool's geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Window side.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
}

/// `input = (pixel / divisor - mean) / std`, computed in f32 in this order, per channel of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocess {
    /// Order of the network's input channels; pixels are always RGB.
    pub order: ChannelOrder,
    /// 255 where pixels are scaled to 0..1 first, else 1.
    pub divisor: f32,
    /// Per network channel.
    pub mean: [f32; 3],
    /// Per network channel.
    pub std: [f32; 3],
}

/// Order of colour channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Red first, PyTorch's.
    Rgb,
    /// Blue first, Caffe's.
    Bgr,
}

impl Pool {
    /// Shape of the pooled `input`; `None` where no window fits.
    pub fn output(&self, input: Shape) -> Option<Shape> {
        let count = |size| infer::window_count(size, self.kernel, self.stride);
        Some(Shape { h: count(input.h)?, w: count(input.w)?, c: input.c })
    }
}

impl Preprocess {
    /// The network input for RGB pixel value `value` in network channel `channel`.
    pub fn apply(&self, value: u8, channel: usize) -> f32 {
        (f32::from(value) / self.divisor - self.mean[channel]) / self.std[channel]
    }

    /// Index of the RGB component that feeds network channel `channel`.
    pub fn source(&self, channel: usize) -> usize {
        match self.order {
            ChannelOrder::Rgb => channel,
            ChannelOrder::Bgr => 2 - channel,
        }
    }
}

impl Variant {
    /// The variant called `name`.
    ///
    /// # Errors
    /// [`Error::Usage`] listing the six names.
    pub fn by_name(name: &str) -> Result<&'static Variant> {
        VARIANTS.iter().find(|v| v.name == name).ok_or_else(|| {
            let names: Vec<_> = VARIANTS.iter().map(|v| v.name).collect();
            Error::Usage(format!("no variant is called '{name}'; the six are {}", names.join(", ")))
        })
    }

    /// True where the network takes other input sizes than [`input_size`](Self::input_size): an adaptive pool stands
    /// before its first fully connected layer.
    pub fn is_resizable(&self) -> bool {
        self.layers.iter().any(|l| matches!(l.op, Op::AdaptiveAvgPool { .. }))
    }

    /// Layers with weights, in order: conv1 to conv5, fc6 to fc8.
    pub fn weighted(&self) -> impl Iterator<Item = &'static Layer> {
        self.layers.iter().filter(|l| matches!(l.op, Op::Conv(_) | Op::Linear { .. }))
    }

    /// Published widths of the weighted layers.
    pub fn widths(&self) -> [usize; 8] {
        let mut widths = [0; 8];
        for (width, layer) in widths.iter_mut().zip(self.weighted()) {
            *width = match layer.op {
                Op::Conv(conv) => conv.out_channels,
                Op::Linear { out_features } => out_features,
                _ => unreachable!("weighted() yields no other layer"),
            };
        }
        widths
    }
}

impl PartialEq for Variant {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

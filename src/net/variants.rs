//! The six descriptions. Published sources disagree in places; README says where, and the tests' goldens decide.

use super::{ChannelOrder, Conv, Layer, Lrn, LrnScope, Op, Pool, Preprocess, Variant};

/// All variants: torchvision, half, single-tower, paper, caffe, caffenet.
pub static VARIANTS: [Variant; 6] = [TORCHVISION, HALF, SINGLE_TOWER, PAPER, CAFFE, CAFFENET];

const TORCHVISION: Variant = Variant {
    name: "torchvision",
    input_size: 224,
    preprocess: UNIT_SCALED_RGB,
    torch_class: Some("AlexNet"),
    layers: &[
        conv("conv1", "features.0", 64, 11, 4, 2, 1),
        relu("relu1", "features.1"),
        pool("pool1", "features.2"),
        conv("conv2", "features.3", 192, 5, 1, 2, 1),
        relu("relu2", "features.4"),
        pool("pool2", "features.5"),
        conv("conv3", "features.6", 384, 3, 1, 1, 1),
        relu("relu3", "features.7"),
        conv("conv4", "features.8", 256, 3, 1, 1, 1),
        relu("relu4", "features.9"),
        conv("conv5", "features.10", 256, 3, 1, 1, 1),
        relu("relu5", "features.11"),
        pool("pool5", "features.12"),
        Layer { name: "avgpool", module: "avgpool", op: Op::AdaptiveAvgPool { output: 6 } },
        dropout("drop6", "classifier.0"),
        linear("fc6", "classifier.1", 4096),
        relu("relu6", "classifier.2"),
        dropout("drop7", "classifier.3"),
        linear("fc7", "classifier.4", 4096),
        relu("relu7", "classifier.5"),
        linear("fc8", "classifier.6", 1000),
    ],
};

const HALF: Variant = Variant {
    name: "half",
    input_size: 224,
    preprocess: UNIT_SCALED_RGB,
    torch_class: Some("AlexNet"),
    layers: &[
        conv("conv1", "features.0", 48, 11, 4, 2, 1),
        relu("relu1", "features.1"),
        pool("pool1", "features.2"),
        conv("conv2", "features.3", 128, 5, 1, 2, 1),
        relu("relu2", "features.4"),
        pool("pool2", "features.5"),
        conv("conv3", "features.6", 192, 3, 1, 1, 1),
        relu("relu3", "features.7"),
        conv("conv4", "features.8", 192, 3, 1, 1, 1),
        relu("relu4", "features.9"),
        conv("conv5", "features.10", 128, 3, 1, 1, 1),
        relu("relu5", "features.11"),
        pool("pool5", "features.12"),
        dropout("drop6", "classifier.0"),
        linear("fc6", "classifier.1", 2048),
        relu("relu6", "classifier.2"),
        dropout("drop7", "classifier.3"),
        linear("fc7", "classifier.4", 2048),
        relu("relu7", "classifier.5"),
        linear("fc8", "classifier.6", 1000),
    ],
};

const SINGLE_TOWER: Variant = Variant {
    name: "single-tower",
    input_size: 227,
    preprocess: UNIT_SCALED_RGB,
    torch_class: Some("Net"),
    layers: &[
        conv("conv1", "conv1", 96, 11, 4, 0, 1),
        relu("relu1", ""),
        pool("pool1", "pool"),
        conv("conv2", "conv2", 256, 5, 1, 2, 1),
        relu("relu2", ""),
        pool("pool2", "pool"),
        conv("conv3", "conv3", 384, 3, 1, 1, 1),
        relu("relu3", ""),
        conv("conv4", "conv4", 384, 3, 1, 1, 1),
        relu("relu4", ""),
        conv("conv5", "conv5", 256, 5, 1, 2, 1),
        relu("relu5", ""),
        pool("pool5", "pool"),
        linear("fc6", "fc1", 4096),
        relu("relu6", ""),
        dropout("drop6", "drop"),
        linear("fc7", "fc2", 4096),
        relu("relu7", ""),
        dropout("drop7", "drop"),
        linear("fc8", "fc3", 1000),
    ],
};

const PAPER: Variant = Variant {
    name: "paper",
    input_size: 227,
    preprocess: Preprocess {
        order: ChannelOrder::Rgb,
        divisor: 1.0,
        mean: [123.68, 116.779, 103.939],
        std: [1.0, 1.0, 1.0],
    },
    torch_class: None,
    layers: &[
        conv("conv1", "conv1", 96, 11, 4, 0, 1),
        relu("relu1", ""),
        lrn("norm1", 2.0, LrnScope::Tower),
        pool("pool1", "pool"),
        conv("conv2", "conv2", 256, 5, 1, 2, 2),
        relu("relu2", ""),
        lrn("norm2", 2.0, LrnScope::Tower),
        pool("pool2", "pool"),
        conv("conv3", "conv3", 384, 3, 1, 1, 1),
        relu("relu3", ""),
        conv("conv4", "conv4", 384, 3, 1, 1, 2),
        relu("relu4", ""),
        conv("conv5", "conv5", 256, 3, 1, 1, 2),
        relu("relu5", ""),
        pool("pool5", "pool"),
        linear("fc6", "fc1", 4096),
        relu("relu6", ""),
        dropout("drop6", "drop"),
        linear("fc7", "fc2", 4096),
        relu("relu7", ""),
        dropout("drop7", "drop"),
        linear("fc8", "fc3", 1000),
    ],
};

const CAFFE: Variant = Variant {
    name: "caffe",
    input_size: 227,
    preprocess: CAFFE_BGR,
    torch_class: None,
    layers: &[
        conv("conv1", "conv1", 96, 11, 4, 0, 1),
        relu("relu1", ""),
        lrn("norm1", 1.0, LrnScope::All),
        pool("pool1", "pool"),
        conv("conv2", "conv2", 256, 5, 1, 2, 2),
        relu("relu2", ""),
        lrn("norm2", 1.0, LrnScope::All),
        pool("pool2", "pool"),
        conv("conv3", "conv3", 384, 3, 1, 1, 1),
        relu("relu3", ""),
        conv("conv4", "conv4", 384, 3, 1, 1, 2),
        relu("relu4", ""),
        conv("conv5", "conv5", 256, 3, 1, 1, 2),
        relu("relu5", ""),
        pool("pool5", "pool"),
        linear("fc6", "fc1", 4096),
        relu("relu6", ""),
        dropout("drop6", "drop"),
        linear("fc7", "fc2", 4096),
        relu("relu7", ""),
        dropout("drop7", "drop"),
        linear("fc8", "fc3", 1000),
    ],
};

/// Caffe's reference network: as [`CAFFE`], but each pool stands before its LRN.
const CAFFENET: Variant = Variant {
    name: "caffenet",
    input_size: 227,
    preprocess: CAFFE_BGR,
    torch_class: None,
    layers: &[
        conv("conv1", "conv1", 96, 11, 4, 0, 1),
        relu("relu1", ""),
        pool("pool1", "pool"),
        lrn("norm1", 1.0, LrnScope::All),
        conv("conv2", "conv2", 256, 5, 1, 2, 2),
        relu("relu2", ""),
        pool("pool2", "pool"),
        lrn("norm2", 1.0, LrnScope::All),
        conv("conv3", "conv3", 384, 3, 1, 1, 1),
        relu("relu3", ""),
        conv("conv4", "conv4", 384, 3, 1, 1, 2),
        relu("relu4", ""),
        conv("conv5", "conv5", 256, 3, 1, 1, 2),
        relu("relu5", ""),
        pool("pool5", "pool"),
        linear("fc6", "fc1", 4096),
        relu("relu6", ""),
        dropout("drop6", "drop"),
        linear("fc7", "fc2", 4096),
        relu("relu7", ""),
        dropout("drop7", "drop"),
        linear("fc8", "fc3", 1000),
    ],
};

/// torchvision's ImageNet normalisation.
const UNIT_SCALED_RGB: Preprocess =
    Preprocess { order: ChannelOrder::Rgb, divisor: 255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

/// Caffe's: blue first, less the mean pixel of its ImageNet mean image.
#[allow(clippy::excessive_precision)] // the mean as Caffe publishes it; rounded to f32 by the compiler
const CAFFE_BGR: Preprocess = Preprocess {
    order: ChannelOrder::Bgr,
    divisor: 1.0,
    mean: [104.00698793, 116.66876762, 122.67891434],
    std: [1.0, 1.0, 1.0],
};

const fn conv(
    name: &'static str,
    module: &'static str,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    groups: usize,
) -> Layer {
    Layer { name, module, op: Op::Conv(Conv { out_channels, kernel, stride, padding, groups }) }
}

const fn relu(name: &'static str, module: &'static str) -> Layer {
    Layer { name, module, op: Op::Relu }
}

/// Every pool of the six networks is the paper's overlapping 3x3 with stride 2.
const fn pool(name: &'static str, module: &'static str) -> Layer {
    Layer { name, module, op: Op::MaxPool(Pool { kernel: 3, stride: 2 }) }
}

/// The paper's window, alpha and beta; `k` and scope differ.
const fn lrn(name: &'static str, k: f64, scope: LrnScope) -> Layer {
    Layer { name, module: "", op: Op::Lrn(Lrn { size: 5, alpha: 1e-4, beta: 0.75, k, scope }) }
}

const fn dropout(name: &'static str, module: &'static str) -> Layer {
    Layer { name, module, op: Op::Dropout { p: 0.5 } }
}

const fn linear(name: &'static str, module: &'static str, out_features: usize) -> Layer {
    Layer { name, module, op: Op::Linear { out_features } }
}

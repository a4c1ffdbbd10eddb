//! Which kernel a step takes, and its grid. Free of CUDA: a pure function of the step, tested anywhere.

use super::element::Element;
use crate::plan::{Step, StepKind};

macro_rules! kernels {
    ($($kernel:ident $name:literal in $module:literal, $threads:literal threads;)+) => {
        /// The kernels: entry point, PTX module and block size of each.
        #[allow(missing_docs)] // a kernel is documented in its source, which its name tells
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kernel {
            $($kernel,)+
        }

        impl Kernel {
            /// Every kernel, in the order of their numbers.
            pub const ALL: &[Kernel] = &[$(Kernel::$kernel),+];

            /// Entry point in the PTX.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => $name,)+
                }
            }

            /// Text of the PTX module that has it.
            pub fn ptx(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => include_str!(concat!(env!("OUT_DIR"), "/", $module, ".ptx")),)+
                }
            }

            /// Threads a block, all in x.
            pub fn threads(self) -> u32 {
                match self {
                    $(Kernel::$kernel => $threads,)+
                }
            }
        }
    };
}

kernels! {
    ConvF32 "conv_f32" in "conv_f32", 256 threads;
    ConvF16 "conv_f16" in "conv_f16", 128 threads;
    ConvF16Gather "conv_f16_gather" in "conv_f16", 128 threads;
    MaxPoolF32 "max_pool_f32" in "pool", 256 threads;
    MaxPoolF16 "max_pool_f16" in "pool", 256 threads;
    AdaptiveAvgPoolF32 "adaptive_avg_pool_f32" in "pool", 256 threads;
    AdaptiveAvgPoolF16 "adaptive_avg_pool_f16" in "pool", 256 threads;
    LrnF32 "lrn_f32" in "lrn", 256 threads;
    LrnF16 "lrn_f16" in "lrn", 256 threads;
    PreprocessF32 "preprocess_f32" in "preprocess", 256 threads;
    PreprocessF16 "preprocess_f16" in "preprocess", 256 threads;
    DropoutF32 "dropout_f32" in "dropout", 256 threads;
    DropoutF16 "dropout_f16" in "dropout", 256 threads;
    TopK "softmax_topk_f32" in "softmax_topk", 256 threads;
}

/// A kernel and the grid it is launched in. No kernel takes dynamic shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Which one.
    pub kernel: Kernel,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
}

/// Blocks beyond which elementwise kernels stride instead: several waves of the largest GPU.
const MAX_ELEMENTWISE_BLOCKS: usize = 16 * 1024;
/// Elements a thread of the dropout kernels.
const DROPOUT_ELEMENTS: usize = 4;
/// What the channels of a group are a multiple of for `conv_f16`: 16 bytes, which one asynchronous copy takes.
const CONV_F16_CHANNELS: usize = 8;

/// The launch of `step` for `images` images, at least one, on activations of type `element`.
pub fn select(step: &Step, images: usize, element: Element) -> Launch {
    let elements = images * step.output.len();
    let either = |f32, f16| match element {
        Element::F32 => f32,
        Element::F16 => f16,
    };
    match step.kind {
        StepKind::Preprocess(_) => elementwise(either(Kernel::PreprocessF32, Kernel::PreprocessF16), elements),
        StepKind::Conv { conv, .. } => {
            let gemm_m = images * step.output.h * step.output.w;
            conv_tiles(
                conv_kernel(step.input.c / conv.groups, element),
                gemm_m,
                step.output.c / conv.groups,
                conv.groups,
            )
        }
        StepKind::Linear { .. } => conv_tiles(conv_kernel(step.input.len(), element), images, step.output.c, 1),
        StepKind::Lrn(_) => elementwise(either(Kernel::LrnF32, Kernel::LrnF16), elements),
        StepKind::MaxPool(_) => elementwise(either(Kernel::MaxPoolF32, Kernel::MaxPoolF16), elements),
        StepKind::AvgPool => elementwise(either(Kernel::AdaptiveAvgPoolF32, Kernel::AdaptiveAvgPoolF16), elements),
        StepKind::Dropout { .. } => {
            elementwise(either(Kernel::DropoutF32, Kernel::DropoutF16), elements.div_ceil(DROPOUT_ELEMENTS))
        }
    }
}

/// The launch of top-k over `images` rows of logits.
pub fn top_k(images: usize) -> Launch {
    Launch { kernel: Kernel::TopK, grid: [images as u32, 1, 1] }
}

/// The convolution for groups of `channels` input channels.
fn conv_kernel(channels: usize, element: Element) -> Kernel {
    match element {
        Element::F32 => Kernel::ConvF32,
        Element::F16 if channels.is_multiple_of(CONV_F16_CHANNELS) => Kernel::ConvF16,
        Element::F16 => Kernel::ConvF16Gather,
    }
}

/// Output pixels and filters a block of a convolution kernel, its BLOCK_M and BLOCK_N.
fn conv_tile(kernel: Kernel) -> [usize; 2] {
    if kernel == Kernel::ConvF32 { [64, 64] } else { [128, 64] }
}

fn conv_tiles(kernel: Kernel, gemm_m: usize, gemm_n: usize, groups: usize) -> Launch {
    let [tile_m, tile_n] = conv_tile(kernel);
    Launch { kernel, grid: [gemm_m.div_ceil(tile_m) as u32, gemm_n.div_ceil(tile_n) as u32, groups as u32] }
}

fn elementwise(kernel: Kernel, threads: usize) -> Launch {
    let blocks = threads.div_ceil(kernel.threads() as usize).min(MAX_ELEMENTWISE_BLOCKS);
    Launch { kernel, grid: [blocks as u32, 1, 1] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Network, VARIANTS};
    use crate::plan::Plan;

    #[test]
    fn every_module_has_its_kernels() {
        for (number, &kernel) in Kernel::ALL.iter().enumerate() {
            assert_eq!(kernel as usize, number);
            assert!(kernel.ptx().contains(&format!(".entry {}(", kernel.name())), "{kernel:?}");
            assert!(kernel.ptx().contains("\n.version 7.0\n"), "{kernel:?}");
            let (_, entry) = kernel.ptx().split_once(&format!(".entry {}(", kernel.name())).unwrap();
            let head = entry.split_once('{').unwrap().0;
            assert!(head.contains(&format!(".maxntid {}, 1, 1", kernel.threads())), "{kernel:?}: {head}");
        }
    }

    /// Grids cover every output and stay within what a device takes: 2^31 - 1 blocks in x, 65535 in y and z.
    #[test]
    fn grids_cover_every_step() {
        for variant in &VARIANTS {
            let network = Network::published(variant, 1000).unwrap();
            for (element, images) in [1, 2, 33, 1024].map(|n| [(Element::F32, n), (Element::F16, n)]).concat() {
                for step in Plan::train(&network, images, &[]).unwrap().steps {
                    let launch = select(&step, images, element);
                    let [x, y, z] = launch.grid.map(|g| g as usize);
                    assert!(
                        (1..1 << 31).contains(&x) && (1..=65535).contains(&y) && (1..=65535).contains(&z),
                        "{launch:?}"
                    );
                    let per_block = match step.kind {
                        StepKind::Conv { .. } | StepKind::Linear { .. } => {
                            conv_tile(launch.kernel).into_iter().product()
                        }
                        _ if x == MAX_ELEMENTWISE_BLOCKS => continue, // threads stride over the rest
                        StepKind::Dropout { .. } => launch.kernel.threads() as usize * DROPOUT_ELEMENTS,
                        _ => launch.kernel.threads() as usize,
                    };
                    assert!(x * y * z * per_block >= images * step.output.len(), "{step:?} {launch:?}");
                }
            }
        }
    }

    /// Published widths are multiples of 8 everywhere but at the input; the gather is for the first layer, and for odd
    /// checkpoints.
    #[test]
    fn only_the_first_layer_gathers() {
        for variant in &VARIANTS {
            let plan = Plan::new(&Network::published(variant, 1000).unwrap(), 1, &[]).unwrap();
            for step in &plan.steps {
                let gathers = select(step, 1, Element::F16).kernel == Kernel::ConvF16Gather;
                assert_eq!(gathers, step.layers[0] == "conv1", "{step:?}");
            }
        }
    }
}

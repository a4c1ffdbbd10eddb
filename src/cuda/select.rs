//! Which kernel a step takes, and its grid. Free of CUDA: a pure function of the step, tested anywhere.

use crate::plan::{Step, StepKind};

/// The kernels, one row each: [`Kernel::name`] is the entry point, [`Kernel::ptx`] the module it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Implicit-GEMM convolution and fully connected layers.
    Conv,
    /// Max pool.
    MaxPool,
    /// Adaptive average pool.
    AdaptiveAvgPool,
    /// Local response normalisation.
    Lrn,
    /// uint8 pixels to the network input.
    Preprocess,
    /// Softmax and the best classes.
    TopK,
    /// Dropout with a counter-based mask.
    Dropout,
}

macro_rules! ptx {
    ($name:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx"))
    };
}

impl Kernel {
    /// Every kernel, in the order of their numbers.
    pub const ALL: [Kernel; 7] = [
        Kernel::Conv,
        Kernel::MaxPool,
        Kernel::AdaptiveAvgPool,
        Kernel::Lrn,
        Kernel::Preprocess,
        Kernel::TopK,
        Kernel::Dropout,
    ];

    /// Entry point in the PTX.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Conv => "conv_f32",
            Kernel::MaxPool => "max_pool_f32",
            Kernel::AdaptiveAvgPool => "adaptive_avg_pool_f32",
            Kernel::Lrn => "lrn_f32",
            Kernel::Preprocess => "preprocess_f32",
            Kernel::TopK => "softmax_topk_f32",
            Kernel::Dropout => "dropout_f32",
        }
    }

    /// Text of the PTX module that has it.
    pub fn ptx(self) -> &'static str {
        match self {
            Kernel::Conv => ptx!("conv_f32"),
            Kernel::MaxPool | Kernel::AdaptiveAvgPool => ptx!("pool"),
            Kernel::Lrn => ptx!("lrn"),
            Kernel::Preprocess => ptx!("preprocess"),
            Kernel::TopK => ptx!("softmax_topk"),
            Kernel::Dropout => ptx!("dropout"),
        }
    }
}

/// A kernel and the shape it is launched in. No kernel takes dynamic shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Which one.
    pub kernel: Kernel,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads a block, all in x.
    pub threads: u32,
}

/// Threads a block of every kernel.
const THREADS: u32 = 256;
/// Output pixels and filters a block of `conv_f32`, its BLOCK_M and BLOCK_N.
const CONV_TILE: usize = 64;
/// Blocks beyond which elementwise kernels stride instead: several waves of the largest GPU.
const MAX_ELEMENTWISE_BLOCKS: usize = 16 * 1024;
/// Elements a thread of `dropout_f32`.
const DROPOUT_ELEMENTS: usize = 4;

/// The launch of `step` for `images` images, at least one.
pub fn select(step: &Step, images: usize) -> Launch {
    let elements = images * step.output.len();
    match step.kind {
        StepKind::Preprocess(_) => elementwise(Kernel::Preprocess, elements),
        StepKind::Conv { conv, .. } => {
            conv_tiles(images * step.output.h * step.output.w, step.output.c / conv.groups, conv.groups)
        }
        StepKind::Linear { .. } => conv_tiles(images, step.output.c, 1),
        StepKind::Lrn(_) => elementwise(Kernel::Lrn, elements),
        StepKind::MaxPool(_) => elementwise(Kernel::MaxPool, elements),
        StepKind::AvgPool => elementwise(Kernel::AdaptiveAvgPool, elements),
        StepKind::Dropout { .. } => elementwise(Kernel::Dropout, elements.div_ceil(DROPOUT_ELEMENTS)),
    }
}

/// The launch of top-k over `images` rows of logits.
pub fn top_k(images: usize) -> Launch {
    Launch { kernel: Kernel::TopK, grid: [images as u32, 1, 1], threads: THREADS }
}

fn conv_tiles(gemm_m: usize, gemm_n: usize, groups: usize) -> Launch {
    let grid = [gemm_m.div_ceil(CONV_TILE) as u32, gemm_n.div_ceil(CONV_TILE) as u32, groups as u32];
    Launch { kernel: Kernel::Conv, grid, threads: THREADS }
}

fn elementwise(kernel: Kernel, threads: usize) -> Launch {
    let blocks = threads.div_ceil(THREADS as usize).min(MAX_ELEMENTWISE_BLOCKS);
    Launch { kernel, grid: [blocks as u32, 1, 1], threads: THREADS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Network, VARIANTS};
    use crate::plan::Plan;

    #[test]
    fn every_module_has_its_kernels() {
        for (number, kernel) in Kernel::ALL.into_iter().enumerate() {
            assert_eq!(kernel as usize, number);
            assert!(kernel.ptx().contains(&format!(".entry {}(", kernel.name())), "{kernel:?}");
            assert!(kernel.ptx().contains("\n.version 7.0\n"), "{kernel:?}");
            assert!(kernel.ptx().contains(&format!(".maxntid {THREADS}")), "{kernel:?}");
        }
    }

    /// Grids cover every output and stay within what a device takes: 2^31 - 1 blocks in x, 65535 in y and z.
    #[test]
    fn grids_cover_every_step() {
        for variant in &VARIANTS {
            let network = Network::published(variant, 1000).unwrap();
            for images in [1, 2, 33, 1024] {
                for step in Plan::train(&network, images, &[]).unwrap().steps {
                    let launch = select(&step, images);
                    let [x, y, z] = launch.grid.map(|g| g as usize);
                    assert!(
                        (1..1 << 31).contains(&x) && (1..=65535).contains(&y) && (1..=65535).contains(&z),
                        "{launch:?}"
                    );
                    let covered = match launch.kernel {
                        Kernel::Conv => x * CONV_TILE * y * CONV_TILE * z,
                        _ if x == MAX_ELEMENTWISE_BLOCKS => continue, // threads stride over the rest
                        Kernel::Dropout => x * 256 * DROPOUT_ELEMENTS,
                        _ => x * 256,
                    };
                    assert!(covered >= images * step.output.len(), "{step:?} {launch:?}");
                }
            }
        }
    }
}

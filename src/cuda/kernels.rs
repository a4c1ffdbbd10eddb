//! The table of kernels: every entry point, its module and its block size.

use super::element::Element;
use crate::net::Pool;
use crate::options::Precision;

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

            /// Name of the PTX module that has it.
            pub fn module(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => $module,)+
                }
            }

            /// Text of that module.
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
    ConvF16M128N128 "conv_f16_128x128" in "conv_f16", 128 threads;
    ConvF16M128N64 "conv_f16_128x64" in "conv_f16", 64 threads;
    ConvF16M64N64 "conv_f16_64x64" in "conv_f16", 128 threads;
    ConvF16Gather "conv_f16_gather" in "conv_f16", 128 threads;
    ConvF16Pool "conv_f16_pool" in "conv_f16", 128 threads;
    ConvBf16M128N128 "conv_bf16_128x128" in "conv_bf16", 128 threads;
    ConvBf16M128N64 "conv_bf16_128x64" in "conv_bf16", 64 threads;
    ConvBf16M64N64 "conv_bf16_64x64" in "conv_bf16", 128 threads;
    ConvBf16Gather "conv_bf16_gather" in "conv_bf16", 128 threads;
    ConvBf16Pool "conv_bf16_pool" in "conv_bf16", 128 threads;
    ConvTf32M128N128 "conv_tf32_128x128" in "conv_tf32", 128 threads;
    ConvTf32M128N64 "conv_tf32_128x64" in "conv_tf32", 64 threads;
    ConvTf32M64N64 "conv_tf32_64x64" in "conv_tf32", 128 threads;
    ConvTf32Gather "conv_tf32_gather" in "conv_tf32", 128 threads;
    ConvTf32Pool "conv_tf32_pool" in "conv_tf32", 128 threads;
    ReduceSplitsF32 "reduce_splits_f32" in "reduce_splits", 256 threads;
    ReduceSplitsF16 "reduce_splits_f16" in "reduce_splits", 256 threads;
    ReduceSplitsBf16 "reduce_splits_bf16" in "reduce_splits", 256 threads;
    GemvF32N1 "gemv_f32_1" in "gemv", 256 threads;
    GemvF32N2 "gemv_f32_2" in "gemv", 256 threads;
    GemvF32N4 "gemv_f32_4" in "gemv", 256 threads;
    GemvF32N8 "gemv_f32_8" in "gemv", 256 threads;
    GemvF16N1 "gemv_f16_1" in "gemv", 256 threads;
    GemvF16N2 "gemv_f16_2" in "gemv", 256 threads;
    GemvF16N4 "gemv_f16_4" in "gemv", 256 threads;
    GemvF16N8 "gemv_f16_8" in "gemv", 256 threads;
    GemvBf16N1 "gemv_bf16_1" in "gemv", 256 threads;
    GemvBf16N2 "gemv_bf16_2" in "gemv", 256 threads;
    GemvBf16N4 "gemv_bf16_4" in "gemv", 256 threads;
    GemvBf16N8 "gemv_bf16_8" in "gemv", 256 threads;
    MaxPoolF32 "max_pool_f32" in "pool", 256 threads;
    MaxPoolF16 "max_pool_f16" in "pool", 256 threads;
    MaxPoolBf16 "max_pool_bf16" in "pool", 256 threads;
    MaxPoolVectorF32 "max_pool_vector_f32" in "pool", 256 threads;
    MaxPoolVectorF16 "max_pool_vector_f16" in "pool", 256 threads;
    MaxPoolVectorBf16 "max_pool_vector_bf16" in "pool", 256 threads;
    AdaptiveAvgPoolF32 "adaptive_avg_pool_f32" in "pool", 256 threads;
    AdaptiveAvgPoolF16 "adaptive_avg_pool_f16" in "pool", 256 threads;
    AdaptiveAvgPoolBf16 "adaptive_avg_pool_bf16" in "pool", 256 threads;
    LrnF32 "lrn_f32" in "lrn", 256 threads;
    LrnF16 "lrn_f16" in "lrn", 256 threads;
    LrnBf16 "lrn_bf16" in "lrn", 256 threads;
    LrnVectorF32 "lrn_vector_f32" in "lrn", 256 threads;
    LrnVectorF16 "lrn_vector_f16" in "lrn", 256 threads;
    LrnVectorBf16 "lrn_vector_bf16" in "lrn", 256 threads;
    LrnMaxPoolF32 "lrn_max_pool_f32" in "lrn_pool", 256 threads;
    LrnMaxPoolF16 "lrn_max_pool_f16" in "lrn_pool", 256 threads;
    LrnMaxPoolBf16 "lrn_max_pool_bf16" in "lrn_pool", 256 threads;
    MaxPoolLrnF32 "max_pool_lrn_f32" in "lrn_pool", 256 threads;
    MaxPoolLrnF16 "max_pool_lrn_f16" in "lrn_pool", 256 threads;
    MaxPoolLrnBf16 "max_pool_lrn_bf16" in "lrn_pool", 256 threads;
    PreprocessF32 "preprocess_f32" in "preprocess", 256 threads;
    PreprocessF16 "preprocess_f16" in "preprocess", 256 threads;
    PreprocessBf16 "preprocess_bf16" in "preprocess", 256 threads;
    SpaceToDepthF32 "space_to_depth_f32" in "preprocess", 256 threads;
    SpaceToDepthF16 "space_to_depth_f16" in "preprocess", 256 threads;
    SpaceToDepthBf16 "space_to_depth_bf16" in "preprocess", 256 threads;
    DropoutF32 "dropout_f32" in "dropout", 256 threads;
    DropoutF16 "dropout_f16" in "dropout", 256 threads;
    DropoutBf16 "dropout_bf16" in "dropout", 256 threads;
    TopK "softmax_topk_f32" in "softmax_topk", 256 threads;
}

impl Kernel {
    /// Whether computing in `precision` may take this kernel: convolutions are of one precision, all others serve any.
    pub fn serves(self, precision: Precision) -> bool {
        let convolves = |precision| {
            let pooled = ConvConfig::pooled(precision);
            ConvConfig::all(precision).iter().chain(&pooled).any(|config| config.kernel == self)
        };
        convolves(precision) || !Precision::ALL.into_iter().any(convolves)
    }
}

/// The versions of a kernel for each type of activations.
pub(super) struct ByElement {
    f32: Kernel,
    f16: Kernel,
    bf16: Kernel,
}

impl ByElement {
    pub(super) fn of(&self, element: Element) -> Kernel {
        match element {
            Element::F32 => self.f32,
            Element::F16 => self.f16,
            Element::Bf16 => self.bf16,
        }
    }
}

macro_rules! by_element {
    ($($name:ident: $f32:ident $f16:ident $bf16:ident;)+) => {
        $(pub(super) const $name: ByElement =
            ByElement { f32: Kernel::$f32, f16: Kernel::$f16, bf16: Kernel::$bf16 };)+
    };
}

by_element! {
    REDUCE_SPLITS: ReduceSplitsF32 ReduceSplitsF16 ReduceSplitsBf16;
    MAX_POOL: MaxPoolF32 MaxPoolF16 MaxPoolBf16;
    MAX_POOL_VECTOR: MaxPoolVectorF32 MaxPoolVectorF16 MaxPoolVectorBf16;
    ADAPTIVE_AVG_POOL: AdaptiveAvgPoolF32 AdaptiveAvgPoolF16 AdaptiveAvgPoolBf16;
    LRN: LrnF32 LrnF16 LrnBf16;
    LRN_VECTOR: LrnVectorF32 LrnVectorF16 LrnVectorBf16;
    LRN_MAX_POOL: LrnMaxPoolF32 LrnMaxPoolF16 LrnMaxPoolBf16;
    MAX_POOL_LRN: MaxPoolLrnF32 MaxPoolLrnF16 MaxPoolLrnBf16;
    PREPROCESS: PreprocessF32 PreprocessF16 PreprocessBf16;
    SPACE_TO_DEPTH: SpaceToDepthF32 SpaceToDepthF16 SpaceToDepthBf16;
    DROPOUT: DropoutF32 DropoutF16 DropoutBf16;
}

/// The GEMVs and the most images that each takes.
pub(super) const GEMV: [(usize, ByElement); 4] = [
    (1, ByElement { f32: Kernel::GemvF32N1, f16: Kernel::GemvF16N1, bf16: Kernel::GemvBf16N1 }),
    (2, ByElement { f32: Kernel::GemvF32N2, f16: Kernel::GemvF16N2, bf16: Kernel::GemvBf16N2 }),
    (4, ByElement { f32: Kernel::GemvF32N4, f16: Kernel::GemvF16N4, bf16: Kernel::GemvBf16N4 }),
    (8, ByElement { f32: Kernel::GemvF32N8, f16: Kernel::GemvF16N8, bf16: Kernel::GemvBf16N8 }),
];
/// Filters a block of a GEMV.
pub(super) const GEMV_FILTERS: usize = 32;

/// Pixels of a block's side where preprocessing lays blocks out as channels.
pub(super) const SPACE_TO_DEPTH_BLOCK: usize = 4;
/// Most of those blocks, next to each other, that a block of threads takes at once.
pub(super) const SPACE_TO_DEPTH_TILE: usize = 64;

/// Channels of the LRN window of the kernels that take vectors.
pub(super) const LRN_VECTOR_SIZE: usize = 5;
/// The pool of the kernels that have one fused.
pub(super) const FUSED_POOL: Pool = Pool { kernel: 3, stride: 2 };
/// Rows and columns of the output, and vectors of channels, a block of LRN + max pool.
pub(super) const LRN_MAX_POOL_TILE: [usize; 3] = [7, 7, 4];
/// Vectors of the output a block of max pool + LRN.
pub(super) const MAX_POOL_LRN_VECTORS: usize = 254;

/// A convolution kernel and its tile: output pixels and filters a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvConfig {
    /// The entry point.
    pub kernel: Kernel,
    /// Output pixels a block.
    pub block_m: usize,
    /// Filters a block.
    pub block_n: usize,
    /// Blocks that an SM holds at once.
    pub resident: usize,
    /// What the channels of a group must be a multiple of: one where a kernel gathers them.
    pub channels: usize,
    /// Whether GEMM_K may be split among blocks.
    pub splits: bool,
}

impl ConvConfig {
    /// The kernel of a precision that pools what it has convolved. A block has an image's output pixels, `block_m` at most.
    pub fn pooled(precision: Precision) -> Option<ConvConfig> {
        let (kernel, channels) = match precision {
            Precision::Float32 => return None,
            Precision::Tf32 => (Kernel::ConvTf32Pool, 4),
            Precision::Float16 => (Kernel::ConvF16Pool, 8),
            Precision::Bfloat16 => (Kernel::ConvBf16Pool, 8),
        };
        Some(ConvConfig { kernel, block_m: 192, block_n: 128, resident: 2, channels, splits: false })
    }

    /// The convolution kernels of a precision.
    pub fn all(precision: Precision) -> Vec<ConvConfig> {
        use Kernel::*;
        let tensor = |kernels: [Kernel; 4], chunk: usize| {
            let shapes = [(128, 128, 2, chunk), (128, 64, 4, chunk), (64, 64, 4, chunk), (64, 64, 4, 1)];
            let config = |(kernel, (block_m, block_n, resident, channels))| ConvConfig {
                kernel,
                block_m,
                block_n,
                resident,
                channels,
                splits: true,
            };
            kernels.into_iter().zip(shapes).map(config).collect()
        };
        match precision {
            Precision::Float32 => {
                let shape =
                    ConvConfig { kernel: ConvF32, block_m: 64, block_n: 64, resident: 3, channels: 1, splits: false };
                vec![shape]
            }
            Precision::Tf32 => tensor([ConvTf32M128N128, ConvTf32M128N64, ConvTf32M64N64, ConvTf32Gather], 4),
            Precision::Float16 => tensor([ConvF16M128N128, ConvF16M128N64, ConvF16M64N64, ConvF16Gather], 8),
            Precision::Bfloat16 => tensor([ConvBf16M128N128, ConvBf16M128N64, ConvBf16M64N64, ConvBf16Gather], 8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_its_kernels() {
        for (number, &kernel) in Kernel::ALL.iter().enumerate() {
            assert_eq!(kernel as usize, number);
            assert!(kernel.ptx().contains("\n.version 7.0\n"), "{kernel:?}");
            let entry = kernel.ptx().split_once(&format!(".entry {}(", kernel.name()));
            let (_, entry) = entry.unwrap_or_else(|| panic!("{kernel:?} is not in its module"));
            let head = entry.split_once('{').unwrap().0;
            assert!(head.contains(&format!(".maxntid {}, 1, 1", kernel.threads())), "{kernel:?}: {head}");
        }
    }

    /// No entry point of a module is missing from the table.
    #[test]
    fn the_table_is_complete() {
        for &kernel in Kernel::ALL {
            let module = Kernel::ALL.iter().filter(|k| k.module() == kernel.module()).count();
            assert_eq!(kernel.ptx().matches(".visible .entry ").count(), module, "{}", kernel.module());
        }
    }
}

//! Which kernel a step takes, and its grid. Free of CUDA: a pure function of step, images and rules, tested anywhere.

use std::fmt;

use super::element::Element;
use super::kernels::{self, ConvConfig, Kernel};
use crate::net::{Lrn, Shape};
use crate::options::{Fc, Precision};
use crate::plan::{Step, StepKind};

/// What a choice depends on besides the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What is computed in.
    pub precision: Precision,
    /// Multiprocessors of the device.
    pub multiprocessors: usize,
    /// One order of sums for every batch: no splits of GEMM_K, no GEMV. All tile shapes sum in the same order.
    pub deterministic: bool,
    /// What computes fully connected layers; `None`, where cuBLASLt is at hand, leaves it to the number of images.
    pub fc: Option<Fc>,
}

impl Rules {
    /// Type of activations and filters.
    pub fn element(&self) -> Element {
        Element::of(self.precision)
    }
}

/// A kernel and the grid it is launched in. No kernel takes dynamic shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Which one.
    pub kernel: Kernel,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Parts that a convolution's GEMM_K is summed in, to be added up by [`reduce`]; 1 for all else.
    pub splits: usize,
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        write!(f, "{}, {x} x {y} x {z} blocks of {} threads", self.kernel.name(), self.kernel.threads())
    }
}

/// What runs a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A kernel of our own.
    Kernel(Launch),
    /// cuBLASLt, in whatever algorithm it has for the step's product.
    CublasLt,
}

/// A convolution or fully connected layer as a matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Output pixels of all images.
    pub gemm_m: usize,
    /// Filters a group.
    pub gemm_n: usize,
    /// Taps: R * S * C / groups.
    pub gemm_k: usize,
    /// Groups.
    pub groups: usize,
    /// Input channels a group.
    pub channels: usize,
}

/// A kernel that might compute a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Kernel and tile.
    pub config: ConvConfig,
    /// Parts of GEMM_K.
    pub splits: usize,
    /// Modelled time in cycles of a multiprocessor: an order among candidates, not a measurement.
    pub cycles: f64,
}

/// Blocks beyond which elementwise kernels stride instead: several waves of the largest GPU.
const MAX_ELEMENTWISE_BLOCKS: usize = 16 * 1024;
/// Modelled cycles that another launch costs.
const LAUNCH: f64 = 4000.0;
/// Modelled bytes a cycle between the device and its memory.
const DRAM_BYTES: f64 = 1500.0;
/// Elements a thread of the dropout kernels.
const DROPOUT_ELEMENTS: usize = 4;
/// Splits that are considered.
const SPLITS: [usize; 5] = [1, 2, 4, 8, 16];
/// Most elements of the splits' partial sums: 64 MB.
const MAX_PARTIAL: usize = 16 << 20;

/// What runs `step` for `images` images, at least one. Left to itself, a fully connected layer is cuBLASLt's but for few
/// images, for which a GEMV of ours reads each filter once.
pub fn route(step: &Step, images: usize, rules: &Rules) -> Route {
    let linear = matches!(step.kind, StepKind::Linear { .. });
    let cublaslt = match rules.fc {
        Some(Fc::CublasLt) => linear,
        Some(Fc::Own) => false,
        None => linear && !rules.deterministic && gemv(step, images, rules).is_none(),
    };
    if cublaslt { Route::CublasLt } else { Route::Kernel(select(step, images, rules)) }
}

/// The launch of `step` for `images` images, at least one, by a kernel of our own.
pub fn select(step: &Step, images: usize, rules: &Rules) -> Launch {
    let element = rules.element();
    let elements = images * step.output.len();
    let vector = 16 / element.bytes();
    match step.kind {
        StepKind::Preprocess { depth: None, .. } => elementwise(kernels::PREPROCESS.of(element), elements),
        StepKind::Preprocess { depth: Some(_), .. } => {
            let Shape { h, w, .. } = step.output;
            let tiles = images * h * w.div_ceil(kernels::SPACE_TO_DEPTH_TILE);
            striding(kernels::SPACE_TO_DEPTH.of(element), tiles)
        }
        StepKind::Conv { unpooled: Some(_), .. } => {
            let problem = Problem::of(step, images).expect("the step has weights");
            let ConvConfig { kernel, block_n, .. } =
                ConvConfig::pooled(rules.precision).expect("steps are fused where there is a kernel");
            let grid = [images, problem.gemm_n.div_ceil(block_n), problem.groups].map(|blocks| blocks as u32);
            Launch { kernel, grid, splits: 1 }
        }
        StepKind::Conv { .. } | StepKind::Linear { .. } => product(step, images, rules),
        StepKind::Lrn(lrn) if takes_vectors(&lrn, step.output.c, element) => {
            elementwise(kernels::LRN_VECTOR.of(element), elements / vector)
        }
        StepKind::Lrn(_) => elementwise(kernels::LRN.of(element), elements),
        StepKind::MaxPool(_) if step.output.c.is_multiple_of(vector) => {
            elementwise(kernels::MAX_POOL_VECTOR.of(element), elements / vector)
        }
        StepKind::MaxPool(_) => elementwise(kernels::MAX_POOL.of(element), elements),
        StepKind::LrnMaxPool(..) => {
            let Shape { h, w, c } = step.output;
            let [rows, columns, vectors] = kernels::LRN_MAX_POOL_TILE;
            let tiles = h.div_ceil(rows) * w.div_ceil(columns) * (c / vector).div_ceil(vectors);
            striding(kernels::LRN_MAX_POOL.of(element), images * tiles)
        }
        StepKind::MaxPoolLrn(..) => {
            let blocks = (elements / vector).div_ceil(kernels::MAX_POOL_LRN_VECTORS);
            striding(kernels::MAX_POOL_LRN.of(element), blocks)
        }
        StepKind::AvgPool => elementwise(kernels::ADAPTIVE_AVG_POOL.of(element), elements),
        StepKind::Dropout { .. } => elementwise(kernels::DROPOUT.of(element), elements.div_ceil(DROPOUT_ELEMENTS)),
    }
}

/// Whether LRN of `channels` can go 16 bytes of channels at a time.
pub(super) fn takes_vectors(lrn: &Lrn, channels: usize, element: Element) -> bool {
    let tower = channels / lrn.scope.towers();
    lrn.size == kernels::LRN_VECTOR_SIZE && tower.is_multiple_of(16 / element.bytes())
}

/// Modelled cycles of a convolution and the pool of its output: in one kernel and in two, with what they write and read
/// between them. `None` says that there is no kernel for both.
pub fn pool_cycles(conv: &Step, images: usize, rules: &Rules) -> Option<[f64; 2]> {
    let (problem, shape) = (Problem::of(conv, images)?, conv.unpooled());
    let config = ConvConfig::pooled(rules.precision)?;
    let bytes = rules.element().bytes();
    let legal = shape.h * shape.w <= config.block_m
        && problem.channels.is_multiple_of(config.channels)
        && problem.gemm_n.is_multiple_of(16 / bytes)
        && kernels::FUSED_POOL.output(shape).is_some();
    let separate = problem.candidates(rules)[0].cycles;
    let between = (2 * images * shape.len() * bytes) as f64; // written and read
    legal.then(|| [problem.cycles(&config, images, 1, rules), separate + LAUNCH + between / DRAM_BYTES])
}

/// The launch that adds up what the splits of a convolution `step` summed.
pub fn reduce(step: &Step, images: usize, rules: &Rules) -> Launch {
    let kernel = kernels::REDUCE_SPLITS.of(rules.element().of_output(step));
    elementwise(kernel, images * step.output.len())
}

/// The launch of top-k over `images` rows of logits.
pub fn top_k(images: usize) -> Launch {
    Launch { kernel: Kernel::TopK, grid: [images as u32, 1, 1], splits: 1 }
}

/// Elements of partial sums that `launch` of `step` writes.
pub fn partial_elements(launch: &Launch, step: &Step, images: usize) -> usize {
    if launch.splits > 1 { launch.splits * images * step.output.len() } else { 0 }
}

/// The most elements of partial sums that a launch of `step` for up to `batch` images writes.
pub fn most_partial_elements(step: &Step, batch: usize, rules: &Rules) -> usize {
    // Above this, two splits would already have more than is allowed.
    let split_at_most = MAX_PARTIAL / (2 * step.output.len().max(1));
    let elements = |images| partial_elements(&select(step, images, rules), step, images);
    (1..=batch.min(split_at_most)).map(elements).max().unwrap_or(0)
}

impl Problem {
    /// The product that `step` is; `None` for a step without weights.
    pub fn of(step: &Step, images: usize) -> Option<Self> {
        match step.kind {
            StepKind::Conv { conv, .. } => {
                let channels = step.input.c / conv.groups;
                let output = step.unpooled();
                Some(Problem {
                    gemm_m: images * output.h * output.w,
                    gemm_n: output.c / conv.groups,
                    gemm_k: conv.kernel * conv.kernel * channels,
                    groups: conv.groups,
                    channels,
                })
            }
            StepKind::Linear { .. } => {
                let channels = step.input.len();
                Some(Problem { gemm_m: images, gemm_n: step.output.c, gemm_k: channels, groups: 1, channels })
            }
            _ => None,
        }
    }

    /// The kernels that can compute it, the best first. There is at least one.
    pub fn candidates(&self, rules: &Rules) -> Vec<Candidate> {
        let legal = ConvConfig::all(rules.precision).into_iter().filter(|c| self.channels.is_multiple_of(c.channels));
        let mut candidates: Vec<Candidate> = vec![];
        for config in legal {
            // Where chunks need not be gathered, they are not.
            let vector = candidates.iter().any(|c| c.config.channels > 1);
            if config.channels == 1 && vector {
                continue;
            }
            for splits in SPLITS {
                let partial = splits * self.gemm_m * self.gemm_n * self.groups;
                if splits == 1 || (config.splits && !rules.deterministic && partial <= MAX_PARTIAL) {
                    let cycles = self.cycles(&config, self.gemm_m.div_ceil(config.block_m), splits, rules);
                    candidates.push(Candidate { config, splits, cycles });
                }
            }
        }
        candidates.sort_by(|a, b| a.cycles.total_cmp(&b.cycles)); // stable: the table's order among equals
        candidates
    }

    /// Modelled cycles of `row_blocks` blocks along GEMM_M, from what performance models of these kernels say of an A100 or
    /// H100: nothing here is measured.
    fn cycles(&self, config: &ConvConfig, row_blocks: usize, splits: usize, rules: &Rules) -> f64 {
        // Multiply-adds a cycle of a multiprocessor with mma.sync; of FMA for float32.
        let rate = match rules.precision {
            Precision::Float16 | Precision::Bfloat16 => 1024.0,
            Precision::Tf32 => 512.0,
            Precision::Float32 => 64.0,
        };
        const ROW_BYTES: f64 = 64.0; // of GEMM_K in a step
        const L2_BYTES: f64 = 64.0; // a cycle, into one multiprocessor
        const STEP_LATENCY: f64 = 400.0; // cycles that a lone block cannot hide
        const BLOCK_OVERHEAD: f64 = 2500.0; // cycles before the first product and after the last
        const SHARED_BYTES: f64 = 128.0; // a cycle, of a multiprocessor's shared memory
        const TENSOR_CORES: f64 = 4.0; // of a multiprocessor, each with warps of its own

        let tile = (config.block_m * config.block_n) as f64;
        let step_k = ROW_BYTES / rules.element().bytes() as f64;
        let compute = tile * step_k / rate;
        let load = (config.block_m + config.block_n) as f64 * ROW_BYTES / L2_BYTES;
        let warps = config.kernel.threads() as usize / 32;
        // Two rows of warps: what one reads of A the other columns' warps read too, and of B the other row's.
        let reads = config.block_m * (warps / 2).max(1) + config.block_n * 2;
        let shared = (reads + config.block_m + config.block_n) as f64 * ROW_BYTES / SHARED_BYTES;
        let steps = (self.gemm_k as f64 / step_k).ceil();
        let steps = (steps / splits as f64).ceil();
        let blocks = row_blocks * self.gemm_n.div_ceil(config.block_n) * self.groups * splits;
        let wave = |resident: usize| {
            let resident = resident as f64;
            let busy = (resident * warps as f64 / TENSOR_CORES).min(1.0);
            steps * (resident * (compute / busy).max(load).max(shared)).max(STEP_LATENCY) + BLOCK_OVERHEAD
        };
        let at_once = rules.multiprocessors * config.resident;
        let mut cycles = (blocks / at_once) as f64 * wave(config.resident);
        let rest = blocks % at_once;
        if rest > 0 {
            cycles += wave(rest.div_ceil(rules.multiprocessors));
        }
        if splits > 1 {
            let partial = (self.gemm_m * self.gemm_n * self.groups) as f64 * 4.0;
            cycles += LAUNCH + partial * (2 * splits) as f64 / DRAM_BYTES;
        }
        cycles
    }
}

/// The best candidate for a convolution, in a tower the best with as many splits as the whole network's has, so that sums are
/// in the same order; for a fully connected layer and few images, a GEMV.
fn product(step: &Step, images: usize, rules: &Rules) -> Launch {
    if let Some(launch) = gemv(step, images, rules) {
        return launch;
    }
    let problem = Problem::of(step, images).expect("the step has weights");
    let splits = step.half.as_ref().map(|half| select(&half.whole, images, rules).splits);
    let candidates = problem.candidates(rules);
    let best = candidates.iter().find(|candidate| splits.is_none_or(|splits| candidate.splits == splits));
    launch_of(&problem, best.expect("a half can be summed in as many parts as the whole"))
}

/// The GEMV for a fully connected layer and few images; `None` for all else.
fn gemv(step: &Step, images: usize, rules: &Rules) -> Option<Launch> {
    let (gemm_k, element) = (step.input.len(), rules.element());
    let takes = matches!(step.kind, StepKind::Linear { .. })
        && !rules.deterministic
        && gemm_k.is_multiple_of(16 / element.bytes());
    let (_, gemv) = kernels::GEMV.iter().find(|(most, _)| takes && images <= *most)?;
    let blocks = step.output.c.div_ceil(kernels::GEMV_FILTERS);
    Some(Launch { kernel: gemv.of(element), grid: [blocks as u32, 1, 1], splits: 1 })
}

/// The launch of a candidate.
pub fn launch_of(problem: &Problem, candidate: &Candidate) -> Launch {
    let ConvConfig { kernel, block_m, block_n, .. } = candidate.config;
    let grid = [
        problem.gemm_m.div_ceil(block_m) as u32,
        problem.gemm_n.div_ceil(block_n) as u32,
        (problem.groups * candidate.splits) as u32,
    ];
    Launch { kernel, grid, splits: candidate.splits }
}

fn elementwise(kernel: Kernel, threads: usize) -> Launch {
    striding(kernel, threads.div_ceil(kernel.threads() as usize))
}

/// A launch of a kernel whose blocks stride over what is left where there are fewer than `blocks`.
fn striding(kernel: Kernel, blocks: usize) -> Launch {
    Launch { kernel, grid: [blocks.min(MAX_ELEMENTWISE_BLOCKS) as u32, 1, 1], splits: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::fuse::fused;
    use crate::net::{Network, VARIANTS};
    use crate::plan::Plan;

    fn rules(precision: Precision, deterministic: bool) -> Rules {
        Rules { precision, multiprocessors: 132, deterministic, fc: None }
    }

    fn each_step(mut check: impl FnMut(&Step, usize, &Rules)) {
        for variant in &VARIANTS {
            let network = Network::published(variant, 1000).unwrap();
            for precision in Precision::ALL {
                for (images, deterministic) in [1, 2, 3, 8, 33, 256, 1024].map(|n| [(n, false), (n, true)]).concat() {
                    let rules = rules(precision, deterministic);
                    let plan = Plan::train(&network, images, &[]).unwrap();
                    for step in plan.steps.iter().chain(&fused(plan.clone(), &rules).steps) {
                        check(step, images, &rules);
                    }
                }
            }
        }
    }

    /// Grids cover every output and stay within what a device takes: 2^31 - 1 blocks in x, 65535 in y and z.
    #[test]
    fn grids_cover_every_step() {
        each_step(|step, images, rules| {
            let launch = select(step, images, rules);
            let [x, y, z] = launch.grid.map(|g| g as usize);
            assert!((1..1 << 31).contains(&x) && (1..=65535).contains(&y) && (1..=65535).contains(&z), "{launch:?}");
            assert!(launch.kernel.serves(rules.precision), "{launch:?}");
            let elements = images * step.output.len();
            let vector = 16 / rules.element().bytes();
            let threads = launch.kernel.threads() as usize;
            let name = launch.kernel.name();
            let covered = match ConvConfig::all(rules.precision).iter().find(|c| c.kernel == launch.kernel) {
                None if name.ends_with("_pool") && name.starts_with("conv") => return, // blocks are whole images
                Some(config) => x * y * (z / launch.splits) * config.block_m * config.block_n,
                None if name.starts_with("gemv") => x * kernels::GEMV_FILTERS * images,
                None if x == MAX_ELEMENTWISE_BLOCKS => return, // threads stride over the rest
                None if name.starts_with("dropout") => x * threads * DROPOUT_ELEMENTS,
                None if name.starts_with("max_pool_vector") || name.starts_with("lrn_vector") => x * threads * vector,
                None if name.starts_with("max_pool_lrn") => x * kernels::MAX_POOL_LRN_VECTORS * vector,
                None if name.starts_with("lrn_max_pool") => {
                    x * kernels::LRN_MAX_POOL_TILE.iter().product::<usize>() * vector
                }
                None if name.starts_with("space_to_depth") => x * kernels::SPACE_TO_DEPTH_TILE * step.output.c,
                None => x * threads,
            };
            assert!(covered >= elements, "{step:?} {launch:?}");
        });
    }

    /// With `deterministic`, nothing that changes the order of sums depends on the batch.
    #[test]
    fn deterministic_launches_sum_in_one_order() {
        each_step(|step, images, rules| {
            let launch = select(step, images, rules);
            if rules.deterministic {
                assert_eq!(launch.splits, 1, "{step:?}");
                assert!(!launch.kernel.name().starts_with("gemv"), "{step:?}");
            }
        });
    }

    /// cuBLASLt takes fully connected layers alone: all of them where it was asked for, those of more than eight images where
    /// nothing was, and none that must be deterministic or where our own kernels were asked for.
    #[test]
    fn cublaslt_is_for_fully_connected_layers() {
        each_step(|step, images, rules| {
            let linear = matches!(step.kind, StepKind::Linear { .. });
            let deterministic = rules.deterministic;
            for (fc, expected) in [
                (Some(Fc::Own), false),
                (None, linear && images > 8 && !deterministic),
                (Some(Fc::CublasLt), linear), // with deterministic, refused before
            ] {
                let rules = Rules { fc, ..*rules };
                assert_eq!(route(step, images, &rules) == Route::CublasLt, expected, "{rules:?}, {images}, {step:?}");
                let own = route(step, images, &Rules { fc: Some(Fc::Own), ..rules });
                assert_eq!(own, Route::Kernel(select(step, images, &rules)));
            }
        });
    }

    /// Few images leave most multiprocessors idle: there GEMM_K is split, and for a full GPU it is not.
    #[test]
    fn splits_are_for_small_batches() {
        let network = Network::published(&VARIANTS[0], 1000).unwrap();
        let plan = Plan::new(&network, 256, &[]).unwrap();
        let conv3 = plan.steps.iter().find(|step| step.layers[0] == "conv3").unwrap();
        let rules = rules(Precision::Float16, false);
        assert!(select(conv3, 1, &rules).splits > 1);
        assert_eq!(select(conv3, 256, &rules).splits, 1);
    }

    /// The bound that sessions allocate by is what their launches need.
    #[test]
    fn partial_sums_fit_their_workspace() {
        let network = Network::published(&VARIANTS[1], 1000).unwrap();
        let plan = Plan::new(&network, 300, &[]).unwrap();
        let rules = rules(Precision::Float16, false);
        for step in &plan.steps {
            let needed = (1..=300).map(|n| partial_elements(&select(step, n, &rules), step, n)).max().unwrap();
            assert_eq!(most_partial_elements(step, 300, &rules), needed, "{step:?}");
            assert!(needed <= MAX_PARTIAL);
        }
    }

    /// Published widths are multiples of 8 everywhere but at the input; the gather is for odd checkpoints.
    #[test]
    fn gathering_is_for_channels_that_are_no_multiple_of_a_chunk() {
        let problem = |channels| Problem { gemm_m: 100, gemm_n: 64, gemm_k: 9 * channels, groups: 1, channels };
        for (precision, chunk) in [(Precision::Tf32, 4), (Precision::Float16, 8), (Precision::Bfloat16, 8)] {
            for channels in 1..40 {
                let candidates = problem(channels).candidates(&rules(precision, true));
                let gathers = candidates.iter().any(|c| c.config.channels == 1);
                assert_eq!(gathers, channels % chunk != 0, "{channels}");
                assert_eq!(candidates.len(), if gathers { 1 } else { 3 });
            }
        }
    }
}

//! The CPU backend: f32 on a rayon pool, NHWC activations, weights laid out once. [`CpuTowers`] is its like for a network in
//! two towers, on two pools.
//!
//! A file a kernel; [`naive`] is the oracle that all of them are tested against.

mod ceilings;
mod clock;
mod conv;
mod dropout;
mod gemm;
mod linear;
mod lrn;
pub mod naive;
mod pipeline;
mod pool;
mod preprocess;
mod softmax;
mod towers;

use std::sync::Arc;
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};

pub use towers::CpuTowers;

use clock::Clock;
use pipeline::CpuPipeline;
use softmax::TopK;

use crate::backend::{
    Activation, Backend, Holding, Input, Pipeline, Prediction, Score, Session, StepAsRun, Timeline, Work,
};
use crate::net::{Network, Op, Shape};
use crate::pixels::Pixels;
use crate::plan::{Plan, Step, StepKind};
use crate::record::Ceilings;
use crate::weights::{LayerWeights, Weights};
use crate::{Error, Result};

/// A network's weights on the CPU.
pub struct CpuBackend {
    shared: Arc<Shared>,
}

/// What every session needs.
struct Shared {
    network: Network,
    group: Group,
}

/// Threads, and the weights that they compute with.
struct Group {
    threads: usize,
    pool: ThreadPool,
    /// One a weighted layer, conv1 = 0.
    layers: Vec<PackedLayer>,
}

/// A weighted layer in the layout its kernel reads.
enum PackedLayer {
    Conv(conv::Filters),
    Linear(linear::Matrix),
}

impl Group {
    /// # Errors
    /// [`Error::Device`] when the threads cannot be started.
    fn new(threads: usize, layers: Vec<PackedLayer>) -> Result<Self> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("alexnet-cpu-{i}"));
        let pool = pool.build().map_err(|e| Error::Device(format!("cannot start {threads} threads: {e}; lower -j")))?;
        Ok(Group { threads, pool, layers })
    }

    /// Bytes that the weights take.
    fn weights(&self) -> usize {
        self.layers.iter().map(PackedLayer::bytes).sum()
    }
}

impl PackedLayer {
    /// `weights` of a layer of PyTorch's layout that does `op`, and takes `input`.
    fn pack(op: Op, input: Shape, weights: LayerWeights) -> Self {
        match op {
            Op::Conv(conv) => PackedLayer::Conv(conv::Filters::pack(conv, weights)),
            _ => PackedLayer::Linear(linear::Matrix::pack(input, weights)),
        }
    }

    /// Bytes that it takes.
    fn bytes(&self) -> usize {
        let elements = match self {
            PackedLayer::Conv(filters) => filters.len(),
            PackedLayer::Linear(matrix) => matrix.len(),
        };
        size_of::<f32>() * elements
    }

    /// Filters or outputs.
    fn width(&self) -> usize {
        match self {
            PackedLayer::Conv(filters) => filters.width(),
            PackedLayer::Linear(matrix) => matrix.width(),
        }
    }
}

impl CpuBackend {
    /// Lays out `weights` for the kernels and starts `threads` threads.
    ///
    /// # Errors
    /// [`Error::Device`] when the threads cannot be started.
    pub fn new(weights: Weights, threads: usize) -> Result<Self> {
        let (network, layers) = weights.into_parts();
        let layers = network.weighted().zip(layers);
        let layers = layers.map(|(node, layer)| PackedLayer::pack(node.layer.op, node.input, layer)).collect();
        Ok(CpuBackend { shared: Arc::new(Shared { group: Group::new(threads, layers)?, network }) })
    }

    fn open(&self, plan: Plan) -> Result<CpuSession> {
        plan.check(&self.shared.network)?;
        let buffers = buffers(&plan)?;
        Ok(CpuSession { shared: Arc::clone(&self.shared), plan, buffers, images: 0, seed: 0, top_k: TopK::default() })
    }
}

impl Backend for CpuBackend {
    fn description(&self) -> String {
        format!("CPU, {}, float32", threads(self.shared.group.threads))
    }

    fn session(&self, plan: Plan) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.open(plan)?))
    }

    fn pipeline(&self, plan: Plan, k: usize, score: Score) -> Result<Box<dyn Pipeline>> {
        Ok(Box::new(CpuPipeline::new(self.session(plan)?, k, score)))
    }

    fn pixels(&self, len: usize) -> Result<Pixels> {
        pixels(len)
    }

    fn holdings(&self, plan: Plan) -> Result<Vec<Holding>> {
        let buffers = bytes(&self.open(plan)?.buffers);
        Ok(vec![Holding { place: self.description(), weights: self.shared.group.weights(), buffers }])
    }

    fn steps(&self, plan: &Plan) -> Result<Vec<Vec<StepAsRun>>> {
        plan.check(&self.shared.network)?;
        Ok(vec![as_run(plan, self.shared.group.threads)])
    }

    fn ceilings(&self) -> Result<Ceilings> {
        ceilings::measure(self.shared.group.threads)
    }
}

/// The steps of `plan`, and what runs each of them for its batch.
fn as_run(plan: &Plan, count: usize) -> Vec<StepAsRun> {
    let how = |step: &Step| match step.kind {
        StepKind::Conv { .. } => "im2col + gemm",
        StepKind::Linear { .. } => linear::how(plan.batch),
        _ => "loops",
    };
    let steps = plan.steps.iter();
    steps.map(|step| StepAsRun { step: step.clone(), kernel: format!("{}, {}", how(step), threads(count)) }).collect()
}

/// In words.
fn threads(count: usize) -> String {
    format!("{count} thread{}", if count == 1 { "" } else { "s" })
}

fn pixels(len: usize) -> Result<Pixels> {
    Pixels::zeroed(len).ok_or_else(|| {
        Error::DeviceMemory(format!("not enough memory for {} MB of pixels; lower --batch-size", len >> 20))
    })
}

/// One a buffer of the plan, for its batch.
fn buffers(plan: &Plan) -> Result<Vec<Vec<f32>>> {
    plan.buffers.iter().map(|elements| zeroed(elements * plan.batch)).collect()
}

/// `len` zeros, which take memory only once they are written, or an error where the system refuses that much.
fn zeroed(len: usize) -> Result<Vec<f32>> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| {
        Error::Device(format!("not enough memory for a buffer of {} MB; lower --batch-size", (len * 4) >> 20))
    })
}

/// Bytes of all of `buffers`.
fn bytes<'a>(buffers: impl IntoIterator<Item = &'a Vec<f32>>) -> usize {
    buffers.into_iter().map(|buffer| size_of::<f32>() * buffer.len()).sum()
}

struct CpuSession {
    shared: Arc<Shared>,
    plan: Plan,
    /// One a plan buffer, for `plan.batch` images.
    buffers: Vec<Vec<f32>>,
    /// Images of the last run.
    images: usize,
    seed: u64,
    top_k: TopK,
}

impl CpuSession {
    fn run_steps(&mut self, input: Input<'_>, clock: &mut Clock) -> Result<()> {
        self.images = input.images(&self.plan)?;
        if self.images == 0 {
            return Ok(());
        }
        let CpuSession { shared, plan, buffers, images, seed, .. } = self;
        let Group { pool, layers, .. } = &shared.group;
        pool.install(|| {
            for step in &plan.steps {
                // Taken out of the list, so that source and target can be borrowed at once; a plan never has them equal.
                let mut target = std::mem::take(&mut buffers[step.target]);
                let output = &mut target[..*images * step.output.len()];
                match step.source {
                    None => start(step, input, output),
                    Some(source) => {
                        let source = &buffers[source][..*images * step.input.len()];
                        run_step(step, layers, *images, *seed, source, output);
                    }
                }
                buffers[step.target] = target;
                clock.done(|| Work::Layers(step.layers.clone()));
            }
        });
        Ok(())
    }
}

impl Session for CpuSession {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn reseed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn run(&mut self, input: Input<'_>) -> Result<()> {
        self.run_steps(input, &mut Clock::idle())
    }

    fn logits(&mut self) -> Result<&[f32]> {
        let step = self.plan.logits();
        Ok(&self.buffers[step.target][..self.images * step.output.len()])
    }

    fn top_k(&mut self, k: usize, score: Score) -> Result<&[Prediction]> {
        let step = self.plan.logits();
        let logits = &self.buffers[step.target][..self.images * step.output.len()];
        Ok(self.top_k.find(logits, step.output.len(), k, score))
    }

    fn activation(&mut self, name: &str) -> Result<Activation> {
        let step = self.plan.kept(name)?;
        let Shape { h, w, c } = step.output;
        let values = self.buffers[step.target][..self.images * step.output.len()].to_vec();
        Ok(Activation { shape: [self.images, h, w, c], values })
    }

    fn timeline(&mut self, input: Input<'_>) -> Result<Timeline> {
        let mut clock = Clock::from(Instant::now());
        self.run_steps(input, &mut clock)?;
        Ok(Timeline { tracks: vec![clock.track("CPU".into())] })
    }
}

/// The first step: pixels are preprocessed, a tensor is taken as it is.
fn start(step: &Step, input: Input<'_>, output: &mut [f32]) {
    match (input, step.kind) {
        (Input::Pixels(pixels), StepKind::Preprocess { preprocess, .. }) => {
            preprocess::forward(&preprocess, pixels, output)
        }
        (Input::Tensor(values), _) => output.copy_from_slice(values),
        _ => unreachable!("a plan's first step is its preprocessing"),
    }
}

fn run_step(step: &Step, layers: &[PackedLayer], images: usize, seed: u64, source: &[f32], output: &mut [f32]) {
    match step.kind {
        StepKind::Conv { conv, weights, relu, .. } => {
            let PackedLayer::Conv(filters) = &layers[weights] else { unreachable!("packed from the same network") };
            conv::forward(filters, conv, relu, step.input, step.output, source, output);
        }
        StepKind::Linear { weights, relu } => {
            let PackedLayer::Linear(matrix) = &layers[weights] else { unreachable!("packed from the same network") };
            linear::forward(matrix, relu, images, source, output);
        }
        StepKind::Lrn(lrn) => lrn::forward(&lrn, step, source, output),
        StepKind::MaxPool(pool) => pool::max(pool, step.input, step.output, source, output),
        StepKind::AvgPool => pool::adaptive_avg(step.input, step.output, source, output),
        StepKind::Dropout { p, layer } => dropout::forward(p, layer, seed, source, output),
        StepKind::Preprocess { .. } => unreachable!("only the first step, which has no source"),
        StepKind::LrnMaxPool(..) | StepKind::MaxPoolLrn(..) => unreachable!("Plan::check refuses a device's own steps"),
    }
}

/// Adds `bias` (K) to every row of `output` (rows, K), then ReLU if asked for; a NaN stays a NaN.
fn bias_relu(output: &mut [f32], bias: &[f32], relu: bool) {
    for row in output.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            let sum = *value + bias;
            *value = if relu && sum < 0.0 { 0.0 } else { sum };
        }
    }
}

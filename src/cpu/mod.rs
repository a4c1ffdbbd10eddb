//! The CPU backend: f32 on a rayon pool, NHWC activations, weights laid out once.
//!
//! A file a kernel; [`naive`] is the oracle that all of them are tested against.

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

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use pipeline::CpuPipeline;
use softmax::TopK;

use crate::backend::{
    Activation, Backend, Holding, Input, Pipeline, Prediction, Score, Session, Span, Timeline, Track, Work,
};
use crate::net::{Network, Op, Shape};
use crate::pixels::Pixels;
use crate::plan::{Plan, Step, StepKind};
use crate::weights::Weights;
use crate::{Error, Result};

/// A network's weights on the CPU.
pub struct CpuBackend {
    threads: usize,
    shared: Arc<Shared>,
}

/// What every session needs.
struct Shared {
    pool: ThreadPool,
    network: Network,
    layers: Vec<PackedLayer>,
}

/// A weighted layer in the layout its kernel reads.
enum PackedLayer {
    Conv(conv::Filters),
    Linear(linear::Matrix),
}

impl CpuBackend {
    /// Lays out `weights` for the kernels and starts `threads` threads.
    ///
    /// # Errors
    /// [`Error::Device`] when the threads cannot be started.
    pub fn new(weights: Weights, threads: usize) -> Result<Self> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("alexnet-cpu-{i}"));
        let pool = pool.build().map_err(|e| Error::Device(format!("cannot start {threads} threads: {e}; lower -j")))?;
        let (network, layers) = weights.into_parts();
        let layers = network.weighted().zip(layers).map(|(node, layer)| match node.layer.op {
            Op::Conv(conv) => PackedLayer::Conv(conv::Filters::pack(conv, layer)),
            _ => PackedLayer::Linear(linear::Matrix::pack(node.input, layer)),
        });
        let layers = layers.collect();
        Ok(CpuBackend { threads, shared: Arc::new(Shared { pool, network, layers }) })
    }
}

impl Backend for CpuBackend {
    fn description(&self) -> String {
        let threads = self.threads;
        format!("CPU, {threads} thread{}, float32", if threads == 1 { "" } else { "s" })
    }

    fn session(&self, plan: Plan) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.open(plan)?))
    }

    fn pipeline(&self, plan: Plan, k: usize, score: Score) -> Result<Box<dyn Pipeline>> {
        let k = k.clamp(1, plan.classes());
        Ok(Box::new(CpuPipeline { session: self.open(plan)?, k, score, waiting: None }))
    }

    fn pixels(&self, len: usize) -> Result<Pixels> {
        Pixels::zeroed(len).ok_or_else(|| {
            Error::DeviceMemory(format!("not enough memory for {} MB of pixels; lower --batch-size", len >> 20))
        })
    }

    fn holdings(&self, plan: Plan) -> Result<Vec<Holding>> {
        plan.check(&self.shared.network)?;
        let weights = self.shared.network.parameters().map(|parameter| 4 * parameter.len()).sum();
        let buffers = 4 * plan.batch * plan.buffers.iter().sum::<usize>();
        Ok(vec![Holding { place: self.description(), weights, buffers }])
    }
}

impl CpuBackend {
    fn open(&self, plan: Plan) -> Result<CpuSession> {
        plan.check(&self.shared.network)?;
        let buffers = plan.buffers.iter().map(|elements| zeroed(elements * plan.batch)).collect::<Result<_>>()?;
        Ok(CpuSession { shared: Arc::clone(&self.shared), plan, buffers, images: 0, seed: 0, top_k: TopK::default() })
    }
}

/// `len` zeros, which take memory only once they are written, or an error where the system refuses that much.
fn zeroed(len: usize) -> Result<Vec<f32>> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| {
        Error::Device(format!("not enough memory for a buffer of {} MB; lower --batch-size", (len * 4) >> 20))
    })
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
    /// Runs the plan, and tells `done` after each step.
    fn run_steps(&mut self, input: Input<'_>, mut done: impl FnMut(&Step) + Send) -> Result<()> {
        self.images = input.images(&self.plan)?;
        if self.images == 0 {
            return Ok(());
        }
        let CpuSession { shared, plan, buffers, images, seed, .. } = self;
        shared.pool.install(|| {
            for step in &plan.steps {
                // Taken out of the list, so that source and target can be borrowed at once; a plan never has them equal.
                let mut target = std::mem::take(&mut buffers[step.target]);
                let output = &mut target[..*images * step.output.len()];
                match step.source {
                    None => start(step, input, output),
                    Some(source) => {
                        let source = &buffers[source][..*images * step.input.len()];
                        run_step(step, &shared.layers, *images, *seed, source, output);
                    }
                }
                buffers[step.target] = target;
                done(step);
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
        self.run_steps(input, |_| ())
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
        let (start, mut spans) = (Instant::now(), vec![]);
        let mut last = Duration::ZERO;
        self.run_steps(input, |step| {
            let now = start.elapsed();
            let begin = std::mem::replace(&mut last, now);
            spans.push(Span { work: Work::Layers(step.layers.clone()), begin, end: now });
        })?;
        Ok(Timeline { tracks: vec![Track { place: "CPU".into(), spans }] })
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
        StepKind::Conv { weights, relu, .. } => {
            let PackedLayer::Conv(filters) = &layers[weights] else { unreachable!("packed from the same network") };
            conv::forward(filters, relu, step.input, step.output, source, output);
        }
        StepKind::Linear { weights, relu } => {
            let PackedLayer::Linear(matrix) = &layers[weights] else { unreachable!("packed from the same network") };
            linear::forward(matrix, relu, images, source, output);
        }
        StepKind::Lrn(lrn) => lrn::forward(&lrn, step.input.c, source, output),
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

//! The CPU backend: f32 on a rayon pool, NHWC activations, weights laid out once. [`CpuTowers`] is its like for a network in
//! two towers, on two pools.
//!
//! A file a kernel; [`naive`] is the oracle that all of them are tested against.

mod ceilings;
mod clock;
mod conv;
mod crew;
mod direct;
mod dropout;
mod explain;
mod gemm;
mod group;
mod linear;
mod lrn;
mod memory;
pub mod naive;
mod pipeline;
mod pool;
mod preprocess;
mod session;
mod softmax;
mod team;
mod towers;
mod vector;
mod winograd;

use std::sync::Arc;

pub use conv::Algorithm;
pub use explain::explain;
pub use towers::CpuTowers;
pub use vector::Isa;

use group::{Group, PackedLayer};
use pipeline::CpuPipeline;
use preprocess::Table;
use session::CpuSession;
use team::Team;

use crate::backend::{Backend, Holding, Input, Pipeline, Score, Session, StepAsRun};
use crate::net::Network;
use crate::options::Precision;
use crate::pixels::Pixels;
use crate::plan::{Plan, Step, StepKind};
use crate::record::Ceilings;
use crate::weights::StoredWeights;
use crate::{Error, Result};

/// A network's weights on the CPU.
pub struct CpuBackend {
    settings: Settings,
    shared: Arc<Shared>,
}

/// What every session needs.
struct Shared {
    network: Network,
    table: Table,
    group: Group,
}

/// How a network is computed on the CPU.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Threads, at least 1.
    pub threads: usize,
    /// Whether the weights of fully connected layers are stored in half precision.
    pub float16: bool,
    /// The instructions that kernels are compiled for.
    pub isa: Isa,
}

impl Settings {
    /// `threads` threads, everything in float32, the best instructions there are.
    pub fn new(threads: usize) -> Self {
        Settings { threads, float16: false, isa: Isa::best() }
    }

    fn check(&self) -> Result<()> {
        match self.threads {
            0 => Err(Error::Usage("the CPU computes on one thread at least".into())),
            _ => Ok(()),
        }
    }

    fn precision(&self) -> Precision {
        if self.float16 { Precision::Float16 } else { Precision::Float32 }
    }

    /// What is computed in, in words.
    fn arithmetic(&self) -> &'static str {
        if self.float16 { "float32 with float16 weights in fully connected layers" } else { "float32" }
    }
}

/// The weighted steps of `network`, in order.
fn weighted(network: &Network) -> Result<impl Iterator<Item = Step> + Send + use<>> {
    let steps = Plan::new(network, 1, &[])?.steps;
    Ok(steps.into_iter().filter(|step| step.weights().is_some()))
}

impl CpuBackend {
    /// Starts threads, which read `weights` and lay them out for the kernels.
    ///
    /// # Errors
    /// [`Error::Weights`] with every tensor that is not finite, [`Error::Device`] when the threads cannot be started or memory is
    /// short, [`Error::Usage`] for no threads, and for weights that the settings' type does not hold.
    pub fn new(weights: impl Into<StoredWeights>, settings: Settings) -> Result<Self> {
        settings.check()?;
        let (network, layers) = weights.into().into_parts();
        let group = Group::new(&settings, settings.threads, weighted(&network)?.zip(layers))?;
        let table = Table::new(&network.variant.preprocess);
        Ok(CpuBackend { settings, shared: Arc::new(Shared { group, table, network }) })
    }

    fn open(&self, plan: Plan) -> Result<CpuSession> {
        plan.check(&self.shared.network)?;
        CpuSession::new(Arc::clone(&self.shared), plan)
    }
}

impl Backend for CpuBackend {
    fn description(&self) -> String {
        format!("CPU, {}, {}", threads(self.settings.threads), self.settings.arithmetic())
    }

    fn session(&self, plan: Plan) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.open(plan)?))
    }

    fn pipeline(&self, plan: Plan, k: usize, score: Score) -> Result<Box<dyn Pipeline>> {
        Ok(Box::new(CpuPipeline::new(self.session(plan)?, k, score, self.settings.precision())))
    }

    fn pixels(&self, len: usize) -> Result<Pixels> {
        pixels(len)
    }

    fn holdings(&self, plan: Plan) -> Result<Vec<Holding>> {
        let buffers = self.open(plan)?.bytes();
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

/// The steps of `plan`, and what runs each of them.
fn as_run(plan: &Plan, count: usize) -> Vec<StepAsRun> {
    let as_run = |step: &Step| StepAsRun {
        step: step.clone(),
        kernel: format!("{}, {}", explain::how(step), threads(count)),
        multiplications: explain::multiplications(step, plan.batch),
    };
    plan.steps.iter().map(as_run).collect()
}

/// In words.
fn threads(count: usize) -> String {
    format!("{count} thread{}", if count == 1 { "" } else { "s" })
}

fn pixels(len: usize) -> Result<Pixels> {
    Pixels::zeroed(len).ok_or_else(|| memory::refused(len, 1, &"the system refuses it"))
}

/// `len` zeros, which take memory only once they are written, or an error where the system refuses that much.
fn zeroed(len: usize) -> Result<Vec<f32>> {
    bytemuck::allocation::try_zeroed_vec(len)
        .map_err(|()| memory::refused(len, size_of::<f32>(), &"the system refuses it"))
}

/// The first step: pixels are preprocessed, a tensor is taken as it is.
fn start(step: &Step, table: &Table, team: &Team<'_>, input: Input<'_>, output: &mut [f32]) {
    match (input, step.kind) {
        (Input::Pixels(pixels), StepKind::Preprocess { .. }) => table.forward(team, pixels, output),
        (Input::Tensor(values), _) => output.copy_from_slice(values),
        _ => unreachable!("a plan's first step is its preprocessing"),
    }
}

/// A step after the first, on threads of `group`.
fn run_step(step: &Step, group: &Group, team: &Team<'_>, images: usize, seed: u64, source: &[f32], output: &mut [f32]) {
    match step.kind {
        StepKind::Conv { weights, relu, .. } => {
            let PackedLayer::Conv(filters) = &group.layers[weights] else {
                unreachable!("packed for the same network")
            };
            filters.forward(relu, team, images, source, output);
        }
        StepKind::Linear { weights, relu } => {
            let PackedLayer::Linear(matrix) = &group.layers[weights] else {
                unreachable!("packed for the same network")
            };
            matrix.forward(relu, team, images, source, output);
        }
        StepKind::Lrn(lrn) => lrn::forward(&lrn, step, team, source, output),
        StepKind::MaxPool(pool) => pool::max(pool, step.input, step.output, team, source, output),
        StepKind::AvgPool => pool::adaptive_avg(step.input, step.output, team, source, output),
        StepKind::Dropout { p, layer } => dropout::forward(p, layer, seed, team, source, output),
        StepKind::Preprocess { .. } => unreachable!("only the first step, which has no source"),
        StepKind::LrnMaxPool(..) | StepKind::MaxPoolLrn(..) => unreachable!("Plan::check refuses a device's own steps"),
    }
}

//! Threads, and the weights that they compute with.

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::crew::Crew;
use super::memory::{Scratch, unless_refused};
use super::team::{Ahead, Team};
use super::vector::Isa;
use super::{Settings, conv, linear};
use crate::net::Shape;
use crate::plan::{Step, StepKind};
use crate::weights::{StoredLayer, all_or_problems};
use crate::{Error, Result};

pub struct Group {
    pub threads: usize,
    pub pool: ThreadPool,
    isa: Isa,
    /// One a weighted layer, conv1 = 0.
    pub layers: Vec<PackedLayer>,
}

/// A weighted layer in the layout its kernel reads.
pub enum PackedLayer {
    Conv(conv::Filters),
    Linear(linear::Matrix),
}

impl Group {
    /// Starts `threads` threads, which then lay out the weights of some steps.
    ///
    /// # Errors
    /// [`Error::Weights`] with every tensor that is not finite, [`Error::Device`] when the threads cannot be started or memory is
    /// short, [`Error::Usage`] for weights that the settings' type does not hold.
    pub fn new(
        settings: &Settings,
        threads: usize,
        steps: impl Iterator<Item = (Step, StoredLayer)> + Send,
    ) -> Result<Self> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("alexnet-cpu-{i}"));
        let pool = pool.build().map_err(|e| Error::Device(format!("cannot start {threads} threads: {e}; lower -j")))?;
        // One after the other, so that a layer is not held twice for longer than it takes.
        let pack = |(step, weights)| PackedLayer::pack(&step, &weights, settings);
        let layers = pool.install(|| all_or_problems(steps.map(pack)))?;
        Ok(Group { threads, pool, isa: settings.isa, layers })
    }

    /// Does `work` on its threads, whose tasks work in `scratch`. `work` must not wait for rayon's threads, all of which help. A run
    /// that ends while another thread begins one may find that one's work before it returns.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] where the system refuses what `scratch` is asked for.
    pub fn run<R: Send>(&self, scratch: &Scratch, work: impl FnOnce(Team<'_>) -> R + Send) -> Result<R> {
        let crew = &Crew::new();
        let lead = || {
            rayon::scope(|scope| {
                for _ in 1..self.threads {
                    scope.spawn(|_| crew.help());
                }
                let _ends = crew.ends();
                work(Team { isa: self.isa, threads: self.threads, crew, scratch, ahead: None })
            })
        };
        unless_refused(|| self.pool.install(lead))
    }

    /// The first `bytes` of weights that `step` reads, where it has some that are read but once.
    pub fn ahead(&self, step: Option<&Step>, bytes: usize) -> Option<Ahead> {
        match &self.layers[step?.weights()?] {
            PackedLayer::Linear(matrix) => Some(matrix.ahead(bytes)),
            PackedLayer::Conv(_) => None,
        }
    }

    /// Bytes that the weights take.
    pub fn weights(&self) -> usize {
        self.layers.iter().map(PackedLayer::bytes).sum()
    }
}

impl PackedLayer {
    /// `weights` of PyTorch's layout for `step`.
    fn pack(step: &Step, weights: &StoredLayer, settings: &Settings) -> Result<Self> {
        let Shape { h, w, .. } = step.output;
        Ok(match step.kind {
            StepKind::Conv { conv, .. } => {
                PackedLayer::Conv(conv::Filters::pack(conv, step.input, (h, w), &weights.read()?)?)
            }
            _ => PackedLayer::Linear(linear::Matrix::pack(step.input, weights, settings.float16)?),
        })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        match self {
            PackedLayer::Conv(filters) => filters.bytes(),
            PackedLayer::Linear(matrix) => matrix.bytes(),
        }
    }

    /// Filters or outputs.
    pub fn width(&self) -> usize {
        match self {
            PackedLayer::Conv(filters) => filters.width(),
            PackedLayer::Linear(matrix) => matrix.width(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Whoever is refused memory, the run ends with that, and the next one is whole.
    #[test]
    fn refused_memory_ends_the_run() {
        let group = Group::new(&Settings::new(3), 3, std::iter::empty()).unwrap();
        let scratch = Scratch::default();
        for asking in 0..8 {
            let run = |most: usize| {
                let done = AtomicUsize::new(0);
                let task = |task: usize| {
                    let len = if task == asking { most } else { 16 };
                    scratch.with(len, |piece| done.fetch_add(piece.len() / len, Ordering::Relaxed));
                };
                group.run(&scratch, |team| team.for_each(8, task)).map(|()| done.into_inner())
            };
            let refused = run(usize::MAX / 8);
            assert!(matches!(refused, Err(Error::DeviceMemory(_))), "task {asking}: {refused:?}");
            assert_eq!(run(32).unwrap(), 8, "task {asking}");
        }
    }
}

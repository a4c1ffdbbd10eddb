//! Ranges for NVIDIA's profilers, on the thread that queues: Nsight Systems shows them above the kernels that they queued.
//! Without a profiler they do nothing, in a tenth of a microsecond.

use std::fmt;

use crate::plan::Step;

/// From now until it is dropped, on this thread.
pub(super) struct Range(());

impl Range {
    /// Named `name`.
    pub(super) fn new(name: impl fmt::Display) -> Self {
        nvtx::range_push!("{name}");
        Range(())
    }

    /// Named like the step's layers.
    pub(super) fn step(step: &Step) -> Self {
        Self::new(step.name())
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        nvtx::range_pop!();
    }
}

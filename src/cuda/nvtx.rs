//! Ranges for NVIDIA's profilers, on the thread that queues: Nsight Systems shows them above the kernels that they queued.

use std::fmt;
use std::sync::OnceLock;

use crate::plan::Step;

/// From now until it is dropped, on this thread. Without a profiler it is nothing, and costs some nanoseconds.
pub(super) struct Range {
    is_heard: bool,
}

impl Range {
    /// Named `name`.
    pub(super) fn new(name: fmt::Arguments<'_>) -> Self {
        let is_heard = listens();
        if is_heard {
            nvtx::range_push!("{name}");
        }
        Range { is_heard }
    }

    /// Named like the step.
    pub(super) fn step(step: &Step) -> Self {
        match listens() {
            true => Self::new(format_args!("{}", step.name())),
            false => Range { is_heard: false },
        }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if self.is_heard {
            nvtx::range_pop!();
        }
    }
}

/// Whether there is a profiler, which NVTX finds by this variable alone. Names are not made for nobody.
fn listens() -> bool {
    static LISTENS: OnceLock<bool> = OnceLock::new();
    *LISTENS.get_or_init(|| std::env::var_os("NVTX_INJECTION64_PATH").is_some())
}

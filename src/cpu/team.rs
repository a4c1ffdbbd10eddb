//! Threads that share a step.

use rayon::prelude::*;

use super::memory::Scratch;
use super::vector::Isa;

/// What a step computes with, on a thread of the pool that it is of.
#[derive(Clone, Copy)]
pub struct Team<'a> {
    pub isa: Isa,
    /// Threads that share a step, at least 1.
    pub threads: usize,
    pub scratch: &'a Scratch,
}

impl Team<'_> {
    /// The same without the others, for a step that has other tasks beside it.
    pub fn alone(self) -> Self {
        Team { threads: 1, ..self }
    }

    /// Calls `task` with each number below `tasks`, on all threads, and returns when all are done. Tasks must not wait for each
    /// other.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync + Send) {
        if self.threads == 1 || tasks <= 1 {
            (0..tasks).for_each(task);
        } else {
            (0..tasks).into_par_iter().with_max_len(1).for_each(task);
        }
    }
}

/// Memory of which tasks write parts that do not overlap.
pub struct Parts<T>(*mut T);

impl<T> Parts<T> {
    pub fn of(memory: &mut [T]) -> Self {
        Parts(memory.as_mut_ptr())
    }

    /// The first element.
    pub fn start(&self) -> *mut T {
        self.0
    }
}

// SAFETY: a pointer alone; whoever writes through it says why no other task does.
unsafe impl<T: Send> Sync for Parts<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<T> {}

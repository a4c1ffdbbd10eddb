//! Threads that share a step.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::crew::Crew;
use super::memory::Scratch;
use super::vector::{Isa, prefetch};

/// What a step computes with, on the thread that leads.
#[derive(Clone, Copy)]
pub struct Team<'a> {
    pub isa: Isa,
    /// Threads that share a step, at least 1.
    pub threads: usize,
    /// The others.
    pub crew: &'a Crew,
    pub scratch: &'a Scratch,
    /// What the threads will read when they are done with this, where there is time to ask for it.
    pub ahead: Option<&'a Ahead>,
}

/// Memory that is to be in a cache by the time that it is read.
pub struct Ahead {
    start: *const u8,
    bytes: usize,
    /// Bytes that were asked for.
    asked: AtomicUsize,
}

impl Ahead {
    /// Bytes of a cache line.
    const LINE: usize = 64;

    /// The first `bytes` of `memory`, or all of it.
    pub fn of<T>(memory: &[T], bytes: usize) -> Self {
        Ahead { start: memory.as_ptr().cast(), bytes: bytes.min(size_of_val(memory)), asked: AtomicUsize::new(0) }
    }

    /// Asks for the next `lines` cache lines.
    fn ask(&self, lines: usize) {
        let first = self.asked.fetch_add(lines * Self::LINE, Ordering::Relaxed);
        for byte in (first..self.bytes.min(first.saturating_add(lines * Self::LINE))).step_by(Self::LINE) {
            prefetch(self.start.wrapping_add(byte));
        }
    }
}

// SAFETY: the address is for hints alone, which read nothing that the program sees.
unsafe impl Sync for Ahead {}

impl Team<'_> {
    /// The same without the others, for a step that has other tasks beside it.
    pub fn alone(self) -> Self {
        Team { threads: 1, ..self }
    }

    /// Asks for a part of what is read next: to be called between parts of a step that leave the memory idle.
    pub fn look_ahead(&self, lines: usize) {
        if let Some(ahead) = self.ahead {
            ahead.ask(lines);
        }
    }

    /// Calls `task` with each number below `tasks`, on all threads, and returns when all are done. Tasks must not wait for each
    /// other, and have a team of their own [alone](Self::alone).
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if self.threads == 1 || tasks <= 1 {
            (0..tasks).for_each(task);
        } else {
            self.crew.for_each(tasks, &task);
        }
    }

    /// As [`for_each`](Self::for_each), with a task for each `len` elements of `values`, the last of which may be fewer.
    pub fn for_each_chunk<T: Send>(&self, values: &mut [T], len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let (all, parts) = (values.len(), &Parts::of(values));
        self.for_each(all.div_ceil(len), |number| {
            let start = number * len;
            // SAFETY: chunks are within the values and do not overlap, and each has one task.
            task(number, unsafe { std::slice::from_raw_parts_mut(parts.start().add(start), len.min(all - start)) });
        });
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

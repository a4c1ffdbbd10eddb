//! Threads that wait awake for the next part of a run.
//!
//! A run of one picture has some thirty parts of a tenth of a millisecond, each of which needs the one before it. A thread that
//! slept between two of them would be woken for as long as a part takes.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What one thread leads and others help with.
pub struct Crew {
    /// Odd while there is a part to help with, even between them; [`ENDED`] when there will be no more.
    turn: AtomicUsize,
    /// Whether a part is led: by one thread at a time.
    led: AtomicBool,
    /// The part of this turn.
    part: UnsafeCell<Part>,
    /// The next task's number.
    next: Apart<AtomicUsize>,
    /// Helpers that are at the part, or about to see that they came too late for it.
    helping: AtomicUsize,
    /// A helper's panic, on its way to the leader.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// On cache lines of its own: threads that wait read the turn all the time, those that work the next number.
#[repr(align(128))]
struct Apart<T>(T);

/// `tasks` calls of `task`. The reference is good while its turn lasts.
#[derive(Clone, Copy)]
struct Part {
    task: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
}

const ENDED: usize = usize::MAX;

/// Looks at the turn before a thread that waits lets others run: about as long as a thread takes to wake up.
const PATIENCE: usize = 4096;

// SAFETY: the part alone is not shared by itself: the one thread that has set `led` writes it, while `turn` is even and no helper
// is at it, and helpers read it after they saw an odd turn and made themselves known, upon which the leader waits for them. All of
// these are sequentially consistent.
unsafe impl Sync for Crew {}

impl Crew {
    pub fn new() -> Self {
        let part = UnsafeCell::new(Part { task: &|_| {}, tasks: 0 });
        let [turn, next, helping] = [(); 3].map(|()| AtomicUsize::new(0));
        Crew { turn, led: AtomicBool::new(false), part, next: Apart(next), helping, panic: Mutex::new(None) }
    }

    /// Calls `task` with each number below `tasks`, on this thread and on those that help, and returns when all are done. A task's
    /// panic, on whatever thread, is this function's; others may not be done then.
    ///
    /// # Panics
    /// As a task does, and if a part is led already, by another thread or by the task that calls this.
    pub fn for_each(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        assert!(!self.led.swap(true, Ordering::SeqCst), "one thread leads, and no task does");
        // SAFETY: the lifetime is left out; `Turn` ends the turn, and waits until no helper is at the part, before this returns or
        // unwinds.
        let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        // SAFETY: no turn is on: no helper reads it.
        unsafe { *self.part.get() = Part { task, tasks } };
        self.next.0.store(0, Ordering::SeqCst);
        self.turn.fetch_add(1, Ordering::SeqCst);
        let turn = Turn(self);
        self.work(Part { task, tasks });
        drop(turn);
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    fn work(&self, Part { task, tasks }: Part) {
        loop {
            let number = self.next.0.fetch_add(1, Ordering::SeqCst);
            if number >= tasks {
                return;
            }
            task(number);
        }
    }

    /// Helps until the leader has [ended](Self::ends) it.
    pub fn help(&self) {
        let (mut seen, mut looks) = (0, 0);
        loop {
            let turn = self.turn.load(Ordering::SeqCst);
            if turn == ENDED {
                return;
            }
            if turn % 2 == 1 && turn != seen {
                (seen, looks) = (turn, 0);
                self.helping.fetch_add(1, Ordering::SeqCst);
                // The leader may have ended the turn before it could know of this thread.
                if self.turn.load(Ordering::SeqCst) == turn {
                    // SAFETY: the turn is on, and the leader waits for this thread from before it looked.
                    let part = unsafe { *self.part.get() };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(part))) {
                        self.next.0.store(part.tasks, Ordering::SeqCst); // the rest is in vain
                        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                    }
                }
                self.helping.fetch_sub(1, Ordering::SeqCst);
            } else {
                pause(&mut looks);
            }
        }
    }

    /// Helpers are let go when this is dropped, after which nothing may be led.
    pub fn ends(&self) -> Ends<'_> {
        Ends(self)
    }
}

/// The leader's; dropped, it lets the helpers go.
pub struct Ends<'a>(&'a Crew);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.turn.store(ENDED, Ordering::SeqCst);
    }
}

/// A turn of the leader's; dropped, it is over.
struct Turn<'a>(&'a Crew);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turn.fetch_add(1, Ordering::SeqCst);
        let mut looks = 0;
        while self.0.helping.load(Ordering::SeqCst) > 0 {
            pause(&mut looks);
        }
        self.0.led.store(false, Ordering::SeqCst);
    }
}

fn pause(looks: &mut usize) {
    *looks += 1;
    if looks.is_multiple_of(PATIENCE) { std::thread::yield_now() } else { std::hint::spin_loop() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every task of every part is done once, by whoever comes, before the next part begins.
    #[test]
    fn parts_follow_each_other() {
        for helpers in [0, 1, 3] {
            let crew = Crew::new();
            let done: Vec<AtomicUsize> = (0..40).map(|_| AtomicUsize::new(0)).collect();
            std::thread::scope(|scope| {
                (0..helpers).for_each(|_| drop(scope.spawn(|| crew.help())));
                for part in 0..2000 {
                    let tasks = part % 40;
                    crew.for_each(tasks, &|number| {
                        done[number].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(done[..tasks].iter().all(|done| done.swap(0, Ordering::Relaxed) == 1), "part {part}");
                }
                drop(crew.ends());
            });
        }
    }

    /// A task's panic is the leader's, whoever met it, and the crew goes on with the next part.
    #[test]
    fn a_panic_is_the_leaders() {
        let crew = Crew::new();
        std::thread::scope(|scope| {
            scope.spawn(|| crew.help());
            let leader = std::thread::current().id();
            for helper_fails in [true, false, true] {
                let failed = AtomicBool::new(false);
                // Each waits for the one that fails, so that it does whatever comes first.
                let task = |_: usize| {
                    if (std::thread::current().id() != leader) == helper_fails {
                        failed.store(true, Ordering::SeqCst);
                        panic!("planted, by the helper: {helper_fails}");
                    }
                    while !failed.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                };
                let panic = catch_unwind(AssertUnwindSafe(|| crew.for_each(100, &task))).unwrap_err();
                let text = panic.downcast::<String>().unwrap();
                assert_eq!(*text, format!("planted, by the helper: {helper_fails}"));
                let done = AtomicUsize::new(0);
                crew.for_each(50, &|_| {
                    done.fetch_add(1, Ordering::SeqCst);
                });
                assert_eq!(done.into_inner(), 50);
            }
            drop(crew.ends());
        });
    }

    #[test]
    #[should_panic(expected = "one thread leads")]
    fn a_task_does_not_lead() {
        let crew = Crew::new();
        crew.for_each(2, &|_| crew.for_each(2, &|_| {}));
    }
}

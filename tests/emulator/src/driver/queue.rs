//! Work in order, done when somebody needs it.
//!
//! A piece of work has a position in its queue and may have to come after points of other queues. Those were submitted
//! before it, so that pieces never wait for each other in a circle. A thread that runs a piece waits for another thread
//! only while that runs an older piece, so that neither do threads.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::ThreadId;

use super::capture::Member;
use super::lock;

/// How a stream stands to the default stream of its context.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// The default stream itself: its work comes after the earlier work of all blocking streams.
    Default,
    /// Its work comes after the earlier work of the default stream.
    Blocking,
    NonBlocking,
}

thread_local! {
    /// How many polls of this thread have done something, of any queue.
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// A piece of work that runs once.
pub type Task = Box<dyn FnOnce() + Send>;

/// The work of one stream.
pub struct Queue {
    pub kind: Kind,
    state: Mutex<State>,
    /// Notified after each piece.
    progress: Condvar,
    /// Set while work is recorded instead.
    pub capture: Mutex<Option<Member>>,
}

#[derive(Default)]
struct State {
    /// What is still to be done, oldest first.
    pieces: VecDeque<Piece>,
    submitted: u64,
    done: u64,
    /// A thread runs the piece after those that are done.
    running: bool,
    /// How many [`STEPS`] each thread had done after its last poll, of those since the last submission.
    polls: HashMap<ThreadId, u64>,
    /// Position of the first piece that never ends: from there on nothing is done.
    hangs: Option<u64>,
}

struct Piece {
    after: Vec<Point>,
    task: Task,
}

/// Everything in a queue up to a position.
#[derive(Clone)]
pub struct Point {
    queue: Arc<Queue>,
    position: u64,
}

impl Queue {
    pub fn new(kind: Kind) -> Arc<Queue> {
        Arc::new(Queue { kind, state: Mutex::default(), progress: Condvar::new(), capture: Mutex::default() })
    }

    /// Adds a piece that is to run after `after`, or that never ends; returns its point.
    pub fn push(self: &Arc<Self>, after: Vec<Point>, task: Option<Task>) -> Point {
        // Known by now for all that was submitted before.
        let hangs = task.is_none() || after.iter().any(Point::hangs);
        let mut state = lock(&self.state);
        state.pieces.push_back(Piece { after, task: task.unwrap_or_else(|| Box::new(|| ())) });
        state.submitted += 1;
        state.polls.clear();
        if hangs {
            state.hangs = state.hangs.or(Some(state.submitted));
        }
        Point { queue: Arc::clone(self), position: state.submitted }
    }

    /// Everything submitted so far.
    pub fn end(self: &Arc<Self>) -> Point {
        Point { queue: Arc::clone(self), position: lock(&self.state).submitted }
    }

    /// Drops what isn't done.
    pub fn abandon(&self) {
        let pieces = std::mem::take(&mut lock(&self.state).pieces);
        drop(pieces);
    }

    /// Whether something up to a position never ends.
    fn hangs(&self, position: u64) -> bool {
        lock(&self.state).hangs.is_some_and(|hangs| hangs <= position)
    }

    /// Does what comes after nothing that isn't done; whether there was any.
    pub fn overtake(self: &Arc<Self>) -> bool {
        let mut moved = false;
        loop {
            let (next, after) = {
                let state = lock(&self.state);
                let Some(piece) = state.pieces.front() else { return moved };
                (state.done + 1, piece.after.clone())
            };
            // Without the lock, which is not held with another queue's.
            if self.hangs(next) || !after.iter().all(Point::is_done) {
                return moved;
            }
            self.run_to(next);
            moved = true;
        }
    }

    fn done(&self) -> u64 {
        lock(&self.state).done
    }

    /// Runs pieces up to a position, and before each what it comes after; waits while other threads do so.
    fn run_to(&self, position: u64) {
        let mut state = lock(&self.state);
        while state.done < position {
            if state.running {
                state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let Some(piece) = state.pieces.pop_front() else { return };
            state.running = true;
            drop(state);
            piece.after.iter().for_each(Point::force);
            (piece.task)();
            state = lock(&self.state);
            state.running = false;
            state.done += 1;
            self.progress.notify_all();
        }
    }
}

impl Point {
    pub fn is_done(&self) -> bool {
        self.queue.done() >= self.position
    }

    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Whether it is never reached.
    pub fn hangs(&self) -> bool {
        self.queue.hangs(self.position)
    }

    /// Returns once everything up to here is done.
    pub fn force(&self) {
        while self.hangs() {
            std::thread::park();
        }
        self.queue.run_to(self.position);
    }

    /// Whether everything up to here is done. Where no other poll of this thread has done anything since its last one here, it
    /// does `first` and then one more piece, so that polling comes to an end. Of queues that are polled in turn, one goes on
    /// and the others no further than it needs.
    pub fn poll(&self, first: impl FnOnce()) -> bool {
        if self.is_done() || self.hangs() {
            return self.is_done();
        }
        let thread = std::thread::current().id();
        if lock(&self.queue.state).polls.get(&thread) == Some(&STEPS.get()) {
            first();
            self.step();
            STEPS.set(STEPS.get() + 1);
        }
        lock(&self.queue.state).polls.insert(thread, STEPS.get());
        self.is_done()
    }

    /// Does the one piece that has to come next.
    fn step(&self) {
        let (first, after) = {
            let state = lock(&self.queue.state);
            (state.done + 1, state.pieces.front().map_or(Vec::new(), |piece| piece.after.clone()))
        };
        match after.iter().find(|point| !point.is_done()) {
            Some(point) => point.step(),
            None => self.queue.run_to(first),
        }
    }
}

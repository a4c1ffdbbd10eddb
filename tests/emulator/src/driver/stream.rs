//! Streams.
//!
//! An eager stream does its work at the call that submits it, which is a legal schedule: no device promises to be slower.
//! A deferred stream (`CUEMU_STREAMS`) does it as late as the API allows, when something waits for it, and then only
//! what that depends on, so that a wait that is missing shows. Where streams overtake, everything else comes first that
//! depends on nothing undone, in every context: then a wait shows that is missing on the other side.

use std::sync::Arc;

use super::abi::Out;
use super::capture;
use super::context::{Context, current, overtake};
use super::errors::{Code, Outcome, exports, guard};
use super::graph::Work;
use super::inject::{Call, On, count};
use super::queue::{Kind, Point, Queue, Task};
use super::{Handle, driver, lock};

/// Lower is more urgent; least is 0.
pub const GREATEST_PRIORITY: i32 = -5;

/// The last of the handles every context knows: 0 and 1 (`CU_STREAM_LEGACY`) are its default stream,
/// 2 is `CU_STREAM_PER_THREAD`.
pub const PER_THREAD: Handle = 2;

/// A created stream.
pub struct Stream {
    pub context: Handle,
    queue: Arc<Queue>,
}

/// Where work goes: a stream's queue and the context it belongs to.
pub struct Lane {
    pub context: Arc<Context>,
    pub queue: Arc<Queue>,
}

impl Lane {
    /// The lane of a stream handle; 0 to 2 are the current context's own streams.
    ///
    /// # Errors
    /// `INVALID_HANDLE` for a destroyed or foreign handle; what [`current`] returns for 0 to 2; the
    /// context's fault once reported; `STREAM_CAPTURE_IMPLICIT` for the default stream while a stream
    /// that it waits for is being captured.
    pub fn of(stream: Handle) -> Outcome<Lane> {
        if stream == PER_THREAD {
            let context = current()?;
            return Ok(Lane { queue: Arc::clone(&context.per_thread_queue), context });
        }
        if stream < PER_THREAD {
            let context = current()?;
            capture::forbid_default(&context)?;
            return Ok(Lane { queue: Arc::clone(&context.default_queue), context });
        }
        let driver = driver()?;
        let stream = driver.streams.get(stream)?;
        let context = driver.contexts.get(stream.context)?;
        drop(driver);
        context.check()?;
        Ok(Lane { context, queue: Arc::clone(&stream.queue) })
    }

    /// Submits `work` after what the stream already holds. After a fault work is accepted and not done.
    ///
    /// # Errors
    /// What `check` refuses, as a driver does on bad addresses; of a spoilt capture. What goes wrong in
    /// `work` is no such error: it goes to [`Context::fault`].
    pub fn submit(
        &self,
        check: impl FnOnce() -> Outcome,
        work: impl Fn() -> Outcome + Send + Sync + 'static,
    ) -> Outcome {
        if !self.context.faulted() {
            check()?;
        }
        self.add(Vec::new(), Some(Arc::new(work))).map(|_| ())
    }

    /// Submits `work`, or what never ends, to run after `after` too. The point where it's done, or `None` where the stream is being captured.
    ///
    /// # Errors
    /// Of a spoilt capture.
    pub fn add(&self, after: Vec<Point>, work: Option<Work>) -> Outcome<Option<Point>> {
        if capture::append(&self.queue, work.as_ref())? {
            return Ok(None);
        }
        let context = Arc::clone(&self.context);
        let task = work.map(|work| -> Task {
            Box::new(move || {
                if !context.faulted() {
                    match guard("work", || work()) {
                        0 => {}
                        code => context.fault(Code(code)),
                    }
                }
            })
        });
        let after = [after, self.implied()].concat();
        let point = self.queue.push(after, task);
        if !self.context.deferred && !point.hangs() {
            point.force();
        }
        Ok(Some(point))
    }

    /// What new work comes after by the rules of the default stream.
    fn implied(&self) -> Vec<Point> {
        let mut points = match self.queue.kind {
            Kind::NonBlocking => Vec::new(),
            Kind::Blocking => vec![self.context.default_queue.end()],
            Kind::Default => {
                let queues = lock(&self.context.queues);
                queues.iter().filter(|queue| queue.kind == Kind::Blocking).map(Queue::end).collect()
            }
        };
        points.retain(|point| !point.is_done());
        points
    }

    /// The point of all work submitted so far, for the default stream that of all blocking streams too.
    fn end(&self) -> Point {
        match self.queue.kind {
            Kind::Default => self.queue.push(self.implied(), Some(Box::new(|| ()))),
            _ => self.queue.end(),
        }
    }

    /// Whether all work submitted so far is done; see [`Point::poll`].
    ///
    /// # Errors
    /// `NOT_READY`; otherwise as [`Lane::synchronise`].
    fn query(&self) -> Outcome {
        capture::forbid(&self.queue, Code::STREAM_CAPTURE_UNSUPPORTED)?;
        let mut points = if self.queue.kind == Kind::Default { self.implied() } else { Vec::new() };
        points.push(self.queue.end());
        let first = || overtake(|_, queue| Arc::ptr_eq(queue, &self.queue));
        let done = points.iter().all(|point| point.poll(first));
        // A fault is told at once, whatever else is still to be done.
        if done || self.context.faulted() { self.context.synchronise() } else { Err(Code::NOT_READY) }
    }

    /// Waits for all work submitted so far.
    ///
    /// # Errors
    /// The context's fault; `STREAM_CAPTURE_UNSUPPORTED` where the stream is being captured.
    pub fn synchronise(&self) -> Outcome {
        capture::forbid(&self.queue, Code::STREAM_CAPTURE_UNSUPPORTED)?;
        overtake(|_, queue| Arc::ptr_eq(queue, &self.queue));
        self.end().force();
        self.context.synchronise()
    }
}

fn create(stream: &Out<Handle>, flags: u32) -> Outcome {
    let kind = match flags {
        0 => Kind::Blocking,
        1 => Kind::NonBlocking,
        _ => return Err(Code::INVALID_VALUE),
    };
    let context = current()?;
    let queue = context.new_queue(kind);
    let handle = driver()?.streams.add(Stream { context: context.handle, queue });
    stream.set(handle)
}

exports! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        create(&stream, flags)
    }

    /// Any priority is taken, as a driver clamps it to its range.
    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, _priority: i32) {
        create(&stream, flags)
    }

    /// Destroys the stream even where it reports its context's fault; its work is still to be done.
    fn cuStreamDestroy_v2(stream: Handle) {
        let mut driver = driver()?;
        let stream = driver.streams.remove(stream)?;
        let context = driver.contexts.get(stream.context)?;
        drop(driver);
        capture::abandon(&stream.queue)?;
        context.check()
    }

    fn cuStreamSynchronize(stream: Handle) {
        count(Call::Sync, On::Stream(stream))?;
        Lane::of(stream)?.synchronise()
    }

    fn cuStreamQuery(stream: Handle) {
        count(Call::Sync, On::Stream(stream))?;
        Lane::of(stream)?.query()
    }
}

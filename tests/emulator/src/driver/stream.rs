//! Streams.

use std::sync::{Arc, Mutex};

use super::abi::Out;
use super::context::{Context, current};
use super::errors::{Code, Outcome, exports};
use super::{Handle, driver, lock};

/// Lower is more urgent; least is 0.
pub const GREATEST_PRIORITY: i32 = -5;

/// The last of the handles every context knows: 0 and 1 (`CU_STREAM_LEGACY`) are its default stream,
/// 2 is `CU_STREAM_PER_THREAD`.
const PER_THREAD: Handle = 2;

/// Work in order. Each piece runs on the thread that submits it before the submission returns, which
/// is a legal schedule: no device promises to be slower. It can't expose a missing wait; for that a
/// queue would have to hold pieces back until somebody waits.
#[derive(Default)]
pub struct Queue {
    /// Held by the piece that runs.
    busy: Mutex<()>,
}

/// A created stream.
pub struct Stream {
    pub context: Handle,
    queue: Arc<Queue>,
}

/// Where work goes: a stream's queue and the context it belongs to.
pub struct Lane {
    pub context: Arc<Context>,
    queue: Arc<Queue>,
}

impl Lane {
    /// The lane of a stream handle; 0 to 2 are the current context's own streams.
    ///
    /// # Errors
    /// `INVALID_HANDLE` for a destroyed or foreign handle; what [`current`] returns for 0 to 2; the
    /// context's fault once reported.
    pub fn of(stream: Handle) -> Outcome<Lane> {
        if stream <= PER_THREAD {
            let context = current()?;
            let queue = if stream == PER_THREAD { &context.per_thread_queue } else { &context.default_queue };
            return Ok(Lane { queue: Arc::clone(queue), context });
        }
        let driver = driver()?;
        let stream = driver.streams.get(stream)?;
        let context = driver.contexts.get(stream.context)?;
        drop(driver);
        context.check()?;
        Ok(Lane { context, queue: Arc::clone(&stream.queue) })
    }

    /// Runs `work` after what the stream already holds. After a fault work is accepted and not done.
    ///
    /// # Errors
    /// What `work` refuses at submission, as a driver does on bad addresses. A fault is no such error:
    /// it goes to [`Context::fault`].
    pub fn submit(&self, work: impl FnOnce() -> Outcome) -> Outcome {
        let _busy = lock(&self.queue.busy);
        if self.context.faulted() { Ok(()) } else { work() }
    }

    /// Waits for all work submitted so far.
    ///
    /// # Errors
    /// The context's fault.
    pub fn synchronise(&self) -> Outcome {
        drop(lock(&self.queue.busy));
        self.context.synchronise()
    }
}

fn create(stream: &Out<Handle>, flags: u32) -> Outcome {
    if flags > 1 {
        return Err(Code::INVALID_VALUE);
    }
    let context = current()?.handle;
    let handle = driver()?.streams.add(Stream { context, queue: Arc::default() });
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

    /// Destroys the stream even where it reports its context's fault.
    fn cuStreamDestroy_v2(stream: Handle) {
        let mut driver = driver()?;
        let stream = driver.streams.remove(stream)?;
        let context = driver.contexts.get(stream.context)?;
        drop(driver);
        context.check()
    }

    fn cuStreamSynchronize(stream: Handle) {
        Lane::of(stream)?.synchronise()
    }

    fn cuStreamQuery(stream: Handle) {
        let lane = Lane::of(stream)?;
        if lane.queue.busy.try_lock().is_err() {
            return Err(Code::NOT_READY);
        }
        lane.context.synchronise()
    }

    /// The event's work is done by the time this is called; stream and event may be of two contexts.
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) {
        let lane = Lane::of(stream)?;
        driver()?.events.get(event)?;
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        lane.submit(|| Ok(()))
    }
}

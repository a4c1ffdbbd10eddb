//! Waiting for the device, which may never answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaEvent, CudaStream, DriverError, result};

use super::pipeline::SLOTS;
use super::{failed, lost};
use crate::{Error, Result};

/// Waits shorter than this keep the thread: waking it up would cost more than the wait.
const SPIN: Duration = Duration::from_micros(300);
/// Between two looks after that.
const NAP: Duration = Duration::from_micros(50);

/// Looks at the event awaited for each at the other devices.
const OTHERS: u32 = 64;

/// Whether a device of the process hangs.
static ANY_HANGS: AtomicBool = AtomicBool::new(false);

/// How long a device may take for a batch, and whether it once took longer. What a device that hangs may still write to is
/// never freed, and nothing waits for it again: memory, modules and the context are leaked, since giving them back waits.
pub(super) struct Watch {
    patience: Duration,
    hangs: AtomicBool,
}

impl Watch {
    pub(super) fn new(patience: Duration) -> Self {
        Watch { patience, hangs: AtomicBool::new(false) }
    }

    pub(super) fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Acquire)
    }

    /// Whether this device or another one of the process hangs: what belongs to all of them is not freed then.
    pub(super) fn any_hangs(&self) -> bool {
        self.hangs() || ANY_HANGS.load(Ordering::Acquire)
    }

    fn give_up(&self) {
        self.hangs.store(true, Ordering::Release);
        ANY_HANGS.store(true, Ordering::Release);
    }

    /// Waits for the work on `stream` before `event`, which was recorded there, and which itself waits for what is on `others`,
    /// streams of other devices.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] with what went wrong in that work, or after the watch's patience.
    pub(super) fn wait(&self, event: &CudaEvent, stream: &CudaStream, others: &[&Arc<CudaStream>]) -> Result<()> {
        self.wait_or(event, (stream, others), |e| lost(failed("running the network", e)))
    }

    /// Waits for everything that was queued on `stream`, to begin with, for `doing`.
    ///
    /// # Errors
    /// [`Error::Device`] with what went wrong, [`Error::DeviceLost`] after the watch's patience.
    pub(super) fn wait_for(&self, stream: &CudaStream, doing: &str) -> Result<()> {
        let event = stream.record_event(None).map_err(|e| failed(doing, e))?;
        self.wait_or(&event, (stream, &[]), |e| failed(doing, e))
    }

    fn wait_or(
        &self,
        event: &CudaEvent,
        (stream, others): (&CudaStream, &[&Arc<CudaStream>]),
        failed: impl Fn(DriverError) -> Error,
    ) -> Result<()> {
        make_current(stream);
        let begin = Instant::now();
        let mut looks = 0u32;
        while !event.try_is_complete().map_err(&failed)? {
            looks = looks.wrapping_add(1);
            // A device that failed may never come to what this one waits for. Seldom: on emulated devices each look drives the
            // one that it is at, and by turns they would keep step, as if they waited for each other.
            if looks.is_multiple_of(OTHERS) {
                for other in others {
                    is_idle(other).map_err(&failed)?;
                }
            }
            match begin.elapsed() {
                waited if waited >= self.patience => {
                    self.give_up();
                    return Err(Error::DeviceLost(format!(
                        "the device did not finish a batch within {} s; what was finished before is good, run the rest \
                         again, with --patience SECONDS if the device is only slow",
                        self.patience.as_secs_f64()
                    )));
                }
                waited if waited < SPIN => std::hint::spin_loop(),
                _ => thread::sleep(NAP),
            }
        }
        Ok(())
    }

    /// Waits until nothing is under way on `stream` any more, whatever comes of it, unless the device hangs or turns out to.
    pub(super) fn settle(&self, stream: &CudaStream) {
        make_current(stream);
        let begin = Instant::now();
        while !self.hangs() && matches!(is_idle(stream), Ok(false)) {
            if begin.elapsed() >= self.patience.saturating_mul(SLOTS as u32) {
                self.give_up();
            }
            thread::sleep(NAP);
        }
    }
}

/// Whether nothing is under way on `stream`. Not the checked way, which may return an older error without a look.
///
/// # Errors
/// What went wrong on its device.
fn is_idle(stream: &CudaStream) -> std::result::Result<bool, DriverError> {
    // SAFETY: the stream is alive as long as the reference.
    match unsafe { sys::cuStreamQuery(stream.cu_stream()) } {
        CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        other => other.result().map(|()| true),
    }
}

/// Makes the stream's context this thread's, which a pipeline may have been moved to. Not the checked way, which returns an
/// older error without doing so; what fails here fails in the call that follows.
fn make_current(stream: &CudaStream) {
    // SAFETY: the context is alive as long as the stream.
    let _ = unsafe { result::ctx::set_current(stream.context().cu_ctx()) };
}

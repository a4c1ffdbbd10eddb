//! Waiting for the device, which may never answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaEvent};

use super::{failed, lost};
use crate::{Error, Result};

/// Waits shorter than this keep the thread: waking it up would cost more than the wait.
const SPIN: Duration = Duration::from_micros(300);
/// Between two looks after that.
const NAP: Duration = Duration::from_micros(50);

/// How long a device may take for a batch, and whether it once took longer. What a device that hangs may still write to is
/// never freed, and nothing waits for it again.
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

    /// Waits for the work before `event`.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] with what went wrong in that work, or after the watch's patience.
    pub(super) fn wait(&self, event: &CudaEvent, context: &Arc<CudaContext>) -> Result<()> {
        let begin = Instant::now();
        while !event.try_is_complete().map_err(|e| lost(failed("running the network", e)))? {
            match begin.elapsed() {
                waited if waited >= self.patience => {
                    if !self.hangs.swap(true, Ordering::AcqRel) {
                        // Releasing the context would wait for the device.
                        std::mem::forget(Arc::clone(context));
                    }
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
}

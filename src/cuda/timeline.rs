//! When each step of a run began and ended, by events of the device.

use std::time::Duration;

use cudarc::driver::sys::{self, CUevent_flags};
use cudarc::driver::{CudaEvent, CudaStream};

use super::steps::{Mark, Steps};
use super::{failed, failed_on, lost};
use crate::Result;
use crate::backend::{Span, Timeline, Track, Work};

/// Events of a run, by tower.
pub(super) struct Clock {
    begun: CudaEvent,
    reached: Vec<Vec<(Mark, CudaEvent)>>,
}

impl Clock {
    /// Begins now, on the stream that a run begins on.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn new(steps: &Steps) -> Result<Self> {
        Ok(Clock { begun: timed(steps.stream())?, reached: steps.towers().iter().map(|_| vec![]).collect() })
    }

    /// Tower `tower` has got to `mark` when its stream gets here.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn mark(&mut self, stream: &CudaStream, tower: usize, mark: Mark) -> Result<()> {
        if mark == Mark::Input {
            self.begun = timed(stream)?; // the timeline is of the steps, not of the copy
            return Ok(());
        }
        self.reached[tower].push((mark, timed(stream)?));
        Ok(())
    }

    /// The timeline of a run of `images` images that is over. Devices have clocks of their own: where tower 1 has another one,
    /// it begins when it may, which is when tower 0 does, but for the event's way.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn read(&self, steps: &Steps, images: usize) -> Result<Timeline> {
        let tracks = steps.towers().iter().zip(&self.reached).enumerate().map(|(number, (tower, reached))| {
            let own_clock = tower.stream().context() != steps.stream().context();
            let first = reached.first().filter(|_| own_clock).map(|(_, event)| event);
            let mut last = Duration::ZERO;
            let spans = reached.iter().map(|(mark, event)| {
                let end = elapsed(first.unwrap_or(&self.begun), event)?.max(last);
                let begin = std::mem::replace(&mut last, end);
                let work = match *mark {
                    Mark::Input => unreachable!("the beginning"),
                    Mark::Step(index) => Work::Layers(tower.plan.steps[index].layers.clone()),
                    Mark::Join(index) => {
                        let layer = tower.plan.steps[index].layers[0];
                        Work::Join { layer, bytes: steps.bytes_taken(number, index, images) }
                    }
                };
                Ok(Span { work, begin, end })
            });
            Ok(Track { place: steps.place(number), spans: spans.collect::<Result<_>>()? })
        });
        Ok(Timeline { tracks: tracks.collect::<Result<_>>()? })
    }
}

/// An event that tells the time, on `stream`.
///
/// # Errors
/// Those of the device.
pub(super) fn timed(stream: &CudaStream) -> Result<CudaEvent> {
    let event = event(stream)?;
    event.record(stream).map_err(|e| failed_on(stream.context(), "recording an event", e))?;
    Ok(event)
}

/// An event of `stream`'s device that tells the time once it is recorded.
///
/// # Errors
/// Those of the device.
pub(super) fn event(stream: &CudaStream) -> Result<CudaEvent> {
    let context = stream.context();
    context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(|e| failed_on(context, "making an event", e))
}

/// Time between two events of one context, the first of which came first.
///
/// # Errors
/// Those of the device.
pub(super) fn elapsed(from: &CudaEvent, to: &CudaEvent) -> Result<Duration> {
    type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
    let mut milliseconds: f32 = 0.0;
    // Not cudarc's, which takes the name that this function has had since CUDA 12.8.
    // SAFETY: the driver's function of that name has this type. Both events are alive, of one context, and reached, since the
    // run is over, or the batch.
    let asked = unsafe {
        let elapsed_time = sys::culib().get::<ElapsedTime>(b"cuEventElapsedTime").expect("preflight has found it");
        elapsed_time(&mut milliseconds, from.cu_event(), to.cu_event())
    };
    asked.result().map_err(|e| lost(failed("asking an event's time", e)))?;
    Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
}

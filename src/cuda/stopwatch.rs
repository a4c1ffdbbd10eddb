//! When the parts of a pipeline's batches began and ended, by events of the device.
//!
//! Events are recorded by the streams that copy and compute, between pieces of work; the one between the kernels and the copy
//! of results is a part of the graph that both are in. Two towers begin on the first one's stream and end there, so that
//! its events are those of both.

use std::time::Duration;

use cudarc::driver::sys::{self, CUevent_record_flags_enum};
use cudarc::driver::{CudaEvent, CudaStream};

use super::failed_on;
use super::pipeline::SLOTS;
use super::steps::Steps;
use super::timeline::{elapsed, event, timed};
use crate::Result;
use crate::backend::{BatchTimes, Interval};

/// Times the batches of a pipeline.
pub(super) struct Stopwatch {
    /// When it started, by the clock of each device.
    started: Vec<CudaEvent>,
    slots: [Moments; SLOTS],
}

/// Events of a slot, recorded anew for each of its batches.
pub(super) struct Moments {
    /// For each device, on the stream that copies.
    pub(super) copy_in: Vec<Ends>,
    /// The first kernel may run.
    pub(super) begun: CudaEvent,
    /// The classes are on the device.
    ranked: CudaEvent,
    /// They are on the host.
    pub(super) copied_out: CudaEvent,
}

/// Before a piece of work, and after it.
pub(super) struct Ends {
    pub(super) begin: CudaEvent,
    pub(super) end: CudaEvent,
}

impl Stopwatch {
    /// Starts once the devices have come to where they are now.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn start(steps: &Steps) -> Result<Self> {
        let streams: Vec<_> = steps.inputs(0).map(|(tower, _)| tower.stream()).collect();
        let slot = || {
            let ends = streams.iter().map(|stream| Ok(Ends { begin: event(stream)?, end: event(stream)? }));
            let copy_in = ends.collect::<Result<_>>()?;
            let [begun, ranked, copied_out] = [(); 3].map(|()| event(steps.stream()));
            Ok(Moments { copy_in, begun: begun?, ranked: ranked?, copied_out: copied_out? })
        };
        let slots = [slot()?, slot()?];
        let started = streams.iter().map(|stream| {
            let started = timed(stream)?;
            // Copies do not wait for that stream.
            steps.shared().watch.wait(&started, stream, &[])?;
            Ok(started)
        });
        Ok(Stopwatch { started: started.collect::<Result<_>>()?, slots })
    }

    pub(super) fn slot(&self, number: usize) -> &Moments {
        &self.slots[number]
    }

    /// Times of the batch in slot `number`, which is done, and whose pixels were `resident` or were copied.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn read(&self, number: usize, enqueue: Duration, resident: bool) -> Result<BatchTimes> {
        let Moments { copy_in, begun, ranked, copied_out } = &self.slots[number];
        // The driver tells milliseconds as f32: lengths are asked for by themselves, since the difference of two times that are
        // long after the start has few digits left.
        let since =
            |begin: Duration, from: &CudaEvent, to: &CudaEvent| Ok(Interval { begin, end: begin + elapsed(from, to)? });
        let interval =
            |started: &CudaEvent, begin: &CudaEvent, end: &CudaEvent| since(elapsed(started, begin)?, begin, end);
        let copies = self.started.iter().zip(copy_in).filter(|_| !resident);
        let copies = copies.map(|(started, ends)| interval(started, &ends.begin, &ends.end));
        let copies = copies.collect::<Result<Vec<Interval>>>()?.into_iter();
        let compute = interval(&self.started[0], begun, ranked)?;
        Ok(BatchTimes {
            enqueue,
            copy_in: copies.reduce(|a, b| Interval { begin: a.begin.min(b.begin), end: a.end.max(b.end) }),
            compute,
            copy_out: Some(since(compute.end, ranked, copied_out)?),
        })
    }
}

impl Moments {
    /// The classes are there when `stream`, which is `captured` or not, gets here.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn ranked(&self, stream: &CudaStream, captured: bool) -> Result<()> {
        let flags = match captured {
            true => CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL,
            false => CUevent_record_flags_enum::CU_EVENT_RECORD_DEFAULT,
        };
        // SAFETY: both are alive and of one context, and the event stays as long as the graphs.
        let recorded = unsafe { sys::cuEventRecordWithFlags(self.ranked.cu_event(), stream.cu_stream(), flags as u32) };
        recorded.result().map_err(|e| failed_on(stream.context(), "recording an event", e))
    }
}

//! Events, with the host's clock for the device's.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::abi::Out;
use super::context::{Context, current};
use super::errors::{Code, Outcome, exports};
use super::stream::Lane;
use super::{Handle, driver, lock};

const BLOCKING_SYNC: u32 = 1;
const DISABLE_TIMING: u32 = 2;

/// An event of a context.
pub struct Event {
    pub context: Handle,
    timing: bool,
    /// When the work before the last record was done.
    recorded: Mutex<Option<Instant>>,
}

/// A live event and its context; not necessarily the current one.
fn find(event: Handle) -> Outcome<(Arc<Event>, Arc<Context>)> {
    let driver = driver()?;
    let event = driver.events.get(event)?;
    let context = driver.contexts.get(event.context)?;
    Ok((event, context))
}

fn elapsed(milliseconds: &Out<f32>, start: Handle, end: Handle) -> Outcome {
    let (start, context) = find(start)?;
    let (end, _) = find(end)?;
    if start.context != end.context || !start.timing || !end.timing {
        return Err(Code::INVALID_HANDLE);
    }
    context.check()?;
    let (Some(start), Some(end)) = (*lock(&start.recorded), *lock(&end.recorded)) else {
        return Err(Code::INVALID_HANDLE);
    };
    let forward = end.saturating_duration_since(start).as_secs_f64();
    let backward = start.saturating_duration_since(end).as_secs_f64();
    milliseconds.set(((forward - backward) * 1e3) as f32)
}

exports! {
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING) != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let context = current()?.handle;
        let timing = flags & DISABLE_TIMING == 0;
        let handle = driver()?.events.add(Event { context, timing, recorded: Mutex::new(None) });
        event.set(handle)
    }

    /// Destroys the event even where it reports its context's fault.
    fn cuEventDestroy_v2(event: Handle) {
        let (_, context) = find(event)?;
        driver()?.events.remove(event)?;
        context.check()
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        let (event, _) = find(event)?;
        let lane = Lane::of(stream)?;
        if event.context != lane.context.handle {
            return Err(Code::INVALID_HANDLE);
        }
        lane.submit(|| {
            *lock(&event.recorded) = Some(Instant::now());
            Ok(())
        })
    }

    fn cuEventSynchronize(event: Handle) {
        find(event)?.1.synchronise()
    }

    /// Recorded work is done when the record returns, so an event is never 'not ready'.
    fn cuEventQuery(event: Handle) {
        find(event)?.1.synchronise()
    }

    /// Drivers before 12.8 have this one alone.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(&milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(&milliseconds, start, end)
    }
}

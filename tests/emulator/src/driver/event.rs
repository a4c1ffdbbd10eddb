//! Events. Their time is the host's clock when the recorded point is reached, in deferred streams when the work is done.
//!
//! An event that a graph records has the time of its own node, but is reached with the launch as a whole.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::abi::Out;
use super::capture::{self, Mark};
use super::context::{Context, current, overtake};
use super::errors::{Code, Outcome, exports};
use super::graph::Work;
use super::inject::{Call, On, count};
use super::queue::Point;
use super::stream::Lane;
use super::{Handle, driver, lock};

const BLOCKING_SYNC: u32 = 1;
const DISABLE_TIMING: u32 = 2;

/// An event of a context.
pub struct Event {
    pub context: Handle,
    timing: bool,
    last: Mutex<Record>,
}

/// What an event stands for.
#[derive(Clone)]
enum Record {
    Never,
    /// A point of a stream, and when it was reached.
    Point(Point, Arc<OnceLock<Instant>>),
    Captured(Mark),
}

impl Event {
    /// # Errors
    /// `CAPTURED_EVENT` where it stands for no point of a stream: the host can't wait for it.
    fn point(&self) -> Outcome<Option<(Point, Arc<OnceLock<Instant>>)>> {
        match lock(&self.last).clone() {
            Record::Never => Ok(None),
            Record::Point(point, time) => Ok(Some((point, time))),
            Record::Captured(mark) => Err(mark.refuse()),
        }
    }
}

/// A live event and its context; not necessarily the current one.
fn find(event: Handle) -> Outcome<(Arc<Event>, Arc<Context>)> {
    let driver = driver()?;
    let event = driver.events.get(event)?;
    let context = driver.contexts.get(event.context)?;
    Ok((event, context))
}

fn record(event: &Event, lane: &Lane) -> Outcome {
    let new = match capture::mark(&lane.queue)? {
        Some(mark) => Record::Captured(mark),
        None => {
            let time = Arc::new(OnceLock::new());
            let reached = Arc::clone(&time);
            let set = move || {
                reached.get_or_init(Instant::now);
                Ok(())
            };
            match lane.add(Vec::new(), Some(Arc::new(set)))? {
                Some(point) => Record::Point(point, time),
                // A capture began in another thread just now.
                None => return Err(Code::ILLEGAL_STATE),
            }
        }
    };
    *lock(&event.last) = new;
    Ok(())
}

/// An event that a launch of a graph records.
pub struct Recording {
    event: Arc<Event>,
    time: Arc<OnceLock<Instant>>,
}

impl Recording {
    /// # Errors
    /// `INVALID_HANDLE` for an event that is destroyed.
    pub fn of(event: Handle) -> Outcome<Recording> {
        Ok(Recording { event: find(event)?.0, time: Arc::default() })
    }

    /// What the launch does when it gets there.
    pub fn work(&self) -> Work {
        let reached = Arc::clone(&self.time);
        Arc::new(move || {
            reached.get_or_init(Instant::now);
            Ok(())
        })
    }

    /// The launch is done at `point`.
    pub fn at(self, point: &Point) {
        *lock(&self.event.last) = Record::Point(point.clone(), self.time);
    }
}

fn elapsed(milliseconds: &Out<f32>, start: Handle, end: Handle) -> Outcome {
    let (start, context) = find(start)?;
    let (end, _) = find(end)?;
    if start.context != end.context || !start.timing || !end.timing {
        return Err(Code::INVALID_HANDLE);
    }
    context.check()?;
    let (Some((first, start)), Some((second, end))) = (start.point()?, end.point()?) else {
        return Err(Code::INVALID_HANDLE);
    };
    if !first.is_done() || !second.is_done() {
        return Err(Code::NOT_READY);
    }
    // After a fault points pass without being reached.
    let (Some(start), Some(end)) = (start.get(), end.get()) else { return context.synchronise() };
    let forward = end.saturating_duration_since(*start).as_secs_f64();
    let backward = start.saturating_duration_since(*end).as_secs_f64();
    milliseconds.set(((forward - backward) * 1e3) as f32)
}

exports! {
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING) != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let context = current()?.handle;
        let timing = flags & DISABLE_TIMING == 0;
        let handle = driver()?.events.add(Event { context, timing, last: Mutex::new(Record::Never) });
        event.set(handle)
    }

    /// Destroys the event even where it reports its context's fault.
    fn cuEventDestroy_v2(event: Handle) {
        let (_, context) = find(event)?;
        driver()?.events.remove(event)?;
        context.check()
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        count(Call::Record, On::Stream(stream))?;
        let (event, _) = find(event)?;
        let lane = Lane::of(stream)?;
        if event.context != lane.context.handle {
            return Err(Code::INVALID_HANDLE);
        }
        record(&event, &lane)
    }

    /// External (1): in a capture, each launch of the graph records the event; nowhere else.
    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        count(Call::Record, On::Stream(stream))?;
        let (found, _) = find(event)?;
        let lane = Lane::of(stream)?;
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        if found.context != lane.context.handle {
            return Err(Code::INVALID_HANDLE);
        }
        if flags == 1 { capture::append_record(&lane.queue, event) } else { record(&found, &lane) }
    }

    fn cuEventSynchronize(event: Handle) {
        count(Call::Sync, On::Event(event))?;
        let (event, context) = find(event)?;
        if let Some((point, _)) = event.point()? {
            overtake(|_, queue| Arc::ptr_eq(queue, point.queue()));
            point.force();
        }
        context.synchronise()
    }

    fn cuEventQuery(event: Handle) {
        count(Call::Sync, On::Event(event))?;
        let (event, context) = find(event)?;
        let recorded = event.point()?;
        capture::forbid_unsafe()?;
        if let Some((point, _)) = recorded {
            let done = point.poll(|| overtake(|_, queue| Arc::ptr_eq(queue, point.queue())));
            if !done && !context.faulted() {
                return Err(Code::NOT_READY);
            }
        }
        context.synchronise()
    }

    /// Makes the stream's later work come after what the event stands for now; stream and event may be of two contexts.
    /// In a capture the event must have been recorded in the same one: an external wait isn't imitated.
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) {
        count(Call::Wait, On::Stream(stream))?;
        let lane = Lane::of(stream)?;
        let event = driver()?.events.get(event)?;
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        let last = lock(&event.last).clone();
        match last {
            Record::Captured(mark) => capture::join(&lane, &mark),
            _ if capture::is_captured(&lane.queue) => capture::forbid(&lane.queue, Code::STREAM_CAPTURE_ISOLATION),
            Record::Never => Ok(()),
            Record::Point(point, _) => lane.add(vec![point], Some(Arc::new(|| Ok(())))).map(|_| ()),
        }
    }

    /// Drivers before 12.8 have this one alone.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(&milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(&milliseconds, start, end)
    }
}

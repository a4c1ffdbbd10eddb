//! Stream capture: work recorded into a graph instead of done, and everything a capture forbids.
//!
//! Not imitated: graphs in a capture that own memory (`cuMemAllocAsync` is refused with 900, `cuMemFreeAsync` with 1),
//! external waits, and `cuThreadExchangeStreamCaptureMode`: every thread keeps the global mode. Pageable host memory is
//! refused with 900 where a driver would record its address, which nothing keeps valid. A capture is of streams of one
//! context: where a driver lets one of another device join it, that is refused with 905. Copies between two contexts are
//! recorded as any other work.

use std::sync::{Arc, Mutex, Weak};
use std::thread::ThreadId;

use super::abi::Out;
use super::context::Context;
use super::errors::{Code, Outcome, exports};
use super::graph::{Graph, Node, Work};
use super::inject::{Call, On, count};
use super::queue::{Kind, Queue};
use super::stream::Lane;
use super::{Handle, driver, explain, lock};

/// Which calls a capture forbids to which threads (`CUstreamCaptureMode`).
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Unsafe calls to all threads.
    Global,
    /// Unsafe calls to the thread that began it.
    ThreadLocal,
    Relaxed,
}

/// A capture that has begun.
pub struct Capture {
    pub context: Handle,
    mode: Mode,
    thread: ThreadId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    /// The queues that take part; the first is where it began.
    queues: Vec<Weak<Queue>>,
    invalid: bool,
    ended: bool,
}

/// A queue's part in a capture.
pub struct Member {
    capture: Arc<Capture>,
    /// The nodes that the queue's next one comes after.
    last: Vec<usize>,
}

/// What an event recorded in a capture stands for.
#[derive(Clone)]
pub struct Mark {
    capture: Arc<Capture>,
    nodes: Vec<usize>,
}

impl Capture {
    fn invalidate(&self) {
        lock(&self.state).invalid = true;
    }

    /// # Errors
    /// `STREAM_CAPTURE_INVALIDATED` once something went wrong.
    fn check(&self) -> Outcome {
        if lock(&self.state).invalid { Err(Code::STREAM_CAPTURE_INVALIDATED) } else { Ok(()) }
    }

    /// Spoils the capture, unless something else has before.
    fn refuse(&self, code: Code) -> Code {
        let spoilt = self.check();
        self.invalidate();
        spoilt.err().unwrap_or(code)
    }

    /// Takes every queue out of the capture and the capture off the list.
    fn end(self: &Arc<Self>) -> Outcome<State> {
        driver()?.captures.retain(|other| !Arc::ptr_eq(other, self));
        let state = std::mem::replace(&mut *lock(&self.state), State { ended: true, ..State::default() });
        for queue in state.queues.iter().filter_map(Weak::upgrade) {
            *lock(&queue.capture) = None;
        }
        Ok(state)
    }
}

/// Records `work`, or what never ends, if the queue is being captured: whether it is.
pub fn append(queue: &Queue, work: Option<&Work>) -> Outcome<bool> {
    let mut member = lock(&queue.capture);
    let Some(Member { capture, last }) = member.as_mut() else { return Ok(false) };
    capture.check()?;
    let nodes = &mut lock(&capture.state).nodes;
    nodes.push(Node { after: std::mem::take(last), work: work.cloned(), records: None });
    last.push(nodes.len() - 1);
    Ok(true)
}

/// Records into the graph that each of its launches records `event`.
///
/// # Errors
/// `INVALID_VALUE` where the queue isn't being captured.
pub fn append_record(queue: &Queue, event: Handle) -> Outcome {
    let mut member = lock(&queue.capture);
    let Some(Member { capture, last }) = member.as_mut() else { return Err(Code::INVALID_VALUE) };
    capture.check()?;
    let nodes = &mut lock(&capture.state).nodes;
    nodes.push(Node { after: std::mem::take(last), work: None, records: Some(event) });
    last.push(nodes.len() - 1);
    Ok(())
}

/// The point of a captured queue that an event records.
pub fn mark(queue: &Queue) -> Outcome<Option<Mark>> {
    let member = lock(&queue.capture);
    let Some(Member { capture, last }) = member.as_ref() else { return Ok(None) };
    capture.check()?;
    Ok(Some(Mark { capture: Arc::clone(capture), nodes: last.clone() }))
}

/// Whether the queue is being captured.
pub fn is_captured(queue: &Queue) -> bool {
    lock(&queue.capture).is_some()
}

impl Mark {
    /// Refuses to wait on the host for an event of a capture, which that spoils.
    pub fn refuse(&self) -> Code {
        self.capture.invalidate();
        Code::CAPTURED_EVENT
    }
}

/// Makes the queue's next node come after the mark; a queue that isn't captured joins the capture.
///
/// # Errors
/// `STREAM_CAPTURE_MERGE` where it is in another capture, `STREAM_CAPTURE_ISOLATION` where it is of another context than
/// the capture; `CAPTURED_EVENT` after the capture's end.
pub fn join(lane: &Lane, mark: &Mark) -> Outcome {
    let queue = &lane.queue;
    let mut member = lock(&queue.capture);
    match member.as_mut() {
        Some(member) if !Arc::ptr_eq(&member.capture, &mark.capture) => {
            mark.capture.invalidate();
            Err(member.capture.refuse(Code::STREAM_CAPTURE_MERGE))
        }
        Some(member) => {
            member.capture.check()?;
            let new = mark.nodes.iter().filter(|node| !member.last.contains(node));
            let new: Vec<usize> = new.copied().collect();
            member.last.extend(new);
            Ok(())
        }
        None => {
            mark.capture.check()?;
            let mut state = lock(&mark.capture.state);
            if state.ended {
                return Err(Code::CAPTURED_EVENT);
            }
            if mark.capture.context != lane.context.handle {
                drop(state);
                let reason =
                    "a stream of another context waits for an event of a capture: captures are of one context here";
                return Err(explain(mark.capture.refuse(Code::STREAM_CAPTURE_ISOLATION), reason));
            }
            state.queues.push(Arc::downgrade(queue));
            *member = Some(Member { capture: Arc::clone(&mark.capture), last: mark.nodes.clone() });
            Ok(())
        }
    }
}

/// Refuses with `code`, and spoils the capture, what must not happen to a captured queue.
pub fn forbid(queue: &Queue, code: Code) -> Outcome {
    match lock(&queue.capture).as_ref() {
        Some(member) => Err(member.capture.refuse(code)),
        None => Ok(()),
    }
}

/// Spoils the capture of a queue whose stream goes; with the stream where it began it ends.
pub fn abandon(queue: &Arc<Queue>) -> Outcome {
    let Some(member) = lock(&queue.capture).take() else { return Ok(()) };
    member.capture.invalidate();
    let origin = lock(&member.capture.state).queues[0].upgrade();
    if origin.is_none_or(|origin| Arc::ptr_eq(&origin, queue)) {
        member.capture.end()?;
    }
    Ok(())
}

fn forbid_while(reason: &str, code: Code, concerned: impl Fn(&Capture) -> bool) -> Outcome {
    let captures = driver()?.captures.clone();
    let mut concerned = captures.iter().filter(|capture| concerned(capture)).peekable();
    if concerned.peek().is_none() {
        return Ok(());
    }
    concerned.for_each(|capture| capture.invalidate());
    Err(explain(code, reason))
}

/// Refuses a call that may wait for, or order, what is being captured ('potentially unsafe' in the documentation):
/// synchronous allocation, copies and fills, page-locking, loading and unloading modules, event queries.
pub fn forbid_unsafe() -> Outcome {
    let thread = std::thread::current().id();
    let reason = "a capture of this thread, or another's in global mode, is going on: this call may not be made";
    forbid_while(reason, Code::STREAM_CAPTURE_UNSUPPORTED, |capture| match capture.mode {
        Mode::Global => true,
        Mode::ThreadLocal => capture.thread == thread,
        Mode::Relaxed => false,
    })
}

/// Refuses to wait for a context with a captured stream.
pub fn forbid_in(context: &Context) -> Outcome {
    let reason = "a stream of the context is being captured";
    forbid_while(reason, Code::STREAM_CAPTURE_UNSUPPORTED, |capture| capture.context == context.handle)
}

/// Refuses the default stream while a stream that it waits for is being captured.
pub fn forbid_default(context: &Context) -> Outcome {
    let reason = "the default stream waits for a stream that is being captured";
    forbid_while(reason, Code::STREAM_CAPTURE_IMPLICIT, |capture| {
        let queues = lock(&capture.state).queues.clone();
        let blocking = |queue: &Weak<Queue>| queue.upgrade().is_some_and(|queue| queue.kind == Kind::Blocking);
        capture.context == context.handle && queues.iter().any(blocking)
    })
}

fn begin(lane: &Lane, mode: u32) -> Outcome {
    let mode = match mode {
        0 => Mode::Global,
        1 => Mode::ThreadLocal,
        2 => Mode::Relaxed,
        _ => return Err(Code::INVALID_VALUE),
    };
    if lane.queue.kind == Kind::Default {
        return Err(explain(Code::STREAM_CAPTURE_UNSUPPORTED, "the default stream can't be captured"));
    }
    let mut member = lock(&lane.queue.capture);
    if member.is_some() {
        return Err(Code::ILLEGAL_STATE);
    }
    let state = State { queues: vec![Arc::downgrade(&lane.queue)], ..State::default() };
    let thread = std::thread::current().id();
    let capture = Arc::new(Capture { context: lane.context.handle, mode, thread, state: Mutex::new(state) });
    driver()?.captures.push(Arc::clone(&capture));
    *member = Some(Member { capture, last: Vec::new() });
    Ok(())
}

fn end(lane: &Lane) -> Outcome<Graph> {
    let (capture, last) = match lock(&lane.queue.capture).as_ref() {
        Some(member) => (Arc::clone(&member.capture), member.last.clone()),
        None => return Err(Code::ILLEGAL_STATE),
    };
    let origin = lock(&capture.state).queues[0].upgrade();
    if origin.is_none_or(|origin| !Arc::ptr_eq(&origin, &lane.queue)) {
        return Err(Code::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
        return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
    }
    let state = capture.end()?;
    if state.invalid {
        return Err(Code::STREAM_CAPTURE_INVALIDATED);
    }
    let graph = Graph::new(capture.context, state.nodes);
    if graph.before(&last).contains(&false) {
        return Err(explain(
            Code::STREAM_CAPTURE_UNJOINED,
            "work of another stream has no event that the first one waits for",
        ));
    }
    Ok(graph)
}

exports! {
    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) {
        count(Call::Graph, On::Stream(stream))?;
        begin(&Lane::of(stream)?, mode)
    }

    /// Ends the capture even where it fails.
    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        let counted = count(Call::Graph, On::Stream(stream));
        graph.set(0)?;
        let ended = end(&Lane::of(stream)?)?;
        counted?;
        let added = driver()?.graphs.add(ended);
        graph.set(added)
    }

    fn cuStreamIsCapturing(stream: Handle, status: Out<u32>) {
        let lane = Lane::of(stream)?;
        status.set(match lock(&lane.queue.capture).as_ref() {
            None => 0,
            Some(member) if member.capture.check().is_ok() => 1,
            Some(_) => 2,
        })
    }
}

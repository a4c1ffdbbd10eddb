//! Contexts: which one is current on a thread, and what goes wrong in one.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::abi::Out;
use super::capture;
use super::device::{Device, Primary, device};
use super::errors::{Code, Outcome, exports};
use super::inject::{Call, On, count};
use super::queue::{Kind, Queue};
use super::{Driver, Handle, any_driver, driver, lock, new_handle};

/// What a device fault does to a context.
#[derive(Clone, Copy)]
enum Health {
    Sound,
    /// A kernel faulted; the host hasn't noticed: further work is accepted and not done.
    Faulted(Code),
    /// A synchronising call reported the fault: every call reports it from now on.
    Reported(Code),
}

/// A context of one device.
pub struct Context {
    pub handle: Handle,
    pub device: Arc<Device>,
    health: Mutex<Health>,
    /// Addresses of live device allocations.
    pub allocations: Mutex<HashSet<u64>>,
    pub default_queue: Arc<Queue>,
    /// Stream 2 (`CU_STREAM_PER_THREAD`): one for all threads, which orders more than a driver does.
    pub per_thread_queue: Arc<Queue>,
    /// All queues that may hold work, oldest first.
    pub queues: Mutex<Vec<Arc<Queue>>>,
    /// Contexts of other devices whose memory this one may access.
    pub peers: Mutex<HashSet<Handle>>,
    /// Work is done as late as possible.
    pub deferred: bool,
}

impl Context {
    fn create(driver: &mut Driver, device: Arc<Device>) -> Handle {
        let handle = new_handle();
        let (default_queue, per_thread_queue) = (Queue::new(Kind::Default), Queue::new(Kind::Blocking));
        let context = Context {
            handle,
            device,
            health: Mutex::new(Health::Sound),
            allocations: Mutex::default(),
            queues: Mutex::new(vec![Arc::clone(&default_queue), Arc::clone(&per_thread_queue)]),
            default_queue,
            per_thread_queue,
            peers: Mutex::default(),
            deferred: driver.settings.deferred,
        };
        driver.contexts.0.insert(handle, Arc::new(context));
        handle
    }

    /// Frees what lives in the context; its handles become invalid.
    fn destroy(driver: &mut Driver, handle: Handle) {
        let Ok(context) = driver.contexts.remove(handle) else { return };
        driver.streams.0.retain(|_, stream| stream.context != handle);
        driver.events.0.retain(|_, event| event.context != handle);
        driver.captures.retain(|capture| capture.context != handle);
        driver.graphs.0.retain(|_, graph| graph.context != handle);
        driver.executables.0.retain(|_, executable| executable.context != handle);
        driver.functions.0.retain(|_, function| function.context != handle);
        driver.modules.0.retain(|_, module| module.context != handle);
        driver.pinned.retain(|_, pinned| pinned.context != handle);
        for address in lock(&context.allocations).drain() {
            // Only this context frees its allocations, and each is listed once.
            let _ = context.device.memory.free(address);
        }
    }

    /// A queue for a new stream.
    pub fn new_queue(&self, kind: Kind) -> Arc<Queue> {
        let queue = Queue::new(kind);
        let mut queues = lock(&self.queues);
        // Of destroyed streams those go that have nothing left to do.
        queues.retain(|queue| Arc::strong_count(queue) > 1 || !queue.end().is_done());
        queues.push(Arc::clone(&queue));
        queue
    }

    /// Does all submitted work, that of the newest stream first: a stream often waits for an older one.
    pub fn finish(&self) {
        overtake(|context, _| context.handle == self.handle);
        let queues = lock(&self.queues).clone();
        queues.iter().rev().for_each(|queue| queue.end().force());
    }

    /// Waits for ever where a stream of the context hangs.
    pub fn wait_if_it_hangs(&self) {
        let queues = lock(&self.queues).clone();
        queues.iter().map(|queue| queue.end()).filter(|end| end.hangs()).for_each(|end| end.force());
    }

    /// # Errors
    /// The fault, once reported.
    pub fn check(&self) -> Outcome {
        match *lock(&self.health) {
            Health::Reported(code) => Err(code),
            _ => Ok(()),
        }
    }

    /// Whether a kernel faulted.
    pub fn faulted(&self) -> bool {
        !matches!(*lock(&self.health), Health::Sound)
    }

    /// Records a kernel's fault, for a synchronising call to report; the first one stays.
    pub fn fault(&self, code: Code) {
        let mut health = lock(&self.health);
        if let Health::Sound = *health {
            *health = Health::Faulted(code);
        }
    }

    /// What a synchronising call finds once the work before it is done.
    ///
    /// # Errors
    /// The fault, from now on reported by every call.
    pub fn synchronise(&self) -> Outcome {
        let mut health = lock(&self.health);
        match *health {
            Health::Sound => Ok(()),
            Health::Faulted(code) | Health::Reported(code) => {
                *health = Health::Reported(code);
                Err(code)
            }
        }
    }
}

/// Before the host waits for some queues: does what all others are ready for, of this context and of any other, where
/// they overtake.
pub fn overtake(awaited: impl Fn(&Context, &Arc<Queue>) -> bool) {
    let mut contexts: Vec<Arc<Context>> = {
        let driver = any_driver();
        if !driver.settings.overtaking {
            return;
        }
        driver.contexts.0.values().cloned().collect()
    };
    contexts.sort_by_key(|context| context.handle);
    let mut others = Vec::new();
    for context in &contexts {
        others.extend(lock(&context.queues).iter().filter(|queue| !awaited(context, queue)).cloned());
    }
    // What one does may be what another waits for.
    while others.iter().filter(|queue| queue.overtake()).count() > 0 {}
}

thread_local! {
    /// The thread's context stack; the last is current.
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

fn with_stack<T>(act: impl FnOnce(&mut Vec<Handle>) -> T) -> Outcome<T> {
    // Objects dropped while the thread ends may call in after its stack is gone.
    STACK.try_with(|stack| act(&mut stack.borrow_mut())).map_err(|_| Code::DEINITIALIZED)
}

/// The calling thread's context.
///
/// # Errors
/// `INVALID_CONTEXT` for none, `CONTEXT_IS_DESTROYED` for a stale one, and its fault once reported.
pub fn current() -> Outcome<Arc<Context>> {
    let driver = driver()?;
    let handle = with_stack(|stack| stack.last().copied())?.ok_or(Code::INVALID_CONTEXT)?;
    let context = driver.contexts.get(handle).map_err(|_| Code::CONTEXT_IS_DESTROYED)?;
    drop(driver);
    context.check()?;
    Ok(context)
}

/// The calling thread's context, if it is live, whatever has become of it.
pub fn current_if_live() -> Option<Arc<Context>> {
    let handle = with_stack(|stack| stack.last().copied()).ok()??;
    any_driver().contexts.get(handle).ok()
}

/// A context that a call names.
///
/// # Errors
/// `INVALID_CONTEXT` for what isn't a live context.
pub fn find(handle: Handle) -> Outcome<Arc<Context>> {
    driver()?.contexts.get(handle).map_err(|_| Code::INVALID_CONTEXT)
}

/// Does what a context still has to do before it goes.
fn finish(context: Option<Handle>) -> Outcome {
    let found = {
        let driver = driver()?;
        context.and_then(|context| driver.contexts.get(context).ok())
    };
    if let Some(context) = found {
        context.finish();
    }
    Ok(())
}

exports! {
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, ordinal: i32) {
        let device = device(ordinal)?;
        let driver = &mut *driver()?;
        let mut primary = lock(&device.primary);
        let handle = match primary.as_mut() {
            Some(primary) => {
                primary.retained += 1;
                primary.context
            }
            None => {
                let handle = Context::create(driver, Arc::clone(&device));
                *primary = Some(Primary { context: handle, retained: 1 });
                handle
            }
        };
        context.set(handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(ordinal: i32) {
        let device = device(ordinal)?;
        let last = lock(&device.primary).as_ref().filter(|primary| primary.retained == 1).map(|last| last.context);
        finish(last)?;
        let driver = &mut *driver()?;
        let mut primary = lock(&device.primary);
        let held = primary.as_mut().ok_or(Code::INVALID_CONTEXT)?;
        held.retained -= 1;
        if held.retained == 0 {
            Context::destroy(driver, held.context);
            *primary = None;
        }
        Ok(())
    }

    /// A context of its own: a fault in it leaves the primary context sound.
    fn cuCtxCreate_v4(context: Out<Handle>, parameters: Handle, _flags: u32, ordinal: i32) {
        if parameters != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        let device = device(ordinal)?;
        let handle = Context::create(&mut *driver()?, device);
        context.set(handle)?;
        with_stack(|stack| stack.push(handle))
    }

    fn cuCtxDestroy_v2(context: Handle) {
        finish(Some(context))?;
        let driver = &mut *driver()?;
        let device = Arc::clone(&driver.contexts.get(context).map_err(|_| Code::INVALID_CONTEXT)?.device);
        if lock(&device.primary).as_ref().is_some_and(|primary| primary.context == context) {
            return Err(Code::INVALID_CONTEXT);
        }
        Context::destroy(driver, context);
        with_stack(|stack| stack.pop_if(|top| *top == context))?;
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        drop(driver()?);
        context.set(with_stack(|stack| stack.last().copied())?.unwrap_or(0))
    }

    fn cuCtxSetCurrent(context: Handle) {
        if context != 0 {
            find(context)?;
        }
        with_stack(|stack| {
            stack.pop();
            stack.extend((context != 0).then_some(context));
        })
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        find(context)?;
        with_stack(|stack| stack.push(context))
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        drop(driver()?);
        let popped = with_stack(|stack| stack.pop())?.ok_or(Code::INVALID_CONTEXT)?;
        context.set_if_wanted(popped);
        Ok(())
    }

    fn cuCtxGetDevice(ordinal: Out<i32>) {
        ordinal.set(current()?.device.ordinal as i32)
    }

    /// How the host waits makes no difference here.
    fn cuCtxSetFlags(_flags: u32) {
        current().map(|_| ())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxSynchronize() {
        count(Call::Sync, On::Current)?;
        let context = current()?;
        capture::forbid_in(&context)?;
        context.finish();
        context.synchronise()
    }
}

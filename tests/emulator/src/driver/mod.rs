//! The CUDA driver API, as far as the project's host code calls it, over emulated devices.
//!
//! Handles are numbers looked up in tables and never reused, so that a stale or foreign one is
//! reported and never followed. The tables sit behind one lock that is held for look-ups only;
//! contexts, streams and events have locks of their own, and no table is locked while work is done.
//! Work is done in stream order, at the call or as late as possible: see `stream` and `queue`.

mod abi;
mod capture;
mod context;
mod control;
mod copies;
mod device;
mod errors;
mod event;
mod graph;
mod hooks;
mod host;
mod inject;
mod launch;
pub mod library;
mod memory;
mod module;
mod peer;
mod queue;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use capture::Capture;
use context::Context;
use control::Settings;
use device::Device;
use errors::{Code, Outcome};
use event::Event;
use graph::{Executable, Graph};
use module::{Function, LoadedModule};
use stream::Stream;

/// An opaque pointer of the API (`CUcontext`, `CUstream`, ..), never dereferenced.
type Handle = usize;

/// Everything the process has created; replaced as a whole by `cuemu_restart`.
#[derive(Default)]
struct Driver {
    settings: Settings,
    /// Set by the first successful `cuInit`.
    initialised: bool,
    devices: Vec<Arc<Device>>,
    contexts: Table<Context>,
    streams: Table<Stream>,
    events: Table<Event>,
    modules: Table<LoadedModule>,
    functions: Table<Function>,
    graphs: Table<Graph>,
    executables: Table<Executable>,
    /// Captures that have begun and not ended.
    captures: Vec<Arc<Capture>>,
    /// Page-locked host memory by its first address.
    pinned: BTreeMap<usize, host::Pinned>,
    /// Calls so far.
    calls: inject::Counts,
    /// Why something last went wrong, as far as a code can't say: a device fault, or the refusal of a
    /// module, a launch or an address.
    last_fault: String,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(Mutex::default);

/// The tables, initialised or not.
fn any_driver() -> MutexGuard<'static, Driver> {
    lock(&DRIVER)
}

/// The tables after `cuInit`.
///
/// # Errors
/// `STUB_LIBRARY` when imitating the stub, `NOT_INITIALIZED` before `cuInit`.
fn driver() -> Outcome<MutexGuard<'static, Driver>> {
    let driver = any_driver();
    if driver.settings.stub {
        Err(Code::STUB_LIBRARY)
    } else if driver.initialised {
        Ok(driver)
    } else {
        Err(Code::NOT_INITIALIZED)
    }
}

/// Locks whatever a panicking holder left: the wrapper already reported that panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the reason for `code`, for `cuemu_last_fault`.
fn explain(code: Code, reason: impl ToString) -> Code {
    any_driver().last_fault = reason.to_string();
    code
}

/// A handle no earlier object of the process had. Far from real addresses, on their alignment.
fn new_handle() -> Handle {
    static NEXT: AtomicUsize = AtomicUsize::new(0x10_0000);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// Live objects of one kind.
struct Table<T>(HashMap<Handle, Arc<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table(HashMap::new())
    }
}

impl<T> Table<T> {
    /// # Errors
    /// `INVALID_HANDLE` for what isn't a live object of this kind.
    fn get(&self, handle: Handle) -> Outcome<Arc<T>> {
        self.0.get(&handle).cloned().ok_or(Code::INVALID_HANDLE)
    }

    /// Adds an object under a new handle.
    fn add(&mut self, object: T) -> Handle {
        let handle = new_handle();
        self.0.insert(handle, Arc::new(object));
        handle
    }

    /// # Errors
    /// `INVALID_HANDLE` for what isn't a live object of this kind.
    fn remove(&mut self, handle: Handle) -> Outcome<Arc<T>> {
        self.0.remove(&handle).ok_or(Code::INVALID_HANDLE)
    }
}

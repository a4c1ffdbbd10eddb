//! The emulated driver's side: its library is loaded already, under the name of the real one.

use std::ffi::c_void;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LAZY};

use crate::abi::{Outcome, Status};

/// Finds a library that is loaded and loads none.
const RTLD_NOLOAD: i32 = 4;

type Run = extern "C" fn(*mut c_void, i32) -> u32;
type Release = extern "C" fn(*mut c_void);

struct Hooks {
    enqueue: extern "C" fn(usize, Run, *mut c_void, Release) -> u32,
    read: extern "C" fn(i32, *mut c_void, u64, usize) -> u32,
    write: extern "C" fn(i32, u64, *const c_void, usize) -> u32,
}

/// # Errors
/// `NOT_INITIALIZED` without an emulated driver in the process.
fn hooks() -> Outcome<&'static Hooks> {
    static HOOKS: OnceLock<Option<Hooks>> = OnceLock::new();
    HOOKS.get_or_init(find).as_ref().ok_or(Status::NOT_INITIALIZED)
}

fn find() -> Option<Hooks> {
    // SAFETY: nothing is loaded, so that no initialisers run.
    let library = unsafe { Library::open(Some("libcuda.so"), RTLD_LAZY | RTLD_NOLOAD) }.ok()?;
    // SAFETY: the types are those the emulated driver documents; no other library has these names.
    let hooks = unsafe {
        Hooks {
            enqueue: *library.get(b"cuemu_enqueue").ok()?,
            read: *library.get(b"cuemu_read").ok()?,
            write: *library.get(b"cuemu_write").ok()?,
        }
    };
    std::mem::forget(library); // the functions must stay
    Some(hooks)
}

/// # Errors
/// `NOT_INITIALIZED` without an emulated driver in the process.
pub fn check() -> Outcome {
    hooks().map(|_| ())
}

/// A `CUresult` other than success, of work that runs.
pub struct Fault(pub u32);

/// A device's memory.
pub struct Memory(i32);

fn checked(code: u32) -> Result<(), Fault> {
    if code == 0 { Ok(()) } else { Err(Fault(code)) }
}

impl Memory {
    fn hooks() -> Result<&'static Hooks, Fault> {
        hooks().map_err(|_| Fault(999))
    }

    /// Reads bytes that must lie in one allocation and have been written.
    pub fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        checked((Self::hooks()?.read)(self.0, bytes.as_mut_ptr().cast(), from, bytes.len()))
    }

    /// Writes bytes that must lie in one allocation.
    pub fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Fault> {
        checked((Self::hooks()?.write)(self.0, to, bytes.as_ptr().cast(), bytes.len()))
    }
}

/// Work for a stream.
type Work = Box<dyn Fn(&Memory) -> Result<(), Fault> + Send + Sync>;

extern "C" fn run(data: *mut c_void, ordinal: i32) -> u32 {
    // SAFETY: `data` comes from `enqueue` below and is not released yet.
    let work = unsafe { &*data.cast::<Work>() };
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&Memory(ordinal))));
    match done {
        Ok(Ok(())) => 0,
        Ok(Err(fault)) => fault.0,
        Err(panic) => {
            std::mem::forget(panic);
            999
        }
    }
}

extern "C" fn release(data: *mut c_void) {
    // SAFETY: `data` comes from `enqueue` below, and the driver releases it once.
    drop(unsafe { Box::from_raw(data.cast::<Work>()) });
}

/// Puts `work` into a stream.
///
/// # Errors
/// `EXECUTION_FAILED` where the driver refuses.
pub fn enqueue(stream: usize, work: Work) -> Outcome {
    let hooks = hooks()?;
    let data = Box::into_raw(Box::new(work));
    match (hooks.enqueue)(stream, run, data.cast(), release) {
        0 => Ok(()),
        _ => Err(Status::EXECUTION_FAILED),
    }
}

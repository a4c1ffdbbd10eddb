//! What other emulated libraries need of the driver: to put work into streams, and the device's memory.

use std::ffi::c_void;
use std::sync::Arc;

use super::abi::{HostSource, HostTarget};
use super::device::device;
use super::errors::{Code, Outcome, exports};
use super::graph::Work;
use super::inject::{Call, On, count};
use super::stream::Lane;
use super::{Handle, driver, explain};

/// A piece of work: gets `data` and the device's number, returns a `CUresult`. May run more than once, or never.
type Run = extern "C" fn(*mut c_void, i32) -> u32;

/// What a library's work refers to; released exactly once, whether it was taken or not.
struct Data {
    pointer: *mut c_void,
    release: extern "C" fn(*mut c_void),
}

// SAFETY: whoever enqueues work promises that `run` and `release` may be called with it on any thread.
unsafe impl Send for Data {}
// SAFETY: as above; `run` is never called twice at once for the work of one stream or graph.
unsafe impl Sync for Data {}

impl Data {
    fn run(&self, run: Run, ordinal: usize) -> Outcome {
        match run(self.pointer, ordinal as i32) {
            0 => Ok(()),
            code => Err(Code(code)),
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        (self.release)(self.pointer);
    }
}

exports! {
    /// `cuemu_enqueue(stream, run, data, release)`: work that is queued, captured and replayed as a kernel is. A code
    /// other than 0 from `run` becomes the fault of the context.
    fn cuemu_enqueue(stream: Handle, run: Run, data: *mut c_void, release: extern "C" fn(*mut c_void)) {
        let data = Data { pointer: data, release };
        let hangs = count(Call::Launch, On::Stream(stream))?;
        let lane = Lane::of(stream)?;
        let ordinal = lane.context.device.ordinal;
        let work = (!hangs).then(|| -> Work { Arc::new(move || data.run(run, ordinal)) });
        lane.add(Vec::new(), work).map(|_| ())
    }

    /// `cuemu_read(ordinal, to, from, bytes)`: copies device memory to the host for such work. 700 for a bad address,
    /// 719 for bytes nobody has written, as far as the `checks` setting says.
    fn cuemu_read(ordinal: i32, to: HostTarget, from: u64, bytes: usize) {
        if bytes == 0 {
            return Ok(());
        }
        let checks = driver()?.settings.checks.initialised;
        let (device, mut to) = (device(ordinal)?, to);
        let lost = |error| explain(Code::ILLEGAL_ADDRESS, error);
        if checks && !device.memory.is_written(from, bytes as u64).map_err(lost)? {
            let reason = format!("UninitialisedGlobal in a library's work: {bytes} bytes at {from:#x}, not all written");
            return Err(explain(Code::LAUNCH_FAILED, reason));
        }
        device.memory.read(from, to.bytes(bytes)?).map_err(lost)
    }

    /// `cuemu_write(ordinal, to, from, bytes)`: the other way round.
    fn cuemu_write(ordinal: i32, to: u64, from: HostSource, bytes: usize) {
        if bytes == 0 {
            return Ok(());
        }
        let device = device(ordinal)?;
        device.memory.write(to, from.bytes(bytes)?).map_err(|error| explain(Code::ILLEGAL_ADDRESS, error))
    }
}

//! Device memory, copies and fills.

use std::sync::Arc;

use super::abi::{HostSource, HostTarget, Out};
use super::capture;
use super::context::{Context, current};
use super::errors::{Code, Outcome, exports};
use super::host::is_pinned;
use super::inject::{Call, count};
use super::stream::Lane;
use super::{Handle, explain, lock};
use crate::AccessError;

/// Bytes of a 32-bit fill that are written at a time.
const FILL_CHUNK: usize = 64 << 10;

/// A driver reports any bad address of a copy at the call.
fn refused(error: AccessError) -> Code {
    explain(Code::INVALID_VALUE, error)
}

/// A bad address found when work is done: its memory has been freed since.
fn lost(error: AccessError) -> Code {
    explain(Code::ILLEGAL_ADDRESS, error)
}

/// # Errors
/// `INVALID_VALUE` unless the bytes lie in one live allocation.
fn check(lane: &Lane, address: u64, bytes: usize) -> Outcome {
    lane.context.device.memory.check(address, bytes as u64).map_err(refused)
}

fn allocate(context: &Context, bytes: usize) -> Outcome<u64> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let memory = &context.device.memory;
    let address = memory.alloc(bytes as u64).or_else(|| {
        // What streams have yet to free is there for whoever waits, and a driver waits.
        context.finish();
        memory.alloc(bytes as u64)
    });
    let address = address.ok_or(Code::OUT_OF_MEMORY)?;
    lock(&context.allocations).insert(address);
    Ok(address)
}

/// Takes an allocation out of the context's hands, for it to be freed.
fn disown(context: &Context, address: u64) -> Outcome {
    if lock(&context.allocations).remove(&address) {
        return Ok(());
    }
    Err(explain(Code::INVALID_VALUE, format!("{address:#x} isn't allocated in this context: nothing to free")))
}

/// Reads pinned memory when the copy is done, pageable memory at the call.
fn host_to_device(lane: &Lane, to: u64, from: HostSource, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    let now = from.bytes(bytes)?;
    let context = Arc::clone(&lane.context);
    let write = move |bytes: &[u8]| context.device.memory.write(to, bytes).map_err(lost);
    let check = || check(lane, to, bytes);
    if is_pinned(from.address(), bytes)? {
        let work = move || if is_pinned(from.address(), bytes)? { write(from.bytes(bytes)?) } else { Err(unpinned()) };
        return lane.submit(check, work);
    }
    capture::forbid(&lane.queue, Code::STREAM_CAPTURE_UNSUPPORTED)?;
    if lane.context.deferred {
        let staged = now.to_vec();
        lane.submit(check, move || write(&staged))
    } else {
        lane.submit(check, move || write(from.bytes(bytes)?))
    }
}

/// Writes pinned memory when the copy is done; to pageable memory the copy is waited for.
fn device_to_host(lane: &Lane, to: HostTarget, from: u64, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    let pinned = is_pinned(to.address(), bytes)?;
    if !pinned {
        capture::forbid(&lane.queue, Code::STREAM_CAPTURE_UNSUPPORTED)?;
    }
    let context = Arc::clone(&lane.context);
    let work = move || {
        if pinned && !is_pinned(to.address(), bytes)? {
            return Err(unpinned());
        }
        let mut to = to;
        context.device.memory.read(from, to.bytes(bytes)?).map_err(lost)
    };
    // Null must not wait for the work to be found.
    { to }.bytes(bytes)?;
    lane.submit(|| check(lane, from, bytes), work)?;
    if pinned { Ok(()) } else { lane.synchronise() }
}

/// What a graph copies from or to page-locked memory that is no longer there.
fn unpinned() -> Code {
    explain(Code::ILLEGAL_ADDRESS, "copy of page-locked host memory that has been freed or unregistered")
}

fn device_to_device(lane: &Lane, to: u64, from: u64, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    if to.abs_diff(from) < bytes as u64 {
        let reason = format!("copy of {bytes} bytes from {from:#x} to {to:#x}: the ranges overlap, which is undefined");
        return Err(explain(Code::INVALID_VALUE, reason));
    }
    let context = Arc::clone(&lane.context);
    lane.submit(
        || check(lane, to, bytes).and_then(|()| check(lane, from, bytes)),
        move || context.device.memory.copy(to, from, bytes as u64).map_err(lost),
    )
}

fn fill8(lane: &Lane, address: u64, byte: u8, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    let context = Arc::clone(&lane.context);
    lane.submit(
        || check(lane, address, bytes),
        move || context.device.memory.fill(address, byte, bytes as u64).map_err(lost),
    )
}

fn fill32(lane: &Lane, address: u64, word: u32, count: usize) -> Outcome {
    if !address.is_multiple_of(4) {
        return Err(Code::INVALID_VALUE);
    }
    let bytes = count.checked_mul(4).ok_or(Code::INVALID_VALUE)?;
    if bytes == 0 {
        return Ok(());
    }
    let chunk = word.to_ne_bytes().repeat(bytes.min(FILL_CHUNK) / 4);
    let context = Arc::clone(&lane.context);
    let work = move || {
        for start in (0..bytes).step_by(FILL_CHUNK) {
            let length = (bytes - start).min(FILL_CHUNK);
            context.device.memory.write(address + start as u64, &chunk[..length]).map_err(lost)?;
        }
        Ok(())
    };
    lane.submit(|| check(lane, address, bytes), work)
}

/// The default stream for a synchronous copy or fill.
fn synchronous(call: Call) -> Outcome<Lane> {
    count(call)?;
    capture::forbid_unsafe()?;
    Lane::of(0)
}

/// The stream of an asynchronous copy or fill.
fn asynchronous(call: Call, stream: Handle) -> Outcome<Lane> {
    count(call)?;
    Lane::of(stream)
}

exports! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        count(Call::Alloc)?;
        capture::forbid_unsafe()?;
        address.set(allocate(&*current()?, bytes)?)
    }

    /// Waits for the context, as a driver's does: the memory may still be in use.
    fn cuMemFree_v2(address: u64) {
        capture::forbid_unsafe()?;
        let context = current()?;
        context.finish();
        context.synchronise()?;
        if address == 0 {
            return Ok(());
        }
        disown(&context, address)?;
        context.device.memory.free(address).map_err(refused)
    }

    /// The memory is there at once; where the stream reaches the allocation, what was written before is forgotten.
    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        count(Call::Alloc)?;
        let lane = Lane::of(stream)?;
        if !lane.context.device.pools {
            return Err(Code::NOT_SUPPORTED);
        }
        capture::forbid(&lane.queue, Code::STREAM_CAPTURE_UNSUPPORTED)?;
        let found = allocate(&lane.context, bytes)?;
        if lane.context.deferred {
            let context = Arc::clone(&lane.context);
            lane.submit(|| Ok(()), move || context.device.memory.forget(found).map_err(lost))?;
        }
        address.set(found)
    }

    /// In a capture this would free what the graph allocated, of which there is nothing.
    fn cuMemFreeAsync(address: u64, stream: Handle) {
        let lane = Lane::of(stream)?;
        capture::forbid(&lane.queue, Code::INVALID_VALUE)?;
        let context = Arc::clone(&lane.context);
        let work = move || context.device.memory.free(address).map_err(lost);
        lane.submit(|| disown(&lane.context, address), work)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let context = current()?;
        let memory = &context.device.memory;
        free.set(memory.capacity().saturating_sub(memory.used()) as usize)?;
        total.set(memory.capacity() as usize)
    }

    /// Waits for the default stream. Then pageable memory is staged, and copied on while the host goes on; a copy of
    /// pinned memory is waited for.
    fn cuMemcpyHtoD_v2(to: u64, from: HostSource, bytes: usize) {
        let lane = synchronous(Call::Copy)?;
        if is_pinned(from.address(), bytes)? || !lane.context.deferred {
            host_to_device(&lane, to, from, bytes)?;
            return lane.synchronise();
        }
        lane.synchronise()?;
        host_to_device(&lane, to, from, bytes)
    }

    fn cuMemcpyDtoH_v2(to: HostTarget, from: u64, bytes: usize) {
        let lane = synchronous(Call::Copy)?;
        device_to_host(&lane, to, from, bytes)?;
        lane.synchronise()
    }

    /// Doesn't wait, as a driver's doesn't for copies within a device.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        device_to_device(&synchronous(Call::Copy)?, to, from, bytes)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: HostSource, bytes: usize, stream: Handle) {
        host_to_device(&asynchronous(Call::Copy, stream)?, to, from, bytes)
    }

    /// To pageable memory this waits, as a driver's does.
    fn cuMemcpyDtoHAsync_v2(to: HostTarget, from: u64, bytes: usize, stream: Handle) {
        device_to_host(&asynchronous(Call::Copy, stream)?, to, from, bytes)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        device_to_device(&asynchronous(Call::Copy, stream)?, to, from, bytes)
    }

    fn cuMemsetD8_v2(address: u64, byte: u8, count: usize) {
        fill8(&synchronous(Call::Fill)?, address, byte, count)
    }

    fn cuMemsetD32_v2(address: u64, word: u32, count: usize) {
        fill32(&synchronous(Call::Fill)?, address, word, count)
    }

    fn cuMemsetD8Async(address: u64, byte: u8, count: usize, stream: Handle) {
        fill8(&asynchronous(Call::Fill, stream)?, address, byte, count)
    }

    fn cuMemsetD32Async(address: u64, word: u32, count: usize, stream: Handle) {
        fill32(&asynchronous(Call::Fill, stream)?, address, word, count)
    }
}

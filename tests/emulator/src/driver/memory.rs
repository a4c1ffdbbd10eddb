//! Device memory and fills.

use std::sync::Arc;

use super::abi::Out;
use super::capture;
use super::context::{Context, current};
use super::errors::{Code, Outcome, exports};
use super::inject::{Call, On, count};
use super::stream::Lane;
use super::{Handle, explain, lock};

/// Bytes of a 32-bit fill that are written at a time.
const FILL_CHUNK: usize = 64 << 10;

/// A driver reports any bad address of a copy at the call.
pub fn refused(error: impl ToString) -> Code {
    explain(Code::INVALID_VALUE, error)
}

/// A bad address found when work is done: its memory has been freed since, or closed to the context.
pub fn lost(error: impl ToString) -> Code {
    explain(Code::ILLEGAL_ADDRESS, error)
}

/// # Errors
/// `INVALID_VALUE` unless the bytes lie in one live allocation that the context may access.
fn check(lane: &Lane, address: u64, bytes: usize) -> Outcome {
    let device = lane.context.reach(address).map_err(refused)?;
    device.memory.check(address, bytes as u64).map_err(refused)
}

/// Allocates in the context for an owner: itself, or its device's memory pool.
fn allocate(context: &Context, owner: Handle, bytes: usize) -> Outcome<u64> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let memory = &context.device.memory;
    let address = memory.alloc_for(owner, bytes as u64).or_else(|| {
        // What streams have yet to free is there for whoever waits, and a driver waits.
        context.finish();
        memory.alloc_for(owner, bytes as u64)
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

fn fill8(lane: &Lane, address: u64, byte: u8, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    let context = Arc::clone(&lane.context);
    lane.submit(
        || check(lane, address, bytes),
        move || context.reach(address).map_err(lost)?.memory.fill(address, byte, bytes as u64).map_err(lost),
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
        let device = context.reach(address).map_err(lost)?;
        for start in (0..bytes).step_by(FILL_CHUNK) {
            let length = (bytes - start).min(FILL_CHUNK);
            device.memory.write(address + start as u64, &chunk[..length]).map_err(lost)?;
        }
        Ok(())
    };
    lane.submit(|| check(lane, address, bytes), work)
}

/// The default stream for a synchronous copy or fill.
pub fn synchronous(call: Call) -> Outcome<Lane> {
    count(call, On::Current)?;
    capture::forbid_unsafe()?;
    Lane::of(0)
}

/// The stream of an asynchronous copy or fill.
pub fn asynchronous(call: Call, stream: Handle) -> Outcome<Lane> {
    count(call, On::Stream(stream))?;
    Lane::of(stream)
}

exports! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        count(Call::Alloc, On::Current)?;
        capture::forbid_unsafe()?;
        let context = current()?;
        address.set(allocate(&context, context.handle, bytes)?)
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
        count(Call::Alloc, On::Stream(stream))?;
        let lane = Lane::of(stream)?;
        if !lane.context.device.pools {
            return Err(Code::NOT_SUPPORTED);
        }
        capture::forbid(&lane.queue, Code::STREAM_CAPTURE_UNSUPPORTED)?;
        let found = allocate(&lane.context, lane.context.device.pool, bytes)?;
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

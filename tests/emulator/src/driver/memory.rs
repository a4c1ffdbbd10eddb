//! Device memory, page-locked host memory, copies and fills.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::abi::{HostSource, HostTarget, Out};
use super::context::{Context, current};
use super::errors::{Code, Outcome, exports};
use super::stream::Lane;
use super::{Handle, driver, explain, lock};
use crate::AccessError;

/// Alignment of page-locked host memory.
const PAGE: usize = 4096;
/// Bytes of a 32-bit fill that are written at a time.
const FILL_CHUNK: usize = 64 << 10;

/// Page-locked host memory.
pub struct Pinned {
    pub context: Handle,
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory belongs to the value alone, which only frees it.
unsafe impl Send for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: `address` came from `alloc_zeroed` with this layout and is freed here only.
        unsafe { dealloc(self.address.as_ptr(), self.layout) }
    }
}

/// A driver reports any bad address of a copy at the call.
fn refused(error: AccessError) -> Code {
    explain(Code::INVALID_VALUE, error)
}

fn allocate(context: &Context, bytes: usize) -> Outcome<u64> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let address = context.device.memory.alloc(bytes as u64).ok_or(Code::OUT_OF_MEMORY)?;
    lock(&context.allocations).insert(address);
    Ok(address)
}

fn free(context: &Context, address: u64) -> Outcome {
    if !lock(&context.allocations).remove(&address) {
        return Err(explain(
            Code::INVALID_VALUE,
            format!("{address:#x} isn't allocated in this context: nothing to free"),
        ));
    }
    context.device.memory.free(address).map_err(refused)
}

fn host_to_device(lane: &Lane, to: u64, from: &HostSource, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    let from = from.bytes(bytes)?;
    lane.submit(|| lane.context.device.memory.write(to, from).map_err(refused))
}

fn device_to_host(lane: &Lane, to: &mut HostTarget, from: u64, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    let to = to.bytes(bytes)?;
    lane.submit(|| lane.context.device.memory.read(from, to).map_err(refused))
}

fn device_to_device(lane: &Lane, to: u64, from: u64, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    if to.abs_diff(from) < bytes as u64 {
        let reason = format!("copy of {bytes} bytes from {from:#x} to {to:#x}: the ranges overlap, which is undefined");
        return Err(explain(Code::INVALID_VALUE, reason));
    }
    lane.submit(|| lane.context.device.memory.copy(to, from, bytes as u64).map_err(refused))
}

fn fill8(lane: &Lane, address: u64, byte: u8, count: usize) -> Outcome {
    if count == 0 {
        return Ok(());
    }
    lane.submit(|| lane.context.device.memory.fill(address, byte, count as u64).map_err(refused))
}

fn fill32(lane: &Lane, address: u64, word: u32, count: usize) -> Outcome {
    if !address.is_multiple_of(4) {
        return Err(Code::INVALID_VALUE);
    }
    let bytes = count.checked_mul(4).ok_or(Code::INVALID_VALUE)?;
    let chunk = word.to_ne_bytes().repeat(bytes.min(FILL_CHUNK) / 4);
    lane.submit(|| {
        for start in (0..bytes).step_by(FILL_CHUNK) {
            let length = (bytes - start).min(FILL_CHUNK);
            lane.context.device.memory.write(address + start as u64, &chunk[..length]).map_err(refused)?;
        }
        Ok(())
    })
}

/// Whether the driver allocated the host memory at `address`: a copy to it needn't be waited for.
fn is_pinned(address: usize) -> Outcome<bool> {
    let driver = driver()?;
    let below = driver.pinned.range(..=address).next_back();
    Ok(below.is_some_and(|(start, pinned)| address - start < pinned.layout.size()))
}

exports! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        address.set(allocate(&*current()?, bytes)?)
    }

    /// Waits for the device, as a driver's does: the memory may still be in use.
    fn cuMemFree_v2(address: u64) {
        let lane = Lane::of(0)?;
        lane.synchronise()?;
        if address == 0 { Ok(()) } else { free(&lane.context, address) }
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        address.set(allocate(&Lane::of(stream)?.context, bytes)?)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        let lane = Lane::of(stream)?;
        lane.submit(|| free(&lane.context, address))
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let context = current()?;
        let memory = &context.device.memory;
        free.set(memory.capacity().saturating_sub(memory.used()) as usize)?;
        total.set(memory.capacity() as usize)
    }

    fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: u32) {
        let context = current()?.handle;
        if bytes == 0 || flags > 7 {
            return Err(Code::INVALID_VALUE);
        }
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Code::OUT_OF_MEMORY)?;
        // SAFETY: `bytes` isn't zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Code::OUT_OF_MEMORY)?;
        let pinned = Pinned { context, address: start, layout };
        // The caller dereferences it later.
        let exposed = start.as_ptr().expose_provenance();
        address.set(exposed)?;
        driver()?.pinned.insert(exposed, pinned);
        Ok(())
    }

    fn cuMemFreeHost(address: usize) {
        let pinned = driver()?.pinned.remove(&address);
        pinned.map(|_| ()).ok_or(Code::INVALID_VALUE)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: HostSource, bytes: usize) {
        let lane = Lane::of(0)?;
        host_to_device(&lane, to, &from, bytes)?;
        lane.synchronise()
    }

    fn cuMemcpyDtoH_v2(to: HostTarget, from: u64, bytes: usize) {
        let (lane, mut to) = (Lane::of(0)?, to);
        device_to_host(&lane, &mut to, from, bytes)?;
        lane.synchronise()
    }

    /// Doesn't wait, as a driver's doesn't for copies within a device.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        device_to_device(&Lane::of(0)?, to, from, bytes)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: HostSource, bytes: usize, stream: Handle) {
        host_to_device(&Lane::of(stream)?, to, &from, bytes)
    }

    /// To pageable memory this waits, as a driver's does.
    fn cuMemcpyDtoHAsync_v2(to: HostTarget, from: u64, bytes: usize, stream: Handle) {
        let (lane, mut to) = (Lane::of(stream)?, to);
        device_to_host(&lane, &mut to, from, bytes)?;
        if is_pinned(to.address())? { Ok(()) } else { lane.synchronise() }
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        device_to_device(&Lane::of(stream)?, to, from, bytes)
    }

    fn cuMemsetD8_v2(address: u64, byte: u8, count: usize) {
        fill8(&Lane::of(0)?, address, byte, count)
    }

    fn cuMemsetD32_v2(address: u64, word: u32, count: usize) {
        fill32(&Lane::of(0)?, address, word, count)
    }

    fn cuMemsetD8Async(address: u64, byte: u8, count: usize, stream: Handle) {
        fill8(&Lane::of(stream)?, address, byte, count)
    }

    fn cuMemsetD32Async(address: u64, word: u32, count: usize, stream: Handle) {
        fill32(&Lane::of(stream)?, address, word, count)
    }
}

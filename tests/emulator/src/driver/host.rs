//! Page-locked ('pinned') host memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::abi::Out;
use super::capture;
use super::context::current;
use super::errors::{Code, Outcome, exports};
use super::inject::{Call, On, count};
use super::{Handle, driver};

/// Alignment of page-locked host memory.
const PAGE: usize = 4096;

/// Page-locked host memory.
pub struct Pinned {
    pub context: Handle,
    bytes: usize,
    /// `None` for memory of the caller's.
    owned: Option<Owned>,
}

struct Owned {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory belongs to the value alone, which only frees it.
unsafe impl Send for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: `address` came from `alloc_zeroed` with this layout and is freed here only.
        unsafe { dealloc(self.address.as_ptr(), self.layout) }
    }
}

/// Whether all of the host memory is page-locked: copies of it needn't be waited for, and need it later.
pub fn is_pinned(address: usize, bytes: usize) -> Outcome<bool> {
    let driver = driver()?;
    let below = driver.pinned.range(..=address).next_back();
    Ok(below.is_some_and(|(start, pinned)| {
        let offset = address - start;
        offset < pinned.bytes && bytes <= pinned.bytes - offset
    }))
}

fn allocate(address: &Out<usize>, bytes: usize) -> Outcome {
    count(Call::Alloc, On::Current)?;
    capture::forbid_unsafe()?;
    let context = current()?.handle;
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Code::OUT_OF_MEMORY)?;
    // SAFETY: `bytes` isn't zero.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Code::OUT_OF_MEMORY)?;
    let pinned = Pinned { context, bytes, owned: Some(Owned { address: start, layout }) };
    // The caller dereferences it later.
    let exposed = start.as_ptr().expose_provenance();
    address.set(exposed)?;
    driver()?.pinned.insert(exposed, pinned);
    Ok(())
}

/// Takes page-locked memory off the list, once its context does no more with it. Other contexts' work must be waited for by
/// the program, but where it never ends this doesn't either: a driver may wait for every device that the memory is mapped on.
///
/// # Errors
/// `error` for what doesn't start such memory, allocated here (`owned`) or not.
fn release(address: usize, owned: bool, error: Code) -> Outcome {
    capture::forbid_unsafe()?;
    let (context, contexts) = {
        let driver = driver()?;
        let found = driver.pinned.get(&address).filter(|pinned| pinned.owned.is_some() == owned).ok_or(error)?;
        (driver.contexts.get(found.context)?, driver.contexts.0.values().cloned().collect::<Vec<_>>())
    };
    context.finish();
    contexts.iter().for_each(|context| context.wait_if_it_hangs());
    driver()?.pinned.remove(&address);
    Ok(())
}

exports! {
    fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: u32) {
        if flags > 7 {
            return Err(Code::INVALID_VALUE);
        }
        allocate(&address, bytes)
    }

    fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) {
        allocate(&address, bytes)
    }

    /// Waits for the memory's context, as a driver's does, and for every one that hangs, as a driver's may.
    fn cuMemFreeHost(address: usize) {
        release(address, true, Code::INVALID_VALUE)
    }

    fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: u32) {
        count(Call::Alloc, On::Current)?;
        capture::forbid_unsafe()?;
        let context = current()?.handle;
        let end = address.checked_add(bytes).filter(|end| *end > address && address != 0 && flags <= 15);
        let end = end.ok_or(Code::INVALID_VALUE)?;
        let mut driver = driver()?;
        if driver.pinned.range(..end).next_back().is_some_and(|(start, pinned)| start + pinned.bytes > address) {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        driver.pinned.insert(address, Pinned { context, bytes, owned: None });
        Ok(())
    }

    fn cuMemHostUnregister(address: usize) {
        release(address, false, Code::HOST_MEMORY_NOT_REGISTERED)
    }
}

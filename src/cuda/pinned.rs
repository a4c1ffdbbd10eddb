//! Page-locked host memory: the device copies from and to it while the host goes on.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::{CU_MEMHOSTALLOC_PORTABLE, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};

use super::failed;
use super::watch::Watch;
use crate::pixels::Memory;
use crate::{Error, Result};

/// Page-locked bytes, zero at first, to all devices of the process.
pub(super) struct Pinned {
    bytes: NonNull<[u8]>,
    context: Arc<CudaContext>,
    watch: Arc<Watch>,
}

// SAFETY: it owns its bytes; the context may be used from any thread.
unsafe impl Send for Pinned {}
// SAFETY: shared, it gives no more than the bytes' address.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn new(context: &Arc<CudaContext>, watch: &Arc<Watch>, len: usize) -> Result<Self> {
        let refused = |e: DriverError| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::DeviceMemory(format!(
                "CUDA error 2 while allocating {} MB of page-locked memory: out of memory; lower --batch-size, or free memory \
                 of the machine",
                len.div_ceil(1 << 20)
            )),
            _ => failed("allocating page-locked memory", e),
        };
        context.bind_to_thread().map_err(refused)?;
        // SAFETY: the context is current.
        let start = unsafe { result::malloc_host(len.max(1), CU_MEMHOSTALLOC_PORTABLE) }.map_err(refused)?;
        let start = NonNull::new(start.cast::<u8>()).expect("the driver gave memory");
        // SAFETY: `len` bytes that nobody else has.
        unsafe { start.write_bytes(0, len) };
        Ok(Pinned {
            bytes: NonNull::slice_from_raw_parts(start, len),
            context: Arc::clone(context),
            watch: Arc::clone(watch),
        })
    }
}

// SAFETY: the driver's memory stays where it is until it is freed, which drop does; it was zeroed.
unsafe impl Memory for Pinned {
    fn bytes(&self) -> NonNull<[u8]> {
        self.bytes
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Freeing waits for the device, and for others that have copied from here.
        if !self.watch.any_hangs() && self.context.bind_to_thread().is_ok() {
            // SAFETY: it came from malloc_host, and this is its end; no copy is under way, as its users see to. A failure
            // would leave it allocated until the process ends.
            let _ = unsafe { result::free_host(self.bytes.as_ptr().cast()) };
        }
    }
}

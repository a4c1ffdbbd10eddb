//! What one tower gives the other: an event, and on another device a copy.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::CUmemorytype::{CU_MEMORYTYPE_DEVICE, CU_MEMORYTYPE_HOST};
use cudarc::driver::sys::{
    self, CUDA_MEMCPY2D_st, CUDA_MEMCPY3D_PEER_st, CUmemAccess_flags, CUmemAccessDesc_st, CUmemLocation_st,
    CUmemLocationType,
};
use cudarc::driver::{CudaContext, CudaEvent, DriverError};

use super::args::DevicePtr;
use super::pinned::Pinned;
use super::tower::Tower;
use super::{CudaDevice, failed, failed_on};
use crate::Result;
use crate::pixels::Memory as _;

/// A tower's part of a step's output on its way to the other.
pub(super) struct Gift {
    /// The part is computed and, on another device, on its way.
    given: CudaEvent,
    /// `None` where both towers work in the same memory.
    copy: Option<Copy>,
}

/// A copy to another device, of the same columns of a buffer of the same shape.
struct Copy {
    from: DevicePtr,
    to: DevicePtr,
    /// Bytes from one pixel to the next.
    pitch: usize,
    /// Bytes of a pixel that are copied.
    width: usize,
    /// Pixels of an image.
    pixels: usize,
    /// Where they lie on the host between the devices, where these cannot reach each other.
    staging: Option<Pinned>,
}

/// How two devices exchange data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Each reads and writes the other's memory.
    Peer,
    /// By way of page-locked memory of the host.
    Host,
}

impl Link {
    /// Opens the way between two devices.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) with what the driver said.
    pub(super) fn open(first: &CudaDevice, second: &CudaDevice) -> Result<Self> {
        let asking = |e| failed(&format!("asking {first} for access to {second}"), e);
        let reaches = |from: &CudaDevice, to: &CudaDevice| {
            let mut reaches = 0;
            // SAFETY: writes one int to a valid pointer.
            let asked = unsafe { sys::cuDeviceCanAccessPeer(&mut reaches, from.ordinal() as i32, to.ordinal() as i32) };
            asked.result().map(|()| reaches != 0).map_err(asking)
        };
        if !(reaches(first, second)? && reaches(second, first)?) {
            return Ok(Link::Host);
        }
        for (from, to) in [(first, second), (second, first)] {
            from.context().bind_to_thread().map_err(asking)?;
            // SAFETY: both contexts are alive; the one that asks is current.
            let opened = unsafe { sys::cuCtxEnablePeerAccess(to.context().cu_ctx(), 0) };
            match opened.result() {
                // It stays open for the process.
                Err(DriverError(sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)) => {}
                other => other.map_err(asking)?,
            }
            // Which does not open what a pool gives, as arenas are where there are pools.
            if to.context().has_async_alloc() {
                open_pool(from, to).map_err(asking)?;
            }
        }
        Ok(Link::Peer)
    }
}

/// Lets `from` reach what is allocated from the pool of `to`.
fn open_pool(from: &CudaDevice, to: &CudaDevice) -> std::result::Result<(), DriverError> {
    let mut pool = ptr::null_mut();
    let access = CUmemAccessDesc_st {
        location: CUmemLocation_st { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: from.ordinal() as i32 },
        flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    // SAFETY: writes a handle to a valid pointer, and reads one description.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, to.ordinal() as i32).result()?;
        sys::cuMemPoolSetAccess(pool, &access, 1).result()
    }
}

impl Gift {
    /// Of step `index` of `giver`, which gives something, to `taker`: by way of `link` where that is on another device.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn new(giver: &Tower, taker: &Tower, index: usize, link: Option<Link>) -> Result<Self> {
        let context = giver.stream().context();
        let given = context.new_event(None).map_err(|e| failed_on(context, "making an event", e))?;
        let step = &giver.plan.steps[index];
        let bytes = giver.element_bytes(index);
        let copy = link.map(|link| {
            let first = (step.given().start * bytes) as DevicePtr;
            let (pixels, width) = (step.output.h * step.output.w, step.given().len() * bytes);
            let staging = match link {
                Link::Peer => None,
                Link::Host => Some(Pinned::new(context, &giver.shared.watch, giver.plan.batch * pixels * width)?),
            };
            let (from, to) = (giver.buffer(index) + first, taker.buffer(index) + first);
            Ok(Copy { from, to, pitch: step.pitch() * bytes, width, pixels, staging })
        });
        Ok(Gift { given, copy: copy.transpose()? })
    }

    /// Queues what the giver does for `images` images after the step.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn give(&self, giver: &Tower, taker: &Tower, images: usize) -> Result<()> {
        let stream = giver.stream();
        let to = taker.stream().context().ordinal();
        let giving = |e| failed_on(stream.context(), &format!("giving cuda:{to} a tower's part"), e);
        stream.context().bind_to_thread().map_err(giving)?;
        if let Some(copy) = &self.copy {
            let rows = images * copy.pixels;
            let queued = match &copy.staging {
                None => {
                    let peer = copy.to_peer(giver.stream().context(), taker.stream().context(), rows);
                    // SAFETY: both buffers have `rows` pixels of the pitch, and are on the devices of the contexts; arenas stay
                    // until both towers' streams are done. Nothing of the taker uses these columns meanwhile: the layout keeps
                    // the buffer to this exchange from the last meeting to the one after it.
                    unsafe { sys::cuMemcpy3DPeerAsync(&peer, stream.cu_stream()) }
                }
                Some(staging) => {
                    let to_host = copy.device_to_host(staging, rows);
                    // SAFETY: as above; the page-locked memory has room for the plan's batch, and the taker has read what was
                    // there before, since it met the giver after that.
                    unsafe { sys::cuMemcpy2DAsync_v2(&to_host, stream.cu_stream()) }
                }
            };
            queued.result().map_err(giving)?;
        }
        self.given.record(stream).map_err(giving)
    }

    /// Queues what the taker does before the step that takes.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn take(&self, taker: &Tower, images: usize) -> Result<()> {
        let stream = taker.stream();
        let taking = |e| failed_on(stream.context(), "taking the other tower's part", e);
        stream.wait(&self.given).map_err(taking)?;
        if let Some((copy, staging)) = self.copy.as_ref().and_then(|copy| Some((copy, copy.staging.as_ref()?))) {
            let from_host = copy.to_device(staging, images * copy.pixels);
            // SAFETY: as in `give`, and what is read is written before the event that the stream waits for.
            unsafe { sys::cuMemcpy2DAsync_v2(&from_host, stream.cu_stream()) }.result().map_err(taking)?;
        }
        Ok(())
    }
}

impl Copy {
    fn to_peer(&self, from: &CudaContext, to: &CudaContext, rows: usize) -> CUDA_MEMCPY3D_PEER_st {
        CUDA_MEMCPY3D_PEER_st {
            srcXInBytes: 0,
            srcY: 0,
            srcZ: 0,
            srcLOD: 0,
            srcMemoryType: CU_MEMORYTYPE_DEVICE,
            srcHost: ptr::null(),
            srcDevice: self.from,
            srcArray: ptr::null_mut(),
            srcContext: from.cu_ctx(),
            srcPitch: self.pitch,
            srcHeight: rows,
            dstXInBytes: 0,
            dstY: 0,
            dstZ: 0,
            dstLOD: 0,
            dstMemoryType: CU_MEMORYTYPE_DEVICE,
            dstHost: ptr::null_mut(),
            dstDevice: self.to,
            dstArray: ptr::null_mut(),
            dstContext: to.cu_ctx(),
            dstPitch: self.pitch,
            dstHeight: rows,
            WidthInBytes: self.width,
            Height: rows,
            Depth: 1,
        }
    }

    /// On the host pixels lie without gaps.
    fn device_to_host(&self, staging: &Pinned, rows: usize) -> CUDA_MEMCPY2D_st {
        CUDA_MEMCPY2D_st {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CU_MEMORYTYPE_DEVICE,
            srcHost: ptr::null(),
            srcDevice: self.from,
            srcArray: ptr::null_mut(),
            srcPitch: self.pitch,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CU_MEMORYTYPE_HOST,
            dstHost: staging.bytes().as_ptr().cast(),
            dstDevice: 0,
            dstArray: ptr::null_mut(),
            dstPitch: self.width,
            WidthInBytes: self.width,
            Height: rows,
        }
    }

    fn to_device(&self, staging: &Pinned, rows: usize) -> CUDA_MEMCPY2D_st {
        CUDA_MEMCPY2D_st {
            srcMemoryType: CU_MEMORYTYPE_HOST,
            srcHost: staging.bytes().as_ptr().cast::<c_void>(),
            srcDevice: 0,
            srcPitch: self.width,
            dstMemoryType: CU_MEMORYTYPE_DEVICE,
            dstHost: ptr::null_mut(),
            dstDevice: self.to,
            dstPitch: self.pitch,
            ..self.device_to_host(staging, rows)
        }
    }
}

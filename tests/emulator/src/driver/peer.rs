//! Access of one device to another's memory: kernels, copies and fills of a context reach what is opened to it.
//!
//! `cuCtxEnablePeerAccess` opens what `cuMemAlloc` allocates in the peer context, to the current context and not the other
//! way round. What `cuMemAllocAsync` allocates belongs to its device's memory pool, which that doesn't open:
//! `cuMemPoolSetAccess` does, to a device. Copies that name both contexts need neither.

use std::sync::Arc;

use super::abi::{HostSource, Out};
use super::context::{Context, current, find};
use super::device::{Device, device};
use super::errors::{Code, Outcome, exports};
use super::{Handle, any_driver, driver, lock};
use crate::memory::Allocation;

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const ON_DEVICE: u32 = 1;
/// `CUmemAccess_flags`; a pool can't be opened for reads alone.
const NO_ACCESS: u32 = 0;
const READ_WRITE: u32 = 3;

/// `CUmemAccessDesc`.
#[derive(Clone, Copy)]
#[repr(C)]
struct AccessDescription {
    location_type: u32,
    ordinal: i32,
    flags: u32,
}

/// The device whose memory an address is of, allocated or not.
pub fn holder(address: u64) -> Option<Arc<Device>> {
    any_driver().devices.iter().find(|device| device.memory.covers(address)).cloned()
}

fn can_access(device: &Device, peer: &Device) -> Outcome<bool> {
    Ok(device.ordinal != peer.ordinal && driver()?.settings.peer)
}

impl Context {
    fn may_access(&self, allocation: &Allocation) -> bool {
        lock(&self.peers).contains(&allocation.owner) || lock(&self.device.open_pools).contains(&allocation.owner)
    }

    /// Live allocations of other devices that kernels of this context may access.
    pub fn opened(&self) -> Vec<Arc<Allocation>> {
        let mut devices = any_driver().devices.clone();
        devices.retain(|device| device.ordinal != self.device.ordinal);
        let live = devices.iter().flat_map(|device| device.memory.live());
        live.filter(|allocation| self.may_access(allocation)).collect()
    }

    /// The device in whose memory this context finds an address; its own for an address of none.
    ///
    /// # Errors
    /// Why it may not access what is allocated there.
    pub fn reach(&self, address: u64) -> Result<Arc<Device>, String> {
        if self.device.memory.covers(address) {
            return Ok(Arc::clone(&self.device));
        }
        let Some(device) = holder(address) else { return Ok(Arc::clone(&self.device)) };
        let Some(allocation) = device.memory.holder(address).filter(|found| !self.may_access(found)) else {
            return Ok(device);
        };
        let (own, other) = (self.device.ordinal, device.ordinal);
        let closed = match allocation.owner == device.pool {
            true => "its memory pool is not open to that (cuMemPoolSetAccess; cuCtxEnablePeerAccess opens no pools)",
            false => "peer access to the context it was allocated in is not enabled (cuCtxEnablePeerAccess)",
        };
        Err(format!("{address:#x} is memory of device {other}, accessed from a context of device {own}: {closed}"))
    }

    /// What is wrong with an access of a kernel to an address of another device.
    pub fn explain_foreign(&self, address: u64) -> Option<String> {
        holder(address).filter(|device| device.ordinal != self.device.ordinal)?;
        Some(self.reach(address).map_or_else(|why| why, |device| device.memory.describe(address, 1).to_string()))
    }
}

exports! {
    fn cuDeviceCanAccessPeer(can: Out<i32>, ordinal: i32, peer: i32) {
        can.set(can_access(&*device(ordinal)?, &*device(peer)?)?.into())
    }

    fn cuCtxEnablePeerAccess(peer: Handle, flags: u32) {
        let (context, peer) = (current()?, find(peer)?);
        if peer.handle == context.handle {
            return Err(Code::INVALID_CONTEXT);
        }
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if !can_access(&context.device, &peer.device)? {
            return Err(Code::PEER_ACCESS_UNSUPPORTED);
        }
        if lock(&context.peers).insert(peer.handle) { Ok(()) } else { Err(Code::PEER_ACCESS_ALREADY_ENABLED) }
    }

    fn cuCtxDisablePeerAccess(peer: Handle) {
        let (context, peer) = (current()?, find(peer)?);
        if lock(&context.peers).remove(&peer.handle) { Ok(()) } else { Err(Code::PEER_ACCESS_NOT_ENABLED) }
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, ordinal: i32) {
        let device = device(ordinal)?;
        if device.pools { pool.set(device.pool) } else { Err(Code::NOT_SUPPORTED) }
    }

    /// Opens or closes what is allocated from a pool, then and later.
    fn cuMemPoolSetAccess(pool: Handle, descriptions: HostSource, count: usize) {
        let owner = driver()?.devices.iter().find(|device| device.pool == pool).cloned().ok_or(Code::INVALID_VALUE)?;
        for i in 0..count {
            let AccessDescription { location_type, ordinal, flags } = descriptions.read(i)?;
            if location_type != ON_DEVICE || ![NO_ACCESS, READ_WRITE].contains(&flags) {
                return Err(Code::INVALID_VALUE);
            }
            let device = device(ordinal)?;
            if device.ordinal == owner.ordinal {
                // The pool's own device has access for good.
                if flags == NO_ACCESS {
                    return Err(Code::INVALID_VALUE);
                }
            } else if !can_access(&device, &owner)? {
                return Err(Code::INVALID_DEVICE);
            } else if flags == READ_WRITE {
                lock(&device.open_pools).insert(pool);
            } else {
                lock(&device.open_pools).remove(&pool);
            }
        }
        Ok(())
    }
}

//! Global memory: an allocation table over a large address space that is never reused.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::Store;

/// First device address handed out: high enough that no small integer is a valid address.
const FIRST_ADDRESS: u64 = 0x10_0000_0000;
/// Addresses of one device, none of which is given out twice; the next device's follow.
const SPAN: u64 = 1 << 44;
/// Device addresses are multiples of this, as the driver's are.
const ALIGNMENT: u64 = 256;
/// Unused addresses after each allocation, at least.
const RED_ZONE: u64 = 4096;

/// One device's global memory. Thread-safe: the host and running kernels share it.
pub struct GlobalMemory {
    capacity: u64,
    addresses: Range<u64>,
    table: Mutex<Table>,
}

struct Table {
    /// By address. Freed ones stay, without their bytes, so that later accesses are named.
    allocations: BTreeMap<u64, Entry>,
    next: u64,
    used: u64,
}

struct Entry {
    bytes: u64,
    /// `None` once freed.
    live: Option<Arc<Allocation>>,
}

/// Live bytes at an address.
pub(crate) struct Allocation {
    pub address: u64,
    pub bytes: u64,
    pub store: Store,
    /// Whose it is, as the driver counts: a context or a memory pool.
    pub owner: usize,
}

/// An access that does not lie in one live allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// No allocation, live or freed, holds all of it.
    OutOfBounds {
        /// First byte of the access.
        address: u64,
        /// Its length in bytes.
        bytes: u64,
        /// Address and length of the live allocation closest to it.
        nearest: Option<(u64, u64)>,
    },
    /// It lies in an allocation that has been freed.
    UseAfterFree {
        /// First byte of the access.
        address: u64,
        /// Its length in bytes.
        bytes: u64,
        /// Address and length of the freed allocation.
        freed: (u64, u64),
    },
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessError::OutOfBounds { address, bytes, nearest: None } => {
                write!(f, "{bytes} bytes at {address:#x}: nothing is allocated")
            }
            AccessError::OutOfBounds { address, bytes, nearest: Some((base, size)) } => {
                write!(f, "{bytes} bytes at {address:#x}: ")?;
                match address.checked_sub(*base) {
                    Some(offset) if offset < *size => write!(f, "run over the end")?,
                    Some(offset) => write!(f, "{} bytes past the end", offset - size)?,
                    None => write!(f, "{} bytes before the start", base - address)?,
                }
                write!(f, " of the {size} bytes allocated at {base:#x}")
            }
            AccessError::UseAfterFree { address, bytes, freed: (base, size) } => {
                write!(f, "{bytes} bytes at {address:#x}, in the {size} bytes at {base:#x} that have been freed")
            }
        }
    }
}

impl std::error::Error for AccessError {}

impl GlobalMemory {
    /// An empty memory whose live allocations may hold `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> GlobalMemory {
        GlobalMemory::of_device(0, capacity_bytes)
    }

    /// The memory of one of several devices: no address is of two.
    pub(crate) fn of_device(ordinal: usize, capacity_bytes: u64) -> GlobalMemory {
        let first = FIRST_ADDRESS + ordinal as u64 * SPAN;
        let table = Table { allocations: BTreeMap::new(), next: first, used: 0 };
        GlobalMemory { capacity: capacity_bytes, addresses: first..first + SPAN, table: Mutex::new(table) }
    }

    /// Whether an address is of this memory, allocated or not.
    pub(crate) fn covers(&self, address: u64) -> bool {
        self.addresses.contains(&address)
    }

    /// `bytes` unwritten bytes at a 256-byte aligned device address that no earlier allocation had. `None` when `bytes`
    /// is 0, or more than what is left.
    pub fn alloc(&self, bytes: u64) -> Option<u64> {
        self.alloc_for(0, bytes)
    }

    /// As [`alloc`](Self::alloc), with an owner.
    pub(crate) fn alloc_for(&self, owner: usize, bytes: u64) -> Option<u64> {
        let mut table = self.table();
        if bytes == 0 || bytes > self.capacity - table.used {
            return None;
        }
        let address = table.next;
        let end = address.checked_add(bytes)?.checked_add(RED_ZONE)?;
        if end > self.addresses.end {
            return None;
        }
        let store = Store::new(usize::try_from(bytes).ok()?)?;
        table.next = end.checked_next_multiple_of(ALIGNMENT)?;
        table.used += bytes;
        let live = Some(Arc::new(Allocation { address, bytes, store, owner }));
        table.allocations.insert(address, Entry { bytes, live });
        Some(address)
    }

    /// Ends the allocation that starts at `address`; later accesses to it are errors.
    pub fn free(&self, address: u64) -> Result<(), AccessError> {
        let mut table = self.table();
        match table.allocations.get_mut(&address).and_then(|entry| entry.live.take()) {
            Some(freed) => {
                table.used -= freed.bytes;
                Ok(())
            }
            None => Err(table.describe(address, 1)),
        }
    }

    /// Whether `bytes` from `address` on lie in one live allocation.
    pub fn check(&self, address: u64, bytes: u64) -> Result<(), AccessError> {
        self.table().find(address, bytes).map(|_| ())
    }

    /// Whether all `bytes` from `address` on have been written.
    pub fn is_written(&self, address: u64, bytes: u64) -> Result<bool, AccessError> {
        let found = self.table().find(address, bytes)?;
        Ok(found.store.is_all_written((address - found.address) as usize, bytes as usize))
    }

    /// Makes the allocation at `address` what it was when new, with other bytes in it if there were any.
    pub fn forget(&self, address: u64) -> Result<(), AccessError> {
        let found = self.table().find(address, 1)?;
        found.store.scramble();
        Ok(())
    }

    /// Copies `bytes` from the host to `address` and marks them as written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let found = self.table().find(address, bytes.len() as u64)?;
        found.store.write((address - found.address) as usize, bytes);
        Ok(())
    }

    /// Copies from `address` to the host, unwritten bytes too, as a driver does.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), AccessError> {
        let found = self.table().find(address, bytes.len() as u64)?;
        found.store.read((address - found.address) as usize, bytes);
        Ok(())
    }

    /// Copies `bytes` from `from` in `source`, this memory or another: bytes nobody wrote stay unwritten in the copy. The
    /// two ranges must not overlap.
    pub fn copy(&self, to: u64, source: &GlobalMemory, from: u64, bytes: u64) -> Result<(), AccessError> {
        let target = self.table().find(to, bytes)?;
        let source = source.table().find(from, bytes)?;
        let (offset, start) = ((to - target.address) as usize, (from - source.address) as usize);
        target.store.copy(offset, &source.store, start, bytes as usize);
        Ok(())
    }

    /// Sets `count` bytes from `address` on to `byte` and marks them as written.
    pub fn fill(&self, address: u64, byte: u8, count: u64) -> Result<(), AccessError> {
        let found = self.table().find(address, count)?;
        let chunk = [byte; 4096];
        let start = address - found.address;
        let mut done = 0;
        while done < count {
            let now = (count - done).min(chunk.len() as u64);
            found.store.write((start + done) as usize, &chunk[..now as usize]);
            done += now;
        }
        Ok(())
    }

    /// Bytes in live allocations.
    pub fn used(&self) -> u64 {
        self.table().used
    }

    /// Bytes that live allocations may hold.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The live allocations in address order, for a kernel to run over.
    pub(crate) fn live(&self) -> Vec<Arc<Allocation>> {
        self.table().allocations.values().filter_map(|entry| entry.live.clone()).collect()
    }

    /// The live allocation that holds an address.
    pub(crate) fn holder(&self, address: u64) -> Option<Arc<Allocation>> {
        self.table().find(address, 1).ok()
    }

    /// Why an access misses the live allocations.
    pub(crate) fn describe(&self, address: u64, bytes: u64) -> AccessError {
        self.table().describe(address, bytes)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics between two related updates, so a poisoned table is still consistent.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn find(&self, address: u64, bytes: u64) -> Result<Arc<Allocation>, AccessError> {
        self.allocations
            .range(..=address)
            .next_back()
            .and_then(|(_, entry)| entry.live.as_ref())
            .filter(|found| holds(found.address, found.bytes, address, bytes))
            .cloned()
            .ok_or_else(|| self.describe(address, bytes))
    }

    fn describe(&self, address: u64, bytes: u64) -> AccessError {
        if let Some((base, entry)) = self.allocations.range(..=address).next_back()
            && entry.live.is_none()
            && holds(*base, entry.bytes, address, bytes)
        {
            return AccessError::UseAfterFree { address, bytes, freed: (*base, entry.bytes) };
        }
        let live = |(base, entry): (&u64, &Entry)| entry.live.as_ref().map(|_| (*base, entry.bytes));
        let before = self.allocations.range(..=address).rev().find_map(live);
        let after = self.allocations.range(address..).find_map(live);
        let nearest = match (before, after) {
            (Some(before), Some(after)) => {
                let gap = address.saturating_sub(before.0 + before.1);
                Some(if gap <= after.0 - address { before } else { after })
            }
            (before, after) => before.or(after),
        };
        AccessError::OutOfBounds { address, bytes, nearest }
    }
}

fn holds(base: u64, size: u64, address: u64, bytes: u64) -> bool {
    let offset = address - base;
    offset <= size && bytes <= size - offset
}

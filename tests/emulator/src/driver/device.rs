//! Devices and what they say about themselves.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::abi::Out;
use super::control::Settings;
use super::errors::{Code, Outcome, exports};
use super::{Handle, driver, lock, new_handle};
use crate::GlobalMemory;

/// Largest block, in threads, along x, y and z.
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Largest number of threads in a block.
pub const MAX_BLOCK_THREADS: u32 = 1024;
/// Largest grid, in blocks, along x, y and z.
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Bytes of shared memory a block gets without asking for more.
pub const SHARED_PER_BLOCK: u32 = 48 << 10;
/// Bytes of shared memory the system takes from each block (compute capability 8.0 and up).
pub const SHARED_RESERVED: u32 = 1 << 10;
/// 32-bit registers of one multiprocessor, and the most a block may have.
const REGISTERS: u32 = 65536;
/// Most bytes from one row of a copy to the next.
pub const MAX_PITCH: usize = i32::MAX as usize;
/// Multiprocessors of each device, whatever its compute capability.
const MULTIPROCESSORS: u32 = 132;

/// One emulated device.
pub struct Device {
    pub ordinal: usize,
    pub compute_capability: (u32, u32),
    pub memory: GlobalMemory,
    /// It has memory pools: memory is allocated in stream order.
    pub pools: bool,
    /// Limits that depend on the compute capability.
    pub limits: Limits,
    /// The primary context while it is retained.
    pub primary: Mutex<Option<Primary>>,
    /// Its memory pool.
    pub pool: Handle,
    /// Other devices' pools whose memory it may access.
    pub open_pools: Mutex<HashSet<Handle>>,
}

/// The primary context and how often it was retained.
pub struct Primary {
    pub context: Handle,
    pub retained: usize,
}

/// Per-multiprocessor limits (CUDA C++ Programming Guide, 'Technical Specifications per Compute
/// Capability').
pub struct Limits {
    /// Bytes of shared memory a block may opt in to; a multiprocessor has [`SHARED_RESERVED`] more.
    pub shared_opt_in: u32,
    pub threads: u32,
    pub blocks: u32,
}

impl Limits {
    fn new((major, minor): (u32, u32)) -> Limits {
        let (kibibytes, threads, blocks) = match (major, minor) {
            (..=7, _) => (64, 1024, 16),
            (8, 0) => (163, 2048, 32),
            (8, 7) => (163, 1536, 16),
            (8, 9) => (99, 1536, 24),
            (8, _) => (99, 1536, 16),
            (9..=11, _) => (227, 2048, 32),
            _ => (99, 1536, 24),
        };
        Limits { shared_opt_in: kibibytes << 10, threads, blocks }
    }
}

impl Device {
    pub fn new(ordinal: usize, settings: &Settings) -> Device {
        Device {
            ordinal,
            compute_capability: settings.compute_capability,
            memory: GlobalMemory::of_device(ordinal, settings.memory),
            pools: settings.pools,
            limits: Limits::new(settings.compute_capability),
            primary: Mutex::new(None),
            pool: new_handle(),
            open_pools: Mutex::default(),
        }
    }

    fn name(&self) -> String {
        let (major, minor) = self.compute_capability;
        format!("Emulated CUDA device (sm_{major}{minor})")
    }

    /// A `CUdevice_attribute`.
    fn attribute(&self, attribute: u32) -> Outcome<u32> {
        let (major, minor) = self.compute_capability;
        Ok(match attribute {
            1 => MAX_BLOCK_THREADS,
            2..=4 => MAX_BLOCK[attribute as usize - 2],
            5..=7 => MAX_GRID[attribute as usize - 5],
            8 => SHARED_PER_BLOCK,
            9 => 64 << 10, // TOTAL_CONSTANT_MEMORY
            10 => 32,      // WARP_SIZE
            11 => MAX_PITCH as u32,
            12 | 82 => REGISTERS,
            13 => 1_980_000, // CLOCK_RATE in kHz
            15 => 1,         // GPU_OVERLAP
            16 => MULTIPROCESSORS,
            17 | 18 => 0,                  // KERNEL_EXEC_TIMEOUT, INTEGRATED
            19 => 1,                       // CAN_MAP_HOST_MEMORY
            20 => 0,                       // COMPUTE_MODE default
            31 => 1,                       // CONCURRENT_KERNELS
            32 => 0,                       // ECC_ENABLED
            33 => self.ordinal as u32 + 1, // PCI_BUS_ID
            34 | 50 => 0,                  // PCI_DEVICE_ID, PCI_DOMAIN_ID
            36 => 2_619_000,               // MEMORY_CLOCK_RATE in kHz
            37 => 5120,                    // GLOBAL_MEMORY_BUS_WIDTH in bits
            38 => 50 << 20,                // L2_CACHE_SIZE
            39 => self.limits.threads,
            40 => 3, // ASYNC_ENGINE_COUNT
            41 => 1, // UNIFIED_ADDRESSING
            75 => major,
            76 => minor,
            78 => 1, // STREAM_PRIORITIES_SUPPORTED
            81 => self.limits.shared_opt_in + SHARED_RESERVED,
            83 | 88 | 89 | 95 => 0, // managed memory, pageable access, cooperative launch: not emulated
            97 => self.limits.shared_opt_in,
            106 => self.limits.blocks,
            111 => SHARED_RESERVED,
            115 => u32::from(self.pools), // MEMORY_POOLS_SUPPORTED
            // Anything else would be an answer nobody has thought about.
            _ => return Err(Code::INVALID_VALUE),
        })
    }
}

/// # Errors
/// `INVALID_DEVICE` for an ordinal past the last device.
pub fn device(ordinal: i32) -> Outcome<Arc<Device>> {
    let driver = driver()?;
    usize::try_from(ordinal).ok().and_then(|i| driver.devices.get(i).cloned()).ok_or(Code::INVALID_DEVICE)
}

exports! {
    fn cuDeviceGet(found: Out<i32>, ordinal: i32) {
        device(ordinal)?;
        found.set(ordinal)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(driver()?.devices.len() as i32)
    }

    fn cuDeviceGetName(name: Out<u8>, length: i32, ordinal: i32) {
        let length = usize::try_from(length).map_err(|_| Code::INVALID_VALUE)?;
        name.set_text(&device(ordinal)?.name(), length);
        Ok(())
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, ordinal: i32) {
        let mut bytes = *b"emulated-device0";
        bytes[15] += device(ordinal)?.ordinal as u8;
        uuid.set(bytes)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, ordinal: i32) {
        bytes.set(device(ordinal)?.memory.capacity() as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, ordinal: i32) {
        value.set(device(ordinal)?.attribute(attribute)? as i32)
    }

    fn cuDevicePrimaryCtxGetState(ordinal: i32, flags: Out<u32>, active: Out<i32>) {
        let device = device(ordinal)?;
        flags.set(0)?;
        active.set(i32::from(lock(&device.primary).is_some()))
    }
}

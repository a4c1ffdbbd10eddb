//! Which sectors of global memory a launch touches, each counted once: what must be moved at least, with a cache that loses
//! nothing.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Access;
use crate::alu::LANES;
use crate::counters::SECTOR;
use crate::memory::Allocation;

/// A bit a sector of an allocation.
#[derive(Default)]
struct Bits(OnceLock<Box<[AtomicU64]>>);

/// The sectors of every allocation, by its number: those read and those written.
pub struct Touched(Vec<Sectors>);

struct Sectors {
    bytes: u64,
    read: Bits,
    written: Bits,
}

impl Bits {
    fn set(&self, bytes: u64, sector: u64) {
        let words = || (0..bytes.div_ceil(SECTOR).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let word = &self.0.get_or_init(words)[(sector / 64) as usize];
        let bit = 1 << (sector % 64);
        // Most are set already: a load is cheaper.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn count(&self) -> u64 {
        self.0
            .get()
            .map_or(0, |words| words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum())
    }
}

impl Touched {
    pub fn new(live: &[Arc<Allocation>]) -> Touched {
        let sectors = |allocation: &Arc<Allocation>| Sectors {
            bytes: allocation.bytes,
            read: Bits::default(),
            written: Bits::default(),
        };
        Touched(live.iter().map(sectors).collect())
    }

    /// Notes an access of `bytes` bytes, aligned to them, by each lane of `mask` in allocation `index`; allocations begin
    /// with a sector.
    pub fn access(&self, index: usize, offsets: &[usize; LANES], bytes: usize, mask: u32, access: Access) {
        let sectors = &self.0[index];
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
            let first = offsets[lane] as u64 / SECTOR;
            let last = (offsets[lane] + bytes - 1) as u64 / SECTOR;
            for sector in first..=last {
                if access != Access::Write {
                    sectors.read.set(sectors.bytes, sector);
                }
                if access != Access::Read {
                    sectors.written.set(sectors.bytes, sector);
                }
            }
        }
    }

    /// Bytes of the sectors read and of those written.
    pub fn bytes(&self) -> (u64, u64) {
        let sum =
            |bits: fn(&Sectors) -> &Bits| SECTOR * self.0.iter().map(|sectors| bits(sectors).count()).sum::<u64>();
        (sum(|sectors| &sectors.read), sum(|sectors| &sectors.written))
    }
}

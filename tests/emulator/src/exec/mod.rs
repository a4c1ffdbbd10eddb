//! The interpreter: warps of a block in turn, each until it waits at a barrier or ends.

mod access;
mod block;
mod copies;
mod matrix;
mod meet;
mod place;
mod races;
mod transfer;
mod warp;

use std::sync::Arc;

pub use block::Runner;

use crate::alu::LANES;
use crate::check::{GlobalRaces, Touched};
use crate::counters::Counters;
use crate::decode::Code;
use crate::fault::FaultKind;
use crate::launch::{Checks, Launch};
use crate::memory::{Allocation, GlobalMemory};
use crate::module::Kernel;

/// What every block of a launch shares.
pub struct Context<'a> {
    kernel: &'a Kernel,
    code: &'a Code,
    launch: &'a Launch,
    memory: &'a GlobalMemory,
    /// The live allocations, of this memory and of peers, in address order.
    live: Vec<Arc<Allocation>>,
    shared_bytes: u32,
    checks: Checks,
    /// Between blocks, where races are checked.
    races: Option<GlobalRaces>,
    /// Where traffic is counted.
    touched: Option<Touched>,
}

impl<'a> Context<'a> {
    pub fn new(
        kernel: &'a Kernel,
        launch: &'a Launch,
        memory: &'a GlobalMemory,
        peers: Vec<Arc<Allocation>>,
        checks: Checks,
    ) -> Context<'a> {
        let shared_bytes = match launch.dynamic_shared {
            0 => kernel.static_shared(),
            dynamic => kernel.code.dynamic_offset.saturating_add(dynamic),
        };
        let (code, mut live) = (&kernel.code, memory.live());
        live.extend(peers);
        live.sort_by_key(|allocation| allocation.address);
        let races = checks.races.then(|| GlobalRaces::new(code, &live));
        let touched = checks.traffic.then(|| Touched::new(&live));
        Context { kernel, code, launch, memory, live, shared_bytes, checks, races, touched }
    }

    /// Adds what is counted once for all blocks.
    pub fn finish(&self, counters: &mut Counters) {
        if let Some(touched) = &self.touched {
            (counters.global_read_once_bytes, counters.global_written_once_bytes) = touched.bytes();
        }
    }
}

/// A fault before the block's and the kernel's part is added.
pub struct Raised {
    kind: FaultKind,
    /// Instruction number.
    pc: u32,
    lane: usize,
    address: Option<u64>,
    detail: String,
}

/// The lanes of a mask, in order.
fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// The lane numbers of a mask, for messages.
fn list(mask: u32) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for lane in lanes(mask) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == lane => *last = lane,
            _ => ranges.push((lane, lane)),
        }
    }
    let texts = ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    format!("lanes {}", texts.collect::<Vec<_>>().join(", "))
}

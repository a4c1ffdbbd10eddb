//! Running a kernel over a grid.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use crate::counters::Counters;
use crate::exec::{Context, Runner};
use crate::fault::{Fault, FaultKind};
use crate::memory::{Allocation, GlobalMemory};
use crate::module::Kernel;

/// A grid to run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameters at their offsets, see [`Kernel::params`].
    pub params: Vec<u8>,
}

/// Checks that can be turned off. Divergence, shuffles, the shared window and deadlock are always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Bounds, alignment and use after free of global memory. Off: such a load gives 0, such a store is dropped.
    pub memory: bool,
    /// Reads of global and shared memory that nobody has written.
    pub initialised: bool,
    /// Races: in shared memory accesses to the same bytes, one a write, that neither the order of one thread nor
    /// `bar.sync`, `bar.warp.sync`, a shuffle or a vote of both orders (the lockstep of a warp does not, nor do flags in
    /// memory); accesses to bytes that a `cp.async` without its wait may still write; two lanes that write different
    /// values in one instruction. In global memory accesses of different blocks of a launch to the same bytes, unless
    /// all are reads or all atomics, or a `membar.gl` and an atomic of the one, then an atomic to the same word and a
    /// `membar.gl` of the other lie between. Threads of one block are not checked against each other in global memory.
    pub races: bool,
    /// No check: counts requests, sectors and wavefronts, see [`Counters`].
    pub traffic: bool,
}

impl Checks {
    /// Every check, without the count of traffic.
    pub const ALL: Checks = Checks { memory: true, initialised: true, races: true, traffic: false };
    /// None that can be turned off.
    pub const NONE: Checks = Checks { memory: false, initialised: false, races: false, traffic: false };
}

/// Runs `kernel` to its end, blocks in parallel on rayon's current pool. On a fault the lowest faulting block is
/// reported; other blocks may have run or not.
pub fn launch(kernel: &Kernel, launch: &Launch, memory: &GlobalMemory, checks: Checks) -> Result<Counters, Box<Fault>> {
    launch_with(kernel, launch, memory, Vec::new(), checks)
}

/// As [`launch`], over `peers` of other memories too.
pub(crate) fn launch_with(
    kernel: &Kernel,
    launch: &Launch,
    memory: &GlobalMemory,
    peers: Vec<Arc<Allocation>>,
    checks: Checks,
) -> Result<Counters, Box<Fault>> {
    validate(kernel, launch)?;
    let context = Context::new(kernel, launch, memory, peers, checks);
    let blocks = launch.grid.iter().map(|n| u64::from(*n)).product::<u64>();
    let totals = Mutex::new(Counters::default());
    let fault = (0..blocks)
        .into_par_iter()
        .map_init(
            || Runner::new(&context),
            |runner, block| {
                let Some(runner) = runner else {
                    return Some(invalid(kernel, "the host has no memory for a block".into()));
                };
                let result = runner.run(block);
                *lock(&totals) += runner.take_counters();
                result.err()
            },
        )
        .find_first(Option::is_some)
        .flatten();
    match fault {
        Some(fault) => Err(fault),
        None => {
            let mut counters = *lock(&totals);
            context.finish(&mut counters);
            Ok(counters)
        }
    }
}

/// A panic elsewhere leaves whole numbers behind.
fn lock(totals: &Mutex<Counters>) -> MutexGuard<'_, Counters> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(kernel: &Kernel, detail: String) -> Box<Fault> {
    Box::new(Fault {
        kind: FaultKind::InvalidLaunch,
        kernel: kernel.name().to_string(),
        line: 0,
        instruction: String::new(),
        block: [0; 3],
        thread: [0; 3],
        address: None,
        detail,
    })
}

/// What [`launch`] refuses before anything runs: an [`FaultKind::InvalidLaunch`].
pub(crate) fn validate(kernel: &Kernel, launch: &Launch) -> Result<(), Box<Fault>> {
    fits(kernel, launch).map_err(|detail| invalid(kernel, detail))
}

fn fits(kernel: &Kernel, launch: &Launch) -> Result<(), String> {
    let Launch { grid, block, dynamic_shared, params } = launch;
    for (name, found, limits) in [("grid", grid, [i32::MAX as u32, 65535, 65535]), ("block", block, [1024, 1024, 64])] {
        if found.contains(&0) || found.iter().zip(limits).any(|(n, limit)| *n > limit) {
            return Err(format!("the {name} is {found:?}, from 1 to {limits:?} are possible"));
        }
    }
    let threads = block.iter().product::<u32>();
    if threads > kernel.max_threads() {
        return Err(format!("{threads} threads in a block, the kernel takes {}", kernel.max_threads()));
    }
    if kernel.required_threads().is_some_and(|required| required != *block) {
        return Err(format!("the block is {block:?}, the kernel requires {:?}", kernel.required_threads()));
    }
    if kernel.static_shared().checked_add(*dynamic_shared).is_none_or(|bytes| bytes > 1 << 20) {
        return Err(format!("{dynamic_shared} bytes of dynamic shared memory"));
    }
    let needed = kernel.params().last().map_or(0, |last| last.offset + last.size);
    if params.len() != needed {
        return Err(format!("{} bytes of parameters, the kernel takes {needed}", params.len()));
    }
    Ok(())
}

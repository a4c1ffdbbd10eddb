//! What stops a kernel, with the place it happened.

use std::fmt;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// An address outside every live allocation, the shared window or the local array.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// An address in freed memory.
    UseAfterFree,
    /// A read of global memory that nobody has written.
    UninitialisedGlobal,
    /// A read of shared memory that the block has not written.
    UninitialisedShared,
    /// An access to shared memory that nothing orders after another thread's to the same bytes, one of them a write.
    SharedRace,
    /// An access to shared memory that a `cp.async` may still write, since its thread has not waited for it.
    PendingCopy,
    /// An access to global memory that another block accesses in the same launch, one of them writing, or one atomic
    /// and the other not.
    GlobalRace,
    /// `bar.sync` by only part of a warp.
    DivergentBarrier,
    /// A vote or `bar.warp.sync` that some lane of its mask never joins, or that a lane outside it executes.
    DivergentVote,
    /// A shuffle that reads a lane that does not take part in it.
    InactiveShuffle,
    /// `mma` or `ldmatrix` without all 32 lanes of a warp.
    DivergentMatrix,
    /// Warps that wait at a barrier for ever.
    Deadlock,
    /// The kernel executed `trap`.
    Trap,
    /// Dimensions, shared memory or parameters that the device or the kernel does not take.
    InvalidLaunch,
}

/// A stopped kernel: the first fault of the lowest block that has one.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// The kernel's name.
    pub kernel: String,
    /// Line of the PTX text, from 1; 0 for [`FaultKind::InvalidLaunch`].
    pub line: usize,
    /// The instruction's text; empty for [`FaultKind::InvalidLaunch`].
    pub instruction: String,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid`.
    pub thread: [u32; 3],
    /// The address of a memory access: a device address, or an offset into the shared window or the local array.
    pub address: Option<u64>,
    /// What was expected and what was found.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kind, kernel, line, instruction, block, thread, address, detail } = self;
        if *kind == FaultKind::InvalidLaunch {
            return write!(f, "{kind:?} of kernel {kernel}: {detail}");
        }
        write!(f, "{kind:?} in kernel {kernel}, block {block:?}, thread {thread:?}")?;
        if let Some(address) = address {
            write!(f, ", address {address:#x}")?;
        }
        write!(f, ": {detail}; line {line}: {instruction}")
    }
}

impl std::error::Error for Fault {}

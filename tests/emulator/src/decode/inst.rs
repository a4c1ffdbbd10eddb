//! Decoded instructions. Operands are slots of the warp's register rows; constants and special registers have rows too.

use std::sync::Arc;

use crate::alu::AluFn;
use crate::counters::Class;
use crate::store::Store;

/// An instruction with its guard: it acts on the active lanes where `predicates[guard] ^ negate` has a bit.
pub struct Inst {
    pub kind: Kind,
    pub negate: u32,
    pub guard: u16,
    pub class: Class,
}

pub enum Kind {
    Alu {
        run: AluFn,
        slots: [u16; 5],
    },
    Load(Access),
    Store(Access),
    Atomic(Atomic),
    Copy(AsyncCopy),
    /// `cp.async.commit_group`
    Commit,
    /// `cp.async.wait_group` with the groups that may be left, or `wait_all`.
    Wait(Option<u32>),
    Branch(u32),
    Exit,
    Trap,
    /// For the whole device, or only for the block.
    Fence {
        device: bool,
    },
    Barrier(Barrier),
    Shuffle(Shuffle),
    Vote(Vote),
    ActiveMask {
        destination: u16,
    },
    WarpBarrier {
        members: u16,
    },
    Mma(Mma),
    LoadMatrix(LoadMatrix),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Shared,
    Local,
    Const,
    Param,
}

/// `[register+offset]`; the register's row is of the wide file or the narrow one.
#[derive(Clone, Copy)]
pub struct Address {
    pub slot: u16,
    pub wide: bool,
    pub offset: i64,
}

/// A load or store of one to four elements a lane.
#[derive(Clone, Copy)]
pub struct Access {
    pub space: Space,
    pub address: Address,
    pub count: u8,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element: u8,
    pub signed: bool,
    /// Whether the registers are 64 bits wide.
    pub wide: bool,
    /// Bits that a narrow register keeps of a loaded value.
    pub keep: u32,
    pub registers: [u16; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    Add,
    AddFloat,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
    Exchange,
    Increment,
    Decrement,
    /// Compare with `value`, replace by `other`.
    Swap,
}

/// A read-modify-write of one 32-bit word a lane.
#[derive(Clone, Copy)]
pub struct Atomic {
    pub op: AtomicOp,
    pub space: Space,
    pub address: Address,
    /// `None` for `red`.
    pub destination: Option<u16>,
    pub value: u16,
    pub other: u16,
}

/// `cp.async` of 4, 8 or 16 bytes a lane.
#[derive(Clone, Copy)]
pub struct AsyncCopy {
    pub to: Address,
    pub from: Address,
    pub bytes: u8,
    /// How many of the bytes are read; the others become zero. All of them without it.
    pub source_bytes: Option<u16>,
}

/// `bar.sync`: with a thread count, or for all of the block's warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    pub id: u32,
    pub threads: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy)]
pub struct Shuffle {
    pub mode: ShuffleMode,
    pub destination: u16,
    /// Predicate that says whether the source lane was in range.
    pub in_range: Option<u16>,
    pub value: u16,
    pub lane: u16,
    pub clamp: u16,
    pub members: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy)]
pub struct Vote {
    pub mode: VoteMode,
    /// A predicate, or a narrow register for a ballot.
    pub destination: u16,
    pub source: u16,
    /// All ones for a negated source.
    pub negate: u32,
    pub members: u16,
}

/// The elements of an `mma`'s factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// f16, in pairs.
    Half,
    /// bf16, in pairs.
    Bfloat,
    /// tf32, one in a register.
    Tensor,
}

/// `mma.sync` of a 16 by `depth`, a `depth` by 8 and a 16 by 8 matrix: d = a b + c.
#[derive(Clone, Copy)]
pub struct Mma {
    pub element: Element,
    /// 8 or 16, of tf32 4 or 8.
    pub depth: u8,
    /// Whether `c` and `d` hold f32 in four registers, or f16 in two.
    pub single: bool,
    pub d: [u16; 4],
    pub a: [u16; 4],
    pub b: [u16; 2],
    pub c: [u16; 4],
}

/// `ldmatrix` of one, two or four 8 by 8 matrices of 16-bit elements in shared memory.
#[derive(Clone, Copy)]
pub struct LoadMatrix {
    pub transposed: bool,
    pub count: u8,
    /// Of a row of 16 bytes: lane `8 * m + i` gives that of row i of matrix m.
    pub address: Address,
    /// First of four narrow rows that take the matrices' rows before they are spread over the lanes.
    pub scratch: u16,
    pub registers: [u16; 4],
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
}

impl Special {
    pub fn named(name: &str) -> Option<Special> {
        let axis = match name.as_bytes().last()? {
            b'x' => 0,
            b'y' => 1,
            _ => 2,
        };
        Some(match name {
            "%tid.x" | "%tid.y" | "%tid.z" => Special::Tid(axis),
            "%ntid.x" | "%ntid.y" | "%ntid.z" => Special::Ntid(axis),
            "%ctaid.x" | "%ctaid.y" | "%ctaid.z" => Special::Ctaid(axis),
            "%nctaid.x" | "%nctaid.y" | "%nctaid.z" => Special::Nctaid(axis),
            "%laneid" => Special::LaneId,
            "%lanemask_eq" => Special::LaneMaskEq,
            "%lanemask_lt" => Special::LaneMaskLt,
            "%lanemask_le" => Special::LaneMaskLe,
            "%lanemask_gt" => Special::LaneMaskGt,
            "%lanemask_ge" => Special::LaneMaskGe,
            _ => return None,
        })
    }
}

/// Rows of a warp's registers: the declared ones first, then the constants.
#[derive(Default)]
pub struct Layout {
    /// Rows in all: narrow, wide, predicates.
    pub narrow: usize,
    pub wide: usize,
    pub predicates: usize,
    pub narrow_constants: Vec<(u16, u32)>,
    pub wide_constants: Vec<(u16, u64)>,
    pub predicate_constants: Vec<(u16, u32)>,
    pub specials: Vec<(u16, Special)>,
}

/// A kernel's instructions and what a warp needs to run them.
pub struct Code {
    pub insts: Vec<Inst>,
    /// Line and text of each instruction.
    pub sources: Vec<(usize, Box<str>)>,
    pub layout: Layout,
    /// Where dynamic shared memory begins.
    pub dynamic_offset: u32,
    pub local_bytes: u32,
    pub constants: Arc<Store>,
    pub constant_bytes: u32,
}

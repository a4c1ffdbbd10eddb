//! What the parser makes of the text.

/// Size class of a register. 16- and 32-bit registers share one file of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    Pred,
    W16,
    W32,
    W64,
}

/// A register: its row in the file of its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    pub width: Width,
    pub slot: u16,
}

/// A declared name: its offset in its state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    Param(u32),
    Shared(u32),
    /// Dynamic shared memory starts after the static variables, at a multiple of `align`.
    Dynamic {
        align: u32,
    },
    Local(u32),
    Const(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand<'a> {
    Reg(Reg),
    /// `!%p`
    Not(Reg),
    /// `%r|%p`
    Pair(Reg, Reg),
    /// An integer, sign-extended.
    Int(u64),
    /// Bits of an f32.
    Float(u32),
    Special(&'a str),
    Symbol(Symbol),
    /// Statement number.
    Label(usize),
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`
    Address(Box<Operand<'a>>, i64),
}

#[derive(Debug)]
pub struct Statement<'a> {
    pub line: usize,
    /// Predicate and whether it is negated.
    pub guard: Option<(Reg, bool)>,
    pub op: &'a str,
    pub operands: Vec<Operand<'a>>,
}

/// A kernel parameter, as the parameter buffer holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub offset: u32,
    pub size: u32,
    pub align: u32,
}

#[derive(Debug)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub line: usize,
    pub params: Vec<Param>,
    /// `.maxntid`
    pub max_threads: Option<u32>,
    /// `.reqntid`
    pub required_threads: Option<[u32; 3]>,
    pub shared_bytes: u32,
    pub local_bytes: u32,
    /// Registers declared: predicates, 16 and 32 bits, 64 bits.
    pub registers: [u16; 3],
    pub body: Vec<Statement<'a>>,
}

#[derive(Debug)]
pub struct Program<'a> {
    /// 80 for `sm_80`.
    pub target: u32,
    /// The constant variables, one after the other.
    pub constants: Vec<u8>,
    pub entries: Vec<Entry<'a>>,
}

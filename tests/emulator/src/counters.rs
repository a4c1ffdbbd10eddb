//! What a launch did, in numbers that a profiler of the device reports too.

use crate::alu::LANES;

/// Bytes of a sector, the unit that global memory is moved in.
pub(crate) const SECTOR: u64 = 32;
/// Banks of shared memory, each 4 bytes wide.
const BANKS: usize = 32;

/// What an instruction does. Every one belongs to one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Integer and bitwise arithmetic, of 16 to 64 bits.
    Integer,
    /// Arithmetic of f32, approximations of functions too.
    Float,
    /// Arithmetic of 16-bit floats and pairs of them.
    Half,
    /// `cvt`.
    Convert,
    /// Moves, selections, comparisons and logic of predicates; `activemask`.
    Move,
    /// `mma`.
    Matrix,
    /// `ld.global`.
    GlobalLoad,
    /// `st.global`.
    GlobalStore,
    /// `ld.shared` and `ldmatrix`.
    SharedLoad,
    /// `st.shared`.
    SharedStore,
    /// `atom` and `red`, of global and shared memory.
    Atomic,
    /// `cp.async` itself, not its groups.
    Copy,
    /// Loads of parameters and constants, loads and stores of local memory.
    OtherMemory,
    /// Branches, `ret`, `exit`, `trap`.
    Control,
    /// Barriers, shuffles, votes, fences; the groups of `cp.async` and waits for them.
    Synchronise,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 15;

    /// All of them and what a table calls them.
    pub const ALL: [(Class, &'static str); Class::COUNT] = [
        (Class::Integer, "integer"),
        (Class::Float, "float"),
        (Class::Half, "half"),
        (Class::Convert, "convert"),
        (Class::Move, "move"),
        (Class::Matrix, "mma"),
        (Class::GlobalLoad, "global_load"),
        (Class::GlobalStore, "global_store"),
        (Class::SharedLoad, "shared_load"),
        (Class::SharedStore, "shared_store"),
        (Class::Atomic, "atomic"),
        (Class::Copy, "copy"),
        (Class::OtherMemory, "other_memory"),
        (Class::Control, "control"),
        (Class::Synchronise, "synchronise"),
    ];

    /// The class of an opcode with its modifiers.
    pub(crate) fn of(op: &str) -> Class {
        let parts: Vec<&str> = op.split('.').collect();
        let has = |part: &str| parts.contains(&part);
        match parts[0] {
            "ld" | "ldu" if has("global") => Class::GlobalLoad,
            "st" if has("global") => Class::GlobalStore,
            "ld" if has("shared") => Class::SharedLoad,
            "ldmatrix" => Class::SharedLoad,
            "st" if has("shared") => Class::SharedStore,
            "ld" | "st" => Class::OtherMemory,
            "atom" | "red" => Class::Atomic,
            "cp" if has("global") => Class::Copy,
            "cp" | "bar" | "shfl" | "vote" | "membar" | "fence" => Class::Synchronise,
            "mma" | "wmma" => Class::Matrix,
            "bra" | "ret" | "exit" | "trap" => Class::Control,
            "cvt" => Class::Convert,
            "mov" | "selp" | "setp" | "cvta" | "activemask" => Class::Move,
            _ if has("pred") => Class::Move,
            _ if parts.iter().any(|part| matches!(*part, "f16" | "f16x2" | "bf16" | "bf16x2")) => Class::Half,
            _ if has("f32") => Class::Float,
            _ => Class::Integer,
        }
    }
}

/// Declares the counters next to their names, so that none is left out of a sum or a table.
macro_rules! counters {
    ($($(#[$meta:meta])* $field:ident,)+) => {
        /// What a launch did. A launch that faults has no counters.
        ///
        /// An instruction is counted once a warp, or once for each group of lanes where the warp diverged, also where its
        /// guard holds all lanes back. A *request* is such an instruction with at least one lane that takes part. Bytes
        /// are those of the lanes that take part, each counted for itself.
        ///
        /// Requests, sectors and wavefronts are counted only with [`crate::Checks::traffic`], and are 0 without.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            /// Instructions of each [`Class`], in the order of [`Class::ALL`].
            pub classes: [u64; Class::COUNT],
            $($(#[$meta])* pub $field: u64,)+
        }

        impl Counters {
            /// Every number with its name: all instructions, those of each class, then the fields in their order.
            pub fn table(&self) -> Vec<(&'static str, u64)> {
                let classes = Class::ALL.map(|(class, name)| (name, self.count(class)));
                let rest = [$((stringify!($field), self.$field)),+];
                [&[("warp_instructions", self.warp_instructions())][..], &classes, &rest].concat()
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Counters) {
                self.classes.iter_mut().zip(other.classes).for_each(|(sum, value)| *sum += value);
                $(self.$field += other.$field;)+
            }
        }
    };
}

counters! {
    /// Bytes that lanes loaded from global memory, by loads, atomics and `cp.async`.
    global_load_bytes,
    /// Bytes that lanes stored to global memory, by stores and atomics.
    global_store_bytes,
    /// Bytes of the different sectors of global memory that the launch reads, each once: what a cache that loses nothing
    /// still has to fetch. Counted with [`crate::Checks::traffic`].
    global_read_once_bytes,
    /// As [`Counters::global_read_once_bytes`], for what it writes.
    global_written_once_bytes,
    /// Requests of `ld.global`.
    global_load_requests,
    /// The different aligned 32-byte pieces of memory that each request of `ld.global` touches, summed over requests.
    /// Whether a cache holds them makes no difference.
    global_load_sectors,
    /// Requests of `st.global`.
    global_store_requests,
    /// As [`Counters::global_load_sectors`], for `st.global`.
    global_store_sectors,
    /// Requests of `cp.async`.
    copy_requests,
    /// As [`Counters::global_load_sectors`], for the bytes that `cp.async` reads; lanes with none do not count.
    copy_sectors,
    /// Bytes that lanes loaded from shared memory, by loads, atomics and `ldmatrix`.
    shared_load_bytes,
    /// Bytes that lanes stored to shared memory, by stores, atomics and `cp.async`, filled zeros too.
    shared_store_bytes,
    /// Requests of `ld.shared`.
    shared_load_requests,
    /// Wavefronts of `ld.shared`: steps in which each of the 32 banks of 4 bytes gives one word, to any number of lanes.
    /// Accesses of up to 4 bytes a lane take the whole warp at once, those of 8 bytes each half of it for itself, those
    /// of 16 bytes each quarter; a part without lanes takes no step, any other as many as the bank with the most
    /// different words has of them.
    shared_load_wavefronts,
    /// Requests of `st.shared`.
    shared_store_requests,
    /// As [`Counters::shared_load_wavefronts`], for `st.shared`.
    shared_store_wavefronts,
    /// As [`Counters::shared_load_wavefronts`], for the rows of `ldmatrix`: eight rows of 16 bytes, one matrix, are a part.
    matrix_wavefronts,
    /// As [`Counters::shared_load_wavefronts`], for what `cp.async` writes.
    copy_wavefronts,
}

impl Counters {
    /// Instructions of all classes.
    pub fn warp_instructions(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Instructions of one class.
    pub fn count(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }
}

/// Different sectors that `bytes` at the addresses of `mask` lie in; aligned to their size, each lies in one.
pub(crate) fn sectors(addresses: &[u64; LANES], mask: u32) -> u64 {
    let lanes = (0..LANES).filter(|lane| mask >> lane & 1 == 1);
    let (mut found, mut count, mut sorted) = ([0; LANES], 0, true);
    for sector in lanes.map(|lane| addresses[lane] / SECTOR) {
        if count == 0 || found[count - 1] != sector {
            sorted &= count == 0 || found[count - 1] < sector;
            found[count] = sector;
            count += 1;
        }
    }
    if sorted {
        return count as u64;
    }
    found[..count].sort_unstable();
    1 + found[..count].windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
}

/// Wavefronts that `bytes` a lane at the shared offsets of `mask` take.
pub(crate) fn wavefronts(offsets: &[usize; LANES], bytes: usize, mask: u32) -> u64 {
    let words = bytes.div_ceil(4);
    let part = LANES / words;
    let mut steps = 0;
    for first in (0..LANES).step_by(part) {
        let (mut left, mut count) = ([0; LANES], 0);
        for lane in (first..first + part).filter(|lane| mask >> lane & 1 == 1) {
            for word in 0..words {
                left[count] = offsets[lane] / 4 + word;
                count += 1;
            }
        }
        // Each step serves the first word left for each bank.
        while count > 0 {
            let (mut banks, mut after) = ([usize::MAX; BANKS], 0);
            for i in 0..count {
                let bank = &mut banks[left[i] % BANKS];
                if *bank == usize::MAX {
                    *bank = left[i];
                } else if *bank != left[i] {
                    left[after] = left[i];
                    after += 1;
                }
            }
            (count, steps) = (after, steps + 1);
        }
    }
    steps
}

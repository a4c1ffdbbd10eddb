//! A loaded PTX module and its kernels.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decode::{Code, decode};
use crate::ptx::{Entry, parse};
use crate::store::Store;

pub use crate::ptx::LoadError;

/// Static shared memory that a block can have, in bytes.
const MAX_STATIC_SHARED: u32 = 48 << 10;
/// Local memory that a thread can have, in bytes.
const MAX_LOCAL: u32 = 512 << 10;
/// Parameters that a kernel can have, in bytes.
const MAX_PARAMS: u32 = 32764;
/// Registers that a thread can have.
const MAX_REGISTERS: u32 = 255;

/// A PTX module, decoded. Nothing in it changes after loading, so it can be shared between threads.
pub struct Module {
    target: u32,
    kernels: HashMap<String, Kernel>,
}

/// Where a parameter lies in [`crate::Launch::params`], in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamLayout {
    /// First byte.
    pub offset: usize,
    /// Length.
    pub size: usize,
    /// `offset` is a multiple of this.
    pub align: usize,
}

/// An entry function.
pub struct Kernel {
    name: String,
    params: Vec<ParamLayout>,
    static_shared: u32,
    max_threads: u32,
    required_threads: Option<[u32; 3]>,
    registers: u32,
    pub(crate) code: Code,
}

impl Module {
    /// Parses and decodes PTX text. A form outside the supported set is refused with its line.
    pub fn load(ptx: &str) -> Result<Module, LoadError> {
        let program = parse(ptx)?;
        let lines: Vec<&str> = ptx.lines().collect();
        let constants =
            Store::new(program.constants.len()).ok_or_else(|| LoadError::new(1, "no memory for constants"))?;
        constants.write(0, &program.constants);
        let (constants, bytes) = (Arc::new(constants), program.constants.len() as u32);
        let mut kernels = HashMap::new();
        for entry in &program.entries {
            for (what, bytes, most) in [
                ("static shared memory", entry.shared_bytes, MAX_STATIC_SHARED),
                ("local memory", entry.local_bytes, MAX_LOCAL),
                ("parameters", entry.params.last().map_or(0, |last| last.offset + last.size), MAX_PARAMS),
            ] {
                if bytes > most {
                    return Err(LoadError::new(entry.line, format!("{bytes} bytes of {what}, {most} are possible")));
                }
            }
            let code = decode(entry, &lines, &constants, bytes)?;
            if kernels.insert(entry.name.to_string(), Kernel::new(entry, code)).is_some() {
                return Err(LoadError::new(entry.line, format!("kernel {} is declared twice", entry.name)));
            }
        }
        Ok(Module { target: program.target, kernels })
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.get(name)
    }

    /// The compute capability that the text was compiled for: 80 for `sm_80`.
    pub fn target(&self) -> u32 {
        self.target
    }
}

impl Kernel {
    fn new(entry: &Entry, code: Code) -> Kernel {
        let layout = |param: &crate::ptx::Param| ParamLayout {
            offset: param.offset as usize,
            size: param.size as usize,
            align: param.align as usize,
        };
        let [_, narrow, wide] = entry.registers.map(u32::from);
        Kernel {
            name: entry.name.to_string(),
            params: entry.params.iter().map(layout).collect(),
            static_shared: entry.shared_bytes,
            max_threads: entry.max_threads.unwrap_or(1024).min(1024),
            required_threads: entry.required_threads,
            registers: (narrow + 2 * wide).min(MAX_REGISTERS),
            code,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its parameters in order.
    pub fn params(&self) -> &[ParamLayout] {
        &self.params
    }

    /// Bytes of its static shared variables.
    pub fn static_shared(&self) -> u32 {
        self.static_shared
    }

    /// Threads that a block may have: `.maxntid` or 1024.
    pub fn max_threads(&self) -> u32 {
        self.max_threads
    }

    /// The block's exact dimensions, where `.reqntid` asks for them.
    pub fn required_threads(&self) -> Option<[u32; 3]> {
        self.required_threads
    }

    /// Upper bound of the registers a thread needs; PTX does not say how many the hardware's assembler would use.
    pub fn registers(&self) -> u32 {
        self.registers
    }

    /// Bytes of local memory that a thread needs.
    pub fn local_bytes(&self) -> u32 {
        self.code.local_bytes
    }
}

//! A module and a memory, to run kernels on.

use bytemuck::{Pod, Zeroable};
use cuemu::{Checks, Counters, Fault, GlobalMemory, Launch, Module};

pub struct Device {
    pub memory: GlobalMemory,
    module: Module,
    pub checks: Checks,
}

impl Device {
    pub fn new(ptx: &str) -> Device {
        let module = Module::load(ptx).unwrap_or_else(|error| panic!("{error}"));
        Device { memory: GlobalMemory::new(1 << 30), module, checks: Checks::ALL }
    }

    /// An allocation with these values.
    pub fn put<T: Pod>(&self, values: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.memory.alloc(bytes.len() as u64).expect("memory is left");
        self.memory.write(address, bytes).unwrap();
        address
    }

    /// An allocation of `count` unwritten values.
    pub fn room<T: Pod>(&self, count: usize) -> u64 {
        self.memory.alloc((count * size_of::<T>()) as u64).expect("memory is left")
    }

    pub fn get<T: Pod + Zeroable>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); count];
        self.memory.read(address, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }

    /// Runs a kernel; `args` holds the bytes of each parameter.
    pub fn run(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        args: Vec<Vec<u8>>,
    ) -> Result<Counters, Box<Fault>> {
        let kernel = self.module.kernel(name).unwrap_or_else(|| panic!("no kernel {name}"));
        let layout = kernel.params();
        assert_eq!(layout.len(), args.len(), "parameters of {name}");
        let mut params = vec![0; layout.last().map_or(0, |last| last.offset + last.size)];
        for (param, bytes) in layout.iter().zip(&args) {
            params[param.offset..param.offset + param.size].copy_from_slice(bytes);
        }
        cuemu::launch(kernel, &Launch { grid, block, dynamic_shared, params }, &self.memory, self.checks)
    }
}

/// The bytes of each argument.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$(bytemuck::bytes_of(&$value).to_vec()),*] };
}
pub(crate) use args;

/// A module of these kernels.
pub fn module(kernels: &str) -> String {
    format!(".version 9.0\n.target sm_80\n.address_size 64\n{kernels}")
}

//! Tests of the emulated device: every instruction against its own model, whole kernels, planted bugs.

mod bugs;
mod device;
mod driver;
mod halves;
mod instructions;
mod kernels;
mod load;
mod memory;
mod tensor;
mod warps;

//! Tests of the emulated device: every instruction against its own model, whole kernels, planted bugs.

mod bugs;
mod copies;
mod counters;
mod device;
mod driver;
mod halves;
mod instructions;
mod kernels;
mod load;
mod memory;
mod order;
mod pipeline;
mod races;
mod tensor;
mod warps;

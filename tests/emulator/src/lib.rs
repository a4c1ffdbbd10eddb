//! An emulated CUDA device for tests on machines without a GPU: it runs the PTX text that ships, warp by warp, and
//! checks what hardware leaves unchecked.
//!
//! [`Module::load`] parses and decodes PTX; a form outside the supported set (see [`forms`]) is refused there, with its
//! line. [`launch`] runs a [`Kernel`] over a [`GlobalMemory`] with blocks in parallel, and returns [`Counters`] or the
//! [`Fault`] that stopped it.

mod alu;
mod check;
mod counters;
mod decode;
pub mod driver;
mod exec;
mod fault;
mod launch;
mod memory;
mod module;
mod nvtx;
mod ptx;
mod store;

pub use counters::{Class, Counters};
pub use decode::forms;
pub use fault::{Fault, FaultKind};
pub use launch::{Checks, Launch, launch};
pub use memory::{AccessError, GlobalMemory};
pub use module::{Kernel, LoadError, Module, ParamLayout};

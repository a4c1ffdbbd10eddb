//! The part of cuDNN that the kernel benchmarks call, over the emulated driver: a 2-d convolution with bias and ReLU.
//!
//! NHWC and KRSC; f32, f16 or bf16 throughout, sums in f32 in the order of (R, S, C); no dilation; scalars 1 and 0. Anything
//! else is refused with a status, and so are shapes that do not go together. It is queued, captured and replayed as a kernel
//! is. What a math type rounds is not imitated. The search for an algorithm runs nothing and finds one that is good, after
//! one that is not.

mod abi;
mod convolution;
#[path = "../../cublaslt/src/driver.rs"]
mod driver;
mod exports;

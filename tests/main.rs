//! The integration suite, one module a subject.

mod batches;
mod cases;
mod cli;
mod cpu;
mod cublaslt;
mod device;
mod dropout;
mod faults;
mod fused;
mod golden;
mod guards;
mod images;
mod input;
mod kernels;
mod lone;
mod model;
mod mutations;
mod net;
mod parallel;
mod pipeline;
mod recorded;
mod split;
mod testdata;
mod traffic;
mod weights;

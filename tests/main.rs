//! The integration suite, one module a subject.

mod cases;
mod cli;
mod device;
mod dropout;
mod faults;
mod golden;
mod guards;
mod images;
mod input;
mod kernels;
mod model;
mod mutations;
mod net;
mod pipeline;
mod testdata;
mod traffic;
mod weights;

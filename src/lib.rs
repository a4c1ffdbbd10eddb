//! AlexNet (skeleton).
pub mod backend;
pub mod cpu;
mod error;
mod file;
pub mod image;
pub mod input;
mod model;
pub mod net;
pub mod plan;
pub mod weights;

pub use backend::{Activation, Backend, Input, Prediction, Score, Session};
pub use error::{Error, Result};
pub use model::{Device, Model, Options, Precision, demo_checkpoint, open_checkpoint};

//! AlexNet (skeleton).
mod error;
pub use error::{Error, Result};

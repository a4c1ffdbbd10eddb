//! The crate's one error type. A variant says what a caller can do about it; the message names the file, the cause and
//! the fix.

use std::io;
use std::path::{Path, PathBuf};

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, grouped by what the caller does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that cannot be carried out as given: a missing file, an unknown name, a size the network does not take.
    #[error("{0}")]
    Usage(String),

    /// One input that cannot be used. The run goes on: the input's row carries this message, the row names the file.
    #[error("{0}")]
    Input(String),

    /// Weights that cannot be read or do not fit the network, with every mismatch found.
    #[error("{}: weights rejected:\n  {}", .path.display(), .problems.join("\n  "))]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// One line a mismatch: tensor, expected, found.
        problems: Vec<String>,
    },

    /// No device that can do what was asked.
    #[error("{0}")]
    Device(String),

    /// A device without the memory for what was asked; less of it may fit.
    #[error("{0}")]
    DeviceMemory(String),

    /// A device that failed while it ran. Results given before are good; it gives no more.
    #[error("{0}")]
    DeviceLost(String),

    /// An output that cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Output {
        /// The file, or `<stdout>`.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl Error {
    /// The process exit code of the command line for this error.
    ///
    /// 2 usage, 3 some inputs failed, 4 weights rejected, 5 no usable device, 6 output failed, 7 device lost.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Input(_) => 3,
            Error::Weights { .. } => 4,
            Error::Device(_) | Error::DeviceMemory(_) => 5,
            Error::Output { .. } => 6,
            Error::DeviceLost(_) => 7,
        }
    }

    /// Weights rejected for one reason.
    pub(crate) fn weights(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::Weights { path: path.into(), problems: vec![problem.into()] }
    }

    /// Maps what the operating system said to an output error for `path`.
    pub fn output(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
        move |source| Error::Output { path: path.to_path_buf(), source }
    }
}

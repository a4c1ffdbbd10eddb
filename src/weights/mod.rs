//! Checkpoints: a file on disk to named tensors and metadata, and back to safetensors.
//!
//! Three layouts are read, told apart by their content: safetensors, the zip that PyTorch writes since 1.6, and the
//! pickle stream it wrote before. Nothing of a file is trusted: lengths are checked before they are allocated, no
//! pickled code runs, and whatever does not fit is an [`Error::Weights`] that names it.
//!
//! ```text
//! file ──> Checkpoint ──> StoredWeights ──> the CPU's backend, which reads each layer as it lays it out
//!          (names, shapes) (they fit)   └─> Weights (values in f32, checked) ──> other backends, which share them
//! ```

mod fit;
mod hub;
mod labels;
mod pickle;
mod safetensors;
pub mod seeded;
mod source;
mod stored;
mod tensor;
mod torch;
mod zip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file::{self, PartialFile};
use crate::{Error, Result};

pub use fit::{LayerWeights, Weights};
pub use hub::imagenet1k_v1;
pub use labels::{imagenet1k_labels, read_labels};
pub use stored::StoredWeights;
pub(crate) use stored::{StoredLayer, all_or_problems};
pub use tensor::{DType, Tensor};

use source::{Source, unreadable};

/// The largest file read, in bytes: AlexNet in f64 with two optimizer moments beside it is 1.5 GB.
const MAX_FILE: u64 = 4 << 30;

/// A checkpoint: what its file says of the tensors, whose values may be in memory or still in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Where it came from, for messages.
    pub path: PathBuf,
    /// Tensors by name, as PyTorch's `state_dict()` names them. A leading `module.` (DataParallel) is gone.
    pub tensors: BTreeMap<String, Tensor>,
    /// Metadata `alexnet.variant`, as it stands in the file.
    pub variant: Option<String>,
    /// Metadata `alexnet.labels`: class names in the order of the last layer's outputs.
    pub labels: Option<Vec<String>>,
    /// All other metadata, which conversion keeps.
    pub metadata: BTreeMap<String, String>,
}

/// What a reader makes of a file, or every reason why it cannot.
type Parsed<T> = std::result::Result<T, Vec<String>>;

impl Checkpoint {
    /// Opens a checkpoint, whatever its layout and its name's extension.
    ///
    /// Values are read from the file as they are asked for, once more where a `.pth` has checksums, which are looked at here. A file
    /// from before PyTorch 1.6 is read at once, and so are tensors that are not contiguous.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if there is no such regular file or it cannot be opened, [`Error::Weights`] if its content is
    /// not a checkpoint. Values are not looked at: see [`Tensor::first_non_finite`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(path, Source::open(path)?)
    }

    /// Reads a checkpoint from memory; `path` only serves messages.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] if `bytes` are not a checkpoint.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::from_source(path, Source::Memory(bytes.to_vec()))
    }

    fn from_source(path: &Path, source: Source) -> Result<Self> {
        let parsed = Self::parse(path, &Arc::new(source)).and_then(Self::normalised);
        parsed.map_err(|problems| Error::Weights { path: path.into(), problems })
    }

    fn parse(path: &Path, source: &Arc<Source>) -> Parsed<Self> {
        let torch =
            |tensors| Self { path: path.into(), tensors, variant: None, labels: None, metadata: BTreeMap::new() };
        let start = source.bytes(0..source.len().min(torch::MAGIC)).map_err(|e| vec![unreadable(e)])?;
        if start.starts_with(b"PK\x03\x04") {
            torch::read_zip(source).map(torch)
        } else if torch::is_legacy(&start) {
            torch::read_legacy(source).map(torch)
        } else if start.get(8) == Some(&b'{') {
            safetensors::read(path, source)
        } else if start.is_empty() {
            Err(vec!["the file is empty".into()])
        } else {
            Err(vec!["neither a safetensors file nor a PyTorch checkpoint (.pth), or cut off near its start".into()])
        }
    }

    /// Strips `module.` from names, and refuses tensors without elements: no layer has one, and the product of their
    /// other dimensions may overflow.
    fn normalised(mut self) -> Parsed<Self> {
        let mut problems = Vec::new();
        for (full_name, tensor) in std::mem::take(&mut self.tensors) {
            let name = full_name.strip_prefix("module.").unwrap_or(&full_name).to_owned();
            if tensor.is_empty() {
                problems.push(format!("{}: shape {:?} has no elements", quoted(&name), tensor.shape));
            }
            if self.tensors.insert(name, tensor).is_some() {
                problems.push(format!("{} is there with and without \"module.\"", quoted(&full_name)));
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// Writes the checkpoint as safetensors, keeping each tensor's precision. Equal checkpoints give equal bytes.
    ///
    /// Whoever reads `path` meanwhile sees the old file or the new one.
    ///
    /// # Errors
    ///
    /// [`Error::Output`] if the file cannot be written, [`Error::Weights`] if values can no longer be read.
    pub fn save_safetensors(&self, path: &Path) -> Result<()> {
        let mut file = PartialFile::create(path)?;
        safetensors::write(self, &mut file)?;
        file.finish()
    }
}

/// [`file::read_regular`] of a file that the user named.
fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>> {
    file::read_regular(path, limit).map_err(|reason| Error::Usage(format!("{}: {reason}", path.display())))
}

/// A name out of a file, fit for a message: quoted, escaped and not too long.
fn quoted(name: &str) -> String {
    match name.char_indices().nth(100) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

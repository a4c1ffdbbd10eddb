//! A checkpoint's bytes: in memory, or in a file that is read where they are needed.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::MAX_FILE;
use crate::{Error, Result, file};

/// Bytes read at once where all are looked at: few enough to stay in the caches.
const PIECE: usize = 1 << 18;

/// A file is not mapped: whoever cuts it short would end this process.
#[derive(Debug)]
pub(super) enum Source {
    Memory(Vec<u8>),
    File { path: PathBuf, file: File, len: usize },
}

impl Source {
    /// # Errors
    /// [`Error::Usage`] if there is no such regular file or it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = file::open_regular(path, MAX_FILE);
        let (file, len) = opened.map_err(|reason| Error::Usage(format!("{}: {reason}", path.display())))?;
        Ok(Source::File { path: path.into(), file, len: len as usize })
    }

    pub fn len(&self) -> usize {
        match self {
            Source::Memory(bytes) => bytes.len(),
            Source::File { len, .. } => *len,
        }
    }

    /// Bytes that need not be read.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn in_memory(&self, range: Range<usize>) -> Option<&[u8]> {
        match self {
            Source::Memory(bytes) => Some(&bytes[range]),
            Source::File { .. } => None,
        }
    }

    /// Fills `target` with the bytes from `start` on.
    ///
    /// # Panics
    /// If they are in memory and not as many.
    pub fn read(&self, start: usize, target: &mut [u8]) -> io::Result<()> {
        match self {
            Source::Memory(bytes) => target.copy_from_slice(&bytes[start..][..target.len()]),
            Source::File { file, .. } => file.read_exact_at(target, start as u64)?,
        }
        Ok(())
    }

    /// The bytes of `range`.
    ///
    /// # Panics
    /// As [`in_memory`](Self::in_memory).
    pub fn bytes(&self, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.in_memory(range.clone()) {
            return Ok(bytes.into());
        }
        let mut bytes = vec![];
        bytes.try_reserve_exact(range.len()).map_err(io::Error::other)?;
        bytes.resize(range.len(), 0);
        self.read(range.start, &mut bytes)?;
        Ok(bytes.into())
    }

    /// CRC-32 of the bytes of `range`.
    pub fn crc32(&self, range: Range<usize>) -> io::Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut piece = vec![0; PIECE.min(range.len())];
        for start in range.clone().step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(range.end - start)];
            self.read(start, piece)?;
            hasher.update(piece);
        }
        Ok(hasher.finalize())
    }

    /// An error of reading, which only a file gives.
    pub fn failed(&self, error: io::Error) -> Error {
        match self {
            Source::Memory(_) => Error::weights("memory", unreadable(error)),
            Source::File { path, .. } => Error::weights(path, unreadable(error)),
        }
    }
}

/// Why bytes that were there when the file was opened cannot be read.
pub(super) fn unreadable(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the file has become shorter since it was opened; load it again".into(),
        _ => format!("cannot be read: {error}"),
    }
}

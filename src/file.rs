//! Files: opened only where reading ends, written so that a reader sees the old file or the new one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Opens a regular file, or a link to one, of at most `limit` bytes, and tells how many it has. A FIFO would block and a
/// device never end, so neither is opened.
///
/// # Errors
/// The reason, without the file's name.
pub(crate) fn open_regular(path: &Path, limit: u64) -> Result<(File, u64), String> {
    let check = |metadata: fs::Metadata| {
        if !metadata.is_file() {
            let kind = if metadata.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
            return Err(format!("not a regular file but {kind}"));
        }
        match metadata.len() {
            len if len > limit => Err(too_large(len, limit)),
            len => Ok(len),
        }
    };
    check(fs::metadata(path).map_err(unreadable)?)?;
    let file = File::open(path).map_err(unreadable)?;
    // Another may have taken its name meanwhile.
    let len = check(file.metadata().map_err(unreadable)?)?;
    Ok((file, len))
}

/// The bytes of a file that [`open_regular`] opens.
///
/// # Errors
/// As [`open_regular`].
pub(crate) fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let (file, len) = open_regular(path, limit)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len as usize).map_err(|e| format!("cannot be read: {e}"))?;
    // The file may grow while it is read.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64, limit));
    }
    Ok(bytes)
}

fn unreadable(error: io::Error) -> String {
    format!("cannot be read: {error}")
}

fn too_large(len: u64, limit: u64) -> String {
    format!("{} MiB, more than the {} MiB that are read", len >> 20, limit >> 20)
}

/// Writes `bytes` as the whole content of a file, which appears under its name once it is complete.
///
/// # Errors
/// [`Error::Output`] if it cannot be written; what stood there stays then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = PartialFile::create(path)?;
    file.write_all(bytes).map_err(Error::output(path))?;
    file.finish()
}

/// Finds out whether a file can be created where [`write()`] would; nothing stays of it.
///
/// # Errors
/// [`Error::Output`] with the reason.
pub fn check(path: &Path) -> Result<()> {
    PartialFile::create(path).map(drop)
}

/// A file that appears under its name only once it is complete.
///
/// Until [`finish`](Self::finish) it is `NAME.PROCESS-COUNTER.partial` in the same folder, a file that was not there
/// before; dropped unfinished it is removed. Where the name is a symlink, the file that it leads to is replaced.
#[derive(Debug)]
pub(crate) struct PartialFile {
    path: PathBuf,
    /// `path`, or where the symlink there leads.
    target: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
    finished: bool,
}

impl PartialFile {
    /// # Errors
    /// [`Error::Output`] if the file cannot be created, or if `path` is a folder, a device, a FIFO or a broken symlink.
    pub fn create(path: &Path) -> Result<Self> {
        // The rename would put a file in the place of a device.
        if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            return Err(Error::output(path)(io::Error::other("it exists and is not a regular file")));
        }
        let target = if path.is_symlink() {
            let broken = |e| io::Error::other(format!("it is a symlink that leads to no file ({e}); remove it"));
            fs::canonicalize(path).map_err(broken).map_err(Error::output(path))?
        } else {
            path.to_path_buf()
        };
        let (partial, file) = create_beside(&target).map_err(Error::output(path))?;
        let out = BufWriter::with_capacity(1 << 20, file);
        Ok(PartialFile { path: path.into(), target, partial, out, finished: false })
    }

    /// The name it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file with everything written so far in it, for writing at a position.
    ///
    /// # Errors
    /// [`Error::Output`] if what is buffered cannot be written.
    pub fn flushed(&mut self) -> Result<&File> {
        self.out.flush().map_err(Error::output(&self.path))?;
        Ok(self.out.get_ref())
    }

    /// Completes the file under its own name, safely on disk.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be written; nothing is left behind then.
    pub fn finish(mut self) -> Result<()> {
        self.flushed()?.sync_all().map_err(Error::output(&self.path))?;
        fs::rename(&self.partial, &self.target).map_err(Error::output(&self.path))?;
        self.finished = true;
        Ok(())
    }
}

/// Creates a file that did not exist, named after `target` and in its folder.
fn create_beside(target: &Path) -> io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{}-{}.partial", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        // Never one that exists: it may be somebody's file, a FIFO or a symlink, or belong to another run.
        match File::create_new(&name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (name.into(), file)),
        }
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody is left to tell of a failure.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

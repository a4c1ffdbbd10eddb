//! What the user named, as an ordered list of things to read.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::npy::Pack;
use super::pattern;
use crate::error::{Error, Result};

/// The extensions, in any case, of the files that a folder contributes.
pub const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif"];

/// Longest line of a list, in bytes: far above any path, far below harm when the list is not one.
const MAX_LINE: u64 = 1 << 16;

const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

/// The inputs of a run, in order.
#[derive(Debug)]
pub struct Sources {
    pub(super) entries: Vec<Entry>,
    /// The arguments.
    named: Vec<PathBuf>,
}

#[derive(Debug)]
pub(super) enum Entry {
    /// A picture, or a pack that a list names; whether it is one shows in its turn.
    File(PathBuf),
    /// A pack as it was when its header was checked. It is opened again in its turn: thousands of packs would
    /// otherwise exceed the number of files a process may hold open.
    Pack { path: PathBuf, rows: u64, height: usize, width: usize },
    /// Something that was found and cannot be used.
    Broken { path: PathBuf, reason: String },
    /// Paths still to be read, one a line.
    List(List),
}

impl Sources {
    /// Expands arguments: a file; a folder, for the pictures below it ([`EXTENSIONS`]) sorted by path, without hidden
    /// ones; a glob pattern where no file of that name exists; a `.npy` pack; `-` for paths on standard input, one a
    /// line, read while the run goes on.
    ///
    /// In a pattern `*`, `?` and `[...]` stand for parts of one name and `**` for any folders. Hidden names match where
    /// the pattern has their dot. Folders that match are walked, and each file comes once.
    ///
    /// No picture is opened here, and neither is a FIFO or device: those become rows that fail. So do a symlink loop
    /// and a folder that cannot be read, if they lie below a named folder or a pattern leads to them.
    ///
    /// # Errors
    /// [`Error::Usage`] for an argument that does not exist, a pattern that matches nothing, a folder without
    /// pictures, a file that ends in `.npy` and is no pack, a second `-`.
    pub fn expand<A: AsRef<OsStr>>(arguments: &[A]) -> Result<Sources> {
        Self::expand_with(arguments, BufReader::new(io::stdin()))
    }

    /// [`Sources::expand`] with `list` in the place of standard input.
    ///
    /// # Errors
    /// As [`Sources::expand`].
    pub fn expand_with<A: AsRef<OsStr>>(arguments: &[A], list: impl BufRead + Send + 'static) -> Result<Sources> {
        let mut list = Some(List { lines: Box::new(list), begun: false });
        let mut entries = Vec::new();
        for argument in arguments {
            let path = Path::new(argument);
            if path == Path::new("-") {
                let list = list.take().ok_or_else(|| Error::Usage("`-` (standard input) may be given once".into()))?;
                entries.push(Entry::List(list));
                continue;
            }
            match fs::metadata(path) {
                Ok(metadata) => add(path, &metadata, &mut entries)?,
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Usage(format!("cannot read {}: {e}", path.display())));
                }
                Err(_) if pattern::is_pattern(path) => add_matches(path, &mut entries)?,
                Err(_) => return Err(Error::Usage(format!("no such file or folder: {}", path.display()))),
            }
        }
        let named = arguments.iter().map(|argument| PathBuf::from(argument.as_ref())).collect();
        Ok(Sources { entries, named })
    }

    /// Number of rows to come; `None` if a list is among the arguments.
    pub fn total(&self) -> Option<u64> {
        self.entries.iter().try_fold(0, |sum, entry| match entry {
            Entry::File(_) | Entry::Broken { .. } => Some(sum + 1),
            Entry::Pack { rows, .. } => Some(sum + rows),
            Entry::List(_) => None,
        })
    }

    /// True if `path` exists and is the same file as one of these inputs, whatever it is called: so that a run does not
    /// write what it reads. Files found in folders are compared if their file name is that of `path` or of what it leads
    /// to; a list's are not.
    pub fn reads(&self, path: &Path) -> bool {
        let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        let Some(written) = identity(path) else { return false };
        let found = self.entries.iter().filter_map(|entry| match entry {
            Entry::File(found) | Entry::Pack { path: found, .. } => Some(found),
            Entry::Broken { .. } | Entry::List(_) => None,
        });
        // A symlink may have another name than the file that is written through it.
        let target = fs::canonicalize(path).unwrap_or_default();
        let alike = |found: &&PathBuf| [path, &target].iter().any(|path| path.file_name() == found.file_name());
        let mut candidates = self.named.iter().chain(found.filter(alike));
        candidates.any(|candidate| identity(candidate) == Some(written))
    }

    /// Characters in the longest file name known by now, for a table; a list's names are not.
    pub fn widest_filename(&self) -> usize {
        let widths = self.entries.iter().map(|entry| match entry {
            Entry::File(path) | Entry::Broken { path, .. } => filename(path).chars().count(),
            Entry::Pack { path, rows, .. } => row_filename(path, rows.saturating_sub(1)).chars().count(),
            Entry::List(_) => 0,
        });
        widths.max().unwrap_or(0)
    }
}

/// The name of a picture's row: its path as given, lossy where it is not UTF-8.
pub(super) fn filename(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The name of a pack's row, `pixels.npy#ROW`.
pub(super) fn row_filename(pack: &Path, row: u64) -> String {
    format!("{}#{row}", pack.to_string_lossy())
}

/// Whether `path` names a pack.
pub(super) fn is_pack(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy"))
}

fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Adds an existing file or folder.
fn add(path: &Path, metadata: &fs::Metadata, entries: &mut Vec<Entry>) -> Result<()> {
    if metadata.is_dir() {
        return add_folder(path, entries);
    }
    entries.push(if metadata.is_file() && is_pack(path) {
        let pack = Pack::open(path)?;
        Entry::Pack { path: path.into(), rows: pack.rows(), height: pack.height(), width: pack.width() }
    } else {
        Entry::File(path.into())
    });
    Ok(())
}

fn add_folder(folder: &Path, entries: &mut Vec<Entry>) -> Result<()> {
    let pictures = pictures(folder);
    let pictures = pictures.map_err(|reason| Error::Usage(format!("the folder {}: {reason}", folder.display())))?;
    if pictures.is_empty() {
        return Err(no_pictures(folder));
    }
    entries.extend(pictures);
    Ok(())
}

fn no_pictures(folder: &Path) -> Error {
    Error::Usage(format!(
        "no pictures in {}: files ending in {} count, hidden ones do not",
        folder.display(),
        EXTENSIONS.map(|e| format!(".{e}")).join(" ")
    ))
}

/// The pictures below `folder`, or why it cannot be read. What cannot be read below it is an entry.
fn pictures(folder: &Path) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let walk = WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter();
    // The folder itself was named, hidden or not.
    for found in walk.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name())) {
        match found {
            Ok(entry) if !entry.file_type().is_dir() && is_picture(entry.path()) => {
                entries.push(Entry::File(entry.into_path()));
            }
            Ok(_) => {}
            Err(e) => {
                let reason = match (e.loop_ancestor(), e.io_error()) {
                    (Some(ancestor), _) => format!("symlink loop: it leads back to {}", ancestor.display()),
                    (None, Some(io)) => format!("cannot read: {io}"),
                    (None, None) => format!("cannot read: {e}"),
                };
                if e.depth() == 0 {
                    return Err(reason);
                }
                let path = e.path().unwrap_or(folder);
                if !path.file_name().is_some_and(is_hidden) {
                    entries.push(Entry::Broken { path: path.into(), reason });
                }
            }
        }
    }
    Ok(entries)
}

fn add_matches(pattern: &Path, entries: &mut Vec<Entry>) -> Result<()> {
    let matches = pattern::find(pattern)?;
    if matches.is_empty() {
        return Err(Error::Usage(format!("no file matches {}", pattern.display())));
    }
    let before = entries.len();
    // With `**` a folder and what lies below it both match; the folder brings the rest.
    let mut walked: Option<PathBuf> = None;
    for (path, metadata) in matches {
        if walked.as_ref().is_some_and(|folder| path.starts_with(folder)) {
            continue;
        }
        match metadata {
            Ok(metadata) if metadata.is_dir() => {
                match pictures(&path) {
                    Ok(pictures) => entries.extend(pictures),
                    Err(reason) => entries.push(Entry::Broken { path: path.clone(), reason }),
                }
                walked = Some(path);
            }
            Ok(metadata) => add(&path, &metadata, entries)?,
            Err(e) => entries.push(Entry::Broken { path, reason: format!("cannot read: {e}") }),
        }
    }
    if entries.len() == before { Err(no_pictures(pattern)) } else { Ok(()) }
}

/// Paths, one a line.
pub(super) struct List {
    lines: Box<dyn BufRead + Send>,
    begun: bool,
}

impl List {
    /// What the next line names, waiting for it.
    pub(super) fn next(&mut self) -> Option<Entry> {
        loop {
            let mut line = Vec::new();
            match self.lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(e) => return Some(self.fail(format!("cannot read the list of paths: {e}"))),
            }
            // Asked first: such a list is one line.
            if line.contains(&0) {
                let reason = "a line has a NUL byte: paths stand one a line; use find -print in place of -print0";
                return Some(self.fail(reason.into()));
            }
            if line.pop_if(|last| *last == b'\n').is_none() && line.len() as u64 == MAX_LINE {
                return Some(self.fail(format!("a line is longer than {MAX_LINE} bytes: this is no list of paths")));
            }
            line.pop_if(|last| *last == b'\r');
            // Editors for Windows begin a file with it.
            if !std::mem::replace(&mut self.begun, true) && line.starts_with(UTF8_BOM) {
                line.drain(..UTF8_BOM.len());
            }
            if !line.trim_ascii().is_empty() {
                return Some(Entry::File(OsString::from_vec(line).into()));
            }
        }
    }

    /// Ends the list.
    fn fail(&mut self, reason: String) -> Entry {
        self.lines = Box::new(io::empty());
        Entry::Broken { path: "-".into(), reason }
    }
}

impl std::fmt::Debug for List {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("List")
    }
}

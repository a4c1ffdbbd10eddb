//! The paths that match a glob pattern, found component by component.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use glob::Pattern;
use walkdir::WalkDir;

use super::sources::is_hidden;
use crate::error::{Error, Result};

/// What one component of a pattern asks for.
enum Part<'a> {
    /// This entry, hidden or not.
    Literal(Component<'a>),
    /// `**`: the folder itself and all below it, without hidden ones.
    Recursive,
    /// The entries whose names match.
    Names(Pattern),
}

/// Whether `path` has a wildcard.
pub(super) fn is_pattern(path: &Path) -> bool {
    has_wildcard(path.as_os_str().as_encoded_bytes())
}

fn has_wildcard(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| b"*?[".contains(byte))
}

/// Everything that matches `pattern`, in the order of the paths: files, folders, broken symlinks, and folders that
/// could not be searched. A pattern that ends in `/` or `**` matches folders only.
///
/// A hidden name matches where the pattern has its dot. A name that is not UTF-8 is matched with U+FFFD in the place of
/// what is not.
///
/// # Errors
/// [`Error::Usage`] if the pattern is not valid.
pub(super) fn find(pattern: &Path) -> Result<BTreeMap<PathBuf, io::Result<Metadata>>> {
    let mut parts = pattern.components().map(|component| part(component, pattern)).collect::<Result<Vec<_>>>()?;
    let mut folders_only = pattern.as_os_str().as_encoded_bytes().ends_with(b"/");
    // A folder brings what is below it.
    while parts.pop_if(|last| matches!(last, Part::Recursive)).is_some() {
        folders_only = true;
    }
    if parts.is_empty() {
        parts.push(Part::Literal(Component::CurDir));
    }

    let mut found = BTreeSet::from([PathBuf::new()]);
    let mut unsearched = BTreeMap::new();
    for part in &parts {
        let mut next = BTreeSet::new();
        for base in found {
            match part {
                Part::Literal(name) => {
                    let path = base.join(name);
                    if fs::symlink_metadata(&path).is_ok() {
                        next.insert(path);
                    }
                }
                Part::Recursive => next.extend(folders(&base)),
                Part::Names(names) => match matching(&base, names) {
                    Ok(paths) => next.extend(paths),
                    Err(e) => {
                        unsearched.insert(base, Err(e));
                    }
                },
            }
        }
        found = next;
    }
    let mut matches = unsearched;
    for path in found {
        let metadata = fs::metadata(&path);
        if !folders_only || metadata.as_ref().is_ok_and(Metadata::is_dir) {
            matches.insert(path, metadata);
        }
    }
    Ok(matches)
}

fn part<'a>(component: Component<'a>, pattern: &Path) -> Result<Part<'a>> {
    let name = component.as_os_str();
    if name == "**" {
        return Ok(Part::Recursive);
    }
    if !has_wildcard(name.as_encoded_bytes()) {
        return Ok(Part::Literal(component));
    }
    let invalid = |reason: &str| {
        Error::Usage(format!("no such file, and no valid pattern either: {} ({reason})", pattern.display()))
    };
    let text = name.to_str().ok_or_else(|| invalid("a name with wildcards must be UTF-8"))?;
    Pattern::new(text).map(Part::Names).map_err(|e| invalid(&e.to_string()))
}

/// The folder to read for the paths that begin with `base`.
fn folder(base: &Path) -> &Path {
    if base.as_os_str().is_empty() { Path::new(".") } else { base }
}

/// `base` and the folders below it.
fn folders(base: &Path) -> Vec<PathBuf> {
    let root = folder(base);
    let walk = WalkDir::new(root).follow_links(true).into_iter();
    walk.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name()))
        // A folder that cannot be read fails again when its names are matched, and a symlink loop leads to nothing new.
        .filter_map(|entry| entry.ok().filter(|entry| entry.file_type().is_dir()))
        .map(|entry| match entry.path().strip_prefix(root) {
            Ok(below) if entry.depth() > 0 => base.join(below),
            _ => base.to_path_buf(),
        })
        .collect()
}

/// The entries of `base` that match; none if it is no folder.
fn matching(base: &Path, names: &Pattern) -> io::Result<Vec<PathBuf>> {
    let folder = folder(base);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        // The matcher's own rule lets `*` stand for nothing before a hidden name's dot.
        let visible = !is_hidden(&name) || names.as_str().starts_with('.');
        if visible && names.matches(&name.to_string_lossy()) {
            paths.push(base.join(name));
        }
    }
    Ok(paths)
}

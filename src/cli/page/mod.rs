//! Records as one HTML page that needs nothing else.

use std::path::{Path, PathBuf};

use alexnet::Result;
use alexnet::record::Record;

/// A file named .html: browsers go by the name, and no checkpoint is overwritten by mistake.
pub fn file(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|extension| extension == "html") {
        Ok(path)
    } else {
        Err("a page's name ends in .html".into())
    }
}

pub fn check(_file: &Path) -> Result<()> {
    todo!("pages")
}

pub fn write(_file: &Path, _records: &[Record]) -> Result<()> {
    todo!("pages")
}

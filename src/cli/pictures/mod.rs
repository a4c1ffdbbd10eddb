//! Records as pictures, SVG and PNG.

use std::path::Path;

use alexnet::Result;
use alexnet::record::Record;

pub fn check(_folder: &Path) -> Result<()> {
    todo!("pictures")
}

pub fn write(_folder: &Path, _records: &[Record]) -> Result<()> {
    todo!("pictures")
}

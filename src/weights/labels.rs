//! Class names: of a `--labels` file, of a checkpoint's metadata, and ImageNet's.

use std::path::Path;

use super::read_regular;
use crate::error::{Error, Result};

/// The largest label file read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// torchvision's names, BSD-3-Clause: see imagenet1k-names.LICENSE.txt beside the file.
const IMAGENET1K: &str = include_str!("imagenet1k-names.txt");

/// The 1000 ImageNet class names in torchvision's order.
pub fn imagenet1k_labels() -> Vec<String> {
    IMAGENET1K.lines().map(String::from).collect()
}

/// Reads class names: one a line in UTF-8, or a JSON list of strings where the file begins with `[`.
///
/// Lines may end in CRLF, and blank lines at the end do not count.
///
/// # Errors
///
/// [`Error::Usage`] if the file cannot be read, is neither form, names nothing, or has a blank line between names.
pub fn read_labels(path: &Path) -> Result<Vec<String>> {
    let bytes = read_regular(path, MAX_FILE)?;
    parse(&bytes).map_err(|problem| Error::Usage(format!("{}: {problem}", path.display())))
}

fn parse(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("labels must be UTF-8: {e}"))?;
    // Editors on Windows begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.starts_with('[') {
        return parse_json(text);
    }
    let mut labels: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    while labels.pop_if(|label| label.is_empty()).is_some() {}
    if let Some(blank) = labels.iter().position(String::is_empty) {
        return Err(format!("line {} is blank: each line names one class", blank + 1));
    }
    if labels.is_empty() {
        return Err("no labels: write one a line, or a JSON list".into());
    }
    Ok(labels)
}

/// The labels of a JSON list of strings.
pub(super) fn parse_json(json: &str) -> Result<Vec<String>, String> {
    let labels: Vec<String> = serde_json::from_str(json).map_err(|e| format!("not a JSON list of strings: {e}"))?;
    if labels.is_empty() {
        return Err("the list of labels is empty".into());
    }
    Ok(labels)
}

//! The zip archives `torch.save` writes: entries stored as they are, below 4 GiB, so that an entry is a range of the
//! file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::quoted;
use super::source::{Source, unreadable};

/// Bytes of central directory accepted: ten thousand entries.
const MAX_DIRECTORY: usize = 1 << 20;

/// One stored entry.
pub(super) struct Entry {
    /// Where its content is.
    range: Range<usize>,
    crc: u32,
}

impl Entry {
    /// Where in `source` the content is, if it has the CRC the archive gives. `torch.save` writes 0 where it was told to
    /// compute none.
    pub(super) fn checked(&self, source: &Source) -> Result<Range<usize>, String> {
        if self.crc != 0 && source.crc32(self.range.clone()).map_err(unreadable)? != self.crc {
            return Err("its bytes do not match their CRC: the file is damaged".into());
        }
        Ok(self.range.clone())
    }

    /// The content, checked.
    pub(super) fn content<'a>(&self, source: &'a Source) -> Result<Cow<'a, [u8]>, String> {
        source.bytes(self.checked(source)?).map_err(unreadable)
    }
}

/// The entries of an archive by name.
///
/// # Errors
///
/// Anything that lets two readers see two different archives: entries with the same name, entries that share bytes, a
/// path that leaves the archive; and whatever `torch.save` does not write: compression, encryption, a comment.
pub(super) fn entries(source: &Source) -> Result<HashMap<String, Entry>, String> {
    const CUT: &str = "the zip directory at the end of the file is missing or damaged: the file may be cut off";
    // The end record, 22 bytes without a comment: at 10 the number of entries, at 12 the size and at 16 the offset of
    // the directory. A zip64 record before it repeats them, and below 4 GiB adds nothing.
    let mut end = [0; 22];
    let end_start = source.len().checked_sub(end.len()).ok_or(CUT)?;
    source.read(end_start, &mut end).map_err(unreadable)?;
    if !end.starts_with(b"PK\x05\x06") {
        return Err(CUT.into());
    }
    let (count, size, start) = (u16_at(&end, 10), u32_at(&end, 12), u32_at(&end, 16));
    if size > MAX_DIRECTORY {
        return Err(format!("the zip directory is {size} bytes; at most {MAX_DIRECTORY} are read"));
    }
    if start + size > end_start {
        return Err(CUT.into());
    }
    let directory = source.bytes(start..start + size).map_err(unreadable)?;
    let mut directory = &*directory;

    let mut entries = HashMap::new();
    let mut ranges = Vec::new();
    for _ in 0..count {
        // A directory entry: 46 bytes, then name, extra fields and comment.
        let fixed = directory.first_chunk::<46>().filter(|fixed| fixed.starts_with(b"PK\x01\x02")).ok_or(CUT)?;
        let name_end = 46 + u16_at(fixed, 28);
        let entry_end = name_end + u16_at(fixed, 30) + u16_at(fixed, 32);
        let name = directory.get(46..name_end).ok_or(CUT)?;
        directory = directory.get(entry_end..).ok_or(CUT)?;

        let name = std::str::from_utf8(name).map_err(|_| "a zip entry's name is not UTF-8")?;
        let problem = |what: &str| Err(format!("zip entry {}: {what}", quoted(name)));
        if name.starts_with('/') || name.contains(['\\', '\0']) || name.split('/').any(|part| part == "..") {
            return problem("its path leaves the archive");
        }
        const ENCRYPTED: usize = 1;
        if u16_at(fixed, 8) & ENCRYPTED != 0 {
            return problem("encrypted");
        }
        let method = u16_at(fixed, 10);
        let (stored_size, size) = (u32_at(fixed, 20), u32_at(fixed, 24));
        if method != 0 {
            return problem("compressed; PyTorch stores entries as they are: load the file and save it again");
        }
        if stored_size != size {
            return problem("stored, yet with two different sizes");
        }

        // Its local header: 30 bytes, then name and extra fields, whose lengths differ from the directory's.
        let header_start = u32_at(fixed, 42);
        let mut local = [0; 30];
        if header_start + local.len() <= source.len() {
            source.read(header_start, &mut local).map_err(unreadable)?;
        }
        if !local.starts_with(b"PK\x03\x04") {
            return problem("no header where the directory says");
        }
        let data_start = header_start + local.len() + u16_at(&local, 26) + u16_at(&local, 28);
        let range = data_start..data_start + size;
        if range.end > start {
            return problem("reaches into the directory");
        }
        ranges.push((header_start, range.end, name));
        let entry = Entry { range, crc: u32_at(fixed, 16) as u32 };
        if entries.insert(name.to_owned(), entry).is_some() {
            return problem("there twice");
        }
    }
    ranges.sort_unstable();
    if let Some(pair) = ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        return Err(format!("zip entries {} and {} share bytes", quoted(pair[0].2), quoted(pair[1].2)));
    }
    Ok(entries)
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// A field of 32 bits, in 64: sums of a few cannot overflow.
fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

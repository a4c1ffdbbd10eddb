//! The zip archives `torch.save` writes: entries stored as they are, below 4 GiB, so that an entry is a slice of the
//! file.

use std::collections::HashMap;

use super::quoted;

/// Bytes of central directory accepted: ten thousand entries.
const MAX_DIRECTORY: usize = 1 << 20;

/// One stored entry.
pub(super) struct Entry<'a> {
    /// The content, its CRC not yet checked.
    data: &'a [u8],
    crc: u32,
}

impl<'a> Entry<'a> {
    /// The content, if it has the CRC the archive gives. `torch.save` writes 0 where it was told to compute none.
    pub(super) fn checked(&self) -> Result<&'a [u8], String> {
        if self.crc != 0 && crc32fast::hash(self.data) != self.crc {
            return Err("its bytes do not match their CRC: the file is damaged".into());
        }
        Ok(self.data)
    }
}

/// The entries of an archive by name.
///
/// # Errors
///
/// Anything that lets two readers see two different archives: entries with the same name, entries that share bytes, a
/// path that leaves the archive; and whatever `torch.save` does not write: compression, encryption, a comment.
pub(super) fn entries(bytes: &[u8]) -> Result<HashMap<&str, Entry<'_>>, String> {
    const CUT: &str = "the zip directory at the end of the file is missing or damaged: the file may be cut off";
    // The end record, 22 bytes without a comment: at 10 the number of entries, at 12 the size and at 16 the offset of
    // the directory. A zip64 record before it repeats them, and below 4 GiB adds nothing.
    let end = bytes.last_chunk::<22>().filter(|end| end.starts_with(b"PK\x05\x06")).ok_or(CUT)?;
    let (count, size, start) = (u16_at(end, 10), u32_at(end, 12), u32_at(end, 16));
    if size > MAX_DIRECTORY {
        return Err(format!("the zip directory is {size} bytes; at most {MAX_DIRECTORY} are read"));
    }
    let mut directory = bytes[..bytes.len() - end.len()].get(start..start + size).ok_or(CUT)?;

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
        let local = bytes.get(header_start..).and_then(|rest| rest.first_chunk::<30>());
        let Some(local) = local.filter(|local| local.starts_with(b"PK\x03\x04")) else {
            return problem("no header where the directory says");
        };
        let data_start = header_start + 30 + u16_at(local, 26) + u16_at(local, 28);
        let range = data_start..data_start + size;
        if range.end > start {
            return problem("reaches into the directory");
        }
        ranges.push((header_start, range.end, name));
        let entry = Entry { data: &bytes[range], crc: u32_at(fixed, 16) as u32 };
        if entries.insert(name, entry).is_some() {
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

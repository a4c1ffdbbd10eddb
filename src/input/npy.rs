//! Packs: decoded pictures as one NumPy file, uint8, C order, shape (N, height, width, 3).

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use npyz::{NpyHeader, Order};

use crate::file::{self, PartialFile};
use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Bytes before the data in the packs written here: room for any shape, and a multiple of 64 as NumPy asks.
const WRITTEN_HEADER: usize = 128;
/// A pack's header has about 70 characters; the rest is room for padding and for naming foreign dtypes.
const MAX_HEADER_TEXT: usize = 4096;
/// A list of structured fields with shapes nests this deep.
const MAX_NESTING: usize = 4;
/// The product of numbers with 19 digits in all is below 2^64.
const MAX_DIGITS: usize = 19;
const LIST_HEADING: [&str; 3] = ["row", "filename", "error"];

/// A pack open for reading, its header checked against the file's length.
///
/// Rows are read with `pread`, so that threads share a pack, and never mapped: a mapped file that shrinks kills the
/// process.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    file: File,
    data_start: u64,
    rows: u64,
    height: usize,
    width: usize,
}

impl Pack {
    /// Opens a pack.
    ///
    /// # Errors
    /// [`Error::Usage`] that names what was found, if the file cannot be read or is anything but a `.npy` file of
    /// dtype `|u1`, C order, shape (N, height, width, 3), and of exactly the length its header implies.
    pub fn open(path: &Path) -> Result<Pack> {
        let name = path.display();
        let unreadable = |e: io::Error| Error::Usage(format!("cannot read {name}: {e}"));
        let opened = file::open_regular(path, u64::MAX);
        let (file, length) = opened.map_err(|reason| Error::Usage(format!("{name}: {reason}")))?;
        let header_bytes = read_header(&file, length)
            .map_err(unreadable)?
            .map_err(|problem| Error::Usage(format!("{name} is not a picture pack: {problem}")))?;
        let foreign = |found: String| {
            Error::Usage(format!(
                "{name} is not a picture pack: found {found}; a pack has dtype '|u1', C order, shape (N, height, width, 3)"
            ))
        };
        let header = NpyHeader::from_reader(&header_bytes[..])
            .map_err(|e| foreign(format!("a header NumPy cannot read ({e})")))?;
        let order = if header.order() == Order::C { "C" } else { "Fortran" };
        let found = format!("dtype {}, {order} order, shape {:?}", header.dtype().descr(), header.shape());
        let &[rows, height, width, 3] = header.shape() else { return Err(foreign(found)) };
        if header.dtype().descr() != "'|u1'" || order != "C" || height == 0 || width == 0 {
            return Err(foreign(found));
        }
        let data_start = header_bytes.len() as u64;
        let expected = header.len().checked_add(data_start);
        if expected != Some(length) {
            return Err(Error::Usage(format!(
                "{name} is damaged: its header ({found}) asks for {} bytes in all, the file has {length}; write it again",
                u128::from(header.len()) + u128::from(data_start)
            )));
        }
        let side = |n: u64| usize::try_from(n).map_err(|_| foreign(found.clone()));
        Ok(Pack { path: path.into(), file, data_start, rows, height: side(height)?, width: side(width)? })
    }

    /// The file this pack was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of pictures.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Height of a picture in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width of a picture in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Reads the picture in row `row` into `out`, (height, width, 3).
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read or has shrunk since it was opened.
    ///
    /// # Panics
    /// If the row is not in the pack or `out` has another length.
    pub fn read_row(&self, row: u64, out: &mut [u8]) -> Result<()> {
        assert!(row < self.rows, "row {row} of a pack of {}", self.rows);
        self.read_rows(row..row + 1, out)
    }

    /// Reads the pictures in `rows` into `out`, (n, height, width, 3), in one read.
    ///
    /// # Errors
    /// As [`read_row`](Self::read_row), if any of the rows cannot be read; what is in `out` then is unspecified.
    ///
    /// # Panics
    /// If not all rows are in the pack or `out` has another length.
    pub fn read_rows(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let length = (self.height * self.width * 3) as u64;
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of a pack of {}", self.rows);
        assert_eq!(out.len() as u64, (rows.end - rows.start) * length, "the bytes of rows {rows:?}");
        self.file
            .read_exact_at(out, self.data_start + rows.start * length)
            .map_err(|e| Error::Input(format!("cannot read the pack: {e}")))
    }
}

/// Everything before the data, or what is wrong with it.
///
/// What passes is harmless to the parser: it allocates what the header's length field says, recurses once a bracket
/// (in time exponential in the depth), and multiplies the shape unchecked.
fn read_header(file: &File, file_length: u64) -> io::Result<Result<Vec<u8>, String>> {
    let mut start = [0; 12];
    let available = file_length.min(12) as usize;
    file.read_exact_at(&mut start[..available], 0)?;
    if available < 10 || !start.starts_with(MAGIC) {
        return Ok(Err("it does not start as a .npy file does".into()));
    }
    let (prefix, text_length) = match start[6] {
        1 => (10, usize::from(u16::from_le_bytes([start[8], start[9]]))),
        _ => (12, u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize),
    };
    if text_length > MAX_HEADER_TEXT {
        return Ok(Err(format!("its header is {text_length} bytes long, {MAX_HEADER_TEXT} are allowed")));
    }
    let mut header = vec![0; prefix + text_length];
    if header.len() as u64 > file_length {
        return Ok(Err("it ends within its header".into()));
    }
    file.read_exact_at(&mut header, 0)?;
    let text = &header[prefix..];
    if !is_harmless(text) {
        let text = String::from_utf8_lossy(&text[..text.len().min(200)]);
        return Ok(Err(format!("its header is {:?}", text.trim_end())));
    }
    Ok(Ok(header))
}

fn is_harmless(text: &[u8]) -> bool {
    let (mut depth, mut deepest, mut digits) = (0_usize, 0, 0);
    for byte in text {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'0'..=b'9' => digits += 1,
            // A hexadecimal number has digits that are not counted.
            b'x' | b'X' => return false,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest <= MAX_NESTING && digits <= MAX_DIGITS
}

/// Fails unless pictures of `height` x `width` pixels are what a network of `input_size` takes, both in pixels.
pub(super) fn check_size(path: &Path, height: usize, width: usize, input_size: usize) -> Result<()> {
    if (height, width) == (input_size, input_size) {
        return Ok(());
    }
    let name = path.display();
    let mut message = format!(
        "{name} holds pictures of {height}x{width} pixels, expected are {input_size}x{input_size}: \
         write the pack again with `alexnet pack --size {input_size}`"
    );
    if height == width {
        message += &format!(", or, for a network that takes other sizes, say --input-size {height}");
    }
    Err(Error::Usage(message))
}

/// Writes a pack row by row, and beside it a list of what became of every input: `row,filename,error`, where an input
/// that failed has no row.
///
/// Both files appear under their names in [`PackWriter::finish`]; dropped unfinished it leaves nothing behind.
#[derive(Debug)]
pub struct PackWriter {
    pixels: PartialFile,
    list: csv::Writer<PartialFile>,
    size: usize,
    rows: u64,
}

impl PackWriter {
    /// Starts the pack `path` of pictures of `size` x `size` pixels, with its list at `path` with the extension `csv`.
    /// Earlier files there stay until [`PackWriter::finish`].
    ///
    /// # Errors
    /// [`Error::Output`] if a file cannot be created, if one is a folder, a device or a FIFO, or if a file that is no
    /// pack's list stands in the list's place.
    pub fn create(path: &Path, size: usize) -> Result<PackWriter> {
        let mut pixels = PartialFile::create(path)?;
        // Holds the header's place; `finish` writes the real number of rows.
        pixels.write_all(&written_header(0, size)).map_err(Error::output(path))?;
        let list_path = path.with_extension("csv");
        check_list(path, &list_path).map_err(Error::output(&list_path))?;
        let list = csv::Writer::from_writer(PartialFile::create(&list_path)?);
        let mut writer = PackWriter { pixels, list, size, rows: 0 };
        writer.list(LIST_HEADING)?;
        Ok(writer)
    }

    /// Appends one picture, (size, size, 3).
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be written.
    ///
    /// # Panics
    /// If `pixels` has another length.
    pub fn push(&mut self, filename: &str, pixels: &[u8]) -> Result<()> {
        assert_eq!(pixels.len(), self.size * self.size * 3, "one row of the pack");
        self.pixels.write_all(pixels).map_err(Error::output(self.pixels.path()))?;
        self.list([&self.rows.to_string(), filename, ""])?;
        self.rows += 1;
        Ok(())
    }

    /// Notes an input that has no row.
    ///
    /// # Errors
    /// [`Error::Output`] if that cannot be written.
    pub fn push_error(&mut self, filename: &str, error: &Error) -> Result<()> {
        self.list(["", filename, &error.to_string()])
    }

    /// Completes both files, safely on disk, and returns the number of rows (0 is a valid pack).
    ///
    /// # Errors
    /// [`Error::Output`] if one cannot be written. The message says so if the pack is in place and its list is not.
    pub fn finish(mut self) -> Result<u64> {
        let header = written_header(self.rows, self.size);
        let file = self.pixels.flushed()?;
        let written = file.write_all_at(&header, 0);
        written.map_err(Error::output(self.pixels.path()))?;
        let list_path = self.list.get_ref().path().to_path_buf();
        let mut list = self.list.into_inner().map_err(|e| Error::output(&list_path)(e.into_error()))?;
        // A full disk shows here, before either file is in place.
        list.flushed()?;
        let pack_path = self.pixels.path().to_path_buf();
        self.pixels.finish()?;
        list.finish().map_err(|e| match e {
            Error::Output { path, source } => {
                let problem = format!("{source}; the new pack {} is in place, without this list", pack_path.display());
                Error::Output { path, source: io::Error::new(source.kind(), problem) }
            }
            other => other,
        })?;
        Ok(self.rows)
    }

    fn list(&mut self, record: [&str; 3]) -> Result<()> {
        let written = self.list.write_record(record);
        written.map_err(|e| Error::output(self.list.get_ref().path())(e.into()))
    }
}

/// Fails if `list` is a file that no pack's list is, or the pack itself.
fn check_list(pack: &Path, list: &Path) -> io::Result<()> {
    if pack == list {
        return Err(io::Error::other("a pack cannot end in .csv, its list has that name; end it in .npy"));
    }
    // What is there and no file, is refused where the list is created.
    if !list.is_file() {
        return Ok(());
    }
    let heading = LIST_HEADING.join(",").into_bytes();
    let mut start = Vec::new();
    File::open(list)?.take(heading.len() as u64).read_to_end(&mut start)?;
    if start == heading {
        return Ok(());
    }
    Err(io::Error::other("it exists and is not the list of a pack; move it away, or give the pack another name"))
}

/// The header NumPy writes for such an array, of the same length whatever `rows` is.
fn written_header(rows: u64, size: usize) -> [u8; WRITTEN_HEADER] {
    let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {size}, {size}, 3), }}");
    let mut header = [b' '; WRITTEN_HEADER];
    header[..6].copy_from_slice(MAGIC);
    header[6..8].copy_from_slice(&[1, 0]);
    header[8..10].copy_from_slice(&(WRITTEN_HEADER as u16 - 10).to_le_bytes());
    header[10..10 + text.len()].copy_from_slice(text.as_bytes());
    header[WRITTEN_HEADER - 1] = b'\n';
    header
}

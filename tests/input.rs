//! From arguments to batches of pixels.

mod buffers;
mod feed;
mod npy;
mod sources;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use alexnet::Pixels;
use alexnet::input::{Batch, Fed, Feed, PackWriter, Sources};

/// A folder under the system's temporary one, removed when dropped.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Writes `bytes` to `folder/relative`, with the folders on the way.
fn write(folder: &Path, relative: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(relative);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// A PNG of 16x16 pixels of one colour: its index, which decoding and resizing keep.
fn numbered_png(index: usize) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(16, 16, image::Rgb(colour(index)));
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The colour that stands for `index`.
fn colour(index: usize) -> [u8; 3] {
    [index as u8, (index >> 8) as u8, 77]
}

/// A pack of `rows` numbered pictures of `size` x `size` pixels, from `first` on.
fn numbered_pack(path: &Path, size: usize, first: usize, rows: usize) {
    let mut writer = PackWriter::create(path, size).unwrap();
    for index in first..first + rows {
        writer.push(&format!("{index}.png"), &colour(index).repeat(size * size)).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), rows as u64);
}

fn no_list() -> Cursor<Vec<u8>> {
    Cursor::new(Vec::new())
}

/// The sources of `arguments`; standard input is empty.
fn expand<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> alexnet::Result<Sources> {
    Sources::expand_with(arguments, no_list())
}

/// `count` buffers of `bytes` bytes.
fn buffers(count: usize, bytes: usize) -> Vec<Pixels> {
    (0..count).map(|_| Pixels::zeroed(bytes).expect("memory for a test")).collect()
}

/// The next batch, for which it waits a minute at most; `None` at the end.
fn next_batch(feed: &mut Feed) -> Option<Batch> {
    for _ in 0..600 {
        match feed.next_batch() {
            Fed::Batch(batch) => return Some(batch),
            Fed::Pause => {}
            Fed::End => return None,
        }
    }
    panic!("nothing comes, and no end");
}

/// The message of the usage error that `result` must be.
fn usage<T>(result: alexnet::Result<T>) -> String {
    match result {
        Err(alexnet::Error::Usage(message)) => message,
        Err(e) => panic!("not a usage error: {e:?}"),
        Ok(_) => panic!("no error"),
    }
}

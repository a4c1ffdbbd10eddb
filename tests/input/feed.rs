use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use alexnet::image::DecodeOptions;
use alexnet::input::{Batch, Fed, Feed, FeedOptions, Row, Sources};
use alexnet::{Error, Pixels};

use super::{buffers, colour, expand, folder, next_batch, numbered_pack, numbered_png, usage, write};

pub(super) const SIZE: usize = 8;
/// Bytes of an image.
pub(super) const IMAGE: usize = SIZE * SIZE * 3;

pub(super) fn options(threads: usize) -> FeedOptions {
    FeedOptions { decode: DecodeOptions::default(), input_size: SIZE, threads, stop: || false }
}

/// A feed with `count` buffers of `batch_size` images.
pub(super) fn feed(sources: Sources, threads: usize, count: usize, batch_size: usize) -> Feed {
    Feed::new(sources, options(threads), buffers(count, batch_size * IMAGE)).unwrap()
}

/// Pictures 0..count, every seventh corrupt.
pub(super) fn pictures(dir: &Path, count: usize) {
    for index in 0..count {
        let bytes = if index % 7 == 3 { b"corrupt".to_vec() } else { numbered_png(index) };
        write(dir, &format!("{index:04}.png"), &bytes);
    }
}

/// The addresses of `pixels`.
pub(super) fn addresses(pixels: &Pixels) -> Range<usize> {
    let range = pixels.as_ptr_range();
    range.start.addr()..range.end.addr()
}

/// What each image of `pixels` shows; all its pixels must show it.
pub(super) fn shown(pixels: &[u8]) -> Vec<usize> {
    let index = |image: &[u8]| {
        let index = usize::from(image[0]) + (usize::from(image[1]) << 8);
        assert_eq!(image, colour(index).repeat(SIZE * SIZE));
        index
    };
    pixels.chunks(IMAGE).map(index).collect()
}

/// The next batch, which must come.
pub(super) fn batch(feed: &mut Feed) -> Batch {
    next_batch(feed).expect("a batch")
}

/// Runs a feed over `buffers` and checks every batch: the rows are `expected` (name below `dir`, the index its pixels
/// show or `None` if it must fail), in order; batches are full, and each fills one of the buffers.
pub(super) fn check_in(
    sources: Sources,
    threads: usize,
    buffers: Vec<Pixels>,
    dir: &Path,
    expected: &[(String, Option<usize>)],
) {
    let (count, bytes) = (buffers.len(), buffers[0].len());
    let context = format!("{threads} threads, {count} buffers of {} images", bytes / IMAGE);
    let given: Vec<_> = buffers.iter().map(addresses).collect();
    let mut feed = Feed::new(sources, options(threads), buffers).unwrap();
    assert_eq!(feed.total(), Some(expected.len() as u64), "{context}");
    let mut left: VecDeque<_> = expected.iter().collect();
    let mut batches = 0;
    while let Some(batch) = next_batch(&mut feed) {
        assert_eq!(batch.pixels.len(), batch.rows.len() * IMAGE, "{context}");
        for (row, pixels) in batch.rows.iter().zip(batch.pixels.chunks(IMAGE)) {
            let (name, index) = left.pop_front().unwrap_or_else(|| panic!("{context}: too many rows"));
            assert_eq!(row.filename, dir.join(name).display().to_string(), "{context}");
            match index {
                Some(index) => {
                    assert!(row.error.is_none(), "{context}: {name}: {:?}", row.error);
                    assert_eq!(pixels, colour(*index).repeat(SIZE * SIZE), "{context}: {name}");
                }
                None => assert!(matches!(row.error, Some(Error::Input(_))), "{context}: {name}: {:?}", row.error),
            }
        }
        assert!(batch.pixels.len() == bytes || left.is_empty() && !batch.rows.is_empty(), "{context}: a short batch");
        // They go round in the order in which they came back.
        let buffer = &given[batches % count];
        assert_eq!(addresses(&batch.pixels), buffer.start..buffer.start + batch.pixels.len(), "{context}");
        batches += 1;
        feed.give_back(batch.pixels);
    }
    assert!(left.is_empty(), "{context}: {} rows missing", left.len());
    assert!(matches!(feed.next_batch(), Fed::End), "{context}: rows after the end");
}

/// [`check_in`] buffers that are each a memory of its own.
fn check(
    arguments: &[impl AsRef<std::ffi::OsStr>],
    threads: usize,
    count: usize,
    batch_size: usize,
    dir: &Path,
    expected: &[(String, Option<usize>)],
) {
    check_in(expand(arguments).unwrap(), threads, buffers(count, batch_size * IMAGE), dir, expected);
}

fn picture_row(index: usize) -> (String, Option<usize>) {
    (format!("{index:04}.png"), (index % 7 != 3).then_some(index))
}

#[test]
fn order_is_kept_whatever_the_threads_and_batches() {
    let dir = folder();
    pictures(dir.path(), 300);
    let expected: Vec<_> = (0..300).map(picture_row).collect();
    for threads in [1, 2, 8] {
        for batch_size in [1, 7, 64, 300, 1000] {
            for count in [1, 2, 3] {
                check(&[dir.path()], threads, count, batch_size, dir.path(), &expected);
            }
        }
    }
}

#[test]
fn packs_and_files_mix() {
    let dir = folder();
    pictures(dir.path(), 9);
    numbered_pack(&dir.path().join("p.npy"), SIZE, 1000, 333);
    numbered_pack(&dir.path().join("none.npy"), SIZE, 0, 0);
    let arguments = ["0001.png", "p.npy", "none.npy", "0003.png", "p.npy"].map(|name| dir.path().join(name));
    let pack = || (0..333).map(|row| (format!("p.npy#{row}"), Some(1000 + row)));
    let mut expected = vec![picture_row(1)];
    expected.extend(pack());
    expected.push(picture_row(3));
    expected.extend(pack());
    for (threads, count, batch_size) in [(1, 1, 1), (1, 8, 64), (2, 3, 100), (8, 5, 7), (3, 1, 1000), (2, 2, 333)] {
        check(&arguments, threads, count, batch_size, dir.path(), &expected);
    }
}

#[test]
fn nothing_but_errors_comes_in_batches() {
    let dir = folder();
    for index in 0..50 {
        write(dir.path(), &format!("{index:04}.png"), b"corrupt");
    }
    let expected: Vec<_> = (0..50).map(|index| (format!("{index:04}.png"), None)).collect();
    check(&[dir.path()], 2, 2, 4, dir.path(), &expected);
}

#[test]
fn no_rows_at_all() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), SIZE, 0, 0);
    check(&[dir.path().join("p.npy")], 4, 2, 4, dir.path(), &[]);
}

#[test]
fn a_pack_of_another_size_is_refused_at_once() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), 227, 0, 1);
    let message = usage(Feed::new(expand(&[dir.path().join("p.npy")]).unwrap(), options(1), buffers(1, IMAGE)));
    for part in ["p.npy", "227x227", "8x8", "`alexnet pack --size 8`", "--input-size 227"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_pack_that_shrinks_during_the_run_loses_its_last_rows() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    for threads in [1, 2] {
        numbered_pack(&path, SIZE, 0, 100);
        let mut feed = feed(expand(&[&path]).unwrap(), threads, 1, 9);
        let mut batch = batch(&mut feed);
        // Within row 60, in the middle of a batch and of what one thread reads at once.
        let length = 128 + 60 * IMAGE as u64 + 7;
        fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        let mut row = 0;
        loop {
            for (Row { filename, error }, pixels) in batch.rows.iter().zip(batch.pixels.chunks(IMAGE)) {
                assert_eq!(*filename, format!("{}#{row}", path.display()), "{threads} threads");
                assert_eq!(error.is_some(), row >= 60, "{threads} threads: row {row}: {error:?}");
                if row < 60 {
                    assert_eq!(shown(pixels), [row], "{threads} threads");
                }
                row += 1;
            }
            feed.give_back(batch.pixels);
            let Some(next) = next_batch(&mut feed) else { break };
            batch = next;
        }
        assert_eq!(row, 100, "{threads} threads");
    }
}

#[test]
fn a_pack_that_vanishes_before_its_turn_is_one_failed_row() {
    let dir = folder();
    pictures(dir.path(), 2);
    let path = dir.path().join("p.npy");
    numbered_pack(&path, SIZE, 0, 5);
    let sources = expand(&[dir.path().join("0000.png"), path.clone(), dir.path().join("0001.png")]).unwrap();
    fs::remove_file(&path).unwrap();
    let batch = batch(&mut feed(sources, 2, 2, 10));
    let failed: Vec<_> = batch.rows.iter().map(|row| row.error.is_some()).collect();
    assert_eq!(failed, [false, true, false]);
}

/// An endless list of one path; `lines` counts what was taken, `alive` tells whether the list still exists.
struct Endless {
    line: Vec<u8>,
    lines: Arc<AtomicUsize>,
    _alive: Arc<()>,
}

impl Read for Endless {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("lines are read through BufRead")
    }
}

impl BufRead for Endless {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.line)
    }

    fn consume(&mut self, amount: usize) {
        assert_eq!(amount, self.line.len());
        self.lines.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits, a minute at most, until `condition` holds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never happened: {what}");
}

#[test]
fn the_buffers_bound_what_is_read_and_dropping_ends_the_threads() {
    const BATCH: usize = 7;
    let dir = folder();
    let path = write(dir.path(), "a.png", &numbered_png(5));
    for (threads, count, batches) in [(1, 3, 5), (2, 1, 5), (8, 3, 5), (8, 2, 0)] {
        let (lines, alive) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
        let line = format!("{}\n", path.display()).into_bytes();
        let list = Endless { line, lines: lines.clone(), _alive: alive.clone() };
        let mut feed = feed(Sources::expand_with(&["-"], list).unwrap(), threads, count, BATCH);
        assert_eq!(feed.total(), None);
        let mut given_back = 0;
        // Only whole buffers are filled again.
        let bound = |given_back: usize| given_back / BATCH * BATCH + count * BATCH;
        for _ in 0..batches {
            let batch = batch(&mut feed);
            assert!(lines.load(Ordering::SeqCst) <= bound(given_back), "{threads} threads");
            given_back += batch.rows.len();
            feed.give_back(batch.pixels);
        }
        wait_until("the buffers fill", || lines.load(Ordering::SeqCst) == bound(given_back));
        thread::sleep(Duration::from_millis(20));
        assert_eq!(lines.load(Ordering::SeqCst), bound(given_back), "{threads} threads");
        let held = batch(&mut feed);
        drop(feed);
        // The threads share the list: the last one takes it along.
        wait_until("the threads end", || Arc::strong_count(&alive) == 1);
        assert!(shown(&held.pixels).iter().all(|index| *index == 5), "what is held outlives the feed");
    }
}

#[test]
fn dropping_amid_packs_ends_the_threads() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), SIZE, 0, 2000);
    for (threads, count, batch_size) in [(1, 1, 1), (4, 2, 3), (4, 3, 100)] {
        let alive = Arc::new(());
        let list = Endless { line: b"\n".to_vec(), lines: Arc::default(), _alive: alive.clone() };
        let arguments = [dir.path().join("p.npy"), "-".into()];
        let mut feed = feed(Sources::expand_with(&arguments, list).unwrap(), threads, count, batch_size);
        let _held = batch(&mut feed);
        drop(feed);
        // Before they come to the list, which never has a path.
        assert!(count * batch_size < 2000);
        wait_until("the threads end", || Arc::strong_count(&alive) == 1);
    }
}

/// The rows of a list that pauses come out, and what comes later goes on where they ended: in the same buffer, until it
/// is full.
#[test]
fn a_slow_list_s_rows_come_out_while_it_pauses() {
    const BATCH: usize = 6;
    let dir = folder();
    for index in 0..20 {
        write(dir.path(), &format!("{index}.png"), &numbered_png(index));
    }
    for (threads, count) in [(1, 1), (4, 2)] {
        let context = format!("{threads} threads, {count} buffers");
        let (reader, mut writer) = io::pipe().unwrap();
        let sources = Sources::expand_with(&["-"], BufReader::new(reader)).unwrap();
        let buffers = buffers(count, BATCH * IMAGE);
        let given: Vec<_> = buffers.iter().map(addresses).collect();
        let mut feed = Feed::new(sources, options(threads), buffers).unwrap();
        let mut rows = 0;
        let mut parts = Vec::new();
        for lines in [1, 3, 5, 11] {
            let asked = rows + lines;
            for index in rows..asked {
                writeln!(writer, "{}", dir.path().join(format!("{index}.png")).display()).unwrap();
            }
            // The list stays open: a batch that waits to be full would wait for ever.
            while rows < asked {
                let Batch { rows: names, pixels } = batch(&mut feed);
                let indices: Vec<_> = (rows..rows + names.len()).collect();
                assert_eq!(shown(&pixels), indices, "{context}");
                let place = given[rows / BATCH % count].start + rows % BATCH * IMAGE;
                assert_eq!(addresses(&pixels), place..place + names.len() * IMAGE, "{context}: row {rows}");
                rows += names.len();
                parts.push(pixels);
                if rows.is_multiple_of(BATCH) {
                    // The later part first.
                    parts.drain(..).rev().for_each(|part| feed.give_back(part));
                }
            }
            assert_eq!(rows, asked, "{context}");
            assert!(matches!(feed.next_batch(), Fed::Pause), "{context}");
        }
        drop(writer);
        assert!(next_batch(&mut feed).is_none(), "{context}");
    }
}

#[test]
fn a_wait_for_a_list_can_be_stopped() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let stop = || ASKED.fetch_add(1, Ordering::SeqCst) >= 3;
    let (reader, _writer) = io::pipe().unwrap();
    let sources = Sources::expand_with(&["-"], BufReader::new(reader)).unwrap();
    let mut feed = Feed::new(sources, FeedOptions { stop, ..options(2) }, buffers(2, 4 * IMAGE)).unwrap();
    for _ in 0..3 {
        assert!(matches!(feed.next_batch(), Fed::Pause));
    }
    assert!(matches!(feed.next_batch(), Fed::End));
    assert_eq!(ASKED.load(Ordering::SeqCst), 4);
}

#[test]
fn rows_end_once_it_is_time_to_stop() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let dir = folder();
    pictures(dir.path(), 9);
    let stop = || STOP.load(Ordering::SeqCst);
    let options = FeedOptions { stop, ..options(2) };
    let mut feed = Feed::new(expand(&[dir.path()]).unwrap(), options, buffers(3, 2 * IMAGE)).unwrap();
    batch(&mut feed);
    STOP.store(true, Ordering::SeqCst);
    assert!(matches!(feed.next_batch(), Fed::End));
}

/// A list whose reader panics after its first line.
struct Panics(bool);

impl Read for Panics {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("lines are read through BufRead")
    }
}

impl BufRead for Panics {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        assert!(!self.0, "the reader's panic");
        Ok(b"gone.png\n")
    }

    fn consume(&mut self, _: usize) {
        self.0 = true;
    }
}

#[test]
fn a_dead_worker_neither_hangs_the_consumer_nor_ends_the_input() {
    for (threads, count) in [(1, 1), (2, 1), (8, 3), (8, 100)] {
        let sources = Sources::expand_with(&["-"], Panics(false)).unwrap();
        let mut feed = feed(sources, threads, count, 1);
        let Batch { rows, pixels } = batch(&mut feed);
        assert_eq!(rows[0].filename, "gone.png");
        feed.give_back(pixels);
        let panic = catch_unwind(AssertUnwindSafe(|| next_batch(&mut feed))).expect_err("the panic is passed on");
        assert_eq!(panic.downcast_ref(), Some(&"the reader's panic"));
    }
}

/// Pictures that are named meanwhile wait until the consumer is done. Workers that wait for a list hold it up neither before nor
/// after, and what is ready is never a part of a buffer.
#[test]
fn nothing_is_decoded_while_the_consumer_is_alone() {
    let dir = folder();
    pictures(dir.path(), 20);
    for threads in [1, 2, 5] {
        let (reader, mut writer) = io::pipe().unwrap();
        let sources = Sources::expand_with(&["-"], BufReader::new(reader)).unwrap();
        let mut feed = feed(sources, threads, 20, 2);
        let mut name =
            |index: usize| writeln!(writer, "{}", dir.path().join(format!("{index:04}.png")).display()).unwrap();
        feed.alone(|feed| {
            (0..19).for_each(&mut name);
            thread::sleep(Duration::from_millis(30));
            assert!(feed.ready_batch().is_none(), "{threads} threads");
        });
        let mut rows = batch(&mut feed).rows.len();
        wait_until("all whole buffers are ready", || {
            rows += std::iter::from_fn(|| feed.ready_batch()).map(|batch| batch.rows.len()).sum::<usize>();
            rows >= 18
        });
        thread::sleep(Duration::from_millis(5));
        assert!(rows == 18 && feed.ready_batch().is_none(), "{threads} threads: {rows} rows, half a buffer");
        feed.alone(|_| name(19));
        wait_until("the last buffer is whole", || feed.ready_batch().is_some_and(|batch| batch.rows.len() == 2));
    }
}

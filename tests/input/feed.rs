use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use alexnet::Error;
use alexnet::image::DecodeOptions;
use alexnet::input::{Batch, Feed, FeedOptions, Sources};

use super::{colour, expand, folder, numbered_pack, numbered_png, usage, write};

const SIZE: usize = 8;

fn options(threads: usize, window: usize) -> FeedOptions {
    FeedOptions { decode: DecodeOptions::default(), input_size: SIZE, threads, window, stop: || false }
}

/// Pictures 0..count, every seventh corrupt.
fn pictures(dir: &Path, count: usize) {
    for index in 0..count {
        let bytes = if index % 7 == 3 { b"corrupt".to_vec() } else { numbered_png(index) };
        write(dir, &format!("{index:04}.png"), &bytes);
    }
}

/// Runs the feed and checks every batch: the rows are `expected` (name below `dir`, the index its pixels show or
/// `None` if it must fail), in order, and batches are as full as they can be.
fn check(sources: Sources, options: FeedOptions, batch_size: usize, dir: &Path, expected: &[(String, Option<usize>)]) {
    let context = format!("{options:?}, batches of {batch_size}");
    let mut feed = Feed::new(sources, options).unwrap();
    assert_eq!(feed.total(), Some(expected.len() as u64), "{context}");
    let mut left: VecDeque<_> = expected.iter().collect();
    let mut batch = Batch::default();
    while feed.next_batch(batch_size, &mut batch) {
        let mut pixels = batch.pixels.chunks_exact(SIZE * SIZE * 3);
        for row in &batch.rows {
            let (name, index) = left.pop_front().unwrap_or_else(|| panic!("{context}: too many rows"));
            assert_eq!(row.filename, dir.join(name).display().to_string(), "{context}");
            match index {
                Some(index) => {
                    assert!(row.error.is_none(), "{context}: {name}: {:?}", row.error);
                    assert_eq!(pixels.next().unwrap(), colour(*index).repeat(SIZE * SIZE), "{context}: {name}");
                }
                None => assert!(matches!(row.error, Some(Error::Input(_))), "{context}: {name}: {:?}", row.error),
            }
        }
        assert_eq!(pixels.len(), 0, "{context}: pixels without a row");
        let good = batch.rows.iter().filter(|row| row.error.is_none()).count();
        let failed = batch.rows.len() - good;
        assert!(good <= batch_size && failed <= batch_size, "{context}: {good} good, {failed} failed");
        assert!(good == batch_size || failed == batch_size || left.is_empty(), "{context}: a short batch");
    }
    assert!(left.is_empty(), "{context}: {} rows missing", left.len());
    assert!(!feed.next_batch(batch_size, &mut batch) && batch.rows.is_empty(), "{context}: rows after the end");
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
        for batch_size in [1, 7, 64, 1000] {
            for window in [1, 3, 200] {
                check(expand(&[dir.path()]).unwrap(), options(threads, window), batch_size, dir.path(), &expected);
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
    for (threads, window, batch_size) in [(1, 1, 1), (1, 500, 64), (2, 256, 100), (8, 33, 7), (3, 1000, 1000)] {
        check(expand(&arguments).unwrap(), options(threads, window), batch_size, dir.path(), &expected);
    }
}

#[test]
fn nothing_but_errors_comes_in_bounded_batches() {
    let dir = folder();
    for index in 0..50 {
        write(dir.path(), &format!("{index:04}.png"), b"corrupt");
    }
    let expected: Vec<_> = (0..50).map(|index| (format!("{index:04}.png"), None)).collect();
    check(expand(&[dir.path()]).unwrap(), options(2, 8), 4, dir.path(), &expected);
}

#[test]
fn no_rows_at_all() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), SIZE, 0, 0);
    check(expand(&[dir.path().join("p.npy")]).unwrap(), options(4, 2), 4, dir.path(), &[]);
}

#[test]
fn a_pack_of_another_size_is_refused_at_once() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), 227, 0, 1);
    let message = usage(Feed::new(expand(&[dir.path().join("p.npy")]).unwrap(), options(1, 1)));
    for part in ["p.npy", "227x227", "8x8", "`alexnet pack --size 8`", "--input-size 227"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_pack_that_shrinks_during_the_run_loses_its_last_rows() {
    let dir = folder();
    let path = dir.path().join("p.npy");
    numbered_pack(&path, SIZE, 0, 100);
    let mut feed = Feed::new(expand(&[&path]).unwrap(), options(1, 4)).unwrap();
    let mut batch = Batch::default();
    assert!(feed.next_batch(1, &mut batch));
    let row = (SIZE * SIZE * 3) as u64;
    fs::File::options().write(true).open(&path).unwrap().set_len(128 + 60 * row).unwrap();
    let mut failed = vec![batch.rows[0].error.is_some()];
    while feed.next_batch(9, &mut batch) {
        failed.extend(batch.rows.iter().map(|row| row.error.is_some()));
    }
    let expected: Vec<_> = (0..100).map(|row| row >= 60).collect();
    assert_eq!(failed, expected);
}

#[test]
fn a_pack_that_vanishes_before_its_turn_is_one_failed_row() {
    let dir = folder();
    pictures(dir.path(), 2);
    let path = dir.path().join("p.npy");
    numbered_pack(&path, SIZE, 0, 5);
    let sources = expand(&[dir.path().join("0000.png"), path.clone(), dir.path().join("0001.png")]).unwrap();
    fs::remove_file(&path).unwrap();
    let mut feed = Feed::new(sources, options(2, 8)).unwrap();
    let mut batch = Batch::default();
    assert!(feed.next_batch(10, &mut batch));
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
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never happened: {what}");
}

#[test]
fn the_window_bounds_what_is_read_and_dropping_ends_the_threads() {
    const WINDOW: usize = 20;
    let dir = folder();
    let path = write(dir.path(), "a.png", &numbered_png(5));
    for (threads, batches) in [(1, 5), (2, 5), (8, 5), (8, 0)] {
        let (lines, alive) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
        let line = format!("{}\n", path.display()).into_bytes();
        let list = Endless { line, lines: lines.clone(), _alive: alive.clone() };
        let mut feed = Feed::new(Sources::expand_with(&["-"], list).unwrap(), options(threads, WINDOW)).unwrap();
        assert_eq!(feed.total(), None);
        let mut batch = Batch::default();
        let mut consumed = 0;
        for _ in 0..batches {
            assert!(feed.next_batch(7, &mut batch));
            consumed += batch.rows.len();
            assert!(lines.load(Ordering::SeqCst) <= consumed + WINDOW);
        }
        wait_until("the window fills", || lines.load(Ordering::SeqCst) == consumed + WINDOW);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(lines.load(Ordering::SeqCst), consumed + WINDOW, "{threads} threads");
        drop(feed);
        // The threads share the list: the last one takes it along.
        wait_until("the threads end", || Arc::strong_count(&alive) == 1);
    }
}

#[test]
fn dropping_amid_packs_ends_the_threads() {
    let dir = folder();
    numbered_pack(&dir.path().join("p.npy"), SIZE, 0, 2000);
    for (threads, window, batch_size) in [(1, 1, 1), (4, 7, 3), (4, 300, 10), (2, 5000, 64)] {
        let alive = Arc::new(());
        let list = Endless { line: b"\n".to_vec(), lines: Arc::default(), _alive: alive.clone() };
        let arguments = [dir.path().join("p.npy"), "-".into()];
        let mut feed = Feed::new(Sources::expand_with(&arguments, list).unwrap(), options(threads, window)).unwrap();
        assert!(feed.next_batch(batch_size, &mut Batch::default()));
        drop(feed);
        if window < 2000 {
            wait_until("the threads end", || Arc::strong_count(&alive) == 1);
        }
    }
}

#[test]
fn a_slow_list_s_rows_come_out_while_it_pauses() {
    let dir = folder();
    let path = write(dir.path(), "a.png", &numbered_png(5));
    for threads in [1, 4] {
        let (reader, mut writer) = io::pipe().unwrap();
        let sources = Sources::expand_with(&["-"], BufReader::new(reader)).unwrap();
        let mut feed = Feed::new(sources, options(threads, 64)).unwrap();
        let mut batch = Batch::default();
        for lines in [1, 3] {
            writer.write_all(format!("{}\n", path.display()).repeat(lines).as_bytes()).unwrap();
            let mut rows = 0;
            // The list stays open: a batch that waits to be full would wait for ever.
            while rows < lines {
                assert!(feed.next_batch(32, &mut batch));
                assert_eq!(batch.pixels, colour(5).repeat(SIZE * SIZE * batch.rows.len()), "{threads} threads");
                rows += batch.rows.len();
            }
            assert_eq!(rows, lines, "{threads} threads");
        }
        drop(writer);
        assert!(!feed.next_batch(32, &mut batch), "{threads} threads");
    }
}

#[test]
fn a_wait_for_a_list_can_be_stopped() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    // At first before the batch, then while it waits.
    let stop = || ASKED.fetch_add(1, Ordering::SeqCst) >= 3;
    let (reader, _writer) = io::pipe().unwrap();
    let sources = Sources::expand_with(&["-"], BufReader::new(reader)).unwrap();
    let mut feed = Feed::new(sources, FeedOptions { stop, ..options(2, 8) }).unwrap();
    let mut batch = Batch::default();
    assert!(!feed.next_batch(4, &mut batch));
    assert!(batch.rows.is_empty());
    assert_eq!(ASKED.load(Ordering::SeqCst), 4);
}

#[test]
fn rows_end_once_it_is_time_to_stop() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let dir = folder();
    pictures(dir.path(), 9);
    let stop = || STOP.load(Ordering::SeqCst);
    let mut feed = Feed::new(expand(&[dir.path()]).unwrap(), FeedOptions { stop, ..options(2, 20) }).unwrap();
    let mut batch = Batch::default();
    assert!(feed.next_batch(2, &mut batch));
    STOP.store(true, Ordering::SeqCst);
    assert!(!feed.next_batch(2, &mut batch));
    assert!(batch.rows.is_empty() && batch.pixels.is_empty());
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
    for (threads, window) in [(1, 1), (2, 1), (8, 3), (8, 100)] {
        let sources = Sources::expand_with(&["-"], Panics(false)).unwrap();
        let mut feed = Feed::new(sources, options(threads, window)).unwrap();
        let mut batch = Batch::default();
        assert!(feed.next_batch(1, &mut batch));
        assert_eq!(batch.rows[0].filename, "gone.png");
        let next = std::panic::AssertUnwindSafe(|| feed.next_batch(1, &mut batch));
        let panic = std::panic::catch_unwind(next).expect_err("the panic is passed on");
        assert_eq!(panic.downcast_ref(), Some(&"the reader's panic"));
    }
}

//! Decodes the sources on threads of its own, a bounded number of pictures ahead of the consumer.
//!
//! One queue, three channels, no coordinator. A worker locks the queue, takes buffers, takes the next task and puts
//! the receiving end of its answer on `answers`; then it unlocks and works. So answers stand in input order whoever
//! finishes first. The buffers circulate: `window` of them exist, a worker waits for a free one, the consumer gives
//! each back once copied. They bound the memory and are the only brake.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread, vec};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::npy::check_size;
use super::queue::{Queue, Task};
use super::sources::{Entry, Sources, filename, row_filename};
use crate::error::{Error, Result};
use crate::image::{self, DecodeOptions};

/// Longest wait for more rows of a list while some could be handed out, and between two looks at [`FeedOptions::stop`].
const PATIENCE: Duration = Duration::from_millis(100);

/// How a [`Feed`] works.
#[derive(Clone, Copy, Debug)]
pub struct FeedOptions {
    /// How pictures are decoded.
    pub decode: DecodeOptions,
    /// Height and width of the network's input in pixels.
    pub input_size: usize,
    /// Number of decoding threads; 0 counts as 1.
    pub threads: usize,
    /// Most pictures held at a time, decoded or being decoded, each of `3 * input_size^2` bytes; 0 counts as 1. Two
    /// batches and a few for each thread keep everybody busy.
    pub window: usize,
    /// Asked before each batch and while it is waited for; once it says true, and it must go on to, the rows end.
    pub stop: fn() -> bool,
}

/// Consecutive rows of the input and the pixels of those that are good.
#[derive(Debug, Default)]
pub struct Batch {
    /// The good pictures one after the other, uint8 (n, input_size, input_size, 3).
    pub pixels: Vec<u8>,
    /// In input order. A row without error owns the next picture in `pixels`.
    pub rows: Vec<Row>,
}

/// One input.
#[derive(Debug)]
pub struct Row {
    /// The path as given, or `PACK#ROW`.
    pub filename: String,
    /// Why there are no pixels.
    pub error: Option<Error>,
}

/// Pixels in input order, decoded while the consumer computes.
///
/// Dropped early it stops its threads: each ends with the picture it is at. They are not waited for, since one may be
/// reading a list that never ends.
#[derive(Debug)]
pub struct Feed {
    answers: Receiver<Receiver<Vec<Item>>>,
    free: Sender<Vec<u8>>,
    /// The next one, if it was taken from `answers` and is not there yet.
    answer: Option<Receiver<Vec<Item>>>,
    /// Of the last answer, what did not fit the last batch.
    pending: vec::IntoIter<Item>,
    threads: Vec<JoinHandle<()>>,
    total: Option<u64>,
    stop: fn() -> bool,
}

/// A row and a buffer of the window, which holds its pixels unless it failed.
#[derive(Debug)]
struct Item {
    row: Row,
    pixels: Vec<u8>,
}

impl Feed {
    /// Starts decoding `sources`.
    ///
    /// # Errors
    /// [`Error::Usage`] if a named pack does not have the network's size, [`Error::Device`] if a thread cannot be started.
    pub fn new(sources: Sources, options: FeedOptions) -> Result<Feed> {
        for entry in &sources.entries {
            if let Entry::Pack { path, height, width, .. } = entry {
                check_size(path, *height, *width, options.input_size)?;
            }
        }
        let total = sources.total();
        let count = options.threads.max(1);
        let window = options.window.max(1);
        let (free, free_buffers) = bounded(window);
        for _ in 0..window {
            // Gets its size when it is first used.
            free.send(Vec::new()).expect("the channel holds the window");
        }
        // As many answers as buffers: a send never waits.
        let (sender, answers) = bounded(window);
        let worker = Worker {
            // Enough tasks for all threads within the window.
            queue: Arc::new(Mutex::new(Some(Queue::new(sources, options.input_size, window / (2 * count))))),
            free: free_buffers,
            answers: sender,
            decode: options.decode,
            input_size: options.input_size,
        };
        let start = |n| {
            let worker = worker.clone();
            thread::Builder::new().name(format!("decode-{n}")).spawn(move || worker.run())
        };
        let threads = (0..count)
            .map(start)
            .collect::<io::Result<_>>()
            .map_err(|e| Error::Device(format!("cannot start {count} decoding threads: {e}; ask for fewer")))?;
        let pending = Vec::new().into_iter();
        Ok(Feed { answers, free, answer: None, pending, threads, total, stop: options.stop })
    }

    /// Number of rows of the whole input, if it is known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Fills `batch`, whose buffers are used again, with the next rows: up to `batch_size` good ones and up to as many
    /// that failed. Waits for them, but where a list pauses it hands out what came before. `false` once there are no
    /// more, or when told to stop.
    ///
    /// # Panics
    /// If `batch_size` is 0, or to pass on a panic of a decoding thread.
    pub fn next_batch(&mut self, batch_size: usize, batch: &mut Batch) -> bool {
        assert!(batch_size > 0, "a batch of no pictures");
        batch.pixels.clear();
        batch.rows.clear();
        if (self.stop)() {
            return false;
        }
        let (mut good, mut failed) = (0, 0);
        while good < batch_size && failed < batch_size {
            let Some(Item { row, pixels }) = self.next_item(!batch.rows.is_empty()) else { break };
            if row.error.is_none() {
                batch.pixels.extend_from_slice(&pixels);
                good += 1;
            } else {
                failed += 1;
            }
            batch.rows.push(row);
            // Fails once all workers have ended; nobody needs it then.
            let _ = self.free.send(pixels);
        }
        !batch.rows.is_empty()
    }

    /// `None` at the end, when told to stop, and, if there are `rows` to hand out, where a list pauses.
    fn next_item(&mut self, rows: bool) -> Option<Item> {
        loop {
            if let Some(item) = self.pending.next() {
                return Some(item);
            }
            if let Some(answer) = &self.answer {
                match answer.recv_timeout(PATIENCE) {
                    Ok(items) => {
                        self.pending = items.into_iter();
                        self.answer = None;
                    }
                    Err(RecvTimeoutError::Timeout) if (self.stop)() => return None,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => unreachable!("a worker answers every task it takes"),
                }
                continue;
            }
            match self.answers.recv_timeout(PATIENCE) {
                Ok(answer) => self.answer = Some(answer),
                // Nothing is being decoded. Without a list that is a moment's delay, and batches stay full.
                Err(RecvTimeoutError::Timeout) if rows && self.total.is_none() => return None,
                Err(RecvTimeoutError::Timeout) if (self.stop)() => return None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // The end of the input, unless a worker died: a run must not look complete then.
                    for thread in self.threads.drain(..) {
                        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                    }
                    return None;
                }
            }
        }
    }
}

struct Job {
    task: Task,
    /// One for each row of the task.
    buffers: Vec<Vec<u8>>,
    answer: Sender<Vec<Item>>,
}

#[derive(Clone)]
struct Worker {
    /// `None` once the input is exhausted.
    queue: Arc<Mutex<Option<Queue>>>,
    free: Receiver<Vec<u8>>,
    answers: Sender<Receiver<Vec<Item>>>,
    decode: DecodeOptions,
    input_size: usize,
}

impl Worker {
    fn run(self) {
        while let Some(Job { task, buffers, answer }) = self.take() {
            // Nobody listens after the feed was dropped; `take` then ends this.
            let _ = answer.send(self.carry_out(&task, buffers));
        }
    }

    /// The next job, or `None` if there is none or the feed was dropped.
    fn take(&self) -> Option<Job> {
        let mut guard = self.queue.lock().ok()?;
        let queue = guard.as_mut()?;
        // Before the task, so that nothing is read from a list beyond the window. Waiting with the lock held is safe:
        // all missing buffers belong to tasks taken earlier, which need no lock to complete.
        let mut buffers = vec![self.free.recv().ok()?];
        let Some(task) = queue.next() else {
            *guard = None;
            return None;
        };
        while buffers.len() < task.rows() {
            buffers.push(self.free.recv().ok()?);
        }
        let (answer, receiver) = bounded(1);
        self.answers.send(receiver).ok()?;
        Some(Job { task, buffers, answer })
    }

    fn carry_out(&self, task: &Task, buffers: Vec<Vec<u8>>) -> Vec<Item> {
        let fill = |(index, mut pixels): (usize, Vec<u8>)| {
            pixels.resize(3 * self.input_size * self.input_size, 0);
            let (filename, result) = match task {
                Task::Picture(path) => (filename(path), self.load(path, &mut pixels)),
                Task::Rows(pack, rows) => {
                    let row = rows.start + index as u64;
                    (row_filename(pack.path(), row), pack.read_row(row, &mut pixels))
                }
                Task::Failed(path, reason) => (filename(path), Err(Error::Input(reason.clone()))),
            };
            Item { row: Row { filename, error: result.err() }, pixels }
        };
        buffers.into_iter().enumerate().map(fill).collect()
    }

    fn load(&self, path: &Path, pixels: &mut [u8]) -> Result<()> {
        without_panic(|| image::load(path, self.decode, self.input_size, pixels))
    }
}

/// A decoder's panic costs its picture, not the run.
fn without_panic(decode: impl FnOnce() -> Result<()>) -> Result<()> {
    // Unwind safe: nobody looks at the pixels of a row that failed.
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        Err(Error::Input(format!("the decoder panicked, please report it: {message}")))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_the_row_s_error() {
        let message = |result: Result<()>| result.expect_err("it panicked").to_string();
        let text = message(without_panic(|| panic!("plain")));
        assert!(text.ends_with(": plain"), "{text}");
        let text = message(without_panic(|| panic!("number {}", text.len())));
        assert!(text.contains(": number "), "{text}");
        let text = message(without_panic(|| std::panic::panic_any(7)));
        assert!(text.ends_with(": no message"), "{text}");
        assert!(without_panic(|| Ok(())).is_ok());
    }
}

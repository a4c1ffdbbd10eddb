//! Decodes the sources on threads of its own, straight into the buffers that the consumer computes from.
//!
//! One queue, three channels, no coordinator. A worker locks the queue, takes the next task and the place of its rows,
//! which is what comes next in the buffer that is being filled, and puts the receiving end of its answer on `answers`;
//! then it unlocks and works. So rows stand in input order, in the answers and in memory, whoever finishes first. The
//! consumer joins answers to batches and gives each batch's pixels back once it has computed them; a buffer whose parts
//! are all back is free again. Where none is free the workers wait: the buffers bound the memory and are the only brake.
//!
//! A consumer that computes on the CPU does so [alone](Feed::alone): decoding stops on all threads rather than share the cores
//! with as many others. Files are read all the same, and lists are waited for.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::buffers::{Places, Returns, circulate};
use super::npy::{Pack, check_size};
use super::queue::{Queue, Task};
use super::sources::{Entry, Sources, filename, row_filename};
use crate::error::{Error, Result};
use crate::image::{self, DecodeOptions};
use crate::pixels::Pixels;

/// Longest wait of [`Feed::next_batch`]. A list that gives nothing for as long pauses.
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
    /// Asked by each [`Feed::next_batch`]; once it says true, and it must go on to, the rows end.
    pub stop: fn() -> bool,
}

/// Consecutive rows of the input and their pixels.
#[derive(Debug)]
pub struct Batch {
    /// In input order.
    pub rows: Vec<Row>,
    /// uint8 (n, input_size, input_size, 3), n the number of rows: part of a buffer that the feed was given. A row with
    /// an error has its place like the others, so that a batch is one run of memory. What is there means nothing, and
    /// neither does what is computed from it.
    pub pixels: Pixels,
}

/// One input.
#[derive(Debug)]
pub struct Row {
    /// The path as given, or `PACK#ROW`.
    pub filename: String,
    /// Why there are no pixels.
    pub error: Option<Error>,
}

/// What [`Feed::next_batch`] found.
#[derive(Debug)]
pub enum Fed {
    /// The next rows.
    Batch(Batch),
    /// Nothing can be handed out yet: rows are still being decoded, a list pauses, or the workers wait for a buffer to be
    /// given back. The caller has time for other work and then asks again.
    Pause,
    /// There are no more rows, or it is time to stop.
    End,
}

/// Pixels in input order, decoded while the consumer computes.
///
/// Dropped early it stops its threads: each ends with the task it is at. They are not waited for, since one may be
/// reading a list that never ends; the buffers' memory goes with the last of them.
#[derive(Debug)]
pub struct Feed {
    answers: Receiver<Promise>,
    /// The next one, if it was taken from `answers` and is not there yet.
    promise: Option<Promise>,
    /// The answers of which no batch was handed out yet.
    batch: Option<Batch>,
    returns: Returns,
    cores: Cores,
    threads: Vec<JoinHandle<()>>,
    total: Option<u64>,
    stop: fn() -> bool,
}

/// Shared by those who decode, each on a thread, or one consumer's on all of them.
type Cores = Arc<RwLock<()>>;

/// The answer to a task that was taken.
#[derive(Debug)]
struct Promise {
    answer: Receiver<Batch>,
    /// Whether it ends its buffer.
    last: bool,
}

impl Feed {
    /// Starts decoding `sources` into `buffers`, which all have the size of a batch. One is enough; with three, the
    /// consumer can work on a batch and wait for the device's results of another while the next is decoded.
    ///
    /// # Errors
    /// [`Error::Usage`] if a named pack does not have the network's size, [`Error::Device`] if a thread cannot be started.
    ///
    /// # Panics
    /// If there is no buffer, or if they are not all of one length, `3 * input_size^2` bytes or a multiple.
    pub fn new(sources: Sources, options: FeedOptions, buffers: Vec<Pixels>) -> Result<Feed> {
        let image = 3 * options.input_size * options.input_size;
        let bytes = buffers.first().expect("a feed without a buffer").len();
        assert!(bytes > 0 && bytes.is_multiple_of(image), "a buffer of {bytes} bytes for images of {image}");
        assert!(buffers.iter().all(|buffer| buffer.len() == bytes), "buffers of several lengths");
        for entry in &sources.entries {
            if let Entry::Pack { path, height, width, .. } = entry {
                check_size(path, *height, *width, options.input_size)?;
            }
        }
        let total = sources.total();
        let count = options.threads.max(1);
        let (places, returns) = circulate(buffers);
        let (sender, answers) = unbounded();
        let cores = Cores::default();
        let worker = Worker {
            // Enough tasks for all threads within a batch.
            work: Arc::new(Mutex::new(Some((Queue::new(sources, options.input_size, bytes / image / count), places)))),
            answers: sender,
            cores: Arc::clone(&cores),
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
        Ok(Feed { answers, promise: None, batch: None, returns, cores, threads, total, stop: options.stop })
    }

    /// Number of rows of the whole input, if it is known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next rows: as many as a buffer holds, fewer at the end of the input and where a list pauses, which shortens
    /// the batch after it as well: that ends with the buffer. Waits a tenth of a second at most; then it is a pause.
    ///
    /// # Panics
    /// To pass on a panic of a decoding thread.
    pub fn next_batch(&mut self) -> Fed {
        self.next_within(PATIENCE)
    }

    /// The next rows, as many as a buffer holds, if they are there already.
    ///
    /// # Panics
    /// As [`next_batch`](Self::next_batch).
    pub fn ready_batch(&mut self) -> Option<Batch> {
        match self.next_within(Duration::ZERO) {
            Fed::Batch(batch) => Some(batch),
            Fed::Pause | Fed::End => None,
        }
    }

    fn next_within(&mut self, patience: Duration) -> Fed {
        if (self.stop)() {
            return Fed::End;
        }
        let deadline = Instant::now() + patience;
        let mut quiet = true; // nothing came during this call
        loop {
            if let Some(Promise { answer, last }) = &self.promise {
                let part = match answer.recv_deadline(deadline) {
                    Ok(part) => part,
                    Err(RecvTimeoutError::Timeout) => return Fed::Pause,
                    Err(RecvTimeoutError::Disconnected) => unreachable!("a worker answers every task it takes"),
                };
                let last = *last;
                self.promise = None;
                quiet = false;
                let batch = match self.batch.take() {
                    Some(batch) => batch.join(part),
                    None => part,
                };
                if last {
                    return Fed::Batch(batch);
                }
                self.batch = Some(batch);
            }
            match self.answers.recv_deadline(deadline) {
                Ok(promise) => self.promise = Some(promise),
                // Nothing is being decoded. Without a list that is a moment's delay, and batches stay full.
                Err(RecvTimeoutError::Timeout) if quiet && self.total.is_none() && !patience.is_zero() => {
                    return self.batch.take().map_or(Fed::Pause, Fed::Batch);
                }
                Err(RecvTimeoutError::Timeout) => return Fed::Pause,
                Err(RecvTimeoutError::Disconnected) => {
                    // The end of the input, unless a worker died: a run must not look complete then.
                    for thread in self.threads.drain(..) {
                        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                    }
                    return self.batch.take().map_or(Fed::End, Fed::Batch);
                }
            }
        }
    }

    /// Does `work` while nothing is being decoded, once the pictures are finished that are: for a consumer that computes on as
    /// many threads as decode. What is [ready](Self::ready_batch) it had better compute as well, since each turn has threads
    /// wait for the last picture.
    pub fn alone<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let cores = Arc::clone(&self.cores);
        let _alone = cores.write().unwrap_or_else(PoisonError::into_inner);
        work(self)
    }

    /// Takes the pixels of a batch back, to decode into them again. Batches may come back in any order; what never does
    /// costs the feed its buffer, and while all are away there are only pauses, even at the end.
    ///
    /// # Panics
    /// If the pixels are not from this feed.
    pub fn give_back(&mut self, pixels: Pixels) {
        self.returns.give_back(pixels);
    }
}

impl Batch {
    /// With `next`, whose pixels follow in memory.
    fn join(mut self, mut next: Batch) -> Batch {
        self.rows.append(&mut next.rows);
        self.pixels.join(next.pixels);
        self
    }
}

struct Job {
    task: Task,
    place: Pixels,
    answer: Sender<Batch>,
}

#[derive(Clone)]
struct Worker {
    /// `None` once the input is exhausted.
    work: Arc<Mutex<Option<(Queue, Places)>>>,
    answers: Sender<Promise>,
    cores: Cores,
    decode: DecodeOptions,
    input_size: usize,
}

impl Worker {
    fn run(self) {
        while let Some(Job { task, place, answer }) = self.take() {
            // Nobody listens after the feed was dropped; `take` then ends this.
            let _ = answer.send(self.carry_out(task, place));
        }
    }

    /// The next job, or `None` if there is none or the feed was dropped.
    fn take(&self) -> Option<Job> {
        let mut guard = self.work.lock().ok()?;
        let (queue, places) = guard.as_mut()?;
        // Before the task, so that nothing is read from a list that has no place. Waiting with the lock held is safe:
        // what is missing of the buffers is the consumer's or belongs to tasks taken earlier, and neither needs the lock.
        let image = 3 * self.input_size * self.input_size;
        let room = places.room()? / image;
        let Some(task) = queue.next(room) else {
            *guard = None;
            return None;
        };
        let (place, last) = places.take(task.rows() * image);
        let (answer, receiver) = bounded(1);
        self.answers.send(Promise { answer: receiver, last }).ok()?;
        Some(Job { task, place, answer })
    }

    fn carry_out(&self, task: Task, mut pixels: Pixels) -> Batch {
        let rows = match task {
            Task::Picture(path) => {
                let loaded = without_panic(|| {
                    let bytes = image::read_file(&path)?; // may wait for a disk, which takes no core
                    let _core = self.cores.read().unwrap_or_else(PoisonError::into_inner);
                    image::decode_to(&bytes, self.decode, self.input_size, &mut pixels)
                });
                vec![Row { filename: filename(&path), error: loaded.err() }]
            }
            Task::Rows(pack, rows) => read_rows(&pack, rows, &mut pixels),
            Task::Failed(path, reason) => vec![Row { filename: filename(&path), error: Some(Error::Input(reason)) }],
        };
        Batch { rows, pixels }
    }
}

/// Reads all `rows` at once, or, where that fails, one by one to find which.
fn read_rows(pack: &Pack, rows: Range<u64>, pixels: &mut [u8]) -> Vec<Row> {
    let row_bytes = pixels.len() / (rows.end - rows.start) as usize;
    let all_read = pack.read_rows(rows.clone(), pixels).is_ok();
    let read = |(row, pixels)| {
        let error = if all_read { None } else { pack.read_row(row, pixels).err() };
        Row { filename: row_filename(pack.path(), row), error }
    };
    rows.zip(pixels.chunks_exact_mut(row_bytes)).map(read).collect()
}

/// A panic of what comes after a decoder, whose own end in [`decode`](crate::image::decode), costs its picture, not the run.
fn without_panic(decode: impl FnOnce() -> Result<()>) -> Result<()> {
    // Unwind safe: nobody looks at the pixels of a row that failed.
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        Err(Error::Input(format!("a panic in its preparation, please report it: {message}")))
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

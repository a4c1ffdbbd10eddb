//! Files to classes in memory, and to pixels alone, over the same input again and again.

use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use alexnet::input::{Fed, Feed, FeedOptions, Row, Sources};
use alexnet::record::Mode;
use alexnet::{Error, Model, Result, Score};

use super::Args;
use super::steps::Steps;
use crate::cli::args::threads;
use crate::cli::runner::Runner;

/// What to measure on. A list on stdin is read once and kept, since every pass reads it anew.
pub struct Files<'a> {
    arguments: &'a [PathBuf],
    list: Vec<u8>,
}

impl<'a> Files<'a> {
    pub fn new(arguments: &'a [PathBuf]) -> Result<Self> {
        let mut list = vec![];
        if arguments.iter().any(|input| input == Path::new("-")) {
            let read = io::stdin().read_to_end(&mut list);
            read.map_err(|e| Error::Usage(format!("the list of paths on stdin cannot be read: {e}")))?;
        }
        Ok(Files { arguments, list })
    }

    fn expand(&self) -> Result<Sources> {
        Sources::expand_with(self.arguments, Cursor::new(self.list.clone()))
    }
}

/// Set once the clocked passes have seen enough: a feed asks a function.
static ENOUGH: AtomicBool = AtomicBool::new(false);

/// Runs over the input again and again until the duration is over, in turns decoding alone and end to end; a pass that counts is
/// always finished. Decoding's steps come first.
pub fn measure(model: &Model, batch_size: usize, args: &Args, files: &Files) -> Result<[Steps; 2]> {
    let how = &args.measuring;
    let mut passes = Passes { runner: Runner::new(model, batch_size, 1, Score::Prob)?, model, args, files };
    // The first passes fill the page cache and the buffers; they do not count.
    let begin = Instant::now();
    loop {
        let warm = passes.run(Mode::EndToEnd, |_| false)?;
        if warm.images.iter().all(|&images| images == 0) {
            let reason = match warm.failed {
                0 => "the input is empty",
                _ => "no input can be decoded; run predict to see why",
            };
            return Err(Error::Usage(format!("nothing to measure end to end: {reason}")));
        }
        if begin.elapsed() >= how.warmup {
            break;
        }
    }
    let [mut decode, mut steps] = [(); 2].map(|()| Steps::default());
    let is_short = |steps: &Steps| steps.seconds.len() < how.iterations as usize || steps.elapsed < how.duration;
    while is_short(&decode) || is_short(&steps) {
        for (mode, steps) in [(Mode::Decode, &mut decode), (Mode::EndToEnd, &mut steps)] {
            let Steps { seconds, images, failed, elapsed, .. } = passes.run(mode, |_| false)?;
            steps.seconds.extend(seconds);
            steps.images.extend(images);
            steps.failed += failed;
            steps.elapsed += elapsed;
        }
    }
    if passes.runner.batch() < batch_size {
        let reason =
            format!("{batch_size} pictures from files do not fit its memory; say -b {}", passes.runner.batch());
        return Err(Error::DeviceMemory(reason));
    }
    passes.runner.time()?;
    // The first batches make their graphs anew.
    passes.run(Mode::EndToEnd, |batches| batches >= 8)?;
    passes.runner.take_times();
    let begin = Instant::now();
    loop {
        let seen = steps.clocked.len();
        passes.run(Mode::EndToEnd, |batches| how.is_clocked(seen + batches, begin.elapsed()))?;
        steps.clocked.extend(passes.runner.take_times());
        if how.is_clocked(steps.clocked.len(), begin.elapsed()) {
            return Ok([decode, steps]);
        }
    }
}

/// What goes over the input.
struct Passes<'a> {
    runner: Runner<'a>,
    model: &'a Model,
    args: &'a Args,
    files: &'a Files<'a>,
}

impl Passes<'_> {
    /// Once over the input, or until `enough` of the number of batches that came out: [`Mode::Decode`] drops their pixels, else
    /// they are computed.
    fn run(&mut self, mode: Mode, enough: impl Fn(usize) -> bool) -> Result<Steps> {
        ENOUGH.store(false, Ordering::Relaxed);
        let options = FeedOptions {
            decode: self.args.decode.options(),
            input_size: self.model.network().input_size,
            threads: threads(self.args.device.workers),
            stop: || ENOUGH.load(Ordering::Relaxed),
        };
        let buffers = self.runner.buffers()?; // a run has them from the start: not counted
        let mut steps = Steps::default();
        let begin = Instant::now();
        let mut step = begin;
        let mut feed = Feed::new(self.files.expand()?, options, buffers)?;
        let mut count = |rows: &[Row]| {
            let now = Instant::now();
            steps.seconds.push((now - step).as_secs_f64());
            step = now;
            let good = rows.iter().filter(|row| row.error.is_none()).count();
            steps.images.push(good);
            steps.failed += rows.len() - good;
            if enough(steps.seconds.len()) {
                ENOUGH.store(true, Ordering::Relaxed);
            }
        };
        if mode == Mode::Decode {
            loop {
                match feed.next_batch() {
                    Fed::Batch(batch) => {
                        count(&batch.rows);
                        feed.give_back(batch.pixels);
                    }
                    Fed::Pause => {}
                    Fed::End => break,
                }
            }
        } else {
            self.runner.run(&mut feed, |rows, _| {
                count(rows);
                Ok(())
            })?;
        }
        steps.elapsed = begin.elapsed();
        Ok(steps)
    }
}

//! Files to classes in memory, over the same input again and again.

use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use alexnet::input::{Feed, FeedOptions, Sources};
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

/// Runs over the input again and again until the duration is over; a pass that counts is always finished.
pub fn measure(model: &Model, batch_size: usize, args: &Args, files: &Files) -> Result<Steps> {
    let mut runner = Runner::new(model, batch_size, 1, Score::Prob)?;
    // The first pass fills the page cache and the buffers; it does not count.
    let begin = Instant::now();
    loop {
        let warm = pass(&mut runner, model, args, files, |_| false)?;
        if warm.images.iter().all(|&images| images == 0) {
            let reason = match warm.failed {
                0 => "the input is empty",
                _ => "no input can be decoded; run predict to see why",
            };
            return Err(Error::Usage(format!("nothing to measure end to end: {reason}")));
        }
        if begin.elapsed() >= args.measuring.warmup {
            break;
        }
    }
    let mut steps = Steps::default();
    while steps.seconds.len() < args.measuring.iterations as usize || steps.elapsed < args.measuring.duration {
        let Steps { seconds, images, failed, elapsed, .. } = pass(&mut runner, model, args, files, |_| false)?;
        steps.seconds.extend(seconds);
        steps.images.extend(images);
        steps.failed += failed;
        steps.elapsed += elapsed;
    }
    runner.time()?;
    // The first batches make their graphs anew.
    pass(&mut runner, model, args, files, |batches| batches >= 8)?;
    runner.take_times();
    let begin = Instant::now();
    loop {
        let seen = steps.clocked.len();
        pass(&mut runner, model, args, files, |batches| args.measuring.is_clocked(seen + batches, begin.elapsed()))?;
        steps.clocked.extend(runner.take_times());
        if args.measuring.is_clocked(steps.clocked.len(), begin.elapsed()) {
            return Ok(steps);
        }
    }
}

/// Once over the input, or until `enough` of the number of batches that came out.
fn pass(
    runner: &mut Runner,
    model: &Model,
    args: &Args,
    files: &Files,
    enough: impl Fn(usize) -> bool,
) -> Result<Steps> {
    ENOUGH.store(false, Ordering::Relaxed);
    let options = FeedOptions {
        decode: args.decode.options(),
        input_size: model.network().input_size,
        threads: threads(args.device.workers),
        stop: || ENOUGH.load(Ordering::Relaxed),
    };
    let buffers = runner.buffers()?; // a run has them from the start: not counted
    let mut steps = Steps::default();
    let begin = Instant::now();
    let mut step = begin;
    let mut feed = Feed::new(files.expand()?, options, buffers)?;
    runner.run(&mut feed, |rows, _| {
        let now = Instant::now();
        steps.seconds.push((now - step).as_secs_f64());
        step = now;
        let good = rows.iter().filter(|row| row.error.is_none()).count();
        steps.images.push(good);
        steps.failed += rows.len() - good;
        if enough(steps.seconds.len()) {
            ENOUGH.store(true, Ordering::Relaxed);
        }
        Ok(())
    })?;
    steps.elapsed = begin.elapsed();
    Ok(steps)
}

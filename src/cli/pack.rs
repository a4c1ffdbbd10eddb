//! `alexnet pack`: pictures decoded, resized and cropped once, into a NumPy file of uint8 (N, H, W, 3).

use std::num::NonZeroUsize;
use std::path::PathBuf;

use alexnet::input::{Fed, Feed, FeedOptions, PackWriter, Sources};
use alexnet::{Error, Pixels, Result};

use super::args::{DecodeArgs, threads, workers_parser};
use super::progress::Progress;
use super::{Outcome, interrupted, note};

/// Pictures handed on at once.
const BATCH: usize = 64;
/// Batches in memory: one is written while the others are decoded.
const BUFFERS: usize = 3;

#[derive(clap::Args)]
pub struct Args {
    /// Pictures, folders, globs, or - for a list of paths on stdin.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// The .npy file to write; the list of its rows goes beside it, as .csv.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Side of the square pictures in the pack: the network's input size.
    #[arg(long, value_name = "N", default_value_t = 224, value_parser = clap::value_parser!(u32).range(1..=1024))]
    size: u32,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Decoding threads [default: all].
    #[arg(short = 'j', long, value_name = "N", value_parser = workers_parser())]
    workers: Option<NonZeroUsize>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    if args.output.extension().is_none_or(|extension| extension != "npy") {
        return Err(Error::Usage(format!("{}: a pack is a NumPy file; end its name in .npy", args.output.display())));
    }
    let sources = Sources::expand(&args.inputs)?;
    interrupted(); // sets the handler: from here on nothing half written stays
    let size = args.size as usize;
    let options = FeedOptions {
        decode: args.decode.options(),
        input_size: size,
        threads: threads(args.workers),
        stop: interrupted,
    };
    let image = size * size * 3;
    let buffers: Option<Vec<_>> = (0..BUFFERS).map(|_| Pixels::zeroed(BATCH * image)).collect();
    let buffers = buffers.ok_or_else(|| {
        Error::Usage(format!(
            "no memory for {} pictures of {size}x{size} pixels; ask for smaller ones",
            BUFFERS * BATCH
        ))
    })?;
    let mut feed = Feed::new(sources, options, buffers)?;
    let mut pack = PackWriter::create(&args.output, size)?;
    let mut progress = Progress::new(feed.total());
    loop {
        let batch = match feed.next_batch() {
            Fed::Batch(batch) => batch,
            Fed::Pause => continue,
            Fed::End => break,
        };
        let failed = batch.rows.iter().filter(|row| row.error.is_some()).count();
        progress.advance(batch.rows.len() - failed, failed, || {
            let mut rows = batch.rows.iter().zip(batch.pixels.chunks_exact(image));
            rows.try_for_each(|(row, pixels)| match &row.error {
                Some(error) => pack.push_error(&row.filename, error),
                None => pack.push(&row.filename, pixels),
            })
        })?;
        feed.give_back(batch.pixels);
    }
    // An interrupt ends the rows, so that the end of the loop is not the end of the input.
    if interrupted() {
        note("interrupted: the unfinished pack is removed");
        return Ok(Outcome::Interrupted);
    }
    pack.finish()?;
    progress.finish();
    Ok(if progress.any_failed() { Outcome::SomeFailed } else { Outcome::Done })
}

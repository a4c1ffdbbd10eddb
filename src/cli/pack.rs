//! `alexnet pack`: pictures decoded, resized and cropped once, into a NumPy file of uint8 (N, H, W, 3).

use std::num::NonZeroUsize;
use std::path::PathBuf;

use alexnet::input::{Batch, Feed, FeedOptions, PackWriter, Sources};
use alexnet::{Error, Result};

use super::args::{DecodeArgs, threads, workers_parser};
use super::progress::Progress;
use super::{Outcome, interrupted, note};

/// Pictures handed on at once.
const BATCH: usize = 64;

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
        window: 2 * BATCH,
        stop: interrupted,
    };
    let mut feed = Feed::new(sources, options)?;
    let mut pack = PackWriter::create(&args.output, size)?;
    let mut progress = Progress::new(feed.total());
    let mut batch = Batch::default();
    while feed.next_batch(BATCH, &mut batch) {
        let failed = batch.rows.iter().filter(|row| row.error.is_some()).count();
        progress.advance(batch.rows.len() - failed, failed, || {
            let mut pixels = batch.pixels.chunks_exact(size * size * 3);
            batch.rows.iter().try_for_each(|row| match &row.error {
                Some(error) => pack.push_error(&row.filename, error),
                None => pack.push(&row.filename, pixels.next().expect("pixels for every row without an error")),
            })
        })?;
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

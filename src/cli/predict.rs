//! `alexnet predict`: pictures in, classes out, in input order.

use std::path::PathBuf;

use alexnet::input::{Batch, Feed, FeedOptions, Sources};
use alexnet::{Input, Result, Score};
use clap::ValueEnum;

use super::args::{DecodeArgs, DeviceArgs, ModelArgs};
use super::progress::Progress;
use super::rows::{Columns, Format, RowWriter};
use super::{Outcome, interrupted};

#[derive(clap::Args)]
pub struct Args {
    /// Pictures, folders, globs, .npy packs, or - for a list of paths on stdin.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Images computed at once.
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Classes a picture; at the class count, all come out.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    topk: u32,
    /// Softmax probabilities, or the network's output as it is.
    #[arg(long, value_enum, default_value = "prob")]
    output_type: OutputType,
    /// [default: table on a terminal, jsonl for a .jsonl file, else csv]
    #[arg(long, value_enum)]
    results_format: Option<Format>,
    /// Write results here instead of to stdout.
    #[arg(long, value_name = "FILE")]
    results_file: Option<PathBuf>,
    /// A file with one class name a line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutputType {
    Prob,
    Logit,
}

pub fn run(args: &Args) -> Result<Outcome> {
    // A misspelt input is reported before weights are read, and weights that do not fit before any picture is.
    let sources = Sources::expand(&args.inputs)?;
    let model = args.model.load(args.model.open()?, &args.device, args.labels.clone())?;
    let batch_size = args.batch_size as usize;
    let columns = Columns {
        k: (args.topk as usize).min(model.network().classes()),
        score: match args.output_type {
            OutputType::Prob => Score::Prob,
            OutputType::Logit => Score::Logit,
        },
        filename_width: sources.widest_filename(),
    };
    let (k, score) = (columns.k, columns.score);
    let mut feed = Feed::new(
        sources,
        FeedOptions {
            decode: args.decode.options(),
            input_size: model.network().input_size,
            threads: args.device.threads(),
            window: 2 * batch_size,
        },
    )?;
    let mut session = model.session(batch_size, &[])?;
    let mut writer = RowWriter::open(args.results_file.as_deref(), args.results_format, columns)?;
    let mut progress = Progress::new(feed.total());
    let mut batch = Batch::default();
    while !interrupted() && feed.next_batch(batch_size, &mut batch) {
        session.run(Input::Pixels(&batch.pixels))?;
        let predictions = session.top_k(k, score)?;
        let failed = batch.rows.iter().filter(|row| row.error.is_some()).count();
        progress.advance(batch.rows.len() - failed, failed, || {
            let mut predictions = predictions.chunks_exact(k);
            for row in &batch.rows {
                let outcome = match &row.error {
                    Some(error) => Err(error),
                    None => Ok(predictions.next().expect("a prediction for every image")),
                };
                writer.write(&model, &row.filename, outcome)?;
            }
            writer.flush()
        })?;
    }
    progress.finish();
    Ok(match () {
        () if interrupted() => Outcome::Interrupted,
        () if progress.any_failed() => Outcome::SomeFailed,
        () => Outcome::Done,
    })
}

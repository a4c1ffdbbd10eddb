//! `alexnet predict`: pictures in, classes out, in input order.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use alexnet::input::{Feed, FeedOptions, Sources};
use alexnet::{Error, NOT_FINITE, Precision, Result, Score};
use clap::ValueEnum;

use super::args::{DecodeArgs, DeviceArgs, ModelArgs, precision_parser, threads};
use super::progress::Progress;
use super::rows::{Columns, Format, RowWriter};
use super::runner::Runner;
use super::{Outcome, interrupted, note};

#[derive(clap::Args)]
pub struct Args {
    /// Pictures, folders, globs, .npy packs, or - for a list of paths on stdin.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// What to compute in.
    #[arg(long, value_name = "TYPE", default_value = "float32", value_parser = precision_parser())]
    precision: Precision,
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
    /// A file with one class name a line, or a JSON list.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutputType {
    Prob,
    Logit,
}

pub fn run(args: &Args) -> Result<Outcome> {
    args.device.limit_threads()?;
    // A misspelt input is reported before weights are read, and weights that do not fit before any picture is.
    let sources = Sources::expand(&args.inputs)?;
    args.protect_inputs(&sources)?;
    let model = args.model.load(&args.device, args.precision, args.labels.clone())?;
    let device = model.device();
    // Buffers for a batch that the run cannot fill would take memory for nothing.
    let total = sources.total().and_then(|total| usize::try_from(total).ok()).unwrap_or(usize::MAX);
    let batch_size = (args.batch_size as usize).min(total.max(1));
    let columns = Columns {
        k: (args.topk as usize).min(model.network().classes()),
        score: match args.output_type {
            OutputType::Prob => Score::Prob,
            OutputType::Logit => Score::Logit,
        },
        filename_width: sources.widest_filename(),
        // What a row was computed in is worth a column only where it may differ from what was asked for.
        precision: args.precision != Precision::Float32,
    };
    let (k, score) = (columns.k, columns.score);
    let mut runner = Runner::new(&model, batch_size, k, score)?;
    let options = FeedOptions {
        decode: args.decode.options(),
        input_size: model.network().input_size,
        threads: threads(args.device.workers),
        stop: interrupted,
    };
    let mut feed = Feed::new(sources, options, runner.buffers()?)?;
    let mut writer = RowWriter::open(args.results_file.as_deref(), args.results_format, columns)?;
    let mut progress = Progress::new(feed.total());
    let overflow = Error::Input(NOT_FINITE.into());
    runner.run(&mut feed, |rows, scored| {
        let outcomes = rows.iter().zip(scored).map(|(row, scored)| {
            let outcome = match &row.error {
                Some(error) => Err(error),
                None if scored.finite => Ok(scored),
                None => Err(&overflow),
            };
            (row, outcome)
        });
        let failed = outcomes.clone().filter(|(_, outcome)| outcome.is_err()).count();
        progress.advance(rows.len() - failed, failed, || {
            for (row, outcome) in outcomes {
                writer.write(&model, &row.filename, outcome)?;
            }
            writer.flush()
        })
    })?;
    progress.finish();
    if model.device() != device {
        note(&format!("in fact it ran on {}", model.device())); // cuBLASLt left a layer to our own kernels
    }
    Ok(match () {
        () if interrupted() => Outcome::Interrupted,
        () if progress.any_failed() => Outcome::SomeFailed,
        () => Outcome::Done,
    })
}

impl Args {
    /// Refuses a results file that is one of the run's inputs: opening it would empty it.
    fn protect_inputs(&self, sources: &Sources) -> Result<()> {
        let Some(results) = &self.results_file else { return Ok(()) };
        let is_results = |path: &Path| match (fs::metadata(path), fs::metadata(results)) {
            (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        };
        let others = [self.model.checkpoint.as_deref(), self.labels.as_deref()];
        if sources.reads(results) || others.into_iter().flatten().any(is_results) {
            return Err(Error::Usage(format!("--results-file {} is an input of this run", results.display())));
        }
        Ok(())
    }
}

//! `alexnet bench`: images per second and latency, compute alone and, given an input, end to end.

use std::fmt::Write;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alexnet::input::{Feed, FeedOptions, Sources};
use alexnet::weights::seeded;
use alexnet::{Error, Model, Pixels, Result, Score};
use serde::Serialize;

use super::args::{DecodeArgs, DeviceArgs, ModelArgs, seconds, threads};
use super::runner::Runner;
use super::{Outcome, note, note_given_up, print};
use alexnet::statistics::Spread;

/// Run before anything is counted.
const WARM_UP: Duration = Duration::from_millis(200);
/// Counted steps a measurement has at least, however short its duration.
const MIN_STEPS: usize = 5;

#[derive(clap::Args)]
pub struct Args {
    /// Pictures, folders, globs, .npy packs or - (a list on stdin) to measure end to end as well.
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Batch sizes, one measurement each.
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: Vec<u32>,
    /// Seconds a measurement lasts at least.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    duration: Duration,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// A whole run: what was measured, and the figures.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    model: &'static str,
    checkpoint: String,
    device: String,
    precision: &'static str,
    threads: usize,
    input_size: usize,
    param_count: usize,
    /// Multiply-adds an image, in 1e9.
    gmacs: f64,
    duration_s: f64,
    results: Vec<Measurement>,
}

#[derive(Serialize)]
struct Measurement {
    mode: Mode,
    batch_size: usize,
    samples_per_sec: f64,
    /// Mean milliseconds from one batch's results to the next one's.
    step_time_ms: f64,
    latency_ms: Spread,
    steps: usize,
    images: usize,
    /// Inputs that could not be decoded; end to end only.
    failed: usize,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// From pixels to classes, one batch at a time, both in the host's memory: what a single request takes.
    Latency,
    /// Pixels that the device holds to classes, batch after batch.
    Compute,
    /// As compute, with pixels copied to the device for each batch.
    Copied,
    /// Files to classes in memory.
    EndToEnd,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let inputs = Inputs::new(args)?;
    let checkpoint = args.model.checkpoint.clone().unwrap_or_else(|| "seed:0".into());
    let model = ModelArgs { checkpoint: Some(checkpoint.clone()), ..args.model }.load(&args.device, None)?;
    let network = model.network();
    let summary = network.summary(1);
    // Where nothing overlaps, the three are the same.
    let overlaps = model.pipeline(1, 1, Score::Prob)?.depth() > 1;
    let modes = if overlaps { &[Mode::Latency, Mode::Compute, Mode::Copied][..] } else { &[Mode::Compute] };
    let mut results = vec![];
    for &batch_size in &args.batch_size {
        let batch_size = batch_size as usize;
        for &mode in modes {
            results.push(in_memory(&model, mode, batch_size, args.duration)?);
        }
        if !args.inputs.is_empty() {
            results.push(end_to_end(&model, batch_size, args, &inputs)?);
        }
    }
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        model: network.variant.name,
        checkpoint: checkpoint.to_string_lossy().into_owned(),
        device: model.device(),
        precision: args.device.precision.name(),
        threads: threads(args.device.workers),
        input_size: network.input_size,
        param_count: summary.total_params,
        gmacs: summary.total_mult_adds as f64 / 1e9,
        duration_s: args.duration.as_secs_f64(),
        results,
    };
    let any_failed = report.results.iter().any(|r| r.failed > 0);
    if args.json {
        print(&(serde_json::to_string_pretty(&report).expect("a report has only strings and numbers") + "\n"))?;
    } else {
        print(&table(&report))?;
    }
    Ok(if any_failed { Outcome::SomeFailed } else { Outcome::Done })
}

/// What to measure end to end on. A list on stdin is read once and kept, since every pass reads it anew.
struct Inputs<'a> {
    arguments: &'a [PathBuf],
    list: Vec<u8>,
}

impl<'a> Inputs<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let mut list = vec![];
        if args.inputs.iter().any(|input| input == Path::new("-")) {
            let read = io::stdin().read_to_end(&mut list);
            read.map_err(|e| Error::Usage(format!("the list of paths on stdin cannot be read: {e}")))?;
        }
        Ok(Inputs { arguments: &args.inputs, list })
    }

    fn expand(&self) -> Result<Sources> {
        Sources::expand_with(self.arguments, Cursor::new(self.list.clone()))
    }
}

/// Batches of the same pictures, one after another.
fn in_memory(model: &Model, mode: Mode, batch_size: usize, duration: Duration) -> Result<Measurement> {
    let mut told = model.given_up().len();
    let mut pipeline = model.pipeline(batch_size, 1, Score::Prob)?;
    let size = model.network().input_size;
    let depth = if matches!(mode, Mode::Latency) { 1 } else { pipeline.depth() };
    let mut free: Vec<Pixels> = vec![];
    // The device has as many places, whatever is measured.
    for _ in 0..pipeline.depth() {
        let mut pixels = model.pixels(batch_size)?;
        for (index, image) in pixels.chunks_exact_mut(3 * size * size).enumerate() {
            image.copy_from_slice(&seeded::picture(0, index, size));
        }
        pipeline.submit(pixels)?;
        free.extend(pipeline.collect()?.map(|done| done.pixels));
    }
    let mut under_way = 0;
    let mut step = || {
        while under_way < depth {
            let pixels = free.pop().expect("one for each place");
            match mode {
                Mode::Compute => pipeline.resubmit(pixels)?,
                _ => pipeline.submit(pixels)?,
            }
            under_way += 1;
        }
        free.extend(pipeline.collect()?.map(|done| done.pixels));
        under_way -= 1;
        Ok(())
    };
    let warm_up = Instant::now();
    while warm_up.elapsed() < WARM_UP {
        step()?;
    }
    let begin = Instant::now();
    let mut seconds = vec![];
    while seconds.len() < MIN_STEPS || begin.elapsed() < duration {
        let begin = Instant::now();
        step()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    let elapsed = begin.elapsed();
    note_given_up(model, &mut told);
    Ok(measurement(mode, batch_size, &seconds, elapsed, seconds.len() * batch_size, 0))
}

/// Runs over the input again and again until `duration` is over; a pass is always finished.
fn end_to_end(model: &Model, batch_size: usize, args: &Args, inputs: &Inputs) -> Result<Measurement> {
    let mut runner = Runner::new(model, batch_size, 1, Score::Prob)?;
    let (mut seconds, mut images, mut failed) = (vec![], 0, 0);
    let mut elapsed = Duration::ZERO;
    let mut warm = false;
    while !warm || elapsed < args.duration {
        let options = FeedOptions {
            decode: args.decode.options(),
            input_size: model.network().input_size,
            threads: threads(args.device.workers),
            stop: || false,
        };
        let buffers = runner.buffers()?; // a run has them from the start: not counted
        let begin = Instant::now();
        let mut step = begin;
        let mut feed = Feed::new(inputs.expand()?, options, buffers)?;
        runner.run(&mut feed, |rows, _| {
            let now = Instant::now();
            seconds.push((now - step).as_secs_f64());
            step = now;
            let good = rows.iter().filter(|row| row.error.is_none()).count();
            images += good;
            failed += rows.len() - good;
            Ok(())
        })?;
        elapsed += begin.elapsed();
        if images == 0 {
            let reason =
                if failed > 0 { "no input can be decoded; run predict to see why" } else { "the input is empty" };
            return Err(Error::Usage(format!("nothing to measure end to end: {reason}")));
        }
        if !warm {
            // The first pass fills the page cache and the buffers; it does not count.
            warm = true;
            (seconds, images, failed, elapsed) = (vec![], 0, 0, Duration::ZERO);
        }
    }
    Ok(measurement(Mode::EndToEnd, batch_size, &seconds, elapsed, images, failed))
}

fn measurement(
    mode: Mode,
    batch_size: usize,
    seconds: &[f64],
    elapsed: Duration,
    images: usize,
    failed: usize,
) -> Measurement {
    let latency = Spread::of(seconds.iter().map(|s| s * 1e3).collect());
    Measurement {
        mode,
        batch_size,
        samples_per_sec: images as f64 / elapsed.as_secs_f64(),
        step_time_ms: latency.mean,
        latency_ms: latency,
        steps: seconds.len(),
        images,
        failed,
    }
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "{:<12}{:>6}{:>12}{:>11}{:>11}{:>11}{:>11}{:>8}\n",
        "mode", "batch", "images/s", "mean ms", "median", "p99", "max", "steps"
    );
    for r in &report.results {
        let mode = match r.mode {
            Mode::Latency => "latency",
            Mode::Compute => "compute",
            Mode::Copied => "copied",
            Mode::EndToEnd => "end to end",
        };
        let l = &r.latency_ms;
        writeln!(
            text,
            "{mode:<12}{:>6}{:>12.1}{:>11.3}{:>11.3}{:>11.3}{:>11.3}{:>8}",
            r.batch_size,
            r.samples_per_sec,
            l.mean,
            l.median,
            l.percentile(99.0).expect("one of PERCENTILES"),
            l.max,
            r.steps
        )
        .expect("writing to a String");
        if l.cv > 0.025 {
            note(&format!(
                "{mode}, batch {}: unsteady, the deviation is {:.1} % of the mean",
                r.batch_size,
                l.cv * 100.0
            ));
        }
    }
    text
}

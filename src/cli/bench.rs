//! `alexnet bench`: images per second and latency, compute alone and, given an input, decoding alone and end to end.

mod cold_start;
mod csv;
mod end_to_end;
mod in_memory;
mod peers;
mod steps;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use alexnet::record::{Bench, BenchResult, Inputs, Machine, Mode, Record};
use alexnet::{Model, Precision, Result, Score};

use super::args::{DecodeArgs, DeviceArgs, ModelArgs, precision_parser, seconds};
use super::outputs::Outputs;
use super::{Outcome, note, note_given_up};
use end_to_end::Files;

#[derive(clap::Args)]
pub struct Args {
    /// Pictures, folders, globs, .npy packs or - (a list on stdin) to measure decoding and end to end as well.
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    /// What to compute in, measured one after the other.
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',', default_value = "float32", value_parser = precision_parser())]
    precision: Vec<Precision>,
    /// Batch sizes, one measurement each.
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: Vec<u32>,
    #[command(flatten)]
    measuring: Measuring,
    /// Measure from a process's start to its first prediction too, in N fresh processes.
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    cold_start: Option<u16>,
    /// Records that other programs or earlier runs wrote with --json, to stand beside this run's figures.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    peers: Vec<PathBuf>,
    #[command(flatten)]
    outputs: Outputs,
}

/// How long to measure, and what of.
#[derive(clap::Args)]
struct Measuring {
    /// Seconds that everything runs before anything is counted.
    #[arg(long, value_name = "SECONDS", default_value = "0.2", value_parser = seconds)]
    warmup: Duration,
    /// Seconds a measurement lasts at least.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    duration: Duration,
    /// Batches a measurement counts at least, however short its duration.
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Percentiles of all times.
    #[arg(long, value_name = "P,...", value_delimiter = ',', default_value = "90,95,99", value_parser = percent)]
    percentile: Vec<f64>,
    /// Keep every batch's time in the record.
    #[arg(long)]
    step_times: bool,
}

impl Measuring {
    /// Whether the pass whose batches the device times may end: it is a fifth of a measurement.
    fn is_clocked(&self, batches: usize, elapsed: Duration) -> bool {
        batches >= self.iterations as usize && elapsed >= self.duration / 5
    }
}

fn percent(text: &str) -> std::result::Result<f64, String> {
    let percent: Option<f64> = text.parse().ok().filter(|percent| *percent > 0.0 && *percent < 100.0);
    percent.ok_or_else(|| "a percentile is a number between 0 and 100, both excluded".into())
}

pub fn run(args: &Args) -> Result<Outcome> {
    args.device.limit_threads()?;
    args.outputs.check()?;
    let peers = peers::read(&args.peers)?;
    let files = Files::new(&args.inputs)?;
    let model_args = args.model.or_seeded();
    let mut bench = None;
    let measured = measure_all(args, &model_args, &files, &mut bench);
    let Some(mut bench) = bench.filter(|bench| !bench.results.is_empty()) else {
        return measured.map(|()| unreachable!("clap has a precision and a batch size at least"));
    };
    // What was measured until then is good.
    bench.notes.extend(measured.as_ref().err().map(|error| format!("ended early: {error}")));
    for warning in warnings(&bench, &peers) {
        note(&warning);
        bench.notes.push(warning);
    }
    if bench.results.iter().any(|result| result.compute_ms.is_some()) {
        bench.notes.push(
            "enqueue, h2d, compute and d2h are of a pass of their own, in which the clock is read between the parts of each \
             batch; all else is of a pass without"
                .into(),
        );
    }
    let any_failed = bench.results.iter().any(|result| result.failed > 0);
    let mut records = vec![Record::Bench(bench)];
    records.extend(peers.into_iter().map(|peer| Record::Bench(peer.bench)));
    let benches =
        || records.iter().filter_map(|record| if let Record::Bench(bench) = record { Some(bench) } else { None });
    let percentiles = &args.measuring.percentile;
    args.outputs.write(&records, || table::table(benches(), percentiles), || csv::csv(benches(), percentiles))?;
    measured?;
    Ok(if any_failed { Outcome::SomeFailed } else { Outcome::Done })
}

/// Everything, into `bench`, which an error leaves with what there is until then.
fn measure_all(args: &Args, model_args: &ModelArgs, files: &Files, bench: &mut Option<Bench>) -> Result<()> {
    // One model at a time: two may not fit the device.
    for &precision in &args.precision {
        let model = model_args.load(&args.device, precision, None)?;
        let bench = bench.get_or_insert_with(|| args.describe(model_args, &model));
        let measured = measure(&model, precision, args, files, &mut bench.results);
        if !model.given_up().is_empty() {
            // It tells which devices measured to the end.
            bench.machine.device = model.device();
            bench.notes.extend(model.given_up());
        }
        measured?;
    }
    if let (Some(processes), Some(bench)) = (args.cold_start, bench) {
        bench.cold_start = Some(cold_start::measure(args, model_args, args.precision[0], processes)?);
    }
    Ok(())
}

/// Every mode at every batch size, after the `results` that there are.
fn measure(
    model: &Model,
    precision: Precision,
    args: &Args,
    files: &Files,
    results: &mut Vec<BenchResult>,
) -> Result<()> {
    // Where nothing overlaps, the three are the same.
    let overlaps = model.pipeline(1, 1, Score::Prob)?.depth() > 1;
    let modes = if overlaps { &[Mode::Latency, Mode::Compute, Mode::Copied][..] } else { &[Mode::Compute] };
    let mut told = 0;
    for &batch_size in &args.batch_size {
        let batch_size = batch_size as usize;
        for &mode in modes {
            let steps = in_memory::measure(model, mode, batch_size, &args.measuring)?;
            results.push(steps.result(mode, precision, batch_size, &args.measuring));
        }
        note_given_up(model, &mut told);
        if !args.inputs.is_empty() {
            let compute = results.last().filter(|_| !overlaps).map(|result: &BenchResult| result.samples_per_sec);
            let [decode, steps] = end_to_end::measure(model, batch_size, args, files)?;
            let decode = decode.result(Mode::Decode, precision, batch_size, &args.measuring);
            let mut result = steps.result(Mode::EndToEnd, precision, batch_size, &args.measuring);
            result.sequential_share =
                compute.map(|compute| result.samples_per_sec * (1.0 / decode.samples_per_sec + 1.0 / compute));
            results.extend([decode, result]);
        }
        told = model.given_up().len(); // which its runner has said
    }
    Ok(())
}

impl Args {
    /// The record of a run of `model`, as yet without results.
    fn describe(&self, model_args: &ModelArgs, model: &Model) -> Bench {
        let Measuring { warmup, duration, iterations, .. } = &self.measuring;
        Bench {
            machine: Machine::of(model),
            subject: self.device.subject(model, &model_args.checkpoint_name()),
            inputs: (!self.inputs.is_empty()).then(|| Inputs {
                names: self.inputs.iter().map(|input| input.to_string_lossy().into_owned()).collect(),
                exif: self.decode.exif(),
                decoder: self.decode.decoder(),
            }),
            warm_up_s: warmup.as_secs_f64(),
            duration_s: duration.as_secs_f64(),
            iterations: *iterations as usize,
            results: vec![],
            cold_start: None,
            notes: vec![],
        }
    }
}

/// The deviation of steady steps, over their mean, is below this.
const STEADY_CV: f64 = 0.025;
/// Where the host takes longer to queue a batch than this part of its time on the device, it may be what limits speed.
const ENQUEUE: f64 = 0.8;

/// What a reader of the figures should know before he trusts them.
fn warnings(bench: &Bench, peers: &[peers::Peer]) -> Vec<String> {
    let mut warnings = vec![];
    for result in &bench.results {
        let what = format!("{}, {}, batch {}", result.precision, result.mode.name(), result.batch_size);
        let (room, given) = (result.steps * result.batch_size, result.images + result.failed);
        if given < room {
            warnings.push(format!(
                "{what}: batches had room for {room} pictures, {given} came; give more, or a smaller batch"
            ));
        }
        let cv = result.latency_ms.cv;
        if cv > STEADY_CV {
            warnings.push(format!("{what}: unsteady, the deviation is {:.1} % of the mean", 100.0 * cv));
        }
        if let Some(windows) = result.windows.as_ref().filter(|windows| !windows.stable) {
            let [a, b, c] = windows.samples_per_sec;
            warnings.push(format!(
                "{what}: not stable, the last three windows have {a:.1}, {b:.1} and {c:.1} images/s, more than 10 % from \
                 their mean; measure longer"
            ));
        }
        if let (Some(enqueue), Some(compute)) = (&result.enqueue_ms, &result.compute_ms)
            && enqueue.median > ENQUEUE * compute.median
        {
            warnings.push(format!(
                "{what}: the host takes {:.3} ms to queue what the device computes in {:.3} ms, and may limit it",
                enqueue.median, compute.median
            ));
        }
    }
    warnings.extend(peers.iter().flat_map(|peer| peer.differences(bench)));
    warnings
}

#[cfg(test)]
mod tests;

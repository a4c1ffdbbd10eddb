//! `alexnet profile`: where a network's time goes, step by step, beside what the device could do.

mod measure;
mod report;
mod table;
mod trace;
mod trtexec;

use std::path::PathBuf;
use std::time::Duration;

use alexnet::record::{Machine, Record};
use alexnet::{Device, Error, Precision, Result, Split, file};

use super::args::{DeviceArgs, ModelArgs, precision_parser, seconds};
use super::outputs::Outputs;
use super::{Outcome, note};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// What to compute in.
    #[arg(long, value_name = "TYPE", default_value = "float32", value_parser = precision_parser())]
    precision: Precision,
    /// Images a run.
    #[arg(short, long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Seconds that it measures at least.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    duration: Duration,
    /// Of the pictures, which are drawn at random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    outputs: Outputs,
    /// Write the steps' times as trtexec's --exportProfile does.
    #[arg(long, value_name = "FILE.json", value_parser = json_file)]
    trtexec: Option<PathBuf>,
    /// Write a trace for Chrome's chrome://tracing and for Perfetto: a run step by step, then batches at full speed.
    #[arg(long, value_name = "FILE.json", value_parser = json_file)]
    trace: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    args.device.limit_threads()?;
    args.outputs.check()?;
    if args.trace.is_some() && args.trace == args.trtexec {
        return Err(Error::Usage("--trtexec and --trace name one file; give each its own".into()));
    }
    args.trtexec.iter().chain(&args.trace).try_for_each(|path| file::check(path))?;
    let model_args = args.model.or_seeded();
    let model = model_args.load(&args.first_device(), args.precision, None)?;
    let batch = args.batch_size as usize;
    let machine = Machine::of(&model);
    let measured = measure::measure(&model, batch, args.seed, args.duration, args.trace.is_some())?;
    let profile = report::profile(&model, machine, args, &model_args.checkpoint_name(), &measured)?;
    for line in report::warnings(&profile) {
        note(&line);
    }
    if let Some(path) = &args.trtexec {
        file::write(path, trtexec::export(&profile).as_bytes())?;
    }
    if let Some(path) = &args.trace {
        file::write(path, trace::draw(&profile, &measured).as_bytes())?;
    }
    let records = [Record::Profile(profile)];
    let Record::Profile(profile) = &records[0] else { unreachable!("just made") };
    args.outputs.write(&records, || table::table(profile), || table::csv(profile))?;
    Ok(Outcome::Done)
}

impl Args {
    /// The device that is profiled: of several that share batches, the first.
    fn first_device(&self) -> DeviceArgs {
        let mut device = self.device.clone();
        if let (Device::Cuda(ordinals), true) = (&mut device.device, device.split != Some(Split::TwoGpu))
            && ordinals.len() > 1
        {
            ordinals.truncate(1);
            note(&format!("of several GPUs the first is profiled, cuda:{}: each runs whole batches", ordinals[0]));
        }
        device
    }
}

/// A file named .json, so that no checkpoint is overwritten by mistake.
fn json_file(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|extension| extension == "json") {
        Ok(path)
    } else {
        Err("its name ends in .json".into())
    }
}

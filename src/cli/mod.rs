//! The command line, a file a command. Data goes to stdout, everything else to stderr.
//!
//! Exit codes: 0 done; 2 usage; 3 done, but some inputs failed; 4 weights rejected; 5 no usable device; 6 output failed;
//! 7 the device failed while it ran, or layouts compared disagree; 130 interrupted; 141 the reader of stdout went away.

mod args;
mod bench;
mod compare;
mod completions;
mod convert;
mod filters;
mod init;
mod outputs;
mod pack;
mod page;
mod pictures;
mod predict;
mod profile;
mod progress;
mod report;
mod rows;
mod runner;
#[cfg(test)]
mod samples;
mod summary;
mod words;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use alexnet::{Error, Model, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "alexnet", version, about = "AlexNet: six variants, PyTorch's numbers, fast batch inference")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Classify pictures, folders, globs, lists and packs.
    Predict(predict::Args),
    /// Decode, resize and crop pictures once into a NumPy file that later runs read fast.
    Pack(pack::Args),
    /// Print a network: layers, shapes, parameters, multiply-adds.
    Summary(summary::Args),
    /// Write a checkpoint of fresh weights.
    Init(init::Args),
    /// Rewrite any readable checkpoint as safetensors.
    Convert(convert::Args),
    /// Draw the first layer's filters.
    Filters(filters::Args),
    /// Measure images per second and latency.
    Bench(bench::Args),
    /// Measure layouts of one network against each other: whole, in two towers, on several GPUs.
    Compare(compare::Args),
    /// Show where a network's time goes, step by step, beside what the device could do.
    Profile(profile::Args),
    /// Write a page of tables and pictures from records of earlier runs.
    Report(report::Args),
    /// Print a shell completion script.
    Completions(completions::Args),
}

/// How a command that ran to its end ended.
enum Outcome {
    Done,
    /// Some inputs have an error row.
    SomeFailed,
    /// Ctrl-C: finished rows are out.
    Interrupted,
}

pub fn main() -> ExitCode {
    // clap prints usage errors itself and exits with 2.
    let result = match Cli::parse().command {
        Command::Predict(args) => predict::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Summary(args) => summary::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Filters(args) => filters::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Completions(args) => completions::run(&args),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::SomeFailed) => ExitCode::from(3),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(Error::Output { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(141),
        Err(error) => {
            note(&format!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// A line on stderr. One that cannot be written there has nowhere else to go.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "alexnet: {line}");
}

/// A line on stderr for every device that was given up since the last time; `told` counts them.
fn note_given_up(model: &Model, told: &mut usize) {
    for reason in model.given_up().iter().skip(*told) {
        note(reason);
        *told += 1;
    }
}

/// Writes all of `text` to stdout.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::output(Path::new("<stdout>")))
}

/// True once Ctrl-C was pressed; a second one ends the process at once. Commands that stream results ask between batches.
fn interrupted() -> bool {
    static PRESSED: AtomicBool = AtomicBool::new(false);
    static HANDLER: OnceLock<()> = OnceLock::new();
    HANDLER.get_or_init(|| {
        let handler = || {
            if PRESSED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            note(&format!("Ctrl-C will end the run at once, without finishing its batch: {error}"));
        }
    });
    PRESSED.load(Ordering::SeqCst)
}

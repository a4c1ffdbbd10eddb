//! Whether the steps of `alexnet profile` account for the time of a run: on the CPU the sum of their medians must be within 5 % of
//! the median run at full speed, with which they took turns. It needs the machine to itself.
//!
//! Ends with an error where that is not so.

use std::process::{Command, ExitCode};

/// How far the sum may be off.
const TOLERANCE: f64 = 0.05;

fn main() -> ExitCode {
    let mut good = true;
    for model in ["torchvision", "paper"] {
        let mut profile = Command::new(env!("CARGO_BIN_EXE_alexnet"));
        profile.args([
            "profile",
            "-m",
            model,
            "--checkpoint",
            "seed:0",
            "--device",
            "cpu",
            "-b",
            "8",
            "--duration",
            "20",
            "--json",
        ]);
        let output = profile.output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let record: serde_json::Value = serde_json::from_slice(&output.stdout).expect("profile prints JSON");
        let figure = |name: &str| record[name]["median"].as_f64().expect("a time");
        let over = record["steps_over_run"].as_f64().expect("a ratio");
        println!(
            "{model}, batch 8: the steps' medians add up to {over:.3} of a run, {:.1} ms; step by step {:.1} ms; {} runs each",
            figure("run_ms"),
            figure("stepwise_ms"),
            record["runs"]
        );
        good &= (over - 1.0).abs() <= TOLERANCE;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

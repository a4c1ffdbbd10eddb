//! The command line as a process: what it prints, the files it writes, its exit codes.

mod bench;
mod commands;
mod compare;
mod cublaslt;
mod cuda;
mod failures;
mod pictures;
mod predict;
mod preflight;
mod profile;

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::testdata;

/// What a finished process left.
struct Finished {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Finished {
    /// Stdout of a run that must have ended with `code`.
    fn expect(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Stderr of a run that must have ended with `code` and named all of `parts`.
    fn refuse(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "'{part}' is not in:\n{}", self.stderr);
        }
    }
}

/// As [`alexnet`], with the CUDA device under test.
fn alexnet_cuda<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Finished {
    let mut command = command(arguments);
    match std::env::var_os("CUDA_VISIBLE_DEVICES") {
        Some(devices) => command.env("CUDA_VISIBLE_DEVICES", devices),
        None => command.env_remove("CUDA_VISIBLE_DEVICES"),
    };
    if let Some(library) = crate::device::preload() {
        command.env("LD_PRELOAD", library).envs(crate::device::WITHOUT_RACES);
    }
    finish(command, b"")
}

/// `alexnet` with arguments, run in the test root, so that paths print as a user of the repository sees them.
fn alexnet<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Finished {
    finish(command(arguments), b"")
}

fn command<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(testdata::alexnet());
    command.args(arguments).current_dir(testdata::path("")).env("TORCH_HOME", testdata::path("no-such-cache"));
    // No GPU, on any machine: what these tests expect is the CPU's to the bit.
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
}

fn finish(mut command: Command, stdin: &[u8]) -> Finished {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // A process that refuses its arguments does not read its input.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let code = output.status.code().expect("ended by itself, not by a signal");
    Finished { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Rows of CSV with a heading, by column.
fn csv_rows(text: &str) -> Vec<std::collections::HashMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(|row| row.expect("every row has every column")).collect()
}

fn str(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

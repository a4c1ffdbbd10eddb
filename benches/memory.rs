//! Peak memory of the command line.
//!
//! - Of `predict` over 10,000 rows of a pack against that over 1,000: the run streams, so it must not grow.
//! - Of a full-width network from a file, on the CPU: weights are held once, as they are packed.
//!
//! Ends with an error where either takes more than its limit.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use alexnet::input::PackWriter;
use alexnet::net::Variant;
use alexnet::weights::seeded;
use alexnet::{Device, Model, Options};

/// Growth allowed from the short run to the long one.
const GROWTH_MB: f64 = 32.0;
/// What a run may take beside packed weights and buffers: program, threads' stacks and scratch, pictures.
const BESIDE_MB: f64 = 64.0;
const BATCH: usize = 32;

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let predict = |rows| peak_mb([OsStr::new("predict"), pack(folder.path(), rows).as_os_str()]);
    let (short, long) = (predict(1_000), predict(10_000));
    println!("peak of predict: {short:.1} MB over 1,000 rows, {long:.1} MB over 10,000; at most {GROWTH_MB} MB more");

    let (file, held) = full_width(folder.path());
    let full = recorded_peak_mb(&file);
    println!(
        "peak of bench -b {BATCH}: {full:.1} MB; weights and buffers are {held:.1} MB; at most {BESIDE_MB} MB more"
    );
    if long - short > GROWTH_MB || full - held > BESIDE_MB { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What `bench` says of its own peak: the kernel's figure for a child begins with this process's, which has held the file.
fn recorded_peak_mb(checkpoint: &Path) -> f64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alexnet"));
    command.args(["bench", "--device", "cpu", "--duration", "0.1", "--iterations", "1", "--json", "-b"]);
    let output = command.arg(BATCH.to_string()).arg("--checkpoint").arg(checkpoint).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).expect("bench prints JSON");
    record["results"][0]["peak_resident_bytes"].as_f64().expect("Linux tells it") / 1e6
}

/// A file of torchvision's network, and what its packed weights and buffers take in MB.
fn full_width(folder: &Path) -> (std::path::PathBuf, f64) {
    let path = folder.join("weights.safetensors");
    let variant = Variant::by_name("torchvision").expect("one of the six");
    let checkpoint = seeded::checkpoint(variant, 0).expect("published widths fit");
    checkpoint.save_safetensors(&path).expect("a checkpoint can be written");
    let options = Options { device: Device::Cpu, ..Options::default() };
    let model = Model::load(&path, &options).expect("just written");
    let holdings = model.holdings(BATCH).expect("a plan");
    let bytes: usize = holdings.iter().map(|holding| holding.weights + holding.buffers).sum();
    (path, bytes as f64 / 1e6)
}

/// A pack of black pictures: a real header, and data that takes no space on disk.
fn pack(folder: &Path, rows: u64) -> std::path::PathBuf {
    let size = 224;
    let path = folder.join(format!("{rows}.npy"));
    PackWriter::create(&path, size).and_then(PackWriter::finish).expect("a pack can be written");
    let file = File::options().read(true).write(true).open(&path).expect("just written");
    let mut header = [0; 128];
    file.read_exact_at(&mut header, 0).expect("a pack begins with 128 bytes of header");
    let text = String::from_utf8_lossy(&header[10..]).replace("(0, ", &format!("({rows}, "));
    let text = format!("{:<117}\n", text.trim_end());
    file.write_all_at(text.as_bytes(), 10).expect("the header's place is there");
    file.set_len(128 + rows * (size * size * 3) as u64).expect("a sparse file");
    path
}

/// Peak of the command line with these arguments, which must do well, or of a larger one that ran before: the kernel keeps the
/// largest child's.
fn peak_mb<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> f64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alexnet"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("it starts").success(), "{command:?} failed");
    // SAFETY: getrusage writes a whole rusage to the pointer it is given, which is valid, and keeps nothing.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
        usage
    };
    usage.ru_maxrss as f64 * 1024.0 / 1e6 // KiB on Linux
}

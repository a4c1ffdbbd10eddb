//! Peak memory of `predict` over 10,000 rows of a pack against that over 1,000: the run streams, so it must not grow.
//!
//! Ends with an error where it grows by more than 32 MB.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use alexnet::input::PackWriter;

/// Growth allowed from the short run to the long one.
const LIMIT_MB: f64 = 32.0;

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let short = peak_mb(&pack(folder.path(), 1_000));
    // The kernel keeps the largest child's peak, so this one shows only what exceeds the first.
    let long = peak_mb(&pack(folder.path(), 10_000));
    println!("peak of predict: {short:.1} MB over 1,000 rows, {long:.1} MB over 10,000; at most {LIMIT_MB} MB more");
    if long - short > LIMIT_MB { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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

fn peak_mb(pack: &Path) -> f64 {
    let mut predict = Command::new(env!("CARGO_BIN_EXE_alexnet"));
    let predict = predict.arg("predict").arg(pack).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(predict.status().expect("it starts").success(), "predict failed on {}", pack.display());
    // SAFETY: getrusage writes a whole rusage to the pointer it is given, which is valid, and keeps nothing.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
        usage
    };
    usage.ru_maxrss as f64 / 1e3 // kilobytes on Linux
}

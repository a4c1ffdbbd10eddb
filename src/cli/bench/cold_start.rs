//! From a process's start to its first prediction.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use alexnet::record::ColdStart;
use alexnet::statistics::Spread;
use alexnet::weights::seeded;
use alexnet::{Error, Precision, Result, open_checkpoint};
use image::ExtendedColorType;

use super::Args;
use crate::cli::args::ModelArgs;

/// Side of the picture in pixels.
const PICTURE: usize = 256;

/// Runs `predict` on one picture in `processes` fresh processes, after one that does not count.
///
/// # Errors
/// [`Error::Device`] with what the process said where it fails, [`Error::Output`] for files that cannot be written.
pub fn measure(args: &Args, model: &ModelArgs, precision: Precision, processes: u16) -> Result<ColdStart> {
    let temporary = std::env::temp_dir();
    let folder = tempfile::tempdir().map_err(Error::output(&temporary))?;
    let picture = folder.path().join("picture.png");
    let pixels = seeded::picture(0, 0, PICTURE);
    image::save_buffer(&picture, &pixels, PICTURE as u32, PICTURE as u32, ExtendedColorType::Rgb8)
        .map_err(|e| Error::output(&picture)(std::io::Error::other(e)))?;
    // Drawing weights takes longer than reading them, and users do not: theirs are in a file.
    let mut model = ModelArgs { checkpoint: model.checkpoint.clone(), ..*model };
    let mut weights = "the checkpoint";
    if let Some(name) = model.checkpoint.as_deref().filter(|name| name.to_string_lossy().starts_with("seed:")) {
        let file = folder.path().join("weights.safetensors");
        open_checkpoint(name, model.model)?.save_safetensors(&file)?;
        (model.checkpoint, weights) = (Some(file), "a .safetensors file of the same weights");
    }
    let program = std::env::current_exe()
        .map_err(|e| Error::Device(format!("cold start: this program's file is not known: {e}")))?;
    let said = folder.path().join("stderr");
    let first_prediction = || {
        let mut command = Command::new(&program);
        command.arg("predict").arg(&picture).args(["--results-format", "jsonl", "--precision", precision.name()]);
        command.args(model.arguments()).args(args.device.arguments());
        first_line(command, &said)
    };
    first_prediction()?;
    let times = (0..processes).map(|_| Ok(1e3 * first_prediction()?.as_secs_f64())).collect::<Result<_>>()?;
    Ok(ColdStart {
        first_prediction_ms: Spread::with(times, &args.measuring.percentile),
        processes: processes.into(),
        how: format!(
            "from the start of `alexnet predict` to its first result on stdout, one PNG of {PICTURE}x{PICTURE}, {weights}, \
             {}; one process ran before, so that program, weights and picture are in the page cache and a GPU's driver has \
             its kernels translated",
            precision.name()
        ),
        peers: vec![],
    })
}

/// Time until the process has written a line to stdout, and ended well. What it says on stderr goes to the file `said`.
fn first_line(mut command: Command, said: &Path) -> Result<Duration> {
    let stderr = File::create(said).map_err(Error::output(said))?;
    let failed = |what: String| {
        let said = std::fs::read(said).unwrap_or_default();
        Error::Device(format!("cold start: `alexnet predict` {what}:\n{}", String::from_utf8_lossy(&said).trim_end()))
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let begin = Instant::now();
    let mut child = command.spawn().map_err(|e| failed(format!("does not start: {e}")))?;
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let read = stdout.read_line(&mut line);
    let time = begin.elapsed();
    // A process that is not waited for stays in the system's table.
    let ended = child.wait().map_err(|e| failed(format!("cannot be waited for: {e}")))?;
    match read {
        Ok(_) if ended.success() && line.ends_with('\n') => Ok(time),
        Err(error) => Err(failed(format!("cannot be read: {error}"))),
        _ => Err(failed(format!("failed ({ended})"))),
    }
}

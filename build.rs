//! Compiles kernels/*.cu to PTX with nvcc, or, where there is no nvcc, takes the PTX in kernels/prebuilt.
//!
//! PTX depends on the sources and on nvcc alone: not on the cargo profile, the machine's GPU or paths, nor on flags that
//! nvcc takes from the environment, which are kept from it. nvcc is looked for in NVCC, CUDA_HOME, CUDA_PATH, PATH and
//! /usr/local/cuda; a host compiler and its flags come from the `cc` crate. An nvcc that is found and fails is an error,
//! never a reason to fall back.
//!
//! The program also learns which commit it is built from, and by which rustc: records of measurements name them. For the
//! commit to be right this script runs whenever a source changes; nvcc then runs again only if its own sources changed.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Virtual architecture of what ships: every GPU from A100 on translates it.
const ARCH: &str = "compute_80";
/// Lowest PTX version that has sm_80 and all instructions in use. nvcc writes its own version, which drivers older than it
/// reject; the text is the same.
const PTX_VERSION: &str = "7.0";
/// Read besides what `cc` reads.
const VARIABLES: [&str; 4] = ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"];

/// What the program is made of, and what it is measured with.
const SOURCES: [&str; 6] = ["src", "kernels", "benches", "Cargo.toml", "Cargo.lock", "build.rs"];

fn main() {
    for source in SOURCES.iter().filter(|source| Path::new(source).exists()) {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rustc-env=ALEXNET_COMMIT={}", commit().unwrap_or_default());
    println!("cargo::rustc-env=ALEXNET_RUSTC={}", rustc().unwrap_or_default());
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for variable in VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(message) = run() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let kernels = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("kernels");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let sources: Vec<PathBuf> = files(&kernels)?.into_iter().filter(|path| has_extension(path, "cu")).collect();
    let made_from = out.join("made_from"); // all that the PTX beside it comes from
    match find_nvcc()? {
        Some(nvcc) => {
            println!("cargo::rerun-if-changed={}", nvcc.display());
            let host = host_arguments(&nvcc)?;
            let unlowered = |source: &Path| out.join(ptx_name(source)).with_extension("unlowered");
            let command = |source: &Path| nvcc_command(&nvcc, &host, &kernels, source, &unlowered(source));
            let commands = sources.iter().map(|source| format!("{:?}\n", command(source))).collect();
            let inputs = inputs(&nvcc, &kernels, commands)?;
            let is_there = sources.iter().all(|source| out.join(ptx_name(source)).is_file());
            if is_there && fs::read(&made_from).is_ok_and(|before| before == inputs) {
                return Ok(());
            }
            let _ = fs::remove_file(&made_from); // until all of it is made anew
            for source in &sources {
                let text = compile(&nvcc, source, command(source), &unlowered(source))?;
                let path = out.join(ptx_name(source));
                fs::write(&path, lower(&text)?).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            fs::write(&made_from, inputs).map_err(|e| format!("{}: {e}", made_from.display()))?;
        }
        None => {
            let _ = fs::remove_file(&made_from);
            println!(
                "cargo::warning=no nvcc found: embedding the PTX in kernels/prebuilt (set NVCC to compile kernels)"
            );
            for source in &sources {
                let path = kernels.join("prebuilt").join(ptx_name(source));
                // Read and written, not copied: the copy must be writable where the source is not.
                let copied = fs::read(&path).and_then(|text| fs::write(out.join(ptx_name(source)), text));
                copied.map_err(|e| {
                    format!("{}: {e}; install nvcc 13.0 to compile {}", path.display(), source.display())
                })?;
            }
        }
    }
    Ok(())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

/// All files below `folder`, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Everything that the PTX comes from: this script, nvcc, its `commands`, and the kernels with all that they include.
fn inputs(nvcc: &Path, kernels: &Path, commands: String) -> Result<Vec<u8>, String> {
    let about = fs::metadata(nvcc).map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let about = format!("{nvcc:?} {} {:?}\n", about.len(), about.modified());
    let mut inputs = [include_str!("build.rs"), &about, &commands].concat().into_bytes();
    for file in files(kernels)?.iter().filter(|path| !has_extension(path, "ptx")) {
        let text = fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
        inputs.extend(format!("{} {}\n", file.display(), text.len()).bytes());
        inputs.extend(text);
    }
    Ok(inputs)
}

/// `kernels/conv/conv_f32.cu` compiles to `conv_f32.ptx`.
fn ptx_name(source: &Path) -> PathBuf {
    Path::new(source.file_name().expect("a source is a file")).with_extension("ptx")
}

/// The nvcc that the environment names, else the first one found. One that is named but not there is an error.
fn find_nvcc() -> Result<Option<PathBuf>, String> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = set("NVCC") {
        let found = if named.components().count() > 1 { Some(named.clone()) } else { in_path(&named) };
        return match found {
            Some(path) if path.is_file() => Ok(Some(path)),
            _ => Err(format!("NVCC is {}, which is not there; correct or unset it", named.display())),
        };
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set).map(|home| home.join("bin/nvcc"));
    let candidates = toolkits.chain(in_path(Path::new("nvcc"))).chain([PathBuf::from("/usr/local/cuda/bin/nvcc")]);
    Ok(candidates.into_iter().find(|path| path.is_file()))
}

fn in_path(program: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Arguments with which nvcc finds and uses a host compiler. With cuda(true) cc gives nvcc's command with them;
/// profile-dependent settings are fixed.
fn host_arguments(nvcc: &Path) -> Result<Vec<OsString>, String> {
    // cc looks for nvcc nowhere else.
    // SAFETY: a build script's main thread is its only one.
    unsafe { env::set_var("NVCC", nvcc) };
    let mut build = cc::Build::new();
    build.cuda(true).debug(false).opt_level(3).warnings(false);
    let tool = build.try_get_compiler().map_err(|e| format!("no host compiler for nvcc: {e}; install gcc or clang"))?;
    Ok(tool.args().to_vec())
}

/// The command that compiles `source` to the file `ptx`.
fn nvcc_command(nvcc: &Path, host: &[OsString], kernels: &Path, source: &Path, ptx: &Path) -> Command {
    // Not cc's tool.to_command(): that looks for nvcc in variables of its own.
    let mut command = Command::new(nvcc);
    command.args(host).env_remove("NVCC_PREPEND_FLAGS").env_remove("NVCC_APPEND_FLAGS");
    // Relative paths: a path in the PTX would make it depend on where the crate lies.
    let relative = source.strip_prefix(kernels).expect("sources lie below the folder");
    command.current_dir(kernels).args(["-ptx", "-std=c++17", "-Werror", "all-warnings"]);
    command.arg(format!("-arch={ARCH}")).arg("-o").arg(ptx).arg(relative);
    command
}

fn compile(nvcc: &Path, source: &Path, mut command: Command, ptx: &Path) -> Result<String, String> {
    let _ = fs::remove_file(ptx); // an nvcc that writes nothing must not pass with an earlier file
    let output = command.output().map_err(|e| format!("{}: cannot be run: {e}", nvcc.display()))?;
    if !output.status.success() {
        return Err(failure(source, &command, &output));
    }
    fs::read_to_string(ptx).map_err(|e| format!("{} wrote no PTX for {}: {e}", nvcc.display(), source.display()))
}

fn failure(source: &Path, command: &Command, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!(
        "nvcc failed on {} ({}):\n{}{}\nthe command was {}",
        source.display(),
        output.status,
        text(&output.stdout),
        text(&output.stderr),
        words.join(" ")
    )
}

/// The text at [`PTX_VERSION`], without hints that need a later one.
fn lower(text: &str) -> Result<String, String> {
    let mut lowered = String::with_capacity(text.len());
    let mut versions = 0;
    for line in text.lines() {
        if line.starts_with(".version ") {
            versions += 1;
            lowered.push_str(&format!(".version {PTX_VERSION}\n"));
        } else if !line.trim_start().starts_with(".pragma \"used_bytes_mask") {
            lowered.push_str(line);
            lowered.push('\n');
        }
    }
    if versions == 1 { Ok(lowered) } else { Err(format!("nvcc wrote {versions} .version lines instead of one")) }
}

/// The commit that is checked out, with `-dirty` where a source differs from it; what ALEXNET_COMMIT says, where it is set.
fn commit() -> Option<String> {
    println!("cargo::rerun-if-env-changed=ALEXNET_COMMIT");
    if let Ok(said) = env::var("ALEXNET_COMMIT") {
        return Some(said);
    }
    // A folder above may be another project's repository.
    if !Path::new(".git").exists() {
        return None;
    }
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let changed = output("git", &[&["status", "--porcelain", "--"][..], &SOURCES].concat())?;
    Some(if changed.is_empty() { commit } else { commit + "-dirty" })
}

/// `rustc 1.95.0 (..)` without the program's name.
fn rustc() -> Option<String> {
    let version = output(&env::var("RUSTC").ok()?, &["--version"])?;
    Some(version.trim_start_matches("rustc ").to_string())
}

/// What a program writes to stdout, where it runs and ends well.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok());
    text.flatten().map(|text| text.trim().to_string())
}

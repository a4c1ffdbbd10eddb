//! For tests: where the built driver library lies, and older drivers made from it.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};

/// Exported names that a driver of CUDA 12.0 lacks; `cuEventElapsedTime_v2` came with 12.8,
/// `cuCtxCreate_v4` with 12.5, `cuCtxSetFlags` with 12.1.
pub const NEWER_THAN_12_0: [&str; 3] = ["cuEventElapsedTime_v2", "cuCtxCreate_v4", "cuCtxSetFlags"];

/// The `libcuemu.so` built together with the running test or program: to be loaded by path before
/// cudarc looks for `libcuda.so` (and never unloaded), or to be named in a child's `LD_PRELOAD`.
///
/// # Panics
/// If there is none beside the executable, where cargo puts it.
pub fn library_path() -> PathBuf {
    built_library("libcuemu.so")
}

/// A library that was built together with the running test or program, by its file's name.
///
/// # Panics
/// If there is none beside the executable, where cargo puts it.
pub fn built_library(file: &str) -> PathBuf {
    let executable = std::env::current_exe().expect("the running executable has a path");
    // Tests run in target/PROFILE/deps, programs in target/PROFILE.
    let folders = executable.ancestors().skip(1).take(2).flat_map(|folder| [folder.to_path_buf(), folder.join("deps")]);
    let candidates: Vec<_> = folders.map(|folder| folder.join(file)).collect();
    let found = candidates.iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{file} is in none of {candidates:?}: build the package it belongs to")).clone()
}

/// Copies `library` into `folder` with the exported `names` struck out: a driver that lacks them.
/// The loader finds a symbol by its name's hash and then compares the name, so that changing the
/// bytes of the name hides it. Returns the copy's path.
///
/// # Errors
/// Of reading and writing, and if a name isn't there.
pub fn library_without(library: &Path, names: &[&str], folder: &Path) -> Result<PathBuf> {
    let mut bytes = std::fs::read(library)?;
    for name in names {
        // In a string table each name stands between zero bytes.
        let pattern = [b"\0", name.as_bytes(), b"\0"].concat();
        let mut found = false;
        while let Some(at) = bytes.windows(pattern.len()).position(|window| window == pattern) {
            bytes[at + 1] = b'-';
            found = true;
        }
        if !found {
            return Err(Error::other(format!("{} exports no {name}", library.display())));
        }
    }
    let copy = folder.join("libcuemu.so");
    std::fs::write(&copy, bytes)?;
    Ok(copy)
}

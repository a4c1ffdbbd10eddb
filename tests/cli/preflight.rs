//! Every reason why a CUDA device cannot be used, imitated by the emulated driver: exit 5, and what was found, what is
//! needed and what to do; never a panic, never the CPU instead.

use std::collections::BTreeSet;
use std::path::Path;

use cuemu::driver::library::{NEWER_THAN_12_0, library_without};

use super::{Finished, command, csv_rows, finish};
use crate::device::library;

const PICTURE: &str = "samples/shapes/star/0.jpg";

/// `predict --device DEVICE` with this driver library and environment.
fn predict(driver: &Path, device: &str, environment: &[(&str, &str)]) -> Finished {
    let mut command = command(["predict", PICTURE, "--device", device]);
    command.env_remove("CUDA_VISIBLE_DEVICES").env("LD_PRELOAD", driver).envs(environment.iter().copied());
    let finished = finish(command, b"");
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    finished
}

#[test]
fn devices_that_cannot_be_used() {
    let refused = |device: &str, environment: &[(&str, &str)], parts: &[&str]| {
        let finished = predict(&library(), device, environment);
        assert_eq!(finished.stdout, "");
        finished.refuse(5, parts);
    };
    refused("cuda", &[("CUEMU_STUB", "1")], &["stub", "LD_LIBRARY_PATH"]);
    refused("cuda", &[("CUEMU_DEVICES", "0")], &["no GPU", "nvidia-smi"]);
    refused("cuda:1", &[], &["no CUDA device 1", "found 1"]);
    refused("cuda:0,1", &[], &["no CUDA device 1", "found 1"]);
    refused("cuda", &[("CUEMU_DRIVER_VERSION", "11080")], &["too old", "found CUDA 11.8", "needed 12.0", "525"]);
    refused("cuda", &[("CUEMU_COMPUTE_CAPABILITY", "7.5")], &["compute capability 7.5", "needed 8.0"]);
    refused("cuda", &[("CUEMU_MEMORY", "100000")], &["memory", "--batch-size"]);
    // auto takes the CPU then, and says why.
    let auto = predict(&library(), "auto", &[("CUEMU_STUB", "1")]);
    assert!(auto.stderr.contains("no GPU is used") && auto.stderr.contains("on CPU"), "{}", auto.stderr);
    assert_eq!(csv_rows(&auto.expect(0))[0]["label"], "star");
}

#[test]
fn devices_from_a100_on_are_used() {
    for compute in ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"] {
        let finished = predict(&library(), "auto", &[("CUEMU_COMPUTE_CAPABILITY", compute)]);
        assert!(finished.stderr.contains("on cuda:0"), "{}", finished.stderr);
        assert_eq!(csv_rows(&finished.expect(0))[0]["label"], "star", "{compute}");
    }
}

/// A driver of CUDA 12.0, without all that came later, is enough.
#[test]
fn a_driver_of_cuda_12_0_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let driver = library_without(&library(), &NEWER_THAN_12_0, folder.path()).unwrap();
    let finished = predict(&driver, "cuda", &[("CUEMU_DRIVER_VERSION", "12000")]);
    assert_eq!(csv_rows(&finished.expect(0))[0]["label"], "star");
}

/// Preflight's list of functions is exact: a driver with no others works, and one without any of them is refused by name.
#[test]
#[ignore = "a process for each of fifty functions, run by .ci/run"]
fn missing_functions_are_found_before_they_are_called() {
    let source = crate::testdata::path("src/cuda/device.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let list = source.split_once("const FUNCTIONS").unwrap().1.split_once("];").unwrap().0;
    let called: BTreeSet<&str> = list.split('"').filter(|part| part.starts_with("cu")).collect();
    assert!(called.len() > 20);

    // Names in the library's string tables: cu, a capital, and letters, digits and underscores.
    let bytes = std::fs::read(library()).unwrap();
    let is_function = |name: &&str| {
        name.strip_prefix("cu").is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_uppercase())
                && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    };
    let names = bytes.split(|&byte| byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let exported: BTreeSet<&str> = names.filter(is_function).collect();
    assert!(called.is_subset(&exported), "{:?}", called.difference(&exported));

    let folder = tempfile::tempdir().unwrap();
    let others: Vec<&str> = exported.difference(&called).copied().collect();
    assert!(others.len() > 20, "{others:?}");
    let least = library_without(&library(), &others, folder.path()).unwrap();
    assert_eq!(csv_rows(&predict(&least, "cuda", &[]).expect(0))[0]["label"], "star");
    // Two devices exchange data and are timed; without peer access they do so in another way.
    for peer in ["0", "1"] {
        let small =
            ["--input-size", "63", "--checkpoint", "samples/shapes.safetensors", "-b", "1", "--duration", "0.01"];
        let compare = ["compare", "--device", "cuda:0,1", "--layouts", "two-gpu"];
        let mut command = command(compare.iter().chain(&small));
        command.env_remove("CUDA_VISIBLE_DEVICES").env("LD_PRELOAD", &least);
        command.env("CUEMU_PEER", peer).env("CUEMU_DEVICES", "2").env("CUEMU_CHECKS", "none");
        finish(command, b"").expect(0);
    }
    for name in &called {
        let driver = library_without(&library(), &[name], folder.path()).unwrap();
        predict(&driver, "cuda", &[]).refuse(5, &[name, "CUDA 12.0", "525"]);
    }
}

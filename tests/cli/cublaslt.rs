//! `--fc` as a process: what it refuses, what it says, and every reason why cuBLASLt cannot be used.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use cuemu::driver::library::library_without;

use super::{Finished, alexnet, command, csv_rows, finish};
use crate::device::{cublaslt_library, preload};

/// `predict` on the emulated device with these libraries and environment, on pictures made small; `None` on a real GPU.
fn predict(cublaslt: Option<&Path>, arguments: &[&str], environment: &[(&str, &str)]) -> Option<Finished> {
    let mut libraries = OsString::from(preload()?);
    if let Some(library) = cublaslt {
        libraries.push(":");
        libraries.push(library);
    }
    // Nine; a test that wants more batches names more.
    let pictures = ["ring", "star", "triangle/0.jpg"].map(|name| format!("samples/shapes/{name}"));
    let mut command = command(["predict", "--device", "cuda", "--input-size", "63", "-b", "9"]);
    command.args(pictures).args(arguments);
    command.env_remove("CUDA_VISIBLE_DEVICES").env("LD_PRELOAD", libraries).envs(environment.iter().copied());
    let finished = finish(command, b"");
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    Some(finished)
}

#[test]
fn the_device_line_names_what_computes_fully_connected_layers() {
    let library = cublaslt_library();
    let line = |library, arguments: &[&str], expected: &str| -> Option<Vec<String>> {
        // Four batches, of which the second and the third are captured into graphs and the last is short.
        let more = ["spiral", "checkerboard", "cross", "disc", "dots", "square", "stripes"]
            .map(|name| format!("samples/shapes/{name}"));
        let run = predict(library, &[arguments, &more.each_ref().map(|name| &**name)].concat(), &[])?;
        assert!(run.stderr.contains(expected), "'{expected}' is not in:\n{}", run.stderr);
        Some(csv_rows(&run.expect(0)).into_iter().map(|row| row["label"].clone()).collect())
    };
    let Some(own) = line(None, &["--fc", "own"], "fully connected layers by own kernels, last bits") else { return };
    assert_eq!(own.len(), 9 + 28);
    for arguments in [&["--fc", "cublaslt"][..], &[]] {
        assert_eq!(
            line(Some(&library), arguments, "fully connected layers by cuBLASLt 13.0.0, last bits").as_ref(),
            Some(&own)
        );
    }
}

#[test]
fn fc_refuses_what_it_cannot_have() {
    let refused = |arguments: &[&str], code: i32, parts: &[&str]| {
        alexnet([&["predict", "samples/shapes/star"], arguments].concat()).refuse(code, parts);
    };
    refused(&["--fc", "cudnn"], 2, &["cublaslt", "own"]);
    refused(&["--device", "cpu", "--fc", "cublaslt"], 2, &["cuBLASLt", "--device cuda"]);
    refused(&["--deterministic", "--fc", "cublaslt"], 2, &["--fc own", "--deterministic"]);
    refused(&["--fc", "cublaslt"], 5, &["cuBLASLt needs a GPU"]);
    alexnet(["predict", "samples/shapes/star/0.jpg", "--device", "cpu", "--fc", "own"]).expect(0);
    let explain = ["summary", "-m", "paper", "--explain", "--deterministic", "--fc", "cublaslt"];
    alexnet(explain).refuse(2, &["--fc own"]);
}

/// A machine without the library, or with one that cannot be used: our own kernels take over and the device line says why;
/// where cuBLASLt was asked for, it is an error.
#[test]
fn reasons_not_to_use_cublaslt() {
    let library = cublaslt_library();
    let old = ("CUEMU_CUBLASLT_VERSION", "111103");
    for (library, environment, reason) in [
        // A machine may have a library of its own, which knows nothing of the emulated device.
        (None, &[][..], "cublasLt"),
        (Some(&*library), &[old], "found cuBLASLt 11.11.3, needed 12.0"),
        // Overflows would end in numbers that look sound.
        (Some(&*library), &[("CUEMU_CUBLASLT_RELU", "drops-nan")], "the ReLU of cuBLASLt 13.0.0 turns NaN to 0"),
    ] {
        let reason = reason.to_lowercase();
        let Some(run) = predict(library, &[], environment) else { return };
        let stderr = run.stderr.to_lowercase();
        assert!(stderr.contains("by own kernels (") && stderr.contains(&reason), "{stderr}");
        run.expect(0);
        let run = predict(library, &["--fc", "cublaslt"], environment).expect("as before");
        assert!(run.stderr.to_lowercase().contains(&reason), "{}", run.stderr);
        run.refuse(5, &["--fc own"]);
    }
}

/// Where the heuristic returns nothing.
#[test]
fn layers_without_an_algorithm() {
    let library = cublaslt_library();
    let few = [("CUEMU_CUBLASLT_COLUMNS", "8")];
    let Some(run) = predict(Some(&library), &[], &few) else { return };
    let parts = ["in fact", "but for fc6 with 9, fc7 with 9, fc8 with 9 images"];
    run.refuse(0, &parts);
    let run = predict(Some(&library), &["--fc", "cublaslt"], &few).expect("as before");
    run.refuse(5, &["no algorithm for fc6 with 9 images", "--fc own"]);
}

/// The list of functions is exact: a library with no others works, and one without any of them is refused by name.
#[test]
fn missing_functions_are_found_before_they_are_called() {
    let source = std::fs::read_to_string(crate::testdata::path("src/cuda/cublaslt.rs")).unwrap();
    let list = source.split_once("const FUNCTIONS").unwrap().1.split_once("];").unwrap().0;
    let called: BTreeSet<&str> = list.split('"').filter(|part| part.starts_with("cublasLt")).collect();
    let bytes = std::fs::read(cublaslt_library()).unwrap();
    let names = bytes.split(|&byte| byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let exported: BTreeSet<&str> =
        names.filter(|name| name.starts_with("cublasLt") && name.bytes().all(|b| b.is_ascii_alphabetic())).collect();
    assert!(called.len() > 10 && called.is_subset(&exported), "{:?}", called.difference(&exported));

    let folder = tempfile::tempdir().unwrap();
    let others: Vec<&str> = exported.difference(&called).copied().collect();
    let least = library_without(&cublaslt_library(), &others, folder.path()).unwrap();
    let Some(run) = predict(Some(&least), &["--fc", "cublaslt"], &[]) else { return };
    run.expect(0);
    for name in &called {
        let library = library_without(&cublaslt_library(), &[name], folder.path()).unwrap();
        let run = predict(Some(&library), &["--fc", "cublaslt"], &[]).expect("as before");
        run.refuse(5, &[name, "CUDA 12.0", "--fc own"]);
    }
}

#[test]
fn explain_says_who_computes_fully_connected_layers() {
    let layers = |arguments: &[&str]| {
        let common = ["summary", "-m", "torchvision", "--explain", "--precision", "float16", "-b"];
        let text = alexnet([&common, arguments].concat()).expect(0);
        let (before, layers) = text.split_once("\nfc6").unwrap();
        assert!(!before.contains("cublasLt"), "{before}");
        layers.to_string()
    };
    let contains = |text: &str, parts: &[&str]| {
        for part in parts {
            assert!(text.contains(part), "'{part}' is not in:\n{text}");
        }
    };
    let either = "puts first; where the library or an algorithm is missing:\n    conv_f16_";
    contains(&layers(&["64"]), &["cublasLtMatmul with bias and ReLU, in the algorithm", "with bias, in", either]);
    contains(&layers(&["8"]), &["not cublasLtMatmul: few images", "gemv_f16_8"]);
    contains(&layers(&["64", "--fc", "own"]), &["not cublasLtMatmul: own kernels are asked for\n    conv_f16_"]);
    contains(&layers(&["64", "--deterministic"]), &["not cublasLtMatmul: it sums in another order"]);
    let all = layers(&["1", "--fc", "cublaslt"]);
    contains(&all, &["asked for\n    GEMM_M 1, GEMM_N 4096, GEMM_K 9216, groups 1\n", "GEMM_N 1000"]);
    assert!(!all.contains("conv_f16") && !all.contains("gemv"), "{all}");
}

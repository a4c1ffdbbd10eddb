//! What is refused: exit codes, and messages that name the file, the cause and the fix.

use std::fs;
use std::process::Stdio;

use alexnet::Model;
use alexnet::weights::{Checkpoint, Tensor};

use super::{alexnet, command, finish, str};
use crate::testdata;

#[test]
fn usage() {
    alexnet(["predict"]).refuse(2, &["INPUT"]);
    alexnet(["predict", "no/such/picture.jpg"]).refuse(2, &["no/such/picture.jpg"]);
    alexnet(["predict", "no/such/*.jpg"]).refuse(2, &["no/such/*.jpg"]);
    alexnet(["predict", "tests/data/print"]).refuse(2, &["tests/data/print", ".jpg"]);
    alexnet(["predict", "samples/shapes", "--model", "vgg"]).refuse(2, &["vgg", "torchvision", "caffenet"]);
    alexnet(["predict", "samples/shapes", "--device", "gpu"]).refuse(2, &["gpu", "cuda:N"]);
    alexnet(["predict", "samples/shapes", "-b", "0"]).refuse(2, &["0"]);
    alexnet(["predict", "samples/shapes", "--topk", "0"]).refuse(2, &["0"]);
    alexnet(["predict", "samples/shapes", "--input-size", "62"]).refuse(2, &["62", "too small"]);
    alexnet(["frobnicate"]).refuse(2, &["frobnicate"]);
    alexnet(["bench", "--duration", "-1"]).refuse(2, &["-1"]);
    alexnet(["pack", "samples/shapes", "-o", "pixels.bin"]).refuse(2, &["pixels.bin", ".npy"]);
    alexnet(["init", "-m", "half", "-o", "half.pth"]).refuse(2, &["half.pth", "safetensors"]);
}

#[test]
fn devices_and_precisions() {
    // Never a fall-back to the CPU.
    let run = alexnet(["predict", "samples/shapes", "--device", "cuda"]);
    assert_eq!(run.stdout, "");
    run.refuse(5, &["CUDA", "--device cpu"]);
    for precision in ["tf32", "bfloat16"] {
        alexnet(["predict", "samples/shapes", "--device", "cpu", "--precision", precision]).refuse(2, &["float32"]);
    }
    let split = |device, how| alexnet(["predict", "samples/shapes", "--device", device, "--split", how]);
    split("cpu", "two-gpu").refuse(2, &["CPU", "--split two-stream"]);
    split("auto", "two-gpu").refuse(5, &["two GPUs", "CUDA"]);
    split("cpu", "three").refuse(2, &["three", "two-stream", "two-gpu"]);
}

#[test]
fn checkpoints_that_are_not_there() {
    let predict = |checkpoint: &str| alexnet(["predict", "samples/shapes", "--checkpoint", checkpoint]);
    predict("none.safetensors").refuse(2, &["none.safetensors"]);
    predict("seed:x").refuse(2, &["seed:x"]);
    let path = testdata::path("no-such-cache/hub/checkpoints/alexnet-owt-7be5be79.pth");
    predict("IMAGENET1K_V1").refuse(2, &[str(&path), "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"]);
}

#[test]
fn checkpoints_that_do_not_fit() {
    let predict = |checkpoint: &str, extra: &[&str]| {
        alexnet(["predict", "samples/shapes", "--checkpoint", checkpoint].iter().chain(extra))
    };
    // paper, caffe and caffenet look alike.
    let ambiguous = "tests/data/checkpoints/paper.f32.safetensors";
    predict(ambiguous, &[]).refuse(2, &["--model paper", "--model caffe", "--model caffenet"]);
    predict(ambiguous, &["--model", "paper", "--input-size", "224"]).refuse(2, &["paper", "227"]);

    // Every mismatch at once.
    let torchvision = "tests/data/checkpoints/torchvision.f32.safetensors";
    predict(torchvision, &["--model", "paper"])
        .refuse(4, &[torchvision, "conv1.weight", "fc3.bias", "features.0.weight", "expected", "found"]);
    predict(ambiguous, &["--model", "single-tower"]).refuse(
        4,
        &[
            "conv2.weight: expected [N, 8, 5, 5], found [16, 4, 5, 5]",
            "conv4.weight: expected [N, 16, 3, 3], found [16, 8, 3, 3]",
            "conv5.weight: expected [N, 16, 5, 5], found [8, 8, 3, 3]",
        ],
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.pth");
    let bytes = testdata::bytes("tests/data/checkpoints/torchvision.zip.pth");
    for (content, part) in [(&bytes[..bytes.len() / 2], "cut off"), (b"text", "neither"), (b"", "empty")] {
        fs::write(&path, content).unwrap();
        predict(str(&path), &[]).refuse(4, &["half.pth", part]);
    }
}

/// The demo is torchvision's: another variant needs weights, not a list of 32 tensors that do not fit.
#[test]
fn a_variant_without_weights() {
    alexnet(["predict", "samples/shapes", "-m", "paper"]).refuse(2, &["paper needs weights", "seed:0"]);
}

/// Weights that overflow give error rows, never a NaN as a result.
#[test]
fn overflowing_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let mut checkpoint = Checkpoint::open(&testdata::path("samples/shapes.safetensors")).unwrap();
    for tensor in checkpoint.tensors.values_mut() {
        let values: Vec<f32> = tensor.to_f32().unwrap().iter().map(|v| v * 1e10).collect();
        *tensor = Tensor::from_f32(tensor.shape.clone(), &values);
    }
    checkpoint.save_safetensors(&path).unwrap();
    let rows = super::csv_rows(&alexnet(["predict", "samples/shapes/star", "--checkpoint", str(&path)]).expect(3));
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|r| r["error"].contains("not finite") && r["prob"].is_empty()), "{rows:?}");

    let model = Model::load(&path, &crate::device::options(crate::device::CPU)).unwrap();
    let results = model.predict_files(&[testdata::path("samples/shapes/star/0.jpg")], 1).unwrap();
    assert!(results[0].as_ref().unwrap_err().to_string().contains("not finite"));
}

/// A results file that is an input would be emptied before it is read.
#[test]
fn inputs_are_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (from, name) in [("samples/shapes/star/0.jpg", "a.jpg"), ("samples/shapes.safetensors", "w.safetensors")] {
        fs::copy(testdata::path(from), path(name)).unwrap();
    }
    alexnet(["pack", str(&path("a.jpg")), "-o", str(&path("p.npy"))]).expect(0);
    std::os::unix::fs::symlink(path("a.jpg"), path("link.csv")).unwrap();
    let (picture, pack, weights) = (path("a.jpg"), path("p.npy"), path("w.safetensors"));
    for (input, results) in [(&picture, &picture), (&pack, &pack), (&picture, &path("link.csv")), (&picture, &weights)]
    {
        let before = fs::read(results).unwrap();
        let arguments = ["predict", str(input), "--checkpoint", str(&weights), "--results-file", str(results)];
        alexnet(arguments).refuse(2, &["--results-file", "is an input"]);
        assert!(fs::read(results).unwrap() == before, "{}", results.display());
    }
    alexnet(["predict", str(folder.path()), "--results-file", str(&picture)]).refuse(2, &["is an input"]);
}

#[test]
fn packs_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("small.npy");
    alexnet(["pack", "samples/shapes/star", "-o", str(&pack), "--size", "160"]).expect(0);
    alexnet(["predict", str(&pack)]).refuse(2, &["small.npy", "160x160", "224x224", "--input-size"]);
    alexnet(["predict", str(&pack), "--input-size", "160"]).expect(0);
    alexnet(["bench", str(&pack), "-b", "1", "--duration", "0.1"]).refuse(2, &["small.npy", "--input-size"]);
    fs::write(&pack, "no array").unwrap();
    alexnet(["predict", str(&pack)]).refuse(2, &["small.npy"]);
}

/// A reader that goes away ends the run quietly; a full disk ends it with its own code.
#[test]
#[cfg(target_os = "linux")]
fn outputs_that_cannot_be_written() {
    let mut child = command(["predict", "samples/shapes", "-b", "1"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(141), "{stderr}");
    assert!(!stderr.contains("error"), "{stderr}");

    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut predict = command(["predict", "samples/shapes"]);
    let status = predict.stdout(full()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(6));
    alexnet(["predict", "samples/shapes", "--results-file", "/dev/full"]).refuse(6, &["/dev/full"]);
    alexnet(["predict", "samples/shapes", "--results-file", "no/such/folder/rows.csv"]).refuse(6, &["rows.csv"]);
    alexnet(["pack", "samples/shapes", "-o", "no/such/folder/p.npy"]).refuse(6, &["p.npy"]);
    alexnet(["init", "-m", "half", "-o", "no/such/folder/w.safetensors"]).refuse(6, &["w.safetensors"]);
}

/// A list may name what is not there: those are rows, since the run is under way.
#[test]
fn a_list_with_missing_files() {
    let run = finish(command(["predict", "-"]), b"no/such/file.jpg\nsamples/shapes/star/0.jpg\n");
    let rows = super::csv_rows(&run.expect(3));
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["error"].contains("No such file") && rows[1]["label"] == "star", "{rows:?}");
}

//! `--device cuda` as a process: through the driver that the machine has, or the emulated one.

use super::predict::check_demo;
use super::{alexnet, alexnet_cuda, csv_rows};

/// PyTorch's labels for all sample pictures, and its probabilities to a few parts in a thousand.
#[test]
fn cuda_labels_the_samples_in_float16() {
    label_the_samples("float16", 1e-2, "shapes.safetensors");
}

/// The same in the other precisions; `golden` has the library do so from both demo checkpoints in each.
#[test]
#[ignore = "half a minute, run by .ci/run"]
fn cuda_labels_the_samples_in_other_precisions() {
    label_the_samples("float32", 1e-3, "shapes.safetensors");
    label_the_samples("tf32", 1e-2, "shapes-paper.safetensors");
    label_the_samples("bfloat16", 5e-2, "shapes.safetensors");
}

fn label_the_samples(precision: &str, tolerance: f64, checkpoint: &str) {
    let path = format!("samples/{checkpoint}");
    let arguments = ["predict", "samples/shapes", "--checkpoint", &path, "--device", "cuda", "--precision", precision];
    let run = alexnet_cuda(arguments);
    assert!(run.stderr.contains("on cuda:0 (") && run.stderr.contains(precision), "{}", run.stderr);
    check_demo(checkpoint, &run.expect(0), tolerance);
}

/// What computes in another precision than asked for is an error, on every device.
#[test]
fn no_device_computes_in_another_precision() {
    let refused = |device: &str, precision: &str, code: i32, parts: &[&str]| {
        let arguments = ["predict", "samples/shapes/star", "--device", device, "--precision", precision];
        alexnet_cuda(arguments).refuse(code, parts);
        // Nor where there is no GPU.
        alexnet(arguments).refuse(code, parts);
    };
    for precision in ["tf32", "bfloat16"] {
        refused("cpu", precision, 2, &["the CPU computes in float32", "--device cuda"]);
    }
    let auto = ["predict", "samples/shapes/star", "--precision", "float16"];
    alexnet(auto).refuse(5, &["float16 needs a GPU", "--device cpu"]);
    assert!(alexnet_cuda(auto).stderr.contains("float16"));
}

/// A batch that the run does not fill, and a last one that is smaller, give the rows of one that fits.
#[test]
fn cuda_takes_any_batch_size() {
    let labels = |batch: &str| {
        let run =
            alexnet_cuda(["predict", "samples/shapes/ring", "samples/shapes/star", "-b", batch, "--device", "cuda"]);
        let rows = csv_rows(&run.expect(0));
        rows.into_iter().map(|row| (row["label"].clone(), row["prob"].clone())).collect::<Vec<_>>()
    };
    let eight = labels("8");
    assert_eq!(eight.len(), 8);
    assert_eq!(labels("3"), eight, "a kernel's sums do not depend on the batch");
}

/// A batch without room on the device is halved until it fits, with a word about it; every picture has its row, once.
#[test]
fn a_batch_that_does_not_fit_is_halved() {
    let Some(driver) = crate::device::preload() else { return };
    let predict = |memory: &str| {
        let pictures = ["samples/shapes/ring", "samples/shapes/star"];
        let mut command = super::command(["predict", pictures[0], pictures[1], "-b", "8", "--device", "cuda"]);
        command.env_remove("CUDA_VISIBLE_DEVICES").env("LD_PRELOAD", &driver).env("CUEMU_MEMORY", memory);
        super::finish(command, b"")
    };
    let all = predict("8000000000").expect(0);
    let run = predict("5000000");
    assert!(run.stderr.contains("no memory for that batch, going on with 4"), "{}", run.stderr);
    let columns = |csv: &str| -> Vec<(String, String)> {
        csv_rows(csv).into_iter().map(|row| (row["filename"].clone(), row["label"].clone())).collect()
    };
    assert_eq!(columns(&run.expect(0)), columns(&all));
    predict("1000000").refuse(5, &["memory", "--batch-size"]);
}

/// What cannot be made sense of in a list of devices is refused before any is opened.
#[test]
fn lists_of_devices() {
    let refused = |arguments: &[&str], part: &str| alexnet(arguments).refuse(2, &[part]);
    refused(&["predict", "samples/shapes/star", "--device", "cuda:0,0"], "cuda:0 is named twice");
    refused(&["predict", "samples/shapes/star", "--device", "cuda:0,b"], "'b' in 'cuda:0,b' is no device's number");
    refused(&["summary", "--device", "cuda:0,1"], "one GPU");
}

/// Two towers give the rows of the whole network, on two streams and on two devices, which may or may not reach each other.
#[test]
fn cuda_splits_give_the_same_rows() {
    let Some(driver) = crate::device::preload() else { return };
    let predict = |extra: &[&str], environment: &[(&str, &str)]| {
        let pictures =
            ["predict", "samples/shapes/ring/0.jpg", "samples/shapes/star/1.jpg", "samples/shapes/star/2.jpg"];
        let pictures = [&pictures[..], &["-b", "2", "--fc", "own"]].concat();
        let how = ["--checkpoint", "samples/shapes-paper.safetensors", "--precision", "float16"];
        let mut command = super::command([&pictures[..], &how, extra].concat());
        command.env_remove("CUDA_VISIBLE_DEVICES").env("LD_PRELOAD", &driver).env("CUEMU_DEVICES", "2");
        command.envs(environment.iter().copied());
        super::finish(command, b"")
    };
    let whole = predict(&["--device", "cuda"], &[]).expect(0);
    let two_gpu = ["--device", "cuda:1,0", "--split", "two-gpu"];
    for (extra, peer, said) in [
        (&["--device", "cuda", "--split", "two-stream"][..], "1", "split between two streams"),
        (&two_gpu, "1", "with peer access"),
        (&two_gpu, "0", "by way of the host's memory"),
    ] {
        let run = predict(extra, &[("CUEMU_PEER", peer)]);
        assert!(run.stderr.contains(said), "{}", run.stderr);
        assert_eq!(run.expect(0), whole, "{extra:?}");
    }
    // Without a list they are the first two.
    assert!(predict(&["--device", "cuda", "--split", "two-gpu"], &[]).stderr.contains("cuda:1 ("));
    predict(&["--device", "cuda:1", "--split", "two-gpu"], &[]).refuse(2, &["--device cuda:0,1"]);
    predict(&two_gpu, &[("CUEMU_DEVICES", "1")]).refuse(5, &["no CUDA device 1", "found 1"]);
}

/// What each tower runs, where they meet, and that two GPUs are emulated only.
#[test]
fn explain_shows_both_towers() {
    let explain = |split: &str| {
        let common = ["summary", "-m", "caffe", "--explain", "--precision", "float16", "-b", "8", "--split", split];
        alexnet(common).expect(0)
    };
    let joins = |text: &str| text.lines().filter(|line| line.starts_with("join: ")).count();
    let (streams, gpus) = (explain("two-stream"), explain("two-gpu"));
    // Five of both towers, fc8's of the first, and on one device the input.
    assert_eq!((joins(&streams), joins(&gpus)), (12, 11), "{streams}");
    for part in ["channels 48 to 49 of conv1", "channels 126 to 127 of conv2", "as the whole network's", "\ntower 1\n"]
    {
        assert!(streams.contains(part), "'{part}' is not in {streams}");
    }
    assert!(gpus.contains("emulated only") && !streams.contains("emulated only"), "{gpus}");
}

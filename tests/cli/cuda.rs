//! `--device cuda` as a process: through the driver that the machine has, or the emulated one.

use super::predict::check_demo;
use super::{alexnet_cuda, csv_rows};

/// PyTorch's labels and probabilities for all sample pictures, from both demo checkpoints.
#[test]
fn cuda_labels_the_samples_as_pytorch_does() {
    for checkpoint in ["shapes.safetensors", "shapes-paper.safetensors"] {
        let path = format!("samples/{checkpoint}");
        let run = alexnet_cuda(["predict", "samples/shapes", "--checkpoint", &path, "--device", "cuda"]);
        assert!(run.stderr.contains("on cuda:0 ("), "{}", run.stderr);
        check_demo(checkpoint, &run.expect(0));
    }
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

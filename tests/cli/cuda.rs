//! `--device cuda` as a process: through the driver that the machine has, or the emulated one.

use super::{alexnet, alexnet_cuda, csv_rows};

/// The sample pictures of one class, on both devices: the same labels, and probabilities within f32's rounding.
#[test]
fn cuda_labels_as_the_cpu_does() {
    for checkpoint in ["samples/shapes.safetensors", "samples/shapes-paper.safetensors"] {
        let arguments = ["predict", "samples/shapes/spiral", "--topk", "10", "--checkpoint", checkpoint, "--device"];
        let rows = |csv: String| csv_rows(&csv);
        let cpu = rows(alexnet(arguments.iter().chain(&["cpu"])).expect(0));
        let run = alexnet_cuda(arguments.iter().chain(&["cuda"]));
        assert!(run.stderr.contains("on cuda:0 ("), "{}", run.stderr);
        let cuda = rows(run.expect(0));
        assert_eq!((cpu.len(), cuda.len()), (4, 4));
        for (cpu, cuda) in cpu.iter().zip(&cuda) {
            for k in 0..10 {
                assert_eq!(cpu[&format!("label_{k}")], cuda[&format!("label_{k}")], "{cpu:?} {cuda:?}");
                let probability =
                    |row: &std::collections::HashMap<_, String>| row[&format!("prob_{k}")].parse::<f64>().unwrap();
                assert!((probability(cpu) - probability(cuda)).abs() < 1e-5, "{cpu:?} {cuda:?}");
            }
        }
    }
}

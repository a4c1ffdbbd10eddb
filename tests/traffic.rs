//! Shared memory without bank conflicts, by the emulated device's counters: the layouts of `docs/kernels.md`.

use std::collections::HashMap;
use std::process::Command;

/// `ldmatrix`, asynchronous copies and the output tile of the f16 convolution take as few wavefronts as their bytes need, 128
/// each.
#[test]
fn tensor_core_tiles_have_no_bank_conflicts() {
    let folder = tempfile::tempdir().unwrap();
    let counters = folder.path().join("counters.csv");
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite.args(["--exact", "kernels::sums_beyond_f16_become_infinities"]);
    let status = suite.env("ALEXNET_TEST_DEVICE", "emulated").env("CUEMU_COUNTERS", &counters).output().unwrap().status;
    assert!(status.success());
    let mut launches = 0;
    for row in csv::Reader::from_path(&counters).unwrap().deserialize::<HashMap<String, String>>() {
        let row = row.unwrap();
        if row["kernel"] != "conv_f16" {
            continue;
        }
        let count = |name: &str| row[name].parse::<u64>().unwrap();
        // Four matrices of eight rows; four times eight chunks; all lanes' pairs of f16, or halves of the lanes' of float32.
        let (matrices, copies) = (count("shared_load") - count("shared_load_requests"), count("copy_requests"));
        let tile = count("shared_store_bytes") - 512 * copies;
        let pairs = tile / (128 * 64 * 2);
        assert!(matrices > 0 && copies > 0 && [1, 2].contains(&pairs), "{row:?}");
        assert_eq!(count("matrix_wavefronts"), 4 * matrices, "{row:?}");
        assert_eq!(count("copy_wavefronts"), 4 * copies, "{row:?}");
        assert_eq!(count("shared_store_wavefronts"), pairs * count("shared_store_requests"), "{row:?}");
        launches += 1;
    }
    assert_eq!(launches, 4, "outputs in f16 and in float32, twice each");
}

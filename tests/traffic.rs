//! Shared memory without bank conflicts, by the emulated device's counters: the layouts of `docs/kernels.md`.

use std::collections::HashMap;
use std::process::Command;

/// `ldmatrix`, asynchronous copies and the output tile of the f16 convolutions, in every tile shape, take as few wavefronts as
/// their bytes need, 128 each.
#[test]
fn tensor_core_tiles_have_no_bank_conflicts() {
    let rows = counters(&["guards::operands_f16", "fused::cuda_f16::convolutions_and_pools"]);
    let mut launches: HashMap<String, usize> = HashMap::new();
    for row in rows {
        if !row["kernel"].starts_with("conv_f16_") || row["kernel"] == "conv_f16_gather" {
            continue;
        }
        let count = |name: &str| row[name].parse::<u64>().unwrap();
        // Four matrices of eight rows; four times eight chunks; all lanes' pairs of f16, or halves of the lanes' of float32.
        let (matrices, copies) = (count("shared_load") - count("shared_load_requests"), count("copy_requests"));
        let (tile, stores) = (count("shared_store_bytes") - 512 * copies, count("shared_store_requests"));
        assert!(copies > 0 && stores > 0, "{row:?}");
        assert_eq!(count("matrix_wavefronts"), 4 * matrices, "{row:?}");
        assert_eq!(count("copy_wavefronts"), 4 * copies, "{row:?}");
        let parts = if tile > 192 * stores { 2 } else { 1 };
        assert_eq!(count("shared_store_wavefronts"), parts * stores, "{row:?}");
        *launches.entry(row["kernel"].clone()).or_default() += 1;
    }
    assert!(launches.len() == 4 && launches.values().all(|&count| count >= 10), "{launches:?}");
}

/// LRN and pools in one kernel read and write shared memory 16 bytes a thread: no more than four wavefronts an access.
#[test]
fn fused_lrn_has_no_bank_conflicts() {
    let mut launches = 0;
    for row in counters(&["fused::cuda_f16::lrn_and_pools"]) {
        let count = |name: &str| row[name].parse::<u64>().unwrap();
        if count("shared_load_requests") > 0 {
            assert!(count("shared_load_wavefronts") <= 4 * count("shared_load_requests"), "{row:?}");
            assert!(count("shared_store_wavefronts") <= 4 * count("shared_store_requests"), "{row:?}");
            launches += 1;
        }
    }
    assert!(launches >= 400, "{launches} launches");
}

/// The counters of every launch in `tests`.
fn counters(tests: &[&str]) -> Vec<HashMap<String, String>> {
    let folder = tempfile::tempdir().unwrap();
    let counters = folder.path().join("counters.csv");
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite.arg("--exact").args(tests);
    let status = suite.env("ALEXNET_TEST_DEVICE", "emulated").env("CUEMU_COUNTERS", &counters).output().unwrap().status;
    assert!(status.success());
    csv::Reader::from_path(&counters).unwrap().deserialize().map(Result::unwrap).collect()
}

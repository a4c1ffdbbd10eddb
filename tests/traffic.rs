//! What kernels move, by the emulated device's counters: shared memory without bank conflicts, and of global memory little
//! more than there is.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::Command;

use alexnet::Fc;
use alexnet::backend::Input;
use alexnet::cuda::Rules;
use alexnet::cuda::fuse::as_run;
use alexnet::cuda::select;
use alexnet::net::{Network, Variant};
use alexnet::plan::Plan;
use alexnet::roofline::Demand;
use alexnet::weights::seeded;

use crate::device::{self, CUDA_F16};
use crate::testdata;

/// `ldmatrix`, asynchronous copies and the output tile of the f16 convolutions, in every tile shape, take as few wavefronts as
/// their bytes need, 128 each.
#[test]
#[ignore = "seconds, run by .ci/run"]
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
#[ignore = "seconds, run by .ci/run"]
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

/// Blocks of pixels are copied 16 bytes a thread in as few wavefronts as that needs, and stored 8 bytes a thread in at most
/// twice as many. Their bytes are read without conflicts, and the table in random places: on noise three or four wavefronts.
#[test]
fn space_to_depth_has_few_bank_conflicts() {
    let mut wide = 0;
    for row in counters(&["guards::pixels_are_read_within_bounds"]) {
        let count = |name: &str| row[name].parse::<u64>().unwrap();
        if row["kernel"].starts_with("space_to_depth") {
            assert!(count("copy_wavefronts") <= 4 * count("copy_requests"), "{row:?}");
            assert!(count("shared_store_wavefronts") <= 4 * count("shared_store_requests"), "{row:?}");
            assert!(2 * count("shared_load_wavefronts") <= 5 * count("shared_load_requests"), "{row:?}");
            wide += u64::from(count("copy_wavefronts") > 2 * count("copy_requests"));
        }
    }
    assert!(wide >= 9, "{wide} launches with full warps");
}

/// The counters of every launch in `tests`.
fn counters(tests: &[&str]) -> Vec<HashMap<String, String>> {
    let folder = tempfile::tempdir().unwrap();
    let counters = folder.path().join("counters.csv");
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite.args(["--exact", "--include-ignored"]).args(tests).env("ALEXNET_TEST_SHAPES", "200");
    let status = suite.env("ALEXNET_TEST_DEVICE", "emulated").env("CUEMU_COUNTERS", &counters).output().unwrap().status;
    assert!(status.success());
    csv::Reader::from_path(&counters).unwrap().deserialize().map(Result::unwrap).collect()
}

/// Images of the batch whose traffic is counted.
const IMAGES: usize = 64;

/// What every layer moves, in float16 at full width: at most 1.3 times what its input, filter and output take. The figures
/// stand in `docs/performance.md`.
#[test]
#[ignore = "a minute, run by .ci/run"]
fn layers_move_little_more_than_their_floor() {
    let mut text = String::new();
    for name in ["torchvision", "paper"] {
        let variant = Variant::by_name(name).unwrap();
        let network = Network::published(variant, 1000).unwrap();
        let rules = Rules { fc: Some(Fc::Own), ..CUDA_F16.rules() };
        let plan = as_run(&network, Plan::new(&network, IMAGES, &[]).unwrap(), &rules);
        let mut rows = counters(&[&format!("traffic::{}_once", name)]).into_iter();
        writeln!(text, "\n{name}:\n").unwrap();
        writeln!(
            text,
            "| step | kernel | floor MB | moved MB | ratio | partial sums MB | through L2 MB | bytes a sector |"
        )
        .unwrap();
        writeln!(text, "|---|---|---|---|---|---|---|---|").unwrap();
        for step in &plan.steps {
            let launch = select::select(step, IMAGES, &rules);
            let mut kernels = vec![launch.kernel];
            if launch.splits > 1 {
                kernels.push(select::reduce(step, IMAGES, &rules).kernel);
            }
            let rows: Vec<_> = rows.by_ref().take(kernels.len()).collect();
            let names: Vec<_> = kernels.iter().map(|kernel| kernel.name()).collect();
            assert_eq!(rows.iter().map(|row| &*row["kernel"]).collect::<Vec<_>>(), names, "{step:?}");
            let count = |name: &str| rows.iter().map(|row| row[name].parse::<usize>().unwrap()).sum::<usize>();
            // Partial sums are read as soon as they are written, and are small enough for the L2 cache.
            let partial = 2 * 4 * select::partial_elements(&launch, step, IMAGES);
            let moved = count("global_read_once_bytes") + count("global_written_once_bytes") - partial;
            let floor = Demand::of(&network, step, IMAGES, rules.precision).bytes;
            let ratio = moved as f64 / floor as f64;
            assert!((0.9..=1.3).contains(&ratio), "{name}, {step:?}: {moved} bytes, {floor} at least");
            let sectors = count("global_load_sectors") + count("global_store_sectors") + count("copy_sectors");
            let bytes = count("global_load_bytes") + count("global_store_bytes");
            let megabytes = |bytes: usize| format!("{:.2}", bytes as f64 / 1e6);
            writeln!(
                text,
                "| {} | `{}`{} | {} | {} | {ratio:.2} | {} | {} | {:.1} |",
                step.layers.join(" + "),
                names.join("`, `"),
                if launch.splits > 1 { format!(", {} splits", launch.splits) } else { String::new() },
                megabytes(floor),
                megabytes(moved),
                megabytes(partial),
                megabytes(32 * sectors),
                bytes as f64 / sectors as f64,
            )
            .unwrap();
        }
        assert_eq!(rows.next(), None, "launches beyond the plan's");
    }
    testdata::generated("docs/performance.md", "traffic", &text);
}

fn run_once(variant: &str) {
    let weights = seeded::checkpoint(Variant::by_name(variant).unwrap(), 0).unwrap();
    let variant = weights.choose_variant(None).unwrap();
    let weights = weights.into_weights(variant, variant.input_size).unwrap();
    let network = weights.network().clone();
    let pixels: Vec<u8> = (0..IMAGES).flat_map(|index| seeded::picture(3, index, network.input_size)).collect();
    let mut session = device::backend(CUDA_F16, weights).session(Plan::new(&network, IMAGES, &[]).unwrap()).unwrap();
    session.run(Input::Pixels(&pixels)).unwrap();
}

#[test]
#[ignore = "run by layers_move_little_more_than_their_floor, in a process of its own"]
fn torchvision_once() {
    run_once("torchvision");
}

#[test]
#[ignore = "run by layers_move_little_more_than_their_floor, in a process of its own"]
fn paper_once() {
    run_once("paper");
}

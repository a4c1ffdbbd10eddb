//! Mistakes planted in the kernels, one at a time: the kernel tests must fail on each of them.
//!
//! This executable runs the kernel tests again in a process of their own, in which the emulated driver loads other PTX than
//! the crate's: that PTX without a barrier or a wait, or what nvcc makes of a mutated source. `scripts/mutations.sh` runs
//! the latter.

mod list;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use alexnet::cuda::kernels::Kernel;
use rayon::prelude::*;

use crate::testdata;
use list::{MUTATIONS, Mutation};

impl Mutation {
    /// The text of the file in `kernels` with the mistake.
    fn apply(&self, kernels: &Path) -> String {
        let text = fs::read_to_string(kernels.join(self.file)).unwrap();
        assert_eq!(text.matches(self.before).count(), 1, "{}: the line to change", self.name);
        text.replace(self.before, self.after)
    }
}

/// The list is of lines that the sources have, also where no nvcc is there to run it.
#[test]
fn every_mutation_has_its_line() {
    for mutation in &MUTATIONS {
        mutation.apply(&testdata::path("kernels"));
    }
}

/// The test that reaches a kernel with shared memory in all its forms.
fn reaches(kernel: &str) -> &'static str {
    match kernel {
        _ if kernel.contains("lrn") => "fused::cuda_f16::lrn_and_pools",
        "conv_f16_pool" => "fused::cuda_f16::convolutions_and_pools",
        "conv_f32" => "guards::operands_f32",
        "softmax_topk_f32" => "guards::best_classes_are_written_within_bounds",
        _ if kernel.starts_with("space_to_depth") => "guards::pixels_are_read_within_bounds",
        _ => "guards::operands_f16",
    }
}

/// Without any one of its barriers or waits every kernel is stopped, by the checker of the one or of the other alone, which
/// names it.
#[test]
#[ignore = "a kernel test for each, run by .ci/run"]
fn every_barrier_and_wait_is_missed() {
    let mut planted = vec![];
    // The convolutions of bf16 and tf32 are f16's with another instruction; fused LRNs and blocks of pixels differ in their
    // accesses.
    const OTHER: [&str; 5] = ["bf16", "tf32", "lrn_max_pool_f32", "max_pool_lrn_f32", "space_to_depth_f32"];
    let other = |name: &str| OTHER.iter().any(|n| name.contains(n));
    for kernel in Kernel::ALL.iter().filter(|k| !other(k.name())) {
        let (ptx, name) = (kernel.ptx(), kernel.name());
        // Where memory is filled once, a read that comes too early may find what nobody has written yet.
        let once = name.contains("lrn") || name.contains("topk");
        let barrier = if once { &["SharedRace", "UninitialisedShared"][..] } else { &["SharedRace"] };
        let first = ptx.find(&format!(".entry {name}(")).unwrap();
        let end = ptx[first + 1..].find(".entry ").map_or(ptx.len(), |next| first + 1 + next);
        for (opcode, faults) in [("bar.sync", barrier), ("cp.async.wait_group", &["PendingCopy"][..])] {
            for (at, _) in ptx[first..end].match_indices(opcode) {
                let at = first + at;
                let line = at + ptx[at..].find('\n').unwrap();
                let folder = tempfile::tempdir().unwrap();
                fs::write(folder.path().join("without.ptx"), [&ptx[..at], &ptx[line..]].concat()).unwrap();
                let output = run(&[reaches(name)], folder.path());
                let text = String::from_utf8_lossy(&output.stderr);
                let said: Vec<&str> = text.lines().filter(|line| line.starts_with("cuemu: ")).collect();
                let what = format!("{name} without {opcode} in line {}", ptx[..at].lines().count() + 1);
                assert!(!output.status.success() && !said.is_empty(), "{what}: nothing is found");
                let named: Vec<_> = faults.iter().map(|fault| format!("cuemu: {fault} in kernel {name}, ")).collect();
                let names_it = |line: &&str| named.iter().any(|named| line.starts_with(named));
                assert!(said.iter().all(names_it), "{what}: {said:?}");
                planted.push((name, opcode));
            }
        }
    }
    planted.dedup();
    assert_eq!(
        planted,
        [
            ("conv_f32", "bar.sync"),
            ("conv_f16_128x128", "bar.sync"),
            ("conv_f16_128x128", "cp.async.wait_group"),
            ("conv_f16_128x64", "bar.sync"),
            ("conv_f16_128x64", "cp.async.wait_group"),
            ("conv_f16_64x64", "bar.sync"),
            ("conv_f16_64x64", "cp.async.wait_group"),
            ("conv_f16_gather", "bar.sync"),
            ("conv_f16_gather", "cp.async.wait_group"),
            ("conv_f16_pool", "bar.sync"),
            ("conv_f16_pool", "cp.async.wait_group"),
            ("lrn_max_pool_f16", "bar.sync"),
            ("max_pool_lrn_f16", "bar.sync"),
            ("space_to_depth_f16", "bar.sync"),
            ("space_to_depth_f16", "cp.async.wait_group"),
            ("softmax_topk_f32", "bar.sync"),
        ]
    );
}

#[test]
#[ignore = "compiles the kernels with nvcc, and runs a kernel test on each mutation: run by .ci/run"]
fn every_mutation_is_caught() {
    // Not NVCC, which has the build compile its kernels, and with them the crate, anew.
    let nvcc =
        std::env::var_os("ALEXNET_TEST_NVCC").expect("ALEXNET_TEST_NVCC is the compiler: run scripts/mutations.sh");
    let kernels = testdata::path("kernels");
    let folder = tempfile::tempdir().unwrap();
    let compile = |root: &Path, source: &str, into: &Path| {
        let ptx = into.join(Path::new(source).with_extension("ptx").file_name().unwrap());
        let mut command = Command::new(&nvcc);
        command.current_dir(root).args(["-ptx", "-std=c++17", "-arch=compute_80", source, "-o"]).arg(ptx);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    };

    // The tests pass on what this nvcc makes of the sources as they are: a failure below is the mutation's.
    let unchanged = subfolder(folder.path(), "unchanged");
    let each = |of: fn(&Mutation) -> &'static str| BTreeSet::from_iter(MUTATIONS.iter().map(of));
    for source in each(|mutation| mutation.source) {
        compile(&kernels, source, &unchanged);
    }
    let tests = Vec::from_iter(each(|mutation| mutation.test));
    assert_eq!(failures(&tests, &unchanged).0, [""; 0], "the kernels as they are");

    let plant = |(index, mutation): (usize, &Mutation)| {
        let root = subfolder(folder.path(), &format!("kernels-{index}"));
        copy(&kernels, &root);
        fs::write(root.join(mutation.file), mutation.apply(&kernels)).unwrap();
        let ptx = subfolder(folder.path(), &format!("ptx-{index}"));
        compile(&root, mutation.source, &ptx);
        let (failed, faulted) = failures(&[mutation.test], &ptx);
        (!failed.is_empty(), faulted)
    };
    let outcomes: Vec<(bool, bool)> = MUTATIONS.par_iter().enumerate().map(plant).collect();

    let mut table = String::from("| mutation | file | caught by |\n|---|---|---|\n");
    for (Mutation { name, file, test, .. }, (_, faulted)) in MUTATIONS.iter().zip(&outcomes) {
        let how = if *faulted { ", a fault that the device reports" } else { "" };
        writeln!(table, "| {name} | `kernels/{file}` | `{test}`{how} |").unwrap();
    }
    let passed = MUTATIONS.iter().zip(&outcomes).filter(|(_, (caught, _))| !caught);
    let survivors: Vec<&str> = passed.map(|(mutation, _)| mutation.name).collect();
    assert_eq!(survivors, [""; 0], "mutations that their test has not caught");
    testdata::generated("docs/mutations.md", "mutations", &table);
}

/// Those of `tests` that fail where the emulated driver loads the modules in `ptx` for those with the same kernels, and whether
/// the device reported a fault.
fn failures(tests: &[&str], ptx: &Path) -> (Vec<String>, bool) {
    let output = run(tests, ptx);
    let text = String::from_utf8_lossy(&output.stdout);
    let said = || format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // A PTX that the driver refuses; after a fault it refuses everything, with the fault's code.
    assert!(!text.contains("CUDA error 218 while loading"), "the mutation is refused, not run:\n{}", said());
    let lines = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let failed: Vec<String> = lines.map(String::from).collect();
    assert_eq!(output.status.success(), failed.is_empty(), "{}", said());
    assert!(text.contains(&format!("running {} test", tests.len())), "{}", said());
    let faulted = String::from_utf8_lossy(&output.stderr).lines().any(|line| line.starts_with("cuemu: "));
    (failed, faulted)
}

/// Runs `tests`, by their full names, on the emulated device with the modules in `ptx`.
fn run(tests: &[&str], ptx: &Path) -> Output {
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite
        .arg("--exact")
        .args(tests)
        .env("ALEXNET_TEST_SHAPES", "200")
        .env("ALEXNET_TEST_DEVICE", "emulated")
        .env("CUEMU_PTX", ptx)
        .output()
        .unwrap()
}

fn subfolder(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir(&path).unwrap();
    path
}

/// The kernels' sources and headers, without what is built from them.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.ends_with("prebuilt") {
            continue;
        } else if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

//! Mistakes planted in the kernels, one at a time: the kernel tests must fail on each of them.
//!
//! This executable runs the kernel tests again in a process of their own, in which the emulated driver loads other PTX than
//! the crate's: that PTX without a barrier or a wait, or what nvcc makes of a mutated source. `scripts/mutations.sh` runs
//! the latter.

mod list;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use alexnet::cuda::kernels::Kernel;

use crate::testdata;
use list::{MUTATIONS, Mutation, OF_TOWERS};

/// The tests that are run on each of those.
const TOWER_SUITE: [&str; 3] =
    ["split::cuda::halves_make_the_whole_in_float16", "split::cuda::sums_are", "guards::operands_f16"];

/// The kernel tests that are run on each of the other mutations.
const SUITE: [&str; 6] = [
    "kernels::cuda_f16",
    "kernels::sums_beyond",
    "guards::operands_f16",
    "guards::pixels",
    "dropout::cuda_f16",
    "fused::cuda_f16",
];

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
    for mutation in MUTATIONS.iter().chain(&OF_TOWERS) {
        mutation.apply(&testdata::path("kernels"));
    }
}

/// The tests that reach every kernel with shared memory, each in all its forms.
const GUARDS: [&str; 4] = ["guards::operands_f32", "guards::operands_f16", "guards::pixels", "guards::best_classes"];
/// Those that reach the fused ones.
const FUSED: [&str; 1] = ["fused::cuda_f16"];

/// Without any one of its barriers or waits every kernel is stopped, by the checker of the one or of the other alone, which
/// names it.
#[test]
#[ignore = "runs the kernel tests some forty times: run by .ci/run"]
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
        let tests = if name.contains("pool") { &FUSED[..] } else { &GUARDS };
        let first = ptx.find(&format!(".entry {name}(")).unwrap();
        let end = ptx[first + 1..].find(".entry ").map_or(ptx.len(), |next| first + 1 + next);
        for (opcode, faults) in [("bar.sync", barrier), ("cp.async.wait_group", &["PendingCopy"][..])] {
            for (at, _) in ptx[first..end].match_indices(opcode) {
                let at = first + at;
                let line = at + ptx[at..].find('\n').unwrap();
                let folder = tempfile::tempdir().unwrap();
                fs::write(folder.path().join("without.ptx"), [&ptx[..at], &ptx[line..]].concat()).unwrap();
                let output = run(tests, folder.path());
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
#[ignore = "compiles the kernels with nvcc, and runs the kernel tests a dozen times: run by .ci/run"]
fn every_mutation_is_caught() {
    let nvcc = std::env::var_os("NVCC").expect("NVCC names the compiler: run scripts/mutations.sh");
    let kernels = testdata::path("kernels");
    let folder = tempfile::tempdir().unwrap();
    let compile = |root: &Path, source: &str, into: &Path| {
        let ptx = into.join(Path::new(source).with_extension("ptx").file_name().unwrap());
        let mut command = Command::new(&nvcc);
        command.current_dir(root).args(["-ptx", "-std=c++17", "-arch=compute_80", source, "-o"]).arg(ptx);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    };

    // The suite passes on what this nvcc makes of the sources as they are: a failure below is the mutation's.
    let unchanged = subfolder(folder.path(), "unchanged");
    let suites = MUTATIONS.iter().map(|mutation| (mutation, &SUITE[..]));
    let suites = suites.chain(OF_TOWERS.iter().map(|mutation| (mutation, &TOWER_SUITE[..])));
    let mut sources: Vec<&str> = suites.clone().map(|(mutation, _)| mutation.source).collect();
    sources.sort_unstable();
    sources.dedup();
    for source in sources {
        compile(&kernels, source, &unchanged);
    }
    for suite in [&SUITE[..], &TOWER_SUITE] {
        assert_eq!(failures(suite, &unchanged).0, [""; 0], "the kernels as they are");
    }

    let mut survivors = vec![];
    let mut table = String::from("| mutation | file | caught by |\n|---|---|---|\n");
    for (index, (mutation, suite)) in suites.enumerate() {
        let root = subfolder(folder.path(), &format!("kernels-{index}"));
        copy(&kernels, &root);
        fs::write(root.join(mutation.file), mutation.apply(&kernels)).unwrap();
        let ptx = subfolder(folder.path(), &format!("ptx-{index}"));
        compile(&root, mutation.source, &ptx);
        let (caught, faulted) = failures(suite, &ptx);
        println!(
            "{}: caught by {}",
            mutation.name,
            if caught.is_empty() { "nothing".into() } else { caught.join(", ") }
        );
        match caught.iter().min() {
            Some(test) => {
                let Mutation { name, file, .. } = mutation;
                // A fault fails every test that runs after it, whichever that is.
                let by = if faulted { "a fault, reported by the device".into() } else { format!("`{test}`") };
                writeln!(table, "| {name} | `kernels/{file}` | {by} |").unwrap();
            }
            None => survivors.push(mutation.name),
        }
    }
    assert_eq!(survivors, [""; 0], "mutations that no test has caught");
    testdata::generated("docs/mutations.md", "mutations", &table);
}

/// The tests of `suite` that fail where the emulated driver loads the modules in `ptx` for those with the same kernels, and whether
/// the device reported a fault.
fn failures(suite: &[&str], ptx: &Path) -> (Vec<String>, bool) {
    let output = run(suite, ptx);
    let text = String::from_utf8_lossy(&output.stdout);
    let said = || format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // A PTX that the driver refuses; after a fault it refuses everything, with the fault's code.
    assert!(!text.contains("CUDA error 218 while loading"), "the mutation is refused, not run:\n{}", said());
    let lines = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let failed: Vec<String> = lines.map(String::from).collect();
    assert_eq!(output.status.success(), failed.is_empty(), "{}", said());
    assert!(text.contains("test result: "), "{}", said());
    let faulted = String::from_utf8_lossy(&output.stderr).lines().any(|line| line.starts_with("cuemu: "));
    (failed, faulted)
}

/// Runs `tests` on the emulated device with the modules in `ptx`.
fn run(tests: &[&str], ptx: &Path) -> Output {
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite
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

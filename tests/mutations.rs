//! Mistakes planted in the kernels' sources, one at a time: the kernel tests must fail on each of them.
//!
//! A mutated source is compiled by nvcc, and this executable runs the kernel tests again in a process of their own, in which
//! the emulated driver loads that PTX instead of the crate's. `scripts/mutations.sh` runs it all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{device, testdata};

/// A mistake: `before`, which the file has once, becomes `after`.
struct Mutation {
    name: &'static str,
    /// Below kernels/.
    file: &'static str,
    before: &'static str,
    after: &'static str,
    /// The source that is compiled: the file itself or one that includes it.
    source: &'static str,
}

const CONV: &str = "conv/conv_f16.cu";

const MUTATIONS: [Mutation; 10] = [
    Mutation {
        name: "dropped k",
        file: CONV,
        before: "const int steps = (loader.gemm_k + BLOCK_K - 1) / BLOCK_K;",
        after: "const int steps = (loader.gemm_k + BLOCK_K - 2) / BLOCK_K;",
        source: CONV,
    },
    Mutation {
        name: "off-by-one padding",
        file: CONV,
        before: "const int w = pixel % args.q * args.stride - args.padding;",
        after: "const int w = pixel % args.q * args.stride - args.padding + (args.padding > 0);",
        source: CONV,
    },
    Mutation {
        name: "swapped group",
        file: CONV,
        before: "windows[i] = {((n * args.h + h) * args.w + w) * args.c + group * group_c, h, w};",
        after: "windows[i] = {((n * args.h + h) * args.w + w) * args.c + (args.groups - 1 - group) * group_c, h, w};",
        source: CONV,
    },
    Mutation {
        name: "stale stage",
        file: CONV,
        before: "cp_async_wait<STAGES - 2>();",
        after: "cp_async_wait<STAGES - 1>();",
        source: CONV,
    },
    Mutation {
        name: "missing bias",
        file: CONV,
        before: "bias1 = n + 1 < group_k ? __ldg(bias + n + 1) : 0.0f;",
        after: "bias1 = 0.0f;",
        source: CONV,
    },
    Mutation { name: "missing ReLU", file: CONV, before: "second = max_nan(second, 0.0f);", after: "", source: CONV },
    Mutation {
        name: "f16 accumulation",
        file: "ptx/mma.cuh",
        before: "__device__ __forceinline__ void mma_m16n8k16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {",
        after: r#"#include <cuda_fp16.h>
__device__ __forceinline__ void mma_m16n8k16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    __half2 low = __floats2half2_rn(sum[0], sum[1]), high = __floats2half2_rn(sum[2], sum[3]);
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
        : "+r"(reinterpret_cast<uint32_t&>(low)), "+r"(reinterpret_cast<uint32_t&>(high))
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    sum[0] = __low2float(low), sum[1] = __high2float(low), sum[2] = __low2float(high), sum[3] = __high2float(high);
}
__device__ __forceinline__ void unused(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {"#,
        source: CONV,
    },
    Mutation {
        name: "wrong swizzle",
        file: CONV,
        before: "ldmatrix_x4(b[j], b_tile + swizzled(n, kk * 2 + lane / 8 % 2));",
        after: "ldmatrix_x4(b[j], b_tile + swizzled(n, (kk * 2 + lane / 8 % 2) ^ (n / 8 % 2)));",
        source: CONV,
    },
    Mutation {
        name: "wrong LRN window",
        file: "lrn.cu",
        before: "high = min(c + args.reach, first + args.tower - 1);",
        after: "high = min(c + args.reach - 1, first + args.tower - 1);",
        source: "lrn.cu",
    },
    Mutation {
        name: "pool off by one",
        file: "pool.cu",
        before: "for (int s = 0; s < args.kernel; s++) {",
        after: "for (int s = 0; s < args.kernel - (args.kernel > 1); s++) {",
        source: "pool.cu",
    },
];

/// The kernel tests that are run on each mutation.
const SUITE: [&str; 2] = ["kernels::cuda_f16", "guards::operands"];

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
    for source in [CONV, "lrn.cu", "pool.cu"] {
        compile(&kernels, source, &unchanged);
    }
    assert_eq!(failures(&unchanged), [""; 0], "the kernels as they are");

    let mut survivors = vec![];
    for (index, mutation) in MUTATIONS.iter().enumerate() {
        let root = subfolder(folder.path(), &format!("kernels-{index}"));
        copy(&kernels, &root);
        let file = root.join(mutation.file);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches(mutation.before).count(), 1, "{}: the line to change", mutation.name);
        fs::write(&file, text.replace(mutation.before, mutation.after)).unwrap();
        let ptx = subfolder(folder.path(), &format!("ptx-{index}"));
        compile(&root, mutation.source, &ptx);
        let caught = failures(&ptx);
        println!(
            "{}: caught by {}",
            mutation.name,
            if caught.is_empty() { "nothing".into() } else { caught.join(", ") }
        );
        if caught.is_empty() {
            survivors.push(mutation.name);
        }
    }
    assert_eq!(survivors, [""; 0], "mutations that no test has caught");
}

/// The kernel tests that fail where the emulated driver loads the modules in `ptx` for those with the same kernels.
fn failures(ptx: &Path) -> Vec<String> {
    assert!(device::preload().is_some(), "mutations need the emulated device: set ALEXNET_TEST_DEVICE=emulated");
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite.args(SUITE).env("ALEXNET_TEST_DEVICE", "emulated").env("CUEMU_PTX", ptx);
    let output = suite.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = || format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("while loading"), "the mutation is refused, not run:\n{}", said());
    let lines = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let failed: Vec<String> = lines.map(String::from).collect();
    assert_eq!(output.status.success(), failed.is_empty(), "{}", said());
    assert!(text.contains("test result: "), "{}", said());
    failed
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

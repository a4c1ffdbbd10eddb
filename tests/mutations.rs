//! Mistakes planted in the kernels, one at a time: the kernel tests must fail on each of them.
//!
//! This executable runs the kernel tests again in a process of their own, in which the emulated driver loads other PTX than
//! the crate's: that PTX without a barrier or a wait, or what nvcc makes of a mutated source. `scripts/mutations.sh` runs
//! the latter.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use alexnet::cuda::kernels::Kernel;

use crate::testdata;

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

const CONV: &str = "conv/conv_mma.cuh";
const CONV_F16: &str = "conv/conv_f16.cu";

const MUTATIONS: [Mutation; 33] = [
    Mutation {
        name: "dropped k",
        file: CONV,
        before: "(args.c / args.groups) + C::BLOCK_K - 1) / C::BLOCK_K;",
        after: "(args.c / args.groups) + C::BLOCK_K - 2) / C::BLOCK_K;",
        source: CONV_F16,
    },
    Mutation {
        name: "off-by-one padding",
        file: CONV,
        before: "const int w = pixel % args.q * args.stride - args.padding;",
        after: "const int w = pixel % args.q * args.stride - args.padding + (args.padding > 0);",
        source: CONV_F16,
    },
    Mutation {
        name: "swapped group",
        file: CONV,
        before: "args.c + group * group_c;",
        after: "args.c + (args.groups - 1 - group) * group_c;",
        source: CONV_F16,
    },
    Mutation {
        name: "stale stage",
        file: CONV,
        before: "cp_async_wait<C::STAGES - 2>();",
        after: "cp_async_wait<C::STAGES - 1>();",
        source: CONV_F16,
    },
    Mutation {
        name: "missing bias",
        file: CONV,
        before: "bias1 = finished && n + 1 < group_k ? __ldg(bias + n + 1) : 0.0f;",
        after: "bias1 = 0.0f;",
        source: CONV_F16,
    },
    Mutation {
        name: "missing ReLU",
        file: CONV,
        before: "value1 = max_nan(value1, 0.0f);",
        after: "",
        source: CONV_F16,
    },
    Mutation {
        name: "f16 accumulation",
        file: "ptx/mma.cuh",
        before: r#"DEFINE_MMA(__half, "m16n8k16", "f32.f16.f16.f32")"#,
        after: r#"template <>
__device__ __forceinline__ void mma<__half>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    __half2 low = __floats2half2_rn(sum[0], sum[1]), high = __floats2half2_rn(sum[2], sum[3]);
    asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
        : "+r"(reinterpret_cast<uint32_t&>(low)), "+r"(reinterpret_cast<uint32_t&>(high))
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    sum[0] = __low2float(low), sum[1] = __high2float(low), sum[2] = __low2float(high), sum[3] = __high2float(high);
}"#,
        source: CONV_F16,
    },
    Mutation {
        name: "wrong swizzle",
        file: CONV,
        before: "b_row = C::B_TILE + swizzled(column + lane / 16 * 8 + lane % 8, lane / 8 % 2);",
        after: "b_row = C::B_TILE + swizzled(column + lane / 16 * 8 + lane % 8, lane / 8 % 2 ^ lane / 16);",
        source: CONV_F16,
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
        before: "load_vector<T, SIZE>(row + s * args.c)",
        after: "load_vector<T, SIZE>(row + (s > 0 ? s - 1 : 0) * args.c)",
        source: "pool.cu",
    },
    Mutation {
        name: "pool drops a vector's last channel",
        file: "common/maximum.cuh",
        before: "for (int i = 0; i < SIZE; i++) value[i] = max_nan(",
        after: "for (int i = 0; i < SIZE - (SIZE > 1); i++) value[i] = max_nan(",
        source: "pool.cu",
    },
    Mutation {
        name: "LRN drops a neighbour at the tower's last vector but one",
        file: "common/normalise.cuh",
        before: "after = place + SIZE < tower ?",
        after: "after = place + 2 * SIZE < tower ?",
        source: "lrn.cu",
    },
    Mutation {
        name: "LRN takes the neighbour's channels in reverse",
        file: "common/normalise.cuh",
        before: "value[VECTOR_REACH + SIZE + i] = to_float(after.element[i]);",
        after: "value[VECTOR_REACH + SIZE + i] = to_float(after.element[VECTOR_REACH - 1 - i]);",
        source: "lrn.cu",
    },
    Mutation {
        name: "pool after LRN off by one",
        file: "lrn_pool.cu",
        before: "from_corner = r * SIDE + s / 2 + s % 2 * EVEN_COLUMNS;",
        after: "from_corner = r * SIDE + s % 2 * EVEN_COLUMNS;",
        source: "lrn_pool.cu",
    },
    Mutation {
        name: "pool before LRN off by one",
        file: "lrn_pool.cu",
        before: "(tap / KERNEL * args.w + tap % KERNEL) * args.c",
        after: "(min(tap / KERNEL, 1) * args.w + tap % KERNEL) * args.c",
        source: "lrn_pool.cu",
    },
    Mutation {
        name: "LRN after a pool drops the neighbour at the tower's border",
        file: "lrn_pool.cu",
        before: "before = place > 0 ? neighbours(centre - VECTOR_REACH)",
        after: "before = place > SIZE ? neighbours(centre - VECTOR_REACH)",
        source: "lrn_pool.cu",
    },
    Mutation {
        name: "the block's last vector has no neighbour",
        file: "lrn_pool.cu",
        before: "constexpr int OUTPUTS = THREADS - 2;",
        after: "constexpr int OUTPUTS = THREADS - 1;",
        source: "lrn_pool.cu",
    },
    Mutation {
        name: "split begins a step late",
        file: CONV,
        before: "first_step = split * split_steps;",
        after: "first_step = split * split_steps + (split > 0);",
        source: CONV_F16,
    },
    Mutation {
        name: "split ends a step early",
        file: CONV,
        before: "k_end = min(gemm_k, (first_step + steps) * C::BLOCK_K);",
        after: "k_end = min(gemm_k, (first_step + steps) * C::BLOCK_K - (args.splits > 1));",
        source: CONV_F16,
    },
    Mutation {
        name: "splits share a partial sum",
        file: CONV,
        before: "float* partial = args.partial + size_t(split) * args.n",
        after: "float* partial = args.partial + size_t(split / 2) * args.n",
        source: CONV_F16,
    },
    Mutation {
        name: "a split is not added",
        file: "conv/reduce_splits.cu",
        before: "for (int split = 0; split < args.splits; split++)",
        after: "for (int split = 0; split < args.splits - (args.splits > 8); split++)",
        source: "conv/reduce_splits.cu",
    },
    Mutation {
        name: "reduction without ReLU",
        file: "conv/reduce_splits.cu",
        before: "args.relu ? max_nan(sum, 0.0f) : sum",
        after: "sum",
        source: "conv/reduce_splits.cu",
    },
    Mutation {
        name: "second turn of the output tile",
        file: CONV,
        before: "Out* target = output + size_t(block_m + turn + row) * pitch",
        after: "Out* target = output + size_t(block_m + row) * pitch",
        source: CONV_F16,
    },
    Mutation {
        name: "pool in a convolution off by one",
        file: CONV,
        before: "corner + (r * args.q + s) * PITCH",
        after: "corner + (r * args.q + min(s, 1)) * PITCH",
        source: CONV_F16,
    },
    Mutation {
        name: "pooled output of the wrong group",
        file: CONV,
        before: "p_count * q_count * args.pitch + group * group_k + block_n;",
        after: "p_count * q_count * args.pitch + (args.groups - 1 - group) * group_k + block_n;",
        source: CONV_F16,
    },
    Mutation {
        name: "pooled output of the wrong turn",
        file: CONV,
        before: "output + size_t(pixel) * args.pitch + turn + column",
        after: "output + size_t(pixel) * args.pitch + (C::BLOCK_N - TURN_COLUMNS - turn) + column",
        source: CONV_F16,
    },
    Mutation {
        name: "pooled images overlap",
        file: CONV,
        before: "block_rows = C::KIND == POOLED ? pixels : C::BLOCK_M;",
        after: "block_rows = C::KIND == POOLED ? pixels - 1 : C::BLOCK_M;",
        source: CONV_F16,
    },
    Mutation {
        name: "GEMV drops the last chunk",
        file: "fc/gemv.cu",
        before: "c < args.c; c += 32 * CHUNK",
        after: "c < args.c - (args.c > 64 ? CHUNK : 0); c += 32 * CHUNK",
        source: "fc/gemv.cu",
    },
    Mutation {
        name: "GEMV swaps the last two images",
        file: "fc/gemv.cu",
        before: "size_t(min(image, args.n - 1)) * args.c;",
        after: "size_t(args.n > 2 && image > 0 ? args.n - image : min(image, args.n - 1)) * args.c;",
        source: "fc/gemv.cu",
    },
    Mutation {
        name: "blocks of pixels without padding",
        file: "preprocess.cu",
        before: "block_row % args.hb * BLOCK - args.padding + row,",
        after: "block_row % args.hb * BLOCK + row,",
        source: "preprocess.cu",
    },
    Mutation {
        name: "the last pixels are copied in whole chunks",
        file: "preprocess.cu",
        before: "static_cast<int>(min(rest, 16ll))",
        after: "16",
        source: "preprocess.cu",
    },
    Mutation {
        name: "pixels are taken to begin with a chunk",
        file: "preprocess.cu",
        before: "&pixels[row][before + place * ROW];",
        after: "&pixels[row][place * ROW];",
        source: "preprocess.cu",
    },
    Mutation {
        name: "a row's last chunk is not copied",
        file: "preprocess.cu",
        before: "place * CHUNK < before + blocks * ROW",
        after: "place * CHUNK < blocks * ROW",
        source: "preprocess.cu",
    },
];

/// What matters beside another tower's channels alone.
const OF_TOWERS: [Mutation; 6] = [
    Mutation {
        name: "sums of splits without the other tower's channels between",
        file: "conv/reduce_splits.cu",
        before: "pixel * args.pitch + k",
        after: "pixel * args.k + k",
        source: "conv/reduce_splits.cu",
    },
    Mutation {
        name: "a GEMV without them",
        file: "fc/gemv.cu",
        before: "size_t(image) * args.pitch + k",
        after: "size_t(image) * args.k + k",
        source: "fc/gemv.cu",
    },
    Mutation {
        name: "a tile of sums without them",
        file: CONV,
        before: "group, args.pitch, true);\n    } else if constexpr",
        after: "group, args.k, true);\n    } else if constexpr",
        source: CONV_F16,
    },
    Mutation {
        name: "pools without them",
        file: "pool.cu",
        before: "pixel * args.pitch + c",
        after: "pixel * args.c + c",
        source: "pool.cu",
    },
    Mutation {
        name: "LRN of vectors takes the first tower's channels",
        file: "lrn.cu",
        before: "vectors) * SIZE, c = args.first + channel;",
        after: "vectors) * SIZE, c = channel;",
        source: "lrn.cu",
    },
    Mutation {
        name: "LRN before a pool ends its windows at the towers' border",
        file: "lrn_pool.cu",
        before: "(args.first + c) % args.tower",
        after: "c % args.tower",
        source: "lrn_pool.cu",
    },
];

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

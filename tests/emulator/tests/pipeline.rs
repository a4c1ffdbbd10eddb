//! A whole tensor-core kernel with a pipeline of asynchronous copies, under every check, and what it counts.

use cuemu::{Checks, Class, Counters, FaultKind};
use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args, module};

const PTX: &str = include_str!("ptx/pipeline.ptx");
const SEED: u64 = 16;

/// The product, with what it should be, and the counters.
fn run(device: &Device, [m, n, k]: [usize; 3]) -> Result<(Vec<f32>, Vec<f32>, Counters), Box<cuemu::Fault>> {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    // Integers, so that every sum is exact.
    let mut matrix = |count: usize| -> Vec<i32> { (0..count).map(|_| rng.random_range(-8..=8)).collect() };
    let (a, b) = (matrix(m * k), matrix(k * n));
    let put = |values: &[i32]| {
        let bits: Vec<u16> = values.iter().map(|value| f16::from_f32(*value as f32).to_bits()).collect();
        device.put(&bits)
    };
    let c = device.room::<f32>(m * n);
    let sizes = [m, n, k].map(|size| size as u32);
    let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
    let args = args![put(&a), put(&b), c, sizes[0], sizes[1], sizes[2]];
    let counters = device.run("pipeline_gemm", grid, [128, 1, 1], 0, args)?;
    let sum = |i: usize, j: usize| (0..k).map(|d| a[i * k + d] * b[d * n + j]).sum::<i32>() as f32;
    let expected = (0..m * n).map(|at| sum(at / n, at % n)).collect();
    Ok((device.get(c, m * n), expected, counters))
}

#[test]
fn products_under_every_check() {
    let device = Device::new(PTX);
    for shape in [[64, 64, 32], [64, 64, 256], [70, 72, 40], [1, 8, 8], [130, 136, 104]] {
        let (found, expected, _) = run(&device, shape).unwrap_or_else(|fault| panic!("{shape:?}: {fault}"));
        assert_eq!(found, expected, "{shape:?}, seed {SEED}");
    }
}

/// The waits and barriers are all needed.
#[test]
fn without_its_waits_and_barriers() {
    let barrier = "bar.sync \t0;";
    assert_eq!((PTX.matches(barrier).count(), PTX.matches("cp.async.wait_group 1;").count()), (1, 1));
    for (text, kinds) in [
        (PTX.replace(barrier, ""), &[FaultKind::SharedRace, FaultKind::PendingCopy][..]),
        (PTX.replace("cp.async.wait_group 1;", ""), &[FaultKind::PendingCopy]),
        (PTX.replace("cp.async.wait_group 1;", "cp.async.wait_group 2;"), &[FaultKind::PendingCopy]),
    ] {
        let mut device = Device::new(&text);
        device.checks = Checks { races: true, ..Checks::NONE };
        let fault = run(&device, [64, 64, 256]).expect_err("the race is found");
        assert!(kinds.contains(&fault.kind), "{fault}");
    }
}

#[test]
fn counts() {
    let mut device = Device::new(PTX);
    device.checks.traffic = true;
    let (_, _, found) = run(&device, [128, 128, 256]).unwrap();
    // Four blocks of four warps, eight rounds.
    let rounds = 4 * 4 * 8;
    assert_eq!(found.count(Class::Matrix), rounds * 2 * 8);
    assert_eq!((found.count(Class::Copy), found.copy_requests), (rounds * 4, rounds * 4));
    assert_eq!((found.copy_sectors, found.global_load_bytes), (rounds * 4 * 16, rounds * 4 * 512));
    // Four matrices each, with no two rows of one in the same banks.
    assert_eq!((found.count(Class::SharedLoad), found.matrix_wavefronts), (rounds * 8, rounds * 8 * 4));
    assert_eq!((found.shared_load_bytes, found.shared_load_wavefronts), (rounds * 8 * 512, 0));
    // A quarter of a warp writes one row of y, or two rows of x that share four banks.
    assert_eq!(found.copy_wavefronts, rounds * (2 * 4 + 2 * 8));
    // Pairs of values in eight rows: each a sector, half used.
    assert_eq!((found.global_store_requests, found.global_store_sectors), (16 * 32, 16 * 32 * 8));
    assert_eq!(found.global_store_bytes, 128 * 128 * 4);
}

/// `ldmatrix` alone: each lane fills a row of 16 bytes, `stride` bytes after the one before.
fn rows(between: &str, stride: u32) -> Result<Counters, Box<cuemu::Fault>> {
    let mut device = Device::new(&module(&format!(
        ".visible .entry run(.param .u64 unused)
{{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .shared .align 16 .b8 tile[4096];
    mov.u32 %r1, %tid.x;
    mul.lo.s32 %r2, %r1, {stride};
    st.shared.v4.u32 [%r2], {{%r1, %r1, %r1, %r1}};
    {between}
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r4, %r5, %r6, %r7}}, [%r2];
    ret;
}}"
    )));
    device.checks.traffic = true;
    device.run("run", [1; 3], [32, 1, 1], 0, args![0u64])
}

#[test]
fn rows_of_matrices() {
    for (stride, steps) in [(16, 4), (32, 8), (48, 4), (64, 16), (80, 4), (128, 32)] {
        let found = rows("bar.warp.sync -1;", stride).unwrap();
        assert_eq!((found.matrix_wavefronts, found.shared_load_bytes), (steps, 512), "stride {stride}");
        assert_eq!((found.count(Class::SharedLoad), found.shared_load_requests), (1, 0));
    }
    // Each lane loads the row that it has stored, but the matrix is the whole warp's.
    let fault = rows("", 16).expect_err("nothing orders the lanes");
    assert_eq!(fault.kind, FaultKind::SharedRace, "{fault}");
    assert!(fault.instruction.contains("ldmatrix"), "{fault}");
    rows("shfl.sync.idx.b32 %r4, %r1, 0, 31, -1;", 16).unwrap();
    rows("vote.sync.ballot.b32 %r4, 1, -1;", 16).unwrap();
    let half = rows("setp.lt.u32 %p1, %r1, 16; @%p1 bar.warp.sync 0xFFFF;", 16).expect_err("half of the lanes");
    assert_eq!(half.kind, FaultKind::SharedRace, "{half}");
}

//! Divergence, predication, shuffles, votes and barriers.

use cuemu::{Checks, FaultKind};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args, module};

const SEED: u64 = 31;

/// A kernel with parameters `in` and `out`: `%r1` is the thread, `%r2` its input, `%r3` its output.
fn body(text: &str) -> String {
    module(&format!(
        ".visible .entry run(.param .u64 in, .param .u64 out)
{{
    .reg .pred %p<6>;
    .reg .b32 %r<20>;
    .reg .b64 %d<6>;
    .shared .align 4 .b8 tile[4096];
    ld.param.u64 %d1, [in];
    ld.param.u64 %d2, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d3, %r1, 4;
    add.s64 %d1, %d1, %d3;
    add.s64 %d2, %d2, %d3;
    ld.global.u32 %r2, [%d1];
    mov.u32 %r3, 0;
{text}
$end:
    st.global.u32 [%d2], %r3;
    ret;
}}"
    ))
}

fn run(text: &str, input: &[u32]) -> Result<Vec<u32>, Box<cuemu::Fault>> {
    let device = Device::new(&body(text));
    let output = device.room::<u32>(input.len());
    device.run("run", [1; 3], [input.len() as u32, 1, 1], 0, args![device.put(input), output])?;
    Ok(device.get(output, input.len()))
}

#[test]
fn loops_of_different_length() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let input: Vec<u32> = (0..75).map(|_| rng.random_range(1..200)).collect();
    // Collatz steps, with a branch in the loop.
    let text = "
$loop:
    setp.le.u32 %p1, %r2, 1;
    @%p1 bra $end;
    add.s32 %r3, %r3, 1;
    and.b32 %r4, %r2, 1;
    setp.eq.u32 %p2, %r4, 0;
    @!%p2 bra $odd;
    shr.u32 %r2, %r2, 1;
    bra.uni $loop;
$odd:
    mad.lo.s32 %r2, %r2, 3, 1;
    bra.uni $loop;";
    let steps = |mut n: u32| {
        let mut count = 0;
        while n > 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            count += 1;
        }
        count
    };
    assert_eq!(run(text, &input).unwrap(), input.iter().map(|n| steps(*n)).collect::<Vec<_>>(), "seed {SEED}");
}

#[test]
fn predicates_and_scopes() {
    // Inline assembly brings scopes of its own, with the same names and labels again.
    let block = "
    {
        .reg .pred p;
        .reg .b32 t;
        setp.gt.u32 p, %r2, LIMIT;
        @p bra skip;
        mov.u32 t, 1;
        bra.uni done;
    skip:
        mov.u32 t, 2;
    done:
        add.s32 %r3, %r3, t;
        @!p add.s32 %r3, %r3, 100;
    }";
    let text = [block.replace("LIMIT", "10"), block.replace("LIMIT", "20")].concat();
    let expected = |v: u32| {
        if v > 20 {
            4
        } else if v > 10 {
            103
        } else {
            202
        }
    };
    let input: Vec<u32> = (0..40).collect();
    assert_eq!(run(&text, &input).unwrap(), input.iter().map(|v| expected(*v)).collect::<Vec<_>>());
}

#[test]
fn lanes_meet_again_after_code_further_down() {
    // Small inputs take a way round behind the barrier's code, and come back to it.
    let text = "
    mov.u32 %r5, tile;
    shl.b32 %r6, %r1, 2;
    add.s32 %r5, %r5, %r6;
    setp.lt.u32 %p1, %r2, 8;
    @%p1 bra $far;
$meet:
    st.shared.u32 [%r5], %r2;
    bar.sync 0;
    xor.b32 %r6, %r6, 124;
    mov.u32 %r5, tile;
    add.s32 %r5, %r5, %r6;
    ld.shared.u32 %r3, [%r5];
    activemask.b32 %r7;
    setp.ne.u32 %p2, %r7, -1;
    @%p2 bra $split;
    bra.uni $end;
$split:
    mov.u32 %r3, 999;
    bra.uni $end;
$far:
    add.s32 %r2, %r2, 1000;
    bra.uni $meet;";
    let input: Vec<u32> = (0..32).collect();
    let value = |i: u32| if i < 8 { i + 1000 } else { i };
    assert_eq!(run(text, &input).unwrap(), (0..32).map(|i| value(i ^ 31)).collect::<Vec<_>>());
}

#[test]
fn branches_join_at_once() {
    // Two ways of different length: the rest runs once, with all lanes.
    let text = "
    setp.lt.u32 %p1, %r1, 20;
    @%p1 bra $short;
    add.s32 %r2, %r2, 1;
    add.s32 %r2, %r2, 1;
    bra.uni $join;
$short:
    add.s32 %r2, %r2, 5;
$join:
    @%p1 activemask.b32 %r4;
    activemask.b32 %r3;";
    assert_eq!(run(text, &[0; 32]).unwrap(), [u32::MAX; 32]);
    let device = Device::new(&body(text));
    let counters = device.run("run", [1; 3], [32, 1, 1], 0, args![device.put(&[0u32; 32]), device.room::<u32>(32)]);
    assert_eq!(counters.unwrap().warp_instructions(), 8 + 2 + 3 + 1 + 4);
}

#[test]
fn a_vote_goes_on_when_the_missing_lane_has_returned() {
    // Lanes 0 and 1 wait for lane 4, which is at its return when lanes 2 and 3 come to wait for it too.
    let text = "
    setp.gt.u32 %p1, %r1, 4;
    @%p1 bra $gone;
    setp.eq.u32 %p2, %r1, 0;
    setp.lt.u32 %p1, %r1, 2;
    @!%p1 bra $others;
    vote.sync.ballot.b32 %r3, %p2, 19;
    bra.uni $end;
$others:
    setp.lt.u32 %p1, %r1, 4;
    @%p1 bra $second;
    mov.u32 %r4, 0;
    bra.uni $gone;
$second:
    vote.sync.ballot.b32 %r3, %p1, 28;
    bra.uni $end;
$gone:
    ret;";
    let device = Device::new(&body(text));
    let output = device.put(&[7u32; 32]);
    device.run("run", [1; 3], [32, 1, 1], 0, args![device.put(&[0u32; 32]), output]).unwrap();
    assert_eq!(device.get::<u32>(output, 6), [1, 1, 12, 12, 7, 7]);
}

#[test]
fn shared_memory_is_unwritten_in_every_block() {
    let device = Device::new(&module(
        ".visible .entry run()
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .shared .align 4 .u32 word;
    mov.u32 %r1, %ctaid.x;
    and.b32 %r2, %r1, 1;
    setp.ne.u32 %p1, %r2, 0;
    @!%p1 st.shared.u32 [word], %r1;
    ld.shared.u32 %r3, [word];
    ret;
}",
    ));
    // One thread, so that blocks follow each other in the same memory.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let fault = pool.install(|| device.run("run", [64, 1, 1], [1; 3], 0, args![])).unwrap_err();
    assert_eq!((fault.kind, fault.block), (FaultKind::UninitialisedShared, [1, 0, 0]));
}

#[test]
fn dynamic_shared_memory_follows_the_static() {
    let device = Device::new(&module(
        ".extern .shared .align 16 .b8 rest[];
.visible .entry run(.param .u64 out, .param .u32 words)
{
    .reg .b32 %r<4>;
    .reg .b64 %d<3>;
    .shared .align 4 .u32 word;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r2, [words];
    mov.u32 %r1, rest;
    st.global.u32 [%d1], %r1;
    mad.lo.u32 %r1, %r2, 4, %r1;
    st.shared.u32 [%r1+-4], %r2;
    ret;
}",
    ));
    let output = device.room::<u32>(1);
    device.run("run", [1; 3], [1; 3], 64, args![output, 16u32]).unwrap();
    assert_eq!(device.get::<u32>(output, 1), [16]);
    let fault = device.run("run", [1; 3], [1; 3], 64, args![output, 17u32]).unwrap_err();
    assert_eq!((fault.kind, fault.address), (FaultKind::OutOfBounds, Some(16 + 64)));
}

#[test]
fn exited_lanes_do_not_count_at_a_barrier() {
    let text = "
    setp.gt.u32 %p1, %r1, 40;
    @%p1 bra $gone;
    bar.sync 0;
    mov.u32 %r3, 5;
    bra.uni $end;
$gone:
    ret;";
    let device = Device::new(&body(text));
    let output = device.put(&[1u32; 96]);
    device.run("run", [1; 3], [96, 1, 1], 0, args![device.put(&[0u32; 96]), output]).unwrap();
    let found = device.get::<u32>(output, 96);
    assert!(found.iter().enumerate().all(|(i, v)| *v == if i > 40 { 1 } else { 5 }), "{found:?}");
}

#[test]
fn different_barriers_in_a_warp() {
    let text = "
    setp.gt.u32 %p1, %r1, 9;
    @%p1 bra $other;
    bar.sync 0;
    bra.uni $end;
$other:
    bar.sync 0;";
    let fault = run(text, &[0; 32]).unwrap_err();
    assert_eq!((fault.kind, fault.thread), (FaultKind::DivergentBarrier, [0; 3]));
    assert!(fault.detail.contains("lanes 0-9 wait here, lanes 10-31 at line"), "{fault}");
}

#[test]
fn shuffles() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let input: Vec<u32> = (0..32).map(|_| rng.random()).collect();
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [32u32, 16, 8, 4, 2] {
            for amount in 0..32u32 {
                // What CUDA's intrinsics pass: the segment's mask, and the last lane, or the first one for `up`.
                let clamp = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
                let text = format!(
                    "shfl.sync.{mode}.b32 %r3|%p1, %r2, {amount}, {clamp}, -1;
                     selp.u32 %r4, 1, 0, %p1;
                     and.b32 %r3, %r3, -2;
                     or.b32 %r3, %r3, %r4;"
                );
                let expected = (0..32u32).map(|lane| {
                    let segment = lane / width * width;
                    let (lane, amount) = (i64::from(lane), i64::from(amount));
                    let source = match mode {
                        "up" => lane - amount,
                        "down" => lane + amount,
                        "bfly" => lane ^ amount,
                        _ => i64::from(segment) + amount % i64::from(width),
                    };
                    // A butterfly may reach into an earlier segment, but not a later one.
                    let first = if mode == "bfly" { 0 } else { i64::from(segment) };
                    let inside = (first..i64::from(segment + width)).contains(&source);
                    let value = input[if inside { source } else { lane } as usize];
                    value & !1 | u32::from(inside)
                });
                let expected: Vec<u32> = expected.collect();
                assert_eq!(run(&text, &input).unwrap(), expected, "{mode} {amount} of {width}, seed {SEED}");
            }
        }
    }
}

#[test]
fn halves_with_their_own_masks() {
    // The mask differs between the halves of the warp, at one instruction.
    let text = "
    and.b32 %r4, %r1, 16;
    shl.b32 %r5, 65535, %r4;
    setp.lt.u32 %p1, %r2, 3;
    vote.sync.ballot.b32 %r6, %p1, %r5;
    shfl.sync.bfly.b32 %r7, %r2, 1, 31, %r5;
    bar.warp.sync %r5;
    add.s32 %r3, %r6, %r7;";
    let input: Vec<u32> = (0..32).map(|i| i % 5).collect();
    let ballot = |half: usize| (0..16).filter(|i| input[half * 16 + i] < 3).fold(0u32, |m, i| m | 1 << (half * 16 + i));
    let expected: Vec<u32> = (0..32usize).map(|i| ballot(i / 16).wrapping_add(input[i ^ 1])).collect();
    assert_eq!(run(text, &input).unwrap(), expected);
}

#[test]
fn votes() {
    for (input, all, any) in
        [(vec![1u32; 32], true, true), (vec![0; 32], false, false), ((0..32).collect(), false, true)]
    {
        let text = "
    setp.ne.u32 %p1, %r2, 0;
    vote.sync.all.pred %p2, %p1, -1;
    @%p2 add.s32 %r3, %r3, 1;
    vote.sync.any.pred %p2, %p1, -1;
    @%p2 add.s32 %r3, %r3, 2;
    vote.sync.uni.pred %p2, %p1, -1;
    @%p2 add.s32 %r3, %r3, 4;
    vote.sync.all.pred %p2, !%p1, -1;
    @%p2 add.s32 %r3, %r3, 8;";
        let expected = u32::from(all) + 2 * u32::from(any) + if all || !any { 4 } else { 0 } + if any { 0 } else { 8 };
        assert_eq!(run(text, &input).unwrap(), vec![expected; 32]);
    }
}

#[test]
fn outside_the_member_mask() {
    let fault = run("vote.sync.ballot.b32 %r3, %p1, 65535;", &[0; 32]).unwrap_err();
    assert_eq!((fault.kind, fault.thread), (FaultKind::DivergentVote, [16, 0, 0]));
}

#[test]
fn special_registers() {
    let names = [
        "%tid.x",
        "%tid.y",
        "%tid.z",
        "%ntid.x",
        "%ntid.y",
        "%ntid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%ctaid.z",
        "%nctaid.x",
        "%nctaid.y",
        "%nctaid.z",
        "%laneid",
        "%lanemask_eq",
        "%lanemask_lt",
        "%lanemask_le",
        "%lanemask_gt",
        "%lanemask_ge",
    ];
    let mut stores = String::new();
    for (i, name) in names.iter().enumerate() {
        stores += &format!("mov.u32 %r1, {name}; st.global.u32 [%d1+{}], %r1;\n", i * 4);
    }
    let device = Device::new(&module(&format!(
        ".visible .entry run(.param .u64 out)
{{
    .reg .b32 %r<9>;
    .reg .b64 %d<4>;
    mov.u32 %r1, %ctaid.z;
    mad.lo.u32 %r1, %r1, 3, %ctaid.y;
    mad.lo.u32 %r1, %r1, 2, %ctaid.x;
    mad.lo.u32 %r1, %r1, 5, %tid.z;
    mad.lo.u32 %r1, %r1, 4, %tid.y;
    mad.lo.u32 %r1, %r1, 3, %tid.x;
    ld.param.u64 %d1, [out];
    mad.wide.u32 %d1, %r1, 72, %d1;
    {stores}
    ret;
}}"
    )));
    let (grid, block) = ([2u32, 3, 4], [3u32, 4, 5]);
    let count = 24 * 60;
    let output = device.room::<[u32; 18]>(count);
    device.run("run", grid, block, 0, args![output]).unwrap();
    let found = device.get::<u32>(output, count * 18);
    for (i, found) in found.chunks(18).enumerate() {
        let i = i as u32;
        let (thread, place) = (i % 60, i / 60);
        let lane = thread % 32;
        let bit = 1u32 << lane;
        let expected = [
            thread % 3,
            thread / 3 % 4,
            thread / 12,
            3,
            4,
            5,
            place % 2,
            place / 2 % 3,
            place / 6,
            2,
            3,
            4,
            lane,
            bit,
            bit - 1,
            bit | (bit - 1),
            !(bit | (bit - 1)),
            !(bit - 1),
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn counters_count() {
    let device = Device::new(&body("add.s32 %r3, %r2, 1;"));
    let output = device.room::<u32>(40);
    let counters = device.run("run", [1; 3], [40, 1, 1], 0, args![device.put(&[0u32; 40]), output]).unwrap();
    assert_eq!(counters.warp_instructions(), 2 * 11);
    assert_eq!((counters.global_load_bytes, counters.global_store_bytes), (160, 160));
}

#[test]
fn launch_limits() {
    let mut device = Device::new(&body("").replace("out)\n{", "out)\n.maxntid 64, 1, 1\n{"));
    device.checks = Checks::NONE;
    let none = args![0u64, 0u64];
    for (grid, block, shared, args, detail) in [
        ([1u32; 3], [65u32, 1, 1], 0u32, none.clone(), "65 threads"),
        ([1; 3], [1025, 1, 1], 0, none.clone(), "the block is"),
        ([1; 3], [1, 1, 65], 0, none.clone(), "the block is"),
        ([1, 65536, 1], [1; 3], 0, none.clone(), "the grid is"),
        ([0, 1, 1], [1; 3], 0, none.clone(), "the grid is"),
        ([1; 3], [1; 3], u32::MAX, none.clone(), "dynamic shared memory"),
    ] {
        let fault = device.run("run", grid, block, shared, args).unwrap_err();
        assert_eq!(fault.kind, FaultKind::InvalidLaunch);
        assert!(fault.detail.contains(detail), "{fault}");
    }
    device.run("run", [1; 3], [64, 1, 1], 0, none).unwrap();
}

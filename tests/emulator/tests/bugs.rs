//! Planted bugs: each is found by the check that should find it, at the right place, and by no other.

use cuemu::{Checks, Fault, FaultKind};

use crate::device::{Device, args};

const PTX: &str = include_str!("ptx/bugs.ptx");

fn device() -> Device {
    Device::new(PTX)
}

/// The fault of kernel `name`, whose instruction must hold `text`.
#[track_caller]
fn fault(result: Result<cuemu::Counters, Box<Fault>>, kind: FaultKind, name: &str, text: &str) -> Fault {
    let fault = *result.expect_err("the bug is found");
    assert_eq!(fault.kind, kind, "{fault}");
    assert_eq!(fault.kernel, name);
    assert!(fault.instruction.contains(text), "{fault}");
    // The line is that of the text.
    assert_eq!(PTX.lines().nth(fault.line - 1).unwrap().trim(), fault.instruction);
    let shown = fault.to_string();
    for part in [name, text, &format!("line {}", fault.line), &format!("{:?}", fault.thread)] {
        assert!(shown.contains(part), "{shown}");
    }
    fault
}

const ONE: [u32; 3] = [1, 1, 1];

#[test]
fn bound_off_by_one() {
    let mut device = device();
    let n = 100u32;
    let input = device.put(&[1.5f32; 100]);
    let output = device.room::<f32>(101);
    let run = |device: &Device, name| device.run(name, [4, 1, 1], [32, 1, 1], 0, args![input, output, n]);
    run(&device, "bound_ok").unwrap();
    assert_eq!(device.get::<f32>(output, 100), [3.0; 100]);
    let found = fault(run(&device, "bound_bug"), FaultKind::OutOfBounds, "bound_bug", "ld.global.f32");
    assert_eq!((found.block, found.thread, found.address), ([3, 0, 0], [4, 0, 0], Some(input + 400)));
    // No other check finds it.
    device.checks = Checks { memory: false, ..Checks::ALL };
    run(&device, "bound_bug").unwrap();
}

#[test]
fn write_past_the_end() {
    let mut device = device();
    let input = device.put(&[1.5f32; 64]);
    let output = device.room::<f32>(64);
    let run = |device: &Device| device.run("write_bug", [2, 1, 1], [32, 1, 1], 0, args![input, output, 64u32]);
    let found = fault(run(&device), FaultKind::OutOfBounds, "write_bug", "st.global.f32");
    assert_eq!((found.block, found.thread, found.address), ([1, 0, 0], [31, 0, 0], Some(output + 256)));
    device.checks = Checks { memory: false, ..Checks::ALL };
    run(&device).unwrap();
}

#[test]
fn misaligned_vector() {
    let mut device = device();
    let input = device.put(&[1f32; 64]);
    let output = device.room::<f32>(16);
    let run = |device: &Device, name| device.run(name, ONE, [32, 1, 1], 0, args![input, output, 16u32]);
    run(&device, "vector_ok").unwrap();
    let found = fault(run(&device, "vector_bug"), FaultKind::Misaligned, "vector_bug", "ld.global.v4.f32");
    assert_eq!((found.thread, found.address), ([0; 3], Some(input + 4)));
    device.checks = Checks { memory: false, ..Checks::ALL };
    run(&device, "vector_bug").unwrap();
}

#[test]
fn unwritten_shared_memory() {
    let mut device = device();
    let input = device.put(&[1f32; 64]);
    let output = device.room::<f32>(64);
    let run = |device: &Device, name| device.run(name, ONE, [64, 1, 1], 0, args![input, output]);
    run(&device, "shared_ok").unwrap();
    let found = fault(run(&device, "shared_bug"), FaultKind::UninitialisedShared, "shared_bug", "ld.shared.f32");
    assert_eq!((found.thread, found.address), ([0; 3], Some(63 * 4)));
    device.checks = Checks { initialised: false, ..Checks::ALL };
    run(&device, "shared_bug").unwrap();
}

#[test]
fn unwritten_global_memory() {
    let mut device = device();
    let input = device.room::<f32>(64);
    let output = device.room::<f32>(64);
    device.memory.fill(input, 0, 37 * 4 + 1).unwrap();
    let run = |device: &Device| device.run("bound_ok", [2, 1, 1], [32, 1, 1], 0, args![input, output, 64u32]);
    let found = fault(run(&device), FaultKind::UninitialisedGlobal, "bound_ok", "ld.global.f32");
    assert_eq!((found.block, found.thread, found.address), ([1, 0, 0], [5, 0, 0], Some(input + 37 * 4)));
    device.memory.fill(input, 0, 256).unwrap();
    run(&device).unwrap();
    // What a kernel has written counts, and travels with a copy.
    let copy = device.room::<f32>(64);
    device.memory.copy(copy, &device.memory, output, 252).unwrap();
    let chain = |device: &Device| device.run("bound_ok", [2, 1, 1], [32, 1, 1], 0, args![copy, input, 64u32]);
    let found = fault(chain(&device), FaultKind::UninitialisedGlobal, "bound_ok", "ld.global.f32");
    assert_eq!(found.address, Some(copy + 252));
    device.checks = Checks { initialised: false, ..Checks::ALL };
    chain(&device).unwrap();
}

#[test]
fn use_after_free() {
    let mut device = device();
    let input = device.put(&[1f32; 64]);
    let output = device.room::<f32>(64);
    device.memory.free(input).unwrap();
    let run = |device: &Device| device.run("bound_ok", [2, 1, 1], [32, 1, 1], 0, args![input, output, 64u32]);
    let found = fault(run(&device), FaultKind::UseAfterFree, "bound_ok", "ld.global.f32");
    assert_eq!(found.address, Some(input));
    device.checks = Checks { memory: false, ..Checks::ALL };
    run(&device).unwrap();
}

#[test]
fn outside_the_shared_window() {
    let device = device();
    let input = device.put(&[1f32; 64]);
    let output = device.room::<f32>(64);
    let result = device.run("window_bug", ONE, [64, 1, 1], 0, args![input, output]);
    let found = fault(result, FaultKind::OutOfBounds, "window_bug", "st.shared.f32");
    assert_eq!((found.thread, found.address), ([63, 0, 0], Some(256)));
}

#[test]
fn divergent_barrier() {
    let device = device();
    let input = device.put(&[1f32; 64]);
    let output = device.room::<f32>(64);
    device.run("barrier_ok", ONE, [64, 1, 1], 0, args![input, output]).unwrap();
    let result = device.run("barrier_bug", ONE, [64, 1, 1], 0, args![input, output]);
    let found = fault(result, FaultKind::DivergentBarrier, "barrier_bug", "bar.sync");
    assert_eq!(found.thread, [1, 0, 0]);
}

#[test]
fn shuffles_and_votes() {
    let device = device();
    let input = device.put(&[1i32; 32]);
    let output = device.room::<i32>(32);
    let run = |name| device.run(name, ONE, [32, 1, 1], 0, args![input, output]);
    run("shuffle_ok").unwrap();
    assert_eq!(device.get::<i32>(output, 1), [32]);
    fault(run("shuffle_bug"), FaultKind::InactiveShuffle, "shuffle_bug", "shfl.sync.down");
    let found = fault(run("shuffle_source_bug"), FaultKind::InactiveShuffle, "shuffle_source_bug", "shfl.sync.bfly");
    assert!(found.detail.contains("lane 0 reads lane 16"), "{found}");
    fault(run("vote_bug"), FaultKind::DivergentVote, "vote_bug", "vote.sync.ballot");
}

#[test]
fn deadlock() {
    let device = device();
    let output = device.room::<f32>(96);
    device.run("named_barrier_ok", ONE, [96, 1, 1], 0, args![output]).unwrap();
    assert_eq!(device.get::<f32>(output + 252, 2), [2.0, 1.0]);
    let result = device.run("deadlock_bug", ONE, [96, 1, 1], 0, args![output]);
    let found = fault(result, FaultKind::Deadlock, "deadlock_bug", "bar.sync");
    assert!(found.detail.contains("warp 0 waits at barrier 1") && found.detail.contains("warp 1 has ended"), "{found}");
}

#[test]
fn trap() {
    let device = device();
    let mut values = [1i32; 64];
    let input = device.put(&values);
    device.run("trap_bug", ONE, [64, 1, 1], 0, args![input]).unwrap();
    values[40] = 7;
    let input = device.put(&values);
    let found = fault(device.run("trap_bug", ONE, [64, 1, 1], 0, args![input]), FaultKind::Trap, "trap_bug", "trap");
    assert_eq!(found.thread, [40, 0, 0]);
}

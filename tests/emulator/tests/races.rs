//! Planted races: each is found by the race checker, at the right instruction, and by nothing else.

use cuemu::{Checks, Counters, Fault, FaultKind};

use crate::device::{Device, args, module};

const PTX: &str = include_str!("ptx/races.ptx");

struct Case {
    device: Device,
    input: u64,
    output: u64,
}

impl Case {
    fn new() -> Case {
        Case::of(PTX)
    }

    fn of(ptx: &str) -> Case {
        let device = Device::new(ptx);
        let input: Vec<f32> = (0..2048).map(|i| (i % 97) as f32).collect();
        let (input, output) = (device.put(&input), device.room::<f32>(2048));
        Case { device, input, output }
    }

    /// Before the kernel all that it accesses holds values.
    fn run(&self, name: &str, blocks: u32, threads: u32) -> Result<Counters, Box<Fault>> {
        self.device.memory.fill(self.output, 0, 2048 * 4).unwrap();
        self.device.run(name, [blocks, 1, 1], [threads, 1, 1], 0, args![self.input, self.output])
    }
}

/// The kernel without the race passes all checks; the race is found, and is all that there is to find.
fn planted(correct: &str, bug: &str, blocks: u32, threads: u32, kind: FaultKind, text: &str) -> Fault {
    let mut case = Case::new();
    case.run(correct, blocks, threads).unwrap_or_else(|fault| panic!("{fault}"));
    let fault = *case.run(bug, blocks, threads).expect_err(bug);
    assert_eq!((fault.kind, fault.kernel.as_str()), (kind, bug), "{fault}");
    assert!(fault.instruction.contains(text), "{fault}");
    case.device.checks = Checks { races: false, ..Checks::ALL };
    case.run(bug, blocks, threads).unwrap_or_else(|fault| panic!("{fault}"));
    case.device.checks = Checks { races: true, ..Checks::NONE };
    assert_eq!(case.run(bug, blocks, threads).expect_err(bug).kind, kind);
    fault
}

fn pair(name: &str, blocks: u32, threads: u32, kind: FaultKind, text: &str) -> Fault {
    planted(&format!("{name}_ok"), &format!("{name}_bug"), blocks, threads, kind, text)
}

#[test]
fn missing_barriers() {
    pair("write_read", 1, 64, FaultKind::SharedRace, "st.volatile.shared");
    // The first warp has begun to write when the second comes to read.
    let found = pair("refill", 1, 64, FaultKind::SharedRace, "ld.shared.f32");
    assert!(found.detail.contains("thread [31, 0, 0] has written these bytes"), "{found}");
    let found = pair("in_warp", 1, 64, FaultKind::SharedRace, "ld.volatile.shared");
    assert!(found.detail.contains("thread [1, 0, 0] has written these bytes"), "{found}");
    let found = pair("named_barrier", 1, 96, FaultKind::SharedRace, "ld.volatile.shared");
    assert_eq!(found.thread, [64, 0, 0]);
}

#[test]
fn lanes_of_one_instruction() {
    let found = pair("same_element", 1, 64, FaultKind::SharedRace, "st.volatile.shared");
    assert!(found.detail.contains("in the same instruction"), "{found}");
    pair("halves", 1, 64, FaultKind::SharedRace, "st.volatile.shared.u32");
}

/// More synchronisations than the checker's clock holds: none is taken for a race, and a race is still found.
#[test]
fn long_running_blocks() {
    let text = |last: &str| {
        module(&format!(
            ".visible .entry run(.param .u64 in, .param .u64 out)
{{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .shared .align 4 .b8 tile[256];
    mov.u32 %r1, %tid.x;
    shl.b32 %r1, %r1, 2;
    xor.b32 %r2, %r1, 128;
    mov.u32 %r3, 0;
$loop:
    st.shared.u32 [%r1], %r3;
    bar.sync 0;
    ld.shared.u32 %r4, [%r2];
    bar.sync 0;
    add.s32 %r3, %r3, 1;
    setp.lt.u32 %p1, %r3, 600000;
    @%p1 bra $loop;
    {last}
    ret;
}}"
        ))
    };
    for (last, found) in
        [("", None), ("st.shared.u32 [%r2], %r3;", None), ("st.shared.u32 [tile], %r1;", Some(FaultKind::SharedRace))]
    {
        let device = Device::new(&text(last));
        let result = device.run("run", [1; 3], [64, 1, 1], 0, args![0u64, 0u64]);
        assert_eq!(result.err().map(|fault| fault.kind), found, "{last}");
    }
}

#[test]
fn asynchronous_copies() {
    let found = pair("no_wait", 1, 64, FaultKind::PendingCopy, "ld.shared.f32");
    assert!(found.detail.contains("thread [63, 0, 0] copies to these bytes"), "{found}");
    pair("no_barrier", 1, 64, FaultKind::SharedRace, "ld.shared.f32");
    planted("pipeline_ok", "wait_bug", 1, 64, FaultKind::PendingCopy, "ld.shared.f32");
    let found = planted("pipeline_ok", "stale_bug", 1, 64, FaultKind::SharedRace, "cp.async.cg.shared.global");
    assert!(found.detail.contains("has read these bytes"), "{found}");
}

/// The copies come as late as they may: without the checker the kernel computes with the values before them.
#[test]
fn a_missing_wait_shows_in_the_values() {
    let mut case = Case::new();
    let expected: Vec<f32> = (0..64).map(|t| (0..8).map(|k| ((k * 256 + 255 - t) % 97) as f32).sum()).collect();
    case.run("pipeline_ok", 1, 64).unwrap();
    assert_eq!(case.device.get::<f32>(case.output, 64), expected);
    case.device.checks = Checks::NONE;
    case.run("wait_bug", 1, 64).unwrap();
    // Each round sees what its stage held three rounds before.
    let stale: Vec<f32> = (0..64).map(|t| (0..5).map(|k| ((k * 256 + 255 - t) % 97) as f32).sum()).collect();
    assert_eq!(case.device.get::<f32>(case.output, 64), stale);
}

#[test]
fn between_blocks() {
    pair("block_writes", 3, 64, FaultKind::GlobalRace, "st.global.f32");
    pair("block_reads", 3, 64, FaultKind::GlobalRace, "global.f32");
    pair("block_atomics", 3, 64, FaultKind::GlobalRace, "global");
    pair("block_halves", 3, 64, FaultKind::GlobalRace, "st.global.u16");
    let found = pair("last_block", 3, 64, FaultKind::GlobalRace, "ld.volatile.global.f32");
    assert!(found.detail.contains("written these bytes"), "{found}");
    // One block cannot race with itself.
    Case::new().run("block_writes_bug", 1, 64).unwrap();
}

/// The last block's reads need the others' fences and its own.
#[test]
fn both_fences() {
    let entry = PTX.find(".entry last_block_ok(").unwrap();
    let fences: Vec<usize> = PTX[entry..].match_indices("membar.gl;").map(|(at, _)| entry + at).take(2).collect();
    for (wanted, cut) in [(None, None), (Some(FaultKind::GlobalRace), Some(0)), (Some(FaultKind::GlobalRace), Some(1))]
    {
        let mut text = PTX.to_string();
        if let Some(cut) = cut {
            text.replace_range(fences[cut]..fences[cut] + "membar.gl".len(), "membar.cta");
        }
        let case = Case::of(&text);
        let found = case.run("last_block_ok", 5, 64).err().map(|fault| fault.kind);
        assert_eq!(found, wanted, "without fence {cut:?}");
    }
}

/// Whichever block comes first, on any number of threads.
#[test]
fn blocks_in_any_order() {
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            for round in 0..100 {
                for bug in
                    ["block_writes_bug", "block_reads_bug", "block_atomics_bug", "block_halves_bug", "last_block_bug"]
                {
                    let fault = *Case::new().run(bug, 2 + round % 9, 64).expect_err(bug);
                    assert_eq!(fault.kind, FaultKind::GlobalRace, "{fault}");
                }
                for correct in
                    ["block_writes_ok", "block_reads_ok", "block_atomics_ok", "block_halves_ok", "last_block_ok"]
                {
                    Case::new().run(correct, 2 + round % 9, 64).unwrap_or_else(|fault| panic!("{fault}"));
                }
            }
        });
    }
}

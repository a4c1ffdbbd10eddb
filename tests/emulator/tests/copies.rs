//! `cp.async`: what is copied, when, and what is checked.

use cuemu::{Checks, Counters, Fault, FaultKind, Module};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args, module};

const SEED: u64 = 80;

/// A kernel of `in`, `out`, `sizes`: `%d1` and `%r1` are the thread's 16 bytes of the input and of shared memory, `%r2` its
/// size, `%r3` its number. What is in shared memory at `$end` is stored, 16 bytes a thread.
fn kernel(text: &str) -> String {
    module(&format!(
        ".visible .entry run(.param .u64 in, .param .u64 out, .param .u64 sizes)
{{
    .reg .pred %p<6>;
    .reg .b32 %r<20>;
    .reg .b64 %d<6>;
    .shared .align 16 .b8 tile[1024];
    ld.param.u64 %d1, [in];
    ld.param.u64 %d2, [out];
    ld.param.u64 %d3, [sizes];
    mov.u32 %r3, %tid.x;
    mul.wide.u32 %d4, %r3, 4;
    add.s64 %d3, %d3, %d4;
    ld.global.u32 %r2, [%d3];
    mul.wide.u32 %d4, %r3, 16;
    add.s64 %d1, %d1, %d4;
    add.s64 %d2, %d2, %d4;
    shl.b32 %r1, %r3, 4;
    mov.u32 %r4, 0xEEEEEEEE;
    st.shared.v4.u32 [%r1], {{%r4, %r4, %r4, %r4}};
{text}
$end:
    ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r1];
    st.global.v4.u32 [%d2], {{%r4, %r5, %r6, %r7}};
$out:
    ret;
}}"
    ))
}

struct Case {
    device: Device,
    input: u64,
    output: u64,
    sizes: u64,
    threads: u32,
}

impl Case {
    fn new(text: &str, input: &[u8], sizes: &[u32]) -> Case {
        let device = Device::new(&kernel(text));
        let (input, sizes_at) = (device.put(input), device.put(sizes));
        let output = device.room::<u8>(sizes.len() * 16);
        Case { device, input, output, sizes: sizes_at, threads: sizes.len() as u32 }
    }

    fn launch(&self) -> Result<Counters, Box<Fault>> {
        self.device.run("run", [1; 3], [self.threads, 1, 1], 0, args![self.input, self.output, self.sizes])
    }

    fn output(&self) -> Vec<[u8; 16]> {
        self.device.get(self.output, self.threads as usize)
    }
}

fn bytes(count: usize) -> Vec<u8> {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    (0..count).map(|_| rng.random()).collect()
}

/// The bytes of `text`'s one copy of `size` bytes, of which `read` come from the input and the others are zeros.
fn copied(input: &[u8], size: usize, read: impl Fn(usize) -> usize, threads: usize) -> Vec<[u8; 16]> {
    let bytes = |thread: usize| {
        std::array::from_fn(|i| match i {
            i if i < read(thread) => input[thread * 16 + i],
            i if i < size => 0,
            _ => 0xEE,
        })
    };
    (0..threads).map(bytes).collect()
}

#[test]
fn sizes_and_forms() {
    let input = bytes(64 * 16);
    for (form, size) in [
        ("ca.shared.global", 4),
        ("ca.shared.global", 8),
        ("ca.shared.global.L2::64B", 8),
        ("ca.shared.global.L2::128B", 16),
        ("cg.shared.global", 16),
        ("cg.shared.global.L2::256B", 16),
    ] {
        for wait in ["cp.async.wait_all;", "cp.async.commit_group; cp.async.wait_group 0;"] {
            let case = Case::new(&format!("cp.async.{form} [%r1], [%d1], {size};{wait}"), &input, &[0; 64]);
            let counters = case.launch().unwrap_or_else(|fault| panic!("{form}: {fault}"));
            assert_eq!(case.output(), copied(&input, size, |_| size, 64), "{form} of {size}, seed {SEED}");
            assert_eq!(counters.global_load_bytes, 64 * (4 + size as u64));
        }
        // Every number of bytes that may come from the source, different from lane to lane and the same.
        let case = Case::new(
            &format!("cp.async.{form} [%r1], [%d1], {size}, %r2; cp.async.wait_all;"),
            &input,
            &std::array::from_fn::<u32, 64, _>(|i| (i % (size + 1)) as u32),
        );
        case.launch().unwrap_or_else(|fault| panic!("{form}: {fault}"));
        assert_eq!(case.output(), copied(&input, size, |i| i % (size + 1), 64), "{form} of {size}, seed {SEED}");
        let case = Case::new(&format!("cp.async.{form} [%r1], [%d1], {size}, 3; cp.async.wait_all;"), &input, &[0; 64]);
        case.launch().unwrap_or_else(|fault| panic!("{form}: {fault}"));
        assert_eq!(case.output(), copied(&input, size, |_| 3, 64), "{form} of {size}, seed {SEED}");
    }
}

/// With the checks off the kernel reads what was there before, until the wait that covers the copy.
#[test]
fn done_at_the_wait_and_not_before() {
    let input = bytes(64 * 16);
    let old = vec![[0xEE; 16]; 64];
    let new = copied(&input, 16, |_| 16, 64);
    let copy = "cp.async.cg.shared.global [%r1], [%d1], 16;";
    for (text, covered) in [
        ("", false),
        ("cp.async.commit_group;", false),
        // Nothing was committed.
        ("cp.async.wait_group 0;", false),
        ("cp.async.commit_group; cp.async.wait_group 1;", false),
        ("cp.async.commit_group; cp.async.commit_group; cp.async.wait_group 2;", false),
        ("cp.async.commit_group; cp.async.wait_group 0;", true),
        ("cp.async.commit_group; cp.async.commit_group; cp.async.wait_group 1;", true),
        ("cp.async.wait_all;", true),
        ("bar.sync 0;", false),
    ] {
        let mut case = Case::new(&format!("{copy}{text}"), &input, &[0; 64]);
        case.device.checks = Checks::NONE;
        case.launch().unwrap();
        assert_eq!(case.output(), if covered { new.clone() } else { old.clone() }, "{text}");
    }
    // The source is read at the wait as well.
    let text = format!("{copy} mov.u32 %r4, 7; st.global.u32 [%d1], %r4; cp.async.wait_all;");
    let mut case = Case::new(&text, &input, &[0; 64]);
    case.device.checks = Checks::NONE;
    case.launch().unwrap();
    assert!(case.output().iter().all(|bytes| bytes[..4] == [7, 0, 0, 0]));
}

/// Each thread has groups of its own.
#[test]
fn groups_of_each_thread() {
    let input = bytes(64 * 16);
    let text = "
    and.b32 %r8, %r3, 1;
    setp.eq.u32 %p1, %r8, 0;
    and.b32 %r8, %r3, 2;
    setp.eq.u32 %p2, %r8, 0;
    cp.async.ca.shared.global [%r1], [%d1], 4;
    cp.async.commit_group;
    cp.async.ca.shared.global [%r1+4], [%d1+4], 4;
    @%p1 cp.async.commit_group;
    cp.async.ca.shared.global [%r1+8], [%d1+8], 4;
    cp.async.commit_group;
    @%p2 cp.async.wait_group 1;
    cp.async.ca.shared.global [%r1+12], [%d1+12], 4;";
    let mut case = Case::new(text, &input, &[0; 64]);
    case.device.checks = Checks::NONE;
    case.launch().unwrap();
    for (i, found) in case.output().iter().enumerate() {
        // Odd threads have the second and the third copy in one group.
        let done = if i & 2 != 0 {
            0
        } else if i & 1 == 0 {
            8
        } else {
            4
        };
        assert_eq!(found[..done], input[i * 16..][..done], "thread {i}");
        assert!(found[done..].iter().all(|byte| *byte == 0xEE), "thread {i}");
    }
}

#[track_caller]
fn fault(case: &Case, kind: FaultKind, thread: u32, address: u64) {
    let fault = *case.launch().expect_err("it is found");
    assert_eq!((fault.kind, fault.thread, fault.address), (kind, [thread, 0, 0], Some(address)), "{fault}");
    assert!(fault.instruction.contains("cp.async.c"), "{fault}");
}

#[test]
fn checks_of_memory() {
    let wait = "cp.async.wait_all;";
    let all = |text: &str| Case::new(&format!("{text}{wait}"), &bytes(64 * 16), &[9; 64]);
    // The end of the input.
    let mut case = all("cp.async.cg.shared.global [%r1], [%d1+16], 16;");
    fault(&case, FaultKind::OutOfBounds, 63, case.input + 64 * 16);
    case.device.checks = Checks::NONE;
    case.launch().unwrap();
    assert_eq!(case.output()[63], [0; 16], "such a copy writes zeros");
    let case = all("cp.async.cg.shared.global [%r1], [%d1+16], 16, %r2;");
    fault(&case, FaultKind::OutOfBounds, 63, case.input + 64 * 16);
    let case = all("cp.async.ca.shared.global [%r1], [%d1+4], 8;");
    fault(&case, FaultKind::Misaligned, 0, case.input + 4);
    let case = all("cp.async.cg.shared.global [%r1], [%d1+8], 16, %r2;");
    fault(&case, FaultKind::Misaligned, 0, case.input + 8);
    let case = all("cp.async.ca.shared.global [%r1+2], [%d1], 4;");
    fault(&case, FaultKind::Misaligned, 0, 2);
    let mut case = all("cp.async.cg.shared.global [%r1+16], [%d1], 16;");
    case.device.checks.races = false;
    fault(&case, FaultKind::OutOfBounds, 63, 1024);
    // More of the source than there is in the copy.
    let case = all("cp.async.ca.shared.global [%r1], [%d1], 8, %r2;");
    fault(&case, FaultKind::OutOfBounds, 0, case.input);
    let case = all("cp.async.cg.shared.global [%r1], [%d1], 16;");
    case.device.memory.free(case.input).unwrap();
    fault(&case, FaultKind::UseAfterFree, 0, case.input);
    // Without a byte of the source its address may be anything.
    let case =
        Case::new("cp.async.cg.shared.global [%r1], [%d1+1025], 16, %r2; cp.async.wait_all;", &[0; 16], &[0; 64]);
    case.launch().unwrap();
    assert_eq!(case.output(), [[0; 16]; 64]);
}

#[test]
fn unwritten_sources() {
    let text = "cp.async.cg.shared.global [%r1], [%d1], 16, %r2; add.s32 %r9, %r9, 1; cp.async.wait_all;";
    let mut case = Case::new(text, &[0], &[15; 64]);
    case.input = case.device.room::<u8>(64 * 16);
    case.device.memory.fill(case.input, 1, 64 * 16).unwrap();
    case.launch().unwrap();
    let fresh = case.device.room::<u8>(64 * 16);
    case.device.memory.fill(fresh, 1, 40 * 16 + 15).unwrap();
    case.input = fresh;
    fault(&case, FaultKind::UninitialisedGlobal, 41, fresh + 41 * 16);
    case.device.memory.fill(fresh, 1, 63 * 16 + 14).unwrap();
    fault(&case, FaultKind::UninitialisedGlobal, 63, fresh + 63 * 16);
    case.device.memory.fill(fresh, 1, 63 * 16 + 15).unwrap();
    case.launch().unwrap();
    // Where no wait covers the copy, its bytes stay unwritten.
    let text = "add.s32 %r1, %r1, 512; cp.async.ca.shared.global [%r1], [%d1], 8;";
    for (wait, found) in [("", Some(FaultKind::UninitialisedShared)), ("cp.async.wait_all;", None)] {
        let mut case = Case::new(&format!("{text}{wait} ld.shared.u32 %r9, [%r1+4]; bra $out;"), &bytes(512), &[0; 32]);
        case.device.checks = Checks { initialised: true, ..Checks::NONE };
        assert_eq!(case.launch().err().map(|fault| fault.kind), found);
    }
}

#[test]
fn refusals() {
    Module::load(&kernel("cp.async.ca.shared.global [%r1], [%d1], 4;")).map(drop).unwrap();
    for form in [
        "cp.async.cg.shared.global [%r1], [%d1], 8;",
        "cp.async.ca.shared.global [%r1], [%d1], 12;",
        "cp.async.ca.shared.global [%r1], [%d1], %r2;",
        "cp.async.ca.shared.global [%r1], [%d1];",
        "cp.async.ca.shared.global.L2::cache_hint [%r1], [%d1], 16, %d2;",
        "cp.async.ca.shared.global.L2::32B [%r1], [%d1], 16;",
        // Of PTX 7.5.
        "cp.async.ca.shared.global [%r1], [%d1], 16, %p1;",
        "cp.async.ca.shared.global [%r1], [%d1], 16, 16, %d2;",
        "cp.async.ca.global.shared [%d1], [%r1], 16;",
        "cp.async.wait_group;",
        "cp.async.wait_group %r1;",
        "cp.async.wait_group -1;",
        "cp.async.wait_all 0;",
        "cp.async.commit_group 1;",
        "cp.async.bulk.commit_group;",
        "cp.reduce.async.bulk;",
    ] {
        let error = Module::load(&kernel(form)).err().unwrap_or_else(|| panic!("{form} is taken"));
        assert!(error.message.contains("cp.") || error.message.contains("register of Pred"), "{form}: {error}");
    }
}

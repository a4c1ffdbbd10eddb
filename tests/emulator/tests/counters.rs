//! Counters against what is known of each kernel.

use cuemu::{Checks, Class, Counters};

use crate::device::{Device, args, module};

/// Runs `text` in one block with `%r1` at `thread * stride + shift` in shared memory, and `%d1` there in global memory.
fn count(text: &str, threads: u32, stride: u32, shift: u32) -> Counters {
    let mut device = Device::new(&module(&format!(
        ".visible .entry run(.param .u64 data)
{{
    .reg .pred %p<4>;
    .reg .b32 %r<20>;
    .reg .b64 %d<6>;
    .shared .align 16 .b8 tile[40000];
    ld.param.u64 %d1, [data];
    mov.u32 %r2, %tid.x;
    mad.lo.s32 %r1, %r2, {stride}, {shift};
    cvt.u64.u32 %d2, %r1;
    add.s64 %d1, %d1, %d2;
{text}
    ret;
}}"
    )));
    device.checks = Checks { traffic: true, memory: true, ..Checks::NONE };
    let data = device.put(&[0u8; 40000]);
    device.run("run", [1; 3], [threads, 1, 1], 0, args![data]).unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

/// Forms of a width with their registers.
const WIDTHS: [(u64, &str, &str); 5] = [
    (1, "u8", "%r3"),
    (2, "u16", "%r3"),
    (4, "u32", "%r3"),
    (8, "v2.u32", "{%r3, %r4}"),
    (16, "v4.u32", "{%r3, %r4, %r5, %r6}"),
];

#[test]
fn sectors() {
    for (bytes, stride, shift, sectors) in [
        (4, 4, 0, 4),
        // Misaligned to the sectors.
        (4, 4, 4, 5),
        (16, 16, 0, 16),
        (16, 16, 16, 17),
        (8, 8, 0, 8),
        (1, 1, 0, 1),
        (1, 1, 31, 2),
        (2, 2, 0, 2),
        // One value for all.
        (4, 0, 40, 1),
        (4, 8, 0, 8),
        (4, 128, 0, 32),
        (16, 32, 16, 32),
    ] {
        let (_, form, registers) = WIDTHS.into_iter().find(|width| width.0 == bytes).unwrap();
        let case = format!("{form}, stride {stride}, shift {shift}");
        let found = count(&format!("ld.global.{form} {registers}, [%d1];"), 32, stride, shift);
        assert_eq!((found.global_load_requests, found.global_load_sectors), (1, sectors), "{case}");
        assert_eq!((found.global_load_bytes, found.global_store_requests), (32 * bytes, 0), "{case}");
        let found = count(&format!("st.global.{form} [%d1], {registers};"), 64, stride, shift);
        assert_eq!(found.global_store_requests, 2, "{case}");
        assert_eq!((found.global_store_sectors, found.global_store_bytes), (2 * sectors, 64 * bytes), "{case}");
        if bytes >= 4 {
            let text =
                format!("mov.u32 %r7, %tid.x; shl.b32 %r7, %r7, 4; cp.async.ca.shared.global [%r7], [%d1], {bytes};");
            let found = count(&text, 32, stride, shift);
            assert_eq!((found.copy_requests, found.copy_sectors), (1, sectors), "{case}");
            assert_eq!((found.global_load_bytes, found.shared_store_bytes), (32 * bytes, 32 * bytes), "{case}");
            assert_eq!((found.global_load_requests, found.global_load_sectors), (0, 0), "{case}");
        }
    }
    // Every second lane, backwards, and none.
    let text = "and.b32 %r3, %r2, 1; setp.eq.u32 %p1, %r3, 0; @%p1 ld.global.u32 %r4, [%d1];";
    let found = count(text, 32, 16, 0);
    assert_eq!((found.global_load_sectors, found.global_load_bytes), (16, 64));
    let text = "mul.wide.u32 %d3, %r2, 16; sub.s64 %d1, %d1, %d3; ld.global.u32 %r4, [%d1+480];";
    assert_eq!(count(text, 32, 8, 0).global_load_sectors, 9);
    let text = "setp.eq.u32 %p1, %r2, 99; @%p1 ld.global.u32 %r4, [%d1];";
    let found = count(text, 32, 4, 0);
    assert_eq!((found.global_load_requests, found.count(Class::GlobalLoad)), (0, 1));
    // Lanes that copy no byte of the source touch no sector.
    let text = "mov.u32 %r7, 0; setp.lt.u32 %p1, %r2, 8; selp.b32 %r7, 4, 0, %p1; cp.async.ca.shared.global [%r1], [%d1], 4, %r7;";
    let found = count(text, 32, 4, 0);
    assert_eq!((found.copy_sectors, found.copy_wavefronts), (1, 1));
    assert_eq!((found.global_load_bytes, found.shared_store_bytes), (32, 128));
}

#[test]
fn wavefronts() {
    for (bytes, stride, wavefronts) in [
        (4, 4, 1),
        (4, 8, 2),
        (4, 12, 1),
        (4, 128, 32),
        (4, 132, 1),
        (4, 64, 16),
        // One word for all.
        (4, 0, 1),
        // Several lanes in a word.
        (1, 1, 1),
        (2, 2, 1),
        (2, 4, 1),
        (2, 64, 16),
        (8, 8, 2),
        (8, 16, 4),
        (8, 0, 2),
        (8, 136, 2),
        (16, 16, 4),
        (16, 32, 8),
        (16, 128, 32),
        (16, 144, 4),
        (16, 0, 4),
    ] {
        let (_, form, registers) = WIDTHS.into_iter().find(|width| width.0 == bytes).unwrap();
        let case = format!("{form}, stride {stride}");
        let found = count(&format!("ld.shared.{form} {registers}, [%r1];"), 32, stride, 0);
        assert_eq!((found.shared_load_requests, found.shared_load_wavefronts), (1, wavefronts), "{case}");
        assert_eq!((found.shared_load_bytes, found.shared_store_bytes), (32 * bytes, 0), "{case}");
        let found = count(&format!("st.shared.{form} [%r1], {registers};"), 64, stride, 0);
        assert_eq!((found.shared_store_requests, found.shared_store_wavefronts), (2, 2 * wavefronts), "{case}");
        assert_eq!((found.shared_load_bytes, found.shared_store_bytes), (0, 64 * bytes), "{case}");
        if bytes >= 4 {
            let found = count(&format!("cp.async.ca.shared.global [%r1], [%d1], {bytes};"), 32, stride, 0);
            assert_eq!(found.copy_wavefronts, wavefronts, "{case}");
        }
    }
    // A part without lanes takes no step.
    let text = "setp.lt.u32 %p1, %r2, 9; @%p1 ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [%r1];";
    assert_eq!(count(text, 32, 16, 0).shared_load_wavefronts, 2);
    // Two words of each bank, interleaved.
    let text = "and.b32 %r3, %r2, 1; mul.lo.s32 %r3, %r3, 128; and.b32 %r4, %r2, 2; add.s32 %r3, %r3, %r4; and.b32 %r3, %r3, -4; ld.shared.u32 %r5, [%r3];";
    assert_eq!(count(text, 32, 4, 0).shared_load_wavefronts, 2);
}

#[test]
fn classes() {
    let text = "
    add.s32 %r3, %r2, 1;
    and.b64 %d3, %d1, %d2;
    mul.f32 %r3, %r3, %r3;
    ex2.approx.f32 %r3, %r3;
    setp.lt.f32 %p1, %r3, %r3;
    and.pred %p1, %p1, %p2;
    selp.b32 %r4, %r3, %r3, %p1;
    cvt.rn.f32.s32 %r4, %r2;
    ld.global.u32 %r5, [%d1];
    st.global.u32 [%d1], %r5;
    ld.shared.u32 %r5, [%r1];
    ld.volatile.shared.u32 %r5, [%r1];
    st.shared.u32 [%r1], %r5;
    red.shared.add.u32 [%r1], 1;
    atom.global.add.u32 %r5, [%d1], 1;
    cp.async.ca.shared.global [%r1], [%d1], 4;
    cp.async.commit_group;
    cp.async.wait_all;
    bar.sync 0;
    shfl.sync.bfly.b32 %r5, %r5, 1, 31, -1;
    vote.sync.any.pred %p1, %p1, -1;
    membar.gl;
    bra $next;
$next:
    activemask.b32 %r5;";
    let found = count(text, 64, 4, 0);
    let expected = [
        (Class::Integer, 2 + 2),
        (Class::Float, 2),
        (Class::Half, 0),
        (Class::Convert, 1 + 1),
        (Class::Move, 4 + 1),
        (Class::Matrix, 0),
        (Class::GlobalLoad, 1),
        (Class::GlobalStore, 1),
        (Class::SharedLoad, 2),
        (Class::SharedStore, 1),
        (Class::Atomic, 2),
        (Class::Copy, 1),
        (Class::OtherMemory, 1),
        (Class::Control, 2),
        (Class::Synchronise, 6),
    ];
    assert_eq!(expected.map(|(class, _)| class), Class::ALL.map(|(class, _)| class));
    // Two warps, and the kernel's first five instructions and its return.
    for (class, count) in expected {
        assert_eq!(found.count(class), 2 * count, "{class:?}");
    }
    assert_eq!(found.warp_instructions(), 2 * expected.iter().map(|(_, count)| count).sum::<u64>());
    assert_eq!((found.global_load_bytes, found.global_store_bytes), (64 * 4 * 3, 64 * 4 * 2));
    assert_eq!((found.shared_load_bytes, found.shared_store_bytes), (64 * 4 * 3, 64 * 4 * 3));
    let table = found.table();
    assert_eq!(table[0], ("warp_instructions", found.warp_instructions()));
    assert_eq!(table.iter().find(|(name, _)| *name == "convert"), Some(&("convert", 4)));
    assert!(table.contains(&("copy_sectors", 8)) && table.contains(&("shared_load_wavefronts", 4)));
}

/// Those of a launch are the sum over its blocks; without `traffic` only instructions and bytes are counted.
#[test]
fn sums_over_blocks() {
    let mut device = Device::new(include_str!("ptx/bugs.ptx"));
    let (input, output) = (device.put(&[1f32; 1024]), device.room::<f32>(1024));
    let run = |device: &Device, blocks| {
        device.run("bound_ok", [blocks, 1, 1], [64, 1, 1], 0, args![input, output, 64 * blocks]).unwrap()
    };
    let quiet = run(&device, 16);
    device.checks.traffic = true;
    let (one, all) = (run(&device, 1), run(&device, 16));
    assert_eq!(all.table(), one.table().into_iter().map(|(name, value)| (name, 16 * value)).collect::<Vec<_>>());
    assert_eq!((all.global_load_sectors, all.global_store_sectors), (16 * 8, 16 * 8));
    assert_eq!((quiet.classes, quiet.global_load_bytes), (all.classes, all.global_load_bytes));
    assert_eq!((quiet.global_load_requests, quiet.global_load_sectors, quiet.global_store_sectors), (0, 0, 0));
}

/// Sectors that several warps and blocks touch count once.
#[test]
fn touched_once() {
    let mut device = Device::new(&module(
        ".visible .entry run(.param .u64 data)
{
    .reg .b32 %r<8>;
    .reg .b64 %d<6>;
    ld.param.u64 %d1, [data];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d2, %r1, 8;
    add.s64 %d3, %d1, %d2;
    ld.global.u32 %r2, [%d3];
    ld.global.u32 %r3, [%d3+4];
    mov.u32 %r4, %ctaid.x;
    mul.wide.u32 %d4, %r4, 64;
    add.s64 %d5, %d1, %d4;
    st.global.u32 [%d5+8192], %r4;
    ret;
}",
    ));
    device.checks = Checks { traffic: true, memory: true, ..Checks::NONE };
    let data = device.put(&[0u8; 40000]);
    let found = device.run("run", [5, 1, 1], [64, 1, 1], 0, args![data]).unwrap();
    // 512 bytes by all blocks; a sector by each block, 64 bytes apart.
    assert_eq!((found.global_read_once_bytes, found.global_written_once_bytes), (512, 5 * 32));
    assert_eq!((found.global_load_bytes, found.global_store_bytes), (5 * 512, 5 * 64 * 4));
}

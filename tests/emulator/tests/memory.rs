//! Global memory, and every form of load, store and atomic.

use cuemu::{AccessError, Checks, FaultKind, GlobalMemory};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args, module};

const SEED: u64 = 7;

#[test]
fn allocation() {
    let memory = GlobalMemory::new(10_000);
    let first = memory.alloc(1000).unwrap();
    let second = memory.alloc(9000).unwrap();
    assert_eq!((first % 256, second % 256), (0, 0));
    assert!(second >= first + 1000 + 256, "a red zone lies between");
    assert_eq!((memory.alloc(1), memory.alloc(0), memory.alloc(u64::MAX)), (None, None, None));
    assert_eq!((memory.used(), memory.capacity()), (10_000, 10_000));
    memory.free(first).unwrap();
    assert_eq!(memory.used(), 9000);
    let third = memory.alloc(1000).unwrap();
    assert_ne!(third, first, "addresses are not reused");
    let freed = AccessError::UseAfterFree { address: first, bytes: 1, freed: (first, 1000) };
    assert_eq!(memory.free(first), Err(freed), "freed twice");
    assert!(memory.free(second + 256).is_err(), "not a start");
    assert_eq!(memory.used(), 10_000);
}

#[test]
fn host_accesses() {
    let memory = GlobalMemory::new(1 << 20);
    let (a, b) = (memory.alloc(100).unwrap(), memory.alloc(100).unwrap());
    let bytes: Vec<u8> = (0..100).collect();
    for (offset, length) in [(0, 100), (1, 2), (3, 1), (2, 9), (5, 93), (99, 1), (100, 0)] {
        memory.fill(a, 0xEE, 100).unwrap();
        memory.fill(b, 0x11, 100).unwrap();
        memory.write(a + offset, &bytes[..length]).unwrap();
        let mut found = vec![0; length];
        memory.read(a + offset, &mut found).unwrap();
        assert_eq!(found, bytes[..length]);
        for to in [0, 1, 4].into_iter().filter(|to| to + length <= 100) {
            memory.copy(b + to as u64, &memory, a + offset, length as u64).unwrap();
            memory.read(b + to as u64, &mut found).unwrap();
            assert_eq!(found, bytes[..length], "{length} bytes from {offset} to {to}");
        }
        let mut all = vec![0; 100];
        memory.read(a, &mut all).unwrap();
        let outside = all.iter().enumerate().filter(|(i, _)| !(offset as usize..offset as usize + length).contains(i));
        assert!(outside.into_iter().all(|(_, byte)| *byte == 0xEE), "{length} bytes at {offset} stay inside");
    }
    let beyond =
        |address, bytes, nearest| Err(AccessError::OutOfBounds { address, bytes, nearest: Some((nearest, 100)) });
    assert_eq!(memory.write(a + 99, &[0; 2]), beyond(a + 99, 2, a));
    assert_eq!(memory.fill(b - 1, 0, 1), beyond(b - 1, 1, b));
    assert_eq!(memory.read(u64::MAX, &mut [0; 8]), beyond(u64::MAX, 8, b));
    assert_eq!(memory.copy(a, &memory, b, u64::MAX), beyond(a, u64::MAX, a));
    let text = memory.write(a + 101, &[0; 4]).unwrap_err().to_string();
    assert!(text.contains("1 bytes past the end of the 100 bytes"), "{text}");
}

/// Each lane loads at `in + tid * stride` and stores what it got at `out + tid * stride`.
fn transfer(load: &str, store: &str, registers: &str, list: &str, stride: u32) -> String {
    module(&format!(
        ".visible .entry transfer(.param .u64 in, .param .u64 out)
{{
    .reg .b32 %r<4>;
    .reg .b64 %d<6>;
    {registers}
    ld.param.u64 %d1, [in];
    ld.param.u64 %d2, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d3, %r1, {stride};
    add.s64 %d1, %d1, %d3;
    add.s64 %d2, %d2, %d3;
    {load} {list}, [%d1+16];
    {store} [%d2], {list};
    ret;
}}"
    ))
}

#[test]
fn loads_and_stores() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let mut cases = 0;
    for (ty, size) in [
        ("u8", 1),
        ("b8", 1),
        ("s8", 1),
        ("u16", 2),
        ("b16", 2),
        ("s16", 2),
        ("u32", 4),
        ("s32", 4),
        ("b32", 4),
        ("f32", 4),
        ("u64", 8),
        ("s64", 8),
        ("b64", 8),
    ] {
        for count in [1usize, 2, 4].into_iter().filter(|count| count * size <= 16) {
            for width in [16usize, 32, 64].into_iter().filter(|width| width / 8 >= size) {
                let vector = if count == 1 { String::new() } else { format!(".v{count}") };
                let names: Vec<String> = (0..count).map(|i| format!("%x{i}")).collect();
                let list = if count == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) };
                // A store of the whole register shows how the load extended it.
                for whole in [false, true] {
                    let (store_ty, stored) =
                        if whole { (format!("b{width}"), width / 8) } else { (ty.to_string(), size) };
                    if stored * count > 16 {
                        continue;
                    }
                    for space in ["global", "global.nc", "volatile.global", "global.cs"] {
                        let to = space.replace(".nc", "");
                        let (load, store) = (format!("ld.{space}{vector}.{ty}"), format!("st.{to}{vector}.{store_ty}"));
                        let text = transfer(&load, &store, &format!(".reg .b{width} %x<4>;"), &list, 16);
                        let device = Device::new(&text);
                        let input: Vec<u8> = (0..40 * 16 + 16).map(|_| rng.random()).collect();
                        let output = device.room::<u8>(40 * 16);
                        device.run("transfer", [1; 3], [40, 1, 1], 0, args![device.put(&input), output]).unwrap();
                        let found = device.get::<u8>(output, 40 * 16);
                        for lane in 0..40 {
                            for part in 0..count {
                                let from = &input[16 + lane * 16 + part * size..][..size];
                                let negative = ty.starts_with('s') && from[size - 1] >= 128;
                                let mut expected = from.to_vec();
                                expected.resize(stored.max(size), if negative { 255 } else { 0 });
                                let at = lane * 16 + part * stored;
                                assert_eq!(found[at..at + stored], expected[..stored], "{load}, {store}, seed {SEED}");
                            }
                        }
                        cases += 1;
                    }
                }
            }
        }
    }
    assert!(cases > 200);
}

#[test]
fn shared_and_local_vectors() {
    let text = module(
        ".visible .entry spaces(.param .u64 out)
{
    .reg .b16 %h<3>;
    .reg .b32 %r<9>;
    .reg .b64 %d<6>;
    .local .align 16 .b8 depot[32];
    .shared .align 16 .b8 tile[512];
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %laneid;
    shl.b32 %r2, %r1, 3;
    mov.u32 %r3, tile;
    add.s32 %r3, %r3, %r2;
    st.shared.v2.u32 [%r3], {%r1, %r2};
    bar.sync 0;
    xor.b32 %r3, %r3, 8;
    ld.shared.v2.u32 {%r4, %r5}, [%r3];
    mov.u64 %d2, depot;
    st.local.v4.u32 [%d2+16], {%r5, %r4, %r5, %r4};
    ld.local.u8 %r6, [%d2+20];
    st.local.u8 [%d2+17], %r6;
    ld.local.u64 %d3, [%d2+16];
    mul.wide.u32 %d4, %r1, 8;
    add.s64 %d1, %d1, %d4;
    st.global.u64 [%d1], %d3;
    ret;
}",
    );
    let device = Device::new(&text);
    let output = device.room::<u64>(32);
    device.run("spaces", [1; 3], [32, 1, 1], 0, args![output]).unwrap();
    for (lane, found) in device.get::<u64>(output, 32).into_iter().enumerate() {
        let other = lane as u64 ^ 1;
        assert_eq!(found, other << 32 | ((other * 8) & 255) | other << 8, "lane {lane}");
    }
}

#[test]
fn bounds_of_vectors_and_local_arrays() {
    // The last lane's vector begins inside and ends outside.
    let text = transfer("ld.global.v4.u32", "st.global.v4.u32", ".reg .b32 %x<4>;", "{%x0, %x1, %x2, %x3}", 16);
    let device = Device::new(&text);
    let (input, output) = (device.put(&[0u8; 16 + 32 * 16 - 4]), device.room::<u8>(512));
    let fault = device.run("transfer", [1; 3], [32, 1, 1], 0, args![input, output]).unwrap_err();
    assert_eq!((fault.kind, fault.thread, fault.address), (FaultKind::OutOfBounds, [31, 0, 0], Some(input + 512)));
    assert!(fault.detail.contains("run over the end"), "{fault}");
    let text = module(
        ".visible .entry local()
{
    .reg .b64 %d<3>;
    .local .align 8 .b8 depot[24];
    mov.u64 %d1, depot;
    st.local.u64 [%d1+16], %d1;
    st.local.u64 [%d1+24], %d1;
    ret;
}",
    );
    let fault = Device::new(&text).run("local", [1; 3], [1; 3], 0, args![]).unwrap_err();
    assert_eq!((fault.kind, fault.address, fault.line), (FaultKind::OutOfBounds, Some(24), 10));
}

#[test]
fn lanes_in_different_allocations() {
    let text = module(
        ".visible .entry gather(.param .u64 pointers, .param .u64 out)
{
    .reg .b32 %r<4>;
    .reg .b64 %d<6>;
    ld.param.u64 %d1, [pointers];
    ld.param.u64 %d2, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d3, %r1, 8;
    add.s64 %d1, %d1, %d3;
    ld.global.u64 %d4, [%d1];
    ld.global.u32 %r2, [%d4];
    mul.wide.u32 %d3, %r1, 4;
    add.s64 %d2, %d2, %d3;
    st.global.u32 [%d2], %r2;
    ret;
}",
    );
    let mut device = Device::new(&text);
    let mut pointers: Vec<u64> = (0..32u32).map(|i| device.put(&[i * 3])).collect();
    let output = device.room::<u32>(32);
    device.run("gather", [1; 3], [32, 1, 1], 0, args![device.put(&pointers), output]).unwrap();
    assert_eq!(device.get::<u32>(output, 32), (0..32).map(|i| i * 3).collect::<Vec<_>>());
    device.memory.free(pointers[9]).unwrap();
    pointers[20] = 4;
    let pointers = device.put(&pointers);
    let run = |device: &Device| device.run("gather", [1; 3], [32, 1, 1], 0, args![pointers, output]);
    let fault = run(&device).unwrap_err();
    assert_eq!((fault.kind, fault.thread), (FaultKind::UseAfterFree, [9, 0, 0]));
    // Without the check the missing lanes read 0.
    device.checks = Checks { memory: false, ..Checks::ALL };
    run(&device).unwrap();
    assert_eq!(
        device.get::<u32>(output, 32),
        (0..32).map(|i| if i == 9 || i == 20 { 0 } else { i * 3 }).collect::<Vec<_>>()
    );
}

#[test]
fn atomics_in_order_of_lanes() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    type Model = fn(u32, u32) -> u32;
    let cases: [(&str, Model); 14] = [
        ("add.u32", |old, v| old.wrapping_add(v)),
        ("add.s32", |old, v| old.wrapping_add(v)),
        ("add.f32", |old, v| (f32::from_bits(old) + f32::from_bits(v)).to_bits()),
        ("min.s32", |old, v| if (v as i32) < old as i32 { v } else { old }),
        ("max.s32", |old, v| if (v as i32) > old as i32 { v } else { old }),
        ("min.u32", |old, v| if v < old { v } else { old }),
        ("max.u32", |old, v| if v > old { v } else { old }),
        ("and.b32", |old, v| old & v),
        ("or.b32", |old, v| old | v),
        ("xor.b32", |old, v| old ^ v),
        ("exch.b32", |_, v| v),
        ("cas.b32", |old, v| if old == v { 77 } else { old }),
        ("inc.u32", |old, v| if old >= v { 0 } else { old + 1 }),
        ("dec.u32", |old, v| if old == 0 || old > v { v } else { old - 1 }),
    ];
    for (op, model) in cases {
        for (space, returns) in [("global", true), ("shared", true), ("global", false), ("shared", false)] {
            if !returns && matches!(op, "exch.b32" | "cas.b32") {
                continue;
            }
            let (address, get) = match space {
                "global" => ("%d2", ""),
                _ => ("%r6", "bar.sync 0; ld.shared.u32 %r5, [%r6]; @%p1 st.global.u32 [%d2], %r5;"),
            };
            let name = if returns { format!("atom.{space}.{op} %r3,") } else { format!("red.{space}.{op}") };
            let third = if op == "cas.b32" { ", 77" } else { "" };
            let text = module(&format!(
                ".visible .entry run(.param .u64 values, .param .u64 cell, .param .u64 olds)
{{
    .reg .b32 %r<8>;
    .reg .pred %p<2>;
    .reg .b64 %d<6>;
    .shared .align 4 .u32 word;
    ld.param.u64 %d1, [values];
    ld.param.u64 %d2, [cell];
    ld.param.u64 %d3, [olds];
    mov.u32 %r1, %tid.x;
    mov.u32 %r6, word;
    ld.global.u32 %r5, [%d2];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 st.shared.u32 [%r6], %r5;
    bar.sync 0;
    mul.wide.u32 %d4, %r1, 4;
    add.s64 %d1, %d1, %d4;
    add.s64 %d3, %d3, %d4;
    ld.global.u32 %r2, [%d1];
    mov.u32 %r3, 0;
    {name} [{address}], %r2{third};
    st.global.u32 [%d3], %r3;
    {get}
    ret;
}}"
            ));
            let device = Device::new(&text);
            let float = op.ends_with("f32");
            let mut value = || match float {
                true => f32::from(rng.random_range(-9i8..9)).to_bits(),
                false => rng.random::<u32>() >> rng.random_range(0..32),
            };
            let values: Vec<u32> = (0..32).map(|_| value()).collect();
            let start = match op {
                "add.f32" => 0.5f32.to_bits(),
                "cas.b32" => values[7],
                _ => 9,
            };
            let (cell, olds) = (device.put(&[start]), device.room::<u32>(32));
            device.run("run", [1; 3], [32, 1, 1], 0, args![device.put(&values), cell, olds]).unwrap();
            let mut old = start;
            for (value, found) in values.iter().zip(device.get::<u32>(olds, 32)) {
                assert_eq!(found, if returns { old } else { 0 }, "{name}, seed {SEED}");
                old = model(old, *value);
            }
            assert_eq!(device.get::<u32>(cell, 1), [old], "{name}, seed {SEED}");
        }
    }
}

/// Whole ranges, of every alignment and length, with every byte left out once; and what is left of forgotten memory.
#[test]
fn written_ranges() {
    for (offset, length) in (0..5).flat_map(|offset| (1..12).map(move |length| (offset, length))) {
        for missing in (0..length).map(Some).chain([None]) {
            let memory = GlobalMemory::new(1 << 10);
            let base = memory.alloc(16).unwrap();
            for i in (0..length).filter(|i| Some(*i) != missing) {
                memory.write(base + offset + i, &[7]).unwrap();
            }
            let found = memory.is_written(base + offset, length).unwrap();
            assert_eq!(found, missing.is_none(), "offset {offset}, length {length}, missing {missing:?}");
        }
    }
    let memory = GlobalMemory::new(1 << 10);
    let base = memory.alloc(16).unwrap();
    memory.write(base, &[7; 4]).unwrap();
    memory.forget(base).unwrap();
    let mut bytes = [0; 8];
    memory.read(base, &mut bytes).unwrap();
    assert!(bytes[..4] != [7; 4] && bytes[4..] == [0; 4], "{bytes:?}");
    assert_eq!(memory.is_written(base, 1), Ok(false));
    assert_eq!((memory.check(base, 16), memory.check(base, 17).is_err()), (Ok(()), true));
    assert!(memory.is_written(base + 9, 8).is_err() && memory.forget(base + 16).is_err());
}

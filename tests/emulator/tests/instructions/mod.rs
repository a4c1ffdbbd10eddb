//! Every lane-wise form over edge and random values, against a model of its own: integers in i128 and bit by bit, floats
//! in exact integer arithmetic.

mod floats;
mod halves;
mod model;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args};
use model::Expected;

const SEED: u64 = 404;

/// Bits of an operand; 1 is a predicate.
fn bits(ty: &str) -> u32 {
    match ty {
        "pred" => 1,
        // A byte is the low part of a 16-bit register.
        "u8" | "s8" => 16,
        "f16x2" | "bf16x2" | "tf32" => 32,
        "bf16" => 16,
        _ => ty[1..].parse().unwrap(),
    }
}

/// Bits of the result and of the sources.
fn signature(form: &str) -> (u32, Vec<u32>) {
    let parts: Vec<&str> = form.split('.').collect();
    let width = bits(parts[parts.len() - 1]);
    match (parts[0], parts[1]) {
        ("setp", _) => (1, vec![width; 2]),
        ("selp", _) => (width, vec![width, width, 1]),
        ("set", _) => (bits(parts[2]), vec![width; 2]),
        ("cvt", _) if parts.iter().any(|part| part.ends_with("f16x2")) => (32, vec![width; 2]),
        ("cvt", _) => (bits(parts[parts.len() - 2]), vec![width]),
        ("mul", "wide") => (2 * width, vec![width; 2]),
        ("mad", "wide") => (2 * width, vec![width, width, 2 * width]),
        ("shl" | "shr", _) => (width, vec![width, 32]),
        ("popc" | "clz" | "bfind", _) => (32, vec![width]),
        ("bfi", _) => (width, vec![width, width, 32, 32]),
        ("lop3", _) => (32, vec![32; 4]),
        ("mad" | "fma" | "bfe" | "shf" | "prmt", _) => (width, vec![width; 3]),
        ("not" | "neg" | "abs" | "mov" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "brev" | "cvta", _) => {
            (width, vec![width])
        }
        _ => (width, vec![width; 2]),
    }
}

/// A kernel that applies `form` to operand k of element i at `[in + (k * count + i) * 8]`.
fn kernel(form: &str, destination: u32, sources: &[u32]) -> String {
    let register = |bits: u32, n: usize| match bits {
        1 => format!("%p{n}"),
        16 => format!("%h{n}"),
        32 => format!("%r{n}"),
        _ => format!("%d{n}"),
    };
    let mut body = String::new();
    for (k, bits) in sources.iter().enumerate() {
        let target = register(*bits, k + 4);
        body += &match bits {
            1 => format!("ld.global.u32 %r2, [%d2];\nsetp.ne.u32 {target}, %r2, 0;\n"),
            _ => format!("ld.global.u{bits} {target}, [%d2];\n"),
        };
        body += "add.s64 %d2, %d2, %d3;\n";
    }
    let operands: Vec<String> = sources.iter().enumerate().map(|(k, bits)| register(*bits, k + 4)).collect();
    let result = register(destination, 9);
    body += &format!("{form} {result}, {};\n", operands.join(", "));
    body += &match destination {
        1 => format!("selp.u32 %r2, 1, 0, {result};\nst.global.u32 [%d1], %r2;\n"),
        bits => format!("st.global.u{bits} [%d1], {result};\n"),
    };
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n
.visible .entry apply(.param .u64 in, .param .u64 out, .param .u32 count)
{{
    .reg .pred %p<10>;
    .reg .b16 %h<10>;
    .reg .b32 %r<10>;
    .reg .b64 %d<10>;
    ld.param.u64 %d2, [in];
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra $done;
    mul.wide.u32 %d3, %r1, 8;
    mul.wide.u32 %d4, %r2, 8;
    add.s64 %d1, %d1, %d4;
    add.s64 %d2, %d2, %d4;
{body}$done:
    ret;
}}"
    )
}

const FLOATS: [f32; 28] = [
    0.0,
    1e-45,
    1e-40,
    1.1754942e-38,
    1.1754944e-38,
    1e-30,
    0.25,
    0.49999997,
    0.5,
    0.75,
    1.0,
    1.0000001,
    1.5,
    2.5,
    3.0,
    255.5,
    32767.5,
    65535.5,
    8388607.5,
    16777215.0,
    16777216.0,
    2147483600.0,
    4294967300.0,
    9.223372e18,
    1.8446744e19,
    1e30,
    3.4028235e38,
    f32::INFINITY,
];

/// A random operand: an edge, an integer of any length, or a float near 1.
fn operand(rng: &mut ChaCha8Rng, edges: &[u64]) -> u64 {
    match rng.random_range(0..4) {
        0 => edges[rng.random_range(0..edges.len())],
        1 => rng.random::<u64>() >> rng.random_range(0..64),
        2 => {
            let low = f32::from_bits(rng.random_range(0x3C00_0000..0x4300_0000) | rng.random::<u32>() & 1 << 31);
            u64::from(low.to_bits())
        }
        _ => rng.random(),
    }
}

fn edges(bits: u32) -> Vec<u64> {
    let mut edges: Vec<u64> =
        (0..=5).chain([7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 300]).collect();
    for top in [8, 16, 32, 64].into_iter().filter(|top| *top <= bits) {
        let high = 1u64 << (top - 1);
        edges.extend([high - 1, high, high.wrapping_mul(2).wrapping_sub(1), high + 1]);
    }
    if bits == 32 {
        let both = FLOATS.iter().flat_map(|value| [value.to_bits(), (-value).to_bits()]);
        edges.extend(both.chain([0x7FC0_0000, 0x7F80_0001, 0xFFFF_FFFF, 0xFFC1_2345]).map(u64::from));
    }
    edges
}

#[test]
fn every_form_against_its_model() {
    let mut unknown = Vec::new();
    for form in cuemu::forms() {
        let (destination, sources) = signature(form);
        let mask = |bits: u32, value: u64| if bits == 64 { value } else { value & ((1 << bits) - 1) };
        let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
        let edges: Vec<Vec<u64>> = sources.iter().map(|bits| edges(*bits)).collect();
        // Every edge, every pair of edges of the first two operands, then random ones. Not a multiple of 32.
        let mut rows: Vec<Vec<u64>> = Vec::new();
        for first in &edges[0] {
            for second in edges.get(1).map_or(&[0][..], |second| second) {
                let rest = edges.iter().skip(2).map(|edges| operand(rng, edges));
                rows.push([*first, *second].into_iter().take(sources.len()).chain(rest).collect());
            }
        }
        rows.extend((0..1003).map(|_| edges.iter().map(|edges| operand(rng, edges)).collect::<Vec<_>>()));
        rows.extend(halves::rows(form, rng));
        for row in &mut rows {
            row.truncate(sources.len());
            row.iter_mut().zip(&sources).for_each(|(value, bits)| *value = mask(*bits, *value));
        }
        let count = rows.len();
        let columns: Vec<u64> = (0..sources.len()).flat_map(|k| rows.iter().map(move |row| row[k])).collect();
        let device = Device::new(&kernel(form, destination, &sources));
        let output = device.put(&vec![0u64; count]);
        let grid = [(count as u32).div_ceil(96), 1, 1];
        device.run("apply", grid, [96, 1, 1], 0, args![device.put(&columns), output, count as u32]).unwrap();
        for (row, found) in rows.iter().zip(device.get::<u64>(output, count)) {
            let ok = match model::expected(form, row) {
                None => {
                    unknown.push(form);
                    break;
                }
                Some(Expected::Bits(bits)) => found == bits,
                Some(Expected::Near(value)) => floats::near(found as u32, value),
            };
            assert!(
                ok,
                "{form} of {row:x?}: found {found:#x}, expected {:x?}, seed {SEED}",
                model::expected(form, row)
            );
        }
    }
    assert!(unknown.is_empty(), "forms without a model: {unknown:?}");
}

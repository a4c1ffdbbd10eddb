//! The operators and intrinsics of cuda_fp16.h and cuda_bf16.h as nvcc compiles them, against f64.

use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args};

const PTX: &str = include_str!("ptx/half.ptx");
const BFLOAT_PTX: &str = include_str!("ptx/bfloat.ptx");
const SEED: u64 = 616;
const COUNT: usize = 20_000;

/// f16 or bf16.
struct Format {
    ptx: &'static str,
    kernels: [&'static str; 2],
    /// Zero, subnormal, normal, one, largest, infinite, NaN.
    edges: [u16; 12],
    value: fn(u16) -> f64,
    nearest: fn(f32) -> u16,
}

const FORMATS: [Format; 2] = [
    Format {
        ptx: PTX,
        kernels: ["half_scalar", "half_pair"],
        edges: [0, 1, 0x3FF, 0x400, 0x3C00, 0x3C01, 0x7BFF, 0x7C00, 0x7E00, 0x8000, 0xBC00, 0xFC00],
        value: |bits| f16::from_bits(bits).to_f64(),
        nearest: |value| f16::from_f32(value).to_bits(),
    },
    Format {
        ptx: BFLOAT_PTX,
        kernels: ["bfloat_scalar", "bfloat_pair"],
        edges: [0, 1, 0x7F, 0x80, 0x3F80, 0x3F81, 0x7F7F, 0x7F80, 0x7FC0, 0x8000, 0xBF80, 0xFF80],
        value: |bits| bf16::from_bits(bits).to_f64(),
        nearest: |value| bf16::from_f32(value).to_bits(),
    },
];

impl Format {
    fn operands(&self, rng: &mut ChaCha8Rng) -> Vec<u16> {
        let edge = |rng: &mut ChaCha8Rng| self.edges[rng.random_range(0..self.edges.len())];
        (0..COUNT).map(|_| if rng.random() { rng.random() } else { edge(rng) }).collect()
    }

    /// The nearest value, where NaN has one pattern. By way of the f32 towards zero with its last bit set where it is not
    /// exact: `from_f64` rounds twice.
    fn rounded(&self, value: f64) -> u16 {
        if value.is_nan() {
            return 0x7FFF;
        }
        let near = value as f32;
        let inside = if f64::from(near).abs() > value.abs() { near.to_bits() - 1 } else { near.to_bits() };
        let inexact = f64::from(near) != value;
        (self.nearest)(f32::from_bits(inside | u32::from(inexact)))
    }

    /// What the scalar kernel writes for an element.
    fn arithmetic(&self, a: u16, b: u16, c: u16) -> [u16; 17] {
        let [a, b, c] = [a, b, c].map(self.value);
        let fused = sum(a * b, c);
        [
            sum(a, b),
            sum(a, -b),
            a * b,
            -a,
            a.abs(),
            sum(a, b),
            sum(a, -b),
            a * b,
            fused,
            if fused <= 0.0 { 0.0 } else { fused },
            larger(a, b),
            smaller(a, b),
            unless_nan(a, b, larger(a, b)),
            unless_nan(a, b, smaller(a, b)),
            saturated(sum(a, b)),
            saturated(a * b),
            saturated(fused),
        ]
        .map(|value| self.rounded(value))
    }
}

/// The sum towards zero, with its last bit set where f64 does not hold it, as it may be for bf16 far apart.
fn sum(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let (large, small) = if a.abs() < b.abs() { (b, a) } else { (a, b) };
    let lost = small - (sum - large);
    if lost.is_nan() || lost == 0.0 {
        return sum;
    }
    let outside = lost.is_sign_negative() != sum.is_sign_negative();
    f64::from_bits((sum.to_bits() - u64::from(outside)) | 1)
}

fn smaller(a: f64, b: f64) -> f64 {
    // Of zeros the negative one.
    if a == b && a.is_sign_negative() || a < b || b.is_nan() { a } else { b }
}

fn larger(a: f64, b: f64) -> f64 {
    -smaller(-a, -b)
}

fn unless_nan(a: f64, b: f64, value: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { value }
}

fn saturated(value: f64) -> f64 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

#[test]
fn operators_and_intrinsics() {
    for format in &FORMATS {
        let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
        let device = Device::new(format.ptx);
        let [scalar, pair] = format.kernels;
        let inputs = [format.operands(rng), format.operands(rng), format.operands(rng)];
        let pointers = inputs.each_ref().map(|values| device.put(values));
        let (output, flags) = (device.room::<u16>(COUNT * 17), device.room::<u32>(COUNT));
        let [x, y, z] = pointers;
        let grid = |count: usize| [count.div_ceil(128) as u32, 1, 1];
        device.run(scalar, grid(COUNT), [128, 1, 1], 0, args![x, y, z, output, flags, COUNT as u32]).unwrap();
        let (found, flags) = (device.get::<[u16; 17]>(output, COUNT), device.get::<u32>(flags, COUNT));
        let at = |i: usize| inputs.each_ref().map(|values| values[i]);
        for i in 0..COUNT {
            let [a, b, c] = at(i);
            assert_eq!(found[i], format.arithmetic(a, b, c), "{scalar} of {a:#x} {b:#x} {c:#x}, seed {SEED}");
            let [a, b] = [a, b].map(format.value);
            let unordered = a.is_nan() || b.is_nan();
            let ordered = [a == b, !unordered && a != b, a < b, a <= b, a > b, a >= b];
            // `!=` of the operators is unordered; then come the unordered ones, equal and not equal first.
            let all = [ordered[0], a != b, ordered[2], ordered[3], ordered[4], ordered[5]]
                .into_iter()
                .chain(ordered.map(|holds| holds || unordered))
                .chain([a.is_nan()]);
            let expected = all.enumerate().fold(0, |bits, (at, holds)| bits | u32::from(holds) << at);
            assert_eq!(flags[i], expected, "{scalar} of {a:e} {b:e}, seed {SEED}");
        }
        let pairs = COUNT / 2;
        let (output, flags) = (device.room::<[u16; 2]>(pairs * 22), device.room::<u32>(pairs * 6));
        device.run(pair, grid(pairs), [128, 1, 1], 0, args![x, y, z, output, flags, pairs as u32]).unwrap();
        let (found, flags) = (device.get::<[[u16; 2]; 22]>(output, pairs), device.get::<[u32; 6]>(flags, pairs));
        for i in 0..pairs {
            let [low, high] = [at(2 * i), at(2 * i + 1)];
            let [[a, b, _], [p, q, _]] = [low, high];
            let [first, second] = [low, high].map(|[a, b, c]| format.arithmetic(a, b, c));
            let mut expected: Vec<[u16; 2]> = first.into_iter().zip(second).map(|(low, high)| [low, high]).collect();
            expected.extend([[p, a], [a, a], [p, q]]);
            let holds =
                |test: fn(f64, f64) -> bool| [(a, b), (p, q)].map(|(a, b)| test((format.value)(a), (format.value)(b)));
            let one = |holds: bool| if holds { format.rounded(1.0) } else { 0 };
            expected.extend([holds(|a, b| a == b).map(one), holds(|a, b| a.is_nan() || b.is_nan() || a < b).map(one)]);
            assert_eq!(found[i][..], expected, "{pair} of {low:x?} {high:x?}, seed {SEED}");
            let both = |[low, high]: [bool; 2]| u32::from(low && high);
            let mask = |[low, high]: [bool; 2]| u32::from(low) * 0xFFFF + u32::from(high) * 0xFFFF_0000;
            let expected = [
                both(holds(|a, b| a == b)),
                both(holds(|a, b| a.is_nan() || b.is_nan() || a < b)),
                both(holds(|a, b| a >= b)),
                mask(holds(|a, b| a == b)),
                mask(holds(|a, b| a > b)),
                mask(holds(|a, b| a != b)),
            ];
            assert_eq!(flags[i], expected, "{pair} of {low:x?} {high:x?}, seed {SEED}");
        }
    }
}

#[test]
fn conversions() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(PTX);
    let rounded = |value| FORMATS[0].rounded(value);
    let floats: Vec<f32> = (0..COUNT)
        .map(|i| match i % 4 {
            0 => rng.random_range(-70000.0..70000.0),
            1 => rng.random_range(-4.0..4.0),
            2 => rng.random_range(-1e-4..1e-4),
            _ => f32::from_bits(rng.random()),
        })
        .collect();
    let numbers: Vec<i32> = (0..COUNT).map(|_| rng.random::<i32>() >> rng.random_range(0..32)).collect();
    let outputs = (device.room::<[u16; 13]>(COUNT), device.room::<[i32; 8]>(COUNT), device.room::<[f32; 3]>(COUNT));
    let args = args![device.put(&floats), device.put(&numbers), outputs.0, outputs.1, outputs.2, COUNT as u32];
    device.run("half_convert", [COUNT.div_ceil(128) as u32, 1, 1], [128, 1, 1], 0, args).unwrap();
    let halves = device.get::<[u16; 13]>(outputs.0, COUNT);
    let (whole, wide) = (device.get::<[i32; 8]>(outputs.1, COUNT), device.get::<[u32; 3]>(outputs.2, COUNT));
    for i in 0..COUNT {
        let (value, k) = (f64::from(floats[i]), numbers[i]);
        // The neighbours of the nearest, by their order.
        let step = |nearest: u16, away: bool| if away { nearest + 1 } else { nearest - 1 };
        let zero = |value: f64| {
            let nearest = rounded(value);
            let over = f16::from_bits(nearest).to_f64().abs() > value.abs();
            if over { step(nearest, false) } else { nearest }
        };
        let outward = |value: f64| {
            let nearest = rounded(value);
            let under = f16::from_bits(nearest).to_f64().abs() < value.abs();
            if under { step(nearest, true) } else { nearest }
        };
        let (down, up) = if value < 0.0 { (outward(value), zero(value)) } else { (zero(value), outward(value)) };
        let half = f16::from_bits(rounded(value)).to_f64();
        let expected = [
            rounded(value),
            zero(value),
            down,
            up,
            rounded(k.into()),
            zero(k.into()),
            rounded((k as u32).into()),
            rounded((k as i16).into()),
            rounded((k as u16).into()),
            rounded(value),
            rounded(-value),
            rounded(half.round_ties_even()),
            rounded(half.trunc()),
        ];
        assert_eq!(halves[i], expected, "{value:e} {k}, seed {SEED}");
        let long = if half.is_nan() { i64::MIN } else { half as i64 };
        let expected = [
            half.round_ties_even() as i32,
            half as i32,
            half.floor() as i32,
            half.ceil() as i32,
            half as u32 as i32,
            (half as i16).into(),
            (half.round_ties_even() as u16).into(),
            long as i32,
        ];
        assert_eq!(whole[i], expected, "{value:e}, seed {SEED}");
        let bits = |half: f64| if half.is_nan() { 0x7FFF_FFFF } else { (half as f32).to_bits() };
        assert_eq!(wide[i], [bits(half), bits(half), bits(-half)], "{value:e}, seed {SEED}");
    }
}

#[test]
fn conversions_to_bfloat_and_tensor_floats() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(BFLOAT_PTX);
    let format = &FORMATS[1];
    let largest = [f32::MAX, -f32::MAX, f32::INFINITY, f32::NAN, 1e-40, 1e-45];
    let floats: Vec<f32> = (0..COUNT)
        .map(|i| match i % 3 {
            0 => rng.random_range(-4.0..4.0),
            1 => f32::from_bits(rng.random()),
            _ => largest[rng.random_range(0..largest.len())],
        })
        .collect();
    let outputs = (device.room::<[u16; 6]>(COUNT), device.room::<[u32; 3]>(COUNT), device.room::<u32>(COUNT));
    let args = args![device.put(&floats), outputs.0, outputs.1, outputs.2, COUNT as u32];
    device.run("bfloat_convert", [COUNT.div_ceil(128) as u32, 1, 1], [128, 1, 1], 0, args).unwrap();
    let (halves, wide) = (device.get::<[u16; 6]>(outputs.0, COUNT), device.get::<[u32; 3]>(outputs.1, COUNT));
    let tensor = device.get::<f32>(outputs.2, COUNT);
    for (i, value) in floats.into_iter().map(f64::from).enumerate() {
        let nearest = format.rounded(value);
        let inward = if value.is_nan() { 0x7FFF } else { ((value as f32).to_bits() >> 16) as u16 };
        let negative = format.rounded(-value);
        let positive = if value < 0.0 { 0 } else { nearest & if value == 0.0 { 0 } else { 0xFFFF } };
        assert_eq!(halves[i], [nearest, inward, negative, nearest, negative, positive], "{value:e}, seed {SEED}");
        let bits = |half: u16| if nearest == 0x7FFF { 0x7FFF_FFFF } else { u32::from(half) << 16 };
        let exact = wide[i].map(|bits| if f32::from_bits(bits).is_nan() { 0x7FFF_FFFF } else { bits });
        assert_eq!(exact, [bits(nearest), bits(nearest), bits(negative)], "{value:e}, seed {SEED}");
        if value.is_finite() {
            let unit = 2f64.powi((value.abs().log2().floor() as i32).max(-126) - 10);
            let expected = ((value / unit).round() * unit) as f32;
            assert_eq!(tensor[i].to_bits(), expected.to_bits(), "{value:e}, seed {SEED}");
        }
    }
}

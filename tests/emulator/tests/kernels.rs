//! Whole kernels as nvcc compiles them, with every check on, against plain Rust.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{Device, args};

const SEED: u64 = 20_24;

fn floats(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-2.0..2.0)).collect()
}

/// Small integers keep every sum exact, so the order of additions does not matter.
#[test]
fn convolution() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(include_str!("ptx/conv.ptx"));
    for (height, width, channels, filters, size, stride, pad, batch) in
        [(13, 11, 8, 40, 3, 1, 1, 2), (17, 19, 4, 33, 5, 2, 2, 1), (6, 6, 12, 7, 6, 1, 0, 3)]
    {
        let (out_height, out_width) = ((height + 2 * pad - size) / stride + 1, (width + 2 * pad - size) / stride + 1);
        let mut whole = |count: i32| -> Vec<f32> { (0..count).map(|_| rng.random_range(-4i32..=4) as f32).collect() };
        let input = whole(batch * height * width * channels);
        let weights = whole(filters * size * size * channels);
        let bias = whole(filters);
        let count = (batch * out_height * out_width * filters) as usize;
        let output = device.room::<f32>(count);
        let pointers = [device.put(&input), device.put(&weights), device.put(&bias), output];
        let shape = [height, width, channels, filters, size, stride, pad, out_height, out_width, batch, 1, 0];
        let args = [bytemuck::cast_slice::<u64, u8>(&pointers), bytemuck::cast_slice(&shape)].concat();
        let grid = [((batch * out_height * out_width) as u32).div_ceil(32), (filters as u32).div_ceil(32), 1];
        device.run("conv_tiled", grid, [64, 1, 1], 0, vec![args]).unwrap();
        let mut expected = Vec::new();
        for (n, oy, ox, f) in itertools4(batch, out_height, out_width, filters) {
            let mut sum = bias[f as usize];
            for (ky, kx, c) in itertools3(size, size, channels) {
                let (y, x) = (oy * stride - pad + ky, ox * stride - pad + kx);
                if (0..height).contains(&y) && (0..width).contains(&x) {
                    sum += input[(((n * height + y) * width + x) * channels + c) as usize]
                        * weights[(((f * size + ky) * size + kx) * channels + c) as usize];
                }
            }
            expected.push(sum.max(0.0));
        }
        assert_eq!(device.get::<f32>(output, count), expected, "seed {SEED}, {height}x{width}x{channels}");
    }
}

fn itertools3(a: i32, b: i32, c: i32) -> impl Iterator<Item = (i32, i32, i32)> {
    (0..a * b * c).map(move |i| (i / c / b, i / c % b, i % c))
}

fn itertools4(a: i32, b: i32, c: i32, d: i32) -> impl Iterator<Item = (i32, i32, i32, i32)> {
    (0..a * b * c * d).map(move |i| (i / d / c / b, i / d / c % b, i / d % c, i % d))
}

#[test]
fn max_pool() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(include_str!("ptx/layers.ptx"));
    let (n, height, width, channels, size, stride) = (2i32, 13, 11, 5, 3, 2);
    let (out_height, out_width) = ((height - size) / stride + 1, (width - size) / stride + 1);
    let mut input = floats(rng, (n * height * width * channels) as usize);
    input[777] = f32::NAN;
    let count = n * out_height * out_width * channels;
    let output = device.room::<f32>(count as usize);
    let args = args![device.put(&input), output, height, width, channels, out_height, out_width, size, stride, count];
    device.run("max_pool", [3, 1, 1], [128, 1, 1], 0, args).unwrap();
    let expected: Vec<u32> = itertools4(n, out_height, out_width, channels)
        .map(|(n, y, x, c)| {
            let window = itertools3(1, size, size).map(|(_, dy, dx)| {
                input[(((n * height + y * stride + dy) * width + x * stride + dx) * channels + c) as usize]
            });
            window.fold(f32::NEG_INFINITY, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) })
        })
        .map(|value| if value.is_nan() { 0x7FFF_FFFF } else { value.to_bits() })
        .collect();
    assert!(expected.contains(&0x7FFF_FFFF));
    assert_eq!(device.get::<u32>(output, count as usize), expected, "seed {SEED}");
}

#[test]
fn local_response_normalisation() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(include_str!("ptx/layers.ptx"));
    let (channels, pixels) = (7usize, 30usize);
    let input = floats(rng, channels * pixels);
    let output = device.room::<f32>(input.len());
    for beta in [0.75f32, 0.5] {
        let args = args![device.put(&input), output, channels as u32, pixels as u32, 1e-1f32, beta, 2f32];
        device.run("lrn", [2, 1, 1], [128, 1, 1], 0, args).unwrap();
        for (i, found) in device.get::<f32>(output, input.len()).into_iter().enumerate() {
            let (c, base) = (i % channels, i / channels * channels);
            let sum: f64 =
                (c.saturating_sub(2)..=(c + 2).min(channels - 1)).map(|j| f64::from(input[base + j]).powi(2)).sum();
            let expected = f64::from(input[i]) / (2.0 + f64::from(0.1f32) / 5.0 * sum).powf(beta.into());
            assert!((f64::from(found) - expected).abs() < 1e-6, "seed {SEED}, {i}: {found} for {expected}");
        }
    }
}

#[test]
fn preprocess() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(include_str!("ptx/layers.ptx"));
    let pixels = 101usize;
    let input: Vec<u8> = (0..(pixels * 3).next_multiple_of(4)).map(|_| rng.random()).collect();
    let (mean, scale) = ([0.485f32, 0.456, 0.406], [4.3f32, 4.5, 4.4]);
    let output = device.room::<f32>(pixels * 3);
    let address = device.put(&input);
    device.run("preprocess", [1, 1, 1], [32, 1, 1], 0, args![address, output, pixels as u32, mean, scale]).unwrap();
    let found = device.get::<f32>(output, pixels * 3);
    for (i, value) in found.into_iter().enumerate() {
        let expected = (f32::from(input[i]) / 255.0 - mean[i % 3]) * scale[i % 3];
        assert_eq!(value.to_bits(), expected.to_bits(), "seed {SEED}, {i}");
    }
    let quads = input.len() / 4;
    let output = device.room::<f32>(input.len());
    device.run("preprocess_quad", [3, 1, 1], [32, 1, 1], 0, args![address, output, quads as u32]).unwrap();
    assert_eq!(device.get::<f32>(output, input.len()), input.iter().map(|b| f32::from(*b)).collect::<Vec<_>>());
}

#[test]
fn dropout() {
    let device = Device::new(include_str!("ptx/layers.ptx"));
    // Known answer of Philox4x32-10 for an all-zero counter and key.
    let known = [0x6627_E8D5u32, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8];
    let data = device.put(&[1f32; 4]);
    device.run("dropout", [1, 1, 1], [32, 1, 1], 0, args![data, 0u64, 0u64, 4u32]).unwrap();
    assert_eq!(device.get::<f32>(data, 4), known.map(|bits| if bits >> 31 == 1 { 2.0 } else { 0.0 }));
    let count = 10_001;
    let data = device.put(&vec![1f32; count]);
    let seed = 0x1234_5678_9ABC_DEF0u64;
    device.run("dropout", [20, 1, 1], [128, 1, 1], 0, args![data, seed, u64::MAX - 3, count as u32]).unwrap();
    let found = device.get::<f32>(data, count);
    assert!(found.iter().all(|value| *value == 0.0 || *value == 2.0));
    let kept = found.iter().filter(|value| **value == 2.0).count();
    assert!((4700..5300).contains(&kept), "{kept} of {count}");
}

#[test]
fn softmax_and_top() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(include_str!("ptx/reduce.ptx"));
    let (rows, classes, k) = (3usize, 1000usize, 5usize);
    let input = floats(rng, rows * classes).iter().map(|v| v * 4.0).collect::<Vec<_>>();
    let (output, top, values) =
        (device.room::<f32>(rows * classes), device.room::<i32>(rows * k), device.room::<f32>(rows * k));
    let args = args![device.put(&input), output, top, values, classes as u32, k as u32];
    device.run("softmax_top", [rows as u32, 1, 1], [128, 1, 1], classes as u32 * 4, args).unwrap();
    let (found, top, values) = (
        device.get::<f32>(output, rows * classes),
        device.get::<i32>(top, rows * k),
        device.get::<f32>(values, rows * k),
    );
    for row in 0..rows {
        let x = &input[row * classes..][..classes];
        let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f64> = x.iter().map(|v| f64::from(v - high).exp()).collect();
        let sum: f64 = exps.iter().sum();
        for (found, expected) in found[row * classes..].iter().zip(&exps) {
            assert!((f64::from(*found) - expected / sum).abs() < 1e-7, "seed {SEED}");
        }
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|a, b| x[*b].total_cmp(&x[*a]));
        for i in 0..k {
            assert_eq!(top[row * k + i] as usize, order[i], "seed {SEED}");
            assert_eq!(values[row * k + i], found[row * classes + order[i]]);
        }
    }
}

#[test]
fn warp_primitives() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(include_str!("ptx/reduce.ptx"));
    let count = 100usize;
    let input: Vec<i32> = (0..count).map(|_| rng.random_range(-9..12)).collect();
    let (output, tally) = (device.room::<u32>(count), device.put(&[0u32]));
    device
        .run("warp_primitives", [2, 1, 1], [64, 1, 1], 0, args![device.put(&input), output, tally, count as u32])
        .unwrap();
    let found = device.get::<u32>(output, count);
    for (warp, found) in input.chunks(32).zip(found.chunks(32)) {
        let positive: Vec<i32> = warp.iter().copied().filter(|v| *v > 0).collect();
        let mut rank = 0;
        for (v, found) in warp.iter().zip(found) {
            let mut expected = positive.len() as u32;
            expected += if warp.contains(&3) { 100 } else { 0 } + if warp.iter().all(|v| *v < 9) { 1000 } else { 0 };
            if *v > 0 {
                expected = expected.wrapping_add(rank * 10000 + positive[0] as u32);
                rank += 1;
            }
            expected = expected.wrapping_add(v.leading_zeros()).wrapping_add((*v as u32).reverse_bits() >> 24);
            assert_eq!(*found, expected, "seed {SEED}, {v}");
        }
    }
    assert_eq!(device.get::<u32>(tally, 1)[0] as usize, input.iter().filter(|v| **v > 0).count());
}

#[test]
fn atomics() {
    let device = Device::new(include_str!("ptx/reduce.ptx"));
    let count = 1000;
    let input: Vec<f32> = (0..count).map(|i| (i * 37 % 501) as f32).collect();
    let sum = device.put(&[0.5f32]);
    let ints = device.put(&[0i32, 99, 0, 77, 0, 0, 3, 0, -1]);
    device.run("atomics", [8, 1, 1], [128, 1, 1], 0, args![device.put(&input), sum, ints, count as u32]).unwrap();
    assert_eq!(device.get::<f32>(sum, 1), [0.5 + input.iter().sum::<f32>()]);
    let xor = (0..count).fold(0, |a, b| a ^ b);
    // 3, then 1000 times down from it, 0 wrapping to 6.
    let down = (0..count).fold(3, |old, _| if old == 0 { 6 } else { old - 1 });
    assert_eq!(device.get::<i32>(ints, 9), [500, 0, -1, -1, 5, count % 7, down, xor, 0]);
}

#[test]
fn local_arrays() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(include_str!("ptx/reduce.ptx"));
    let count = 50usize;
    let input: Vec<i32> = (0..count).map(|_| rng.random_range(0..100)).collect();
    let output = device.room::<f32>(count);
    device.run("local_array", [1, 1, 1], [64, 1, 1], 0, args![device.put(&input), output, count as u32]).unwrap();
    let table = [1.0, 2.5, -3.0, 0.25];
    for (i, found) in device.get::<f32>(output, count).into_iter().enumerate() {
        let values: Vec<f32> = (0..16).map(|j| input[(i + j) % count] as f32 * table[j % 4]).collect();
        let expected: f32 = input.iter().fold(0.0, |sum, j| sum + values[(j & 15) as usize]);
        assert_eq!(found, expected, "seed {SEED}, {i}");
    }
}

#[test]
fn conversions() {
    let device = Device::new(include_str!("ptx/reduce.ptx"));
    let input: Vec<f32> = (0..64).map(|i| (i - 20) as f32 * 1.25 + 0.5).collect();
    let (bytes, halves) = (device.room::<i8>(64), device.room::<u16>(64));
    let (wide, output) = (device.room::<i64>(64), device.room::<f32>(64));
    let args = args![device.put(&input), bytes, halves, wide, output];
    device.run("conversions", [1, 1, 1], [64, 1, 1], 0, args).unwrap();
    let (bytes, halves) = (device.get::<i8>(bytes, 64), device.get::<u16>(halves, 64));
    let (wide, output) = (device.get::<i64>(wide, 64), device.get::<f32>(output, 64));
    for (i, v) in input.iter().copied().enumerate() {
        assert_eq!(bytes[i], v.round_ties_even() as i32 as i8, "{v}");
        assert_eq!(halves[i], v as u32 as u16, "{v}");
        assert_eq!(wide[i], v as i64 * i as i64 / 3 % 7, "{v}");
        let sum = v.trunc()
            + v.round_ties_even()
            + v.ceil()
            + v.round()
            + v.floor()
            + v.abs()
            + v.clamp(0.0, 1.0)
            + v.min(2.0)
            + f32::from(bytes[i])
            + 1f32.copysign(v)
            + wide[i] as f32;
        assert_eq!(output[i], sum, "{v}");
    }
}

#[test]
fn functions() {
    let device = Device::new(include_str!("ptx/reduce.ptx"));
    let input: Vec<f32> = (1..65).map(|i| i as f32 * 0.17).collect();
    let output = device.room::<f32>(64 * 6);
    device.run("functions", [1, 1, 1], [64, 1, 1], 0, args![device.put(&input), output]).unwrap();
    for (v, found) in input.iter().zip(device.get::<[f32; 6]>(output, 64)) {
        let v = f64::from(*v);
        for (found, expected) in
            found.into_iter().zip([v.ln(), v.powf(0.75), (-v).exp(), v.tanh(), v.sqrt().recip(), v.exp2()])
        {
            let error = (f64::from(found) - expected).abs() / expected.abs().max(1e-3);
            assert!(error < 1e-6, "{v}: {found} for {expected}");
        }
    }
}

#[test]
fn words() {
    let rng = &mut ChaCha8Rng::seed_from_u64(SEED);
    let device = Device::new(include_str!("ptx/reduce.ptx"));
    let input: Vec<[u32; 2]> = (0..16 * 6).map(|_| rng.random()).collect();
    let output = device.room::<[u32; 2]>(input.len());
    device.run("words", [2, 3, 1], [8, 2, 1], 0, args![device.put(&input), output, 16u32]).unwrap();
    for ([x, y], found) in input.iter().copied().zip(device.get::<[u32; 2]>(output, input.len())) {
        let both = u64::from(y) << 32 | u64::from(x);
        let bytes = both.to_le_bytes();
        let permuted = u32::from_le_bytes([bytes[1], bytes[6], bytes[4], bytes[2]]);
        let shifted = (both << 9 >> 32) as u32;
        let high = ((u64::from(x) * u64::from(y)) >> 32) as u32;
        let signed = ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32;
        let expected = [permuted ^ shifted ^ high, (both % 1_000_003) as u32 ^ signed ^ (both >> 17) as u32];
        assert_eq!(found, expected, "seed {SEED}, {x:#x} {y:#x}");
    }
}

//! Resize and crop against a plain filter in f64.

use alexnet::image::{RgbImage, resize_crop, resize_short_side};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One output sample, unrounded: the triangle filter over both axes at once.
fn oracle(image: &RgbImage, short_side: usize, crop: usize, (x, y, c): (usize, usize, usize)) -> f64 {
    let short = image.width.min(image.height);
    let taps = |source: usize, at: usize| -> Vec<(usize, f64)> {
        let target = short_side * source / short;
        let offset = ((target - crop) as f64 / 2.0).round_ties_even() as usize;
        let scale = source as f64 / target as f64;
        let (center, support) = (((offset + at) as f64 + 0.5) * scale, scale.max(1.0));
        let range = (center - support - 1.0).max(0.0) as usize..((center + support + 1.0) as usize + 1).min(source);
        let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - center) / support).abs()).max(0.0);
        let total: f64 = range.clone().map(weight).sum();
        range.map(|i| (i, weight(i) / total)).collect()
    };
    let (columns, rows) = (taps(image.width, x), taps(image.height, y));
    let sample = |row: usize, column: usize| f64::from(image.pixels[(row * image.width + column) * 3 + c]);
    rows.iter().map(|&(row, v)| columns.iter().map(|&(column, h)| v * h * sample(row, column)).sum::<f64>()).sum()
}

fn check(image: &RgbImage, short_side: usize, crop: usize, seed: u64) {
    let mut out = vec![0; crop * crop * 3];
    resize_crop(image, short_side, crop, &mut out);
    for (i, &found) in out.iter().enumerate() {
        let expected = oracle(image, short_side, crop, (i / 3 % crop, i / 3 / crop, i % 3));
        // Half a level for each of the two roundings, and the coefficients' own.
        assert!(
            (f64::from(found) - expected).abs() <= 1.01,
            "seed {seed}: {} x {} to {short_side}, crop {crop}, byte {i}: {found}, expected {expected}",
            image.width,
            image.height,
        );
    }
}

fn noise(width: usize, height: usize, rng: &mut ChaCha8Rng) -> RgbImage {
    RgbImage { width, height, pixels: (0..width * height * 3).map(|_| rng.random()).collect() }
}

#[test]
fn random_sizes_match_a_plain_filter() {
    for seed in 0..150 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let image = noise(rng.random_range(1..200), rng.random_range(1..200), &mut rng);
        let short_side = rng.random_range(1..60);
        check(&image, short_side, rng.random_range(1..=short_side), seed);
    }
}

#[test]
fn extreme_shapes_are_cheap() {
    // Whole, these would take 3 GB.
    for (width, height) in [(16384, 1), (1, 16384)] {
        check(&noise(width, height, &mut ChaCha8Rng::seed_from_u64(1)), 256, 224, 1);
    }
}

#[test]
fn one_colour_stays_as_it_is() {
    for (width, height) in [(1, 1), (2, 3), (500, 375), (256, 256), (1000, 31)] {
        for level in [0, 1, 127, 254, 255] {
            let mut out = vec![9; 224 * 224 * 3];
            resize_crop(&RgbImage { width, height, pixels: vec![level; width * height * 3] }, 256, 224, &mut out);
            assert!(out.iter().all(|&v| v == level), "{width} x {height}, {level}");
        }
    }
}

#[test]
fn the_identity_is_exact() {
    let image = noise(64, 48, &mut ChaCha8Rng::seed_from_u64(2));
    let mut out = vec![0; 48 * 48 * 3];
    resize_crop(&image, 48, 48, &mut out);
    let expected: Vec<u8> = image.pixels.chunks(64 * 3).flat_map(|row| row[8 * 3..56 * 3].to_vec()).collect();
    assert_eq!(out, expected);
}

#[test]
fn short_sides() {
    assert_eq!([224, 227, 112, 64, 1, 7, 299].map(resize_short_side), [256, 256, 128, 73, 1, 8, 342]);
}

//! Damaged files: no panic gets out, and what decodes is whole.

use alexnet::image::{self, DecodeOptions};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{DEFAULT, FAST, UPRIGHT, make};

const MUTATIONS: u64 = 100_000;

/// One to eight flips, insertions, deletions and splices.
fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=8) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][rng.random_range(0..6)],
            3 => bytes.insert(at, rng.random()),
            4 if bytes.len() > 16 => drop(bytes.remove(at)),
            _ => {
                let len = rng.random_range(1..=16.min(bytes.len() - at));
                let to = rng.random_range(0..=bytes.len());
                let piece = bytes[at..at + len].to_vec();
                bytes.splice(to..to, piece);
            }
        }
    }
}

fn run(files: &[Vec<u8>], options: DecodeOptions, finish: fn(&mut [u8])) {
    let decoded = (0..MUTATIONS)
        .into_par_iter()
        .filter(|&seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut bytes = files[seed as usize % files.len()].clone();
            mutate(&mut bytes, &mut rng);
            // Half of the files keep their broken checksums.
            if rng.random() {
                finish(&mut bytes);
            }
            match image::decode(&bytes, options) {
                Ok(image) => {
                    assert!(image.width > 0 && image.height > 0, "seed {seed}");
                    assert_eq!(image.pixels.len(), image.width * image.height * 3, "seed {seed}");
                    true
                }
                Err(alexnet::Error::Input(_)) => false,
                Err(error) => panic!("seed {seed}: {error:?}"),
            }
        })
        .count();
    // Both outcomes are common, or the mutations are no test.
    assert!((100..MUTATIONS as usize - 100).contains(&decoded), "{decoded} of {MUTATIONS} decoded");
}

fn jpegs() -> [Vec<u8>; 3] {
    let picture = make::picture(40, 30);
    [make::jpeg(&picture), make::progressive_jpeg(&picture), make::cmyk_jpeg(&make::picture(16, 12), true)]
}

#[test]
fn jpeg() {
    run(&jpegs(), DEFAULT, |_| ());
}

#[test]
fn jpeg_fast() {
    run(&jpegs(), FAST, |_| ());
}

#[test]
fn png() {
    let picture = make::picture(20, 15);
    let files = [make::png(&picture), make::png_with_exif(&picture, &make::exif(6, true)), make::ANIMATED_PNG.into()];
    run(&files, UPRIGHT, make::fix_png_checksums);
}

#[test]
fn webp() {
    let picture = make::picture(20, 15);
    let exif = make::webp_with_exif(&picture, &make::exif(6, true));
    run(&[make::webp(&picture), exif, make::LOSSY_WEBP.into(), make::ANIMATED_WEBP.into()], UPRIGHT, |_| ());
}

#[test]
fn bmp() {
    run(&[make::bmp(&make::picture(16, 12))], DEFAULT, |_| ());
}

#[test]
fn gif() {
    run(&[make::small_gif()], DEFAULT, |_| ());
}

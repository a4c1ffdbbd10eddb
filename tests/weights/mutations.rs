//! Seeded mutations of every weight format: never a panic, and what opens is sound.

use std::fmt::Write;
use std::panic::catch_unwind;

use alexnet::Error;
use alexnet::weights::{DType, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::builder::zip;
use super::hostile::{small_entries, small_legacy, small_safetensors, sometimes_from_a_file};
use crate::testdata;

/// Random changes to good files. What is still accepted must be small; nothing may panic.
fn mutations(bases: &[Vec<u8>], count: u64) {
    (0..count).into_par_iter().for_each(|seed| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut file = bases[seed as usize % bases.len()].clone();
        // Structure sits at the front, in a zip also at the back; the middle of the large files is values.
        let position = |rng: &mut ChaCha8Rng, len: usize| match rng.random_range(0..4) {
            0 => rng.random_range(len.saturating_sub(2200)..len),
            _ => rng.random_range(0..len.min(2800)),
        };
        let mut changes = String::new();
        for _ in 0..rng.random_range(1..=4) {
            let at = position(&mut rng, file.len());
            let kind = rng.random_range(0..7);
            write!(changes, " {kind}@{at}").unwrap();
            match kind {
                0 => file[at] ^= 1 << rng.random_range(0..8),
                1 => file[at] = rng.random(),
                2 => file[at] = *b".(tRQsuhq2}])\x85\x81\x93bN{\"[,0"[..].get(rng.random_range(0..24)).unwrap_or(&b'9'),
                3 => {
                    let value =
                        [0u64, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];
                    let bytes = value[rng.random_range(0..value.len())].to_le_bytes();
                    let len = [1, 2, 4, 8][rng.random_range(0..4)].min(file.len() - at);
                    file[at..at + len].copy_from_slice(&bytes[..len]);
                }
                4 => file.truncate(at.max(1)),
                5 => {
                    let end = (at + rng.random_range(1..40)).min(file.len());
                    let piece = file[at..end].to_vec();
                    let to = position(&mut rng, file.len());
                    file.splice(to..to, piece);
                }
                _ => drop(file.drain(at..(at + rng.random_range(1..9)).min(file.len()))),
            }
            if file.is_empty() {
                break;
            }
        }
        let result = catch_unwind(|| sometimes_from_a_file(seed, &file));
        let Ok(result) = result else { panic!("seed {seed}, changes{changes}: panicked") };
        match result {
            Ok(checkpoint) => {
                let total: usize = checkpoint.tensors.values().map(|t| t.len() * t.dtype.size()).sum();
                assert!(total <= (64 << 20).max(4 * file.len()), "seed {seed}, changes{changes}: {total} bytes");
            }
            Err(Error::Weights { problems, .. }) => {
                let sound = !problems.is_empty() && problems.iter().all(|problem| !problem.is_empty());
                assert!(sound, "seed {seed}, changes{changes}: no reason given");
            }
            Err(other) => panic!("seed {seed}, changes{changes}: wrong kind of error {other:?}"),
        }
    });
}

fn goldens(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| testdata::bytes(&format!("tests/data/checkpoints/{name}"))).collect()
}

#[test]
fn mutated_safetensors() {
    let mut bases = goldens(&["torchvision.f16.safetensors", "paper.f32.safetensors"]);
    bases.extend([small_safetensors(), small_safetensors()]);
    mutations(&bases, 100_000);
}

#[test]
fn mutated_zip() {
    let mut bases = goldens(&["paper.zip.pth", "torchvision.views.pth", "torchvision.training-checkpoint.pth"]);
    // Without CRCs, or no change to the pickle would get past them.
    let mut entries = small_entries();
    entries.iter_mut().for_each(|e| e.crc = 0);
    bases.extend([zip(&entries), zip(&entries), zip(&entries)]);
    mutations(&bases, 100_000);
}

#[test]
fn mutated_legacy() {
    let mut bases = goldens(&["torchvision.legacy.pth"]);
    bases.push(small_legacy());
    mutations(&bases, 100_000);
}

#[test]
fn an_unfit_dtype_never_reaches_a_tensor() {
    let result = std::panic::catch_unwind(|| Tensor::new(DType::F32, vec![usize::MAX, 2], vec![0; 8]));
    assert!(result.is_err(), "a shape that overflows must not match 8 bytes");
}

//! Inverted dropout with the mask of `kernels/dropout.cu`: a pure function of seed, layer and element index.

use super::team::Team;
use crate::plan::dropout_mask;

/// Words a Philox call gives, one an element.
const WORDS: usize = 4;
/// Elements a task; a multiple of [`WORDS`].
const CHUNK: usize = 1 << 14;

/// Zeroes each element with probability `p` and multiplies the others by 1 / (1 - p). Elements count in the activation's order,
/// (N, H, W, C).
///
/// # Panics
/// If the lengths differ.
pub fn forward(p: f32, layer: u32, seed: u64, team: &Team<'_>, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len());
    let (threshold, scale) = dropout_mask(p);
    team.for_each_chunk(output, CHUNK, |task, output| {
        let input = &input[task * CHUNK..][..output.len()];
        for (call, (output, input)) in output.chunks_mut(WORDS).zip(input.chunks(WORDS)).enumerate() {
            let words = philox((task * CHUNK / WORDS + call) as u64, layer, seed);
            for ((output, input), word) in output.iter_mut().zip(input).zip(words) {
                *output = if word >= threshold { input * scale } else { 0.0 };
            }
        }
    });
}

/// Philox-4x32-10 (Salmon et al. 2011) of counter {call, layer, 0} and key `seed`.
fn philox(call: u64, layer: u32, seed: u64) -> [u32; WORDS] {
    philox_rounds([call as u32, (call >> 32) as u32, layer, 0], [seed as u32, (seed >> 32) as u32])
}

fn philox_rounds(mut counter: [u32; WORDS], mut key: [u32; 2]) -> [u32; WORDS] {
    for _ in 0..10 {
        let [a, b, c, d] = counter;
        let (product0, product1) = (0xD251_1F53 * u64::from(a), 0xCD9E_8D57 * u64::from(c));
        counter = [
            (product1 >> 32) as u32 ^ b ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ d ^ key[1],
            product0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution.
    #[test]
    fn philox_known_answers() {
        let ones = u32::MAX;
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox_rounds(counter, key), expected);
        }
    }
}

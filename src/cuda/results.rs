//! What goes back to the host: the best classes of each image and whether its logits are finite, in one piece of memory.

use super::args::{DevicePtr, TopKArgs};
use crate::backend::{Prediction, Score};

/// The results of `images` images, `k` classes each: indices (images, k), scores (images, k), flags (images), 4 bytes an
/// element.
#[derive(Debug, Clone, Copy)]
pub(super) struct Results {
    pub(super) images: usize,
    pub(super) k: usize,
}

impl Results {
    /// All of them together.
    pub(super) fn bytes(self) -> usize {
        4 * self.images * (2 * self.k + 1)
    }

    /// Arguments of the kernel that ranks `logits` of `classes` classes and writes results to `at`.
    pub(super) fn args(self, logits: DevicePtr, classes: usize, score: Score, at: DevicePtr) -> TopKArgs {
        let part = 4 * (self.images * self.k) as DevicePtr;
        TopKArgs {
            logits,
            indices: at,
            scores: at + part,
            finite: at + 2 * part,
            n: self.images as i32,
            classes: classes as i32,
            k: self.k as i32,
            probabilities: i32::from(score == Score::Prob),
        }
    }

    /// The predictions, `k` an image, of `bytes` as the kernel wrote them.
    pub(super) fn predictions(self, bytes: &[u8]) -> impl Iterator<Item = Prediction> {
        let (indices, scores) = bytes[..8 * self.images * self.k].split_at(4 * self.images * self.k);
        let scores = words(scores).map(f32::from_bits);
        words(indices).zip(scores).map(|(index, score)| Prediction { index: index as usize, score })
    }

    /// Whether all logits of each image are finite.
    pub(super) fn finite(self, bytes: &[u8]) -> impl Iterator<Item = bool> {
        words(&bytes[8 * self.images * self.k..self.bytes()]).map(|flag| flag != 0)
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word))
}

//! What a network takes on a device. Free of CUDA.

use super::arena::Layout;
use super::depth::Depth;
use super::element::filter_pitch;
use super::fuse::as_run;
use super::pipeline::SLOTS;
use super::results::Results;
use super::select::Rules;
use super::steps::{by_device, fits, most_images};
use crate::Result;
use crate::net::Network;
use crate::options::Split;
use crate::plan::Plan;

/// Device memory in bytes, for a pipeline that gives one class an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Filters and biases.
    pub weights: usize,
    /// Inputs, every step's output, partial sums and results.
    pub arena: usize,
    /// What each step's own memory would take together, were none used again.
    pub without_reuse: usize,
}

/// What a pipeline of `plan` that gives one class an image works in, on each device.
///
/// # Errors
/// Those of [`split::towers`](crate::split::towers).
pub(super) fn buffers(network: &Network, plan: &Plan, rules: &Rules, split: Option<Split>) -> Result<Vec<Layout>> {
    let plans = by_device(network, plan, rules, split)?;
    let layouts = plans.iter().enumerate().map(|(device, plans)| {
        let results = if device == 0 { Results { images: plan.batch, k: 1 }.bytes() } else { 0 };
        Layout::new(plans, rules, SLOTS, results)
    });
    Ok(layouts.collect())
}

impl Footprint {
    /// Of `network` and batches of `images` images.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for a batch of 0.
    pub fn of(network: &Network, images: usize, rules: &Rules) -> Result<Self> {
        let depth = Depth::of(network, rules.precision);
        let layers = network.parameters().enumerate().map(|(index, parameter)| {
            let filters = parameter.weight_shape[0];
            let gemm_k: usize = parameter.weight_shape[1..].iter().product();
            let rearranged = depth.filter(|_| index == 0).map_or(0, |depth| depth.gemm_k());
            let bytes = |gemm_k| filters * filter_pitch(rules.precision, gemm_k);
            bytes(gemm_k) + if rearranged > 0 { bytes(rearranged) } else { 0 } + 4 * filters
        });
        let weights = layers.sum();
        let layouts = buffers(network, &Plan::new(network, images, &[])?, rules, None)?;
        Ok(Footprint { weights, arena: layouts[0].bytes, without_reuse: layouts[0].without_reuse })
    }

    /// The largest batch up to `most` of `network` whose memory fits beside its weights in `free` bytes of a device's `total`;
    /// 0 where none does.
    ///
    /// # Errors
    /// Those of [`of`](Self::of).
    pub fn largest_batch(
        network: &Network,
        most: usize,
        rules: &Rules,
        (free, total): (usize, usize),
    ) -> Result<usize> {
        let countable = most_images(&as_run(network, Plan::new(network, 1, &[])?, rules));
        let (mut fitting, mut beyond) = (0, most.min(countable) + 1);
        while beyond - fitting > 1 {
            let images = fitting + (beyond - fitting) / 2;
            let Footprint { weights, arena, .. } = Footprint::of(network, images, rules)?;
            let enough = fits(arena, free.saturating_sub(weights), total);
            if enough { fitting = images } else { beyond = images }
        }
        Ok(fitting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::VARIANTS;
    use crate::options::Precision;

    /// 61,100,840 parameters of torchvision's, in float16 half of that in float32, and conv1 a second time.
    #[test]
    fn weights_take_their_bytes() {
        let network = Network::published(&VARIANTS[0], 1000).unwrap();
        let rules = |precision| Rules { precision, multiprocessors: 132, deterministic: false, fc: None };
        let weights = |precision| Footprint::of(&network, 1, &rules(precision)).unwrap().weights;
        assert_eq!(weights(Precision::Float32), 61_100_840 * 4);
        let biases = 64 + 192 + 384 + 256 + 256 + 4096 + 4096 + 1000;
        let padded = 64 * 5; // conv1's rows of 363 to whole 16 bytes
        assert_eq!(weights(Precision::Float16), (61_100_840 - biases + padded + 64 * 432) * 2 + biases * 4);
    }

    #[test]
    fn the_largest_batch_fits_and_the_next_does_not() {
        let network = Network::published(&VARIANTS[0], 1000).unwrap();
        let rules = Rules { precision: Precision::Float16, multiprocessors: 132, deterministic: false, fc: None };
        let total = 4 << 30;
        let free = 3 << 30;
        let most = Footprint::largest_batch(&network, 100_000, &rules, (free, total)).unwrap();
        let room = free - total / 16;
        let bytes = |images| {
            let Footprint { weights, arena, .. } = Footprint::of(&network, images, &rules).unwrap();
            weights + arena
        };
        assert!(bytes(most) <= room && bytes(most + 1) > room, "{most}");
        assert_eq!(Footprint::largest_batch(&network, 7, &rules, (free, total)).unwrap(), 7);
        // Kernels count conv1's 55 x 55 x 64 outputs in 31 bits.
        assert_eq!(Footprint::largest_batch(&network, 100_000, &rules, (1 << 40, 1 << 40)).unwrap(), 11_092);
        assert_eq!(Footprint::largest_batch(&network, 7, &rules, (1 << 20, total)).unwrap(), 0);
    }
}

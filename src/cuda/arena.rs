//! Where each step's output lies in the one allocation that a session works in. Free of CUDA.
//!
//! A region is taken from the step that writes it to the last one that reads it; regions whose times do not meet share
//! memory.

use super::cublaslt::WORKSPACE_BYTES;
use super::select::{self, Route, Rules};
use crate::plan::{Plan, Step};

/// Offsets are multiples of this, in bytes: what cuBLASLt asks of its workspace, and more than any load needs.
const ALIGNMENT: usize = 256;

/// Byte offsets into the allocation, for the plan's whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Of the uint8 inputs, (batch, H, W, 3), one a batch that is under way.
    pub pixels: Vec<usize>,
    /// Of each step's output.
    pub outputs: Vec<usize>,
    /// Of each step's partial sums, where its GEMM_K may be split; 0 where it is not.
    pub partials: Vec<usize>,
    /// Of cuBLASLt's workspace, where it runs a step.
    pub workspace: usize,
    /// Of the results that go back to the host.
    pub results: usize,
    /// Bytes of the allocation.
    pub bytes: usize,
    /// Bytes of all regions together.
    pub without_reuse: usize,
}

/// A stretch of memory and the steps during which it is taken, both ends included.
#[derive(Debug, Clone, Copy)]
struct Region {
    bytes: usize,
    first: usize,
    last: usize,
}

impl Layout {
    /// For `plan` with `slots` batches under way at a time and `results` bytes that go back.
    pub fn new(plan: &Plan, rules: &Rules, slots: usize, results: usize) -> Self {
        // Results are written after the last step.
        let end = plan.steps.len();
        let always = |bytes| Region { bytes, first: 0, last: end };
        let pixels = (0..slots).map(|_| always(plan.batch * plan.input.len()));
        let outputs = plan.steps.iter().enumerate().map(|(index, step)| {
            let bytes = plan.batch * step.output.len() * rules.element().of_output(step).bytes();
            let last = if step.kept || step.logits { end } else { index + 1 };
            Region { bytes, first: index, last }
        });
        let partials = plan.steps.iter().enumerate().map(|(index, step)| {
            let bytes = 4 * select::most_partial_elements(step, plan.batch, rules);
            Region { bytes, first: index, last: index }
        });
        // What cuBLASLt runs, it runs for the largest number of images too.
        let cublaslt = |step: &Step| select::route(step, plan.batch, rules) == Route::CublasLt;
        let first = plan.steps.iter().position(&cublaslt);
        let last = plan.steps.iter().rposition(cublaslt);
        let workspace = match first.zip(last) {
            Some((first, last)) => Region { bytes: WORKSPACE_BYTES, first, last },
            None => Region { bytes: 0, first: 0, last: 0 },
        };
        let single = [workspace, always(results)];
        let regions: Vec<Region> = pixels.chain(outputs).chain(partials).chain(single).collect();
        let (offsets, bytes) = place(&regions);
        let without_reuse = regions.iter().map(|region| region.bytes).sum();
        let mut offsets = offsets.into_iter();
        let mut take = |count| offsets.by_ref().take(count).collect::<Vec<_>>();
        let (pixels, outputs, partials) = (take(slots), take(end), take(end));
        let (workspace, results) = (take(1)[0], take(1)[0]);
        Layout { pixels, outputs, partials, workspace, results, bytes, without_reuse }
    }
}

/// An offset a region, and the end of the last: the largest regions first, each in the lowest gap that its time leaves.
fn place(regions: &[Region]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..regions.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(regions[index].bytes));
    let mut offsets = vec![0; regions.len()];
    let mut placed: Vec<usize> = vec![]; // by offset
    for index in order {
        let Region { bytes, first, last } = regions[index];
        let mut offset = 0;
        for &other in &placed {
            let Region { bytes: others, first: from, last: to } = regions[other];
            if first <= to && from <= last && offset + bytes > offsets[other] {
                offset = offset.max((offsets[other] + others).next_multiple_of(ALIGNMENT));
            }
        }
        offsets[index] = offset;
        if bytes > 0 {
            let at = placed.partition_point(|&other| offsets[other] <= offset);
            placed.insert(at, index);
        }
    }
    let end = placed.iter().map(|&index| offsets[index] + regions[index].bytes).max();
    (offsets, end.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::net::{Network, VARIANTS};
    use crate::options::{Fc, Precision};

    #[test]
    fn regions_that_live_at_once_do_not_meet() {
        for seed in 0..500 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let regions: Vec<Region> = (0..rng.random_range(1..30))
                .map(|_| {
                    let first = rng.random_range(0..12);
                    let bytes = if rng.random() { rng.random_range(0..5000) } else { 0 };
                    Region { bytes, first, last: first + rng.random_range(0..4) }
                })
                .collect();
            let (offsets, end) = place(&regions);
            for (a, (&x, region)) in offsets.iter().zip(&regions).enumerate() {
                assert!(x % ALIGNMENT == 0 && x + region.bytes <= end.max(x), "seed {seed}");
                for (&y, other) in offsets.iter().zip(&regions).take(a) {
                    let at_once = region.first <= other.last && other.first <= region.last;
                    let apart = x + region.bytes <= y || y + other.bytes <= x;
                    let empty = region.bytes == 0 || other.bytes == 0;
                    assert!(apart || empty || !at_once, "seed {seed}: {region:?} at {x}, {other:?} at {y}");
                }
            }
        }
    }

    /// A chain takes no more than its two largest neighbours together, and a little for alignment.
    #[test]
    fn memory_is_used_again() {
        for variant in &VARIANTS {
            let network = Network::published(variant, 1000).unwrap();
            let plan = Plan::new(&network, 64, &[]).unwrap();
            let rules = Rules { precision: Precision::Float16, multiprocessors: 132, deterministic: true, fc: None };
            let layout = Layout::new(&plan, &rules, 0, 0);
            let bytes = |step: &crate::plan::Step| 64 * step.output.len() * rules.element().of_output(step).bytes();
            let floor = plan.steps.windows(2).map(|pair| bytes(&pair[0]) + bytes(&pair[1])).max().unwrap();
            assert!(layout.bytes >= floor && layout.bytes <= floor + floor / 10, "{}: {layout:?}", variant.name);
            assert_eq!(layout.without_reuse, plan.steps.iter().map(bytes).sum::<usize>());
            assert!(layout.bytes < layout.without_reuse * 3 / 4, "{}: {layout:?}", variant.name);
        }
    }

    #[test]
    fn kept_outputs_and_logits_outlive_the_run() {
        let network = Network::published(&VARIANTS[0], 1000).unwrap();
        let plan = Plan::new(&network, 2, &["conv1", "pool2"]).unwrap();
        let rules =
            Rules { precision: Precision::Float32, multiprocessors: 132, deterministic: false, fc: Some(Fc::Own) };
        let layout = Layout::new(&plan, &rules, 1, 64);
        for (index, step) in plan.steps.iter().enumerate().filter(|(_, step)| step.kept || step.logits) {
            let own = layout.outputs[index]..layout.outputs[index] + 8 * step.output.len();
            for (later, other) in plan.steps.iter().enumerate().skip(index + 1) {
                let others = layout.outputs[later]..layout.outputs[later] + 8 * other.output.len();
                assert!(own.end <= others.start || others.end <= own.start, "{step:?} {other:?}");
            }
            assert!(own.end <= layout.results || layout.results + 64 <= own.start, "{step:?}");
        }
    }
}

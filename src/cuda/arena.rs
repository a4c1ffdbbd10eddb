//! Where each step's output lies in the one allocation that a session works in. Free of CUDA.
//!
//! A region is taken from the step that writes it to the last one that reads it; regions whose times do not meet share
//! memory. Two towers on one device have one allocation, and the buffers where they meet once.

use super::cublaslt::WORKSPACE_BYTES;
use super::select::{self, Route, Rules};
use crate::plan::{Plan, Step, StepKind};

/// Offsets are multiples of this, in bytes: what cuBLASLt asks of its workspace, and more than any load needs.
const ALIGNMENT: usize = 256;

/// Byte offsets into the allocation, for the plan's whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Of the uint8 inputs, (batch, H, W, 3), one a batch that is under way.
    pub pixels: Vec<usize>,
    /// Of what each tower's steps work in; of one network, where it is not split.
    pub towers: Vec<StepsLayout>,
    /// Of the results that go back to the host.
    pub results: usize,
    /// Bytes of the allocation.
    pub bytes: usize,
    /// Bytes of all regions together.
    pub without_reuse: usize,
}

/// Byte offsets of what the steps of a plan work in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepsLayout {
    /// Of the buffer that each step's output lies in, which is both towers' where they meet.
    pub outputs: Vec<usize>,
    /// Of each step's partial sums, where its GEMM_K may be split; 0 where it is not.
    pub partials: Vec<usize>,
    /// Of cuBLASLt's workspace, where it runs a step.
    pub workspace: usize,
}

/// A stretch of memory, the steps during which it is taken, both ends included, and whose it is.
#[derive(Debug, Clone, Copy)]
struct Region {
    bytes: usize,
    first: usize,
    last: usize,
    /// `None` for what both towers use.
    tower: Option<usize>,
}

/// Whether two regions may be in use at once. What a tower does it does in order; where it is in the other's time is known
/// only from where they meet: `meetings` are the steps before which each waits for the other, ascending.
fn at_once(a: &Region, b: &Region, meetings: &[usize]) -> bool {
    let ordered = a.tower.is_some() && a.tower == b.tower;
    let time = |step: usize| if ordered { step } else { meetings.partition_point(|&meeting| meeting <= step) };
    time(a.first) <= time(b.last) && time(b.first) <= time(a.last)
}

impl Layout {
    /// On one device for `plans`, which are a network's one or those of its towers of which the device runs one or both, with
    /// `slots` batches under way at a time and `results` bytes that go back.
    pub fn new(plans: &[Plan], rules: &Rules, slots: usize, results: usize) -> Self {
        let plan = &plans[0];
        let meetings: Vec<usize> = (1..plan.steps.len()).filter(|&step| plan.steps[step - 1].is_joined()).collect();
        // Results are written after the last step.
        let end = plans.iter().map(|plan| plan.steps.len()).max().expect("a device runs a plan");
        let always = |bytes| Region { bytes, first: 0, last: end, tower: None };
        let mut regions: Vec<Region> = (0..slots).map(|_| always(plan.batch * plan.input.len())).collect();
        regions.push(always(results));
        for (tower, plan) in plans.iter().enumerate() {
            regions.extend(regions_of(plan, (tower, plans.len()), end, rules));
        }
        // Where both towers have a buffer, it is the first one's.
        let first_outputs = slots + 1;
        let mut same: Vec<(usize, usize)> = vec![];
        let mut at = first_outputs;
        for (tower, plan) in plans.iter().enumerate() {
            for (index, step) in plan.steps.iter().enumerate() {
                if tower > 0 && is_shared(step) {
                    regions[at + index].bytes = 0;
                    same.push((at + index, first_outputs + index));
                }
            }
            at += 2 * plan.steps.len() + 1;
        }
        let (mut offsets, bytes) = place(&regions, &meetings);
        for (other, first) in same {
            offsets[other] = offsets[first];
        }
        let without_reuse = regions.iter().map(|region| region.bytes).sum();
        let mut offsets = offsets.into_iter();
        let mut take = |count| offsets.by_ref().take(count).collect::<Vec<_>>();
        let (pixels, results) = (take(slots), take(1)[0]);
        let towers = plans.iter().map(|plan| {
            let (outputs, partials) = (take(plan.steps.len()), take(plan.steps.len()));
            StepsLayout { outputs, partials, workspace: take(1)[0] }
        });
        Layout { pixels, towers: towers.collect(), results, bytes, without_reuse }
    }
}

/// Whether both towers of a device have the step's output in one buffer: what both give, and what both take.
fn is_shared(step: &Step) -> bool {
    step.is_joined() || matches!(step.kind, StepKind::Preprocess { .. })
}

/// Those of a plan's outputs, its partial sums, and its workspace, in this order.
fn regions_of(plan: &Plan, (tower, towers): (usize, usize), end: usize, rules: &Rules) -> Vec<Region> {
    let outputs = plan.steps.iter().enumerate().map(|(index, step)| {
        let bytes = plan.batch * step.room() * rules.element().of_output(step).bytes();
        let last = if step.kept || step.logits { end } else { index + 1 };
        let shared = step.is_joined() || towers > 1 && is_shared(step);
        Region { bytes, first: index, last, tower: (!shared).then_some(tower) }
    });
    let own = Region { bytes: 0, first: 0, last: 0, tower: Some(tower) };
    let partials = plan.steps.iter().enumerate().map(|(index, step)| {
        let bytes = 4 * select::most_partial_elements(step, plan.batch, rules);
        Region { bytes, first: index, last: index, ..own }
    });
    // What cuBLASLt runs, it runs for the largest number of images too.
    let cublaslt = |step: &Step| select::route(step, plan.batch, rules) == Route::CublasLt;
    let first = plan.steps.iter().position(&cublaslt);
    let last = plan.steps.iter().rposition(cublaslt);
    let workspace = match first.zip(last) {
        Some((first, last)) => Region { bytes: WORKSPACE_BYTES, first, last, ..own },
        None => own,
    };
    outputs.chain(partials).chain([workspace]).collect()
}

/// An offset a region, and the end of the last: the largest regions first, each in the lowest gap that its time leaves.
fn place(regions: &[Region], meetings: &[usize]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..regions.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(regions[index].bytes));
    let mut offsets = vec![0; regions.len()];
    let mut placed: Vec<usize> = vec![]; // by offset
    for index in order {
        let bytes = regions[index].bytes;
        let mut offset = 0;
        for &other in &placed {
            if at_once(&regions[index], &regions[other], meetings) && offset + bytes > offsets[other] {
                offset = offset.max((offsets[other] + regions[other].bytes).next_multiple_of(ALIGNMENT));
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
    use crate::cuda::fuse::towers_as_run;
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
                    Region { bytes, first, last: first + rng.random_range(0..4), tower: Some(0) }
                })
                .collect();
            let (offsets, end) = place(&regions, &[]);
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
            let layout = Layout::new(std::slice::from_ref(&plan), &rules, 0, 0);
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
        let layout = Layout::new(std::slice::from_ref(&plan), &rules, 1, 64);
        for (index, step) in plan.steps.iter().enumerate().filter(|(_, step)| step.kept || step.logits) {
            let own = layout.towers[0].outputs[index]..layout.towers[0].outputs[index] + 8 * step.output.len();
            for (later, other) in plan.steps.iter().enumerate().skip(index + 1) {
                let others = layout.towers[0].outputs[later]..layout.towers[0].outputs[later] + 8 * other.output.len();
                assert!(own.end <= others.start || others.end <= own.start, "{step:?} {other:?}");
            }
            assert!(own.end <= layout.results || layout.results + 64 <= own.start, "{step:?}");
        }
    }

    /// Step by step in any order that the meetings allow, no step of a tower writes what another region has that is in use.
    #[test]
    fn towers_of_one_device_keep_apart() {
        for variant in &VARIANTS {
            let network = Network::published(variant, 1000).unwrap();
            let rules =
                Rules { precision: Precision::Float16, multiprocessors: 132, deterministic: false, fc: Some(Fc::Own) };
            let plan = Plan::new(&network, 8, &["pool2"]).unwrap();
            let towers = towers_as_run(&network, &plan, &rules).unwrap();
            let layout = Layout::new(&towers, &rules, 2, 64);
            let end = towers[0].steps.len();
            let meets = |step: usize| step > 0 && towers[0].steps[step - 1].is_joined();
            // A stretch of memory, its steps, and the tower whose it is.
            let mut uses: Vec<(usize, usize, usize, usize, Option<usize>)> = vec![];
            for (tower, plan) in towers.iter().enumerate() {
                for (index, step) in plan.steps.iter().enumerate() {
                    let bytes = 8 * step.room() * rules.element().of_output(step).bytes();
                    let last = if step.kept || step.logits { end } else { index + 1 };
                    let shared = step.half.is_none() && !step.logits || step.is_joined();
                    if tower == 0 || !shared {
                        let owner = (!shared).then_some(tower);
                        uses.push((layout.towers[tower].outputs[index], bytes, index, last, owner));
                    }
                    let partial = 4 * select::most_partial_elements(step, 8, &rules);
                    uses.push((layout.towers[tower].partials[index], partial, index, index, Some(tower)));
                }
            }
            // The steps at which the other tower may be while this one is at `step`: between two meetings, any.
            let window = |step: usize| {
                let first = (0..=step).rev().find(|&s| meets(s)).unwrap_or(0);
                let last = (step + 1..end).find(|&s| meets(s)).unwrap_or(end + 1) - 1;
                first..=last
            };
            for (a, &(x, size, first, last, owner)) in uses.iter().enumerate() {
                for &(y, others, from, to, other) in &uses[..a] {
                    let same = owner.is_some() && owner == other;
                    let meet = (first..=last).any(|step| {
                        if same { (from..=to).contains(&step) } else { window(step).any(|s| (from..=to).contains(&s)) }
                    });
                    let apart = x + size <= y || y + others <= x;
                    assert!(
                        !meet || apart || size == 0 || others == 0,
                        "{}: {first}..{last} {from}..{to}",
                        variant.name
                    );
                }
            }
        }
    }
}

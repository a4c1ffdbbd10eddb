//! Steps of a plan that one kernel can do together, so that what lies between them is neither written nor read again. Fused
//! kernels give the bits that the separate ones give. Free of CUDA.

use super::depth::{Depth, lowered};
use super::kernels::FUSED_POOL;
use super::select::{self, Rules};
use crate::Result;
use crate::net::Network;
use crate::plan::{Plan, Step, StepKind, assign_buffers};
use crate::split;

/// `plan`, of `network`, as the device runs it: its first convolution rearranged, steps fused.
pub fn as_run(network: &Network, plan: Plan, rules: &Rules) -> Plan {
    fused(lowered(Depth::of(network, rules.precision), plan), rules)
}

/// Both towers of `plan`, of `network`, as the device runs them. Sums are in the order of the whole network as it runs it.
///
/// # Errors
/// Those of [`split::towers`].
pub fn towers_as_run(network: &Network, plan: &Plan, rules: &Rules) -> Result<[Plan; 2]> {
    let whole = as_run(network, plan.clone(), rules);
    let towers = split::towers(plan)?.map(|tower| {
        let mut tower = lowered(Depth::of(network, rules.precision), tower);
        // Fusing leaves weighted steps apart and in order.
        let weighted = tower.steps.iter_mut().filter(|step| step.weights().is_some());
        for (step, same) in weighted.zip(whole.steps.iter().filter(|step| step.weights().is_some())) {
            if let Some(half) = &mut step.half {
                half.whole = same.clone();
            }
        }
        fused(tower, rules)
    });
    Ok(towers)
}

/// `plan` with steps fused where that is possible and, by the model, faster for a full batch. A step whose output is kept
/// stays as it is, and so does the last one.
pub fn fused(mut plan: Plan, rules: &Rules) -> Plan {
    let mut steps: Vec<Step> = vec![];
    for step in plan.steps {
        match steps.last_mut().and_then(|last| Some((faster(last, &step, plan.batch, rules)?, last))) {
            Some((both, last)) => *last = both,
            None => steps.push(step),
        }
    }
    plan.buffers = assign_buffers(&mut steps);
    plan.steps = steps;
    plan
}

/// [`pair`], unless two kernels are faster: a convolution that pools has tiles of whole images, and no splits.
fn faster(first: &Step, second: &Step, images: usize, rules: &Rules) -> Option<Step> {
    let both = pair(first, second, rules)?;
    if let (StepKind::Conv { .. }, Some(half)) = (first.kind, &first.half) {
        // As the whole network does, which otherwise might sum in parts.
        return matches!(half.whole.kind, StepKind::Conv { unpooled: Some(_), .. }).then_some(both);
    }
    let [fused, separate] = select::pool_cycles(first, images, rules).unwrap_or_default();
    (fused <= separate).then_some(both)
}

/// The one step that does what `first` and `second`, which follows it, do, where there is a kernel for it.
pub fn pair(first: &Step, second: &Step, rules: &Rules) -> Option<Step> {
    if first.kept || second.kept || second.logits || first.is_joined() {
        return None;
    }
    let normalises = |lrn| select::takes_vectors(lrn, first.output.c, rules.element());
    let kind = match (first.kind, second.kind) {
        (StepKind::Lrn(lrn), StepKind::MaxPool(FUSED_POOL)) if normalises(&lrn) => StepKind::LrnMaxPool(lrn),
        (StepKind::MaxPool(FUSED_POOL), StepKind::Lrn(lrn)) if normalises(&lrn) => StepKind::MaxPoolLrn(lrn),
        (StepKind::Conv { conv, weights, relu, unpooled: None }, StepKind::MaxPool(FUSED_POOL))
            if select::pool_cycles(first, 1, rules).is_some() =>
        {
            StepKind::Conv { conv, weights, relu, unpooled: Some(first.output) }
        }
        _ => return None,
    };
    let pools = if matches!(kind, StepKind::MaxPoolLrn(_)) { first } else { second };
    if FUSED_POOL.output(pools.input) != Some(pools.output) {
        return None;
    }
    let layers = [&first.layers[..], &second.layers].concat();
    let mut half = second.half.clone();
    if let (Some(half), Some(first)) = (&mut half, &first.half) {
        half.whole = first.whole.clone();
    }
    Some(Step { layers, kind, input: first.input, source: first.source, half, ..second.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{VARIANTS, Variant};
    use crate::options::{Fc, Precision};

    const RULES: Rules =
        Rules { precision: Precision::Float16, multiprocessors: 132, deterministic: false, fc: Some(Fc::Own) };

    fn layers(network: &Network, keep: &[&str]) -> Vec<String> {
        let plan = fused(Plan::new(network, 1, keep).unwrap(), &RULES);
        plan.steps.iter().map(|step| step.layers.join(" + ")).collect()
    }

    #[test]
    fn lrn_is_fused_with_its_pool_in_both_orders() {
        for (variant, first, second) in
            [("paper", "norm1 + pool1", "norm2 + pool2"), ("caffenet", "pool1 + norm1", "pool2 + norm2")]
        {
            let network = Network::published(Variant::by_name(variant).unwrap(), 1000).unwrap();
            let all = layers(&network, &[]);
            assert!([first, second].iter().all(|name| all.iter().any(|l| l == name)), "{all:?}");
            for kept in ["norm1", "pool1"] {
                let all = layers(&network, &[kept]);
                assert!(all.iter().all(|l| l != first) && all.iter().any(|l| l == second), "{all:?}");
            }
        }
    }

    /// One image leaves most multiprocessors idle: its convolution is split, which the one that pools is not. With a hundred
    /// what lies between the two costs more than the rows that a whole image leaves empty.
    #[test]
    fn pools_are_fused_with_convolutions_for_large_batches() {
        for variant in ["torchvision", "paper"] {
            let network = Network::published(Variant::by_name(variant).unwrap(), 1000).unwrap();
            let is_fused = |images, precision| {
                let rules = Rules { precision, ..RULES };
                let plan = fused(Plan::new(&network, images, &[]).unwrap(), &rules);
                plan.steps.iter().any(|step| step.layers.join(" + ").starts_with("conv5 + relu5 + pool5"))
            };
            for precision in [Precision::Tf32, Precision::Float16, Precision::Bfloat16] {
                assert_eq!(
                    [1, 128].map(|images| is_fused(images, precision)),
                    [false, true],
                    "{variant} {precision:?}"
                );
            }
            assert!(!is_fused(128, Precision::Float32), "{variant}");
        }
    }

    /// Towers of 12 channels are no whole vectors of f16.
    #[test]
    fn odd_widths_are_not_fused() {
        let widths = [24, 24, 8, 8, 8, 8, 8, 8];
        let network = Network::with_widths(Variant::by_name("paper").unwrap(), &widths, 227).unwrap();
        assert!(layers(&network, &[]).iter().any(|l| l == "norm1"));
    }

    /// Steps still form a chain over disjoint buffers with room for them, through the layers of the network in order.
    #[test]
    fn fused_plans_are_chains() {
        for variant in &VARIANTS {
            let network = Network::published(variant, 1000).unwrap();
            for keep in [&[][..], &["conv5"], &["pool1", "fc7"]] {
                let plan = Plan::new(&network, 64, keep).unwrap();
                let fused = fused(plan.clone(), &RULES);
                let mut source = None;
                let mut shape = plan.input;
                for step in &fused.steps {
                    assert_eq!((step.input, step.source), (shape, source), "{}: {step:?}", variant.name);
                    assert_ne!(step.source, Some(step.target), "in place: {step:?}");
                    assert!(step.output.len() <= fused.buffers[step.target]);
                    (shape, source) = (step.output, Some(step.target));
                }
                let names = |plan: &Plan| plan.steps.iter().flat_map(|s| s.layers.clone()).collect::<Vec<_>>();
                assert_eq!(names(&plan), names(&fused));
                assert_eq!(plan.logits().output, fused.logits().output);
            }
        }
    }
}

//! Steps on a CUDA device, as a session runs them, beside NVIDIA's libraries and beside what they are fused from.

use std::rc::Rc;

use alexnet::cuda::lone::{By, Lane, Lone, LoneSteps};
use alexnet::net::{Network, VARIANTS, Variant};
use alexnet::plan::StepKind;
use alexnet::roofline::Demand;

use super::cudnn::{Convolution, Cudnn};
use super::{Case, Choice, MakePeer, Routine};

const SEED: u64 = 1;

/// The steps that `wanted` picks of every variant, precision and batch; those that are the same work come once.
pub fn layers<'a>(choice: &'a Choice, lane: &'a Rc<Lane>, wanted: impl Fn(&StepKind) -> bool) -> Vec<Case<'a>> {
    let cudnn = Rc::new(Cudnn::open(lane));
    let mut seen: Vec<Lone> = vec![];
    let mut cases = vec![];
    for (variant, network, precision, batch) in combinations(choice) {
        let rules = choice.rules(precision);
        let lones = Lone::as_run(&network, batch, &rules).expect("published networks fit");
        for lone in lones.into_iter().filter(|lone| wanted(&lone.steps()[0].kind)) {
            if seen.iter().any(|other| other.same_work(&lone)) {
                continue;
            }
            seen.push(lone.clone());
            let mut peers: Vec<(&'static str, MakePeer<'a>)> = vec![];
            match lone.steps()[0].kind {
                StepKind::Linear { .. } => {
                    let lone = lone.clone();
                    peers.push((
                        "cublaslt",
                        Box::new(move || {
                            let steps = lane.steps(&lone, By::CublasLt, SEED, choice.round);
                            steps.map(routine).map_err(|e| e.to_string())
                        }),
                    ));
                }
                // One that pools as well is more than a convolution.
                StepKind::Conv { unpooled: None, weights, .. } => {
                    let cudnn = Rc::clone(&cudnn);
                    let planned = Lone::as_planned(&network, batch, &rules).expect("published networks fit");
                    let planned = planned.into_iter().find(|lone| lone.steps()[0].weights() == Some(weights));
                    let planned = planned.expect("the same layer");
                    peers.push((
                        "cudnn",
                        Box::new(move || {
                            let cudnn = (*cudnn).as_ref().map_err(String::clone)?;
                            let convolution = Convolution::new(cudnn, &planned, SEED, choice.round)?;
                            let (how, runs) = (convolution.how(), convolution.runs());
                            Ok(Routine { how, runs, round: Box::new(move || convolution.enqueue()) })
                        }),
                    ));
                }
                _ => {}
            }
            cases.push(case(choice, lane, variant, &network, lone, peers));
        }
    }
    cases
}

/// The pairs of steps that `wanted` picks by what they are fused to.
pub fn pairs<'a>(choice: &'a Choice, lane: &'a Rc<Lane>, wanted: impl Fn(&StepKind) -> bool) -> Vec<Case<'a>> {
    let mut seen: Vec<Lone> = vec![];
    let mut cases = vec![];
    for (variant, network, precision, batch) in combinations(choice) {
        let pairs = Lone::pairs(&network, batch, &choice.rules(precision)).expect("published networks fit");
        for [fused, separate] in pairs.into_iter().filter(|[fused, _]| wanted(&fused.steps()[0].kind)) {
            if seen.iter().any(|other| other.same_work(&fused)) {
                continue;
            }
            seen.push(fused.clone());
            let make: MakePeer<'a> = Box::new(move || {
                let steps = lane.steps(&separate, By::Own, SEED, choice.round);
                steps.map(routine).map_err(|e| e.to_string())
            });
            cases.push(case(choice, lane, variant, &network, fused, vec![("separate", make)]));
        }
    }
    cases
}

/// Every variant in every precision and batch.
fn combinations(
    choice: &Choice,
) -> impl Iterator<Item = (&'static Variant, Network, alexnet::Precision, usize)> + use<'_> {
    VARIANTS.iter().flat_map(move |variant| {
        let network = Network::published(variant, 1000).expect("published widths fit");
        choice.precisions.iter().flat_map(move |&precision| {
            let network = network.clone();
            choice.batches.iter().map(move |&batch| (variant, network.clone(), precision, batch))
        })
    })
}

fn case<'a>(
    choice: &'a Choice,
    lane: &'a Rc<Lane>,
    variant: &'static Variant,
    network: &Network,
    lone: Lone,
    peers: Vec<(&'static str, MakePeer<'a>)>,
) -> Case<'a> {
    let precision = lone.rules().precision;
    let demands = lone.steps().iter().map(|step| Demand::of(network, step, lone.images(), precision)).collect();
    Case {
        variant: variant.name,
        layer: lone.name().replace(' ', ""),
        precision,
        batch: lone.images(),
        demands,
        make: Box::new(move || {
            let steps = lane.steps(&lone, By::Own, SEED, choice.round);
            routine(steps.unwrap_or_else(|e| panic!("{}, {} images: {e}", lone.name(), lone.images())))
        }),
        peers,
    }
}

fn routine<'a>(steps: LoneSteps) -> Routine<'a> {
    let (how, runs) = (steps.kernel(), steps.runs());
    Routine { how, runs, round: Box::new(move || steps.enqueue().expect("the device is there")) }
}

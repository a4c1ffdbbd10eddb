//! What computes each step, and why.

use std::fmt::Write;

use super::conv::Algorithm;
use crate::net::Network;
use crate::plan::{Plan, Step, StepKind};
use crate::{Result, split};

/// What computes `step`, in words.
pub fn how(step: &Step) -> String {
    match algorithm(step) {
        Some(Algorithm::Winograd(geometry)) => geometry.how(),
        Some(Algorithm::Direct(_)) => "im2col and product".into(),
        None if matches!(step.kind, StepKind::Linear { .. }) => "product".into(),
        None => "loops".into(),
    }
}

/// Multiplications that the computation of `images` images takes, where they are fewer than the layer's definition has.
pub fn multiplications(step: &Step, images: usize) -> Option<usize> {
    match algorithm(step) {
        Some(Algorithm::Winograd(geometry)) => {
            Some(images * geometry.multiplications() * geometry.group_channels() * step.output.c)
        }
        _ => None,
    }
}

/// How a convolution is computed.
fn algorithm(step: &Step) -> Option<Algorithm> {
    match step.kind {
        StepKind::Conv { conv, .. } => Some(Algorithm::choose(conv, step.input, (step.output.h, step.output.w))),
        _ => None,
    }
}

/// The steps of `network` on the CPU, in two towers where `towers` is set, with what computes each and why.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for a network that has no two towers.
pub fn explain(network: &Network, towers: bool) -> Result<String> {
    let plan = Plan::new(network, 1, &[])?;
    let plans = if towers { split::towers(&plan)?.to_vec() } else { vec![plan] };
    let mut text = String::new();
    for (tower, plan) in plans.iter().enumerate() {
        if towers {
            writeln!(text, "tower {tower}").expect(IN_MEMORY);
        }
        for step in &plan.steps {
            writeln!(text, "{}: {} -> {}\n    {}", step.name(), step.input, step.output, how(step)).expect(IN_MEMORY);
            match (algorithm(step), step.kind) {
                (Some(Algorithm::Direct(reason)), _) => writeln!(text, "    not Winograd: {reason}").expect(IN_MEMORY),
                (Some(Algorithm::Winograd(geometry)), StepKind::Conv { conv, .. }) => {
                    let direct = step.output.h * step.output.w * conv.kernel * conv.kernel;
                    let few = geometry.multiplications();
                    writeln!(text, "    {few} multiplications a channel and filter, in place of {direct}")
                        .expect(IN_MEMORY);
                    if conv.stride > 1 {
                        let (side, channels) = (conv.stride, geometry.channels());
                        writeln!(text, "    blocks of {side} x {side} pixels are its {channels} channels")
                            .expect(IN_MEMORY);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(text)
}

const IN_MEMORY: &str = "writing to a String";

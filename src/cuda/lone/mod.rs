//! Steps of a plan run by themselves, over and over on random operands: what kernels are measured by.
//!
//! [`Lone`] says which step, [`Operands`] on what; both are free of CUDA. A [`Lane`] is the stream that they run and are timed on.

mod lane;
mod operands;

use super::fuse;
use super::select::Rules;
use super::steps::most_images;
use crate::net::Network;
use crate::plan::{Plan, Step, StepKind};
use crate::{Error, Result};

pub use lane::{By, Lane, Lap, LoneSteps, Round};
pub use operands::{Operands, Source};

/// A step of a plan, or two that follow each other, for a number of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Lone {
    /// Never empty; each reads what the one before it gives, and none is a half. They come from plans that were checked.
    steps: Vec<Step>,
    images: usize,
    rules: Rules,
}

impl Lone {
    /// The steps of `network` for `images` images as a device runs them by `rules`: fused and rearranged.
    ///
    /// # Errors
    /// [`Error::Usage`] for no images, more than kernels count, and a network whose shapes do not fit.
    pub fn as_run(network: &Network, images: usize, rules: &Rules) -> Result<Vec<Lone>> {
        let plan = counted(fuse::as_run(network, checked(network, images)?, rules))?;
        let lone = |step| Lone { steps: vec![step], images, rules: *rules };
        Ok(plan.steps.into_iter().map(lone).collect())
    }

    /// The steps of `network` for `images` images as its plan has them.
    ///
    /// # Errors
    /// As [`as_run`](Self::as_run).
    pub fn as_planned(network: &Network, images: usize, rules: &Rules) -> Result<Vec<Lone>> {
        let plan = counted(checked(network, images)?)?;
        let lone = |step| Lone { steps: vec![step], images, rules: *rules };
        Ok(plan.steps.into_iter().map(lone).collect())
    }

    /// The pairs of steps of `network` for which there is a kernel that does both, chosen or not: in one step, and in two.
    ///
    /// # Errors
    /// As [`as_run`](Self::as_run).
    pub fn pairs(network: &Network, images: usize, rules: &Rules) -> Result<Vec<[Lone; 2]>> {
        let plan = counted(checked(network, images)?)?;
        let lone = |steps: &[Step]| Lone { steps: steps.to_vec(), images, rules: *rules };
        let pairs = plan.steps.windows(2).filter_map(|pair| {
            let both = fuse::pair(&pair[0], &pair[1], rules)?;
            Some([lone(&[both]), lone(pair)])
        });
        Ok(pairs.collect())
    }

    /// The steps, one or two.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Images a run.
    pub fn images(&self) -> usize {
        self.images
    }

    /// What kernels are chosen by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Layers that are computed, `conv5 + relu5 + pool5`.
    pub fn name(&self) -> String {
        self.steps.iter().map(Step::name).collect::<Vec<_>>().join(" + ")
    }

    /// Whether the same work is done, under whatever name and in whatever network.
    pub fn same_work(&self, other: &Lone) -> bool {
        let work = |step: &Step| {
            let kind = match step.kind {
                // Which layer's they are is no part of the work.
                StepKind::Conv { conv, relu, unpooled, .. } => StepKind::Conv { conv, relu, unpooled, weights: 0 },
                StepKind::Linear { relu, .. } => StepKind::Linear { relu, weights: 0 },
                other => other,
            };
            (kind, step.input, step.output, step.logits)
        };
        self.images == other.images
            && self.rules == other.rules
            && self.steps.iter().map(work).eq(other.steps.iter().map(work))
    }
}

/// The plan of `network` for `images` images.
fn checked(network: &Network, images: usize) -> Result<Plan> {
    let plan = Plan::new(network, images, &[])?;
    plan.check(network)?;
    Ok(plan)
}

/// `plan`, where kernels can count its elements.
fn counted(plan: Plan) -> Result<Plan> {
    match most_images(&plan) {
        most if plan.batch > most => {
            Err(Error::Usage(format!("{} images are more than kernels count; take at most {most}", plan.batch)))
        }
        _ => Ok(plan),
    }
}

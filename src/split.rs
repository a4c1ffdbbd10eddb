//! A plan divided between the two towers of the paper. Pure data: every backend splits by the same two plans.
//!
//! Each tower has half of every layer's filters, in their order, and computes half of its channels. Layers that look at one
//! channel at a time, and grouped convolutions, go on from a tower's own half; ungrouped convolutions, fully connected layers
//! and normalisation across the border of the halves take some or all of the other's, so that the towers meet there. The
//! last layer, which gives the logits, is the first tower's alone.

use std::ops::Range;

use crate::net::{LrnScope, Shape};
use crate::plan::{Plan, Step, StepKind, assign_buffers};
use crate::{Error, Result};

/// A step's place in a plan that is one tower's.
#[derive(Debug, Clone, PartialEq)]
pub struct Half {
    /// 0 for the first half of the output's channels, 1 for the second.
    pub tower: usize,
    /// Whether the output lies among the channels of both towers, because the next step takes what the other has.
    pub joined: bool,
    /// Channels of the output, counted from its first, that the other tower takes.
    pub gives: Range<usize>,
    /// The step of the whole network.
    pub whole: Step,
}

/// What a step takes of the step before it.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    /// A tower's own channels.
    Own,
    /// All channels of both.
    All,
    /// A tower's own, and as many of the other's next to them.
    Border(usize),
}

/// `plan`, one of inference that [`Plan::check`] accepts, for each tower. Steps of one place have one index, and the second
/// tower lacks the last.
///
/// # Errors
/// [`Error::Usage`] with the layer that cannot be divided, and why.
pub fn towers(plan: &Plan) -> Result<[Plan; 2]> {
    // The input is both towers' and the last layer the first one's: nothing would be left, and nowhere they meet.
    if plan.steps.len() < 3 {
        let last = plan.logits().layers[0];
        return Err(Error::Usage(format!("a plan that ends with {last} has no layer to split between two towers")));
    }
    let mut needs = plan.steps.iter().map(need).collect::<Result<Vec<_>>>()?;
    let last = plan.steps.len() - 1;
    needs[last] = Need::All; // whatever it is, one tower computes all of it
    let tower = |tower: usize| {
        let steps = plan.steps.iter().enumerate().filter(|(index, _)| tower == 0 || *index != last);
        let steps = steps.map(|(index, step)| {
            // What preprocessing gives, both towers have.
            if matches!(step.kind, StepKind::Preprocess { .. }) || step.logits {
                return Ok(step.clone());
            }
            let others_need = if index + 1 == last && tower == 0 { Need::Own } else { needs[index + 1] };
            let after_input = matches!(plan.steps[index - 1].kind, StepKind::Preprocess { .. });
            halve(step, tower, after_input, needs[index], (needs[index + 1], others_need))
        });
        let mut steps = steps.collect::<Result<Vec<_>>>()?;
        let buffers = assign_buffers(&mut steps);
        Ok(Plan { batch: plan.batch, input: plan.input, steps, buffers })
    };
    Ok([tower(0)?, tower(1)?])
}

fn need(step: &Step) -> Result<Need> {
    let cannot = |why| Err(Error::Usage(format!("{} cannot be split between two towers: {why}", step.layers[0])));
    match step.kind {
        StepKind::Conv { conv, .. } if conv.groups == 1 => Ok(Need::All),
        StepKind::Conv { conv, .. } if conv.groups % 2 == 0 => Ok(Need::Own),
        StepKind::Conv { .. } => cannot("its groups are an odd number"),
        StepKind::Lrn(lrn) if lrn.scope == LrnScope::All && lrn.size > 1 => Ok(Need::Border(lrn.size / 2)),
        StepKind::Dropout { .. } => cannot("the towers are of inference, and dropout is of training"),
        StepKind::LrnMaxPool(_) | StepKind::MaxPoolLrn(_) => unreachable!("Plan::check refuses a device's own steps"),
        StepKind::Linear { .. } => Ok(Need::All),
        StepKind::Preprocess { .. } | StepKind::Lrn(_) | StepKind::MaxPool(_) | StepKind::AvgPool => Ok(Need::Own),
    }
}

/// `tower`'s half of `step`, which itself has `need` and is followed by one with that of `next`, and in the other tower of
/// `others`.
fn halve(step: &Step, tower: usize, after_input: bool, need: Need, (next, others): (Need, Need)) -> Result<Step> {
    let cannot = |why: String| Error::Usage(format!("{} cannot be split between two towers: {why}", step.layers[0]));
    if !step.output.c.is_multiple_of(2) {
        return Err(cannot(format!("its {} channels are an odd number", step.output.c)));
    }
    if after_input && need != Need::All {
        return Err(cannot("it takes a part of the network's input, which both have whole".into()));
    }
    let mut half = step.clone();
    half.output.c /= 2;
    if need == Need::Own {
        half.input.c /= 2;
    }
    match &mut half.kind {
        StepKind::Conv { conv, .. } if need == Need::Own => conv.groups /= 2,
        // Its windows end where its input does.
        StepKind::Lrn(lrn) => lrn.scope = LrnScope::All,
        _ => {}
    }
    let channels = half.output.c;
    let gives = match others {
        Need::Own => 0..0,
        Need::All => 0..channels,
        Need::Border(reach) if tower == 0 => channels.saturating_sub(reach)..channels,
        Need::Border(reach) => 0..reach.min(channels),
    };
    half.half = Some(Box::new(Half { tower, joined: next != Need::Own, gives, whole: step.clone() }));
    Ok(half)
}

impl Step {
    /// Whether the output lies among the channels of both towers.
    pub fn is_joined(&self) -> bool {
        self.half.as_ref().is_some_and(|half| half.joined)
    }

    /// Channels of a pixel of the buffer that the output lies in: the output's own, or those of both towers.
    pub fn pitch(&self) -> usize {
        if self.is_joined() { 2 * self.output.c } else { self.output.c }
    }

    /// Place of the output's first channel among those of the buffer that it lies in.
    pub fn first(&self) -> usize {
        match &self.half {
            Some(half) if half.joined => half.tower * self.output.c,
            _ => 0,
        }
    }

    /// Elements of one image in the buffer that the output lies in.
    pub fn room(&self) -> usize {
        self.output.len() / self.output.c.max(1) * self.pitch()
    }

    /// Place of the output's first channel among the input's, for a step that gives a channel for each that it takes.
    pub fn first_taken(&self) -> usize {
        match &self.half {
            Some(half) if self.input.c == half.whole.input.c => half.tower * self.output.c,
            _ => 0,
        }
    }

    /// Channels, among those of both towers, that this step's output has for the other tower.
    pub fn given(&self) -> Range<usize> {
        let Some(half) = &self.half else { return 0..0 };
        let first = half.tower * self.output.c;
        first + half.gives.start..first + half.gives.end
    }

    /// Values of one image that the other tower takes of the output.
    pub fn given_values(&self) -> usize {
        let Shape { h, w, .. } = self.output;
        h * w * self.given().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Network, VARIANTS, Variant};

    fn split(name: &str) -> (Plan, [Plan; 2]) {
        let network = Network::published(Variant::by_name(name).unwrap(), 1000).unwrap();
        let plan = Plan::new(&network, 4, &[]).unwrap();
        let towers = towers(&plan).unwrap();
        (plan, towers)
    }

    /// The layers before which `tower` waits for the other, and values of an image that it gets.
    fn joins(towers: &[Plan; 2], tower: usize) -> Vec<(&'static str, usize)> {
        let others = towers[1 - tower].steps.iter();
        let steps = towers[tower].steps.iter().skip(1).zip(others).filter(|(_, from)| !from.given().is_empty());
        steps.map(|(step, from)| (step.layers[0], from.given_values())).collect()
    }

    #[test]
    fn the_papers_towers_meet_where_its_gpus_did() {
        let (_, towers) = split("paper");
        let both = [("conv3", 13 * 13 * 128), ("fc6", 6 * 6 * 128), ("fc7", 2048)];
        assert_eq!(joins(&towers, 0), [&both[..], &[("fc8", 2048)]].concat());
        assert_eq!(joins(&towers, 1), both);
        let widths = |tower: usize| {
            let weighted = towers[tower].steps.iter();
            let weighted = weighted.filter(|s| matches!(s.kind, StepKind::Conv { .. } | StepKind::Linear { .. }));
            weighted.map(|step| step.output.c).collect::<Vec<_>>()
        };
        assert_eq!(widths(0), [48, 128, 192, 192, 128, 2048, 2048, 1000]);
        assert_eq!(widths(1), [48, 128, 192, 192, 128, 2048, 2048]);
        // Towers see their own channels alone where the network is grouped or normalised within them.
        let taken = |name| towers[1].steps.iter().find(|s| s.layers[0] == name).unwrap().input.c;
        assert_eq!(["norm1", "conv2", "norm2", "conv3", "conv4", "conv5"].map(taken), [48, 48, 128, 256, 192, 192]);
    }

    #[test]
    fn ungrouped_networks_meet_before_every_weighted_layer() {
        let (_, towers) = split("torchvision");
        let layers: Vec<_> = joins(&towers, 0).into_iter().map(|(layer, _)| layer).collect();
        assert_eq!(layers, ["conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]);
        assert_eq!(joins(&towers, 1)[0], ("conv2", 27 * 27 * 32));
    }

    /// Windows of five channels reach two beyond the border.
    #[test]
    fn normalisation_across_all_channels_takes_two_from_the_other_side() {
        for (name, side) in [("caffe", 55), ("caffenet", 27)] {
            let (_, towers) = split(name);
            for tower in [0, 1] {
                assert_eq!(joins(&towers, tower)[0], ("norm1", side * side * 2), "{name}");
                let norm = towers[tower].steps.iter().position(|s| s.layers[0] == "norm1").unwrap();
                let (before, norm) = (&towers[tower].steps[norm - 1], &towers[tower].steps[norm]);
                assert_eq!((norm.input.c, norm.output.c, norm.first_taken()), (96, 48, 48 * tower));
                assert_eq!((before.pitch(), before.first()), (96, 48 * tower));
                assert_eq!(before.given(), if tower == 0 { 46..48 } else { 48..50 });
            }
        }
    }

    /// A window of one channel takes nothing of the other side: the towers do not meet there.
    #[test]
    fn normalisation_of_channels_by_themselves_is_no_meeting() {
        let network = Network::published(Variant::by_name("caffe").unwrap(), 1000).unwrap();
        let mut plan = Plan::new(&network, 1, &[]).unwrap();
        for step in &mut plan.steps {
            if let StepKind::Lrn(lrn) = &mut step.kind {
                lrn.size = 1;
            }
        }
        let towers = towers(&plan).unwrap();
        assert_eq!(joins(&towers, 0)[0].0, "conv3");
        for step in towers.iter().flat_map(|tower| &tower.steps) {
            assert!(!step.is_joined() || !step.given().is_empty() || step.layers[0] == "fc7", "{step:?}");
        }
    }

    /// Together the halves are the whole: widths, and a chain of inputs.
    #[test]
    fn halves_are_chains_that_add_up() {
        for variant in &VARIANTS {
            let (plan, towers) = split(variant.name);
            for (index, whole) in plan.steps.iter().enumerate() {
                let halves: Vec<_> = towers.iter().filter_map(|t| t.steps.get(index)).collect();
                for half in &halves {
                    assert_eq!(half.layers, whole.layers);
                    let split = half.half.is_some();
                    assert_eq!(split, index > 0 && !whole.logits, "{half:?}");
                    assert_eq!(half.output.c * if split { 2 } else { 1 }, whole.output.c, "{half:?}");
                    if index > 0 {
                        let before = &towers[usize::from(!std::ptr::eq(*half, halves[0]))].steps[index - 1];
                        assert_eq!(half.input.c, before.pitch(), "{half:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_split_says_why() {
        let refused = |plan: &Plan| towers(plan).unwrap_err().to_string();
        let torchvision = Variant::by_name("torchvision").unwrap();
        let odd = Network::with_widths(torchvision, &[64, 192, 385, 256, 256, 4096, 4096, 10], 224).unwrap();
        let reason = refused(&Plan::new(&odd, 1, &[]).unwrap());
        assert!(reason.contains("conv3") && reason.contains("385"), "{reason}");
        let network = Network::published(torchvision, 10).unwrap();
        let reason = refused(&Plan::train(&network, 1, &[]).unwrap());
        assert!(reason.contains("drop6") && reason.contains("training"), "{reason}");
        let mut input = Plan::new(&network, 1, &[]).unwrap();
        for (steps, ends) in [(2, "conv1"), (1, "input")] {
            input.steps.truncate(steps);
            input.steps[steps - 1].logits = true;
            assert!(refused(&input).contains(ends));
        }
        // The last layer is one tower's: any number of classes will do.
        let classes = Network::published(torchvision, 7).unwrap();
        towers(&Plan::new(&classes, 1, &[]).unwrap()).unwrap();
    }
}

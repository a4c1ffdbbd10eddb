//! Where a network's time goes: its roofline, and each step's share.

use alexnet::record::{Profile, ProfileStep};

use super::bars::{Bars, Group, Row};
use super::legend::{Fill, Sample};
use super::roofline::Roofline;
use super::{Chart, Picture};
use crate::cli::words::short;

/// Kinds of steps, each with the colour of its place; `join` is hatched.
const KINDS: [(&str, &str); 7] = [
    ("conv", "convolution"),
    ("linear", "fully connected"),
    ("pool", "pool"),
    ("lrn", "normalisation"),
    ("dropout", "dropout"),
    ("preprocess", "preprocessing"),
    ("", "other"),
];

pub fn pictures(profile: &Profile) -> Vec<Picture> {
    let split = profile.subject.split.as_ref().map_or(String::new(), |split| format!(", {split}"));
    let subtitle = vec![
        format!("{}{split}, {}, batch {}", profile.subject.model, profile.precision, profile.batch_size),
        profile.machine.device.clone(),
    ];
    let picture = |name: &str, title: &str, chart: Chart| Picture {
        name: name.into(),
        title: title.into(),
        subtitle: subtitle.clone(),
        chart,
    };
    vec![
        picture("roofline", "Roofline", Chart::Roofline(Roofline::of(profile))),
        picture("shares", "Share of time per step", Chart::Bars(shares(profile))),
    ]
}

fn shares(profile: &Profile) -> Bars {
    let all: Vec<&ProfileStep> = profile.tracks.iter().flat_map(|track| &track.steps).collect();
    let mut legend: Vec<_> =
        kinds(&all).into_iter().map(|(kind, name)| (Sample::Box(Fill::Solid(kind)), name)).collect();
    if all.iter().any(|step| step.kind == "join") {
        legend.push((Sample::Box(Fill::Hatched), "wait at a join".into()));
    }
    let row = |step: &ProfileStep| {
        let (fill, roofline) = match &*step.kind {
            "join" => (Fill::Hatched, String::new()),
            kind_of => (Fill::Solid(kind(kind_of)), format!(", {:.1} % of the roofline", step.roofline_percentage)),
        };
        Row {
            label: step.name.clone(),
            parts: vec![(step.percentage, fill)],
            note: format!("{:.1} %, {} ms{roofline}", step.percentage, short(step.time_ms.median)),
        }
    };
    let several = profile.tracks.len() > 1;
    let groups = profile.tracks.iter().map(|track| Group {
        heading: if several { track.place.clone() } else { String::new() },
        rows: track.steps.iter().map(row).collect(),
    });
    Bars { axis: "share of the steps' time, %".into(), legend, groups: groups.collect() }
}

/// The place of a kind in the palette.
pub fn kind(name: &str) -> usize {
    KINDS.iter().position(|(kind, _)| *kind == name).unwrap_or(KINDS.len() - 1)
}

/// The kinds that `steps` are of, joins aside, in the palette's order, with their names.
pub fn kinds(steps: &[&ProfileStep]) -> Vec<(usize, String)> {
    let found = |index: &usize| steps.iter().any(|step| step.kind != "join" && kind(&step.kind) == *index);
    (0..KINDS.len()).filter(found).map(|index| (index, KINDS[index].1.to_string())).collect()
}

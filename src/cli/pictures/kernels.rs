//! Kernels against the roofline, a picture a precision and batch size.

use alexnet::record::{KernelCase, Kernels};

use super::bars::{Bars, Group, Row};
use super::legend::{Fill, Sample};
use super::{Chart, Picture};
use crate::cli::words::{bound, short};

pub fn pictures(kernels: &Kernels) -> Vec<Picture> {
    let mut parts: Vec<(&str, usize, Vec<&KernelCase>)> = vec![];
    for case in &kernels.cases {
        let same =
            |part: &&mut (&str, usize, Vec<&KernelCase>)| (part.0, part.1) == (&*case.precision, case.batch_size);
        match parts.iter_mut().find(same) {
            Some(part) => part.2.push(case),
            None => parts.push((&case.precision, case.batch_size, vec![case])),
        }
    }
    let picture = |(precision, batch, cases): (&str, usize, Vec<&KernelCase>)| Picture {
        name: format!("kernels-{precision}-b{batch}"),
        title: format!("Kernels against the roofline, {precision}, batch {batch}"),
        subtitle: vec![
            "beside a bar: median time; how many times as long the library named takes for the same layer".into(),
            kernels.machine.device.clone(),
        ],
        chart: Chart::Bars(bars(&cases)),
    };
    parts.into_iter().map(picture).collect()
}

fn bars(cases: &[&KernelCase]) -> Bars {
    let color = |case: &KernelCase| match bound(case.bound) {
        "compute" => 0,
        _ => 1,
    };
    let limits = [(0, "limited by computing"), (1, "limited by memory")];
    let found = |(limit, _): &(usize, &str)| cases.iter().any(|case| color(case) == *limit);
    let legend = limits.into_iter().filter(found).map(|(color, name)| (Sample::Box(Fill::Solid(color)), name.into()));
    let row = |case: &&KernelCase| {
        let peers = case.peers.iter().map(|peer| format!(", {} {:.2}×", peer.library, peer.ratio));
        Row {
            label: case.layer.clone(),
            parts: vec![(case.roofline_percentage, Fill::Solid(color(case)))],
            note: format!(
                "{:.1} %, {} µs{}",
                case.roofline_percentage,
                short(case.time_us.median),
                peers.collect::<String>()
            ),
        }
    };
    let groups = cases.chunk_by(|a, b| (&a.variant, &a.group) == (&b.variant, &b.group)).map(|cases| Group {
        heading: format!("{}, {}", cases[0].variant, cases[0].group),
        rows: cases.iter().map(row).collect(),
    });
    Bars {
        axis: "least time that the ceilings allow over the median time, %".into(),
        legend: legend.collect(),
        groups: groups.collect(),
    }
}

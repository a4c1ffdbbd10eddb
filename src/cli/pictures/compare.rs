//! Layouts against each other: what their towers spend time on, and when.

use alexnet::record::{Compare, CompareResult, Tower};

use super::bars::{Bars, Group, Row};
use super::legend::{Fill, Sample};
use super::timeline::Lanes;
use super::{Chart, Picture};
use crate::cli::words::short;

pub fn pictures(compare: &Compare) -> Vec<Picture> {
    let device = compare.layouts.first().map_or(&compare.machine.device, |layout| &layout.device);
    let about = format!("{}, {}", compare.subject.model, compare.precision);
    let mut pictures = vec![Picture {
        name: "layouts".into(),
        title: "Layouts: computing, joins and idle time".into(),
        subtitle: vec![about.clone(), device.clone()],
        chart: Chart::Bars(bars(compare)),
    }];
    for batch in compare.batches() {
        let size = batch[0].batch_size;
        pictures.push(Picture {
            name: format!("timeline-b{size}"),
            title: format!("Timeline of the towers, batch {size}"),
            subtitle: vec![about.clone(), device.clone()],
            chart: Chart::Lanes(Lanes::of(batch)),
        });
    }
    pictures
}

/// A bar a tower, its length in percent of what the first layout takes at its batch size.
fn bars(compare: &Compare) -> Bars {
    let group = |batch: &[CompareResult]| {
        let baseline = batch[0].timeline.total_ms;
        let mut rows = vec![];
        for result in batch {
            for (index, tower) in result.timeline.towers.iter().enumerate() {
                rows.push(row(result, index, tower, baseline));
            }
        }
        Group { heading: format!("batch {}, {} ms is 100 %", batch[0].batch_size, short(baseline)), rows }
    };
    let first = compare.layouts.first().map_or("the first layout", |layout| &layout.layout);
    Bars {
        axis: format!("time of a batch, % of that of {first}"),
        legend: vec![
            (Sample::Box(Fill::Solid(0)), "computing".into()),
            (Sample::Box(Fill::Hatched), "wait at joins".into()),
            (Sample::Box(Fill::Idle), "idle at the end".into()),
        ],
        groups: compare.batches().map(group).collect(),
    }
}

fn row(result: &CompareResult, index: usize, tower: &Tower, baseline: f64) -> Row {
    let part = |ms: f64, fill: Fill| (100.0 * ms / baseline.max(f64::MIN_POSITIVE), fill);
    let several = result.timeline.towers.len() > 1;
    let label = if several { format!("{}, tower {index}", result.layout) } else { result.layout.clone() };
    let mut note = format!("{} ms", short(result.timeline.total_ms));
    if several {
        let (computing, joins) = (short(tower.computing_ms), short(tower.joins_ms));
        note += &format!(": {computing} computing, {joins} joins, {} idle", short(tower.idle_ms));
    }
    Row {
        label,
        parts: vec![
            part(tower.computing_ms, Fill::Solid(0)),
            part(tower.joins_ms, Fill::Hatched),
            part(tower.idle_ms, Fill::Idle),
        ],
        note,
    }
}

//! Throughput and latency against batch size, of all programs together.

use alexnet::record::{Bench, BenchResult, Mode};

use super::canvas::MARKERS;
use super::legend::Stroke;
use super::lines::{Line, Lines, Point};
use super::{Chart, Picture};
use crate::cli::words;

/// More lines than this are divided among several pictures, and so are more looks than there are.
const LINES: usize = 9;

/// What tells lines apart, in the order of a line's name.
type Names = [String; 6];
const DEVICE: usize = 5;
const MODEL: usize = 2;
const PRECISION: usize = 3;
const MODE: usize = 4;

/// Everything of one line.
struct Series<'a> {
    names: Names,
    results: Vec<&'a BenchResult>,
}

pub fn pictures(records: &[&Bench]) -> Vec<Picture> {
    let series = series(records);
    let throughput = divided(series.iter().collect()).into_iter().map(|(part, series)| {
        let value = |result: &BenchResult| (result.samples_per_sec, None);
        picture("throughput", "Throughput", "images per second", &part, &series, value)
    });
    // Single requests, where they were measured; else the time from one batch to the next.
    let single: Vec<&Series> = series.iter().filter(|series| series.results[0].mode == Mode::Latency).collect();
    let (single, what) = match single.is_empty() {
        true => (series.iter().collect(), "time from one batch to the next, ms"),
        false => (single, "latency, ms"),
    };
    let latency = divided(single).into_iter().map(|(part, series)| {
        let value = |result: &BenchResult| (result.latency_ms.median, result.latency_ms.percentile(99.0));
        picture("latency", "Latency", &format!("{what}: median, whisker to p99"), &part, &series, value)
    });
    throughput.chain(latency).collect()
}

fn series<'a>(records: &[&'a Bench]) -> Vec<Series<'a>> {
    let mut series: Vec<Series> = vec![];
    for record in records {
        for result in &record.results {
            let mut switches = vec![];
            switches.extend(record.subject.split.clone());
            switches.extend(record.subject.fc.as_ref().map(|fc| format!("fc {fc}")));
            if record.subject.deterministic {
                switches.push("deterministic".into());
            }
            let mut model = record.subject.model.clone();
            if !switches.is_empty() {
                model += &format!(" ({})", switches.join(", "));
            }
            let names = [
                result.program.clone(),
                result.configuration.clone().unwrap_or_default(),
                model,
                result.precision.clone(),
                words::mode(result.mode).into(),
                // Programs describe one GPU in different words.
                match &record.machine.gpus[..] {
                    [] => record.machine.device.clone(),
                    gpus => gpus.join(" and "),
                },
            ];
            match series.iter_mut().find(|series| series.names == names) {
                Some(series) => series.results.push(result),
                None => series.push(Series { names, results: vec![result] }),
            }
        }
    }
    for series in &mut series {
        series.results.sort_by_key(|result| result.batch_size);
    }
    series
}

/// Parts of few enough lines, with what is the same in each: by network first, then by precision, then by what was measured.
fn divided<'a>(series: Vec<&'a Series<'a>>) -> Vec<(String, Vec<&'a Series<'a>>)> {
    let mut parts = vec![(String::new(), series)];
    for key in [MODEL, PRECISION, MODE] {
        let divide = |(name, series): (String, Vec<&'a Series<'a>>)| {
            let mut values: Vec<&str> = vec![];
            for series in &series {
                if !values.contains(&&*series.names[key]) {
                    values.push(&series.names[key]);
                }
            }
            if (series.len() <= LINES && looks(&series).len() <= MARKERS) || values.len() < 2 {
                return vec![(name, series)];
            }
            let part = |value: &str| {
                let of = series.iter().copied().filter(|series| series.names[key] == value);
                (format!("{name}-{value}"), of.collect())
            };
            values.into_iter().map(part).collect()
        };
        parts = parts.into_iter().flat_map(divide).collect();
    }
    parts.retain(|(_, series)| !series.is_empty());
    parts
}

/// What colours and markers tell: everything but the mode, which dashes tell.
fn looks<'a>(series: &[&'a Series]) -> Vec<[&'a str; 5]> {
    let mut looks = vec![];
    for series in series {
        let look = look(series);
        if !looks.contains(&look) {
            looks.push(look);
        }
    }
    looks
}

fn look<'a>(series: &'a Series) -> [&'a str; 5] {
    let [program, configuration, model, precision, _, device] = &series.names;
    [program, configuration, model, precision, device]
}

fn picture(
    name: &str,
    title: &str,
    axis: &str,
    part: &str,
    series: &[&Series],
    value: impl Fn(&BenchResult) -> (f64, Option<f64>),
) -> Picture {
    let differs = |key: usize| series.iter().any(|other| other.names[key] != series[0].names[key]);
    let stated = |key: &usize| !series[0].names[*key].is_empty();
    // The device has a line of its own.
    let same: Vec<&str> =
        (0..5).filter(|&key| !differs(key)).filter(stated).map(|key| &*series[0].names[key]).collect();
    let looks = looks(series);
    let lines = series.iter().map(|series| {
        let told: Vec<&str> = (0..6)
            .filter(|&key| key == 0 || differs(key))
            .map(|key| &*series.names[key])
            .filter(|name| !name.is_empty())
            .collect();
        let dash = match series.results[0].mode {
            _ if !differs(MODE) => [0, 0],
            Mode::Compute => [0, 0],
            Mode::Latency => [3, 4],
            Mode::Copied => [8, 4],
            Mode::Decode => [2, 8],
            Mode::EndToEnd => [14, 5],
        };
        let points = series.results.iter().map(|result| {
            let (value, reach) = value(result);
            Point { batch_size: result.batch_size, value, reach }
        });
        let index = looks.iter().position(|other| *other == look(series)).unwrap_or(0);
        Line { name: told.join(", "), stroke: Stroke { color: index, dash, marker: index }, points: points.collect() }
    });
    let mut subtitle = vec![same.join(", ")];
    if !differs(DEVICE) {
        subtitle.push(series[0].names[DEVICE].clone());
    }
    Picture {
        name: format!("{name}{part}"),
        title: format!("{title} against batch size"),
        subtitle,
        chart: Chart::Lines(Lines { axis: axis.into(), lines: lines.collect() }),
    }
}

//! A comparison for people, and as CSV.

use std::fmt::Write;

use alexnet::record::{Compare, CompareResult, Tower, TowerWork};
use alexnet::statistics::SpeedUp;

use crate::cli::words;

const IN_MEMORY: &str = "writing to a String";

/// Characters to a line of notes.
const LINE: usize = 110;

pub fn table(report: &Compare) -> String {
    let mut text = String::new();
    for row in &report.layouts {
        writeln!(text, "{:<14}{}; {}", row.layout, row.meaning, row.device).expect(IN_MEMORY);
    }
    writeln!(
        text,
        "{}, {}x{} input, {}, weights {}, pictures of seed {}\nequal: {} logits of each layout, bit for bit",
        report.subject.model,
        report.subject.input_size,
        report.subject.input_size,
        report.precision,
        report.subject.checkpoint,
        report.seed,
        report.logits_compared
    )
    .expect(IN_MEMORY);
    for batch in report.batches() {
        writeln!(text, "\nbatch {}\n", batch[0].batch_size).expect(IN_MEMORY);
        speeds(&mut text, batch);
        towers(&mut text, batch);
        memory(&mut text, batch);
    }
    for note in &report.notes {
        writeln!(text, "\n{}", wrap(note)).expect(IN_MEMORY);
    }
    text
}

fn speeds(text: &mut String, batch: &[CompareResult]) {
    writeln!(
        text,
        "{:<14}{:>10}{:>9}{:>12}{:>10}{:>10}   speed-up",
        "layout", "images/s", "+-", "latency ms", "p99", "max"
    )
    .expect(IN_MEMORY);
    for m in batch {
        let (rate, latency) = (&m.images_per_second, &m.latency_ms);
        let speed_up = m.speed_up.as_ref().map_or("baseline".into(), in_words);
        writeln!(
            text,
            "{:<14}{:>10.1}{:>7.1} %{:>12.3}{:>10.3}{:>10.3}   {speed_up}",
            &m.layout,
            rate.median,
            100.0 * rate.cv,
            latency.median,
            latency.percentile(99.0).expect("one of PERCENTILES"),
            latency.max,
        )
        .expect(IN_MEMORY);
    }
}

fn in_words(speed_up: &SpeedUp) -> String {
    let SpeedUp { ratio, low, high, shown, .. } = speed_up;
    let verdict = if *shown { "" } else { ", no difference shown" };
    format!("{ratio:.2}x ({low:.2} to {high:.2}){verdict}")
}

/// A row a layer and a join, a column a tower, in milliseconds.
fn towers(text: &mut String, batch: &[CompareResult]) {
    let mut columns: Vec<(String, &CompareResult, &Tower)> = vec![];
    for m in batch {
        for (index, tower) in m.timeline.towers.iter().enumerate() {
            let several = m.timeline.towers.len() > 1;
            let name = if several { format!("{} {index}", &m.layout) } else { m.layout.clone() };
            columns.push((name, m, tower));
        }
    }
    let rows = rows(columns.iter().map(|(_, _, tower)| *tower));
    // Fused steps have long names.
    let width = rows.iter().map(String::len).max().unwrap_or(0).max("idle at the end".len()) + 2;
    let line = |text: &mut String, name: &str, cell: &dyn Fn(&CompareResult, &Tower) -> String| {
        let cells: String = columns.iter().map(|(_, m, tower)| format!("{:>16}", cell(m, tower))).collect();
        writeln!(text, "{name:<width$}{cells}").expect(IN_MEMORY);
    };
    let heading: String = columns.iter().map(|(name, ..)| format!("{name:>16}")).collect();
    writeln!(text, "\n{:<width$}{heading}", "ms").expect(IN_MEMORY);
    for row in &rows {
        line(text, row, &|_, tower| {
            let spans = tower.spans.iter().filter(|span| words::work(&span.work) == *row);
            let times: Vec<f64> = spans.map(|span| span.ms()).collect();
            if times.is_empty() { String::new() } else { milliseconds(times.iter().sum()) }
        });
    }
    line(text, "computing", &|_, tower| milliseconds(tower.computing_ms));
    line(text, "joins", &|_, tower| milliseconds(tower.joins_ms));
    line(text, "idle at the end", &|_, tower| milliseconds(tower.idle_ms));
    line(text, "total", &|m, _| milliseconds(m.timeline.total_ms));
    line(text, "exchanged KB", &|_, tower| format!("{:.1}", tower.exchanged_bytes as f64 / 1e3));
    line(text, "overlap", &|m, _| {
        m.timeline.overlap.map_or(String::new(), |overlap| format!("{:.0} %", 100.0 * overlap))
    });
}

/// Every label of the towers' spans once, in an order that is that of each tower.
fn rows<'a>(towers: impl Iterator<Item = &'a Tower>) -> Vec<String> {
    let mut rows: Vec<String> = vec![];
    for tower in towers {
        let mut next = 0;
        for label in tower.spans.iter().map(|span| words::work(&span.work)) {
            next = match rows.iter().position(|row| *row == label) {
                Some(index) => index + 1,
                None => {
                    rows.insert(next, label);
                    next + 1
                }
            };
        }
    }
    rows
}

fn milliseconds(ms: f64) -> String {
    format!("{ms:.3}")
}

fn memory(text: &mut String, batch: &[CompareResult]) {
    writeln!(text, "\n{:<14}{:>12}{:>12}   place", "MB", "weights", "buffers").expect(IN_MEMORY);
    for m in batch {
        for memory in &m.memory {
            let [weights, buffers] = [memory.weights_bytes, memory.buffers_bytes].map(|bytes| bytes as f64 / 1e6);
            let name = &m.layout;
            writeln!(text, "{name:<14}{weights:>12.1}{buffers:>12.1}   {}", memory.place).expect(IN_MEMORY);
        }
    }
}

/// Breaks lines between words.
fn wrap(text: &str) -> String {
    let (mut wrapped, mut width) = (String::new(), 0);
    for word in text.split_whitespace() {
        let separator = match width {
            0 => "",
            _ if width + 1 + word.len() > LINE => "\n",
            _ => " ",
        };
        width = if separator == "\n" { word.len() } else { width + separator.len() + word.len() };
        wrapped += separator;
        wrapped += word;
    }
    wrapped
}

/// Rows `batch_size,layout,figure,place,layer,value`: a figure's name has its unit; place and layer stand where it is of
/// a tower, or of a layer there.
pub fn csv(report: &Compare) -> String {
    let mut csv = csv::Writer::from_writer(vec![]);
    let mut write = |record: [&str; 6]| csv.write_record(record).expect("memory takes it");
    write(["batch_size", "layout", "figure", "place", "layer", "value"]);
    for m in &report.results {
        let (batch, layout) = (m.batch_size.to_string(), &m.layout);
        let mut figure = |name: &str, place: &str, layer: &str, value: f64| {
            write([&batch, layout, name, place, layer, &value.to_string()]);
        };
        for (name, spread) in [("images_per_second", &m.images_per_second), ("latency_ms", &m.latency_ms)] {
            for (which, value) in spread.figures() {
                figure(&format!("{name}_{which}"), "", "", value);
            }
        }
        if let Some(SpeedUp { ratio, low, high, .. }) = m.speed_up {
            figure("speed_up_ratio", "", "", ratio);
            figure("speed_up_low_95", "", "", low);
            figure("speed_up_high_95", "", "", high);
        }
        figure("timeline_total_ms", "", "", m.timeline.total_ms);
        if let Some(overlap) = m.timeline.overlap {
            figure("overlap", "", "", overlap);
        }
        for tower in &m.timeline.towers {
            for span in &tower.spans {
                match &span.work {
                    TowerWork::Layers { .. } => figure("layer_ms", &tower.place, &words::work(&span.work), span.ms()),
                    TowerWork::Join { layer, bytes } => {
                        figure("join_ms", &tower.place, layer, span.ms());
                        figure("join_bytes", &tower.place, layer, *bytes as f64);
                    }
                }
            }
            figure("computing_ms", &tower.place, "", tower.computing_ms);
            figure("joins_ms", &tower.place, "", tower.joins_ms);
            figure("idle_ms", &tower.place, "", tower.idle_ms);
            figure("exchanged_bytes", &tower.place, "", tower.exchanged_bytes as f64);
        }
        for memory in &m.memory {
            figure("weights_bytes", &memory.place, "", memory.weights_bytes as f64);
            figure("buffers_bytes", &memory.place, "", memory.buffers_bytes as f64);
        }
    }
    String::from_utf8(csv.into_inner().expect("memory takes it")).expect("made of strings")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_table_has_every_figure() {
        let text = table(&report());
        for part in [
            "equal: 18000 logits of each layout",
            "pictures of seed 7",
            "baseline",
            "1.25x (1.25 to 1.25)",
            "two-stream 0",
            "two-stream 1",
            "join conv3",
            "93 %",
            "1.7",
        ] {
            assert!(text.contains(part), "'{part}' is not in:\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 140), "{text}");
        let of = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        let cells = |name: &str| of(name)["idle at the end".len()..].split_whitespace().collect::<Vec<_>>();
        assert_eq!(cells("total"), ["1.000", "0.600", "0.600"]);
        assert_eq!(cells("joins"), ["0.000", "0.050", "0.010"]);
        assert_eq!(cells("conv2"), ["0.420", "0.200", "0.220"]);
        assert_eq!(cells("exchanged KB"), ["0.0", "1.0", "1.0"]);
    }

    #[test]
    fn rows_keep_every_towers_order() {
        let report = report();
        let towers = report.results.iter().flat_map(|m| &m.timeline.towers);
        assert_eq!(rows(towers), ["conv1", "conv2", "join conv3", "conv3"]);
    }

    #[test]
    fn an_interval_around_one_shows_no_difference() {
        let speed_up = SpeedUp { ratio: 1.031, low: 0.992, high: 1.069, pairs: 10, shown: false };
        assert_eq!(in_words(&speed_up), "1.03x (0.99 to 1.07), no difference shown");
    }

    #[test]
    fn csv_rows_add_up() {
        let text = csv(&report());
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<Vec<String>> = reader.records().map(|r| r.unwrap().iter().map(Into::into).collect()).collect();
        assert!(rows.iter().all(|row| row.len() == 6));
        let sum = |figure: &str| -> f64 {
            let of = |row: &&Vec<String>| row[0] == "8" && row[1] == "two-stream" && row[2] == figure;
            rows.iter().filter(of).map(|row| row[5].parse::<f64>().unwrap()).sum()
        };
        // Both towers' parts are twice the total.
        let parts = sum("layer_ms") + sum("join_ms") + sum("idle_ms");
        assert!((parts - 2.0 * sum("timeline_total_ms")).abs() < 1e-9);
        assert!((sum("computing_ms") + sum("joins_ms") - sum("layer_ms") - sum("join_ms")).abs() < 1e-9);
        assert_eq!((sum("exchanged_bytes"), sum("weights_bytes")), (2000.0, 8_000_000.0));
        assert!((sum("speed_up_ratio") - 1.25).abs() < 1e-12 && sum("images_per_second_median") == 1000.0);
        assert!(text.contains("tower 0 <&>"));
    }
}

//! A page of made-up records: that it is whole, needs nothing else, and tells every figure.

use std::fs;

use alexnet::record::Machine;
use alexnet::statistics::Spread;
use serde_json::Value;

use super::*;
use crate::cli::samples;
use crate::cli::words::{grouped, prefixed, short};

/// The page as XML, for which only its three void elements have to be closed.
fn xml(page: &str) -> String {
    let lines = page.split_inclusive('>').map(|part| match part.starts_with("<meta") {
        true => part.replace('>', "/>"),
        false => part.into(),
    });
    lines.collect()
}

fn text(page: &str) -> String {
    let xml = xml(page);
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&xml, options).unwrap();
    let texts = document.descendants().filter_map(|node| node.text().filter(|_| node.is_text()));
    texts.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_tells_every_figure() {
    let records = samples::records();
    let page = page(&records).into_string();
    let text = text(&page);
    let mut expected: Vec<String> = vec![samples::DEVICE.into()];
    let spread = |spread: &Spread| [short(spread.median), short(spread.percentile(99.0).unwrap())];
    for record in &records {
        match record {
            Record::Bench(bench) => {
                for result in &bench.results {
                    expected.push(result.program.clone());
                    expected.push(grouped(result.samples_per_sec, 1));
                    expected.push(short(result.step_time_ms));
                    expected.extend(spread(&result.latency_ms));
                    expected.extend(spread(result.compute_ms.as_ref().unwrap()).into_iter().take(1));
                    expected.push(grouped(result.images as f64, 0));
                    expected.push(short(result.peak_resident_bytes.unwrap() as f64 / 1e6));
                    expected.push(format!("{:.1} %", 100.0 * result.sequential_share.unwrap()));
                }
                expected.extend(bench.notes.clone());
                let start = bench.cold_start.as_ref().unwrap();
                expected.push(short(start.first_prediction_ms.median));
                for peer in &start.peers {
                    expected.extend([short(peer.first_prediction_ms.median), format!("{:.3}", peer.ratio)]);
                }
            }
            Record::Profile(profile) => {
                for step in profile.tracks.iter().flat_map(|track| &track.steps) {
                    expected.extend([step.name.clone(), step.kernel.clone(), prefixed(step.bytes_per_sec, "B/s")]);
                    expected.extend(spread(&step.time_ms));
                    expected.push(format!("{:.1}", step.percentage));
                }
                expected.push(prefixed(profile.ceilings.flops_per_sec, "FLOP/s"));
                expected.extend(profile.notes.clone());
            }
            Record::Compare(compare) => {
                for result in &compare.results {
                    expected.push(grouped(result.images_per_second.median, 1));
                    expected.extend(spread(&result.latency_ms));
                    expected.extend(result.speed_up.iter().map(|found| format!("{:.2}×", found.ratio)));
                    for tower in &result.timeline.towers {
                        expected.push(short(tower.computing_ms));
                        expected.extend(tower.spans.iter().map(|span| short(span.ms())));
                    }
                }
                expected.extend(compare.notes.clone());
            }
            Record::Kernels(kernels) => {
                for case in &kernels.cases {
                    expected.extend(spread(&case.time_us));
                    expected.push(prefixed(case.flops_per_sec, "FLOP/s"));
                    expected.extend(case.peers.iter().map(|peer| format!("{:.2}× ours", peer.ratio)));
                }
            }
        }
    }
    assert!(expected.len() > 700, "{}", expected.len());
    for part in expected {
        assert!(text.contains(&part), "'{part}' is not on the page");
    }
    // The first benchmark's speeds are what the others' are set against.
    assert_eq!((page.matches(">0.62×<").count(), page.matches(">0.80×<").count()), (24, 24));
}

#[test]
fn the_page_needs_nothing_else() {
    let records = samples::records();
    let page = page(&records).into_string();
    let drawn = pictures::of(&records.iter().collect::<Vec<_>>()).len();
    assert_eq!(page.matches("<svg").count(), 2 * drawn, "each picture in both themes");
    let local = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for part in ["http", "src=", "href", "<link", "<script", "@import", "url("] {
        assert!(!local.contains(part), "'{part}' is on the page");
    }
    for part in ["<!DOCTYPE html>", "name=\"viewport\"", "content=\"light dark\"", "prefers-color-scheme: dark"] {
        assert!(page.contains(part), "'{part}' is not on the page");
    }
    for part in ["<sample>", "<no>", "& no"] {
        assert!(!page.contains(part), "'{part}' is not escaped");
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    let mut bench = samples::bench("alexnet", None, 1.0);
    bench.cold_start = None;
    let known = samples::machine();
    bench.machine = Machine { commit: None, driver: None, clocks: None, gpus: vec![], cpu: None, ..known };
    for result in &mut bench.results {
        (result.enqueue_ms, result.compute_ms, result.windows) = (None, None, None);
        (result.sequential_share, result.peak_resident_bytes) = (None, None);
    }
    let text = text(&page(&[Record::Bench(bench)]).into_string());
    for part in [
        "commit",
        "driver",
        "clocks",
        "GPUs",
        "CPU",
        "First prediction",
        "queueing",
        "computing ms",
        "failed",
        "decode",
        "peak",
    ] {
        assert!(!text.contains(part), "'{part}' is on the page");
    }
    assert!(text.contains("cublaslt") && text.contains("images/s"));
}

#[test]
fn a_page_is_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    fs::write(&path, "kept").unwrap();
    check(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    let records = [Record::Kernels(samples::kernels())];
    write(&path, &records).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), page(&records).into_string());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("none").join("page.html");
    let refusal = check(&nowhere).unwrap_err();
    assert!(refusal.exit_code() == 6 && refusal.to_string().contains(nowhere.to_str().unwrap()), "{refusal}");
    assert!(file("page.html").is_ok() && file("weights.safetensors").is_err());
}

/// `value` with `change` made to every number and list in it.
fn changed(value: &Value, change: &dyn Fn(&Value) -> Option<Value>) -> Value {
    match change(value) {
        Some(value) => value,
        None => match value {
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), changed(value, change))).collect()
            }
            Value::Array(values) => values.iter().map(|value| changed(value, change)).collect(),
            other => other.clone(),
        },
    }
}

/// What no run writes, but a file may hold: every figure at an end of its range, or every list of a kind empty.
#[test]
fn absurd_records_have_a_page() {
    let records = samples::records();
    let json = serde_json::to_value(&records).unwrap();
    let float = |extreme: f64| move |value: &Value| value.is_f64().then(|| Value::from(extreme));
    let integer = |extreme: u64| {
        move |value: &Value| match value {
            Value::Number(number) if number.is_u64() => Some(Value::from(extreme)),
            _ => None,
        }
    };
    let list = |value: &Value| match value {
        Value::Array(values)
            if values.first().is_some_and(|first| first.get("schema").is_none() && first.is_object()) =>
        {
            Some(Value::Array(vec![]))
        }
        _ => None,
    };
    let mut absurd = vec![changed(&json, &list)];
    absurd.extend([0.0, -1.0, 5e-324, 1e308].map(|extreme| changed(&json, &float(extreme))));
    absurd.extend([0, u64::from(u32::MAX)].map(|extreme| changed(&json, &integer(extreme))));
    for json in absurd {
        let records: Vec<Record> = serde_json::from_value(json).unwrap();
        assert!(page(&records).into_string().ends_with("</html>"));
    }
}

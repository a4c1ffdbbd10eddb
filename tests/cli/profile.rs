//! `alexnet profile` as a process: what it prints and refuses, that its numbers add up, and that its traces keep to the format.
//! Speeds are for benchmarks.

use std::collections::{HashMap, HashSet};
use std::fs;

use serde_json::Value;

use super::{Finished, alexnet, alexnet_cuda, command, csv_rows, finish, str};
use crate::device::{library, preload};

/// Little of the network, for no longer than its ten runs take.
const SHORT: [&str; 3] = ["profile", "--duration", "0.02"];
const PAPER: [&str; 2] = ["--checkpoint", "samples/shapes-paper.safetensors"];
/// As few pixels as the emulated device can be given.
const SMALL: [&str; 4] = ["--checkpoint", "samples/shapes.safetensors", "--input-size", "63"];

fn profile(arguments: &[&[&str]]) -> Finished {
    alexnet(SHORT.iter().chain(&["--device", "cpu", "-j", "2"]).copied().chain(arguments.concat()))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// A record, whose sums and rates are worked out again. `depth` is a pipeline's.
fn check_record(json: &str, tracks: usize) -> Value {
    let record: Value = serde_json::from_str(json).unwrap();
    assert_eq!(record["schema"], "alexnet.profile.1");
    assert!(number(&record["runs"]) >= 10.0);
    let ceilings = &record["ceilings"];
    let [flops, bytes] = ["flops_per_sec", "bytes_per_sec"].map(|name| number(&ceilings[name]));
    assert!(flops > 0.0 && bytes > 0.0 && flops.is_finite() && bytes.is_finite());
    assert_eq!(list(&record["tracks"]).len(), tracks);
    let mut mult_adds = 0.0;
    let mut longest = 0f64;
    for track in list(&record["tracks"]) {
        let steps = list(&track["steps"]);
        let median = |step: &Value| number(&step["time_ms"]["median"]);
        let total: f64 = steps.iter().map(median).sum();
        longest = longest.max(total);
        assert!((steps.iter().map(|step| number(&step["percentage"])).sum::<f64>() - 100.0).abs() < 1e-6);
        for step in steps {
            mult_adds += number(&step["mult_adds"]);
            assert_eq!(number(&step["flops"]), 2.0 * number(&step["mult_adds"]), "{step}");
            let seconds = median(step) / 1e3;
            let (operations, moved) = (number(&step["flops"]), number(&step["bytes"]));
            let operations = step.get("multiplications").map_or(operations, |count| 2.0 * number(count));
            let least = (operations / flops).max(moved / bytes);
            let found = number(&step["roofline_percentage"]);
            assert!((found * seconds - 100.0 * least).abs() <= 1e-6 * 100.0 * least || seconds == 0.0, "{step}");
            let bound = if operations / flops > moved / bytes { "compute" } else { "memory" };
            assert_eq!(step["bound"], bound, "{step}");
            assert!(!step["kernel"].as_str().unwrap().is_empty(), "{step}");
        }
    }
    let over = longest / number(&record["run_ms"]["median"]);
    assert!((number(&record["steps_over_run"]) / over - 1.0).abs() < 1e-9);
    let off = (over - 1.0).abs() > 0.05;
    assert_eq!(list(&record["notes"]).iter().any(|note| note.as_str().unwrap().contains("add up to")), off);
    // The network's, less a multiply-add for each bias, which torchinfo counts.
    let images = number(&record["batch_size"]);
    let torchinfo = number(&record["gmacs"]) * 1e9 * images;
    assert!(mult_adds < torchinfo && mult_adds > 0.98 * torchinfo, "{mult_adds} {torchinfo}");
    record
}

/// From, to, and what.
type Slice = (f64, f64, String);

/// Every rule of the trace event format that viewers rely on; names of the complete events, by thread.
fn check_trace(text: &str) -> HashMap<String, Vec<String>> {
    let trace: Value = serde_json::from_str(text).unwrap();
    let mut threads: HashMap<(u64, u64), String> = HashMap::new();
    let mut processes = HashSet::new();
    let mut slices: HashMap<(u64, u64), Vec<Slice>> = HashMap::new();
    let mut flows: HashMap<u64, Vec<(String, f64)>> = HashMap::new();
    for event in list(&trace["traceEvents"]) {
        let whole = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("no {name}: {event}"));
        let at = (whole("pid"), whole("tid"));
        let name = event["name"].as_str().unwrap_or_else(|| panic!("no name: {event}")).to_string();
        let time = |name: &str| {
            let value = number(&event[name]);
            assert!(value.is_finite() && value >= 0.0, "{event}");
            value
        };
        match event["ph"].as_str().unwrap() {
            "M" => {
                let given = event["args"]["name"].as_str().unwrap().to_string();
                let new = match &*name {
                    "process_name" => processes.insert(at.0),
                    "thread_name" => threads.insert(at, given).is_none(),
                    other => panic!("metadata {other}"),
                };
                assert!(new, "named twice: {event}");
            }
            "X" => {
                assert!(event["args"].is_object() && event["cat"].is_string(), "{event}");
                slices.entry(at).or_default().push((time("ts"), time("ts") + time("dur"), name));
            }
            phase @ ("s" | "f") => {
                assert!(phase == "s" || event["bp"] == "e", "{event}");
                flows.entry(whole("id")).or_default().push((phase.into(), time("ts")));
            }
            other => panic!("phase {other}: {event}"),
        }
        if event["ph"] != "M" {
            assert!(processes.contains(&at.0) && threads.contains_key(&at), "a track without a name: {event}");
        }
    }
    for (at, slices) in &mut slices {
        slices.sort_by(|a, b| a.0.total_cmp(&b.0));
        for pair in slices.windows(2) {
            // A nanosecond for what adding up begins and lengths rounds.
            assert!(pair[1].0 >= pair[0].1 - 1e-3, "{at:?}: {pair:?} overlap");
        }
    }
    for (id, flow) in &flows {
        let phases: Vec<&str> = flow.iter().map(|(phase, _)| &**phase).collect();
        assert!(phases == ["s", "f"] && flow[0].1 <= flow[1].1, "{id}: {flow:?}");
    }
    let names = |slices: &[Slice]| slices.iter().map(|(.., name)| name.clone()).collect();
    slices.iter().map(|(at, slices)| (threads[at].clone(), names(slices))).collect()
}

/// trtexec's form has the record's runs, names and times.
fn check_trtexec(text: &str, record: &Value) {
    let export: Value = serde_json::from_str(text).unwrap();
    let (first, layers) = list(&export).split_first().unwrap();
    assert_eq!(first["count"], record["runs"]);
    let steps: Vec<&Value> = list(&record["tracks"]).iter().flat_map(|track| list(&track["steps"])).collect();
    assert_eq!(layers.len(), steps.len());
    for (layer, step) in layers.iter().zip(steps) {
        let names: Vec<&String> = layer.as_object().unwrap().keys().collect();
        assert_eq!(names, ["name", "timeMs", "averageMs", "medianMs", "percentage"]);
        assert!(layer["name"].as_str().unwrap().ends_with(step["name"].as_str().unwrap()), "{layer} {step}");
        assert_eq!((&layer["averageMs"], &layer["medianMs"]), (&step["time_ms"]["mean"], &step["time_ms"]["median"]));
        assert!((number(&layer["timeMs"]) - number(&layer["averageMs"]) * number(&record["runs"])).abs() < 1e-6);
    }
    assert!((layers.iter().map(|layer| number(&layer["percentage"])).sum::<f64>() - 100.0).abs() < 1e-6);
}

#[test]
fn profile_reports_numbers_that_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let [trace, trtexec] = ["trace.json", "profile.json"].map(|name| folder.path().join(name));
    let files = ["--trace", str(&trace), "--trtexec", str(&trtexec), "--json"];
    for (split, tracks) in [(&[][..], 1), (&["--split", "two-stream"], 2)] {
        let run = profile(&[&PAPER, &["-b", "2"], &files, split]);
        let record = check_record(&run.expect(0), tracks);
        check_trtexec(&fs::read_to_string(&trtexec).unwrap(), &record);
        let threads = check_trace(&fs::read_to_string(&trace).unwrap());
        let compute = &threads["batches: compute"];
        assert_eq!(compute.len(), 4);
        assert_eq!(threads.len(), tracks + 1, "{threads:?}"); // nothing is copied
        for (thread, names) in threads.iter().filter(|(thread, _)| thread.starts_with("step by step")) {
            assert_eq!(names.iter().any(|name| name == "join conv3"), tracks == 2, "{thread}: {names:?}");
            assert!(names.iter().any(|name| name == "conv5 + relu5"), "{thread}: {names:?}");
        }
    }
}

#[test]
fn profile_prints_a_table_and_csv() {
    let table = profile(&[&PAPER, &["-b", "2"]]).expect(0);
    for part in [
        "paper, 2 images, float32",
        "ceilings: ",
        "conv2 + relu2",
        "Winograd, 7 points, 5 taps: 9 x 3, 2 threads",
        "steps over run",
    ] {
        assert!(table.contains(part), "'{part}' is not in:\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    let rows = csv_rows(&profile(&[&PAPER, &["-b", "1", "--csv"]]).expect(0));
    assert_eq!(
        (&*rows[0]["step"], &*rows[0]["kind"], &*rows[0]["input_shape"]),
        ("input", "preprocess", "1x227x227x3")
    );
    assert!(rows.iter().any(|row| row["step"] == "conv2 + relu2" && row["bound"] == "compute"));
    let number = |row: &HashMap<String, String>, name: &str| row[name].parse::<f64>().unwrap();
    assert!((rows.iter().map(|row| number(row, "percentage")).sum::<f64>() - 100.0).abs() < 1e-6);
    assert!(rows.iter().all(|row| number(row, "ms_min") <= number(row, "ms_p99")), "{rows:?}");
}

/// Two towers in one graph, their copies beside them, and what each range of NVTX is called.
#[test]
fn profile_reports_on_cuda() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.json");
    let arguments =
        ["--device", "cuda", "--precision", "float16", "--split", "two-stream", "--deterministic", "-b", "1", "--json"];
    let arguments = SHORT.iter().chain(&SMALL).chain(&arguments).copied().chain(["--trace", str(&trace)]);
    let record = check_record(&alexnet_cuda(arguments).expect(0), 2);
    let product = record["ceilings"]["product"].as_str().unwrap();
    assert!(product.contains("in float16 by "), "{product}");
    let steps = list(&record["tracks"][0]["steps"]);
    let conv2 = steps.iter().find(|step| step["name"] == "conv2 + relu2").unwrap();
    let kernel = conv2["kernel"].as_str().unwrap();
    assert!(kernel.starts_with("conv_f16_") && kernel.contains("blocks of"), "{kernel}");
    let threads = check_trace(&fs::read_to_string(&trace).unwrap());
    for thread in ["batches: compute", "batches: copies, host to device", "batches: copies, device to host"] {
        assert_eq!(threads[thread].len(), 4, "{threads:?}");
    }
    assert_eq!(threads.len(), 5);
}

/// A profiler hears of every step by the name that the record has, within the run that it is queued for.
#[test]
fn ranges_are_named_like_steps() {
    let Some(preload) = preload() else { return }; // a real GPU's profiler is asked by hand
    let folder = tempfile::tempdir().unwrap();
    let ranges = folder.path().join("ranges");
    let mut command = command(["predict", "samples/shapes/star", "--device", "cuda", "-b", "4"]);
    command.args(SMALL).env_remove("CUDA_VISIBLE_DEVICES").env("LD_PRELOAD", preload);
    command.env("NVTX_INJECTION64_PATH", library()).env("CUEMU_RANGES", &ranges);
    finish(command, b"").expect(0);
    let (mut open, mut heard) = (vec![], vec![]);
    for line in fs::read_to_string(&ranges).unwrap().lines() {
        match line.strip_prefix("push ") {
            Some(name) => open.push(name.to_string()),
            None => {
                let name = open.pop().expect("as many ends as begins");
                heard.push(open.iter().cloned().chain([name]).collect::<Vec<_>>().join(" / "));
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let steps = ["input", "conv1 + relu1", "pool1", "conv5 + relu5", "fc6 + relu6 + drop7", "fc8"];
    for step in steps {
        let name = format!("submit 4 images / {step}");
        assert!(heard.contains(&name), "'{name}' is not in {heard:?}");
    }
    assert!(heard.contains(&"collect 4 images".to_string()), "{heard:?}");
}

#[test]
fn profile_refuses_what_it_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], code: i32, parts: &[&str]| profile(&[&PAPER, arguments]).refuse(code, parts);
    refused(&["-b", "0"], 2, &["0"]);
    refused(&["--json", "--csv"], 2, &["--json", "--csv"]);
    refused(&["--trace", "trace.txt"], 2, &["trace.txt", ".json"]);
    refused(&["--trtexec", "model.safetensors"], 2, &["model.safetensors", ".json"]);
    let nowhere = folder.path().join("none").join("trace.json");
    refused(&["--trace", str(&nowhere)], 6, &[str(&nowhere)]);
    refused(&["--precision", "bfloat16"], 2, &["float32", "--device cuda"]);
    refused(&["--split", "two-gpu"], 2, &["CPU", "two-stream"]);
    alexnet(["profile", "--device", "cuda"]).refuse(5, &["CUDA", "--device cpu"]);
}

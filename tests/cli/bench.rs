//! `bench` as a process: its figures agree with each other, and bad requests are refused. Speeds are for benchmarks.

use std::fs;

use serde_json::{Value, json};

use super::{alexnet, alexnet_cuda, command, csv_rows, finish, str};

const DEMO: [&str; 2] = ["--checkpoint", "samples/shapes.safetensors"];

/// Arguments of a short run of the demo.
fn short<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["bench"], arguments, &DEMO, &["--duration", "0.05", "--warmup", "0.01", "--iterations", "3"]].concat()
}

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// What cannot be measured ends a run, which keeps what it has.
#[test]
fn what_was_measured_is_kept() {
    let ended = alexnet(short(&["--device", "cpu", "--precision", "float32,tf32", "-b", "1,2", "--json"]));
    let record = report(&ended.stdout);
    ended.refuse(2, &["not in tf32"]);
    let results = record["results"].as_array().unwrap();
    let sizes: Vec<_> = results.iter().map(|result| (&result["precision"], &result["batch_size"])).collect();
    assert_eq!(sizes, [(&json!("float32"), &json!(1)), (&json!("float32"), &json!(2))]);
    let notes = record["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().starts_with("ended early: ")), "{notes:?}");
}

#[test]
fn bench_reports_compute_decoding_and_end_to_end() {
    let arguments = ["samples/shapes", "-b", "1,8", "--json", "-j", "1", "--percentile", "50,99.9", "--step-times"];
    let report = report(&alexnet(short(&arguments)).expect(0));
    assert_eq!((&report["schema"], &report["model"]), (&"alexnet.bench.1".into(), &"torchvision".into()));
    assert_eq!((&report["param_count"], &report["input_size"]), (&232_554.into(), &224.into()));
    assert_eq!((&report["threads"], &report["iterations"]), (&1.into(), &3.into()));
    assert_eq!((&report["split"], &report["deterministic"]), (&Value::Null, &false.into()));
    assert_eq!(report["inputs"], json!({"names": ["samples/shapes"], "exif": "ignore", "decoder": "mozjpeg"}));
    assert_eq!((&report["machine"]["gpus"], &report["machine"]["clocks"]), (&json!([]), &Value::Null));
    assert!(report["machine"]["versions"]["rustc"].as_str().unwrap().starts_with("1."), "{}", report["machine"]);
    let results = report["results"].as_array().unwrap();
    let kinds: Vec<_> =
        results.iter().map(|r| (r["mode"].as_str().unwrap(), r["batch_size"].as_u64().unwrap())).collect();
    let modes = ["compute", "decode", "end_to_end"];
    assert_eq!(kinds, [1, 8].map(|batch| modes.map(|mode| (mode, batch))).concat());
    for result in results {
        let number = |key: &str| result[key].as_f64().unwrap();
        let latency = |key: &str| result["latency_ms"][key].as_f64().unwrap();
        assert!(number("samples_per_sec") > 0.0 && number("steps") >= 3.0);
        assert_eq!(number("step_time_ms"), latency("mean"));
        assert_eq!(latency("median"), latency("p50"));
        let order = ["min", "median", "p99.9", "max"].map(latency);
        assert!(order.windows(2).all(|w| w[0] <= w[1]), "{result}");
        // Images a second and time a batch are two views of one run.
        let implied = number("images") / number("steps") / number("step_time_ms") * 1e3;
        assert!((0.5..=1.01).contains(&(number("samples_per_sec") / implied)), "{result}");
        let times = result["step_times_ms"].as_array().unwrap();
        let mean = times.iter().map(|time| time.as_f64().unwrap()).sum::<f64>() / number("steps");
        assert!(times.len() as f64 == number("steps") && (mean / latency("mean") - 1.0).abs() < 1e-9, "{result}");
        // A CPU copies and queues nothing.
        assert_eq!(result["compute_ms"].is_null(), result["mode"] == "decode", "{result}");
        assert!(["enqueue_ms", "h2d_ms", "d2h_ms"].iter().all(|part| result[part].is_null()), "{result}");
    }
    for of_batch in results.chunks(3) {
        let [compute, decode, end_to_end] = [0, 1, 2].map(|mode| of_batch[mode]["samples_per_sec"].as_f64().unwrap());
        let share = of_batch[2]["sequential_share"].as_f64().unwrap();
        assert!((share * (1.0 / (1.0 / decode + 1.0 / compute)) / end_to_end - 1.0).abs() < 1e-9, "{of_batch:?}");
        assert!(of_batch[..2].iter().all(|result| result["sequential_share"].is_null()), "{of_batch:?}");
    }
}

/// Every part of a batch on a device, for each precision and mode; all switches are on record.
#[test]
fn bench_times_the_parts_of_a_batch_on_a_device() {
    let arguments = ["samples/shapes/star/0.jpg", "-b", "1", "--device", "cuda", "--precision", "bfloat16,float16"];
    let more = ["--input-size", "63", "--fc", "own", "--split", "two-stream", "--deterministic", "--json"];
    let times = ["--duration", "0.01", "--warmup", "0.001", "--iterations", "1"];
    let run = alexnet_cuda([&["bench"], &arguments[..], &more, &DEMO, &times].concat());
    let report = report(&run.expect(0));
    assert_eq!((&report["split"], &report["fc"]), (&"two-stream".into(), &"own".into()));
    assert_eq!((&report["deterministic"], &report["input_size"]), (&true.into(), &63.into()));
    assert_eq!(report["machine"]["gpus"].as_array().unwrap().len(), 1, "{}", report["machine"]);
    assert!(report["machine"]["versions"]["cuda"].as_str().unwrap().contains('.'), "{}", report["machine"]);
    let results = report["results"].as_array().unwrap();
    let kinds = results.iter().map(|r| (r["precision"].as_str().unwrap(), r["mode"].as_str().unwrap()));
    let modes = ["latency", "compute", "copied", "decode", "end_to_end"];
    assert!(kinds.eq(["bfloat16", "float16"].iter().flat_map(|&precision| modes.map(|mode| (precision, mode)))));
    // On a device the two go on side by side.
    assert!(results.iter().all(|result| result["sequential_share"].is_null() && result["step_times_ms"].is_null()));
    for result in results.iter().filter(|result| result["mode"] != "decode") {
        for part in ["enqueue_ms", "h2d_ms", "compute_ms", "d2h_ms"] {
            if part == "h2d_ms" && result["mode"] == "compute" {
                assert!(result[part].is_null(), "{result}");
                continue;
            }
            let median = result[part]["median"].as_f64().unwrap_or_else(|| panic!("no {part} in {result}"));
            assert!(median >= 0.0 && median <= result[part]["max"].as_f64().unwrap(), "{part} in {result}");
        }
        assert!(result["compute_ms"]["min"].as_f64().unwrap() > 0.0, "{result}");
    }
    assert!(
        report["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("pass of their own"))
    );
}

#[test]
fn bench_reads_a_list_again_and_again() {
    let run = command(short(&["-", "-b", "2", "--json"]));
    let report = report(&finish(run, b"samples/shapes/star/0.jpg\n").expect(0));
    let end_to_end = &report["results"][2];
    assert!(end_to_end["images"].as_u64().unwrap() >= 3, "{end_to_end}");
    let none = command(short(&["-", "-b", "1"]));
    finish(none, b"").refuse(2, &["the input is empty"]);
}

/// An earlier run as a peer of this one, whose figures are of fresh processes too.
#[test]
fn bench_stands_beside_peers_and_starts_cold() {
    let folder = tempfile::tempdir().unwrap();
    let peer = folder.path().join("peer.json");
    let text = alexnet(short(&["-b", "1", "--json", "-j", "1"])).expect(0);
    fs::write(&peer, text.replace("\"program\": \"alexnet\"", "\"program\": \"another\"")).unwrap();
    let peers = ["-b", "1,2", "-j", "2", "--peers", str(&peer)];
    let table = alexnet(short(&[&peers[..], &["--cold-start=1"]].concat()));
    let differs = format!("{} was measured with CPU threads: 1, this run 2", peer.display());
    assert!(table.stderr.contains(&differs), "{}", table.stderr);
    let table = table.expect(0);
    assert!(table.contains("cold start: ") && table.contains("1 process)"), "{table}");
    assert!(table.contains("float32, compute, batch 1") && !table.contains("compute, batch 2"), "{table}");
    let row = table.lines().find(|line| line.trim_start().starts_with("another")).expect("the peer's row");
    assert!(row.split_whitespace().last().unwrap().parse::<f64>().unwrap() > 0.0, "{row}");
    let csv = alexnet(short(&[&peers[..], &["--csv"]].concat())).expect(0);
    let rows = csv_rows(&csv);
    let programs: Vec<&str> = rows.iter().map(|row| row["program"].as_str()).collect();
    assert_eq!(programs, ["alexnet", "alexnet", "another"]);
    assert!(csv.starts_with("samples_per_sec,step_time,batch_size,img_size,param_count,gmacs,macts,program,"), "{csv}");
}

/// Weights of a seed are drawn to a file first, from which fresh processes read them.
#[test]
#[ignore = "weights of full width, run by .ci/run"]
fn bench_starts_cold_with_seeded_weights() {
    let arguments = ["bench", "--duration", "0.1", "--iterations", "1", "-b", "1", "--cold-start=2", "--json"];
    let report = report(&alexnet(arguments).expect(0));
    let start = &report["cold_start"];
    assert!(start["how"].as_str().unwrap().contains("a .safetensors file of the same weights"), "{start}");
    assert!(start["first_prediction_ms"]["min"].as_f64().unwrap() > 1.0 && start["processes"] == 2, "{start}");
}

#[test]
fn bench_refuses_what_it_cannot_do() {
    for percentile in ["0", "100", "90,p99"] {
        alexnet(["bench", "--percentile", percentile]).refuse(2, &["--percentile"]);
    }
    alexnet(["bench", "--json", "--csv"]).refuse(2, &["--json", "--csv"]);
    alexnet(["bench", "--iterations", "0"]).refuse(2, &["--iterations"]);
    alexnet(["bench", "--precision", "float32,float64"]).refuse(2, &["float64"]);
    alexnet(["bench", "--cold-start=0"]).refuse(2, &["--cold-start"]);
    // Before anything is measured or loaded.
    alexnet(["bench", "--peers", "no-such.json"]).refuse(2, &["no-such.json"]);
    alexnet(["bench", "--peers", "Cargo.toml"]).refuse(2, &["Cargo.toml", "no record of a measurement"]);
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.json");
    let mut record = report(&alexnet(short(&["-b", "1", "--json"])).expect(0));
    record["schema"] = "alexnet.kernels.1".into();
    (record["ceilings"], record["cases"]) = (json!([]), json!([]));
    fs::write(&other, record.to_string()).unwrap();
    alexnet(["bench", "--peers", str(&other)]).refuse(2, &["other.json", "other kinds", "alexnet.bench.1"]);
}

//! `alexnet compare` as a process: what it prints and refuses, and that its numbers add up. Speeds are for benchmarks.

use serde_json::Value;

use super::{Finished, alexnet, alexnet_cuda, csv_rows};

/// A narrow network with two groups, for less time than a slice takes.
const SHORT: [&str; 5] = ["compare", "--checkpoint", "samples/shapes-paper.safetensors", "--duration", "0.02"];

fn compare(arguments: &[&str]) -> Finished {
    alexnet(SHORT.iter().chain(&["--device", "cpu", "-j", "2"]).chain(arguments))
}

#[test]
fn compare_reports_numbers_that_add_up() {
    let run = compare(&["-b", "1,3", "--seed", "5", "--json"]);
    check_report(&run.expect(0), &["single", "two-stream"], &[1, 3], 1);
}

/// The same on a GPU; single batches are measured apart there.
#[test]
#[ignore = "half a minute on the emulated device, run by .ci/run"]
fn compare_reports_on_cuda() {
    let arguments = ["--device", "cuda", "-b", "1", "--layouts", "single,two-stream", "--json", "--seed", "5"];
    check_report(&alexnet_cuda(SHORT.iter().chain(&arguments)).expect(0), &["single", "two-stream"], &[1], 2);
}

/// `depth` is how many batches a pipeline has under way.
fn check_report(json: &str, layouts: &[&str], batches: &[u64], depth: usize) {
    let report: Value = serde_json::from_str(json).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    assert_eq!((&report["model"], &report["seed"], &report["equal"]), (&"paper".into(), &5.into(), &true.into()));
    assert_eq!(report["schema"], "alexnet.compare.1");
    // Ten classes, by session and by pipeline.
    assert_eq!(report["logits_compared"], 20 * batches.iter().sum::<u64>());
    let results = list(&report["results"]);
    let expected = batches.iter().flat_map(|&batch| layouts.iter().map(move |&layout| (layout, batch)));
    let found = results.iter().map(|m| (m["layout"].as_str().unwrap(), m["batch_size"].as_u64().unwrap()));
    assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    for (index, m) in results.iter().enumerate() {
        let rounds = list(&m["rounds"]);
        assert!(rounds.len() >= 4 && rounds.len().is_multiple_of(2), "{}", rounds.len());
        let mut speeds: Vec<f64> = rounds.iter().map(|r| number(&r["images"]) / number(&r["seconds"])).collect();
        speeds.sort_by(f64::total_cmp);
        assert!((speeds[0] - number(&m["images_per_second"]["min"])).abs() < 1e-6 * speeds[0]);
        if depth == 1 {
            let fastest = number(&m["batch_size"]) / number(&m["latency_ms"]["min"]) * 1e3;
            assert!(speeds.last().unwrap() <= &(fastest * 1.000_001), "no round is faster than its fastest batch");
        }
        match index % layouts.len() {
            0 => assert!(m["speed_up"].is_null()),
            _ => {
                let [low, ratio, high] = ["low_95", "ratio", "high_95"].map(|name| number(&m["speed_up"][name]));
                assert!(low <= ratio && ratio <= high && m["speed_up"]["pairs"] == rounds.len(), "{m}");
            }
        }
        let total = number(&m["timeline"]["total_ms"]);
        for (index, tower) in list(&m["timeline"]["towers"]).iter().enumerate() {
            let spans = list(&tower["spans"]);
            let length = |span: &Value| number(&span["end_ms"]) - number(&span["begin_ms"]);
            // A microsecond is the coarsest clock's resolution.
            let resolution = 1e-3 * spans.len() as f64;
            let idle = number(&tower["idle_ms"]);
            let parts = number(&tower["computing_ms"]) + number(&tower["joins_ms"]) + idle;
            assert!((parts - total).abs() <= resolution, "{parts} {total}");
            assert!((spans.iter().map(length).sum::<f64>() + idle - total).abs() <= resolution);
            let layers = spans.iter().filter(|span| span["work"] == "layers").flat_map(|span| list(&span["layers"]));
            let layers: Vec<Value> = layers.collect();
            for name in ["conv1", "conv5", "fc6"] {
                assert!(layers.contains(&name.into()), "{name} is not in {layers:?}");
            }
            // The last layer is the first tower's alone.
            assert_eq!(layers.contains(&"fc8".into()), index == 0, "{tower}");
        }
        assert!(list(&m["memory"]).iter().all(|memory| memory["weights_bytes"].as_u64().unwrap() > 0));
    }
}

#[test]
fn compare_prints_a_table_and_csv() {
    // The same layout twice: no difference, and the same names throughout.
    let layouts = ["--layouts", "single,single", "-b", "2"];
    let table = compare(&layouts).expect(0);
    for part in ["equal: 40 logits", "batch 2", "baseline", "conv5", "joins", "1.7", "inference", "x ("] {
        assert!(table.contains(part), "'{part}' is not in:\n{table}");
    }
    let rows = csv_rows(&compare(&[&layouts[..], &["--csv"]].concat()).expect(0));
    let figures = |figure: &str| rows.iter().filter(|row| row["figure"] == figure).count();
    assert_eq!((figures("images_per_second_median"), figures("speed_up_ratio")), (2, 1));
    assert!(rows.iter().all(|row| row["batch_size"] == "2" && row["layout"] == "single"));
    assert!(rows.iter().all(|row| row["value"].parse::<f64>().is_ok_and(|value| value.is_finite())));
}

#[test]
fn compare_refuses_what_it_cannot_compare() {
    compare(&["--split", "two-stream"]).refuse(2, &["--layouts single,two-stream"]);
    compare(&["--fc", "cublaslt"]).refuse(2, &["--fc own", "bit for bit"]);
    for layout in ["two-gpu", "data-parallel"] {
        compare(&["--layouts", &format!("single,{layout}")]).refuse(2, &[layout, "the CPU", "--device cuda:0,1"]);
    }
    compare(&["--layouts", "three-gpu"]).refuse(2, &["three-gpu", "two-stream"]);
    compare(&["-b", "1,8,1"]).refuse(2, &["--batch-size", "1 twice"]);
    compare(&["--json", "--csv"]).refuse(2, &["--json", "--csv"]);
    compare(&["--report", "towers.svg"]).refuse(2, &["towers.svg", ".html"]);
}

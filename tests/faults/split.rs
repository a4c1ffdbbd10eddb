//! The same of a network's two towers, on two streams of a device and on two devices.

use super::{Case, Ended, FOUR_BATCHES, Weights, each, every_call};

/// Each of two slots runs a graph twice, in either order of its branches; the first and the last batch run kernel by kernel.
const TWO_STREAM: Case = Case { split: Some("two-stream"), images: 11, ..FOUR_BATCHES };
/// Kernel by kernel.
const TWO_GPU: Case = Case { device: "cuda:0,1", split: Some("two-gpu"), ..FOUR_BATCHES };
/// By way of the host's memory.
const NO_PEER: Case = Case { peer: false, ..TWO_GPU };

/// Tensors uploaded: a filter and a bias a layer, and conv1's filter twice; fc8 to the first tower alone.
const UPLOADS: usize = 2 * 17 - 2;

fn number(call: &str) -> usize {
    call.split_once(':').unwrap().1.parse().unwrap()
}

/// Every class's logit.
const ALL: [&str; 4] = ["--topk", "10", "--output-type", "logit"];

fn probe(case: Case, kinds: &[&str]) {
    let runs: Vec<(Case, Ended)> = ["deferred", "overtaking"]
        .map(|streams| Case { streams, ..case })
        .map(|case| (case, case.predict(&ALL, &[])))
        .into();
    assert!(runs.iter().all(|(_, run)| run.code == 0 && run.csv == runs[0].1.csv), "{runs:?}");
    let calls: Vec<String> = every_call(&runs[0].1, kinds)
        .into_iter()
        .filter(|call| !(call.starts_with("copy") || call.starts_with("record")) || number(call) > UPLOADS)
        .collect();
    eprintln!("{case:?} {} calls", calls.len());
    let start = std::time::Instant::now();
    each(&calls, |call| {
        let missed = runs.iter().any(|(case, whole)| {
            let ended = case.predict(&ALL, &[("CUEMU_FAULT", &format!("{call}:skip"))]);
            ended.code != 0 || ended.csv != whole.csv
        });
        if !missed {
            eprintln!(
                "NOT MISSED {call} of {} {}",
                case.split.unwrap(),
                runs[0].1.calls[call.split_once(':').unwrap().0]
            );
        }
    });
    eprintln!("took {:?}", start.elapsed());
}

#[test]
#[ignore = "x"]
fn probe_all() {
    let only = std::env::var("PROBE").unwrap();
    for network in [Weights::Paper, Weights::Demo, Weights::Caffe] {
        for case in [TWO_STREAM, TWO_GPU, NO_PEER] {
            if only != format!("{network:?}{}{}", case.split.unwrap(), case.peer) {
                continue;
            }
            probe(Case { network, ..case }, &["wait", "record", "copy"]);
        }
    }
}

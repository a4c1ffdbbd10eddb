//! What a comparison found, as a record.

use alexnet::record::{CompareResult, LayoutRow, Memory, Round, Towers};
use alexnet::statistics::{SpeedUp, Spread};
use alexnet::{Holding, Model};

use super::layout::Layout;
use super::rounds::Rates;

/// A layout at a batch size; `baseline` is what the first layout did in the same rounds, `None` for the first layout itself.
pub fn result(
    layout: Layout,
    batch_size: usize,
    rates: Rates,
    baseline: Option<&[Round]>,
    timeline: Towers,
    memory: Vec<Holding>,
) -> CompareResult {
    let speeds = |rounds: &[Round]| rounds.iter().map(Round::images_per_second).collect::<Vec<_>>();
    let own = speeds(&rates.rounds);
    let memory = memory.into_iter().map(|Holding { place, weights, buffers }| Memory {
        place,
        weights_bytes: weights,
        buffers_bytes: buffers,
    });
    CompareResult {
        layout: layout.name().into(),
        batch_size,
        speed_up: baseline.map(|baseline| SpeedUp::of(&own, &speeds(baseline))),
        images_per_second: Spread::of(own),
        latency_ms: Spread::of(rates.latencies_ms),
        timeline,
        memory: memory.collect(),
        rounds: rates.rounds,
    }
}

/// A layout, in words.
pub fn row(layout: Layout, model: &Model, on_gpu: bool) -> LayoutRow {
    LayoutRow { layout: layout.name().into(), meaning: layout.meaning(on_gpu).into(), device: model.device() }
}

/// What a comparison on a GPU, or on the CPU, means and what it does not.
pub fn notes(on_gpu: bool) -> Vec<String> {
    let mut notes = vec![
        "This compares inference, by layouts of one network with the same weights on the same pictures; their results are equal \
         bit for bit, so accuracy is no part of it. It says nothing about training.",
        "Speed-ups are geometric means over rounds, in each of which every layout had its turn, with a 95 % confidence interval \
         by Student's t distribution of the ratios' logarithms.",
        "Times by layer are of the run with the median total, with a clock read between steps, which takes a little longer. \
         Computing, joins and idle are the total; a join lasts from the time a tower could go on to the time it has the other's \
         half. Overlap is the time in which all towers compute over the computing time of the one that computes least.",
    ];
    if on_gpu {
        notes.push(
            "Times by layer are of a run kernel by kernel, not of the CUDA graph that the other figures of one GPU are of: for small \
             batches they contain the time that the host takes to launch.",
        );
        notes.push(
            "Images per second are of batch after batch on pixels that the device holds; latency is of one batch at a time, from \
             host memory to classes.",
        );
        notes.push(
            "On one GPU a large batch fills the whole device from either stream: two streams then compare tails and joins. Small \
             batches show real overlap.",
        );
        notes.push(
            "Fully connected layers are computed by this program's kernels in every layout: cuBLASLt sums in another order for \
             other widths.",
        );
    } else {
        notes.push(
            "On the CPU two towers share its cores and its memory: they compare how threads are kept busy, and joins. Nothing \
             about a GPU follows from it.",
        );
    }
    notes.push(
        "The paper's own figures (Krizhevsky et al. 2012, section 3.2): its network on two GPUs has top-1 and top-5 error rates 1.7 \
         and 1.2 points below those of a net with half as many kernels in each convolutional layer on one GPU, and took slightly \
         less time to train. Those are of training, and of two different nets: not what is measured here.",
    );
    notes.into_iter().map(Into::into).collect()
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use alexnet::record::{Compare, Record};

    use super::*;
    use crate::cli::compare::towers;
    use crate::cli::samples::{self, names as names_of};

    /// Two layouts at two batch sizes.
    pub fn report() -> Compare {
        let rates = |seconds: [f64; 4]| Rates {
            rounds: seconds.map(|seconds| Round { images: 80, seconds }).to_vec(),
            latencies_ms: vec![1.0, 1.25],
        };
        let mut results = vec![];
        for batch_size in [1, 8] {
            let (single, split) = (rates([0.1, 0.1, 0.125, 0.1]), rates([0.08, 0.08, 0.1, 0.08]));
            let baseline = single.rounds.clone();
            for (layout, rates) in [(Layout::Single, single), (Layout::TwoStream, split)] {
                let split = layout != Layout::Single;
                let places = if split { &["tower 0 <&>", "tower 1"][..] } else { &["the CPU"] };
                let holding = |place: &&str| Holding { place: place.to_string(), weights: 4_000_000, buffers: 250_000 };
                let memory = places.iter().map(holding).collect();
                let baseline = split.then_some(&baseline[..]);
                results.push(result(layout, batch_size, rates, baseline, towers::tests::measured(split), memory));
            }
        }
        let layouts = [Layout::Single, Layout::TwoStream].map(|layout| LayoutRow {
            layout: layout.name().into(),
            meaning: layout.meaning(false).into(),
            device: "a <fake> & \"quoted\" device".into(),
        });
        Compare {
            machine: samples::machine(),
            subject: samples::subject("paper"),
            precision: "float32".into(),
            seed: 7,
            duration_s: 3.0,
            layouts: layouts.into(),
            equal: true,
            logits_compared: 18_000,
            notes: notes(false),
            results,
        }
    }

    /// Whoever reads the JSON relies on these names.
    #[test]
    fn the_json_has_these_names() {
        let json: Value = serde_json::from_str(&Record::Compare(report()).json()).unwrap();
        let mut last = json["results"][3].clone();
        let join = last["timeline"]["towers"][0]["spans"][2].clone();
        last["timeline"]["towers"][0]["spans"][0].as_object_mut().unwrap().shift_remove("layers");
        let mut names = names_of(&json);
        names.retain(|name| !name.starts_with("results"));
        names.retain(|name| !name.starts_with("machine"));
        let expected = "schema model checkpoint input_size classes param_count gmacs macts split fc deterministic threads precision \
                        seed duration_s layouts[].layout layouts[].meaning layouts[].device equal logits_compared notes[]";
        assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
        let spread = |name: &str| {
            ["min", "mean", "median", "max", "cv", "p90", "p95", "p99"]
                .map(|figure| format!("{name}.{figure}"))
                .join(" ")
        };
        let expected = format!(
            "layout batch_size {} {} speed_up.ratio speed_up.low_95 speed_up.high_95 speed_up.pairs speed_up.difference_shown \
             timeline.total_ms timeline.overlap timeline.towers[].place timeline.towers[].computing_ms \
             timeline.towers[].joins_ms timeline.towers[].idle_ms timeline.towers[].exchanged_bytes \
             timeline.towers[].spans[].work timeline.towers[].spans[].begin_ms timeline.towers[].spans[].end_ms \
             timeline.runs_ms[] memory[].place memory[].weights_bytes memory[].buffers_bytes rounds[].images rounds[].seconds",
            spread("images_per_second"),
            spread("latency_ms"),
        );
        assert_eq!(names_of(&last), expected.split_whitespace().collect::<Vec<_>>());
        assert_eq!(json["results"][0]["timeline"]["towers"][0]["spans"][0]["layers"], json!(["conv1"]));
        assert_eq!((&join["work"], &join["layer"], &join["bytes"]), (&json!("join"), &json!("conv3"), &json!(1000)));
        assert_eq!((&json["results"][0]["speed_up"], &last["layout"]), (&Value::Null, &json!("two-stream")));
        assert_eq!(json["results"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn speed_ups_are_against_the_first_layout() {
        let report = report();
        let speed_up = report.results[3].speed_up.as_ref().unwrap();
        assert!((speed_up.ratio - 1.25).abs() < 1e-12 && speed_up.shown, "{speed_up:?}");
        assert_eq!((report.results[2].images_per_second.median, report.results[2].speed_up.is_none()), (800.0, true));
        assert_eq!((report.results[1].latency_ms.median, report.results[1].latency_ms.max), (1.125, 1.25));
        let batches: Vec<_> = report.batches().map(|batch| (batch[0].batch_size, batch.len())).collect();
        assert_eq!(batches, [(1, 2), (8, 2)]);
    }

    #[test]
    fn the_papers_figures_come_with_their_caveat() {
        for on_gpu in [false, true] {
            let notes = notes(on_gpu).join(" ");
            for part in ["1.7 and 1.2 points", "slightly less time", "section 3.2", "not what is measured", "inference"]
            {
                assert!(notes.contains(part), "'{part}' is not in: {notes}");
            }
            assert_eq!(notes.contains("tails and joins"), on_gpu);
        }
    }
}

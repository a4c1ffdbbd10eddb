//! Tables and pictures of each record; benchmarks stand in one section, beside each other.

use alexnet::record::{
    Bench, BenchResult, Ceilings, Compare, CompareResult, KernelCase, Kernels, Profile, ProfileStep, Record,
};
use alexnet::statistics::Spread;
use maud::{Markup, html};

use super::table::Column::{Number, Text};
use super::table::{notes, table};
use super::{facts, figures};
use crate::cli::words::{bound, grouped, mode, prefixed, short, work};

pub fn all(records: &[Record]) -> Markup {
    let benches: Vec<&Record> = records.iter().filter(|record| matches!(record, Record::Bench(_))).collect();
    html! {
        @if !benches.is_empty() { (bench(&benches)) }
        @for record in records {
            @match record {
                Record::Bench(_) => {}
                Record::Profile(found) => (profile(found, &figures(&[record]))),
                Record::Compare(found) => (compare(found, &figures(&[record]))),
                Record::Kernels(found) => (kernels(found, &figures(&[record]))),
            }
        }
    }
}

/// All benchmarks; speeds are set against the first one of the same network.
fn bench(records: &[&Record]) -> Markup {
    let benches: Vec<&Bench> = records
        .iter()
        .filter_map(|record| if let Record::Bench(bench) = record { Some(bench) } else { None })
        .collect();
    let ratio = |before: &[&Bench], bench: &Bench, result: &BenchResult| {
        let same = |other: &&BenchResult| {
            (other.mode, other.batch_size, &other.precision) == (result.mode, result.batch_size, &result.precision)
        };
        let before = before.iter().filter(|before| before.subject.model == bench.subject.model);
        let first = before.flat_map(|before| &before.results).find(same)?;
        Some(result.samples_per_sec / first.samples_per_sec)
    };
    let mut rows = vec![];
    for (index, bench) in benches.iter().enumerate() {
        for result in &bench.results {
            rows.push(bench_row(bench, result, ratio(&benches[..index], bench, result)));
        }
    }
    let mut cold = vec![];
    for (bench, start) in benches.iter().filter_map(|bench| Some((bench, bench.cold_start.as_ref()?))) {
        let mut row = |program: &str, time: &Spread, ratio: String| {
            let (processes, how) = (start.processes.to_string(), start.how.clone());
            cold.push(vec![program.into(), short(time.median), short(time.max), ratio, processes, how]);
        };
        let program = bench.results.first().map_or(&bench.machine.program, |result| &result.program);
        row(program, &start.first_prediction_ms, String::new());
        for peer in &start.peers {
            row(&peer.program, &peer.first_prediction_ms, format!("{:.3}", peer.ratio));
        }
    }
    let mut subjects: Vec<&Bench> = vec![];
    let (mut said, mut lasted): (Vec<String>, Vec<String>) = (vec![], vec![]);
    for &bench in &benches {
        let how = format!(
            "{}: each measurement lasted {} s at least, after {} s of warm-up.",
            bench.machine.program, bench.duration_s, bench.warm_up_s
        );
        if !lasted.contains(&how) {
            lasted.push(how);
        }
        said.extend(bench.notes.iter().filter(|note| !said.contains(note)).cloned().collect::<Vec<_>>());
        if !subjects.iter().any(|other| other.subject == bench.subject) {
            subjects.push(bench);
        }
    }
    html! {
        h2 { "Throughput and latency" }
        @for bench in subjects { (facts::subject(&bench.subject)) }
        (figures(records))
        @for how in lasted { p.about { (how) } }
        (table(
            &[
                Text("program"), Text("network"), Text("mode"), Text("precision"), Number("batch"), Number("images/s"),
                Number("against the first"), Number("step ms"), Number("median ms"), Number("p99"), Number("max"),
                Number("queueing ms"), Number("to the device ms"), Number("computing ms"), Number("to the host ms"),
                Text("speed"), Number("steps"), Number("images"), Number("failed"),
                Number("of 1 / (1/decode + 1/compute)"), Number("peak memory MB"),
            ],
            &rows,
        ))
        @if !cold.is_empty() {
            h3 { "First prediction of a fresh process" }
            (table(&[Text("program"), Number("median ms"), Number("max"), Number("ours/theirs"), Number("processes"), Text("how")], &cold))
        }
        (notes(&said))
    }
}

fn bench_row(bench: &Bench, result: &BenchResult, ratio: Option<f64>) -> Vec<String> {
    let configuration = result.configuration.as_ref().map(|configuration| format!(", {configuration}"));
    let median = |spread: &Option<Spread>| spread.as_ref().map_or(String::new(), |spread| short(spread.median));
    let steady = result.windows.as_ref().map_or("", |windows| if windows.stable { "steady" } else { "unsteady" });
    vec![
        format!("{}{}", result.program, configuration.unwrap_or_default()),
        bench.subject.model.clone(),
        mode(result.mode).into(),
        result.precision.clone(),
        grouped(result.batch_size as f64, 0),
        grouped(result.samples_per_sec, 1),
        ratio.map_or(String::new(), |ratio| format!("{ratio:.2}×")),
        short(result.step_time_ms),
        short(result.latency_ms.median),
        percentile(&result.latency_ms),
        short(result.latency_ms.max),
        median(&result.enqueue_ms),
        median(&result.h2d_ms),
        median(&result.compute_ms),
        median(&result.d2h_ms),
        steady.into(),
        grouped(result.steps as f64, 0),
        grouped(result.images as f64, 0),
        if result.failed > 0 { grouped(result.failed as f64, 0) } else { String::new() },
        result.sequential_share.map_or(String::new(), |share| format!("{:.1} %", 100.0 * share)),
        result.peak_resident_bytes.map_or(String::new(), |bytes| short(bytes as f64 / 1e6)),
    ]
}

fn percentile(spread: &Spread) -> String {
    spread.percentile(99.0).map_or(String::new(), short)
}

fn ceilings(ceilings: &Ceilings) -> [(&'static str, String); 2] {
    let Ceilings { flops_per_sec, product, bytes_per_sec, copy } = ceilings;
    [
        ("computing ceiling", format!("{}: {product}", prefixed(*flops_per_sec, "FLOP/s"))),
        ("memory ceiling", format!("{}: {copy}", prefixed(*bytes_per_sec, "B/s"))),
    ]
}

fn profile(profile: &Profile, figures: &Markup) -> Markup {
    let several = profile.tracks.len() > 1;
    let shape = |[n, h, w, c]: [usize; 4]| format!("{n} × {h} × {w} × {c}");
    let row = |step: &ProfileStep| {
        let join = step.kind == "join";
        let computed = |text: String| if join { String::new() } else { text };
        vec![
            step.name.clone(),
            short(step.time_ms.median),
            percentile(&step.time_ms),
            format!("{:.1}", step.percentage),
            computed(format!("{:.1}", step.roofline_percentage)),
            computed(bound(step.bound).into()),
            computed(prefixed(step.flops_per_sec, "FLOP/s")),
            prefixed(step.bytes_per_sec, "B/s"),
            computed(grouped(step.mult_adds as f64, 0)),
            grouped(step.bytes, 0),
            computed(grouped(step.params as f64, 0)),
            computed(shape(step.input_shape)),
            computed(shape(step.output_shape)),
            step.kernel.clone(),
        ]
    };
    let columns = [
        Text("step"),
        Number("median ms"),
        Number("p99"),
        Number("% of time"),
        Number("% of roofline"),
        Text("bound"),
        Number("computing"),
        Number("memory"),
        Number("multiply-adds"),
        Number("bytes"),
        Number("parameters"),
        Text("input (N, H, W, C)"),
        Text("output"),
        Text("kernel"),
    ];
    let (run, stepwise) = (&profile.run_ms, &profile.stepwise_ms);
    let mut sums = vec![
        (
            "a run",
            format!(
                "{} ms at full speed, {} ms step by step, medians of {} runs each",
                short(run.median),
                short(stepwise.median),
                profile.runs
            ),
        ),
        ("sum of steps", format!("{:.3} of a run at full speed", profile.steps_over_run)),
    ];
    sums.extend(ceilings(&profile.ceilings));
    html! {
        h2 { "Profile: " (profile.subject.model) @if let Some(split) = &profile.subject.split { ", " (split) } ", " (profile.precision) ", batch " (profile.batch_size) }
        (facts::subject(&profile.subject))
        (facts::list(&sums))
        (figures)
        @for track in &profile.tracks {
            @if several { h3 { (track.place) } }
            (table(&columns, &track.steps.iter().map(row).collect::<Vec<_>>()))
        }
        (notes(&profile.notes))
    }
}

fn compare(compare: &Compare, figures: &Markup) -> Markup {
    let layouts = compare.layouts.iter().map(|row| vec![row.layout.clone(), row.meaning.clone(), row.device.clone()]);
    html! {
        h2 { "Layouts: " (compare.subject.model) ", " (compare.precision) }
        (facts::subject(&compare.subject))
        (table(&[Text("layout"), Text("what it is"), Text("device")], &layouts.collect::<Vec<_>>()))
        p.about {
            (grouped(compare.logits_compared as f64, 0)) " logits of each layout are equal, bit for bit. Pictures of seed "
            (compare.seed) "; " (compare.duration_s) " s for each layout and batch size."
        }
        (figures)
        @for batch in compare.batches() {
            h3 { "Batch " (batch[0].batch_size) }
            (table(
                &[
                    Text("layout"), Number("images/s"), Number("± %"), Number("latency ms"), Number("p99"), Number("max"),
                    Number("speed-up"), Text("95 % interval"),
                ],
                &batch.iter().map(speeds).collect::<Vec<_>>(),
            ))
            (table(
                &[
                    Text("tower"), Number("total ms"), Number("computing"), Number("joins"), Number("idle"),
                    Number("exchanged bytes"), Number("overlap %"), Text("steps, ms"),
                ],
                &batch.iter().flat_map(towers).collect::<Vec<_>>(),
            ))
            (table(
                &[Text("layout"), Text("place"), Number("weights MB"), Number("buffers MB")],
                &batch.iter().flat_map(memory).collect::<Vec<_>>(),
            ))
        }
        (notes(&compare.notes))
    }
}

fn speeds(result: &CompareResult) -> Vec<String> {
    let (rate, latency) = (&result.images_per_second, &result.latency_ms);
    let speed_up = result.speed_up.as_ref();
    let interval = speed_up.map(|found| {
        let verdict = if found.shown { "" } else { ", no difference shown" };
        format!("{:.2} to {:.2}{verdict}", found.low, found.high)
    });
    vec![
        result.layout.clone(),
        grouped(rate.median, 1),
        format!("{:.1}", 100.0 * rate.cv),
        short(latency.median),
        percentile(latency),
        short(latency.max),
        speed_up.map_or("baseline".into(), |found| format!("{:.2}×", found.ratio)),
        interval.unwrap_or_default(),
    ]
}

fn towers(result: &CompareResult) -> Vec<Vec<String>> {
    let overlap = result.timeline.overlap.map_or(String::new(), |overlap| format!("{:.0}", 100.0 * overlap));
    let row = |tower: &alexnet::record::Tower| {
        let steps = tower.spans.iter().map(|span| format!("{} {}", work(&span.work), short(span.ms())));
        vec![
            format!("{}: {}", result.layout, tower.place),
            short(result.timeline.total_ms),
            short(tower.computing_ms),
            short(tower.joins_ms),
            short(tower.idle_ms),
            grouped(tower.exchanged_bytes as f64, 0),
            overlap.clone(),
            steps.collect::<Vec<_>>().join("; "),
        ]
    };
    result.timeline.towers.iter().map(row).collect()
}

fn memory(result: &CompareResult) -> Vec<Vec<String>> {
    let megabytes = |bytes: usize| grouped(bytes as f64 / 1e6, 1);
    let row = |memory: &alexnet::record::Memory| {
        vec![
            result.layout.clone(),
            memory.place.clone(),
            megabytes(memory.weights_bytes),
            megabytes(memory.buffers_bytes),
        ]
    };
    result.memory.iter().map(row).collect()
}

fn kernels(kernels: &Kernels, figures: &Markup) -> Markup {
    let row = |case: &KernelCase| {
        let peers = case.peers.iter().map(|peer| {
            format!("{} {} µs, {:.2}× ours ({})", peer.library, short(peer.time_us.median), peer.ratio, peer.how)
        });
        vec![
            case.group.clone(),
            case.variant.clone(),
            case.layer.clone(),
            case.precision.clone(),
            grouped(case.batch_size as f64, 0),
            short(case.time_us.median),
            percentile(&case.time_us),
            prefixed(case.flops_per_sec, "FLOP/s"),
            prefixed(case.bytes_per_sec, "B/s"),
            format!("{:.1}", case.roofline_percentage),
            bound(case.bound).into(),
            peers.collect::<Vec<_>>().join("; "),
            case.kernel.clone(),
        ]
    };
    html! {
        h2 { "Kernels" }
        @for (precision, found) in &kernels.ceilings {
            (facts::list(&ceilings(found).map(|(name, value)| (format!("{name}, {precision}"), value))))
        }
        (figures)
        (table(
            &[
                Text("group"), Text("variant"), Text("layer"), Text("precision"), Number("batch"), Number("median µs"),
                Number("p99"), Number("computing"), Number("memory"), Number("% of roofline"), Text("bound"),
                Text("other libraries"), Text("kernel"),
            ],
            &kernels.cases.iter().map(row).collect::<Vec<_>>(),
        ))
        (notes(&kernels.notes))
    }
}

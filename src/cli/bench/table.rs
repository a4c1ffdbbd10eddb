//! Figures for people.

use std::fmt::Write;

use alexnet::record::Bench;
use alexnet::statistics::Spread;

use super::peers;

const IN_MEMORY: &str = "writing to a String";

/// The first of `benches` with `percentiles`, then those after it beside it.
pub fn table<'a>(mut benches: impl Iterator<Item = &'a Bench>, percentiles: &[f64]) -> String {
    let ours = benches.next().expect("this run's");
    let peers: Vec<&Bench> = benches.collect();
    let mut text =
        format!("{:<10}{:<12}{:>6}{:>12}{:>11}{:>11}", "precision", "mode", "batch", "images/s", "mean ms", "median");
    for percent in percentiles {
        write!(text, "{:>11}", format!("p{percent}")).expect(IN_MEMORY);
    }
    let parts = ["max", "enqueue", "h2d", "compute", "d2h"];
    parts.iter().for_each(|part| write!(text, "{part:>11}").expect(IN_MEMORY));
    text += "   steps\n";
    for r in &ours.results {
        let l = &r.latency_ms;
        write!(
            text,
            "{:<10}{:<12}{:>6}{:>12.1}{:>11.3}{:>11.3}",
            r.precision,
            r.mode.name(),
            r.batch_size,
            r.samples_per_sec,
            l.mean,
            l.median
        )
        .expect(IN_MEMORY);
        for &percent in percentiles {
            write!(text, "{:>11.3}", l.percentile(percent).expect("one that was asked for")).expect(IN_MEMORY);
        }
        write!(text, "{:>11.3}", l.max).expect(IN_MEMORY);
        for part in [&r.enqueue_ms, &r.h2d_ms, &r.compute_ms, &r.d2h_ms] {
            write!(text, "{:>11}", median(part)).expect(IN_MEMORY);
        }
        writeln!(text, "{:>8}", r.steps).expect(IN_MEMORY);
    }
    for r in &ours.results {
        if let Some(share) = r.sequential_share {
            writeln!(
                text,
                "batch {}: end to end is {:.1} % of 1 / (1/decode + 1/compute)",
                r.batch_size,
                100.0 * share
            )
            .expect(IN_MEMORY);
        }
    }
    if ours.results.iter().any(|r| r.enqueue_ms.is_some()) {
        text += "enqueue, h2d, compute and d2h: medians of a pass of their own, with clocks\n";
    }
    if let Some(start) = &ours.cold_start {
        let Spread { min, median, max, .. } = &start.first_prediction_ms;
        writeln!(
            text,
            "\ncold start: {median:.1} ms to the first prediction ({min:.1} to {max:.1}, {} process{})\n{}",
            start.processes,
            if start.processes == 1 { "" } else { "es" },
            start.how
        )
        .expect(IN_MEMORY);
    }
    if !peers.is_empty() {
        text += &peers::table(ours, &peers);
    }
    text
}

fn median(part: &Option<Spread>) -> String {
    part.as_ref().map_or("-".into(), |spread| format!("{:.3}", spread.median))
}

//! A row a result: timm's columns first, in its units, then ours, with units in their names.

use alexnet::record::{Bench, BenchResult};
use alexnet::statistics::Spread;

/// Of all `benches`, this run's first, with `percentiles` of the latency.
pub fn csv<'a>(benches: impl Iterator<Item = &'a Bench>, percentiles: &[f64]) -> String {
    let mut csv = csv::Writer::from_writer(vec![]);
    const IN_MEMORY: &str = "writing to a Vec";
    for (index, bench) in benches.enumerate() {
        for result in &bench.results {
            let (names, cells): (Vec<_>, Vec<_>) = row(bench, result, percentiles).into_iter().unzip();
            if index == 0 && std::ptr::eq(result, &bench.results[0]) {
                csv.write_record(&names).expect(IN_MEMORY);
            }
            csv.write_record(&cells).expect(IN_MEMORY);
        }
    }
    String::from_utf8(csv.into_inner().expect(IN_MEMORY)).expect("every cell is UTF-8")
}

fn row(bench: &Bench, result: &BenchResult, percentiles: &[f64]) -> Vec<(String, String)> {
    let subject = &bench.subject;
    let median = |spread: &Option<Spread>| spread.as_ref().map(|spread| spread.median.to_string()).unwrap_or_default();
    let latency = &result.latency_ms;
    let percentile = |&percent: &f64| {
        let value = latency.percentile(percent).map(|value| value.to_string());
        (format!("latency_p{percent}_ms"), value.unwrap_or_default())
    };
    let timm = named(vec![
        ("samples_per_sec", result.samples_per_sec.to_string()),
        ("step_time", result.step_time_ms.to_string()),
        ("batch_size", result.batch_size.to_string()),
        ("img_size", subject.input_size.to_string()),
        // In millions, as the other two.
        ("param_count", format!("{:.2}", subject.param_count as f64 / 1e6)),
        ("gmacs", format!("{:.2}", subject.gmacs)),
        ("macts", format!("{:.2}", subject.macts)),
    ]);
    let before = named(vec![
        ("program", result.program.clone()),
        ("configuration", result.configuration.clone().unwrap_or_default()),
        ("model", subject.model.clone()),
        ("mode", result.mode.name().replace(' ', "_")),
        ("precision", result.precision.clone()),
        ("latency_min_ms", latency.min.to_string()),
        ("latency_median_ms", latency.median.to_string()),
    ]);
    let after = named(vec![
        ("latency_max_ms", latency.max.to_string()),
        ("latency_cv", latency.cv.to_string()),
        ("enqueue_median_ms", median(&result.enqueue_ms)),
        ("h2d_median_ms", median(&result.h2d_ms)),
        ("compute_median_ms", median(&result.compute_ms)),
        ("d2h_median_ms", median(&result.d2h_ms)),
        ("stable", result.windows.as_ref().map(|windows| windows.stable.to_string()).unwrap_or_default()),
        ("steps", result.steps.to_string()),
        ("images", result.images.to_string()),
        ("failed", result.failed.to_string()),
        ("sequential_share", number(result.sequential_share)),
        ("peak_resident_bytes", number(result.peak_resident_bytes)),
        ("device", bench.machine.device.clone()),
    ]);
    timm.chain(before).chain(percentiles.iter().map(percentile)).chain(after).collect()
}

/// Nothing where it is not known.
fn number(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn named(cells: Vec<(&str, String)>) -> impl Iterator<Item = (String, String)> {
    cells.into_iter().map(|(name, cell)| (name.to_string(), cell))
}

//! Figures over a run's step times.

use serde::Serialize;

/// Milliseconds a step.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub min: f64,
    pub mean: f64,
    pub median: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// Standard deviation over mean.
    pub cv: f64,
}

impl Latency {
    /// Of `seconds`, which has at least one value.
    pub fn of(seconds: &[f64]) -> Self {
        let mut ms: Vec<f64> = seconds.iter().map(|s| s * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let mean = ms.iter().sum::<f64>() / ms.len() as f64;
        let variance = ms.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / ms.len() as f64;
        Latency {
            min: ms[0],
            mean,
            median: percentile(&ms, 50.0),
            p90: percentile(&ms, 90.0),
            p95: percentile(&ms, 95.0),
            p99: percentile(&ms, 99.0),
            max: ms[ms.len() - 1],
            cv: variance.sqrt() / mean,
        }
    }
}

/// Linear interpolation between the two nearest ranks, NumPy's default. `sorted` ascends and is not empty.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = percent / 100.0 * (sorted.len() - 1) as f64;
    let below = sorted[rank.floor() as usize];
    let above = sorted[rank.ceil() as usize];
    below + (above - below) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([15, 20, 35, 40, 50], [50, 90, 95, 99]), mean 32, population deviation 12.884098726725126
        let latency = Latency::of(&[0.035, 0.050, 0.015, 0.040, 0.020]);
        let found = [latency.min, latency.mean, latency.median, latency.p90, latency.p95, latency.p99, latency.max];
        for (found, expected) in found.iter().zip([15.0, 32.0, 35.0, 46.0, 48.0, 49.6, 50.0]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        assert!((latency.cv - 12.884098726725126 / 32.0).abs() < 1e-12);
    }
}

//! Figures over measured values, and the comparison of two series of them.

use std::f64::consts::FRAC_PI_2;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The percentiles of a [`Spread`] where none are asked for.
pub const PERCENTILES: [f64; 3] = [90.0, 95.0, 99.0];

/// How values spread, in their own unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least value.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The 50th percentile.
    pub median: f64,
    /// The greatest value.
    pub max: f64,
    /// Standard deviation over mean.
    pub cv: f64,
    /// By name, `p99` or `p99.9`.
    #[serde(flatten)]
    pub percentiles: BTreeMap<String, f64>,
}

impl Spread {
    /// Of `values`, of which there is at least one, with [`PERCENTILES`].
    pub fn of(values: Vec<f64>) -> Self {
        Self::with(values, &PERCENTILES)
    }

    /// Of `values`, of which there is at least one, with `percents`, from 0 to 100.
    pub fn with(mut values: Vec<f64>, percents: &[f64]) -> Self {
        values.sort_by(f64::total_cmp);
        let mean = mean(&values);
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
        Spread {
            min: values[0],
            mean,
            median: percentile(&values, 50.0),
            max: values[values.len() - 1],
            cv: if mean == 0.0 { 0.0 } else { variance.sqrt() / mean },
            percentiles: percents.iter().map(|&p| (format!("p{p}"), percentile(&values, p))).collect(),
        }
    }

    /// A percentile that it was made with.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.percentiles.get(&format!("p{percent}")).copied()
    }

    /// Every figure with its name, in the order of a table's columns.
    pub fn figures(&self) -> impl Iterator<Item = (&str, f64)> {
        let first = [("min", self.min), ("mean", self.mean), ("median", self.median)];
        let percentiles = self.percentiles.iter().map(|(name, &value)| (&**name, value));
        first.into_iter().chain(percentiles).chain([("max", self.max), ("cv", self.cv)])
    }
}

/// How many times as fast one thing is as another, from pairs measured close to each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeedUp {
    /// Geometric mean of the pairs' ratios.
    pub ratio: f64,
    /// The 95 % confidence interval's lower end.
    #[serde(rename = "low_95")]
    pub low: f64,
    /// Its upper end.
    #[serde(rename = "high_95")]
    pub high: f64,
    /// Pairs that it comes from.
    pub pairs: usize,
    /// Whether the interval leaves 1 out.
    #[serde(rename = "difference_shown")]
    pub shown: bool,
}

impl SpeedUp {
    /// Of `rates` over `baseline`, at least two positive values each, paired by position. Logarithms of the ratios are taken
    /// to be normal: what changes both of a pair alike, such as a clock that falls, leaves their ratio as it is.
    pub fn of(rates: &[f64], baseline: &[f64]) -> Self {
        let logs: Vec<f64> = rates.iter().zip(baseline).map(|(rate, base)| (rate / base).ln()).collect();
        let pairs = logs.len();
        let mean = mean(&logs);
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (pairs - 1) as f64;
        let reach = t_975(pairs - 1) * (variance / pairs as f64).sqrt();
        let (low, high) = ((mean - reach).exp(), (mean + reach).exp());
        SpeedUp { ratio: mean.exp(), low, high, pairs, shown: low > 1.0 || high < 1.0 }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Linear interpolation between the two nearest ranks, NumPy's default. `sorted` ascends and is not empty.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = percent / 100.0 * (sorted.len() - 1) as f64;
    let below = sorted[rank.floor() as usize];
    let above = sorted[rank.ceil() as usize];
    below + (above - below) * rank.fract()
}

/// The 97.5 % quantile of Student's t distribution with `freedom` degrees of freedom, at least one.
fn t_975(freedom: usize) -> f64 {
    // Bisection over the angle whose tangent is t / sqrt(freedom).
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if within(middle, freedom) < 0.95 { low = middle } else { high = middle }
    }
    low.tan() * (freedom as f64).sqrt()
}

/// The probability that |t| is at most sqrt(freedom) * tan(angle): Abramowitz and Stegun, 26.7.3 and 26.7.4.
fn within(angle: f64, freedom: usize) -> f64 {
    let (sin, cos) = angle.sin_cos();
    let odd = freedom % 2;
    // Even: sin * (1 + 1/2 cos^2 + 1*3/(2*4) cos^4 + ...). Odd: 2/pi * (angle + sin * (cos + 2/3 cos^3 + ...)).
    let (mut term, mut sum) = (if odd == 1 { cos } else { 1.0 }, 0.0);
    for power in (odd..freedom.saturating_sub(1)).step_by(2) {
        sum += term;
        term *= cos * cos * (power + 1) as f64 / (power + 2) as f64;
    }
    if odd == 1 { (angle + sin * sum) / FRAC_PI_2 } else { sin * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([15, 20, 35, 40, 50], [50, 90, 95, 99]), mean 32, population deviation 12.884098726725126
        let spread = Spread::of(vec![35.0, 50.0, 15.0, 40.0, 20.0]);
        let expected = [("min", 15.0), ("mean", 32.0), ("median", 35.0), ("p90", 46.0), ("p95", 48.0), ("p99", 49.6)];
        for ((name, found), expected) in spread.figures().zip(expected.into_iter().chain([("max", 50.0)])) {
            assert!(name == expected.0 && (found - expected.1).abs() < 1e-9, "{name} {found} {expected:?}");
        }
        assert!((spread.cv - 12.884098726725126 / 32.0).abs() < 1e-12);
    }

    /// numpy.percentile(values, [2.5, 50, 99.9]) and numpy.std(values) / numpy.mean(values).
    #[test]
    fn other_percentiles_and_deviations_are_numpys() {
        let values = vec![35.0, 50.0, 15.0, 40.0, 20.0, 22.5, 31.25, 18.0];
        let spread = Spread::with(values, &[2.5, 99.9]);
        close(spread.percentile(2.5).unwrap(), 15.525);
        close(spread.median, 26.875);
        close(spread.percentile(99.9).unwrap(), 49.93);
        close(spread.mean, 28.96875);
        close(spread.cv, 0.3942128983825511);
        assert_eq!(spread.percentile(90.0), None);
        let names: Vec<&str> = spread.figures().map(|(name, _)| name).collect();
        assert_eq!(names, ["min", "mean", "median", "p2.5", "p99.9", "max", "cv"]);
    }

    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
    }

    #[test]
    fn t_quantiles_are_scipys() {
        // scipy.stats.t.ppf(0.975, freedom)
        for (freedom, expected) in [
            (1, 12.706204736174694),
            (2, 4.302652729749462),
            (3, 3.1824463052837078),
            (4, 2.7764451051977934),
            (9, 2.262157162798205),
            (10, 2.228138851986274),
            (29, 2.045229642132703),
            (120, 1.9799304050824402),
            (1000, 1.9623390808264083),
        ] {
            close(t_975(freedom), expected);
        }
    }

    /// numpy.exp of the mean of log(rates / baseline), and of scipy.stats.t.interval(0.95, 5, mean, scipy.stats.sem(logs)).
    #[test]
    fn speed_ups_and_their_intervals_are_scipys() {
        let rates = [110.0, 121.0, 105.0, 130.0, 118.0, 112.0];
        let faster = SpeedUp::of(&rates, &[100.0, 110.0, 101.0, 119.0, 103.0, 109.0]);
        close(faster.ratio, 1.083463617331912);
        close(faster.low, 1.0384965888226614);
        close(faster.high, 1.1303777236406616);
        assert!(faster.shown && faster.pairs == 6);
        let unclear = SpeedUp::of(&rates, &[100.0, 125.0, 101.0, 139.0, 103.0, 120.0]);
        close(unclear.ratio, 1.0170860081214994);
        close(unclear.low, 0.9285534123631134);
        close(unclear.high, 1.1140597128213416);
        assert!(!unclear.shown);
    }

    /// A clock that falls to half during the run changes both of a pair, and so nothing.
    #[test]
    fn what_changes_both_of_a_pair_changes_no_speed_up() {
        let baseline: Vec<f64> = (0..10).map(|round| 100.0 / (1.0 + 0.1 * f64::from(round))).collect();
        let rates: Vec<f64> = baseline.iter().map(|rate| 1.03 * rate).collect();
        let found = SpeedUp::of(&rates, &baseline);
        for value in [found.ratio, found.low, found.high] {
            close(value, 1.03);
        }
        assert!(found.shown);
    }
}

//! Softmax and the best classes.

use crate::backend::{Prediction, Score};

/// Finds the best classes, in memory that it keeps from call to call.
#[derive(Debug, Default)]
pub struct TopK {
    order: Vec<usize>,
    predictions: Vec<Prediction>,
}

impl TopK {
    /// The `min(k, classes)` best classes of each image of `logits` (N, classes), best first. Equal logits keep class
    /// order; NaN counts as minus infinity.
    ///
    /// Probabilities are computed in f64 over all classes.
    pub fn find(&mut self, logits: &[f32], classes: usize, k: usize, score: Score) -> &[Prediction] {
        self.predictions.clear();
        for logits in logits.chunks_exact(classes) {
            self.find_one(logits, k.min(classes), score);
        }
        &self.predictions
    }

    fn find_one(&mut self, logits: &[f32], k: usize, score: Score) {
        // Adding zero makes -0 a 0, which total_cmp would tell apart.
        let key = |index: usize| if logits[index].is_nan() { f32::NEG_INFINITY } else { logits[index] + 0.0 };
        let best_first = |a: &usize, b: &usize| key(*b).total_cmp(&key(*a)).then(a.cmp(b));
        self.order.clear();
        self.order.extend(0..logits.len());
        if k > 0 && k < logits.len() {
            self.order.select_nth_unstable_by(k - 1, best_first);
        }
        self.order.truncate(k);
        self.order.sort_unstable_by(best_first);

        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| (f64::from(logit) - f64::from(max)).exp();
        let sum: f64 = logits.iter().map(|&logit| weight(logit)).sum();
        self.predictions.extend(self.order.iter().map(|&index| {
            let score = match score {
                Score::Prob => (weight(logits[index]) / sum) as f32,
                Score::Logit => logits[index],
            };
            Prediction { index, score }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_ties_and_scores() {
        let logits = [1.0, 3.0, -1000.0, 3.0, f32::NAN, 2.0];
        let mut found = TopK::default();
        let mut indices = |k| found.find(&logits, 6, k, Score::Logit).iter().map(|p| p.index).collect::<Vec<_>>();
        assert_eq!(indices(3), [1, 3, 5]);
        assert_eq!(indices(99), [1, 3, 5, 0, 2, 4]);
        let zeros = TopK::default().find(&[-0.0, 0.0], 2, 2, Score::Logit).iter().map(|p| p.index).collect::<Vec<_>>();
        assert_eq!(zeros, [0, 1]);
        assert_eq!(indices(0), [0usize; 0]);

        let mut scores =
            |logits: &[f32]| found.find(logits, 2, 2, Score::Prob).iter().map(|p| p.score).collect::<Vec<_>>();
        let two_images = scores(&[0.0, f32::ln(3.0), 1e30, -1e30]);
        for (found, expected) in two_images.iter().zip([0.75, 0.25, 1.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{two_images:?}");
        }
    }
}

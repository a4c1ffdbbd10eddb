//! Softmax and the best classes.

use crate::backend::{Prediction, Score};

/// The `min(k, classes)` best classes of one image's logits, best first. Equal logits keep class order; NaN comes last.
///
/// Probabilities are computed in f64 over all classes.
pub fn top_k(logits: &[f32], k: usize, score: Score) -> Vec<Prediction> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let key = |index: usize| if logits[index].is_nan() { f32::NEG_INFINITY } else { logits[index] };
    let best_first = |a: &usize, b: &usize| key(*b).total_cmp(&key(*a)).then(a.cmp(b));
    let k = k.min(order.len());
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, best_first);
    }
    order.truncate(k);
    order.sort_unstable_by(best_first);

    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(logit - max).exp();
    let sum: f64 = logits.iter().map(|&logit| weight(logit)).sum();
    let score = |index: usize| match score {
        Score::Prob => (weight(logits[index]) / sum) as f32,
        Score::Logit => logits[index],
    };
    order.into_iter().map(|index| Prediction { index, score: score(index) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_ties_and_scores() {
        let logits = [1.0, 3.0, -1000.0, 3.0, f32::NAN, 2.0];
        let indices = |k| top_k(&logits, k, Score::Logit).iter().map(|p| p.index).collect::<Vec<_>>();
        assert_eq!(indices(3), [1, 3, 5]);
        assert_eq!(indices(99), [1, 3, 5, 0, 2, 4]);
        assert_eq!(indices(0), [0usize; 0]);

        let probabilities = top_k(&[0.0, f32::ln(3.0)], 2, Score::Prob);
        assert!((probabilities[0].score - 0.75).abs() < 1e-6 && (probabilities[1].score - 0.25).abs() < 1e-6);
        let extreme = top_k(&[1e30, -1e30], 2, Score::Prob);
        assert_eq!((extreme[0].score, extreme[1].score), (1.0, 0.0));
    }
}

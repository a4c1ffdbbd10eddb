//! How a dimension of a layer's output is covered with tiles. Pure arithmetic.

use super::matrices::{MAX_POINTS, MIN_POINTS};

/// Outputs in a row, of one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// The first output, and the first input where padding counts.
    pub first: usize,
    /// Inputs that it takes: it gives points - taps + 1 outputs, of which the last tile's may lie beyond the end.
    pub points: usize,
}

/// The tiles of `outputs` outputs of a filter of `taps` taps that take the fewest inputs together, and so the fewest
/// multiplications; large ones first.
pub fn cover(outputs: usize, taps: usize) -> Vec<Tile> {
    // best[covered]: fewest inputs, fewest tiles, and of those the most even ones, by their squares; the last tile's points.
    let mut best = vec![(0, 0, 0, 0)];
    for covered in 1..=outputs {
        let with = |points: usize| {
            let (inputs, tiles, squares, _) = best[covered.saturating_sub(points + 1 - taps)];
            (inputs + points, tiles + 1, squares + points * points, points)
        };
        let all = (MIN_POINTS.max(taps)..=MAX_POINTS).map(with);
        best.push(all.min().expect("some tile has as many taps"));
    }
    let mut points = vec![];
    let mut left = outputs;
    while left > 0 {
        let last = best[left].3;
        points.push(last);
        left = left.saturating_sub(last + 1 - taps);
    }
    points.sort_unstable_by(|a, b| b.cmp(a));
    let mut first = 0;
    let place = |points: usize| {
        let tile = Tile { first, points };
        first += points + 1 - taps;
        tile
    };
    points.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(outputs: usize, taps: usize) -> Vec<usize> {
        cover(outputs, taps).iter().map(|tile| tile.points + 1 - taps).collect()
    }

    #[test]
    fn published_sizes_are_covered_exactly() {
        assert_eq!(sizes(55, 3), [5; 11]);
        assert_eq!(sizes(27, 5), [3; 9]);
        assert_eq!(sizes(13, 3), [5, 4, 4]);
        assert_eq!(sizes(13, 5), [3, 3, 3, 2, 2]);
    }

    /// Every output is in one tile; of the last tile alone some may be beyond the end.
    #[test]
    fn tiles_follow_each_other() {
        for taps in [3, 5] {
            for outputs in 1..=260 {
                let tiles = cover(outputs, taps);
                let mut end = 0;
                for tile in &tiles {
                    assert!(tile.first == end && end < outputs, "{outputs} outputs of {taps} taps: {tiles:?}");
                    assert!((MIN_POINTS..=MAX_POINTS).contains(&tile.points));
                    end += tile.points + 1 - taps;
                }
                assert!(end >= outputs, "{outputs} outputs of {taps} taps: {tiles:?}");
                assert!(tiles.is_sorted_by_key(|tile| std::cmp::Reverse(tile.points)));
            }
        }
    }
}

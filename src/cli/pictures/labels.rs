//! Places for the names of points, so that none covers another, a point or a line.

use super::canvas::Edges;

/// Pixels between a point and its name.
const GAP: i32 = 9;

/// Where the name of each of `points` stands, given their sizes: beside its point where that is free, else further off.
/// `taken` is kept clear, and all stand within `bounds`. A name that finds no free place gets the one that covers least.
pub fn place(points: &[(i32, i32)], sizes: &[(i32, i32)], taken: &[Edges], bounds: Edges) -> Vec<Edges> {
    let around = |&(x, y): &(i32, i32)| Edges::new(x - 6, y - 6, 12, 12);
    let mut taken: Vec<Edges> = taken.iter().copied().chain(points.iter().map(around)).collect();
    let mut places = vec![];
    for (&point, &size) in points.iter().zip(sizes) {
        let cost = |edges: &Edges| {
            let outside = if bounds.holds(edges) { 0 } else { 1000 };
            let crossed = leader(point, edges).map_or(0, |[from, to]| {
                let at = |part: i32| (from.0 + (to.0 - from.0) * part / 8, from.1 + (to.1 - from.1) * part / 8);
                let steps = (2..8).map(at).map(|(x, y)| Edges::new(x - 1, y - 1, 2, 2));
                steps
                    .filter(|step| taken.iter().any(|taken| taken.meets(step) && !taken.meets(&around(&point))))
                    .count()
            });
            outside + crossed + 3 * taken.iter().filter(|taken| taken.meets(edges)).count()
        };
        let candidates: Vec<Edges> = candidates(point, size).collect();
        // The first of several that are equal.
        let best = candidates.iter().min_by_key(|edges| cost(edges)).copied().expect("there are several");
        taken.push(best);
        places.push(best);
    }
    places
}

/// The line from a point to a name that does not stand beside it.
pub fn leader((x, y): (i32, i32), name: &Edges) -> Option<[(i32, i32); 2]> {
    let near = (x.clamp(name.left, name.right), y.clamp(name.top, name.bottom));
    ((near.0 - x).abs().max((near.1 - y).abs()) > 12).then_some([(x, y), near])
}

/// Places around a point, the nearest first.
fn candidates((x, y): (i32, i32), (width, height): (i32, i32)) -> impl Iterator<Item = Edges> {
    let steps = [0, 12, 26, 42, 60, 80, 104, 132];
    steps.into_iter().flat_map(move |away| {
        let (side, above, below) = (GAP + away, y - GAP - away - height, y + GAP + away);
        let middle = y - height / 2;
        let corners = [
            (x + side, middle),
            (x - side - width, middle),
            (x - width / 2, above),
            (x - width / 2, below),
            (x + side / 2, above),
            (x + side / 2, below),
            (x - side / 2 - width, above),
            (x - side / 2 - width, below),
        ];
        corners.map(|(left, top)| Edges::new(left, top, width, height))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_cluster_cover_nothing() {
        let bounds = Edges::new(0, 0, 600, 400);
        let points: Vec<(i32, i32)> = (0..12).map(|index| (300 + 7 * (index % 4), 200 + 9 * (index / 4))).collect();
        let taken = [Edges::new(330, 0, 20, 400)];
        let places = place(&points, &[(60, 16); 12], &taken, bounds);
        for (index, place) in places.iter().enumerate() {
            assert!(bounds.holds(place) && !place.meets(&taken[0]), "{place:?}");
            assert!(places.iter().skip(index + 1).all(|other| !other.meets(place)), "{places:?}");
            assert!(!points.iter().any(|&(x, y)| place.meets(&Edges::new(x - 6, y - 6, 12, 12))), "{place:?}");
        }
        assert_eq!(
            place(&[(50, 50)], &[(30, 10)], &[], bounds),
            [Edges::new(59, 45, 30, 10)],
            "beside it where it can"
        );
        assert_eq!(place(&[(590, 50)], &[(30, 10)], &[], bounds), [Edges::new(551, 45, 30, 10)], "on the other side");
    }
}

//! The matrices of Winograd's minimal filtering, made from their points in exact arithmetic when the crate is compiled.
//!
//! Toom and Cook: a correlation of `n` inputs with `r` taps, which gives n - r + 1 outputs, is a product of polynomials and takes
//! n multiplications, one a point: y = A^T ((G g) * (B^T d)). G and A^T evaluate at the points, B^T interpolates, transposed.
//! Infinity stands for the leading coefficient. Tiles of `n` inputs use the first `n` of [`POINTS`], so that filters evaluated at
//! all of them serve every tile.
//!
//! What is divided by in B^T is divided by in G instead, where it costs nothing: the largest tiles' rows of B^T have a one each.

/// Most inputs a tile has in a dimension, and least.
pub const MAX_POINTS: usize = 7;
pub const MIN_POINTS: usize = 4;

/// Chosen for small errors in float32, and so that tiles fit AlexNet's outputs: 55 = 11 x 5, 27 = 9 x 3, 13 = 5 + 4 + 4.
pub const POINTS: [Point; MAX_POINTS] = [
    Point::Infinity,
    Point::Finite(Fraction(0, 1)),
    Point::Finite(Fraction(1, 1)),
    Point::Finite(Fraction(-1, 1)),
    Point::Finite(Fraction(1, 2)),
    Point::Finite(Fraction(-2, 3)),
    Point::Finite(Fraction(3, 1)),
];

/// Where polynomials are evaluated.
#[derive(Clone, Copy)]
pub enum Point {
    Finite(Fraction),
    Infinity,
}

/// Numerator and denominator, in lowest terms, the latter positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction(i64, i64);

impl Fraction {
    const fn is(self, other: Fraction) -> bool {
        self.0 == other.0 && self.1 == other.1
    }

    const ZERO: Fraction = Fraction(0, 1);
    const ONE: Fraction = Fraction(1, 1);

    const fn new(numerator: i64, denominator: i64) -> Fraction {
        let (mut a, mut b) = (numerator.abs(), denominator.abs());
        while b > 0 {
            (a, b) = (b, a % b);
        }
        let sign = if denominator < 0 { -1 } else { 1 };
        Fraction(sign * numerator / a, sign * denominator / a)
    }

    const fn plus(self, other: Fraction) -> Fraction {
        Fraction::new(self.0 * other.1 + other.0 * self.1, self.1 * other.1)
    }

    const fn minus(self, other: Fraction) -> Fraction {
        self.plus(Fraction(-other.0, other.1))
    }

    const fn times(self, other: Fraction) -> Fraction {
        Fraction::new(self.0 * other.0, self.1 * other.1)
    }

    const fn over(self, other: Fraction) -> Fraction {
        Fraction::new(self.0 * other.1, self.1 * other.0)
    }

    /// Rounded: numerators and denominators are exact in f64.
    pub const fn value(self) -> f64 {
        self.0 as f64 / self.1 as f64
    }
}

/// Rows of at most [`MAX_POINTS`] elements, the rest zeros.
pub type Exact = [[Fraction; MAX_POINTS]; MAX_POINTS];

/// G (points, taps): [`powers`], each row divided by its [`divisor`].
pub const fn filter(taps: usize) -> Exact {
    let mut rows = powers(taps);
    let mut row = 0;
    while row < MAX_POINTS {
        let mut tap = 0;
        while tap < taps {
            rows[row][tap] = rows[row][tap].over(divisor(row, MAX_POINTS));
            tap += 1;
        }
        row += 1;
    }
    rows
}

/// The product of the differences between a point and the other finite ones of the first `n`; of infinity 1.
const fn divisor(point: usize, n: usize) -> Fraction {
    let mut product = Fraction::ONE;
    let mut other = 0;
    while other < n {
        if let (Point::Finite(point), Point::Finite(root)) = (POINTS[point], POINTS[other])
            && !point.is(root)
        {
            product = product.times(point.minus(root));
        }
        other += 1;
    }
    product
}

/// V (points, terms): powers of the points, from the zeroth up to `terms` - 1; of infinity the last power alone.
const fn powers(terms: usize) -> Exact {
    let mut rows = [[Fraction::ZERO; MAX_POINTS]; MAX_POINTS];
    let mut row = 0;
    while row < MAX_POINTS {
        match POINTS[row] {
            Point::Infinity if terms == 0 => {}
            Point::Infinity => rows[row][terms - 1] = Fraction::ONE,
            Point::Finite(point) => {
                let mut power = Fraction::ONE;
                let mut term = 0;
                while term < terms {
                    rows[row][term] = power;
                    power = power.times(point);
                    term += 1;
                }
            }
        }
        row += 1;
    }
    rows
}

/// B^T (n, n): row i has the coefficients of the polynomial that is point i's [`divisor`] of all points at that point, and 0 at the
/// others of the first `n`.
const fn interpolation(n: usize) -> Exact {
    let mut rows = [[Fraction::ZERO; MAX_POINTS]; MAX_POINTS];
    let mut row = 0;
    while row < n {
        // The product of x - point over the others; infinity's factor is that the degree falls by one.
        let mut polynomial = [Fraction::ZERO; MAX_POINTS];
        polynomial[0] = Fraction::ONE;
        let scale = divisor(row, MAX_POINTS).over(divisor(row, n));
        let mut other = 0;
        while other < n {
            if let Point::Finite(root) = POINTS[other]
                && other != row
            {
                let mut power = MAX_POINTS - 1;
                while power > 0 {
                    polynomial[power] = polynomial[power - 1].minus(polynomial[power].times(root));
                    power -= 1;
                }
                polynomial[0] = Fraction::ZERO.minus(polynomial[0].times(root));
            }
            other += 1;
        }
        let mut power = 0;
        while power < MAX_POINTS {
            rows[row][power] = polynomial[power].times(scale);
            power += 1;
        }
        row += 1;
    }
    rows
}

/// What a kernel multiplies a column of vectors by.
pub trait Matrix {
    const ROWS: usize;
    const COLUMNS: usize;
    /// Rounded to f32.
    const ENTRIES: [[f32; MAX_POINTS]; MAX_POINTS];
    /// Where a row's sum begins: at a one, where there is any.
    const FIRST: [usize; MAX_POINTS] = first(Self::ENTRIES);
}

const fn first(matrix: [[f32; MAX_POINTS]; MAX_POINTS]) -> [usize; MAX_POINTS] {
    let mut result = [0; MAX_POINTS];
    let mut row = 0;
    while row < MAX_POINTS {
        let mut column = MAX_POINTS;
        while column > 0 {
            column -= 1;
            let (entry, begin) = (matrix[row][column], matrix[row][result[row]]);
            if entry == 1.0 || entry != 0.0 && begin != 1.0 {
                result[row] = column;
            }
        }
        row += 1;
    }
    result
}

/// B^T of tiles of `N` inputs.
pub struct Input<const N: usize>;

impl<const N: usize> Matrix for Input<N> {
    const ROWS: usize = N;
    const COLUMNS: usize = N;
    const ENTRIES: [[f32; MAX_POINTS]; MAX_POINTS] = round(interpolation(N));
}

/// A^T of tiles of `N` inputs and `R` taps, for products of which those at 1 and -1 are replaced by their sum and difference: the
/// one is in the even rows, the other in the odd ones.
pub struct Output<const N: usize, const R: usize>;

impl<const N: usize, const R: usize> Matrix for Output<N, R> {
    /// None where a tile has fewer inputs than there are taps.
    const ROWS: usize = (N + 1).saturating_sub(R);
    const COLUMNS: usize = N;
    const ENTRIES: [[f32; MAX_POINTS]; MAX_POINTS] = round(halve(transpose(powers(Self::ROWS))));
}

/// Places of 1 and -1 among the points.
pub const ONE: usize = 2;
pub const MINUS_ONE: usize = 3;

/// Columns of 1 and -1, whose entries are 1 and 1, or 1 and -1, to those of their sum and difference.
const fn halve(matrix: Exact) -> Exact {
    let mut result = matrix;
    let mut row = 0;
    while row < MAX_POINTS {
        let (one, minus_one) = (matrix[row][ONE], matrix[row][MINUS_ONE]);
        let half = Fraction(1, 2);
        result[row][ONE] = one.plus(minus_one).times(half);
        result[row][MINUS_ONE] = one.minus(minus_one).times(half);
        row += 1;
    }
    result
}

const fn transpose(matrix: Exact) -> Exact {
    let mut result = matrix;
    let mut row = 0;
    while row < MAX_POINTS {
        let mut column = 0;
        while column < MAX_POINTS {
            result[row][column] = matrix[column][row];
            column += 1;
        }
        row += 1;
    }
    result
}

const fn round(matrix: Exact) -> [[f32; MAX_POINTS]; MAX_POINTS] {
    let mut result = [[0.0; MAX_POINTS]; MAX_POINTS];
    let mut row = 0;
    while row < MAX_POINTS {
        let mut column = 0;
        while column < MAX_POINTS {
            result[row][column] = matrix[row][column].value() as f32;
            column += 1;
        }
        row += 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three matrices give the correlation itself, in exact arithmetic: output k is the sum of tap t times input k + t.
    #[expect(clippy::needless_range_loop, reason = "indices are the mathematics")]
    #[test]
    fn they_make_a_correlation() {
        for r in 1..=5 {
            for n in r.max(MIN_POINTS)..=MAX_POINTS {
                let (inputs, taps, outputs) = (interpolation(n), filter(r), powers(n + 1 - r));
                for output in 0..n + 1 - r {
                    for tap in 0..r {
                        for input in 0..n {
                            let term = |point: usize| {
                                outputs[point][output].times(taps[point][tap]).times(inputs[point][input])
                            };
                            let sum = (0..n).map(term).fold(Fraction::ZERO, Fraction::plus);
                            let expected = if input == output + tap { Fraction::ONE } else { Fraction::ZERO };
                            assert_eq!(sum, expected, "n {n}, r {r}: output {output}, tap {tap}, input {input}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn entries_are_those_rounded() {
        // (x - 1) (x + 1) (x - 1/2) (x + 2/3) (x - 3), and x (x + 1) (x - 1/2) (x + 2/3) (x - 3).
        assert_eq!(Input::<7>::ENTRIES[1][..6], [-1.0, 2.5 / 3.0, 11.5 / 3.0, -5.5 / 3.0, -17.0 / 6.0, 1.0]);
        assert_eq!(Input::<7>::ENTRIES[2][..6], [0.0, 1.0, 1.0 / 6.0, -11.0 / 3.0, -11.0 / 6.0, 1.0]);
        assert!((1..7).all(|point| Input::<7>::ENTRIES[point][5] == 1.0) && Input::<7>::ENTRIES[0][6] == 1.0);
        assert_eq!(Output::<7, 3>::ENTRIES[4], [1.0, 0.0, 1.0, 0.0, 0.0625, (16.0f64 / 81.0) as f32, 81.0]);
        assert_eq!(Output::<7, 3>::ENTRIES[3][..5], [0.0, 0.0, 0.0, 1.0, 0.125]);
        assert_eq!((Output::<7, 3>::ROWS, Output::<7, 3>::COLUMNS, Input::<6>::ROWS), (5, 7, 6));
    }
}

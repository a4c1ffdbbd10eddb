//! B^T d B of a row of tiles, and A^T m A of a row of products: first along one dimension, then along the other, 8 channels at once.

use super::matrices::{Input, MAX_POINTS, MINUS_ONE, Matrix, ONE, Output};
use super::tiles::Tile;
use crate::cpu::vector::{Kernel, LANES, Vector, unrolled};

/// Where, in elements, the matrix of each point begins for the tiles of one row.
pub type Places = [[usize; MAX_POINTS]; MAX_POINTS];

/// Multiplies `x` by `M`. Zeros among the entries cost nothing, nor does a one of each row.
///
/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn apply<V: Vector, M: Matrix>(x: [V; MAX_POINTS]) -> [V; MAX_POINTS] {
    // SAFETY: the caller's promise.
    let mut y = [unsafe { V::splat(0.0) }; MAX_POINTS];
    unrolled!(row < M::ROWS, {
        let first = M::FIRST[row];
        // SAFETY: the caller's promise.
        let factor = |column: usize| unsafe { V::splat(M::ENTRIES[row][column]) };
        y[row] = if M::ENTRIES[row][first] == 1.0 { x[first] } else { x[first].mul(factor(first)) };
        unrolled!(column < M::COLUMNS, {
            let entry = M::ENTRIES[row][column];
            if entry != 0.0 && column != first {
                y[row] = if entry == 1.0 { y[row].add(x[column]) } else { x[column].mul_add(factor(column), y[row]) };
            }
        });
    });
    y
}

/// Products with those at 1 and -1 replaced by their sum and difference.
#[inline(always)]
fn halved<V: Vector>(mut x: [V; MAX_POINTS]) -> [V; MAX_POINTS] {
    (x[ONE], x[MINUS_ONE]) = (x[ONE].add(x[MINUS_ONE]), x[ONE].sub(x[MINUS_ONE]));
    x
}

/// The input of one row of tiles of one image, to the matrices of its points, (channels / 8, tiles, 8) each.
///
/// Its promises: each of `rows` can be read at `column * pitch + channel` for the first `columns` columns and all `channels`;
/// `middle` has 7 * `width` * 8 elements, with `width` at least the last tile's end and `before` + `columns`; `points` can be
/// written at each place of `places` + (`block` * `steps` of the point) + tile * 8 + lane for every tile that has the point and every
/// block of 8 channels, the last one filled up with zeros. Nothing else touches either meanwhile.
pub struct InputRow<'a> {
    /// The first element of each row of the input that the tiles take.
    pub rows: &'a [*const f32],
    /// Elements from a column to the next.
    pub pitch: usize,
    pub columns: usize,
    /// Columns of padding before the first one.
    pub before: usize,
    pub channels: std::ops::Range<usize>,
    pub tiles: &'a [Tile],
    pub width: usize,
    pub middle: *mut f32,
    pub points: *mut f32,
    pub places: &'a Places,
    /// Elements from a block of channels to the next.
    pub steps: &'a Places,
}

impl Kernel for InputRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the promises are the methods' too; the matrix is of as many points as there are rows.
        unsafe {
            match self.rows.len() {
                4 => self.with::<V, 4>(),
                5 => self.with::<V, 5>(),
                6 => self.with::<V, 6>(),
                _ => self.with::<V, 7>(),
            }
        }
    }
}

impl InputRow<'_> {
    #[inline(always)]
    unsafe fn with<V: Vector, const N: usize>(&self) {
        // SAFETY: columns outside the input are within the width.
        unsafe {
            for row in 0..N {
                for column in (0..self.before).chain(self.before + self.columns..self.width) {
                    V::splat(0.0).store(self.middle.add((row * self.width + column) * LANES));
                }
            }
            let mut channel = self.channels.start;
            while channel < self.channels.end {
                self.down::<V, N>(channel);
                let block = channel / LANES;
                let mut tile = 0;
                while tile < self.tiles.len() {
                    // Tiles of one size follow each other.
                    let points = self.tiles[tile].points;
                    let end = tile + self.tiles[tile..].iter().take_while(|other| other.points == points).count();
                    match points {
                        4 => self.across::<V, N, 4>(block, tile..end),
                        5 => self.across::<V, N, 5>(block, tile..end),
                        6 => self.across::<V, N, 6>(block, tile..end),
                        _ => self.across::<V, N, 7>(block, tile..end),
                    }
                    tile = end;
                }
                channel += LANES;
            }
        }
    }

    /// Columns of `N` rows, to the middle.
    #[inline(always)]
    unsafe fn down<V: Vector, const N: usize>(&self, channel: usize) {
        let part = (self.channels.end - channel).min(LANES);
        // SAFETY: rows are read at columns and channels that are there, the middle written within its width.
        unsafe {
            for column in 0..self.columns {
                let place = column * self.pitch + channel;
                let mut x = [V::splat(0.0); MAX_POINTS];
                if part == LANES {
                    unrolled!(row < N, {
                        x[row] = V::load(self.rows.get_unchecked(row).add(place));
                    });
                } else {
                    unrolled!(row < N, {
                        x[row] = V::load_part(self.rows.get_unchecked(row).add(place), part);
                    });
                }
                let y = apply::<V, Input<N>>(x);
                let middle = self.middle.add((self.before + column) * LANES);
                unrolled!(row < N, {
                    y[row].store(middle.add(row * self.width * LANES));
                });
            }
        }
    }

    /// Rows of the middle, to the points of `tiles`, which have `M` columns each.
    #[inline(always)]
    unsafe fn across<V: Vector, const N: usize, const M: usize>(&self, block: usize, tiles: std::ops::Range<usize>) {
        // SAFETY: tiles end within the middle's width, and points have a place for each.
        unsafe {
            for row in 0..N {
                let mut points = [self.points; M];
                for (column, point) in points.iter_mut().enumerate() {
                    *point = point.add(self.places[row][column] + block * self.steps[row][column]);
                }
                for tile in tiles.clone() {
                    let first = self.tiles.get_unchecked(tile).first;
                    let middle = self.middle.add((row * self.width + first) * LANES);
                    let mut x = [V::splat(0.0); MAX_POINTS];
                    unrolled!(column < M, {
                        x[column] = V::load(middle.add(column * LANES));
                    });
                    let y = apply::<V, Input<M>>(x);
                    unrolled!(column < M, {
                        y[column].store(points[column].add(tile * LANES));
                    });
                }
            }
        }
    }
}

/// The products of one row of tiles of one image, (filters / 8, tiles, 8) a point, to the rows of the output, + bias, + ReLU.
///
/// Its promises: `points` can be read as [`InputRow`]'s are written; `middle` has 7 * `width` * 8 elements, with `width` at least
/// the last tile's last output; `bias` has `filters`, filled up to a multiple of 8; `target` can be written at row * `row_pitch` +
/// column * `pitch` + filter, for the first `columns` columns and the first `height` rows, at most as many as tiles have. Nothing
/// else touches either meanwhile.
pub struct OutputRow<'a> {
    /// Inputs that a tile takes from top to bottom.
    pub down: usize,
    pub taps: usize,
    pub tiles: &'a [Tile],
    pub points: *const f32,
    pub places: &'a Places,
    /// Elements from a block of filters to the next.
    pub steps: &'a Places,
    pub width: usize,
    pub middle: *mut f32,
    pub filters: usize,
    pub bias: *const f32,
    pub relu: bool,
    pub target: *mut f32,
    pub pitch: usize,
    pub row_pitch: usize,
    pub columns: usize,
    pub height: usize,
}

impl Kernel for OutputRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the promises are the methods' too.
        unsafe {
            match (self.down, self.taps) {
                (4, 3) => self.with::<V, 4, 3>(),
                (5, 3) => self.with::<V, 5, 3>(),
                (6, 3) => self.with::<V, 6, 3>(),
                (7, 3) => self.with::<V, 7, 3>(),
                (5, 5) => self.with::<V, 5, 5>(),
                (6, 5) => self.with::<V, 6, 5>(),
                _ => self.with::<V, 7, 5>(),
            }
        }
    }
}

impl OutputRow<'_> {
    #[inline(always)]
    unsafe fn with<V: Vector, const N: usize, const R: usize>(&self) {
        for block in 0..self.filters.div_ceil(LANES) {
            let mut tile = 0;
            while tile < self.tiles.len() {
                let points = self.tiles[tile].points;
                let end = tile + self.tiles[tile..].iter().take_while(|other| other.points == points).count();
                // SAFETY: the struct's promises.
                unsafe {
                    match points {
                        4 => self.across::<V, N, 4, R>(block, tile..end),
                        5 => self.across::<V, N, 5, R>(block, tile..end),
                        6 => self.across::<V, N, 6, R>(block, tile..end),
                        _ => self.across::<V, N, 7, R>(block, tile..end),
                    }
                }
                tile = end;
            }
            // SAFETY: the struct's promises.
            unsafe { self.down::<V, N, R>(block) };
        }
    }

    /// Points of `tiles`, which have `M` columns each, to the middle.
    #[inline(always)]
    unsafe fn across<V: Vector, const N: usize, const M: usize, const R: usize>(
        &self,
        block: usize,
        tiles: std::ops::Range<usize>,
    ) {
        if M < R {
            return; // no tile has fewer points than there are taps
        }
        // SAFETY: points have a place for each tile, and tiles end within the middle's width.
        unsafe {
            for row in 0..N {
                let mut points = [self.points; M];
                for (column, point) in points.iter_mut().enumerate() {
                    *point = point.add(self.places[row][column] + block * self.steps[row][column]);
                }
                for tile in tiles.clone() {
                    let mut x = [V::splat(0.0); MAX_POINTS];
                    unrolled!(column < M, {
                        x[column] = V::load(points[column].add(tile * LANES));
                    });
                    let y = apply::<V, Output<M, R>>(halved(x));
                    let first = self.tiles.get_unchecked(tile).first;
                    let middle = self.middle.add((row * self.width + first) * LANES);
                    unrolled!(column < Output::<M, R>::ROWS, {
                        y[column].store(middle.add(column * LANES));
                    });
                }
            }
        }
    }

    /// Columns of the middle, to the output.
    #[inline(always)]
    unsafe fn down<V: Vector, const N: usize, const R: usize>(&self, block: usize) {
        let part = (self.filters - block * LANES).min(LANES);
        // SAFETY: the middle has the columns, the bias the block, and the target rows and columns that are written.
        unsafe {
            let (zero, bias) = (V::splat(0.0), V::load(self.bias.add(block * LANES)));
            for column in 0..self.columns {
                let middle = self.middle.add(column * LANES);
                let mut x = [zero; MAX_POINTS];
                unrolled!(row < N, {
                    x[row] = V::load(middle.add(row * self.width * LANES));
                });
                let y = apply::<V, Output<N, R>>(halved(x));
                let target = self.target.add(column * self.pitch + block * LANES);
                unrolled!(row < Output::<N, R>::ROWS, {
                    if row < self.height {
                        let sum = y[row].add(bias);
                        let sum = if self.relu { zero.max(sum) } else { sum };
                        let target = target.add(row * self.row_pitch);
                        sum.store_part(target, part);
                    }
                });
            }
        }
    }
}

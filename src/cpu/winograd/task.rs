//! The convolution itself: input transform, products, output transform.

use std::ops::Range;

use super::filters::{Block, Filters, PANELS};
use super::matrices::MAX_POINTS;
use super::tiles::Tile;
use super::transform::{InputRow, OutputRow, Places};
use super::{Geometry, Shape};
use crate::cpu::gemm::{Product, WIDTH};
use crate::cpu::team::{Parts, Team};
use crate::cpu::vector::LANES;

/// Tiles that one thread takes through all three parts at once: enough to use each filter for many of them, few enough for the
/// caches.
const TILES: usize = 36;
/// Tiles that all threads together do, where there are fewer than that for each.
const SHARED_TILES: usize = 128;
/// Cache lines that are asked for ahead beside each product.
const LINES: usize = 16;

impl Filters {
    /// Convolution + bias, + ReLU: `source` (N, H, W, C) to `target` (N, P, Q, K).
    ///
    /// # Panics
    /// If the lengths are not those of `images` images.
    pub fn forward(&self, relu: bool, team: &Team<'_>, images: usize, source: &[f32], target: &mut [f32]) {
        let Geometry { input, output, down, across, .. } = &self.geometry;
        assert_eq!(source.len(), images * input.len(), "the input of {images} images");
        assert_eq!(target.len(), images * output.0 * output.1 * self.width(), "the output of {images} images");
        let run = Run { filters: self, relu, source, target: Parts::of(target) };
        let rows = images * down.len();
        let tasks = |tiles: usize| rows.div_ceil((tiles / across.len()).max(1));
        // Many tasks go to the threads one by one. A few are divided among them, so that none is idle.
        let (tasks, outer, inner) = match tasks(TILES) {
            few if few < 4 * team.threads && team.threads > 1 => (tasks(SHARED_TILES), team.alone(), *team),
            many => (many, *team, team.alone()),
        };
        outer.for_each(tasks, |task| run.task(&inner, rows * task / tasks..rows * (task + 1) / tasks));
    }
}

struct Run<'a> {
    filters: &'a Filters,
    relu: bool,
    source: &'a [f32],
    target: Parts<f32>,
}

/// A task's rows of tiles, and how many tiles have each point.
struct Tiles {
    /// Counted across images.
    rows: Range<usize>,
    counts: Places,
    /// Tiles of the points before.
    before: Places,
    /// Tiles and points.
    total: usize,
}

impl Tiles {
    fn new(geometry: &Geometry, rows: Range<usize>) -> Self {
        let down = |row: usize| geometry.down[row % geometry.down.len()].points;
        let (mut counts, mut before, mut total) = (Places::default(), Places::default(), 0);
        for a in 0..geometry.points().0 {
            let rows = rows.clone().filter(|&row| down(row) > a).count();
            for b in 0..geometry.points().1 {
                before[a][b] = total;
                counts[a][b] = rows * across(geometry, b);
                total += counts[a][b];
            }
        }
        Tiles { rows, counts, before, total }
    }

    /// Places of the tiles of row `row` in matrices whose rows have `columns` elements.
    fn places(&self, geometry: &Geometry, row: usize, columns: usize) -> Places {
        let mut places = Places::default();
        for (a, places) in places.iter_mut().enumerate().take(geometry.points().0) {
            let down = &geometry.down;
            let earlier = (self.rows.start..row).filter(|row| down[row % down.len()].points > a).count();
            for (b, place) in places.iter_mut().enumerate().take(geometry.points().1) {
                *place = self.before[a][b] * columns + earlier * across(geometry, b) * LANES;
            }
        }
        places
    }

    /// Elements from a block of columns to the next.
    fn steps(&self) -> Places {
        self.counts.map(|counts| counts.map(|count| count * LANES))
    }
}

/// Tiles of a row that have point `b`: the first ones, as large tiles come first.
fn across(geometry: &Geometry, b: usize) -> usize {
    geometry.across.iter().take_while(|tile| tile.points > b).count()
}

impl Run<'_> {
    /// Rows `rows` of tiles, counted across images.
    fn task(&self, team: &Team<'_>, rows: Range<usize>) {
        let filters = self.filters;
        let tiles = &Tiles::new(&filters.geometry, rows);
        let channels = filters.channels();
        team.scratch.with(tiles.total * channels, |points| {
            for group in 0..filters.geometry.conv.groups {
                let inputs = Parts::of(points);
                team.for_each(tiles.rows.len(), |row| self.input(team, tiles, tiles.rows.start + row, group, &inputs));
                let blocks: Vec<&Block> = filters.blocks.iter().filter(|block| block.group == group).collect();
                // Several threads take parts of blocks, so that none waits long for another.
                let parts = match team.threads {
                    1 => 1,
                    threads => (2 * threads).div_ceil(blocks.len()).next_power_of_two().min(PANELS),
                };
                let points = &*points;
                team.for_each(blocks.len() * parts, |task| {
                    let (block, part) = (blocks[task / parts], task % parts);
                    let panels = block.panels * part / parts..block.panels * (part + 1) / parts;
                    if !panels.is_empty() {
                        self.products(team, tiles, block, panels, points);
                    }
                });
            }
        });
    }

    /// The input transform of a row of tiles.
    fn input(&self, team: &Team<'_>, tiles: &Tiles, row: usize, group: usize, points: &Parts<f32>) {
        let Geometry { conv, input, down, across, .. } = &self.filters.geometry;
        let (image, tile) = (row / down.len(), down[row % down.len()]);
        let image = &self.source[image * input.len()..][..input.len()];
        let end = across[across.len() - 1];
        let width = end.first + end.points;
        let channels = self.filters.channels();
        let middle_len = MAX_POINTS * width * LANES;
        let blocks = if conv.stride > 1 { tile.points * width * channels } else { 0 };
        team.scratch.with(middle_len + blocks, |scratch| {
            let (middle, blocks) = scratch.split_at_mut(middle_len);
            let mut rows = [std::ptr::null(); MAX_POINTS];
            let (pitch, columns, before, first) = if conv.stride > 1 {
                space_to_depth(conv.stride, conv.padding, *input, tile, width, image, blocks);
                for (index, row) in rows.iter_mut().enumerate().take(tile.points) {
                    *row = blocks[index * width * channels..].as_ptr();
                }
                (channels, width, 0, 0)
            } else {
                for (index, row) in rows.iter_mut().enumerate().take(tile.points) {
                    let h = (tile.first + index).wrapping_sub(conv.padding);
                    let values = if h < input.h { &image[h * input.w * input.c..] } else { &self.filters.zeros };
                    *row = values.as_ptr();
                }
                let group_c = input.c / conv.groups;
                (input.c, input.w.min(width - conv.padding), conv.padding, group * group_c)
            };
            for row in &mut rows[..tile.points] {
                // SAFETY: a group's first channel is one of the first pixel's, which every row has.
                *row = unsafe { row.add(first) };
            }
            // SAFETY: a row has `columns` pixels of `pitch` channels, from the group's first on; the middle is as long as the width
            // demands; places are of the tiles of this row alone, which no other task has, within the points' length.
            unsafe {
                team.isa.run(InputRow {
                    rows: &rows[..tile.points],
                    pitch,
                    columns,
                    before,
                    channels: 0..self.filters.geometry.channels(),
                    tiles: across,
                    width,
                    middle: middle.as_mut_ptr(),
                    points: points.start(),
                    places: &tiles.places(&self.filters.geometry, row, channels),
                    steps: &tiles.steps(),
                });
            }
        });
    }

    /// Products and output transform of some panels of a block of filters.
    fn products(&self, team: &Team<'_>, tiles: &Tiles, block: &Block, panels: Range<usize>, points: &[f32]) {
        let filters = self.filters;
        let Geometry { conv, output, taps, down, across, .. } = &filters.geometry;
        let (channels, columns) = (filters.channels(), panels.len() * WIDTH);
        let first = panels.start * WIDTH;
        let middle_len = MAX_POINTS * across.iter().map(|tile| tile.points + 1 - taps).sum::<usize>() * LANES;
        team.scratch.with(middle_len + tiles.total * columns, |scratch| {
            let (middle, products) = scratch.split_at_mut(middle_len);
            let (points_down, points_across) = filters.geometry.points();
            for (point, (a, b)) in (0..points_down).flat_map(|a| (0..points_across).map(move |b| (a, b))).enumerate() {
                team.look_ahead(LINES);
                let (rows, before) = (tiles.counts[a][b], tiles.before[a][b]);
                // SAFETY: a point's matrices have `rows` rows: of the channels in `points`, of the panels' filters in `products`,
                // which is this task's. Filters have a matrix a point.
                unsafe {
                    team.isa.run(Product {
                        rows,
                        blocks: channels / LANES,
                        a: points.as_ptr().add(before * channels),
                        a_block: rows * LANES,
                        b: filters
                            .values
                            .as_ptr()
                            .add(block.start + (point * block.panels + panels.start) * channels * WIDTH),
                        panels: panels.len(),
                        c: products.as_mut_ptr().add(before * columns),
                        c_vector: rows * LANES,
                        accumulate: false,
                    });
                }
            }
            let k = filters.width();
            let filter = block.group * (k / conv.groups) + block.first + first;
            for row in tiles.rows.clone() {
                let (image, tile) = (row / down.len(), down[row % down.len()]);
                let height = (tile.points + 1 - taps).min(output.0 - tile.first);
                let target = ((image * output.0 + tile.first) * output.1) * k + filter;
                // SAFETY: places are those of this row's tiles among the products; rows and columns of the output are there, and
                // the filters are this task's alone.
                unsafe {
                    team.isa.run(OutputRow {
                        down: tile.points,
                        taps: *taps,
                        tiles: across,
                        points: products.as_ptr(),
                        places: &tiles.places(&filters.geometry, row, columns),
                        steps: &tiles.steps(),
                        width: middle_len / (MAX_POINTS * LANES),
                        middle: middle.as_mut_ptr(),
                        filters: (block.filters - first).min(columns),
                        bias: filters.bias.as_ptr().add(block.bias + first),
                        relu: self.relu,
                        target: self.target.start().add(target),
                        pitch: k,
                        row_pitch: output.1 * k,
                        columns: output.1,
                        height,
                    });
                }
            }
        });
    }
}

/// Rows of blocks of `stride` x `stride` pixels that `tile` takes, `width` blocks each: (block rows, block columns, pixel row, pixel
/// column, C). What lies outside the image is 0.
fn space_to_depth(
    stride: usize,
    padding: usize,
    input: Shape,
    tile: Tile,
    width: usize,
    image: &[f32],
    blocks: &mut [f32],
) {
    let channels = blocks.len() / (tile.points * width);
    let len = stride * input.c;
    for (row, blocks) in blocks.chunks_exact_mut(width * channels).enumerate() {
        for pixel_row in 0..stride {
            let h = ((tile.first + row) * stride + pixel_row).wrapping_sub(padding);
            let source = if h < input.h { &image[h * input.w * input.c..][..input.w * input.c] } else { &[] };
            for (column, block) in blocks.chunks_exact_mut(channels).enumerate() {
                let target = &mut block[pixel_row * len..][..len];
                // Elements from the source's begin; negative in the padding.
                let begin = (column * len) as isize - (padding * input.c) as isize;
                let skipped = (-begin).clamp(0, len as isize) as usize;
                let end = (source.len() as isize - begin).clamp(skipped as isize, len as isize) as usize;
                target[..skipped].fill(0.0);
                target[end..].fill(0.0);
                if skipped < end {
                    let from = (begin + skipped as isize) as usize;
                    target[skipped..end].copy_from_slice(&source[from..from + end - skipped]);
                }
            }
        }
    }
}

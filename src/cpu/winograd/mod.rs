//! Convolution by Winograd's minimal filtering: about a quarter of the multiplications.
//!
//! A tile of up to 7 x 7 inputs of a channel and a filter become as many points each ([`matrices`]); the points of all tiles and
//! channels, and of all channels and filters, are the factors of one product a point; and tiles of outputs come out of those. A
//! task takes some rows of tiles through all three, so that what lies between stays in the caches.
//!
//! A convolution with a stride becomes one without by laying out blocks of pixels as channels.

mod filters;
pub mod matrices;
mod task;
pub mod tiles;
mod transform;

pub use filters::Filters;

use crate::net::{Conv, Shape};
use tiles::{Tile, cover};

/// How a convolution is computed: pure data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// As the network has it.
    pub conv: Conv,
    pub input: Shape,
    /// Height and width of the output.
    pub output: (usize, usize),
    /// Taps a side, once blocks of `conv.stride` pixels a side are channels: 3 or 5.
    pub taps: usize,
    /// Tiles from top to bottom and from left to right.
    pub down: Vec<Tile>,
    pub across: Vec<Tile>,
}

impl Geometry {
    /// Of a convolution of `input`, or why there is none.
    pub fn new(conv: Conv, input: Shape, output: (usize, usize)) -> Result<Self, String> {
        let taps = conv.kernel.div_ceil(conv.stride);
        if taps != 3 && taps != 5 {
            return Err(format!("transforms are of 3 and 5 taps, not {taps}"));
        }
        if conv.stride > 1 && conv.groups > 1 {
            return Err("its stride makes channels of pixels, across its groups".into());
        }
        let geometry =
            Geometry { conv, input, output, taps, down: cover(output.0, taps), across: cover(output.1, taps) };
        // Filters have a value a point, which are read once a batch or more: each weighs as much as some multiplications.
        const READING: usize = 4;
        let (few, many) = (geometry.multiplications(), output.0 * output.1 * conv.kernel * conv.kernel);
        let (points, values) = (geometry.points(), conv.kernel * conv.kernel);
        let points = points.0 * points.1 * conv.stride * conv.stride;
        if few + READING * points >= many + READING * values {
            return Err(format!(
                "{few} multiplications a channel and filter, with {points} points a filter to read, are no gain over {many} with \
                 {values}"
            ));
        }
        Ok(geometry)
    }

    /// Products a channel and filter.
    pub fn multiplications(&self) -> usize {
        let inputs = |tiles: &[Tile]| tiles.iter().map(|tile| tile.points).sum::<usize>();
        inputs(&self.down) * inputs(&self.across) * self.conv.stride * self.conv.stride
    }

    /// Most points of a tile, down and across.
    pub fn points(&self) -> (usize, usize) {
        (self.down[0].points, self.across[0].points)
    }

    /// Channels of a group.
    pub fn group_channels(&self) -> usize {
        self.input.c / self.conv.groups
    }

    /// Channels of a group, once blocks of pixels are channels.
    pub fn channels(&self) -> usize {
        self.group_channels() * self.conv.stride * self.conv.stride
    }

    /// In words.
    pub fn how(&self) -> String {
        let sizes = |tiles: &[Tile]| {
            let mut parts: Vec<(usize, usize)> = vec![];
            for size in tiles.iter().map(|tile| tile.points + 1 - self.taps) {
                match parts.last_mut() {
                    Some((last, count)) if *last == size => *count += 1,
                    _ => parts.push((size, 1)),
                }
            }
            parts.iter().map(|(size, count)| format!("{count} x {size}")).collect::<Vec<_>>().join(" + ")
        };
        let (down, across) = (sizes(&self.down), sizes(&self.across));
        let tiles = if down == across { down } else { format!("{down} rows, {across} columns") };
        let (most_down, most_across) = self.points();
        format!("Winograd, {} points, {} taps: {tiles}", most_down.max(most_across), self.taps)
    }
}

//! Filters as points: G g G^T, packed for the micro kernel.

use rayon::prelude::*;

use super::Geometry;
use super::matrices::{MAX_POINTS, filter};
use crate::Result;
use crate::cpu::gemm::WIDTH;
use crate::cpu::memory::Memory;
use crate::cpu::team::Parts;
use crate::cpu::vector::LANES;
use crate::weights::LayerWeights;

/// Panels that a task takes through products and output transform at once, at most: their products are to stay in the L2 cache.
pub(super) const PANELS: usize = 4;

/// A convolution's filters, evaluated at the points.
pub struct Filters {
    pub(super) geometry: Geometry,
    /// The parts that follow each other in `values`.
    pub(super) blocks: Vec<Block>,
    /// A block after the other: (points down, points across, panels, channels filled up to a multiple of 8, 16).
    pub(super) values: Memory<f32>,
    /// (groups, filters filled up to a multiple of 16).
    pub(super) bias: Vec<f32>,
    filters: usize,
    /// As much as a row of the input: a row of padding.
    pub(super) zeros: Vec<f32>,
}

/// Some filters of one group.
pub(super) struct Block {
    pub group: usize,
    /// The first one's number in the group.
    pub first: usize,
    pub filters: usize,
    pub panels: usize,
    /// Place in the values.
    pub start: usize,
    /// Place in the biases.
    pub bias: usize,
}

impl Filters {
    /// From (K, C / groups, R, S). Sums are in f64, rounded once.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where memory is short.
    pub fn pack(geometry: Geometry, weights: &LayerWeights) -> Result<Self> {
        let filters = weights.bias.len();
        let groups = geometry.conv.groups;
        let group_filters = filters / groups;
        let padded_filters = group_filters.next_multiple_of(WIDTH);
        let channels = geometry.channels().next_multiple_of(LANES);
        let points = geometry.points().0 * geometry.points().1;
        let mut blocks = vec![];
        let mut start = 0;
        let mut bias = vec![0.0; groups * padded_filters];
        for group in 0..groups {
            bias[group * padded_filters..][..group_filters]
                .copy_from_slice(&weights.bias[group * group_filters..][..group_filters]);
            for first in (0..group_filters).step_by(PANELS * WIDTH) {
                let filters = (group_filters - first).min(PANELS * WIDTH);
                let panels = filters.div_ceil(WIDTH);
                blocks.push(Block { group, first, filters, panels, start, bias: group * padded_filters + first });
                start += points * panels * channels * WIDTH;
            }
        }
        let mut values: Memory<f32> = Memory::of_weights(start)?;
        let parts = &Parts::of(&mut values[..start]);
        let packed = Packed { geometry: &geometry, channels, weights };
        blocks.par_iter().for_each(|block| {
            for panel in 0..block.panels {
                // SAFETY: blocks, and panels of a block, have places of their own among the values, whose length is the blocks'.
                unsafe { packed.panel(block, panel, group_filters, parts.start().add(block.start)) };
            }
        });
        let zeros = vec![0.0; geometry.input.w * geometry.input.c];
        Ok(Filters { geometry, blocks, values, bias, filters, zeros })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.values.bytes() + size_of::<f32>() * (self.bias.len() + self.zeros.len())
    }

    /// K.
    pub fn width(&self) -> usize {
        self.filters
    }

    /// Channels of a group, filled up.
    pub(super) fn channels(&self) -> usize {
        self.geometry.channels().next_multiple_of(LANES)
    }
}

struct Packed<'a> {
    geometry: &'a Geometry,
    channels: usize,
    weights: &'a LayerWeights,
}

impl Packed<'_> {
    /// Writes panel `panel` of the block at `target`.
    ///
    /// # Safety
    /// `target` can be written for all of the block's points, panels and channels, and no other task writes this panel.
    unsafe fn panel(&self, block: &Block, panel: usize, group_filters: usize, target: *mut f32) {
        let Geometry { conv, taps, .. } = self.geometry;
        let (taps, stride, (down, across)) = (*taps, conv.stride, self.geometry.points());
        let group_c = self.geometry.input.c / conv.groups;
        let matrix = filter(taps).map(|row| row.map(|entry| entry.value()));
        let first = block.group * group_filters + block.first + panel * WIDTH;
        let filters = (block.filters - panel * WIDTH).min(WIDTH);
        for channel in 0..self.geometry.channels() {
            // (taps, taps) of each filter; of blocks of pixels those of the pixel that this channel is.
            let (pixel, c) = (channel / group_c, channel % group_c);
            let mut values = [[[0.0; WIDTH]; MAX_POINTS]; MAX_POINTS];
            for filter in 0..filters {
                let taken = &self.weights.weight[((first + filter) * group_c + c) * conv.kernel * conv.kernel..];
                for (r, values) in values.iter_mut().enumerate().take(taps) {
                    for (s, values) in values.iter_mut().enumerate().take(taps) {
                        let (h, w) = (r * stride + pixel / stride, s * stride + pixel % stride);
                        if h < conv.kernel && w < conv.kernel {
                            values[filter] = f64::from(taken[h * conv.kernel + w]);
                        }
                    }
                }
            }
            let mut rows = [[[0.0; WIDTH]; MAX_POINTS]; MAX_POINTS];
            for (row, matrix) in rows.iter_mut().zip(&matrix).take(down) {
                for s in 0..taps {
                    row[s] = sum(&matrix[..taps], |r| &values[r][s]);
                }
            }
            for (a, row) in rows.iter().enumerate().take(down) {
                for (b, matrix) in matrix.iter().enumerate().take(across) {
                    let point = sum(&matrix[..taps], |s| &row[s]).map(|value| value as f32);
                    let place = (((a * across + b) * block.panels + panel) * self.channels + channel) * WIDTH;
                    // SAFETY: the place is this channel's, in the panel that the caller allows.
                    unsafe { target.add(place).cast::<[f32; WIDTH]>().write_unaligned(point) };
                }
            }
        }
    }
}

/// Terms times factors.
fn sum<'a>(factors: &[f64], term: impl Fn(usize) -> &'a [f64; WIDTH]) -> [f64; WIDTH] {
    let mut sums = [0.0; WIDTH];
    for (index, factor) in factors.iter().enumerate() {
        for (sum, term) in sums.iter_mut().zip(term(index)) {
            *sum += factor * term;
        }
    }
    sums
}

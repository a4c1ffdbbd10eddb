//! Convolution as im2col and GEMM: GEMM_M = N * P * Q output pixels, GEMM_N = K filters, GEMM_K = R * S * C.

use super::gemm::{Panels, Target};
use super::team::{Parts, Team};
use super::vector::LANES;
use crate::Result;
use crate::net::{Conv, Shape};
use crate::weights::LayerWeights;

/// Output pixels of a task: enough to use each filter for many of them, few enough for their inputs to stay in the caches.
const PIXELS: usize = 72;

/// A convolution's filters.
pub struct Filters {
    conv: Conv,
    input: Shape,
    /// Height and width.
    output: (usize, usize),
    /// One a group: GEMM_N x GEMM_K.
    groups: Vec<Panels<f32>>,
}

impl Filters {
    /// From (K, C / groups, R, S).
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where memory is short.
    pub fn pack(conv: Conv, input: Shape, output: (usize, usize), weights: &LayerWeights) -> Result<Self> {
        let (taps, group_c) = (conv.kernel * conv.kernel, input.c / conv.groups);
        let bias = weights.bias.chunks_exact(weights.bias.len() / conv.groups);
        let filters = weights.weight.chunks_exact(weights.weight.len() / conv.groups);
        let groups = filters.zip(bias).map(|(filters, bias)| {
            // Terms are (R, S, C), so that im2col copies runs of channels.
            let given = taps * group_c;
            Panels::pack(bias.to_vec(), given, taps, |first, rows| {
                rows.copy_from_slice(&filters[first * given..][..rows.len()]);
                Ok(())
            })
        });
        Ok(Filters { conv, input, output, groups: groups.collect::<Result<_>>()? })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(Panels::bytes).sum()
    }

    /// K.
    pub fn width(&self) -> usize {
        self.groups.iter().map(Panels::columns).sum()
    }

    /// Convolution + bias, + ReLU: `source` (N, H, W, C) to `target` (N, P, Q, K).
    ///
    /// # Panics
    /// If the lengths are not those of `images` images.
    pub fn forward(&self, relu: bool, team: &Team<'_>, images: usize, source: &[f32], target: &mut [f32]) {
        let (pixels, k) = (images * self.output.0 * self.output.1, self.width());
        assert_eq!(source.len(), images * self.input.len(), "the input of {images} images");
        assert_eq!(target.len(), pixels * k, "the output of {images} images");
        let tasks = pixels.div_ceil(PIXELS).next_multiple_of(team.threads).min(pixels);
        let target = &Parts::of(target);
        team.for_each(tasks, |task| {
            let pixels = pixels * task / tasks..pixels * (task + 1) / tasks;
            for (group, panels) in self.groups.iter().enumerate() {
                team.scratch.with(pixels.len() * panels.terms(), |columns| {
                    self.im2col(group, source, pixels.clone(), columns);
                    let first = pixels.start * k + group * panels.columns();
                    // SAFETY: the task's pixels and the group's channels of them are in the target, and are this task's alone.
                    unsafe {
                        let target = Target { start: target.start().add(first), pitch: k };
                        panels.multiply(&team.alone(), 0..panels.panels(), relu, pixels.len(), columns, target);
                    }
                });
            }
        });
    }

    /// Writes what the taps of one group see, for output pixels counted across images: (GEMM_K / 8, pixels, 8).
    fn im2col(&self, group: usize, source: &[f32], pixels: std::ops::Range<usize>, columns: &mut [f32]) {
        let Filters { conv, input, output, .. } = self;
        let group_c = input.c / conv.groups;
        let count = pixels.len();
        if !(conv.kernel * conv.kernel * group_c).is_multiple_of(LANES) {
            let last = columns.len() - count * LANES;
            columns[last..].fill(0.0);
        }
        for (row, pixel) in pixels.enumerate() {
            let (image, p, q) = (pixel / (output.0 * output.1), pixel / output.1 % output.0, pixel % output.1);
            for tap in 0..conv.kernel * conv.kernel {
                let h = (p * conv.stride + tap / conv.kernel).wrapping_sub(conv.padding);
                let w = (q * conv.stride + tap % conv.kernel).wrapping_sub(conv.padding);
                let inside = h < input.h && w < input.w;
                let start = if inside { ((image * input.h + h) * input.w + w) * input.c + group * group_c } else { 0 };
                let mut c = 0;
                while c < group_c {
                    let term = tap * group_c + c;
                    // Up to the end of the term's block of 8, or of the channels.
                    let run = (LANES - term % LANES).min(group_c - c);
                    let place = (term / LANES * count + row) * LANES + term % LANES;
                    let target = &mut columns[place..place + run];
                    if inside {
                        target.copy_from_slice(&source[start + c..][..run])
                    } else {
                        target.fill(0.0)
                    }
                    c += run;
                }
            }
        }
    }
}

//! Convolutions: by Winograd's filtering where that saves multiplications, else as products.

use super::team::Team;
use super::winograd::Geometry;
use super::{direct, winograd};
use crate::Result;
use crate::net::{Conv, Shape};
use crate::weights::LayerWeights;

/// How a convolution is computed. It depends on the shapes of image and filter alone, so that a picture's bits depend neither on the
/// batch that it is in nor on how filters are divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// From the points of tiles.
    Winograd(Geometry),
    /// By im2col, and why not the other.
    Direct(String),
}

impl Algorithm {
    /// For a convolution of `input` whose output has this height and width.
    pub fn choose(conv: Conv, input: Shape, output: (usize, usize)) -> Self {
        Geometry::new(conv, input, output).map_or_else(Algorithm::Direct, Algorithm::Winograd)
    }
}

/// A convolution's filters in the layout that its algorithm reads.
pub enum Filters {
    Winograd(winograd::Filters),
    Direct(direct::Filters),
}

impl Filters {
    /// From (K, C / groups, R, S).
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where memory is short.
    pub fn pack(conv: Conv, input: Shape, output: (usize, usize), weights: &LayerWeights) -> Result<Self> {
        Ok(match Algorithm::choose(conv, input, output) {
            Algorithm::Winograd(geometry) => Filters::Winograd(winograd::Filters::pack(geometry, weights)?),
            Algorithm::Direct(_) => Filters::Direct(direct::Filters::pack(conv, input, output, weights)?),
        })
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        match self {
            Filters::Winograd(filters) => filters.bytes(),
            Filters::Direct(filters) => filters.bytes(),
        }
    }

    /// K.
    pub fn width(&self) -> usize {
        match self {
            Filters::Winograd(filters) => filters.width(),
            Filters::Direct(filters) => filters.width(),
        }
    }

    /// Convolution + bias, + ReLU: `source` (N, H, W, C) to `target` (N, P, Q, K).
    pub fn forward(&self, relu: bool, team: &Team<'_>, images: usize, source: &[f32], target: &mut [f32]) {
        match self {
            Filters::Winograd(filters) => filters.forward(relu, team, images, source, target),
            Filters::Direct(filters) => filters.forward(relu, team, images, source, target),
        }
    }
}

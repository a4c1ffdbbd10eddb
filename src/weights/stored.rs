//! Weights whose values are where the checkpoint has them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::fit::not_finite;
use super::{LayerWeights, Tensor, Weights};
use crate::net::Network;
use crate::{Error, Result};

/// A network and where its weights are, all shapes checked and no value read yet: what the CPU's backend lays out, layer after
/// layer, so that no more than one of them is held twice.
#[derive(Debug, Clone)]
pub struct StoredWeights {
    network: Network,
    layers: Vec<StoredLayer>,
}

/// One weighted layer, or some of its filters. Values are checked as they are read: those that are NaN, infinite or beyond f32 are
/// refused.
#[derive(Debug, Clone)]
pub(crate) struct StoredLayer {
    path: Arc<Path>,
    /// (K, C / groups, R, S) or (out, in), and its name. `in` is flattened from (C, H, W).
    weight: (Tensor, String),
    /// (K), and its name.
    bias: (Tensor, String),
    /// Those of K that are this one's.
    filters: Range<usize>,
}

impl StoredWeights {
    /// Of `tensors` the weight and the bias of each weighted layer, of its shape, by name.
    pub(super) fn new(path: &Path, network: Network, tensors: Vec<[(Tensor, String); 2]>) -> Self {
        let path: Arc<Path> = path.into();
        let layer = |[weight, bias]: [(Tensor, String); 2]| {
            let filters = 0..bias.0.len();
            StoredLayer { path: Arc::clone(&path), weight, bias, filters }
        };
        let layers = tensors.into_iter().map(layer).collect();
        StoredWeights { network, layers }
    }

    /// The network with every layer's shapes.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// All values.
    ///
    /// # Errors
    /// [`Error::Weights`] with every tensor that is not finite, or where a value can no longer be read.
    pub fn read(self) -> Result<Weights> {
        let layers = all_or_problems(self.layers.into_iter().map(|layer| layer.read()))?;
        Weights::new(self.network, layers)
    }

    /// Gives up both, so that a backend can lay out one layer after another.
    pub(crate) fn into_parts(self) -> (Network, Vec<StoredLayer>) {
        (self.network, self.layers)
    }
}

impl From<Weights> for StoredWeights {
    fn from(weights: Weights) -> Self {
        let (network, layers) = weights.into_parts();
        let tensors = network.parameters().zip(layers).map(|(parameter, LayerWeights { weight, bias })| {
            let names = (parameter.weight(), parameter.bias());
            let bias = (Tensor::from_f32(vec![bias.len()], &bias), names.1);
            [(Tensor::from_f32(parameter.weight_shape, &weight), names.0), bias]
        });
        let tensors = tensors.collect();
        StoredWeights::new(&PathBuf::from("weights in memory"), network, tensors)
    }
}

/// The file and the weight's name in it.
impl fmt::Display for StoredLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.weight.1)
    }
}

impl StoredLayer {
    /// The first or second half of the filters, which are an even number.
    pub fn half(&self, number: usize) -> Self {
        let Range { start, end } = self.filters;
        let middle = start + (end - start) / 2;
        StoredLayer { filters: if number == 0 { start..middle } else { middle..end }, ..self.clone() }
    }

    /// Weights of a filter.
    pub fn filter_len(&self) -> usize {
        self.weight.0.len() / self.bias.0.len()
    }

    /// (K).
    pub fn bias(&self) -> Result<Vec<f32>> {
        let bias = self.bias.0.part_to_f32(self.filters.clone())?;
        self.check(&bias)?;
        Ok(bias)
    }

    /// Fills `values` with whole filters, from the one of number `first` on.
    pub fn read_filters(&self, first: usize, values: &mut [f32]) -> Result<()> {
        self.weight.0.read((self.filters.start + first) * self.filter_len(), values)?;
        self.check(values)
    }

    /// All values.
    pub fn read(&self) -> Result<LayerWeights> {
        let mut weight = vec![0.0; self.filters.len() * self.filter_len()];
        let filters = weight.par_chunks_exact_mut(self.filter_len()).enumerate();
        filters.try_for_each(|(number, filter)| self.read_filters(number, filter))?;
        Ok(LayerWeights { weight, bias: self.bias()? })
    }

    /// Refuses values that are not finite, with what is wrong with the whole layer.
    fn check(&self, values: &[f32]) -> Result<()> {
        // Without a way out of the loop, which is vectorised then.
        if values.iter().fold(true, |finite, value| finite & value.is_finite()) {
            return Ok(());
        }
        let mut problems = vec![];
        for (tensor, name) in [&self.bias, &self.weight] {
            problems.extend(tensor.first_non_finite()?.map(|index| not_finite(name, index)));
        }
        if problems.is_empty() {
            problems.push("the file changes while it is read; load it again".into());
        }
        Err(Error::Weights { path: self.path.to_path_buf(), problems })
    }
}

/// All values, or what is wrong with any of the weights, or the first error of another kind.
pub(crate) fn all_or_problems<T>(results: impl IntoIterator<Item = Result<T>>) -> Result<Vec<T>> {
    let (mut values, mut rejected) = (vec![], None);
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(Error::Weights { path, mut problems }) => {
                rejected.get_or_insert((path, vec![])).1.append(&mut problems);
            }
            Err(error) => return Err(error),
        }
    }
    let Some((path, mut problems)) = rejected else { return Ok(values) };
    problems.sort();
    problems.dedup();
    Err(Error::Weights { path, problems })
}

//! A checkpoint meets a variant: which of the six it is, and whether every tensor fits.

use std::collections::BTreeMap;
use std::path::Path;

#[cfg(feature = "cuda")]
use rayon::prelude::*;

use super::{Checkpoint, StoredWeights, imagenet1k_labels, read_labels};
use crate::net::{Layer, Network, Op, VARIANTS, Variant};
use crate::{Error, Result};

/// A network with its weights in PyTorch's layout, every tensor checked: what a backend uploads.
#[derive(Debug, Clone)]
pub struct Weights {
    network: Network,
    layers: Vec<LayerWeights>,
}

/// One weighted layer's values.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// (K, C / groups, R, S) or (out, in), row-major. `in` is flattened from (C, H, W).
    pub weight: Vec<f32>,
    /// (K).
    pub bias: Vec<f32>,
}

impl LayerWeights {
    /// The first or second half of the filters, which are an even number.
    #[cfg(feature = "cuda")]
    pub(crate) fn half(&self, number: usize) -> Self {
        let half = |values: &[f32]| values[number * values.len() / 2..(number + 1) * values.len() / 2].to_vec();
        LayerWeights { weight: half(&self.weight), bias: half(&self.bias) }
    }

    /// Filters from (K, C, taps) to (K, taps, C), where taps are R * S of a convolution, or the pixels that a fully
    /// connected layer's input was flattened from.
    #[cfg(feature = "cuda")]
    pub(crate) fn channels_last(mut self, taps: usize) -> Self {
        if taps > 1 {
            let inputs = self.weight.len() / self.bias.len();
            let channels = inputs / taps;
            self.weight.par_chunks_exact_mut(inputs).for_each_init(Vec::new, |before, filter| {
                before.clear();
                before.extend_from_slice(filter);
                for (tap, values) in filter.chunks_exact_mut(channels).enumerate() {
                    for (c, value) in values.iter_mut().enumerate() {
                        *value = before[c * taps + tap];
                    }
                }
            });
        }
        self
    }
}

impl Weights {
    /// `layers` as the weights of `network`, one a weighted layer, in order.
    ///
    /// # Errors
    /// [`Error::Usage`] naming every layer whose values are not of its shape.
    pub fn new(network: Network, layers: Vec<LayerWeights>) -> Result<Self> {
        let expected: Vec<_> = network.parameters().collect();
        let mut problems = vec![];
        if expected.len() != layers.len() {
            problems.push(format!("expected {} weighted layers, found {}", expected.len(), layers.len()));
        }
        for (parameter, layer) in expected.iter().zip(&layers) {
            let expected = (parameter.len() - parameter.weight_shape[0], parameter.weight_shape[0]);
            let found = (layer.weight.len(), layer.bias.len());
            if expected != found {
                problems
                    .push(format!("{}: expected {expected:?} weights and biases, found {found:?}", parameter.layer));
            }
        }
        if problems.is_empty() { Ok(Weights { network, layers }) } else { Err(Error::Usage(problems.join("; "))) }
    }

    /// All layers' values, or those that `tower` has when the network is [split](crate::split): its half of every layer's
    /// filters, and the last layer with the first tower alone.
    #[cfg(feature = "cuda")]
    pub(crate) fn part(&self, tower: Option<usize>) -> impl Iterator<Item = LayerWeights> {
        let last = self.layers.len().saturating_sub(1);
        let layers = self.layers.iter().enumerate().filter(move |(index, _)| tower != Some(1) || *index != last);
        layers.map(move |(index, layer)| match tower {
            Some(tower) if index != last => layer.half(tower),
            _ => layer.clone(),
        })
    }

    /// The network with every layer's shapes.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// conv1 to conv5, fc6 to fc8.
    pub fn layers(&self) -> &[LayerWeights] {
        &self.layers
    }

    /// Gives up both.
    pub(super) fn into_parts(self) -> (Network, Vec<LayerWeights>) {
        (self.network, self.layers)
    }
}

impl Checkpoint {
    /// The variant of this checkpoint: `explicit`, else the metadata's, else the one its tensors' names and shapes tell.
    ///
    /// torchvision and half share names and topology: exactly half's widths make half. A grouped conv2 is paper's, caffe's
    /// and caffenet's alike.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the choices where more than one variant fits, [`Error::Weights`] where none does.
    pub fn choose_variant(&self, explicit: Option<&'static Variant>) -> Result<&'static Variant> {
        if let Some(variant) = explicit {
            return Ok(variant);
        }
        if let Some(name) = &self.variant {
            return Variant::by_name(name)
                .map_err(|e| Error::weights(&self.path, format!("metadata alexnet.variant: {e}; say --model")));
        }
        let fitting: Vec<_> = VARIANTS.iter().filter(|v| self.has_topology(v)).collect();
        let exact: Vec<_> = fitting.iter().copied().filter(|v| self.has_published_widths(v)).collect();
        match (&fitting[..], &exact[..]) {
            ([variant], _) | (_, [variant]) => Ok(variant),
            ([], _) => Err(Error::weights(&self.path, self.no_variant_fits())),
            // torchvision and half at other widths: without LRN and with one preprocessing they are the same function.
            ([first, others @ ..], _) if others.iter().all(|v| v.preprocess == first.preprocess) => Ok(first),
            _ => {
                let choices: Vec<_> = fitting.iter().map(|v| format!("--model {}", v.name)).collect();
                Err(Error::Usage(format!(
                    "{}: names and shapes fit more than one variant; say {}",
                    self.path.display(),
                    choices.join(" or ")
                )))
            }
        }
    }

    /// True where every width but the class count is the variant's published one.
    fn has_published_widths(&self, variant: &Variant) -> bool {
        let widths = variant.weighted().zip(variant.widths()).take(7);
        widths.into_iter().all(|(l, width)| self.weight_shape(l).and_then(|s| s.first()) == Some(&width))
    }

    fn weight_shape(&self, layer: &Layer) -> Option<&[usize]> {
        self.tensors.get(&format!("{}.weight", layer.module)).map(|t| t.shape.as_slice())
    }

    /// True where every weight tensor of the variant is there, with its kernels and groups.
    fn has_topology(&self, variant: &Variant) -> bool {
        let mut channels = 3;
        variant.weighted().all(|layer| match (layer.op, self.weight_shape(layer)) {
            (Op::Conv(conv), Some(&[k, group_c, r, s])) => {
                let fits = group_c.checked_mul(conv.groups) == Some(channels) && (r, s) == (conv.kernel, conv.kernel);
                channels = k;
                fits
            }
            (Op::Linear { .. }, Some([_, _])) => true,
            _ => false,
        })
    }

    fn no_variant_fits(&self) -> String {
        let names: Vec<_> = self.tensors.keys().take(4).map(String::as_str).collect();
        format!(
            "expected tensors features.0.weight ... classifier.6.bias or conv1.weight ... fc3.bias in the shapes of one of \
             the six variants; found {} tensors ({}, ...); if it is an AlexNet, --model lists what does not fit",
            self.tensors.len(),
            names.join(", ")
        )
    }

    /// The weights of `variant` at `input_size`, their values unread.
    ///
    /// # Errors
    /// [`Error::Usage`] for an input size that the variant does not take; [`Error::Weights`] with every tensor that is
    /// missing, unexpected or of another shape.
    pub fn into_stored(self, variant: &'static Variant, input_size: usize) -> Result<StoredWeights> {
        let network = self.network(variant, input_size)?;
        let Checkpoint { path, mut tensors, .. } = self;
        let mut take = |name: &str| tensors.remove(name).expect("the network was inferred from these tensors");
        let tensors = network.parameters().map(|p| [p.weight(), p.bias()].map(|name| (take(&name), name))).collect();
        Ok(StoredWeights::new(&path, network, tensors))
    }

    /// The checked weights of `variant` at `input_size`.
    ///
    /// # Errors
    /// As [`into_stored`](Self::into_stored), and [`Error::Weights`] with every tensor that is not finite.
    pub fn into_weights(self, variant: &'static Variant, input_size: usize) -> Result<Weights> {
        self.into_stored(variant, input_size)?.read()
    }

    /// For conversion, which keeps tensors as they are stored.
    ///
    /// # Errors
    /// [`Error::Weights`] naming every tensor with a value that is no finite f32, and where.
    pub fn reject_non_finite(&self) -> Result<()> {
        let mut problems = vec![];
        for (name, tensor) in &self.tensors {
            problems.extend(tensor.first_non_finite()?.map(|index| not_finite(name, index)));
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Weights { path: self.path.clone(), problems }) }
    }

    /// The network that these tensors make, their values unread.
    ///
    /// # Errors
    /// As [`into_weights`](Self::into_weights), but for non-finite values.
    pub fn network(&self, variant: &'static Variant, input_size: usize) -> Result<Network> {
        let shapes: BTreeMap<_, _> = self.tensors.iter().map(|(k, t)| (k.as_str(), t.shape.as_slice())).collect();
        Network::infer(variant, &shapes, input_size)?
            .map_err(|problems| Error::Weights { path: self.path.clone(), problems })
    }

    /// Class names: `file`'s, else the metadata's, else ImageNet-1k's for 1000 classes, else none.
    ///
    /// # Errors
    /// [`Error::Usage`] for a file that [`read_labels`] refuses; it or [`Error::Weights`] where the number of names is not
    /// `classes`.
    pub fn choose_labels(&self, file: Option<&Path>, classes: usize) -> Result<Option<Vec<String>>> {
        if let Some(path) = file {
            let labels = read_labels(path)?;
            return match labels.len() {
                n if n == classes => Ok(Some(labels)),
                n => Err(Error::Usage(format!("{}: has {n} labels, the network {classes} classes", path.display()))),
            };
        }
        match &self.labels {
            Some(labels) if labels.len() == classes => Ok(Some(labels.clone())),
            Some(labels) => Err(Error::weights(
                &self.path,
                format!("metadata alexnet.labels: expected {classes} labels, found {}; say --labels", labels.len()),
            )),
            None if classes == 1000 => Ok(Some(imagenet1k_labels())),
            None => Ok(None),
        }
    }
}

pub(super) fn not_finite(tensor: &str, index: usize) -> String {
    format!("{tensor}: expected finite values, found NaN, infinity or a number beyond f32 at element {index}")
}

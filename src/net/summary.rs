//! torchinfo's figures for a network: output shapes, parameters, mult-adds and totals.

use serde::Serialize;

use super::{Network, Op};

/// torchinfo's table for one network and batch size.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Variant name.
    pub variant: &'static str,
    /// (N, C, H, W).
    pub input_shape: Vec<usize>,
    /// One row a layer.
    pub layers: Vec<SummaryRow>,
    /// Weights and biases.
    pub total_params: usize,
    /// Multiply-adds of the whole batch; like torchinfo's, a bias counts as one per output.
    pub total_mult_adds: usize,
    /// Bytes of the f32 input batch.
    pub input_bytes: usize,
    /// Bytes of every f32 layer output with parameters, twice (forward and backward), as torchinfo counts.
    pub forward_backward_bytes: usize,
    /// Bytes of the f32 parameters.
    pub params_bytes: usize,
}

/// One layer of a [`Summary`].
#[derive(Debug, Clone, Serialize)]
pub struct SummaryRow {
    /// `conv1`, `relu1`, ...
    pub name: &'static str,
    /// PyTorch's class name.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// (N, C, H, W) or (N, features).
    pub output_shape: Vec<usize>,
    /// Weights and biases.
    pub params: usize,
    /// Multiply-adds of the whole batch.
    pub mult_adds: usize,
}

impl Network {
    /// torchinfo's figures for `batch` images.
    pub fn summary(&self, batch: usize) -> Summary {
        let mut parameters = self.parameters();
        let mut flattened = false;
        let layers: Vec<SummaryRow> = self
            .nodes
            .iter()
            .map(|node| {
                let (kind, weighted) = match node.layer.op {
                    Op::Conv(_) => ("Conv2d", true),
                    Op::Relu => ("ReLU", false),
                    Op::Lrn(_) => ("LocalResponseNorm", false),
                    Op::MaxPool(_) => ("MaxPool2d", false),
                    Op::AdaptiveAvgPool { .. } => ("AdaptiveAvgPool2d", false),
                    Op::Dropout { .. } => ("Dropout", false),
                    Op::Linear { .. } => ("Linear", true),
                };
                let params = if weighted { parameters.next().expect("one a weighted layer").len() } else { 0 };
                flattened |= kind == "Linear";
                let shape = node.output;
                let output_shape =
                    if flattened { vec![batch, shape.c] } else { vec![batch, shape.c, shape.h, shape.w] };
                SummaryRow {
                    name: node.layer.name,
                    kind,
                    output_shape,
                    params,
                    mult_adds: batch * params * shape.h * shape.w,
                }
            })
            .collect();
        let total_params = layers.iter().map(|l| l.params).sum();
        let weighted_outputs: usize = self.weighted().map(|n| n.output.len()).sum();
        let f32_bytes = size_of::<f32>();
        Summary {
            variant: self.variant.name,
            input_shape: vec![batch, 3, self.input_size, self.input_size],
            total_params,
            total_mult_adds: layers.iter().map(|l| l.mult_adds).sum(),
            input_bytes: batch * self.input().len() * f32_bytes,
            forward_backward_bytes: 2 * batch * weighted_outputs * f32_bytes,
            params_bytes: total_params * f32_bytes,
            layers,
        }
    }
}

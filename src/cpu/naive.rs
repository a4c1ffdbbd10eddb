//! The oracle: every layer as its definition reads, in f64 or f32, NCHW and PyTorch's weight layouts throughout.
//!
//! Deliberately slow and obvious. It shares nothing with the fast path but the network's description: no plan, no
//! fusing, no repacking.

use num_traits::Float;
use rayon::prelude::*;

use crate::net::{Conv, Lrn, Node, Op, Pool, Preprocess, Shape};
use crate::weights::{LayerWeights, Weights};

/// A layer's output.
#[derive(Debug, Clone)]
pub struct Layer<T> {
    /// The layer's name, `input` for the network input.
    pub name: &'static str,
    /// One image's shape.
    pub shape: Shape,
    /// (N, C, H, W).
    pub values: Vec<T>,
}

/// Preprocesses RGB pixels (N, H, W, 3) into the network input (N, 3, H, W), in f32 as the description says.
pub fn input(preprocess: &Preprocess, size: usize, pixels: &[u8]) -> Vec<f32> {
    let mut values = Vec::with_capacity(pixels.len());
    for image in pixels.chunks_exact(size * size * 3) {
        for channel in 0..3 {
            values.extend(image.chunks_exact(3).map(|rgb| preprocess.apply(rgb[preprocess.source(channel)], channel)));
        }
    }
    values
}

/// Runs the network on an input (N, 3, H, W) and returns every layer's output, dropout being off.
pub fn forward<T: Float + Send + Sync>(weights: &Weights, input: &[T]) -> Vec<Layer<T>> {
    let mut current = Layer { name: "input", shape: weights.network().input(), values: input.to_vec() };
    let mut layers = vec![];
    let mut remaining = weights.layers().iter();
    for node in &weights.network().nodes {
        let next = Layer {
            name: node.layer.name,
            shape: node.output,
            values: apply(node, || remaining.next().expect("one a weighted layer"), &current.values),
        };
        layers.push(std::mem::replace(&mut current, next));
    }
    layers.push(current);
    layers
}

/// One layer on an input (N, C, H, W); `weights` is asked for those of a weighted layer.
pub fn apply<'a, T: Float + Send + Sync>(
    node: &Node,
    weights: impl FnOnce() -> &'a LayerWeights,
    values: &[T],
) -> Vec<T> {
    let (input, output) = (node.input, node.output);
    match node.layer.op {
        Op::Conv(conv) => convolve(&conv, weights(), input, output, values),
        Op::Linear { .. } => multiply(weights(), input.len(), values),
        Op::Relu => values.iter().map(|&x| if x < T::zero() { T::zero() } else { x }).collect(),
        Op::Lrn(lrn) => normalise(&lrn, input, values),
        Op::MaxPool(pool) => max_pool(pool, input, output, values),
        Op::AdaptiveAvgPool { .. } => average(input, output, values),
        Op::Dropout { .. } => values.to_vec(),
    }
}

/// Cross-correlation with zero padding; channel k sees the input channels of its group.
pub fn convolve<T: Float + Send + Sync>(
    conv: &Conv,
    weights: &LayerWeights,
    input: Shape,
    output: Shape,
    values: &[T],
) -> Vec<T> {
    let group_c = input.c / conv.groups;
    let group_k = output.c / conv.groups;
    let mut result = vec![T::zero(); values.len() / input.len() * output.len()];
    result.par_chunks_exact_mut(output.h * output.w).enumerate().for_each(|(index, plane)| {
        let (n, k) = (index / output.c, index % output.c);
        let first_c = k / group_k * group_c;
        for p in 0..output.h {
            for q in 0..output.w {
                let mut sum = real::<T>(weights.bias[k]);
                for c in 0..group_c {
                    let image = &values[(n * input.c + first_c + c) * input.h * input.w..][..input.h * input.w];
                    let filter = &weights.weight[(k * group_c + c) * conv.kernel * conv.kernel..];
                    for r in 0..conv.kernel {
                        for s in 0..conv.kernel {
                            let (h, w) = (p * conv.stride + r, q * conv.stride + s);
                            let inside = |x: usize, size: usize| x >= conv.padding && x < size + conv.padding;
                            if inside(h, input.h) && inside(w, input.w) {
                                let value = image[(h - conv.padding) * input.w + w - conv.padding];
                                sum = sum + value * real(filter[r * conv.kernel + s]);
                            }
                        }
                    }
                }
                plane[p * output.w + q] = sum;
            }
        }
    });
    result
}

/// x * W^T + bias.
pub fn multiply<T: Float + Send + Sync>(weights: &LayerWeights, inputs: usize, values: &[T]) -> Vec<T> {
    let outputs = weights.bias.len();
    let mut result = vec![T::zero(); values.len() / inputs * outputs];
    result.par_iter_mut().enumerate().for_each(|(index, result)| {
        let (n, k) = (index / outputs, index % outputs);
        let row = &weights.weight[k * inputs..][..inputs];
        let products = values[n * inputs..][..inputs].iter().zip(row).map(|(&x, &w)| x * real(w));
        *result = products.fold(real(weights.bias[k]), |sum, product| sum + product);
    });
    result
}

/// a / (k + alpha / size * sum of a^2)^beta over adjacent channels of the tower.
pub fn normalise<T: Float>(lrn: &Lrn, shape: Shape, values: &[T]) -> Vec<T> {
    let constant = |x: f64| T::from(x).expect("a float holds every f64, rounded");
    let tower = shape.c / lrn.scope.towers();
    let plane = shape.h * shape.w;
    let at = |index: usize, channel: usize| values[index - index / plane % shape.c * plane + channel * plane];
    let divisor = |index: usize| {
        let channel = index / plane % shape.c;
        let (first, last) = (channel / tower * tower, channel / tower * tower + tower - 1);
        let window = channel.saturating_sub(lrn.size / 2).max(first)..=(channel + lrn.size / 2).min(last);
        let sum = window.map(|c| at(index, c) * at(index, c)).fold(T::zero(), |sum, square| sum + square);
        (constant(lrn.k) + constant(lrn.alpha) / constant(lrn.size as f64) * sum).powf(constant(lrn.beta))
    };
    (0..values.len()).map(|index| values[index] / divisor(index)).collect()
}

/// Max over windows; a NaN in a window is its maximum.
pub fn max_pool<T: Float>(pool: Pool, input: Shape, output: Shape, values: &[T]) -> Vec<T> {
    let larger = |a: T, b: T| if a.is_nan() || a > b { a } else { b };
    map_planes(input, output, values, |plane, p, q| {
        let rows = p * pool.stride..p * pool.stride + pool.kernel;
        let window = rows.flat_map(|h| (0..pool.kernel).map(move |s| plane[h * input.w + q * pool.stride + s]));
        window.fold(T::neg_infinity(), larger)
    })
}

/// Mean over windows from floor(p * H / P) to ceil((p + 1) * H / P).
pub fn average<T: Float>(input: Shape, output: Shape, values: &[T]) -> Vec<T> {
    let range = |i: usize, input: usize, output: usize| i * input / output..((i + 1) * input).div_ceil(output);
    map_planes(input, output, values, |plane, p, q| {
        let columns = range(q, input.w, output.w);
        let rows = range(p, input.h, output.h);
        let window: Vec<T> = rows.flat_map(|h| columns.clone().map(move |w| plane[h * input.w + w])).collect();
        let sum = window.iter().fold(T::zero(), |sum, &x| sum + x);
        sum / T::from(window.len()).expect("a float holds every window size")
    })
}

/// `output[p, q] = body(plane, p, q)` for every (H, W) plane.
fn map_planes<T: Float>(input: Shape, output: Shape, values: &[T], body: impl Fn(&[T], usize, usize) -> T) -> Vec<T> {
    let mut result = Vec::with_capacity(values.len() / input.len() * output.len());
    for plane in values.chunks_exact(input.h * input.w) {
        for p in 0..output.h {
            result.extend((0..output.w).map(|q| body(plane, p, q)));
        }
    }
    result
}

fn real<T: Float>(x: f32) -> T {
    T::from(x).expect("f32 and f64 hold every f32")
}

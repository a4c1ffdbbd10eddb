//! Descriptors, and the convolution that they describe.

use half::{bf16, f16};

use crate::abi::{Outcome, Status};
use crate::driver::{Fault, Memory};

/// `CUDNN_TENSOR_NHWC`.
pub const NHWC: u32 = 1;

/// A tensor, (N, C, H, W), or a filter, (K, C, R, S), whatever its layout.
#[derive(Clone, Copy, Default)]
pub struct Tensor {
    pub kind: u32,
    pub format: u32,
    pub sizes: [i32; 4],
}

/// `cudnnConvolutionDescriptor_t`.
#[derive(Clone, Copy, Default)]
pub struct Geometry {
    pub padding: [i32; 2],
    pub stride: [i32; 2],
    pub dilation: [i32; 2],
    pub mode: u32,
    pub sums: u32,
    pub groups: i32,
    pub math: u32,
}

/// What is convolved with what.
#[derive(Clone, Copy)]
pub struct Convolution {
    pub input: Tensor,
    pub filter: Tensor,
    pub output: Tensor,
    pub geometry: Geometry,
}

/// Of the operands.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub input: u64,
    pub filter: u64,
    pub bias: u64,
    pub output: u64,
}

impl Convolution {
    /// # Errors
    /// `NOT_SUPPORTED` for what is not imitated, `BAD_PARAM` for shapes that do not go together.
    pub fn check(&self) -> Outcome {
        let Convolution { input, filter, output, geometry } = self;
        let tensors = [input, filter, output];
        let kind = input.kind;
        if tensors.iter().any(|tensor| tensor.format != NHWC || tensor.kind != kind)
            || ![0, 2, 9].contains(&kind)
            || (geometry.mode, geometry.sums, geometry.dilation) != (1, 0, [1, 1])
        {
            return Err(Status::NOT_SUPPORTED);
        }
        let ([n, c, h, w], [k, taps, r, s]) = (input.sizes, filter.sizes);
        let count = |size: i32, kernel: i32, axis: usize| {
            (size + 2 * geometry.padding[axis] - kernel) / geometry.stride[axis].max(1) + 1
        };
        let groups = geometry.groups.max(1);
        let fits = output.sizes == [n, k, count(h, r, 0), count(w, s, 1)] && c == taps * groups && k % groups == 0;
        if fits && tensors.iter().all(|tensor| tensor.sizes.iter().all(|size| *size > 0)) {
            Ok(())
        } else {
            Err(Status::BAD_PARAM)
        }
    }

    /// Runs it over device memory, with bias and ReLU; NaN stays NaN.
    pub fn run(&self, memory: &Memory, at: &Addresses) -> Result<(), Fault> {
        let sizes = |tensor: &Tensor| tensor.sizes.map(|size| size as usize);
        let ([n, c, h, w], [k, taps, r, s], [_, _, p, q]) =
            (sizes(&self.input), sizes(&self.filter), sizes(&self.output));
        let kind = self.input.kind;
        let input = read(memory, at.input, n * h * w * c, kind)?;
        let filter = read(memory, at.filter, k * r * s * taps, kind)?;
        let bias = read(memory, at.bias, k, kind)?;
        let Geometry { padding, stride, groups, .. } = self.geometry;
        let filters = k / groups.max(1) as usize; // of a group
        let place = |output: usize, tap: usize, axis: usize, size: usize| {
            let at = (output * stride[axis] as usize + tap).checked_sub(padding[axis] as usize);
            at.filter(|at| *at < size)
        };
        let mut output = Vec::with_capacity(n * p * q * k);
        for (image, y, x) in (0..n * p * q).map(|pixel| (pixel / (p * q), pixel / q % p, pixel % q)) {
            for number in 0..k {
                let first = number / filters * taps;
                let mut sum = 0.0f32;
                for (row, column) in (0..r * s).map(|tap| (tap / s, tap % s)) {
                    let (Some(y), Some(x)) = (place(y, row, 0, h), place(x, column, 1, w)) else { continue };
                    let values = &input[((image * h + y) * w + x) * c + first..][..taps];
                    let weights = &filter[((number * r + row) * s + column) * taps..][..taps];
                    sum += values.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f32>();
                }
                let value = sum + bias[number];
                output.push(if value < 0.0 { 0.0 } else { value });
            }
        }
        memory.write(at.output, &encode(&output, kind))
    }
}

fn bytes(kind: u32) -> usize {
    if kind == 0 { 4 } else { 2 }
}

fn read(memory: &Memory, from: u64, count: usize, kind: u32) -> Result<Vec<f32>, Fault> {
    let mut buffer = vec![0; count * bytes(kind)];
    memory.read(from, &mut buffer)?;
    let values = buffer.chunks_exact(bytes(kind)).map(|b| match kind {
        0 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        2 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        _ => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
    });
    Ok(values.collect())
}

fn encode(values: &[f32], kind: u32) -> Vec<u8> {
    let half = |value: f32| match kind {
        2 => f16::from_f32(value).to_le_bytes(),
        _ => bf16::from_f32(value).to_le_bytes(),
    };
    match kind {
        0 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| half(*value)).collect(),
    }
}

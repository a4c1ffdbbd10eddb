//! Arguments of every kernel, field by field as in `kernels/common/args.cuh`. Free of CUDA, so that they are tested
//! anywhere.

use std::mem::offset_of;

use super::kernels::{FUSED_POOL, SPACE_TO_DEPTH_BLOCK};
use crate::net::{ChannelOrder, Conv, Lrn, Pool, Preprocess, Shape};
use crate::plan::{LRN_BETA, SpaceToDepth, Step, dropout_mask};

/// A device address.
pub type DevicePtr = u64;

/// Where a step's operands are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Addresses {
    /// Input, (N, H, W, C).
    pub source: DevicePtr,
    /// Output, (N, P, Q, K).
    pub target: DevicePtr,
    /// (K, R, S, C / groups), as [`encode_filter`](super::encode_filter) gives it; zero where the step has no weights.
    pub filter: DevicePtr,
    /// (K), likewise.
    pub bias: DevicePtr,
    /// (splits, N, P, Q, K), where the launch has several splits.
    pub partial: DevicePtr,
    /// [`WORKSPACE_BYTES`](super::WORKSPACE_BYTES) at a multiple of 256, where cuBLASLt runs the step.
    pub workspace: DevicePtr,
}

/// A struct that a kernel takes by value, as its only parameter.
///
/// # Safety
/// The type is `#[repr(C)]`, has no padding, and equals the kernel's struct in size and offsets.
pub unsafe trait KernelArgs {
    /// Names of the fields, in order.
    const FIELDS: &'static [&'static str];
}

macro_rules! kernel_args {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* } last $last:ident at $offset:literal, size $size:literal) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name {
            $(#[allow(missing_docs)] pub $field: $type,)*
        }
        const _: () = assert!(offset_of!($name, $last) == $offset && size_of::<$name>() == $size);
        const _: () = assert!($(size_of::<$type>() +)* 0 == $size, "the struct has padding");
        // SAFETY: repr(C), no padding and the size by the assertions above; the kernel's side asserts the same numbers.
        unsafe impl KernelArgs for $name {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];
        }
    };
}

kernel_args! {
    /// The convolution kernels and GEMVs.
    ConvArgs {
        input: DevicePtr, filter: DevicePtr, bias: DevicePtr, output: DevicePtr, partial: DevicePtr,
        n: i32, h: i32, w: i32, c: i32,
        p: i32, q: i32, k: i32,
        r: i32, s: i32,
        stride: i32, padding: i32, groups: i32,
        relu: i32,
        wide_output: i32,
        splits: i32,
        pitch: i32,
    } last pitch at 100, size 104
}

kernel_args! {
    /// The kernels that add up splits.
    ReduceArgs {
        partial: DevicePtr, bias: DevicePtr, output: DevicePtr,
        count: i64,
        k: i32,
        splits: i32,
        relu: i32,
        pitch: i32,
    } last pitch at 44, size 48
}

kernel_args! {
    /// The pool kernels.
    PoolArgs {
        input: DevicePtr, output: DevicePtr,
        n: i32, h: i32, w: i32, c: i32,
        p: i32, q: i32,
        kernel: i32, stride: i32,
        pitch: i32,
        reserved: i32,
    } last reserved at 52, size 56
}

kernel_args! {
    /// The LRN kernels.
    LrnArgs {
        input: DevicePtr, output: DevicePtr,
        pixels: i64,
        c: i32, tower: i32,
        reach: i32,
        scale: f32,
        k: f32,
        input_c: i32, first: i32,
        pitch: i32,
    } last pitch at 52, size 56
}

kernel_args! {
    /// The kernels of LRN and a max pool fused.
    LrnPoolArgs {
        input: DevicePtr, output: DevicePtr,
        n: i32, h: i32, w: i32, c: i32,
        p: i32, q: i32,
        tower: i32,
        scale: f32,
        k: f32,
        input_c: i32, first: i32,
        pitch: i32,
    } last pitch at 60, size 64
}

kernel_args! {
    /// The preprocessing kernels.
    PreprocessArgs {
        pixels: DevicePtr, output: DevicePtr,
        count: i64,
        divisor: f32,
        mean: [f32; 3], std: [f32; 3],
        bgr: i32,
    } last bgr at 52, size 56
}

kernel_args! {
    /// The preprocessing kernels that lay blocks of pixels out as channels.
    SpaceToDepthArgs {
        pixels: DevicePtr, output: DevicePtr,
        n: i32, h: i32, w: i32,
        hb: i32, wb: i32,
        padding: i32,
        divisor: f32,
        mean: [f32; 3], std: [f32; 3],
        bgr: i32,
    } last bgr at 68, size 72
}

kernel_args! {
    /// `softmax_topk_f32`.
    TopKArgs {
        logits: DevicePtr, indices: DevicePtr, scores: DevicePtr, finite: DevicePtr,
        n: i32, classes: i32, k: i32,
        probabilities: i32,
    } last probabilities at 44, size 48
}

kernel_args! {
    /// The dropout kernels.
    DropoutArgs {
        input: DevicePtr, output: DevicePtr,
        count: u64,
        seed: u64,
        layer: u32,
        threshold: u32,
        scale: f32,
        reserved: u32,
    } last reserved at 44, size 48
}

impl ConvArgs {
    /// A convolution step over `images` images, GEMM_K in `splits` parts.
    pub fn conv(conv: &Conv, step: &Step, images: usize, relu: bool, splits: usize, addresses: &Addresses) -> Self {
        Self::with(conv, step.input, step, images, relu, splits, addresses)
    }

    /// A fully connected step, as the 1x1 convolution of its flattened input.
    pub fn linear(step: &Step, images: usize, relu: bool, splits: usize, addresses: &Addresses) -> Self {
        let conv = Conv { out_channels: step.output.c, kernel: 1, stride: 1, padding: 0, groups: 1 };
        let flat = Shape { h: 1, w: 1, c: step.input.len() };
        Self::with(&conv, flat, step, images, relu, splits, addresses)
    }

    fn with(
        conv: &Conv,
        from: Shape,
        step: &Step,
        images: usize,
        relu: bool,
        splits: usize,
        addresses: &Addresses,
    ) -> Self {
        let to = step.unpooled();
        ConvArgs {
            input: addresses.source,
            filter: addresses.filter,
            bias: addresses.bias,
            output: addresses.target,
            partial: addresses.partial,
            n: int(images),
            h: int(from.h),
            w: int(from.w),
            c: int(from.c),
            p: int(to.h),
            q: int(to.w),
            k: int(to.c),
            r: int(conv.kernel),
            s: int(conv.kernel),
            stride: int(conv.stride),
            padding: int(conv.padding),
            groups: int(conv.groups),
            relu: i32::from(relu),
            wide_output: i32::from(step.logits),
            splits: int(splits),
            pitch: int(step.pitch()),
        }
    }
}

impl ReduceArgs {
    /// The end of a convolution whose GEMM_K was summed in several parts.
    pub fn new(conv: &ConvArgs) -> Self {
        ReduceArgs {
            partial: conv.partial,
            bias: conv.bias,
            output: conv.output,
            count: [conv.n, conv.p, conv.q, conv.k].map(i64::from).iter().product(),
            k: conv.k,
            splits: conv.splits,
            relu: conv.relu,
            pitch: conv.pitch,
        }
    }
}

impl PoolArgs {
    /// A pool step; kernel and stride do not matter to an adaptive average.
    pub fn new(step: &Step, images: usize, kernel: usize, stride: usize, input: DevicePtr, output: DevicePtr) -> Self {
        PoolArgs {
            input,
            output,
            n: int(images),
            h: int(step.input.h),
            w: int(step.input.w),
            c: int(step.output.c),
            p: int(step.output.h),
            q: int(step.output.w),
            kernel: int(kernel),
            stride: int(stride),
            pitch: int(step.pitch()),
            reserved: 0,
        }
    }
}

impl LrnArgs {
    /// LRN over `images` activations of a step's input.
    pub fn new(lrn: &Lrn, step: &Step, images: usize, input: DevicePtr, output: DevicePtr) -> Self {
        assert_eq!(lrn.beta, LRN_BETA, "the kernel has one exponent");
        LrnArgs {
            input,
            output,
            pixels: (images * step.input.h * step.input.w) as i64,
            c: int(step.output.c),
            tower: int(step.input.c / lrn.scope.towers()),
            reach: int(lrn.size / 2),
            scale: (lrn.alpha / lrn.size as f64) as f32,
            k: lrn.k as f32,
            input_c: int(step.input.c),
            first: int(step.first_taken()),
            pitch: int(step.pitch()),
        }
    }
}

impl LrnPoolArgs {
    /// LRN before or after the pool that `step` fuses it with.
    pub fn new(lrn: &Lrn, step: &Step, images: usize, input: DevicePtr, output: DevicePtr) -> Self {
        let LrnArgs { tower, scale, k, input_c, first, pitch, .. } = LrnArgs::new(lrn, step, images, input, output);
        let Pool { kernel, stride } = FUSED_POOL;
        let PoolArgs { n, h, w, c, p, q, .. } = PoolArgs::new(step, images, kernel, stride, input, output);
        LrnPoolArgs { input, output, n, h, w, c, p, q, tower, scale, k, input_c, first, pitch }
    }
}

impl DropoutArgs {
    /// Dropout of `count` elements; `layer` is the layer's position in its network.
    pub fn new(p: f32, layer: u32, seed: u64, count: usize, input: DevicePtr, output: DevicePtr) -> Self {
        let (threshold, scale) = dropout_mask(p);
        DropoutArgs { input, output, count: count as u64, seed, layer, threshold, scale, reserved: 0 }
    }
}

impl PreprocessArgs {
    /// Preprocessing of `images` images of `shape`.
    pub fn new(preprocess: &Preprocess, shape: Shape, images: usize, pixels: DevicePtr, output: DevicePtr) -> Self {
        PreprocessArgs {
            pixels,
            output,
            count: (images * shape.h * shape.w) as i64,
            divisor: preprocess.divisor,
            mean: preprocess.mean,
            std: preprocess.std,
            bgr: i32::from(preprocess.order == ChannelOrder::Bgr),
        }
    }
}

impl SpaceToDepthArgs {
    /// Preprocessing of `images` images by `step` into `layout`.
    pub fn new(
        preprocess: &Preprocess,
        layout: SpaceToDepth,
        step: &Step,
        images: usize,
        pixels: DevicePtr,
        output: DevicePtr,
    ) -> Self {
        assert_eq!(layout.block, SPACE_TO_DEPTH_BLOCK, "the kernel has one block");
        SpaceToDepthArgs {
            pixels,
            output,
            n: int(images),
            h: int(step.input.h),
            w: int(step.input.w),
            hb: int(step.output.h),
            wb: int(step.output.w),
            padding: int(layout.padding),
            divisor: preprocess.divisor,
            mean: preprocess.mean,
            std: preprocess.std,
            bgr: i32::from(preprocess.order == ChannelOrder::Bgr),
        }
    }
}

/// Sessions refuse batches whose extents do not fit.
fn int(extent: usize) -> i32 {
    i32::try_from(extent).expect("a session's extents fit 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size and last offset are asserted by both compilers; here the fields' names and order, from the kernels' own header.
    #[test]
    fn fields_are_the_kernels_in_order() {
        let header = include_str!("../../kernels/common/args.cuh");
        let fields = |name: &str| -> Vec<&str> {
            let body = header.split_once(&format!("struct {name} {{")).expect(name).1.split_once("};").expect(name).0;
            let code = body.lines().map(|line| line.split("//").next().expect("a line has a beginning"));
            let declarations: Vec<&str> = code.flat_map(|line| line.split([',', ';'])).map(str::trim).collect();
            let names =
                declarations.into_iter().filter(|d| !d.is_empty()).map(|d| d.rsplit([' ', '*']).next().expect(name));
            names.map(|name| name.split('[').next().expect("a name")).collect()
        };
        assert_eq!(fields("ConvArgs"), ConvArgs::FIELDS);
        assert_eq!(fields("ReduceArgs"), ReduceArgs::FIELDS);
        assert_eq!(fields("SpaceToDepthArgs"), SpaceToDepthArgs::FIELDS);
        assert_eq!(fields("PoolArgs"), PoolArgs::FIELDS);
        assert_eq!(fields("LrnArgs"), LrnArgs::FIELDS);
        assert_eq!(fields("LrnPoolArgs"), LrnPoolArgs::FIELDS);
        assert_eq!(fields("PreprocessArgs"), PreprocessArgs::FIELDS);
        assert_eq!(fields("TopKArgs"), TopKArgs::FIELDS);
        assert_eq!(fields("DropoutArgs"), DropoutArgs::FIELDS);
    }
}

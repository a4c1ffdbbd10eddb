//! The exported functions, under cuDNN's names.

use crate::abi::{Outcome, Pointer, Status, guard};
use crate::convolution::{Addresses, Convolution, Geometry, NHWC, Tensor};
use crate::driver;

/// `cudnnConvolutionFwdAlgoPerf_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Performance {
    algorithm: u32,
    status: u32,
    time: f32,
    memory: usize,
    determinism: u32,
    math: u32,
    reserved: [i32; 3],
}

/// `CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM`.
const GEMM: u32 = 1;
/// `CUDNN_ACTIVATION_RELU`.
const RELU: u32 = 1;

/// A handle: the stream that it works on.
type Handle = Pointer<usize>;

/// Defines exported functions: C ABI, the exact name, a body that may use `?`.
macro_rules! exports {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        extern "C" fn $name($($arg: $type),*) -> u32 {
            guard(move || $body)
        }
    )*};
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
extern "C" fn cudnnGetVersion() -> usize {
    90_100
}

exports! {
    fn cudnnCreate(handle: Pointer<Handle>) {
        driver::check()?;
        handle.set(0, Pointer::new(0))
    }

    fn cudnnDestroy(handle: Handle) {
        handle.free()
    }

    fn cudnnSetStream(handle: Handle, stream: usize) {
        handle.set(0, stream)
    }

    fn cudnnCreateTensorDescriptor(tensor: Pointer<Pointer<Tensor>>) {
        tensor.set(0, Pointer::new(Tensor::default()))
    }

    fn cudnnSetTensor4dDescriptor(tensor: Pointer<Tensor>, format: u32, kind: u32, n: i32, c: i32, h: i32, w: i32) {
        tensor.set(0, Tensor { kind, format, sizes: [n, c, h, w] })
    }

    fn cudnnDestroyTensorDescriptor(tensor: Pointer<Tensor>) {
        tensor.free()
    }

    fn cudnnCreateFilterDescriptor(filter: Pointer<Pointer<Tensor>>) {
        filter.set(0, Pointer::new(Tensor::default()))
    }

    fn cudnnSetFilter4dDescriptor(filter: Pointer<Tensor>, kind: u32, format: u32, k: i32, c: i32, r: i32, s: i32) {
        filter.set(0, Tensor { kind, format, sizes: [k, c, r, s] })
    }

    fn cudnnDestroyFilterDescriptor(filter: Pointer<Tensor>) {
        filter.free()
    }

    fn cudnnCreateConvolutionDescriptor(geometry: Pointer<Pointer<Geometry>>) {
        geometry.set(0, Pointer::new(Geometry::default()))
    }

    fn cudnnSetConvolution2dDescriptor(
        geometry: Pointer<Geometry>,
        pad_h: i32,
        pad_w: i32,
        stride_h: i32,
        stride_w: i32,
        dilation_h: i32,
        dilation_w: i32,
        mode: u32,
        sums: u32,
    ) {
        let (padding, stride, dilation) = ([pad_h, pad_w], [stride_h, stride_w], [dilation_h, dilation_w]);
        geometry.set(0, Geometry { padding, stride, dilation, mode, sums, ..geometry.get()? })
    }

    fn cudnnSetConvolutionGroupCount(geometry: Pointer<Geometry>, groups: i32) {
        geometry.set(0, Geometry { groups, ..geometry.get()? })
    }

    fn cudnnSetConvolutionMathType(geometry: Pointer<Geometry>, math: u32) {
        geometry.set(0, Geometry { math, ..geometry.get()? })
    }

    fn cudnnDestroyConvolutionDescriptor(geometry: Pointer<Geometry>) {
        geometry.free()
    }

    fn cudnnCreateActivationDescriptor(activation: Pointer<Pointer<u32>>) {
        activation.set(0, Pointer::new(u32::MAX))
    }

    fn cudnnSetActivationDescriptor(activation: Pointer<u32>, mode: u32, _nan: u32, _coefficient: f64) {
        activation.set(0, mode)
    }

    fn cudnnDestroyActivationDescriptor(activation: Pointer<u32>) {
        activation.free()
    }

    fn cudnnFindConvolutionForwardAlgorithmEx(
        handle: Handle,
        input: Pointer<Tensor>,
        _x: u64,
        filter: Pointer<Tensor>,
        _w: u64,
        geometry: Pointer<Geometry>,
        output: Pointer<Tensor>,
        _y: u64,
        requested: i32,
        found: Pointer<i32>,
        results: Pointer<Performance>,
        _workspace: u64,
        _workspace_bytes: usize,
    ) {
        handle.get()?;
        let geometry = geometry.get()?;
        Convolution { input: input.get()?, filter: filter.get()?, output: output.get()?, geometry }.check()?;
        let refused = Performance {
            algorithm: 0,
            status: Status::NOT_SUPPORTED.0,
            time: -1.0,
            memory: 0,
            determinism: 1,
            math: geometry.math,
            reserved: [0; 3],
        };
        let good = Performance { algorithm: GEMM, status: 0, time: 1.0, ..refused };
        let all = [refused, good];
        let count = all.len().min(usize::try_from(requested).map_err(|_| Status::BAD_PARAM)?);
        (0..count).try_for_each(|index| results.set(index, all[index]))?;
        found.set(0, count as i32)
    }

    fn cudnnConvolutionBiasActivationForward(
        handle: Handle,
        alpha_1: Pointer<f32>,
        input: Pointer<Tensor>,
        x: u64,
        filter: Pointer<Tensor>,
        w: u64,
        geometry: Pointer<Geometry>,
        algorithm: u32,
        _workspace: u64,
        _workspace_bytes: usize,
        alpha_2: Pointer<f32>,
        added: Pointer<Tensor>,
        _z: u64,
        bias: Pointer<Tensor>,
        b: u64,
        activation: Pointer<u32>,
        output: Pointer<Tensor>,
        y: u64,
    ) {
        let (input, filter, output) = (input.get()?, filter.get()?, output.get()?);
        let convolution = Convolution { input, filter, output, geometry: geometry.get()? };
        convolution.check()?;
        let (bias, added) = (bias.get()?, added.get()?);
        let scalars = (alpha_1.get()?, alpha_2.get()?);
        if scalars != (1.0, 0.0) || activation.get()? != RELU || algorithm != GEMM {
            return Err(Status::NOT_SUPPORTED);
        }
        let fits = bias.sizes == [1, output.sizes[1], 1, 1] && bias.kind == output.kind && bias.format == NHWC;
        if !fits || added.sizes != output.sizes || [x, w, b, y].contains(&0) {
            return Err(Status::BAD_PARAM);
        }
        let at = Addresses { input: x, filter: w, bias: b, output: y };
        let outcome: Outcome = driver::enqueue(handle.get()?, Box::new(move |memory| convolution.run(memory, &at)));
        outcome
    }
}

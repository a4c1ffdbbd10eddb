//! cuDNN's convolution with bias and ReLU, where the machine has its library. Only an imitated one has run: see
//! `docs/hardware.md`.
//!
//! Operands are those of our own kernels: NHWC activations, KRSC filters, float32 sums. The algorithm is the fastest that cuDNN
//! itself measures, of those that add a bias and a ReLU.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::rc::Rc;

use alexnet::Precision;
use alexnet::cuda::Element;
use alexnet::cuda::lone::{Lane, Lone, Operands, Round, Source};
use alexnet::net::{Conv, Shape};
use alexnet::plan::StepKind;
use cudarc::cudnn::result::{self, CudnnError};
use cudarc::cudnn::sys;
use cudarc::driver::{CudaGraph, CudaSlice, DevicePtr};
use libloading::Library;

/// Most workspace that an algorithm may take, in bytes.
const WORKSPACE_BYTES: usize = 256 << 20;
/// Operands begin at multiples of this, in bytes.
const ALIGNMENT: usize = 256;

/// The oldest version whose statuses are known: cuDNN 9.
const MIN_VERSION: usize = 90_000;

/// Every function that is called. cudarc looks a function up when it is first called and panics where it is missing.
const FUNCTIONS: [&str; 20] = [
    "cudnnConvolutionBiasActivationForward",
    "cudnnCreate",
    "cudnnCreateActivationDescriptor",
    "cudnnCreateConvolutionDescriptor",
    "cudnnCreateFilterDescriptor",
    "cudnnCreateTensorDescriptor",
    "cudnnDestroy",
    "cudnnDestroyActivationDescriptor",
    "cudnnDestroyConvolutionDescriptor",
    "cudnnDestroyFilterDescriptor",
    "cudnnDestroyTensorDescriptor",
    "cudnnFindConvolutionForwardAlgorithmEx",
    "cudnnGetVersion",
    "cudnnSetActivationDescriptor",
    "cudnnSetConvolution2dDescriptor",
    "cudnnSetConvolutionGroupCount",
    "cudnnSetConvolutionMathType",
    "cudnnSetFilter4dDescriptor",
    "cudnnSetStream",
    "cudnnSetTensor4dDescriptor",
];

/// The library on a lane.
pub struct Cudnn {
    handle: sys::cudnnHandle_t,
    lane: Rc<Lane>,
    version: usize,
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: made by `open` and destroyed once; every convolution holds this.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Cudnn {
    /// # Errors
    /// Not found, lacking a function, refused by the driver.
    pub fn open(lane: &Rc<Lane>) -> Result<Rc<Self>, String> {
        let names = cudarc::get_lib_name_candidates("cudnn");
        // SAFETY: the library's initialisers are sound to run at any time. It stays loaded.
        let load = |name| unsafe { Library::new(name) }.map(std::mem::forget).is_ok();
        if !names.into_iter().any(load) {
            return Err("found no libcudnn.so or libcudnn.so.9; have its folder in LD_LIBRARY_PATH".into());
        }
        // SAFETY: the library is there; the addresses are looked up and not used.
        let is_missing = |name: &&&str| unsafe { sys::culib().get::<*const ()>(name.as_bytes()).is_err() };
        if let Some(missing) = FUNCTIONS.iter().find(is_missing) {
            return Err(format!("found no {missing} in libcudnn"));
        }
        let version = result::get_version();
        if version < MIN_VERSION {
            return Err(format!("found cuDNN {version}, needed {MIN_VERSION} (cuDNN 9) or later"));
        }
        // SAFETY: everything here runs on this one stream.
        let stream = unsafe { lane.stream() };
        stream.context().bind_to_thread().map_err(|e| e.to_string())?;
        let handle = result::create_handle().map_err(|e| failed("starting", e))?;
        let cudnn = Cudnn { handle, lane: Rc::clone(lane), version };
        // SAFETY: both are alive, and the lane is kept.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }.map_err(|e| failed("taking a stream", e))?;
        Ok(Rc::new(cudnn))
    }
}

fn failed(doing: &str, CudnnError(status): CudnnError) -> String {
    format!("cuDNN reports {status:?} while {doing}")
}

/// A descriptor of cuDNN's, destroyed with it.
struct Descriptor<T: Copy>(T, unsafe fn(T) -> sys::cudnnStatus_t);

impl<T: Copy> Drop for Descriptor<T> {
    fn drop(&mut self) {
        // SAFETY: made by cuDNN, and destroyed once by the function that belongs to it.
        let _ = unsafe { self.1(self.0) };
    }
}

/// What a convolution is to cuDNN.
struct Problem {
    input: Descriptor<sys::cudnnTensorDescriptor_t>,
    filter: Descriptor<sys::cudnnFilterDescriptor_t>,
    conv: Descriptor<sys::cudnnConvolutionDescriptor_t>,
    bias: Descriptor<sys::cudnnTensorDescriptor_t>,
    output: Descriptor<sys::cudnnTensorDescriptor_t>,
    activation: Descriptor<sys::cudnnActivationDescriptor_t>,
}

impl Problem {
    fn new(conv: &Conv, input: Shape, output: Shape, images: usize, precision: Precision) -> Result<Self, CudnnError> {
        let kind = match Element::of(precision) {
            Element::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            Element::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            Element::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        // On float32 the default takes tensor cores, as tf32.
        let math = match precision {
            Precision::Float32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            Precision::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            Precision::Float16 | Precision::Bfloat16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        const NHWC: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let int = |size: usize| size as c_int;
        let tensor = |n: usize, Shape { h, w, c }: Shape| {
            let tensor = Descriptor(result::create_tensor_descriptor()?, sys::cudnnDestroyTensorDescriptor);
            // SAFETY: the descriptor is alive.
            unsafe { result::set_tensor4d_descriptor(tensor.0, NHWC, kind, [n, c, h, w].map(int))? };
            Ok(tensor)
        };
        let filter = Descriptor(result::create_filter_descriptor()?, sys::cudnnDestroyFilterDescriptor);
        let filters = [output.c, input.c / conv.groups, conv.kernel, conv.kernel].map(int);
        let descriptor = Descriptor(result::create_convolution_descriptor()?, sys::cudnnDestroyConvolutionDescriptor);
        let activation = Descriptor(result::create_activation_descriptor()?, sys::cudnnDestroyActivationDescriptor);
        let (padding, stride) = (int(conv.padding), int(conv.stride));
        // SAFETY: all descriptors are alive.
        unsafe {
            result::set_filter4d_descriptor(filter.0, kind, NHWC, filters)?;
            let (mode, sums) =
                (sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
            result::set_convolution2d_descriptor(descriptor.0, padding, padding, stride, stride, 1, 1, mode, sums)?;
            result::set_convolution_group_count(descriptor.0, int(conv.groups))?;
            result::set_convolution_math_type(descriptor.0, math)?;
            result::set_activation_descriptor(
                activation.0,
                sys::cudnnActivationMode_t::CUDNN_ACTIVATION_RELU,
                sys::cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN,
                0.0,
            )?;
        }
        let (bias, input, output) =
            (tensor(1, Shape { h: 1, w: 1, c: output.c })?, tensor(images, input)?, tensor(images, output)?);
        Ok(Problem { input, filter, conv: descriptor, bias, output, activation })
    }
}

/// Addresses of a set of operands.
#[derive(Clone, Copy)]
struct Set {
    input: *mut c_void,
    filter: *mut c_void,
    output: *mut c_void,
}

/// A convolution with its operands, of which it has sets that take turns.
pub struct Convolution {
    problem: Problem,
    algorithm: sys::cudnnConvolutionFwdAlgo_t,
    workspace: CudaSlice<u8>,
    bias: CudaSlice<u8>,
    arena: CudaSlice<u8>,
    sets: Vec<Set>,
    element: Element,
    output_bytes: usize,
    /// With what is left to the next set.
    output_room: usize,
    runs: usize,
    graph: Option<CudaGraph>,
    cudnn: Rc<Cudnn>,
}

impl Drop for Convolution {
    fn drop(&mut self) {
        let _ = self.cudnn.lane.wait();
    }
}

impl Convolution {
    /// `lone`, a convolution with ReLU that is not fused with more, on the operands that our own kernels have.
    ///
    /// # Errors
    /// Those of cuDNN, in words.
    pub fn new(cudnn: &Rc<Cudnn>, lone: &Lone, seed: u64, round: Round) -> Result<Self, String> {
        let [step] = lone.steps() else { return Err("more than a convolution".into()) };
        let StepKind::Conv { conv, relu: true, unpooled: None, .. } = step.kind else {
            return Err(format!("{} is no convolution with a ReLU", lone.name()));
        };
        let (precision, images) = (lone.rules().precision, lone.images());
        let Operands { source: Source::Values(source), weights } = Operands::random(lone, seed) else {
            return Err("pixels are not convolved".into());
        };
        let (filter, bias) = weights.into_iter().next().flatten().ok_or("no weights")?;
        let problem = Problem::new(&conv, step.input, step.output, images, precision);
        let problem = problem.map_err(|e| failed("describing a convolution", e))?;

        let element = Element::of(precision);
        let (source, filter, bias) = (element.encode(&source), element.encode(&filter), element.encode(&bias));
        let output_bytes = images * step.output.len() * element.bytes();
        let ends = [source.len(), filter.len(), output_bytes].map(|bytes| bytes.next_multiple_of(ALIGNMENT));
        let bytes: usize = ends.iter().sum();
        let count = round.cold_bytes.div_ceil(bytes).max(1);
        // SAFETY: everything here runs on this one stream.
        let stream = unsafe { cudnn.lane.stream() };
        let driver = |e: cudarc::driver::DriverError| e.to_string();
        let mut arena = stream.alloc_zeros::<u8>(count * bytes).map_err(driver)?;
        for set in 0..count {
            for (start, values) in [(0, &source), (ends[0], &filter)] {
                let start = set * bytes + start;
                let mut place = arena.slice_mut(start..start + values.len());
                stream.memcpy_htod(&**values, &mut place).map_err(driver)?;
            }
        }
        let bias = stream.clone_htod(&*bias).map_err(driver)?;
        let workspace = stream.alloc_zeros::<u8>(WORKSPACE_BYTES).map_err(driver)?;
        cudnn.lane.wait().map_err(|e| e.to_string())?;
        let first = arena.device_ptr(stream).0 as usize;
        let set = |index: usize| {
            let at = |offset: usize| ptr::with_exposed_provenance_mut(first + index * bytes + offset);
            Set { input: at(0), filter: at(ends[0]), output: at(ends[0] + ends[1]) }
        };
        let mut convolution = Convolution {
            problem,
            algorithm: sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
            workspace,
            bias,
            sets: (0..count).map(set).collect(),
            arena,
            element,
            output_bytes,
            output_room: ends[2],
            runs: count * round.runs.div_ceil(count).max(1),
            graph: None,
            cudnn: Rc::clone(cudnn),
        };
        convolution.choose()?;
        let mut refused = Ok(());
        let enqueue = || {
            refused = (0..convolution.runs).try_for_each(|run| convolution.run(run % count));
            Ok(())
        };
        // SAFETY: memory and descriptors are dropped with the graph, after its last run is over.
        let graph = unsafe { cudnn.lane.capture(enqueue) }.map_err(|e| e.to_string())?;
        refused?;
        convolution.graph = Some(graph);
        Ok(convolution)
    }

    /// What runs, in words.
    pub fn how(&self) -> String {
        let algorithm = format!("{:?}", self.algorithm);
        let algorithm = algorithm.trim_start_matches("CUDNN_CONVOLUTION_FWD_ALGO_").to_lowercase();
        format!("cuDNN {}, {algorithm}", self.cudnn.version)
    }

    /// Runs a round.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// Queues a round.
    pub fn enqueue(&self) {
        self.graph.as_ref().expect("made with it").launch().expect("the device is there");
    }

    /// The output of the last run of a round, (N, H, W, C), waited for.
    ///
    /// # Errors
    /// Those of the driver, in words.
    pub fn output(&self) -> Result<Vec<f32>, String> {
        let end = self.arena.len() - self.output_room;
        // SAFETY: everything here runs on this one stream.
        let stream = unsafe { self.cudnn.lane.stream() };
        let bytes = stream.clone_dtoh(&self.arena.slice(end..end + self.output_bytes)).map_err(|e| e.to_string())?;
        let mut values = vec![];
        self.element.decode(&bytes, &mut values);
        Ok(values)
    }

    fn at(&self, memory: &CudaSlice<u8>) -> *mut c_void {
        // SAFETY: everything here runs on this one stream.
        let stream = unsafe { self.cudnn.lane.stream() };
        ptr::with_exposed_provenance_mut(memory.device_ptr(stream).0 as usize)
    }

    /// Sets algorithm and kind of products to those that cuDNN finds fastest by running all of them. It looks at the convolution
    /// alone: what does not take a bias and a ReLU as well is passed over.
    fn choose(&mut self) -> Result<(), String> {
        const MOST: usize = sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_COUNT as usize;
        let Problem { input, filter, conv, output, .. } = &self.problem;
        let Set { input: x, filter: w, output: y } = self.sets[0];
        let mut count: c_int = 0;
        // SAFETY: the struct is plain numbers and enums that all have a value of 0.
        let mut found: [sys::cudnnConvolutionFwdAlgoPerf_t; MOST] = unsafe { std::mem::zeroed() };
        // SAFETY: handle and descriptors are alive, the addresses have room for what these describe, and `found` for as many
        // entries as are asked for.
        let status = unsafe {
            sys::cudnnFindConvolutionForwardAlgorithmEx(
                self.cudnn.handle,
                input.0,
                x,
                filter.0,
                w,
                conv.0,
                output.0,
                y,
                MOST as c_int,
                &mut count,
                found.as_mut_ptr(),
                self.at(&self.workspace),
                WORKSPACE_BYTES,
            )
        };
        status.result().map_err(|e| failed("looking for an algorithm", e))?;
        let good = |perf: &&sys::cudnnConvolutionFwdAlgoPerf_t| perf.status.result().is_ok();
        let mut refused = "cuDNN has no algorithm".to_string();
        for perf in found[..count as usize].iter().filter(good) {
            // SAFETY: the descriptor is alive.
            let set = unsafe { result::set_convolution_math_type(self.problem.conv.0, perf.mathType) };
            set.map_err(|e| failed("choosing an algorithm", e))?;
            self.algorithm = perf.algo;
            // A first run may load a kernel, which no capture allows.
            match self.run(0) {
                Ok(()) => return self.cudnn.lane.wait().map_err(|e| e.to_string()),
                Err(reason) => refused = reason,
            }
        }
        Err(refused)
    }

    /// Queues a run on set `set`.
    fn run(&self, set: usize) -> Result<(), String> {
        let Problem { input, filter, conv, bias, output, activation } = &self.problem;
        let Set { input: x, filter: w, output: y } = self.sets[set];
        let (one, zero) = (1f32, 0f32);
        // SAFETY: as in `choose`; scalars are float32 on the host. Times zero the output is added, which cuDNN allows.
        let started = unsafe {
            result::convolution_bias_activation_forward(
                self.cudnn.handle,
                (&raw const one).cast(),
                input.0,
                x,
                filter.0,
                w,
                conv.0,
                self.algorithm,
                self.at(&self.workspace),
                WORKSPACE_BYTES,
                (&raw const zero).cast(),
                output.0,
                y,
                bias.0,
                self.at(&self.bias),
                activation.0,
                output.0,
                y,
            )
        };
        started.map_err(|e| failed("starting a convolution", e))
    }
}

//! The one place that starts kernels.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaFunction, CudaGraph, CudaStream, result};

use super::args::{
    Addresses, ConvArgs, DropoutArgs, KernelArgs, LrnArgs, LrnPoolArgs, PoolArgs, PreprocessArgs, ReduceArgs,
    SpaceToDepthArgs,
};
use super::select::{self, Launch, Rules};
use super::{CudaDevice, failed_on};
use crate::Result;
use crate::options::Precision;
use crate::plan::{Step, StepKind};

/// A device's kernels and a stream that they run on.
pub struct Launcher {
    stream: Arc<CudaStream>,
    /// By the kernel's number, those of the precision.
    functions: Vec<Option<CudaFunction>>,
}

impl Launcher {
    /// A stream on `device` with the kernels for `precision`.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the driver makes no stream or refuses a kernel.
    pub fn new(device: &CudaDevice, precision: Precision) -> Result<Self> {
        let stream = device.context().new_stream().map_err(|e| failed_on(device.context(), "making a stream", e))?;
        Self::on(device, stream, precision)
    }

    /// The kernels for `precision` on `stream`, which is one of `device`.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the driver refuses a kernel.
    pub(super) fn on(device: &CudaDevice, stream: Arc<CudaStream>, precision: Precision) -> Result<Self> {
        Ok(Launcher { stream, functions: device.load(precision)? })
    }

    /// The same kernels on a stream of their own.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the driver makes no stream.
    pub(super) fn fork(&self) -> Result<Self> {
        let context = self.stream.context();
        let stream = context.new_stream().map_err(|e| failed_on(context, "making a stream", e))?;
        Ok(Launcher { stream, functions: self.functions.clone() })
    }

    /// The stream that everything runs on, in order.
    ///
    /// # Safety
    /// Memory allocated through it is used on this stream alone: event tracking is off, so nothing else would keep a
    /// second stream from running ahead.
    pub unsafe fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// [`stream`](Self::stream) for this module, whose sessions use no other.
    pub(super) fn own_stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Starts `launch`, which is [`select`](super::select::select)'s for `step` and `images` or, for an elementwise kernel,
    /// any other grid, or for a convolution that of any of its candidates, and returns at once. Several splits are added up
    /// by a second kernel. `seed` matters to dropout alone.
    ///
    /// # Safety
    /// `images` is at least 1 and [`Plan::check`](crate::plan::Plan::check) accepts the step, or it is one that a session
    /// rearranged or fused. The addresses are of memory on this stream's device that stays allocated until the stream has run the
    /// kernels: `source` and `target` with room for `images` inputs and outputs of the step, neither overlapping the other,
    /// `filter` and `bias` of the step's shape where it has weights, `partial` with room for the splits' sums. A buffer's
    /// elements, and 128 more, fit 31 bits, and addresses are multiples of 16. A half's `target` is that of its first channel, in a
    /// buffer of [`Step::room`] an image whose address is one.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) naming the kernel.
    pub unsafe fn launch_step(
        &self,
        launch: &Launch,
        step: &Step,
        images: usize,
        rules: &Rules,
        seed: u64,
        addresses: &Addresses,
    ) -> Result<()> {
        let &Addresses { source, target, .. } = addresses;
        let splits = launch.splits;
        // SAFETY (all launches): select() gives each kind of step its kernel, whose args are built here; the rest is the
        // caller's promise.
        unsafe {
            match step.kind {
                StepKind::Preprocess { preprocess, depth: None } => {
                    self.launch(launch, PreprocessArgs::new(&preprocess, step.output, images, source, target))
                }
                StepKind::Preprocess { preprocess, depth: Some(layout) } => {
                    self.launch(launch, SpaceToDepthArgs::new(&preprocess, layout, step, images, source, target))
                }
                StepKind::Conv { conv, relu, .. } => {
                    let args = ConvArgs::conv(&conv, step, images, relu, splits, addresses);
                    self.launch_product(launch, &select::reduce(step, images, rules), args)
                }
                StepKind::Linear { relu, .. } => {
                    let args = ConvArgs::linear(step, images, relu, splits, addresses);
                    self.launch_product(launch, &select::reduce(step, images, rules), args)
                }
                StepKind::Lrn(lrn) => self.launch(launch, LrnArgs::new(&lrn, step, images, source, target)),
                StepKind::MaxPool(pool) => {
                    self.launch(launch, PoolArgs::new(step, images, pool.kernel, pool.stride, source, target))
                }
                StepKind::LrnMaxPool(lrn) | StepKind::MaxPoolLrn(lrn) => {
                    self.launch(launch, LrnPoolArgs::new(&lrn, step, images, source, target))
                }
                StepKind::AvgPool => self.launch(launch, PoolArgs::new(step, images, 0, 0, source, target)),
                StepKind::Dropout { p, layer } => {
                    let count = images * step.output.len();
                    self.launch(launch, DropoutArgs::new(p, layer, seed, count, source, target))
                }
            }
        }
    }

    /// Starts a convolution, and `reduce` after it where it has several splits to add up.
    ///
    /// # Safety
    /// As [`launch`](Self::launch), of both kernels.
    unsafe fn launch_product(&self, launch: &Launch, reduce: &Launch, args: ConvArgs) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(launch, args)?;
            if launch.splits > 1 {
                self.launch(reduce, ReduceArgs::new(&args))?;
            }
        }
        Ok(())
    }

    /// Starts a kernel and returns at once.
    ///
    /// # Safety
    /// `args` is the struct of `launch.kernel`. Every address in it is of memory on this stream's device that stays
    /// allocated until the stream has run the kernel, with room for all elements that the extents in `args` imply, and no
    /// output overlaps an input.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) naming the kernel.
    pub unsafe fn launch<A: KernelArgs>(&self, launch: &Launch, mut args: A) -> Result<()> {
        let function = self.functions[launch.kernel as usize].as_ref();
        let function = function.unwrap_or_else(|| panic!("{:?} is of another precision", launch.kernel));
        let [x, y, z] = launch.grid;
        let mut parameters = [(&raw mut args).cast::<c_void>()];
        let context = self.stream.context();
        // SAFETY: the function belongs to this context, which is current on this thread after bind_to_thread; it takes one
        // struct by value, which the driver copies before the call returns; the rest is the caller's promise.
        let started = context.bind_to_thread().and_then(|()| unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (launch.kernel.threads(), 1, 1),
                0,
                self.stream.cu_stream(),
                &mut parameters,
            )
        });
        started.map_err(|e| failed_on(context, &format!("starting {} with {launch:?}", launch.kernel.name()), e))
    }
}

/// What `enqueue` queues on `stream`, as a CUDA graph, which works in the memory and with whatever else was queued.
///
/// # Errors
/// Those of `enqueue` and of the device.
pub(super) fn capture(stream: &Arc<CudaStream>, enqueue: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
    let capturing = |e| failed_on(stream.context(), "capturing a CUDA graph", e);
    // Other threads may allocate meanwhile.
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(capturing)?;
    let captured = enqueue();
    // Whatever came of it: the stream must not stay in capture mode.
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    captured?;
    Ok(graph.map_err(capturing)?.expect("a capture that began gives a graph"))
}

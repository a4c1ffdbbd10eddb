//! A stream with lone steps on it, and the device's own clock.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaEvent, CudaGraph, CudaSlice, CudaStream, DriverError};

use super::{Lone, Operands, Source};
use crate::cuda::args::{Addresses, DevicePtr};
use crate::cuda::cublaslt::{CublasLt, Matmul, WORKSPACE_BYTES};
use crate::cuda::element::{Element, encode_filter};
use crate::cuda::explain::runs;
use crate::cuda::launch::{Launcher, capture};
use crate::cuda::select::{self, Launch, Route};
use crate::cuda::timeline::{elapsed, timed};
use crate::cuda::tower::address;
use crate::cuda::{CudaDevice, failed_on};
use crate::plan::StepKind;
use crate::{Error, Result};

/// Operands begin at multiples of this, in bytes, as in a session.
const ALIGNMENT: usize = 256;

/// One stream of a device.
pub struct Lane {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    /// Opened when it is first asked for; or why it cannot be.
    cublaslt: OnceCell<std::result::Result<Arc<CublasLt>, String>>,
}

/// A moment on a lane.
pub struct Lap(CudaEvent);

/// What computes lone steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Kernels of our own.
    Own,
    /// cuBLASLt, of which a fully connected layer takes the algorithm that its heuristic puts first.
    CublasLt,
}

/// How often steps are repeated, on how much memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// A round goes through sets of operands that together have at least so many bytes: with twice a device's L2 or more, what
    /// a step reads is not there from the run before.
    pub cold_bytes: usize,
    /// Runs that a round has at least. It is one CUDA graph, so that short kernels do not wait for the host.
    pub runs: usize,
}

impl Default for Round {
    /// 256 MB, more than twice the L2 of an H200 or a B200, and 16 runs.
    fn default() -> Self {
        Round { cold_bytes: 256 << 20, runs: 16 }
    }
}

impl Lane {
    /// A stream of its own on `device`.
    ///
    /// # Errors
    /// [`Error::Device`] where the driver makes none.
    pub fn open(device: &CudaDevice) -> Result<Self> {
        let context = device.context();
        let stream = context.new_stream().map_err(|e| failed_on(context, "making a stream", e))?;
        Ok(Lane { device: device.clone(), stream, cublaslt: OnceCell::new() })
    }

    /// The device.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// The stream that everything runs on, in order.
    ///
    /// # Safety
    /// As [`Launcher::stream`].
    pub unsafe fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The moment at which the device has done all that is queued so far.
    ///
    /// # Errors
    /// Those of the device.
    pub fn lap(&self) -> Result<Lap> {
        timed(&self.stream).map(Lap)
    }

    /// Waits for all that is queued, and says what the device took for it since `begin`, by its own clock.
    ///
    /// # Errors
    /// Those of the device.
    pub fn since(&self, begin: &Lap) -> Result<Duration> {
        let Lap(end) = self.lap()?;
        self.wait()?;
        elapsed(&begin.0, &end)
    }

    /// `lone` by `by`, on operands that follow from `seed`, ready to be run in rounds.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] where the device lacks memory, [`Error::Device`] where cuBLASLt is missing or has no algorithm,
    /// [`Error::Usage`] where it is asked for another step than a fully connected layer.
    pub fn steps(&self, lone: &Lone, by: By, seed: u64, round: Round) -> Result<LoneSteps> {
        let launcher = Launcher::on(&self.device, Arc::clone(&self.stream), lone.rules.precision)?;
        let element = lone.rules.element();
        let operands = Operands::random(lone, seed);
        let source = match &operands.source {
            Source::Pixels(pixels) => pixels.as_slice().into(),
            Source::Values(values) => element.encode(values),
        };
        // One after the other in a set: source, then filter and output of each step.
        let mut parts = Parts::default();
        let at_source = parts.place(&source);
        let steps = lone.steps.iter().zip(&operands.weights).map(|(step, weights)| {
            let filter = match weights {
                Some((filter, _)) => {
                    let gemm_k = filter.len() / step.output.c;
                    parts.place(&encode_filter(lone.rules.precision, step.layers[0], filter, gemm_k)?)
                }
                None => 0,
            };
            let output = element.of_output(step);
            let target = parts.leave(lone.images * step.output.len() * output.bytes());
            let bias = match weights {
                Some((_, bias)) if by == By::CublasLt => Some(output.encode(bias)),
                Some((_, bias)) => Some(Element::F32.encode(bias)),
                None => None,
            };
            let bias = self.upload(bias.as_deref().unwrap_or_default())?;
            let launch = select::select(step, lone.images, &lone.rules);
            let partial = 4 * select::partial_elements(&launch, step, lone.images);
            let kernel = match by {
                By::Own => Kernel::Own(launch, self.zeros(partial)?),
                By::CublasLt => self.matmul(lone, address(&bias, &self.stream))?,
            };
            Ok(Placed { filter, target, bias, kernel })
        });
        let steps = steps.collect::<Result<Vec<_>>>()?;
        let Parts { bytes, filled } = parts;
        let sets = round.cold_bytes.div_ceil(bytes).max(1);
        let mut arena = self.zeros(sets * bytes)?;
        for set in 0..sets {
            for (offset, values) in &filled {
                let mut target = arena.slice_mut(set * bytes + offset..set * bytes + offset + values.len());
                self.stream.memcpy_htod(values, &mut target).map_err(|e| self.failed("uploading operands", e))?;
            }
        }
        self.wait()?; // for copies of host memory that ends here
        let runs = sets * round.runs.div_ceil(sets).max(1);
        let mut lone = LoneSteps {
            lone: lone.clone(),
            launcher,
            steps,
            source: at_source,
            arena,
            set_bytes: bytes,
            sets,
            runs,
            graph: None,
            last: 0,
        };
        lone.run(0)?; // a first run may load a kernel, which no capture allows
        self.wait()?;
        // SAFETY: the graph is dropped with the memory that it works in, after its last run is over.
        lone.graph = Some(unsafe { self.capture(|| (0..runs).try_for_each(|run| lone.run(run % sets)))? });
        lone.last = (runs - 1) % sets;
        Ok(lone)
    }

    /// What `enqueue` queues on the stream, as a CUDA graph.
    ///
    /// # Safety
    /// What is queued stays valid until the last run of the graph is over: memory and whatever else it works with.
    ///
    /// # Errors
    /// Those of `enqueue` and of the device.
    pub unsafe fn capture(&self, enqueue: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        capture(&self.stream, enqueue)
    }

    /// Waits for all that is queued.
    ///
    /// # Errors
    /// Those of the device.
    pub fn wait(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.failed("waiting for lone steps", e))
    }

    fn matmul(&self, lone: &Lone, bias: DevicePtr) -> Result<Kernel> {
        let [step] = &lone.steps[..] else { return Err(only_linear(lone)) };
        if !matches!(step.kind, StepKind::Linear { .. }) {
            return Err(only_linear(lone));
        }
        let open = || CublasLt::open(&self.device).map(Arc::new).map_err(|unusable| unusable.reason);
        let library = self.cublaslt.get_or_init(open).as_ref();
        let library = library.map_err(|reason| Error::Device(format!("cuBLASLt cannot be used: {reason}")))?;
        match Matmul::new(library, step, lone.images, &lone.rules, bias)? {
            Some(matmul) => Ok(Kernel::CublasLt(matmul, self.zeros(WORKSPACE_BYTES)?, library.to_string())),
            None => Err(Error::Device(format!("{library} has no algorithm for {}", lone.name()))),
        }
    }

    fn zeros(&self, bytes: usize) -> Result<CudaSlice<u8>> {
        let allocated = self.stream.alloc_zeros(bytes.max(ALIGNMENT));
        allocated.map_err(|e| self.failed(&format!("allocating {} MB for operands", bytes >> 20), e))
    }

    fn upload(&self, bytes: &[u8]) -> Result<CudaSlice<u8>> {
        let mut target = self.zeros(bytes.len())?;
        let mut part = target.slice_mut(..bytes.len());
        if !bytes.is_empty() {
            self.stream.memcpy_htod(bytes, &mut part).map_err(|e| self.failed("uploading operands", e))?;
            self.wait()?;
        }
        Ok(target)
    }

    fn failed(&self, doing: &str, error: DriverError) -> Error {
        failed_on(self.device.context(), doing, error)
    }
}

fn only_linear(lone: &Lone) -> Error {
    Error::Usage(format!("cuBLASLt computes fully connected layers, not {}", lone.name()))
}

/// What a set of operands is made of.
#[derive(Default)]
struct Parts {
    bytes: usize,
    /// Offset and content.
    filled: Vec<(usize, Vec<u8>)>,
}

impl Parts {
    fn place(&mut self, values: &[u8]) -> usize {
        let offset = self.leave(values.len());
        self.filled.push((offset, values.to_vec()));
        offset
    }

    fn leave(&mut self, bytes: usize) -> usize {
        let offset = self.bytes;
        self.bytes += bytes.next_multiple_of(ALIGNMENT);
        offset
    }
}

/// A step with its operands: offsets in a set, and what all sets share.
struct Placed {
    filter: usize,
    target: usize,
    bias: CudaSlice<u8>,
    kernel: Kernel,
}

enum Kernel {
    /// With partial sums.
    Own(Launch, CudaSlice<u8>),
    /// With a workspace, and the library's name and version.
    CublasLt(Matmul, CudaSlice<u8>, String),
}

/// A [`Lone`] on a [`Lane`], with sets of operands that take turns.
pub struct LoneSteps {
    lone: Lone,
    launcher: Launcher,
    steps: Vec<Placed>,
    source: usize,
    arena: CudaSlice<u8>,
    set_bytes: usize,
    sets: usize,
    runs: usize,
    /// Of a round.
    graph: Option<CudaGraph>,
    /// The set that a round ends with.
    last: usize,
}

impl LoneSteps {
    /// Queues a round and returns at once.
    ///
    /// # Errors
    /// Those of the device.
    pub fn enqueue(&self) -> Result<()> {
        let graph = self.graph.as_ref().expect("made with it");
        let context = self.launcher.own_stream().context();
        graph.launch().map_err(|e| failed_on(context, "starting a CUDA graph", e))
    }

    /// Runs a round.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// Sets of operands.
    pub fn sets(&self) -> usize {
        self.sets
    }

    /// Bytes of all sets.
    pub fn bytes(&self) -> usize {
        self.sets * self.set_bytes
    }

    /// What runs the steps, in words: kernel, grid, splits.
    pub fn kernel(&self) -> String {
        let Lone { images, rules, steps } = &self.lone;
        let words = steps.iter().zip(&self.steps).map(|(step, placed)| match &placed.kernel {
            Kernel::Own(launch, _) => runs(Route::Kernel(*launch), step, *images, rules),
            Kernel::CublasLt(_, _, library) => library.clone(),
        });
        words.collect::<Vec<_>>().join("; ")
    }

    /// The output of the last run of a round, (N, H, W, C), waited for.
    ///
    /// # Errors
    /// Those of the device.
    pub fn output(&self) -> Result<Vec<f32>> {
        let (step, placed) = self.lone.steps.iter().zip(&self.steps).next_back().expect("there is a step");
        let element = self.lone.rules.element().of_output(step);
        let start = self.last * self.set_bytes + placed.target;
        let slice = self.arena.slice(start..start + self.lone.images * step.output.len() * element.bytes());
        let stream = self.launcher.own_stream();
        let bytes = stream.clone_dtoh(&slice).map_err(|e| failed_on(stream.context(), "copying an output", e))?;
        let mut values = vec![];
        element.decode(&bytes, &mut values);
        Ok(values)
    }

    /// Queues the steps on set `set`.
    fn run(&self, set: usize) -> Result<()> {
        let stream = self.launcher.own_stream();
        let at = |offset: usize| address(&self.arena, stream) + (set * self.set_bytes + offset) as DevicePtr;
        let mut source = at(self.source);
        for (step, placed) in self.lone.steps.iter().zip(&self.steps) {
            let addresses = Addresses {
                source,
                target: at(placed.target),
                filter: at(placed.filter),
                bias: address(&placed.bias, stream),
                ..Addresses::default()
            };
            // SAFETY: the steps are of a plan that was checked, for as many images as kernels count, or fused or rearranged
            // from such; each set has room for their operands at multiples of 256, as encoded for the precision, and all of
            // it lives until `drop` has waited. Partial sums are those of the launch.
            unsafe {
                match &placed.kernel {
                    Kernel::Own(launch, partial) => {
                        let addresses = Addresses { partial: address(partial, stream), ..addresses };
                        self.launcher.launch_step(launch, step, self.lone.images, &self.lone.rules, 0, &addresses)?;
                    }
                    Kernel::CublasLt(matmul, workspace, _) => {
                        matmul.run(stream, &Addresses { workspace: address(workspace, stream), ..addresses })?;
                    }
                }
            }
            source = addresses.target;
        }
        Ok(())
    }
}

impl Drop for LoneSteps {
    fn drop(&mut self) {
        // Errors have nowhere to go, and come again in the next call.
        let _ = self.launcher.own_stream().synchronize();
    }
}

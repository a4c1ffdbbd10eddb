//! A plan on a device: its memory, and the walk over its steps.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _, result};

use super::arena::Layout;
use super::args::{Addresses, DevicePtr};
use super::cublaslt::Matmul;
use super::element::Element;
use super::failed;
use super::fuse::as_run;
use super::launch::Launcher;
use super::results::Results;
use super::select::{self, Launch, Route};
use super::shared::{DeviceLayer, Shared};
use crate::backend::Score;
use crate::plan::{Plan, Step, StepKind};
use crate::{Error, Result};

/// What runs a step, ready to be started again and again for one number of images.
pub(super) enum Prepared {
    /// A kernel of our own.
    Kernel(Launch),
    /// cuBLASLt.
    CublasLt(Matmul),
}

/// A plan as the device runs it, on a stream of its own.
pub(super) struct Steps {
    pub(super) shared: Arc<Shared>,
    pub(super) launcher: Launcher,
    pub(super) plan: Plan,
    layout: Layout,
    /// `None` only while this is dropped.
    arena: Option<CudaSlice<u8>>,
}

/// Largest number of elements of a buffer: kernels count them, and the rows of a GEMM up to the end of its last tile, in a
/// signed 32-bit integer.
const MAX_ELEMENTS: usize = i32::MAX as usize - 128;
/// Of the device's memory, the part that is left to others: one in this many.
const MEMORY_LEFT: usize = 16;

/// The largest batch of `plan` whose elements kernels can count.
pub(super) fn most_images(plan: &Plan) -> usize {
    let unpooled = plan.steps.iter().map(|step| step.unpooled().len());
    let largest = plan.steps.iter().map(|step| step.output.len()).chain(unpooled).max();
    MAX_ELEMENTS / largest.unwrap_or(0).max(plan.input.len()).max(1)
}

/// Whether an allocation leaves the device enough of its `total` memory, of which `free` is free.
pub(super) fn fits(bytes: usize, free: usize, total: usize) -> bool {
    bytes <= free.saturating_sub(total / MEMORY_LEFT)
}

impl Steps {
    /// Memory for `plan`, `slots` inputs of its batch, and `results` bytes.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] where it would take more than is free, [`Error::Usage`] for a batch beyond what kernels count.
    pub(super) fn new(shared: Arc<Shared>, plan: Plan, slots: usize, results: usize) -> Result<Self> {
        let plan = as_run(&shared.network, plan, &shared.rules);
        let most = most_images(&plan);
        if plan.batch > most {
            return Err(Error::Usage(match most {
                0 => format!("one image needs a buffer of more than the {MAX_ELEMENTS} elements that kernels count"),
                _ => format!("a batch of {} needs too large a buffer; lower --batch-size to {most}", plan.batch),
            }));
        }
        let layout = Layout::new(&plan, &shared.rules, slots, results);
        let launcher = shared.launcher.fork()?;
        let stream = launcher.own_stream();
        // Another process may have most of it.
        let (free, total) = stream.context().mem_get_info().map_err(|e| failed("asking for free memory", e))?;
        if !fits(layout.bytes, free, total) {
            return Err(Error::DeviceMemory(format!(
                "a batch of {} needs {} MB on the device, which has {} of {} MB free; lower --batch-size",
                plan.batch,
                layout.bytes.div_ceil(1 << 20),
                free >> 20,
                total >> 20
            )));
        }
        let allocating = |e| failed(&format!("allocating {} MB", layout.bytes >> 20), e);
        // SAFETY: uninitialised device memory, of which a step reads only what the copy of the input, the fill below or an
        // earlier step of the same run has written: Plan::check and the number of images bound both.
        let mut arena = unsafe { stream.alloc::<u8>(layout.bytes.max(1)) }.map_err(allocating)?;
        for &pixels in &layout.pixels {
            // Images that only fill a batch up are computed like others.
            let mut pixels = arena.slice_mut(pixels..pixels + plan.batch * plan.input.len());
            stream.memset_zeros(&mut pixels).map_err(|e| failed("clearing memory", e))?;
        }
        Ok(Steps { shared, launcher, plan, layout, arena: Some(arena) })
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        self.launcher.own_stream()
    }

    fn address(&self, offset: usize) -> DevicePtr {
        address(self.arena.as_ref().expect("it is there until this is dropped"), self.stream()) + offset as DevicePtr
    }

    /// Where the pixels of slot `slot` are.
    pub(super) fn pixels(&self, slot: usize) -> DevicePtr {
        self.address(self.layout.pixels[slot])
    }

    /// Where the output of step `index` is.
    pub(super) fn output(&self, index: usize) -> DevicePtr {
        self.address(self.layout.outputs[index])
    }

    /// Where results go.
    pub(super) fn results(&self) -> DevicePtr {
        self.address(self.layout.results)
    }

    /// Makes everything ready that a run of `images` images takes.
    ///
    /// # Errors
    /// [`Error::Device`] from cuBLASLt, where it runs a step.
    pub(super) fn prepare(&self, images: usize) -> Result<Vec<Prepared>> {
        self.plan.steps.iter().map(|step| self.prepare_step(step, images)).collect()
    }

    fn prepare_step(&self, step: &Step, images: usize) -> Result<Prepared> {
        let shared = &self.shared;
        let own = || Prepared::Kernel(select::select(step, images, &shared.rules));
        let (Route::CublasLt, StepKind::Linear { weights, .. }) =
            (select::route(step, images, &shared.rules), step.kind)
        else {
            return Ok(own());
        };
        let library = shared.cublaslt.as_ref().expect("the rules ask for cuBLASLt only where it is open");
        let layer = &shared.layers[weights];
        let bias = match (&layer.rounded_bias, shared.rules.element().of_output(step)) {
            (Some(bias), Element::F16 | Element::Bf16) => address(bias, self.stream()),
            _ => address(&layer.bias, self.stream()),
        };
        match Matmul::new(library, step, images, &shared.rules, bias)? {
            Some(matmul) => Ok(Prepared::CublasLt(matmul)),
            None if shared.rules.fc.is_none() => {
                shared.note_missing_algorithm(step.layers[0], images);
                Ok(own())
            }
            None => Err(Error::Device(format!(
                "{library} has no algorithm for {} with {images} images; take another batch size, or say --fc own",
                step.layers[0]
            ))),
        }
    }

    /// Queues step 0 on the pixels of slot `slot`.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel.
    pub(super) fn preprocess(&self, prepared: &[Prepared], images: usize, slot: usize) -> Result<()> {
        self.start(prepared, 0, images, self.pixels(slot), 0)
    }

    /// Queues all steps after the first.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel.
    pub(super) fn forward(&self, prepared: &[Prepared], images: usize, seed: u64) -> Result<()> {
        (1..self.plan.steps.len())
            .try_for_each(|index| self.start(prepared, index, images, self.output(index - 1), seed))
    }

    fn start(&self, prepared: &[Prepared], index: usize, images: usize, source: DevicePtr, seed: u64) -> Result<()> {
        let step = &self.plan.steps[index];
        let layer = match step.kind {
            StepKind::Conv { weights, .. } | StepKind::Linear { weights, .. } => Some(&self.shared.layers[weights]),
            _ => None,
        };
        let stream = self.stream();
        let addresses = Addresses {
            source,
            target: self.output(index),
            filter: layer.map_or(0, |layer| address(self.filter(layer), stream)),
            bias: layer.map_or(0, |layer| address(&layer.bias, stream)),
            partial: self.address(self.layout.partials[index]),
            workspace: self.address(self.layout.workspace),
        };
        assert!((1..=self.plan.batch).contains(&images));
        // SAFETY: the arena has room for the step's operands and partial sums for the plan's batch, which bounds `images`; the
        // layout keeps them apart while the step runs, and the workspace to this stream. It is freed in stream order when this
        // is dropped, and layers live as long. Plan::check made sure that windows lie within their inputs and the layer's
        // tensors have the step's shapes; the batch's size was checked against MAX_ELEMENTS. Offsets are multiples of 256, as
        // are allocations.
        unsafe {
            match &prepared[index] {
                Prepared::Kernel(launch) => {
                    self.launcher.launch_step(launch, step, images, &self.shared.rules, seed, &addresses)
                }
                Prepared::CublasLt(matmul) => matmul.run(stream, &addresses),
            }
        }
    }

    /// Queues the ranking of the logits of `results`' images, after the steps that compute them.
    ///
    /// # Safety
    /// `at` has room for `results`, in memory that stays until the stream is done with it and that no step uses.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel.
    pub(super) unsafe fn rank(&self, results: &Results, score: Score, at: DevicePtr) -> Result<()> {
        let args = results.args(self.output(self.plan.steps.len() - 1), self.plan.classes(), score, at);
        // SAFETY: top_k() selects the kernel that takes these args; the logits are in the arena until the next run.
        unsafe { self.launcher.launch(&select::top_k(results.images), args) }
    }

    /// The layer's filter for the layout that preprocessing gives.
    fn filter<'a>(&self, layer: &'a DeviceLayer) -> &'a CudaSlice<u8> {
        match (&layer.depth_filter, self.plan.steps[0].kind) {
            (Some(filter), StepKind::Preprocess { depth: Some(_), .. }) => filter,
            _ => &layer.filter,
        }
    }

    /// Waits until the device touches nothing of this any more, unless it hangs.
    pub(super) fn settle(&self) {
        self.shared.watch.settle(self.stream());
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // Layers are freed on another stream, which does not wait for this one.
        self.settle();
        let arena = self.arena.take();
        if self.shared.watch.hangs() {
            // Leaked.
            std::mem::forget((arena, Arc::clone(&self.shared)));
            return;
        }
        drop(arena);
        // A memory pool gives memory back when a stream is next waited for, and the next arena is sized by what is free.
        // SAFETY: the stream is alive. Nothing is under way on it: it was waited for above.
        let _ = unsafe { result::stream::synchronize(self.stream().cu_stream()) };
    }
}

pub(super) fn address<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> DevicePtr {
    // Event tracking is off, so that the guard does nothing; the slice's owner keeps it.
    slice.device_ptr(stream).0
}

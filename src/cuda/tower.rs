//! A plan's steps on one stream: a whole network's, or those of one of its towers.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};

use super::arena::StepsLayout;
use super::args::{Addresses, DevicePtr};
use super::cublaslt::Matmul;
use super::element::Element;
use super::launch::Launcher;
use super::select::{self, Launch, Route};
use super::shared::{DeviceLayer, Shared};
use crate::plan::{Plan, Step, StepKind};
use crate::{Error, Result};

/// What runs a step, ready to be started again and again for one number of images.
pub(super) enum Prepared {
    /// A kernel of our own.
    Kernel(Launch),
    /// cuBLASLt.
    CublasLt(Matmul),
}

/// A plan as a device runs it, on a stream of its own.
pub(super) struct Tower {
    pub(super) shared: Arc<Shared>,
    launcher: Launcher,
    pub(super) plan: Plan,
    layout: StepsLayout,
    /// Start of the device's arena, which the layout is of.
    arena: DevicePtr,
}

impl Tower {
    /// On the stream of `launcher`, which is one of `shared`'s.
    ///
    /// # Safety
    /// `layout` is `plan`'s in an allocation of `shared`'s device that begins at `arena` and stays until the tower's stream has
    /// nothing to do any more. `plan` is one that [`Plan::check`] accepts, as the device runs it, or a half of one; its batch
    /// was checked against what kernels count.
    pub(super) unsafe fn new(
        shared: Arc<Shared>,
        launcher: Launcher,
        plan: Plan,
        layout: StepsLayout,
        arena: DevicePtr,
    ) -> Self {
        Tower { shared, launcher, plan, layout, arena }
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        self.launcher.own_stream()
    }

    /// Start of the buffer that the output of step `index` lies in.
    pub(super) fn buffer(&self, index: usize) -> DevicePtr {
        self.arena + self.layout.outputs[index] as DevicePtr
    }

    /// Bytes of an element of the output of step `index`.
    pub(super) fn element_bytes(&self, index: usize) -> usize {
        self.shared.rules.element().of_output(&self.plan.steps[index]).bytes()
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

    /// Queues step `index`, the first of which reads `pixels` and all others what the one before wrote.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel.
    pub(super) fn start(
        &self,
        prepared: &[Prepared],
        index: usize,
        images: usize,
        pixels: DevicePtr,
        seed: u64,
    ) -> Result<()> {
        let step = &self.plan.steps[index];
        let layer = step.weights().map(|weights| &self.shared.layers[weights]);
        let stream = self.stream();
        let addresses = Addresses {
            source: if index == 0 { pixels } else { self.buffer(index - 1) },
            target: self.buffer(index) + (step.first() * self.element_bytes(index)) as DevicePtr,
            filter: layer.map_or(0, |layer| address(self.filter(layer), stream)),
            bias: layer.map_or(0, |layer| address(&layer.bias, stream)),
            partial: self.arena + self.layout.partials[index] as DevicePtr,
            workspace: self.arena + self.layout.workspace as DevicePtr,
        };
        assert!((1..=self.plan.batch).contains(&images));
        // SAFETY: the arena has room for the step's operands and partial sums for the plan's batch, which bounds `images`; the
        // layout keeps them apart while the step runs, and the workspace to this stream. Layers and arena stay until the stream
        // is done, the arena by the promise to `new`. Plan::check made sure that windows lie within their inputs and the layer's
        // tensors have the step's shapes; the batch's size was checked too. Offsets are multiples of 256, as are allocations;
        // the place of a half is one of its own width, for which kernels look where they take vectors.
        unsafe {
            match &prepared[index] {
                Prepared::Kernel(launch) => {
                    self.launcher.launch_step(launch, step, images, &self.shared.rules, seed, &addresses)
                }
                Prepared::CublasLt(matmul) => matmul.run(stream, &addresses),
            }
        }
    }

    /// [`Launcher::launch`] of a kernel that is no step.
    ///
    /// # Safety
    /// Its own conditions.
    pub(super) unsafe fn launch<A: super::args::KernelArgs>(&self, launch: &Launch, args: A) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launcher.launch(launch, args) }
    }

    /// The layer's filter for the layout that preprocessing gives.
    fn filter<'a>(&self, layer: &'a DeviceLayer) -> &'a CudaSlice<u8> {
        match (&layer.depth_filter, self.plan.steps[0].kind) {
            (Some(filter), StepKind::Preprocess { depth: Some(_), .. }) => filter,
            _ => &layer.filter,
        }
    }
}

pub(super) fn address<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> DevicePtr {
    // Event tracking is off, so that the guard does nothing; the slice's owner keeps it.
    slice.device_ptr(stream).0
}

//! A network on its streams: its memory, and the walk over its steps, of one tower or of two that meet.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, result};

use super::arena::Layout;
use super::args::DevicePtr;
use super::exchange::{Gift, Link};
use super::fuse::{as_run, towers_as_run};
use super::nvtx::Range;
use super::results::Results;
use super::select::{self, Rules};
use super::shared::Shared;
use super::tower::{Prepared, Tower, address};
use super::watch::Watch;
use super::{CudaDevice, failed_on};
use crate::backend::Score;
use crate::net::Network;
use crate::options::Split;
use crate::plan::Plan;
use crate::{Error, Result};

/// Where a network's weights are.
#[derive(Clone)]
pub(super) struct Placement {
    /// All of them on one device, or half of them for each tower.
    pub parts: Vec<Arc<Shared>>,
    pub split: Option<Split>,
    /// Between two devices.
    pub link: Option<Link>,
}

/// A network as it runs.
pub(super) struct Steps {
    /// The whole network's, as one device runs it.
    pub(super) plan: Plan,
    /// One, or two.
    towers: Vec<Tower>,
    devices: Vec<OnDevice>,
    /// What tower 1 waits for before all else: that tower 0 is done with the last batch and, on the same device, has the input.
    begun: Option<CudaEvent>,
    /// By step and by tower, what it gives to the other.
    gifts: Vec<Vec<Option<Gift>>>,
    watch: Arc<Watch>,
}

/// Memory on a device.
struct OnDevice {
    /// The first tower there, which takes the input.
    tower: usize,
    /// Its stream, on which the memory is allocated.
    stream: Arc<CudaStream>,
    /// `None` only while this is dropped.
    arena: Option<CudaSlice<u8>>,
    start: DevicePtr,
    pixels: Vec<usize>,
    results: usize,
}

/// Where a tower has got to, of what is queued for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It has the input, where that is copied for the run.
    Input,
    /// It has what comes from the other tower before this step.
    Join(usize),
    /// It is done with this step.
    Step(usize),
}

/// What runs each step of each tower, for a number of images.
pub(super) type Run = Vec<Vec<Prepared>>;

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

/// What each device runs of `plan`, of `network`: one plan, or those of the towers that it has.
///
/// # Errors
/// Those of [`split::towers`](crate::split::towers).
pub(super) fn by_device(network: &Network, plan: &Plan, rules: &Rules, split: Option<Split>) -> Result<Vec<Vec<Plan>>> {
    Ok(match split {
        None => vec![vec![as_run(network, plan.clone(), rules)]],
        Some(Split::TwoStream) => vec![towers_as_run(network, plan, rules)?.into()],
        Some(Split::TwoGpu) => towers_as_run(network, plan, rules)?.map(|tower| vec![tower]).into(),
    })
}

/// Which part of a network of `towers` towers `tower` is, in words, and where.
pub(super) fn place(towers: usize, tower: usize, device: &CudaDevice) -> String {
    match towers {
        1 => device.to_string(),
        _ => format!("tower {tower} on {device}"),
    }
}

impl Steps {
    /// Memory for `plan`, `slots` inputs of its batch, and `results` bytes.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] where it would take more than is free, [`Error::Usage`] for a batch beyond what kernels count
    /// and for a plan that cannot be split.
    pub(super) fn new(placement: &Placement, plan: Plan, slots: usize, results: usize) -> Result<Self> {
        let Placement { parts, split, link } = placement;
        let Shared { network, rules, watch, .. } = &*parts[0];
        let watch = Arc::clone(watch);
        let plans = by_device(network, &plan, rules, *split)?;
        for (plan, part) in plans.iter().flatten().zip(parts) {
            for step in &plan.steps {
                let width = |weights: usize| part.layers.get(weights).map(|layer| layer.bias.len());
                if step.weights().is_some_and(|weights| width(weights) != Some(step.output.c)) {
                    let layer = step.layers[0];
                    return Err(Error::Usage(format!(
                        "a plan that ends with {layer} has no two towers in this network"
                    )));
                }
            }
        }
        let plan = as_run(network, plan, rules);
        let most = most_images(&plan);
        if plan.batch > most {
            return Err(Error::Usage(match most {
                0 => format!("one image needs a buffer of more than the {MAX_ELEMENTS} elements that kernels count"),
                _ => format!("a batch of {} needs too large a buffer; lower --batch-size to {most}", plan.batch),
            }));
        }
        let mut steps = Steps { plan, towers: vec![], devices: vec![], begun: None, gifts: vec![], watch };
        for plans in plans {
            let results = if steps.devices.is_empty() { results } else { 0 };
            let layout = Layout::new(&plans, rules, slots, results);
            let parts = &parts[steps.towers.len()..][..plans.len()];
            let launchers = parts.iter().map(|part| part.launcher.fork()).collect::<Result<Vec<_>>>()?;
            let device =
                OnDevice::new(Arc::clone(launchers[0].own_stream()), steps.towers.len(), &layout, &steps.plan)?;
            let arena = device.start;
            steps.devices.push(device);
            for (((part, launcher), plan), layout) in parts.iter().zip(launchers).zip(plans).zip(layout.towers) {
                // SAFETY: the layout is that of all plans of the device, and its arena stays until `drop` has settled every
                // stream. Halves are of a plan that was checked, and no larger.
                steps.towers.push(unsafe { Tower::new(Arc::clone(part), launcher, plan, layout, arena) });
            }
        }
        if let [first, second] = &steps.towers[..] {
            let context = first.stream().context();
            let event = context.new_event(None).map_err(|e| failed_on(context, "making an event", e))?;
            if *link == Some(Link::Peer) {
                // Tower 0 writes to what tower 1's stream allocates, which it may not before that has come so far.
                const DOING: &str = "ordering memory";
                let allocated = second.stream().record_event(None);
                let allocated = allocated.map_err(|e| failed_on(second.stream().context(), DOING, e))?;
                first.stream().wait(&allocated).map_err(|e| failed_on(context, DOING, e))?;
            }
            let towers = [first, second];
            let gift = |index: usize, giver: usize| {
                let gives = towers[giver].plan.steps.get(index).is_some_and(|step| !step.given().is_empty());
                let made = gives.then(|| Gift::new(towers[giver], towers[1 - giver], index, *link));
                made.transpose()
            };
            let gifts = (0..first.plan.steps.len()).map(|index| Ok(vec![gift(index, 0)?, gift(index, 1)?]));
            let gifts = gifts.collect::<Result<_>>()?;
            (steps.begun, steps.gifts) = (Some(event), gifts);
        }
        Ok(steps)
    }

    /// What the first tower computes by, the other one by the same rules.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.towers[0].shared
    }

    /// The stream that a run begins and ends on.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        self.towers[0].stream()
    }

    pub(super) fn towers(&self) -> &[Tower] {
        &self.towers
    }

    /// For each device the stream that takes the input, and where the pixels of slot `slot` are.
    pub(super) fn inputs(&self, slot: usize) -> impl Iterator<Item = (&Tower, DevicePtr)> {
        self.devices
            .iter()
            .map(move |device| (&self.towers[device.tower], device.start + device.pixels[slot] as DevicePtr))
    }

    /// Where results go, on the first device.
    pub(super) fn results(&self) -> DevicePtr {
        self.devices[0].start + self.devices[0].results as DevicePtr
    }

    /// Whether a run can be captured as a graph: work of one device can.
    pub(super) fn is_capturable(&self) -> bool {
        self.devices.len() == 1
    }

    /// Makes everything ready that a run of `images` images takes.
    ///
    /// # Errors
    /// [`Error::Device`] from cuBLASLt, where it runs a step.
    pub(super) fn prepare(&self, images: usize) -> Result<Run> {
        self.towers.iter().map(|tower| tower.prepare(images)).collect()
    }

    /// Queues a run of `images` images: first what `input` queues on each device's tower in place of step 0, given the address
    /// of slot `slot`'s pixels, then all steps after it. `mark` is told what has been queued for which tower.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel; those of `input` and `mark`.
    pub(super) fn enqueue(
        &self,
        run: &Run,
        images: usize,
        seed: u64,
        slot: usize,
        mut input: impl FnMut(&Tower, &[Prepared], DevicePtr) -> Result<()>,
        mut mark: impl FnMut(usize, Mark) -> Result<()>,
    ) -> Result<()> {
        // Another device's tower prepares its own input.
        let apart = self.devices.len() > 1;
        if apart {
            self.begin()?;
            mark(1, Mark::Join(0))?;
        }
        for ((tower, pixels), device) in self.inputs(slot).zip(&self.devices) {
            let range = Range::step(&tower.plan.steps[0]);
            input(tower, &run[device.tower], pixels)?;
            drop(range);
            mark(device.tower, Mark::Step(0))?;
        }
        if !apart && self.begun.is_some() {
            self.begin()?;
            mark(1, Mark::Join(1))?;
        }
        for index in 1..self.towers[0].plan.steps.len() {
            for (number, tower) in self.towers.iter().enumerate().filter(|(_, t)| index < t.plan.steps.len()) {
                let other = self.towers.get(1 - number);
                if let Some(gift) = self.gift(index - 1, 1 - number) {
                    gift.take(tower, images)?;
                    mark(number, Mark::Join(index))?;
                }
                let range = Range::step(&tower.plan.steps[index]);
                tower.start(&run[number], index, images, 0, seed)?;
                drop(range);
                mark(number, Mark::Step(index))?;
                if let (Some(gift), Some(other)) = (self.gift(index, number), other) {
                    gift.give(tower, other, images)?;
                }
            }
        }
        Ok(())
    }

    /// Lets tower 1 begin once tower 0 has got to where it is now.
    fn begin(&self) -> Result<()> {
        let begun = self.begun.as_ref().expect("two towers have it");
        let [first, second] = [0, 1].map(|tower: usize| self.towers[tower].stream());
        let beginning = |stream: &CudaStream, e| failed_on(stream.context(), "beginning a run of two towers", e);
        begun.record(first).map_err(|e| beginning(first, e))?;
        second.wait(begun).map_err(|e| beginning(second, e))
    }

    /// What `tower` gives after step `index`.
    fn gift(&self, index: usize, tower: usize) -> Option<&Gift> {
        self.gifts.get(index)?.get(tower)?.as_ref()
    }

    /// Bytes of `images` images that `tower` takes of what the other one computed, before step `index`.
    pub(super) fn bytes_taken(&self, tower: usize, index: usize, images: usize) -> usize {
        let (Some(giver), Some(before)) = (self.towers.get(1 - tower), index.checked_sub(1)) else { return 0 };
        images * giver.plan.steps[before].given_values() * giver.element_bytes(before)
    }

    /// Which part of the network `tower` is, and where, in words.
    pub(super) fn place(&self, tower: usize) -> String {
        place(self.towers.len(), tower, &self.towers[tower].shared.device)
    }

    /// Queues the ranking of the logits of `results`' images, after the steps that compute them.
    ///
    /// # Safety
    /// `at` has room for `results`, in memory that stays until the stream is done with it and that no step uses.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel.
    pub(super) unsafe fn rank(&self, results: &Results, score: Score, at: DevicePtr) -> Result<()> {
        let first = &self.towers[0];
        let args = results.args(first.buffer(first.plan.steps.len() - 1), self.plan.classes(), score, at);
        // SAFETY: top_k() selects the kernel that takes these args; the logits are in the arena until the next run.
        unsafe { first.launch(&select::top_k(results.images), args) }
    }

    /// Waits for `event`, recorded on the stream that a run ends on.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] with what went wrong before it on any device, or after the watch's patience.
    pub(super) fn wait(&self, event: &CudaEvent) -> Result<()> {
        let others = self.devices.iter().skip(1).map(|device| self.towers[device.tower].stream());
        self.watch.wait(event, self.stream(), &others.collect::<Vec<_>>())
    }

    /// Waits until the devices touch nothing of this any more, unless one hangs.
    pub(super) fn settle(&self) {
        for tower in &self.towers {
            self.watch.settle(tower.stream());
        }
        // And one whose towers were never made.
        for device in &self.devices {
            self.watch.settle(&device.stream);
        }
    }
}

impl OnDevice {
    /// An arena on `stream`'s device, with the slots' pixels cleared.
    fn new(stream: Arc<CudaStream>, tower: usize, layout: &Layout, plan: &Plan) -> Result<Self> {
        // Another process may have most of it.
        let failed = |doing: &str, e| failed_on(stream.context(), doing, e);
        let (free, total) = stream.context().mem_get_info().map_err(|e| failed("asking for free memory", e))?;
        if !fits(layout.bytes, free, total) {
            return Err(Error::DeviceMemory(format!(
                "a batch of {} needs {} MB on cuda:{}, which has {} of {} MB free; lower --batch-size",
                plan.batch,
                layout.bytes.div_ceil(1 << 20),
                stream.context().ordinal(),
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
        let start = address(&arena, &stream);
        let Layout { pixels, results, .. } = layout;
        Ok(OnDevice { tower, stream, arena: Some(arena), start, pixels: pixels.clone(), results: *results })
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // Layers are freed on another stream, which does not wait for these.
        self.settle();
        let hangs = self.watch.hangs();
        for device in &mut self.devices {
            let arena = device.arena.take();
            if hangs {
                std::mem::forget(arena);
                continue;
            }
            drop(arena);
            // A memory pool gives memory back when a stream is next waited for, and the next arena is sized by what is free.
            // SAFETY: the stream is alive. Nothing is under way on it: it was waited for above.
            let _ = unsafe { result::stream::synchronize(device.stream.cu_stream()) };
        }
        if hangs {
            self.towers.iter().for_each(|tower| std::mem::forget(Arc::clone(&tower.shared)));
        }
    }
}

//! The boundary between the network and the devices that run it.
//!
//! A [`Backend`] holds a network's weights, uploaded once. A [`Session`] holds the buffers of one [`Plan`] and runs it on
//! batch after batch, and shows its layers; once its first run is over it allocates no more of the device's memory. A
//! [`Pipeline`] takes batches of pixels ahead of time and gives back nothing but the best classes, as fast as the device can.

use std::time::Duration;

use crate::options::Precision;
use crate::pixels::Pixels;
use crate::plan::{Plan, Step};
use crate::record::Ceilings;
use crate::{Error, Result};

/// A device with one network's weights on it, shared by any number of sessions.
pub trait Backend: Send + Sync {
    /// The device in words, for the user.
    fn description(&self) -> String;

    /// What was given up since the start while the rest goes on, and why, in words for the user: of several devices those
    /// that failed.
    fn given_up(&self) -> Vec<String> {
        vec![]
    }

    /// The GPUs that it computes on, none for the CPU.
    fn gpus(&self) -> Vec<Gpu> {
        vec![]
    }

    /// Versions of the libraries that it computes with, by name: `cuda`, what the driver offers, and `cublaslt`.
    fn versions(&self) -> Vec<(&'static str, String)> {
        vec![]
    }

    /// Buffers for `plan` on this device.
    ///
    /// # Errors
    /// [`Error::Usage`] for a plan of another network, [`Error::DeviceMemory`] where a smaller batch may fit.
    fn session(&self, plan: Plan) -> Result<Box<dyn Session>>;

    /// A pipeline of `plan` that gives the `k` best classes of each image, `min(k, classes)`, at least one.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    fn pipeline(&self, plan: Plan, k: usize, score: Score) -> Result<Box<dyn Pipeline>>;

    /// Memory that a pipeline of this device copies from fastest, `len` zeros.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`] where the system refuses that much.
    fn pixels(&self, len: usize) -> Result<Pixels>;

    /// What a pipeline of `plan` takes, an entry a device; two towers on one device have an entry each.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    fn holdings(&self, plan: Plan) -> Result<Vec<Holding>>;

    /// What a run of `plan` with as many images as it takes is made of: the steps of each of a [`Timeline`]'s tracks.
    ///
    /// # Errors
    /// [`Error::Usage`] for a plan of another network, or one that cannot be split as the network is.
    fn steps(&self, plan: &Plan) -> Result<Vec<Vec<StepAsRun>>>;

    /// What the device reaches, measured now, for a moment: a large product in the precision that the network is computed in,
    /// and a large copy. Of several devices the first one's.
    ///
    /// # Errors
    /// Those of the device.
    fn ceilings(&self) -> Result<Ceilings>;
}

/// A step as a device runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepAsRun {
    /// The step, fused with others where the device does that; of a tower its part.
    pub step: Step,
    /// What runs it, in words: kernel, grid, splits.
    pub kernel: String,
    /// Multiplications that it takes for the plan's batch, where an algorithm needs fewer than the layer's definition.
    pub multiplications: Option<usize>,
}

/// A GPU of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The product's.
    pub name: String,
    /// Its place in the machine, `00000000:01:00.0`: domain, bus, device, function.
    pub pci_bus_id: String,
}

/// Memory that a part of a network takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Which part, on which device, in words.
    pub place: String,
    /// Bytes of filters and biases.
    pub weights: usize,
    /// Bytes of inputs, layers and results for the plan's batch.
    pub buffers: usize,
}

/// Batches on their way through a device, first in, first out.
pub trait Pipeline: Send {
    /// Batches that may be under way at once.
    fn depth(&self) -> usize;

    /// Starts a batch, RGB (N, H, W, 3) at the network's input size, N from 1 to the pipeline's batch.
    ///
    /// # Errors
    /// Those of the device; the batch is then under way all the same, for [`abandon`](Self::abandon) to give back.
    /// [`Error::Usage`] for a batch of another size.
    ///
    /// # Panics
    /// If as many are under way as may be.
    fn submit(&mut self, pixels: Pixels) -> Result<()>;

    /// As [`submit`](Self::submit), for pixels that the device holds already, which are those of the batch submitted `depth`
    /// batches before: what it takes without copying.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    ///
    /// # Panics
    /// As [`submit`](Self::submit).
    fn resubmit(&mut self, pixels: Pixels) -> Result<()>;

    /// Waits for the oldest batch; `None` where none is under way.
    ///
    /// # Errors
    /// Those of the device; the batch stays under way.
    fn collect(&mut self) -> Result<Option<Done>>;

    /// From now on the device's clock is read between the parts of each batch, which takes a little longer, and
    /// [`Done::times`] tells what it said.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If batches are under way.
    fn time(&mut self) -> Result<()>;

    /// Gives up all batches under way and gives back their pixels, oldest first; none of a device that hangs, which may still
    /// read them. Dropping a pipeline gives them up as well.
    fn abandon(&mut self) -> Vec<Pixels>;
}

/// A batch that a pipeline is done with.
#[derive(Debug)]
pub struct Done {
    /// What was submitted.
    pub pixels: Pixels,
    /// An outcome an image.
    pub scored: Vec<Scored>,
    /// What took how long, where the pipeline is told to [`time`](Pipeline::time).
    pub times: Option<BatchTimes>,
}

/// When the parts of a batch began and ended, since the pipeline was told to [`time`](Pipeline::time).
#[derive(Debug, Clone, PartialEq)]
pub struct BatchTimes {
    /// Host time that submitting it took.
    pub enqueue: Duration,
    /// Pixels to the device; none where it held them already, and on the CPU. Of two GPUs from the first copy's begin to the
    /// last one's end, by which the first GPU may be computing.
    pub copy_in: Option<Interval>,
    /// From the first kernel to the classes on the device.
    pub compute: Interval,
    /// Classes to the host; none on the CPU.
    pub copy_out: Option<Interval>,
}

/// From one time to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// From.
    pub begin: Duration,
    /// To.
    pub end: Duration,
}

impl Interval {
    /// How long it is.
    pub fn length(&self) -> Duration {
        self.end.saturating_sub(self.begin)
    }
}

/// What came out for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The best classes, best first.
    pub predictions: Vec<Prediction>,
    /// What they were computed in: float32 where the precision asked for overflowed.
    pub precision: Precision,
    /// Whether all logits are finite. Where they are not, predictions mean nothing.
    pub finite: bool,
}

/// One plan's buffers on a device.
pub trait Session: Send {
    /// The plan it runs.
    fn plan(&self) -> &Plan;

    /// Seed of the dropout masks of the runs to come; 0 at first. Equal seeds give equal masks on every device.
    fn reseed(&mut self, seed: u64);

    /// Runs the plan on the images of `input`, at most the plan's batch. Results stay until the next run.
    ///
    /// # Errors
    /// [`Error::Usage`] when the input is not a whole number of images or more than the plan's batch,
    /// [`Error::DeviceMemory`] where a smaller batch may fit, [`Error::DeviceLost`] when the device failed.
    fn run(&mut self, input: Input<'_>) -> Result<()>;

    /// Logits of the last run, (N, classes).
    ///
    /// # Errors
    /// Those of the device.
    fn logits(&mut self) -> Result<&[f32]>;

    /// The `k` best classes of each image of the last run, best first, `min(k, classes)` an image.
    ///
    /// # Errors
    /// Those of the device.
    fn top_k(&mut self, k: usize, score: Score) -> Result<&[Prediction]>;

    /// Output of the kept layer `name` in the last run, (N, H, W, C).
    ///
    /// # Errors
    /// [`Error::Usage`] when the plan does not keep that layer.
    fn activation(&mut self, name: &str) -> Result<Activation>;

    /// [`run`](Self::run), with a clock read between steps, which takes a little longer: what the device did when, from the
    /// time that it has the input.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    fn timeline(&mut self, input: Input<'_>) -> Result<Timeline>;
}

/// What a device did when, in one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// One, or one a tower where the network is split.
    pub tracks: Vec<Track>,
}

/// A device's or a tower's part of a run: spans in order, each beginning where the one before it ended, the first at zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// Which part, on which device, in words.
    pub place: String,
    /// What it did.
    pub spans: Vec<Span>,
}

/// Something done from one time to another, both since the run's begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What.
    pub work: Work,
    /// From.
    pub begin: Duration,
    /// To.
    pub end: Duration,
}

/// What a device does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Computes these layers, its part of them where the network is split.
    Layers(Vec<&'static str>),
    /// Waits for the other tower's part of what this layer takes, and gets it.
    Join {
        /// The layer.
        layer: &'static str,
        /// Bytes that come from the other tower.
        bytes: usize,
    },
}

impl Timeline {
    /// Of `timelines`, at least one, the one whose total is the median, the lower of two.
    pub fn median(timelines: &[Timeline]) -> &Timeline {
        let mut order: Vec<&Timeline> = timelines.iter().collect();
        order.sort_by_key(|timeline| timeline.total());
        order[(order.len() - 1) / 2]
    }

    /// From the run's begin to the end of the last span.
    pub fn total(&self) -> Duration {
        let ends = self.tracks.iter().filter_map(|track| track.spans.last()).map(|span| span.end);
        ends.max().unwrap_or_default()
    }
}

/// A batch to run on.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// RGB pixels, (N, H, W, 3) at the network's input size.
    Pixels(&'a [u8]),
    /// The preprocessed network input, (N, H, W, 3) in the network's channel order.
    Tensor(&'a [f32]),
}

impl Input<'_> {
    /// Number of values, of all images together.
    pub fn len(&self) -> usize {
        match self {
            Input::Pixels(pixels) => pixels.len(),
            Input::Tensor(values) => values.len(),
        }
    }

    /// True for an input of no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of images, for a plan.
    ///
    /// # Errors
    /// [`Error::Usage`] when the length is not a whole number of images, or more than the plan's batch.
    pub fn images(&self, plan: &Plan) -> Result<usize> {
        let (len, image_len) = (self.len(), plan.input.len());
        if matches!(self, Input::Pixels(_)) && plan.input.c != 3 {
            return Err(Error::Usage(format!("a network that takes {} has no use for RGB pixels", plan.input)));
        }
        if len % image_len != 0 || len / image_len > plan.batch {
            return Err(Error::Usage(format!(
                "an input of {len} values is not up to {} images of {} = {image_len} values each",
                plan.batch, plan.input
            )));
        }
        Ok(len / image_len)
    }
}

/// What a prediction's score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Score {
    /// Softmax over the classes.
    #[default]
    Prob,
    /// The network's output as it is.
    Logit,
}

/// A class and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Class index.
    pub index: usize,
    /// Probability or logit, as asked for.
    pub score: f32,
}

/// A named layer's output.
#[derive(Debug, Clone, PartialEq)]
pub struct Activation {
    /// (N, H, W, C); H = W = 1 for fully connected layers.
    pub shape: [usize; 4],
    /// Values in that order, channels fastest.
    pub values: Vec<f32>,
}

//! The boundary between the network and the devices that run it.
//!
//! A [`Backend`] holds a network's weights, uploaded once. A [`Session`] holds the buffers of one [`Plan`] and runs it on
//! batch after batch; once its first run is over it allocates nothing of its own.

use crate::plan::Plan;
use crate::{Error, Result};

/// A device with one network's weights on it, shared by any number of sessions.
pub trait Backend: Send + Sync {
    /// The device in words, for the user.
    fn description(&self) -> String;

    /// Buffers for `plan` on this device.
    ///
    /// # Errors
    /// [`Error::Usage`] for a plan of another network, [`Error::Device`] when the device cannot hold the buffers.
    fn session(&self, plan: Plan) -> Result<Box<dyn Session>>;
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
    /// [`Error::Usage`] when the input is not a whole number of images or more than the plan's batch.
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

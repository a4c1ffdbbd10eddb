//! Batches on a session that shrinks where the device's memory is short.

use alexnet::{Error, Input, Model, Pixels, Prediction, Result, Score, Session};

use super::note;

/// Batches in memory: one is computed while the others are decoded.
const BUFFERS: usize = 3;

/// The buffers of a feed for batches of `batch` images of `image` bytes.
///
/// # Errors
/// [`Error::Usage`] if there is no memory for them.
pub fn buffers(batch: usize, image: usize) -> Result<Vec<Pixels>> {
    let buffers = (0..BUFFERS).map(|_| Pixels::zeroed(batch * image)).collect::<Option<_>>();
    buffers.ok_or_else(|| {
        Error::Usage(format!("no memory for {BUFFERS} batches of {batch} pictures; ask for a smaller --batch-size"))
    })
}

/// Runs batches of at most its own size, which it halves when memory runs out.
pub struct Runner<'a> {
    model: &'a Model,
    batch: usize,
    k: usize,
    score: Score,
    /// `None` only while it is replaced.
    session: Option<Box<dyn Session>>,
}

/// What came out for one image.
pub struct Scored {
    /// The best classes, best first.
    pub predictions: Vec<Prediction>,
    /// Whether all logits are finite.
    pub finite: bool,
}

impl<'a> Runner<'a> {
    /// For batches of `batch` images, at least one, or as many as there is memory for.
    ///
    /// # Errors
    /// Those of the device, when there is no memory for one image.
    pub fn new(model: &'a Model, batch: usize, k: usize, score: Score) -> Result<Self> {
        let mut runner = Runner { model, batch, k, score, session: None };
        runner.open()?;
        Ok(runner)
    }

    /// The outcome of each image of `pixels`, in their order.
    ///
    /// # Errors
    /// Those of the device. A shortage of memory is one only for a single image.
    pub fn run(&mut self, pixels: &[u8]) -> Result<Vec<Scored>> {
        let image = self.model.network().input().len();
        let mut scored = vec![];
        let mut rest = pixels;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(self.batch * image));
            match self.run_whole(now, &mut scored) {
                Ok(()) => rest = later,
                Err(Error::DeviceMemory(reason)) => self.shrink(reason)?, // and the same images again
                Err(error) => return Err(error),
            }
        }
        Ok(scored)
    }

    /// Runs `pixels` in one piece; `scored` grows only when all of it is done.
    fn run_whole(&mut self, pixels: &[u8], scored: &mut Vec<Scored>) -> Result<()> {
        let session = self.session.as_mut().expect("one is open between calls");
        session.run(Input::Pixels(pixels))?;
        let classes = session.plan().classes();
        let finite: Vec<bool> =
            session.logits()?.chunks_exact(classes).map(|logits| logits.iter().all(|l| l.is_finite())).collect();
        let predictions = session.top_k(self.k, self.score)?.chunks_exact(self.k);
        let images = predictions.zip(finite);
        scored.extend(images.map(|(predictions, finite)| Scored { predictions: predictions.to_vec(), finite }));
        Ok(())
    }

    /// A session for the largest batch that fits.
    fn open(&mut self) -> Result<()> {
        loop {
            match self.model.session(self.batch, &[]) {
                Ok(session) => {
                    self.session = Some(session);
                    return Ok(());
                }
                Err(Error::DeviceMemory(reason)) => self.halve(reason)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces the session by one of half the batch.
    fn shrink(&mut self, reason: String) -> Result<()> {
        self.session = None; // its memory first
        self.halve(reason)?;
        self.open()
    }

    fn halve(&mut self, reason: String) -> Result<()> {
        if self.batch == 1 {
            return Err(Error::DeviceMemory(reason));
        }
        self.batch /= 2;
        note(&format!("no memory for that batch, going on with {}: {reason}", self.batch));
        Ok(())
    }
}

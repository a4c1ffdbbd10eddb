//! Images whose values overflow a narrow precision, once more in float32.

use std::sync::{Arc, Mutex, PoisonError};

use super::session::CudaSession;
use super::steps::Placement;
use super::watch::Watch;
use super::{CudaDevice, Settings, Shared};
use crate::Result;
use crate::backend::{Input, Score, Scored, Session as _};
use crate::options::{Fc, Precision};
use crate::plan::Plan;
use crate::weights::Weights;

/// What computing in float32 takes; on the device only once an image needs it.
pub(super) struct Wide {
    device: CudaDevice,
    weights: Arc<Weights>,
    settings: Settings,
    /// The device's, which hangs as a whole.
    watch: Arc<Watch>,
    session: Mutex<Option<CudaSession>>,
}

impl Wide {
    /// For what the settings' precision cannot hold; `None` in float32.
    pub(super) fn beside(
        device: &CudaDevice,
        weights: Arc<Weights>,
        settings: Settings,
        watch: Arc<Watch>,
    ) -> Option<Self> {
        if settings.precision == Precision::Float32 {
            return None;
        }
        // One image: cuBLASLt has nothing to offer.
        let settings = Settings { precision: Precision::Float32, fc: Some(Fc::Own), ..settings };
        Some(Wide { device: device.clone(), weights, settings, watch, session: Mutex::new(None) })
    }

    /// The `k` best classes of one image, RGB (H, W, 3).
    ///
    /// # Errors
    /// [`Error::DeviceMemory`](crate::Error::DeviceMemory) where the float32 weights do not fit beside the others.
    pub(super) fn score(&self, pixels: &[u8], k: usize, score: Score) -> Result<Scored> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let session = match &mut *session {
            Some(session) => session,
            none => {
                let shared = Shared::new(&self.weights, None, &self.device, self.settings, Arc::clone(&self.watch))?;
                let plan = Plan::new(self.weights.network(), 1, &[])?;
                let placement = Placement { parts: vec![Arc::new(shared)], split: None, link: None };
                none.insert(CudaSession::new(&placement, plan)?)
            }
        };
        session.run(Input::Pixels(pixels))?;
        let finite = session.logits()?.iter().all(|logit| logit.is_finite());
        let predictions = session.top_k(k, score)?.to_vec();
        Ok(Scored { predictions, precision: Precision::Float32, finite })
    }
}

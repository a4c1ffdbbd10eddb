//! What a run does when, where somebody asks.

use std::time::{Duration, Instant};

use crate::backend::{Span, Track, Work};

/// Measures one track of a run.
pub struct Clock {
    start: Instant,
    /// `None` where nobody asks.
    spans: Option<Vec<Span>>,
}

impl Clock {
    /// One that measures nothing.
    pub fn idle() -> Self {
        Clock { start: Instant::now(), spans: None }
    }

    /// One that counts from `start`.
    pub fn from(start: Instant) -> Self {
        Clock { start, spans: Some(vec![]) }
    }

    /// `work` is done, and began where what was done before it ended.
    pub fn done(&mut self, work: impl FnOnce() -> Work) {
        if let Some(spans) = &mut self.spans {
            let begin = spans.last().map_or(Duration::ZERO, |span| span.end);
            spans.push(Span { work: work(), begin, end: self.start.elapsed() });
        }
    }

    /// What was measured, of the part of the run that `place` names.
    pub fn track(self, place: String) -> Track {
        Track { place, spans: self.spans.unwrap_or_default() }
    }
}

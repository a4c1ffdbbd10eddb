//! What a run does when, where somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};
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

    /// Room for the nanoseconds of `steps` steps that threads take side by side; none where nobody asks.
    pub fn times(&self, steps: usize) -> Vec<AtomicU64> {
        let steps = if self.spans.is_some() { steps } else { 0 };
        (0..steps).map(|_| AtomicU64::new(0)).collect()
    }

    /// Steps are done that took `total` together, on several threads that each did some of every step: each has the share of it
    /// that it has of all threads' time.
    pub fn shares<'a>(&mut self, total: Duration, steps: impl Iterator<Item = (Work, &'a AtomicU64)> + Clone) {
        if let Some(spans) = &mut self.spans {
            let nanoseconds = |time: &AtomicU64| time.load(Ordering::Relaxed) as f64;
            let all: f64 = steps.clone().map(|(_, time)| nanoseconds(time)).sum();
            let mut begin = spans.last().map_or(Duration::ZERO, |span| span.end);
            for (work, time) in steps {
                let end = begin + total.mul_f64(nanoseconds(time) / all.max(1.0));
                spans.push(Span { work, begin, end });
                begin = end;
            }
        }
    }

    /// What was measured, of the part of the run that `place` names.
    pub fn track(self, place: String) -> Track {
        Track { place, spans: self.spans.unwrap_or_default() }
    }
}

//! Progress on stderr: a bar on a terminal, and a closing line everywhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::note;

pub struct Progress {
    bar: ProgressBar,
    begin: Instant,
    images: u64,
    failed: u64,
}

impl Progress {
    /// For `total` inputs, where their number is known.
    pub fn new(total: Option<u64>) -> Self {
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let template = match total {
            Some(_) => "{bar:30} {pos}/{len} {per_sec:>16}, {eta} left",
            None => "{spinner} {pos} {per_sec:>16}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar, begin: Instant::now(), images: 0, failed: 0 }
    }

    /// Runs `write` with the bar out of the way, then counts the inputs that it wrote.
    pub fn advance<T>(&mut self, images: usize, failed: usize, write: impl FnOnce() -> T) -> T {
        let result = self.bar.suspend(write);
        self.images += images as u64;
        self.failed += failed as u64;
        self.bar.inc((images + failed) as u64);
        result
    }

    /// True when an input failed.
    pub fn any_failed(&self) -> bool {
        self.failed > 0
    }

    /// The closing line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        let seconds = self.begin.elapsed().as_secs_f64();
        let rate = self.images as f64 / seconds;
        let failed = if self.failed > 0 { format!("; {} failed", self.failed) } else { String::new() };
        note(&format!("{} images in {seconds:.2} s ({rate:.1} images/s){failed}", self.images));
    }
}

//! Progress on stderr: a bar on a terminal, a line now and then elsewhere, and a closing line.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::note;

/// Between two lines where stderr is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

pub struct Progress {
    bar: ProgressBar,
    total: Option<u64>,
    last_line: Instant,
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
        let now = Instant::now();
        Progress { bar, total, last_line: now, begin: now, images: 0, failed: 0 }
    }

    /// Runs `write` with the bar out of the way, then counts the inputs that it wrote.
    pub fn advance<T>(&mut self, images: usize, failed: usize, write: impl FnOnce() -> T) -> T {
        let result = self.bar.suspend(write);
        self.images += images as u64;
        self.failed += failed as u64;
        self.bar.inc((images + failed) as u64);
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            note(&self.line());
        }
        result
    }

    /// `1200 of 5000 inputs, 310.2 a second, 12 s left`
    fn line(&self) -> String {
        let done = self.images + self.failed;
        let rate = done as f64 / self.begin.elapsed().as_secs_f64();
        match self.total {
            Some(total) => {
                let left = total.saturating_sub(done) as f64 / rate;
                format!("{done} of {total} inputs, {rate:.1} a second, {left:.0} s left")
            }
            None => format!("{done} inputs, {rate:.1} a second"),
        }
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

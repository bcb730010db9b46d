//! How far a run has come, on one line of standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sluice_loadtest::Progress;

/// Shown on a terminal alone.
pub(crate) struct Shown {
    bar: ProgressBar,
    duration: Duration,
}

impl Shown {
    pub(crate) fn new(duration: Duration) -> Self {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let style = ProgressStyle::with_template("{bar:30} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(milliseconds), ProgressDrawTarget::stderr()).with_style(style);
        Self { bar, duration }
    }

    pub(crate) fn show(&self, progress: &Progress) {
        match progress {
            Progress::Putting { documents } => self.bar.set_message(format!("{documents} documents put")),
            Progress::Sending { elapsed, in_flight, figures } => {
                self.bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
                let p99 = figures.latency_seconds.as_ref().map_or(0.0, |latency| latency.p99.value);
                self.bar.set_message(format!(
                    "{:.0} of {:.0} s, {} requests, {} answered, {} good, {in_flight} in flight, p99 {:.1} ms",
                    elapsed.as_secs_f64(),
                    self.duration.as_secs_f64(),
                    figures.requests,
                    figures.answered,
                    figures.good,
                    1e3 * p99,
                ));
            }
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

//! Showing how far long work has come.

use std::time::Duration;

/// Shows work that takes a while.
pub trait Progress: Send + Sync {
    /// Work begins; it ends when the bar is dropped. `total_bytes` is how much there is to do, where that is known.
    fn start(&self, what: &str, total_bytes: Option<u64>) -> Box<dyn ProgressBar>;
}

/// One piece of work under way.
pub trait ProgressBar {
    /// How much is done by now, in bytes.
    fn set(&self, bytes: u64);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SilentProgress;

impl Progress for SilentProgress {
    fn start(&self, _what: &str, _total_bytes: Option<u64>) -> Box<dyn ProgressBar> {
        Box::new(Self)
    }
}

impl ProgressBar for SilentProgress {
    fn set(&self, _bytes: u64) {}
}

/// Draws a bar on standard error, or a spinner where the total is unknown, and removes it afterwards.
///
/// Meant for a terminal: the binary decides whether there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct TerminalProgress;

struct TerminalBar(indicatif::ProgressBar);

impl TerminalProgress {
    const BAR: &'static str = "{msg} {wide_bar} {bytes}/{total_bytes} ({bytes_per_sec}, {eta})";
    const SPINNER: &'static str = "{spinner} {msg} {bytes} ({elapsed})";
    /// Quick enough to be seen turning.
    const SPINNER_TICK: Duration = Duration::from_millis(120);
}

impl Progress for TerminalProgress {
    fn start(&self, what: &str, total_bytes: Option<u64>) -> Box<dyn ProgressBar> {
        let template = if total_bytes.is_some() { Self::BAR } else { Self::SPINNER };
        let style = indicatif::ProgressStyle::with_template(template).expect("the templates are constants");
        let bar = match total_bytes {
            Some(total) => indicatif::ProgressBar::new(total),
            None => indicatif::ProgressBar::new_spinner(),
        };
        let bar = bar.with_style(style).with_message(what.to_owned());
        if total_bytes.is_none() {
            bar.enable_steady_tick(Self::SPINNER_TICK);
        }
        Box::new(TerminalBar(bar))
    }
}

impl ProgressBar for TerminalBar {
    fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for TerminalBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for total in [Some(10), None] {
            TerminalProgress.start("work", total).set(5);
        }
    }
}

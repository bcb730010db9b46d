//! How far long work has come.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shown on a terminal alone. It counts bytes of a file, because how many lines it has is not known before its end;
/// where there is no file, it only tells what has been done.
pub(crate) fn bar(bytes: Option<u64>) -> ProgressBar {
    let (template, fallback): (_, fn() -> ProgressStyle) = match bytes {
        Some(_) => ("{bar:30} {percent:>3} % {msg}, {eta} left", ProgressStyle::default_bar),
        None => ("{spinner} {msg}", ProgressStyle::default_spinner),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| fallback());
    ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr()).with_style(style)
}

//! What happens inside: metrics for graphs and alerts, logs for people.

mod logs;
mod metrics;

pub use logs::{LogFormat, init_logs, log_filter_fault};
pub use metrics::{Metrics, describe_build, install_metrics, serve_metrics};

/// Telemetry that could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// A histogram's buckets are not usable.
    #[error("the buckets of {metric} must be finite and ascending, and there must be one at least")]
    Buckets {
        /// Its name.
        metric: &'static str,
    },
    /// Something else in this process records metrics already.
    #[error("another metrics recorder is installed in this process")]
    RecorderInstalled,
    /// The log filter cannot be read.
    #[error("invalid log filter {filter:?}: {message}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        message: String,
    },
}

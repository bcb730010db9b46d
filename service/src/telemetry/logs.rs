//! Logs on standard error.

use std::io;

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

use super::TelemetryError;

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// [`Human`](Self::Human) on a terminal, [`Json`](Self::Json) otherwise.
    #[default]
    Auto,
    /// A line for people, coloured on a terminal.
    Human,
    /// An object per line, with `timestamp`, `level`, `target`, `message` and the event's own fields.
    Json,
}

/// Writes logs to standard error from here on, those that `filter` lets through: a level, or comma-separated
/// `target=level` directives. A process has one log: calling again changes nothing.
///
/// # Errors
///
/// If the filter cannot be read.
pub fn init_logs(format: LogFormat, filter: &str, stderr_is_terminal: bool) -> Result<(), TelemetryError> {
    let filter = parse_filter(filter)?;
    let layer = layer(format, stderr_is_terminal, io::stderr).with_filter(filter);
    // Refused where there is a log already, which is fine: tests run many servers in one process.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    Ok(())
}

/// What is wrong with a log filter, if anything: for a configuration's own checks.
pub fn log_filter_fault(filter: &str) -> Option<String> {
    parse_filter(filter).err().map(|error| error.to_string())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| TelemetryError::Filter { filter: filter.into(), message: error.to_string() })
}

fn layer<W>(format: LogFormat, is_terminal: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(is_terminal).with_writer(writer);
    let is_human = match format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    if is_human { layer.boxed() } else { layer.json().flatten_event(true).with_ansi(false).boxed() }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of two events.
    fn logged(format: LogFormat, filter: &str, is_terminal: bool) -> String {
        let written = Written::default();
        let writer = written.clone();
        let layer = layer(format, is_terminal, move || writer.clone()).with_filter(parse_filter(filter).unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(documents = 3, "reranked");
            tracing::debug!("detail");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_an_object_per_line() {
        for (format, is_terminal) in [(LogFormat::Json, true), (LogFormat::Json, false), (LogFormat::Auto, false)] {
            let text = logged(format, "info", is_terminal);
            assert_eq!(text.lines().count(), 1, "{text}");
            let event: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&event["level"], &event["message"]), (&"INFO".into(), &"reranked".into()));
            assert_eq!(event["documents"], 3);
        }
    }

    #[test]
    fn people_get_a_line_coloured_on_a_terminal() {
        for (format, is_terminal) in [(LogFormat::Human, true), (LogFormat::Human, false), (LogFormat::Auto, true)] {
            let text = logged(format, "debug", is_terminal);
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(text.contains("reranked") && text.contains("detail"), "{text}");
            assert_eq!(text.contains('\u{1b}'), is_terminal, "{text}");
        }
    }

    #[test]
    fn filters_are_checked() {
        assert_eq!(logged(LogFormat::Human, "warn", false), "");
        assert_eq!(logged(LogFormat::Human, "warn,sluice_service=info", false).lines().count(), 1);
        assert_eq!(log_filter_fault("info,sluice_server=debug"), None);
        let fault = log_filter_fault("sluice=loud").unwrap();
        assert!(fault.starts_with("invalid log filter \"sluice=loud\": "), "{fault}");
        init_logs(LogFormat::Auto, "=", false).unwrap_err();
    }

    #[test]
    fn a_second_log_is_harmless() {
        init_logs(LogFormat::Json, "off", false).unwrap();
        init_logs(LogFormat::Human, "off", true).unwrap();
    }
}

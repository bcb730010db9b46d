//! Metrics in Prometheus' text format.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use super::TelemetryError;
use crate::incoming;

/// Time between two upkeeps. Protects memory: between them every histogram keeps each of its samples.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Media type of what [`Metrics::render`] returns.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

const BUILD_INFO: &str = "sluice_build_info";

/// The recorder of this process, once installed.
static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);

/// Reads what this process has recorded.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// Records this process's metrics from here on.
///
/// `buckets` are the upper bounds of each histogram's buckets, by the metric's full name: a histogram
/// without is rendered as a summary, which cannot be added up over replicas. A process has one recorder:
/// installing again returns the same, with the buckets it has.
///
/// # Errors
///
/// If buckets are unusable, or the process has a recorder that is not ours.
pub fn install_metrics(buckets: &[(&'static str, &'static [f64])]) -> Result<Metrics, TelemetryError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(metrics) = installed.as_ref() {
        return Ok(metrics.clone());
    }
    let handle = builder(buckets)?.install_recorder().map_err(|_| TelemetryError::RecorderInstalled)?;
    incoming::describe_metrics();
    Ok(installed.insert(Metrics { handle }).clone())
}

fn builder(buckets: &[(&'static str, &'static [f64])]) -> Result<PrometheusBuilder, TelemetryError> {
    buckets.iter().try_fold(PrometheusBuilder::new(), |builder, &(metric, bounds)| {
        let usable = bounds.iter().all(|bound| bound.is_finite()) && bounds.is_sorted_by(|a, b| a < b);
        let builder = usable.then(|| builder.set_buckets_for_metric(Matcher::Full(metric.into()), bounds));
        builder.and_then(Result::ok).ok_or(TelemetryError::Buckets { metric })
    })
}

impl Metrics {
    /// Everything recorded so far, in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps the recorder's memory bounded, for as long as it is polled: for [`tokio::spawn`].
    pub async fn upkeep(&self) {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            self.handle.run_upkeep();
        }
    }
}

/// Serves `GET /metrics` on `listener` until `shutdown` resolves.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let render = move || async move { ([(CONTENT_TYPE, TEXT_FORMAT)], metrics.render()) };
    let router = Router::new().route("/metrics", get(render));
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

/// Sets `sluice_build_info` to 1, labelled with what was built.
pub fn describe_build(version: &'static str, commit: Option<&'static str>) {
    metrics::describe_gauge!(BUILD_INFO, "Always 1; what was built is in the labels.");
    metrics::gauge!(BUILD_INFO, "version" => version, "commit" => commit.unwrap_or("unknown")).set(1.0);
}

#[cfg(test)]
mod tests {
    use std::{io::Read, io::Write, net::SocketAddr};

    use tokio::sync::oneshot;

    use super::*;

    const LATENCY: &str = "sluice_test_latency_seconds";

    fn installed() -> Metrics {
        install_metrics(&[(LATENCY, &[0.1, 1.0])]).unwrap()
    }

    #[test]
    fn histograms_have_buckets() {
        let metrics = installed();
        for seconds in [0.05, 0.5, 5.0] {
            metrics::histogram!(LATENCY, "stage" => "queue").record(seconds);
        }
        let text = metrics.render();
        for line in [
            "# TYPE sluice_test_latency_seconds histogram",
            "sluice_test_latency_seconds_bucket{stage=\"queue\",le=\"0.1\"} 1",
            "sluice_test_latency_seconds_bucket{stage=\"queue\",le=\"1\"} 2",
            "sluice_test_latency_seconds_bucket{stage=\"queue\",le=\"+Inf\"} 3",
            "sluice_test_latency_seconds_sum{stage=\"queue\"} 5.55",
            "sluice_test_latency_seconds_count{stage=\"queue\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("quantile"), "{text}");
    }

    #[test]
    fn installing_again_returns_the_same() {
        installed();
        metrics::counter!("sluice_test_again_total").increment(3);
        let again = install_metrics(&[("sluice_test_other", &[1.0])]).unwrap();
        assert!(again.render().contains("\nsluice_test_again_total 3\n"), "{}", again.render());
    }

    #[test]
    fn unusable_buckets_are_refused() {
        for bounds in [&[][..], &[1.0, 1.0], &[2.0, 1.0], &[f64::NAN], &[1.0, f64::INFINITY]] {
            let error = builder(&[("sluice_test_ok", &[1.0]), ("sluice_test_bad", bounds)]).err();
            assert_eq!(error, Some(TelemetryError::Buckets { metric: "sluice_test_bad" }), "{bounds:?}");
        }
    }

    #[test]
    fn the_build_is_described() {
        let metrics = installed();
        describe_build("1.2.3", Some("abc"));
        let text = metrics.render();
        assert!(text.contains("sluice_build_info{version=\"1.2.3\",commit=\"abc\"} 1"), "{text}");
        assert!(text.contains("# HELP sluice_build_info Always 1"), "{text}");
        assert!(text.contains("# TYPE sluice_build_info gauge"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_goes_on() {
        let metrics = installed();
        tokio::time::timeout(Duration::from_secs(3600), metrics.upkeep()).await.expect_err("it never ends");
    }

    fn request(address: SocketAddr, head: &str) -> io::Result<String> {
        let mut stream = std::net::TcpStream::connect(address)?;
        write!(stream, "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        Ok(response)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn metrics_are_served_until_shutdown() {
        let metrics = installed();
        metrics::counter!("sluice_test_served_total").increment(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve_metrics(listener, metrics, async move { drop(stopped.await) }));

        let responses = tokio::task::spawn_blocking(move || {
            ["GET /metrics", "GET /", "GET /metrics/x", "POST /metrics"].map(|head| request(address, head).unwrap())
        });
        let [found, root, below, post] = responses.await.unwrap();
        assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
        assert!(found.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{found}");
        assert!(found.contains("sluice_test_served_total 1\n"), "{found}");
        assert!(root.starts_with("HTTP/1.1 404 ") && below.starts_with("HTTP/1.1 404 "), "{root}{below}");
        assert!(post.starts_with("HTTP/1.1 405 "), "{post}");

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
    }
}

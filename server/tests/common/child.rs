//! `sluice-server` as a process of its own, on loopback ports that it says itself.
#![allow(clippy::disallowed_methods, reason = "starts real processes and waits in real time")]
#![allow(clippy::panic, reason = "a test fails by panicking, in its harness too")]

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::prometheus::{Metrics, scrape};

/// Time for anything that should take milliseconds on an idle machine, and may take seconds on a busy one.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A process that ends with this value, whatever the test comes to.
pub struct ServerProcess {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    _home: TempDir,
}

/// Where a process serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub grpc: SocketAddr,
    pub metrics: Option<SocketAddr>,
}

impl ServerProcess {
    /// Starts it with these arguments, what `prepare` adds, an empty home and none of the caller's settings.
    pub fn start_with<S: AsRef<OsStr>>(arguments: &[S], prepare: impl FnOnce(&mut Command)) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-server"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICE_")) {
            command.env_remove(name);
        }
        // What a test asks twice is computed twice, unless it is about that.
        command.env("SLUICE_SCORE_CACHE__BYTES_MAX", "0");
        command.args(arguments).env("HOME", home.path()).env("XDG_CACHE_HOME", home.path().join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().expect("the binary was built with this test");
        let stdout = Lines::of(child.stdout.take());
        let stderr = Lines::of(child.stderr.take());
        Self { child, stdout, stderr, _home: home }
    }

    /// As [`start_with`](Self::start_with), on ports that are free, with logs in JSON and hardly any grace.
    pub fn start<S: AsRef<OsStr>>(arguments: &[S]) -> Self {
        Self::start_with(arguments, |command| {
            command.args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
            command.env("SLUICE_DRAIN__GRACE", "50ms");
        })
    }

    /// Runs it to its end.
    pub fn output<S: AsRef<OsStr>>(arguments: &[S], prepare: impl FnOnce(&mut Command)) -> Output {
        Self::start_with(arguments, prepare).into_output()
    }

    /// Waits for its end.
    pub fn into_output(mut self) -> Output {
        let status = self.ended(PATIENCE);
        Output { code: status.code(), stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }

    /// Waits until it says where it serves.
    pub fn serving(&mut self) -> Ports {
        let line = self.stderr.find(PATIENCE, |line| event(line, "serving").is_some());
        let Some(event) = line.as_deref().and_then(|line| event(line, "serving")) else {
            panic!("it does not serve: {:?}\n{}", self.child.try_wait(), self.stderr.so_far().join("\n"));
        };
        let address = |field: &str| event[field].as_str().map(|text| text.parse().expect("an address"));
        Ports { grpc: address("listen").expect("it says where it listens"), metrics: address("metrics_listen") }
    }

    /// Waits for a log event with this message.
    pub fn logged(&self, message: &str) -> Value {
        let line = self.stderr.find(PATIENCE, |line| event(line, message).is_some());
        line.and_then(|line| event(&line, message))
            .unwrap_or_else(|| panic!("no {message:?} in\n{}", self.stderr.so_far().join("\n")))
    }

    /// Waits for a line of its standard output.
    pub fn printed(&self, text: &str) -> String {
        let line = self.stdout.find(PATIENCE, |line| line.contains(text));
        line.unwrap_or_else(|| panic!("no {text:?} in\n{}", self.stderr.so_far().join("\n")))
    }

    /// What it has written to standard error.
    pub fn log(&self) -> Vec<String> {
        self.stderr.so_far()
    }

    /// What it has written to standard output.
    pub fn out(&self) -> Vec<String> {
        self.stdout.so_far()
    }

    /// Sends it a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
        assert!(status.success(), "{kill}");
    }

    /// Waits until it has ended.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            let log = || self.stderr.so_far().join("\n");
            assert!(begin.elapsed() < within, "still running after {within:?}\n{}", log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Memory that it holds now, in bytes; `None` where the system does not say.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes << 10)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Either may fail if it has ended already, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ports {
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.grpc)).expect("an address")
    }

    pub async fn channel(&self) -> Channel {
        self.endpoint().connect().await.expect("it listens")
    }

    /// The metrics now.
    pub fn scrape(&self) -> Metrics {
        let text = scrape(self.metrics.expect("a metrics port")).expect("metrics are served");
        Metrics::parse(&text).unwrap_or_else(|fault| panic!("{fault}, in\n{text}"))
    }

    /// The metrics once nothing is in flight: what has been cancelled takes a moment to be noticed, so two looks in a
    /// row have to agree.
    pub async fn at_rest(&self) -> Metrics {
        let begin = Instant::now();
        let mut before = self.scrape();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.scrape();
            let faults = now.faults_at_rest();
            if faults.is_empty() && now == before {
                return now;
            }
            assert!(begin.elapsed() < PATIENCE, "not at rest: {faults:?}");
            before = now;
        }
    }
}

/// What a process left behind.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A log line as a JSON event, if it is one with this message.
pub fn event(line: &str, message: &str) -> Option<Value> {
    serde_json::from_str(line).ok().filter(|event: &Value| event["message"] == message)
}

/// Writes the script of a scripted model into `folder`, and returns its source.
pub fn script(folder: &Path, text: &str) -> String {
    let file = folder.join("model.toml");
    std::fs::write(&file, text).expect("writable");
    format!("scripted:{}", file.display())
}

/// A port that was free a moment ago.
pub fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound")
}

/// Lines of a stream, read as they come.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Stream>, Condvar)>);

#[derive(Default)]
struct Stream {
    lines: Vec<String>,
    at_end: bool,
}

impl Lines {
    /// The thread ends with the stream, and that with its process.
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let lines = Self::default();
        let Some(stream) = stream else {
            lines.push(None);
            return lines;
        };
        let writer = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                writer.push(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            writer.push(None);
        });
        lines
    }

    fn push(&self, line: Option<String>) {
        let mut read = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.at_end = line.is_none();
        read.lines.extend(line);
        self.0.1.notify_all();
    }

    /// The first line that `wanted` likes; `None` at the stream's end, or when it has not come in time.
    fn find(&self, within: Duration, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let begin = Instant::now();
        let mut read = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut looked_at = 0;
        loop {
            if let Some(found) = read.lines[looked_at..].iter().find(|line| wanted(line)) {
                return Some(found.clone());
            }
            looked_at = read.lines.len();
            let left = within.saturating_sub(begin.elapsed());
            if read.at_end || left.is_zero() {
                return None;
            }
            read = self.0.1.wait_timeout(read, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn so_far(&self) -> Vec<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// All of it, once the process has ended.
    fn whole(&self) -> String {
        self.find(PATIENCE, |_| false);
        self.so_far().join("\n")
    }
}

//! A `sluice-server` process on loopback, and load for it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    num::NonZero,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use sluice_client::BearerToken;
use sluice_core::workload::{Traffic, Workload};
use sluice_loadtest::{
    Options, Progress, Target,
    compose::{Composer, Texts},
    report::Report,
};
use tempfile::TempDir;

use super::{metrics::Metrics, traffic};

/// Time for a server to load what it serves; a model may have to be fetched.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Lines of its log that are kept to say why it did not start.
const LOG_LINES_KEPT: usize = 20;

/// In which order the server works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Fair,
    Fifo,
}

impl Policy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fair => "fair",
            Self::Fifo => "fifo",
        }
    }
}

/// A process that ends with this value.
pub(super) struct ServerProcess {
    child: Child,
    url: String,
    metrics: SocketAddr,
    tenants: BTreeMap<String, BearerToken>,
    _folder: TempDir,
}

/// What came of a load, and what the server's memory was meanwhile.
pub(super) struct Loaded {
    pub report: Report,
    /// Resident bytes, twice a second; nothing where the system does not say.
    pub resident: Vec<u64>,
}

impl ServerProcess {
    /// Serves the scripted model under that policy, for these tenants.
    pub(super) fn scripted(binary: &Path, policy: Policy, tenants: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("model.toml");
        fs::write(&script, traffic::script())?;
        let source = format!("scripted:{}", script.display());
        let mut config: toml::Table = toml::toml! {
            [log]
            format = "json"
        };
        let mut model = toml::Table::new();
        model.insert("name".to_owned(), "scripted".into());
        model.insert("source".to_owned(), source.into());
        config.insert("model".to_owned(), vec![model].into());
        let scheduler = toml::Table::from_iter([("policy".to_owned(), policy.name().into())]);
        config.insert("scheduler".to_owned(), scheduler.into());
        // One load's texts come again in the next, and nothing of theirs may be known then.
        let no_cache = toml::Table::from_iter([("bytes_max".to_owned(), 0.into())]);
        config.insert("score_cache".to_owned(), no_cache.into());
        let tenant = |name: &&str| {
            let (token, name) = (token(name), (*name).to_owned());
            toml::Table::from_iter([("name".to_owned(), name.into()), ("token".to_owned(), token.into())])
        };
        if !tenants.is_empty() {
            config.insert("tenant".to_owned(), tenants.iter().map(tenant).collect::<Vec<_>>().into());
        }
        let mut tokens = BTreeMap::new();
        for name in tenants {
            tokens.insert((*name).to_owned(), BearerToken::new(&token(name))?);
        }
        Self::start(binary, folder, &config, tokens)
    }

    /// Serves the default model.
    pub(super) fn default_model(binary: &Path) -> anyhow::Result<Self> {
        let config = toml::toml! {
            [log]
            format = "json"
        };
        Self::start(binary, tempfile::tempdir()?, &config, BTreeMap::new())
    }

    fn start(
        binary: &Path,
        folder: TempDir,
        config: &toml::Table,
        tenants: BTreeMap<String, BearerToken>,
    ) -> anyhow::Result<Self> {
        let file = folder.path().join("server.toml");
        fs::write(&file, config.to_string())?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(&file).args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let log = child.stderr.take().context("its log is piped")?;
        let (serving, listening) = mpsc::sync_channel(1);
        thread::spawn(move || read_log(log, &serving));
        match listening.recv_timeout(START_TIMEOUT) {
            Ok(Ok((grpc, metrics))) => {
                Ok(Self { child, url: format!("http://{grpc}"), metrics, tenants, _folder: folder })
            }
            outcome => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                match outcome {
                    Ok(Err(log)) => bail!("the server does not serve:\n{log}"),
                    _ => bail!("the server does not serve within {} s", START_TIMEOUT.as_secs()),
                }
            }
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Its metrics now.
    pub(super) fn scrape(&self) -> anyhow::Result<Metrics> {
        let mut stream = TcpStream::connect(self.metrics)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.metrics)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(Metrics::parse(&answer))
    }

    /// Sends it a workload.
    pub(super) fn load(&self, workload: Workload) -> anyhow::Result<Loaded> {
        let traffic = Traffic::new(workload).map_err(|faults| anyhow!("workload: {faults}"))?;
        let composer = Arc::new(Composer::new(traffic, Texts::default()));
        let target = Target { url: self.url.clone(), token: None, tenants: self.tenants.clone() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let mut resident = Vec::new();
        let watch = |progress: &Progress| {
            if matches!(progress, Progress::Sending { .. }) {
                resident.extend(self.resident_bytes());
            }
        };
        // Far above what is in flight at five times the capacity until deadlines.
        let in_flight_max = NonZero::new(20_000).unwrap_or(NonZero::<usize>::MIN);
        let options = Options { in_flight_max, ..Options::default() };
        let running = sluice_loadtest::run(composer, &target, &options, watch, std::future::pending());
        let report = runtime.block_on(running)?;
        Ok(Loaded { report, resident })
    }

    fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
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

fn token(tenant: &str) -> String {
    format!("token-of-{tenant}")
}

type Serving = Result<(SocketAddr, SocketAddr), String>;

/// Reads to the end, so that the server never waits for a reader; says once where it serves, or else why not.
fn read_log(log: impl Read, serving: &mpsc::SyncSender<Serving>) {
    let mut kept: Vec<String> = Vec::new();
    for line in BufReader::new(log).split(b'\n') {
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(addresses) = addresses(&line) {
            // Nobody listens if it came too late.
            let _ = serving.try_send(Ok(addresses));
        }
        kept.push(line);
        if kept.len() > LOG_LINES_KEPT {
            kept.remove(0);
        }
    }
    let _ = serving.try_send(Err(kept.join("\n")));
}

fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let event: Value = serde_json::from_str(line).ok()?;
    let address = |field: &str| event[field].as_str()?.parse().ok();
    if event["message"] == "serving" { Some((address("listen")?, address("metrics_listen")?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_where_it_serves_or_why_not() {
        let line = r#"{"message":"serving","listen":"127.0.0.1:5","metrics_listen":"127.0.0.1:6"}"#;
        let addresses = ("127.0.0.1:5".parse().unwrap(), "127.0.0.1:6".parse().unwrap());
        let cases = [
            (format!("{{\"message\":\"loading\"}}\n{line}\nmore\n"), Ok(addresses)),
            ("first\nsecond\n".to_owned(), Err("first\nsecond".to_owned())),
            (String::new(), Err(String::new())),
        ];
        for (log, expected) in cases {
            let (sender, receiver) = mpsc::sync_channel(1);
            read_log(log.as_bytes(), &sender);
            assert_eq!(receiver.recv().unwrap(), expected, "{log:?}");
        }
    }
}

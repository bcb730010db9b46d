//! A shard, a server, a folder of files, and the command.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::SocketAddr,
    num::NonZero,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use sluice_client::{
    Client, ClientOptions,
    proto::retrieval::v1::{GetRequest, PayloadValue, Projection, StoredDocument, payload_value::Kind},
};
use sluice_inference::{HubSettings, SilentProgress};
use sluice_retrieval::{
    config::ShardConfig,
    serve::Shard,
    store::{DurableStore, Store},
};
use sluice_server::{Server, ServerConfig, config::ModelConfig, serve::Machine};
use sluice_service::drain::Drain;
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};

/// Time for anything that should take milliseconds on an idle machine, and may take seconds on a busy one.
const PATIENCE: Duration = Duration::from_secs(60);

/// A model without service time.
pub(crate) const QUICK: &str = "max_tokens = 64\ndim = 8\n";
/// The same, another by its digest.
pub(crate) const OTHER: &str = "max_tokens = 65\ndim = 8\n";
/// Slow enough that a test can come in between.
pub(crate) const SLOW: &str = "max_tokens = 64\ndim = 8\nservice_time = { per_batch = \"40ms\" }\n";

pub(crate) struct World {
    pub folder: TempDir,
    runtime: Runtime,
    shard: Option<Running>,
    server: Option<Running>,
}

struct Running {
    address: SocketAddr,
    drain: Drain,
    task: JoinHandle<()>,
}

/// What the command left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    /// With a shard alone.
    pub(crate) fn bare() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut world = Self { folder: TempDir::new().unwrap(), runtime, shard: None, server: None };
        world.start_shard();
        world
    }

    /// With a server of this model too, `mini`, and room for token vectors.
    pub(crate) fn with_model(script: &str) -> Self {
        Self::with_server(script, |_| ())
    }

    pub(crate) fn with_server(script: &str, configure: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut world = Self::bare();
        world.serve(script, configure);
        world
    }

    /// Starts the shard, on the port that it had.
    pub(crate) fn start_shard(&mut self) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = ShardConfig {
            listen: self.shard.as_ref().map_or(any, |shard| shard.address),
            data: Some(self.folder.path().join("shard")),
            ..ShardConfig::default()
        };
        config.drain.grace = Duration::from_millis(10);
        let drain = Drain::new();
        self.shard = Some(self.runtime.block_on(async {
            let shard = Shard::bind(config, NonZero::new(2).unwrap()).await.unwrap();
            let (address, mut serving) = (shard.local_addr().unwrap(), shard.serving());
            let open = |folder: &std::path::Path, config: &ShardConfig| {
                let store: Arc<dyn Store> = Arc::new(DurableStore::open(folder, &config.store)?);
                Ok(store)
            };
            let running = shard.run(open, drain.clone());
            let task = tokio::spawn(async move {
                running.await.unwrap();
            });
            serving.wait_for(|serving| *serving).await.unwrap();
            Running { address, drain, task }
        }));
    }

    pub(crate) fn stop_shard(&mut self) {
        let shard = self.shard.as_mut().unwrap();
        shard.drain.begin();
        self.runtime.block_on(&mut shard.task).unwrap();
    }

    /// Starts a server of this model, in place of the one before.
    pub(crate) fn serve(&mut self, script: &str, configure: impl FnOnce(&mut ServerConfig)) {
        if let Some(server) = self.server.take() {
            server.drain.begin();
            self.runtime.block_on(server.task).unwrap();
        }
        let source = self.file("mini.toml", script);
        let mut config = ServerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            model: vec![ModelConfig { name: "mini".into(), source: format!("scripted:{}", source.display()) }],
            ..ServerConfig::default()
        };
        config.drain.grace = Duration::from_millis(10);
        config.score_cache.bytes_max = 0;
        config.token_store.dir = Some(self.folder.path().join("tokens"));
        configure(&mut config);
        assert_eq!(config.faults(), [], "the test's own configuration");
        let machine = Machine {
            cache_dir: PathBuf::from("unused: tests name their models' folders"),
            hub: HubSettings { offline: true, ..HubSettings::default() },
            processors: NonZero::new(2).unwrap(),
            progress: Arc::new(SilentProgress),
        };
        let drain = Drain::new();
        let running = self.runtime.block_on(async {
            let server = Server::bind(config, machine).await.unwrap();
            let address = server.local_addr().unwrap();
            let running = server.run(drain.clone());
            let task = tokio::spawn(async move {
                running.await.unwrap();
            });
            Running { address, drain, task }
        });
        self.server = Some(running);
        let warm = self.server();
        self.wait_until("the model is warm", || self.block_on(warm.get_model("mini")).is_ok());
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(future)
    }

    pub(crate) fn shard_url(&self) -> String {
        format!("http://{}", self.shard.as_ref().unwrap().address)
    }

    pub(crate) fn server_url(&self) -> String {
        format!("http://{}", self.server.as_ref().unwrap().address)
    }

    pub(crate) fn shard(&self) -> Client {
        self.block_on(async { Client::connect_lazy(&self.shard_url(), ClientOptions::default()).unwrap() })
    }

    pub(crate) fn server(&self) -> Client {
        self.block_on(async { Client::connect_lazy(&self.server_url(), ClientOptions::default()).unwrap() })
    }

    /// Writes a file; its path.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `sluice index` into the collection `docs` with these arguments, and `--encode` where there is a server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(["index", "--shard", &self.shard_url(), "--collection", "docs"]);
        if self.server.is_some() && !arguments.contains(&"--without-server") {
            command.args(["--encode", &self.server_url()]);
        }
        command.args(arguments.iter().filter(|argument| **argument != "--without-server"));
        command.current_dir(self.folder.path()).env_remove("SLUICE_URL").env_remove("SLUICE_TOKEN");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn index(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).spawn().unwrap())
    }

    pub(crate) fn index_with(&self, stdin: &[u8], arguments: &[&str]) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        Ran::of(child)
    }

    /// The same, which must succeed; what it says as JSON.
    pub(crate) fn indexed(&self, arguments: &[&str]) -> Value {
        let ran = self.index(&[&["--json"], arguments].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.json()
    }

    /// What the shard has of these ids.
    pub(crate) fn stored(&self, ids: &[String]) -> HashMap<String, StoredDocument> {
        let all = || vec!["*".to_owned()];
        let projection = Some(Projection { texts: all(), payload: all(), vectors: all() });
        let request = GetRequest { collection: "docs".into(), ids: ids.to_vec(), projection };
        let answer = self.block_on(self.shard().get_documents(request)).unwrap();
        answer.documents.into_iter().map(|stored| (stored.document.as_ref().unwrap().id.clone(), stored)).collect()
    }

    /// Documents of the collection; 0 while it is not there.
    pub(crate) fn count(&self) -> u64 {
        self.block_on(self.shard().collection_stats("docs")).map_or(0, |stats| stats[0].documents)
    }

    /// The log sequence number of the collection's last write.
    pub(crate) fn lsn(&self) -> u64 {
        self.block_on(self.shard().collection_stats("docs")).unwrap()[0].lsn
    }

    pub(crate) fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < PATIENCE, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Ran {
    pub(crate) fn of(mut child: Child) -> Self {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let mut pipe = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            pipe.read_to_string(&mut stderr).unwrap();
            stderr
        });
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let code = child.wait().unwrap().code().unwrap_or(-1);
        Self { code, stdout, stderr: errors.join().unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// `{"id", "title", "text"}` for each number, a line each.
pub(crate) fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("{{\"id\":\"d{n}\",\"title\":\"T{n}\",\"text\":\"word{n} among others\"}}\n")).collect()
}

pub(crate) fn ids(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("d{n}")).collect()
}

/// A payload's string.
pub(crate) fn string(value: Option<&PayloadValue>) -> Option<&str> {
    match &value?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

//! Configuration of the server: every limit with its unit and what it protects.

use std::{net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use sluice_core::admission::{self, Work};
use sluice_inference::{CpuEngine, Source};
use sluice_service::{
    config::{self, ConfigFault},
    drain::DrainConfig,
    grpc::GrpcConfig,
    telemetry::{LogFormat, log_filter_fault},
};

use crate::job::StoredAs;

mod device;
mod scheduler;
mod tenants;

pub use device::{Device, InvalidDevice};
pub use scheduler::{Ageing, ClassWeights, PolicyName, SchedulerConfig};
pub use tenants::TenantConfig;

/// Name under which the pinned default model is served where none is configured.
pub const DEFAULT_MODEL_NAME: &str = "all-MiniLM-L6-v2";

/// A smaller cache would forget before anybody asks again.
const SCORE_CACHE_BYTES_MIN: u64 = 1 << 20;

/// The whole configuration, resolved: `--print-config` shows one of these.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerConfig {
    /// Address of the gRPC port.
    pub listen: SocketAddr,
    /// Address of the Prometheus port (`/metrics`); absent = none.
    pub metrics_listen: Option<SocketAddr>,
    /// What computes.
    pub device: Device,
    /// Bytes of a CUDA device's memory for each model, its largest batch included; 0 = no bound.
    #[serde(with = "config::bytes")]
    pub device_memory_bytes_max: u64,
    /// Which engine computes on the CPU.
    pub backend: CpuBackend,
    /// How exactly the CPU engine computes.
    pub precision: Precision,
    /// Threads that compute; 0 = one for each processor that this process is granted. All models share them.
    pub compute_threads: usize,
    /// Where models are kept; absent = the user's cache folder.
    pub cache_dir: Option<PathBuf>,
    /// Deadline of a call that brings none.
    #[serde(with = "config::duration")]
    pub default_deadline: Duration,
    /// Threads that tokenize; 0 = one per processor.
    pub tokenizer_threads: usize,
    /// The models; the first answers requests that name none. Empty = the pinned default model.
    pub model: Vec<ModelConfig>,
    /// Who may call, and how much. Empty = everybody is one tenant without quotas.
    pub tenant: Vec<TenantConfig>,
    /// The gRPC transport.
    pub grpc: GrpcConfig,
    /// Bounds of one request.
    pub limits: Limits,
    /// Bounds of all requests together.
    pub admission: AdmissionConfig,
    /// The batcher.
    pub scheduler: SchedulerConfig,
    /// Token vectors of documents, kept on this machine.
    pub token_store: TokenStoreConfig,
    /// Scores that were computed before.
    pub score_cache: ScoreCacheConfig,
    /// Stopping.
    pub drain: DrainConfig,
    /// Logging.
    pub log: LogConfig,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Name that requests use; at most 256 bytes.
    pub name: String,
    /// A folder, `hf:ORG/NAME[@REVISION]`, `pip:PACKAGE==VERSION`, `scripted:FILE.toml` or `default`.
    pub source: String,
}

/// Which engine computes on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuBackend {
    /// The best there is for the model: `cpu`, for all that this version loads.
    #[default]
    Auto,
    /// Our own.
    Cpu,
    /// candle.
    Candle,
}

impl CpuBackend {
    /// What computes every model that this version loads.
    #[must_use]
    pub fn engine(self) -> CpuEngine {
        match self {
            Self::Auto | Self::Cpu => CpuEngine::Own,
            Self::Candle => CpuEngine::Candle,
        }
    }
}

/// How exactly the CPU engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// In f32.
    #[default]
    F32,
    /// In f32, with weights kept in f16: half the memory.
    F16,
    /// Linear layers in integers of 8 bits: about three times as fast; scores differ a little.
    Int8,
}

impl From<Precision> for sluice_inference::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Int8 => Self::Int8,
        }
    }
}

/// Bounds of one request; what is over them is `INVALID_ARGUMENT`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Documents (or texts) of a request: bounds how much one caller's cancellation throws away.
    pub documents_per_request_max: usize,
    /// Bytes of one document's text: bounds the time of tokenizing it.
    #[serde(with = "config::bytes")]
    pub document_bytes_max: u64,
    /// Bytes of the query's text.
    #[serde(with = "config::bytes")]
    pub query_bytes_max: u64,
    /// Token vectors of a query that comes as vectors.
    pub query_vectors_max: usize,
    /// Token vectors of one document that comes as vectors.
    pub document_vectors_max: usize,
    /// Token vectors of one put into the token store, made or sent: they are in memory at once.
    pub put_vectors_max: usize,
    /// Chunks of one document; what is beyond them is not read, and flagged.
    pub chunks_per_document_max: usize,
    /// Requests of one RerankMany call worked on at once; further ones stay unread.
    pub requests_in_flight_per_stream_max: usize,
}

/// Bounds of all requests together; what is over them is `RESOURCE_EXHAUSTED`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AdmissionConfig {
    /// Documents inside: bounds the queue.
    pub documents_max: u64,
    /// Tokens inside: bounds the memory of tokenized sequences and the work that is owed.
    pub tokens_max: u64,
    /// Bytes of text inside: bounds the memory of requests.
    #[serde(with = "config::bytes")]
    pub bytes_max: u64,
    /// The part of all that which one tenant may hold, where there are several, in percent: leaves room for the others.
    pub tenant_percent_max: u32,
}

/// The token store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenStoreConfig {
    /// Its folder, of this process alone; absent = nothing is kept.
    pub dir: Option<PathBuf>,
    /// How vectors are kept where a put does not say.
    pub storage: StoredAs,
    /// Bytes of a file, at most: what is rewritten at once when space is given back.
    #[serde(with = "config::bytes")]
    pub segment_bytes_max: u64,
    /// Serve what is there and change nothing: several processes may then share the folder.
    pub read_only: bool,
    /// Bytes of a CUDA device's memory for documents that were compared before, for each storage and dimension in use.
    #[serde(with = "config::bytes")]
    pub device_cache_bytes_max: u64,
}

impl Default for TokenStoreConfig {
    fn default() -> Self {
        Self {
            dir: None,
            storage: StoredAs::F16,
            segment_bytes_max: 1 << 30,
            read_only: false,
            device_cache_bytes_max: 4 << 30,
        }
    }
}

/// The score cache.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ScoreCacheConfig {
    /// Bytes that kept scores take, 80 each; 0 = none are kept, else at least 1 MiB.
    #[serde(with = "config::bytes")]
    pub bytes_max: u64,
}

impl Default for ScoreCacheConfig {
    fn default() -> Self {
        // The scores of 800,000 pairs: hours of a CPU's work, and less memory than the smallest model's weights.
        Self { bytes_max: 64 << 20 }
    }
}

/// Logging, to standard error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `human`, `json`, or `auto`: human on a terminal.
    pub format: LogFormat,
    /// Directives such as `info` or `sluice_server=debug,warn`.
    pub filter: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            metrics_listen: None,
            device: Device::default(),
            device_memory_bytes_max: 0,
            backend: CpuBackend::default(),
            precision: Precision::default(),
            compute_threads: 0,
            cache_dir: None,
            default_deadline: Duration::from_secs(30),
            tokenizer_threads: 0,
            model: Vec::new(),
            tenant: Vec::new(),
            grpc: GrpcConfig::default(),
            limits: Limits::default(),
            admission: AdmissionConfig::default(),
            scheduler: SchedulerConfig::default(),
            token_store: TokenStoreConfig::default(),
            score_cache: ScoreCacheConfig::default(),
            drain: DrainConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            documents_per_request_max: 10_000,
            document_bytes_max: 1 << 20,
            query_bytes_max: 64 << 10,
            query_vectors_max: 1024,
            document_vectors_max: 8192,
            put_vectors_max: 128 << 10,
            chunks_per_document_max: 64,
            requests_in_flight_per_stream_max: 32,
        }
    }
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self { documents_max: 50_000, tokens_max: 8_000_000, bytes_max: 512 << 20, tenant_percent_max: 80 }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}

impl ServerConfig {
    /// Everything that is wrong with it, beyond its syntax.
    #[must_use]
    pub fn faults(&self) -> Vec<ConfigFault> {
        let mut faults = self.grpc.faults("grpc");
        faults.extend(self.drain.faults("drain"));
        faults.extend(log_filter_fault(&self.log.filter).map(|fault| ConfigFault::new("log.filter", fault)));
        let mut require = |holds: bool, key: &str, message: &str| {
            if !holds {
                faults.push(ConfigFault::new(key, message));
            }
        };
        require(
            self.precision == Precision::F32 || self.backend != CpuBackend::Candle,
            "precision",
            "candle keeps and computes everything in f32; use backend \"auto\" or \"cpu\" for \"f16\" and \"int8\"",
        );
        let insists = matches!(self.device, Device::Cuda(_) | Device::CudaAll);
        require(
            !insists || self.backend != CpuBackend::Candle,
            "backend",
            "candle computes on the processor, and `device` asks for a CUDA device",
        );
        require(
            !insists || self.precision != Precision::Int8,
            "precision",
            "is the processor's; the CUDA device that `device` asks for computes in f16",
        );
        require(!self.default_deadline.is_zero(), "default_deadline", "must be longer than 0");
        let limits = &self.limits;
        require(limits.documents_per_request_max > 0, "limits.documents_per_request_max", "must be at least 1");
        require(limits.document_bytes_max > 0, "limits.document_bytes_max", "must be at least 1");
        require(limits.query_bytes_max > 0, "limits.query_bytes_max", "must be at least 1");
        require(limits.query_vectors_max > 0, "limits.query_vectors_max", "must be at least 1");
        require(limits.document_vectors_max > 0, "limits.document_vectors_max", "must be at least 1");
        require(limits.put_vectors_max > 0, "limits.put_vectors_max", "must be at least 1");
        require(limits.chunks_per_document_max > 0, "limits.chunks_per_document_max", "must be at least 1");
        require(
            limits.requests_in_flight_per_stream_max > 0,
            "limits.requests_in_flight_per_stream_max",
            "must be at least 1",
        );
        require(self.admission.documents_max > 0, "admission.documents_max", "must be at least 1");
        require(self.admission.tokens_max > 0, "admission.tokens_max", "must be at least 1");
        require(self.admission.bytes_max > 0, "admission.bytes_max", "must be at least 1");
        let percent = self.admission.tenant_percent_max;
        require((1..=100).contains(&percent), "admission.tenant_percent_max", "must be 1 to 100");
        require(
            self.score_cache.bytes_max == 0 || self.score_cache.bytes_max >= SCORE_CACHE_BYTES_MIN,
            "score_cache.bytes_max",
            "must be 0 or at least 1 MiB",
        );
        for (index, model) in self.model.iter().enumerate() {
            let key = |field: &str| format!("model[{index}].{field}");
            let length = model.name.len();
            require((1..=256).contains(&length), &key("name"), "must be 1 to 256 bytes");
            let duplicate = self.model[..index].iter().any(|earlier| earlier.name == model.name);
            require(!duplicate, &key("name"), "is used twice");
            if let Err(error) = model.source.parse::<Source>() {
                require(false, &key("source"), &error.to_string());
            }
        }
        faults.extend(tenants::faults(&self.tenant));
        faults.extend(self.scheduler.faults());
        faults
    }

    /// The models to load: those configured, else the pinned default.
    #[must_use]
    pub fn models(&self) -> Vec<ModelConfig> {
        if self.model.is_empty() {
            vec![ModelConfig { name: DEFAULT_MODEL_NAME.to_owned(), source: "default".to_owned() }]
        } else {
            self.model.clone()
        }
    }

    /// Room for all requests together, and each tenant's quotas.
    #[must_use]
    pub fn admission(&self) -> admission::AdmissionConfig {
        let AdmissionConfig { documents_max, tokens_max, bytes_max, tenant_percent_max } = self.admission;
        admission::AdmissionConfig {
            room: Work { documents: documents_max, tokens: tokens_max, bytes: bytes_max },
            tenant_room_percent: if self.tenant.len() < 2 { 100 } else { tenant_percent_max },
            tenant_quotas: tenants::quotas(&self.tenant),
            ..admission::AdmissionConfig::default()
        }
    }

    /// Threads that tokenize.
    #[must_use]
    pub fn tokenizer_threads(&self, processors: NonZero<usize>) -> usize {
        if self.tokenizer_threads == 0 { processors.get() } else { self.tokenizer_threads }
    }
}

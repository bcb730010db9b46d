//! Configuration of the shard: every limit with its unit and what it protects.

use std::{net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use sluice_service::{
    config::{self, ConfigFault},
    drain::DrainConfig,
    grpc::GrpcConfig,
    telemetry::{LogFormat, log_filter_fault},
};

use crate::{
    collection::CollectionOptions, dense::GraphOptions, indexes::IndexOptions, lexical::LexicalOptions,
    qdrant::QdrantConfig, search::SearchSettings, shard::ShardOptions,
};

/// The whole configuration, resolved: `--print-config` shows one of these.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ShardConfig {
    /// Address of the gRPC port.
    pub listen: SocketAddr,
    /// Address of the Prometheus port (`/metrics`); absent = none.
    pub metrics_listen: Option<SocketAddr>,
    /// What keeps the collections: `local`, this process in its folder, or `qdrant`, a cluster.
    pub engine: EngineKind,
    /// Folder that collections are kept in, of this process alone; created if it is not there. Required by the engine
    /// `local`, and not used by another.
    pub data: Option<PathBuf>,
    /// Deadline of a call that brings none.
    #[serde(with = "config::duration")]
    pub default_deadline: Duration,
    /// The gRPC transport.
    pub grpc: GrpcConfig,
    /// Bounds of one request.
    pub limits: Limits,
    /// Searching.
    pub search: SearchConfig,
    /// What the engine `local` keeps.
    pub store: StoreConfig,
    /// The cluster of the engine `qdrant`.
    pub qdrant: QdrantConfig,
    /// Stopping.
    pub drain: DrainConfig,
    /// Logging.
    pub log: LogConfig,
}

/// What keeps the collections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// This process, in its folder.
    #[default]
    Local,
    /// A Qdrant cluster.
    Qdrant,
}

/// Bounds of one request; what is over them is `INVALID_ARGUMENT`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Documents (or ids) of a request: one write holds up others for as long as it takes.
    pub documents_per_batch_max: usize,
    /// Batches of one Upsert call that are read ahead of their acknowledgements: bounds memory.
    pub batches_in_flight_max: usize,
    /// Bytes of a query's text: bounds the time of analysing it.
    #[serde(with = "config::bytes")]
    pub query_bytes_max: u64,
    /// Candidates of a leg: bounds its time, and the memory of lists that are kept for further pages.
    pub candidates_max: usize,
    /// Hits of one answer: bounds its size.
    pub hits_max: usize,
}

/// Searching.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchConfig {
    /// Legs that run at once, and searches that read documents at once; 0 = two for each processor, and four at least.
    /// Legs that hang keep their place.
    pub threads: usize,
    /// Legs that wait for a place; what comes beyond them is refused at once.
    pub queued_legs_max: usize,
    /// Of what is left of a search's deadline, the part that its legs get; above 0, below 1.
    pub leg_share: f64,
    /// Lists that are kept for further pages.
    pub kept_lists_max: usize,
    /// Hits of all these lists: bounds their memory. A longer list is not kept.
    pub kept_hits_max: usize,
    /// Weights follow the query where a search does not say.
    pub adaptive_weights: bool,
    /// Words that a question begins with, in lower case.
    pub question_words: Vec<String>,
}

/// What is kept, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreConfig {
    /// Collections; each has threads and open files. 1 to 1,024.
    pub collections_max: usize,
    /// Bytes that a collection's documents and log may grow to: address space, not disk, until it is used.
    #[serde(with = "config::bytes")]
    pub collection_bytes_max: u64,
    /// Batches of a collection that wait to be written: bounds memory.
    pub queued_batches_max: usize,
    /// Bytes of batches that an index of a collection may be behind; beyond, writes wait for it, a second at most for each
    /// commit: bounds the log and the replaced documents that are kept for it.
    #[serde(with = "config::bytes")]
    pub index_lag_bytes_max: u64,
    /// Memory of each collection in which words are gathered before they become a segment.
    #[serde(with = "config::bytes")]
    pub lexical_writer_bytes: usize,
    /// Neighbours of a vector in a graph of dense vectors (M).
    pub graph_connectivity: usize,
    /// Vectors that are looked at to find a new one's neighbours (`ef_construction`).
    pub graph_ef_construction: usize,
    /// Vectors that a search takes from the graph and scores exactly (`ef_search`); half as many again as `k` if that is
    /// more.
    pub graph_candidates: usize,
    /// Threads of each graph that link new vectors.
    pub graph_threads: usize,
}

/// Logging, to standard error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `human`, `json`, or `auto`: human on a terminal.
    pub format: LogFormat,
    /// Directives such as `info` or `sluice_retrieval=debug,warn`.
    pub filter: String,
}

/// Words that questions begin with, in the languages that most test collections are in.
const QUESTION_WORDS: [&str; 64] = [
    // English.
    "who", "whom", "whose", "what", "when", "where", "which", "why", "how", "is", "are", "was", "were", "do", "does",
    "did", "can", "could", "should", "would", "will", // German; "was" is there already.
    "wer", "wen", "wem", "wessen", "wann", "wo", "welche", "welcher", "welches", "warum", "wieso", "weshalb", "wie",
    "wozu", // French.
    "qui", "que", "quoi", "quand", "où", "quel", "quelle", "quels", "quelles", "pourquoi", "comment", "combien",
    // Spanish, Portuguese and Italian.
    "quién", "qué", "cuándo", "dónde", "cuál", "cómo", "quem", "quando", "onde", "qual", "como", "chi", "cosa", "dove",
    "quale", "perché", // Dutch; "wie" is there already.
    "waarom",
];

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50052)),
            metrics_listen: None,
            engine: EngineKind::Local,
            data: None,
            default_deadline: Duration::from_secs(30),
            grpc: GrpcConfig::default(),
            limits: Limits::default(),
            search: SearchConfig::default(),
            store: StoreConfig::default(),
            qdrant: QdrantConfig::default(),
            drain: DrainConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            documents_per_batch_max: 10_000,
            batches_in_flight_max: 4,
            query_bytes_max: 64 << 10,
            candidates_max: 10_000,
            hits_max: 1000,
        }
    }
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            queued_legs_max: 1024,
            leg_share: 0.8,
            kept_lists_max: 256,
            kept_hits_max: 1_000_000,
            adaptive_weights: true,
            question_words: QUESTION_WORDS.map(str::to_owned).to_vec(),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        let (shard, indexes) = (ShardOptions::default(), IndexOptions::default());
        Self {
            collections_max: shard.collections_max,
            collection_bytes_max: shard.collection.map_bytes,
            queued_batches_max: shard.collection.queue_batches_max,
            index_lag_bytes_max: shard.collection.lag_bytes_max,
            lexical_writer_bytes: indexes.lexical.writer_bytes,
            graph_connectivity: indexes.graph.connectivity,
            graph_ef_construction: indexes.graph.ef_construction,
            graph_candidates: indexes.graph.candidates,
            graph_threads: indexes.graph.threads,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}

impl ShardConfig {
    /// Everything that is wrong with it, beyond its syntax.
    #[must_use]
    pub fn faults(&self) -> Vec<ConfigFault> {
        let mut faults = self.grpc.faults("grpc");
        faults.extend(self.drain.faults("drain"));
        if self.engine == EngineKind::Qdrant {
            faults.extend(self.qdrant.faults("qdrant"));
        }
        faults.extend(log_filter_fault(&self.log.filter).map(|fault| ConfigFault::new("log.filter", fault)));
        let mut require = |holds: bool, key: &str, message: &str| {
            if !holds {
                faults.push(ConfigFault::new(key, message));
            }
        };
        let data = self.data.is_some() || self.engine != EngineKind::Local;
        require(data, "data", "is required: the folder that collections are kept in (--data DIR)");
        require(!self.default_deadline.is_zero(), "default_deadline", "must be longer than 0");
        let limits = &self.limits;
        require(limits.documents_per_batch_max > 0, "limits.documents_per_batch_max", "must be at least 1");
        require(limits.batches_in_flight_max > 0, "limits.batches_in_flight_max", "must be at least 1");
        require(limits.query_bytes_max > 0, "limits.query_bytes_max", "must be at least 1");
        require(limits.candidates_max > 0, "limits.candidates_max", "must be at least 1");
        require(limits.hits_max > 0, "limits.hits_max", "must be at least 1");
        let store = &self.store;
        require((1..=1024).contains(&store.collections_max), "store.collections_max", "must be 1 to 1024");
        require(store.collection_bytes_max >= 1 << 20, "store.collection_bytes_max", "must be at least 1MiB");
        require(store.queued_batches_max > 0, "store.queued_batches_max", "must be at least 1");
        let writer = (15_000_000..1 << 32).contains(&store.lexical_writer_bytes);
        require(writer, "store.lexical_writer_bytes", "must be at least 15MB and less than 4GiB");
        require((2..=256).contains(&store.graph_connectivity), "store.graph_connectivity", "must be 2 to 256");
        require(store.graph_ef_construction > 0, "store.graph_ef_construction", "must be at least 1");
        require(store.graph_candidates > 0, "store.graph_candidates", "must be at least 1");
        require(store.graph_threads > 0, "store.graph_threads", "must be at least 1");
        let search = &self.search;
        require(search.queued_legs_max > 0, "search.queued_legs_max", "must be at least 1");
        let share = search.leg_share > 0.0 && search.leg_share < 1.0;
        require(share, "search.leg_share", "must be above 0 and below 1");
        let lower = search.question_words.iter().all(|word| *word == word.to_lowercase() && !word.is_empty());
        require(lower, "search.question_words", "must be in lower case, and none of them empty");
        faults
    }
}

impl StoreConfig {
    /// What a shard is told.
    #[must_use]
    pub fn shard(&self) -> ShardOptions {
        let collection = CollectionOptions {
            map_bytes: self.collection_bytes_max,
            queue_batches_max: self.queued_batches_max,
            lag_bytes_max: self.index_lag_bytes_max,
        };
        ShardOptions { collections_max: self.collections_max, collection }
    }

    /// What indexes are told.
    #[must_use]
    pub fn indexes(&self) -> IndexOptions {
        let default = IndexOptions::default();
        IndexOptions {
            lexical: LexicalOptions { writer_bytes: self.lexical_writer_bytes, ..default.lexical },
            graph: GraphOptions {
                connectivity: self.graph_connectivity,
                ef_construction: self.graph_ef_construction,
                candidates: self.graph_candidates,
                threads: self.graph_threads,
                ..default.graph
            },
        }
    }
}

impl SearchConfig {
    /// Places for legs.
    #[must_use]
    pub fn places(&self, processors: NonZero<usize>) -> usize {
        if self.threads == 0 { processors.get().saturating_mul(2).max(4) } else { self.threads }
    }

    /// What a searcher is told.
    #[must_use]
    pub fn settings(&self) -> SearchSettings {
        SearchSettings {
            leg_share: self.leg_share,
            adaptive_weights: self.adaptive_weights,
            question_words: self.question_words.clone(),
        }
    }
}

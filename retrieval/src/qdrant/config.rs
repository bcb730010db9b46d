//! Which cluster, and how it is used.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_service::config::{self, ConfigFault, Secret};

/// The cluster that collections are kept on, where `engine = "qdrant"`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct QdrantConfig {
    /// Its gRPC port: `http://HOST:6334`, or `https://…` for TLS with the system's root certificates.
    pub url: String,
    /// Its API key, if it wants one. From the environment: `SLUICE_QDRANT__API_KEY`.
    pub api_key: Secret,
    /// Time to connect.
    #[serde(with = "config::duration")]
    pub connect_timeout: Duration,
    /// Time for one call of the cluster but for a search's, which has the search's own. Who waits for the answer is
    /// answered at its own deadline; this bounds how long a thread is kept.
    #[serde(with = "config::duration")]
    pub call_timeout: Duration,
    /// For so long a collection's schema and what an alias stands for are not asked for again. What other shards change
    /// is seen that late.
    #[serde(with = "config::duration")]
    pub names_age_max: Duration,
    /// How many replicas have to agree on what is read.
    pub read_consistency: ReadConsistency,
    /// Of new collections: parts that it is split into; 0 = as the cluster does by itself.
    pub shard_number: u32,
    /// Of new collections: copies of each part; 0 = as the cluster does by itself.
    pub replication_factor: u32,
    /// Of new collections: copies that must have a write before it is acknowledged; 0 = as the cluster does by itself.
    pub write_consistency_factor: u32,
    /// Vectors that a search of a dense leg keeps in sight (`hnsw_ef`); half as many again as `k` if that is more.
    pub graph_candidates: usize,
    /// Of new collections: words that a text has on average. BM25 measures a text's length by it, and a cluster does
    /// not know it.
    pub average_words: f32,
}

/// How many replicas have to agree on what is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadConsistency {
    /// Any one is asked.
    #[default]
    One,
    /// All are asked, and most must have it.
    Majority,
    /// Half and one are asked, and all of those must have it.
    Quorum,
    /// All are asked, and all must have it.
    All,
}

impl Default for QdrantConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:6334".to_owned(),
            api_key: Secret::default(),
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            names_age_max: Duration::from_secs(5),
            read_consistency: ReadConsistency::One,
            shard_number: 0,
            replication_factor: 0,
            write_consistency_factor: 0,
            graph_candidates: 256,
            average_words: 128.0,
        }
    }
}

impl QdrantConfig {
    /// Everything that is wrong with it, beyond its syntax.
    #[must_use]
    pub fn faults(&self, section: &str) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, key: &str, message: &str| {
            if !holds {
                faults.push(ConfigFault::new(format!("{section}.{key}"), message));
            }
        };
        let http = self.url.starts_with("http://") || self.url.starts_with("https://");
        require(http, "url", "must be http://HOST:PORT or https://HOST:PORT, of the cluster's gRPC port");
        let key = self.api_key.reveal().bytes().all(|byte| byte.is_ascii_graphic());
        require(key, "api_key", "must be of visible ASCII characters");
        require(!self.connect_timeout.is_zero(), "connect_timeout", "must be longer than 0");
        require(!self.call_timeout.is_zero(), "call_timeout", "must be longer than 0");
        require(self.graph_candidates > 0, "graph_candidates", "must be at least 1");
        let words = self.average_words >= 1.0 && self.average_words.is_finite();
        require(words, "average_words", "must be at least 1");
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        let good = QdrantConfig::default;
        let cases = [
            (good(), None),
            (QdrantConfig { url: "qdrant:6334".into(), ..good() }, Some("qdrant.url")),
            (QdrantConfig { api_key: Secret::from("two words"), ..good() }, Some("qdrant.api_key")),
            (QdrantConfig { connect_timeout: Duration::ZERO, ..good() }, Some("qdrant.connect_timeout")),
            (QdrantConfig { call_timeout: Duration::ZERO, ..good() }, Some("qdrant.call_timeout")),
            (QdrantConfig { graph_candidates: 0, ..good() }, Some("qdrant.graph_candidates")),
            (QdrantConfig { average_words: f32::NAN, ..good() }, Some("qdrant.average_words")),
        ];
        for (config, expected) in cases {
            let faults: Vec<_> = config.faults("qdrant").into_iter().map(|fault| fault.key).collect();
            assert_eq!(faults, expected.into_iter().collect::<Vec<_>>());
        }
    }
}

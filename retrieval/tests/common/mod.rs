//! A shard in this process, on a loopback port of its own, and what tests ask it.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod faults;
pub mod memory;
pub mod timerless;

use std::{collections::HashMap, net::SocketAddr, num::NonZero, path::Path, sync::Arc, time::Duration};

use sluice_proto::{
    model::v1::{DataType, Embedding},
    retrieval::v1 as wire,
};
use sluice_retrieval::{
    config::ShardConfig,
    search::{Interference, Undisturbed},
    serve::{Shard, ShardError},
    store::{DurableStore, Store, StoreError},
};
use sluice_service::drain::{Drain, Ending};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;
use wire::retrieval_service_client::RetrievalServiceClient;

use self::memory::MemoryStore;

pub type Client = RetrievalServiceClient<Channel>;

/// Where a shard's collections are.
#[derive(Clone, Copy, Debug)]
pub enum Kept {
    /// In a store without indexes of its own.
    InMemory,
    /// In the store that a shard has in earnest.
    OnDisk,
}

pub struct TestShard {
    pub address: SocketAddr,
    pub metrics: Option<SocketAddr>,
    pub drain: Drain,
    /// Empty where it does not keep them.
    pub memory: Arc<MemoryStore>,
    running: JoinHandle<Result<Ending, ShardError>>,
    _folder: TempDir,
}

impl TestShard {
    /// Over a store in memory.
    pub async fn start() -> Self {
        Self::start_with(Arc::new(Undisturbed), |_| ()).await
    }

    pub async fn start_with(interference: Arc<dyn Interference>, configure: impl FnOnce(&mut ShardConfig)) -> Self {
        Self::start_over(Kept::InMemory, interference, configure).await
    }

    pub async fn start_over(
        kept: Kept,
        interference: Arc<dyn Interference>,
        configure: impl FnOnce(&mut ShardConfig),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = config(folder.path());
        configure(&mut config);
        assert_eq!(config.faults(), [], "the test's own configuration");
        let two = NonZero::new(2).expect("two");
        let shard = Shard::bind(config, two).await.expect("a port").with_interference(interference);
        let (address, metrics) = (shard.local_addr().expect("bound"), shard.metrics_addr());
        let (drain, memory) = (Drain::new(), Arc::new(MemoryStore::default()));
        let store: Arc<dyn Store> = memory.clone();
        let open = move |folder: &Path, config: &ShardConfig| -> Result<Arc<dyn Store>, StoreError> {
            match kept {
                Kept::InMemory => Ok(store),
                Kept::OnDisk => Ok(Arc::new(DurableStore::open(folder, &config.store)?)),
            }
        };
        let mut serving = shard.serving();
        let running = tokio::spawn(shard.run(open, drain.clone()));
        serving.wait_for(|serving| *serving).await.expect("it serves");
        Self { address, metrics, drain, memory, running, _folder: folder }
    }

    pub async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        RetrievalServiceClient::new(endpoint.connect().await.expect("it listens"))
    }

    /// Drains it.
    pub async fn stop(self) -> Result<Ending, ShardError> {
        self.drain.begin();
        self.running.await.expect("the shard does not panic")
    }
}

pub fn config(folder: &Path) -> ShardConfig {
    let mut config = ShardConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data: Some(folder.to_owned()),
        ..ShardConfig::default()
    };
    config.drain.grace = Duration::from_millis(50);
    config
}

/// Title and text, a dense and a sparse vector, and a payload field of each type.
pub fn schema() -> wire::Schema {
    use wire::PayloadType;

    let text = |name: &str| wire::TextField { name: name.to_owned(), boost: None, language: String::new() };
    let dense = wire::DenseField { dim: 2, metric: wire::Metric::Cosine.into() };
    let payload = [
        ("colour", PayloadType::Keyword),
        ("year", PayloadType::Integer),
        ("price", PayloadType::Float),
        ("sold", PayloadType::Boolean),
        ("seen", PayloadType::Datetime),
        ("note", PayloadType::Text),
    ];
    let payload = payload.map(|(name, r#type)| wire::PayloadField { name: name.to_owned(), r#type: r#type.into() });
    wire::Schema {
        texts: vec![text("title"), text("text")],
        vectors: vec![
            wire::VectorField { name: "dense".into(), kind: Some(wire::vector_field::Kind::Dense(dense)) },
            wire::VectorField {
                name: "sparse".into(),
                kind: Some(wire::vector_field::Kind::Sparse(wire::SparseField { idf: false })),
            },
        ],
        payload: payload.to_vec(),
        content: None,
    }
}

pub async fn create(client: &mut Client, name: &str) -> wire::Collection {
    let request = wire::CreateCollectionRequest { name: name.to_owned(), schema: Some(schema()) };
    let response = client.create_collection(request).await.expect("created").into_inner();
    response.collection.expect("it is described")
}

/// A document with a text, a dense vector at an angle, and a sparse one of one dimension.
pub fn document(id: &str, text: &str, [x, y]: [f32; 2]) -> wire::Document {
    let sparse = wire::SparseVector { indices: vec![id.len() as u32], values: vec![1.0] };
    let vectors = [("dense", dense([x, y])), ("sparse", wire::vector::Kind::Sparse(sparse))];
    let vectors = vectors.map(|(name, kind)| (name.to_owned(), wire::Vector { kind: Some(kind) }));
    wire::Document {
        id: id.to_owned(),
        texts: HashMap::from([("text".to_owned(), text.to_owned())]),
        payload: HashMap::new(),
        vectors: HashMap::from(vectors),
    }
}

pub fn dense(vector: [f32; 2]) -> wire::vector::Kind {
    wire::vector::Kind::Dense(embedding(&vector))
}

pub fn embedding(vector: &[f32]) -> Embedding {
    let data: Vec<u8> = vector.iter().flat_map(|component| component.to_le_bytes()).collect();
    let dim = vector.len() as u32;
    Embedding { data: data.into(), dtype: DataType::F32.into(), rows: 1, dim, ..Embedding::default() }
}

pub fn value(kind: wire::payload_value::Kind) -> wire::PayloadValue {
    wire::PayloadValue { kind: Some(kind) }
}

pub fn keyword(text: &str) -> wire::PayloadValue {
    value(wire::payload_value::Kind::StringValue(text.to_owned()))
}

pub fn integer(number: i64) -> wire::PayloadValue {
    value(wire::payload_value::Kind::IntegerValue(number))
}

pub fn with_payload(mut document: wire::Document, payload: &[(&str, wire::PayloadValue)]) -> wire::Document {
    document.payload.extend(payload.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    document
}

/// Writes documents as one batch; its number.
pub async fn upsert(client: &mut Client, collection: &str, documents: Vec<wire::Document>) -> u64 {
    let request = wire::UpsertRequest { collection: collection.to_owned(), batch_id: 1, documents };
    let mut answers = client.upsert(tokio_stream::iter([request])).await.expect("opens").into_inner();
    let answer = answers.message().await.expect("goes on").expect("an acknowledgement");
    match answer.outcome {
        Some(wire::upsert_response::Outcome::Written(written)) => written.lsn,
        other => unreachable!("{other:?}"),
    }
}

pub fn lexical(text: &str) -> wire::Leg {
    let query = wire::LexicalQuery { text: text.to_owned(), ..wire::LexicalQuery::default() };
    wire::Leg { query: Some(wire::leg::Query::Lexical(query)), ..wire::Leg::default() }
}

pub fn dense_leg(vector: [f32; 2]) -> wire::Leg {
    let query =
        wire::DenseQuery { vector: "dense".into(), embedding: Some(embedding(&vector)), ..wire::DenseQuery::default() };
    wire::Leg { query: Some(wire::leg::Query::Dense(query)), ..wire::Leg::default() }
}

pub fn sparse_leg(indices: &[u32]) -> wire::Leg {
    let sparse = wire::SparseVector { indices: indices.to_vec(), values: vec![1.0; indices.len()] };
    let query = wire::SparseQuery { vector: "sparse".into(), sparse: Some(sparse) };
    wire::Leg { query: Some(wire::leg::Query::Sparse(query)), ..wire::Leg::default() }
}

/// A search of these legs, weights as they are.
pub fn search(collection: &str, legs: Vec<wire::Leg>) -> wire::SearchRequest {
    let fusion = wire::Fusion { weight_mode: wire::WeightMode::Fixed.into(), ..wire::Fusion::default() };
    wire::SearchRequest { collection: collection.to_owned(), legs, fusion: Some(fusion), ..Default::default() }
}

pub fn ids(response: &wire::SearchResponse) -> Vec<&str> {
    response.hits.iter().map(|hit| hit.id.as_str()).collect()
}

/// The fields that a status blames, in order.
pub fn fields(status: &tonic::Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// The stable reason of a status.
pub fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

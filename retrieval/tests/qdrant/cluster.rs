//! A server of Qdrant's own gRPC services over the exact indexes of this crate: enough of a cluster to hold the engine
//! against. It is strict where Qdrant may be: a filter or a facet on what has no index is refused, and so is anything
//! that it does not know.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use qdrant_client::qdrant::{
    self as wire, CreateCollection, PointId, PointStruct, Value, Vector, collections_server::CollectionsServer,
    point_id::PointIdOptions, points_server::PointsServer, value::Kind, vector, vectors, vectors_config,
};
use roaring::RoaringBitmap;
use sluice_retrieval::{
    dense::ExactDense,
    document::SparseVector,
    identity::{DocId, Lsn},
    schema::Metric,
    sparse::{SparseIndex, Weighting},
    vector_index::{Change, Hit, Never, VectorIndex},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::Notify};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Status, transport::Server};

use super::evaluate;

/// What is done to calls.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Searches take that long.
    pub delay: Duration,
    /// Queries of this vector fail, and with them the call that they are in.
    pub failing: Option<String>,
    /// Queries of this vector take that long, and with them the call that they are in.
    pub slow: Option<(String, Duration)>,
    /// Collections are created, but nobody is told so.
    pub silent_creation: bool,
    /// The next list of aliases is made, and sent when this says so.
    pub held_aliases: Option<Arc<Notify>>,
}

/// What a cluster has.
#[derive(Default)]
pub struct Contents {
    pub collections: BTreeMap<String, Kept>,
    pub aliases: BTreeMap<String, String>,
    /// How often each call was made.
    pub calls: BTreeMap<&'static str, usize>,
    /// Queries of the batches, in order.
    pub queries: Vec<usize>,
    /// How hard each query looks, in order.
    pub params: Vec<Option<wire::SearchParams>>,
    /// Keys that calls brought.
    pub key: Option<String>,
    pub faults: Faults,
}

/// One collection.
pub struct Kept {
    pub created: CreateCollection,
    pub points: BTreeMap<u32, PointStruct>,
    pub indexed: BTreeMap<String, i32>,
    numbers: HashMap<String, u32>,
    next: u32,
    dense: HashMap<String, (ExactDense, wire::Distance)>,
    sparse: HashMap<String, SparseIndex>,
}

/// A running server, in a runtime of its own: what ends with it are its connections too, like those of a machine that is
/// switched off.
pub struct TestCluster {
    pub address: SocketAddr,
    pub contents: Arc<Mutex<Contents>>,
    runtime: Option<Runtime>,
}

/// What the services share.
#[derive(Clone)]
pub struct Service(Arc<Mutex<Contents>>);

impl TestCluster {
    pub async fn start() -> Self {
        Self::serve(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::default()).await
    }

    async fn serve(address: SocketAddr, contents: Arc<Mutex<Contents>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads");
        let service = Service(Arc::clone(&contents));
        let binding = runtime.spawn(TcpListener::bind(address));
        let listener = binding.await.expect("no panic").expect("a port");
        let address = listener.local_addr().expect("bound");
        runtime.spawn(
            Server::builder()
                .add_service(PointsServer::new(service.clone()))
                .add_service(CollectionsServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { address, contents, runtime: Some(runtime) }
    }

    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_faults(&self, faults: Faults) {
        self.contents().faults = faults;
    }

    /// Calls of this kind since the last time that they were asked for.
    pub fn take_calls(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut self.contents().calls)
    }

    /// Goes down; what it had comes up again with [`resume`](Self::resume).
    pub async fn stop(mut self) -> (SocketAddr, Arc<Mutex<Contents>>) {
        let runtime = self.runtime.take().expect("it runs");
        let stopping = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)));
        stopping.await.expect("it does not panic");
        (self.address, Arc::clone(&self.contents))
    }

    pub async fn resume((address, contents): (SocketAddr, Arc<Mutex<Contents>>)) -> Self {
        Self::serve(address, contents).await
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Service {
    pub fn called<T>(&self, call: &'static str, request: &Request<T>) -> MutexGuard<'_, Contents> {
        let mut contents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *contents.calls.entry(call).or_default() += 1;
        contents.key = request.metadata().get("api-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
        contents
    }
}

impl Contents {
    /// The collection of a name or alias.
    pub fn kept(&mut self, name: &str) -> Result<&mut Kept, Status> {
        let name = self.aliases.get(name).map_or(name, String::as_str);
        let missing = || Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"));
        self.collections.get_mut(name).ok_or_else(missing)
    }
}

impl Kept {
    pub fn new(created: CreateCollection) -> Self {
        let mut dense = HashMap::new();
        if let Some(vectors_config::Config::ParamsMap(map)) =
            created.vectors_config.clone().and_then(|config| config.config)
        {
            for (name, params) in map.map {
                let distance = params.distance();
                let metric = match distance {
                    wire::Distance::Cosine => Metric::Cosine,
                    wire::Distance::Dot => Metric::Dot,
                    wire::Distance::Euclid => Metric::Euclidean,
                    other => panic!("{other:?}"),
                };
                dense.insert(name, (ExactDense::new(metric, params.size as u32), distance));
            }
        }
        let sparse = created.sparse_vectors_config.clone().unwrap_or_default().map.into_iter().map(|(name, params)| {
            let idf = params.modifier.is_some() && params.modifier() == wire::Modifier::Idf;
            (name, SparseIndex::new(if idf { Weighting::Idf } else { Weighting::None }))
        });
        Self {
            sparse: sparse.collect(),
            dense,
            created,
            points: BTreeMap::new(),
            indexed: BTreeMap::new(),
            numbers: HashMap::new(),
            next: 0,
        }
    }

    /// Those of points that are new, or that stand for one of which a filter is true.
    pub fn replaceable(
        &self,
        points: Vec<PointStruct>,
        filter: Option<&wire::Filter>,
    ) -> Result<Vec<PointStruct>, Status> {
        let replaceable = self.matching(filter)?;
        let stays = |point: &PointStruct| -> Result<bool, Status> {
            Ok(self.numbers.get(&uuid(point.id.as_ref())?).is_some_and(|number| !replaceable.contains(*number)))
        };
        points
            .into_iter()
            .filter_map(|point| match stays(&point) {
                Ok(true) => None,
                Ok(false) => Some(Ok(point)),
                Err(status) => Some(Err(status)),
            })
            .collect()
    }

    /// All of them or none.
    pub fn upsert(&mut self, points: Vec<PointStruct>) -> Result<(), Status> {
        for point in &points {
            for (name, vector) in named(point)? {
                self.check_vector(name, vector)?;
            }
        }
        let mut dense = HashMap::<String, Vec<(DocId, Vec<f32>)>>::new();
        let mut sparse = HashMap::<String, Vec<(DocId, SparseVector)>>::new();
        for mut point in points {
            let uuid = uuid(point.id.as_ref())?;
            self.remove(&uuid);
            let number = self.next;
            self.next += 1;
            for (name, vector) in named_mut(&mut point) {
                match &mut vector.vector {
                    Some(vector::Vector::Dense(found)) => {
                        if self.dense[name].1 == wire::Distance::Cosine {
                            normalise(&mut found.data);
                        }
                        dense.entry(name.clone()).or_default().push((DocId(number), found.data.clone()));
                    }
                    Some(vector::Vector::Sparse(found)) => {
                        sparse.entry(name.clone()).or_default().push((DocId(number), sorted(found)));
                    }
                    other => panic!("checked before: {other:?}"),
                }
            }
            self.numbers.insert(uuid, number);
            self.points.insert(number, point);
        }
        for (name, vectors) in dense {
            let changes: Vec<_> = vectors.iter().map(|(number, vector)| Change::Insert(*number, &vector[..])).collect();
            self.dense[&name].0.apply(&changes, Lsn(1)).map_err(internal)?;
        }
        for (name, vectors) in sparse {
            let changes: Vec<_> = vectors.iter().map(|(number, vector)| Change::Insert(*number, vector)).collect();
            self.sparse[&name].apply(&changes, Lsn(1)).map_err(internal)?;
        }
        Ok(())
    }

    fn check_vector(&self, name: &str, vector: &Vector) -> Result<(), Status> {
        let fits = match &vector.vector {
            Some(vector::Vector::Dense(dense)) => self.dense.contains_key(name) && !dense.data.is_empty(),
            Some(vector::Vector::Sparse(sparse)) => {
                self.sparse.contains_key(name) && sparse.indices.len() == sparse.values.len()
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(Status::invalid_argument(format!("Not existing vector name error: {name}"))) }
    }

    pub fn remove(&mut self, uuid: &str) {
        let Some(number) = self.numbers.remove(uuid) else { return };
        self.points.remove(&number);
        for (index, _) in self.dense.values() {
            index.apply(&[Change::Remove(DocId(number))], Lsn(1)).expect("removing");
        }
        for index in self.sparse.values() {
            index.apply(&[Change::Remove(DocId(number))], Lsn(1)).expect("removing");
        }
    }

    pub fn by_id(&self, id: &PointId) -> Result<Option<&PointStruct>, Status> {
        let number = self.numbers.get(&uuid(Some(id))?);
        Ok(number.and_then(|number| self.points.get(number)))
    }

    /// Points of which a filter is true.
    pub fn matching(&self, filter: Option<&wire::Filter>) -> Result<RoaringBitmap, Status> {
        let mut found = RoaringBitmap::new();
        for (number, point) in &self.points {
            if filter.map_or(Ok(true), |filter| evaluate::matches(filter, point, &self.indexed))? {
                found.insert(*number);
            }
        }
        // Said also where there is no point to look at.
        if let Some(filter) = filter {
            evaluate::matches(filter, &PointStruct::default(), &self.indexed)?;
        }
        Ok(found)
    }

    /// The nearest points, with the cluster's score.
    pub fn nearest(
        &self,
        query: &wire::QueryPoints,
        among: &RoaringBitmap,
    ) -> Result<Vec<(f32, &PointStruct)>, Status> {
        use wire::{query::Variant, vector_input};

        let using = query.using();
        let Some(Variant::Nearest(nearest)) = query.query.as_ref().and_then(|query| query.variant.as_ref()) else {
            return Err(Status::unimplemented("only nearest"));
        };
        let k = query.limit() as usize;
        let (hits, sign): (Vec<Hit>, f32) = match (&nearest.variant, self.dense.get(using), self.sparse.get(using)) {
            (Some(vector_input::Variant::Dense(dense)), Some((index, distance)), _) => {
                let sign = if *distance == wire::Distance::Euclid { -1.0 } else { 1.0 };
                (index.search(&dense.data, k, Some(among), &Never).map_err(internal)?, sign)
            }
            (Some(vector_input::Variant::Sparse(sparse)), _, Some(index)) if !sparse.indices.is_empty() => {
                (index.search(&sorted(sparse), k, Some(among), &Never).map_err(internal)?, 1.0)
            }
            _ => return Err(Status::invalid_argument(format!("Wrong input: Not existing vector name error: {using}"))),
        };
        Ok(hits.iter().map(|hit| (sign * hit.score, &self.points[&hit.document.0])).collect())
    }
}

pub fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

pub fn uuid(id: Option<&PointId>) -> Result<String, Status> {
    match id.and_then(|id| id.point_id_options.as_ref()) {
        // Qdrant parses them: what is none is refused.
        Some(PointIdOptions::Uuid(uuid)) if uuid.len() == 36 => Ok(uuid.clone()),
        other => Err(Status::invalid_argument(format!("Unable to parse UUID: {other:?}"))),
    }
}

pub fn named(point: &PointStruct) -> Result<impl Iterator<Item = (&String, &Vector)>, Status> {
    match point.vectors.as_ref().and_then(|vectors| vectors.vectors_options.as_ref()) {
        Some(vectors::VectorsOptions::Vectors(named)) => Ok(named.vectors.iter()),
        _ => Err(Status::invalid_argument("vectors have names")),
    }
}

fn named_mut(point: &mut PointStruct) -> impl Iterator<Item = (&String, &mut Vector)> {
    match point.vectors.as_mut().and_then(|vectors| vectors.vectors_options.as_mut()) {
        Some(vectors::VectorsOptions::Vectors(named)) => named.vectors.iter_mut(),
        _ => panic!("checked before"),
    }
}

fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
}

fn sorted(sparse: &wire::SparseVector) -> SparseVector {
    let mut entries: Vec<_> = sparse.indices.iter().copied().zip(sparse.values.iter().copied()).collect();
    entries.sort_by_key(|(index, _)| *index);
    let (indices, values) = entries.into_iter().unzip();
    SparseVector { indices, values }
}

/// What a selector takes of a payload; keys may be paths.
pub fn selected(
    payload: &HashMap<String, Value>,
    selector: Option<&wire::WithPayloadSelector>,
) -> HashMap<String, Value> {
    use wire::with_payload_selector::SelectorOptions;

    match selector.and_then(|selector| selector.selector_options.as_ref()) {
        Some(SelectorOptions::Include(include)) => {
            let mut taken = HashMap::new();
            for path in &include.fields {
                take(payload, path, &mut taken);
            }
            taken
        }
        Some(SelectorOptions::Enable(true)) => payload.clone(),
        _ => HashMap::new(),
    }
}

fn take(from: &HashMap<String, Value>, path: &str, to: &mut HashMap<String, Value>) {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let (Some(value), rest) = (from.get(key), rest) else { return };
    let Some(rest) = rest else {
        to.insert(key.to_owned(), value.clone());
        return;
    };
    if let Some(Kind::StructValue(inner)) = &value.kind {
        let there = to
            .entry(key.to_owned())
            .or_insert_with(|| Value { kind: Some(Kind::StructValue(wire::Struct { fields: HashMap::new() })) });
        if let Some(Kind::StructValue(into)) = &mut there.kind {
            take(&inner.fields, rest, &mut into.fields);
        }
    }
}

//! The dense indexes, fed by the test: a graph that never scans instead, once it has linked everything, and the scan.
//!
//! The collection's own index scans a collection as small as this one.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use sluice_retrieval::{
    dense::{ExactDense, GraphDense, GraphOptions},
    document::Document,
    identity::{DocId, Lsn},
    schema::Metric,
    search::Snapshot,
    vector_index::{Change, Effort, Hit, Never, VectorIndex},
};

use crate::corpus::DIM;

pub(crate) struct Graphs {
    graph: GraphDense,
    exact: ExactDense,
    /// Documents that are in them.
    ids: BTreeMap<DocId, String>,
    lsn: Lsn,
}

impl Graphs {
    pub(crate) fn new() -> Self {
        let options = GraphOptions { scanned_instead: 0, ..GraphOptions::default() };
        let graph = GraphDense::open(Metric::Cosine, DIM as u32, options).unwrap();
        graph.filled();
        let exact = ExactDense::new(Metric::Cosine, DIM as u32);
        Self { graph, exact, ids: BTreeMap::new(), lsn: Lsn(0) }
    }

    /// Brings them to a moment of the collection: new versions come under new numbers, old ones go.
    pub(crate) fn follow(&mut self, snapshot: &dyn Snapshot, documents: &BTreeMap<String, Document>) {
        let with_vector = documents.values().filter(|document| document.dense.contains_key("dense"));
        let now = with_vector.map(|document| (snapshot.find(&document.id).unwrap().unwrap(), document.id.clone()));
        let now: BTreeMap<DocId, String> = now.collect();
        let came = now.iter().filter(|(number, _)| !self.ids.contains_key(number));
        let came = came.map(|(number, id)| Change::Insert(*number, documents[id].dense["dense"].as_slice()));
        let gone = self.ids.keys().filter(|number| !now.contains_key(number)).map(|number| Change::Remove(*number));
        let changes: Vec<_> = came.chain(gone).collect();
        self.lsn = Lsn(self.lsn.0 + 1);
        self.graph.apply(&changes, self.lsn).unwrap();
        self.exact.apply(&changes, self.lsn).unwrap();
        self.ids = now;
        self.graph.settle();
        let status = self.graph.status();
        assert_eq!((status.linked, status.fault), (self.ids.len(), None));
    }

    /// Hits of each, and whether they are exact.
    pub(crate) fn search(&self, query: &[f32], k: usize, among: &RoaringBitmap) -> [(Vec<Hit>, bool); 4] {
        let graph = |effort| self.graph.search_with(query, k, Some(among), effort, &Never).unwrap();
        [
            (graph(Effort::Usual), false),
            (graph(Effort::Candidates(4 * k)), false),
            (graph(Effort::Everything), true),
            (self.exact.search(query, k, Some(among), &Never).unwrap(), true),
        ]
    }

    pub(crate) fn id(&self, document: DocId) -> &str {
        &self.ids[&document]
    }
}

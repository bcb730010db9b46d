//! The texts and vectors of requests, which follow from the workload alone.

use sluice_client::{
    Method,
    proto::{
        model::v1::{DataType, Embedding},
        rerank::v1::{
            Budget, Document, Priority, PutDocument, PutRequest, Query, RerankRequest, StoredDocument, document,
            put_document, query,
        },
    },
};
use sluice_core::workload::{self, Class, Content, Random, Request, Stream, Traffic};

use crate::words::Words;

/// Different unit vectors that token vectors are drawn from: making one afresh for each token of each document would
/// cost more than the server's own work.
const VECTORS: usize = 1024;
/// Tokens of one put, with room below what a server takes by default.
const PUT_TOKENS_MAX: u32 = 32 << 10;
/// Documents of one put.
const PUT_DOCUMENTS_MAX: usize = 256;

/// Texts of one's own, in place of made ones. An empty list means made ones.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// Documents are drawn from these, each as it is: how long they are is not up to the workload then.
    pub documents: Vec<String>,
    /// Queries are drawn from these; none may be empty.
    pub queries: Vec<String>,
}

/// Makes messages of requests.
///
/// A made text has as many words as its request says tokens: English words that vocabularies of word pieces mostly have
/// whole, the n-th of a list 1/n as likely as the first. Two runs send the same bytes.
#[derive(Debug)]
pub struct Composer {
    traffic: Traffic,
    texts: Texts,
    words: Words,
    /// For each stream that sends vectors: unit vectors in f16, one after the other.
    vectors: Vec<Vec<u8>>,
}

impl Composer {
    /// Of this traffic.
    #[must_use]
    pub fn new(traffic: Traffic, texts: Texts) -> Self {
        let seed = traffic.workload().seed;
        let vectors = traffic.workload().streams.iter().map(|stream| match stream.content {
            Content::Vectors { dim } => unit_vectors(seed, dim as usize),
            Content::Text | Content::Stored { .. } => Vec::new(),
        });
        let vectors = vectors.collect();
        Self { traffic, texts, words: Words::new(), vectors }
    }

    /// The requests' description.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What is sent for `request`.
    #[must_use]
    pub fn message(&self, request: &Request) -> RerankRequest {
        let stream = self.stream(request);
        let document = |document: &workload::Document| {
            let (id, content) = match &stream.content {
                Content::Text => (String::new(), document::Content::Text(self.text(document))),
                Content::Stored { namespace, .. } => {
                    let stored = StoredDocument { namespace: namespace.clone(), ..StoredDocument::default() };
                    (stored_id(document.id), document::Content::Stored(stored))
                }
                Content::Vectors { dim } => {
                    let vectors = self.embedding(request.stream, document.id, document.tokens, *dim);
                    (String::new(), document::Content::Embedding(vectors))
                }
            };
            Document { id, content: Some(content) }
        };
        RerankRequest {
            model: stream.model.clone(),
            query: Some(Query { content: Some(self.query(request, stream)) }),
            documents: request.documents.iter().map(document).collect(),
            method: method(stream.method).into(),
            priority: priority(stream.class).into(),
            budget: stream.budget.map(budget),
            ..RerankRequest::default()
        }
    }

    /// What the token store must be given before the first request: the stored documents that requests ask for, and the
    /// position of the first stream that asks for them.
    pub fn puts(&self) -> impl Iterator<Item = (usize, PutRequest)> + '_ {
        let streams = &self.traffic.workload().streams;
        let first_of_its_namespace = |(index, stream): &(usize, &Stream)| {
            let namespace = |stream: &Stream| match &stream.content {
                Content::Stored { namespace, .. } => Some(namespace.clone()),
                Content::Text | Content::Vectors { .. } => None,
            };
            let own = namespace(stream);
            own.is_some() && !streams[..*index].iter().any(|earlier| namespace(earlier) == own)
        };
        let storing = streams.iter().enumerate().filter(first_of_its_namespace);
        storing.flat_map(|(index, stream)| self.puts_of(index, stream).into_iter().map(move |put| (index, put)))
    }

    fn puts_of(&self, index: usize, stream: &Stream) -> Vec<PutRequest> {
        let Content::Stored { namespace, .. } = &stream.content else { return Vec::new() };
        let empty =
            || PutRequest { model: stream.model.clone(), namespace: namespace.clone(), ..PutRequest::default() };
        let (mut puts, mut put, mut tokens) = (Vec::new(), empty(), 0);
        for document in self.traffic.stored(index) {
            let full = put.documents.len() >= PUT_DOCUMENTS_MAX || tokens + document.tokens > PUT_TOKENS_MAX;
            if full && !put.documents.is_empty() {
                puts.push(std::mem::replace(&mut put, empty()));
                tokens = 0;
            }
            tokens += document.tokens;
            put.documents.push(PutDocument {
                id: stored_id(document.id),
                content: Some(put_document::Content::Text(self.text(&document))),
                content_hash: Vec::new(),
            });
        }
        puts.push(put);
        puts
    }

    fn stream(&self, request: &Request) -> &Stream {
        &self.traffic.workload().streams[request.stream]
    }

    fn query(&self, request: &Request, stream: &Stream) -> query::Content {
        match stream.content {
            Content::Vectors { dim } => {
                query::Content::Embedding(self.embedding(request.stream, request.content, request.query_tokens, dim))
            }
            Content::Text | Content::Stored { .. } => match pick(&self.texts.queries, request.content) {
                Some(text) => query::Content::Text(text.clone()),
                None => query::Content::Text(self.words.text(request.content, request.query_tokens)),
            },
        }
    }

    fn text(&self, document: &workload::Document) -> String {
        match pick(&self.texts.documents, document.id) {
            Some(text) => text.clone(),
            None => self.words.text(document.id, document.tokens),
        }
    }

    fn embedding(&self, stream: usize, seed: u64, rows: u32, dim: u32) -> Embedding {
        let (pool, row_bytes) = (&self.vectors[stream], 2 * dim as usize);
        let mut random = Random::new(seed);
        let mut data = Vec::with_capacity(rows as usize * row_bytes);
        for _ in 0..rows {
            let row = random.below(VECTORS as u64) as usize * row_bytes;
            data.extend_from_slice(&pool[row..row + row_bytes]);
        }
        Embedding { data: data.into(), dtype: DataType::F16.into(), rows, dim, scales: Vec::new().into() }
    }
}

fn stored_id(number: u64) -> String {
    format!("d{number}")
}

fn pick(texts: &[String], seed: u64) -> Option<&String> {
    texts.get(Random::new(seed).below(texts.len() as u64) as usize)
}

fn unit_vectors(seed: u64, dim: usize) -> Vec<u8> {
    let mut random = Random::new(Random::seed(&[seed, dim as u64]));
    let mut bytes = Vec::with_capacity(VECTORS * dim * 2);
    for _ in 0..VECTORS {
        let row: Vec<f64> = (0..dim).map(|_| 2.0 * random.unit() - 1.0).collect();
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        bytes.extend(row.iter().flat_map(|x| half::f16::from_f64(x / norm).to_le_bytes()));
    }
    bytes
}

fn method(method: Option<workload::Method>) -> Method {
    match method {
        None => Method::Unspecified,
        Some(workload::Method::LateInteraction) => Method::LateInteraction,
        Some(workload::Method::Dense) => Method::Dense,
        Some(workload::Method::CrossEncoder) => Method::CrossEncoder,
    }
}

fn priority(class: Class) -> Priority {
    match class {
        Class::Interactive => Priority::Interactive,
        Class::Standard => Priority::Standard,
        Class::Bulk => Priority::Bulk,
    }
}

fn budget(budget: workload::Budget) -> Budget {
    let time = budget.time.and_then(|time| time.try_into().ok());
    Budget { time, pairs: budget.pairs.unwrap_or_default(), until_deadline: false }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_core::workload::{Process, Sizes, Workload};

    use super::*;

    fn composer(change: impl FnOnce(&mut Stream), texts: Texts) -> Composer {
        let mut stream = Stream::new("s", Process::Constant { rate: 10.0 }, Sizes::Fixed(3));
        stream.document_tokens = Sizes::Fixed(7);
        change(&mut stream);
        let workload =
            Workload { duration: Duration::from_secs(1), warm_up: Duration::ZERO, seed: 5, streams: vec![stream] };
        Composer::new(Traffic::new(workload).expect("no faults"), texts)
    }

    fn messages(composer: &Composer) -> Vec<RerankRequest> {
        composer.traffic().arrivals().map(|arrival| composer.message(&arrival.request)).collect()
    }

    fn texts_of(message: &RerankRequest) -> Vec<&str> {
        message
            .documents
            .iter()
            .map(|document| match &document.content {
                Some(document::Content::Text(text)) => text.as_str(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn texts_are_made_as_long_as_asked_and_the_same_again() {
        let first = composer(|_| {}, Texts::default());
        let sent = messages(&first);
        assert_eq!(sent.len(), 10);
        assert_eq!(sent, messages(&composer(|_| {}, Texts::default())));
        for message in &sent {
            let texts = texts_of(message);
            assert_eq!(texts.len(), 3);
            assert!(texts.iter().all(|text| text.split(' ').count() == 7), "{texts:?}");
            let Some(Query { content: Some(query::Content::Text(query)) }) = &message.query else {
                panic!("the query is a text");
            };
            assert_eq!(query.split(' ').count(), 8);
        }
        assert_ne!(sent[0], sent[1]);
    }

    #[test]
    fn the_stream_says_how_to_score() {
        let set = |stream: &mut Stream| {
            stream.method = Some(workload::Method::CrossEncoder);
            stream.class = Class::Bulk;
            stream.model = "m".to_owned();
            stream.budget = Some(workload::Budget { time: Some(Duration::from_millis(1500)), pairs: Some(2) });
        };
        let message = &messages(&composer(set, Texts::default()))[0];
        assert_eq!((message.method(), message.priority()), (Method::CrossEncoder, Priority::Bulk));
        assert_eq!(message.model, "m");
        let budget = message.budget.expect("there is one");
        assert_eq!((budget.pairs, budget.time.map(|time| (time.seconds, time.nanos))), (2, Some((1, 500_000_000))));
        let plain = &messages(&composer(|_| {}, Texts::default()))[0];
        assert_eq!((plain.method(), plain.priority(), plain.budget), (Method::Unspecified, Priority::Standard, None));
    }

    #[test]
    fn ones_own_texts_are_drawn() {
        let own = Texts { documents: vec!["first".to_owned(), "second".to_owned()], queries: vec!["why".to_owned()] };
        let sent = messages(&composer(|_| {}, own));
        let texts: Vec<&str> = sent.iter().flat_map(texts_of).collect();
        assert!(texts.contains(&"first") && texts.contains(&"second"));
        assert!(texts.iter().all(|text| ["first", "second"].contains(text)));
        assert!(sent.iter().all(|message| {
            matches!(&message.query, Some(Query { content: Some(query::Content::Text(text)) }) if text == "why")
        }));
    }

    #[test]
    fn stored_documents_are_put_before_they_are_asked_for() {
        let stored = Content::Stored { namespace: "n".to_owned(), pool: 600 };
        let composer = composer(|stream| stream.content = stored, Texts::default());
        let puts: Vec<PutRequest> = composer.puts().map(|(_, put)| put).collect();
        assert_eq!(puts.iter().map(|put| put.documents.len()).collect::<Vec<_>>(), [256, 256, 88]);
        let put: Vec<&str> = puts.iter().flat_map(|put| &put.documents).map(|document| document.id.as_str()).collect();
        for message in messages(&composer) {
            assert!(message.documents.iter().all(|document| put.contains(&document.id.as_str())));
            assert!(message.documents.iter().all(|document| {
                matches!(&document.content, Some(document::Content::Stored(stored)) if stored.namespace == "n")
            }));
        }
    }

    #[test]
    fn vectors_are_normalised() {
        let composer = composer(|stream| stream.content = Content::Vectors { dim: 48 }, Texts::default());
        for message in messages(&composer) {
            let Some(Query { content: Some(query::Content::Embedding(query)) }) = &message.query else {
                panic!("the query is vectors");
            };
            let mut matrices = vec![query];
            matrices.extend(message.documents.iter().map(|document| match &document.content {
                Some(document::Content::Embedding(vectors)) => vectors,
                other => panic!("{other:?}"),
            }));
            assert_eq!(matrices.iter().map(|matrix| matrix.rows).collect::<Vec<_>>(), [8, 7, 7, 7]);
            for matrix in matrices {
                let matrix = sluice_client::Matrix::try_from(matrix).expect("it is whole");
                for row in matrix.rows() {
                    let norm: f32 = row.iter().map(|x| x * x).sum();
                    // 48 components, each off by at most 2^-11 of itself.
                    assert!((norm - 1.0).abs() < 2e-3, "{norm}");
                }
            }
        }
    }
}

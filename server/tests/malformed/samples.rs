//! Valid messages of every method, for spoiling.

use prost::Message;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use sluice_proto::{
    model::v1::{Embedding, EncodeRequest, GetModelRequest, ListModelsRequest, TokenizeRequest},
    rerank::v1::{
        Budget, CompactRequest, DeleteRequest, Document, ExplainRequest, PutDocument, PutRequest, Query,
        RerankManyRequest, RerankRequest, StatsRequest, StoredDocument, Truncation,
        document::Content::{self, Stored},
        put_document, query as query_wire,
    },
};
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::{v1, v1alpha};

use super::common::{document, query};

pub const RERANK: &str = "/sluice.rerank.v1.RerankService/Rerank";
pub const RERANK_STREAM: &str = "/sluice.rerank.v1.RerankService/RerankStream";
pub const RERANK_MANY: &str = "/sluice.rerank.v1.RerankService/RerankMany";
pub const LIST_MODELS: &str = "/sluice.model.v1.ModelService/ListModels";
pub const GET_MODEL: &str = "/sluice.model.v1.ModelService/GetModel";
pub const ENCODE: &str = "/sluice.model.v1.EncodeService/Encode";
pub const TOKENIZE: &str = "/sluice.model.v1.EncodeService/Tokenize";
pub const EXPLAIN: &str = "/sluice.rerank.v1.RerankService/Explain";
pub const PUT: &str = "/sluice.rerank.v1.TokenStoreService/Put";
pub const DELETE: &str = "/sluice.rerank.v1.TokenStoreService/Delete";
pub const STATS: &str = "/sluice.rerank.v1.TokenStoreService/Stats";
pub const COMPACT: &str = "/sluice.rerank.v1.TokenStoreService/Compact";
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";
pub const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
pub const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// Every method that the port answers. The first twelve are the project's own.
pub const METHODS: [&str; 16] = [
    RERANK,
    RERANK_STREAM,
    RERANK_MANY,
    LIST_MODELS,
    GET_MODEL,
    ENCODE,
    TOKENIZE,
    EXPLAIN,
    PUT,
    DELETE,
    STATS,
    COMPACT,
    CHECK,
    WATCH,
    REFLECTION,
    REFLECTION_ALPHA,
];
/// Those whose calls are served by handlers of ours.
pub const OWN_METHODS: &[&str] = METHODS.split_at(12).0;

/// A valid message of `method`, whose every field is set more often than not.
pub fn valid(rng: &mut StdRng, method: &str) -> Vec<u8> {
    match method {
        RERANK | RERANK_STREAM => rerank(rng).encode_to_vec(),
        RERANK_MANY => many(rng).encode_to_vec(),
        LIST_MODELS => ListModelsRequest {}.encode_to_vec(),
        GET_MODEL => GetModelRequest { name: model(rng) }.encode_to_vec(),
        ENCODE => encode(rng).encode_to_vec(),
        TOKENIZE => tokenize(rng).encode_to_vec(),
        EXPLAIN => explain(rng).encode_to_vec(),
        PUT => put(rng).encode_to_vec(),
        DELETE => DeleteRequest { namespace: namespace(rng), ids: vec![words(rng, 1)] }.encode_to_vec(),
        STATS => StatsRequest { namespace: namespace(rng) }.encode_to_vec(),
        COMPACT => CompactRequest { namespace: namespace(rng) }.encode_to_vec(),
        CHECK | WATCH => HealthCheckRequest { service: "sluice.rerank.v1.RerankService".to_owned() }.encode_to_vec(),
        REFLECTION => {
            let symbol = v1::server_reflection_request::MessageRequest::FileContainingSymbol;
            let message_request = Some(symbol("sluice.rerank.v1.RerankService".to_owned()));
            v1::ServerReflectionRequest { host: words(rng, 1), message_request }.encode_to_vec()
        }
        _ => {
            let list = v1alpha::server_reflection_request::MessageRequest::ListServices;
            v1alpha::ServerReflectionRequest { host: words(rng, 1), message_request: Some(list(words(rng, 1))) }
                .encode_to_vec()
        }
    }
}

pub fn rerank(rng: &mut StdRng) -> RerankRequest {
    // Vectors are for late interaction.
    let vectors = rng.random_bool(0.3);
    RerankRequest {
        model: model(rng),
        query: if vectors { any_query(rng) } else { query(words(rng, 4)) },
        documents: (0..rng.random_range(1..6))
            .map(|id| if vectors { any_document(rng, id) } else { document(id, words(rng, 20)) })
            .collect(),
        method: if vectors { 1 } else { rng.random_range(0..4) },
        top_n: rng.random_range(0..4),
        min_score: rng.random_bool(0.3).then(|| rng.random_range(-1.0..2.0)),
        return_text: rng.random(),
        truncation: rng.random_bool(0.7).then(|| Truncation {
            max_tokens_per_document: rng.random_range(0..9),
            long_document: rng.random_range(0..4),
        }),
        score_kind: rng.random_range(0..2),
        stages: Vec::new(),
        priority: rng.random_range(0..4),
        budget: rng.random_bool(0.3).then(|| budget(rng)),
        cache: rng.random_range(0..3),
    }
}

fn budget(rng: &mut StdRng) -> Budget {
    Budget {
        time: rng.random_bool(0.5).then(|| prost_types::Duration { seconds: 1, nanos: rng.random_range(0..1000) }),
        pairs: rng.random_range(0..4),
        until_deadline: rng.random(),
    }
}

pub fn explain(rng: &mut StdRng) -> ExplainRequest {
    let documents = (0..rng.random_range(1..4)).map(|id| any_document(rng, id)).collect();
    ExplainRequest { model: model(rng), query: any_query(rng), documents }
}

pub fn put(rng: &mut StdRng) -> PutRequest {
    let document = |rng: &mut StdRng| {
        let embedded = rng.random_bool(0.5);
        PutDocument {
            id: words(rng, 1),
            content: Some(if embedded {
                put_document::Content::Embedding(embedding(rng))
            } else {
                put_document::Content::Text(words(rng, 20))
            }),
            content_hash: if embedded { vec![7; 32] } else { Vec::new() },
        }
    };
    PutRequest {
        model: model(rng),
        namespace: namespace(rng),
        documents: (0..rng.random_range(1..4)).map(|_| document(rng)).collect(),
        storage: rng.random_range(0..4),
    }
}

fn any_query(rng: &mut StdRng) -> Option<Query> {
    if rng.random() { query(words(rng, 4)) } else { vector_query(embedding(rng)) }
}

fn vector_query(embedding: Embedding) -> Option<Query> {
    Some(Query { content: Some(query_wire::Content::Embedding(embedding)) })
}

fn any_document(rng: &mut StdRng, id: usize) -> Document {
    let content = match rng.random_range(0..3) {
        0 => Content::Text(words(rng, 20)),
        1 => Content::Embedding(embedding(rng)),
        _ => Stored(StoredDocument {
            namespace: namespace(rng),
            content_hash: if rng.random() { vec![7; 32] } else { Vec::new() },
            text: rng.random::<bool>().then(|| words(rng, 20)),
        }),
    };
    Document { id: id.to_string(), content: Some(content) }
}

/// Of the scripted model's dimension.
fn embedding(rng: &mut StdRng) -> Embedding {
    let rows = rng.random_range(1..4);
    let data: Vec<u8> = (0..rows * 16).flat_map(|_| rng.random_range(-1.0_f32..1.0).to_le_bytes()).collect();
    Embedding { data: data.into(), dtype: 1, rows, dim: 16, scales: Vec::new().into() }
}

/// One that has documents, or one that has none.
fn namespace(rng: &mut StdRng) -> String {
    (*["kept", "empty"].choose(rng).expect("one of two")).to_owned()
}

pub fn many(rng: &mut StdRng) -> RerankManyRequest {
    RerankManyRequest {
        request_id: format!("r{}", rng.random::<u16>()),
        request: Some(rerank(rng)),
        timeout: rng.random_bool(0.5).then(|| prost_types::Duration { seconds: rng.random_range(5..60), nanos: 1 }),
    }
}

pub fn encode(rng: &mut StdRng) -> EncodeRequest {
    EncodeRequest {
        model: model(rng),
        texts: (0..rng.random_range(1..4)).map(|_| words(rng, 8)).collect(),
        kind: rng.random_range(0..3),
        dtype: rng.random_range(0..3),
        max_tokens: rng.random_range(2..9),
    }
}

pub fn tokenize(rng: &mut StdRng) -> TokenizeRequest {
    TokenizeRequest {
        model: model(rng),
        texts: (0..rng.random_range(1..4)).map(|_| words(rng, 8)).collect(),
        add_special_tokens: rng.random(),
    }
}

/// A message of `method` that decodes and asks for nonsense, or for something extreme.
pub fn absurd(rng: &mut StdRng, method: &str) -> Vec<u8> {
    match method {
        RERANK | RERANK_STREAM => absurd_rerank(rng).encode_to_vec(),
        RERANK_MANY => absurd_many(rng).encode_to_vec(),
        GET_MODEL => GetModelRequest { name: text(rng) }.encode_to_vec(),
        ENCODE => {
            let mut request = encode(rng);
            match rng.random_range(0..6) {
                0 => request.texts.clear(),
                1 => request.kind = enumeration(rng),
                2 => request.dtype = enumeration(rng),
                3 => request.max_tokens = number(rng),
                4 => request.model = text(rng),
                _ => request.texts = texts(rng),
            }
            request.encode_to_vec()
        }
        TOKENIZE => {
            let model = if rng.random() { text(rng) } else { model(rng) };
            TokenizeRequest { model, texts: texts(rng), add_special_tokens: rng.random() }.encode_to_vec()
        }
        EXPLAIN => {
            let RerankRequest { model, query, documents, .. } = absurd_rerank(rng);
            ExplainRequest { model, query, documents }.encode_to_vec()
        }
        PUT => {
            let mut request = put(rng);
            match rng.random_range(0..8) {
                0 => request.namespace = text(rng),
                1 => request.storage = enumeration(rng),
                2 => request.documents.clear(),
                3 => request.documents[0].id = text(rng),
                4 => request.documents[0].content = None,
                5 => request.documents[0].content_hash = vec![1; rng.random_range(0..70)],
                6 => {
                    request.documents[0].content = Some(put_document::Content::Embedding(absurd_embedding(rng)));
                }
                _ => request.model = text(rng),
            }
            request.encode_to_vec()
        }
        DELETE => DeleteRequest { namespace: text(rng), ids: texts(rng) }.encode_to_vec(),
        STATS => StatsRequest { namespace: text(rng) }.encode_to_vec(),
        COMPACT => CompactRequest { namespace: text(rng) }.encode_to_vec(),
        CHECK | WATCH => HealthCheckRequest { service: text(rng) }.encode_to_vec(),
        REFLECTION => {
            use v1::{ExtensionRequest, server_reflection_request::MessageRequest as Ask};
            let extension =
                |rng: &mut StdRng| ExtensionRequest { containing_type: text(rng), extension_number: enumeration(rng) };
            let ask = match rng.random_range(0..5) {
                0 => Some(Ask::FileByFilename(text(rng))),
                1 => Some(Ask::FileContainingSymbol(text(rng))),
                2 => Some(Ask::FileContainingExtension(extension(rng))),
                3 => Some(Ask::AllExtensionNumbersOfType(text(rng))),
                _ => None,
            };
            v1::ServerReflectionRequest { host: text(rng), message_request: ask }.encode_to_vec()
        }
        _ => valid(rng, method),
    }
}

fn absurd_rerank(rng: &mut StdRng) -> RerankRequest {
    let mut request = rerank(rng);
    for _ in 0..rng.random_range(1..4) {
        match rng.random_range(0..17) {
            0 => request.query = None,
            1 => request.query = Some(Query { content: None }),
            2 => request.query = query(text(rng)),
            3 => request.documents.clear(),
            4 => request.documents.push(Document { id: text(rng), content: None }),
            5 => request.documents.push(document(text(rng), text(rng))),
            6 => request.method = enumeration(rng),
            7 => request.score_kind = enumeration(rng),
            8 => request.top_n = number(rng),
            9 => request.min_score = Some(f32::from_bits(rng.random())),
            10 => request.model = text(rng),
            11 => {
                request.truncation =
                    Some(Truncation { max_tokens_per_document: number(rng), long_document: enumeration(rng) });
            }
            12 => request.documents = vec![document("", ""); number(rng) as usize % 2_100],
            13 => request.query = vector_query(absurd_embedding(rng)),
            14 => {
                let content = Some(Content::Embedding(absurd_embedding(rng)));
                request.documents.push(Document { id: text(rng), content });
            }
            15 => {
                let content_hash = vec![1; rng.random_range(0..70)];
                let stored = StoredDocument { namespace: text(rng), content_hash, text: Some(text(rng)) };
                request.documents.push(Document { id: text(rng), content: Some(Stored(stored)) });
            }
            _ => {
                request.truncation = Some(Truncation { max_tokens_per_document: 1, long_document: 2 });
                request.documents.push(document("long", "w ".repeat(rng.random_range(0..4_000))));
            }
        }
    }
    request
}

/// Vectors with anything wrong.
fn absurd_embedding(rng: &mut StdRng) -> Embedding {
    let mut vectors = embedding(rng);
    match rng.random_range(0..6) {
        0 => vectors.rows = number(rng),
        1 => vectors.dim = number(rng),
        2 => vectors.dtype = enumeration(rng),
        3 => vectors.scales = vec![0xff; rng.random_range(0..40)].into(),
        4 => vectors.data = (0..vectors.data.len()).map(|_| rng.random()).collect::<Vec<u8>>().into(),
        _ => vectors.data = vec![0; rng.random_range(0..300)].into(),
    }
    vectors
}

fn absurd_many(rng: &mut StdRng) -> RerankManyRequest {
    let mut request = many(rng);
    match rng.random_range(0..4) {
        0 => request.request_id = text(rng),
        1 => request.request = None,
        2 => {
            let seconds = *[i64::MIN, -1, 0, 1, i64::MAX].choose(rng).expect("one of five");
            let nanos = *[i32::MIN, -1, 0, 1, 999_999_999, i32::MAX].choose(rng).expect("one of six");
            request.timeout = Some(prost_types::Duration { seconds, nanos });
        }
        _ => request.request = Some(absurd_rerank(rng)),
    }
    request
}

fn model(rng: &mut StdRng) -> String {
    (*["", "model"].choose(rng).expect("one of two")).to_owned()
}

fn words(rng: &mut StdRng, max: usize) -> String {
    const WORDS: [&str; 8] = ["red", "apple", "blue", "car", "wörter", "漢字", "тест", "a"];
    let count = rng.random_range(1..=max);
    (0..count).map(|_| *WORDS.choose(rng).expect("one of eight")).collect::<Vec<_>>().join(" ")
}

/// Valid UTF-8 of an unusual kind.
fn text(rng: &mut StdRng) -> String {
    match rng.random_range(0..7) {
        0 => String::new(),
        1 => " \t\r\n\u{3000}\u{a0}".repeat(rng.random_range(0..4)),
        2 => "\0\u{1}\u{7f}\u{fffe}\u{feff}\u{202e}".to_owned(),
        3 => "e\u{301}\u{302}\u{303}".repeat(rng.random_range(1..300)),
        4 => "x".repeat(rng.random_range(0..9_000)),
        5 => "👩‍👩‍👧‍👦 ".repeat(rng.random_range(1..40)),
        _ => (0..rng.random_range(0..40)).filter_map(|_| char::from_u32(rng.random_range(0..0x11_0000))).collect(),
    }
}

/// More than are allowed, or a few strange ones.
fn texts(rng: &mut StdRng) -> Vec<String> {
    if rng.random_bool(0.2) {
        return vec!["a b".to_owned(); 2_001];
    }
    (0..rng.random_range(0..20)).map(|_| text(rng)).collect()
}

fn enumeration(rng: &mut StdRng) -> i32 {
    *[0, 1, 2, 3, 4, 7, 99, -1, i32::MAX, i32::MIN].choose(rng).expect("one of ten")
}

fn number(rng: &mut StdRng) -> u32 {
    *[0, 1, 2, 3, 63, 64, 65, 1_999, 2_000, 2_001, u32::MAX].choose(rng).expect("one of eleven")
}

//! Valid messages of every method, for spoiling.

use prost::Message;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use sluice_proto::{
    model::v1::{EncodeRequest, GetModelRequest, ListModelsRequest, TokenizeRequest},
    rerank::v1::{Document, Query, RerankManyRequest, RerankRequest, Truncation},
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
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";
pub const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
pub const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// Every method that the port answers. The first seven are the project's own.
pub const METHODS: [&str; 11] = [
    RERANK,
    RERANK_STREAM,
    RERANK_MANY,
    LIST_MODELS,
    GET_MODEL,
    ENCODE,
    TOKENIZE,
    CHECK,
    WATCH,
    REFLECTION,
    REFLECTION_ALPHA,
];
/// Those whose calls are served by handlers of ours.
pub const OWN_METHODS: &[&str] = METHODS.split_at(7).0;

/// A valid message of `method`, whose every field is set more often than not.
pub fn valid(rng: &mut StdRng, method: &str) -> Vec<u8> {
    match method {
        RERANK | RERANK_STREAM => rerank(rng).encode_to_vec(),
        RERANK_MANY => many(rng).encode_to_vec(),
        LIST_MODELS => ListModelsRequest {}.encode_to_vec(),
        GET_MODEL => GetModelRequest { name: model(rng) }.encode_to_vec(),
        ENCODE => encode(rng).encode_to_vec(),
        TOKENIZE => tokenize(rng).encode_to_vec(),
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
    RerankRequest {
        model: model(rng),
        query: query(words(rng, 4)),
        documents: (0..rng.random_range(1..6)).map(|id| document(id, words(rng, 20))).collect(),
        method: rng.random_range(0..4),
        top_n: rng.random_range(0..4),
        min_score: rng.random_bool(0.3).then(|| rng.random_range(-1.0..2.0)),
        return_text: rng.random(),
        truncation: rng.random_bool(0.7).then(|| Truncation {
            max_tokens_per_document: rng.random_range(0..9),
            long_document: rng.random_range(0..4),
        }),
        score_kind: rng.random_range(0..2),
    }
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
        match rng.random_range(0..14) {
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
            _ => {
                request.truncation = Some(Truncation { max_tokens_per_document: 1, long_document: 2 });
                request.documents.push(document("long", "w ".repeat(rng.random_range(0..4_000))));
            }
        }
    }
    request
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

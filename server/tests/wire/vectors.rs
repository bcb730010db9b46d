//! Vectors that callers bring along.

use half::f16;
use sluice_inference::testing::default_model;
use sluice_proto::{
    model::v1::{DataType, Embedding, EmbeddingKind, EncodeRequest},
    rerank::v1::{Document, DocumentSource, Method, Query, RerankRequest, RerankResponse, document, query},
};
use tonic::Code;

use super::common::{self, SCRIPT, TestServer, fields, request};

const QUESTION: &str = "which red fruit grows on trees";
const TEXTS: [&str; 4] = ["a red apple", "", "one two three four five six seven eight nine", "trees"];

/// The model's own token vectors of a text.
pub async fn vectors(server: &TestServer, texts: &[&str]) -> Vec<Embedding> {
    let asked = EncodeRequest {
        texts: texts.iter().map(ToString::to_string).collect(),
        kind: EmbeddingKind::Token.into(),
        ..EncodeRequest::default()
    };
    let answer = server.encode().await.encode(asked).await.expect("valid").into_inner();
    answer.results.into_iter().map(|result| result.embedding.expect("always there")).collect()
}

pub fn floats(embedding: &Embedding) -> Vec<f32> {
    embedding.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Σᵢ maxⱼ ⟨qᵢ, dⱼ⟩ in f64.
pub fn maxsim(query: &[f32], document: &[f32], dim: usize) -> f64 {
    let dot = |q: &[f32], d: &[f32]| q.iter().zip(d).map(|(q, d)| f64::from(*q) * f64::from(*d)).sum::<f64>();
    let best = |q: &[f32]| document.chunks_exact(dim).map(|d| dot(q, d)).fold(f64::NEG_INFINITY, f64::max);
    query.chunks_exact(dim).map(best).sum()
}

/// The same vectors in another dtype.
fn cast(embedding: &Embedding, dtype: DataType) -> Embedding {
    let rows = floats(embedding);
    let dim = embedding.dim as usize;
    let mut scales = Vec::new();
    let data: Vec<u8> = match dtype {
        DataType::F16 => rows.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        DataType::I8 => rows
            .chunks_exact(dim)
            .flat_map(|row| {
                let scale = row.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
                scales.extend(scale.to_le_bytes());
                row.iter().map(move |x| ((x / scale).round() as i8).cast_unsigned()).collect::<Vec<_>>()
            })
            .collect(),
        _ => embedding.data.to_vec(),
    };
    Embedding { data: data.into(), dtype: dtype.into(), scales: scales.into(), ..embedding.clone() }
}

fn with_vectors(query: Option<Query>, documents: &[Embedding]) -> RerankRequest {
    let content = |vectors: &Embedding| Some(document::Content::Embedding(vectors.clone()));
    let document = |(id, vectors): (usize, &Embedding)| Document { id: id.to_string(), content: content(vectors) };
    RerankRequest {
        query,
        documents: documents.iter().enumerate().map(document).collect(),
        method: Method::LateInteraction.into(),
        return_text: true,
        ..RerankRequest::default()
    }
}

pub fn vector_query(vectors: &Embedding) -> Option<Query> {
    Some(Query { content: Some(query::Content::Embedding(vectors.clone())) })
}

/// Scores in the request's order.
pub fn scores(answer: &RerankResponse) -> Vec<f32> {
    let mut scores = vec![f32::NAN; answer.results.len()];
    for result in &answer.results {
        scores[result.index as usize] = result.score;
    }
    scores
}

async fn rerank(server: &TestServer, request: RerankRequest) -> RerankResponse {
    server.rerank().await.rerank(request).await.expect("it is valid").into_inner()
}

#[tokio::test]
async fn vectors_are_scored_in_every_dtype() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let [question] = &vectors(&server, &[QUESTION]).await[..] else { unreachable!("one text") };
    let documents = vectors(&server, &TEXTS).await;
    let dim = question.dim as usize;
    let expected: Vec<f64> =
        documents.iter().map(|document| maxsim(&floats(question), &floats(document), dim)).collect();
    // f16 rounds a component by 2⁻¹², int8 by 1/254 of the largest; there are 8 query tokens of unit length.
    for (dtype, tolerance) in [(DataType::F32, 1e-5), (DataType::F16, 4e-3), (DataType::I8, 6e-2)] {
        let cast_documents: Vec<_> = documents.iter().map(|document| cast(document, dtype)).collect();
        for asked in [vector_query(&cast(question, dtype)), vector_query(question), common::query(QUESTION)] {
            let has_text = matches!(&asked, Some(Query { content: Some(query::Content::Text(_)) }));
            let answer = rerank(&server, with_vectors(asked, &cast_documents)).await;
            for (found, expected) in scores(&answer).iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() <= tolerance, "{dtype:?}: {found}, expected {expected}");
            }
            assert!(answer.results.is_sorted_by(|a, b| a.score >= b.score), "{answer:?}");
            for result in &answer.results {
                assert_eq!((result.source(), result.unscored), (DocumentSource::Embedding, false));
                assert_eq!(result.tokens, documents[result.index as usize].rows);
                assert_eq!(result.text, None, "there was none");
            }
            let usage = answer.usage.expect("always there");
            let rows = documents.iter().map(|document| u64::from(document.rows)).sum();
            let computed = if has_text { question.rows.into() } else { 0 };
            assert_eq!((usage.query_tokens, usage.document_tokens), (question.rows.into(), rows));
            assert_eq!(usage.computed_tokens, computed, "only a text goes through the model");
            assert!(!answer.partial);
        }
    }
}

#[tokio::test]
async fn texts_and_vectors_meet_in_one_request() {
    let Some(model) = default_model() else { return };
    let server = TestServer::model(model.path.display().to_string(), |_| ()).await;
    let asked = RerankRequest { method: Method::LateInteraction.into(), ..request(QUESTION, &TEXTS) };
    let expected = scores(&rerank(&server, asked.clone()).await);
    let [question] = &vectors(&server, &[QUESTION]).await[..] else { unreachable!("one text") };
    let documents = vectors(&server, &TEXTS).await;
    for vector_query_too in [false, true] {
        for mask in 0..1 << TEXTS.len() {
            let mut mixed = asked.clone();
            if vector_query_too {
                mixed.query = vector_query(question);
            }
            for (index, document) in mixed.documents.iter_mut().enumerate().filter(|(index, _)| mask >> index & 1 == 1)
            {
                document.content = Some(document::Content::Embedding(documents[index].clone()));
            }
            let answer = rerank(&server, mixed).await;
            for (found, expected) in scores(&answer).iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-5, "mask {mask:b}: {found}, expected {expected}");
            }
        }
    }
}

#[tokio::test]
async fn vectors_that_do_not_fit_are_refused_on_their_field() {
    let server = TestServer::scripted(SCRIPT, |config| {
        config.limits.query_vectors_max = 8;
        config.limits.document_vectors_max = 9;
    })
    .await;
    let [question, document, long] = &vectors(&server, &[QUESTION, TEXTS[0], "1 2 3 4 5 6 7 8"]).await[..] else {
        unreachable!("three texts")
    };
    let good = with_vectors(vector_query(question), std::slice::from_ref(document));
    let changed = |change: &dyn Fn(&mut Embedding)| {
        let mut vectors = document.clone();
        change(&mut vectors);
        with_vectors(vector_query(question), &[document.clone(), vectors])
    };
    let nan: Vec<u8> = std::iter::repeat_n(f32::NAN.to_le_bytes(), 16 * document.rows as usize).flatten().collect();
    let cases = [
        (changed(&|vectors| vectors.dim = 17), "documents[1].embedding.dim"),
        (changed(&|vectors| vectors.rows += 1), "documents[1].embedding.data"),
        (changed(&|vectors| vectors.rows = 0), "documents[1].embedding.rows"),
        (changed(&|vectors| vectors.dtype = 0), "documents[1].embedding.dtype"),
        (changed(&|vectors| vectors.data = nan.clone().into()), "documents[1].embedding.data"),
        (changed(&|vectors| *vectors = long.clone()), "documents[1].embedding.rows"),
        (RerankRequest { query: vector_query(long), ..good.clone() }, "query.embedding.rows"),
        (RerankRequest { method: Method::CrossEncoder.into(), ..good.clone() }, "query.embedding"),
        (RerankRequest { method: Method::Dense.into(), query: common::query("q"), ..good.clone() }, "documents[0]"),
        // This model's default is its classification head.
        (RerankRequest { method: 0, query: common::query("q"), ..good.clone() }, "documents[0]"),
    ];
    let mut client = server.rerank().await;
    for (request, field) in cases {
        let status = client.rerank(request).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(fields(&status).first().map(String::as_str), Some(field), "{status:?}");
    }
    client.rerank(good).await.expect("the server goes on");
}

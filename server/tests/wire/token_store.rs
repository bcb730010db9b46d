//! Documents that the server keeps.

use std::path::Path;

use sha2::{Digest, Sha256};
use sluice_proto::rerank::v1::{
    CompactRequest, DeleteRequest, Document, DocumentSource, Method, PartialReason, PutDocument, PutRequest,
    PutResponse, RerankRequest, RerankResponse, RerankStreamResponse, StatsRequest, StoredDocument, TokenStorage,
    document, put_document, rerank_stream_response::Update,
};
use sluice_server::ServerConfig;
use tempfile::TempDir;
use tonic::{Code, Status};

use super::{
    common::{SCRIPT, TestServer, fields, query, reason},
    vectors::{floats, maxsim, vector_query, vectors},
};

const QUESTION: &str = "which red fruit grows on trees";
const TEXTS: [&str; 3] = ["a red apple", "one two three four five six", "trees"];

async fn serve(folder: &TempDir) -> TestServer {
    serve_with(folder.path(), |_| ()).await
}

async fn serve_with(folder: &Path, configure: impl FnOnce(&mut ServerConfig)) -> TestServer {
    TestServer::scripted(SCRIPT, |config| {
        config.token_store.dir = Some(folder.join("tokens"));
        configure(config);
    })
    .await
}

fn put_of(namespace: &str, texts: &[&str]) -> PutRequest {
    let document = |(id, text): (usize, &&str)| PutDocument {
        id: id.to_string(),
        content: Some(put_document::Content::Text(text.to_string())),
        content_hash: Vec::new(),
    };
    let documents = texts.iter().enumerate().map(document).collect();
    PutRequest { namespace: namespace.to_owned(), documents, ..PutRequest::default() }
}

async fn put(server: &TestServer, request: PutRequest) -> Result<PutResponse, Status> {
    server.token_store().await.put(request).await.map(tonic::Response::into_inner)
}

fn stored(namespace: &str, id: usize, hash: Option<&str>, text: Option<&str>) -> Document {
    let content_hash = hash.map(|text| Sha256::digest(text).to_vec()).unwrap_or_default();
    let stored = StoredDocument { namespace: namespace.to_owned(), content_hash, text: text.map(str::to_owned) };
    Document { id: id.to_string(), content: Some(document::Content::Stored(stored)) }
}

fn asking(documents: Vec<Document>) -> RerankRequest {
    RerankRequest {
        query: query(QUESTION),
        documents,
        method: Method::LateInteraction.into(),
        return_text: true,
        ..RerankRequest::default()
    }
}

fn all_stored(namespace: &str) -> RerankRequest {
    asking((0..TEXTS.len()).map(|id| stored(namespace, id, None, None)).collect())
}

async fn rerank(server: &TestServer, request: RerankRequest) -> RerankResponse {
    server.rerank().await.rerank(request).await.expect("valid").into_inner()
}

/// What late interaction gives for each text.
async fn expected(server: &TestServer) -> Vec<f64> {
    let [question] = &vectors(server, &[QUESTION]).await[..] else { unreachable!("one text") };
    let documents = vectors(server, &TEXTS).await;
    let dim = question.dim as usize;
    documents.iter().map(|document| maxsim(&floats(question), &floats(document), dim)).collect()
}

fn check_scores(answer: &RerankResponse, expected: &[f64], tolerance: f64) {
    assert_eq!(answer.results.len(), expected.len());
    for result in &answer.results {
        let difference = f64::from(result.score) - expected[result.index as usize];
        assert!(difference.abs() <= tolerance, "{result:?}, expected {expected:?}");
        assert_eq!((result.source(), result.unscored), (DocumentSource::Stored, false));
    }
}

#[tokio::test]
async fn what_was_put_is_scored_by_id() {
    // As for vectors that come along; a sign alone keeps an order of magnitude.
    for (storage, tolerance) in
        [(TokenStorage::Unspecified, 4e-3), (TokenStorage::F16, 4e-3), (TokenStorage::Int8, 6e-2)]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let server = serve(&folder).await;
        let answer =
            put(&server, PutRequest { storage: storage.into(), ..put_of("news", &TEXTS) }).await.expect("valid");
        let tokens: Vec<u32> = answer.documents.iter().map(|document| document.tokens).collect();
        assert_eq!((tokens, answer.computed_tokens), (vec![5, 8, 3], 16));
        for (document, text) in answer.documents.iter().zip(TEXTS) {
            assert_eq!(document.content_hash, Sha256::digest(text).to_vec());
            assert!(!document.truncated);
        }
        let expected = expected(&server).await;
        let answer = rerank(&server, all_stored("news")).await;
        check_scores(&answer, &expected, tolerance);
        assert_eq!(answer.usage.map(|usage| (usage.document_tokens, usage.computed_tokens)), Some((16, 8)));
        // By vectors, nothing goes through the model.
        let [question] = &vectors(&server, &[QUESTION]).await[..] else { unreachable!("one text") };
        let by_vectors = rerank(&server, RerankRequest { query: vector_query(question), ..all_stored("news") }).await;
        check_scores(&by_vectors, &expected, tolerance);
        assert_eq!(by_vectors.usage.map(|usage| usage.computed_tokens), Some(0));
    }
}

#[tokio::test]
async fn binary_storage_keeps_signs() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(&folder).await;
    put(&server, PutRequest { storage: TokenStorage::Binary.into(), ..put_of("n", &TEXTS) }).await.expect("valid");
    let [question] = &vectors(&server, &[QUESTION]).await[..] else { unreachable!("one text") };
    let signs = |embedding: &sluice_proto::model::v1::Embedding| -> Vec<f32> {
        floats(embedding).iter().map(|x| if *x >= 0.0 { 1.0 } else { -1.0 }).collect()
    };
    let dim = question.dim as usize;
    let documents = vectors(&server, &TEXTS).await;
    let expected: Vec<f64> =
        documents.iter().map(|document| maxsim(&floats(question), &signs(document), dim)).collect();
    // The query's components are rounded to a 127th of the largest, of 16 in each of 8 rows.
    check_scores(&rerank(&server, all_stored("n")).await, &expected, 0.3);
}

#[tokio::test]
async fn missing_and_stale_documents_fall_back_on_their_text_or_stand_last() {
    use DocumentSource::{NoneMissing, NoneStale, Stored, TextForMissing, TextForStale};

    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(&folder).await;
    put(&server, put_of("n", &TEXTS)).await.expect("valid");
    let (own, other) = (TEXTS[0], "another text");
    // Where it is looked for, the hash that is sent, the text that is sent.
    let cases = [
        ("n", None, None, Stored),
        ("n", Some(own), None, Stored),
        ("n", Some(own), Some(own), Stored),
        ("n", None, Some(own), Stored),
        ("n", Some(other), None, NoneStale),
        ("n", Some(other), Some(other), TextForStale),
        ("n", None, Some(other), TextForStale),
        ("elsewhere", None, None, NoneMissing),
        ("elsewhere", Some(own), None, NoneMissing),
        ("elsewhere", None, Some(own), TextForMissing),
        ("elsewhere", Some(own), Some(own), TextForMissing),
    ];
    for (namespace, hash, text, source) in cases {
        let case = format!("{namespace} {hash:?} {text:?}");
        let second = stored("n", 2, None, None);
        let answer = rerank(&server, asking(vec![stored(namespace, 0, hash, text), second])).await;
        let result = answer.results.iter().find(|result| result.index == 0).expect("it is in the answer");
        let unscored = matches!(source, NoneMissing | NoneStale);
        assert_eq!((result.source(), result.unscored), (source, unscored), "{case}");
        assert_eq!(result.text.as_deref(), text, "{case}");
        assert_eq!((answer.partial, answer.partial_reasons.len()), (unscored, usize::from(unscored)), "{case}");
        if unscored {
            assert_eq!(answer.partial_reasons, [PartialReason::StoredDocumentUnavailable as i32]);
            assert_eq!((answer.results[1].index, result.score), (0, f32::NEG_INFINITY), "{case}");
        } else {
            assert!(result.score.is_finite(), "{case}");
        }
    }
    let nothing = asking(vec![stored("elsewhere", 0, None, None)]);
    let answer = rerank(&server, nothing.clone()).await;
    assert_eq!((answer.results.len(), answer.partial), (1, true));
    assert_eq!(answer.usage.map(|usage| usage.computed_tokens), Some(0), "a query alone is not worth encoding");
    let answer = rerank(&server, RerankRequest { min_score: Some(f32::MIN), ..nothing }).await;
    assert!(answer.results.is_empty() && answer.partial, "no score is below any");
}

#[tokio::test]
async fn streams_send_what_is_scored() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(&folder).await;
    put(&server, put_of("n", &TEXTS)).await.expect("valid");
    let mut request = all_stored("n");
    request.documents.push(stored("n", 99, None, None));
    let mut stream = server.rerank().await.rerank_stream(request).await.expect("valid").into_inner();
    let mut scored = Vec::new();
    let last = loop {
        let Some(RerankStreamResponse { update: Some(update) }) = stream.message().await.expect("no fault") else {
            unreachable!("a final response ends it")
        };
        match update {
            Update::Scores(scores) => scored.extend(scores.documents.iter().map(|document| document.index)),
            Update::Stage(_) => unreachable!("no stages were asked for"),
            Update::Response(response) => break response,
        }
    };
    scored.sort_unstable();
    assert_eq!(scored, [0, 1, 2]);
    assert_eq!((last.results.len(), last.results[3].unscored, last.partial), (4, true, true));
}

#[tokio::test]
async fn what_was_put_is_replaced_deleted_compacted_and_kept_over_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(&folder).await;
    put(&server, put_of("a", &["x", "x", "x"])).await.expect("valid");
    put(&server, put_of("a", &TEXTS)).await.expect("valid");
    put(&server, put_of("b", &TEXTS)).await.expect("valid");
    let mut store = server.token_store().await;
    let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
    let delete = DeleteRequest { namespace: "b".to_owned(), ids: ids(&["0", "1", "none"]) };
    assert_eq!(store.delete(delete).await.expect("valid").into_inner().deleted, 2);
    let stats = store.stats(StatsRequest::default()).await.expect("valid").into_inner();
    let counts: Vec<_> =
        stats.collections.iter().map(|found| (found.namespace.as_str(), found.documents, found.tokens)).collect();
    assert_eq!((counts, stats.corrupt_records), (vec![("a", 3, 16), ("b", 1, 3)], 0));
    for found in &stats.collections {
        assert_eq!((found.model.as_str(), found.dim, found.storage()), ("model", 16, TokenStorage::F16));
        assert!(found.dead_bytes > 0 && found.live_bytes > 0, "{found:?}");
    }
    let gained = store.compact(CompactRequest::default()).await.expect("valid").into_inner();
    assert!(gained.reclaimed_bytes > 0 && gained.rewritten_segments == 2, "{gained:?}");
    let only_a = StatsRequest { namespace: "a".to_owned() };
    let compacted = store.stats(only_a.clone()).await.expect("valid").into_inner();
    assert_eq!(compacted.collections.len(), 1);
    assert_eq!((compacted.collections[0].documents, compacted.collections[0].dead_bytes), (3, 0));
    let expected = expected(&server).await;
    check_scores(&rerank(&server, all_stored("a")).await, &expected, 4e-3);
    server.stop().await.expect("it drains");

    let server = serve(&folder).await;
    assert_eq!(server.token_store().await.stats(only_a).await.expect("valid").into_inner(), compacted);
    check_scores(&rerank(&server, all_stored("a")).await, &expected, 4e-3);
    let answer = rerank(&server, all_stored("b")).await;
    assert_eq!(answer.results.iter().filter(|result| result.unscored).count(), 2, "deleted stays deleted");
}

#[tokio::test]
async fn puts_at_a_time_take_turns_and_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(&folder).await;
    let puts = (0..12).map(|number| put(&server, put_of(&format!("n{number}"), &TEXTS)));
    for answer in futures_util::future::join_all(puts).await {
        assert_eq!(answer.expect("stored").documents.len(), TEXTS.len());
    }
    // Callers that leave in the middle take their turns along.
    for number in 0..6 {
        let left = put(&server, put_of(&format!("left{number}"), &TEXTS));
        let _ = tokio::time::timeout(std::time::Duration::from_millis(number), left).await;
    }
    put(&server, put_of("last", &TEXTS)).await.expect("there is a turn left");
    let expected = expected(&server).await;
    for number in 0..12 {
        check_scores(&rerank(&server, all_stored(&format!("n{number}"))).await, &expected, 4e-3);
    }
}

#[tokio::test]
async fn vectors_are_put_with_the_hash_of_their_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(&folder).await;
    let documents = vectors(&server, &TEXTS).await;
    let with_vectors = |hash: &dyn Fn(&str) -> Vec<u8>| {
        let mut request = put_of("n", &TEXTS);
        for (document, (vectors, text)) in request.documents.iter_mut().zip(documents.iter().zip(TEXTS)) {
            document.content = Some(put_document::Content::Embedding(vectors.clone()));
            document.content_hash = hash(text);
        }
        request
    };
    let answer = put(&server, with_vectors(&|text| Sha256::digest(text).to_vec())).await.expect("valid");
    assert_eq!(answer.computed_tokens, 0);
    check_scores(&rerank(&server, all_stored("n")).await, &expected(&server).await, 4e-3);
    for hash in [vec![], vec![1; 31]] {
        let status = put(&server, with_vectors(&|_| hash.clone())).await.expect_err("no hash");
        assert_eq!((status.code(), fields(&status)[0].as_str()), (Code::InvalidArgument, "documents[0].content_hash"));
    }
}

#[tokio::test]
async fn what_cannot_be_put_is_refused_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve_with(folder.path(), |config| config.limits.put_vectors_max = 20).await;
    put(&server, put_of("n", &TEXTS)).await.expect("16 tokens");
    let changed = |change: &dyn Fn(&mut PutRequest)| {
        let mut request = put_of("n", &TEXTS);
        change(&mut request);
        request
    };
    let cases = [
        (changed(&|put| put.namespace = String::new()), "namespace"),
        (changed(&|put| put.namespace = "../up".to_owned()), "namespace"),
        (changed(&|put| put.documents.clear()), "documents"),
        (changed(&|put| put.documents[1].id = String::new()), "documents[1].id"),
        (changed(&|put| put.documents[1].content = None), "documents[1]"),
        (changed(&|put| put.documents[1].content_hash = vec![0; 32]), "documents[1].content_hash"),
        (changed(&|put| put.storage = 77), "storage"),
        (put_of("n", &["1 2 3 4 5 6 7 8 9", "1 2 3 4 5 6 7 8"]), "documents"),
    ];
    for (request, field) in cases {
        let status = put(&server, request).await.expect_err(field);
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]), "{status:?}");
    }
    let status = put(&server, changed(&|put| put.storage = TokenStorage::Int8.into())).await.expect_err("it is f16");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "STORED_OTHERWISE"));
    check_scores(&rerank(&server, all_stored("n")).await, &expected(&server).await, 4e-3);
}

/// Encoding the poison would fail the put: it is not tried.
#[tokio::test]
async fn another_storage_is_refused_before_anything_is_encoded() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("tokens");
    let server = TestServer::scripted("max_tokens = 64\npoison = \"poison\"\n", |config| {
        config.token_store.dir = Some(dir);
    })
    .await;
    put(&server, put_of("n", &TEXTS)).await.expect("a new collection, in f16");
    let poisoned =
        |storage: TokenStorage| PutRequest { storage: storage.into(), ..put_of("n", &["some poison", "and more"]) };
    let cases = [
        (TokenStorage::Int8, Code::FailedPrecondition),
        (TokenStorage::Binary, Code::FailedPrecondition),
        (TokenStorage::F16, Code::Internal),
        (TokenStorage::Unspecified, Code::Internal),
    ];
    for (storage, expected) in cases {
        let status = put(&server, poisoned(storage)).await.expect_err("another storage, or poison");
        assert_eq!(status.code(), expected, "{storage:?}: {status:?}");
    }
}

#[tokio::test]
async fn without_a_store_nothing_is_kept_and_everything_is_missing() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let mut store = server.token_store().await;
    let statuses = [
        store.put(put_of("n", &TEXTS)).await.expect_err("no store"),
        store.stats(StatsRequest::default()).await.expect_err("no store"),
        store.compact(CompactRequest::default()).await.expect_err("no store"),
        store
            .delete(DeleteRequest { namespace: "n".to_owned(), ids: vec!["a".to_owned()] })
            .await
            .expect_err("no store"),
    ];
    for status in statuses {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NO_TOKEN_STORE"));
    }
    let answer = rerank(&server, asking(vec![stored("n", 0, None, Some("red")), stored("n", 1, None, None)])).await;
    let sources: Vec<_> = answer.results.iter().map(sluice_proto::rerank::v1::RerankResult::source).collect();
    assert_eq!(sources, [DocumentSource::TextForMissing, DocumentSource::NoneMissing]);
}

#[tokio::test]
async fn a_store_is_one_process_s_unless_it_is_only_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(&folder).await;
    put(&server, put_of("n", &TEXTS)).await.expect("valid");
    let reader = serve_with(folder.path(), |config| config.token_store.read_only = true).await;
    check_scores(&rerank(&reader, all_stored("n")).await, &expected(&reader).await, 4e-3);
    // What the writer puts later is there within a moment.
    put(&server, put_of("later", &TEXTS)).await.expect("valid");
    for attempt in 0.. {
        if !rerank(&reader, all_stored("later")).await.partial {
            break;
        }
        assert!(attempt < 500, "not there within 10 s");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let status = put(&reader, put_of("n", &TEXTS)).await.expect_err("read-only");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "READ_ONLY"));
}

//! Stages: each over the best of the one before, in one call.

use futures_util::stream;
use sluice_proto::rerank::v1::{
    Document, DocumentSource, LongDocument, Method, PutDocument, PutRequest, RerankManyRequest, RerankRequest,
    RerankResponse, ScoreKind, ScoreUpdate, Stage, StageOrder, StoredDocument, Truncation, Usage, document,
    put_document, rerank_many_response::Outcome, rerank_stream_response::Update,
};
use tonic::Code;

use super::common::{SCRIPT, TestServer, fields, query, request};

/// It reads three words of a document.
const SHORT: &str = "max_tokens = 5\nbatch_sequences_max = 2\n";
/// It reads all of them.
const LONG: &str = "max_tokens = 64\nbatch_sequences_max = 2\n";
const QUESTION: &str = "red apple pear";
/// A score is the number of words of the question in what was read, plus 1 / (2 + words read).
const TEXTS: [&str; 5] =
    ["blue car bus red apple pear", "red blue car apple pear", "red apple car", "red apple pear", "blue blue blue"];

async fn serve() -> TestServer {
    TestServer::several(&[("short", SHORT), ("long", LONG)], |_| ()).await
}

fn stage(method: Method, model: &str, top_k: u32) -> Stage {
    Stage { method: method.into(), model: model.to_owned(), top_k, ..Stage::default() }
}

/// Late interaction over the first words of all, and the three best read in full.
fn cascade() -> RerankRequest {
    let stages = vec![stage(Method::LateInteraction, "", 3), stage(Method::CrossEncoder, "long", 0)];
    RerankRequest { stages, ..request(QUESTION, &TEXTS) }
}

async fn rerank(server: &TestServer, request: RerankRequest) -> RerankResponse {
    server.rerank().await.rerank(request).await.expect("it is valid").into_inner()
}

/// Index, stage and score of each result, scores to four digits.
fn places(answer: &RerankResponse) -> Vec<(u32, u32, f32)> {
    answer.results.iter().map(|result| (result.index, result.stage, (result.score * 1e4).round() / 1e4)).collect()
}

fn untimed(response: RerankResponse) -> RerankResponse {
    RerankResponse { timing: None, ..response }
}

const ORDER: [(u32, u32, f32); 5] = [(3, 2, 3.2), (1, 2, 3.1429), (2, 2, 2.2), (0, 1, 0.2), (4, 1, 0.2)];

#[tokio::test]
async fn the_best_of_one_stage_are_scored_by_the_next() {
    let server = serve().await;
    let answer = rerank(&server, cascade()).await;
    assert_eq!(places(&answer), ORDER);
    assert!(!answer.partial && answer.partial_reasons.is_empty());
    assert_eq!((answer.model.as_str(), answer.method()), ("long", Method::CrossEncoder), "the last stage's");
    assert!(answer.results.iter().all(|result| !result.unscored && result.source() == DocumentSource::Text));
    let truncated: Vec<bool> = answer.results.iter().map(|result| result.truncated).collect();
    assert_eq!(truncated, [false, false, false, true, false], "the last stage that scored it has the say");

    // The same in two requests, whose tokens add up.
    let method = |method: Method, model: &str, texts: &[&str]| RerankRequest {
        method: method.into(),
        model: model.to_owned(),
        ..request(QUESTION, texts)
    };
    let first = rerank(&server, method(Method::LateInteraction, "short", &TEXTS)).await;
    let second = rerank(&server, method(Method::CrossEncoder, "long", &[TEXTS[3], TEXTS[2], TEXTS[1]])).await;
    let of = |answer: &RerankResponse| answer.usage.expect("always there");
    let sum = |count: fn(Usage) -> u64| count(of(&first)) + count(of(&second));
    let expected = Usage {
        query_tokens: sum(|usage| usage.query_tokens),
        document_tokens: sum(|usage| usage.document_tokens),
        computed_tokens: sum(|usage| usage.computed_tokens),
        cached_tokens: 0,
    };
    assert_eq!(of(&answer), expected);
    for (place, found) in [(0, 0), (1, 2), (2, 1)] {
        assert_eq!(answer.results[place].score, second.results.iter().find(|r| r.index == found).expect("all").score);
    }
}

#[tokio::test]
async fn a_stream_tells_each_stage_and_ends_with_the_unary_answer() {
    let server = serve().await;
    let unary = untimed(rerank(&server, cascade()).await);
    let mut messages = server.rerank().await.rerank_stream(cascade()).await.expect("it opens").into_inner();
    let mut scores: [Vec<ScoreUpdate>; 2] = [Vec::new(), Vec::new()];
    let (mut orders, mut response): (Vec<StageOrder>, _) = (Vec::new(), None);
    while let Some(message) = messages.message().await.expect("no error") {
        assert!(response.is_none(), "nothing comes after the answer");
        match message.update.expect("always set") {
            Update::Scores(update) => {
                assert_eq!(update.stage as usize, orders.len() + 1, "of the stage that runs");
                scores[orders.len()].push(update);
            }
            Update::Stage(order) => orders.push(order),
            Update::Response(answer) => response = Some(answer),
        }
    }
    assert_eq!(untimed(response.expect("the last message")), unary);
    let [StageOrder { stage: 1, survivors: 3, partial: false, results }] = &orders[..] else {
        unreachable!("{orders:?}")
    };
    let order: Vec<(u32, u32)> = results.iter().map(|result| (result.index, result.stage)).collect();
    assert_eq!(order, [(3, 1), (2, 1), (1, 1), (0, 1), (4, 1)]);
    for (updates, (total, expected)) in scores.iter().zip([(5, vec![0, 1, 2, 3, 4]), (3, vec![1, 2, 3])]) {
        let mut indices: Vec<u32> = updates.iter().flat_map(|u| u.documents.iter().map(|d| d.index)).collect();
        indices.sort_unstable();
        assert_eq!(indices, expected, "once each");
        let last = updates.last().expect("some");
        assert_eq!((last.scored, last.total), (total, total));
    }
    for result in &unary.results[..3] {
        let sent = scores[1].iter().flat_map(|update| &update.documents).find(|sent| sent.index == result.index);
        assert_eq!(sent.map(|sent| sent.score), Some(result.score), "the answer contradicts nothing");
    }
}

#[tokio::test]
async fn what_bounds_an_answer_bounds_it_after_the_last_stage() {
    let server = serve().await;
    let sigmoid = |x: f32| (1e4 / (1.0 + (-x).exp())).round() / 1e4;
    let cases: Vec<(&str, RerankRequest, Vec<(u32, u32, f32)>)> = vec![
        ("top_n", RerankRequest { top_n: 2, ..cascade() }, ORDER[..2].to_vec()),
        ("beyond the survivors", RerankRequest { top_n: 4, ..cascade() }, ORDER[..4].to_vec()),
        ("min_score is the last stage's", RerankRequest { min_score: Some(-9.0), ..cascade() }, ORDER[..3].to_vec()),
        ("min_score", RerankRequest { min_score: Some(3.0), ..cascade() }, ORDER[..2].to_vec()),
        (
            "sigmoid is for logits",
            RerankRequest { score_kind: ScoreKind::Sigmoid.into(), ..cascade() },
            ORDER.iter().map(|&(i, s, x)| (i, s, if s == 2 { sigmoid(x) } else { x })).collect(),
        ),
    ];
    for (name, request, expected) in cases {
        let found = places(&rerank(&server, request).await);
        let close = |(a, b): (&(u32, u32, f32), &(u32, u32, f32))| a.0 == b.0 && a.1 == b.1 && (a.2 - b.2).abs() < 2e-4;
        assert!(found.len() == expected.len() && found.iter().zip(&expected).all(close), "{name}: {found:?}");
    }
    let texts = rerank(&server, RerankRequest { return_text: true, ..cascade() }).await;
    assert!(texts.results.iter().all(|r| r.text.as_deref() == Some(TEXTS[r.index as usize])));
}

#[tokio::test]
async fn chunks_are_the_stages_own() {
    let server = serve().await;
    let truncation = Truncation { max_tokens_per_document: 3, long_document: LongDocument::ChunkMax.into() };
    let answer = rerank(&server, RerankRequest { truncation: Some(truncation), ..cascade() }).await;
    // In chunks of three words the first text is as good as the fourth, and is before it in the request.
    let first = &answer.results[0];
    assert_eq!((first.index, first.stage), (0, 2));
    let chunk = first.best_chunk.expect("it has two");
    assert_eq!(&TEXTS[0][chunk.byte_start as usize..chunk.byte_end as usize], "red apple pear");
    let stages: Vec<u32> = answer.results.iter().map(|result| result.stage).collect();
    assert_eq!(stages, [2, 2, 2, 1, 1]);
}

#[tokio::test]
async fn up_to_four_stages_of_any_method() {
    let server = serve().await;
    let stages = vec![
        stage(Method::Dense, "long", 4),
        stage(Method::LateInteraction, "short", 3),
        // Not said: what the model is made for.
        stage(Method::Unspecified, "long", 2),
        stage(Method::Dense, "long", 0),
    ];
    let answer = rerank(&server, RerankRequest { stages, ..request(QUESTION, &TEXTS) }).await;
    let stages: Vec<u32> = answer.results.iter().map(|result| result.stage).collect();
    assert_eq!((stages, answer.method()), (vec![4, 4, 3, 2, 1], Method::Dense));
    assert_eq!(answer.results[0].index, 3, "the text of the question itself");
    let single = vec![stage(Method::CrossEncoder, "long", 0)];
    let alone = rerank(&server, RerankRequest { stages: single, ..request(QUESTION, &TEXTS) }).await;
    let plain =
        RerankRequest { method: Method::CrossEncoder.into(), model: "long".to_owned(), ..request(QUESTION, &TEXTS) };
    assert_eq!(untimed(alone), untimed(rerank(&server, plain).await), "one stage is a request");
}

#[tokio::test]
async fn many_at_once_have_stages_too() {
    let server = serve().await;
    let unary = untimed(rerank(&server, cascade()).await);
    let requests: Vec<RerankManyRequest> = (0..6)
        .map(|id| RerankManyRequest { request_id: id.to_string(), request: Some(cascade()), timeout: None })
        .collect();
    let mut answers = server.rerank().await.rerank_many(stream::iter(requests)).await.expect("it opens").into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await.expect("no error") {
        let Some(Outcome::Response(response)) = answer.outcome else { unreachable!("{answer:?}") };
        assert_eq!(untimed(response), unary);
        count += 1;
    }
    assert_eq!(count, 6);
}

#[tokio::test]
async fn stored_for_the_first_stage_and_read_by_the_second() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server =
        TestServer::scripted(SCRIPT, |config| config.token_store.dir = Some(folder.path().join("tokens"))).await;
    let documents = TEXTS[..4].iter().enumerate().map(|(id, text)| PutDocument {
        id: id.to_string(),
        content: Some(put_document::Content::Text((*text).to_owned())),
        content_hash: Vec::new(),
    });
    let put = PutRequest { namespace: "n".to_owned(), documents: documents.collect(), ..PutRequest::default() };
    server.token_store().await.put(put).await.expect("stored");
    let stored = |(id, text): (usize, &&str)| {
        let stored =
            StoredDocument { namespace: "n".to_owned(), text: Some((*text).to_owned()), ..StoredDocument::default() };
        Document { id: id.to_string(), content: Some(document::Content::Stored(stored)) }
    };
    let asked = RerankRequest {
        query: query(QUESTION),
        documents: TEXTS.iter().enumerate().map(stored).collect(),
        stages: vec![stage(Method::LateInteraction, "", 2), stage(Method::CrossEncoder, "", 0)],
        ..RerankRequest::default()
    };
    let answer = rerank(&server, asked).await;
    assert!(!answer.partial);
    for result in &answer.results {
        let expected = match (result.stage, result.index) {
            (2, _) => DocumentSource::Text,
            (1, 4) => DocumentSource::TextForMissing,
            _ => DocumentSource::Stored,
        };
        assert_eq!(result.source(), expected, "{result:?}");
    }
    assert_eq!(answer.results.iter().filter(|result| result.stage == 2).count(), 2);
}

#[tokio::test]
async fn a_query_that_a_later_stage_refuses_is_refused_at_once() {
    let script = "max_tokens = 64\n[[fault]]\nat_batch = 2\nkind = \"failed\"\nrepeat = 1000\n";
    // Whatever the first model computes after its warm-up fails, so that it would be seen.
    let server = TestServer::several(&[("long", script), ("short", SHORT)], |_| ()).await;
    let stages = vec![stage(Method::LateInteraction, "long", 0), stage(Method::CrossEncoder, "short", 0)];
    let asked = RerankRequest { stages, ..request("one two three four five six", &TEXTS) };
    let status = server.rerank().await.rerank(asked).await.expect_err("six words in five tokens");
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["query.text".to_owned()]));
}

//! What is read of a document that is longer than what fits, and what is said of it.

use sluice_proto::rerank::v1::{LongDocument, Method, RerankRequest, RerankResult, Truncation};

use super::{
    METHODS,
    common::{SCRIPT, TestServer, request},
};

/// Ten words of every width in bytes, between white space of every kind.
static TEXT: &str = "  αβγ δ\u{3000}漢字 needle\t👩‍👩‍👧 ж\u{a0}needle needle\n\nend ß ";
const WORDS_AT_ONCE: usize = 3;

fn words() -> Vec<&'static str> {
    TEXT.split_whitespace().collect()
}

/// Special tokens in the sequence of a document: around a text, or around a pair, whose query has one word.
fn beside(method: Method) -> usize {
    if method == Method::CrossEncoder { 3 + 1 } else { 2 }
}

/// One document's result.
async fn read(
    server: &TestServer,
    method: Method,
    text: &str,
    max_tokens: usize,
    long_document: LongDocument,
) -> RerankResult {
    let truncation = Truncation {
        max_tokens_per_document: u32::try_from(max_tokens).expect("few"),
        long_document: long_document.into(),
    };
    let asked =
        RerankRequest { method: method.into(), truncation: Some(truncation), ..request("needle", &[text, "other"]) };
    let answer = server.rerank().await.rerank(asked).await.expect("it is valid").into_inner();
    let usage = answer.usage.expect("always there");
    let tokens = answer.results.iter().map(|result| u64::from(result.tokens)).sum::<u64>();
    assert_eq!(usage.document_tokens, tokens, "{method:?} {long_document:?}");
    let query = if method == Method::CrossEncoder { 0 } else { usage.query_tokens };
    assert_eq!(usage.computed_tokens, tokens + query, "{method:?} {long_document:?}");
    answer.results.into_iter().find(|result| result.index == 0).expect("all come back")
}

/// The score of a text that is read whole.
async fn score(server: &TestServer, method: Method, text: &str) -> f32 {
    let result = read(server, method, text, 0, LongDocument::Cut).await;
    assert!(!result.truncated, "{text:?}");
    result.score
}

#[tokio::test]
async fn a_cut_document_is_its_beginning() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let words = words();
    assert_eq!(words.len(), 10);
    for method in METHODS {
        for kept in [1, 2, 9] {
            for long_document in [LongDocument::Cut, LongDocument::Unspecified] {
                let result = read(&server, method, TEXT, kept, long_document).await;
                assert!(result.truncated && result.best_chunk.is_none(), "{method:?} {result:?}");
                assert_eq!(result.tokens as usize, kept + beside(method), "{method:?}");
                assert_eq!(result.score, score(&server, method, &words[..kept].join(" ")).await, "{method:?} {kept}");
            }
        }
        for enough in [10, 11, 60, 0, 1_000_000] {
            let result = read(&server, method, TEXT, enough, LongDocument::Cut).await;
            assert!(!result.truncated, "{method:?} {enough}");
            assert_eq!(result.tokens as usize, 10 + beside(method), "{method:?} {enough}");
        }
    }
}

#[tokio::test]
async fn a_chunked_document_is_all_of_its_chunks() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let words = words();
    let chunks: Vec<_> = words.chunks(WORDS_AT_ONCE).collect();
    assert_eq!(chunks.len(), 4, "the last one is short");
    for method in METHODS {
        let mut scores = Vec::new();
        for chunk in &chunks {
            scores.push(score(&server, method, &chunk.join(" ")).await);
        }
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mean = scores.iter().map(|score| f64::from(*score)).sum::<f64>() / scores.len() as f64;
        for (long_document, expected) in [(LongDocument::ChunkMax, f64::from(largest)), (LongDocument::ChunkMean, mean)]
        {
            let result = read(&server, method, TEXT, WORDS_AT_ONCE, long_document).await;
            assert!((f64::from(result.score) - expected).abs() < 1e-6, "{method:?} {long_document:?} {result:?}");
            assert!(!result.truncated, "all of it was read");
            assert_eq!(result.tokens as usize, words.len() + chunks.len() * beside(method), "{method:?}");
            let best = result.best_chunk.expect("there are several");
            assert_eq!(scores[best.index as usize], largest, "{method:?}");
            let first = scores.iter().position(|score| *score == largest).expect("one is");
            assert_eq!(best.index as usize, first, "the first of equals");
            let slice = TEXT.get(best.byte_start as usize..best.byte_end as usize).expect("between characters");
            assert_eq!(slice.trim(), slice, "from the first word to the last");
            assert_eq!(slice.split_whitespace().collect::<Vec<_>>(), chunks[first], "{method:?}");
        }
    }
}

#[tokio::test]
async fn every_chunk_can_be_the_best_and_is_where_it_says() {
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    let words = words();
    for (index, chunk) in words.chunks(2).enumerate() {
        // The query is a word of this chunk, which scores best there, or ties with an earlier one.
        let truncation = Truncation { max_tokens_per_document: 2, long_document: LongDocument::ChunkMax.into() };
        let asked = RerankRequest { truncation: Some(truncation), ..request(chunk[1], &[TEXT]) };
        let answer = server.rerank().await.rerank(asked).await.expect("valid").into_inner();
        let best = answer.results[0].best_chunk.expect("there are five");
        let slice = &TEXT[best.byte_start as usize..best.byte_end as usize];
        let earliest = words.chunks(2).position(|chunk_| chunk_.contains(&chunk[1])).expect("this one at least");
        assert_eq!(best.index as usize, earliest, "chunk {index}");
        assert_eq!(slice.split_whitespace().collect::<Vec<_>>(), words[2 * earliest..2 * earliest + 2]);
    }
}

#[tokio::test]
async fn chunks_beyond_the_bound_are_not_read_and_that_is_said() {
    let server = TestServer::scripted(SCRIPT, |config| config.limits.chunks_per_document_max = 2).await;
    let words = words();
    for method in METHODS {
        for (words_at_once, chunks_read, truncated) in [(3, 2, true), (4, 2, true), (5, 2, false), (10, 1, false)] {
            let result = read(&server, method, TEXT, words_at_once, LongDocument::ChunkMax).await;
            let words_read = words.len().min(words_at_once * chunks_read);
            assert_eq!(result.truncated, truncated, "{method:?} {words_at_once}");
            assert_eq!(result.tokens as usize, words_read + chunks_read * beside(method), "{method:?} {words_at_once}");
            assert_eq!(result.best_chunk.is_some(), chunks_read > 1, "{method:?} {words_at_once}");
            let last = words[words_read - 1];
            let read_to = last.as_ptr() as usize - TEXT.as_ptr() as usize + last.len();
            let end = result.best_chunk.map_or(0, |chunk| chunk.byte_end as usize);
            assert!(end <= read_to, "{method:?} {words_at_once}: {result:?}");
        }
    }
}

#[tokio::test]
async fn without_a_limit_a_document_may_have_what_fits() {
    // 64 tokens: 62 words alone; beside a query of one word and three special tokens, 60.
    let server = TestServer::scripted(SCRIPT, |_| ()).await;
    for method in METHODS {
        let room = 64 - beside(method);
        for max_tokens in [0, room, 64, 1_000] {
            for words in [room, room + 1] {
                let text = "word ".repeat(words);
                let cut = read(&server, method, &text, max_tokens, LongDocument::Cut).await;
                assert_eq!((cut.tokens, cut.truncated), (64, words > room), "{method:?} {max_tokens} {words}");
                let chunked = read(&server, method, &text, max_tokens, LongDocument::ChunkMean).await;
                let over = if words > room { 1 + beside(method) as u32 } else { 0 };
                assert_eq!((chunked.tokens, chunked.truncated), (64 + over, false), "{method:?} {max_tokens} {words}");
                assert_eq!(chunked.best_chunk.is_some(), words > room, "{method:?} {max_tokens} {words}");
            }
        }
    }
}

//! A document's score is its own: it differs by at most 1e-5 alone, in a batch of 100, and among strangers'
//! documents, for each method, through the running server with real weights.
//!
//! Needs the default model; says so when it skips.

#![allow(clippy::unwrap_used, reason = "helper functions of tests")]

mod common;

use common::{TestServer, document, query};
use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use safetensors::{Dtype, tensor::TensorView};
use sluice_inference::testing::{default_model, write_cross_encoder};
use sluice_proto::rerank::v1::{CachePolicy, Method, RerankRequest, Usage, rerank_service_client::RerankServiceClient};
use sluice_server::config::Precision;
use tonic::transport::Channel;

const TOLERANCE: f32 = 1e-5;
/// Documents of the crowded batch.
const CROWD: usize = 100;
/// Of which that many are also scored alone and among strangers.
const WATCHED: usize = 5;
const SEEDS: std::ops::Range<u64> = 0..2;

const WORDS: &[&str] = &[
    "river",
    "engine",
    "protein",
    "market",
    "königlich",
    "42",
    "3.14",
    "東京",
    "fermentation",
    "unbelievable",
    "the",
    "of",
    "a",
    "pressure",
    "wing",
    "lattice",
    "boundary-layer",
    "e.g.",
    "naïve",
    "GPU",
    "jazz",
    "photosynthesis",
    ",",
    "!",
    "antidisestablishmentarianism",
    "sea",
    "glass",
    "quark",
    "ledger",
    "maple",
];

#[tokio::test]
async fn a_score_does_not_depend_on_who_shares_the_batch() {
    let Some(model) = default_model() else { return };
    let folder = tempfile::tempdir().unwrap();
    write_cross_encoder(folder.path(), &model.path, &seeded_head(), "");
    // One model for all methods: the head's encoder is the same.
    let server = TestServer::model(folder.path().display().to_string(), |_| ()).await;
    let client = server.rerank().await;
    for seed in SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let question = text(&mut random, 1..12);
        // The crowd is short, so that the test is; what is watched is of any length.
        let mut crowd: Vec<String> = (0..CROWD).map(|_| text(&mut random, 0..12)).collect();
        for (index, watched) in crowd.iter_mut().step_by(CROWD / WATCHED).enumerate() {
            let words = [1, 3, 20, 60, 150][index];
            *watched = text(&mut random, words..words + 1);
        }
        for method in [Method::LateInteraction, Method::Dense, Method::CrossEncoder] {
            let crowded = scores(&client, &question, &crowd, method).await;
            for index in (0..CROWD).step_by(CROWD / WATCHED) {
                let own = &crowd[index..=index];
                let alone = scores(&client, &question, own, method).await[0];
                let among = among_strangers(&client, &mut random, &question, own, method).await;
                for (where_to, other) in [("alone", alone), ("among strangers", among)] {
                    let distance = (crowded[index] - other).abs();
                    assert!(
                        distance <= TOLERANCE,
                        "seed {seed}, {method:?}, document {index}: {} in the crowd, {other} {where_to}",
                        crowded[index]
                    );
                }
            }
        }
    }
}

/// A score that was kept is the one that would be computed, to the bit: our own engine's scores do not depend on who
/// shares the batch.
#[tokio::test]
async fn a_kept_score_is_the_computed_one() {
    let Some(model) = default_model() else { return };
    let folder = tempfile::tempdir().unwrap();
    write_cross_encoder(folder.path(), &model.path, &seeded_head(), "");
    for precision in [Precision::F32, Precision::Int8] {
        let server = TestServer::model(folder.path().display().to_string(), |config| {
            config.precision = precision;
            config.score_cache.bytes_max = 1 << 20;
        })
        .await;
        let client = server.rerank().await;
        let mut random = StdRng::seed_from_u64(3);
        let question = text(&mut random, 3..8);
        let documents: Vec<String> = (0..24).map(|index| text(&mut random, index..index + 4)).collect();
        for method in [Method::LateInteraction, Method::Dense, Method::CrossEncoder] {
            let (computed, _) = asked(&client, &question, &documents, (method, CachePolicy::Bypass)).await;
            // Kept in threes and fives, out of order; then asked for all together.
            for company in documents.rchunks(3).chain(documents.chunks(5)) {
                asked(&client, &question, company, (method, CachePolicy::Use)).await;
            }
            let (kept, usage) = asked(&client, &question, &documents, (method, CachePolicy::Use)).await;
            assert_eq!(usage.computed_tokens, 0, "{precision:?}, {method:?}");
            let bits = |scores: &[f32]| scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&kept), bits(&computed), "{precision:?}, {method:?}");
        }
    }
}

/// Its score while other callers' requests of the same lane are queued with it.
async fn among_strangers(
    client: &RerankServiceClient<Channel>,
    random: &mut StdRng,
    question: &str,
    own: &[String],
    method: Method,
) -> f32 {
    let strangers: Vec<(String, Vec<String>)> = (0..3)
        .map(|_| (text(random, 1..8), (0..random.random_range(1..6)).map(|_| text(random, 0..30)).collect()))
        .collect();
    let strangers = strangers.iter().map(|(question, documents)| scores(client, question, documents, method));
    let (mine, _) = tokio::join!(scores(client, question, own, method), join_all(strangers));
    mine[0]
}

/// Scores in the documents' order.
async fn scores(
    client: &RerankServiceClient<Channel>,
    question: &str,
    documents: &[String],
    method: Method,
) -> Vec<f32> {
    asked(client, question, documents, (method, CachePolicy::Use)).await.0
}

/// The same, and what was computed.
async fn asked(
    client: &RerankServiceClient<Channel>,
    question: &str,
    documents: &[String],
    (method, cache): (Method, CachePolicy),
) -> (Vec<f32>, Usage) {
    let request = RerankRequest {
        query: query(question),
        documents: documents.iter().enumerate().map(|(id, text)| document(id, text)).collect(),
        method: method.into(),
        cache: cache.into(),
        ..RerankRequest::default()
    };
    let response = client.clone().rerank(request).await.expect("an answer").into_inner();
    let mut results = response.results;
    assert_eq!(results.len(), documents.len());
    results.sort_by_key(|result| result.index);
    (results.iter().map(|result| result.score).collect(), response.usage.expect("always there"))
}

fn text(random: &mut StdRng, words: std::ops::Range<usize>) -> String {
    let count = random.random_range(words);
    let words: Vec<&str> = (0..count).map(|_| *WORDS.choose(random).unwrap()).collect();
    words.join(" ")
}

/// A classification head of seeded weights, as a safetensors file.
fn seeded_head() -> Vec<u8> {
    const HIDDEN: usize = 384;
    let mut random = StdRng::seed_from_u64(7);
    let weight: Vec<u8> = (0..HIDDEN).flat_map(|_| random.random_range(-0.1_f32..0.1).to_le_bytes()).collect();
    let bias = 0.01_f32.to_le_bytes();
    let tensors = [
        ("classifier.weight", TensorView::new(Dtype::F32, vec![1, HIDDEN], &weight).unwrap()),
        ("classifier.bias", TensorView::new(Dtype::F32, vec![1], &bias).unwrap()),
    ];
    safetensors::serialize(tensors, None).unwrap()
}

//! What is asked, and what has to come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_proto::rerank::v1::{
    Method, RerankRequest, RerankResponse, ScoreUpdate, rerank_service_client::RerankServiceClient,
};
use tonic::transport::Channel;

use crate::common::{document, query};

/// Documents of the largest request.
pub const DOCUMENTS_MAX: usize = 500;
const METHODS: [Method; 3] = [Method::LateInteraction, Method::Dense, Method::CrossEncoder];

/// Queries and texts that requests are made of, with the score of each pair.
pub struct Workload {
    queries: Vec<String>,
    texts: Vec<String>,
    sizes: Sizes,
    /// Of a document; of a pair for a cross-encoder.
    tokens_max: u32,
    /// By method: of each query, the score of each text. A method that is not here is not asked for.
    scores: BTreeMap<i32, Vec<Vec<f32>>>,
    /// How far a score may be from that.
    tolerance: f32,
}

#[derive(Clone, Copy)]
enum Sizes {
    /// As many large requests as small ones.
    Even,
    /// Half of them below 5, one in seven above 100.
    MostlySmall,
}

/// One request, and what it is about.
pub struct Ask {
    pub method: Method,
    query: usize,
    /// Indices of texts.
    texts: Vec<usize>,
    top_n: usize,
}

impl Workload {
    /// For the scripted model: texts of up to 30 words out of few, so that many match.
    pub fn scripted(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut text = |words_max: usize, words_min: usize| {
            let words =
                (0..rng.random_range(words_min..=words_max)).map(|_| format!("word{}", rng.random_range(0..60)));
            words.collect::<Vec<_>>().join(" ")
        };
        let queries: Vec<String> = (0..20).map(|_| text(8, 1)).collect();
        let texts: Vec<String> = (0..1000).map(|_| text(30, 0)).collect();
        let defined = |query: &String| texts.iter().map(|text| scripted_score(query, text)).collect();
        let defined: Vec<Vec<f32>> = queries.iter().map(defined).collect();
        let scores = [Method::LateInteraction, Method::CrossEncoder].map(|method| (method.into(), defined.clone()));
        Self {
            scores: scores.into_iter().collect(),
            queries,
            texts,
            sizes: Sizes::Even,
            tokens_max: 8 + 30 + 3,
            tolerance: 0.0,
        }
    }

    /// For a real model: texts of at most 16 tokens. Every word here is a token of its own to all-MiniLM-L6-v2, and two
    /// are special. It offers no cross-encoder, whose pairs would be longer.
    pub fn short_texts(seed: u64) -> Self {
        const WORDS: [&str; 24] = [
            "water", "bread", "river", "stone", "house", "night", "music", "train", "paper", "green", "heart", "light",
            "city", "horse", "glass", "money", "garden", "doctor", "summer", "winter", "king", "ship", "fire", "moon",
        ];
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut text = |words_max: usize| {
            let words = (0..rng.random_range(1..=words_max)).map(|_| WORDS[rng.random_range(0..WORDS.len())]);
            words.collect::<Vec<_>>().join(" ")
        };
        let queries = (0..4).map(|_| text(5)).collect();
        let texts = (0..100).map(|_| text(8)).chain((0..4).map(|_| WORDS[..14].join(" "))).collect();
        // A document's score moves by at most 1e-5 with its batch mates: twice that between two batches.
        Self { queries, texts, sizes: Sizes::MostlySmall, tokens_max: 16, scores: BTreeMap::new(), tolerance: 2e-5 }
    }

    /// Asks the idle server for the scores that are not defined, of each method that its model offers.
    pub async fn with_scores_of(mut self, channel: Channel) -> Self {
        let mut client = RerankServiceClient::new(channel);
        for method in
            METHODS.into_iter().filter(|method| !self.scores.contains_key(&i32::from(*method))).collect::<Vec<_>>()
        {
            let mut scores = Vec::new();
            for query in 0..self.queries.len() {
                let ask = Ask { method, query, texts: (0..self.texts.len()).collect(), top_n: 0 };
                let Ok(answer) = client.rerank(self.request(&ask)).await else { break };
                let mut of_texts = vec![f32::NAN; self.texts.len()];
                for result in answer.into_inner().results {
                    of_texts[result.index as usize] = result.score;
                    assert!(result.tokens <= self.tokens_max && !result.truncated, "{result:?}");
                }
                scores.push(of_texts);
            }
            if scores.len() == self.queries.len() {
                self.scores.insert(method.into(), scores);
            }
        }
        assert!(self.scores.len() >= 2, "the model offers {:?}", self.scores.keys());
        self
    }

    /// Longest pause of a caller that was refused: about the time in which some room is made.
    pub fn pause_max(&self) -> Duration {
        match self.sizes {
            Sizes::Even => Duration::from_millis(50),
            Sizes::MostlySmall => Duration::from_millis(300),
        }
    }

    pub fn ask(&self, rng: &mut SmallRng) -> Ask {
        let size = match self.sizes {
            Sizes::Even => rng.random_range(1..=DOCUMENTS_MAX),
            Sizes::MostlySmall => (DOCUMENTS_MAX as f64).powf(rng.random_range(0.0_f64..=1.0).powi(2)).round() as usize,
        };
        let methods: Vec<i32> = self.scores.keys().copied().collect();
        Ask {
            method: methods[rng.random_range(0..methods.len())].try_into().expect("a method"),
            query: rng.random_range(0..self.queries.len()),
            texts: (0..size).map(|_| rng.random_range(0..self.texts.len())).collect(),
            top_n: if rng.random_ratio(1, 4) { rng.random_range(1..=size) } else { 0 },
        }
    }

    /// The ids say which text is where, so that a mix-up shows.
    pub fn request(&self, ask: &Ask) -> RerankRequest {
        let documents = ask.texts.iter().enumerate().map(|(at, &text)| document(id(at, text), &self.texts[text]));
        RerankRequest {
            query: query(&self.queries[ask.query]),
            documents: documents.collect(),
            method: ask.method.into(),
            top_n: ask.top_n as u32,
            ..RerankRequest::default()
        }
    }

    fn expected(&self, ask: &Ask, at: usize) -> f32 {
        self.scores[&i32::from(ask.method)][ask.query][ask.texts[at]]
    }

    /// An answer has every document once (or the best of them), with the right score, best first.
    pub fn check_answer(&self, ask: &Ask, answer: &RerankResponse) {
        let wanted = if ask.top_n == 0 { ask.texts.len() } else { ask.top_n };
        assert_eq!((answer.results.len(), answer.method()), (wanted, ask.method));
        let mut left_out: BTreeSet<usize> = (0..ask.texts.len()).collect();
        for result in &answer.results {
            let at = result.index as usize;
            assert!(left_out.remove(&at), "document {at} of {} twice, or never sent", ask.texts.len());
            assert_eq!(result.id, id(at, ask.texts[at]));
            self.check_score(ask, at, result.score);
            assert!(!result.truncated && (2..=self.tokens_max).contains(&result.tokens), "{result:?}");
        }
        let in_order = |pair: &[sluice_proto::rerank::v1::RerankResult]| {
            pair[0].score > pair[1].score || (pair[0].score == pair[1].score && pair[0].index < pair[1].index)
        };
        assert!(answer.results.windows(2).all(in_order), "best first, equal ones in the order of the request");
        let last = answer.results.last().expect("at least one").score;
        for at in left_out {
            assert!(self.expected(ask, at) <= last + 2.0 * self.tolerance, "document {at} is better than the last");
        }
        let usage = answer.usage.expect("always there");
        let documents: u64 = answer.results.iter().map(|result| u64::from(result.tokens)).sum();
        assert!(
            usage.document_tokens == documents || (ask.top_n > 0 && usage.document_tokens > documents),
            "{usage:?}"
        );
    }

    pub fn check_score(&self, ask: &Ask, at: usize, score: f32) {
        let expected = self.expected(ask, at);
        let close = (score - expected).abs() <= self.tolerance;
        assert!(close, "{:?}, document {at}: {score}, expected {expected}", ask.method);
    }
}

impl Ask {
    pub fn documents(&self) -> usize {
        self.texts.len()
    }

    /// What is computed for it: its documents, and the query where it stands alone.
    pub fn units(&self) -> usize {
        self.texts.len() + usize::from(self.method != Method::CrossEncoder)
    }
}

/// Scores of a stream, as they come: each document once, and the final answer says the same.
pub struct Updates<'a> {
    workload: &'a Workload,
    ask: &'a Ask,
    scores: BTreeMap<u32, f32>,
}

impl<'a> Updates<'a> {
    pub fn new(workload: &'a Workload, ask: &'a Ask) -> Self {
        Self { workload, ask, scores: BTreeMap::new() }
    }

    pub fn take(&mut self, update: ScoreUpdate) {
        assert!(!update.documents.is_empty(), "an update says something");
        for document in update.documents {
            self.workload.check_score(self.ask, document.index as usize, document.score);
            assert!(self.scores.insert(document.index, document.score).is_none(), "document {} twice", document.index);
        }
        assert_eq!((update.scored as usize, update.total as usize), (self.scores.len(), self.ask.documents()));
    }

    pub fn finish(self, answer: &RerankResponse) {
        assert_eq!(self.scores.len(), self.ask.documents(), "every score was sent before the answer");
        for result in &answer.results {
            assert_eq!(self.scores[&result.index].to_bits(), result.score.to_bits(), "a final score is contradicted");
        }
        self.workload.check_answer(self.ask, answer);
    }
}

fn id(at: usize, text: usize) -> String {
    format!("{at}:{text}")
}

/// What the scripted model defines: distinct words of the query that the document has, then shorter documents.
fn scripted_score(query: &str, document: &str) -> f32 {
    let of_query: BTreeSet<&str> = query.split_whitespace().collect();
    let of_document: Vec<&str> = document.split_whitespace().collect();
    let matches = of_query.iter().filter(|word| of_document.contains(word)).count();
    matches as f32 + 1.0 / (2.0 + of_document.len() as f32)
}

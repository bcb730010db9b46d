//! Contenders in turn on the same requests.
//!
//! A B C, A B C, …: request by request, so that a machine that slows down for some seconds slows down all of
//! them. What is compared are ratios within a pass; absolute figures drift with the machine.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::report::Spread;

/// A query and the documents to score against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The query's text.
    pub query: String,
    /// The documents' texts.
    pub documents: Vec<String>,
}

/// Who scores documents.
pub trait Contender {
    /// What it is called in the report.
    fn name(&self) -> String;

    /// Scores every document of the request.
    ///
    /// # Errors
    /// Whatever keeps it from doing so; the run ends.
    fn rerank(&mut self, request: &Request) -> anyhow::Result<Answer>;
}

/// Scores, and what they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// One for each document, in the request's order.
    pub scores: Vec<f32>,
    /// Tokens of all sequences that were computed, without padding.
    pub tokens: u64,
    /// From texts to scores.
    pub total: Duration,
    /// From tokens to scores; `None` where it cannot be told from outside.
    pub encode: Option<Duration>,
}

/// All requests, once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pass {
    /// Documents that were scored.
    pub documents: u64,
    /// As [`Answer::tokens`].
    pub tokens: u64,
    /// As [`Answer::total`].
    pub total: Duration,
    /// As [`Answer::encode`]; zero where that is `None`.
    pub encode: Duration,
}

/// What a contender did.
#[derive(Debug, Clone)]
pub struct Track {
    /// The contender's name.
    pub name: String,
    /// Pass by pass.
    pub passes: Vec<Pass>,
    /// The first pass's scores, request by request.
    pub scores: Vec<Vec<f32>>,
}

/// Documents of the requests that everybody scores before the first pass, so that no pass pays for what only the
/// first request pays: pages, arenas, lazily made threads.
const WARM_UP_DOCUMENTS: usize = 16;

/// Has every contender answer every request `passes` times; one track for each contender. `rest` is called before
/// every turn, and returns when the threads of the contender before have come to rest.
///
/// # Errors
/// If a contender fails, or does not score every document.
pub fn interleave(
    contenders: &mut [&mut dyn Contender],
    requests: &[Request],
    passes: usize,
    rest: impl Fn(),
) -> anyhow::Result<Vec<Track>> {
    let mut tracks: Vec<Track> = contenders
        .iter()
        .map(|contender| Track { name: contender.name(), passes: Vec::new(), scores: Vec::new() })
        .collect();
    if let Some(first) = requests.first() {
        let documents = first.documents.iter().take(WARM_UP_DOCUMENTS).cloned().collect();
        let warm_up = Request { query: first.query.clone(), documents };
        for contender in &mut *contenders {
            answer(*contender, &warm_up)?;
        }
    }
    for pass in 0..passes {
        for track in &mut tracks {
            track.passes.push(Pass::default());
        }
        for request in requests {
            for (contender, track) in contenders.iter_mut().zip(&mut tracks) {
                rest();
                let answer = answer(*contender, request)?;
                track.passes[pass].add(&answer);
                if pass == 0 {
                    track.scores.push(answer.scores);
                }
            }
        }
    }
    Ok(tracks)
}

fn answer(contender: &mut dyn Contender, request: &Request) -> anyhow::Result<Answer> {
    let name = contender.name();
    let answer = contender.rerank(request).with_context(|| format!("{name} failed"))?;
    let (scores, documents) = (answer.scores.len(), request.documents.len());
    ensure!(scores == documents, "{name} gave {scores} scores for {documents} documents");
    Ok(answer)
}

impl Pass {
    fn add(&mut self, answer: &Answer) {
        self.documents += answer.scores.len() as u64;
        self.tokens += answer.tokens;
        self.total += answer.total;
        self.encode += answer.encode.unwrap_or_default();
    }

    /// Documents a second, tokenization included.
    #[must_use]
    pub fn documents_per_second(&self) -> f64 {
        self.documents as f64 / self.total.as_secs_f64()
    }

    /// Tokens a second that went through the model, tokenization left out.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.encode.as_secs_f64()
    }
}

impl Track {
    /// A rate over the passes.
    #[must_use]
    pub fn rate(&self, of: impl Fn(&Pass) -> f64) -> Spread {
        Spread::of(self.passes.iter().map(of))
    }

    /// This track's rate divided by the other's, pass by pass.
    #[must_use]
    pub fn ratio(&self, other: &Self, of: impl Fn(&Pass) -> f64) -> Spread {
        Spread::of(self.passes.iter().zip(&other.passes).map(|(ours, theirs)| of(ours) / of(theirs)))
    }

    /// The largest difference between two scores of one document; infinite if one is not a number.
    #[must_use]
    pub fn largest_difference(&self, other: &Self) -> f64 {
        let pairs = self.scores.iter().flatten().zip(other.scores.iter().flatten());
        let differences = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
        differences.map(|difference| if difference.is_nan() { f64::INFINITY } else { difference }).fold(0.0, f64::max)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Takes a fixed time for each document, and remembers when it was asked.
    pub(crate) struct Paced<'a> {
        pub(crate) name: &'static str,
        pub(crate) per_document: Duration,
        pub(crate) score: f32,
        pub(crate) log: &'a std::cell::RefCell<Vec<(&'static str, usize)>>,
    }

    impl Contender for Paced<'_> {
        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn rerank(&mut self, request: &Request) -> anyhow::Result<Answer> {
            let documents = request.documents.len();
            self.log.borrow_mut().push((self.name, documents));
            let encode = self.per_document * u32::try_from(documents)?;
            Ok(Answer {
                scores: vec![self.score; documents],
                tokens: 10 * documents as u64,
                total: encode * 2,
                encode: Some(encode),
            })
        }
    }

    pub(crate) fn requests(documents: &[usize]) -> Vec<Request> {
        let request = |count: &usize| Request { query: "q".to_owned(), documents: vec!["d".to_owned(); *count] };
        documents.iter().map(request).collect()
    }

    #[test]
    fn contenders_take_turns_request_by_request() {
        let (log, rests) = (std::cell::RefCell::default(), std::cell::Cell::new(0));
        let mut a = Paced { name: "a", per_document: Duration::from_millis(2), score: 0.5, log: &log };
        let mut b = Paced { name: "b", per_document: Duration::from_millis(1), score: 0.25, log: &log };
        let tracks = interleave(&mut [&mut a, &mut b], &requests(&[20, 3]), 2, || rests.set(rests.get() + 1)).unwrap();
        let pass = [("a", 20), ("b", 20), ("a", 3), ("b", 3)];
        assert_eq!(log.into_inner(), [&[("a", 16), ("b", 16)][..], &pass, &pass].concat());
        let [a, b] = tracks.as_slice() else { panic!("{tracks:?}") };
        assert_eq!(rests.get(), 8);
        assert_eq!(a.passes.len(), 2);
        assert_eq!(a.rate(Pass::documents_per_second).median, 250.0);
        assert_eq!(a.rate(Pass::tokens_per_second).median, 5000.0);
        assert_eq!(a.ratio(b, Pass::documents_per_second), Spread { median: 0.5, min: 0.5, max: 0.5 });
        assert_eq!(a.scores.iter().map(Vec::len).collect::<Vec<_>>(), [20, 3]);
        assert_eq!(a.largest_difference(b), 0.25);
        assert_eq!(a.largest_difference(a), 0.0);
    }

    #[test]
    fn not_a_number_differs_from_everything() {
        let track = |score| Track { name: String::new(), passes: Vec::new(), scores: vec![vec![1.0, score, 1.0]] };
        assert_eq!(track(f32::NAN).largest_difference(&track(1.0)), f64::INFINITY);
    }

    #[test]
    fn a_missing_score_ends_the_run() {
        struct Lazy;
        impl Contender for Lazy {
            fn name(&self) -> String {
                "lazy".to_owned()
            }
            fn rerank(&mut self, _: &Request) -> anyhow::Result<Answer> {
                Ok(Answer { scores: vec![1.0], tokens: 1, total: Duration::from_secs(1), encode: None })
            }
        }
        let error = interleave(&mut [&mut Lazy], &requests(&[2]), 1, || {}).unwrap_err();
        assert_eq!(error.to_string(), "lazy gave 1 scores for 2 documents");
    }
}

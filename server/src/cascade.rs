//! The best order known, as stage after stage says more.
//!
//! A stage is given the documents that stand first, and puts those that it scored before all others, best first; the
//! rest keep the order that they had. So a document that a later stage scored stands before one that it did not, and
//! without any score the order is the request's own.

use std::ops::Range;

use sluice_core::rank::top_k;

use crate::{job::RerankJob, prepare::DocumentUnits, scoring::Scoring, subject::Source};

/// What is known of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The last stage that scored it, from 1; 0 if none did.
    pub stage: u32,
    /// That stage's score; −∞ if there is none.
    pub score: f32,
    /// The chunk with the largest score, where there are several: its index and its bytes.
    pub best_chunk: Option<(u32, Range<u32>)>,
    /// Tokens that the stage read of it.
    pub tokens: u32,
    /// A part of it was not read.
    pub truncated: bool,
    /// What was scored, or why nothing was; `None` for one whose turn did not come.
    pub source: Option<Source>,
}

impl Standing {
    const UNKNOWN: Self =
        Self { stage: 0, score: f32::NEG_INFINITY, best_chunk: None, tokens: 0, truncated: false, source: None };

    /// Whether any stage scored it.
    #[must_use]
    pub fn is_scored(&self) -> bool {
        self.stage > 0
    }
}

/// Every document's standing, and their order.
#[derive(Debug)]
pub struct Standings {
    documents: Vec<Standing>,
    order: Vec<usize>,
}

impl Standings {
    /// So many documents of which nothing is known, in the request's order.
    #[must_use]
    pub fn new(documents: usize) -> Self {
        Self { documents: vec![Standing::UNKNOWN; documents], order: (0..documents).collect() }
    }

    /// Positions of all documents in the request, best first.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// What is known of the document at a position of the request.
    #[must_use]
    pub fn of(&self, document: usize) -> &Standing {
        &self.documents[document]
    }

    /// Takes what `stage`, from 1, has come to. It was given the documents at the positions `given`, which became `units`.
    pub fn take(&mut self, stage: u32, given: &[usize], units: &[DocumentUnits], scoring: &Scoring) {
        let mut scored = Vec::new();
        for (place, (&document, units)) in given.iter().zip(units).enumerate() {
            let standing = &mut self.documents[document];
            let Some(outcome) = scoring.of(place) else {
                // What an earlier stage has said of it still holds.
                if !standing.is_scored() && !units.is_scored() {
                    standing.source = Some(units.source);
                }
                continue;
            };
            let chunk = |chunk: usize| (u32::try_from(chunk).unwrap_or(u32::MAX), units.chunks[chunk].clone());
            *standing = Standing {
                stage,
                score: outcome.score,
                best_chunk: outcome.best_chunk.map(chunk),
                tokens: units.tokens,
                truncated: units.truncated,
                source: Some(units.source),
            };
            scored.push(document);
        }
        // Equal scores keep the request's order.
        scored.sort_unstable();
        let scores: Vec<f32> = scored.iter().map(|document| self.documents[*document].score).collect();
        let best: Vec<usize> = top_k(&scores, None).into_iter().map(|place| scored[place]).collect();
        let rest: Vec<usize> =
            self.order.iter().copied().filter(|document| scored.binary_search(document).is_err()).collect();
        self.order = best.into_iter().chain(rest).collect();
    }

    /// The documents of an answer: at most `top_n`; with a `min_score` those alone that the job's last stage gave as much.
    pub fn answer<'a>(&'a self, job: &'a RerankJob) -> impl Iterator<Item = usize> + 'a {
        let last = u32::try_from(job.stages.len()).unwrap_or(u32::MAX);
        let of_last =
            move |standing: &Standing| if standing.stage == last { standing.score } else { f32::NEG_INFINITY };
        let good_enough = move |document: &usize| job.min_score.is_none_or(|min| of_last(self.of(*document)) >= min);
        self.first(job).filter(good_enough)
    }

    /// The best of them, whatever their scores: at most the job's `top_n`.
    pub fn first<'a>(&'a self, job: &RerankJob) -> impl Iterator<Item = usize> + 'a {
        self.order.iter().copied().take(job.top_n.unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_core::{ModelIndex, Priority};

    use super::*;
    use crate::{
        engine::SlotValue,
        job::{Budget, CachePolicy, LongDocument, Method, Query, ScoreKind, StageJob},
        subject::Unavailable,
    };

    fn job(stages: usize, top_n: Option<usize>, min_score: Option<f32>) -> RerankJob {
        let stage =
            StageJob { model: ModelIndex(0), method: Method::CrossEncoder, top_k: None, budget: Budget::default() };
        RerankJob {
            stages: vec![stage; stages],
            query: Query::Text("q".to_owned()),
            documents: Vec::new(),
            top_n,
            min_score,
            return_text: false,
            document_tokens_max: None,
            long_document: LongDocument::Cut,
            score_kind: ScoreKind::Raw,
            priority: Priority::Standard,
            budget: Budget::default(),
            until_deadline: false,
            cache: CachePolicy::Use,
        }
    }

    /// A stage that scores some of what it is given: `None` for what it does not reach, of one unit each.
    fn stage(standings: &mut Standings, number: u32, outcomes: &[(usize, Option<f32>)]) {
        let units: Vec<_> = (0_u32..)
            .zip(outcomes)
            .map(|(first_unit, _)| DocumentUnits {
                first_unit,
                chunks: std::iter::once(0..1).collect(),
                tokens: 1,
                truncated: false,
                source: Source::Text,
            })
            .collect();
        let mut scoring = Scoring::new(&job(1, None, None), Method::CrossEncoder, &units);
        let results =
            (0_u32..).zip(outcomes).filter_map(|(unit, (_, score))| Some((unit, SlotValue::Score((*score)?))));
        scoring.absorb(results.collect()).expect("the right kind");
        let given: Vec<usize> = outcomes.iter().map(|(document, _)| *document).collect();
        standings.take(number, &given, &units, &scoring);
    }

    #[test]
    fn later_stages_stand_first_and_the_rest_keep_their_order() {
        let mut standings = Standings::new(6);
        assert_eq!(standings.order(), [0, 1, 2, 3, 4, 5]);
        let scores = [Some(1.0), Some(f32::NAN), Some(3.0), Some(3.0), None, None];
        stage(&mut standings, 1, &scores.iter().copied().enumerate().collect::<Vec<_>>());
        assert_eq!(standings.order(), [2, 3, 0, 1, 4, 5], "NaN is a score");
        stage(&mut standings, 2, &[(2, Some(-9.0)), (3, None), (0, Some(-9.0)), (1, None)]);
        assert_eq!(standings.order(), [0, 2, 3, 1, 4, 5]);
        let stages: Vec<u32> = (0..6).map(|document| standings.of(document).stage).collect();
        assert_eq!(stages, [2, 1, 2, 1, 0, 0]);
        assert_eq!((standings.of(3).score, standings.of(5).score), (3.0, f32::NEG_INFINITY));
    }

    #[test]
    fn top_n_and_min_score_bound_the_answer() {
        let mut standings = Standings::new(4);
        stage(&mut standings, 1, &[(0, Some(0.2)), (1, Some(0.7)), (2, Some(9.0)), (3, None)]);
        let one: [(_, _, &[usize]); 6] = [
            (None, None, &[2, 1, 0, 3]),
            (Some(2), None, &[2, 1]),
            (None, Some(0.5), &[2, 1]),
            (None, Some(f32::NEG_INFINITY), &[2, 1, 0, 3]),
            (Some(1), Some(0.5), &[2]),
            (Some(2), Some(9.5), &[]),
        ];
        for (top_n, min_score, expected) in one {
            let found: Vec<usize> = standings.answer(&job(1, top_n, min_score)).collect();
            assert_eq!(found, expected, "{top_n:?} {min_score:?}");
        }
        stage(&mut standings, 2, &[(2, Some(0.1)), (1, Some(0.6))]);
        // The first stage's 9.0 is on another scale.
        for (min_score, expected) in [(None, &[1, 2, 0, 3][..]), (Some(0.05), &[1, 2]), (Some(0.5), &[1])] {
            let found: Vec<usize> = standings.answer(&job(2, None, min_score)).collect();
            assert_eq!(found, expected, "{min_score:?}");
        }
    }

    #[test]
    fn why_there_is_no_score() {
        let mut standings = Standings::new(3);
        let nothing = DocumentUnits {
            first_unit: 0,
            chunks: Vec::new(),
            tokens: 0,
            truncated: false,
            source: Source::Nothing(Unavailable::Stale),
        };
        let waits = DocumentUnits { chunks: std::iter::once(0..1).collect(), source: Source::Store, ..nothing.clone() };
        let units = [nothing, waits];
        let scoring = Scoring::new(&job(1, None, None), Method::LateInteraction, &units);
        standings.take(1, &[0, 1], &units, &scoring);
        let sources: Vec<_> = (0..3).map(|document| standings.of(document).source).collect();
        assert_eq!(sources, [Some(Source::Nothing(Unavailable::Stale)), None, None]);
    }

    proptest! {
        #[test]
        fn an_order_holds_every_document_once_by_stage_then_score(
            stages in prop::collection::vec(prop::collection::vec(prop::option::of(-3_i8..3), 12), 1..4),
            keep in prop::collection::vec(1_usize..12, 3),
        ) {
            let mut standings = Standings::new(12);
            for (number, (scores, keep)) in (1..).zip(stages.iter().zip(keep)) {
                let before = standings.order().to_vec();
                let given = &before[..keep];
                let outcomes: Vec<_> = given.iter().map(|d| (*d, scores[*d].map(f32::from))).collect();
                stage(&mut standings, number, &outcomes);
                let order = standings.order();
                let mut sorted = order.to_vec();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..12).collect::<Vec<_>>());
                let place = |document: usize| before.iter().position(|d| *d == document);
                for pair in order.windows(2) {
                    let (a, b) = (standings.of(pair[0]), standings.of(pair[1]));
                    prop_assert!(a.stage >= b.stage);
                    if a.stage == number && b.stage == number {
                        prop_assert!(a.score > b.score || (a.score == b.score && pair[0] < pair[1]));
                    } else if a.stage != number {
                        prop_assert!(place(pair[0]) < place(pair[1]), "the rest kept their order");
                    }
                }
            }
        }
    }
}

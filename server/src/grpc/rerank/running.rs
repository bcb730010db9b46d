//! A stage under way, and what is heard of it.

use sluice_proto::rerank::v1::{ScoreUpdate, ScoredDocument};
use sluice_service::status::Refusal;
use tokio::time::{Instant, timeout_at};

use crate::{
    cached::Answer,
    engine::{EngineError, Progress, SlotValue},
    grpc::refusal,
    prepare::DocumentUnits,
    scoring::Scoring,
};

/// A stage under way.
pub(super) struct Running {
    /// Positions in the request of what it scores.
    pub(super) documents: Vec<usize>,
    pub(super) units: Vec<DocumentUnits>,
    /// Tokens of each unit that go through the model.
    pub(super) unit_tokens: Vec<u32>,
    /// Of the units that came back.
    pub(super) tokens: u64,
    pub(super) scoring: Scoring,
    pub(super) answer: Answer,
    /// From then on what it has is what it comes to.
    pub(super) end: Option<Instant>,
    /// When nobody wants its results any more.
    pub(super) deadline: Instant,
}

/// What a stage has come to.
pub(super) enum Heard {
    /// Documents that have just been scored, as they were given; at least one.
    Scores(Vec<(u32, f32)>),
    /// Everything is scored that can be.
    Done,
    /// Its time is over.
    Expired,
}

impl Running {
    /// Waits for the next scores, or for the stage's end.
    pub(super) async fn hear(&mut self) -> Result<Heard, Refusal> {
        loop {
            let progress = match self.end {
                None => self.answer.next().await,
                // What is there is taken, however late it is looked for.
                Some(end) => match timeout_at(end, self.answer.next()).await {
                    Ok(progress) => progress,
                    Err(_expired) => return Ok(Heard::Expired),
                },
            };
            match progress {
                Ok(Progress::Ready(results)) => {
                    let scored = self.absorb(results)?;
                    if !scored.is_empty() {
                        return Ok(Heard::Scores(scored));
                    }
                }
                Ok(Progress::Done) => return Ok(Heard::Done),
                // The scheduler's clock was first.
                Err(EngineError::Expired | EngineError::Unreachable)
                    if self.end.is_some_and(|end| end <= self.deadline) =>
                {
                    return Ok(Heard::Expired);
                }
                Err(error) => return Err(refusal(error)),
            }
        }
    }

    /// Takes results; documents whose score became final, as they were given.
    fn absorb(&mut self, results: Vec<(u32, SlotValue)>) -> Result<Vec<(u32, f32)>, Refusal> {
        let tokens = results.iter().filter_map(|(unit, _)| self.unit_tokens.get(*unit as usize));
        self.tokens += tokens.map(|tokens| u64::from(*tokens)).sum::<u64>();
        self.scoring.absorb(results).map_err(|error| {
            tracing::error!(%error, "a backend broke its contract");
            Refusal::Internal
        })
    }

    pub(super) fn update(&self, scores: Vec<(u32, f32)>, stage: usize, given: usize) -> ScoreUpdate {
        let document =
            |(place, score): (u32, f32)| ScoredDocument { index: count(self.documents[place as usize]), score };
        ScoreUpdate {
            documents: scores.into_iter().map(document).collect(),
            scored: count(self.scoring.scored()),
            total: count(given),
            stage: count(stage + 1),
        }
    }
}

/// A number of documents or stages on the wire: within its range for anything that was validated.
pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

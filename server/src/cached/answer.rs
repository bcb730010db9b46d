//! What a request hears.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::{Tokens, results::Results, waiting::Waiting};
use crate::engine::{self, EngineError, Progress, permit::Permit};

/// The scores of a request, as they come: those that are known first. Dropped before the end, it cancels the rest.
pub struct Answer(Kind);

enum Kind {
    Direct(Box<Direct>),
    Shared {
        waiting: Arc<Waiting>,
        /// Carries results, where there is something to wait for; ends with this.
        _carrier: Option<AbortOnDropHandle<()>>,
        _permit: Option<Permit>,
    },
}

/// All of a request, computed for it alone.
pub(super) struct Direct {
    pub(super) answer: engine::Answer,
    pub(super) results: Results,
    pub(super) tokens: Tokens,
}

impl Answer {
    pub(super) fn direct(direct: Direct) -> Self {
        Self(Kind::Direct(Box::new(direct)))
    }

    pub(super) fn shared(waiting: Arc<Waiting>, carrier: Option<JoinHandle<()>>, permit: Option<Permit>) -> Self {
        Self(Kind::Shared { waiting, _carrier: carrier.map(AbortOnDropHandle::new), _permit: permit })
    }

    /// What has become known since the last call; waits until there is something. Of the query there is nothing.
    ///
    /// # Errors
    /// The first thing that went wrong with any part of the request.
    pub async fn next(&mut self) -> Result<Progress, EngineError> {
        match &mut self.0 {
            Kind::Direct(direct) => direct.next().await,
            Kind::Shared { waiting, .. } => waiting.next().await,
        }
    }

    /// Time from submission to the first batch, zero until then; and the sum over the batches so far.
    #[must_use]
    pub fn times(&self) -> (Duration, Duration) {
        match &self.0 {
            Kind::Direct(direct) => direct.answer.times(),
            Kind::Shared { waiting, .. } => waiting.times(),
        }
    }

    /// Tokens that went through the model for this request so far, and those that did not have to.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        match &self.0 {
            Kind::Direct(direct) => direct.tokens,
            Kind::Shared { waiting, .. } => waiting.tokens(),
        }
    }
}

impl Direct {
    async fn next(&mut self) -> Result<Progress, EngineError> {
        loop {
            let Progress::Ready(results) = self.answer.next().await? else { return Ok(Progress::Done) };
            let scores = self.results.scores(results);
            if !scores.is_empty() {
                return Ok(Progress::Ready(scores));
            }
        }
    }
}

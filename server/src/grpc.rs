//! The gRPC services: decoding, deadlines, answers. The only module that knows tonic, besides [`serve`](crate::serve).

mod call;
mod encode;
mod explain;
mod model;
mod rerank;
mod rerank_many;
mod token_store;
mod token_vectors;

use rerank::AnswerMargin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sluice_service::{drain::Drain, status::Refusal};

use crate::{
    cached::CachedEngine,
    config::Limits,
    engine::{Engine, EngineError, permit::Permits},
    models::Models,
    prepare::Preparer,
    store::Store,
    tenants::Tenants,
};

/// What the services share. Complete only once the models are warm: until then calls are refused.
#[derive(Clone)]
pub struct App(Arc<Shared>);

struct Shared {
    limits: Limits,
    default_deadline: Duration,
    permits: Permits,
    preparer: Preparer,
    drain: Drain,
    tenants: Tenants,
    answer_margin: AnswerMargin,
    warm: OnceLock<Warm>,
}

/// The models, the engine that computes them, and what is kept of documents.
#[derive(Clone)]
pub struct Warm {
    /// Loaded and warmed up.
    pub models: Models,
    /// Running.
    pub engine: Engine,
    /// The same for documents' scores, which are kept.
    pub cached: CachedEngine,
    /// Token vectors of documents, if they are kept.
    pub store: Option<Store>,
}

/// What an [`App`] is made of before its models are there.
pub struct AppParts {
    /// Bounds of one request.
    pub limits: Limits,
    /// Deadline of a call that brings none.
    pub default_deadline: Duration,
    /// Room for all requests together.
    pub permits: Permits,
    /// Tokenizing.
    pub preparer: Preparer,
    /// Whether the server is stopping.
    pub drain: Drain,
    /// Who may call.
    pub tenants: Tenants,
}

impl App {
    /// An app that refuses calls until [`warm_up`](Self::warm_up).
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        let AppParts { limits, default_deadline, permits, preparer, drain, tenants } = parts;
        let (answer_margin, warm) = (AnswerMargin::default(), OnceLock::new());
        Self(Arc::new(Shared { limits, default_deadline, permits, preparer, drain, tenants, answer_margin, warm }))
    }

    /// Lets calls in. Once; later calls change nothing.
    pub fn warm_up(&self, warm: Warm) {
        let _ = self.0.warm.set(warm);
    }

    /// What serves, once it is there.
    pub(crate) fn warm(&self) -> Result<&Warm, Refusal> {
        self.0.warm.get().ok_or(Refusal::Unavailable {
            reason: "LOADING",
            message: "the models are still loading",
            retry_after: Some(Duration::from_secs(1)),
        })
    }
}

/// What a caller is told about a failure inside.
fn refusal(error: EngineError) -> Refusal {
    match error {
        EngineError::Expired => Refusal::DeadlineExceeded { phase: "queue" },
        EngineError::Unreachable => Refusal::DeadlineExceeded { phase: "unreachable" },
        EngineError::QueueFull => Refusal::ResourceExhausted {
            what: "queued units".to_owned(),
            limit: 0,
            retry_after: Duration::from_secs(1),
        },
        EngineError::Failed => Refusal::Internal,
        EngineError::DeviceLost => Refusal::Unavailable {
            reason: "DEVICE_LOST",
            message: "the device was lost while it computed this request",
            retry_after: Some(Duration::from_secs(1)),
        },
        EngineError::Stopped => {
            Refusal::Unavailable { reason: "DRAINING", message: "the server is stopping", retry_after: None }
        }
    }
}

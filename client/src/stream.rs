//! Answers that come in parts.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use sluice_proto::rerank::v1::{
    RerankManyResponse, RerankResponse, RerankStreamResponse, ScoreUpdate, StageOrder, rerank_many_response::Outcome,
    rerank_stream_response,
};
use tonic::Streaming;

use crate::{ClientError, StatusError, call::Deadline, client::Connection};

/// A part of a streamed answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// Scores that have just become known.
    Scores(ScoreUpdate),
    /// The order after a stage that is not the last.
    Stage(StageOrder),
    /// The complete answer; nothing comes after it.
    Response(RerankResponse),
}

/// The parts of one answer: scores and the orders of stages, then the complete answer as the last item, or an error in its place.
pub struct Updates(BoxStream<'static, Result<Update, ClientError>>);

/// The answer to one of many requests.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The request's id.
    pub request_id: String,
    /// Its ranking, or the status that a call of its own would have ended with.
    pub outcome: Result<RerankResponse, StatusError>,
}

/// Answers to many requests, as they are ready. An error is the call's and ends it.
pub struct Answers(BoxStream<'static, Result<Answer, ClientError>>);

impl Updates {
    pub(crate) fn new(
        first: Option<RerankStreamResponse>,
        rest: Streaming<RerankStreamResponse>,
        connection: Arc<Connection>,
        deadline: Deadline,
    ) -> Self {
        let messages = match first {
            Some(first) => stream::iter([Ok(first)]).chain(messages(rest, connection, deadline)).left_stream(),
            None => stream::empty().right_stream(),
        };
        Self(stream::unfold(Some(messages.boxed()), next_update).boxed())
    }
}

type Messages = BoxStream<'static, Result<RerankStreamResponse, ClientError>>;

/// One update, and what follows it: nothing, after the answer or an error.
async fn next_update(messages: Option<Messages>) -> Option<(Result<Update, ClientError>, Option<Messages>)> {
    let mut messages = messages?;
    loop {
        let update = match messages.next().await {
            Some(Ok(message)) => message.update,
            Some(Err(error)) => return Some((Err(error), None)),
            None => return Some((Err(ClientError::Protocol("a stream that ends before its answer")), None)),
        };
        match update {
            Some(rerank_stream_response::Update::Scores(scores)) => {
                return Some((Ok(Update::Scores(scores)), Some(messages)));
            }
            Some(rerank_stream_response::Update::Stage(order)) => {
                return Some((Ok(Update::Stage(order)), Some(messages)));
            }
            Some(rerank_stream_response::Update::Response(response)) => {
                return Some((Ok(Update::Response(response)), None));
            }
            // A kind of update that a later server has and we do not know; its answer still comes.
            None => {}
        }
    }
}

impl Answers {
    pub(crate) fn new(answers: Streaming<RerankManyResponse>, connection: Arc<Connection>, deadline: Deadline) -> Self {
        let answers = messages(answers, connection, deadline).map(|message| {
            let RerankManyResponse { request_id, outcome } = message?;
            let outcome = match outcome {
                Some(Outcome::Response(response)) => Ok(response),
                Some(Outcome::Error(error)) => Err(StatusError::from(error)),
                None => return Err(ClientError::Protocol("an answer with no outcome")),
            };
            Ok(Answer { request_id, outcome })
        });
        Self(answers.boxed())
    }
}

/// The messages of a call until it ends, fails or its deadline is there; a failure is the last item.
fn messages<M: Send + 'static>(
    incoming: Streaming<M>,
    connection: Arc<Connection>,
    deadline: Deadline,
) -> impl Stream<Item = Result<M, ClientError>> + Send + 'static {
    stream::unfold(Some((incoming, connection)), move |open| async move {
        let (mut incoming, connection) = open?;
        match deadline.bound(incoming.message()).await {
            Ok(message) => message.map(|message| (Ok(message), Some((incoming, connection)))),
            Err(status) => Some((Err(deadline.error(status.as_ref(), &connection, 1)), None)),
        }
    })
}

impl Stream for Updates {
    type Item = Result<Update, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Stream for Answers {
    type Item = Result<Answer, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updates").finish_non_exhaustive()
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

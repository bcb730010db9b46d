//! Answers to batches of documents.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use sluice_proto::retrieval::v1::{BatchError, BatchWritten, UpsertResponse, upsert_response::Outcome};
use tonic::{Code, Status, Streaming};

use crate::{ClientError, StatusError, call::Deadline, client::Connection};

/// What became of one batch.
#[derive(Debug, Clone)]
pub struct Acknowledgement {
    /// The batch's id.
    pub batch_id: u64,
    /// It is on disk, or why it is not acknowledged. With `DeadlineExceeded`, `Unavailable` or `Internal` it may have been
    /// written, or be written later: sending it again does no harm.
    pub outcome: Result<BatchWritten, StatusError>,
}

/// Acknowledgements in the order of their batches. An error is the call's and ends it.
pub struct Acknowledgements(BoxStream<'static, Result<Acknowledgement, ClientError>>);

impl Acknowledgements {
    pub(crate) fn new(answers: Streaming<UpsertResponse>, connection: Arc<Connection>, deadline: Deadline) -> Self {
        let next = move |answers: Option<Streaming<UpsertResponse>>| {
            let connection = Arc::clone(&connection);
            async move {
                let mut answers = answers?;
                let error = match deadline.bound(answers.message()).await {
                    Ok(None) => return None,
                    Ok(Some(answer)) => match acknowledgement(answer) {
                        Ok(acknowledgement) => return Some((Ok(acknowledgement), Some(answers))),
                        Err(error) => error,
                    },
                    Err(status) => deadline.error(status.as_ref(), &connection, 1),
                };
                Some((Err(error), None))
            }
        };
        Self(stream::unfold(Some(answers), next).boxed())
    }
}

fn acknowledgement(answer: UpsertResponse) -> Result<Acknowledgement, ClientError> {
    let outcome = match answer.outcome {
        Some(Outcome::Written(written)) => Ok(written),
        Some(Outcome::Error(BatchError { code, message, status_details })) => {
            let status = Status::with_details(Code::from_i32(code), message, status_details.into());
            Err(StatusError::from(&status))
        }
        None => return Err(ClientError::Protocol("an acknowledgement that says nothing")),
    };
    Ok(Acknowledgement { batch_id: answer.batch_id, outcome })
}

impl Stream for Acknowledgements {
    type Item = Result<Acknowledgement, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Acknowledgements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acknowledgements")
    }
}

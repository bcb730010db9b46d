//! Documents in, out and away.

use std::sync::Arc;

use sluice_proto::retrieval::v1 as messages;
use sluice_service::status::Refusal;
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Status, Streaming};

use super::{App, call::Call, wire};
use crate::{
    metrics as counted,
    store::{Collection, Write},
    validate,
};

type Answer = Result<messages::UpsertResponse, Status>;

/// A batch that was read: checked, or why it is refused.
struct ReadBatch {
    id: u64,
    checked: Result<CheckedBatch, Refusal>,
}

struct CheckedBatch {
    collection: Arc<dyn Collection>,
    documents: Vec<crate::document::Document>,
    content_hashes: Vec<Vec<u8>>,
}

impl App {
    /// Writes the batches of a call, one after the other, while the next ones are read and checked.
    pub(super) fn upsert_batches(
        &self,
        mut call: Call,
        batches: Streaming<messages::UpsertRequest>,
    ) -> mpsc::Receiver<Answer> {
        let (answers, stream) = mpsc::channel(self.0.limits.batches_in_flight_max);
        let (checked, mut to_write) = mpsc::channel(self.0.limits.batches_in_flight_max);
        let deadline = call.deadline;
        let reading = self.clone().read_batches(batches, checked, deadline);
        let app = self.clone();
        let writing = async move {
            while let Some(ReadBatch { id, checked }) = to_write.recv().await {
                let outcome = app.write_batch(checked, deadline).await;
                let answer = messages::UpsertResponse { batch_id: id, outcome: Some(outcome) };
                // Who has gone reads no more acknowledgements; what was read is written all the same.
                let _ = answers.send(Ok(answer)).await;
            }
            answers
        };
        tokio::spawn(async move {
            let (ended, answers) = tokio::join!(reading, writing);
            call.end(ended.as_ref().map_or_else(Status::code, |()| Code::Ok));
            if let Err(status) = ended {
                let _ = answers.send(Err(status)).await;
            }
        });
        stream
    }

    /// Reads until the caller has no more, the deadline passes or the shard stops.
    async fn read_batches(
        self,
        mut batches: Streaming<messages::UpsertRequest>,
        checked: mpsc::Sender<ReadBatch>,
        deadline: Instant,
    ) -> Result<(), Status> {
        let mut named = String::new();
        let mut stopping = Box::pin(self.0.drain.stopping());
        loop {
            let message = tokio::select! {
                message = batches.message() => message?,
                () = &mut stopping => {
                    let message = "the shard is stopping";
                    return Err(Refusal::Unavailable { reason: "DRAINING", message, retry_after: None }.into());
                }
                () = tokio::time::sleep_until(deadline) => {
                    return Err(Refusal::DeadlineExceeded { phase: "reading" }.into());
                }
            };
            let Some(request) = message else { return Ok(()) };
            if !request.collection.is_empty() {
                named = request.collection.clone();
            }
            let id = request.batch_id;
            let batch = ReadBatch { id, checked: self.check_batch(&named, request, deadline).await };
            if checked.send(batch).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn check_batch(
        &self,
        named: &str,
        request: messages::UpsertRequest,
        deadline: Instant,
    ) -> Result<CheckedBatch, Refusal> {
        let collection = self.collection("collection", named, deadline).await?;
        let limits = self.0.limits;
        let checking = self.0.writers.run(deadline, move || {
            let documents = validate::batch(request.documents, collection.schema(), &limits)?;
            let content = &collection.schema().content;
            let content_hashes = documents.iter().map(|document| content.hash(document).0.to_vec()).collect();
            Ok(CheckedBatch { collection, documents, content_hashes })
        });
        checking.await.map_err(super::not_done)?
    }

    async fn write_batch(
        &self,
        checked: Result<CheckedBatch, Refusal>,
        deadline: Instant,
    ) -> messages::upsert_response::Outcome {
        let begin = Instant::now();
        let result = async {
            let CheckedBatch { collection, documents, content_hashes } = checked?;
            let count = documents.len();
            let written = self.on_disk(deadline, move |_| collection.write(Write::Upsert(documents))).await?;
            Ok((messages::BatchWritten { lsn: written.lsn.0, content_hashes }, count))
        };
        match result.await {
            Ok((written, count)) => {
                counted::batch("written", count, begin.elapsed());
                messages::upsert_response::Outcome::Written(written)
            }
            Err(refusal) => {
                let refused = matches!(refusal, Refusal::InvalidArgument(_) | Refusal::NotFound { .. });
                counted::batch(if refused { "refused" } else { "failed" }, 0, begin.elapsed());
                messages::upsert_response::Outcome::Error(batch_error(refusal))
            }
        }
    }

    pub(super) async fn delete_documents(
        &self,
        request: messages::DeleteRequest,
        deadline: Instant,
    ) -> Result<messages::DeleteResponse, Refusal> {
        let collection = self.collection("collection", &request.collection, deadline).await?;
        let write = match validate::deletion(request, collection.schema(), &self.0.limits)? {
            validate::Deletion::Ids(ids) => Write::Delete(ids),
            validate::Deletion::Where(filter) => Write::DeleteWhere(filter),
        };
        let written = self.on_disk(deadline, move |_| collection.write(write)).await?;
        counted::deleted(written.deleted);
        Ok(messages::DeleteResponse { deleted: written.deleted, lsn: written.lsn.0 })
    }

    pub(super) async fn get_documents(
        &self,
        request: messages::GetRequest,
        deadline: Instant,
    ) -> Result<messages::GetResponse, Refusal> {
        let collection = self.collection("collection", &request.collection, deadline).await?;
        validate::ids(&request.ids, self.0.limits.documents_per_batch_max)?;
        let projection = validate::projection(request.projection, collection.schema())?;
        let work = move || {
            let read = collection.read(&request.ids, &projection)?;
            let mut response = messages::GetResponse { lsn: read.lsn.0, ..messages::GetResponse::default() };
            for (id, found) in request.ids.into_iter().zip(read.documents) {
                match found {
                    Some(document) => response.documents.push(wire::stored_document(document, &projection)),
                    None => response.missing.push(id),
                }
            }
            Ok(response)
        };
        self.on_disk(deadline, move |_| work()).await
    }
}

fn batch_error(refusal: Refusal) -> messages::BatchError {
    let status = Status::from(refusal);
    messages::BatchError {
        code: status.code().into(),
        message: status.message().to_owned(),
        status_details: status.details().to_vec(),
    }
}

//! Calls to a first-stage shard: collections, documents, searches.
//!
//! A [`Client`] that is connected to a shard makes them; messages are those of [`proto::retrieval::v1`](crate::proto).
//! What an encoder is given of a document is [`content`].

mod acknowledgement;

use futures_util::Stream;
use sluice_proto::retrieval::v1::{
    Collection, CollectionStats, CreateCollectionRequest, DeleteRequest, DeleteResponse, DropCollectionRequest,
    ExplainRequest, ExplainResponse, GetRequest, GetResponse, ListCollectionsRequest, RestoreRequest, RestoreResponse,
    Schema, SearchRequest, SearchResponse, SetAliasRequest, SnapshotRequest, SnapshotResponse, StatsRequest,
    UpsertRequest, retrieval_service_client::RetrievalServiceClient,
};

pub use self::acknowledgement::{Acknowledgement, Acknowledgements};
use crate::{
    Client, ClientError,
    call::Deadline,
    client::{stub, unary},
};

/// Between two texts of a document's content where the schema does not say.
const SEPARATOR_DEFAULT: &str = ". ";

/// The text that models encode of a document with these texts, and whose SHA-256 is its content hash: the schema's
/// content fields that are not empty, in order, joined. `text` gives a field's text, empty where there is none.
#[must_use]
pub fn content<'a>(schema: &'a Schema, text: impl Fn(&str) -> &'a str) -> String {
    let content = schema.content.as_ref();
    let separator = content.and_then(|content| content.separator.as_deref()).unwrap_or(SEPARATOR_DEFAULT);
    let named = content.map(|content| content.fields.as_slice()).unwrap_or_default();
    let all = schema.texts.iter().map(|field| field.name.as_str()).filter(|_| named.is_empty());
    let texts = named.iter().map(String::as_str).chain(all).map(text).filter(|text| !text.is_empty());
    texts.collect::<Vec<_>>().join(separator)
}

impl Client {
    /// Every collection of a shard, by name.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn list_collections(&self) -> Result<Vec<Collection>, ClientError> {
        Ok(unary!(self, RetrievalServiceClient, list_collections, ListCollectionsRequest {})?.collections)
    }

    /// Creates an empty collection, and describes it with every default filled in.
    ///
    /// It is tried again like any other call; where the answer to an attempt was lost, the next one finds the name taken.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank), and [`ClientError::Protocol`] if the answer is empty.
    pub async fn create_collection(&self, name: &str, schema: Schema) -> Result<Collection, ClientError> {
        let request = CreateCollectionRequest { name: name.to_owned(), schema: Some(schema) };
        let answer = unary!(self, RetrievalServiceClient, create_collection, request)?;
        answer.collection.ok_or(ClientError::Protocol("a description of no collection"))
    }

    /// Removes a collection with everything in it; how many documents there were.
    ///
    /// It is tried again like any other call; where the answer to an attempt was lost, the next one finds nothing.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn drop_collection(&self, name: &str) -> Result<u64, ClientError> {
        let request = DropCollectionRequest { name: name.to_owned() };
        Ok(unary!(self, RetrievalServiceClient, drop_collection, request)?.documents)
    }

    /// Gives a collection another name, or moves that name to it; what it stood for before, empty if for nothing.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn set_alias(&self, alias: &str, collection: &str) -> Result<String, ClientError> {
        let request = SetAliasRequest { alias: alias.to_owned(), collection: collection.to_owned() };
        Ok(unary!(self, RetrievalServiceClient, set_alias, request)?.previous)
    }

    /// What a collection weighs, and how far its indexes have come; an empty name is all of them.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn collection_stats(&self, collection: &str) -> Result<Vec<CollectionStats>, ClientError> {
        let request = StatsRequest { collection: collection.to_owned() };
        Ok(unary!(self, RetrievalServiceClient, stats, request)?.collections)
    }

    /// Writes batches of documents over one call, each durable once it is acknowledged, in the order in which they came.
    ///
    /// Nothing is tried again: `batches` is consumed as it is sent, and the shard reads it no faster than it writes. To
    /// write a batch twice does no harm. The deadline is that of the whole call, so choose it with
    /// [`with_deadline`](Self::with_deadline). A batch above `max_message_size` ends the call.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank); the stream's items may be errors too, and end it.
    pub async fn upsert<S>(&self, batches: S) -> Result<Acknowledgements, ClientError>
    where
        S: Stream<Item = UpsertRequest> + Send + 'static,
    {
        let mut stub = stub!(self, RetrievalServiceClient);
        let deadline = Deadline::starting_now(self.deadline);
        let opened = deadline.bound(stub.upsert(deadline.stamp(batches, &self.connection))).await;
        let answers = opened.map_err(|status| deadline.error(status.as_ref(), &self.connection, 1))?;
        Ok(Acknowledgements::new(answers.into_inner(), std::sync::Arc::clone(&self.connection), deadline))
    }

    /// Reads documents by id: the last acknowledged write always shows.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn get_documents(&self, request: GetRequest) -> Result<GetResponse, ClientError> {
        unary!(self, RetrievalServiceClient, get, request)
    }

    /// Removes documents, durably. It is tried again like any other call; what an attempt whose answer was lost has
    /// removed, the next one does not count.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn delete_documents(&self, request: DeleteRequest) -> Result<DeleteResponse, ClientError> {
        unary!(self, RetrievalServiceClient, delete, request)
    }

    /// Searches a collection.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn search(&self, request: SearchRequest) -> Result<SearchResponse, ClientError> {
        unary!(self, RetrievalServiceClient, search, request)
    }

    /// Why documents stand where they do in a search.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn explain_search(&self, request: ExplainRequest) -> Result<ExplainResponse, ClientError> {
        unary!(self, RetrievalServiceClient, explain, request)
    }

    /// Copies a collection, while it serves. Large ones take longer than most calls: see
    /// [`with_deadline`](Self::with_deadline).
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn snapshot(&self, collection: &str, name: &str) -> Result<SnapshotResponse, ClientError> {
        let request = SnapshotRequest { collection: collection.to_owned(), name: name.to_owned() };
        unary!(self, RetrievalServiceClient, snapshot, request)
    }

    /// Makes a collection from such a copy.
    ///
    /// # Errors
    ///
    /// As [`rerank`](Self::rerank).
    pub async fn restore(&self, snapshot: &str, collection: &str) -> Result<RestoreResponse, ClientError> {
        let request = RestoreRequest { snapshot: snapshot.to_owned(), collection: collection.to_owned() };
        unary!(self, RetrievalServiceClient, restore, request)
    }
}

#[cfg(test)]
mod tests {
    use sluice_proto::retrieval::v1::{Content, TextField};

    use super::*;

    #[test]
    fn content_is_what_the_schema_says() {
        let texts = ["title", "text"].map(|name| TextField { name: name.into(), ..TextField::default() }).to_vec();
        let bare = Schema { texts, ..Schema::default() };
        let reversed = Content { fields: vec!["text".into(), "title".into()], separator: Some(" | ".into()) };
        let unspoken = Content::default();
        let cases: [(Option<Content>, &[(&str, &str)], &str); 6] = [
            (None, &[("title", "A"), ("text", "B")], "A. B"),
            (Some(unspoken), &[("title", "A"), ("text", "B")], "A. B"),
            (None, &[("text", "B")], "B"),
            (None, &[("title", "A"), ("text", "")], "A"),
            (None, &[("other", "C")], ""),
            (Some(reversed), &[("title", "A"), ("text", "B")], "B | A"),
        ];
        for (content, texts, expected) in cases {
            let schema = Schema { content, ..bare.clone() };
            let text = |name: &str| texts.iter().find(|(field, _)| *field == name).map_or("", |(_, text)| *text);
            assert_eq!(super::content(&schema, text), expected);
        }
    }
}

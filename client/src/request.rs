//! How to write a request.

use std::time::Duration;

use sluice_proto::rerank::v1::{
    Document, LongDocument, Method, Query, RerankManyRequest, RerankRequest, ScoreKind, document, query,
};

/// Writes a [`RerankRequest`]: a query, its documents, and what differs from the server's defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rerank(RerankRequest);

impl Rerank {
    /// A request to score documents against `query`.
    #[must_use]
    pub fn new(query: impl Into<String>) -> Self {
        Self::default().query(query)
    }

    /// Sets the query, e.g. of a default request that others are cloned from.
    #[must_use]
    pub fn query(mut self, text: impl Into<String>) -> Self {
        self.0.query = Some(Query { content: Some(query::Content::Text(text.into())) });
        self
    }

    /// Adds a candidate. `id` comes back with its result, and may be empty.
    #[must_use]
    pub fn document(mut self, id: impl Into<String>, text: impl Into<String>) -> Self {
        let content = document::Content::Text(text.into());
        self.0.documents.push(Document { id: id.into(), content: Some(content) });
        self
    }

    /// Adds candidates, each an id and a text.
    #[must_use]
    pub fn documents<I, T>(self, documents: impl IntoIterator<Item = (I, T)>) -> Self
    where
        I: Into<String>,
        T: Into<String>,
    {
        documents.into_iter().fold(self, |request, (id, text)| request.document(id, text))
    }

    /// Asks for a model by name; without, the server's default model answers.
    #[must_use]
    pub fn model(mut self, name: impl Into<String>) -> Self {
        self.0.model = name.into();
        self
    }

    /// How to score; without, what the model is made for.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.0.set_method(method);
        self
    }

    /// Results to return; 0 means all.
    #[must_use]
    pub fn top_n(mut self, results: u32) -> Self {
        self.0.top_n = results;
        self
    }

    /// Leaves out results with a lower score.
    #[must_use]
    pub fn min_score(mut self, score: f32) -> Self {
        self.0.min_score = Some(score);
        self
    }

    /// Asks for the texts of the results too.
    #[must_use]
    pub fn return_text(mut self, wanted: bool) -> Self {
        self.0.return_text = wanted;
        self
    }

    /// Tokens of a document that are read at once; 0 means what fits.
    #[must_use]
    pub fn max_tokens_per_document(mut self, tokens: u32) -> Self {
        self.0.truncation.get_or_insert_default().max_tokens_per_document = tokens;
        self
    }

    /// What happens to a document that is longer than that.
    #[must_use]
    pub fn long_document(mut self, policy: LongDocument) -> Self {
        self.0.truncation.get_or_insert_default().set_long_document(policy);
        self
    }

    /// Scale of the scores.
    #[must_use]
    pub fn score_kind(mut self, kind: ScoreKind) -> Self {
        self.0.set_score_kind(kind);
        self
    }

    /// This request as one of many on a call: `request_id` is not empty and unique among those in
    /// flight, `timeout` its own time limit.
    #[must_use]
    pub fn one_of_many(self, request_id: impl Into<String>, timeout: Option<Duration>) -> RerankManyRequest {
        RerankManyRequest {
            request_id: request_id.into(),
            request: Some(self.0),
            // Only what is beyond 292 billion years does not fit, and that is no limit.
            timeout: timeout.and_then(|limit| limit.try_into().ok()),
        }
    }
}

impl From<Rerank> for RerankRequest {
    fn from(request: Rerank) -> Self {
        request.0
    }
}

#[cfg(test)]
mod tests {
    use sluice_proto::rerank::v1::Truncation;

    use super::*;

    fn text(text: &str) -> Option<document::Content> {
        Some(document::Content::Text(text.into()))
    }

    #[test]
    fn says_what_was_asked_and_nothing_else() {
        let bare = RerankRequest {
            query: Some(Query { content: Some(query::Content::Text("q".into())) }),
            ..RerankRequest::default()
        };
        assert_eq!(RerankRequest::from(Rerank::new("q")), bare);

        let full = Rerank::new("q")
            .document("a", "first")
            .documents([("b", "second"), ("", "third")])
            .model("m")
            .method(Method::CrossEncoder)
            .top_n(2)
            .min_score(-0.5)
            .return_text(true)
            .max_tokens_per_document(64)
            .long_document(LongDocument::ChunkMax)
            .score_kind(ScoreKind::Sigmoid);
        let expected = RerankRequest {
            model: "m".into(),
            documents: vec![
                Document { id: "a".into(), content: text("first") },
                Document { id: "b".into(), content: text("second") },
                Document { id: String::new(), content: text("third") },
            ],
            method: Method::CrossEncoder as i32,
            top_n: 2,
            min_score: Some(-0.5),
            return_text: true,
            truncation: Some(Truncation { max_tokens_per_document: 64, long_document: LongDocument::ChunkMax as i32 }),
            score_kind: ScoreKind::Sigmoid as i32,
            ..bare
        };
        assert_eq!(RerankRequest::from(full), expected);
    }

    #[test]
    fn one_of_many_carries_its_own_time_limit() {
        let timed = Rerank::new("q").one_of_many("7", Some(Duration::from_millis(1500)));
        assert_eq!(timed.request_id, "7");
        assert_eq!(timed.timeout.map(|limit| (limit.seconds, limit.nanos)), Some((1, 500_000_000)));
        assert_eq!(Rerank::new("q").one_of_many("7", None).timeout, None);
    }
}

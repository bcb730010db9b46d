//! How to write a request to have documents scored.

use std::time::Duration;

use sluice_proto::{
    model::v1::Embedding,
    rerank::v1::{
        CachePolicy, Document, ExplainRequest, LongDocument, Method, Priority, Query, RerankManyRequest, RerankRequest,
        ScoreKind, StoredDocument, document, query,
    },
};

use crate::{Budget, ContentHash, Stage};

/// What both requests say: a model, a query and documents. They share no type on the wire.
macro_rules! query_and_documents {
    () => {
        /// Sets the query, e.g. of a default request that others are cloned from.
        #[must_use]
        pub fn query(mut self, text: impl Into<String>) -> Self {
            self.0.query = Some(Query { content: Some(query::Content::Text(text.into())) });
            self
        }

        /// Sets the query to token vectors, one row per token: late interaction only.
        /// [`Matrix::to_embedding`](crate::Matrix::to_embedding) makes them.
        #[must_use]
        pub fn query_embedding(mut self, vectors: Embedding) -> Self {
            self.0.query = Some(Query { content: Some(query::Content::Embedding(vectors)) });
            self
        }

        /// Adds a candidate. `id` comes back with its result, and may be empty.
        #[must_use]
        pub fn document(self, id: impl Into<String>, text: impl Into<String>) -> Self {
            self.with(id.into(), document::Content::Text(text.into()))
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

        /// Adds a candidate as token vectors, one row per token: late interaction only.
        /// [`Matrix::to_embedding`](crate::Matrix::to_embedding) makes them.
        #[must_use]
        pub fn embedding(self, id: impl Into<String>, vectors: Embedding) -> Self {
            self.with(id.into(), document::Content::Embedding(vectors))
        }

        /// Adds a candidate that the server's token store holds, whatever its text was: late interaction only. One that
        /// it does not hold is left unscored.
        #[must_use]
        pub fn stored(self, id: impl Into<String>, namespace: impl Into<String>) -> Self {
            let stored = StoredDocument { namespace: namespace.into(), ..StoredDocument::default() };
            self.with(id.into(), document::Content::Stored(stored))
        }

        /// Adds a candidate that the token store holds, made from the text with this [hash](crate::content_hash). One
        /// that it does not hold, or made from another text, is left unscored.
        #[must_use]
        pub fn stored_as(self, id: impl Into<String>, namespace: impl Into<String>, hash: ContentHash) -> Self {
            let stored = StoredDocument { namespace: namespace.into(), content_hash: hash.to_vec(), text: None };
            self.with(id.into(), document::Content::Stored(stored))
        }

        /// Adds a candidate that the token store holds, made from `text`. One that it does not hold, or made from
        /// another text, is encoded from `text`, and its result says so.
        #[must_use]
        pub fn stored_or(self, id: impl Into<String>, namespace: impl Into<String>, text: impl Into<String>) -> Self {
            // Without a hash the server takes that of the text.
            let stored =
                StoredDocument { namespace: namespace.into(), text: Some(text.into()), ..StoredDocument::default() };
            self.with(id.into(), document::Content::Stored(stored))
        }

        /// Asks for a model by name; without, the server's default model answers.
        #[must_use]
        pub fn model(mut self, name: impl Into<String>) -> Self {
            self.0.model = name.into();
            self
        }

        fn with(mut self, id: String, content: document::Content) -> Self {
            self.0.documents.push(Document { id, content: Some(content) });
            self
        }
    };
}

/// Writes a [`RerankRequest`]: a query, its documents, and what differs from the server's defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rerank(RerankRequest);

impl Rerank {
    /// A request to score documents against `query`.
    #[must_use]
    pub fn new(query: impl Into<String>) -> Self {
        Self::default().query(query)
    }

    query_and_documents!();

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

    /// Works in stages, each over the best of the one before; instead of [`method`](Self::method).
    #[must_use]
    pub fn stages(mut self, stages: impl IntoIterator<Item = Stage>) -> Self {
        self.0.stages = stages.into_iter().map(Into::into).collect();
        self
    }

    /// Who goes first when there is more work than can be done at once.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.0.set_priority(priority);
        self
    }

    /// How much may be spent; the answer then comes with the best order known, and says that it is partial.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.0.budget = Some(budget.into());
        self
    }

    /// Whether scores that are known already are used.
    #[must_use]
    pub fn cache(mut self, policy: CachePolicy) -> Self {
        self.0.set_cache(policy);
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

/// Writes an [`ExplainRequest`]: a query and the documents whose late-interaction scores are to be taken apart.
///
/// The text of a [stored](Self::stored_or) document lets the answer name its tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Explain(ExplainRequest);

impl Explain {
    /// A request to explain documents' scores against `query`.
    #[must_use]
    pub fn new(query: impl Into<String>) -> Self {
        Self::default().query(query)
    }

    query_and_documents!();
}

impl From<Rerank> for RerankRequest {
    fn from(request: Rerank) -> Self {
        request.0
    }
}

impl From<Explain> for ExplainRequest {
    fn from(request: Explain) -> Self {
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
            .score_kind(ScoreKind::Sigmoid)
            .stages([Stage::new(Method::Dense).top_k(5), Stage::new(Method::CrossEncoder)])
            .priority(Priority::Bulk)
            .budget(Budget::default().pairs(3))
            .cache(CachePolicy::Bypass);
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
            stages: vec![Stage::new(Method::Dense).top_k(5).into(), Stage::new(Method::CrossEncoder).into()],
            priority: Priority::Bulk as i32,
            budget: Some(Budget::default().pairs(3).into()),
            cache: CachePolicy::Bypass as i32,
            ..bare
        };
        assert_eq!(RerankRequest::from(full), expected);
    }

    #[test]
    fn vectors_and_stored_documents_in_both_requests() {
        let vectors = Embedding { data: vec![0; 8].into(), dtype: 1, rows: 1, dim: 2, scales: Vec::new().into() };
        let hash = [7; 32];
        let stored = |content_hash: &[u8], text: Option<&str>| {
            Some(document::Content::Stored(StoredDocument {
                namespace: "n".into(),
                content_hash: content_hash.to_vec(),
                text: text.map(str::to_owned),
            }))
        };
        let query = Some(Query { content: Some(query::Content::Embedding(vectors.clone())) });
        let documents = [
            ("a", Some(document::Content::Embedding(vectors.clone()))),
            ("b", stored(&[], None)),
            ("c", stored(&hash, None)),
            ("d", stored(&[], Some("text"))),
            ("e", text("plain")),
        ];
        let documents = documents.map(|(id, content)| Document { id: id.into(), content }).to_vec();

        macro_rules! written {
            ($request:expr) => {
                $request
                    .query_embedding(vectors.clone())
                    .embedding("a", vectors.clone())
                    .stored("b", "n")
                    .stored_as("c", "n", hash)
                    .stored_or("d", "n", "text")
                    .document("e", "plain")
                    .model("m")
            };
        }
        let expected = ExplainRequest { model: "m".into(), query: query.clone(), documents: documents.clone() };
        assert_eq!(ExplainRequest::from(written!(Explain::new("replaced"))), expected);
        let expected = RerankRequest { model: "m".into(), query, documents, ..RerankRequest::default() };
        assert_eq!(RerankRequest::from(written!(Rerank::default())), expected);
    }

    #[test]
    fn one_of_many_carries_its_own_time_limit() {
        let timed = Rerank::new("q").one_of_many("7", Some(Duration::from_millis(1500)));
        assert_eq!(timed.request_id, "7");
        assert_eq!(timed.timeout.map(|limit| (limit.seconds, limit.nanos)), Some((1, 500_000_000)));
        assert_eq!(Rerank::new("q").one_of_many("7", None).timeout, None);
    }
}

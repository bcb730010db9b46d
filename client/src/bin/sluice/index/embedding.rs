//! What a server makes of documents: vectors, and token vectors that it keeps.

use std::{ops::Range, time::Duration};

use anyhow::{Context, anyhow, bail, ensure};
use sluice_client::{
    Client, ClientError, Code, Embedding, EmbeddingKind, EncodeRequest, Model, PutTokens, content_hash,
    proto::retrieval::v1::{PayloadValue, payload_value::Kind},
};

use super::end::End;

/// Documents that the server is given in one call. Several batches are under way at once: it has enough to fill its own,
/// and a slow one is done with each call in time.
const DOCUMENTS_PER_CALL_MAX: usize = 32;
/// Where at least so many documents are embedded at once and none can be, the fault is not theirs.
const FAILURES_IN_A_ROW_MAX: usize = 8;

/// A server, and what it is to make.
#[derive(Debug)]
pub(super) struct Encoder {
    pub client: Client,
    /// The dense vector that embeddings go to, and the model that makes them.
    pub dense: Option<(String, Maker)>,
    pub tokens: Option<Tokens>,
}

/// Where token vectors are kept, and the model that makes them.
#[derive(Debug)]
pub(super) struct Tokens {
    pub namespace: String,
    pub maker: Maker,
}

/// A model as documents' payload names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maker {
    pub name: String,
    pub digest: String,
}

impl Maker {
    /// NAME@DIGEST.
    pub(super) fn signature(&self) -> PayloadValue {
        signature(&self.name, &self.digest)
    }

    /// Whether this is the signature of the same model, whatever its name was.
    pub(super) fn has_signed(&self, value: &PayloadValue) -> bool {
        signed(value) == Some(&self.digest)
    }
}

impl Tokens {
    /// NAME@DIGEST/NAMESPACE: what is kept in one namespace is not in another.
    pub(super) fn signature(&self) -> PayloadValue {
        signature(&self.maker.name, &self.digest_and_namespace())
    }

    /// Whether this is the signature of the same model in the same namespace.
    pub(super) fn has_signed(&self, value: &PayloadValue) -> bool {
        signed(value) == Some(&self.digest_and_namespace())
    }

    fn digest_and_namespace(&self) -> String {
        format!("{}/{}", self.maker.digest, self.namespace)
    }
}

fn signature(name: &str, signed: &str) -> PayloadValue {
    PayloadValue { kind: Some(Kind::StringValue(format!("{name}@{signed}"))) }
}

/// What follows the name, which may have an `@` itself.
fn signed(value: &PayloadValue) -> Option<&str> {
    let Some(Kind::StringValue(text)) = &value.kind else { return None };
    text.rsplit_once('@').map(|(_, signed)| signed)
}

impl From<Model> for Maker {
    fn from(model: Model) -> Self {
        Self { name: model.name, digest: model.digest }
    }
}

impl Encoder {
    /// The vector of each text, or why it has none; all of them before `end`.
    pub(super) async fn embed(&self, texts: &[String], end: End) -> anyhow::Result<Vec<Result<Embedding, String>>> {
        let (_, maker) = self.dense.as_ref().context("no vector is wanted")?;
        in_parts(texts.len(), end, async |part, time| {
            let request = EncodeRequest {
                model: maker.name.clone(),
                texts: texts[part].to_vec(),
                kind: EmbeddingKind::Dense.into(),
                ..EncodeRequest::default()
            };
            let answer = self.client.with_deadline(time).encode(request).await?;
            check_digest(maker, &answer.model_digest)?;
            let vectors = answer.results.into_iter().map(|result| result.embedding);
            vectors.collect::<Option<_>>().ok_or(ClientError::Protocol("a text without its embedding"))
        })
        .await
        .context("embedding documents")
    }

    /// Has the token vectors of these documents, each an id and a text, kept before `end`; or says why one is not.
    pub(super) async fn put(
        &self,
        documents: &[(String, String)],
        end: End,
    ) -> anyhow::Result<Vec<Result<(), String>>> {
        let Tokens { namespace, maker } = self.tokens.as_ref().context("no token vectors are wanted")?;
        in_parts(documents.len(), end, async |part, time| {
            let documents = &documents[part];
            let request = PutTokens::new(namespace).model(&maker.name).documents(documents.iter().cloned());
            let answer = self.client.with_deadline(time).put_tokens(request).await?;
            check_digest(maker, &answer.model_digest)?;
            let stored = answer.documents.iter().map(|stored| (&stored.id, stored.content_hash.clone()));
            if !stored.eq(documents.iter().map(|(id, text)| (id, content_hash(text).to_vec()))) {
                return Err(ClientError::Protocol("token vectors of other documents than were put"));
            }
            Ok(vec![(); documents.len()])
        })
        .await
        .context("storing token vectors")
    }
}

/// What a model makes is compared by its digest: it must not be another one in the middle.
fn check_digest(maker: &Maker, digest: &str) -> Result<(), ClientError> {
    if maker.digest == digest {
        return Ok(());
    }
    Err(ClientError::Protocol("its model is another one than when indexing began; start over"))
}

/// Calls with parts of all, and with halves of what is refused, down to single ones: one bad document costs itself alone.
/// Each call is told the time that it has, which is what is left until `end`.
async fn in_parts<T>(
    count: usize,
    end: End,
    call: impl AsyncFn(Range<usize>, Duration) -> Result<Vec<T>, ClientError>,
) -> anyhow::Result<Vec<Result<T, String>>> {
    let mut answers = Vec::with_capacity(count);
    // The first part is the last here.
    let starts = (0..count).step_by(DOCUMENTS_PER_CALL_MAX).rev();
    let mut parts: Vec<_> = starts.map(|start| start..count.min(start + DOCUMENTS_PER_CALL_MAX)).collect();
    while let Some(part) = parts.pop() {
        let time = end.time_for_a_call()?;
        // What needs more than its time needs, of a half, more than half of it.
        let halves_may_do = |error: &ClientError| is_about_documents(error) || is_late(error) && 2 * end.left() > time;
        match call(part.clone(), time).await {
            Ok(found) => {
                ensure!(found.len() == part.len(), "{} answers for {} documents", found.len(), part.len());
                answers.extend(found.into_iter().map(Ok));
            }
            Err(error) if part.len() > 1 && halves_may_do(&error) => {
                let middle = part.start + part.len() / 2;
                parts.extend([middle..part.end, part.start..middle]);
            }
            Err(error) if is_about_documents(&error) => answers.push(Err(error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    if count >= FAILURES_IN_A_ROW_MAX
        && answers.iter().all(Result::is_err)
        && let Some(Err(reason)) = answers.first()
    {
        bail!(anyhow!("none of {count} documents in a row could be: {reason}"));
    }
    Ok(answers)
}

/// Whether fewer documents, or others, may be taken.
fn is_about_documents(error: &ClientError) -> bool {
    match error {
        ClientError::TooLarge { .. } => true,
        ClientError::Status(status) => match status.code {
            Code::InvalidArgument => status
                .field_violations
                .iter()
                .any(|violation| ["texts", "documents"].iter().any(|field| violation.field.starts_with(field))),
            code => matches!(code, Code::OutOfRange | Code::Internal | Code::Unknown | Code::DataLoss),
        },
        _ => false,
    }
}

/// Whether it was too much for the time that it had.
fn is_late(error: &ClientError) -> bool {
    error.code() == Some(Code::DeadlineExceeded)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use sluice_client::{FieldViolation, StatusError};
    use tokio::time::{Instant, sleep};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn refused(code: Code, field: &str) -> ClientError {
        ClientError::Status(Box::new(StatusError {
            code,
            message: "bad".to_owned(),
            field_violations: vec![FieldViolation { field: field.to_owned(), description: "bad".to_owned() }],
            retry_after: None,
            reason: None,
            attempts: 1,
        }))
    }

    /// Doubles numbers, unless a bad one is among them.
    async fn doubled(count: usize, bad: &[usize], code: Code) -> Result<Vec<Option<usize>>, String> {
        let call = async |part: Range<usize>, _| {
            if part.clone().any(|number| bad.contains(&number)) {
                return Err(refused(code, "texts[0]"));
            }
            Ok(part.map(|number| 2 * number).collect())
        };
        let answers = in_parts(count, End::after(MINUTE), call).await.map_err(|error| error.to_string())?;
        Ok(answers.into_iter().map(Result::ok).collect())
    }

    #[tokio::test]
    async fn a_bad_document_costs_itself_alone() {
        let found = doubled(5, &[1, 4], Code::Internal).await;
        assert_eq!(found, Ok(vec![Some(0), None, Some(4), Some(6), None]));
        assert_eq!(doubled(0, &[], Code::Internal).await, Ok(vec![]));
        assert_eq!(doubled(1, &[0], Code::InvalidArgument).await, Ok(vec![None]));
        let all: Vec<usize> = (0..8).collect();
        let error = doubled(8, &all, Code::Internal).await.unwrap_err();
        assert!(error.starts_with("none of 8 documents"), "{error}");
        for code in [Code::Unavailable, Code::NotFound, Code::Unauthenticated, Code::DeadlineExceeded] {
            assert!(doubled(5, &[1], code).await.is_err(), "{code:?}");
        }
        assert!(!is_about_documents(&refused(Code::InvalidArgument, "model")));
    }

    /// A server that needs a second for a document and refuses what it cannot do in time; or answers nothing, if it is
    /// deaf. What came of so many documents, how many each call had, and how many seconds it took.
    async fn asked(count: usize, seconds: u64, deaf: bool) -> (Result<Vec<usize>, String>, Vec<usize>, u64) {
        let calls = RefCell::new(Vec::new());
        let call = async |part: Range<usize>, time: Duration| {
            calls.borrow_mut().push(part.len());
            let needed = Duration::from_secs(part.len() as u64);
            if deaf {
                sleep(time).await;
            }
            if deaf || needed > time {
                return Err(refused(Code::DeadlineExceeded, ""));
            }
            sleep(needed).await;
            Ok(part.collect())
        };
        let start = Instant::now();
        let answers = in_parts(count, End::after(Duration::from_secs(seconds)), call).await;
        let answers = answers.map_err(|error| error.to_string());
        let found = answers.map(|answers| answers.into_iter().map(Result::unwrap).collect());
        (found, calls.into_inner(), start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_gets_fewer_at_once() {
        let calls = RefCell::new(Vec::new());
        let call = async |part: Range<usize>, _| {
            calls.borrow_mut().push(part.len());
            if part.len() > 10 { Err(refused(Code::DeadlineExceeded, "")) } else { Ok(part.collect()) }
        };
        let answers = in_parts(40, End::after(MINUTE), call).await.unwrap();
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
        assert_eq!(calls.into_inner(), [32, 16, 8, 8, 16, 8, 8, 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_calls_of_a_batch_have_one_end() {
        let (found, calls, seconds) = asked(40, 60, false).await;
        assert_eq!((found.unwrap().len(), calls, seconds), (40, vec![32, 8], 40));
        // The first half of it gets done.
        let (found, calls, seconds) = asked(32, 20, false).await;
        assert_eq!((calls, seconds), (vec![32, 16, 16, 8, 4], 20));
        assert_eq!(found.unwrap_err(), "not done within 20s");
        // Whoever says nothing is not asked again.
        let (found, calls, seconds) = asked(40, 20, true).await;
        assert_eq!((calls, seconds), (vec![32], 20));
        assert!(found.unwrap_err().starts_with("DEADLINE_EXCEEDED"));
    }

    #[test]
    fn a_signature_is_of_the_digest() {
        let maker = |name: &str, digest: &str| Maker { name: name.into(), digest: digest.into() };
        let mini = maker("org@mini", "c0ffee");
        assert!(mini.has_signed(&mini.signature()) && maker("renamed", "c0ffee").has_signed(&mini.signature()));
        assert!(!maker("org@mini", "c0ffe").has_signed(&mini.signature()));
        assert!(!mini.has_signed(&PayloadValue { kind: Some(Kind::StringValue("c0ffee".into())) }));
        assert!(!mini.has_signed(&PayloadValue { kind: Some(Kind::BooleanValue(true)) }));
        let tokens = |namespace: &str| Tokens { namespace: namespace.into(), maker: mini.clone() };
        let docs = tokens("docs");
        assert_eq!(docs.signature().kind, Some(Kind::StringValue("org@mini@c0ffee/docs".into())));
        assert!(docs.has_signed(&docs.signature()) && !tokens("other").has_signed(&docs.signature()));
        assert!(!docs.has_signed(&mini.signature()) && !mini.has_signed(&docs.signature()));
    }
}

//! From texts to sequences: tokenizing, cutting, chunking, pairing.
//!
//! The query is tokenized once and spliced into every pair. It is never cut: one that does not fit is
//! refused. Documents are cut or chunked, and say so. Documents whose vectors are there already become
//! comparisons, behind the sequences that have to be encoded.

use std::{ops::Range, sync::Arc, time::Duration};

use sluice_core::batch::{Comparison, QueryVectors, Role, Sequence, TokenVectors};
use sluice_inference::{TextEncoder, TextTokens, TokenizeError};
use sluice_service::status::{FieldFault, Refusal};

use crate::{
    engine::{
        Clock,
        tokenizer_pool::{TaskLost, TokenizerPool},
    },
    job::{Document, EncodeJob, LongDocument, Method, Query, RerankJob},
    subject::{Source, Subject},
};

mod spelled;

pub use spelled::{Spelled, SpelledToken};

/// Floating-point operations of a comparison that count as one token of an encoder: a fifth of what a token costs in a
/// small encoder (21 million in MiniLM-L6), since comparing is bound by memory as much as by arithmetic. Rough: it
/// says how many comparisons share a batch, not how long they take.
const COMPARISON_FLOPS_PER_TOKEN: u64 = 1 << 22;

/// A request as sequences, and what its units mean.
#[derive(Debug)]
pub struct Prepared {
    /// The query first, where it has to be encoded by itself; then every document's chunks; then the comparisons.
    /// Empty if there is nothing to score.
    pub sequences: Vec<Sequence>,
    /// One for each document that was given, in that order.
    pub documents: Vec<DocumentUnits>,
    /// Tokens of the query, its special tokens included; 0 if there is none.
    pub query_tokens: u64,
    /// What tokenizing took, the wait for a thread included.
    pub tokenize: Duration,
}

impl Prepared {
    /// Tokens of all sequences: what goes through the model.
    #[must_use]
    pub fn computed_tokens(&self) -> u64 {
        self.sequences.iter().map(|sequence| sequence.input_ids.len() as u64).sum()
    }

    /// Tokens of all documents (or pairs) as read.
    #[must_use]
    pub fn document_tokens(&self) -> u64 {
        self.documents.iter().map(|document| u64::from(document.tokens)).sum()
    }
}

/// One document's units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentUnits {
    /// Index of its first unit; the others follow.
    pub first_unit: u32,
    /// Where each of its units begins and ends in its text, in bytes; empty for a comparison's, and none for a document
    /// that cannot be scored.
    pub chunks: Vec<Range<u32>>,
    /// Tokens over all its units, special tokens included; rows, if it brings vectors.
    pub tokens: u32,
    /// A part of the text was not read.
    pub truncated: bool,
    /// What is scored.
    pub source: Source,
}

impl DocumentUnits {
    /// Whether there is anything to score.
    #[must_use]
    pub fn is_scored(&self) -> bool {
        !self.chunks.is_empty()
    }
}

/// What a stage is to score.
#[derive(Debug)]
pub struct Given {
    /// How.
    pub method: Method,
    /// Positions in the job, in the order in which they are to be scored.
    pub documents: Vec<usize>,
    /// What is scored of each of them.
    pub subjects: Vec<Subject>,
}

/// What preparing needs besides the job. Cheap to clone.
#[derive(Clone)]
pub struct Preparer {
    /// Threads that tokenize.
    pub pool: TokenizerPool,
    /// For the time it takes.
    pub clock: Clock,
    /// Chunks of one document that are read.
    pub chunks_per_document_max: usize,
}

impl Preparer {
    /// Tokenizes what has to be encoded for a stage of a rerank job and lays it out for a model that takes sequences of
    /// `tokens_max`.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] for a query that does not fit the model.
    pub async fn rerank(
        &self,
        job: &Arc<RerankJob>,
        Given { method, documents: given, subjects }: Given,
        text: &Arc<TextEncoder>,
        tokens_max: usize,
    ) -> Result<Prepared, Refusal> {
        let begin = self.clock.now();
        let query = Arc::new(self.query(&job.query, text).await?);
        let room = document_room(method, text, query.len(), tokens_max)?;
        let cutter = Cutter {
            chunk_tokens: job.document_tokens_max.map_or(room, |max| max.min(room)),
            chunks_max: if job.long_document == LongDocument::Cut { 1 } else { self.chunks_per_document_max },
        };
        let texts = Subject::texts(&subjects);
        let read = {
            let (job, text, query) = (Arc::clone(job), Arc::clone(text), Arc::clone(&query));
            let texts: Vec<usize> = texts.iter().map(|place| given[*place]).collect();
            move |index: usize| {
                let tokens = text.tokens(document_text(&job.documents, texts[index]), Some(cutter.tokens_needed()))?;
                Ok(cutter.cut(&tokens, |ids| match method {
                    Method::CrossEncoder => text.pair(&query, ids),
                    Method::LateInteraction | Method::Dense => alone(&text, ids),
                }))
            }
        };
        let pieces = self.pool.map(texts.len(), read).await.map_err(lost)?;
        let mut layout = Layout::new(method, &subjects);
        let query_tokens = match &job.query {
            Query::Text(_) => {
                let ids = text.single(&query);
                let tokens = ids.len();
                if method.encodes_query_alone() && subjects.iter().any(Subject::is_scored) {
                    layout.query(ids);
                }
                tokens
            }
            Query::Vectors(vectors) => {
                layout.vectors = Arc::clone(vectors);
                vectors.get().map_or(0, sluice_core::batch::TokenMatrix::rows)
            }
        };
        for (&index, piece) in texts.iter().zip(pieces) {
            layout.document(index, piece.map_err(|error| failed(&error))?);
        }
        for (index, subject) in subjects.into_iter().enumerate() {
            if let Subject::Vectors { vectors, truncated, .. } = subject {
                layout.comparison(index, vectors, truncated, query_tokens);
            }
        }
        Ok(layout.finish(query_tokens as u64, self.clock.now().since(begin)))
    }

    /// Whether the query fits a model that takes sequences of `tokens_max`.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] if it does not.
    pub async fn check_query(
        &self,
        job: &RerankJob,
        method: Method,
        text: &Arc<TextEncoder>,
        tokens_max: usize,
    ) -> Result<(), Refusal> {
        let query = self.query(&job.query, text).await?;
        document_room(method, text, query.len(), tokens_max).map(|_| ())
    }

    /// Tokenizes an encode job and lays it out: one unit per text.
    ///
    /// # Errors
    /// [`Refusal::Internal`] if the tokenizer fails.
    pub async fn encode(&self, job: &Arc<EncodeJob>, text: &Arc<TextEncoder>) -> Result<Prepared, Refusal> {
        let begin = self.clock.now();
        let cutter = Cutter { chunk_tokens: job.tokens_max - text.special_tokens_single(), chunks_max: 1 };
        let read = {
            let (job, text) = (Arc::clone(job), Arc::clone(text));
            move |index: usize| {
                let tokens = text.tokens(&job.texts[index], Some(cutter.tokens_needed()))?;
                Ok(cutter.cut(&tokens, |ids| alone(&text, ids)))
            }
        };
        let pieces = self.pool.map(job.texts.len(), read).await.map_err(lost)?;
        let subjects: Vec<_> = pieces.iter().map(|_| Subject::Text(Source::Text)).collect();
        let mut layout = Layout::new(Method::Dense, &subjects);
        for (index, piece) in pieces.into_iter().enumerate() {
            layout.document(index, piece.map_err(|error| failed(&error))?);
        }
        Ok(layout.finish(0, self.clock.now().since(begin)))
    }

    /// Tokens of the query, special ones left out; none if it came as vectors.
    async fn query(&self, query: &Query, text: &Arc<TextEncoder>) -> Result<Vec<u32>, Refusal> {
        let Query::Text(query) = query.clone() else { return Ok(Vec::new()) };
        let read = {
            let text = Arc::clone(text);
            move |_| text.tokens(&query, None)
        };
        let tokens = self.pool.map(1, read).await.map_err(lost)?.pop().ok_or(Refusal::Internal)?;
        Ok(tokens.map_err(|error| failed(&error))?.ids)
    }
}

/// The text of a document that is scored by it.
fn document_text(documents: &[Document], index: usize) -> &str {
    documents[index].content.text().unwrap_or_default()
}

/// What comparing costs, in tokens that would take an encoder about as long; at least 1.
pub(crate) fn comparison_cost(query_rows: usize, vectors: &dyn TokenVectors) -> u32 {
    let flops = 2 * (query_rows as u64).saturating_mul((vectors.rows() * vectors.dim()) as u64);
    u32::try_from(flops.div_ceil(COMPARISON_FLOPS_PER_TOKEN)).unwrap_or(u32::MAX).max(1)
}

/// Tokens of a document that fit beside the query; at least one.
fn document_room(method: Method, text: &TextEncoder, query_tokens: usize, tokens_max: usize) -> Result<usize, Refusal> {
    let (beside_query, beside_document) = match method {
        // One token of the document must fit into the pair.
        Method::CrossEncoder => (text.special_tokens_pair() + 1, text.special_tokens_pair() + query_tokens),
        Method::LateInteraction | Method::Dense => (text.special_tokens_single(), text.special_tokens_single()),
    };
    if query_tokens + beside_query > tokens_max {
        let most = tokens_max.saturating_sub(beside_query);
        return Err(Refusal::InvalidArgument(vec![FieldFault {
            field: "query.text".to_owned(),
            description: format!("has {query_tokens} tokens, the model has room for {most}; a query is never cut"),
        }]));
    }
    Ok(tokens_max.saturating_sub(beside_document).max(1))
}

fn alone(text: &TextEncoder, ids: &[u32]) -> (Vec<u32>, u32) {
    let ids = text.single(ids);
    let end = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    (ids, end)
}

/// Cuts a text's tokens into what is read at once.
#[derive(Clone, Copy)]
struct Cutter {
    /// Tokens of a chunk, special tokens not counted; may be 0 for a text of special tokens alone.
    chunk_tokens: usize,
    /// At least 1.
    chunks_max: usize,
}

/// A document's chunks: input ids, where the second segment begins, and bytes of the text.
struct Pieces {
    sequences: Vec<(Vec<u32>, u32)>,
    chunks: Vec<Range<u32>>,
    truncated: bool,
}

impl Cutter {
    /// One more than is read tells whether there is more.
    fn tokens_needed(self) -> usize {
        self.chunk_tokens.saturating_mul(self.chunks_max).saturating_add(1)
    }

    fn cut(self, tokens: &TextTokens, wrap: impl Fn(&[u32]) -> (Vec<u32>, u32)) -> Pieces {
        let read = tokens.ids.len().min(self.tokens_needed() - 1);
        let mut pieces = Pieces {
            sequences: Vec::new(),
            chunks: Vec::new(),
            truncated: read < tokens.ids.len() || !tokens.complete,
        };
        let mut start = 0;
        // A text without tokens still is one sequence, of special tokens.
        while start < read || pieces.sequences.is_empty() {
            let end = read.min(start + self.chunk_tokens);
            let bytes = match tokens.offsets.get(start..end) {
                Some([first, .., last]) => first.0..last.1,
                Some([only]) => only.0..only.1,
                Some([]) | None => 0..0,
            };
            pieces.sequences.push(wrap(&tokens.ids[start..end]));
            pieces.chunks.push(bytes);
            start = end;
        }
        pieces
    }
}

/// Lays sequences out: unit indices in the order in which they will be computed.
struct Layout {
    method: Method,
    sequences: Vec<Sequence>,
    documents: Vec<DocumentUnits>,
    vectors: Arc<QueryVectors>,
}

impl Layout {
    /// One document per subject, none with units yet.
    fn new(method: Method, subjects: &[Subject]) -> Self {
        let documents = subjects.iter().map(|subject| DocumentUnits {
            first_unit: 0,
            chunks: Vec::new(),
            tokens: 0,
            truncated: false,
            source: subject.source(),
        });
        Self { method, sequences: Vec::new(), documents: documents.collect(), vectors: Arc::default() }
    }

    fn query(&mut self, ids: Vec<u32>) {
        let role = match self.method {
            Method::LateInteraction => Role::Query(Arc::clone(&self.vectors)),
            Method::Dense | Method::CrossEncoder => Role::Plain,
        };
        self.sequences.push(Sequence::single(ids, role));
    }

    fn document(&mut self, index: usize, pieces: Pieces) {
        let first_unit = self.next_unit();
        let mut tokens = 0;
        for (input_ids, second_segment_start) in pieces.sequences {
            tokens += u32::try_from(input_ids.len()).unwrap_or(u32::MAX);
            let role = match self.method {
                Method::LateInteraction => Role::Document(Arc::clone(&self.vectors)),
                Method::Dense | Method::CrossEncoder => Role::Plain,
            };
            self.sequences.push(Sequence { input_ids, second_segment_start, role });
        }
        let document = &mut self.documents[index];
        (document.first_unit, document.chunks) = (first_unit, pieces.chunks);
        (document.tokens, document.truncated) = (tokens, pieces.truncated);
    }

    /// Behind every sequence that is encoded: units leave in order, and the query's vectors are then there.
    fn comparison(&mut self, index: usize, vectors: Arc<dyn TokenVectors>, truncated: bool, query_rows: usize) {
        let first_unit = self.next_unit();
        let cost = comparison_cost(query_rows, &*vectors);
        let document = &mut self.documents[index];
        // One unit, and no part of a text.
        (document.first_unit, document.chunks) = (first_unit, std::iter::once(0..0).collect());
        document.tokens = u32::try_from(vectors.rows()).unwrap_or(u32::MAX);
        document.truncated = truncated;
        let comparison = Comparison { query: Arc::clone(&self.vectors), document: vectors, cost };
        self.sequences.push(Sequence::compared(comparison));
    }

    fn next_unit(&self) -> u32 {
        u32::try_from(self.sequences.len()).unwrap_or(u32::MAX)
    }

    fn finish(self, query_tokens: u64, tokenize: Duration) -> Prepared {
        Prepared { sequences: self.sequences, documents: self.documents, query_tokens, tokenize }
    }
}

fn lost(_: TaskLost) -> Refusal {
    Refusal::Internal
}

/// Any text can be tokenized; a tokenizer that cannot is broken, which is not the caller's doing.
fn failed(error: &TokenizeError) -> Refusal {
    tracing::error!(%error, "tokenizing failed");
    Refusal::Internal
}

//! Packed batches: sequences end to end, no padding.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use half::f16;

use crate::{Lane, UnitId};

/// Token vectors of one sequence: `[rows, dim]`, row-major, each row L2-normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenMatrix {
    /// `rows × dim` components.
    pub data: Vec<f32>,
    /// Components of a row; at least 1.
    pub dim: usize,
}

impl TokenMatrix {
    /// Number of token vectors.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.data.len() / self.dim
    }
}

/// Where a request's query vectors are kept between the batch that computes them and the batches
/// that compare with them. Filled once, by the backend.
#[derive(Debug, Default)]
pub struct QueryVectors(OnceLock<TokenMatrix>);

impl QueryVectors {
    /// Vectors that are known from the start.
    #[must_use]
    pub fn known(vectors: TokenMatrix) -> Self {
        Self(OnceLock::from(vectors))
    }

    /// The vectors, once they are known.
    #[must_use]
    pub fn get(&self) -> Option<&TokenMatrix> {
        self.0.get()
    }

    /// Keeps `vectors`; a query computed twice (a retried batch) keeps the first.
    pub fn fill(&self, vectors: TokenMatrix) {
        let _ = self.0.set(vectors);
    }
}

/// Token vectors of a document that need no model: made by the caller, or kept from earlier.
pub trait TokenVectors: fmt::Debug + Send + Sync {
    /// Components of a row; at least 1.
    fn dim(&self) -> usize;
    /// Number of token vectors.
    fn rows(&self) -> usize;
    /// The vectors, where they lie.
    fn components(&self) -> Components<'_>;
    /// A number that no other vectors have while the process lives: a device may keep them under it. `None` for vectors
    /// that nobody will ask for again.
    fn key(&self) -> Option<u64> {
        None
    }
}

/// Row-major token vectors, `[rows, dim]`, in one of the ways of keeping them.
#[derive(Clone, Copy, Debug)]
pub enum Components<'a> {
    /// Each component as it is.
    F32(&'a [f32]),
    /// Each component rounded.
    F16(&'a [f16]),
    /// Codes offset by 128; a component is `(code − 128)` times its row's scale.
    Int8 {
        /// `rows × dim`.
        codes: &'a [u8],
        /// `rows`.
        scales: &'a [f32],
    },
    /// A bit per component, rows padded to whole bytes: `+1` where it is set, else `−1`.
    Binary(&'a [u8]),
}

/// A document whose vectors are there already, and what it is compared with.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The query's vectors; known when the unit is computed.
    pub query: Arc<QueryVectors>,
    /// The document's.
    pub document: Arc<dyn TokenVectors>,
    /// What the comparison costs, in tokens that would take the model as long; at least 1.
    pub cost: u32,
}

/// Which document token a query token matched best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenMatch {
    /// Row of the document: the first of those with the largest dot product. `None` if the document has no rows.
    pub document_token: Option<u32>,
    /// That dot product.
    pub similarity: f32,
}

/// A late-interaction score, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Alignment {
    /// Their sum.
    pub score: f32,
    /// One per query row, in order.
    pub matches: Vec<TokenMatch>,
}

/// What a sequence is to its batch.
#[derive(Clone, Debug)]
pub enum Role {
    /// Complete in itself.
    Plain,
    /// The query of a late-interaction request: its token vectors go where its documents find them.
    Query(Arc<QueryVectors>),
    /// A document of a late-interaction request, scored against those vectors.
    Document(Arc<QueryVectors>),
    /// The same without a sequence: its vectors are there already.
    Compared(Comparison),
}

/// One sequence, ready to compute.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Vocabulary ids, special tokens included; empty for [`Role::Compared`] alone.
    pub input_ids: Vec<u32>,
    /// Position from which the token type is 1 (the second text of a pair); the length if none.
    pub second_segment_start: u32,
    /// What it is to its batch.
    pub role: Role,
}

impl Sequence {
    /// A sequence of a single text.
    #[must_use]
    pub fn single(input_ids: Vec<u32>, role: Role) -> Self {
        let second_segment_start = u32::try_from(input_ids.len()).unwrap_or(u32::MAX);
        Self { input_ids, second_segment_start, role }
    }

    /// A document that brings its vectors instead of a text.
    #[must_use]
    pub fn compared(comparison: Comparison) -> Self {
        Self { input_ids: Vec::new(), second_segment_start: 0, role: Role::Compared(comparison) }
    }

    /// What it costs to compute: its tokens, or the comparison's own cost.
    #[must_use]
    pub fn cost(&self) -> u32 {
        match &self.role {
            Role::Compared(comparison) => comparison.cost,
            Role::Plain | Role::Query(_) | Role::Document(_) => u32::try_from(self.input_ids.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Sequences of one lane, end to end.
///
/// Invariants, kept by [`PackedBatch::push`]: `cu_seqlens[0] = 0`, it grows with every sequence but a
/// [compared](Role::Compared) one, which has no tokens here,
/// `cu_seqlens.len() = units.len() + 1 = roles.len() + 1`, and its last entry is
/// `input_ids.len() = token_type_ids.len()`.
#[derive(Clone, Debug)]
pub struct PackedBatch {
    lane: Lane,
    units: Vec<UnitId>,
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
    cu_seqlens: Vec<u32>,
    roles: Vec<Role>,
}

impl PackedBatch {
    /// An empty batch of `lane` with room for that many sequences and tokens.
    #[must_use]
    pub fn with_capacity(lane: Lane, sequences: usize, tokens: usize) -> Self {
        let mut cu_seqlens = Vec::with_capacity(sequences + 1);
        cu_seqlens.push(0);
        Self {
            lane,
            units: Vec::with_capacity(sequences),
            input_ids: Vec::with_capacity(tokens),
            token_type_ids: Vec::with_capacity(tokens),
            cu_seqlens,
            roles: Vec::with_capacity(sequences),
        }
    }

    /// Appends one sequence.
    ///
    /// # Panics
    /// If a sequence that is to be encoded is empty: a unit's cost is at least one token, so this is a bug of the caller.
    pub fn push(&mut self, unit: UnitId, sequence: &Sequence) {
        let compared = matches!(sequence.role, Role::Compared(_));
        assert!(compared || !sequence.input_ids.is_empty(), "empty sequence {unit:?}");
        self.units.push(unit);
        self.input_ids.extend_from_slice(&sequence.input_ids);
        self.token_type_ids
            .extend((0_u32..).take(sequence.input_ids.len()).map(|i| u32::from(i >= sequence.second_segment_start)));
        self.cu_seqlens.push(u32::try_from(self.input_ids.len()).expect("a batch has fewer than 2^32 tokens"));
        self.roles.push(sequence.role.clone());
    }

    /// Whose weights, which computation.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Which unit each sequence is.
    #[must_use]
    pub fn units(&self) -> &[UnitId] {
        &self.units
    }

    /// Vocabulary ids, `[total_tokens]`.
    #[must_use]
    pub fn input_ids(&self) -> &[u32] {
        &self.input_ids
    }

    /// 0 for the first text of a sequence, 1 for the second, `[total_tokens]`.
    #[must_use]
    pub fn token_type_ids(&self) -> &[u32] {
        &self.token_type_ids
    }

    /// Where each sequence begins, and the end of the last: `[sequences + 1]`.
    #[must_use]
    pub fn cu_seqlens(&self) -> &[u32] {
        &self.cu_seqlens
    }

    /// What each sequence is to the batch, `[sequences]`.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// Number of sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Tokens of all sequences.
    #[must_use]
    pub fn total_tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Tokens of the longest sequence; 0 if there is none.
    #[must_use]
    pub fn max_seqlen(&self) -> usize {
        self.ranges().map(|range| range.len()).max().unwrap_or(0)
    }

    /// The token range of each sequence.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> + '_ {
        self.cu_seqlens.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
    }

    /// Two batches, of the first half of the sequences and of the rest: how a failing batch is bisected.
    #[must_use]
    pub fn halves(&self) -> (Self, Self) {
        let middle = self.len() / 2;
        (self.slice(0..middle), self.slice(middle..self.len()))
    }

    fn slice(&self, sequences: std::ops::Range<usize>) -> Self {
        let start = self.cu_seqlens[sequences.start];
        let tokens = start as usize..self.cu_seqlens[sequences.end] as usize;
        Self {
            lane: self.lane,
            units: self.units[sequences.clone()].to_vec(),
            input_ids: self.input_ids[tokens.clone()].to_vec(),
            token_type_ids: self.token_type_ids[tokens].to_vec(),
            cu_seqlens: self.cu_seqlens[sequences.start..=sequences.end].iter().map(|end| end - start).collect(),
            roles: self.roles[sequences].to_vec(),
        }
    }
}

//! What is looked for, once nothing about it can be wrong any more.

use std::{collections::BTreeSet, time::Duration};

use sluice_core::fusion::{Cursor, FINGERPRINT_BYTES, LegKind, Method};

use crate::{document::SparseVector, filter::Filter, identity::Lsn, schema::Metric, vector_index::Effort};

/// A search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchJob {
    /// At least one; names differ.
    pub legs: Vec<LegJob>,
    /// What every hit has to fulfil.
    pub filter: Option<Filter>,
    /// How the lists become one.
    pub method: Method,
    /// Whether weights follow the query.
    pub weights: Weights,
    /// Hits of a page; at least 1.
    pub limit: usize,
    /// Where the page before ended.
    pub after: Option<Cursor>,
    /// Of everything that decides about the list, the collection included.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    /// Hits with a lower fused score are left out; not NaN.
    pub min_score: Option<f64>,
    /// The answer knows this write.
    pub min_lsn: Lsn,
    /// What is sent of each hit.
    pub projection: Projection,
    /// Pieces of text that are sent with each hit.
    pub snippets: Option<SnippetJob>,
    /// Values to count.
    pub facets: Vec<FacetJob>,
    /// Count what fulfils the filter.
    pub count: bool,
}

impl SearchJob {
    /// The words that are looked for; of several lexical legs, the first one's.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.legs.iter().find_map(|leg| match &leg.query {
            LegQuery::Lexical(query) => Some(query.text.as_str()),
            LegQuery::Dense { .. } | LegQuery::Sparse { .. } => None,
        })
    }
}

/// One way to look.
#[derive(Clone, Debug, PartialEq)]
pub struct LegJob {
    /// Unique in the search.
    pub name: String,
    /// What it looks for.
    pub query: LegQuery,
    /// Candidates that it brings; at least 1.
    pub k: usize,
    /// What it counts; `None` is 1, and lets the query decide.
    pub weight: Option<f64>,
    /// Time for it, if less than its share of the deadline.
    pub timeout: Option<Duration>,
}

/// What a leg looks for.
#[derive(Clone, Debug, PartialEq)]
pub enum LegQuery {
    /// Words.
    Lexical(LexicalQuery),
    /// The nearest vectors.
    Dense {
        /// Name of the vector in the schema.
        vector: String,
        /// Finite, of the schema's length.
        query: Vec<f32>,
        /// What nearness is, from the schema.
        metric: Metric,
        /// How much of the index is looked at.
        effort: Effort,
    },
    /// The largest dot products.
    Sparse {
        /// Name of the vector in the schema.
        vector: String,
        /// Not empty.
        query: SparseVector,
    },
}

impl LegQuery {
    /// What kind of leg answers it.
    #[must_use]
    pub fn kind(&self) -> LegKind {
        match self {
            Self::Lexical(_) => LegKind::Lexical,
            Self::Dense { .. } => LegKind::Dense,
            Self::Sparse { .. } => LegKind::Sparse,
        }
    }

    /// The least score that a leg could give, if there is one.
    #[must_use]
    pub fn floor(&self) -> Option<f64> {
        match self {
            // A document's values may be below 0, and then a score is; but those are hardly learned, and rank last.
            Self::Lexical(_) | Self::Sparse { .. } => Some(0.0),
            Self::Dense { metric: Metric::Cosine, .. } => Some(-1.0),
            Self::Dense { metric: Metric::Dot | Metric::Euclidean, .. } => None,
        }
    }
}

/// What words are looked for, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LexicalQuery {
    /// Not blank.
    pub text: String,
    /// Where; empty means all text fields.
    pub fields: Vec<FieldBoost>,
    /// All words have to be there.
    pub require_all: bool,
    /// Characters in which a word may differ, 0 to 2.
    pub fuzzy_edits: u8,
    /// The last word may be the beginning of one.
    pub prefix: bool,
    /// Words have to stand together, with at most so many moves.
    pub phrase_slop: Option<u32>,
    /// Neighbours that stay near each other count more: words that may stand between, and how much more.
    pub proximity: Option<(u32, f32)>,
}

/// A field that words are looked for in.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldBoost {
    /// A text field of the schema.
    pub field: String,
    /// What a match in it counts; `None` is the schema's.
    pub boost: Option<f32>,
}

/// Whether legs' weights follow the query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// As the configuration says, unless a leg has a weight of its own.
    #[default]
    Default,
    /// They are what the search says.
    Fixed,
    /// They are multiplied with what the query's features say.
    Adaptive,
}

/// What is sent of a document besides its id, content hash and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Texts.
    pub texts: Fields,
    /// Payload.
    pub payload: Fields,
    /// Vectors, dense and sparse.
    pub vectors: Fields,
}

impl Projection {
    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self { texts: Fields::none(), payload: Fields::none(), vectors: Fields::none() }
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::nothing()
    }
}

/// Some fields of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Each of them.
    All,
    /// Those with these names.
    These(BTreeSet<String>),
}

impl Fields {
    /// None of them.
    #[must_use]
    pub fn none() -> Self {
        Self::These(BTreeSet::new())
    }

    /// Whether a field is among them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// Pieces of text that say why a hit was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnippetJob {
    /// Text fields; at least one.
    pub fields: Vec<String>,
    /// Characters of a piece, at least 1.
    pub characters_max: usize,
}

/// Values to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FacetJob {
    /// A payload field.
    pub field: String,
    /// Most frequent values to send, at least 1.
    pub limit: usize,
}

/// Documents whose place in a search is to be explained.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainJob {
    /// The search.
    pub search: SearchJob,
    /// At least one.
    pub ids: Vec<String>,
}

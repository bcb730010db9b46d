//! How a filter meets the postings.
//!
//! tantivy skips blocks of postings that cannot reach the best hits so far (block-max WAND) only while a query is a pure
//! union of terms, or an intersection of them: with a filter clause in it, every posting is scored, which costs 10 to 30
//! times as much where words are common. So a filter is not made a clause unless it is selective. Instead its bitmap is
//! asked for each document that beats the worst of the best so far: those that are not wanted do not raise that bar, so
//! exactly as much more is fetched as the filter takes away, and not a fixed multiple that may be too much or too little.
//!
//! The fewer documents a filter leaves, the slower that bar rises and the less is skipped. From some point on it is
//! cheaper to go through the documents that are left, and to look each one up in the postings.

/// How a search goes about its filter. Each finds the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plan {
    /// Postings lead, with what cannot win skipped; the filter is asked for what would win.
    Checked,
    /// The filter's documents lead, and are looked up in the postings.
    Restricted,
}

/// The documents are looked up where they are at most this share of the postings of the query's terms. Measured
/// (`examples/lexical_planner.rs` prints the table): a look-up costs as much as
/// scoring some ten postings one after another.
const POSTINGS_PER_LOOK_UP: u64 = 16;

impl Plan {
    /// The cheaper plan for a filter that leaves `among` documents, and a query whose terms have `postings` together.
    #[must_use]
    pub fn choose(among: u64, postings: u64) -> Self {
        if among.saturating_mul(POSTINGS_PER_LOOK_UP) <= postings { Self::Restricted } else { Self::Checked }
    }
}

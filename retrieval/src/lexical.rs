//! Search by words: BM25 over the text fields of a collection, with tantivy.
//!
//! | module | what it decides |
//! |---|---|
//! | `analysis` | which words a text has, by language |
//! | [`query`] | what a search asks for, and what tantivy is asked for it |
//! | `plan` | how a filter is applied: checked on what is promising, or given to the postings as a list |
//! | [`index`] | writing, committing, and what a search sees |
//!
//! BM25 is tantivy's, k₁ = 1.2 and b = 0.75. Fields of one language are searched as one text unless a search names its
//! fields; boosts and named fields add what they have. Statistics are those of the shard, and count documents that are gone until their segment is merged.
//!
//! # Durability
//!
//! tantivy keeps nothing of what was added since its last commit. That is what the log is for: a commit carries the log
//! sequence number that it is of, and what came after is applied again.

pub(crate) mod analysis;
mod breakdown;
mod collect;
mod expand;
pub mod index;
pub(crate) mod layout;
mod numbers;
mod plan;
mod proximity;
pub mod query;
mod snippet;
#[cfg(test)]
mod tests;

pub use self::{
    breakdown::TermScore,
    index::{LexicalIndex, LexicalOptions, Texts},
    plan::Plan,
    query::{Fuzzy, LexicalQuery, Operator, Phrase, Proximity},
    snippet::{Snippet, SnippetOptions},
};

//! What is scored of each document: its text, vectors that came along, or vectors from the token store.

use std::{collections::HashMap, sync::Arc};

use sluice_core::batch::TokenVectors;
use sluice_tokenstore::{ContentHash, ModelDigest, Namespace};

use crate::{
    job::{Content, Document, StoredReference},
    metrics,
    store::Store,
};

/// Where what is scored came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The text, as asked.
    Text,
    /// The request's vectors.
    Request,
    /// The token store.
    Store,
    /// The text, because of what the store has.
    TextInstead(Unavailable),
    /// Nothing, because of what the store has.
    Nothing(Unavailable),
}

/// Why a stored document cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// There is none of that id, from that model.
    Missing,
    /// It was made from another text.
    Stale,
}

/// What is scored of a document.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Its text.
    Text(Source),
    /// Its vectors.
    Vectors {
        /// The vectors.
        vectors: Arc<dyn TokenVectors>,
        /// They stand for a part of the text.
        truncated: bool,
        /// Whose.
        source: Source,
    },
    /// Nothing.
    Nothing(Unavailable),
}

impl Subject {
    /// What is scored of each document for the model of that digest. Without a store everything stored is missing.
    #[must_use]
    pub fn of(documents: &[&Document], model: ModelDigest, store: Option<&Store>) -> Vec<Self> {
        let mut stored = store.map_or_else(HashMap::new, |store| look_up(documents, model, store));
        let subject = |(index, document): (usize, &&Document)| match &document.content {
            Content::Text(_) => Self::Text(Source::Text),
            Content::Vectors(vectors) => {
                Self::Vectors { vectors: Arc::clone(vectors), truncated: false, source: Source::Request }
            }
            Content::Stored(reference) => Self::stored(reference, stored.remove(&index)),
        };
        let subjects: Vec<Self> = documents.iter().enumerate().map(subject).collect();
        count_lookups(&subjects);
        subjects
    }

    /// Where it came from.
    #[must_use]
    pub fn source(&self) -> Source {
        match self {
            Self::Text(source) | Self::Vectors { source, .. } => *source,
            Self::Nothing(why) => Source::Nothing(*why),
        }
    }

    /// Whether there is anything to score.
    #[must_use]
    pub fn is_scored(&self) -> bool {
        !matches!(self, Self::Nothing(_))
    }

    /// Indices of those that are scored by their text.
    #[must_use]
    pub fn texts(subjects: &[Self]) -> Vec<usize> {
        let texts = subjects.iter().enumerate().filter(|(_, subject)| matches!(subject, Self::Text(_)));
        texts.map(|(index, _)| index).collect()
    }

    fn stored(reference: &StoredReference, found: Option<StoredVectors>) -> Self {
        let why = match found {
            Some(found) if reference.content_hash.is_none_or(|expected| expected == found.content_hash) => {
                return Self::Vectors { vectors: found.vectors, truncated: found.truncated, source: Source::Store };
            }
            Some(_) => Unavailable::Stale,
            None => Unavailable::Missing,
        };
        if reference.text.is_some() { Self::Text(Source::TextInstead(why)) } else { Self::Nothing(why) }
    }
}

/// Counts what was asked of the store: once a call, since a counter is found by its name.
fn count_lookups(subjects: &[Subject]) {
    let [mut hits, mut missing, mut stale] = [0; 3];
    for subject in subjects {
        match subject.source() {
            Source::Store => hits += 1,
            Source::TextInstead(Unavailable::Missing) | Source::Nothing(Unavailable::Missing) => missing += 1,
            Source::TextInstead(Unavailable::Stale) | Source::Nothing(Unavailable::Stale) => stale += 1,
            Source::Text | Source::Request => {}
        }
    }
    for (result, count) in [("hit", hits), ("missing", missing), ("stale", stale)] {
        if count > 0 {
            metrics::token_store_lookups(result, count);
        }
    }
}

/// A document as the store has it.
#[derive(Debug)]
pub struct StoredVectors {
    /// Where they lie.
    pub vectors: Arc<dyn TokenVectors>,
    /// What they were made from.
    pub content_hash: ContentHash,
    /// They stand for a part of it.
    pub truncated: bool,
}

/// What the store has of each document, by its index; a namespace is asked once.
fn look_up(documents: &[&Document], model: ModelDigest, store: &Store) -> HashMap<usize, StoredVectors> {
    let mut by_namespace: HashMap<&Namespace, Vec<usize>> = HashMap::new();
    for (index, document) in documents.iter().enumerate() {
        if let Content::Stored(reference) = &document.content {
            by_namespace.entry(&reference.namespace).or_default().push(index);
        }
    }
    let mut found = HashMap::new();
    for (namespace, indices) in by_namespace {
        let ids: Vec<&str> = indices.iter().map(|index| documents[*index].id.as_str()).collect();
        let vectors = store.look_up(namespace, model, &ids);
        found.extend(indices.into_iter().zip(vectors).filter_map(|(index, vectors)| Some((index, vectors?))));
    }
    found
}

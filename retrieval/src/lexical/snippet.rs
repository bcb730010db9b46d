//! The part of a text that shows why it was found.

use std::ops::Range;

use tantivy::{query::Query, snippet::SnippetGenerator};

use super::{expand::Dictionary, index::Texts, layout::Fields};
use crate::vector_index::IndexError;

/// A part of a text field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// The text field.
    pub field: String,
    /// Its part with the most of the query's words, whole words only.
    pub text: String,
    /// The words, in bytes of `text`; ascending, apart.
    pub highlights: Vec<Range<usize>>,
}

/// How snippets are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnippetOptions {
    /// Characters of a snippet.
    pub chars_max: usize,
}

impl Default for SnippetOptions {
    fn default() -> Self {
        Self { chars_max: 150 }
    }
}

/// Per text, one snippet for each field in which a word of the query is; in the schema's order of fields.
pub(crate) fn snippets(
    dictionary: &Dictionary<'_>,
    fields: &Fields,
    query: &dyn Query,
    texts: &[&Texts],
    options: SnippetOptions,
) -> Result<Vec<Vec<Snippet>>, IndexError> {
    let mut snippets = vec![Vec::new(); texts.len()];
    for field in &fields.texts {
        let generator = SnippetGenerator::create(dictionary.searcher, query, field.field);
        let mut generator = generator.map_err(IndexError::storage("looking up a query's words"))?;
        generator.set_max_num_chars(options.chars_max);
        for (texts, snippets) in texts.iter().zip(&mut snippets) {
            dictionary.go_on()?;
            let Some(text) = texts.get(&field.name) else { continue };
            let snippet = generator.snippet(text);
            if !snippet.highlighted().is_empty() {
                let highlights = tantivy::snippet::collapse_overlapped_ranges(snippet.highlighted());
                snippets.push(Snippet { field: field.name.clone(), text: snippet.fragment().to_owned(), highlights });
            }
        }
    }
    Ok(snippets)
}

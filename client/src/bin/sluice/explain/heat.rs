//! Where in a document's text its tokens stand, and how much of the score each of them carries.

use std::{borrow::Cow, ops::Range};

use sluice_client::{ExplainedDocument, Token};

/// A document's text with the places of its tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Located<'a> {
    pub text: Cow<'a, str>,
    /// One per token, in bytes of the text; none of a special token, and of one that nothing is known of.
    pub places: Vec<Option<Range<usize>>>,
    /// The text is a document's, and not a list of positions.
    pub named: bool,
}

/// A stretch of what is shown of a document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stretch {
    pub text: String,
    /// The sum of the similarities of the query tokens that chose this token; `None` of what none has chosen.
    pub heat: Option<f32>,
}

/// Stands for something in the text, and so is not there itself, such as `[CLS]`.
pub(crate) fn is_special(token: &Token) -> bool {
    token.byte_start >= token.byte_end && !token.text.is_empty()
}

/// The heat of each token. A match with a token that is not there counts for nothing.
pub(crate) fn heats(document: &ExplainedDocument) -> Vec<Option<f32>> {
    let mut heats = vec![None; document.tokens.len()];
    for found in &document.matches {
        if let Some(heat) = heats.get_mut(found.document_token as usize) {
            *heat = Some(heat.unwrap_or(0.0) + found.similarity);
        }
    }
    heats
}

/// The largest heat of what is no special token; those may be hotter, and would leave little colour to words.
pub(crate) fn hottest<'a>(documents: impl IntoIterator<Item = &'a ExplainedDocument>) -> f32 {
    let own = |document: &ExplainedDocument| {
        let tokens = document.tokens.iter().zip(heats(document));
        tokens.filter(|(token, _)| !is_special(token)).filter_map(|(_, heat)| heat).fold(0.0, f32::max)
    };
    documents.into_iter().map(own).fold(0.0, f32::max)
}

impl<'a> Located<'a> {
    /// Finds the tokens in `text`, or else puts a text together from theirs: `##` continues a word. Tokens without a
    /// text of their own are called by their position, and only those that were chosen.
    pub(crate) fn new(document: &ExplainedDocument, text: Option<&'a str>) -> Self {
        let range = |token: &Token| token.byte_start as usize..token.byte_end as usize;
        let fits = |text: &str| {
            let mut tokens = document.tokens.iter();
            tokens.all(|token| token.byte_start >= token.byte_end || text.get(range(token)).is_some())
        };
        let named = document.tokens.iter().any(|token| !token.text.is_empty());
        if let Some(text) = text.filter(|text| named && fits(text)) {
            let place = |token: &Token| Some(range(token)).filter(|range| !range.is_empty());
            return Self { text: text.into(), places: document.tokens.iter().map(place).collect(), named };
        }

        let mut joined = String::new();
        let mut places = Vec::with_capacity(document.tokens.len());
        for (position, (token, heat)) in document.tokens.iter().zip(heats(document)).enumerate() {
            if !named && heat.is_none() {
                places.push(None);
                continue;
            }
            let name = if named { Cow::from(&token.text) } else { format!("#{position}").into() };
            let (name, continues) = name.strip_prefix("##").map_or((&*name, false), |piece| (piece, named));
            if !continues && !joined.is_empty() {
                joined.push(' ');
            }
            let start = joined.len();
            joined.push_str(name);
            places.push(Some(start..joined.len()));
        }
        Self { text: joined.into(), places, named }
    }

    /// The whole text in stretches: tokens that were chosen, and what is between them. A special token is shown where
    /// it was chosen. What was not read of a long text is an ellipsis.
    pub(crate) fn stretches(&self, document: &ExplainedDocument) -> Vec<Stretch> {
        let mut stretches = Vec::new();
        let mut shown = 0;
        for ((token, heat), place) in document.tokens.iter().zip(heats(document)).zip(&self.places) {
            match place {
                Some(Range { start, end }) => {
                    // Pieces of one character may all have its place: the first of them shows it.
                    let start = shown.max(*start);
                    push(&mut stretches, &self.text[shown..start], None);
                    match (start < *end, heat) {
                        (true, heat) => push(&mut stretches, &self.text[start..*end], heat),
                        (false, Some(heat)) => warm_last(&mut stretches, heat),
                        (false, None) => {}
                    }
                    shown = start.max(*end);
                }
                None if heat.is_some() && !token.text.is_empty() => {
                    push(&mut stretches, if shown > 0 { " " } else { "" }, None);
                    push(&mut stretches, &token.text, heat);
                    push(&mut stretches, " ", None);
                }
                None => {}
            }
        }
        push(&mut stretches, if document.truncated { " …" } else { &self.text[shown..] }, None);
        stretches
    }
}

/// Adds a stretch; one that nothing has chosen continues the one before it.
fn push(stretches: &mut Vec<Stretch>, text: &str, heat: Option<f32>) {
    match stretches.last_mut() {
        _ if text.is_empty() => {}
        Some(last) if last.heat.is_none() && heat.is_none() => last.text.push_str(text),
        _ => stretches.push(Stretch { text: text.to_owned(), heat }),
    }
}

fn warm_last(stretches: &mut [Stretch], heat: f32) {
    if let Some(last) = stretches.last_mut() {
        last.heat = Some(last.heat.unwrap_or(0.0) + heat);
    }
}

#[cfg(test)]
mod tests {
    use sluice_client::TokenMatch;

    use super::*;

    type Places<'a> = &'a [(&'a str, u32, u32)];

    fn document(tokens: Places, matches: &[(u32, f32)]) -> ExplainedDocument {
        let token =
            |&(text, byte_start, byte_end): &(&str, u32, u32)| Token { text: text.into(), byte_start, byte_end };
        let found = |&(document_token, similarity): &(u32, f32)| TokenMatch { document_token, similarity };
        ExplainedDocument {
            tokens: tokens.iter().map(token).collect(),
            matches: matches.iter().map(found).collect(),
            ..ExplainedDocument::default()
        }
    }

    #[test]
    fn texts_in_stretches() {
        let fleas = "The  Fleas\n live";
        let tokens: Places =
            &[("[CLS]", 0, 0), ("the", 0, 3), ("fl", 5, 7), ("##eas", 7, 10), ("live", 12, 16), ("[SEP]", 0, 0)];
        let emoji: Places = &[("a", 0, 4), ("b", 0, 4), ("c", 4, 5)];
        let outside: Places = &[("[CLS]", 0, 0), ("fl", 0, 2), ("##eas", 2, 99), ("live", 5, 9)];
        let unknown: Places = &[("", 0, 0); 4];
        type Case<'a> = (Option<&'a str>, Places<'a>, &'a [(u32, f32)], &'a [(&'a str, Option<f32>)]);
        let cases: [Case; 9] = [
            (
                Some(fleas),
                tokens,
                &[(2, 0.5), (4, 0.25), (2, 0.25)],
                &[("The  ", None), ("Fl", Some(0.75)), ("eas\n ", None), ("live", Some(0.25))],
            ),
            (Some(fleas), tokens, &[], &[(fleas, None)]),
            (
                Some(fleas),
                tokens,
                &[(0, 1.0), (5, -0.5)],
                &[("[CLS]", Some(1.0)), (" The  Fleas\n live ", None), ("[SEP]", Some(-0.5)), (" ", None)],
            ),
            (Some("\u{1f9a0}x"), emoji, &[(0, 0.5), (1, 0.25)], &[("\u{1f9a0}", Some(0.75)), ("x", None)]),
            (Some("\u{1f9a0}x"), emoji, &[(1, 0.25), (2, 1.0)], &[("\u{1f9a0}", Some(0.25)), ("x", Some(1.0))]),
            // A place that is not in the text, and one that cuts a character.
            (Some("fleas"), outside, &[(2, 1.0)], &[("[CLS] fl", None), ("eas", Some(1.0)), (" live", None)]),
            (Some("\u{1f9a0}"), &[("a", 0, 2), ("b", 2, 4)], &[(1, 1.0)], &[("a ", None), ("b", Some(1.0))]),
            (None, unknown, &[(3, 0.5), (1, 0.25)], &[("#1", Some(0.25)), (" ", None), ("#3", Some(0.5))]),
            // A match with nothing.
            (None, unknown, &[(9, 0.5)], &[]),
        ];
        for (text, tokens, matches, expected) in cases {
            let document = document(tokens, matches);
            let found = Located::new(&document, text).stretches(&document);
            let found: Vec<_> = found.iter().map(|stretch| (stretch.text.as_str(), stretch.heat)).collect();
            assert_eq!(found, expected, "{text:?} {matches:?}");
        }
    }

    #[test]
    fn what_was_not_read_is_an_ellipsis() {
        let document = ExplainedDocument { truncated: true, ..document(&[("a", 0, 1), ("b", 2, 3)], &[(0, 1.0)]) };
        let found = Located::new(&document, Some("a b and much more")).stretches(&document);
        assert_eq!(found.last().unwrap().text, " b …");
    }

    #[test]
    fn special_tokens_do_not_set_the_scale() {
        let documents = [
            document(&[("[CLS]", 0, 0), ("a", 0, 1)], &[(0, 9.0), (1, 0.5), (1, 0.25)]),
            document(&[("", 0, 0)], &[(0, 0.5)]),
        ];
        assert_eq!(hottest(&documents), 0.75);
        assert_eq!(hottest(&[document(&[("a", 0, 1)], &[(0, -1.0)])]), 0.0);
    }
}

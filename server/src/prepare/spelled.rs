//! Texts token by token, for whoever reads an explanation.

use std::{ops::Range, sync::Arc};

use sluice_inference::{TextEncoder, TokenizeError};
use sluice_service::status::Refusal;

use super::{Preparer, failed, lost};

/// A text as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spelled {
    /// The sequence: vocabulary ids, special tokens included.
    pub ids: Vec<u32>,
    /// One per id.
    pub tokens: Vec<SpelledToken>,
    /// A part of the text was not read.
    pub truncated: bool,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpelledToken {
    /// Its text in the vocabulary.
    pub text: String,
    /// Where it stands in the text, in bytes; empty for a special token.
    pub bytes: Range<u32>,
}

impl Preparer {
    /// Each text as a sequence of its own of at most `tokens_max` tokens, special ones included.
    ///
    /// # Errors
    /// [`Refusal::Internal`] if the tokenizer fails.
    pub async fn spell(
        &self,
        texts: Vec<String>,
        text: &Arc<TextEncoder>,
        tokens_max: usize,
    ) -> Result<Vec<Spelled>, Refusal> {
        let count = texts.len();
        let encoder = Arc::clone(text);
        let read = move |index: usize| spell(&texts[index], &encoder, tokens_max);
        let spelled = self.pool.map(count, read).await.map_err(lost)?;
        spelled.into_iter().collect::<Result<_, _>>().map_err(|error| failed(&error))
    }
}

fn spell(text: &str, encoder: &TextEncoder, tokens_max: usize) -> Result<Spelled, TokenizeError> {
    let room = tokens_max.saturating_sub(encoder.special_tokens_single());
    let mut read = encoder.tokens(text, Some(room + 1))?;
    let truncated = read.ids.len() > room || !read.complete;
    read.ids.truncate(room);
    let ids = encoder.single(&read.ids);
    let before = encoder.special_tokens_before();
    let token = |(position, id): (usize, &u32)| SpelledToken {
        text: encoder.token_text(*id).unwrap_or_default(),
        bytes: match position.checked_sub(before).filter(|own| *own < read.ids.len()) {
            Some(own) => read.offsets[own].0..read.offsets[own].1,
            None => 0..0,
        },
    };
    let tokens = ids.iter().enumerate().map(token).collect();
    Ok(Spelled { ids, tokens, truncated })
}

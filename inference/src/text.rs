//! Which tokens a text has.
//!
//! A text is tokenised once, without special tokens; sequences are put together from token ids. The folder's
//! own truncation and padding are off: what is cut and where is decided by whoever asks, and nothing is padded.

mod pieces;
mod special;
mod words;

use pieces::PieceTokenizer;
use special::SpecialTokens;

/// The tokens of a text, without special tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextTokens {
    /// Vocabulary ids.
    pub ids: Vec<u32>,
    /// Which bytes of the text each token stands for: `[start, end)` of the UTF-8 text.
    pub offsets: Vec<(u32, u32)>,
    /// False if the text has more tokens than these.
    pub complete: bool,
}

/// Why a text has no tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizeError {
    /// Offsets are 32 bits.
    #[error("a text of {bytes} bytes is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The tokenizer gave up on this text.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// A tokenizer that cannot be used, and why. The text continues "the tokenizer …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer {0}")]
pub struct InvalidTokenizer(pub String);

/// Turns texts into tokens and tokens into sequences. Shared between threads; keeps no state.
pub struct TextEncoder {
    vocabulary: Vocabulary,
    special: SpecialTokens,
}

enum Vocabulary {
    /// A `tokenizer.json`.
    Pieces(Box<PieceTokenizer>),
    /// Words between white space, for scripted models.
    Words,
}

impl TextEncoder {
    /// A tokenizer from the contents of a `tokenizer.json`. Its truncation and padding are ignored.
    ///
    /// # Errors
    /// [`InvalidTokenizer`] if it is none, or puts a pair together in a way that a model of two segments cannot read.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidTokenizer> {
        let pieces = PieceTokenizer::from_json(json)?;
        let special = pieces.probe_special_tokens()?;
        Ok(Self { vocabulary: Vocabulary::Pieces(Box::new(pieces)), special })
    }

    /// The tokenizer of scripted models: words between white space, without regard to case.
    pub(crate) fn words() -> Self {
        Self { vocabulary: Vocabulary::Words, special: words::special_tokens() }
    }

    /// The first `limit` tokens of a text, all of them for `None`.
    ///
    /// They are exactly those that tokenising the whole text would give first. A text much longer than the limit is
    /// not tokenised whole, where the tokenizer allows that: BERT's do, except inside a stretch without white space.
    ///
    /// # Errors
    /// [`TokenizeError`]; no text that fits is refused by a tokenizer that has a token for the unknown.
    pub fn tokens(&self, text: &str, limit: Option<usize>) -> Result<TextTokens, TokenizeError> {
        if u32::try_from(text.len()).is_err() {
            return Err(TokenizeError::TooLong { bytes: text.len() });
        }
        match &self.vocabulary {
            Vocabulary::Pieces(pieces) => pieces.tokens(text, limit),
            Vocabulary::Words => Ok(words::tokens(text, limit)),
        }
    }

    /// The sequence of one text: its tokens between the special ones.
    #[must_use]
    pub fn single(&self, tokens: &[u32]) -> Vec<u32> {
        let [before, after] = &self.special.single;
        [before, tokens, after].concat()
    }

    /// The sequence of two texts, and the position from which the token type is 1 (its length if nowhere).
    #[must_use]
    pub fn pair(&self, query: &[u32], document: &[u32]) -> (Vec<u32>, u32) {
        let [before, between, after] = &self.special.pair;
        let ids = [before, query, between, document, after].concat();
        let second_segment_start = match self.special.second_segment {
            Some(offset) => before.len() + query.len() + offset,
            None => ids.len(),
        };
        (ids, u32::try_from(second_segment_start).unwrap_or(u32::MAX))
    }

    /// Tokens that [`single`](Self::single) adds.
    #[must_use]
    pub fn special_tokens_single(&self) -> usize {
        self.special.single.iter().map(Vec::len).sum()
    }

    /// Those of them that stand before the text's own.
    #[must_use]
    pub fn special_tokens_before(&self) -> usize {
        self.special.single[0].len()
    }

    /// Tokens that [`pair`](Self::pair) adds.
    #[must_use]
    pub fn special_tokens_pair(&self) -> usize {
        self.special.pair.iter().map(Vec::len).sum()
    }

    /// A token as text; `None` for an id that the vocabulary lacks. Scripted models know their words only by a
    /// hash, which is written as `#` and 8 hexadecimal digits.
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<String> {
        match &self.vocabulary {
            Vocabulary::Pieces(pieces) => pieces.token_text(id),
            Vocabulary::Words => Some(words::token_text(id)),
        }
    }

    /// Whether a pair has tokens of type 1.
    pub(crate) fn has_second_segment(&self) -> bool {
        self.special.second_segment.is_some()
    }

    /// The largest id there is.
    pub(crate) fn largest_id(&self) -> u32 {
        match &self.vocabulary {
            Vocabulary::Pieces(pieces) => pieces.largest_id(),
            Vocabulary::Words => u32::MAX,
        }
    }

    /// Whether upper and lower case give the same tokens.
    pub(crate) fn lowercases(&self) -> bool {
        match &self.vocabulary {
            Vocabulary::Pieces(pieces) => pieces.lowercases(),
            Vocabulary::Words => true,
        }
    }
}

pub(crate) use words::{END, START, hash as word_id};

#[cfg(test)]
mod tests {
    use super::*;

    const fn assert_shareable<T: Send + Sync>() {}
    const _: () = assert_shareable::<TextEncoder>();
}

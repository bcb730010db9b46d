//! A `tokenizer.json`, and how a long text is tokenised only as far as needed.
//!
//! The text is cut into pieces, and the pieces are tokenised one after the other until there are enough tokens.
//! For BERT's tokenizers that is exact. A cut is made before white space, or before a CJK ideograph:
//!
//! 1. The normaliser works character by character, apart from canonical decomposition, which reorders combining
//!    marks after the character they belong to: neither white space nor an ideograph is a mark, so nothing moves
//!    across the cut. (Of white space, only what the normaliser keeps counts: it deletes control characters, and some
//!    of those are white space to Unicode.)
//! 2. The normaliser puts spaces around ideographs, and the pre-tokenizer splits at white space and drops it, so no
//!    word spans the cut.
//! 3. Every word is tokenised on its own.
//! 4. Added tokens are looked for before all that. They could span a cut only if they contained such a character, and
//!    could see across it only if they strip white space or insist on word boundaries.
//!
//! Where the tokenizer is not of this kind ([`cut_points`]), the text is one piece.

use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Tokenizer, TruncationParams};

use super::{InvalidTokenizer, TextTokens, TokenizeError, special};

/// Bytes of a piece: bounds the tokenizer's scratch memory, which is over 100 bytes a token.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Bytes of the first piece, for each token of the limit. English has about 4.7 bytes a token.
const BYTES_PER_TOKEN: usize = 6;
/// A piece is not worth less.
const PIECE_BYTES_MIN: usize = 128;

/// A Hugging Face tokenizer without truncation and padding.
pub(super) struct PieceTokenizer {
    tokenizer: Tokenizer,
    cut_points: CutPoints,
}

/// Where a text may be cut, so that its pieces' tokens are the text's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CutPoints {
    Nowhere,
    WhiteSpace,
    WhiteSpaceAndIdeographs,
}

impl PieceTokenizer {
    pub(super) fn from_json(json: &[u8]) -> Result<Self, InvalidTokenizer> {
        let invalid = |error| InvalidTokenizer(format!("cannot be read: {error}"));
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(invalid)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None::<TruncationParams>).map_err(invalid)?;
        let cut_points = cut_points(&tokenizer);
        Ok(Self { tokenizer, cut_points })
    }

    pub(super) fn probe_special_tokens(&self) -> Result<special::SpecialTokens, InvalidTokenizer> {
        special::probe(&self.tokenizer)
    }

    /// As [`super::TextEncoder::tokens`]; the text has fewer than 2³² bytes.
    pub(super) fn tokens(&self, text: &str, limit: Option<usize>) -> Result<TextTokens, TokenizeError> {
        let limit = limit.unwrap_or(usize::MAX);
        let mut tokens = TextTokens { complete: true, ..TextTokens::default() };
        let mut bytes = limit.saturating_mul(BYTES_PER_TOKEN).max(PIECE_BYTES_MIN);
        let mut start = 0;
        // One token more than asked for tells that the text goes on.
        while start < text.len() && tokens.ids.len() <= limit {
            let end = self.cut_points.next(text, start, bytes.min(PIECE_BYTES_MAX));
            self.append(&mut tokens, text, start..end)?;
            start = end;
            bytes = bytes.saturating_mul(2);
        }
        if tokens.ids.len() > limit {
            tokens.ids.truncate(limit);
            tokens.offsets.truncate(limit);
            tokens.complete = false;
        }
        Ok(tokens)
    }

    pub(super) fn token_text(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    pub(super) fn largest_id(&self) -> u32 {
        self.tokenizer.get_vocab(true).into_values().max().unwrap_or(0)
    }

    pub(super) fn lowercases(&self) -> bool {
        match self.tokenizer.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(bert)) => bert.lowercase,
            Some(NormalizerWrapper::Lowercase(_)) => true,
            Some(NormalizerWrapper::Sequence(sequence)) => {
                sequence.as_ref().iter().any(|step| matches!(step, NormalizerWrapper::Lowercase(_)))
            }
            _ => false,
        }
    }

    fn append(&self, tokens: &mut TextTokens, text: &str, piece: std::ops::Range<usize>) -> Result<(), TokenizeError> {
        let encoding = self
            .tokenizer
            .encode(&text[piece.clone()], false)
            .map_err(|error| TokenizeError::Failed(error.to_string()))?;
        let in_text = |offset: usize| u32::try_from(piece.start + offset).expect("offsets are within the text");
        tokens.ids.extend_from_slice(encoding.get_ids());
        tokens.offsets.extend(encoding.get_offsets().iter().map(|&(start, end)| (in_text(start), in_text(end))));
        Ok(())
    }
}

impl CutPoints {
    /// The end of the piece that begins at `start`: the last cut point of its next `bytes` bytes, else the first one
    /// after them, else the text's end.
    fn next(self, text: &str, start: usize, bytes: usize) -> usize {
        let rest = &text[start..];
        if rest.len() <= bytes || self == Self::Nowhere {
            return text.len();
        }
        // A piece has at least one character: the first is no cut point of its own piece.
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let near = rest.floor_char_boundary(bytes).max(first);
        let cut = rest[first..near].rfind(|c| self.contains(c)).map(|at| first + at);
        let cut = cut.or_else(|| rest[near..].find(|c| self.contains(c)).map(|at| near + at));
        cut.map_or(text.len(), |at| start + at)
    }

    fn contains(self, c: char) -> bool {
        match c {
            ' ' | '\t' | '\n' | '\r' | '\u{3000}' => self != Self::Nowhere,
            // The block as of Unicode 1.1: no table of any age takes these for unassigned, and deletes them.
            '\u{4e00}'..='\u{9fa5}' => self == Self::WhiteSpaceAndIdeographs,
            _ => false,
        }
    }
}

/// See the [module](self).
fn cut_points(tokenizer: &Tokenizer) -> CutPoints {
    let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else {
        return CutPoints::Nowhere;
    };
    let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = tokenizer.get_pre_tokenizer() else {
        return CutPoints::Nowhere;
    };
    let points =
        if normalizer.handle_chinese_chars { CutPoints::WhiteSpaceAndIdeographs } else { CutPoints::WhiteSpace };
    let local = |token: &AddedToken| {
        !(token.lstrip || token.rstrip || token.single_word || token.content.chars().any(|c| points.contains(c)))
    };
    if tokenizer.get_added_tokens_decoder().values().all(local) { points } else { CutPoints::Nowhere }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_cut_points() {
        let cases = [
            ("one two three", 0, 100, 13),
            ("one two three", 0, 9, 7),
            ("one two three", 7, 3, 13),
            ("one two three", 0, 2, 3),
            ("onetwothree", 0, 4, 11),
            (" one two", 0, 3, 4),
            ("    ", 0, 2, 1),
            ("aé漢字b", 0, 4, 3),
            ("aé漢字b", 3, 1, 6),
            ("éé", 0, 1, 4),
        ];
        for (text, start, bytes, end) in cases {
            let cut = CutPoints::WhiteSpaceAndIdeographs.next(text, start, bytes);
            assert_eq!(cut, end, "{bytes} bytes of {text:?} from {start}");
        }
        assert_eq!(CutPoints::WhiteSpace.next("aé漢字 b", 0, 4), 9);
        assert_eq!(CutPoints::Nowhere.next("one two", 0, 4), 7);
    }
}

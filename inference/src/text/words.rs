//! The tokenizer of scripted models: words between white space, known by a hash.

use super::{TextTokens, special::SpecialTokens};

/// Begins every sequence.
pub(crate) const START: u32 = 0;
/// Ends every text.
pub(crate) const END: u32 = 1;
/// Smallest id of a word.
const FIRST_WORD: u32 = 2;

pub(super) fn special_tokens() -> SpecialTokens {
    SpecialTokens {
        single: [vec![START], vec![END]],
        pair: [vec![START], vec![END], vec![END]],
        second_segment: Some(1),
    }
}

pub(super) fn tokens(text: &str, limit: Option<usize>) -> TextTokens {
    let mut words = text.split_whitespace();
    let mut tokens = TextTokens::default();
    for word in words.by_ref().take(limit.unwrap_or(usize::MAX)) {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        tokens.ids.push(hash(word));
        tokens.offsets.push((start as u32, (start + word.len()) as u32));
    }
    tokens.complete = words.next().is_none();
    tokens
}

pub(super) fn token_text(id: u32) -> String {
    format!("#{id:08x}")
}

/// The id of a word, in whatever case it is written: FNV-1a in 64 bits, folded.
pub(crate) fn hash(word: &str) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in word.chars().flat_map(char::to_lowercase).flat_map(|c| u32::from(c).to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let folded = (hash ^ (hash >> 32)) as u32;
    folded.max(FIRST_WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_their_places() {
        let cases: [(&str, Option<usize>, &[&str], bool); 6] = [
            ("", None, &[], true),
            (" \t\n", Some(0), &[], true),
            ("a", Some(0), &[], false),
            ("a b", Some(1), &["a"], false),
            ("  héé\u{3000}Wörld a  ", Some(2), &["héé", "Wörld"], false),
            ("  héé\u{3000}Wörld a  ", Some(3), &["héé", "Wörld", "a"], true),
        ];
        for (text, limit, words, complete) in cases {
            let tokens = tokens(text, limit);
            let found: Vec<&str> =
                tokens.offsets.iter().map(|&(start, end)| &text[start as usize..end as usize]).collect();
            assert_eq!(found, words, "{text:?}");
            assert_eq!(tokens.ids, words.iter().map(|word| hash(word)).collect::<Vec<_>>(), "{text:?}");
            assert_eq!(tokens.complete, complete, "{text:?} to {limit:?}");
        }
        assert_eq!(hash("WÖRLD"), hash("wörld"));
        assert_ne!(hash("world"), hash("word"));
    }
}

//! Tokens, their places in the text, and sequences made of them, against the tokenizer's own doing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helper functions of tests")]

mod support;

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;
use sluice_inference::{TextEncoder, TextTokens};
use support::tiny;
use tokenizers::{Tokenizer, TruncationParams};

static ENCODER: LazyLock<TextEncoder> =
    LazyLock::new(|| TextEncoder::from_json(tiny::tokenizer_json().to_string().as_bytes()).unwrap());
static WHOLE: LazyLock<Tokenizer> = LazyLock::new(|| whole(&tiny::tokenizer_json()));

/// The same tokenizer as its library has it, but for truncation and padding.
fn whole(json: &serde_json::Value) -> Tokenizer {
    let mut tokenizer = Tokenizer::from_bytes(json.to_string()).unwrap();
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None::<TruncationParams>).unwrap();
    tokenizer
}

/// All tokens of a text, tokenised in one go.
fn expected(tokenizer: &Tokenizer, text: &str) -> TextTokens {
    let encoding = tokenizer.encode(text, false).unwrap();
    let offsets = encoding.get_offsets().iter().map(|&(start, end)| (start as u32, end as u32)).collect();
    TextTokens { ids: encoding.get_ids().to_vec(), offsets, complete: true }
}

#[track_caller]
fn check(encoder: &TextEncoder, tokenizer: &Tokenizer, text: &str, limit: Option<usize>) {
    let mut expected = expected(tokenizer, text);
    if let Some(limit) = limit.filter(|&limit| limit < expected.ids.len()) {
        expected.ids.truncate(limit);
        expected.offsets.truncate(limit);
        expected.complete = false;
    }
    assert_eq!(encoder.tokens(text, limit).unwrap(), expected, "{text:?} to {limit:?}");
}

#[test]
fn offsets_are_bytes_of_the_text() {
    let text = "  Blåck SÄND,\u{0} 漢字beaches\u{301} é\u{fe0f} ЖЖ\u{3000}[SEP]x";
    let tokens = ENCODER.tokens(text, None).unwrap();
    let pieces: Vec<(String, &str)> = tokens
        .ids
        .iter()
        .zip(&tokens.offsets)
        .map(|(&id, &(start, end))| (ENCODER.token_text(id).unwrap(), &text[start as usize..end as usize]))
        .collect();
    let expected = [
        ("black", "Blåck"),
        ("sand", "SÄND"),
        (",", ","),
        ("漢", "漢"),
        ("字", "字"),
        ("beach", "beach"),
        ("##es", "es\u{301}"),
    ];
    for (i, (token, part)) in expected.iter().enumerate() {
        assert_eq!(pieces[i].0, *token, "{pieces:?}");
        assert!(pieces[i].1.starts_with(part.trim_end_matches('\u{301}')), "{pieces:?}");
    }
    assert!(pieces.iter().any(|(token, part)| token == "[SEP]" && *part == "[SEP]"), "{pieces:?}");
    assert_eq!(ENCODER.token_text(100_000), None);
}

#[test]
fn a_limit_gives_the_first_tokens() {
    let long = "the black sand beaches of 漢字, the white sandé [MASK] in\tthe\nwater ".repeat(300);
    let unbroken = "blackbeaches".repeat(3000);
    let ideographs = "漢字水".repeat(3000);
    let spaces = format!("sand{}beach{}", " ".repeat(20_000), " ".repeat(20_000));
    let controls = "sa\u{c}nd\u{b}be\u{85}ach\u{0} ".repeat(400);
    for text in ["", " ", "sand", &long, &unbroken, &ideographs, &spaces, &controls] {
        for limit in [None, Some(0), Some(1), Some(2), Some(3), Some(30), Some(255), Some(2000), Some(100_000)] {
            check(&ENCODER, &WHOLE, text, limit);
        }
    }
}

#[test]
fn a_long_text_is_not_tokenised_whole() {
    // A minute's work, if it were: nothing but the beginning is looked at.
    let text = "the black sand beaches ".repeat(4_000_000);
    let tokens = ENCODER.tokens(&text, Some(254)).unwrap();
    assert_eq!((tokens.ids.len(), tokens.complete), (254, false));
}

#[test]
fn tokenizers_that_see_across_white_space_are_not_cut() {
    let spanning = |content: &str, lstrip: bool, single_word: bool| {
        let mut json = tiny::tokenizer_json();
        let next = tiny::vocabulary().len();
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": next, "content": content, "special": true, "single_word": single_word,
            "lstrip": lstrip, "rstrip": false, "normalized": false,
        }));
        json
    };
    let whitespace_kept = {
        let mut json = tiny::tokenizer_json();
        json["normalizer"] = json!({"type": "Lowercase"});
        json
    };
    for json in [
        spanning("black sand", false, false),
        spanning("<x>", true, false),
        spanning("beach", false, true),
        whitespace_kept,
    ] {
        let encoder = TextEncoder::from_json(json.to_string().as_bytes()).unwrap();
        let text = "the    <x> black sand beach of beach水 ".repeat(200);
        for limit in [None, Some(1), Some(7), Some(50), Some(51), Some(52), Some(53)] {
            check(&encoder, &whole(&json), &text, limit);
        }
    }
}

#[test]
fn sequences_equal_the_tokenizers_own() {
    for (query, document) in [
        ("black sand", "the white beaches of 漢字"),
        ("black sand", ""),
        ("", "beaches"),
        ("", ""),
        ("sand [SEP] sand", "[CLS]"),
    ] {
        let [first, second] = [query, document].map(|text| ENCODER.tokens(text, None).unwrap().ids);
        let own = WHOLE.encode((query, document), true).unwrap();
        let (ids, second_segment_start) = ENCODER.pair(&first, &second);
        assert_eq!(ids, own.get_ids(), "{query:?}, {document:?}");
        let types: Vec<u32> = (0..ids.len() as u32).map(|i| u32::from(i >= second_segment_start)).collect();
        assert_eq!(types, own.get_type_ids(), "{query:?}, {document:?}");
        assert_eq!(ids.len(), first.len() + second.len() + ENCODER.special_tokens_pair());

        let single = ENCODER.single(&second);
        assert_eq!(single, WHOLE.encode(document, true).unwrap().get_ids(), "{document:?}");
        assert_eq!(single.len(), second.len() + ENCODER.special_tokens_single());
    }
}

/// Characters on which tokenizers differ from one another.
const CHARACTERS: &str = " \t\n\r\u{b}\u{c}\u{85}\u{a0}\u{2003}\u{2028}\u{3000}\u{0}\u{200d}\u{feff}\u{301}\u{327}\u{fffd}\
    aAbzéÉßİſ漢字水龥\u{9fff}\u{3400}\u{20000}\u{f900}。、각ก\u{e31}ж09.,-[]'\u{1f600}";

fn text() -> impl Strategy<Value = String> {
    let characters: Vec<char> = CHARACTERS.chars().collect();
    let words = ["black ", "sand", " beaches", "[SEP]", "[MASK] ", "[CLS", "the ", "漢字"].map(str::to_owned);
    let part = prop_oneof![
        4 => prop::sample::select(characters).prop_map(String::from),
        2 => prop::sample::select(words.to_vec()),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(part, 0..400).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_limit_of_any_text_gives_the_first_tokens(text in text(), limit in prop::option::of(0_usize..300)) {
        check(&ENCODER, &WHOLE, &text, limit);
    }

    #[test]
    fn any_pair_equals_the_tokenizers_own(query in text(), document in text()) {
        let [first, second] = [&query, &document].map(|text| ENCODER.tokens(text, None).unwrap().ids);
        let own = WHOLE.encode((query, document), true).unwrap();
        let (ids, second_segment_start) = ENCODER.pair(&first, &second);
        prop_assert_eq!(&ids[..], own.get_ids());
        prop_assert_eq!(own.get_type_ids().iter().filter(|&&kind| kind == 0).count(), second_segment_start as usize);
    }
}

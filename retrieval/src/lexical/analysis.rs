//! Which words a text has.
//!
//! Words are runs of letters and digits, in lower case, without those of more than 255 bytes. With a language: without
//! its stop words, stemmed by snowball, and then without diacritics, so that `strande` finds `Strände` while the
//! stemmer saw the letters it knows. Words that are left out keep their position: phrases reach over them.
//!
//! Stop words are those that tantivy brings, of 13 languages. Arabic, Greek, Romanian, Tamil and Turkish have none:
//! their common words count for little by their frequency alone.

use tantivy::tokenizer::{
    self, AsciiFoldingFilter, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
    TokenizerManager,
};

use crate::schema::Language;

/// Bytes of a word that is indexed. Longer ones are data, not words; the postings could hold some 65,000 bytes.
const WORD_BYTES_MAX: usize = 255;

const LANGUAGES: [Language; 19] = [
    Language::None,
    Language::Arabic,
    Language::Danish,
    Language::Dutch,
    Language::English,
    Language::Finnish,
    Language::French,
    Language::German,
    Language::Greek,
    Language::Hungarian,
    Language::Italian,
    Language::Norwegian,
    Language::Portuguese,
    Language::Romanian,
    Language::Russian,
    Language::Spanish,
    Language::Swedish,
    Language::Tamil,
    Language::Turkish,
];

/// A word and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// As it is indexed.
    pub(crate) text: String,
    /// Counted in words from 0, those left out included.
    pub(crate) position: usize,
}

/// Analysers of all languages, by name.
pub(crate) fn analysers() -> TokenizerManager {
    // With tantivy's own, of which it asks for one by name even for fields of numbers.
    let analysers = TokenizerManager::default();
    for language in LANGUAGES {
        analysers.register(name(language), analyser(language));
    }
    analysers
}

/// What the analyser is called in the index's own schema.
pub(crate) fn name(language: Language) -> &'static str {
    match language {
        Language::None => "words",
        Language::Arabic => "words_arabic",
        Language::Danish => "words_danish",
        Language::Dutch => "words_dutch",
        Language::English => "words_english",
        Language::Finnish => "words_finnish",
        Language::French => "words_french",
        Language::German => "words_german",
        Language::Greek => "words_greek",
        Language::Hungarian => "words_hungarian",
        Language::Italian => "words_italian",
        Language::Norwegian => "words_norwegian",
        Language::Portuguese => "words_portuguese",
        Language::Romanian => "words_romanian",
        Language::Russian => "words_russian",
        Language::Spanish => "words_spanish",
        Language::Swedish => "words_swedish",
        Language::Tamil => "words_tamil",
        Language::Turkish => "words_turkish",
    }
}

fn stemming(language: Language) -> Option<tokenizer::Language> {
    Some(match language {
        Language::None => return None,
        Language::Arabic => tokenizer::Language::Arabic,
        Language::Danish => tokenizer::Language::Danish,
        Language::Dutch => tokenizer::Language::Dutch,
        Language::English => tokenizer::Language::English,
        Language::Finnish => tokenizer::Language::Finnish,
        Language::French => tokenizer::Language::French,
        Language::German => tokenizer::Language::German,
        Language::Greek => tokenizer::Language::Greek,
        Language::Hungarian => tokenizer::Language::Hungarian,
        Language::Italian => tokenizer::Language::Italian,
        Language::Norwegian => tokenizer::Language::Norwegian,
        Language::Portuguese => tokenizer::Language::Portuguese,
        Language::Romanian => tokenizer::Language::Romanian,
        Language::Russian => tokenizer::Language::Russian,
        Language::Spanish => tokenizer::Language::Spanish,
        Language::Swedish => tokenizer::Language::Swedish,
        Language::Tamil => tokenizer::Language::Tamil,
        Language::Turkish => tokenizer::Language::Turkish,
    })
}

/// The analyser of a language.
pub(crate) fn analyser(language: Language) -> TextAnalyzer {
    let words = TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser)
        .dynamic();
    let Some(stemming) = stemming(language) else { return words.build() };
    let words = match StopWordFilter::new(stemming) {
        Some(stop_words) => words.filter_dynamic(stop_words),
        None => words,
    };
    words.filter_dynamic(Stemmer::new(stemming)).filter_dynamic(AsciiFoldingFilter).build()
}

/// The words of a text, at most `max` of them.
pub(crate) fn words(language: Language, text: &str, max: usize) -> Vec<Word> {
    let mut analyser = analyser(language);
    let mut stream = analyser.token_stream(text);
    let mut words = Vec::new();
    while words.len() < max && stream.advance() {
        let token = stream.token();
        words.push(Word { text: token.text.clone(), position: token.position });
    }
    words
}

/// The last run of letters and digits as it stands, in lower case and folded: what a word that is still being typed
/// begins with.
pub(crate) fn unfinished(text: &str) -> Option<String> {
    let mut analyser = TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        .build();
    if !text.ends_with(char::is_alphanumeric) {
        return None;
    }
    let mut stream = analyser.token_stream(text);
    let mut last = None;
    while stream.advance() {
        last = Some(stream.token().text.clone());
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(language: Language, text: &str, expected: &[(&str, usize)]) {
        let found = words(language, text, 100);
        let found: Vec<_> = found.iter().map(|word| (word.text.as_str(), word.position)).collect();
        assert_eq!(found, expected, "{language:?} {text:?}");
    }

    #[test]
    fn words_by_language() {
        check(Language::None, "The Black-Sand beaches!", &[("the", 0), ("black", 1), ("sand", 2), ("beaches", 3)]);
        check(Language::English, "The Black-Sand beaches", &[("black", 1), ("sand", 2), ("beach", 3)]);
        check(Language::German, "Die Strände", &[("strand", 1)]);
        check(Language::German, "strande", &[("strand", 0)]);
        check(Language::French, "l'été à la plage", &[("ete", 1), ("plag", 4)]);
        check(Language::Turkish, "kitaplar", &[("kitap", 0)]);
        check(Language::English, "", &[]);
        check(Language::English, &"x".repeat(300), &[]);
    }

    #[test]
    fn every_language_has_an_analyser_of_its_own_name() {
        let analysers = analysers();
        for language in LANGUAGES {
            assert!(analysers.get(name(language)).is_some(), "{language:?}");
            assert!(!words(language, "Data 2026", 10).is_empty(), "{language:?}");
        }
    }

    #[test]
    fn a_word_is_unfinished_until_something_follows_it() {
        for (text, expected) in [("Black sa", Some("sa")), ("black sand ", None), ("", None), ("Éco", Some("eco"))] {
            assert_eq!(unfinished(text).as_deref(), expected, "{text:?}");
        }
    }
}

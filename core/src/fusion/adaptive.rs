//! Weights that follow the query.
//!
//! Words are good at what is rare and exact: names, codes, numbers, error texts. Vectors are good at what is asked in
//! other words than the answer has: questions, long sentences. [`QueryFeatures`] says how much of either a query is, and
//! [`factors`] turns that into a factor for each leg:
//!
//! ```text
//! tilt    = identifier_share + (rarity − ½) − ½ · question − ¼ · length        length = clamp((words − 6) / 10, −1, 1)
//! factor  = 2^(¼ · clamp(tilt, −1, 1) · (1 − agreement))   for words, 2^−(…) for dense vectors, 1 for sparse ones
//! ```
//!
//! The quarter keeps two legs' weights within √2 of each other. RRF's reciprocals reach from 1/61 to 1/160 over a hundred
//! hits, so that from a ratio of 2.6 on the last hit of one list is before the first of the other, and nothing is fused any
//! more; with weights up to 4 apart, RRF lost 0.010 of nDCG@10 on a collection of long questions (`docs/benchmarks.md`).
//!
//! so that a factor is between [`FACTOR_MIN`] and [`FACTOR_MAX`] whatever comes, and 1 where nothing speaks for either
//! side. Learned sparse vectors match words and meanings both, and stay in the middle. Where the legs agree, weights have
//! little to decide and are left alone. The coefficients are a prior, set by hand, and fitted to no collection. A query
//! performance predictor over the legs' scores would be a further feature; none is used, because scores of different legs
//! do not compare.

use std::{collections::HashSet, hash::Hash};

use super::RankedList;

/// Least factor.
pub const FACTOR_MIN: f64 = 1.0 / FACTOR_MAX;
/// Largest factor: 2^¼.
pub const FACTOR_MAX: f64 = 1.189_207_115_002_721;

/// Hits of a list that are looked at for agreement.
const AGREEMENT_DEPTH: usize = 10;
/// Words of a query that is neither short nor long.
const WORDS_TYPICAL: f64 = 6.0;
/// Words more than that, from which on a query is as long as it gets.
const WORDS_SPAN: f64 = 10.0;
/// Shortest run of digits that names something, such as a year or an error number.
const NUMBER_DIGITS_MIN: usize = 4;

/// What a leg looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegKind {
    /// Words.
    Lexical,
    /// Dense vectors.
    Dense,
    /// Learned sparse vectors.
    Sparse,
}

/// What a query is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueryFeatures {
    /// Its words, between white space.
    pub words: usize,
    /// It begins with a question word, or ends with a question mark.
    pub question: bool,
    /// Share of its words that are identifiers, code, numbers of some length, or quoted; 0 to 1.
    pub identifier_share: f64,
    /// How rare its words are, 0 to 1, as [`rarity`] says; `None` where that is not known.
    pub rarity: Option<f64>,
    /// How far the legs agree, 0 to 1, as [`agreement`] says.
    pub agreement: f64,
}

impl QueryFeatures {
    /// What can be seen of the text alone. `question_words` are in lower case.
    #[must_use]
    pub fn of_text(text: &str, question_words: &[String]) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let asks = words.first().is_some_and(|first| {
            let first = first.trim_matches(|letter: char| !letter.is_alphanumeric()).to_lowercase();
            question_words.contains(&first)
        });
        let ends_asking = text.trim_end().ends_with(['?', '？', '؟']);
        // A text all in capitals has no capitals that stand out.
        let shouting = !text.chars().any(char::is_lowercase);
        let mut quoted = false;
        let mut identifiers = 0;
        for word in &words {
            let quotes = word.matches('"').count();
            if quoted || quotes > 0 || is_identifier(word, shouting) {
                identifiers += 1;
            }
            quoted ^= quotes % 2 == 1;
        }
        let identifier_share = if words.is_empty() { 0.0 } else { f64::from(identifiers) / words.len() as f64 };
        Self { words: words.len(), question: asks || ends_asking, identifier_share, rarity: None, agreement: 0.0 }
    }

    /// −1 (all for meaning) to 1 (all for words).
    fn tilt(&self) -> f64 {
        let rarity = self.rarity.map_or(0.0, |rarity| rarity.clamp(0.0, 1.0) - 0.5);
        let question = if self.question { 0.5 } else { 0.0 };
        let length = ((self.words as f64 - WORDS_TYPICAL) / WORDS_SPAN).clamp(-1.0, 1.0);
        let tilt = (self.identifier_share + rarity - question - 0.25 * length).clamp(-1.0, 1.0);
        tilt * (1.0 - self.agreement.clamp(0.0, 1.0))
    }
}

/// What each leg's weight is multiplied with, in the order of `kinds`. All are 1 unless there are two kinds at least:
/// between legs of one kind the query says nothing.
#[must_use]
pub fn factors(features: &QueryFeatures, kinds: &[LegKind]) -> Vec<f64> {
    if kinds.iter().all(|kind| Some(kind) == kinds.first()) {
        return vec![1.0; kinds.len()];
    }
    let factor = FACTOR_MAX.powf(features.tilt()).clamp(FACTOR_MIN, FACTOR_MAX);
    let of = |kind: &LegKind| match kind {
        LegKind::Lexical => factor,
        LegKind::Dense => 1.0 / factor,
        LegKind::Sparse => 1.0,
    };
    kinds.iter().map(of).collect()
}

/// Mean of the words' inverse document frequencies ln(1 + (N − n + ½) / (n + ½)) over the largest possible, that of a
/// word in no document; 0 to 1. `frequencies` says in how many of the `documents` each word stands. `None` without words
/// or documents.
#[must_use]
pub fn rarity(frequencies: &[u64], documents: u64) -> Option<f64> {
    if frequencies.is_empty() || documents == 0 {
        return None;
    }
    let idf = |frequency: u64| {
        let (all, with) = (documents as f64, frequency.min(documents) as f64);
        ((all - with + 0.5) / (with + 0.5)).ln_1p()
    };
    let mean = frequencies.iter().map(|frequency| idf(*frequency)).sum::<f64>() / frequencies.len() as f64;
    Some(mean / idf(0))
}

/// Mean over all pairs of lists that are not empty: documents that both have among their first 10, over the most that
/// they could have in common. 0 to 1; 0 without such a pair.
#[must_use]
pub fn agreement<Id: Eq + Hash + Ord>(lists: &[RankedList<Id>]) -> f64 {
    let heads: Vec<HashSet<&Id>> = lists
        .iter()
        .map(|list| list.hits().iter().take(AGREEMENT_DEPTH).map(|(id, _)| id).collect())
        .filter(|head: &HashSet<&Id>| !head.is_empty())
        .collect();
    let pairs = heads.iter().enumerate().flat_map(|(nth, a)| heads[nth + 1..].iter().map(move |b| (a, b)));
    let overlaps: Vec<f64> =
        pairs.map(|(a, b)| a.intersection(b).count() as f64 / a.len().min(b.len()) as f64).collect();
    if overlaps.is_empty() { 0.0 } else { overlaps.iter().sum::<f64>() / overlaps.len() as f64 }
}

/// Whether a word is more of a name than of a language: letters mixed with digits, a long number, inner capitals or
/// punctuation as in code, a file name or an address, or capitals among small letters.
fn is_identifier(word: &str, shouting: bool) -> bool {
    let core = word.trim_matches(|letter: char| !letter.is_alphanumeric() && !matches!(letter, '_' | '$' | '#' | '@'));
    let letters: Vec<char> = core.chars().collect();
    let (digits, alphabetic) = letters.iter().fold((0, 0), |(digits, alphabetic), letter| {
        (digits + usize::from(letter.is_numeric()), alphabetic + usize::from(letter.is_alphabetic()))
    });
    let capitals = letters.iter().filter(|letter| letter.is_uppercase()).count();
    let inner_capital = letters.windows(2).any(|pair| pair[0].is_lowercase() && pair[1].is_uppercase());
    let code = core.contains(['_', '$', '#', '@', '=', '<', '>', '{', '}', '(', ')', '[', ']', '\\', '/'])
        || core.contains("::")
        || core.contains("->");
    let dotted = letters
        .windows(3)
        .any(|three| matches!(three[1], '.' | ':') && three[0].is_alphanumeric() && three[2].is_alphanumeric());
    (digits > 0 && alphabetic > 0)
        || digits >= NUMBER_DIGITS_MIN
        || code
        || dotted
        || (!shouting && (inner_capital || (capitals >= 2 && capitals == alphabetic)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question_words() -> Vec<String> {
        ["what", "how"].map(str::to_owned).to_vec()
    }

    #[test]
    fn what_a_text_is_like() {
        // Text, words, question, words that are identifiers.
        let cases = [
            ("", 0, false, 0),
            ("black sand beach", 3, false, 0),
            ("What is a black hole", 5, true, 0),
            ("\"how\" it works", 3, true, 1),
            ("somehow it works", 3, false, 0),
            ("is this one?", 3, true, 0),
            ("这是什么？", 1, true, 0),
            ("NullPointerException in foo_bar::baz()", 3, false, 2),
            ("error 0x80070005 on RTX4090", 4, false, 2),
            ("the year 1969 or 42", 5, false, 1),
            ("role of BRCA1 and DNA in mice", 7, false, 2),
            ("ALL IN CAPITALS", 3, false, 0),
            ("exact \"red apple pie\" recipe", 5, false, 3),
            ("read main.rs at 10:30", 4, false, 2),
            ("the end. Of it, e.g. this", 6, false, 1),
            ("well-known state-of-the-art", 2, false, 0),
            ("C# or c", 3, false, 1),
        ];
        for (text, words, question, identifiers) in cases {
            let found = QueryFeatures::of_text(text, &question_words());
            let share = if words == 0 { 0.0 } else { f64::from(identifiers) / f64::from(words) };
            assert_eq!((found.words, found.question), (words as usize, question), "{text:?}");
            assert!((found.identifier_share - share).abs() < 1e-12, "{text:?}: {}", found.identifier_share);
        }
    }

    #[test]
    fn rarity_is_a_share_of_the_largest_idf() {
        let cases = [
            (&[][..], 10, None),
            (&[1], 0, None),
            (&[0, 0], 10, Some(1.0)),
            (&[1000], 1000, Some((0.5_f64 / 1000.5).ln_1p() / (1000.5_f64 / 0.5).ln_1p())),
            // More documents than there are: statistics may count the deleted.
            (&[1001], 1000, Some((0.5_f64 / 1000.5).ln_1p() / (1000.5_f64 / 0.5).ln_1p())),
            (&[0, 10], 10, Some((1.0 + (0.5_f64 / 10.5).ln_1p() / (10.5_f64 / 0.5).ln_1p()) / 2.0)),
        ];
        for (frequencies, documents, expected) in cases {
            let found = rarity(frequencies, documents);
            let close = found.zip(expected).map_or(found == expected, |(a, b)| (a - b).abs() < 1e-12);
            assert!(close, "{frequencies:?} of {documents}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn agreement_is_the_mean_overlap_of_heads() {
        let list = |ids: &[u32]| RankedList::new(ids.iter().enumerate().map(|(nth, id)| (*id, -(nth as f32))), None);
        let long: Vec<u32> = (0..30).collect();
        let shifted: Vec<u32> = (5..35).collect();
        let cases = [
            (vec![], 0.0),
            (vec![list(&[1, 2])], 0.0),
            (vec![list(&[1, 2]), list(&[])], 0.0),
            (vec![list(&[1, 2]), list(&[2, 1])], 1.0),
            (vec![list(&[1]), list(&[2, 1])], 1.0),
            (vec![list(&[1, 2]), list(&[2, 3]), list(&[4, 5])], 0.5 / 3.0),
            // Only the first ten of each count.
            (vec![list(&long), list(&shifted)], 0.5),
        ];
        for (lists, expected) in cases {
            assert!((agreement(&lists) - expected).abs() < 1e-12, "{lists:?}");
        }
    }

    #[test]
    fn factors_lean_to_the_side_that_the_query_speaks_for() {
        use LegKind::{Dense, Lexical, Sparse};
        let check = |features: QueryFeatures, expected: f64| {
            let found = factors(&features, &[Lexical, Dense, Sparse]);
            let close = [expected, 1.0 / expected, 1.0].into_iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(close, "{features:?}: {found:?}, not {expected}");
        };
        let plain = QueryFeatures { words: 6, ..QueryFeatures::default() };
        check(plain, 1.0);
        check(QueryFeatures { identifier_share: 0.5, ..plain }, FACTOR_MAX.powf(0.5));
        check(QueryFeatures { identifier_share: 1.0, rarity: Some(1.0), ..plain }, FACTOR_MAX);
        check(QueryFeatures { rarity: Some(1.0), ..plain }, FACTOR_MAX.powf(0.5));
        check(QueryFeatures { rarity: Some(0.5), ..plain }, 1.0);
        check(QueryFeatures { question: true, ..plain }, FACTOR_MAX.powf(-0.5));
        check(QueryFeatures { words: 1, ..plain }, FACTOR_MAX.powf(0.125));
        check(QueryFeatures { words: 100, question: true, rarity: Some(0.0), ..plain }, FACTOR_MIN);
        check(QueryFeatures { question: true, agreement: 0.5, ..plain }, FACTOR_MAX.powf(-0.25));
        check(QueryFeatures { identifier_share: 1.0, agreement: 1.0, ..plain }, 1.0);
        let identifier = QueryFeatures { identifier_share: 1.0, ..plain };
        assert_eq!(factors(&identifier, &[Lexical, Lexical]), [1.0, 1.0], "two lexical legs");
        assert_eq!(factors(&identifier, &[Dense]), [1.0], "one leg");
        assert_eq!(factors(&identifier, &[]), [0.0; 0]);
    }

    proptest! {
        #[test]
        fn factors_are_bounded_whatever_comes(
            text in ".{0,60}",
            rarity in prop::option::of(-1e9..1e9),
            agreement in -2.0..2.0,
        ) {
            let features = QueryFeatures { rarity, agreement, ..QueryFeatures::of_text(&text, &question_words()) };
            prop_assert!((0.0..=1.0).contains(&features.identifier_share));
            for factor in factors(&features, &[LegKind::Lexical, LegKind::Dense, LegKind::Sparse]) {
                prop_assert!((FACTOR_MIN..=FACTOR_MAX).contains(&factor), "{factor}");
            }
        }
    }
}

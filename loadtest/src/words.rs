//! Made-up texts.

use sluice_core::workload::Random;

/// Words of English that occur in most vocabularies of word pieces whole, the frequent ones first.
const WORDS: &str = "\
the of and to in a is that for it as was with be by on not he his but at are this have from which or had \
    they you were their one all we can her has there been if more when will would who so no out up into do any \
    your what them than some could its other then time only about over new very two may first people such like \
    made after most also before must through years where much way well down should because each just those how \
    too little state good world make never day own work same still part see man life here between many long both \
    house under last being great since against back right three place while high found school around another \
    number water home small during again hand head year old end off set group few help public without system \
    program always second different night city point case called power business country music war history early \
    local large general study field order family children law company health food air car red white black sand \
    beach river mountain sea island animal plant tree bird fish dog cat horse insect flea blood heart body cell \
    virus disease doctor drug pain skin bone brain energy light heat sound earth sun moon star space rate cost \
    price tax money bank loan credit card insurance paper book letter word language english french german name \
    king queen army battle ship train road bridge stone iron gold silver glass wood oil gas coal steel machine \
    engine computer data file network phone picture film game player team season record art song band story \
    theory science physics chemistry mathematics average definition mean symptoms treatment weather temperature \
    county capital population north south east west summer winter spring month week hour minute degree percent \
    size weight length age born died famous president minister party vote court judge police report";

/// Words to draw from, the n-th 1/n as likely as the first (Zipf's law with exponent 1).
#[derive(Debug)]
pub(crate) struct Words {
    words: Vec<&'static str>,
    /// Of each word, the sum of the weights up to and with its own.
    sums: Vec<u64>,
}

/// Weight of the first word: whole numbers draw the same words on every machine.
const FIRST_WEIGHT: u64 = 1 << 20;

impl Words {
    pub(crate) fn new() -> Self {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let sums = (1..=words.len() as u64).scan(0, |sum, rank| {
            *sum += FIRST_WEIGHT / rank;
            Some(*sum)
        });
        Self { sums: sums.collect(), words }
    }

    /// So many words, at least one, that follow from the seed.
    pub(crate) fn text(&self, seed: u64, words: u32) -> String {
        let mut random = Random::new(seed);
        let total = self.sums.last().copied().unwrap_or_default();
        // Words are six bytes long on average, with the space behind them.
        let mut text = String::with_capacity(6 * words as usize);
        for n in 0..words.max(1) {
            if n > 0 {
                text.push(' ');
            }
            let point = random.below(total);
            text.push_str(self.words[self.sums.partition_point(|sum| *sum <= point)]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn frequent_words_are_frequent() {
        let words = Words::new();
        let text = words.text(1, 50_000);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        text.split(' ').for_each(|word| *counts.entry(word).or_default() += 1);
        let share = |rank: usize| counts.get(words.words[rank - 1]).copied().unwrap_or_default() as f64;
        // Counts of thousands, so 10 % is several standard deviations.
        for rank in [2, 3, 5] {
            let ratio = share(1) / share(rank) / rank as f64;
            assert!((0.9..1.1).contains(&ratio), "word {rank}: {ratio}");
        }
        let distinct: BTreeSet<&&str> = words.words.iter().collect();
        assert_eq!(distinct.len(), words.words.len(), "a word stands twice");
        assert!(counts.len() > 300);
    }

    #[test]
    fn a_text_follows_from_its_seed() {
        let words = Words::new();
        assert_eq!(words.text(7, 5), words.text(7, 5));
        assert_ne!(words.text(7, 5), words.text(8, 5));
        assert_eq!(words.text(7, 0).split(' ').count(), 1, "a query must not be empty");
    }
}

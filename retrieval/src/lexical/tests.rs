//! The index against its promises; how good its order is, is measured in `tests/lexical_quality.rs`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use roaring::RoaringBitmap;
use tempfile::TempDir;

use super::*;
use crate::{
    identity::{DocId, Lsn},
    schema::{Language, Schema},
    vector_index::{Change, Hit, IndexError, Never},
};

fn texts(title: &str, text: &str) -> Texts {
    BTreeMap::from([("title".to_owned(), title.to_owned()), ("text".to_owned(), text.to_owned())])
}

fn open(folder: &TempDir) -> LexicalIndex {
    LexicalIndex::open(folder.path(), &Schema::title_and_text(Language::English), LexicalOptions::default()).unwrap()
}

fn beaches() -> (TempDir, LexicalIndex) {
    let folder = TempDir::new().unwrap();
    let index = open(&folder);
    let documents = [
        texts("Black sand", "A beach of black sand by the sea"),
        texts("Black hotel", "A black hotel, its beach has white sand"),
        texts("Mountains", "High mountains, and no beach at all"),
        texts("The sea", "Swimming in the sea is what the sand is for"),
    ];
    let changes: Vec<_> = (0..).zip(&documents).map(|(id, texts)| Change::Insert(DocId(id), texts)).collect();
    index.apply(&changes, Lsn(1)).unwrap();
    index.commit().unwrap();
    (folder, index)
}

fn found(index: &LexicalIndex, query: &LexicalQuery) -> Vec<u32> {
    index.search(query, 10, None, &Never).unwrap().iter().map(|hit| hit.document.0).collect()
}

#[test]
fn words_phrases_prefixes_and_misspellings() {
    let (_folder, index) = beaches();
    fn check(index: &LexicalIndex, query: LexicalQuery, expected: &[u32]) {
        assert_eq!(found(index, &query), expected, "{query:?}");
    }
    let any = |text: &str| LexicalQuery::any(text);
    let all = |text: &str| LexicalQuery { operator: Operator::All, ..any(text) };
    let phrase = |text: &str, slop| LexicalQuery { phrases: vec![Phrase { text: text.into(), slop }], ..any("") };
    check(&index, any("mountain"), &[2]);
    check(&index, any("nothing of this"), &[]);
    check(&index, any(""), &[]);
    check(&index, any("the and of"), &[]);
    check(&index, all("white beaches"), &[1]);
    check(&index, all("mountain hotel"), &[]);
    check(&index, phrase("white sand", 0), &[1]);
    check(&index, phrase("beach of black sand", 0), &[0]);
    check(&index, phrase("beach sand", 0), &[]);
    check(&index, phrase("beach sand", 2), &[0, 1]);
    check(&index, phrase("mountains", 0), &[2]);
    check(&index, phrase("the", 0), &[]);
    check(&index, LexicalQuery { prefix: true, ..any("mount") }, &[2]);
    check(&index, LexicalQuery { prefix: true, ..any("mountains") }, &[2]);
    check(&index, LexicalQuery { prefix: true, ..any("mount ") }, &[]);
    check(&index, any("mountian"), &[]);
    check(&index, LexicalQuery { fuzzy: Some(Fuzzy::default()), ..any("mountian") }, &[2]);
    check(&index, LexicalQuery { fuzzy: Some(Fuzzy { edits: 2, letters_min: 4 }), ..any("moutian") }, &[2]);
    check(&index, LexicalQuery { fields: vec![("title".into(), 1.0)], ..any("beach") }, &[]);
    check(&index, LexicalQuery { fields: vec![("title".into(), 9.0), ("text".into(), 1.0)], ..any("sea") }, &[3, 0]);
    let unknown = LexicalQuery { fields: vec![("body".into(), 1.0)], ..any("beach") };
    assert!(matches!(index.search(&unknown, 1, None, &Never), Err(IndexError::TextField { .. })));
    assert!(matches!(index.search(&any("beach"), 1, None, &|| true), Err(IndexError::Stopped)));
    assert!(matches!(index.search(&phrase("white sand", 0), 1, None, &|| true), Err(IndexError::Stopped)));
}

#[test]
fn neighbours_that_stay_together_come_first() {
    let folder = TempDir::new().unwrap();
    let index = open(&folder);
    // The same words as often, and as many of them.
    let documents = [texts("", "black hotel near the white sand"), texts("", "white hotel near the black sand")];
    let changes: Vec<_> = (0..).zip(&documents).map(|(id, texts)| Change::Insert(DocId(id), texts)).collect();
    index.apply(&changes, Lsn(1)).unwrap();
    index.commit().unwrap();
    let plain = LexicalQuery::any("black sand");
    assert_eq!(found(&index, &plain), [0, 1]);
    let near = LexicalQuery { proximity: Some(Proximity { slop: 1, boost: 0.5 }), ..plain };
    assert_eq!(found(&index, &near), [1, 0]);
    assert_eq!(index.search(&near, 1, None, &Never).unwrap().len(), 1);
}

#[test]
fn snippets_show_the_words_in_their_text() {
    let (_folder, index) = beaches();
    let text =
        texts("Die Berge", &format!("{} and then the black sands of a beach", "some words before it ".repeat(20)));
    let query = LexicalQuery::any("black sand");
    let snippets = index.snippets(&query, &[&text, &texts("", "")], SnippetOptions { chars_max: 40 }, &Never).unwrap();
    let [snippet] = snippets[0].as_slice() else { panic!("{snippets:?}") };
    assert_eq!(snippet.field, "text");
    let shown: Vec<_> = snippet.highlights.iter().map(|range| &snippet.text[range.clone()]).collect();
    assert_eq!(shown, ["black", "sands"], "{snippet:?}");
    assert!(snippet.text.len() <= 40 && snippets[1].is_empty());
}

#[test]
fn a_commit_is_of_what_was_applied_and_what_came_after_it_is_not() {
    let folder = TempDir::new().unwrap();
    let one = texts("one", "first");
    let index = open(&folder);
    assert_eq!((index.applied(), index.len()), (Lsn(0), 0));
    index.apply(&[Change::Insert(DocId(1), &one)], Lsn(3)).unwrap();
    assert_eq!((index.applied(), index.len(), index.uncommitted()), (Lsn(0), 0, 1));
    assert_eq!(index.commit().unwrap(), Lsn(3));
    assert_eq!((index.applied(), index.len(), index.uncommitted()), (Lsn(3), 1, 0));
    index.apply(&[Change::Insert(DocId(2), &one)], Lsn(4)).unwrap();
    // As when the process dies: nothing is committed on the way out.
    drop(index);
    let index = open(&folder);
    assert_eq!((index.applied(), index.len()), (Lsn(3), 1));
    // The log is applied again from a little earlier than need be, and more than once.
    for _ in 0..2 {
        index.apply(&[Change::Insert(DocId(1), &one)], Lsn(3)).unwrap();
        index.apply(&[Change::Insert(DocId(2), &one)], Lsn(4)).unwrap();
    }
    index.commit().unwrap();
    assert_eq!((index.applied(), index.len()), (Lsn(4), 2));
    // A batch without documents for this index moves the watermark too.
    index.apply(&[], Lsn(9)).unwrap();
    index.commit().unwrap();
    drop(index);
    let index = open(&folder);
    assert_eq!((index.applied(), index.len()), (Lsn(9), 2));
    index.clear().unwrap();
    index.apply(&[Change::Insert(DocId(1), &one)], Lsn(2)).unwrap();
    index.commit().unwrap();
    assert_eq!((index.applied(), index.len()), (Lsn(2), 1));
}

#[test]
fn an_index_of_other_fields_is_refused() {
    let folder = TempDir::new().unwrap();
    drop(open(&folder));
    let german = Schema::title_and_text(Language::German);
    let opened = LexicalIndex::open(folder.path(), &german, LexicalOptions::default());
    assert!(matches!(opened, Err(IndexError::Unusable(_))), "{opened:?}");
}

/// Both plans find the same, which is what a scan of all matches finds, while documents come and go.
#[test]
fn every_plan_finds_the_same() {
    let folder = TempDir::new().unwrap();
    let index = open(&folder);
    let mut rng = SmallRng::seed_from_u64(5);
    let words = |rng: &mut SmallRng, count: usize| {
        let word = |rng: &mut SmallRng| format!("w{}", 500_f64.powf(rng.random::<f64>()) as u32);
        (0..count).map(|_| word(rng)).collect::<Vec<_>>().join(" ")
    };
    let mut live = RoaringBitmap::new();
    for step in 0..6_u32 {
        let new: Vec<_> =
            (0..700).map(|n| (step * 700 + n, texts(&words(&mut rng, 3), &words(&mut rng, 30)))).collect();
        let gone: Vec<u32> = live.iter().filter(|_| rng.random_bool(0.1)).collect();
        let mut changes: Vec<_> = gone.iter().map(|number| Change::Remove(DocId(*number))).collect();
        changes.extend(new.iter().map(|(number, texts)| Change::Insert(DocId(*number), texts)));
        index.apply(&changes, Lsn(u64::from(step) + 1)).unwrap();
        index.commit().unwrap();
        live.extend(new.iter().map(|(number, _)| *number));
        live -= gone.into_iter().collect::<RoaringBitmap>();
        assert_eq!(index.len() as u64, live.len());
        for share in [0.002, 0.05, 0.5, 1.0] {
            let among: RoaringBitmap = (0..5_000).filter(|_| rng.random_bool(share)).collect();
            for query in queries(&words(&mut rng, 4)) {
                every_plan(&index, &query, &among);
                if query.proximity.is_none() {
                    words_make_up_the_score(&index, &query);
                }
            }
        }
    }
}

fn queries(text: &str) -> [LexicalQuery; 3] {
    let any = LexicalQuery::any(text);
    [
        LexicalQuery { operator: Operator::All, ..any.clone() },
        LexicalQuery { proximity: Some(Proximity { slop: 2, boost: 1.0 }), ..any.clone() },
        any,
    ]
}

fn every_plan(index: &LexicalIndex, query: &LexicalQuery, among: &RoaringBitmap) {
    let everything = index.search(query, 10_000, None, &Never).unwrap();
    // Proximity's bonus is for the best only, so what is found without a filter says nothing about what is with one.
    let oracle = query.proximity.is_none().then(|| {
        let wanted = everything.iter().filter(|hit| among.contains(hit.document.0));
        wanted.take(20).copied().collect::<Vec<Hit>>()
    });
    let plans = [Plan::Checked, Plan::Restricted];
    let found = plans.map(|plan| index.search_as(query, 20, Some(among), &Never, |_, _| plan).unwrap());
    for other in [Some(&found[1]), oracle.as_ref()].into_iter().flatten() {
        assert_eq!(found[0].len(), other.len(), "{query:?}");
        for (one, other) in found[0].iter().zip(other) {
            // Sums of fields and words are made in another order, and rounded otherwise.
            let near = (one.score - other.score).abs() <= 1e-5 * other.score.abs();
            assert!(near, "{one:?} and {other:?} of {query:?}");
        }
    }
}

/// Also of words that are only like those asked for.
fn words_make_up_the_score(index: &LexicalIndex, query: &LexicalQuery) {
    let fuzzy = LexicalQuery { fuzzy: Some(Fuzzy::default()), prefix: true, ..query.clone() };
    for query in [query, &fuzzy] {
        let hits = index.search(query, 20, None, &Never).unwrap();
        let documents: Vec<DocId> = hits.iter().map(|hit| hit.document).collect();
        let explained = index.breakdown(query, &documents, &Never).unwrap();
        for (hit, terms) in hits.iter().zip(explained) {
            let sum: f32 = terms.iter().map(|term| term.contribution).sum();
            assert!((sum - hit.score).abs() <= 1e-5 * hit.score, "{hit:?} of {query:?}: {terms:?}");
            assert!(terms.is_sorted_by(|a, b| a.contribution >= b.contribution), "{terms:?}");
        }
    }
}

#[test]
fn a_word_is_explained() {
    let folder = TempDir::new().unwrap();
    let index = open(&folder);
    let documents = [texts("Black sand", "sand and more sand"), texts("Rocks", "of a beach"), texts("", "a beach")];
    let changes: Vec<_> = (0..).zip(&documents).map(|(number, texts)| Change::Insert(DocId(number), texts)).collect();
    index.apply(&changes, Lsn(1)).unwrap();
    index.commit().unwrap();
    let query = LexicalQuery::any("sandy sands, sand beaches");
    let explained = index.breakdown(&query, &[DocId(1), DocId(0), DocId(7)], &Never).unwrap();
    assert_eq!(explained[2], [], "it is not there");
    let [beach] = &explained[0][..] else { panic!("{explained:?}") };
    assert_eq!(
        (beach.field.as_str(), beach.term.as_str(), beach.frequency, beach.documents),
        ("words_english", "beach", 1, 2)
    );
    let [sand] = &explained[1][..] else { panic!("{explained:?}") };
    // Without stop words: black, sand, sand, more, sand.
    assert_eq!(
        (sand.term.as_str(), sand.boost, sand.frequency, sand.documents, sand.field_length),
        ("sand", 2.0, 3, 1, 5)
    );
    let idf = (1.0 + 2.5_f64 / 1.5).ln();
    assert!((f64::from(sand.idf) - idf).abs() < 1e-6, "{sand:?}");
    let mean = (5.0 + 2.0 + 1.0) / 3.0;
    assert!((f64::from(sand.field_length_mean) - mean).abs() < 1e-6, "{sand:?}");
    let expected = 2.0 * idf * 2.2 * 3.0 / (3.0 + 1.2 * (0.25 + 0.75 * 5.0 / mean));
    assert!((f64::from(sand.contribution) - expected).abs() < 1e-5, "{sand:?}, not {expected}");
}

#[test]
fn the_cheaper_plan_is_chosen() {
    for (among, postings, expected) in [
        (0, 0, Plan::Restricted),
        (1, 1, Plan::Checked),
        (100, 100_000, Plan::Restricted),
        (50_000, 100_000, Plan::Checked),
        (u64::MAX, 1, Plan::Checked),
    ] {
        assert_eq!(Plan::choose(among, postings), expected, "{among} of {postings}");
    }
}

#[test]
fn looking_up_words_ends_when_it_is_told_to() {
    let (_folder, index) = beaches();
    let query = LexicalQuery { fuzzy: Some(Fuzzy { edits: 2, letters_min: 1 }), ..LexicalQuery::any("mountian hotle") };
    for last in 0..6 {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= last;
        let text = texts("Mountains", "");
        let stopped = [
            index.search(&query, 10, None, &stop).map(drop),
            index.breakdown(&query, &[DocId(2)], &stop).map(drop),
            index.snippets(&query, &[&text], SnippetOptions::default(), &stop).map(drop),
        ];
        assert!(stopped.iter().all(|ended| matches!(ended, Err(IndexError::Stopped))), "{last}: {stopped:?}");
        assert_eq!(asked.into_inner(), last + 3, "each ends at once");
    }
}

#[test]
fn the_first_words_may_be_misspelt() {
    let (_folder, index) = beaches();
    let after = |others: usize| {
        let mut words: Vec<_> = (0..others).map(|n| format!("filler{n}")).collect();
        words.push("mountian".to_owned());
        found(&index, &LexicalQuery { fuzzy: Some(Fuzzy::default()), ..LexicalQuery::any(words.join(" ")) })
    };
    assert_eq!(after(LexicalQuery::MISSPELT_MAX - 1), [2]);
    assert_eq!(after(LexicalQuery::MISSPELT_MAX), [0; 0]);
}

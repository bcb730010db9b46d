//! What a filter costs a search by words, by plan, beside the clauses that one would write with tantivy alone: a set of
//! numbers, and a range of as many (which is cheaper to test, but of documents that lie side by side).
//!
//! ```sh
//! cargo run --release -p sluice-retrieval --example lexical_planner -- 200000
//! ```
//! Documents are of 30 words, drawn so that the commonest are in most documents, which is the worst case; queries have
//! three words, two of them common.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock and its arguments")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement ends where something is wrong, and prints")]

use std::{collections::BTreeMap, env, fs, ops::Bound, path::Path, time::Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use roaring::RoaringBitmap;
use sluice_retrieval::{
    identity::{DocId, Lsn},
    lexical::{LexicalIndex, LexicalOptions, LexicalQuery, Plan, Texts},
    schema::{Language, Schema},
    vector_index::{Change, Never},
};
use tantivy::{
    Index, Term,
    collector::TopDocs,
    query::{BooleanQuery, BoostQuery, Occur, Query, RangeQuery, TermQuery, TermSetQuery},
    schema::{Field, IndexRecordOption},
};

const K: usize = 100;
const ROUNDS: usize = 10;

fn main() {
    let count: u32 = env::args().nth(1).map_or(50_000, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let index = fill(folder.path(), count);
    // The same files, as tantivy alone sees them.
    let raw = Raw::open(folder.path());
    let mut rng = SmallRng::seed_from_u64(2);
    let queries: Vec<String> = (0..20)
        .map(|_| format!("w{} w{} w{}", rng.random_range(1..4), rng.random_range(4..9), rng.random_range(50..500)))
        .collect();
    let unfiltered = mean(|query| drop(index.search(&LexicalQuery::any(query), K, None, &Never).unwrap()), &queries);
    println!("{count} documents, k = {K}; without a filter {:.3} ms", unfiltered * 1e3);
    println!("| wanted | checked | restricted | planned | set clause | range clause |\n|---|---|---|---|---|---|");
    for share in [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001] {
        let among: RoaringBitmap = (0..count).filter(|_| rng.random_bool(share)).collect();
        let planned = |plan: Option<Plan>| {
            let search = |query: &str| {
                let choose = |among, postings| plan.unwrap_or_else(|| Plan::choose(among, postings));
                drop(index.search_as(&LexicalQuery::any(query), K, Some(&among), &Never, choose).unwrap());
            };
            mean(search, &queries) * 1e3
        };
        let range = raw.range((f64::from(count) * share) as u32);
        let [set, range] =
            [raw.set(&among), range].map(|clause| mean(|query| raw.search(query, clause.as_ref()), &queries) * 1e3);
        let [checked, restricted, chosen] = [Some(Plan::Checked), Some(Plan::Restricted), None].map(planned);
        println!("| {:.1} % | {checked:.3} | {restricted:.3} | {chosen:.3} | {set:.3} | {range:.3} |", share * 100.0);
    }
}

/// Seconds of a search, the mean over all rounds of the queries.
fn mean(search: impl Fn(&str), queries: &[String]) -> f64 {
    let began = Instant::now();
    let before = seconds(began);
    (0..ROUNDS).flat_map(|_| queries).for_each(|query| search(query));
    (seconds(began) - before) / (ROUNDS * queries.len()) as f64
}

/// Seconds of processor time that this thread has had, where the system says so, so that other processes disturb less;
/// seconds since `began` elsewhere.
fn seconds(began: Instant) -> f64 {
    let schedule = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = schedule.and_then(|schedule| schedule.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| began.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

fn fill(folder: &Path, count: u32) -> LexicalIndex {
    let schema = Schema::title_and_text(Language::None);
    let index = LexicalIndex::open(folder, &schema, LexicalOptions::default()).unwrap();
    let mut rng = SmallRng::seed_from_u64(1);
    for (lsn, from) in (1..).zip((0..count).step_by(10_000)) {
        let mut text = || -> Texts {
            let words: Vec<String> =
                (0..30).map(|_| format!("w{}", 20_000_f64.powf(rng.random::<f64>()) as u32)).collect();
            BTreeMap::from([("text".to_owned(), words.join(" "))])
        };
        let texts: Vec<(u32, Texts)> = (from..count.min(from + 10_000)).map(|number| (number, text())).collect();
        let changes: Vec<_> = texts.iter().map(|(number, texts)| Change::Insert(DocId(*number), texts)).collect();
        index.apply(&changes, Lsn(lsn)).unwrap();
    }
    index.commit().unwrap();
    index
}

/// tantivy, asked as its documentation shows.
struct Raw {
    searcher: tantivy::Searcher,
    number: Field,
    texts: Vec<Field>,
}

impl Raw {
    fn open(folder: &Path) -> Self {
        let index = Index::open_in_dir(folder).unwrap();
        let field = |name| index.schema().get_field(name).unwrap();
        let (number, texts) = (field("number"), vec![field("all_words")]);
        Self { searcher: index.reader().unwrap().searcher(), number, texts }
    }

    /// Made once a filter, and not timed.
    fn set(&self, among: &RoaringBitmap) -> Box<dyn Query> {
        let terms = among.iter().map(|number| self.term(number));
        Box::new(BoostQuery::new(Box::new(TermSetQuery::new(terms)), 0.0))
    }

    /// The first `count` numbers, of the fast field.
    fn range(&self, count: u32) -> Box<dyn Query> {
        let range = RangeQuery::new(Bound::Included(self.term(0)), Bound::Excluded(self.term(count)));
        Box::new(BoostQuery::new(Box::new(range), 0.0))
    }

    fn term(&self, number: u32) -> Term {
        Term::from_field_u64(self.number, u64::from(number))
    }

    fn search(&self, query: &str, filter: &dyn Query) {
        let words = query.split(' ').flat_map(|word| {
            self.texts.iter().map(move |&field| {
                let term = TermQuery::new(Term::from_field_text(field, word), IndexRecordOption::WithFreqs);
                (Occur::Should, Box::new(term) as Box<dyn Query>)
            })
        });
        let words: Box<dyn Query> = Box::new(BooleanQuery::new(words.collect()));
        let query = BooleanQuery::new(vec![(Occur::Must, words), (Occur::Must, filter.box_clone())]);
        drop(self.searcher.search(&query, &TopDocs::with_limit(K).order_by_score()).unwrap());
    }
}

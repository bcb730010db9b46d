//! Queries and documents to score: real ones where they are, else texts of the same lengths.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Deserialize;

use crate::interleave::Request;

/// Where the texts of a run come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Texts {
    /// Lines of `{"qid","query","documents":[{"id","text"}]}`.
    File(PathBuf),
    /// Words drawn from a list, as many as the tokens of a TREC DL 2019 passage.
    Drawn,
}

/// Words of one token each in BERT's English vocabulary.
const WORDS: &str = "\
    time year people way day man thing woman life child world school state family student group country problem hand \
    part place case week company system program question work government number night point home water room mother \
    area money story fact month lot right study book eye job word business issue side kind head house service friend \
    father power hour game line end member law car city community name president team minute idea body information \
    back parent face others level office door health person art war history party result change morning reason \
    research girl guy moment air teacher force education foot boy age policy music market sense nation plan";
/// Tokens of a DL19 passage (BM25's first 100 of 43 queries), special ones included: the minimum, every 5th
/// percentile, and the maximum that is read.
const DOCUMENT_TOKENS: [u32; 21] =
    [21, 44, 51, 55, 58, 61, 64, 67, 70, 73, 77, 81, 87, 94, 102, 110, 118, 127, 138, 154, 256];
/// The same for DL19's queries, every 10th percentile.
const QUERY_TOKENS: [u32; 11] = [6, 6, 7, 8, 8, 9, 9, 9, 11, 12, 15];
const SPECIAL_TOKENS: u32 = 2;
const SEED: u64 = 0x51_1CE;

#[derive(Deserialize)]
struct Line {
    query: String,
    documents: Vec<Document>,
}

#[derive(Deserialize)]
struct Document {
    text: String,
}

impl Texts {
    /// That many requests of at most that many documents.
    ///
    /// # Errors
    /// If the file cannot be read, or has too few queries.
    pub fn requests(&self, queries: usize, documents: usize) -> anyhow::Result<Vec<Request>> {
        match self {
            Self::File(path) => {
                read(path, queries, documents).with_context(|| format!("candidates in {}", path.display()))
            }
            Self::Drawn => Ok(draw(queries, documents)),
        }
    }

    /// What they are, for the report.
    #[must_use]
    pub fn description(&self) -> String {
        match self {
            Self::File(path) => format!("texts of {}", path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()),
            Self::Drawn => "no candidates file: words drawn from a list, with DL19's lengths".to_owned(),
        }
    }
}

/// A request whose documents all have at least `tokens` tokens: documents of `requests` strung together.
#[must_use]
pub fn long_request(requests: &[Request], documents: usize, tokens: usize) -> Option<Request> {
    let query = requests.first()?.query.clone();
    let mut texts = requests.iter().flat_map(|request| &request.documents).filter(|text| !text.is_empty()).cycle();
    // A word has at least one token.
    let long = || {
        let mut text = texts.next()?.clone();
        while text.split_whitespace().count() < tokens {
            text = format!("{text} {}", texts.next()?);
        }
        Some(text)
    };
    let documents = std::iter::repeat_with(long).take(documents).collect::<Option<Vec<_>>>()?;
    Some(Request { query, documents })
}

fn read(path: &Path, queries: usize, documents: usize) -> anyhow::Result<Vec<Request>> {
    let mut requests = Vec::with_capacity(queries);
    for (number, line) in BufReader::new(File::open(path)?).lines().take(queries).enumerate() {
        let line: Line = serde_json::from_str(&line?).with_context(|| format!("line {}", number + 1))?;
        let documents: Vec<String> = line.documents.into_iter().take(documents).map(|document| document.text).collect();
        ensure!(!documents.is_empty(), "line {} has no documents", number + 1);
        requests.push(Request { query: line.query, documents });
    }
    ensure!(requests.len() == queries, "{} queries, and {queries} were asked for", requests.len());
    Ok(requests)
}

fn draw(queries: usize, documents: usize) -> Vec<Request> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut text = |quantiles: &[u32]| -> String {
        let length = quantile(quantiles, rng.random()) - SPECIAL_TOKENS;
        let text: Vec<&str> = (0..length).map(|_| words[rng.random_range(0..words.len())]).collect();
        text.join(" ")
    };
    let request =
        |_| Request { query: text(&QUERY_TOKENS), documents: (0..documents).map(|_| text(&DOCUMENT_TOKENS)).collect() };
    (0..queries).map(request).collect()
}

/// The value at `share` (0 to 1) of a distribution whose evenly spaced quantiles are known.
fn quantile(quantiles: &[u32], share: f64) -> u32 {
    let place = share * (quantiles.len() - 1) as f64;
    let below = (place as usize).min(quantiles.len() - 2);
    let (low, high) = (f64::from(quantiles[below]), f64::from(quantiles[below + 1]));
    (low + (high - low) * (place - below as f64)).round() as u32
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn drawn_texts_have_the_lengths_they_stand_for() {
        let requests = Texts::Drawn.requests(20, 100).unwrap();
        assert_eq!(requests, Texts::Drawn.requests(20, 100).unwrap(), "another run draws the same");
        assert!(requests.iter().all(|request| (4..=13).contains(&request.query.split(' ').count())));
        let mut words: Vec<usize> = requests.iter().flat_map(|r| &r.documents).map(|d| d.split(' ').count()).collect();
        words.sort_unstable();
        for (percentile, expected) in [(10, 49), (50, 75), (90, 136)] {
            let found = words[words.len() * percentile / 100];
            assert!(found.abs_diff(expected) <= 4, "{percentile}th percentile: {found} words, expected {expected}");
        }
        assert!(words[0] >= 19 && words[words.len() - 1] <= 254);
    }

    #[test]
    fn quantiles_are_interpolated() {
        for (share, expected) in [(0.0, 10), (0.25, 15), (0.5, 20), (0.75, 60), (1.0, 100)] {
            assert_eq!(quantile(&[10, 20, 100], share), expected, "{share}");
        }
    }

    #[test]
    fn long_documents_are_long_enough() {
        let requests = Texts::Drawn.requests(1, 3).unwrap();
        let long = long_request(&requests, 10, 256).unwrap();
        assert_eq!((&long.query, long.documents.len()), (&requests[0].query, 10));
        assert!(long.documents.iter().all(|text| text.split_whitespace().count() >= 256));
        assert_eq!(long_request(&[], 10, 256), None);
        let empty = Request { query: "q".to_owned(), documents: vec![String::new()] };
        assert_eq!(long_request(&[empty], 10, 256), None);
    }

    #[test]
    fn candidates_files() {
        let line = |documents: &str| format!(r#"{{"qid":"1","query":"q","documents":[{documents}]}}"#);
        let (a, b) = (r#"{"id":"a","text":"first"}"#, r#"{"id":"b","text":"second"}"#);
        let cases = [
            (format!("{}\n{}\n", line(&[a, b].join(",")), line(a)), Ok(vec![vec!["first"], vec!["first"]])),
            (line(a), Err("1 queries, and 2 were asked for")),
            (format!("{}\n{}\n", line(a), line("")), Err("line 2 has no documents")),
            (format!("{}\nno json\n", line(a)), Err("line 2")),
        ];
        for (text, expected) in cases {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let found = Texts::File(file.path().to_owned()).requests(2, 1);
            match (found, expected) {
                (Ok(requests), Ok(expected)) => {
                    let found: Vec<_> = requests.iter().map(|request| request.documents.clone()).collect();
                    assert_eq!(found, expected, "{text}");
                }
                (Err(error), Err(expected)) => {
                    let chain = format!("{error:#}");
                    assert!(chain.contains(expected), "{chain}");
                }
                (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
            }
        }
    }
}

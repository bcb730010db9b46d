//! The exact scan beside NumPy: the same scores, and how fast either finds them.

use std::{fs, io::Write, path::Path};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sluice_retrieval::{
    dense::ExactDense,
    identity::{DocId, Lsn},
    schema::Metric,
    search::LegQuery,
    vector_index::{Change, Hit, Never, VectorIndex},
};

use super::{DENSE, K, drawn::Drawn, judged::DIM, judged::Judged};
use crate::{
    machine::Machine,
    report::{Report, Row, Spread},
    rivals::{Environment, Rival},
};

/// Drawn vectors, where there are no judged ones.
const DRAWN_ROWS: usize = 5_000;
const DRAWN_QUERIES: usize = 200;
/// Of a cosine: 384 products of f32.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Hello {
    numpy: String,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Question {
    Load { rows: usize, queries: usize, dim: usize, k: usize },
    Search,
    Exact,
}

#[derive(Deserialize)]
struct Loaded {
    rows: usize,
}

#[derive(Deserialize)]
struct Searched {
    seconds: f64,
}

/// The best rows of each query by f64.
#[derive(Deserialize)]
struct Expected {
    hits: Vec<Vec<(u32, f64)>>,
}

/// Adds the row, and faults where the scan and NumPy do not agree.
///
/// # Errors
/// If Python, pip or the script fail.
pub(super) fn measure(sets: &[Judged], passes: usize, machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    let (rows, queries, what) = vectors(sets);
    let scratch = tempfile::Builder::new().prefix("bench-").tempdir_in(&machine.cache)?;
    let scripts = machine.workspace.join("benches/rivals");
    (machine.progress)("preparing NumPy");
    let environment = Environment::prepare(&machine.cache, &scripts.join("requirements-shard.txt"))?;
    let mut rival = environment.start(&scripts.join("dense.py"), &[scratch.path()], 1)?;
    let Hello { numpy } = rival.receive()?;
    write(&scratch.path().join("rows.f32"), &rows)?;
    write(&scratch.path().join("queries.f32"), &queries)?;
    let question = Question::Load { rows: rows.len(), queries: queries.len(), dim: DIM, k: K };
    let Loaded { rows: loaded } = rival.ask(&question)?;
    ensure!(loaded == rows.len(), "NumPy has {loaded} rows");

    let index = ExactDense::new(Metric::Cosine, DIM as u32);
    let changes: Vec<_> = (0..).zip(&rows).map(|(row, vector)| Change::Insert(DocId(row), vector.as_slice())).collect();
    index.apply(&changes, Lsn(1))?;
    (machine.progress)("the exact scan beside NumPy");
    report.faults.extend(disagreements(&index, &queries, &mut rival)?);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..=passes {
        let began = (machine.clock)();
        for query in &queries {
            found(&index, query)?;
        }
        ours.push(((machine.clock)() - began).as_secs_f64());
        let Searched { seconds } = rival.ask(&Question::Search)?;
        theirs.push(seconds);
    }
    // The first pass warms both.
    let (ours, theirs) = (&ours[1..], &theirs[1..]);
    let rate = |seconds: &[f64]| Spread::of(seconds.iter().map(|seconds| queries.len() as f64 / seconds));
    report.rows.push(Row {
        case: format!("exact scan of {} vectors", rows.len()),
        unit: "queries/s, one thread",
        ours: rate(ours),
        rival: format!("numpy {numpy}"),
        rival_value: rate(theirs),
        ratio: Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours)),
        target: None,
    });
    report.notes.push(format!(
        "exact scan: {what}; the first {K} of each query, scores within {TOLERANCE} of NumPy's in f64; NumPy in f32, a \
         product of the matrix and the query, argpartition, and a sort of the first {K}"
    ));
    Ok(())
}

/// Rows, queries and what they are.
fn vectors(sets: &[Judged]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>, String) {
    if sets.is_empty() {
        let drawn = Drawn::new();
        let rows = (0..DRAWN_ROWS).map(|number| drawn.document(number).dense.remove(DENSE).unwrap_or_default());
        let query = |number| {
            drawn.query(number).into_iter().find_map(|leg| match leg {
                LegQuery::Dense { query, .. } => Some(query),
                _ => None,
            })
        };
        return (rows.collect(), (0..DRAWN_QUERIES).filter_map(query).collect(), "drawn vectors".to_owned());
    }
    let rows = sets.iter().flat_map(|set| &set.documents).map(|document| document.dense[DENSE].clone()).collect();
    let queries = sets.iter().flat_map(|set| &set.queries).map(|query| query.vector.clone()).collect();
    let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
    (rows, queries, format!("all-MiniLM-L6-v2 over {}", names.join(" and ")))
}

fn found(index: &ExactDense, query: &[f32]) -> anyhow::Result<Vec<Hit>> {
    Ok(index.search(query, K, None, &Never)?)
}

fn disagreements(index: &ExactDense, queries: &[Vec<f32>], rival: &mut Rival) -> anyhow::Result<Vec<String>> {
    let Expected { hits } = rival.ask(&Question::Exact)?;
    ensure!(hits.len() == queries.len(), "NumPy answered {} queries of {}", hits.len(), queries.len());
    let mut faults = Vec::new();
    for (nth, (query, expected)) in queries.iter().zip(hits).enumerate() {
        let ours: Vec<(u32, f64)> =
            found(index, query)?.iter().map(|hit| (hit.document.0, f64::from(hit.score))).collect();
        if let Some(fault) = disagreement(&ours, &expected) {
            faults.push(format!("query {nth}: {fault}"));
        }
    }
    faults.truncate(5);
    Ok(faults)
}

/// Scores must be equal place by place; rows too, unless both have that score.
fn disagreement(ours: &[(u32, f64)], expected: &[(u32, f64)]) -> Option<String> {
    if ours.len() != expected.len() {
        return Some(format!("{} hits, NumPy has {}", ours.len(), expected.len()));
    }
    let last = expected.last()?.1;
    ours.iter().zip(expected).find_map(|((row, score), (other, expected_score))| {
        let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE;
        let there = expected.iter().find(|(expected, _)| expected == row);
        let allowed = there.map_or(near(*score, last), |(_, there)| near(*score, *there));
        let agrees = near(*score, *expected_score) && allowed;
        (!agrees).then(|| format!("{row} with {score}, NumPy has {other} with {expected_score}"))
    })
}

/// As NumPy reads it: little-endian, nothing else.
fn write(path: &Path, vectors: &[Vec<f32>]) -> anyhow::Result<()> {
    let write = || {
        let mut file = std::io::BufWriter::new(fs::File::create(path)?);
        for component in vectors.iter().flatten() {
            file.write_all(&component.to_le_bytes())?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn disagreements_are_found() {
        let expected = [(7, 0.9), (3, 0.5), (4, 0.5)];
        let cases = [
            (vec![(7, 0.9), (3, 0.5), (4, 0.5)], true),
            (vec![(7, 0.9), (4, 0.5), (3, 0.5)], true),
            (vec![(7, 0.9), (4, 0.5), (8, 0.5)], true),
            (vec![(3, 0.9), (7, 0.5), (4, 0.5)], false),
            (vec![(7, 0.9), (3, 0.6), (4, 0.5)], false),
            (vec![(7, 0.9), (3, 0.5)], false),
        ];
        for (ours, agrees) in cases {
            assert_eq!(disagreement(&ours, &expected).is_none(), agrees, "{ours:?}");
        }
    }

    #[test]
    fn questions_are_what_the_script_reads() {
        let load = Question::Load { rows: 3, queries: 2, dim: 8, k: 1 };
        let expected = json!({"load": {"rows": 3, "queries": 2, "dim": 8, "k": 1}});
        assert_eq!(serde_json::to_value(load).unwrap(), expected);
        assert_eq!(serde_json::to_value(Question::Exact).unwrap(), json!("exact"));
    }
}

use std::num::NonZeroUsize;

use super::*;

/// Judged: two highly relevant, one relevant, one not, one below zero. Retrieved, by rank: `b` (1), `x`
/// (not judged), `a` (3), `d` (0), `e` (−1). `c` (3) was not retrieved.
const QRELS: &str = "q 0 a 3\nq 0 b 1\nq 0 c 3\nq 0 d 0\nq 0 e -1\n";
const RANKING: [&str; 5] = ["b", "x", "a", "d", "e"];

fn qrels(text: &str) -> Qrels {
    Qrels::parse(text).expect("well formed")
}

fn run(rankings: &[(&str, &[&str])]) -> Run {
    let mut run = Run::new();
    for (query, ranking) in rankings {
        run.insert(query, ranking.iter().map(|&document| document.to_owned()).collect()).expect("insertable");
    }
    run
}

fn value(qrels: &Qrels, run: &Run, metric: &str) -> f64 {
    let report = evaluate(qrels, run, &[metric.parse().expect("a known name")]);
    assert_eq!(report.metrics[0].0, metric, "a metric keeps its name");
    report.metrics[0].1
}

#[test]
fn metrics_of_one_query_by_hand() {
    // 1 / log2(rank + 1) for ranks 1 to 3.
    let discounts = [1.0, 0.630_929_753_571_457_4, 0.5];
    let ideal = 3.0 * discounts[0] + 3.0 * discounts[1] + 1.0 * discounts[2];
    let cases = [
        ("ndcg", (1.0 + 3.0 * 0.5) / ideal),
        ("ndcg@10", (1.0 + 3.0 * 0.5) / ideal),
        ("ndcg@2", 1.0 / (3.0 * discounts[0] + 3.0 * discounts[1])),
        ("ndcg@1", 1.0 / 3.0),
        ("mrr", 1.0),
        ("mrr@1", 1.0),
        ("map", (1.0 / 1.0 + 2.0 / 3.0) / 3.0),
        ("recall", 2.0 / 3.0),
        ("recall@1", 1.0 / 3.0),
        ("recall@100", 2.0 / 3.0),
        ("precision", 2.0 / 5.0),
        ("precision@2", 1.0 / 2.0),
        ("precision@10", 2.0 / 10.0),
        ("f1", 2.0 * 0.4 * (2.0 / 3.0) / (0.4 + 2.0 / 3.0)),
        ("f1@2", 2.0 * 0.5 * (1.0 / 3.0) / (0.5 + 1.0 / 3.0)),
        ("f1@10", 2.0 * 0.2 * (2.0 / 3.0) / (0.2 + 2.0 / 3.0)),
        ("hit_rate", 1.0),
        ("hit_rate@1", 1.0),
    ];
    let (qrels, run) = (qrels(QRELS), run(&[("q", &RANKING)]));
    for (metric, expected) in cases {
        let value = value(&qrels, &run, metric);
        assert!((value - expected).abs() < 1e-12, "{metric}: {value} instead of {expected}");
    }
}

#[test]
fn the_first_relevant_document_may_come_late_or_never() {
    let qrels = qrels(QRELS);
    let cases: [(&[&str], &str, f64); 12] = [
        (&["x", "d", "a"], "mrr@3", 1.0 / 3.0),
        (&["x", "d", "a"], "mrr@2", 0.0),
        (&["x", "d", "a"], "hit_rate@3", 1.0),
        (&["x", "d", "a"], "hit_rate@2", 0.0),
        (&["x", "d", "a"], "ndcg@2", 0.0),
        (&["x", "d", "a"], "f1@2", 0.0),
        (&["e", "d", "x"], "ndcg", 0.0),
        (&["e", "d", "x"], "map", 0.0),
        (&["e", "d", "x"], "precision", 0.0),
        (&[], "precision", 0.0),
        (&[], "f1", 0.0),
        (&[], "ndcg@10", 0.0),
    ];
    for (ranking, metric, expected) in cases {
        let value = value(&qrels, &run(&[("q", ranking)]), metric);
        assert!((value - expected).abs() < 1e-12, "{metric} of {ranking:?}: {value}");
    }
}

#[test]
fn the_mean_is_over_queries_with_a_relevant_document() {
    let qrels = qrels("perfect 0 a 1\nmissing 0 a 2\nhopeless 0 a 0\nhopeless 0 b -2\n");
    let run = run(&[("perfect", &["a"]), ("hopeless", &["a", "b"]), ("unjudged", &["a"])]);
    let report = evaluate(&qrels, &run, &[Metric::Map, Metric::Mrr(NonZeroUsize::new(10))]);
    assert_eq!(report, Report { queries: 2, metrics: vec![("map".into(), 0.5), ("mrr@10".into(), 0.5)] });

    let nothing = evaluate(&Qrels::default(), &run, &[Metric::Map]);
    assert_eq!(nothing, Report { queries: 0, metrics: vec![("map".into(), 0.0)] });
}

#[test]
fn names_of_metrics_go_both_ways() {
    let ten = NonZeroUsize::new(10);
    let cases = [
        ("ndcg", Some(Metric::Ndcg(None))),
        ("ndcg@10", Some(Metric::Ndcg(ten))),
        ("mrr@10", Some(Metric::Mrr(ten))),
        ("map", Some(Metric::Map)),
        ("recall@10", Some(Metric::Recall(ten))),
        ("precision@10", Some(Metric::Precision(ten))),
        ("f1@10", Some(Metric::F1(ten))),
        ("hit_rate@10", Some(Metric::HitRate(ten))),
        ("ndcg@0", None),
        ("ndcg@", None),
        ("ndcg@-1", None),
        ("ndcg@10@10", None),
        ("map@10", None),
        ("NDCG", None),
        ("", None),
    ];
    for (name, expected) in cases {
        assert_eq!(name.parse::<Metric>().ok(), expected, "{name:?}");
        if let Some(metric) = expected {
            assert_eq!(metric.to_string(), name);
        }
    }
}

#[test]
fn qrels_are_read_and_faults_are_located() {
    let columns = |found| LineFault::Columns { found, expected: 4 };
    let cases = [
        ("", Ok(0)),
        ("\n  \r\n\t\n", Ok(0)),
        ("  q1\t0   d1  2 \r\n\nq2 Q0 d1 -1", Ok(2)),
        ("q1 0 d1 1\nq1 0 d2", Err((2, columns(3)))),
        ("q1 0 d1 1 x", Err((1, columns(5)))),
        ("q1 0 d1 1.5", Err((1, LineFault::Grade("1.5".into())))),
        ("q1 0 d1 99999999999", Err((1, LineFault::Grade("99999999999".into())))),
        ("\nq1 0 d1 x", Err((2, LineFault::Grade("x".into())))),
        ("q1 0 d1 1\nq2 0 d1 1\nq1 0 d1 1", Err((3, duplicate("q1", "d1")))),
    ];
    for (text, expected) in cases {
        let answer = Qrels::parse(text).map(|qrels| qrels.queries().count());
        assert_eq!(answer, expected.map_err(|(line, fault)| ParseError { line, fault }), "{text:?}");
    }
    let qrels = qrels("q2 0 d1 -1\nq1 0 d1 2");
    assert_eq!(qrels.queries().collect::<Vec<_>>(), ["q1", "q2"]);
    let grades = [("q1", "d1"), ("q2", "d1"), ("q1", "d2"), ("q3", "d1")].map(|(query, id)| qrels.grade(query, id));
    assert_eq!(grades, [Some(2), Some(-1), None, None]);
}

#[test]
fn runs_are_read_and_faults_are_located() {
    type Case<'a> = (&'a str, Result<&'a [&'a str], (usize, LineFault)>);
    let columns = |found| LineFault::Columns { found, expected: 6 };
    let cases: [Case; 14] = [
        (" q  Q0\ta 1 2.5 tag\r\n\nq Q0 b 2 1e1 tag", Ok(&["b", "a"])),
        ("q Q0 a 1 1 t\np Q0 a 1 9 t\nq Q0 b 9 2 t", Ok(&["b", "a"])),
        ("q Q0 a 1 1 t\nq Q0 c 2 1 t\nq Q0 b 3 1 t", Ok(&["c", "b", "a"])),
        ("q Q0 d9 1 1 t\nq Q0 d10 2 1 t", Ok(&["d9", "d10"])),
        ("q Q0 a 1 0 t\nq Q0 b 2 -0 t", Ok(&["b", "a"])),
        ("q Q0 b 1 1 t\nq Q0 a 2 1.000000001 t", Ok(&["b", "a"])),
        ("q Q0 b 1 1 t\nq Q0 a 2 1.000001 t", Ok(&["a", "b"])),
        ("q Q0 a 1 -inf t\nq Q0 b 2 -3 t\nq Q0 c 3 inf t", Ok(&["c", "b", "a"])),
        ("q Q0 a 1 1 t\nq Q0 b 2 1", Err((2, columns(5)))),
        ("q Q0 a 1 1 two words", Err((1, columns(7)))),
        ("q Q0 a 1 nan t", Err((1, LineFault::Score("nan".into())))),
        ("q Q0 a 1 1,5 t", Err((1, LineFault::Score("1,5".into())))),
        ("q Q0 a 1 2 t\n\nq Q0 a 2 1 t", Err((3, duplicate("q", "a")))),
        ("p Q0 a 1 2 t", Ok(&[])),
    ];
    for (text, expected) in cases {
        let answer = Run::parse(text).map(|run| run.ranking("q").unwrap_or_default().to_vec());
        let expected = expected.map(|ranking| ranking.iter().map(|&id| id.to_owned()).collect());
        assert_eq!(answer, expected.map_err(|(line, fault)| ParseError { line, fault }), "{text:?}");
    }
}

#[test]
fn a_written_run_reads_back_in_its_order() {
    let run = run(&[("q2", &["a", "c", "b"]), ("q1", &["z"]), ("q3", &[])]);
    let text = run.to_trec("my  tag\n");
    assert_eq!(text, "q1 Q0 z 1 1 my_tag\nq2 Q0 a 1 3 my_tag\nq2 Q0 c 2 2 my_tag\nq2 Q0 b 3 1 my_tag\n");
    let read = Run::parse(&text).expect("well formed");
    for query in ["q1", "q2"] {
        assert_eq!(read.ranking(query), run.ranking(query), "{query}");
    }
    assert_eq!(read.ranking("q3"), None, "an empty ranking has no line");
    assert!(run.to_trec(" ").starts_with("q1 Q0 z 1 1 run\n"));
}

#[test]
fn a_run_refuses_what_its_file_could_not_hold() {
    let duplicate = InsertError::DuplicateDocument { query: "q".into(), document: "a".into() };
    let cases: [(&str, &[&str], Result<(), InsertError>); 6] = [
        ("q", &["a", "b"], Ok(())),
        ("q", &["a", "b", "a"], Err(duplicate)),
        ("q", &["a", "b c"], Err(InsertError::Id("b c".into()))),
        ("q", &[""], Err(InsertError::Id(String::new()))),
        ("q\t", &["a"], Err(InsertError::Id("q\t".into()))),
        ("known", &["a"], Err(InsertError::DuplicateQuery("known".into()))),
    ];
    for (query, ranking, expected) in cases {
        let mut run = run(&[("known", &["z"])]);
        let before = run.clone();
        let answer = run.insert(query, ranking.iter().map(|&id| id.to_owned()).collect());
        assert_eq!(answer, expected, "{query:?} {ranking:?}");
        assert_eq!(run == before, expected.is_err(), "all or nothing for {query:?} {ranking:?}");
    }
}

fn duplicate(query: &str, document: &str) -> LineFault {
    LineFault::DuplicateDocument { query: query.into(), document: document.into() }
}

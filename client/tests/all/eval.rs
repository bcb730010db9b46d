//! `sluice eval` as a process.

use std::{fs, path::Path};

use serde_json::Value;
use sluice_client::Method;
use tempfile::TempDir;
use tonic::Status;

use crate::{
    command::{Ran, run},
    fake::{Fake, Step},
};

/// Two queries that count, one with nothing relevant, one that nobody judged.
const CANDIDATES: &str = r#"{"qid":"q1","query":"black sand","documents":[{"id":"d1","text":"white sand"},{"id":"d2","text":"black sand"},{"id":"d3","text":"grey"}]}
{"qid":"q2","query":"flea life","documents":[{"id":"d4","text":"flea market"},{"id":"d5","text":"a flea"},{"id":"d6","text":"market"}]}
{"qid":"q3","query":"moon","documents":[{"id":"d7","text":"sun"}]}
{"qid":"q4","query":"star","documents":[{"id":"d8","text":"star"}]}
"#;
const QRELS: &str = "q1 0 d1 1\nq1 0 d2 3\nq2 0 d6 1\nq2 0 absent 1\nq3 0 d7 0\n";

struct Collection {
    folder: TempDir,
}

impl Collection {
    fn new(candidates: &str, qrels: &str) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("candidates.jsonl"), candidates).unwrap();
        fs::write(folder.path().join("qrels.txt"), qrels).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn eval(&self, more: &[&str]) -> Ran {
        let (candidates, qrels) = (self.path("candidates.jsonl"), self.path("qrels.txt"));
        let mut arguments = vec!["eval", "--candidates", &candidates, "--qrels", &qrels];
        arguments.extend(more);
        run(&arguments)
    }
}

/// The one object that is printed; its keys must be these and in this order.
fn object(ran: &Ran) -> Value {
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(ran.stdout.lines().count(), 1);
    let keys = ["queries", "method", "metrics", "ndcg@10", "mrr@10", "map", "recall@100", "precision@10", "f1@10"];
    let places: Vec<_> = keys.iter().map(|key| ran.stdout.find(&format!("\"{key}\":"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{}", ran.stdout);
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(object.as_object().unwrap().len(), 4);
    assert_eq!(object["metrics"].as_object().unwrap().len(), 7);
    let rate = object["documents_per_second"].as_f64().unwrap();
    assert!(rate > 0.0 && rate.is_finite(), "{rate}");
    object
}

fn check_metrics(object: &Value, expected: [(&str, f64); 7]) {
    for (name, expected) in expected {
        let found = object["metrics"][name].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{name}: {found} instead of {expected}");
    }
}

#[test]
fn the_given_order_needs_no_server() {
    let collection = Collection::new(CANDIDATES, QRELS);
    let object = object(&collection.eval(&["--method", "none", "--json"]));
    assert_eq!((object["queries"].as_u64(), object["method"].as_str()), (Some(2), Some("none")));
    // q1: d1 (1), d2 (3), d3. q2: d4, d5, d6 (1), and another relevant document that is no candidate.
    let log = f64::log2;
    let ndcg_1 = (1.0 + 3.0 / log(3.0)) / (3.0 + 1.0 / log(3.0));
    let ndcg_2 = (1.0 / log(4.0)) / (1.0 + 1.0 / log(3.0));
    check_metrics(
        &object,
        [
            ("ndcg@10", (ndcg_1 + ndcg_2) / 2.0),
            ("mrr@10", (1.0 + 1.0 / 3.0) / 2.0),
            ("map", (1.0 + (1.0 / 3.0) / 2.0) / 2.0),
            ("recall@100", (1.0 + 0.5) / 2.0),
            ("precision@10", (0.2 + 0.1) / 2.0),
            ("f1@10", (4.0 / 12.0 + 2.0 / 12.0) / 2.0),
            ("hit_rate@10", 1.0),
        ],
    );
}

#[test]
fn a_servers_order_is_measured_and_written_as_a_run() {
    let fake = Fake::with_script([Step::Fail(Status::unavailable("starting"))]);
    let collection = Collection::new(CANDIDATES, QRELS);
    let run_out = collection.path("run.txt");
    let object = object(&collection.eval(&[
        "--server",
        &fake.url,
        "--model",
        "m",
        "--method",
        "dense",
        "--run-out",
        &run_out,
        "--concurrency",
        "3",
        "--json",
    ]));
    assert_eq!((object["queries"].as_u64(), object["method"].as_str()), (Some(2), Some("dense")));
    // q1: d2 (3), d1 (1), d3 is the best order. q2: d4 and d5 tie and keep their order, then d6.
    let log = f64::log2;
    let ndcg_2 = (1.0 / log(4.0)) / (1.0 + 1.0 / log(3.0));
    check_metrics(
        &object,
        [
            ("ndcg@10", (1.0 + ndcg_2) / 2.0),
            ("mrr@10", (1.0 + 1.0 / 3.0) / 2.0),
            ("map", (1.0 + (1.0 / 3.0) / 2.0) / 2.0),
            ("recall@100", (1.0 + 0.5) / 2.0),
            ("precision@10", (0.2 + 0.1) / 2.0),
            ("f1@10", (4.0 / 12.0 + 2.0 / 12.0) / 2.0),
            ("hit_rate@10", 1.0),
        ],
    );
    let expected = "\
q1 Q0 d2 1 3 sluice-dense
q1 Q0 d1 2 2 sluice-dense
q1 Q0 d3 3 1 sluice-dense
q2 Q0 d4 1 3 sluice-dense
q2 Q0 d5 2 2 sluice-dense
q2 Q0 d6 3 1 sluice-dense
q3 Q0 d7 1 1 sluice-dense
q4 Q0 d8 1 1 sluice-dense
";
    assert_eq!(fs::read_to_string(run_out).unwrap(), expected);

    let seen = fake.seen();
    assert_eq!(seen.len(), 5, "four queries, one of them twice");
    assert!(seen.iter().all(|call| call.request.method() == Method::Dense && call.request.model == "m"));
    assert!(seen.iter().all(|call| call.request.top_n == 0 && call.timeout.is_some()));
}

#[test]
fn metrics_for_people() {
    let collection = Collection::new(CANDIDATES, QRELS);
    let ran = collection.eval(&["--method", "none"]);
    assert_eq!(ran.code, 0);
    for expected in ["ndcg@10", "0.6667", "documents/s", "none"] {
        assert!(ran.stdout.contains(expected), "{expected}:\n{}", ran.stdout);
    }
}

#[test]
fn a_judged_query_without_candidates_is_told_of_and_counts_as_0() {
    let collection = Collection::new(CANDIDATES, &format!("{QRELS}q9 0 d9 1\n"));
    let ran = collection.eval(&["--method", "none", "--json"]);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.stderr,
        "sluice: judged queries without candidates: 1; they count as 0 where anything was relevant\n"
    );
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((object["queries"].as_u64(), object["metrics"]["hit_rate@10"].as_f64()), (Some(3), Some(2.0 / 3.0)));
}

#[test]
fn faults_are_named_and_nothing_is_printed() {
    let fine = "{\"qid\":\"q\",\"query\":\"x\",\"documents\":[{\"id\":\"d\",\"text\":\"x\"}]}\n";
    let spaced = "{\"qid\":\"q\",\"query\":\"x\",\"documents\":[{\"id\":\"d 1\",\"text\":\"x\"}]}\n";
    let empty_query = "{\"qid\":\"q\",\"query\":\"\",\"documents\":[{\"id\":\"d\",\"text\":\"x\"}]}\n";
    let qrels = "q 0 d 1\n";
    let none: &[&str] = &["--method", "none"];
    let dense: &[&str] = &["--method", "dense"];
    let cases: [(&str, &str, &[&str], i32, &str); 9] = [
        ("{", qrels, none, 1, "candidates.jsonl: line 1: expected {\"qid\""),
        (&fine.repeat(2), qrels, none, 1, "candidates.jsonl: line 2: query q is there a second time"),
        (spaced, qrels, none, 1, "\"d 1\" is empty or contains white space"),
        (fine, "q 0 d\n", none, 1, "qrels.txt: line 1: 3 columns instead of 4"),
        (fine, "q 0 d 0\n", none, 1, "no query has a relevant document"),
        (empty_query, qrels, dense, 1, "sluice: query q: INVALID_ARGUMENT: query.text: must not be empty"),
        (fine, qrels, &["--method", "bm25"], 2, "late_interaction"),
        (fine, qrels, &[], 2, "--method"),
        (fine, qrels, &["--method", "none", "--concurrency", "0"], 2, "--concurrency"),
    ];
    let fake = Fake::start();
    for (candidates, qrels, more, code, reason) in cases {
        let ran = Collection::new(candidates, qrels).eval(&[more, &["--server", &fake.url]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{reason}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{reason}: {}", ran.stderr);
    }
}

#[test]
fn an_answer_that_leaves_a_document_out_is_refused() {
    let fake = Fake::with_script([Step::Incomplete]);
    let collection = Collection::new(CANDIDATES, QRELS);
    let ran = collection.eval(&["--method", "dense", "--server", &fake.url, "--concurrency", "1"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "sluice: query q1: the answer ranks 2 of 3 documents\n"));
}

#[test]
fn a_run_that_cannot_be_written_does_not_hide_the_result() {
    let collection = Collection::new(CANDIDATES, QRELS);
    let ran = collection.eval(&["--method", "none", "--json", "--run-out", "/no/such/folder/run.txt"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout.contains("ndcg@10") && ran.stderr.starts_with("sluice: /no/such/folder/run.txt: "),
        "{}",
        ran.stderr
    );
}

#[test]
fn quality_against_budgets() {
    let fake = Fake::start();
    let collection = Collection::new(CANDIDATES, QRELS);
    let stages = ["--stage", "late_interaction:2", "--stage", "cross_encoder", "--server", &fake.url];
    let with = |more: &[&str]| collection.eval(&[&stages, more].concat());
    let ran = with(&["--budget-ms", "5,1500", "--json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let objects: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let budgets: Vec<_> = objects.iter().map(|object| object["budget_ms"].as_u64()).collect();
    assert_eq!(budgets, [Some(5), Some(1500)]);
    for object in &objects {
        assert_eq!(object["method"].as_str(), Some("late_interaction:2,cross_encoder"));
        assert_eq!((object["partial_queries"].as_u64(), object["scored_share"].as_f64()), (Some(0), Some(1.0)));
        let latency = &object["latency_seconds"];
        let [p50, p90, max] = ["p50", "p90", "max"].map(|name| latency[name].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p90 && p90 <= max, "{latency}");
    }
    let seen = fake.seen();
    let budget = |call: &crate::fake::Seen| call.request.budget.and_then(|b| b.time).map(|t| (t.seconds, t.nanos));
    assert!(seen[..4].iter().all(|call| budget(call) == Some((0, 5_000_000)) && call.request.stages.len() == 2));
    assert!(seen[4..].iter().all(|call| budget(call) == Some((1, 500_000_000))));

    let ran = with(&["--budget-ms", "5,1500"]);
    assert_eq!((ran.code, ran.stdout.matches("ndcg@10").count(), ran.stdout.lines().count()), (0, 1, 6));
    let ran = with(&["--budget-ms", "5,1500", "--run-out", "run.txt"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(with(&["--method", "dense"]).code, 2, "stages have methods of their own");
}

/// BM25's order of TREC DL 2019 has a known value.
#[test]
fn a_known_collection_has_its_known_value() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/dl19");
    let (candidates, qrels) = (data.join("candidates.jsonl"), data.join("qrels.txt"));
    if !candidates.is_file() || !qrels.is_file() {
        eprintln!("skipped: no dl19 in {}", data.display());
        return;
    }
    let (candidates, qrels) = (candidates.to_str().unwrap(), qrels.to_str().unwrap());
    let ran = run(&["eval", "--method", "none", "--candidates", candidates, "--qrels", qrels, "--json"]);
    let object = object(&ran);
    assert_eq!(object["queries"].as_u64(), Some(43));
    let ndcg = object["metrics"]["ndcg@10"].as_f64().unwrap();
    assert!((ndcg - 0.5058).abs() < 5e-5, "{ndcg}");
}

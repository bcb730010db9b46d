//! The `sluice` command as a process.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use sluice_client::{Budget, CachePolicy, LongDocument, Method, Priority, Rerank, RerankRequest, ScoreKind, Stage};
use tempfile::TempDir;

use crate::fake::{Fake, Step};

pub(crate) struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// `sluice` with these arguments; without a server named in its environment.
pub(crate) fn sluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(arguments).env_remove("SLUICE_URL").env_remove("SLUICE_TOKEN").stdin(Stdio::null());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Ran {
    ran(&sluice(arguments).output().unwrap())
}

pub(crate) fn run_with(stdin: &str, arguments: &[&str]) -> Ran {
    let mut command = sluice(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A child that has nothing to read for may have closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    ran(&child.wait_with_output().unwrap())
}

fn ran(output: &Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().expect("no signal ends it");
    Ran { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

const BEACHES: &str = "a white sand beach\nblack sand beach\nnothing of the kind\n";

#[test]
fn a_ranking_for_people() {
    let fake = Fake::start();
    let ran = run_with(BEACHES, &["rerank", "--server", &fake.url, "--query", "black sand"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with('│'))
        .map(|line| line.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(
        rows,
        [
            ["#", "score", "id", "text"],
            ["1", "2.0000", "2", "black sand beach"],
            ["2", "1.0000", "1", "a white sand beach"],
            ["3", "0.0000", "3", "nothing of the kind"],
        ]
    );
    assert_eq!(ran.stdout.lines().last(), Some("3 of 3 documents, late_interaction, counting, 1504.0 ms"));
}

#[test]
fn a_ranking_for_programs() {
    let fake = Fake::start();
    let documents = "{\"id\":\"long\",\"text\":\"black\"}\nwhite sand\n{\"id\":9,\"text\":\"black sand\"}\n";
    let ran = run_with(
        documents,
        &["rerank", "--server", &fake.url, "--query", "black sand", "--top-n", "2", "--min-score", "-1", "--json"],
    );
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(ran.stdout.lines().count(), 1);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let row = |rank, index, id, score, truncated, text| {
        json!({"rank": rank, "index": index, "id": id, "score": score, "stage": 0, "unscored": false, "source": "text",
               "tokens": 7, "truncated": truncated, "best_chunk": null, "text": text})
    };
    let expected = json!({
        "query": "black sand",
        "model": "counting",
        "model_digest": "c0ffee",
        "method": "late_interaction",
        "score_kind": "raw",
        "documents": 3,
        "partial": false,
        "partial_reasons": [],
        "results": [row(1, 2, "9", 2.0, false, "black sand"), row(2, 0, "long", 1.0, true, "black")],
        "usage": {"query_tokens": 3, "document_tokens": 14, "computed_tokens": 17, "cached_tokens": 0},
        "timing": {"queue_seconds": 0.001, "tokenize_seconds": 0.002, "compute_seconds": 1.5, "total_seconds": 1.504},
    });
    assert_eq!(found, expected);
}

#[test]
fn every_flag_reaches_the_server() {
    let fake = Fake::start();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("documents.txt");
    std::fs::write(&file, BEACHES).unwrap();
    let mut arguments =
        vec!["rerank", "--server", &fake.url, "--query", "q", "--model", "m", "--method", "cross_encoder"];
    arguments.extend(["--top-n", "5", "--min-score", "-0.5", "--score-kind", "sigmoid", "--deadline-ms", "7000"]);
    arguments.extend(["--max-tokens-per-document", "64", "--long-document", "chunk-mean", "--json"]);
    arguments.push(file.to_str().unwrap());
    assert_eq!(run(&arguments).code, 0);

    let seen = &fake.seen()[0];
    let request = &seen.request;
    assert_eq!((request.model.as_str(), request.method(), request.top_n), ("m", Method::CrossEncoder, 5));
    assert_eq!((request.min_score, request.score_kind()), (Some(-0.5), ScoreKind::Sigmoid));
    let truncation = request.truncation.unwrap();
    assert_eq!((truncation.max_tokens_per_document, truncation.long_document()), (64, LongDocument::ChunkMean));
    assert_eq!(request.documents.len(), 3);
    let timeout = seen.timeout.unwrap().as_secs_f64();
    assert!(timeout > 5.0 && timeout <= 7.0, "{timeout}");

    run_with("a\n", &["rerank", "--server", &fake.url, "--query", "q", "-"]);
    let bare = &fake.seen()[1].request;
    assert_eq!((bare.method, bare.score_kind, bare.truncation, bare.min_score), (0, 0, None, None));
}

#[test]
fn stages_and_what_may_be_spent_reach_the_server() {
    let fake = Fake::start();
    let mut arguments = vec!["rerank", "--server", &fake.url, "--query", "q", "--token", "s3cr3t"];
    arguments.extend(["--stage", "late_interaction:40", "--stage", "cross_encoder:big"]);
    arguments.extend(["--priority", "bulk", "--budget-ms", "1500", "--budget-pairs", "9"]);
    arguments.extend(["--until-deadline", "--no-cache"]);
    let ran = run_with(BEACHES, &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let seen = &fake.seen()[0];
    let expected = Rerank::default()
        .stages([Stage::new(Method::LateInteraction).top_k(40), Stage::new(Method::CrossEncoder).model("big")])
        .priority(Priority::Bulk)
        .budget(Budget::default().time(std::time::Duration::from_millis(1500)).pairs(9).until_deadline())
        .cache(CachePolicy::Bypass);
    let found = RerankRequest { query: None, documents: Vec::new(), ..seen.request.clone() };
    assert_eq!(found, expected.into());
    assert_eq!(seen.authorization.as_deref(), Some("Bearer s3cr3t"));

    let bare = run_with("a\n", &["rerank", "--server", &fake.url, "--query", "q"]);
    assert_eq!(bare.code, 0);
    let seen = &fake.seen()[1];
    let found = RerankRequest { query: None, documents: Vec::new(), ..seen.request.clone() };
    assert_eq!((found, seen.authorization.as_deref()), (RerankRequest::default(), None));
    let from_environment =
        sluice(&["models", "--server", &fake.url]).env("SLUICE_TOKEN", "two words").output().unwrap();
    assert_eq!(from_environment.status.code(), Some(2), "no header takes it");
    for wrong in [["--stage", "bm25"], ["--budget-ms", "0"], ["--budget-pairs", "0"], ["--priority", "urgent"]] {
        let ran = run_with("a\n", &[["rerank", "--server", &fake.url, "--query", "q"].as_slice(), &wrong].concat());
        assert_eq!(ran.code, 2, "{wrong:?}: {}", ran.stderr);
    }
    let both = ["rerank", "--server", &fake.url, "--query", "q", "--method", "dense", "--stage", "dense"];
    assert_eq!(run_with("a\n", &both).code, 2);
}

#[test]
fn the_server_may_be_named_by_the_environment() {
    let fake = Fake::start();
    let named =
        |variable: &str, arguments: &[&str]| ran(&sluice(arguments).env("SLUICE_URL", variable).output().unwrap());
    assert_eq!(named(&fake.url, &["models"]).code, 0);
    let flag = named("http://127.0.0.1:1", &["models", "--server", &fake.url]);
    assert_eq!(flag.code, 0, "the flag goes first: {}", flag.stderr);
    let wrong = named("https://sluice", &["models"]);
    assert_eq!(
        (wrong.code, wrong.stderr.trim()),
        (2, "sluice: `https://sluice` is not a server's address: TLS is not supported")
    );
}

#[test]
fn exit_codes_and_one_line_of_why() {
    let fake = Fake::start();
    let server = fake.url.as_str();
    let rerank = ["rerank", "--query", "q", "--server"];
    let with = |more: &[&'static str]| -> Vec<String> {
        rerank.iter().copied().chain([server]).chain(more.iter().copied()).map(str::to_owned).collect()
    };
    let plain = |arguments: &[&str]| arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
    let cases: [(Vec<String>, &str, i32, &str); 13] = [
        (with(&[]), "a\n", 0, ""),
        (with(&[]), "", 1, "sluice: standard input: no documents"),
        (with(&["/no/such/file"]), "", 1, "sluice: /no/such/file: No such file or directory"),
        (with(&["--query", "twice"]), "a\n", 2, "cannot be used multiple times"),
        (with(&["--method", "bm25"]), "a\n", 2, "late_interaction"),
        (with(&["--min-score", "nan"]), "a\n", 2, "not a finite number"),
        (with(&["--deadline-ms", "0"]), "a\n", 2, "--deadline-ms"),
        (with(&["--nonsense"]), "a\n", 2, "--nonsense"),
        (plain(&["rerank", "--server", server]), "a\n", 2, "--query"),
        (
            plain(&["rerank", "--server", server, "--query", ""]),
            "a\n",
            1,
            "sluice: INVALID_ARGUMENT: query.text: must not be empty",
        ),
        (
            plain(&["rerank", "--server", "nowhere:x", "--query", "q"]),
            "a\n",
            2,
            "sluice: `nowhere:x` is not a server's address",
        ),
        (
            plain(&["rerank", "--server", "http://127.0.0.1:1", "--query", "q"]),
            "a\n",
            1,
            "sluice: cannot reach http://127.0.0.1:1: ",
        ),
        (plain(&[]), "", 2, "Usage: sluice"),
    ];
    for (arguments, stdin, code, reason) in cases {
        let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ran = run_with(stdin, &borrowed);
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout.is_empty(), code != 0, "{arguments:?}: results alone go to standard output");
        if ran.stderr.starts_with("sluice: ") {
            assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        }
    }
}

#[test]
fn a_hostile_message_stays_on_its_line() {
    let fake = Fake::with_script([Step::Fail(tonic::Status::internal("first\nsecond \u{1b}[31mred\r"))]);
    let ran = run(&["models", "--server", &fake.url]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "sluice: INTERNAL: first second [31mred\n"));
}

#[test]
fn a_deadline_is_kept() {
    let fake = Fake::with_script([Step::Hang]);
    let ran = run_with("a\n", &["rerank", "--server", &fake.url, "--query", "q", "--deadline-ms", "100"]);
    // Connecting has taken a part of it.
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("sluice: DEADLINE_EXCEEDED: no answer within "), "{}", ran.stderr);
}

#[test]
fn lines_that_only_look_like_json_are_told_of() {
    let fake = Fake::start();
    let ran = run_with("{\"text\":\"a\"}\n{oops\n", &["rerank", "--server", &fake.url, "--query", "q", "--json"]);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.stderr,
        "sluice: standard input: line 2 begins with `{` but is no {\"text\": …}: taken as plain text\n"
    );
    let output: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(output["results"][1]["text"], "{oops");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let fake = Fake::start();
    // More than a pipe holds, so that writing must fail.
    let documents = format!("{}\n", "word ".repeat(500)).repeat(200);
    let mut command = sluice(&["rerank", "--server", &fake.url, "--query", "word", "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(documents.as_bytes()).unwrap();
    let ran = ran(&child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn models_for_people_and_programs() {
    let fake = Fake::start();
    let ran = run(&["models", "--server", &fake.url]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    for expected in ["mini (default)", "cross_encoder", "scripted:test.toml", "0123456789ab"] {
        assert!(ran.stdout.contains(expected), "{expected}:\n{}", ran.stdout);
    }

    let ran = run(&["models", "--server", &fake.url, "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["models"].as_array().unwrap().len(), 2);
    let expected = json!({
        "name": "mini", "is_default": true, "digest": "0123456789abcdef".repeat(4), "source": "scripted:test.toml",
        "architecture": "BertModel", "backend": "scripted", "capabilities": ["late_interaction", "dense"],
        "max_tokens": 256, "embedding_dim": 384, "parameters": 22_700_000,
    });
    assert_eq!(found["models"][0], expected);
}

#[test]
fn help_documents_what_programs_read() {
    let cases = [
        (&["rerank"][..], "\"timing\""),
        (&["models"], "\"embedding_dim\""),
        (&["eval"], "\"hit_rate@10\""),
        (&["explain"], "\"query_token\""),
        (&["tokens"], "compact"),
        (&["tokens", "put"], "\"computed_tokens\""),
        (&["tokens", "delete"], "\"deleted\""),
        (&["tokens", "stats"], "\"corrupt_records\""),
        (&["tokens", "compact"], "\"reclaimed_bytes\""),
    ];
    for (command, expected) in cases {
        let ran = run(&[command, &["--help"]].concat());
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains(expected) && ran.stdout.contains("Exit codes"), "{}", ran.stdout);
    }
}

//! `sluice explain` as a process.

use serde_json::{Value, json};

use crate::{
    command::{Ran, run, run_with, sluice},
    fake::Fake,
};

const BEACHES: &str = "{\"id\":\"w\",\"text\":\"a white beach\"}\n{\"id\":\"b\",\"text\":\"Black  sandcastle\"}\n";

fn explain(fake: &Fake, stdin: &str, more: &[&str]) -> Ran {
    run_with(stdin, &[&["explain", "--server", &fake.url, "--query", "black sand"], more].concat())
}

#[test]
fn a_heat_map_for_people() {
    let fake = Fake::start();
    let ran = explain(&fake, BEACHES, &[]);
    // Pieces of five letters; `sand` and `sandc` begin alike.
    let expected = "\
1. 3.5000  b
[[CLS] 1.00] [Black 1.00] [sandc 0.50]astle [[SEP] 1.00]
┌─────────────┬────────┬────────────────────┬────────────┐
│ query token ┆ chosen ┆ in its text        ┆ similarity │
╞═════════════╪════════╪════════════════════╪════════════╡
│ [CLS]       ┆ [CLS]  ┆                    ┆     1.0000 │
│ black       ┆ black  ┆ [Black] sandcastle ┆     1.0000 │
│ sand        ┆ sandc  ┆ Black [sandc]astle ┆     0.5000 │
│ [SEP]       ┆ [SEP]  ┆                    ┆     1.0000 │
└─────────────┴────────┴────────────────────┴────────────┘

2. 2.6250  w
[[CLS] 1.12] a white [beach 0.50] [[SEP] 1.00]
┌─────────────┬────────┬─────────────────┬────────────┐
│ query token ┆ chosen ┆ in its text     ┆ similarity │
╞═════════════╪════════╪═════════════════╪════════════╡
│ [CLS]       ┆ [CLS]  ┆                 ┆     1.0000 │
│ black       ┆ beach  ┆ a white [beach] ┆     0.5000 │
│ sand        ┆ [CLS]  ┆                 ┆     0.1250 │
│ [SEP]       ┆ [SEP]  ┆                 ┆     1.0000 │
└─────────────┴────────┴─────────────────┴────────────┘

[token heat]: heat is the sum of the similarities of the query tokens that chose a document token
2 of 2 documents, counting
";
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(ran.stdout, expected, "{}", ran.stdout);

    let ran = explain(&fake, BEACHES, &["--top-n", "1"]);
    assert_eq!(ran.stdout.lines().next(), Some("1. 3.5000  b"));
    assert_eq!(ran.stdout.lines().last(), Some("1 of 2 documents, counting"));
}

#[test]
fn colours_are_for_those_who_want_them() {
    let fake = Fake::start();
    let ran = explain(&fake, BEACHES, &["--color", "always", "--top-n", "1"]);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "\u{1b}[1m1. 3.5000  b\u{1b}[0m");
    let (hot, half) = ("\u{1b}[38;5;231;48;5;160m", "\u{1b}[38;5;16;48;5;214m");
    assert_eq!(
        lines[1],
        format!("{hot}[CLS]\u{1b}[0m {hot}Black\u{1b}[0m {half}sandc\u{1b}[0mastle {hot}[SEP]\u{1b}[0m")
    );
    assert_eq!(
        lines.iter().filter(|line| line.contains("\u{1b}[2m")).count(),
        2,
        "special tokens of the query are dim"
    );
    // Asked for is asked for; but nothing else puts colours into a pipe.
    let arguments = ["explain", "--server", &fake.url, "--query", "black", "--stored", "n", "--id", "a"];
    let asked = sluice(&[&arguments[..], &["--color", "always"]].concat()).env("NO_COLOR", "1").output().unwrap();
    assert!(asked.stdout.starts_with(b"\x1b[1m1. unscored"));
    for when in ["auto", "never"] {
        assert!(!explain(&fake, BEACHES, &["--color", when]).stdout.contains('\u{1b}'), "{when}");
    }
}

#[test]
fn long_and_hostile_texts() {
    let fake = Fake::start();
    let long = "word ".repeat(300);
    let text = format!("{long}black\u{1b}[2J\r\n{long}sand {long}");
    let document = json!({"id": "\u{1b}[31mlong", "text": text}).to_string();
    let ran = explain(&fake, &document, &[]);
    assert_eq!(ran.code, 0);
    assert!(!ran.stdout.contains(|c: char| c.is_control() && c != '\n'), "{:?}", ran.stdout);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "1. 4.0000  [31mlong");
    assert!(lines[1].starts_with("[[CLS] 1.00] word word word word word … word word word word word"), "{}", lines[1]);
    assert!(lines.len() < 15, "{}", ran.stdout);
    let full = explain(&fake, &document, &["--full"]).stdout;
    assert!(full.lines().nth(1).unwrap().starts_with("[[CLS] 1.00] word word"), "{full}");
    let map: Vec<_> = full.lines().skip(1).take_while(|line| !line.starts_with('┌')).collect();
    let map = map.join(" ");
    assert_eq!((map.matches("word").count(), map.contains('…')), (900, false), "{map}");
}

#[test]
fn stored_documents_by_id() {
    let fake = Fake::start();
    run_with(BEACHES, &["tokens", "put", "--server", &fake.url, "--namespace", "n"]);
    let ran = explain(&fake, "", &["--stored", "n", "--id", "b", "--id", "absent"]);
    let expected = "\
1. 3.5000  b  (stored)
[#0 1.00] [#1 1.00] [#2 0.50] [#4 1.00]
┌─────────────┬────────┬────────────┐
│ query token ┆ chosen ┆ similarity │
╞═════════════╪════════╪════════════╡
│ [CLS]       ┆ #0     ┆     1.0000 │
│ black       ┆ #1     ┆     1.0000 │
│ sand        ┆ #2     ┆     0.5000 │
│ [SEP]       ┆ #4     ┆     1.0000 │
└─────────────┴────────┴────────────┘

2. unscored  absent  (none_missing)

[token heat]: heat is the sum of the similarities of the query tokens that chose a document token
2 of 2 documents, counting
";
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "sluice: documents without a score to explain: 1\n"));
    assert_eq!(ran.stdout, expected, "{}", ran.stdout);

    // Its text names the tokens of what is stored.
    let ran = explain(&fake, "{\"id\":\"b\",\"text\":\"Black  sandcastle\"}\n", &["--stored", "n"]);
    assert_eq!(ran.stdout.lines().next(), Some("1. 3.5000  b  (stored)"));
    assert!(ran.stdout.contains("[Black 1.00] [sandc 0.50]astle"), "{}", ran.stdout);
}

#[test]
fn an_explanation_for_programs() {
    let fake = Fake::start();
    let ran = explain(&fake, BEACHES, &["--json", "--top-n", "1", "--color", "always"]);
    assert_eq!((ran.code, ran.stderr.as_str(), ran.stdout.lines().count()), (0, "", 1));
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let token = |text: &str, start: u32, end: u32| json!({"text": text, "byte_start": start, "byte_end": end});
    let found_by = |query: u32, document: u32, similarity: f32| json!({"query_token": query, "document_token": document, "similarity": similarity});
    let expected = json!({
        "query": "black sand",
        "model": "counting",
        "model_digest": "c0ffee",
        "documents": 2,
        "query_tokens": [token("[CLS]", 0, 0), token("black", 0, 5), token("sand", 6, 10), token("[SEP]", 0, 0)],
        "results": [{
            "rank": 1, "index": 1, "id": "b", "score": 3.5, "unscored": false, "source": "text", "truncated": false,
            "text": "Black  sandcastle",
            "tokens": [token("[CLS]", 0, 0), token("black", 0, 5), token("sandc", 7, 12), token("##astle", 12, 17),
                       token("[SEP]", 0, 0)],
            "matches": [found_by(0, 0, 1.0), found_by(1, 1, 1.0), found_by(2, 2, 0.5), found_by(3, 4, 1.0)],
        }],
    });
    assert_eq!(found, expected);
    let ran = run(&["explain", "--server", &fake.url, "--query", "q", "--stored", "n", "--id", "a", "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let expected = json!({
        "rank": 1, "index": 0, "id": "a", "score": null, "unscored": true, "source": "none_missing",
        "truncated": false, "text": null, "tokens": [], "matches": [],
    });
    assert_eq!(found["results"][0], expected);
}

#[test]
fn wrong_usage_and_refusals() {
    let fake = Fake::start();
    let cases: [(&str, &[&str], i32, &str); 6] = [
        ("a\n", &["--id", "a"], 2, "--stored <NAMESPACE>"),
        ("", &["--stored", "n", "--id", "a", "file"], 2, "cannot be used with"),
        ("a\n", &["--color", "sometimes"], 2, "[possible values: auto, always, never]"),
        ("", &[], 1, "sluice: standard input: no documents\n"),
        ("plain\n", &["--stored", "n"], 1, "sluice: standard input: line 1: expected {\"id\"}"),
        ("a\n", &["--deadline-ms", "0"], 2, "--deadline-ms"),
    ];
    for (stdin, more, code, reason) in cases {
        let ran = explain(&fake, stdin, more);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{more:?}: {}", ran.stderr);
    }
    let ran = run_with("a\n", &["explain", "--server", &fake.url, "--query", ""]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "sluice: INVALID_ARGUMENT: query.text: must not be empty\n"));
}

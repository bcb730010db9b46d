//! The token store: the library's calls, `sluice tokens`, and what is reranked and measured from the store.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use sluice_client::{
    Client, ClientOptions, Code, Explain, PutTokens, Rerank, RetryPolicy, TokenStorage, content_hash,
    proto::rerank::v1::{PutRequest, document, put_document},
};
use tempfile::TempDir;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    command::{Ran, run, run_with},
    fake::{Fake, Step},
};

fn unavailable() -> Step {
    Step::Fail(Status::unavailable("draining"))
}

async fn client(fake: &Fake) -> Client {
    let retry = RetryPolicy { backoff_initial: Duration::from_millis(1), ..RetryPolicy::default() };
    Client::connect(&fake.url, ClientOptions { retry, ..ClientOptions::default() }).await.unwrap()
}

#[tokio::test]
async fn calls_of_the_store_are_tried_again_and_have_deadlines() {
    // Two attempts each: a repeated write leaves what a single one does.
    let twice = || [unavailable(), Step::AfterScores(Box::new(Step::End))];
    let fake = Fake::with_script((0..5).flat_map(|_| twice()));
    let client = client(&fake).await;
    let put = PutTokens::new("n").documents([("a", "black sand"), ("b", "white sand")]).storage(TokenStorage::Int8);
    let stored = client.put_tokens(put).await.unwrap();
    let found: Vec<_> = stored.documents.iter().map(|document| (document.id.as_str(), document.tokens)).collect();
    assert_eq!(found, [("a", 4), ("b", 4)]);
    assert_eq!(stored.documents[0].content_hash, content_hash("black sand"));
    let stats = client.token_stats("n").await.unwrap();
    assert_eq!((stats.collections.len(), stats.collections[0].documents), (1, 2));
    assert_eq!(client.delete_tokens("n", ["a", "absent"]).await.unwrap().deleted, 1);
    assert_eq!(client.compact_tokens("").await.unwrap().reclaimed_bytes, 1000);
    let explained = client.explain(Explain::new("sand").stored("b", "n")).await.unwrap();
    assert_eq!((explained.query_tokens.len(), explained.documents[0].matches.len()), (3, 3));

    let seen = fake.seen();
    assert_eq!(seen.len(), 10);
    assert!(seen.iter().all(|call| call.timeout.is_some()));
    let fake = Fake::with_script([Step::Hang]);
    let hasty = self::client(&fake).await.with_deadline(Duration::from_millis(80));
    let error = hasty.put_tokens(PutTokens::new("n").document("a", "b")).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded));
}

#[tokio::test]
async fn stored_documents_are_scored_from_the_store_or_say_why_not() {
    let fake = Fake::start();
    let client = client(&fake).await;
    client.put_tokens(PutTokens::new("n").document("a", "black sand").document("b", "old")).await.unwrap();
    let request = Rerank::new("black sand")
        .stored("a", "n")
        .stored_or("b", "n", "sand")
        .stored_or("c", "n", "black sand too")
        .stored_as("b", "n", content_hash("other"))
        .stored("a", "elsewhere");
    let answer = client.rerank(request).await.unwrap();
    let found: Vec<_> = answer.results.iter().map(|r| (r.index, r.source().as_str_name(), r.unscored)).collect();
    assert_eq!(
        found,
        [
            (0, "DOCUMENT_SOURCE_STORED", false),
            (2, "DOCUMENT_SOURCE_TEXT_FOR_MISSING", false),
            (1, "DOCUMENT_SOURCE_TEXT_FOR_STALE", false),
            (3, "DOCUMENT_SOURCE_NONE_STALE", true),
            (4, "DOCUMENT_SOURCE_NONE_MISSING", true),
        ]
    );
    assert!(answer.partial);
}

/// JSON lines of documents of so many words.
fn lines(words: &[(&str, usize)]) -> String {
    let line = |(id, words): &(&str, usize)| json!({"id": id, "text": "word ".repeat(*words)}).to_string() + "\n";
    words.iter().map(line).collect()
}

fn put(fake: &Fake, stdin: &str, more: &[&str]) -> Ran {
    run_with(stdin, &[&["tokens", "put", "--server", &fake.url, "--namespace", "n"], more].concat())
}

/// Ids of every put, in order of arrival.
fn put_ids(puts: &[PutRequest]) -> Vec<String> {
    let ids =
        |put: &PutRequest| put.documents.iter().map(|document| document.id.as_str()).collect::<Vec<_>>().join(" ");
    puts.iter().map(ids).collect()
}

#[test]
fn documents_are_put_in_batches() {
    let fake = Fake::start();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("documents.jsonl");
    fs::write(&file, lines(&[("a", 3), ("b", 4), ("c", 70)]) + "\n{\"id\":4,\"text\":\"\"}\n").unwrap();
    let more = ["--model", "m", "--storage", "binary", "--batch", "3", "--deadline-ms", "7000"];
    let ran = put(&fake, "", &[&more[..], &[file.to_str().unwrap()]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.starts_with("4 documents, 73 tokens, 1 truncated, m, 0."), "{}", ran.stdout);
    assert!(ran.stdout.ends_with(" documents/s\n"), "{}", ran.stdout);

    let puts = fake.puts();
    let mut batches = put_ids(&puts);
    // Both are under way at once.
    batches.sort();
    assert_eq!(batches, ["4", "a b c"]);
    assert!(puts.iter().all(|put| put.model == "m" && put.storage() == TokenStorage::Binary && put.namespace == "n"));
    assert!(fake.seen().iter().all(|call| call.timeout.unwrap() <= Duration::from_secs(7)));

    let ran = put(&fake, "{\"id\":\"x\",\"text\":\"one\"}\n", &["--json"]);
    let mut found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(found["seconds"].take().as_f64().unwrap() > 0.0);
    let expected = json!({
        "namespace": "n", "model": "counting", "model_digest": "c0ffee", "documents": 1, "tokens": 3, "truncated": 0,
        "computed_tokens": 3, "requests": 1, "seconds": null,
    });
    assert_eq!(found, expected);
    let bare = &fake.puts()[2];
    assert_eq!((bare.model.as_str(), bare.storage()), ("", TokenStorage::Unspecified));
}

#[test]
fn a_batch_refused_for_its_size_is_put_in_parts() {
    let fake = Fake::start();
    // 30, 30, 30, 60 and 12 tokens, where a put takes 100.
    let documents = lines(&[("a", 28), ("b", 28), ("c", 28), ("d", 58), ("e", 10)]);
    let ran = put(&fake, &documents, &["--json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&found["documents"], &found["tokens"], &found["requests"]), (&json!(5), &json!(162), &json!(3)));
    assert_eq!(put_ids(&fake.puts()), ["a b c d e", "a b", "c d e", "c", "d e"]);
}

#[test]
fn batches_with_the_same_id_wait_for_each_other() {
    let fake = Fake::with_script([Step::Fail(busy(Duration::from_millis(200)))]);
    let documents = "{\"id\":1,\"text\":\"first\"}\n{\"id\":2,\"text\":\"x\"}\n{\"id\":1,\"text\":\"last\"}\n";
    assert_eq!(put(&fake, documents, &["--batch", "1"]).code, 0);
    // The first attempt is sent away for a while. The second document may overtake it; its successor may not.
    let puts = fake.puts();
    let text = |put: &PutRequest| put.documents[0].content.clone();
    let of_one: Vec<_> = puts.iter().filter(|put| put.documents[0].id == "1").map(text).collect();
    assert_eq!(of_one, ["first", "last"].map(|text| Some(put_document::Content::Text(text.into()))));
    assert_eq!(puts.len(), 3);
}

fn busy(wait: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(wait));
    Status::with_error_details(Code::ResourceExhausted, "the queue is full", details)
}

#[test]
fn faults_of_a_put_name_their_line_and_what_is_stored() {
    let one = "{\"id\":\"a\",\"text\":\"x\"}\n";
    let nameless = "{\"id\":\"\",\"text\":\"x\"}\n";
    let stored = "sluice: documents stored before that: 1; storing them again changes nothing\n";
    let long: String = (0..4).map(|id| lines(&[(&id.to_string(), 90)])).collect();
    let no_store = || Step::Fail(Status::failed_precondition("this server keeps no token vectors"));
    let cases: [(&str, &[&str], Option<Step>, i32, String); 7] = [
        ("", &[], None, 1, "sluice: standard input: no documents\n".into()),
        (
            &format!("{one}\nplain text\n{one}"),
            &[],
            None,
            1,
            format!(
                "{stored}sluice: standard input: line 3: expected {{\"id\", \"text\"}}: expected value at line 1 column 1\n"
            ),
        ),
        (
            &format!("{one}\n{nameless}"),
            &[],
            None,
            1,
            "sluice: standard input: line 3: INVALID_ARGUMENT: documents[1].id: must be 1 to 512 bytes\n".into(),
        ),
        (one, &[], Some(no_store()), 1, "sluice: FAILED_PRECONDITION: this server keeps no token vectors\n".into()),
        (
            &long,
            &[],
            Some(Step::Fail(Status::internal("oops"))),
            1,
            "sluice: standard input: lines 1 to 4: INTERNAL: oops\n".into(),
        ),
        (one, &["--storage", "f8"], None, 2, "[possible values: f16, int8, binary]".into()),
        (one, &["--batch", "0"], None, 2, "--batch".into()),
    ];
    for (stdin, more, step, code, expected) in cases {
        let fake = Fake::with_script(step);
        let ran = put(&fake, stdin, more);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{expected}: {}", ran.stderr);
        if code == 2 {
            assert!(ran.stderr.contains(&expected), "{expected}: {}", ran.stderr);
        } else {
            assert_eq!(ran.stderr, expected);
        }
    }
}

#[test]
fn what_is_stored_is_told_deleted_and_compacted() {
    let fake = Fake::start();
    let tokens = |more: &[&str]| {
        let ran = run(&[&["tokens", more[0], "--server", &fake.url], &more[1..]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{more:?}");
        ran.stdout
    };
    assert_eq!(tokens(&["stats"]), "nothing is stored\n");
    assert_eq!(tokens(&["compact"]), "0 B given back, 0 files rewritten\n");
    assert_eq!(put(&fake, &lines(&[("a", 30), ("b", 30), ("c", 1)]), &[]).code, 0);
    let expected = "\
┌───────────┬──────────┬─────────┬─────┬───────────┬────────┬───────────┬──────┬───────┐
│ namespace ┆ model    ┆ storage ┆ dim ┆ documents ┆ tokens ┆      live ┆ dead ┆ files │
╞═══════════╪══════════╪═════════╪═════╪═══════════╪════════╪═══════════╪══════╪═══════╡
│ n         ┆ counting ┆ f16     ┆ 128 ┆         3 ┆     67 ┆ 16.75 KiB ┆  0 B ┆     1 │
└───────────┴──────────┴─────────┴─────┴───────────┴────────┴───────────┴──────┴───────┘
";
    assert_eq!(tokens(&["stats", "--namespace", "n"]), expected);
    assert_eq!(tokens(&["stats", "--namespace", "other"]), "nothing is stored\n");
    assert_eq!(tokens(&["delete", "--namespace", "n", "a", "absent", "b"]), "2 deleted\n");
    assert_eq!(tokens(&["delete", "--namespace", "n", "--json", "a"]), "{\"deleted\":0}\n");
    let found: Value = serde_json::from_str(&tokens(&["stats", "--json"])).unwrap();
    let expected = json!({
        "collections": [{
            "namespace": "n", "model": "counting", "model_digest": "0123456789abcdef".repeat(4), "storage": "f16",
            "dim": 128, "documents": 1, "tokens": 3, "live_bytes": 768, "dead_bytes": 2000, "segments": 1,
        }],
        "corrupt_records": 0,
    });
    assert_eq!(found, expected);
    let compacted = "{\"reclaimed_bytes\":2000,\"rewritten_segments\":1}\n";
    assert_eq!(tokens(&["compact", "--namespace", "n", "--json"]), compacted);

    for (arguments, reason) in
        [(&["tokens"][..], "Usage: sluice tokens"), (&["tokens", "delete", "--namespace", "n"], "<ID>...")]
    {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}");
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
    }
}

#[test]
fn stored_documents_are_reranked_by_id() {
    let fake = Fake::start();
    put(&fake, "{\"id\":\"a\",\"text\":\"white sand\"}\n{\"id\":\"b\",\"text\":\"black sand\"}\n", &[]);
    let rerank = |stdin: &str, more: &[&str]| {
        run_with(stdin, &[&["rerank", "--server", &fake.url, "--query", "black sand", "--stored", "n"], more].concat())
    };
    let ran = rerank("{\"id\":\"a\"}\n{\"id\":\"b\"}\n", &[]);
    let expected = "\
┌───┬────────┬────┬────────┐
│ # ┆  score ┆ id ┆ source │
╞═══╪════════╪════╪════════╡
│ 1 ┆ 2.0000 ┆ b  ┆ stored │
│ 2 ┆ 1.0000 ┆ a  ┆ stored │
└───┴────────┴────┴────────┘
2 of 2 documents, late_interaction, counting, 1504.0 ms
";
    assert_eq!((ran.code, ran.stderr.as_str(), ran.stdout.as_str()), (0, "", expected));

    let ran = rerank("{\"id\":\"c\"}\n{\"id\":\"a\",\"text\":\"black\"}\n{\"id\":\"b\"}\n", &[]);
    let expected = "\
┌───┬──────────┬────┬────────────────┬───────┐
│ # ┆    score ┆ id ┆ source         ┆ text  │
╞═══╪══════════╪════╪════════════════╪═══════╡
│ 1 ┆   2.0000 ┆ b  ┆ stored         ┆       │
│ 2 ┆   1.0000 ┆ a  ┆ text_for_stale ┆ black │
│ 3 ┆ unscored ┆ c  ┆ none_missing   ┆       │
└───┴──────────┴────┴────────────────┴───────┘
3 of 3 documents, late_interaction, counting, 1504.0 ms, 1 unscored
";
    let note = "sluice: the answer is partial: stored_document_unavailable; unscored documents: 1 not stored\n";
    assert_eq!((ran.code, ran.stderr.as_str(), ran.stdout.as_str()), (0, note, expected));

    let ran = rerank("{\"id\":\"c\"}\n{\"id\":\"b\"}\n", &["--json", "--top-n", "1"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "sluice: the answer is partial: stored_document_unavailable\n"));
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["partial_reasons"], json!(["stored_document_unavailable"]));
    let row = json!({"rank": 1, "index": 1, "id": "b", "score": 2.0, "stage": 0, "unscored": false, "source": "stored", "tokens": 7,
                     "truncated": false, "best_chunk": null, "text": null});
    assert_eq!((&found["partial"], &found["results"]), (&json!(true), &json!([row])));
    let ran = rerank("{\"id\":\"c\"}\n", &["--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&found["results"][0]["score"], &found["results"][0]["unscored"]), (&Value::Null, &json!(true)));

    let ran = rerank("{\"id\":\"a\"}\nblack sand\n", &[]);
    let fault = "sluice: standard input: line 2: expected {\"id\"} or {\"id\", \"text\"} of a stored document: ";
    assert!(ran.code == 1 && ran.stderr.starts_with(fault), "{}", ran.stderr);
}

#[test]
fn a_stored_collection_is_measured_by_id() {
    let fake = Fake::start();
    put(&fake, "{\"id\":\"d1\",\"text\":\"white sand\"}\n{\"id\":\"d2\",\"text\":\"black sand\"}\n", &[]);
    let folder = TempDir::new().unwrap();
    let eval = |documents: &str, method: &str| {
        let (candidates, qrels) = (folder.path().join("candidates"), folder.path().join("qrels"));
        fs::write(&candidates, format!("{{\"qid\":1,\"query\":\"black sand\",\"documents\":[{documents}]}}\n"))
            .unwrap();
        fs::write(&qrels, "1 0 d2 1\n").unwrap();
        let files = ["--candidates", candidates.to_str().unwrap(), "--qrels", qrels.to_str().unwrap()];
        run(&[&["eval", "--server", &fake.url, "--json", "--stored", "n", "--method", method][..], &files].concat())
    };
    let both = "{\"id\":\"d1\",\"text\":\"white sand\"},{\"id\":\"d2\",\"text\":\"black sand\"}";
    let ran = eval(both, "late_interaction");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["metrics"]["mrr@10"], json!(1.0));
    let seen = fake.seen();
    let sent = &seen.last().unwrap().request.documents[1].content;
    let Some(document::Content::Stored(sent)) = sent else { panic!("{sent:?}") };
    assert_eq!((sent.content_hash.as_slice(), &sent.text), (&content_hash("black sand")[..], &None));

    let three = format!("{both},{{\"id\":\"d3\",\"text\":\"x\"}}").replace("white", "grey");
    let ran = eval(&three, "late_interaction");
    let expected = "sluice: query 1: 2 of 3 documents are unscored: 1 not stored, 1 stored from another text\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (1, "", expected));
    let ran = eval(both, "none");
    assert_eq!((ran.code, ran.stderr.as_str()), (2, "sluice: --stored is for --method late_interaction\n"));
}

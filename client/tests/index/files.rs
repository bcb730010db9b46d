//! What is read, and what becomes of it at the shard.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sluice_client::{
    EncodeRequest,
    proto::retrieval::v1::{
        DenseQuery, FacetRequest, Filter, Leg, LexicalQuery, MatchCondition, PayloadValue, SearchRequest, filter, leg,
        payload_value::Kind, vector,
    },
};

use crate::world::{QUICK, World, lines, string};

#[test]
fn documents_come_in_embedded_and_searchable() {
    let world = World::with_model(QUICK);
    world.file("a.jsonl", lines(0..300));
    world.file("b.csv", "id,title,text,year\nx,Title,a rare zebra,1999\ny,,\"two\nlines\",2001\n");
    let files = ["--create", "--payload", "year:integer", "a.jsonl", "b.csv"];
    let found = world.indexed(&files);
    let model = world.block_on(world.server().get_model("")).unwrap();
    for (key, expected) in [
        ("collection", json!("docs")),
        ("documents", json!(302)),
        ("written", json!(302)),
        ("embedded", json!(302)),
        ("bad_lines", json!(0)),
        ("model", json!("mini")),
        ("model_digest", json!(model.digest)),
        ("interrupted", json!(false)),
        ("lsn", json!(world.lsn())),
    ] {
        assert_eq!(found[key], expected, "{key}: {found}");
    }
    // The vector is what the server makes of title and text.
    let x = &world.stored(&["x".into()])["x"];
    let document = x.document.as_ref().unwrap();
    let request = EncodeRequest { texts: vec!["Title. a rare zebra".into()], ..EncodeRequest::default() };
    let embedding = world.block_on(world.server().encode(request)).unwrap().results[0].embedding.clone().unwrap();
    assert_eq!(document.vectors["dense"].kind, Some(vector::Kind::Dense(embedding.clone())));
    assert_eq!(string(document.payload.get("_vector_dense")), Some(format!("mini@{}", model.digest).as_str()));
    assert_eq!(document.payload["year"].kind, Some(Kind::IntegerValue(1999)));

    let leg = |query| Leg { query: Some(query), ..Leg::default() };
    let year = PayloadValue { kind: Some(Kind::IntegerValue(1999)) };
    let condition = MatchCondition { field: "year".into(), values: vec![year] };
    let request = SearchRequest {
        collection: "docs".into(),
        legs: vec![
            leg(leg::Query::Lexical(LexicalQuery { text: "zebras".into(), ..LexicalQuery::default() })),
            leg(leg::Query::Dense(DenseQuery {
                vector: "dense".into(),
                embedding: Some(embedding),
                ..DenseQuery::default()
            })),
        ],
        filter: Some(Filter { condition: Some(filter::Condition::Match(condition)) }),
        facets: vec![FacetRequest { field: "_vector_dense".into(), limit: 0 }],
        min_lsn: found["lsn"].as_u64().unwrap(),
        ..SearchRequest::default()
    };
    let answer = world.block_on(world.shard().search(request)).unwrap();
    let hits: Vec<(&str, usize)> = answer.hits.iter().map(|hit| (hit.id.as_str(), hit.legs.len())).collect();
    assert_eq!((hits, answer.degraded, answer.facets[0].values[0].count), (vec![("x", 2)], false, 1));

    // Again: nothing is embedded, and nothing written.
    let lsn = world.lsn();
    let again = world.indexed(&files);
    assert_eq!((&again["unchanged"], &again["written"], &again["embedded"]), (&json!(302), &json!(0), &json!(0)));
    assert_eq!((again["lsn"].clone(), world.lsn()), (json!(null), lsn));
}

#[test]
fn what_has_changed_is_written_and_what_has_not_is_not_made_again() {
    let world = World::with_model(QUICK);
    let line = |id: &str, text: &str, colour: &str| {
        format!("{{\"id\":\"{id}\",\"text\":\"{text}\",\"colour\":\"{colour}\"}}\n")
    };
    let first = [line("same", "a", "red"), line("payload", "b", "red"), line("text", "c", "red")].concat();
    world.file("a.jsonl", first);
    assert_eq!(world.indexed(&["--create", "a.jsonl"])["embedded"], json!(3));
    let names = ["same", "payload", "text"].map(str::to_owned);
    let before = world.stored(&names);
    let second =
        [line("same", "a", "red"), line("payload", "b", "blue"), line("text", "d e", "red"), line("new", "f", "")];
    world.file("a.jsonl", second.concat());
    let found = world.indexed(&["a.jsonl"]);
    let counts =
        ["documents", "written", "unchanged", "embedded", "kept_vectors"].map(|key| found[key].as_u64().unwrap());
    assert_eq!(counts, [4, 3, 1, 2, 1]);
    let after = world.stored(&names);
    let vector = |stored: &std::collections::HashMap<String, sluice_client::proto::retrieval::v1::StoredDocument>,
                  id: &str| { stored[id].document.as_ref().unwrap().vectors["dense"].clone() };
    assert_eq!(before["same"], after["same"]);
    assert_eq!(vector(&before, "payload"), vector(&after, "payload"));
    assert_eq!(string(after["payload"].document.as_ref().unwrap().payload.get("colour")), Some("blue"));
    assert_ne!(vector(&before, "text"), vector(&after, "text"));
    // Without a server, texts that have not changed keep their vectors.
    world.file("a.jsonl", line("same", "a", "green") + &line("text", "new words", "red"));
    assert_eq!(world.indexed(&["--without-server", "a.jsonl"])["kept_vectors"], json!(1));
    let last = world.stored(&names);
    assert_eq!(vector(&before, "same"), vector(&last, "same"));
    assert!(last["text"].document.as_ref().unwrap().vectors.is_empty(), "the old vector is not of the new text");
}

#[test]
fn batches_with_nothing_to_write_may_stand_between_others() {
    let world = World::bare();
    world.file("a.jsonl", lines(0..20));
    assert_eq!(world.indexed(&["--create", "a.jsonl"])["written"], json!(20));
    // Of batches of four, the first and the third have something new; then the second and the last.
    for (changed, concurrency) in [(["word1 ", "word9 "], "4"), (["word5 ", "word19 "], "1")] {
        let text = changed.iter().fold(lines(0..20), |text, word| text.replace(word, "another "));
        world.file("b.jsonl", text);
        let found = world.indexed(&["--batch", "4", "--concurrency", concurrency, "b.jsonl"]);
        let expected = if concurrency == "4" { (2, 18) } else { (4, 16) };
        assert_eq!((&found["written"], &found["unchanged"]), (&json!(expected.0), &json!(expected.1)));
    }
    assert_eq!(world.count(), 20);
}

#[test]
fn bad_lines_are_named_and_skipped_or_fatal() {
    let world = World::bare();
    let long = "x".repeat(481);
    let text = format!(
        "{{\"id\":\"a\",\"text\":\"x\"}}\nplain\n{{\"text\":\"y\"}}\n{{\"id\":\"{long}\"}}\n{{\"id\":\"b\",\"bad name\":1}}\n{{\"id\":\"c\",\"text\":\"z\"}}\n"
    );
    world.file("a.jsonl", &text);
    for (arguments, code) in [(&["--create", "--json"][..], 0), (&["--on-bad-line", "fail", "--json"], 1)] {
        let ran = world.index(&[arguments, &["a.jsonl"]].concat());
        assert_eq!(ran.code, code, "{ran:?}");
        let found = ran.json();
        assert!(ran.stderr.contains("a.jsonl: line 2: no JSON object"), "{}", ran.stderr);
        if code == 0 {
            assert_eq!(
                (&found["documents"], &found["written"], &found["bad_lines"]),
                (&json!(2), &json!(2), &json!(4))
            );
            for line in
                ["line 3: no `id`", "line 4: id: must be 1 to 480 bytes", "line 5: payload.bad name: a name has"]
            {
                assert!(ran.stderr.contains(&format!("a.jsonl: {line}")), "{line}: {}", ran.stderr);
            }
            assert_eq!(world.count(), 2);
        } else {
            assert_eq!((&found["unchanged"], &found["bad_lines"]), (&json!(1), &json!(1)));
            assert!(ran.stderr.contains("ended at a bad line"), "{}", ran.stderr);
        }
    }
    // What only the shard finds fault with may be fatal too.
    world.file("b.jsonl", format!("{{\"id\":\"d\"}}\n{{\"id\":\"{long}\"}}\n"));
    let ran = world.index(&["--on-bad-line", "fail", "b.jsonl"]);
    assert!(ran.code == 1 && ran.stderr.contains("b.jsonl: line 2: id: must be"), "{ran:?}");
    assert_eq!(world.count(), 3);
}

#[test]
fn standard_input_and_gzip_are_files_too() {
    let world = World::bare();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(lines(0..50).as_bytes()).unwrap();
    let ran = world.index_with(&encoder.finish().unwrap(), &["--create", "--json", "-"]);
    assert_eq!((ran.code, ran.json()["written"].clone()), (0, json!(50)), "{ran:?}");
    let csv = "id,text,tag\nd0,new,a\nz,other,b\n";
    let ran = world.index_with(csv.as_bytes(), &["--format", "csv", "--batch", "1", "-"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("2 documents, 2 written, "), "{}", ran.stdout);
    assert_eq!(world.count(), 51);
    let stored = world.stored(&["d0".into()]);
    let document = stored["d0"].document.as_ref().unwrap();
    assert_eq!((document.texts["text"].as_str(), document.texts.get("title")), ("new", None));
    assert_eq!(string(document.payload.get("tag")), Some("a"));
}

#[test]
fn of_two_with_one_id_the_last_counts_whatever_batch_it_is_in() {
    let world = World::with_model(QUICK);
    world.file("old.jsonl", "{\"id\":\"a\",\"text\":\"last\"}\n");
    assert_eq!(world.indexed(&["--create", "old.jsonl"])["written"], json!(1));
    // The last is what is there already: it is written all the same, for those before it are under way.
    world.file("a.jsonl", "{\"id\":\"a\",\"text\":\"first\"}\n{\"id\":\"b\"}\n{\"id\":\"a\",\"text\":\"last\"}\n");
    for batch in ["1", "2", "3"] {
        world.indexed(&["--batch", batch, "a.jsonl"]);
        let stored = world.stored(&["a".into()]);
        assert_eq!(stored["a"].document.as_ref().unwrap().texts["text"], "last", "batches of {batch}");
    }
}

#[test]
fn vectors_come_with_their_lines_and_schemas_from_files() {
    let world = World::bare();
    world.file(
        "schema.toml",
        "texts = [{ name = \"body\", language = \"none\" }]\npayload = { seen = \"datetime\" }\n\
         vectors = [{ name = \"v\", dim = 2, metric = \"dot\" }, { name = \"s\", sparse = true }]\n",
    );
    let sparse = "{\"indices\":[1,5],\"values\":[0.5,1]}";
    let line = format!(
        "{{\"id\":1,\"body\":\"x\",\"seen\":\"2026-01-31T12:00:00Z\",\"vectors\":{{\"v\":[1,2],\"s\":{sparse}}}}}\n"
    );
    world.file("a.jsonl", format!("{line}{{\"id\":2,\"vectors\":{{\"v\":[1,2,3]}}}}\n"));
    let ran = world.index(&["--create", "--schema", "schema.toml", "--json", "a.jsonl"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("a.jsonl: line 2: vectors.v.dense.dim: is 3"), "{}", ran.stderr);
    let stored = world.stored(&["1".into()]);
    let document = stored["1"].document.as_ref().unwrap();
    assert_eq!((document.vectors.len(), document.payload.len()), (2, 1));
    assert_eq!(world.indexed(&["a.jsonl"])["unchanged"], json!(1), "vectors are compared too");
}

#[test]
fn wrong_usage_says_what_is_wrong() {
    let world = World::with_model(QUICK);
    world.file("a.jsonl", lines(0..1));
    let cases: [(&[&str], i32, &str); 7] = [
        (&["a.jsonl"], 1, "has no collection `docs`; --create makes it"),
        (&["--create", "nowhere.jsonl"], 1, "nowhere.jsonl: No such file"),
        (&["--create", "--payload", "year:number", "a.jsonl"], 2, "none of keyword, integer"),
        (&["--model", "other", "a.jsonl"], 1, "NOT_FOUND"),
        (&["--vector", "other", "a.jsonl"], 2, "`other` is no dense vector"),
        (&["--without-server", "--tokens", "a.jsonl"], 2, "--encode"),
        (&[], 2, "FILES"),
    ];
    for (arguments, code, reason) in cases {
        let ran = world.index(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(reason), "{arguments:?}: {}", ran.stderr);
    }
    let ran = world.index(&["--help"]);
    assert!(ran.code == 0 && ran.stdout.contains("\"kept_vectors\"") && ran.stdout.contains("Exit codes"));
}

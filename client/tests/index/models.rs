//! Models: token vectors, other models, documents that a model cannot read.

use serde_json::json;
use sluice_client::{
    DocumentSource, Method, Rerank, RerankResult,
    proto::retrieval::v1::{Leg, LexicalQuery, SearchRequest, leg},
};

use crate::world::{OTHER, QUICK, World, ids, lines, string};

#[test]
fn token_vectors_are_found_by_the_hash_of_a_hit() {
    let world = World::with_model(QUICK);
    world.file("a.jsonl", lines(0..40));
    let found = world.indexed(&["--create", "--tokens", "a.jsonl"]);
    assert_eq!((&found["tokens_stored"], &found["embedded"]), (&json!(40), &json!(40)));
    let query = LexicalQuery { text: "word7 word9".into(), ..LexicalQuery::default() };
    let request = SearchRequest {
        collection: "docs".into(),
        legs: vec![Leg { query: Some(leg::Query::Lexical(query)), ..Leg::default() }],
        min_lsn: found["lsn"].as_u64().unwrap(),
        ..SearchRequest::default()
    };
    let hits = world.block_on(world.shard().search(request)).unwrap().hits;
    assert_eq!(hits.len(), 2);
    let rerank = hits.iter().fold(Rerank::new("word9").method(Method::LateInteraction), |request, hit| {
        request.stored_as(&hit.id, "docs", hit.content_hash.as_slice().try_into().unwrap())
    });
    let answer = world.block_on(world.server().rerank(rerank)).unwrap();
    let sources: Vec<_> = answer.results.iter().map(RerankResult::source).collect();
    assert_eq!((sources, answer.partial), (vec![DocumentSource::Stored; 2], false));
    assert_eq!(answer.results[0].id, "d9");

    // Where a run has asked for no token vectors, a later one makes up for it, and keeps the embeddings.
    world.file("b.jsonl", lines(40..60));
    assert_eq!(world.indexed(&["b.jsonl"])["tokens_stored"], json!(0));
    let found = world.indexed(&["--tokens", "--namespace", "docs", "a.jsonl", "b.jsonl"]);
    let counts =
        ["unchanged", "written", "embedded", "kept_vectors", "tokens_stored"].map(|key| found[key].as_u64().unwrap());
    assert_eq!(counts, [40, 20, 0, 20, 20]);
    let stats = world.block_on(world.server().token_stats("docs")).unwrap();
    assert_eq!(stats.collections[0].documents, 60);
}

#[test]
fn a_token_store_that_lacks_some_is_filled_again() {
    let mut world = World::with_model(QUICK);
    world.file("a.jsonl", lines(0..20));
    world.indexed(&["--create", "--tokens", "a.jsonl"]);
    let kept = |world: &World, namespace: &str| {
        let stats = world.block_on(world.server().token_stats(namespace)).unwrap();
        stats.collections.iter().map(|collection| collection.documents).sum::<u64>()
    };
    let counts = |found: serde_json::Value| {
        ["unchanged", "written", "embedded", "tokens_stored"].map(|key| found[key].as_u64().unwrap())
    };
    // Another namespace has none of them.
    assert_eq!(counts(world.indexed(&["--tokens", "--namespace", "other", "a.jsonl"])), [0, 20, 0, 20]);
    assert_eq!(counts(world.indexed(&["--tokens", "--namespace", "other", "a.jsonl"])), [20, 0, 0, 0]);
    assert_eq!((kept(&world, "docs"), kept(&world, "other")), (20, 20));
    // A server with another store: nobody has told the shard.
    let store = world.folder.path().join("elsewhere");
    world.serve(QUICK, |config| config.token_store.dir = Some(store));
    let arguments = ["--tokens", "--namespace", "other", "a.jsonl"];
    assert_eq!((counts(world.indexed(&arguments)), kept(&world, "other")), ([20, 0, 0, 0], 0));
    world.file("half.jsonl", lines(0..10));
    let backfill = ["--again", "--backfill", "--tokens", "--namespace", "other", "half.jsonl"];
    assert_eq!((counts(world.indexed(&backfill)), kept(&world, "other")), ([0, 10, 10, 10], 10));
    assert_eq!(counts(world.indexed(&[&["--again"], &arguments[..]].concat())), [0, 20, 20, 20]);
    assert_eq!((kept(&world, "other"), world.count()), (20, 20));
}

#[test]
fn backfilling_renews_what_an_older_model_made_and_nothing_else() {
    let mut world = World::with_model(QUICK);
    world.file("a.jsonl", lines(0..30));
    world.indexed(&["--create", "--tokens", "a.jsonl"]);
    let before = world.stored(&ids(0..30));
    assert_eq!(world.indexed(&["--backfill", "--tokens", "a.jsonl"])["unchanged"], json!(30));

    world.serve(OTHER, |_| ());
    let digest = world.block_on(world.server().get_model("")).unwrap().digest;
    // Ids are enough; what else a line says changes nothing, and what is not there stays so.
    world.file("ids.jsonl", "{\"id\":\"d3\",\"text\":\"changed\"}\n{\"id\":\"new\",\"text\":\"x\"}\n{\"id\":\"d4\"}\n");
    let found = world.indexed(&["--backfill", "--tokens", "ids.jsonl"]);
    let counts =
        ["documents", "written", "absent", "embedded", "tokens_stored"].map(|key| found[key].as_u64().unwrap());
    assert_eq!(counts, [3, 2, 1, 2, 2]);
    assert_eq!(world.count(), 30);
    let found = world.indexed(&["--backfill", "--tokens", "a.jsonl"]);
    assert_eq!((&found["written"], &found["unchanged"]), (&json!(28), &json!(2)));
    let after = world.stored(&ids(0..30));
    for (id, stored) in &after {
        let (now, then) = (stored.document.as_ref().unwrap(), before[id].document.as_ref().unwrap());
        assert_eq!((&now.texts, stored.content_hash == before[id].content_hash), (&then.texts, true), "{id}");
        for (key, namespace) in [("_vector_dense", ""), ("_tokens", "/docs")] {
            let expected = format!("mini@{digest}{namespace}");
            assert_eq!(string(now.payload.get(key)), Some(expected.as_str()), "{id} {key}");
            assert_ne!(now.payload.get(key), then.payload.get(key), "{id} {key}");
        }
    }
}

#[test]
fn a_document_that_the_model_cannot_read_is_written_and_embedded_later() {
    let mut world = World::with_model("max_tokens = 64\ndim = 8\npoison = \"venom\"\n");
    world.file("a.jsonl", lines(0..9) + "{\"id\":\"bad\",\"text\":\"venom here\"}\n" + &lines(9..20));
    let ran = world.index(&["--create", "--tokens", "--json", "a.jsonl"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let found = ran.json();
    let counts = ["written", "embedded", "not_embedded", "tokens_stored", "tokens_not_stored"];
    assert_eq!(counts.map(|key| found[key].as_u64().unwrap()), [21, 20, 1, 20, 1]);
    assert!(ran.stderr.contains("a.jsonl: line 10: not embedded: INTERNAL"), "{}", ran.stderr);
    let bad = || world.stored(&["bad".into()])["bad"].clone();
    assert!(bad().document.unwrap().vectors.is_empty());
    let version = bad().version;
    let found = world.indexed(&["--backfill", "a.jsonl"]);
    assert_eq!((&found["unchanged"], &found["not_embedded"]), (&json!(21), &json!(1)));
    assert_eq!(bad().version, version, "what could not be renewed is not written");
    // Another model can; it renews the others' too.
    world.serve(QUICK, |_| ());
    let found = world.indexed(&["--backfill", "--tokens", "a.jsonl"]);
    assert_eq!((&found["embedded"], &found["not_embedded"]), (&json!(21), &json!(0)));
    assert_eq!(world.stored(&["bad".into()])["bad"].document.as_ref().unwrap().vectors.len(), 1);
}

#[test]
fn a_model_that_can_embed_nothing_ends_it() {
    let world = World::with_model("max_tokens = 64\ndim = 8\npoison = \"among\"\n");
    world.file("a.jsonl", lines(0..20));
    let ran = world.index(&["--create", "a.jsonl"]);
    assert!(ran.code == 1 && ran.stderr.contains("none of 20 documents in a row could be"), "{ran:?}");
    assert_eq!(world.count(), 0);
}

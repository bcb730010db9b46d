//! Every row of bad input that can occur, through the real port: what is said, and that it harms nothing.

use prost_types::{Duration, Timestamp};
use sluice_proto::{model::v1::Embedding, retrieval::v1 as wire};
use tonic::{Code, Status};
use wire::{filter::Condition, payload_value::Kind, upsert_response::Outcome};

use crate::common::{
    Client, TestShard, create, dense, dense_leg, document, embedding, fields, integer, keyword, lexical, reason,
    schema, search, sparse_leg, upsert, value, with_payload,
};

async fn shard() -> (TestShard, Client) {
    let shard = TestShard::start_with(std::sync::Arc::new(sluice_retrieval::search::Undisturbed), |config| {
        config.limits.documents_per_batch_max = 3;
        config.limits.query_bytes_max = 50;
        config.limits.candidates_max = 200;
        config.limits.hits_max = 20;
    })
    .await;
    let mut client = shard.client().await;
    create(&mut client, "docs").await;
    upsert(&mut client, "docs", vec![document("a", "apple", [1.0, 0.0])]).await;
    (shard, client)
}

fn check(case: &str, status: &Status, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    assert_eq!((status.code(), fields(status)), (Code::InvalidArgument, expected), "{case}: {}", status.message());
    assert_eq!(reason(status), "INVALID_REQUEST", "{case}");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn each_fault_of_a_search_names_its_field() {
    type Change = fn(&mut wire::SearchRequest);
    fn leg(request: &mut wire::SearchRequest, change: impl FnOnce(&mut wire::LexicalQuery)) {
        if let Some(wire::leg::Query::Lexical(query)) = &mut request.legs[0].query {
            change(query);
        }
    }
    fn vector(request: &mut wire::SearchRequest, change: impl FnOnce(&mut wire::DenseQuery)) {
        if let Some(wire::leg::Query::Dense(query)) = &mut request.legs[1].query {
            change(query);
        }
    }
    fn fusion(request: &mut wire::SearchRequest, change: impl FnOnce(&mut wire::Fusion)) {
        change(request.fusion.get_or_insert_default());
    }
    fn boost(field: &str, boost: f32) -> wire::FieldBoost {
        wire::FieldBoost { field: field.to_owned(), boost: Some(boost) }
    }
    let cases: Vec<(&str, Change, &[&str])> = vec![
        ("no collection", |r| r.collection.clear(), &["collection"]),
        ("a name that none has", |r| r.collection = "a/b".into(), &["collection"]),
        ("no legs", |r| r.legs.clear(), &["legs"]),
        ("too many legs", |r| r.legs = vec![lexical("x"); 9], &["legs", "legs[1].name", "legs[2].name"]),
        ("a leg without a query", |r| r.legs[1].query = None, &["legs[1]"]),
        ("two legs of one name", |r| r.legs[1] = lexical("y"), &["legs[1].name"]),
        ("too long a name", |r| r.legs[0].name = "n".repeat(129), &["legs[0].name"]),
        ("too many candidates", |r| r.legs[0].k = 201, &["legs[0].k"]),
        ("a negative weight", |r| r.legs[0].weight = Some(-1.0), &["legs[0].weight"]),
        ("a weight that is none", |r| r.legs[0].weight = Some(f64::NAN), &["legs[0].weight"]),
        ("a weight too large", |r| r.legs[0].weight = Some(1.1e6), &["legs[0].weight"]),
        ("no time", |r| r.legs[0].timeout = Some(Duration::default()), &["legs[0].timeout"]),
        ("blank text", |r| leg(r, |q| q.text = " \t".into()), &["legs[0].lexical.text"]),
        ("long text", |r| leg(r, |q| q.text = "x ".repeat(26)), &["legs[0].lexical.text"]),
        ("unknown field", |r| leg(r, |q| q.fields = vec![boost("body", 1.0)]), &["legs[0].lexical.fields[0].field"]),
        ("a bad boost", |r| leg(r, |q| q.fields = vec![boost("text", 0.0)]), &["legs[0].lexical.fields[0].boost"]),
        ("too fuzzy", |r| leg(r, |q| q.fuzzy_edits = 3), &["legs[0].lexical.fuzzy_edits"]),
        (
            "a sloppy phrase",
            |r| leg(r, |q| q.phrase = Some(wire::Phrase { slop: 101 })),
            &["legs[0].lexical.phrase.slop"],
        ),
        (
            "a fuzzy phrase",
            |r| leg(r, |q| (q.phrase, q.fuzzy_edits, q.prefix) = (Some(wire::Phrase { slop: 0 }), 1, true)),
            &["legs[0].lexical.fuzzy_edits", "legs[0].lexical.prefix"],
        ),
        ("unknown vector", |r| vector(r, |q| q.vector = "sparse".into()), &["legs[1].dense.vector"]),
        ("no vector", |r| vector(r, |q| q.embedding = None), &["legs[1].dense.embedding"]),
        ("NaN", |r| vector(r, |q| q.embedding = Some(embedding(&[f32::NAN, 1.0]))), &["legs[1].dense.embedding.data"]),
        ("wrong length", |r| vector(r, |q| q.embedding = Some(embedding(&[1.0]))), &["legs[1].dense.embedding.dim"]),
        (
            "no direction",
            |r| vector(r, |q| q.embedding = Some(embedding(&[0.0, 0.0]))),
            &["legs[1].dense.embedding.data"],
        ),
        (
            "far apart",
            |r| leg(r, |q| q.proximity = Some(wire::Proximity { slop: 101, boost: Some(0.0) })),
            &["legs[0].lexical.proximity.slop", "legs[0].lexical.proximity.boost"],
        ),
        ("empty sparse vector", |r| r.legs[1] = sparse_leg(&[]), &["legs[1].sparse.sparse"]),
        ("unordered", |r| r.legs[1] = sparse_leg(&[2, 1]), &["legs[1].sparse.sparse.indices[1]"]),
        ("unknown method", |r| fusion(r, |f| f.method = 99), &["fusion.method"]),
        ("unknown mode", |r| fusion(r, |f| f.weight_mode = -1), &["fusion.weight_mode"]),
        ("a k that is none", |r| fusion(r, |f| f.rrf_k = Some(f64::INFINITY)), &["fusion.rrf_k"]),
        ("a k of another method", |r| fusion(r, |f| (f.method, f.rrf_k) = (2, Some(1.0))), &["fusion.rrf_k"]),
        ("RRF does not normalise", |r| fusion(r, |f| f.normalization = 1), &["fusion.normalization"]),
        ("too many hits", |r| r.limit = 21, &["limit"]),
        ("a least score that is none", |r| r.min_score = Some(f64::NAN), &["min_score"]),
        (
            "unknown projection",
            |r| r.projection = Some(wire::Projection { texts: vec!["body".into()], ..Default::default() }),
            &["projection.texts[0]"],
        ),
        ("snippets of nothing", |r| r.snippets = Some(wire::Snippets::default()), &["snippets.fields"]),
        (
            "long snippets",
            |r| r.snippets = Some(wire::Snippets { fields: vec!["body".into()], characters_max: 1001 }),
            &["snippets.fields[0]", "snippets.characters_max"],
        ),
        (
            "a facet of texts",
            |r| r.facets = vec![wire::FacetRequest { field: "note".into(), limit: 1001 }],
            &["facets[0].field", "facets[0].limit"],
        ),
        ("an unknown facet", |r| r.facets = vec![wire::FacetRequest::default()], &["facets[0].field"]),
        (
            "too many facets",
            |r| r.facets = vec![wire::FacetRequest { field: "year".into(), limit: 1 }; 17],
            &["facets"],
        ),
        ("no weight at all", |r| r.legs.iter_mut().for_each(|leg| leg.weight = Some(0.0)), &["legs"]),
    ];
    let (_shard, mut client) = shard().await;
    let good = || search("docs", vec![lexical("apple"), dense_leg([1.0, 0.0])]);
    for (case, change, expected) in cases {
        let mut request = good();
        change(&mut request);
        let status = client.search(request.clone()).await.expect_err(case);
        let first: Vec<_> = expected.to_vec();
        if case == "too many legs" {
            assert_eq!(fields(&status)[..3], ["legs", "legs[1].name", "legs[2].name"], "{case}");
            continue;
        }
        check(case, &status, &first);
        let mut stream = client.search_stream(request).await.expect("streams fail in the stream").into_inner();
        check(case, &stream.message().await.expect_err(case), expected);
    }
    client.search(good()).await.expect("the shard goes on");
    let unknown = client.search(search("other", vec![lexical("x")])).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    let explain = wire::ExplainRequest { search: Some(wire::SearchRequest { limit: 0, ..good() }), ids: Vec::new() };
    check("explains nothing", &client.explain(explain).await.expect_err("no ids"), &["ids"]);
    let explain = wire::ExplainRequest {
        search: Some(wire::SearchRequest { min_score: Some(f64::NAN), ..good() }),
        ids: vec![String::new()],
    };
    check("explains badly", &client.explain(explain).await.expect_err("bad"), &["ids[0]", "search.min_score"]);
}

#[tokio::test]
async fn each_fault_of_a_filter_names_its_field() {
    let filter = |condition| wire::Filter { condition: Some(condition) };
    let matching = |field: &str, values: Vec<wire::PayloadValue>| {
        Condition::Match(wire::MatchCondition { field: field.to_owned(), values })
    };
    let range = |field: &str, gt, gte| {
        Condition::Range(wire::RangeCondition { field: field.to_owned(), gt, gte, ..Default::default() })
    };
    let list = value(Kind::ListValue(wire::PayloadList { values: vec![integer(1)] }));
    let exists = || filter(Condition::Exists(wire::ExistsCondition { field: "year".into() }));
    let not = |inner| filter(Condition::Not(Box::new(inner)));
    let nested = wire::FilterList { filters: vec![exists(), filter(matching("year", vec![keyword("x")]))] };
    let deepest = format!("filter{}", ".not".repeat(16));
    let cases: Vec<(&str, wire::Filter, &str)> = vec![
        ("no condition", wire::Filter::default(), "filter"),
        ("unknown field", filter(matching("size", vec![integer(1)])), "filter.match.field"),
        ("no values", filter(matching("year", Vec::new())), "filter.match.values"),
        ("another type", filter(Condition::AllOf(nested)), "filter.all_of.filters[1].match.values[0]"),
        ("a list", filter(matching("year", vec![list])), "filter.match.values[0]"),
        ("no value", filter(matching("year", vec![wire::PayloadValue::default()])), "filter.match.values[0]"),
        ("no words", filter(matching("note", vec![keyword(" - ")])), "filter.match.values[0]"),
        ("no bounds", filter(range("year", None, None)), "filter.range"),
        ("a range of keywords", filter(range("colour", Some(keyword("a")), None)), "filter.range.field"),
        ("two lower bounds", filter(range("year", Some(integer(1)), Some(integer(1)))), "filter.range.gte"),
        ("NaN", filter(range("price", Some(value(Kind::FloatValue(f64::NAN))), None)), "filter.range.gt"),
        ("no ids", filter(Condition::Ids(wire::IdsCondition::default())), "filter.ids.ids"),
        ("too deep", (0..16).fold(exists(), |inner, _| not(inner)), &deepest),
    ];
    let (_shard, mut client) = shard().await;
    for (case, filter, expected) in cases {
        let request = wire::SearchRequest { filter: Some(filter.clone()), ..search("docs", vec![lexical("apple")]) };
        check(case, &client.search(request).await.expect_err(case), &[expected]);
        let delete = wire::DeleteRequest { collection: "docs".into(), ids: Vec::new(), filter: Some(filter) };
        check(case, &client.delete(delete).await.expect_err(case), &[expected]);
    }
    let deep = (0..15).fold(exists(), |inner, _| not(inner));
    let request = wire::SearchRequest { filter: Some(deep), ..search("docs", vec![lexical("apple")]) };
    client.search(request).await.expect("16 deep is fine");
}

#[tokio::test]
async fn each_fault_of_a_document_names_its_field() {
    fn vector(name: &str, kind: Option<wire::vector::Kind>) -> wire::Document {
        let mut document = good();
        document.vectors.insert(name.to_owned(), wire::Vector { kind });
        document
    }
    fn good() -> wire::Document {
        document("x", "apple", [1.0, 0.0])
    }
    fn payload(name: &str, value: wire::PayloadValue) -> wire::Document {
        with_payload(good(), &[(name, value)])
    }
    let list = |values| value(Kind::ListValue(wire::PayloadList { values }));
    let sparse = |indices: &[u32], values: &[f32]| {
        Some(wire::vector::Kind::Sparse(wire::SparseVector { indices: indices.to_vec(), values: values.to_vec() }))
    };
    let two_rows = Embedding { rows: 2, ..embedding(&[1.0, 0.0]) };
    let moment = |nanos| value(Kind::DatetimeValue(Timestamp { seconds: 0, nanos }));
    let cases: Vec<(&str, wire::Document, &str)> = vec![
        ("no id", wire::Document { id: String::new(), ..good() }, "id"),
        ("too long an id", wire::Document { id: "i".repeat(481), ..good() }, "id"),
        (
            "unknown text",
            wire::Document { texts: [("body".to_owned(), "x".to_owned())].into(), ..good() },
            "texts.body",
        ),
        ("unknown vector", vector("other", sparse(&[1], &[1.0])), "vectors.other"),
        ("sparse for dense", vector("dense", sparse(&[1], &[1.0])), "vectors.dense"),
        ("dense for sparse", vector("sparse", Some(dense([1.0, 0.0]))), "vectors.sparse"),
        ("no vector", vector("dense", None), "vectors.dense"),
        ("NaN", vector("dense", Some(dense([1.0, f32::NAN]))), "vectors.dense.dense.data"),
        ("no direction", vector("dense", Some(dense([0.0, 0.0]))), "vectors.dense.dense.data"),
        ("two rows", vector("dense", Some(wire::vector::Kind::Dense(two_rows))), "vectors.dense.dense.rows"),
        ("unequal", vector("sparse", sparse(&[1, 2], &[1.0])), "vectors.sparse.sparse.values"),
        ("unordered", vector("sparse", sparse(&[2, 2], &[1.0, 1.0])), "vectors.sparse.sparse.indices[1]"),
        ("a zero", vector("sparse", sparse(&[1, 2], &[1.0, 0.0])), "vectors.sparse.sparse.values[1]"),
        ("no value", payload("year", wire::PayloadValue::default()), "payload.year"),
        ("another type", payload("year", keyword("1969")), "payload.year"),
        ("one of a list", payload("year", list(vec![integer(1), keyword("x")])), "payload.year[1]"),
        ("a list of lists", payload("year", list(vec![list(Vec::new())])), "payload.year[0]"),
        ("mixed", payload("other", list(vec![integer(1), keyword("x")])), "payload.other[1]"),
        ("a bad name", payload("a b", integer(1)), "payload.a b"),
        ("too long a keyword", payload("colour", keyword(&"r".repeat(385))), "payload.colour"),
        ("NaN", payload("price", value(Kind::FloatValue(f64::NAN))), "payload.price"),
        ("no float", payload("price", integer((1 << 53) + 1)), "payload.price"),
        ("no moment", payload("seen", moment(-1)), "payload.seen"),
        ("no moment", payload("seen", moment(1_000_000_000)), "payload.seen"),
    ];
    let (_shard, mut client) = shard().await;
    for (case, bad, expected) in cases {
        let request = wire::UpsertRequest { collection: "docs".into(), batch_id: 1, documents: vec![good(), bad] };
        let mut answers = client.upsert(tokio_stream::iter([request])).await.expect("opens").into_inner();
        let answer = answers.message().await.expect("goes on").expect("an answer");
        let Some(Outcome::Error(error)) = answer.outcome else { panic!("{case}: {answer:?}") };
        let status = Status::with_details(Code::from_i32(error.code), error.message, error.status_details.into());
        check(case, &status, &[&format!("documents[1].{expected}")]);
    }
    let found = client.search(search("docs", vec![lexical("apple")])).await.expect("found").into_inner();
    assert_eq!(found.hits.len(), 1, "nothing of any of them was written");
    upsert(&mut client, "docs", vec![payload("price", integer(3))]).await;
}

#[tokio::test]
async fn each_fault_of_a_collection_names_its_field() {
    type Change = fn(&mut wire::CreateCollectionRequest);
    fn texts(request: &mut wire::CreateCollectionRequest) -> &mut Vec<wire::TextField> {
        &mut request.schema.get_or_insert_default().texts
    }
    fn vectors(request: &mut wire::CreateCollectionRequest) -> &mut Vec<wire::VectorField> {
        &mut request.schema.get_or_insert_default().vectors
    }
    fn content(fields: &[&str], separator: Option<&str>) -> Option<wire::Content> {
        let fields = fields.iter().map(ToString::to_string).collect();
        Some(wire::Content { fields, separator: separator.map(str::to_owned) })
    }
    let dense = |dim, metric| Some(wire::vector_field::Kind::Dense(wire::DenseField { dim, metric }));
    assert!(dense(1, 0).is_some());
    let cases: Vec<(&str, Change, &[&str])> = vec![
        ("no name", |r| r.name.clear(), &["name"]),
        ("a bad name", |r| r.name = "a/b".into(), &["name"]),
        ("too long a name", |r| r.name = "n".repeat(65), &["name"]),
        ("no schema", |r| r.schema = None, &["schema"]),
        ("an empty schema", |r| r.schema = Some(wire::Schema::default()), &["schema"]),
        ("a text without a name", |r| texts(r)[1].name.clear(), &["schema.texts[1].name"]),
        ("a text twice", |r| texts(r)[1].name = "title".into(), &["schema.texts[1].name"]),
        ("a boost of 0", |r| texts(r)[0].boost = Some(0.0), &["schema.texts[0].boost"]),
        ("a boost that is none", |r| texts(r)[0].boost = Some(f32::NAN), &["schema.texts[0].boost"]),
        ("unknown language", |r| texts(r)[0].language = "klingon".into(), &["schema.texts[0].language"]),
        ("a vector of no kind", |r| vectors(r)[0].kind = None, &["schema.vectors[0]"]),
        ("a vector twice", |r| vectors(r)[1].name = "dense".into(), &["schema.vectors[1].name"]),
        (
            "no components",
            |r| vectors(r)[0].kind = Some(wire::vector_field::Kind::Dense(wire::DenseField { dim: 0, metric: 9 })),
            &["schema.vectors[0].dense.dim", "schema.vectors[0].dense.metric"],
        ),
        ("no type", |r| r.schema.as_mut().unwrap().payload[2].r#type = 0, &["schema.payload[2].type"]),
        ("unknown type", |r| r.schema.as_mut().unwrap().payload[2].r#type = 77, &["schema.payload[2].type"]),
        (
            "content of nothing",
            |r| r.schema.as_mut().unwrap().content = content(&["body", "text", "text"], Some(&"-".repeat(65))),
            &["schema.content.fields[0]", "schema.content.fields[2]", "schema.content.separator"],
        ),
    ];
    let (_shard, mut client) = shard().await;
    for (case, change, expected) in cases {
        let mut request = wire::CreateCollectionRequest { name: "new".into(), schema: Some(schema()) };
        change(&mut request);
        check(case, &client.create_collection(request).await.expect_err(case), expected);
    }
    let empty = String::new;
    let status = client.drop_collection(wire::DropCollectionRequest { name: empty() }).await.expect_err("no name");
    check("drop", &status, &["name"]);
    let status = client.set_alias(wire::SetAliasRequest::default()).await.expect_err("no names");
    check("alias", &status, &["alias", "collection"]);
    let status = client.delete_alias(wire::DeleteAliasRequest { alias: "../x".into() }).await.expect_err("no name");
    check("delete alias", &status, &["alias"]);
    let snapshot = wire::SnapshotRequest { collection: "docs".into(), name: "../../etc".into() };
    check("snapshot", &client.snapshot(snapshot).await.expect_err("no name"), &["name"]);
    let status = client.restore(wire::RestoreRequest::default()).await.expect_err("no names");
    check("restore", &status, &["snapshot", "collection"]);
    let status = client.stats(wire::StatsRequest { collection: "a b".into() }).await.expect_err("no name");
    check("stats", &status, &["collection"]);
    let get = |ids: Vec<String>| wire::GetRequest { collection: "docs".into(), ids, projection: None };
    check("get nothing", &client.get(get(Vec::new())).await.expect_err("no ids"), &["ids"]);
    check("get much", &client.get(get(vec!["a".into(); 4])).await.expect_err("many ids"), &["ids"]);
    check("get badly", &client.get(get(vec!["a".into(), empty()])).await.expect_err("no id"), &["ids[1]"]);
    let exists = wire::Filter { condition: Some(Condition::Exists(wire::ExistsCondition { field: "year".into() })) };
    let both = wire::DeleteRequest { collection: "docs".into(), ids: vec!["a".into()], filter: Some(exists) };
    check("delete both ways", &client.delete(both).await.expect_err("both"), &["filter"]);
    let neither = wire::DeleteRequest { collection: "docs".into(), ids: Vec::new(), filter: None };
    check("delete nothing", &client.delete(neither).await.expect_err("neither"), &["ids"]);
}

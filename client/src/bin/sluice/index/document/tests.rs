use sluice_client::proto::retrieval::v1::{DenseField, PayloadField, SparseField, TextField, VectorField};

use super::*;

fn reading() -> Reading {
    let vector = |name: &str, kind| VectorField { name: name.into(), kind: Some(kind) };
    let payload = [
        ("year", PayloadType::Integer),
        ("price", PayloadType::Float),
        ("sold", PayloadType::Boolean),
        ("seen", PayloadType::Datetime),
        ("colour", PayloadType::Keyword),
    ];
    let schema = Schema {
        texts: ["title", "text"].map(|name| TextField { name: name.into(), ..TextField::default() }).to_vec(),
        vectors: vec![
            vector("dense", vector_field::Kind::Dense(DenseField { dim: 2, metric: 0 })),
            vector("sparse", vector_field::Kind::Sparse(SparseField { idf: false })),
        ],
        payload: payload.map(|(name, kind)| PayloadField { name: name.into(), r#type: kind.into() }).to_vec(),
        content: None,
    };
    Reading::new(&schema, false)
}

fn one(name: &str, kind: Kind) -> (String, PayloadValue) {
    (name.to_owned(), PayloadValue { kind: Some(kind) })
}

fn many(kinds: Vec<Kind>) -> Kind {
    Kind::ListValue(PayloadList { values: kinds.into_iter().map(|kind| PayloadValue { kind: Some(kind) }).collect() })
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

#[test]
fn every_key_finds_its_place() {
    let document =
        reading().json(br#"{"_id": 7, "title": "T", "text": "", "payload": {"year": 3}, "lang": "en"}"#).unwrap();
    assert_eq!(document.id, "7");
    assert_eq!(document.texts, HashMap::from([("title".to_owned(), "T".to_owned())]));
    assert_eq!(document.payload, HashMap::from([one("year", Kind::IntegerValue(3)), one("lang", text("en"))]));
    let vectors = br#"{"id": "a", "vectors": {"dense": [1, 0.5], "sparse": {"indices": [3], "values": [2.0]}}}"#;
    let document = reading().json(vectors).unwrap();
    let Some(vector::Kind::Dense(embedding)) = &document.vectors["dense"].kind else { panic!("{document:?}") };
    assert_eq!(Matrix::try_from(embedding).unwrap().data, [1.0, 0.5]);
    let sparse = SparseVector { indices: vec![3], values: vec![2.0] };
    assert_eq!(document.vectors["sparse"].kind, Some(vector::Kind::Sparse(sparse)));
}

#[test]
fn payload_is_of_its_declared_type() {
    let seconds = |seconds, nanos| Kind::DatetimeValue(prost_types::Timestamp { seconds, nanos });
    let cases = [
        ("year", "5", Some(Kind::IntegerValue(5))),
        ("year", "5.5", None),
        ("year", "\"5\"", None),
        ("price", "5", Some(Kind::FloatValue(5.0))),
        ("price", "-0.0", Some(Kind::FloatValue(0.0))),
        ("price", "[1, 2.5]", Some(many(vec![Kind::FloatValue(1.0), Kind::FloatValue(2.5)]))),
        ("sold", "true", Some(Kind::BooleanValue(true))),
        ("sold", "1", None),
        ("seen", "\"1970-01-02T00:00:00Z\"", Some(seconds(86_400, 0))),
        ("seen", "\"1970-01-02\"", Some(seconds(86_400, 0))),
        ("seen", "\"1970-01-01T01:00:00.0000019+01:00\"", Some(seconds(0, 1000))),
        ("seen", "\"yesterday\"", None),
        ("colour", "\"red\"", Some(text("red"))),
        ("colour", "12", Some(text("12"))),
        ("colour", "[\"red\", 1]", Some(many(vec![text("red"), text("1")]))),
        ("colour", "[[1]]", None),
        ("colour", "{}", None),
        ("other", "1", Some(Kind::IntegerValue(1))),
        ("other", "18446744073709551615", Some(Kind::FloatValue(18_446_744_073_709_551_615.0))),
        ("other", "{\"a\": [1]}", Some(text("{\"a\":[1]}"))),
        ("other", "[1, 2.5]", Some(many(vec![Kind::FloatValue(1.0), Kind::FloatValue(2.5)]))),
        ("other", "[1, \"a\"]", Some(text("[1,\"a\"]"))),
        ("other", "[]", Some(many(Vec::new()))),
    ];
    for (name, value, expected) in cases {
        let line = format!("{{\"id\": 1, \"{name}\": {value}}}");
        let found = reading().json(line.as_bytes()).ok().and_then(|mut document| document.payload.remove(name)?.kind);
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn bad_documents_say_why() {
    let cases = [
        ("plain", "no JSON object: expected value"),
        ("[1]", "no JSON object: invalid type"),
        ("{\"text\": \"x\"}", "no `id`"),
        ("{\"id\": \"\"}", "no `id`"),
        ("{\"id\": [1]}", "`id` must be a string or a number"),
        ("{\"id\": 1, \"text\": 2}", "`text` must be a string"),
        ("{\"id\": 1, \"year\": \"x\"}", "`year` must be an integer of 64 bits"),
        ("{\"id\": 1, \"year\": 1, \"payload\": {\"year\": 1}}", "`year` is there twice"),
        ("{\"id\": 1, \"_vector_dense\": \"m\"}", "`_vector_dense`: names that begin so"),
        ("{\"id\": 1, \"payload\": {\"_tokens\": \"m\"}}", "`_tokens`: names that begin so"),
        ("{\"id\": 1, \"vectors\": [1]}", "`vectors` must be an object"),
        ("{\"id\": 1, \"vectors\": {\"other\": [1]}}", "`vectors.other`: is no vector of the collection"),
        ("{\"id\": 1, \"vectors\": {\"dense\": [\"a\"]}}", "`vectors.dense`: expected an array of numbers"),
        ("{\"id\": 1, \"vectors\": {\"dense\": []}}", "`vectors.dense`: an embedding of"),
        ("{\"id\": 1, \"vectors\": {\"dense\": [1e39]}}", "`vectors.dense`: component 0"),
        ("{\"id\": 1, \"vectors\": {\"sparse\": [1]}}", "`vectors.sparse`: expected {\"indices\", \"values\"}"),
    ];
    for (line, expected) in cases {
        let found = reading().json(line.as_bytes()).unwrap_err().to_string();
        assert!(found.starts_with(expected), "{line}: {found}");
    }
    let ids = Reading { ids_only: true, ..reading() };
    assert_eq!(ids.json(b"{\"id\": \"a\", \"text\": 1}").unwrap(), Document { id: "a".into(), ..Document::default() });
}

#[test]
fn cells_are_read_as_their_column_says() {
    let header = csv::StringRecord::from(vec!["id", "text", "year", "price", "sold", "seen", "other"]);
    let record = |cells: [&str; 7]| reading().record(&header, &csv::StringRecord::from(cells.to_vec()));
    let document = record(["a", "x", "3", "1.5", "false", "1970-01-01", "7"]).unwrap();
    assert_eq!((document.id.as_str(), document.texts["text"].as_str()), ("a", "x"));
    let kind = |name: &str| document.payload[name].kind.clone().unwrap();
    assert_eq!((kind("year"), kind("price")), (Kind::IntegerValue(3), Kind::FloatValue(1.5)));
    assert_eq!((kind("sold"), kind("other")), (Kind::BooleanValue(false), text("7")));
    assert!(record(["a", "", "", "", "", "", ""]).unwrap().payload.is_empty());
    for (cells, expected) in [
        (["", "x", "", "", "", "", ""], "no `id`"),
        (["a", "x", "y", "", "", "", ""], "`year` must be an integer"),
        (["a", "x", "", "NaN", "", "", ""], "`price` must be a finite number"),
        (["a", "x", "", "", "yes", "", ""], "`sold` must be true or false"),
    ] {
        assert_eq!(record(cells).unwrap_err().to_string(), expected);
    }
}

use std::sync::Arc;

use sluice_client::{
    ClientOptions, Matrix, StatusError,
    proto::retrieval::v1::{TextField, payload_value::Kind},
};

use super::*;
use crate::index::embedding::Tokens;

fn maker(digest: &str) -> Maker {
    Maker { name: "mini".into(), digest: digest.into() }
}

fn keyword(text: &str) -> PayloadValue {
    PayloadValue { kind: Some(Kind::StringValue(text.into())) }
}

fn vector(component: f32) -> Vector {
    let embedding = Matrix::from_rows([[component]]).unwrap().to_embedding(sluice_client::DataType::F32).unwrap();
    Vector { kind: Some(vector::Kind::Dense(embedding)) }
}

fn preparer(dense: Option<&str>, tokens: Option<&str>, backfill: bool) -> Preparer {
    let client = Client::connect_lazy("http://127.0.0.1:1", ClientOptions::default()).unwrap();
    let dense = dense.map(|digest| ("v".to_owned(), maker(digest)));
    let tokens = tokens.map(|digest| Tokens { namespace: "c".into(), maker: maker(digest) });
    let text = TextField { name: "text".into(), ..TextField::default() };
    Preparer {
        shard: client.clone(),
        collection: "c".into(),
        schema: Schema { texts: vec![text], ..Schema::default() },
        encoder: Some(Encoder { client, dense, tokens })
            .filter(|encoder| encoder.dense.is_some() || encoder.tokens.is_some()),
        backfill,
        again: false,
        deadline: Duration::from_secs(60),
        pending: RefCell::default(),
    }
}

fn document(text: &str, payload: &[(&str, &str)], vectors: &[(&str, f32)]) -> Document {
    Document {
        id: "a".into(),
        texts: HashMap::from([("text".to_owned(), text.to_owned())]),
        payload: payload.iter().map(|(key, value)| ((*key).to_owned(), keyword(value))).collect(),
        vectors: vectors.iter().map(|(name, component)| ((*name).to_owned(), vector(*component))).collect(),
    }
}

fn stored(document: Document) -> StoredDocument {
    let content_hash = content_hash(&document.texts["text"]).to_vec();
    StoredDocument { document: Some(document), content_hash, version: 1 }
}

fn place() -> Place {
    Place { file: Arc::from("file"), line: 1 }
}

/// Whether it is to be embedded, whether its token vectors are, and what it has of the model's then.
type Expected<'a> = Option<(bool, bool, &'a [&'a str])>;

fn check(preparer: &Preparer, line: Document, before: Option<Document>, expected: Expected) {
    let mut tally = Tally::default();
    let case = format!("{line:?}\nover {before:?}");
    let work = preparer.replacement(place(), line, before.map(stored), &mut tally);
    let found = work.as_ref().map(|work| {
        let mut keys: Vec<&str> =
            work.document.payload.keys().map(String::as_str).filter(|key| is_reserved(key)).collect();
        keys.sort_unstable();
        assert!(keys.iter().all(|key| keyed_vector(key).is_none_or(|name| work.document.vectors.contains_key(name))));
        (work.embed, work.put, keys)
    });
    assert_eq!(found, expected.map(|(embed, put, keys)| (embed, put, keys.to_vec())), "{case}");
    assert_eq!(tally.unchanged, usize::from(expected.is_none()), "{case}");
}

#[tokio::test]
async fn what_is_there_is_neither_written_nor_made_again() {
    let (bare, dense, both) =
        (preparer(None, None, false), preparer(Some("1"), None, false), preparer(Some("1"), Some("2"), false));
    let plain = || document("x", &[], &[]);
    let made = || document("x", &[("_vector_v", "mini@1")], &[("v", 1.0)]);
    let whole = || document("x", &[("_vector_v", "mini@1"), ("_tokens", "mini@2/c")], &[("v", 1.0)]);
    let old = || document("x", &[("_vector_v", "mini@0"), ("_tokens", "mini@0/c")], &[("v", 1.0)]);
    let coloured = || document("x", &[("colour", "red")], &[]);
    // Nothing is there.
    check(&bare, plain(), None, Some((false, false, &[])));
    check(&dense, plain(), None, Some((true, false, &[])));
    check(&both, plain(), None, Some((true, true, &[])));
    check(&both, document("", &[], &[]), None, Some((false, false, &[])));
    check(&both, document("x", &[], &[("v", 2.0)]), None, Some((false, true, &[])));
    // It is there, with all that is wanted.
    check(&bare, plain(), Some(plain()), None);
    check(&bare, plain(), Some(whole()), None);
    check(&dense, plain(), Some(made()), None);
    check(&dense, plain(), Some(whole()), None);
    check(&both, plain(), Some(whole()), None);
    check(
        &both,
        document("x", &[], &[("v", 2.0)]),
        Some(document("x", &[("_tokens", "mini@2/c")], &[("v", 2.0)])),
        None,
    );
    // Something is missing, or of another model.
    check(&dense, plain(), Some(plain()), Some((true, false, &[])));
    check(&both, plain(), Some(made()), Some((false, true, &["_vector_v"])));
    check(&both, plain(), Some(old()), Some((true, true, &[])));
    check(&dense, plain(), Some(old()), Some((true, false, &["_tokens"])));
    let elsewhere = || document("x", &[("_vector_v", "mini@1"), ("_tokens", "mini@2/d")], &[("v", 1.0)]);
    check(&both, plain(), Some(elsewhere()), Some((false, true, &["_vector_v"])));
    check(&dense, plain(), Some(elsewhere()), None);
    // A vector without a signature is its line's: where the line has none, the model makes it.
    check(&dense, plain(), Some(document("x", &[], &[("v", 1.0)])), Some((true, false, &[])));
    // Its payload has changed.
    check(&both, coloured(), Some(whole()), Some((false, false, &["_tokens", "_vector_v"])));
    check(&bare, coloured(), Some(whole()), Some((false, false, &["_tokens", "_vector_v"])));
    check(&dense, coloured(), Some(old()), Some((true, false, &["_tokens"])));
    // Its text has changed: nothing that was made of the old one stays.
    check(&both, document("y", &[], &[]), Some(whole()), Some((true, true, &[])));
    check(&bare, document("y", &[], &[]), Some(whole()), Some((false, false, &[])));
    // The line brings another vector.
    check(&bare, document("x", &[], &[("v", 2.0)]), Some(made()), Some((false, false, &[])));
}

#[tokio::test]
async fn again_makes_anew_what_is_asked_for() {
    let again = |tokens, backfill| Preparer { again: true, ..preparer(Some("1"), tokens, backfill) };
    let (dense, both) = (again(None, false), again(Some("2"), false));
    let payload = [("_vector_v", "mini@1"), ("_vector_w", "mini@3"), ("_tokens", "mini@2/c")];
    let whole = || document("x", &payload, &[("v", 1.0), ("w", 1.0)]);
    // What others made stays.
    check(&both, document("x", &[], &[]), Some(whole()), Some((true, true, &["_vector_w"])));
    check(&dense, document("x", &[], &[]), Some(whole()), Some((true, false, &["_tokens", "_vector_w"])));
    // The line's own vector is its own.
    let own = || document("x", &[], &[("v", 2.0)]);
    check(&dense, own(), Some(own()), None);
    for (preparer, expected) in [(again(None, true), (true, false)), (again(Some("2"), true), (true, true))] {
        let work = preparer.renewal(place(), stored(whole()), &mut Tally::default()).unwrap();
        assert_eq!((work.embed, work.put), expected);
    }
    assert_eq!(again(None, true).renewal(place(), stored(own()), &mut Tally::default()), None);
}

#[tokio::test]
async fn backfilling_renews_what_models_made() {
    let (dense, both) = (preparer(Some("1"), None, true), preparer(Some("1"), Some("2"), true));
    let cases = [
        (&dense, document("x", &[], &[]), Some((true, false))),
        (&dense, document("x", &[("_vector_v", "mini@0")], &[("v", 1.0)]), Some((true, false))),
        (&dense, document("x", &[("_vector_v", "other@1")], &[("v", 1.0)]), None),
        (&dense, document("x", &[("_vector_v", "mini@1")], &[]), Some((true, false))),
        (&dense, document("x", &[], &[("v", 1.0)]), None),
        (&dense, document("", &[], &[]), None),
        (&both, document("x", &[], &[("v", 1.0)]), Some((false, true))),
        (&both, document("x", &[("_tokens", "mini@1/c")], &[]), Some((true, true))),
        (&both, document("x", &[("_tokens", "mini@2/c")], &[("v", 1.0)]), None),
    ];
    for (preparer, before, expected) in cases {
        let mut tally = Tally::default();
        let work = preparer.renewal(place(), stored(before.clone()), &mut tally);
        assert_eq!(work.as_ref().map(|work| (work.embed, work.put)), expected, "{before:?}");
        assert!(work.is_none_or(|work| work.document == before));
        assert_eq!(tally.unchanged, usize::from(expected.is_none()));
    }
}

#[tokio::test]
async fn the_last_of_two_counts_and_overtaken_ids_are_known() {
    let preparer = preparer(None, None, false);
    let read = |id: &str, line| {
        let place = Place { line, ..place() };
        Read { place, document: Document { id: id.into(), ..Document::default() } }
    };
    let batch = |reads: Vec<Read>| Batch { documents: reads, ..Batch::default() };
    let first = preparer.enter(batch(vec![read("a", 1), read("b", 2), read("a", 3)]));
    let lines: Vec<u64> = first.reads.iter().map(|read| read.place.line).collect();
    assert_eq!((lines, first.prepared.tally.duplicates, first.overtaken.len()), (vec![2, 3], 1, 0));
    let second = preparer.enter(batch(vec![read("b", 4), read("c", 5)]));
    assert_eq!(second.overtaken, HashSet::from(["b".to_owned()]));
    preparer.leave(&first.prepared.ids);
    let third = preparer.enter(batch(vec![read("a", 6), read("b", 7)]));
    assert_eq!(third.overtaken, HashSet::from(["b".to_owned()]));
    preparer.leave(&second.prepared.ids);
    preparer.leave(&third.prepared.ids);
    assert!(preparer.pending.borrow().is_empty());
}

#[test]
fn a_busy_shard_is_not_asked_for_less() {
    let second = Some(Duration::from_secs(1));
    let cases = [
        (Code::ResourceExhausted, None, true),
        (Code::ResourceExhausted, second, false),
        (Code::OutOfRange, None, true),
        (Code::Unavailable, second, false),
    ];
    for (code, retry_after, expected) in cases {
        let (message, field_violations) = (String::new(), Vec::new());
        let status = StatusError { code, message, field_violations, retry_after, reason: None, attempts: 1 };
        assert_eq!(is_too_large(&ClientError::Status(Box::new(status))), expected, "{code:?} {retry_after:?}");
    }
}

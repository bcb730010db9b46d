use super::*;
use crate::{
    identity::{ContentHash, DocId, Lsn},
    payload::{Datetime, PayloadValue},
    schema::{Language, PayloadField},
};

fn schema() -> Schema {
    let mut schema = Schema::title_and_text(Language::English);
    let field = |(name, kind): (&str, _)| PayloadField { name: name.to_owned(), kind };
    let kinds = [
        ("k", PayloadKind::Keyword),
        ("i", PayloadKind::Integer),
        ("f", PayloadKind::Float),
        ("b", PayloadKind::Boolean),
        ("d", PayloadKind::Datetime),
        ("t", PayloadKind::Text),
        ("none", PayloadKind::Integer),
        ("empty", PayloadKind::Integer),
    ];
    schema.payload = kinds.map(field).to_vec();
    schema
}

fn document() -> StoredDocument {
    let one = PayloadValue::One;
    let payload = [
        ("k", PayloadValue::Many(vec![keyword("red"), keyword("blue")])),
        ("i", PayloadValue::Many(vec![Scalar::Integer(1), Scalar::Integer(10)])),
        ("f", one(Scalar::Float(-0.0))),
        ("b", one(Scalar::Boolean(true))),
        ("d", one(Scalar::Datetime(Datetime(-5)))),
        ("t", PayloadValue::Many(vec![Scalar::Text("Black sand".into()), Scalar::Text("a beach".into())])),
        ("empty", PayloadValue::Many(vec![])),
    ];
    StoredDocument {
        doc: DocId(0),
        version: Lsn(1),
        content_hash: ContentHash::of(""),
        id: "a".into(),
        texts: std::collections::BTreeMap::default(),
        payload: payload.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

fn keyword(text: &str) -> Scalar {
    Scalar::Keyword(text.to_owned())
}

fn equals(field: &str, value: Scalar) -> Filter {
    Filter::Match { field: field.to_owned(), value }
}

fn any_of(field: &str, values: &[Scalar]) -> Filter {
    Filter::MatchAny { field: field.to_owned(), values: values.to_vec() }
}

fn range(field: &str, lower: Bound<Scalar>, upper: Bound<Scalar>) -> Filter {
    Filter::Range { field: field.to_owned(), lower, upper }
}

fn with_words(field: &str, text: &str) -> Filter {
    Filter::Words { field: field.to_owned(), text: text.to_owned() }
}

fn exists(field: &str) -> Filter {
    Filter::Exists { field: field.to_owned() }
}

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

#[test]
fn a_filter_means_what_the_table_says() {
    use Bound::{Excluded, Included, Unbounded};
    use Scalar::{Float, Integer};
    let cases = [
        (equals("k", keyword("blue")), true),
        (equals("k", keyword("Blue")), false),
        (any_of("k", &[keyword("green"), keyword("red")]), true),
        (any_of("k", &[]), false),
        (equals("f", Float(0.0)), true),
        (equals("b", Scalar::Boolean(false)), false),
        (range("i", Included(Integer(10)), Unbounded), true),
        (range("i", Excluded(Integer(10)), Unbounded), false),
        // Within both bounds is one and the same value: neither 1 nor 10 is.
        (range("i", Included(Integer(2)), Included(Integer(9))), false),
        (range("i", Unbounded, Unbounded), true),
        (range("d", Unbounded, Excluded(Scalar::Datetime(Datetime(0)))), true),
        (range("none", Unbounded, Unbounded), false),
        (range("empty", Unbounded, Unbounded), false),
        (with_words("t", "BEACH black"), true),
        (with_words("t", "bea"), false),
        (exists("k"), true),
        (exists("none"), false),
        (exists("empty"), false),
        (not(equals("none", Integer(1))), true),
        (not(equals("k", keyword("red"))), false),
        (Filter::And(vec![]), true),
        (Filter::Or(vec![]), false),
        (Filter::And(vec![exists("k"), exists("none")]), false),
        (Filter::Or(vec![exists("none"), exists("k")]), true),
        (Filter::Ids(vec!["b".into(), "a".into()]), true),
        (Filter::Ids(vec![]), false),
    ];
    for (filter, expected) in cases {
        filter.check(&schema()).expect("it can be asked");
        assert_eq!(filter.matches(&document()), expected, "{filter:?}");
    }
}

#[test]
fn what_cannot_be_asked_is_refused() {
    use Bound::{Included, Unbounded};
    let deep = (0..Filter::DEPTH_MAX).fold(exists("k"), |filter, _| not(filter));
    let long = "x ".repeat(Filter::SIZE_MAX + 1);
    let cases = [
        (exists("colour"), "colour is no payload field"),
        (equals("i", Scalar::Float(1.0)), "i is of kind integer, not float"),
        (any_of("k", &[keyword("a"), Scalar::Boolean(true)]), "k is of kind keyword, not boolean"),
        (equals("t", Scalar::Text("x".into())), "t is of kind text, which has no condition \"match\""),
        (range("k", Included(keyword("a")), Unbounded), "k is of kind keyword, which has no condition \"range\""),
        (range("i", Unbounded, Included(Scalar::Float(1.0))), "i is of kind integer, not float"),
        (range("f", Included(Scalar::Float(f64::NAN)), Unbounded), "f is compared with what is not a finite number"),
        (with_words("k", "x"), "k is of kind keyword, which has no condition \"words\""),
        (with_words("t", " - "), "a text without words"),
        (with_words("t", &long), "at most 16384 conditions"),
        (Filter::Or(vec![any_of("i", &vec![Scalar::Integer(1); 8_192]); 2]), "at most 16384 conditions"),
        (deep, "at most 16 deep"),
    ];
    for (filter, expected) in cases {
        let fault = filter.check(&schema()).expect_err(expected).to_string();
        assert!(fault.contains(expected), "{fault}: {expected}");
    }
}

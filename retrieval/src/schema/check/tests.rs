use super::*;
use crate::{
    payload::Datetime,
    schema::{Content, Language, PayloadField, SparseField, TextField},
};

fn schema() -> Schema {
    let mut schema = Schema::title_and_text(Language::English);
    schema.dense.push(DenseField { name: "d".into(), dim: 2, metric: Metric::Cosine });
    schema.sparse.push(SparseField { name: "s".into(), idf: false });
    for (name, kind) in [("k", PayloadKind::Keyword), ("f", PayloadKind::Float), ("t", PayloadKind::Datetime)] {
        schema.payload.push(PayloadField { name: name.into(), kind });
    }
    schema
}

#[test]
fn a_schema_is_whole_or_refused() {
    fn check(change: impl Fn(&mut Schema), expected: &str) {
        let mut changed = schema();
        change(&mut changed);
        let fault = changed.check().expect_err(expected).to_string();
        assert!(fault.contains(expected), "{fault:?} should contain {expected:?}");
    }
    schema().check().expect("it is good as it is");
    check(|schema| schema.texts[0].name = "a b".into(), "a name has");
    check(|schema| schema.texts[0].name = "text".into(), "text is declared twice");
    check(|schema| schema.sparse[0].name = "d".into(), "d is declared twice");
    check(|schema| schema.texts[1].boost = f32::NAN, "boost of text is NaN");
    check(|schema| schema.texts[1].boost = 0.0, "boost of text is 0");
    check(|schema| schema.dense[0].dim = 0, "dim of d is 0");
    check(|schema| schema.dense[0].dim = 10_000, "dim of d is 10000");
    check(|schema| schema.content.fields[0] = "body".into(), "content names body");
    check(|schema| schema.content.fields[0] = "text".into(), "content names text");
    check(|schema| schema.content.separator = "x".repeat(65), "at most 64 bytes, not 65");
    check(
        |schema| {
            let field = |n| PayloadField { name: format!("p{n}"), kind: PayloadKind::Boolean };
            schema.payload = (0..65).map(field).collect();
        },
        "payload has 65 fields",
    );
    check(
        |schema| {
            let content = Content { fields: Vec::new(), separator: String::new() };
            *schema =
                Schema { texts: Vec::<TextField>::new(), content, dense: vec![], sparse: vec![], payload: vec![] };
        },
        "needs a text field or a vector",
    );
}

#[test]
fn a_document_is_whole_or_refused() {
    fn check(change: impl Fn(&mut Document), expected: &str) {
        let mut document = Document { id: "a".into(), ..Document::default() };
        change(&mut document);
        match schema().check_document(&document) {
            Ok(()) => assert_eq!(expected, "", "{document:?}"),
            Err(fault) if expected.is_empty() => panic!("{document:?}: {fault}"),
            Err(fault) => assert!(fault.to_string().contains(expected), "{fault}: {expected:?}"),
        }
    }
    fn payload(name: &str, value: impl Into<PayloadValue>) -> impl Fn(&mut Document) {
        let (name, value) = (name.to_owned(), value.into());
        move |document| drop(document.payload.insert(name.clone(), value.clone()))
    }
    fn dense(vector: &[f32]) -> impl Fn(&mut Document) {
        move |document| drop(document.dense.insert("d".into(), vector.to_vec()))
    }
    fn sparse(indices: &[u32], values: &[f32]) -> impl Fn(&mut Document) {
        let vector = SparseVector { indices: indices.to_vec(), values: values.to_vec() };
        move |document| drop(document.sparse.insert("s".into(), vector.clone()))
    }
    let list = |values: &[Scalar]| PayloadValue::Many(values.to_vec());
    check(|_| {}, "");
    check(|document| document.id.clear(), "not 0");
    check(|document| document.id = "x".repeat(481), "not 481");
    check(|document| drop(document.texts.insert("body".into(), String::new())), "body is no text");
    check(|document| drop(document.texts.insert("text".into(), "x".repeat((8 << 20) + 1))), "text has 8388609 bytes");
    check(payload("k", Scalar::Keyword("x".into())), "");
    check(payload("k", list(&[])), "");
    check(payload("k", Scalar::Integer(1)), "k is of kind keyword, not integer");
    check(payload("k", Scalar::Keyword("x".repeat(385))), "k has 385 bytes");
    check(payload("free", Scalar::Keyword("x".repeat(385))), "");
    check(payload("free", list(&[Scalar::Integer(1), Scalar::Boolean(true)])), "free is of kind integer, not boolean");
    check(payload("free", list(&vec![Scalar::Integer(1); 4_097])), "4097 values");
    check(payload("f", Scalar::Float(f64::INFINITY)), "f is not a finite number");
    check(payload("t", Scalar::Datetime(Datetime(i64::MIN))), "");
    check(payload("a b", Scalar::Boolean(true)), "payload: a name has");
    check(payload("free", Scalar::Text("x".repeat(1 << 20))), "payload has 1048580 bytes");
    check(dense(&[1.0, 0.0]), "");
    check(dense(&[1.0]), "1 components, not 2");
    check(dense(&[1.0, f32::NAN]), "component 1");
    check(dense(&[0.0, -0.0]), "no cosine");
    check(dense(&[1e-30, 0.0]), "no cosine");
    check(|document| drop(document.dense.insert("s".into(), vec![1.0])), "s is no dense vector");
    check(sparse(&[1, 5], &[1.0, -2.0]), "");
    check(sparse(&[], &[]), "");
    check(sparse(&[1], &[1.0, 2.0]), "1 indices and 2 values");
    check(sparse(&[1, 1], &[1.0, 2.0]), "index 1 does not ascend");
    check(sparse(&[1, 2], &[1.0, f32::INFINITY]), "component 1");
    check(sparse(&[1, 2], &[0.0, 1.0]), "value 0 is 0");
}

//! What the documents of a new collection look like, and how a file says it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, anyhow};
use serde::Deserialize;
use sluice_client::proto::retrieval::v1::{
    Content, DenseField, Metric, PayloadField, PayloadType, Schema, SparseField, TextField, VectorField, vector_field,
};

use super::document::{TOKENS_KEY, vector_key};
use crate::args::index::payload_type;

/// Name of the vector that embeddings go to where nothing else is said.
const VECTOR_DEFAULT: &str = "dense";

/// Bytes of a name at the shard.
const NAME_BYTES_MAX: usize = 64;

/// What a new collection is asked to have, besides its file.
#[derive(Debug, Default)]
pub(super) struct Wishes<'a> {
    /// Payload fields.
    pub payload: &'a [(String, PayloadType)],
    /// The dense vector that embeddings go to, if there are to be any.
    pub vector: Option<VectorWish<'a>>,
    /// Token vectors are kept.
    pub tokens: bool,
}

/// A dense vector for a model's embeddings.
#[derive(Debug, Clone, Copy)]
pub(super) struct VectorWish<'a> {
    /// Its name, where one was given.
    pub name: Option<&'a str>,
    /// Components of the model's embeddings.
    pub dim: u32,
}

/// The schema of a file, with what was wished for besides; without a file, title and text in English.
pub(super) fn schema(file: Option<&Path>, wishes: &Wishes) -> anyhow::Result<Schema> {
    let described = file.map(read).transpose()?;
    let mut schema = match described {
        Some(described) => described.schema(wishes.vector)?,
        None => title_and_text(wishes.vector),
    };
    let mut declare = |name: String, kind: PayloadType| {
        if !schema.payload.iter().any(|field| field.name == name) {
            schema.payload.push(PayloadField { name, r#type: kind.into() });
        }
    };
    for (name, kind) in wishes.payload {
        declare(name.clone(), *kind);
    }
    // Filters and facets may ask which model made what.
    if wishes.vector.is_some() {
        for name in dense_names(&schema.vectors) {
            declare(vector_key(&name), PayloadType::Keyword);
        }
    }
    if wishes.tokens {
        declare(TOKENS_KEY.to_owned(), PayloadType::Keyword);
    }
    Ok(schema)
}

/// The dense vector that embeddings of `dim` components go to.
pub(super) fn target(schema: &Schema, wish: VectorWish) -> Result<String, String> {
    let dense = dense_names(&schema.vectors);
    let name = match (wish.name, dense.as_slice()) {
        (Some(name), all) if all.iter().any(|dense| dense == name) => name.to_owned(),
        (Some(name), all) => return Err(format!("`{name}` is no dense vector of the collection: it has {all:?}")),
        (None, [only]) => only.clone(),
        (None, []) => return Err("the collection has no dense vector for embeddings".to_owned()),
        (None, all) => return Err(format!("the collection has several dense vectors, --vector names one of {all:?}")),
    };
    if vector_key(&name).len() > NAME_BYTES_MAX {
        return Err(format!("the vector's name `{name}` is too long: `{}` is no name of a payload", vector_key(&name)));
    }
    let field = schema.vectors.iter().find(|field| field.name == name);
    match field.and_then(|field| field.kind.as_ref()) {
        Some(vector_field::Kind::Dense(DenseField { dim, .. })) if *dim != wish.dim => Err(format!(
            "the model's embeddings have {} components, the vectors `{name}` of the collection {dim}",
            wish.dim
        )),
        _ => Ok(name),
    }
}

/// Whether there is a dense vector at all.
pub(super) fn has_dense(schema: &Schema) -> bool {
    !dense_names(&schema.vectors).is_empty()
}

fn dense_names(vectors: &[VectorField]) -> Vec<String> {
    let dense = vectors.iter().filter(|field| matches!(field.kind, Some(vector_field::Kind::Dense(_))));
    dense.map(|field| field.name.clone()).collect()
}

fn title_and_text(vector: Option<VectorWish>) -> Schema {
    let text = |name: &str| TextField { name: name.to_owned(), language: "english".to_owned(), boost: None };
    let dense = vector.map(|wish| VectorField {
        name: wish.name.unwrap_or(VECTOR_DEFAULT).to_owned(),
        kind: Some(vector_field::Kind::Dense(DenseField { dim: wish.dim, metric: Metric::Cosine.into() })),
    });
    Schema { texts: vec![text("title"), text("text")], vectors: dense.into_iter().collect(), ..Schema::default() }
}

fn read(file: &Path) -> anyhow::Result<Described> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).with_context(|| name.clone())?;
    if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return serde_json::from_str(&text).context(name);
    }
    toml::from_str(&text).context(name)
}

/// A schema as people write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    #[serde(default)]
    texts: Vec<DescribedText>,
    #[serde(default)]
    vectors: Vec<DescribedVector>,
    #[serde(default)]
    payload: BTreeMap<String, String>,
    content: Option<DescribedContent>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribedText {
    name: String,
    boost: Option<f32>,
    #[serde(default)]
    language: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribedVector {
    name: String,
    #[serde(default)]
    sparse: bool,
    idf: Option<bool>,
    dim: Option<u32>,
    metric: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribedContent {
    #[serde(default)]
    fields: Vec<String>,
    separator: Option<String>,
}

impl Described {
    fn schema(self, wish: Option<VectorWish>) -> anyhow::Result<Schema> {
        let text = |DescribedText { name, boost, language }| TextField { name, boost, language };
        let vectors = self.vectors.into_iter().map(|vector| vector.field(wish)).collect::<Result<_, _>>();
        let payload = self.payload.into_iter().map(|(name, kind)| {
            let r#type = payload_type(&kind).map_err(|reason| anyhow!("payload.{name}: {reason}"))?.into();
            Ok(PayloadField { name, r#type })
        });
        Ok(Schema {
            texts: self.texts.into_iter().map(text).collect(),
            vectors: vectors.map_err(anyhow::Error::msg)?,
            payload: payload.collect::<anyhow::Result<_>>()?,
            content: self.content.map(|content| Content { fields: content.fields, separator: content.separator }),
        })
    }
}

impl DescribedVector {
    fn field(self, wish: Option<VectorWish>) -> Result<VectorField, String> {
        let Self { name, sparse, idf, dim, metric } = self;
        let kind = match (sparse, idf, dim, metric) {
            (true, idf, None, None) => vector_field::Kind::Sparse(SparseField { idf: idf.unwrap_or(false) }),
            (true, ..) => return Err(format!("vectors: `{name}` is sparse: it has neither `dim` nor `metric`")),
            (false, Some(_), ..) => return Err(format!("vectors: `{name}` is dense: it has no `idf`")),
            (false, None, dim, metric) => {
                let dim = dim.or(wish.map(|wish| wish.dim));
                let dim = dim.ok_or_else(|| format!("vectors: `{name}` has no `dim`, and no model says it"))?;
                let metric = match metric.as_deref() {
                    None | Some("cosine") => Metric::Cosine,
                    Some("dot") => Metric::Dot,
                    Some("euclidean") => Metric::Euclidean,
                    Some(other) => return Err(format!("vectors: `{other}` is none of cosine, dot and euclidean")),
                };
                vector_field::Kind::Dense(DenseField { dim, metric: metric.into() })
            }
        };
        Ok(VectorField { name, kind: Some(kind) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: VectorWish = VectorWish { name: None, dim: 4 };

    fn described(text: &str) -> Result<Schema, String> {
        let described: Described = toml::from_str(text).map_err(|error| error.to_string())?;
        described.schema(Some(WISH)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_has_what_the_run_needs() {
        let payload = [("year".to_owned(), PayloadType::Integer)];
        let found = schema(None, &Wishes { payload: &payload, vector: Some(WISH), tokens: true }).unwrap();
        let names: Vec<_> = found.payload.iter().map(|field| (field.name.as_str(), field.r#type())).collect();
        let keyword = PayloadType::Keyword;
        assert_eq!(names, [("year", PayloadType::Integer), ("_vector_dense", keyword), ("_tokens", keyword)]);
        assert_eq!(target(&found, WISH), Ok("dense".to_owned()));
        assert_eq!(found.texts.len(), 2);
        let bare = schema(None, &Wishes::default()).unwrap();
        assert!(bare.vectors.is_empty() && bare.payload.is_empty());
    }

    #[test]
    fn a_file_says_it_all() {
        let found = described(
            "texts = [{ name = \"body\", boost = 2.0, language = \"none\" }]\n\
             vectors = [{ name = \"a\" }, { name = \"b\", dim = 8, metric = \"dot\" }, { name = \"s\", sparse = true }]\n\
             payload = { year = \"integer\" }\ncontent = { separator = \" \" }\n",
        );
        let found = found.unwrap();
        assert_eq!((found.texts[0].boost, found.texts[0].language.as_str()), (Some(2.0), "none"));
        let dense = |dim, metric: Metric| Some(vector_field::Kind::Dense(DenseField { dim, metric: metric.into() }));
        assert_eq!(found.vectors[0].kind, dense(4, Metric::Cosine));
        assert_eq!(found.vectors[1].kind, dense(8, Metric::Dot));
        assert_eq!(found.vectors[2].kind, Some(vector_field::Kind::Sparse(SparseField { idf: false })));
        assert_eq!((found.payload[0].name.as_str(), found.payload[0].r#type()), ("year", PayloadType::Integer));
        for (text, reason) in [
            ("vectors = [{ name = \"a\", sparse = true, dim = 3 }]", "neither `dim`"),
            ("vectors = [{ name = \"a\", metric = \"l1\" }]", "`l1` is none"),
            ("vectors = [{ name = \"a\", idf = true }]", "no `idf`"),
            ("payload = { year = \"number\" }", "payload.year: `number` is none"),
            ("words = []", "unknown field `words`"),
        ] {
            let error = described(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn embeddings_go_to_one_vector_of_their_length() {
        let two = "vectors = [{ name = \"a\" }, { name = \"b\", dim = 8 }, { name = \"s\", sparse = true }]";
        let schema = described(two).unwrap();
        let named = |name| VectorWish { name: Some(name), ..WISH };
        assert_eq!(target(&schema, named("a")), Ok("a".to_owned()));
        for (wish, reason) in [
            (WISH, "--vector names one of [\"a\", \"b\"]"),
            (named("b"), "have 4 components, the vectors `b` of the collection 8"),
            (named("s"), "`s` is no dense vector"),
        ] {
            let error = target(&schema, wish).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let long = described(&format!("vectors = [{{ name = \"{}\" }}]", "v".repeat(60))).unwrap();
        assert!(target(&long, WISH).unwrap_err().contains("is too long"));
        assert!(target(&described("texts = [{ name = \"t\" }]").unwrap(), WISH).is_err());
    }
}

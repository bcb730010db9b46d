//! The engines alone: tantivy over the same words, and usearch over the same graph.

use std::path::Path;

use anyhow::Context;
use sluice_retrieval::config::StoreConfig;
use tantivy::{
    Index, IndexReader, Searcher, TantivyDocument, Term,
    collector::TopDocs,
    directory::MmapDirectory,
    query::{BooleanQuery, Query, TermQuery},
    schema::{Field, IndexRecordOption, NumericOptions, SchemaBuilder, TextFieldIndexing, TextOptions},
    tokenizer::{
        AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter,
        TextAnalyzer, TokenStream,
    },
};
use usearch::{IndexOptions, MetricKind, ScalarKind};

use super::{K, drawn::DIM};

const ANALYSER: &str = "english";

/// tantivy with one field of words, as its documentation shows it.
pub(super) struct Tantivy {
    reader: IndexReader,
    text: Field,
    analyser: TextAnalyzer,
}

impl Tantivy {
    /// Indexes texts, with the memory and the threads that the shard has, in commits of that many.
    pub(super) fn index(
        folder: &Path,
        texts: impl Iterator<Item = String>,
        commit_every: usize,
    ) -> anyhow::Result<Self> {
        let mut layout = SchemaBuilder::default();
        let number = layout.add_u64_field("number", NumericOptions::default().set_indexed().set_fast());
        let indexing = TextFieldIndexing::default()
            .set_tokenizer(ANALYSER)
            .set_fieldnorms(true)
            .set_index_option(IndexRecordOption::WithFreqs);
        let text = layout.add_text_field("text", TextOptions::default().set_indexing_options(indexing));
        let index = Index::open_or_create(MmapDirectory::open(folder)?, layout.build())?;
        index.tokenizers().register(ANALYSER, analyser()?);
        let mut writer = index.writer_with_num_threads(1, StoreConfig::default().lexical_writer_bytes)?;
        for (nth, words) in (0_u64..).zip(texts) {
            let mut document = TantivyDocument::default();
            document.add_u64(number, nth);
            document.add_text(text, words);
            writer.add_document(document)?;
            if (nth + 1).is_multiple_of(commit_every as u64) {
                writer.commit()?;
            }
        }
        writer.commit()?;
        writer.wait_merging_threads()?;
        let reader = index.reader()?;
        Ok(Self { reader, text, analyser: analyser()? })
    }

    /// Scores of the best, best first.
    pub(super) fn search(&self, words: &str) -> anyhow::Result<Vec<f32>> {
        let mut terms: Vec<Box<dyn Query>> = Vec::new();
        let mut analyser = self.analyser.clone();
        let mut stream = analyser.token_stream(words);
        while stream.advance() {
            let term = Term::from_field_text(self.text, &stream.token().text);
            terms.push(Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)));
        }
        let searcher: Searcher = self.reader.searcher();
        let found = searcher.search(&BooleanQuery::union(terms), &TopDocs::with_limit(K).order_by_score())?;
        Ok(found.into_iter().map(|(score, _)| score).collect())
    }
}

/// As the shard analyses English.
fn analyser() -> anyhow::Result<TextAnalyzer> {
    let stop_words = StopWordFilter::new(Language::English).context("tantivy has English stop words")?;
    Ok(TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(255))
        .filter(LowerCaser)
        .filter(stop_words)
        .filter(Stemmer::new(Language::English))
        .filter(AsciiFoldingFilter)
        .build())
}

/// usearch with the graph that the shard made and kept.
pub(super) struct Usearch(usearch::Index);

impl Usearch {
    /// Loads the only graph below a folder.
    pub(super) fn load(folder: &Path) -> anyhow::Result<Self> {
        let file = graph_file(folder)?.context("the shard has kept no graph")?;
        let settings = StoreConfig::default();
        let index = usearch::Index::new(&IndexOptions {
            dimensions: DIM,
            metric: MetricKind::IP,
            quantization: ScalarKind::BF16,
            connectivity: settings.graph_connectivity,
            expansion_add: settings.graph_ef_construction,
            expansion_search: settings.graph_candidates,
            multi: false,
        })?;
        index.load(file.to_str().context("a path is text")?)?;
        Ok(Self(index))
    }

    pub(super) fn len(&self) -> usize {
        self.0.size()
    }

    /// Keys of the nearest.
    pub(super) fn search(&self, query: &[f32]) -> anyhow::Result<Vec<u64>> {
        Ok(self.0.search(query, K)?.keys)
    }
}

fn graph_file(folder: &Path) -> anyhow::Result<Option<std::path::PathBuf>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = graph_file(&path)? {
                return Ok(Some(found));
            }
        } else if path.extension().is_some_and(|extension| extension == "bin")
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("graph-"))
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tantivy_alone_finds_words() {
        let folder = tempfile::tempdir().unwrap();
        let texts = ["black sand beaches", "rocks", "the sand"].map(str::to_owned);
        let tantivy = Tantivy::index(folder.path(), texts.into_iter(), 2).unwrap();
        assert_eq!(tantivy.search("sandy sands").unwrap().len(), 2);
        assert_eq!(tantivy.search("the").unwrap().len(), 0, "a stop word");
    }

    #[test]
    fn a_graph_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("collections/1/indexes/dense-x");
        std::fs::create_dir_all(&below).unwrap();
        assert_eq!(graph_file(folder.path()).unwrap(), None);
        std::fs::write(below.join("graph-00000000.bin"), "").unwrap();
        assert_eq!(graph_file(folder.path()).unwrap(), Some(below.join("graph-00000000.bin")));
    }
}

//! The index on disk, its writer, and what searches see of it.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use roaring::RoaringBitmap;
use tantivy::{
    Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument, Term, directory::MmapDirectory,
    indexer::LogMergePolicy,
};

use super::{
    analysis, breakdown,
    breakdown::TermScore,
    collect::{self, Wanted},
    expand::Dictionary,
    layout::Fields,
    numbers::AllNumbers,
    plan::Plan,
    proximity,
    query::{self, Asked, LexicalQuery, Proximity},
    snippet::{self, Snippet, SnippetOptions},
};
use crate::{
    identity::{DocId, Lsn},
    schema::Schema,
    vector_index::{Change, Hit, IndexError, Stop},
};

/// Texts of a document by the name of their field.
pub type Texts = BTreeMap<String, String>;

/// What a commit says about itself, before its number.
const PAYLOAD: &str = "lsn=";

/// Share of a segment's documents that may be gone before it is merged for their sake: they take room, and count in the
/// statistics.
const GONE_MAX: f32 = 0.25;

/// Bounds of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LexicalOptions {
    /// Memory in which postings are gathered before they become a segment: at least 15 MB for each thread.
    pub writer_bytes: usize,
    /// Threads that index. Merging has threads of its own.
    pub threads: usize,
}

impl Default for LexicalOptions {
    fn default() -> Self {
        Self { writer_bytes: 64 << 20, threads: 1 }
    }
}

/// Text fields in an inverted index. See the [module](super).
///
/// Like a [`VectorIndex`](crate::vector_index::VectorIndex), but for two things: what is applied is seen only after a
/// [`commit`](Self::commit), which costs milliseconds to a second and is meant for many changes at once; and it is on
/// disk then, so the log is kept from [`applied`](Self::applied) on.
pub struct LexicalIndex {
    index: Index,
    options: LexicalOptions,
    fields: Fields,
    reader: IndexReader,
    writer: Mutex<Writer>,
    view: RwLock<Arc<View>>,
}

/// What one thread at a time writes with.
struct Writer {
    /// `None` between one that failed and the next.
    tantivy: Option<IndexWriter>,
    /// The last that was applied, committed or not.
    taken: Lsn,
    /// Documents that came or went since the last commit.
    uncommitted: usize,
    /// The largest number that ever came: what is above it cannot be there already.
    largest: Option<DocId>,
}

/// What searches see.
struct View {
    searcher: Searcher,
    numbers: AllNumbers,
    lsn: Lsn,
}

impl LexicalIndex {
    /// Opens the index in a folder, creating both where there is none. It is as of its last commit.
    ///
    /// # Errors
    /// [`IndexError::Storage`], and [`IndexError::Unusable`] if what is there is not an index over these fields.
    pub fn open(folder: &Path, schema: &Schema, options: LexicalOptions) -> Result<Self, IndexError> {
        fs::create_dir_all(folder).map_err(IndexError::storage("creating the folder of the words"))?;
        let fields = Fields::new(schema);
        let directory = MmapDirectory::open(folder).map_err(IndexError::storage("opening the folder of the words"))?;
        let index = Index::builder().schema(fields.layout.clone()).tokenizers(analysis::analysers());
        let index = index.open_or_create(directory).map_err(|cause| match cause {
            tantivy::TantivyError::SchemaError(fault) => IndexError::Unusable(fault),
            cause => IndexError::storage("opening the index of words")(cause),
        })?;
        let lsn = committed(&index)?;
        let writer = writer_of(&index, options)?;
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into();
        let reader: IndexReader = reader.map_err(IndexError::storage("opening the reader of the words"))?;
        let searcher = reader.searcher();
        let numbers = AllNumbers::of(&searcher, &AllNumbers::default());
        let numbers = numbers.map_err(IndexError::storage("reading the numbers of documents"))?;
        let largest = numbers.largest().map(DocId);
        let writer = Mutex::new(Writer { tantivy: Some(writer), taken: lsn, uncommitted: 0, largest });
        let view = RwLock::new(Arc::new(View { searcher, numbers, lsn }));
        Ok(Self { index, options, fields, reader, writer, view })
    }

    /// Takes what happened up to and with `lsn`, in order; searches see it after the next [`commit`](Self::commit).
    /// Doing so twice is as good as once.
    ///
    /// # Errors
    /// [`IndexError::Storage`]: some of it may have been taken; take it again.
    pub fn apply(&self, changes: &[Change<'_, Texts>], lsn: Lsn) -> Result<(), IndexError> {
        let mut writer = self.writer();
        let Writer { tantivy, taken, uncommitted, largest } = &mut *writer;
        let tantivy = tantivy.as_mut().ok_or_else(no_writer)?;
        for change in changes {
            match change {
                Change::Insert(number, texts) => {
                    if largest.is_some_and(|largest| *number <= largest) {
                        tantivy.delete_term(self.term(*number));
                    }
                    *largest = (*largest).max(Some(*number));
                    let added = tantivy.add_document(self.document(*number, texts));
                    added.map_err(IndexError::storage("indexing words"))?;
                }
                Change::Remove(number) => {
                    tantivy.delete_term(self.term(*number));
                }
            }
            *uncommitted += 1;
        }
        *taken = (*taken).max(lsn);
        Ok(())
    }

    /// Makes what was applied durable, and seen by searches that begin afterwards. Does nothing if nothing was.
    ///
    /// # Errors
    /// [`IndexError::Storage`].
    pub fn commit(&self) -> Result<Lsn, IndexError> {
        let mut writer = self.writer();
        if writer.uncommitted == 0 && writer.taken == self.applied() {
            return Ok(writer.taken);
        }
        let lsn = writer.taken;
        let failed = |cause| IndexError::storage("committing words")(cause);
        // A commit has only the payload that is set on it: one without would forget what it is of.
        let tantivy = writer.tantivy.as_mut().ok_or_else(no_writer)?;
        let mut commit = tantivy.prepare_commit().map_err(failed)?;
        commit.set_payload(&format!("{PAYLOAD}{}", lsn.0));
        commit.commit().map_err(failed)?;
        writer.uncommitted = 0;
        self.show(lsn)?;
        Ok(lsn)
    }

    /// Has searches see the last commit, which is of this.
    fn show(&self, lsn: Lsn) -> Result<(), IndexError> {
        let failed = |cause| IndexError::storage("opening committed words")(cause);
        self.reader.reload().map_err(failed)?;
        let searcher = self.reader.searcher();
        let numbers = AllNumbers::of(&searcher, &self.view().numbers).map_err(failed)?;
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(View { searcher, numbers, lsn });
        Ok(())
    }

    /// Removes everything, to be filled again. Seen after the next [`commit`](Self::commit), with what was applied by
    /// then.
    ///
    /// # Errors
    /// [`IndexError::Storage`].
    pub fn clear(&self) -> Result<(), IndexError> {
        let mut writer = self.writer();
        let tantivy = writer.tantivy.as_mut().ok_or_else(no_writer)?;
        tantivy.delete_all_documents().map_err(IndexError::storage("removing all words"))?;
        writer.uncommitted += 1;
        writer.largest = None;
        writer.taken = Lsn(0);
        Ok(())
    }

    /// Takes back what was applied since the last commit, with a new writer. After an error only this helps: a writer of
    /// tantivy whose disk has failed it once, as a full one does, takes nothing any more.
    ///
    /// # Errors
    /// [`IndexError::Storage`]: try again.
    pub fn recover(&self) -> Result<(), IndexError> {
        let mut writer = self.writer();
        // The old one has the lock that the new one wants.
        writer.tantivy = None;
        let tantivy = writer_of(&self.index, self.options)?;
        // The last commit may have been done and not been shown: what is in it must not be taken for new.
        self.show(committed(&self.index)?)?;
        writer.tantivy = Some(tantivy);
        writer.taken = self.applied();
        writer.uncommitted = 0;
        writer.largest = self.view().numbers.largest().map(DocId);
        Ok(())
    }

    /// The last `lsn` that was committed: searches see it, and it is on disk.
    pub fn applied(&self) -> Lsn {
        self.view().lsn
    }

    /// Documents that came or went since the last commit.
    pub fn uncommitted(&self) -> usize {
        self.writer().uncommitted
    }

    /// Documents that searches see.
    pub fn len(&self) -> usize {
        self.view().searcher.num_docs() as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that it holds for searches, in bytes, about; files that are mapped and the writer's bound not counted.
    pub fn bytes(&self) -> usize {
        self.view().numbers.bytes()
    }

    /// The `k` best documents, best first, equal scores by ascending number; only those in `among` if that is given.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] if `stop` said so, [`IndexError::TextField`], [`IndexError::Storage`].
    pub fn search(
        &self,
        query: &LexicalQuery,
        k: usize,
        among: Option<&RoaringBitmap>,
        stop: &dyn Stop,
    ) -> Result<Vec<Hit>, IndexError> {
        self.search_as(query, k, among, stop, Plan::choose)
    }

    /// As [`search`](Self::search), with the plan that `choose` makes of the documents the filter leaves and the
    /// postings of the query's terms.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_as(
        &self,
        query: &LexicalQuery,
        k: usize,
        among: Option<&RoaringBitmap>,
        stop: &dyn Stop,
        choose: impl FnOnce(u64, u64) -> Plan,
    ) -> Result<Vec<Hit>, IndexError> {
        let view = self.view();
        let asked = Asked::new(query, &self.fields, &Dictionary { searcher: &view.searcher, stop })?;
        let plan = among.map_or(Plan::Checked, |among| choose(among.len(), asked.postings));
        let view = collect::View { searcher: &view.searcher, numbers: &view.numbers };
        if asked.pairs.is_empty() {
            return collect::best(&view, &asked, Wanted { k, among, stop }, plan);
        }
        let window = k.max(Proximity::WINDOW);
        let hits = collect::best(&view, &asked, Wanted { k: window, among, stop }, plan)?;
        proximity::add(&view, &asked.pairs, &hits, k, stop)
    }

    /// What each word of a query contributes to the score of each of these documents, most telling first. Phrases and
    /// proximity contribute besides.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] if `stop` said so, [`IndexError::TextField`], [`IndexError::Storage`].
    pub fn breakdown(
        &self,
        query: &LexicalQuery,
        documents: &[DocId],
        stop: &dyn Stop,
    ) -> Result<Vec<Vec<TermScore>>, IndexError> {
        let view = self.view();
        let dictionary = Dictionary { searcher: &view.searcher, stop };
        let weights = query::weights(query, &self.fields, &dictionary)?;
        let view = collect::View { searcher: &view.searcher, numbers: &view.numbers };
        breakdown::breakdown(&view, (&self.fields, &weights), documents, stop)
    }

    /// Why each of these texts is found: per text, the best part of each field that has a word of the query.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] if `stop` said so, [`IndexError::TextField`], [`IndexError::Storage`].
    pub fn snippets(
        &self,
        query: &LexicalQuery,
        texts: &[&Texts],
        options: SnippetOptions,
        stop: &dyn Stop,
    ) -> Result<Vec<Vec<Snippet>>, IndexError> {
        let view = self.view();
        let mut query = query.clone();
        if query.fields.is_empty() {
            // Its words are wanted of each field, and none of all together.
            query.fields = self.fields.texts.iter().map(|field| (field.name.clone(), field.boost)).collect();
        }
        let dictionary = Dictionary { searcher: &view.searcher, stop };
        let asked = Asked::new(&query, &self.fields, &dictionary)?;
        snippet::snippets(&dictionary, &self.fields, asked.query.as_ref(), texts, options)
    }

    /// In how many documents each word of a text stands, in the field that has it most often, and how many documents there
    /// are: how rare the words are.
    ///
    /// # Errors
    /// [`IndexError::Storage`].
    pub fn frequencies(&self, text: &str) -> Result<(Vec<u64>, u64), IndexError> {
        let view = self.view();
        let mut found = BTreeMap::<usize, u64>::new();
        for field in &self.fields.texts {
            for word in analysis::words(field.language, text, LexicalQuery::WORDS_MAX) {
                let term = Term::from_field_text(field.field, &word.text);
                let documents = view.searcher.doc_freq(&term);
                let documents = documents.map_err(IndexError::storage("counting a term's documents"))?;
                let most = found.entry(word.position).or_default();
                *most = documents.max(*most);
            }
        }
        Ok((found.into_values().collect(), view.searcher.num_docs()))
    }

    fn document(&self, number: DocId, texts: &Texts) -> TantivyDocument {
        let mut document = TantivyDocument::default();
        document.add_u64(self.fields.number, u64::from(number.0));
        for field in &self.fields.texts {
            if let Some(text) = texts.get(&field.name) {
                document.add_text(field.field, text);
                if let Some(group) = self.fields.group(field) {
                    document.add_text(group.field, text);
                }
            }
        }
        document
    }

    fn term(&self, number: DocId) -> Term {
        Term::from_field_u64(self.fields.number, u64::from(number.0))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn writer_of(index: &Index, options: LexicalOptions) -> Result<IndexWriter, IndexError> {
    let writer = index.writer_with_num_threads(options.threads, options.writer_bytes);
    let writer: IndexWriter = writer.map_err(IndexError::storage("opening the writer of the words"))?;
    let mut merging = LogMergePolicy::default();
    merging.set_del_docs_ratio_before_merge(GONE_MAX);
    writer.set_merge_policy(Box::new(merging));
    Ok(writer)
}

fn no_writer() -> IndexError {
    IndexError::storage("writing words")("the writer failed, and there is no other yet")
}

impl fmt::Debug for LexicalIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LexicalIndex")
            .field("index", &self.index)
            .field("applied", &self.applied())
            .finish_non_exhaustive()
    }
}

/// What the last commit says it is of; 0 before the first.
fn committed(index: &Index) -> Result<Lsn, IndexError> {
    let metas = index.load_metas().map_err(IndexError::storage("reading the last commit of the words"))?;
    match metas.payload.as_deref() {
        None if metas.segments.is_empty() => Ok(Lsn(0)),
        Some(payload) if payload.starts_with(PAYLOAD) => {
            let number = payload[PAYLOAD.len()..].parse().map(Lsn);
            number.map_err(|_| IndexError::Unusable(format!("its last commit says {payload:?}")))
        }
        other => Err(IndexError::Unusable(format!("its last commit says {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::schema::Language;

    #[test]
    fn what_was_committed_and_not_shown_is_not_there_twice() {
        let folder = TempDir::new().unwrap();
        let schema = Schema::title_and_text(Language::English);
        let index = LexicalIndex::open(folder.path(), &schema, LexicalOptions::default()).unwrap();
        let (texts, before) = (Texts::from([("text".into(), "word".into())]), index.view());
        let apply = || index.apply(&[Change::Insert(DocId(7), &texts)], Lsn(1));
        apply().unwrap();
        index.commit().unwrap();
        // As when opening what was committed failed.
        *index.view.write().unwrap() = before;
        index.recover().unwrap();
        apply().unwrap();
        index.commit().unwrap();
        assert_eq!((index.len(), index.applied()), (1, Lsn(1)));
    }
}

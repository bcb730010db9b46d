//! The indexes of a collection, as its schema asks for them, and how each follows the log.
//!
//! | leg | index | kept | after a start |
//! |---|---|---|---|
//! | words | [`LexicalIndex`] | on disk, by its commits | goes on from its last commit |
//! | a dense vector | [`GraphDense`] | in memory; the graph in a file that is a cache | is filled from the truth |
//! | a sparse vector | [`SparseIndex`] | in memory | is filled from the truth |
//!
//! An index in memory that is to be rebuilt is made anew beside the old one, which answers until the new one is full.

use std::{
    borrow::Borrow,
    fmt, fs,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{
    collection::{FeedError, Follower, Index, Leg, OpenError},
    dense::{GraphDense, GraphOptions},
    document::SparseVector,
    identity::{DocId, Lsn},
    lexical::index::{LexicalIndex, LexicalOptions},
    schema::{DenseField, Schema, SparseField},
    sparse::{SparseIndex, Weighting},
    truth::{Reader, StorageError},
    vector_index::{Change, IndexError, VectorIndex},
};

/// How the indexes are made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IndexOptions {
    /// Of the words.
    pub lexical: LexicalOptions,
    /// Of each dense vector. Its folder and generation are set here.
    pub graph: GraphOptions,
}

/// Vectors fed before what an index keeps of them is written again; or a quarter of all, if that is more: what is written
/// is all of it.
const KEEP_AFTER: usize = 10_000;

/// What opens the indexes of a collection, for [`Shard::open`](crate::shard::Shard::open).
pub fn followers(
    options: IndexOptions,
) -> impl Fn(&Path, &Schema) -> Result<Vec<(Leg, Arc<dyn Follower>)>, OpenError> + Send + Sync + 'static {
    move |folder, schema| {
        let mut followers: Vec<(Leg, Arc<dyn Follower>)> = Vec::new();
        if !schema.texts.is_empty() {
            let words = Words::open(&folder.join("lexical"), schema, options.lexical);
            followers.push((Leg::Lexical, Arc::new(words.map_err(at(Leg::Lexical))?)));
        }
        for field in &schema.dense {
            let leg = Leg::Dense(field.name.clone());
            let opened = dense(folder, field, &options.graph).map_err(at(leg.clone()))?;
            followers.push((leg, Arc::new(opened)));
        }
        for field in &schema.sparse {
            let leg = Leg::Sparse(field.name.clone());
            followers.push((leg.clone(), Arc::new(sparse(field).map_err(at(leg))?)));
        }
        Ok(followers)
    }
}

fn at(leg: Leg) -> impl FnOnce(IndexError) -> OpenError {
    move |fault| OpenError::Index { leg, fault: fault.into() }
}

impl From<IndexError> for FeedError {
    fn from(error: IndexError) -> Self {
        Self::Index(error.into())
    }
}

/// The words.
#[derive(Debug)]
struct Words {
    index: Arc<LexicalIndex>,
}

impl Words {
    fn open(folder: &Path, schema: &Schema, options: LexicalOptions) -> Result<Self, IndexError> {
        let opened = match LexicalIndex::open(folder, schema, options) {
            Err(IndexError::Unusable(_)) => {
                // It can be made from the truth; what is there is of no use.
                fs::remove_dir_all(folder).map_err(IndexError::storage("removing an index of words"))?;
                LexicalIndex::open(folder, schema, options)
            }
            opened => opened,
        };
        Ok(Self { index: Arc::new(opened?) })
    }

    /// What failed is fed again, on top of the last commit: that is of where the feeding stood before it.
    fn or_recover(&self, done: Result<(), IndexError>) -> Result<(), FeedError> {
        done.map_err(|fault| match self.index.recover() {
            Ok(()) => fault.into(),
            Err(worse) => worse.into(),
        })
    }
}

impl Follower for Words {
    fn reached(&self) -> Option<Lsn> {
        Some(self.index.applied())
    }

    fn clear(&self) -> Result<(), FeedError> {
        self.or_recover(self.index.clear())
    }

    fn feed(&self, reader: &Reader, began: &[DocId], ended: &[DocId], complete: Lsn) -> Result<(), FeedError> {
        let mut texts = Vec::with_capacity(began.len());
        for doc in began {
            texts.extend(reader.texts(*doc)?.map(|texts| (*doc, texts)));
        }
        let began = texts.iter().map(|(doc, texts)| Change::Insert(*doc, texts));
        let changes: Vec<_> = began.chain(ended.iter().copied().map(Change::Remove)).collect();
        self.or_recover(self.index.apply(&changes, complete))
    }

    fn publish(&self) -> Result<(), FeedError> {
        self.or_recover(self.index.commit().map(drop))
    }

    fn durable(&self) -> Option<Lsn> {
        Some(self.index.applied())
    }

    fn flush(&self) -> Result<(), FeedError> {
        self.publish()
    }

    fn index(&self) -> Option<Index> {
        Some(Index::Lexical(Arc::clone(&self.index)))
    }
}

/// A vector as the truth has it.
trait Stored: Send + Sync + 'static {
    type Row: Borrow<Self>;

    fn stored(reader: &Reader, doc: DocId, name: &str) -> Result<Option<Self::Row>, StorageError>;
    fn index(index: Arc<dyn VectorIndex<Vector = Self>>) -> Index;
}

impl Stored for [f32] {
    type Row = Vec<f32>;

    fn stored(reader: &Reader, doc: DocId, name: &str) -> Result<Option<Vec<f32>>, StorageError> {
        reader.dense(doc, name)
    }

    fn index(index: Arc<dyn VectorIndex<Vector = Self>>) -> Index {
        Index::Dense(index)
    }
}

impl Stored for SparseVector {
    type Row = Self;

    fn stored(reader: &Reader, doc: DocId, name: &str) -> Result<Option<Self>, StorageError> {
        reader.sparse(doc, name)
    }

    fn index(index: Arc<dyn VectorIndex<Vector = Self>>) -> Index {
        Index::Sparse(index)
    }
}

/// An index of vectors in memory.
struct Vectors<V: Stored + ?Sized> {
    name: String,
    make: Box<dyn Fn() -> Result<Made<V>, IndexError> + Send + Sync>,
    /// Forgets what is kept on disk.
    forget: Box<dyn Fn() -> Result<(), IndexError> + Send + Sync>,
    /// What searches see.
    current: RwLock<Made<V>>,
    /// What is being filled, if something is.
    filling: Mutex<Option<Made<V>>>,
    /// Nothing was fed to it since it was opened.
    untouched: AtomicBool,
    /// Vectors fed since the index was last written; `usize::MAX` before it was filled for the first time.
    unkept: AtomicUsize,
}

/// An index, and what to tell it when it is full.
struct Made<V: ?Sized> {
    index: Arc<dyn VectorIndex<Vector = V>>,
    filled: Arc<dyn Fn() + Send + Sync>,
}

impl<V: ?Sized> Clone for Made<V> {
    fn clone(&self) -> Self {
        Self { index: Arc::clone(&self.index), filled: Arc::clone(&self.filled) }
    }
}

fn dense(folder: &Path, field: &DenseField, options: &GraphOptions) -> Result<Vectors<[f32]>, IndexError> {
    let kept = folder.join(format!("dense-{}", field.name));
    let options = GraphOptions { folder: Some(kept.clone()), generation: 0, ..options.clone() };
    let (metric, dim) = (field.metric, field.dim);
    let make = move || {
        let index = Arc::new(GraphDense::open(metric, dim, options.clone())?);
        let full = Arc::clone(&index);
        Ok(Made { index, filled: Arc::new(move || full.filled()) as Arc<dyn Fn() + Send + Sync> })
    };
    let forget = move || match fs::remove_dir_all(&kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(IndexError::storage("removing a graph of vectors")(error))
        }
        _ => Ok(()),
    };
    Vectors::open(&field.name, Box::new(make), Box::new(forget))
}

fn sparse(field: &SparseField) -> Result<Vectors<SparseVector>, IndexError> {
    let weighting = if field.idf { Weighting::Idf } else { Weighting::None };
    let make = move || {
        let index = Arc::new(SparseIndex::new(weighting));
        Ok(Made { index, filled: Arc::new(|| ()) as Arc<dyn Fn() + Send + Sync> })
    };
    Vectors::open(&field.name, Box::new(make), Box::new(|| Ok(())))
}

impl<V: Stored + ?Sized> Vectors<V> {
    fn open(
        name: &str,
        make: Box<dyn Fn() -> Result<Made<V>, IndexError> + Send + Sync>,
        forget: Box<dyn Fn() -> Result<(), IndexError> + Send + Sync>,
    ) -> Result<Self, IndexError> {
        let current = RwLock::new(make()?);
        let (untouched, unkept) = (AtomicBool::new(true), AtomicUsize::new(usize::MAX));
        Ok(Self { name: name.to_owned(), make, forget, current, filling: Mutex::default(), untouched, unkept })
    }

    fn current(&self) -> Made<V> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn filling(&self) -> MutexGuard<'_, Option<Made<V>>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn was_filled(&self) -> bool {
        self.unkept.load(Ordering::Acquire) != usize::MAX
    }
}

impl<V: Stored + ?Sized> Follower for Vectors<V> {
    fn reached(&self) -> Option<Lsn> {
        None
    }

    fn clear(&self) -> Result<(), FeedError> {
        // The first time it is empty as it was opened, and may bring a graph along. One that was filled and is not wanted
        // is not trusted in what it kept either.
        let fresh = if self.untouched.swap(false, Ordering::AcqRel) {
            self.current()
        } else {
            if self.was_filled() {
                (self.forget)()?;
            }
            (self.make)()?
        };
        *self.filling() = Some(fresh);
        Ok(())
    }

    fn feed(&self, reader: &Reader, began: &[DocId], ended: &[DocId], complete: Lsn) -> Result<(), FeedError> {
        let mut vectors = Vec::with_capacity(began.len());
        for doc in began {
            vectors.extend(V::stored(reader, *doc, &self.name)?.map(|vector| (*doc, vector)));
        }
        let began = vectors.iter().map(|(doc, vector)| Change::Insert(*doc, vector.borrow()));
        let changes: Vec<_> = began.chain(ended.iter().copied().map(Change::Remove)).collect();
        let fed = self.filling().clone().unwrap_or_else(|| self.current());
        fed.index.apply(&changes, complete)?;
        if self.was_filled() {
            self.unkept.fetch_add(vectors.len(), Ordering::AcqRel);
        }
        Ok(())
    }

    fn publish(&self) -> Result<(), FeedError> {
        let index = self.current().index;
        if self.was_filled() && self.unkept.load(Ordering::Acquire) >= KEEP_AFTER.max(index.len() / 4) {
            // It serves searches as well without: what is kept only makes the next start shorter.
            if let Err(error) = index.flush() {
                tracing::warn!(vector = self.name, %error, "an index is not kept; it is tried again after more vectors");
            }
            self.unkept.store(0, Ordering::Release);
        }
        Ok(())
    }

    fn filled(&self) {
        if let Some(full) = self.filling().take() {
            (full.filled)();
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = full;
            self.unkept.store(0, Ordering::Release);
        }
    }

    fn durable(&self) -> Option<Lsn> {
        None
    }

    fn flush(&self) -> Result<(), FeedError> {
        Ok(self.current().index.flush()?)
    }

    fn index(&self) -> Option<Index> {
        Some(V::index(self.current().index))
    }
}

impl<V: Stored + ?Sized> fmt::Debug for Vectors<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vectors").field("name", &self.name).field("index", &self.current().index).finish()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::schema::Metric;

    #[test]
    fn a_graph_that_cannot_be_kept_is_followed_on() {
        let folder = TempDir::new().unwrap();
        let field = DenseField { name: "d".into(), dim: 2, metric: Metric::Cosine };
        let vectors = dense(folder.path(), &field, &GraphOptions::default()).unwrap();
        vectors.clear().unwrap();
        vectors.filled();
        // A file where its folder should be.
        fs::write(folder.path().join("dense-d"), "").unwrap();
        vectors.unkept.store(KEEP_AFTER, Ordering::Release);
        assert!(vectors.current().index.flush().is_err());
        vectors.publish().unwrap();
        assert_eq!(vectors.unkept.load(Ordering::Acquire), 0);
    }
}

//! From what was read to what is written: what is there already is left alone, what has no vector gets one.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    time::Duration,
};

use anyhow::Context;
use sluice_client::{
    Client, ClientError, Code, ContentHash, content_hash,
    proto::retrieval::v1::{Document, GetRequest, PayloadValue, Projection, Schema, StoredDocument, Vector, vector},
    shard::content,
};

use super::{
    document::{TOKENS_KEY, is_reserved, keyed_vector, vector_key},
    embedding::{Encoder, Maker, Tokens},
    end::End,
    input::{Batch, Fault, Place, Read},
    report::Tally,
};

/// Bytes of an id at the shard.
const ID_BYTES_MAX: usize = 480;

/// Prepares batches for one collection.
pub(super) struct Preparer {
    pub shard: Client,
    pub collection: String,
    pub schema: Schema,
    pub encoder: Option<Encoder>,
    /// Only vectors are renewed, of documents that are there.
    pub backfill: bool,
    /// What is there of the models that are asked for is made again too.
    pub again: bool,
    /// For reading what the shard has of a batch, and again for what the server is to make of it.
    pub deadline: Duration,
    /// Ids that are being prepared or written, and how often: what the shard has of them is about to change.
    pub pending: RefCell<HashMap<String, usize>>,
}

/// A batch that can be written.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub documents: Vec<Ready>,
    /// Every id that it was about, to be [left](Preparer::leave).
    pub ids: Vec<String>,
    /// What has become of its documents, once those are written.
    pub tally: Tally,
    /// Documents without their vectors, and why.
    pub complaints: Vec<Fault>,
    /// Bytes of the input up to its end.
    pub position: u64,
}

/// A document to write.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ready {
    pub place: Place,
    pub document: Document,
    pub hash: ContentHash,
}

/// A batch whose ids are noted.
struct Entered {
    reads: Vec<Read>,
    /// Ids that an earlier batch is about to write.
    overtaken: HashSet<String>,
    prepared: Prepared,
}

/// A document, and what it lacks.
#[derive(Debug, PartialEq)]
struct Work {
    place: Place,
    document: Document,
    content: String,
    embed: bool,
    put: bool,
}

impl Preparer {
    /// Prepares a batch. Its ids are noted at once: call it in the order in which batches are written.
    pub(super) fn prepare(self: &Rc<Self>, batch: Batch) -> impl Future<Output = anyhow::Result<Prepared>> + use<> {
        let entered = self.enter(batch);
        let this = Rc::clone(self);
        async move { this.work(entered).await }
    }

    /// Forgets the ids of a batch that is written.
    pub(super) fn leave(&self, ids: &[String]) {
        let mut pending = self.pending.borrow_mut();
        for id in ids {
            match pending.get_mut(id) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(pending.remove(id)),
            }
        }
    }

    fn enter(&self, batch: Batch) -> Entered {
        let mut prepared = Prepared { position: batch.position, ..Prepared::default() };
        let count = batch.documents.len();
        // Of two with one id the last counts.
        let mut seen = HashSet::new();
        let mut reads: Vec<Read> =
            batch.documents.into_iter().rev().filter(|read| seen.insert(read.document.id.clone())).collect();
        reads.reverse();
        prepared.tally.documents = count;
        prepared.tally.duplicates = count - reads.len();
        prepared.ids = reads.iter().map(|read| read.document.id.clone()).collect();
        let mut pending = self.pending.borrow_mut();
        let overtaken = prepared.ids.iter().filter(|id| pending.contains_key(*id)).cloned().collect();
        for id in &prepared.ids {
            *pending.entry(id.clone()).or_default() += 1;
        }
        Entered { reads, overtaken, prepared }
    }

    async fn work(&self, entered: Entered) -> anyhow::Result<Prepared> {
        let Entered { reads, overtaken, mut prepared } = entered;
        // An id that no document can have is not asked for: the write says what is wrong with it.
        let possible = |id: &&String| id.len() <= ID_BYTES_MAX && !overtaken.contains(*id);
        let asked = prepared.ids.iter().filter(possible).cloned().collect();
        let mut stored = self.stored(asked).await?;
        let mut works = Vec::new();
        for Read { place, document } in reads {
            let found = stored.remove(&document.id);
            if self.backfill {
                match found {
                    Some(found) => works.extend(self.renewal(place, found, &mut prepared.tally)),
                    None if overtaken.contains(&document.id) => prepared.tally.duplicates += 1,
                    None => prepared.tally.absent += 1,
                }
            } else {
                works.extend(self.replacement(place, document, found, &mut prepared.tally));
            }
        }
        let end = End::after(self.deadline);
        let failed = self.embed(&mut works, &mut prepared, end).await?;
        let not_put = self.put(&mut works, &mut prepared, end).await?;
        for (nth, work) in works.into_iter().enumerate() {
            // A renewal that has come to nothing would write what is there already.
            let idle = self.backfill && (!work.embed || failed.contains(&nth)) && (!work.put || not_put.contains(&nth));
            if idle {
                prepared.tally.unchanged += 1;
            } else {
                let hash = content_hash(&work.content);
                prepared.documents.push(Ready { place: work.place, document: work.document, hash });
            }
        }
        prepared.tally.written = prepared.documents.len();
        Ok(prepared)
    }

    /// What the shard has of these ids.
    async fn stored(&self, ids: Vec<String>) -> anyhow::Result<HashMap<String, StoredDocument>> {
        const WHAT: &str = "reading what is there already";
        let end = End::after(self.deadline);
        let all = || vec!["*".to_owned()];
        let projection = Projection { texts: all(), payload: all(), vectors: all() };
        let mut found = HashMap::with_capacity(ids.len());
        let mut parts = if ids.is_empty() { Vec::new() } else { vec![ids] };
        while let Some(mut ids) = parts.pop() {
            let collection = self.collection.clone();
            let request = GetRequest { collection, ids: ids.clone(), projection: Some(projection.clone()) };
            let time = end.time_for_a_call().context(WHAT)?;
            match self.shard.with_deadline(time).get_documents(request).await {
                Ok(answer) => {
                    let named = |stored: StoredDocument| Some((stored.document.as_ref()?.id.clone(), stored));
                    found.extend(answer.documents.into_iter().filter_map(named));
                }
                Err(error) if ids.len() > 1 && is_too_large(&error) => {
                    let second = ids.split_off(ids.len() / 2);
                    parts.extend([ids, second]);
                }
                Err(error) => return Err(anyhow::Error::new(error).context(WHAT)),
            }
        }
        Ok(found)
    }

    /// What is to be done with a document that was read; nothing, if it is there already.
    fn replacement(
        &self,
        place: Place,
        mut document: Document,
        stored: Option<StoredDocument>,
        tally: &mut Tally,
    ) -> Option<Work> {
        let content = self.content(&document);
        let stored_content = stored.as_ref().map(|stored| stored.content_hash.as_slice());
        let same_content = stored_content == Some(&content_hash(&content)[..]);
        let before = stored.and_then(|stored| stored.document).unwrap_or_default();
        let kept = same_content && self.keep(&before, &mut document);
        let embed = !content.is_empty() && self.dense().is_some_and(|(name, _)| !document.vectors.contains_key(name));
        let put = !content.is_empty() && self.tokens().is_some() && !document.payload.contains_key(TOKENS_KEY);
        if same_content && !embed && !put && is_same(&document, before) {
            tally.unchanged += 1;
            return None;
        }
        tally.kept_vectors += usize::from(kept);
        Some(Work { place, document, content, embed, put })
    }

    /// Takes over from a document of the same content what models have made, and still would; whether there was a vector.
    fn keep(&self, before: &Document, document: &mut Document) -> bool {
        let mut kept = false;
        for (key, signature) in before.payload.iter().filter(|(key, _)| is_reserved(key)) {
            let Some(name) = keyed_vector(key) else {
                if self.tokens().is_none_or(|tokens| !self.again && tokens.has_signed(signature)) {
                    document.payload.insert(key.clone(), signature.clone());
                }
                continue;
            };
            let is_current = |maker: &Maker| !self.again && maker.has_signed(signature);
            let current = self.dense().is_none_or(|(target, maker)| target != name || is_current(maker));
            if let Some(vector) = before.vectors.get(name).filter(|_| current && !document.vectors.contains_key(name)) {
                document.vectors.insert(name.to_owned(), vector.clone());
                document.payload.insert(key.clone(), signature.clone());
                kept = true;
            }
        }
        kept
    }

    /// What is to be done with a document that is there, if anything.
    fn renewal(&self, place: Place, stored: StoredDocument, tally: &mut Tally) -> Option<Work> {
        let document = stored.document?;
        let content = self.content(&document);
        let embed = self.dense().is_some_and(|(name, maker)| {
            let signature = document.payload.get(&vector_key(name));
            // A vector without a signature came with its document.
            !document.vectors.contains_key(name)
                || signature.is_some_and(|signature| self.again || !maker.has_signed(signature))
        });
        let put = self.tokens().is_some_and(|tokens| {
            self.again || !document.payload.get(TOKENS_KEY).is_some_and(|signature| tokens.has_signed(signature))
        });
        if content.is_empty() || !embed && !put {
            tally.unchanged += 1;
            return None;
        }
        Some(Work { place, document, content, embed, put })
    }

    /// Gives documents the vectors that they lack; positions of those that have got none.
    async fn embed(&self, works: &mut [Work], prepared: &mut Prepared, end: End) -> anyhow::Result<HashSet<usize>> {
        let chosen: Vec<usize> = (0..works.len()).filter(|nth| works[*nth].embed).collect();
        let mut failed = HashSet::new();
        let (Some(encoder), Some((name, maker)), false) = (&self.encoder, self.dense(), chosen.is_empty()) else {
            return Ok(failed);
        };
        let texts: Vec<String> = chosen.iter().map(|nth| works[*nth].content.clone()).collect();
        for (nth, embedded) in chosen.into_iter().zip(encoder.embed(&texts, end).await?) {
            let work = &mut works[nth];
            match embedded {
                Ok(embedding) => {
                    let vector = Vector { kind: Some(vector::Kind::Dense(embedding)) };
                    work.document.vectors.insert(name.to_owned(), vector);
                    work.sign(vector_key(name), maker.signature());
                    prepared.tally.embedded += 1;
                }
                Err(reason) => {
                    prepared.tally.not_embedded += 1;
                    prepared.complaints.push(work.complaint("not embedded", &reason));
                    failed.insert(nth);
                }
            }
        }
        Ok(failed)
    }

    /// Has the token vectors that documents lack kept; positions of those that have got none. It comes before they are
    /// written: what the shard says of a document's token vectors holds.
    async fn put(&self, works: &mut [Work], prepared: &mut Prepared, end: End) -> anyhow::Result<HashSet<usize>> {
        let chosen: Vec<usize> = (0..works.len()).filter(|nth| works[*nth].put).collect();
        let mut failed = HashSet::new();
        let (Some(encoder), Some(tokens), false) = (&self.encoder, self.tokens(), chosen.is_empty()) else {
            return Ok(failed);
        };
        let document = |nth: &usize| (works[*nth].document.id.clone(), works[*nth].content.clone());
        let documents: Vec<(String, String)> = chosen.iter().map(document).collect();
        for (nth, put) in chosen.into_iter().zip(encoder.put(&documents, end).await?) {
            match put {
                Ok(()) => {
                    works[nth].sign(TOKENS_KEY.to_owned(), tokens.signature());
                    prepared.tally.tokens_stored += 1;
                }
                Err(reason) => {
                    prepared.tally.tokens_not_stored += 1;
                    prepared.complaints.push(works[nth].complaint("token vectors not stored", &reason));
                    failed.insert(nth);
                }
            }
        }
        Ok(failed)
    }

    fn content(&self, document: &Document) -> String {
        content(&self.schema, |name| document.texts.get(name).map_or("", String::as_str))
    }

    /// The vector that is wanted, and who makes it.
    fn dense(&self) -> Option<(&str, &Maker)> {
        let (name, maker) = self.encoder.as_ref()?.dense.as_ref()?;
        Some((name, maker))
    }

    /// The token vectors that are wanted.
    fn tokens(&self) -> Option<&Tokens> {
        self.encoder.as_ref()?.tokens.as_ref()
    }
}

impl Work {
    fn sign(&mut self, key: String, signature: PayloadValue) {
        self.document.payload.insert(key, signature);
    }

    fn complaint(&self, what: &str, reason: &str) -> Fault {
        Fault { place: self.place.clone(), reason: format!("{what}: {reason}") }
    }
}

/// Whether a document is there as it would be written.
fn is_same(document: &Document, mut before: Document) -> bool {
    before.texts.retain(|_, text| !text.is_empty());
    *document == before
}

/// Whether fewer documents would fit into an answer. A shard that says when to come back is only busy.
fn is_too_large(error: &ClientError) -> bool {
    let ClientError::Status(status) = error else { return false };
    match status.code {
        Code::OutOfRange => true,
        Code::ResourceExhausted => status.retry_after.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;

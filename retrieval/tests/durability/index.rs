//! The simplest index that keeps something on disk: texts by document, in one file that is replaced whole.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};
use sluice_retrieval::{
    DocId, Lsn,
    collection::{FeedError, Follower},
    truth::Reader,
};

#[derive(Debug)]
pub(crate) struct Texts {
    file: PathBuf,
    /// What is searched.
    state: Mutex<State>,
    /// What is to take its place once it is full.
    filling: Mutex<Option<State>>,
    kept: Mutex<Option<Lsn>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    texts: BTreeMap<u32, String>,
    complete: Option<Lsn>,
}

impl Texts {
    pub(crate) fn open(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let file = folder.join("texts.json");
        let state: State =
            fs::read(&file).map_or_else(|_| State::default(), |json| serde_json::from_slice(&json).unwrap());
        Self { file, kept: Mutex::new(state.complete), state: Mutex::new(state), filling: Mutex::default() }
    }

    /// The documents that are found, with their texts as of when they were indexed.
    pub(crate) fn search(&self) -> Vec<(DocId, String)> {
        let state = self.state.lock().unwrap();
        state.texts.iter().map(|(doc, text)| (DocId(*doc), text.clone())).collect()
    }
}

impl Follower for Texts {
    fn reached(&self) -> Option<Lsn> {
        self.state.lock().unwrap().complete
    }

    fn clear(&self) -> Result<(), FeedError> {
        *self.filling.lock().unwrap() = Some(State::default());
        Ok(())
    }

    fn feed(&self, reader: &Reader, began: &[DocId], ended: &[DocId], complete: Lsn) -> Result<(), FeedError> {
        let (mut filling, mut state) = (self.filling.lock().unwrap(), self.state.lock().unwrap());
        let state = filling.as_mut().unwrap_or(&mut state);
        for doc in began {
            if let Some(texts) = reader.texts(*doc)? {
                state.texts.insert(doc.0, texts.get("text").cloned().unwrap_or_default());
            }
        }
        ended.iter().for_each(|doc| drop(state.texts.remove(&doc.0)));
        state.complete = Some(complete);
        Ok(())
    }

    fn publish(&self) -> Result<(), FeedError> {
        Ok(())
    }

    fn filled(&self) {
        if let Some(full) = self.filling.lock().unwrap().take() {
            *self.state.lock().unwrap() = full;
        }
    }

    fn durable(&self) -> Option<Lsn> {
        Some(self.kept.lock().unwrap().unwrap_or_default())
    }

    fn flush(&self) -> Result<(), FeedError> {
        let state = self.state.lock().unwrap();
        let json = serde_json::to_vec(&*state).map_err(|error| FeedError::Index(error.into()))?;
        let (complete, new) = (state.complete, self.file.with_extension("new"));
        drop(state);
        let written = fs::write(&new, json).and_then(|()| fs::rename(&new, &self.file));
        written.map_err(|error| FeedError::Index(error.into()))?;
        *self.kept.lock().unwrap() = complete;
        Ok(())
    }
}

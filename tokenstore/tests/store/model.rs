//! Random operations against a map in memory.

use std::collections::HashMap;

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use sluice_kernels::tokens::Storage;
use sluice_tokenstore::{Compact, ModelDigest, Namespace, Options, TokenStore};

use crate::fixture::{Document, MODEL, OTHER_MODEL, folder, layout};

type Key = (usize, ModelDigest, String);

/// The store, the map it must be equal to, and one that follows it from outside.
struct Run {
    rng: SmallRng,
    names: [Namespace; 2],
    options: Options,
    store: Option<TokenStore>,
    folder: tempfile::TempDir,
    map: HashMap<Key, Document>,
    version: u64,
}

/// Each collection has a layout of its own.
fn layout_of(name: usize, model: ModelDigest) -> (Storage, usize) {
    match (name, model) {
        (0, MODEL) => (Storage::F16, 24),
        (0, _) => (Storage::Int8, 72),
        (_, MODEL) => (Storage::Binary, 100),
        _ => (Storage::F16, 1),
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let folder = folder();
        let options = Options { segment_bytes_max: 6 << 10, ..Options::default() };
        let store = Some(TokenStore::open(folder.path(), options).unwrap());
        let names = ["first", "second"].map(|name| Namespace::new(name).unwrap());
        let (map, version) = (HashMap::new(), 0);
        Self { rng: SmallRng::seed_from_u64(seed), names, options, store, folder, map, version }
    }

    fn store(&self) -> &TokenStore {
        self.store.as_ref().unwrap()
    }

    fn id(&mut self) -> String {
        format!("d{}", self.rng.random_range(0..25))
    }

    fn step(&mut self) {
        let name = self.rng.random_range(0..2);
        let model = [MODEL, OTHER_MODEL][self.rng.random_range(0..2)];
        match self.rng.random_range(0..100) {
            0..60 => self.put(name, model),
            60..80 => self.delete(name, model),
            80..90 => {
                let which = [Compact::All, Compact::DeadShare(0.5), Compact::DeadShare(0.1)];
                let which = *which.choose(&mut self.rng).unwrap();
                self.store().compact(which).unwrap();
            }
            _ => {
                self.store = None;
                self.store = Some(TokenStore::open(self.folder.path(), self.options).unwrap());
            }
        }
    }

    fn put(&mut self, name: usize, model: ModelDigest) {
        let (storage, dim) = layout_of(name, model);
        let mut documents = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            self.version += 1;
            let rows = self.rng.random_range(1..12);
            documents.push(Document::new(&self.id(), self.version, rows, dim));
        }
        let puts: Vec<_> = documents.iter().map(Document::put).collect();
        self.store().put(&self.names[name], model, layout(storage, dim), &puts).unwrap();
        let entries = documents.into_iter().map(|document| ((name, model, document.id.clone()), document));
        self.map.extend(entries);
    }

    fn delete(&mut self, name: usize, model: ModelDigest) {
        let ids: Vec<_> = (0..self.rng.random_range(1..5)).map(|_| self.id()).collect();
        let model = self.rng.random_bool(0.7).then_some(model);
        let removed = self.store().delete(&self.names[name], model, &ids).unwrap();
        let before = self.map.len();
        self.map.retain(|(n, m, id), _| *n != name || model.is_some_and(|model| model != *m) || !ids.contains(id));
        assert_eq!(removed, before - self.map.len());
    }

    fn assert_equal(&self, store: &TokenStore) {
        let mut found = 0;
        for (index, name) in self.names.iter().enumerate() {
            for model in [MODEL, OTHER_MODEL] {
                let ids: Vec<_> = (0..25).map(|n| format!("d{n}")).collect();
                for (id, stored) in ids.iter().zip(store.lookup(name, model, &ids)) {
                    let expected = self.map.get(&(index, model, id.clone()));
                    assert_eq!(stored.is_some(), expected.is_some(), "{name} {model} {id}");
                    if let (Some(stored), Some(expected)) = (stored, expected) {
                        expected.assert_stored(layout_of(index, model).0, &stored);
                        found += 1;
                    }
                }
            }
        }
        assert_eq!(found, self.map.len());
        let stats = store.stats();
        let counted: u64 = stats.collections.iter().map(|collection| collection.documents).sum();
        let rows: u64 = stats.collections.iter().map(|collection| collection.rows).sum();
        let expected: usize = self.map.values().map(|document| document.vectors.len() / document.dim).sum();
        assert_eq!((counted, rows), (self.map.len() as u64, expected as u64));
    }
}

#[test]
fn it_behaves_like_a_map() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut run = Run::new(seed);
        let reader = TokenStore::open_read_only(run.folder.path()).unwrap();
        for _ in 0..200 {
            run.step();
            run.assert_equal(run.store());
            if run.rng.random_bool(0.2) {
                reader.refresh().unwrap();
                run.assert_equal(&reader);
            }
        }
        assert!(run.store().verify().unwrap().corrupt_records.is_empty());
    }
}

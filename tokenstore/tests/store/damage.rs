//! Files that were cut or changed: what was put comes back to the bit, or not at all.

use std::{fs, path::Path};

use sluice_kernels::tokens::Storage;
use sluice_tokenstore::{Compact, OpenError, Options, TokenStore};

use crate::fixture::{Document, MODEL, STORAGES, assert_stored, folder, layout, namespace, put, segments, small};

/// Copies a store's files, as they are at this moment.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("segments")).unwrap();
    fs::copy(from.join("MANIFEST"), to.join("MANIFEST")).unwrap();
    for path in segments(from) {
        fs::copy(&path, to.join("segments").join(path.file_name().unwrap())).unwrap();
    }
}

/// Fails if a document is found that is not one of `put`.
fn assert_nothing_else(store: &TokenStore, storage: Storage, put: &[Document], case: &str) {
    let mut found = 0;
    for id in put.iter().map(|document| &document.id) {
        if let Some(stored) = store.get(&namespace(), MODEL, id) {
            let mut versions = put.iter().filter(|document| document.id == *id);
            let Some(document) = versions.next_back().filter(|document| document.is(&stored)) else {
                panic!("{case}: {id} is not what was put last");
            };
            document.assert_stored(storage, &stored);
            found += 1;
        }
    }
    let stats = store.stats();
    assert!(found > 0 || stats.corrupt_records > 0 || stats.collections.is_empty(), "{case}: {stats:?}");
}

#[test]
fn a_segment_cut_at_any_byte_has_the_batches_before_it() {
    for storage in STORAGES {
        let original = folder();
        let store = TokenStore::open(original.path(), small()).unwrap();
        let file = || segments(original.path()).pop().unwrap();
        let batches = [vec![("a", 1)], vec![("b", 1), ("a", 2)], vec![("c", 1), ("b", 2), ("d", 1)]];
        let mut ends = vec![256];
        for batch in &batches {
            let documents: Vec<_> = batch.iter().map(|(id, version)| Document::new(id, *version, 2, 16)).collect();
            put(&store, storage, &documents);
            ends.push(store.stats().collections[0].file_bytes);
        }
        drop(store);
        let bytes = fs::read(file()).unwrap();
        assert!(bytes[ends[3] as usize..].iter().all(|byte| *byte == 0), "nothing but what was put");

        let copied = folder();
        copy(original.path(), copied.path());
        let cut = segments(copied.path()).pop().unwrap();
        for length in 256..=ends[3] {
            fs::write(&cut, &bytes[..length as usize]).unwrap();
            fs::copy(original.path().join("MANIFEST"), copied.path().join("MANIFEST")).unwrap();
            let whole = ends.iter().filter(|end| **end <= length).count() - 1;
            let mut documents = std::collections::BTreeMap::new();
            for (id, version) in batches[..whole].iter().flatten() {
                documents.insert(id, Document::new(id, *version, 2, 16));
            }
            let reader = TokenStore::open_read_only(copied.path()).unwrap();
            assert_stored(&reader, storage, documents.values());
            drop(reader);
            let store = TokenStore::open(copied.path(), small()).unwrap();
            assert_stored(&store, storage, documents.values());
            // What follows takes the place of what was cut off.
            let e = Document::new("e", length, 1, 16);
            put(&store, storage, std::slice::from_ref(&e));
            drop(store);
            let store = TokenStore::open(copied.path(), small()).unwrap();
            assert_stored(&store, storage, documents.values().chain([&e]));
            drop(store);
            for path in segments(copied.path()) {
                fs::remove_file(path).unwrap();
            }
        }
        for length in 0..256 {
            fs::write(&cut, &bytes[..length]).unwrap();
            fs::copy(original.path().join("MANIFEST"), copied.path().join("MANIFEST")).unwrap();
            let error = TokenStore::open(copied.path(), small()).unwrap_err();
            assert!(matches!(error, OpenError::CorruptSegment(_)), "{length}: {error}");
        }
    }
}

/// A store with a sealed segment, a growing one, replaced and deleted documents; all that was put.
fn build(path: &Path, storage: Storage, dim: usize) -> Vec<Document> {
    let store = TokenStore::open(path, Options { segment_bytes_max: 4 << 10, ..Options::default() }).unwrap();
    let mut all = Vec::new();
    for (id, version) in [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("d", 1), ("e", 1), ("f", 1), ("b", 2)] {
        let document = Document::new(id, version, 3, dim);
        put(&store, storage, std::slice::from_ref(&document));
        all.push(document);
    }
    store.delete(&namespace(), None, &["c"]).unwrap();
    assert!(segments(path).len() > 1, "{storage:?}");
    all
}

#[test]
fn no_flipped_bit_is_ever_served() {
    for (storage, dim) in STORAGES.into_iter().zip([128, 192, 2048]) {
        let original = folder();
        let documents = build(original.path(), storage, dim);
        let copied = folder();
        copy(original.path(), copied.path());
        let mut outcomes = [0; 3];
        let files = segments(copied.path()).into_iter().chain([copied.path().join("MANIFEST")]);
        for path in files {
            let bytes = fs::read(&path).unwrap();
            // Behind the last batch there is only a hole.
            let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
            for at in 0..(used + 64).min(bytes.len()) {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(&path, &flipped).unwrap();
                let case = format!("{storage:?}, byte {at} of {}", path.display());
                match TokenStore::open_read_only(copied.path()) {
                    Ok(store) => {
                        assert_nothing_else(&store, storage, &documents, &case);
                        assert!(store.get(&namespace(), MODEL, "c").is_none(), "{case}: c was deleted");
                        let corrupt = store.stats().corrupt_records;
                        assert_eq!(store.take_corrupt_records().len() as u64, corrupt);
                        outcomes[usize::from(corrupt > 0)] += 1;
                    }
                    Err(OpenError::Disk(error)) => panic!("{case}: {error}"),
                    Err(error) => {
                        assert!(error.to_string().contains(path.to_str().unwrap()), "{case}: {error}");
                        outcomes[2] += 1;
                    }
                }
            }
            fs::write(&path, &bytes).unwrap();
        }
        println!("{storage:?}: padding, vectors, structure: {outcomes:?}");
        assert!(outcomes.iter().all(|count| *count > 0), "{storage:?}: {outcomes:?}");
    }
}

#[test]
fn a_flipped_bit_is_found_by_who_writes_too() {
    let original = folder();
    let documents = build(original.path(), Storage::F16, 128);
    let copied = folder();
    for (index, path) in segments(original.path()).into_iter().enumerate() {
        let bytes = fs::read(&path).unwrap();
        let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        for at in (index..used).step_by(13) {
            copy(original.path(), copied.path());
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x80;
            let path = segments(copied.path()).swap_remove(index);
            fs::write(path, &flipped).unwrap();
            let case = format!("byte {at} of segment {index}");
            let Ok(store) = TokenStore::open(copied.path(), small()) else { continue };
            store.compact(Compact::All).unwrap();
            assert_nothing_else(&store, Storage::F16, &documents, &case);
            drop(store);
            let store = TokenStore::open(copied.path(), small()).unwrap();
            for id in ["a", "b"] {
                let stored = store.get(&namespace(), MODEL, id);
                let last = Document::new(id, 2, 3, 128);
                assert!(stored.is_none_or(|stored| last.is(&stored)), "{case}: {id} of before came back");
            }
            assert!(store.get(&namespace(), MODEL, "c").is_none(), "{case}: c came back");
            assert!(store.verify().unwrap().corrupt_records.is_empty(), "{case}");
            drop(store);
            fs::remove_dir_all(copied.path()).unwrap();
        }
    }
}

#[test]
fn a_damaged_document_is_missing_reported_and_healed_by_a_put() {
    let folder = folder();
    let store = TokenStore::open(folder.path(), small()).unwrap();
    let [a, b] = ["a", "b"].map(|id| Document::new(id, 1, 4, 64));
    put(&store, Storage::F16, &[a.clone(), b.clone()]);
    drop(store);
    let path = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let vectors = 256 + 64 + 192;
    bytes[vectors + 7] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let store = TokenStore::open(folder.path(), small()).unwrap();
    let report = store.verify().unwrap();
    assert_eq!((report.documents, report.corrupt_files.len(), report.corrupt_records.len()), (2, 0, 1));
    let record = &report.corrupt_records[0];
    assert_eq!((record.id.as_str(), &record.file), ("a", &path));
    for _ in 0..2 {
        assert!(store.get(&namespace(), MODEL, "a").is_none());
    }
    assert_eq!(store.take_corrupt_records(), report.corrupt_records);
    assert!(store.take_corrupt_records().is_empty() && store.stats().corrupt_records == 1);
    assert_stored(&store, Storage::F16, [&b]);
    put(&store, Storage::F16, std::slice::from_ref(&a));
    assert_stored(&store, Storage::F16, [&a, &b]);
    store.compact(Compact::All).unwrap();
    assert_stored(&store, Storage::F16, [&a, &b]);
    assert_eq!(store.verify().unwrap().corrupt_records, []);

    // The structure of a file that is open already.
    let path = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[256 + 70] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let report = store.verify().unwrap();
    assert_eq!(report.corrupt_files.len(), 1, "{report:?}");
    assert_eq!(report.corrupt_files[0].file, path);
    drop(store);
    assert!(matches!(TokenStore::open(folder.path(), small()), Err(OpenError::CorruptSegment(_))));
}

#[test]
fn files_that_are_missing_or_foreign_are_named() {
    let original = folder();
    let store = TokenStore::open(original.path(), small()).unwrap();
    let documents: Vec<_> = (0..30).map(|n| Document::new(&format!("d{n}"), n, 20, 64)).collect();
    documents.chunks(3).for_each(|batch| put(&store, Storage::F16, batch));
    store.put(&namespace(), MODEL, layout(Storage::F16, 64), &[]).unwrap();
    drop(store);
    let files = segments(original.path());
    let cases: [(&str, &dyn Fn(&Path)); 5] = [
        ("no manifest", &|path| fs::remove_file(path.join("MANIFEST")).unwrap()),
        ("no segment", &|path| fs::remove_file(&segments(path)[0]).unwrap()),
        ("an empty segment", &|path| fs::write(&segments(path)[0], []).unwrap()),
        ("another's segment", &|path| assert!(fs::copy(&segments(path)[0], &segments(path)[1]).is_ok())),
        ("a short segment", &|path| {
            let bytes = fs::read(&segments(path)[0]).unwrap();
            fs::write(&segments(path)[0], &bytes[..bytes.len() - 64]).unwrap();
        }),
    ];
    for (case, damage) in cases {
        let copied = folder();
        copy(original.path(), copied.path());
        damage(copied.path());
        let error = TokenStore::open(copied.path(), small()).unwrap_err();
        println!("{case}: {error}");
        assert!(!matches!(error, OpenError::Locked { .. }), "{case}: {error}");
        assert_eq!(segments(copied.path()).len(), files.len() - usize::from(case == "no segment"), "{case}");
    }
}

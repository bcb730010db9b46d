//! Compaction frees what is dead, and nobody notices.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use sluice_kernels::tokens::Storage;
use sluice_tokenstore::{Compact, CompactError, Compacted, TokenStore};

use crate::fixture::{Document, MODEL, STORAGES, assert_stored, folder, namespace, put, segments, small};

#[test]
fn what_is_dead_is_freed_and_what_is_live_stays() {
    for storage in STORAGES {
        let folder = folder();
        let store = TokenStore::open(folder.path(), small()).unwrap();
        let old: Vec<_> = (0..60).map(|n| Document::new(&format!("d{n}"), n, 20, 64)).collect();
        old.chunks(3).for_each(|batch| put(&store, storage, batch));
        let new: Vec<_> = (0..30).map(|n| Document::new(&format!("d{n}"), n + 100, 20, 64)).collect();
        new.chunks(3).for_each(|batch| put(&store, storage, batch));
        let deleted: Vec<_> = (20..50).map(|n| format!("d{n}")).collect();
        assert_eq!(store.delete(&namespace(), None, &deleted).unwrap(), 30);
        let live = || new[..20].iter().chain(&old[50..]);
        assert_stored(&store, storage, live());

        let held = store.lookup(&namespace(), MODEL, &["d0", "d59"]);
        let before = store.stats().collections.remove(0);
        let compacted = store.compact(Compact::All).unwrap();
        let after = store.stats().collections.remove(0);
        assert_stored(&store, storage, live());
        assert_eq!((after.documents, after.rows), (before.documents, before.rows));
        assert_eq!((after.dead_bytes, after.live_bytes), (0, before.live_bytes), "{storage:?}");
        let files = (compacted.segments_before as u64, compacted.segments_after as u64);
        assert_eq!(files, (before.segments, after.segments), "{storage:?}");
        assert_eq!((compacted.bytes_before, compacted.bytes_after), (before.file_bytes, after.file_bytes));
        assert!(after.file_bytes < before.file_bytes);
        assert_eq!(segments(folder.path()).len() as u64, after.segments, "old files are gone");
        for (before, after) in held.iter().zip(store.lookup(&namespace(), MODEL, &["d0", "d59"])) {
            let (before, after) = (before.as_ref().unwrap(), after.unwrap());
            assert_eq!(before.key(), after.key(), "the same vectors, the same key");
            let document = live().find(|document| document.is(before)).unwrap();
            document.assert_stored(storage, before);
        }
        drop(store);
        assert_stored(&TokenStore::open(folder.path(), small()).unwrap(), storage, live());
    }
}

#[test]
fn a_share_chooses_segments() {
    let folder = folder();
    let store = TokenStore::open(folder.path(), small()).unwrap();
    let documents: Vec<_> = (0..24).map(|n| Document::new(&format!("d{n:02}"), n, 20, 64)).collect();
    documents.chunks(1).for_each(|batch| put(&store, Storage::F16, batch));
    let files = segments(folder.path());
    assert!(files.len() >= 4, "{files:?}");
    assert_eq!(store.compact(Compact::DeadShare(0.0)).unwrap(), Compacted::default());
    // Most of the first segment, one document of the second.
    let ids = ["d00", "d01", "d02", "d03", "d07"];
    assert_eq!(store.delete(&namespace(), None, &ids).unwrap(), 5);
    let compacted = store.compact(Compact::DeadShare(0.5)).unwrap();
    assert_eq!(compacted.segments_before, 1, "{compacted:?}");
    assert_eq!(segments(folder.path())[0], files[1]);
    let live = || documents.iter().filter(|document| !ids.contains(&document.id.as_str()));
    assert_stored(&store, Storage::F16, live());
    drop(store);
    let store = TokenStore::open(folder.path(), small()).unwrap();
    assert_stored(&store, Storage::F16, live());
}

#[test]
fn tombstones_stay_as_long_as_they_hide_something() {
    let folder = folder();
    let store = TokenStore::open(folder.path(), small()).unwrap();
    let documents: Vec<_> = (0..24).map(|n| Document::new(&format!("d{n:02}"), n, 20, 64)).collect();
    documents.chunks(1).for_each(|batch| put(&store, Storage::F16, batch));
    // The tombstone lies in the last segment, which is all dead then, and what it hides in the first, which is not.
    store.delete(&namespace(), None, &["d00"]).unwrap();
    let rest: Vec<_> = documents[18..].iter().map(|document| document.id.as_str()).collect();
    store.delete(&namespace(), None, &rest).unwrap();
    let live = &documents[1..18];
    for share in [0.9, 0.5] {
        store.compact(Compact::DeadShare(share)).unwrap();
        assert_stored(&store, Storage::F16, live);
        assert_stored(&TokenStore::open_read_only(folder.path()).unwrap(), Storage::F16, live);
    }
    drop(store);
    let store = TokenStore::open(folder.path(), small()).unwrap();
    assert_stored(&store, Storage::F16, live);
    store.compact(Compact::All).unwrap();
    assert_eq!(store.stats().collections[0].dead_bytes, 0, "nothing is hidden any more, so no tombstone is left");
    let ids: Vec<_> = documents.iter().map(|document| document.id.as_str()).collect();
    store.delete(&namespace(), None, &ids).unwrap();
    store.compact(Compact::All).unwrap();
    assert!(store.stats().collections.is_empty() && segments(folder.path()).is_empty());
    put(&store, Storage::Int8, &[Document::new("d00", 9, 1, 8)]);
    drop(store);
    let store = TokenStore::open(folder.path(), small()).unwrap();
    assert_stored(&store, Storage::Int8, &[Document::new("d00", 9, 1, 8)]);
}

#[test]
fn readers_writers_and_compaction_at_once() {
    const IDS: usize = 40;
    const ROUNDS: u64 = 60;
    let folder = folder();
    let store = &TokenStore::open(folder.path(), small()).unwrap();
    let document = |n: usize, version| Document::new(&format!("d{n}"), version, 1 + n % 7, 64);
    // Documents below IDS are replaced all the time, those above are put once, and those further above deleted.
    let steady: Vec<_> = (IDS..2 * IDS).map(|n| document(n, 0)).collect();
    let first: Vec<_> = (0..IDS).map(|n| document(n, 0)).collect();
    steady.chunks(10).chain(first.chunks(10)).for_each(|batch| put(store, Storage::F16, batch));
    let done = AtomicBool::new(false);
    let compactions = AtomicUsize::new(0);
    thread::scope(|scope| {
        for reader in 0..2 {
            let (done, steady) = (&done, &steady);
            scope.spawn(move || {
                let mut oldest = vec![0; IDS];
                while !done.load(Ordering::Relaxed) {
                    let n = reader;
                    let ids: Vec<_> = (n..2 * IDS).map(|n| format!("d{n}")).collect();
                    for (n, stored) in (n..).zip(store.lookup(&namespace(), MODEL, &ids)) {
                        let stored = stored.unwrap_or_else(|| panic!("d{n} is missing"));
                        if n >= IDS {
                            steady[n - IDS].assert_stored(Storage::F16, &stored);
                            continue;
                        }
                        let version = (oldest[n]..=ROUNDS).find(|version| document(n, *version).is(&stored));
                        oldest[n] = version.unwrap_or_else(|| panic!("d{n} is older than what was seen before"));
                        document(n, oldest[n]).assert_stored(Storage::F16, &stored);
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let which = [Compact::All, Compact::DeadShare(0.3)][compactions.load(Ordering::Relaxed) % 2];
                store.compact(which).unwrap();
                compactions.fetch_add(1, Ordering::Relaxed);
            }
        });
        let short: Vec<_> = (2 * IDS..3 * IDS).map(|n| document(n, 0)).collect();
        let ids: Vec<_> = short.iter().map(|document| &document.id).collect();
        for version in 1..=ROUNDS {
            let batch: Vec<_> = (0..IDS).map(|n| document(n, version)).collect();
            batch.chunks(10).for_each(|batch| put(store, Storage::F16, batch));
            short.chunks(10).for_each(|batch| put(store, Storage::F16, batch));
            assert_eq!(store.delete(&namespace(), None, &ids).unwrap(), IDS);
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{} compactions", compactions.load(Ordering::Relaxed));
    let live: Vec<_> = (0..IDS).map(|n| document(n, ROUNDS)).chain(steady).collect();
    assert_stored(store, Storage::F16, &live);
    assert_stored(&TokenStore::open_read_only(folder.path()).unwrap(), Storage::F16, &live);
}

#[test]
fn another_process_reads_through_it() {
    let folder = folder();
    let writer = TokenStore::open(folder.path(), small()).unwrap();
    let documents: Vec<_> = (0..30).map(|n| Document::new(&format!("d{n}"), n, 20, 64)).collect();
    documents.chunks(3).for_each(|batch| put(&writer, Storage::F16, batch));
    let reader = TokenStore::open_read_only(folder.path()).unwrap();
    assert!(matches!(reader.compact(Compact::All), Err(CompactError::ReadOnly)));
    let key = |store: &TokenStore| store.get(&namespace(), MODEL, "d29").unwrap().key();
    let before = key(&reader);
    writer.delete(&namespace(), None, &["d0", "d1", "d2"]).unwrap();
    writer.compact(Compact::All).unwrap();
    assert_stored(&reader, Storage::F16, &documents);
    reader.refresh().unwrap();
    assert_stored(&reader, Storage::F16, &documents[3..]);
    assert_eq!(key(&reader), before, "a document that has only moved keeps its key");
}

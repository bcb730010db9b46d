//! What is put is found, by whoever opens the store.

use sluice_kernels::tokens::{Storage, Tokens};
use sluice_tokenstore::{
    DeleteError, DocumentFault, ModelDigest, Namespace, OpenError, Options, Put, PutDocument, PutError, TokenStore,
};

use crate::fixture::{
    Document, MODEL, OTHER_MODEL, STORAGES, assert_stored, folder, layout, namespace, put, segments, small,
};

#[test]
fn every_storage_comes_back_to_the_bit() {
    for storage in STORAGES {
        for (rows, dim) in [(1, 1), (1, 128), (3, 5), (17, 96), (2, 1031)] {
            let folder = folder();
            let documents: Vec<_> = (0..5).map(|n| Document::new(&format!("d{n}"), n, rows, dim)).collect();
            let store = TokenStore::open(folder.path(), small()).unwrap();
            put(&store, storage, &documents[..3]);
            put(&store, storage, &documents[3..]);
            assert_stored(&store, storage, &documents);
            drop(store);
            assert_stored(&TokenStore::open(folder.path(), small()).unwrap(), storage, &documents);
            let store = TokenStore::open_read_only(folder.path()).unwrap();
            assert_stored(&store, storage, &documents);
            for stored in store.lookup(&namespace(), MODEL, &["d0", "d4"]).into_iter().flatten() {
                let addresses = match stored.tokens() {
                    Tokens::F16(x) => vec![x.as_ptr() as usize],
                    Tokens::Int8 { codes, scales } => vec![codes.as_ptr() as usize, scales.as_ptr() as usize],
                    Tokens::Binary(bits) => vec![bits.as_ptr() as usize],
                    Tokens::F32(_) => panic!("f32 is not stored"),
                };
                assert!(addresses.iter().all(|address| address % 64 == 0), "{storage:?} {rows} × {dim}");
            }
        }
    }
}

#[test]
fn the_last_write_counts() {
    let folder = folder();
    let store = TokenStore::open(folder.path(), small()).unwrap();
    let [a, b, c] = [1, 2, 3].map(|version| Document::new("same", version, 4, 16));
    let layout = layout(Storage::F16, 16);
    let put = |documents: &[PutDocument<'_>]| store.put(&namespace(), MODEL, layout, documents).unwrap();
    assert_eq!((put(&[a.put()]).replaced, put(&[a.put(), b.put()]).replaced), (0, 2));
    let second = store.get(&namespace(), MODEL, "same").unwrap();
    put(&[c.put()]);
    let third = store.get(&namespace(), MODEL, "same").unwrap();
    assert_ne!(second.key(), third.key());
    b.assert_stored(Storage::F16, &second);
    c.assert_stored(Storage::F16, &third);
    assert_eq!(put(&[]), Put::default());
    drop(store);
    assert_stored(&TokenStore::open(folder.path(), small()).unwrap(), Storage::F16, [&c]);
    b.assert_stored(Storage::F16, &second);
}

#[test]
fn many_segments_are_one_collection() {
    for storage in STORAGES {
        let folder = folder();
        let documents: Vec<_> = (0..60).map(|n| Document::new(&format!("d{n}"), n, 30, 64)).collect();
        let store = TokenStore::open(folder.path(), small()).unwrap();
        documents.chunks(2).for_each(|batch| put(&store, storage, batch));
        assert_stored(&store, storage, &documents);
        let stats = store.stats().collections.remove(0);
        assert!(stats.segments > 1, "{storage:?}: {stats:?}");
        assert_eq!((stats.rows, stats.dead_bytes), (60 * 30, 0), "{storage:?}");
        assert_eq!(stats.segments, segments(folder.path()).len() as u64);
        drop(store);
        let store = TokenStore::open(folder.path(), small()).unwrap();
        assert_stored(&store, storage, &documents);
        assert_eq!(store.stats().collections.remove(0), stats);
    }
}

#[test]
fn deleted_documents_stay_deleted() {
    let folder = folder();
    let documents: Vec<_> = (0..40).map(|n| Document::new(&format!("d{n}"), n, 30, 64)).collect();
    let store = TokenStore::open(folder.path(), small()).unwrap();
    documents.chunks(4).for_each(|batch| put(&store, Storage::F16, batch));
    let before = store.lookup(&namespace(), MODEL, &["d0"]);
    let odd: Vec<_> = documents.iter().skip(1).step_by(2).map(|document| document.id.as_str()).collect();
    let [none, elsewhere] = [&["nothing"][..], &["d0"]];
    assert_eq!(store.delete(&namespace(), Some(MODEL), &odd).unwrap(), 20);
    assert_eq!(store.delete(&namespace(), Some(MODEL), &odd).unwrap(), 0);
    assert_eq!(store.delete(&namespace(), None, none).unwrap(), 0);
    assert_eq!(store.delete(&namespace(), Some(OTHER_MODEL), elsewhere).unwrap(), 0);
    assert_eq!(store.delete(&Namespace::new("other").unwrap(), None, elsewhere).unwrap(), 0);
    let even = || documents.iter().step_by(2);
    assert_stored(&store, Storage::F16, even());
    assert!(store.get(&namespace(), MODEL, "d1").is_none());
    put(&store, Storage::F16, &documents[1..2]);
    drop(store);
    let store = TokenStore::open(folder.path(), small()).unwrap();
    assert_stored(&store, Storage::F16, even().chain(&documents[1..2]));
    assert_eq!(store.delete(&namespace(), None, &["d0", "d0", "d1"]).unwrap(), 2);
    documents[0].assert_stored(Storage::F16, before[0].as_ref().unwrap());
    assert_stored(&store, Storage::F16, even().skip(1));
}

#[test]
fn namespaces_and_models_do_not_meet() {
    let folder = folder();
    let store = TokenStore::open(folder.path(), Options { collections_max: 3, ..small() }).unwrap();
    let names = ["a", "b"].map(|name| Namespace::new(name).unwrap());
    let keys = [(&names[0], MODEL, 8), (&names[0], OTHER_MODEL, 16), (&names[1], MODEL, 24)];
    let documents: Vec<_> = (0..3).map(|n| Document::new("same", n, 2, 8 * (n as usize + 1))).collect();
    for ((name, model, dim), document) in keys.into_iter().zip(&documents) {
        store.put(name, model, layout(Storage::Int8, dim), &[document.put()]).unwrap();
    }
    let refused = store.put(&names[1], OTHER_MODEL, layout(Storage::Int8, 8), &[documents[0].put()]);
    assert!(matches!(refused, Err(PutError::TooManyCollections { max: 3 })), "{refused:?}");
    for ((name, model, _), document) in keys.into_iter().zip(&documents) {
        document.assert_stored(Storage::Int8, &store.get(name, model, "same").unwrap());
    }
    assert_eq!(store.delete(&names[0], None, &["same"]).unwrap(), 2);
    let found = keys.map(|(name, model, _)| store.get(name, model, "same").is_some());
    assert_eq!(found, [false, false, true]);
}

#[test]
fn what_cannot_be_stored_is_refused_and_nothing_of_its_batch_stored() {
    let folder = folder();
    let store = TokenStore::open(folder.path(), small()).unwrap();
    let good = Document::new("good", 0, 2, 8);
    let refuse = |document: PutDocument<'_>, expected: DocumentFault| {
        let result = store.put(&namespace(), MODEL, layout(Storage::F16, 8), &[good.put(), document]);
        match result {
            Err(PutError::Document { position: 1, fault }) => assert_eq!(fault, expected),
            other => panic!("{expected:?} expected: {other:?}"),
        }
        assert!(store.get(&namespace(), MODEL, "good").is_none());
    };
    let long = "x".repeat(513);
    let large = vec![0.0; 8 * 1024];
    refuse(PutDocument { id: "", ..good.put() }, DocumentFault::Id { bytes: 0 });
    refuse(PutDocument { id: &long, ..good.put() }, DocumentFault::Id { bytes: 513 });
    refuse(PutDocument { vectors: Tokens::F32(&[]), ..good.put() }, DocumentFault::NoRows);
    let nan = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN];
    refuse(PutDocument { vectors: Tokens::F32(&nan), ..good.put() }, DocumentFault::NotFinite { row: 0 });
    let [bytes, max] = [64 + 128 + 16 * 1024 + 64, (16 << 10) - 256];
    refuse(PutDocument { vectors: Tokens::F32(&large), ..good.put() }, DocumentFault::TooLarge { bytes, max });

    let half = &large[..8 * 512];
    let two = [PutDocument { vectors: Tokens::F32(half), ..good.put() }; 2];
    let result = store.put(&namespace(), MODEL, layout(Storage::F16, 8), &two);
    assert!(matches!(result, Err(PutError::BatchTooLarge { position: 1, .. })), "{result:?}");
    assert!(store.stats().collections.is_empty());

    put(&store, Storage::F16, std::slice::from_ref(&good));
    for asked in [layout(Storage::F16, 4), layout(Storage::Int8, 8)] {
        let result = store.put(&namespace(), MODEL, asked, &[good.put()]);
        let expected = layout(Storage::F16, 8);
        assert!(matches!(result, Err(PutError::Layout { collection, .. }) if collection == expected), "{result:?}");
    }
}

#[test]
fn one_writes_and_others_read() {
    let folder = folder();
    assert!(matches!(TokenStore::open_read_only(folder.path().join("none")), Err(OpenError::Disk(_))));
    let writer = TokenStore::open(folder.path(), small()).unwrap();
    assert!(matches!(TokenStore::open(folder.path(), small()), Err(OpenError::Locked { .. })));
    let reader = TokenStore::open_read_only(folder.path()).unwrap();
    let documents: Vec<_> = (0..40).map(|n| Document::new(&format!("d{n}"), n, 30, 64)).collect();
    let layout = layout(Storage::F16, 64);
    let refused = reader.put(&namespace(), MODEL, layout, &[documents[0].put()]);
    assert!(matches!(refused, Err(PutError::ReadOnly)));
    assert!(matches!(reader.delete(&namespace(), None, &["d0"]), Err(DeleteError::ReadOnly)));

    assert_stored(&reader, Storage::F16, []);
    let mut keys: Vec<u64> = Vec::new();
    for end in 1..=documents.len() {
        put(&writer, Storage::F16, &documents[end - 1..end]);
        reader.refresh().unwrap();
        assert_stored(&reader, Storage::F16, &documents[..end]);
        let ids: Vec<_> = documents[..end].iter().map(|document| &document.id).collect();
        let found = reader.lookup(&namespace(), MODEL, &ids);
        let found: Vec<u64> = found.into_iter().flatten().map(|stored| stored.key()).collect();
        assert_eq!(found[..end - 1], keys, "keys of what did not change");
        keys = found;
    }
    writer.delete(&namespace(), None, &["d0", "d39"]).unwrap();
    assert_stored(&reader, Storage::F16, &documents);
    reader.refresh().unwrap();
    assert_stored(&reader, Storage::F16, &documents[1..39]);
    drop(writer);
    TokenStore::open(folder.path(), small()).unwrap();
}

#[test]
fn options_have_bounds() {
    let folder = folder();
    for options in [
        Options { segment_bytes_max: 4095, ..Options::default() },
        Options { segment_bytes_max: u64::MAX, ..Options::default() },
        Options { collections_max: 0, ..Options::default() },
    ] {
        assert!(matches!(TokenStore::open(folder.path(), options), Err(OpenError::Option { .. })), "{options:?}");
    }
    let store = TokenStore::open(folder.path(), Options::default()).unwrap();
    assert!(store.get(&namespace(), ModelDigest([0; 32]), "x").is_none());
}

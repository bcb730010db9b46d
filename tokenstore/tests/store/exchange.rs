//! What was exported is imported to the bit, other tools' files are read, and hostile ones are refused.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use half::f16;
use sluice_kernels::tokens::Storage;
use sluice_tokenstore::{DocumentFault, Exchanged, ExportError, ImportError, ImportTarget, PutError, TokenStore};

use crate::fixture::{Document, MODEL, OTHER_MODEL, STORAGES, assert_stored, folder, layout, namespace, put, small};

fn target(storage: Storage, dim: usize) -> ImportTarget {
    ImportTarget { namespace: namespace(), model: MODEL, layout: layout(storage, dim) }
}

fn open(path: &Path) -> TokenStore {
    TokenStore::open(path, small()).unwrap()
}

#[test]
fn what_was_exported_comes_back_to_the_bit() {
    for storage in STORAGES {
        let folder = folder();
        let [file, numpy] = ["out.safetensors", "numpy"].map(|name| folder.path().join(name));
        let documents: Vec<_> =
            (0..50).map(|n| Document::new(&format!("dé\"{n}"), n, 1 + n as usize % 9, 100)).collect();
        let store = open(&folder.path().join("from"));
        documents.chunks(5).for_each(|batch| put(&store, storage, batch));
        put(&store, storage, &[Document::new("gone", 1, 2, 100)]);
        store.delete(&namespace(), None, &["gone"]).unwrap();
        let rows = documents.iter().map(|document| document.vectors.len() as u64 / 100).sum();
        let expected = Exchanged { documents: 50, rows };
        assert_eq!(store.export_safetensors(&namespace(), MODEL, &file).unwrap(), expected);
        assert_eq!(store.export_numpy(&namespace(), MODEL, &numpy).unwrap(), expected);
        let missing = store.export_numpy(&namespace(), OTHER_MODEL, &numpy);
        assert!(matches!(missing, Err(ExportError::NoCollection { .. })));

        let by_safetensors = open(&folder.path().join("by safetensors"));
        assert_eq!(by_safetensors.import_safetensors(&target(storage, 100), &file).unwrap(), expected);
        let by_numpy = open(&folder.path().join("by numpy"));
        assert_eq!(by_numpy.import_numpy(&target(storage, 100), &numpy).unwrap(), expected);
        for store in [by_safetensors, by_numpy] {
            assert_stored(&store, storage, &documents);
            let again = folder.path().join("again.safetensors");
            store.export_safetensors(&namespace(), MODEL, &again).unwrap();
            assert!(fs::read(&again).unwrap() == fs::read(&file).unwrap(), "{storage:?}: the same bytes");
        }
    }
}

#[test]
fn the_safetensors_crate_reads_it() {
    let folder = folder();
    let file = folder.path().join("out.safetensors");
    let store = open(&folder.path().join("store"));
    let documents = [Document::new("a", 1, 2, 6), Document::new("bc", 2, 3, 6)];
    put(&store, Storage::Int8, &documents);
    store.export_safetensors(&namespace(), MODEL, &file).unwrap();
    let bytes = fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shape = |name| tensors.tensor(name).unwrap().shape().to_vec();
    assert_eq!((shape("vectors"), shape("scales")), (vec![5, 6], vec![5]));
    let cu_seqlens: Vec<u8> = [0_i64, 2, 5].iter().flat_map(|sum| sum.to_le_bytes()).collect();
    assert_eq!(tensors.tensor("cu_seqlens").unwrap().data(), cu_seqlens);
    assert_eq!(tensors.tensor("ids").unwrap().data(), b"abc");
    assert_eq!(tensors.tensor("truncated").unwrap().data(), [1, 0]);
    let hashes = documents.each_ref().map(|document| document.content_hash.0).concat();
    assert_eq!(tensors.tensor("content_hashes").unwrap().data(), hashes);
}

/// Files as another tool writes them: f32 or f16, no flags, fields of its own.
fn write_numpy(path: &Path, descr: &str, documents: &[Document], cu_seqlens: &[u32]) {
    let array = |descr: &str, shape: &str, data: Vec<u8>| {
        let line = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n");
        let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
        bytes.extend((line.len() as u32).to_le_bytes());
        [bytes, line.into_bytes(), data].concat()
    };
    let components = documents.iter().flat_map(|document| &document.vectors);
    let data: Vec<u8> = match descr {
        "<f4" => components.flat_map(|x| x.to_le_bytes()).collect(),
        _ => components.flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
    };
    let dim = documents[0].dim;
    let rows = documents.iter().map(|document| document.vectors.len() / dim).sum::<usize>();
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("vectors.npy"), array(descr, &format!("({rows}, {dim})"), data)).unwrap();
    let sums = cu_seqlens.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    fs::write(path.join("cu_seqlens.npy"), array("<u4", &format!("({},)", cu_seqlens.len()), sums)).unwrap();
    let line = |document: &Document| {
        format!("{{\"text\": \"…\", \"id\": {:?}, \"content_hash\": \"{}\"}}\n", document.id, document.content_hash)
    };
    fs::write(path.join("ids.jsonl"), documents.iter().map(line).collect::<String>()).unwrap();
}

#[test]
fn files_of_other_tools_are_quantised() {
    let documents: Vec<_> = (0..4).map(|n| Document::new(&format!("d{n}"), 2 * n, 3, 24)).collect();
    for storage in STORAGES {
        for descr in ["<f4", "<f2"] {
            let folder = folder();
            let mut expected = documents.clone();
            if descr == "<f2" {
                let round = |x: &mut f32| *x = f16::from_f32(*x).to_f32();
                expected.iter_mut().flat_map(|document| &mut document.vectors).for_each(round);
            }
            write_numpy(folder.path(), descr, &documents, &[0, 3, 6, 9, 12]);
            let store = open(&folder.path().join("store"));
            store.import_numpy(&target(storage, 24), folder.path()).unwrap();
            assert_stored(&store, storage, &expected);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let documents: Vec<_> = (0..4).map(|n| Document::new(&format!("d{n}"), n, 3, 24)).collect();
    let right = [0, 3, 6, 9, 12];
    type Damage<'a> = &'a dyn Fn(&Path);
    let lines = |path: &Path, change: &dyn Fn(String) -> String| {
        let path = path.join("ids.jsonl");
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    };
    let cases: [(&str, &[u32], &str, Damage<'_>); 12] = [
        ("cu_seqlens.npy", &[0, 3, 6, 9, 11], "an end that is not the rows", &|_| ()),
        ("cu_seqlens.npy", &[1, 3, 6, 9, 12], "a beginning that is not 0", &|_| ()),
        ("cu_seqlens.npy", &[0, 6, 3, 9, 12], "a descent", &|_| ()),
        ("cu_seqlens.npy", &[0, 99, 3, 9, 12], "an offset beyond the end", &|_| ()),
        ("cu_seqlens.npy", &[], "nothing", &|_| ()),
        ("vectors.npy", &right, "no vectors", &|path| fs::remove_file(path.join("vectors.npy")).unwrap()),
        ("scales.npy", &right, "scales that nothing needs", &|path| {
            assert!(fs::copy(path.join("cu_seqlens.npy"), path.join("scales.npy")).is_ok());
        }),
        ("ids.jsonl", &right, "a line too many", &|path| lines(path, &|text| format!("{text}{{}}\n"))),
        ("ids.jsonl", &right, "a line too few", &|path| lines(path, &|text| text[..text.len() - 90].to_owned())),
        ("ids.jsonl", &right, "no hash", &|path| lines(path, &|text| text.replace("content_hash", "hash"))),
        ("ids.jsonl", &right, "a short hash", &|path| lines(path, &|text| text.replace("\"}", "0\"}"))),
        ("ids.jsonl", &right, "an endless line", &|path| lines(path, &|_| " ".repeat(1 << 20))),
    ];
    for (file, cu_seqlens, case, damage) in cases {
        let folder = folder();
        write_numpy(folder.path(), "<f4", &documents, cu_seqlens);
        damage(folder.path());
        let store = open(&folder.path().join("store"));
        match store.import_numpy(&target(Storage::F16, 24), folder.path()) {
            Err(ImportError::File(corrupt)) => assert!(corrupt.file.ends_with(file), "{case}: {corrupt}"),
            other => panic!("{case}: {other:?}"),
        }
    }

    let folder = folder();
    let store = open(&folder.path().join("store"));
    write_numpy(folder.path(), "<f4", &documents, &[0, 3, 3, 9, 12]);
    let found = store.import_numpy(&target(Storage::F16, 24), folder.path());
    let is_refused = matches!(
        found,
        Err(ImportError::Put { stored: 0, source: PutError::Document { position: 1, fault: DocumentFault::NoRows } })
    );
    assert!(is_refused, "{found:?}");
    assert!(store.import_numpy(&target(Storage::F16, 23), folder.path()).is_err(), "another dim");
    let file = folder.path().join("out.safetensors");
    put(&store, Storage::F16, &documents);
    store.export_safetensors(&namespace(), MODEL, &file).unwrap();
    let other = ImportTarget { model: OTHER_MODEL, ..target(Storage::F16, 24) };
    let found = store.import_safetensors(&other, &file);
    let is_refused = matches!(found, Err(ImportError::Model { expected: OTHER_MODEL, found: MODEL }));
    assert!(is_refused, "{found:?}");
}

#[test]
fn hostile_files_are_refused_without_harm() {
    for storage in STORAGES {
        let folder = folder();
        let store = open(&folder.path().join("store"));
        let documents: Vec<_> = (0..3).map(|n| Document::new(&format!("d{n}"), n, 2, 16)).collect();
        put(&store, storage, &documents);
        let [file, numpy] = ["file", "numpy"].map(|name| folder.path().join(name));
        store.export_safetensors(&namespace(), MODEL, &file).unwrap();
        store.export_numpy(&namespace(), MODEL, &numpy).unwrap();
        let mut refused = 0;
        let mut import = |path: &Path, case: &str| {
            // A store for all of them: what is imported by one is replaced by the next.
            let imported = catch_unwind(AssertUnwindSafe(|| match path == file {
                true => store.import_safetensors(&target(storage, 16), &file),
                false => store.import_numpy(&target(storage, 16), &numpy),
            }));
            let imported = imported.unwrap_or_else(|_| panic!("{storage:?}: {case} of {} panics", path.display()));
            refused += usize::from(imported.is_err());
        };
        let mut paths = vec![file.clone()];
        paths.extend(fs::read_dir(&numpy).unwrap().map(|entry| entry.unwrap().path()));
        for path in paths {
            let bytes = fs::read(&path).unwrap();
            for at in 0..bytes.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut flipped = bytes.clone();
                    flipped[at] ^= flip;
                    // Most of a NumPy file is the same filler.
                    if flip == 0x01 || at < 8 || at % 16 == 0 {
                        fs::write(&path, &flipped).unwrap();
                        import(&path, &format!("flip {flip:#x} at {at}"));
                    }
                }
            }
            for length in (0..bytes.len()).step_by(7) {
                fs::write(&path, &bytes[..length]).unwrap();
                import(&path, &format!("cut at {length}"));
            }
            let huge = [&u64::MAX.to_le_bytes(), &bytes[8..]].concat();
            fs::write(&path, huge).unwrap();
            import(&path, "a huge header");
            fs::write(&path, &bytes).unwrap();
        }
        assert!(refused > 500, "{storage:?}: {refused} refused");
        assert_eq!(store.verify().unwrap().corrupt_records, []);
    }
}

#[test]
fn claims_are_compared_with_the_file_before_anything_is_allocated() {
    let folder = folder();
    let store = open(&folder.path().join("store"));
    let file = folder.path().join("claims");
    let headers = [
        r#"{"vectors":{"dtype":"F16","shape":[4611686018427387904,16],"data_offsets":[0,0]}}"#,
        r#"{"vectors":{"dtype":"F16","shape":[1152921504606846976,16],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"vectors":{"dtype":"F16","shape":[2,16],"data_offsets":[64,0]}}"#,
        r#"{"vectors":{"dtype":"BF16","shape":[0,16],"data_offsets":[0,0]}}"#,
        r#"{"__metadata__":{"model_digest":"a5"}}"#,
        "{}",
        "",
    ];
    for header in headers {
        fs::write(&file, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
        let found = store.import_safetensors(&target(Storage::F16, 16), &file);
        assert!(matches!(found, Err(ImportError::File(_))), "{header}: {found:?}");
    }
}

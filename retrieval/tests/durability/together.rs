//! Writes and searches side by side: no error, and no document of two versions.

use std::{
    collections::BTreeSet,
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use sluice_retrieval::{filter::Filter, payload::Scalar, truth::Operation};
use tempfile::TempDir;

use crate::{
    fixture::{Opened, document, open, wait},
    legs::{check_found, check_legs},
};

const DOCUMENTS: u32 = 60;

/// One search: everything that the index finds, as a reader shows it. Every document is of one version throughout, all of
/// them are of the same (each batch writes them all), and none is missing.
fn search(opened: &Opened) -> u64 {
    let reader = opened.collection.read().unwrap();
    for (leg, _) in opened.collection.progress() {
        wait(opened.collection.reached(&leg, reader.lsn())).unwrap();
    }
    check_found(&opened.collection, &reader, "beside writes");
    let lsn = reader.lsn();
    let value = Scalar::Integer(lsn.0.cast_signed());
    let among = reader.select(&Filter::Match { field: "batch".into(), value: value.clone() }).unwrap();
    let mut ids = BTreeSet::new();
    for (doc, text) in opened.index.search() {
        let Some(found) = reader.document(doc).unwrap() else { continue };
        assert_eq!(found.version, lsn, "all are of the last batch that is seen");
        assert_eq!(found.texts["title"], lsn.to_string());
        assert_eq!(found.texts["text"], text, "what was found is what is shown");
        assert_eq!(found.payload["batch"].scalars(), std::slice::from_ref(&value));
        assert_eq!(reader.dense(doc, "dense").unwrap().unwrap()[0], 1.0 + lsn.0 as f32);
        assert_eq!(reader.sparse(doc, "sparse").unwrap().unwrap().values, [1.0 + lsn.0 as f32]);
        assert!(among.contains(doc.0), "a filter sees the same");
        assert!(ids.insert(found.id), "once each");
    }
    assert_eq!((ids.len(), among.len()), (DOCUMENTS as usize, u64::from(DOCUMENTS)), "none is missing");
    lsn.0
}

#[test]
fn together() {
    let seconds = env::var("SLUICE_TOGETHER_SECONDS").map_or(2, |seconds| seconds.parse().expect("a number"));
    let folder = TempDir::new().unwrap();
    let opened = open(folder.path(), 1 << 30);
    let write = |batch| {
        let operations = (0..DOCUMENTS).map(|id| Operation::Upsert(document(id, batch, 100))).collect();
        assert_eq!(opened.collection.try_submit(operations).unwrap().wait().unwrap().lsn.0, batch);
    };
    write(1);
    let (over, searches) = (AtomicBool::new(false), AtomicU64::new(0));
    let last = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut seen = 0;
                while !over.load(Ordering::Acquire) {
                    let lsn = search(&opened);
                    assert!(lsn >= seen, "time goes on");
                    seen = lsn;
                    searches.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        let (begun, mut batch) = (Instant::now(), 1);
        // A search that fails ends its thread; the scope says so in the end.
        while begun.elapsed() < Duration::from_secs(seconds) || searches.load(Ordering::Acquire) < 10 && batch < 10_000
        {
            batch += 1;
            write(batch);
            if batch % 50 == 0 {
                let legs = opened.collection.progress();
                opened.collection.rebuild(&legs[(batch / 50) as usize % legs.len()].0).unwrap();
            }
        }
        over.store(true, Ordering::Release);
        batch
    });
    println!("{last} batches of {DOCUMENTS} documents, {} searches", searches.load(Ordering::Acquire));
    assert_eq!(search(&opened), last);
    check_legs(&opened.collection, &opened.collection.read().unwrap(), "in the end");
    assert!(searches.load(Ordering::Acquire) > 0);
}

//! Every change to a file fails once, and from some point on all of them: what was acknowledged stays, what was refused
//! never appears, and the store goes on.

use std::{collections::BTreeMap, path::Path};

use sluice_kernels::tokens::{Storage, Tokens};
use tempfile::TempDir;

use crate::{
    Compact, ContentHash, Layout, ModelDigest, Namespace, Options, PutDocument, TokenStore,
    disk::{Disk, faults::Fault},
};

/// Versions by id: what must be found.
type Model = BTreeMap<String, u8>;

const MODEL: ModelDigest = ModelDigest([1; 32]);
const OPTIONS: Options = Options { segment_bytes_max: 4 << 10, collections_max: 2 };
const ROWS: usize = 6;
const DIM: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(&'static [&'static str], u8),
    Delete(&'static [&'static str]),
    Compact,
}

/// Fills segments, replaces, deletes, compacts, and goes on.
const STEPS: [Step; 9] = [
    Step::Put(&["a", "b"], 1),
    Step::Put(&["c", "a"], 2),
    Step::Delete(&["b", "nothing"]),
    Step::Put(&["d", "e"], 3),
    Step::Put(&["d", "f"], 4),
    Step::Compact,
    Step::Put(&["b"], 5),
    Step::Delete(&["a"]),
    Step::Compact,
];

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// More changes than the steps make.
const CHANGES_MAX: usize = 1_000;

fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn namespace() -> Namespace {
    Namespace::new("docs").unwrap()
}

fn vectors(id: &str, version: u8) -> Vec<f32> {
    (0..ROWS * DIM).map(|k| f32::from(id.as_bytes()[0]) + f32::from(version) / 8.0 - k as f32 / 4.0).collect()
}

fn document<'a>(id: &'a str, version: u8, vectors: &'a [f32]) -> PutDocument<'a> {
    PutDocument { id, content_hash: ContentHash([version; 32]), truncated: false, vectors: Tokens::F32(vectors) }
}

fn run(store: &TokenStore, step: Step, model: &mut Model) -> bool {
    let done = match step {
        Step::Put(ids, version) => {
            let vectors: Vec<_> = ids.iter().map(|id| vectors(id, version)).collect();
            let documents: Vec<_> =
                ids.iter().zip(&vectors).map(|(id, vectors)| document(id, version, vectors)).collect();
            let layout = Layout::new(Storage::F16, DIM).unwrap();
            store.put(&namespace(), MODEL, layout, &documents).is_ok()
        }
        Step::Delete(ids) => store.delete(&namespace(), None, ids).is_ok(),
        Step::Compact => store.compact(Compact::All).is_ok(),
    };
    if done {
        after_success(step, model);
    }
    done
}

fn after_success(step: Step, model: &mut Model) {
    match step {
        Step::Put(ids, version) => model.extend(ids.iter().map(|id| ((*id).to_owned(), version))),
        Step::Delete(ids) => model.retain(|id, _| !ids.contains(&id.as_str())),
        Step::Compact => {}
    }
}

fn is(store: &TokenStore, model: &Model) -> bool {
    IDS.iter().all(|id| {
        let found = store.get(&namespace(), MODEL, id).map(|stored| stored.content_hash().0[0]);
        found == model.get(*id).copied()
    })
}

#[track_caller]
fn assert_is(store: &TokenStore, model: &Model, case: &str) {
    for id in IDS {
        let found = store.get(&namespace(), MODEL, id).map(|stored| {
            let version = stored.content_hash().0[0];
            let Tokens::F16(found) = stored.tokens() else { panic!("{case}: {stored:?}") };
            let found: Vec<f32> = found.iter().map(|x| x.to_f32()).collect();
            assert_eq!(found, vectors(id, version), "{case}: {id}");
            version
        });
        assert_eq!(found, model.get(id).copied(), "{case}: {id}");
    }
    let stats = store.stats();
    let documents: u64 = stats.collections.iter().map(|collection| collection.documents).sum();
    assert_eq!((documents, stats.corrupt_records), (model.len() as u64, 0), "{case}");
}

/// Runs all steps with `failing` changes failing after `left`; says whether any did.
fn check(fault: Fault, left: usize, failing: usize) -> bool {
    let case = format!("{fault:?}, {failing} after {left}");
    let folder = folder();
    let disk = Disk::default();
    let store = TokenStore::open_on(disk.clone(), folder.path(), OPTIONS).unwrap();
    let mut model = Model::new();
    disk.faults.arm(fault, left, failing);
    let mut in_doubt = None;
    for step in STEPS {
        let before = model.clone();
        if !run(&store, step, &mut model) {
            in_doubt.get_or_insert((before, step));
        }
        assert_is(&store, &model, &case);
    }
    let failed = disk.faults.disarm();
    if failing == usize::MAX {
        // The process dies here, and could change nothing any more: not even take back a commit that had been written
        // when its sync failed. Only then may what failed be there after all, all of it.
        drop(store);
        let store = TokenStore::open_read_only(folder.path()).unwrap();
        if let Some((mut after, step)) = in_doubt.filter(|(before, _)| !is(&store, before)) {
            after_success(step, &mut after);
            model = after;
        }
        assert_is(&store, &model, &case);
    } else {
        assert!(run(&store, Step::Put(&["c"], 9), &mut model), "{case}");
        assert_is(&store, &model, &case);
        drop(store);
    }
    let store = TokenStore::open(folder.path(), OPTIONS).unwrap();
    assert_is(&store, &model, &case);
    for step in STEPS {
        assert!(run(&store, step, &mut model), "{case}: {step:?}");
        assert_is(&store, &model, &case);
    }
    assert!(store.verify().unwrap().corrupt_files.is_empty(), "{case}");
    drop(store);
    let store = TokenStore::open(folder.path(), OPTIONS).unwrap();
    assert_is(&store, &model, &case);
    let files = std::fs::read_dir(folder.path().join("segments")).unwrap().count() as u64;
    assert_eq!(files, store.stats().collections[0].segments, "{case}: files without use");
    failed
}

#[test]
fn a_change_that_fails_once() {
    for fault in [Fault::Refused, Fault::Torn, Fault::Misreported] {
        let changes = (0..CHANGES_MAX).take_while(|left| check(fault, *left, 1)).count();
        println!("{fault:?}: {changes} changes");
        assert!((40..CHANGES_MAX).contains(&changes), "{fault:?}: {changes}");
    }
}

#[test]
fn two_changes_that_fail() {
    for fault in [Fault::Refused, Fault::Torn, Fault::Misreported] {
        assert!((0..CHANGES_MAX).take_while(|left| check(fault, *left, 2)).count() >= 40, "{fault:?}");
    }
}

#[test]
fn all_changes_fail_from_some_point_on() {
    for fault in [Fault::Refused, Fault::Torn, Fault::Misreported] {
        assert!((0..CHANGES_MAX).take_while(|left| check(fault, *left, usize::MAX)).count() >= 40, "{fault:?}");
    }
}

#[test]
fn opening_fails_and_is_tried_again() {
    for fault in [Fault::Refused, Fault::Torn, Fault::Misreported] {
        let mut model = Model::new();
        let folder = folder();
        let mut left = 0;
        loop {
            let disk = Disk::default();
            disk.faults.arm(fault, left, 1);
            let opened = TokenStore::open_on(disk.clone(), folder.path(), OPTIONS);
            if !disk.faults.disarm() {
                assert_is(&opened.unwrap(), &model, "open");
                break;
            }
            drop(opened);
            let store = TokenStore::open(folder.path(), OPTIONS).unwrap();
            assert_is(&store, &model, &format!("{fault:?} after {left}"));
            STEPS[..5].iter().for_each(|step| assert!(run(&store, *step, &mut model)));
            left += 1;
        }
    }
}

#[test]
fn a_lookup_does_not_wait_for_who_writes() {
    let folder = folder();
    let store = TokenStore::open(folder.path(), OPTIONS).unwrap();
    let mut model = Model::new();
    assert!(run(&store, STEPS[0], &mut model));
    // As during a sync, or all of a compaction. A lookup that took either lock would never return.
    let _writing = store.writer().unwrap();
    let _compacting = crate::store::lock(&store.compaction);
    assert_is(&store, &model, "while written to");
    assert_eq!(store.verify().unwrap().documents, 2);
}

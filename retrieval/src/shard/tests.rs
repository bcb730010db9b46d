use tempfile::TempDir;

use super::*;
use crate::{collection::Collection, document::Document, schema::Language, truth::Operation};

fn open(folder: &Path) -> Shard {
    let collection = CollectionOptions { map_bytes: 16 << 20, queue_batches_max: 4, ..CollectionOptions::default() };
    let options = ShardOptions { collections_max: 3, collection };
    Shard::open(folder, options, |_, _| Ok(Vec::new())).unwrap()
}

fn schema() -> Schema {
    Schema::title_and_text(Language::English)
}

fn put(collection: &Collection, id: &str) {
    let document = Document { id: id.into(), ..Document::default() };
    collection.try_submit(vec![Operation::Upsert(document)]).unwrap().wait().unwrap();
}

fn ids(shard: &Shard, name: &str) -> Vec<bool> {
    let reader = shard.collection(name).unwrap().read().unwrap();
    ["a", "b"].map(|id| reader.find(id).unwrap().is_some()).to_vec()
}

fn names(shard: &Shard) -> Vec<(String, Vec<String>)> {
    shard.list().into_iter().map(|listed| (listed.name, listed.aliases)).collect()
}

#[test]
fn collections_and_aliases_come_go_and_are_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut shard = open(folder.path());
    put(&shard.create("one", &schema()).unwrap(), "a");
    put(&shard.create("two", &schema()).unwrap(), "b");
    shard.set_alias("live", "one").unwrap();
    shard.set_alias("other", "two").unwrap();
    for restart in [false, true] {
        if restart {
            drop(shard);
            shard = open(folder.path());
        }
        assert_eq!(names(&shard), [("one".into(), vec!["live".into()]), ("two".into(), vec!["other".into()])]);
        assert_eq!((ids(&shard, "live"), ids(&shard, "two")), (vec![true, false], vec![false, true]));
    }
    shard.set_alias("live", "two").unwrap();
    assert_eq!(ids(&shard, "live"), [false, true]);
    shard.drop_alias("other").unwrap();
    let held = shard.collection("one").unwrap();
    shard.drop_collection("one").unwrap();
    // A search that has it goes on; who asks for it now does not get it.
    assert!(held.read().unwrap().find("a").unwrap().is_some());
    assert!(held.try_submit(vec![]).is_err());
    drop(held);
    put(&shard.create("one", &schema()).unwrap(), "b");
    assert_eq!(ids(&shard, "one"), [false, true]);
    drop(shard);
    let shard = open(folder.path());
    assert_eq!(names(&shard), [("one".into(), vec![]), ("two".into(), vec!["live".into()])]);
    assert_eq!(ids(&shard, "one"), [false, true]);
    shard.drop_collection("two").unwrap();
    assert_eq!(names(&shard), [("one".into(), vec![])]);
    assert!(matches!(shard.collection("live"), Err(ShardError::Unknown { .. })));
}

#[test]
fn what_cannot_be_is_refused() {
    fn check<T>(result: Result<T, ShardError>, expected: &str) {
        let fault = result.err().map(|fault| fault.to_string()).unwrap_or_default();
        assert!(fault.contains(expected), "{fault:?} should contain {expected:?}");
    }
    let folder = TempDir::new().unwrap();
    let shard = open(folder.path());
    shard.create("one", &schema()).unwrap();
    shard.set_alias("live", "one").unwrap();
    check(shard.create("one", &schema()), "one is there already");
    check(shard.create("live", &schema()), "live is there already");
    check(shard.create("a/b", &schema()), "a name has");
    check(shard.create("two", &Schema { texts: vec![], ..schema() }), "needs a text field or a vector");
    check(shard.set_alias("one", "one"), "one is there already");
    check(shard.set_alias("x", "live"), "there is no live");
    check(shard.set_alias("", "one"), "a name has");
    check(shard.drop_collection("live"), "there is no live");
    check(shard.drop_alias("one"), "there is no one");
    check(shard.collection("two"), "there is no two");
    check(shard.restore("two", folder.path()), "holds no snapshot");
    shard.create("two", &schema()).unwrap();
    shard.create("three", &schema()).unwrap();
    check(shard.create("four", &schema()), "3 collections are there already");
    check(Shard::open(folder.path(), ShardOptions::default(), |_, _| Ok(Vec::new())), "is open already");
    assert_eq!(names(&shard).len(), 3);
}

#[test]
fn what_a_crash_left_of_a_creation_is_removed() {
    let folder = TempDir::new().unwrap();
    let shard = open(folder.path());
    put(&shard.create("one", &schema()).unwrap(), "a");
    drop(shard);
    let stray = folder.path().join("collections/000002");
    drop(Collection::create(&stray, &schema(), CollectionOptions::default(), &|_, _| Ok(Vec::new())).unwrap());
    let shard = open(folder.path());
    assert!(!stray.exists());
    assert_eq!((names(&shard).len(), ids(&shard, "one")), (1, vec![true, false]));
    shard.create("two", &schema()).unwrap();
}

#[test]
fn a_snapshot_becomes_another_collection() {
    let (folder, places) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let shard = open(folder.path());
    let one = shard.create("one", &schema()).unwrap();
    put(&one, "a");
    let snapshot = places.path().join("s");
    shard.snapshot("one", &snapshot).unwrap();
    put(&one, "b");
    shard.restore("two", &snapshot).unwrap();
    assert_eq!((ids(&shard, "one"), ids(&shard, "two")), (vec![true, true], vec![true, false]));
    assert!(matches!(shard.restore("two", &snapshot), Err(ShardError::Exists { .. })));
}

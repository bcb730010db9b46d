//! A disk without room: the error says so, nothing acknowledged is lost, and writing goes on once there is room.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sluice_retrieval::{Lsn, collection::WriteError, truth::Operation};
use tempfile::TempDir;

use crate::{
    fixture::{Opened, check_index, document, heard, number, open, say},
    legs::check_legs,
};

const CHILD: &str = "SLUICE_FULL_CHILD";
/// Set to anything, it turns a disk that cannot be mounted from a skip into a failure.
const REQUIRE_MOUNT: &str = "SLUICE_REQUIRE_MOUNT";
const MAP_BYTES: u64 = 1 << 30;
/// Documents of a batch, all new.
const DOCUMENTS: u64 = 8;

/// Writes one more batch: 8 documents of 20 kB.
fn write(opened: &Opened, batch: u64) -> Result<Lsn, WriteError> {
    let documents = (0..DOCUMENTS).map(|part| document((batch * DOCUMENTS + part) as u32, batch, 20_000));
    Ok(opened.collection.try_submit(documents.map(Operation::Upsert).collect())?.wait()?.lsn)
}

/// Writes until there is no room, and says what was acknowledged.
fn fill(opened: &Opened, mut acknowledged: impl FnMut(u64)) -> u64 {
    let mut batch = opened.collection.read().unwrap().lsn().0;
    loop {
        match write(opened, batch + 1) {
            Ok(lsn) => {
                batch += 1;
                assert_eq!(lsn.0, batch);
                acknowledged(batch);
            }
            Err(WriteError::Storage(fault)) => {
                assert!(fault.is_full(), "{fault}");
                return batch;
            }
            Err(fault) => panic!("{fault}"),
        }
    }
}

/// Exactly these batches are there, whole.
fn check(opened: &Opened, batches: u64) {
    let reader = opened.collection.read().unwrap();
    assert_eq!((reader.lsn(), reader.documents()), (Lsn(batches), batches * DOCUMENTS));
    for batch in 1..=batches {
        for part in 0..DOCUMENTS {
            let expected = document((batch * DOCUMENTS + part) as u32, batch, 20_000);
            let found = reader.get(&expected.id).unwrap().expect("it was acknowledged");
            assert_eq!((found.texts, found.payload, found.version), (expected.texts, expected.payload, Lsn(batch)));
        }
    }
}

fn check_whole(opened: &Opened, batches: u64) {
    check(opened, batches);
    let (reader, context) = (opened.collection.read().unwrap(), "after the disk was full");
    check_legs(&opened.collection, &reader, context);
    check_index(&opened.index, &reader, context);
}

/// The process whose files may not grow.
#[test]
fn child() {
    let Some(folder) = env::var_os(CHILD) else { return };
    let opened = open(Path::new(&folder), MAP_BYTES);
    let last = fill(&opened, |batch| say(&format!("done {batch}")));
    // It still says so, and what is there can be read. A reader that has ended since may have given pages back for a few
    // batches more.
    let still = fill(&opened, |batch| say(&format!("done {batch}")));
    assert!(still >= last, "{still} of {last}");
    check(&opened, still);
    say(&format!("full {still}"));
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_no_loss() {
    // Limits at which LMDB's writes end at once, and at which they are cut short: its runs of pages are of any length.
    for blocks in [8_192, 8_200, 9_001, 10_003] {
        let folder = TempDir::new().unwrap();
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --exact full::child --nocapture");
        let mut child = Command::new("sh")
            .args(["-c", &limited])
            .arg(env::current_exe().unwrap())
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut acknowledged, mut full) = (0, None);
        for line in heard(&mut child) {
            acknowledged = acknowledged.max(number(&line, "done").unwrap_or(0));
            full = full.or(number(&line, "full"));
        }
        assert!(child.wait().unwrap().success(), "{blocks} blocks");
        assert_eq!(full, Some(acknowledged), "{blocks} blocks");
        assert!(acknowledged > 3, "{blocks} blocks: {acknowledged}");
        let opened = open(folder.path(), MAP_BYTES);
        check_whole(&opened, acknowledged);
        // There is room again.
        assert_eq!(write(&opened, acknowledged + 1).unwrap(), Lsn(acknowledged + 1));
        check_whole(&opened, acknowledged + 1);
    }
}

/// A file system of some size, for as long as it lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(folder: &Path, bytes: u64) -> Option<Self> {
        let options = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "sluice-test"]).arg(folder).stderr(Stdio::null());
        mount.status().ok()?.success().then(|| Self(folder.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that a test beside this one is just starting has its own view of what is mounted.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_no_loss() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path(), 16 << 20) else {
        assert!(
            env::var_os(REQUIRE_MOUNT).is_none(),
            "{REQUIRE_MOUNT} is set, and mounting a tmpfs is not allowed here"
        );
        println!("skipped: mounting a tmpfs is not allowed here");
        return;
    };
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let data = disk.0.join("data");
    let opened = open(&data, MAP_BYTES);
    let first = fill(&opened, |_| ());
    assert!(first > 3, "{first}");
    // Still full, but for what the indexes gave up of theirs meanwhile.
    let full = fill(&opened, |_| ());
    assert!(full >= first);
    check(&opened, full);
    fs::remove_file(&ballast).unwrap();
    // The same process goes on, and fills the disk once more.
    assert_eq!(write(&opened, full + 1).unwrap(), Lsn(full + 1));
    check_whole(&opened, full + 1);
    let fuller = fill(&opened, |_| ());
    assert!(fuller > full + 3);
    check(&opened, fuller);
    drop(opened);
    let opened = open(&data, MAP_BYTES);
    check(&opened, fuller);
    drop(opened);
    drop(disk);
}

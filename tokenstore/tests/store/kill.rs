//! A process that writes is killed at random moments: what it acknowledged is there, and nothing partial.
//!
//! This binary starts itself as that process. `SLUICE_KILLS` says how often it is killed (12).

use std::{
    env,
    io::{BufRead, BufReader, Write, stdout},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sluice_kernels::tokens::Storage;
use sluice_tokenstore::{Compact, Options, TokenStore};

use crate::fixture::{Document, MODEL, folder, namespace, put};

/// Tells the process that it is the one to be killed, and where its store is.
const CHILD: &str = "SLUICE_STORE_CHILD";
const OPTIONS: Options = Options { segment_bytes_max: 48 << 10, collections_max: 4 };
/// Documents of a batch: all of one version, so that a partial batch shows.
const BATCH: usize = 5;
/// Batches that exist at a time; each is replaced over and over.
const BATCHES: u64 = 8;
const DIM: usize = 64;

fn document(batch: u64, position: usize, version: u64) -> Document {
    Document::new(&format!("b{batch}-{position}"), version, 1 + position * 3, DIM)
}

/// The killed process: writes batch after batch, and says of each when it begins and when it is durable. Every seventh
/// batch is a delete. Compacts all the time in a second thread.
#[test]
fn child() {
    let Some(path) = env::var_os(CHILD) else { return };
    let store = TokenStore::open(Path::new(&path), OPTIONS).unwrap();
    let first: u64 = {
        let found = (0..BATCHES).filter_map(|batch| version_of(&store, batch)).max();
        found.map_or(1, |version| version + 1)
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                store.compact(Compact::DeadShare(0.4)).unwrap();
            }
        });
        for version in first.. {
            let batch = version % BATCHES;
            let deletes = version % 7 == 0;
            say(&format!("begin {batch} {}", if deletes { 0 } else { version }));
            if deletes {
                let ids: Vec<_> = (0..BATCH).map(|position| document(batch, position, 0).id).collect();
                store.delete(&namespace(), Some(MODEL), &ids).unwrap();
            } else {
                let documents: Vec<_> = (0..BATCH).map(|position| document(batch, position, version)).collect();
                put(&store, Storage::Int8, &documents);
            }
            say(&format!("done {batch} {}", if deletes { 0 } else { version }));
        }
    });
}

fn say(line: &str) {
    let mut out = stdout().lock();
    writeln!(out, "\n@{line}").unwrap();
    out.flush().unwrap();
}

/// The version of a batch that a store has, which must be the version of all its documents.
fn version_of(store: &TokenStore, batch: u64) -> Option<u64> {
    let ids: Vec<_> = (0..BATCH).map(|position| document(batch, position, 0).id).collect();
    let found = store.lookup(&namespace(), MODEL, &ids);
    let first = found[0].as_ref();
    let version = first.map(|first| {
        let mut versions = 1..1 << 24;
        versions.find(|version| Document::hash(&ids[0], *version) == first.content_hash()).unwrap()
    });
    for (position, stored) in found.iter().enumerate() {
        match (version, stored) {
            (Some(version), Some(stored)) => document(batch, position, version).assert_stored(Storage::Int8, stored),
            (None, None) => {}
            _ => panic!("batch {batch} is there in part: {found:?}"),
        }
    }
    version
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    let kills: u64 = env::var("SLUICE_KILLS").map_or(12, |kills| kills.parse().expect("SLUICE_KILLS is a number"));
    let seed = 0x5eed;
    println!("seed {seed:#x}, {kills} kills");
    let mut rng = SmallRng::seed_from_u64(seed);
    let folder = folder();
    // The version that each batch must have, or may have if it was in flight; 0 is none.
    let mut expected = [0; BATCHES as usize];
    let mut acknowledged = 0;
    for kill in 0..kills {
        let mut child = start(folder.path());
        let out = child.stdout.take().unwrap();
        let reader = thread::spawn(move || read(out));
        thread::sleep(Duration::from_micros(rng.random_range(5_000..60_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let (done, in_flight) = reader.join().unwrap();
        acknowledged += done.len();
        for (batch, version) in done {
            expected[batch as usize] = version;
        }
        // Each reader in turn: one that changes nothing, and one that goes on where the dead process ended.
        let reader = TokenStore::open_read_only(folder.path());
        let stores = [(kill > 0 || reader.is_ok()).then(|| reader.unwrap()), None];
        for store in stores {
            let store = store.unwrap_or_else(|| TokenStore::open(folder.path(), OPTIONS).unwrap());
            for batch in 0..BATCHES {
                let found = version_of(&store, batch).unwrap_or(0);
                let acceptable =
                    [Some(expected[batch as usize]), in_flight.filter(|(b, _)| *b == batch).map(|(_, v)| v)];
                assert!(acceptable.contains(&Some(found)), "kill {kill}: batch {batch} is {found}, not {acceptable:?}");
                expected[batch as usize] = found;
            }
            let report = store.verify().unwrap();
            assert!(report.corrupt_records.is_empty() && report.corrupt_files.is_empty(), "kill {kill}: {report:?}");
            assert_eq!(store.stats().corrupt_records, 0, "kill {kill}");
        }
    }
    println!("{acknowledged} batches acknowledged");
    assert!(acknowledged > 0, "no process lived long enough to acknowledge anything");
}

fn start(path: &Path) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "kill::child", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, path).stdout(Stdio::piped()).spawn().unwrap()
}

/// What the child said: batches that are durable, and the one it was writing. A last line without its end was cut off
/// by the kill; what it would have said is in flight.
fn read(out: ChildStdout) -> (Vec<(u64, u64)>, Option<(u64, u64)>) {
    let (mut done, mut in_flight) = (Vec::new(), None);
    let mut lines = BufReader::new(out);
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        if let Some(said) = line.strip_prefix('@').and_then(|line| line.strip_suffix('\n')) {
            let words: Vec<_> = said.split(' ').collect();
            let batch = (words[1].parse().unwrap(), words[2].parse().unwrap());
            match words[0] {
                "begin" => in_flight = Some(batch),
                _ => {
                    done.push(batch);
                    in_flight = None;
                }
            }
        }
        line.clear();
    }
    (done, in_flight)
}

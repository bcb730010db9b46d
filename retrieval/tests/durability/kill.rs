//! A process that writes is killed at random moments: what it acknowledged is there, nothing of a batch that is not
//! there whole, and the index agrees.
//!
//! What a batch does follows from its number, and its number is its log sequence number: what must be there after a
//! crash is what all batches up to the last one do, and the last one is at least the last that was acknowledged.

use std::{
    collections::VecDeque,
    env,
    path::Path,
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use crate::fixture::{Model, heard, number, open, operations, say};

const CHILD: &str = "SLUICE_SHARD_CHILD";
const SEED: &str = "SLUICE_SHARD_SEED";
const MAP_BYTES: u64 = 256 << 20;
/// Batches that wait together, so that some share a commit.
const IN_FLIGHT: usize = 3;

/// The killed process.
#[test]
fn child() {
    let Some(folder) = env::var_os(CHILD) else { return };
    let seed: u64 = env::var(SEED).unwrap().parse().unwrap();
    let opened = open(Path::new(&folder), MAP_BYTES);
    let first = opened.collection.read().unwrap().lsn().0 + 1;
    let mut waiting = VecDeque::new();
    for batch in first.. {
        say(&format!("begin {batch}"));
        waiting.push_back((batch, opened.collection.try_submit(operations(seed, batch)).unwrap()));
        if batch % 31 == 0 {
            let legs = opened.collection.progress();
            opened.collection.rebuild(&legs[(batch / 31) as usize % legs.len()].0).unwrap();
        }
        if waiting.len() > IN_FLIGHT {
            let (batch, pending) = waiting.pop_front().unwrap();
            assert_eq!(pending.wait().unwrap().lsn.0, batch);
            say(&format!("done {batch}"));
        }
    }
}

#[test]
fn kill() {
    let kills: usize = env::var("SLUICE_KILLS").map_or(12, |kills| kills.parse().expect("a number"));
    let seed: u64 = env::var(SEED).map_or(u64::from(process::id()), |seed| seed.parse().expect("a number"));
    println!("{kills} kills, {SEED}={seed}");
    let folder = TempDir::new().unwrap();
    let (mut rng, mut model, mut acknowledged) = (SmallRng::seed_from_u64(seed), Model::default(), 0);
    for kill in 0..kills {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture"])
            .env(CHILD, folder.path())
            .env(SEED, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // A moment is so many lines after the start and a bit: the same kill on a slow machine and on a quick one.
        let (lines, delay) = (rng.random_range(0..60), Duration::from_micros(rng.random_range(0..4_000)));
        let mut heard = heard(&mut child);
        let mut begun = acknowledged;
        let mut note = |line: String, acknowledged: &mut u64| {
            begun = begun.max(number(&line, "begin").unwrap_or(0));
            *acknowledged = (*acknowledged).max(number(&line, "done").unwrap_or(0));
        };
        for line in heard.by_ref().take(lines) {
            note(line, &mut acknowledged);
        }
        thread::sleep(delay);
        child.kill().unwrap();
        heard.for_each(|line| note(line, &mut acknowledged));
        let status = child.wait().unwrap();
        assert!(!status.success(), "seed {seed}, kill {kill}: it ended by itself, {status}");

        let context = format!("seed {seed}, kill {kill}, acknowledged {acknowledged}, begun {begun}");
        let opened = open(folder.path(), MAP_BYTES);
        let there = opened.collection.read().unwrap().lsn().0;
        assert!((acknowledged..=begun).contains(&there), "{context}: {there} are there");
        model.advance(seed, there);
        model.check(&opened, &context);
        acknowledged = there;
        drop(opened.shard);
    }
    println!("{acknowledged} batches");
    assert!(acknowledged > 0 || kills == 0);
}

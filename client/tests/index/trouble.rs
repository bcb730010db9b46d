//! Ends in the middle, servers that refuse, a shard that goes away.

use std::{process::Child, time::Duration};

use serde_json::json;
use sluice_client::{Client, ClientOptions, Code, EncodeRequest, RetryPolicy};

use crate::world::{QUICK, Ran, SLOW, World, ids, lines};

const DOCUMENTS: usize = 400;

/// Begins to index, and waits until a part is written.
fn begun(world: &World) -> Child {
    world.file("a.jsonl", lines(0..DOCUMENTS));
    let child =
        world.command(&["--create", "--json", "--batch", "5", "--concurrency", "2", "a.jsonl"]).spawn().unwrap();
    world.wait_until("some documents are written", || world.count() >= 20);
    child
}

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Goes on with the same command; `before` documents are written already.
fn goes_on(world: &World, before: u64) {
    assert!((20..DOCUMENTS as u64).contains(&before), "it ended in the middle: {before}");
    let versions = world.stored(&ids(0..DOCUMENTS));
    let found = world.indexed(&["--create", "--batch", "50", "a.jsonl"]);
    assert_eq!((&found["unchanged"], &found["written"]), (&json!(before), &json!(DOCUMENTS as u64 - before)));
    assert_eq!(found["embedded"], found["written"], "nothing is embedded twice");
    assert_eq!(world.count(), DOCUMENTS as u64);
    let stored = world.stored(&ids(0..DOCUMENTS));
    assert_eq!(stored.len(), DOCUMENTS);
    for (id, stored) in &stored {
        assert_eq!(stored.document.as_ref().unwrap().vectors.len(), 1, "{id}");
        assert!(versions.get(id).is_none_or(|before| before.version == stored.version), "{id} is written once");
    }
}

#[test]
fn what_was_killed_goes_on_where_it_was() {
    let mut world = World::with_model(SLOW);
    let child = begun(&world);
    signal(&child, "KILL");
    assert_eq!(Ran::of(child).code, -1);
    // What the shard had read of the call it goes on to write; once it has ended, all of that is there.
    world.stop_shard();
    world.start_shard();
    goes_on(&world, world.count());
}

#[test]
fn an_interrupt_waits_for_what_was_sent_and_says_how_to_go_on() {
    let world = World::with_model(SLOW);
    let child = begun(&world);
    signal(&child, "INT");
    let ran = Ran::of(child);
    assert_eq!(ran.code, 1, "{ran:?}");
    let found = ran.json();
    assert_eq!(found["interrupted"], json!(true));
    assert_eq!(found["written"], json!(world.count()), "every write is counted");
    assert!(ran.stderr.contains("interrupted: what is written stays; the same command goes on"), "{}", ran.stderr);
    goes_on(&world, world.count());
}

#[test]
fn what_stands_before_what_cannot_be_read_is_written() {
    let world = World::bare();
    world.file("a.jsonl", lines(0..10));
    let ran = world.index(&["--create", "--json", "a.jsonl", "nowhere.jsonl"]);
    assert!(ran.code == 1 && ran.stderr.contains("nowhere.jsonl: No such file"), "{ran:?}");
    assert_eq!((ran.json()["written"].clone(), world.count()), (json!(10), 10));
}

#[test]
fn a_failure_is_one_whoever_reads_what_is_printed() {
    let world = World::bare();
    world.file("a.jsonl", lines(0..3) + "no object\n");
    for (on_bad_line, code) in [("fail", 1), ("skip", 0)] {
        let mut child = world.command(&["--create", "--on-bad-line", on_bad_line, "a.jsonl"]).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{on_bad_line}");
    }
}

#[test]
fn a_server_that_refuses_is_asked_again() {
    let script = "max_tokens = 64\ndim = 8\nservice_time = { per_token = \"2ms\" }\n";
    let world = World::with_server(script, |config| config.admission.documents_max = 12);
    world.file("a.jsonl", lines(0..10));
    // Once the server knows how fast it is, it says how long to wait.
    let texts = |words: usize| EncodeRequest { texts: vec!["x ".repeat(words); 12], ..EncodeRequest::default() };
    for _ in 0..8 {
        world.block_on(world.server().encode(texts(1))).unwrap();
    }
    // Somebody else takes all the room for a while. A probe of below can be in their way, however often they try.
    let request = texts(62);
    let (server, one) = (world.server(), EncodeRequest { texts: vec!["y".to_owned()], ..EncodeRequest::default() });
    let other = world.spawn(async move {
        loop {
            match server.encode(request.clone()).await {
                Err(error) if error.code() == Some(Code::ResourceExhausted) => {}
                answer => return answer,
            }
        }
    });
    let options = ClientOptions { retry: RetryPolicy::never(), ..ClientOptions::default() };
    let url = world.server_url();
    let impatient = world.block_on(async { Client::connect(&url, options).await.unwrap() });
    let refused =
        || world.block_on(impatient.encode(one.clone())).is_err_and(|e| e.code() == Some(Code::ResourceExhausted));
    world.wait_until("the server refuses", refused);
    let found = world.indexed(&["--create", "a.jsonl"]);
    assert_eq!((&found["written"], &found["embedded"]), (&json!(10), &json!(10)));
    assert!(world.block_on(other).unwrap().is_ok());
}

#[test]
fn a_shard_that_starts_anew_is_waited_for() {
    let mut world = World::with_model(SLOW);
    let child = begun(&world);
    world.stop_shard();
    std::thread::sleep(Duration::from_millis(300));
    world.start_shard();
    let ran = Ran::of(child);
    assert_eq!(ran.code, 0, "{ran:?}");
    let found = ran.json();
    assert_eq!((&found["written"], &found["unchanged"]), (&json!(DOCUMENTS), &json!(0)));
    assert_eq!(world.count(), DOCUMENTS as u64);
}

#[test]
fn a_shard_that_stays_away_ends_it_in_time() {
    let mut world = World::with_model(QUICK);
    world.file("a.jsonl", lines(0..5));
    world.indexed(&["--create", "a.jsonl"]);
    world.stop_shard();
    world.file("b.jsonl", lines(5..9));
    let ran = world.index(&["--deadline-ms", "300", "b.jsonl"]);
    assert!(ran.code == 1 && ran.stderr.contains("cannot reach"), "{ran:?}");
}

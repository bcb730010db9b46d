//! `sluice-shard` as its users meet it: a process with flags, a folder, signals and ports; and the real indexes behind.
#![cfg(unix)]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic, reason = "real processes, and real time")]

mod common;

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;
use sluice_proto::retrieval::v1 as wire;
use sluice_retrieval::config::ShardConfig;
use tonic::transport::Endpoint;
use wire::{payload_value::Kind, retrieval_service_client::RetrievalServiceClient};

use common::{
    Client, create, dense_leg, document, ids, integer, keyword, lexical, search, sparse_leg, upsert, value,
    with_payload,
};

/// Time for anything that should take milliseconds on an idle machine, and may take seconds on a busy one.
const PATIENCE: Duration = Duration::from_secs(60);

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-shard"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICE_")) {
        command.env_remove(name);
    }
    command
}

/// A shard over a folder that ends with this value, whatever the test comes to.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    fn start_with(data: &Path, arguments: &[&str]) -> Self {
        let mut command = command();
        command
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(arguments)
            .env("SLUICE_DRAIN__GRACE", "50ms");
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it was built with this test");
        let stderr = child.stderr.take().expect("piped");
        let (found, address) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "serving" {
                    let _ = found.try_send(event["listen"].as_str().expect("where").to_owned());
                }
            }
        });
        let address = address.recv_timeout(PATIENCE).expect("it serves");
        Self { child, address: address.parse().expect("an address") }
    }

    async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        RetrievalServiceClient::new(endpoint.connect().await.expect("it listens"))
    }

    /// Sends it a signal, and waits for its end; its exit code.
    fn end(mut self, signal: &str) -> Option<i32> {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("there is a shell").success());
        self.child.wait().expect("a child of ours").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either may fail if it has ended already, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn output(arguments: &[&str]) -> Output {
    command().args(arguments).stdin(Stdio::null()).output().expect("it was built with this test")
}

#[test]
fn the_configuration_is_printed_or_refused() {
    let printed = output(&["--print-config", "--data", "somewhere", "--listen", "127.0.0.1:1"]);
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).expect("UTF-8");
    let config: ShardConfig = toml::from_str(&printed).expect("what is printed can be read");
    assert_eq!((config.data.as_deref(), config.listen.port()), (Some(Path::new("somewhere")), 1));
    let refused = output(&["--print-config"]);
    let message = String::from_utf8(refused.stderr).expect("UTF-8");
    assert!(refused.status.code() == Some(2) && message.contains("data"), "{message}");
}

#[test]
fn a_folder_is_of_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let process = Process::start(folder.path());
    let second = output(&["--data", &folder.path().display().to_string(), "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(process.end("TERM"), Some(0));
}

fn documents() -> Vec<wire::Document> {
    let of = |id: &str, text: &str, vector, colour: &str, year| {
        let moment = value(Kind::DatetimeValue(prost_types::Timestamp { seconds: year * 31_536_000, nanos: 0 }));
        let payload = [("colour", keyword(colour)), ("year", integer(year)), ("seen", moment)];
        with_payload(document(id, text, vector), &payload)
    };
    vec![
        of("a", "red apples for a pie", [1.0, 0.0], "red", 1),
        of("bb", "a green apple", [0.8, 0.6], "green", 2),
        of("cc", "red cars drive", [0.6, 0.8], "red", 3),
        of("ddd", "the blue sky", [0.0, 1.0], "blue", 3),
    ]
}

/// Three legs, a filter, facets, snippets: over what is there at `lsn`.
async fn look(client: &mut Client, collection: &str, lsn: u64) -> wire::SearchResponse {
    let red = wire::MatchCondition { field: "colour".into(), values: vec![keyword("red"), keyword("green")] };
    let request = wire::SearchRequest {
        min_lsn: lsn,
        filter: Some(wire::Filter { condition: Some(wire::filter::Condition::Match(red)) }),
        facets: vec![wire::FacetRequest { field: "year".into(), limit: 0 }],
        count: true,
        snippets: Some(wire::Snippets { fields: vec!["text".into()], characters_max: 0 }),
        ..search(collection, vec![lexical("apple"), dense_leg([0.9, 0.1]), sparse_leg(&[2])])
    };
    client.search(request).await.expect("found").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_the_process_however_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = Process::start(folder.path());
    let mut client = process.client().await;
    create(&mut client, "docs").await;
    let alias = wire::SetAliasRequest { alias: "live".into(), collection: "docs".into() };
    client.set_alias(alias).await.expect("set");
    let mut lsn = upsert(&mut client, "live", documents()).await;
    let before = look(&mut client, "live", lsn).await;
    assert_eq!((before.degraded, before.count, before.lsn), (false, Some(3), lsn));
    let mut found = ids(&before);
    found.sort_unstable();
    assert_eq!(found, ["a", "bb", "cc"]);
    // Stems: "apple" finds "apples", and shows it.
    let a = before.hits.iter().find(|hit| hit.id == "a").expect("it is there");
    let (snippet, highlight) = (&a.snippets[0], &a.snippets[0].highlights[0]);
    assert_eq!(&snippet.text[highlight.byte_start as usize..highlight.byte_end as usize], "apples");
    assert_eq!(a.legs.iter().map(|leg| leg.leg.as_str()).collect::<Vec<_>>(), ["lexical", "dense"]);

    for (nth, signal) in ["TERM", "KILL"].into_iter().enumerate() {
        let code = process.end(signal);
        assert_eq!(code, (signal == "TERM").then_some(0), "SIG{signal}");
        process = Process::start(folder.path());
        client = process.client().await;
        let after = look(&mut client, "live", lsn).await;
        assert_eq!((after.hits.len(), after.degraded, after.lsn), (before.hits.len(), false, lsn), "SIG{signal}");
        for (hit, earlier) in after.hits.iter().zip(&before.hits) {
            assert_eq!(
                (&hit.id, hit.version, &hit.content_hash),
                (&earlier.id, earlier.version, &earlier.content_hash)
            );
        }
        assert_eq!(after.facets, before.facets, "SIG{signal}");
        let more = document(&format!("more{nth}"), "nothing of the kind", [0.0, 1.0]);
        assert_eq!(upsert(&mut client, "docs", vec![more]).await, lsn + 1, "numbers go on");
        lsn += 1;
    }
    let copy = wire::SnapshotRequest { collection: "live".into(), name: "copy".into() };
    let copied = client.snapshot(copy).await.expect("copied").into_inner();
    assert_eq!((copied.lsn, copied.documents), (lsn, 6));
    client.drop_collection(wire::DropCollectionRequest { name: "docs".into() }).await.expect("dropped");
    let restore = wire::RestoreRequest { snapshot: "copy".into(), collection: "again".into() };
    assert_eq!(client.restore(restore).await.expect("restored").into_inner().documents, 6);
    let after = look(&mut client, "again", lsn).await;
    assert_eq!((ids(&after), after.degraded), (ids(&before), false));
    assert_eq!(process.end("TERM"), Some(0));
    let mut rest = String::new();
    std::fs::File::open(folder.path().join("snapshots/copy/snapshot.json")).unwrap().read_to_string(&mut rest).unwrap();
    assert!(rest.contains("sha256"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_rebuilt_where_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let process = Process::start(folder.path());
    let mut client = process.client().await;
    create(&mut client, "docs").await;
    let lsn = upsert(&mut client, "docs", documents()).await;
    let before = look(&mut client, "docs", lsn).await;
    assert_eq!(process.end("TERM"), Some(0));
    let meta = folder.path().join("collections/000001/indexes/lexical/meta.json");
    std::fs::write(&meta, "damaged").expect("it is there");
    let data = folder.path().display().to_string();
    let serve = ["--data", &data, "--listen", "127.0.0.1:0"];
    assert_eq!(output(&serve).status.code(), Some(1), "an index that is damaged is not passed over");
    let unknown = output(&[&serve[..], &["--rebuild", "none"]].concat());
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no collection \"none\""), "{unknown:?}");
    let process = Process::start_with(folder.path(), &["--rebuild", "docs"]);
    let after = look(&mut process.client().await, "docs", lsn).await;
    assert_eq!((ids(&after), after.degraded), (ids(&before), false));
    assert_eq!(process.end("TERM"), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_sees_the_write_that_it_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let process = Process::start(folder.path());
    let mut client = process.client().await;
    create(&mut client, "docs").await;
    for round in 0..20 {
        let id = format!("d{round}");
        let lsn = upsert(&mut client, "docs", vec![document(&id, "apple", [1.0, 0.0])]).await;
        for leg in [lexical("apple"), dense_leg([1.0, 0.0]), sparse_leg(&[id.len() as u32])] {
            let request = wire::SearchRequest { min_lsn: lsn, limit: 100, ..search("docs", vec![leg]) };
            let found = client.search(request).await.expect("found").into_inner();
            assert!(ids(&found).contains(&id.as_str()), "round {round}: {found:?}");
        }
    }
    assert_eq!(process.end("TERM"), Some(0));
}

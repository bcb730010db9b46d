//! Models from the hub.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use sluice_inference::resolve::{FetchError, HubSettings};
use tempfile::TempDir;

use crate::{
    fake_hub::{FakeHub, Reply, nobody, repository},
    fixture::{COMMIT, FILES, Fixture, LATER_COMMIT, REPOSITORY, assert_holds, with, without, write_model},
};

const BRANCH: &str = "hf:org/fake-model@dev";
const MAIN: &str = "hf:org/fake-model";

fn pinned_source() -> String {
    format!("hf:{REPOSITORY}@{COMMIT}")
}

fn path_of(file: &str) -> String {
    format!("/{REPOSITORY}/resolve/{COMMIT}/{file}")
}

fn info_path(revision: &str) -> String {
    format!("/api/models/{REPOSITORY}/revision/{revision}?blobs=true")
}

#[test]
fn a_commit_is_fetched_once() {
    let hub = FakeHub::start(repository(REPOSITORY, ("main", COMMIT), &FILES));
    let mut fixture = Fixture::new().hub(hub.endpoint());
    let found = fixture.resolve(&pinned_source()).expect("the hub has it");
    assert_holds(&found, &FILES);
    assert_eq!(found.source, pinned_source());
    let requests = hub.requests().len();
    assert_eq!(requests, 5, "the list, and each file that matters");
    assert_eq!(fixture.resolve(&pinned_source()).expect("cached"), found);
    assert_eq!(hub.requests().len(), requests);
    fixture.hub.offline = true;
    assert_eq!(fixture.resolve(&pinned_source()).expect("cached"), found);
    fixture.assert_clean(1, "commit");
}

#[test]
fn a_branch_is_asked_for_each_time_and_remembered() {
    for (source, revision) in [(BRANCH, "dev"), (MAIN, "main")] {
        let hub = FakeHub::start(repository(REPOSITORY, (revision, COMMIT), &FILES));
        let mut fixture = Fixture::new().hub(hub.endpoint());
        let first = fixture.resolve(source).expect("the hub has it");
        assert_eq!(first.source, pinned_source());
        let requests = hub.requests().len();
        assert_eq!(fixture.resolve(source).expect("asked again"), first);
        assert_eq!(hub.requests().len(), requests + 1, "asked, and not downloaded again");

        let newer = with("tokenizer.json", b"{\"newer\":1}");
        let moved = FakeHub::start(repository(REPOSITORY, (revision, LATER_COMMIT), &newer));
        fixture = fixture.hub(moved.endpoint());
        let second = fixture.resolve(source).expect("the hub has it");
        assert_eq!(second.source, format!("hf:{REPOSITORY}@{LATER_COMMIT}"));
        assert_holds(&second, &newer);
        assert_holds(&first, &FILES);

        fixture = fixture.hub(nobody());
        assert_eq!(fixture.resolve(source).expect("the last one stands in"), second);
        fixture.hub.offline = true;
        assert_eq!(fixture.resolve(source).expect("the last one stands in"), second);
        fixture = fixture.hub(FakeHub::start(HashMap::from([(info_path(revision), Reply::Status(503))])).endpoint());
        assert_eq!(fixture.resolve(source).expect("the last one stands in"), second);
        let gone = FakeHub::start(HashMap::new());
        fixture = fixture.hub(gone.endpoint());
        let error = fixture.fault(source);
        assert!(matches!(error, FetchError::Status { status: 404, .. }), "a hub that says no is believed: {error}");
    }
}

#[test]
fn a_hub_that_has_no_usable_model_is_told_apart() {
    let changed = |path: String, reply: Reply| {
        let mut replies = repository(REPOSITORY, ("main", COMMIT), &FILES);
        replies.insert(path, reply);
        replies
    };
    let text = |text: &str| Reply::Body(text.as_bytes().to_vec());
    let other = format!("{{\"sha\":\"{LATER_COMMIT}\",\"siblings\":[]}}");
    let huge = format!(
        "{{\"sha\":\"{COMMIT}\",\"siblings\":[{{\"rfilename\":\"config.json\",\"size\":1}},\
         {{\"rfilename\":\"tokenizer.json\",\"size\":18446744073709551615}},\
         {{\"rfilename\":\"model.safetensors\",\"size\":8589934592}}]}}"
    );
    let info = info_path(COMMIT);
    let cases = [
        (HashMap::new(), "answered 404 for the repository (no such model, revision or file)"),
        (changed(info.clone(), Reply::Status(401)), "answered 401 for the repository (no such model, or it needs"),
        (changed(info.clone(), text("<html>")), "answer not understood"),
        (changed(info.clone(), text("{\"sha\":\"../..\"}")), "answer not understood: \"../..\" is no commit"),
        (changed(info.clone(), text(&other)), "answer not understood: asked for commit"),
        (changed(info, text(&huge)), "the model is larger than the limit"),
        (repository(REPOSITORY, ("main", COMMIT), &without("model.safetensors")), "model.safetensors is missing"),
        (
            repository(
                REPOSITORY,
                ("main", COMMIT),
                &[&without("model.safetensors")[..], &[("model.safetensors.index.json", b"{}")]].concat(),
            ),
            "the weights are sharded",
        ),
        (changed(path_of("tokenizer.json"), Reply::Status(403)), "answered 403 for tokenizer.json (the token"),
        (changed(path_of("tokenizer.json"), text("other length")), "tokenizer.json broke off: 12 of 2 bytes"),
        (changed(path_of("model.safetensors"), text("other weights")), "model.safetensors differs: expected"),
        (changed(path_of("model.safetensors"), Reply::CutBody(FILES[2].1.to_vec(), 3)), "model.safetensors broke off"),
    ];
    for (replies, expected) in cases {
        let hub = FakeHub::start(replies);
        let fixture = Fixture::new().hub(hub.endpoint());
        let error = fixture.fault(&pinned_source()).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        fixture.assert_clean(0, expected);
    }
}

#[test]
fn a_hub_that_is_away_costs_no_more_than_its_time_outs() {
    let silent = FakeHub::start(HashMap::from([(info_path(COMMIT), Reply::Silence)]));
    for endpoint in [silent.endpoint(), nobody()] {
        let mut fixture = Fixture::new().hub(endpoint);
        fixture.hub.read_timeout = Duration::from_millis(200);
        let error = fixture.fault(&pinned_source());
        assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
        fixture.assert_clean(0, "away");
    }
    let fixture = Fixture::new().hub("not an address".to_owned());
    let error = fixture.fault(&pinned_source());
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_and_not_beyond() {
    let elsewhere = FakeHub::start(HashMap::from([("/weights".to_owned(), Reply::Body(FILES[2].1.to_vec()))]));
    let mut replies = repository(REPOSITORY, ("main", COMMIT), &FILES);
    // Another host name, as the hub's own storage has.
    let address = elsewhere.endpoint().replace("127.0.0.1", "localhost") + "/weights";
    replies.insert(path_of("model.safetensors"), Reply::Redirect(address));
    let hub = FakeHub::start(replies);

    let home = TempDir::new().expect("writable");
    fs::write(home.path().join("token"), "kept-token\n").expect("writable");
    let cases = [
        (HubSettings::default(), None),
        (HubSettings { token: Some("given-token".to_owned()), ..HubSettings::default() }, Some("Bearer given-token")),
        (HubSettings { home: Some(home.path().to_owned()), ..HubSettings::default() }, Some("Bearer kept-token")),
    ];
    for (settings, expected) in cases {
        let mut fixture = Fixture::new();
        fixture.hub = settings;
        fixture = fixture.hub(hub.endpoint());
        let before = hub.requests().len();
        assert_holds(&fixture.resolve(&pinned_source()).expect("the hub has it"), &FILES);
        for request in &hub.requests()[before..] {
            assert_eq!(request.authorization.as_deref(), expected, "{}", request.path);
        }
    }
    assert_eq!(elsewhere.requests().len(), 3);
    assert!(elsewhere.requests().iter().all(|request| request.authorization.is_none()));
}

/// What the hub's own tools leave behind after downloading these files.
fn hub_home(files: &[(&str, &[u8])]) -> TempDir {
    let home = TempDir::new().expect("writable");
    let repository = home.path().join("hub/models--org--fake-model");
    write_model(&repository.join("snapshots").join(COMMIT), files);
    fs::create_dir_all(repository.join("refs")).expect("writable");
    fs::write(repository.join("refs/main"), COMMIT).expect("writable");
    home
}

fn with_home(home: &Path) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.hub.home = Some(home.to_owned());
    fixture
}

#[test]
fn a_snapshot_of_the_hubs_tools_is_used() {
    let home = hub_home(&FILES);
    for source in [MAIN.to_owned(), pinned_source(), "default".to_owned()] {
        let fixture = with_home(home.path());
        let found = fixture.resolve(&source).expect("in the snapshot");
        assert_holds(&found, &FILES);
        assert!(found.path.starts_with(fixture.cache.path()), "as a copy: it may change");
        fixture.assert_clean(1, &source);
        fs::remove_dir_all(&found.path).expect("there");
    }
    let error = with_home(home.path()).fault(BRANCH);
    assert!(matches!(error, FetchError::Offline), "no such branch there: {error}");

    let incomplete = hub_home(&without("tokenizer.json"));
    let fixture = with_home(incomplete.path());
    assert!(matches!(fixture.fault(MAIN), FetchError::Offline));
    fixture.assert_clean(0, "incomplete");
}

#[test]
fn of_a_snapshot_only_what_is_known_to_be_right_replaces_a_download() {
    let hub = FakeHub::start(repository(REPOSITORY, ("main", COMMIT), &FILES));
    for (home, downloads) in [(hub_home(&FILES), false), (hub_home(&with("model.safetensors", b"others")), true)] {
        let fixture = with_home(home.path()).hub(hub.endpoint());
        let before = hub.requests().len();
        assert_holds(&fixture.resolve(&pinned_source()).expect("the hub has it"), &FILES);
        let weights = path_of("model.safetensors");
        assert_eq!(hub.requests()[before..].iter().any(|request| request.path == weights), downloads);
    }
}

#[test]
fn a_mirror_may_live_below_a_path() {
    let replies = repository(REPOSITORY, ("main", COMMIT), &FILES);
    let below = replies.into_iter().map(|(path, reply)| (format!("/mirror{path}"), reply)).collect();
    let hub = FakeHub::start(below);
    let endpoint = format!("{}/mirror/", hub.endpoint());
    let mut fixture = Fixture::new();
    fixture.hub = HubSettings::from_variables(|name| (name == "HF_ENDPOINT").then(|| endpoint.clone()));
    assert_holds(&fixture.resolve(MAIN).expect("the mirror has it"), &FILES);
}

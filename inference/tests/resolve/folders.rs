//! Local folders, and sources that are none.

use std::{fs, path::Path, sync::Arc};

use sluice_inference::{ResolveError, Source, resolve::SilentProgress};
use tempfile::TempDir;

use crate::fixture::{FILES, Fixture, digest, write_model};

#[test]
fn a_local_folder_is_read_where_it_lies() {
    let fixture = Fixture::new();
    let folder = TempDir::new().expect("writable");
    write_model(folder.path(), &FILES);
    let source = folder.path().display().to_string();
    let found = fixture.resolve(&source).expect("complete");
    assert_eq!((found.path.as_path(), found.source), (folder.path(), source.clone()));
    assert_eq!(found.digest, digest(&FILES));
    fs::write(folder.path().join("README.md"), "another").expect("writable");
    assert_eq!(fixture.resolve(&source).expect("complete").digest, digest(&FILES), "a file that does not matter");
    fs::write(folder.path().join("1_Pooling/config.json"), "{}").expect("writable");
    assert_ne!(fixture.resolve(&source).expect("complete").digest, digest(&FILES), "a file that does");
}

#[test]
fn an_unusable_folder_is_named_with_the_file() {
    let fixture = Fixture::new();
    let folder = TempDir::new().expect("writable");
    let source = folder.path().join("model").display().to_string();
    let error = |change: &dyn Fn(&Path)| {
        let _ = fs::remove_dir_all(&source);
        write_model(Path::new(&source), &FILES);
        change(Path::new(&source));
        fixture.resolve(&source).expect_err("unusable").to_string()
    };
    type Change = Box<dyn Fn(&Path)>;
    let remove = |name: &'static str| -> Change { Box::new(move |at| fs::remove_file(at.join(name)).expect("there")) };
    let cases: Vec<(Change, &str)> = vec![
        (remove("config.json"), "config.json is missing"),
        (remove("tokenizer.json"), "tokenizer.json is missing"),
        (remove("model.safetensors"), "model.safetensors is missing"),
        (
            Box::new(|at| {
                fs::rename(at.join("model.safetensors"), at.join("model.safetensors.index.json")).expect("there");
            }),
            "the weights are sharded (model.safetensors.index.json)",
        ),
        (
            Box::new(|at| {
                fs::remove_file(at.join("tokenizer.json")).expect("there");
                fs::create_dir(at.join("tokenizer.json")).expect("writable");
            }),
            "tokenizer.json is not a file",
        ),
        (Box::new(|at| fs::remove_dir_all(at).expect("there")), "no such folder"),
    ];
    for (change, expected) in cases {
        let error = error(&*change);
        assert!(error.starts_with(&format!("model folder {source}: {expected}")), "{error}");
    }
}

#[test]
fn a_script_and_an_invalid_source_are_refused() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.resolve("scripted:x.toml"), Err(ResolveError::NotAFolder(Source::Scripted(_)))));
    let source = Source::Package { name: "--index-url=x".to_owned(), version: "1".to_owned() };
    let resolver = fixture.resolver(Arc::new(SilentProgress));
    assert!(matches!(resolver.resolve(&source), Err(ResolveError::InvalidSource(_))));
}

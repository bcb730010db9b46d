//! The `sluice-tokenstore` command on folders of its own.
#![allow(clippy::disallowed_methods, reason = "starts the binary that was built with this test")]

use std::{path::Path, process::Command};

use sluice_tokenstore::{
    ContentHash, Layout, ModelDigest, Namespace, Options, PutDocument, Storage, TokenStore, Tokens,
};

const MODEL: ModelDigest = ModelDigest([0xab; 32]);

/// Exit code, standard output, standard error.
fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice-tokenstore"))
        .arg("--dir")
        .arg(dir)
        .args(arguments)
        .output()
        .expect("it was built");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn filled(dir: &Path) {
    let store = TokenStore::open(dir, Options::default()).expect("a new store");
    let layout = Layout::new(Storage::F16, 2).expect("a layout");
    let vectors = [[0.5_f32, -1.0, 0.25, 1.0], [1.0, 0.0, 0.0, 1.0]];
    let documents: Vec<PutDocument<'_>> = ["a", "b"]
        .into_iter()
        .zip(&vectors)
        .map(|(id, vectors)| PutDocument {
            id,
            content_hash: ContentHash::of_text(id),
            truncated: false,
            vectors: Tokens::F32(vectors),
        })
        .collect();
    store.put(&Namespace::new("n").expect("a name"), MODEL, layout, &documents).expect("it fits");
}

#[test]
fn documents_go_out_and_come_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    filled(&from);
    let digest = MODEL.to_string();
    let of = ["--namespace", "n", "--model-digest", &digest];
    for path in ["copy.safetensors", "copy"] {
        let path = folder.path().join(path);
        let path = path.to_str().expect("text");
        let (code, out, err) = run(&from, &[&["export"][..], &of, &[path]].concat());
        assert_eq!((code, out.as_str()), (Some(0), "2 documents of 4 vectors exported\n"), "{err}");
        let (code, out, err) = run(&to, &[&["import"][..], &of, &["--dim", "2", path]].concat());
        assert_eq!((code, out.as_str()), (Some(0), "2 documents of 4 vectors imported\n"), "{err}");
    }
    let (code, out, _) = run(&to, &["verify"]);
    assert_eq!((code, out.as_str()), (Some(0), "2 documents read, 0 damaged\n"));
    let (code, out, _) = run(&to, &["stats"]);
    let expected = format!("n\t{digest}\tf16\tdim 2\t2 documents\t4 vectors\t");
    assert!(code == Some(0) && out.starts_with(&expected) && out.lines().count() == 1, "{out}");
}

#[test]
fn what_is_wrong_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    filled(&store);
    let digest = MODEL.to_string();
    let missing = folder.path().join("missing.safetensors");
    let missing = missing.to_str().expect("text");
    let import = ["import", "--namespace", "n", "--model-digest", &digest, "--dim", "2", missing];
    let cases: [(&[&str], i32, &str); 5] = [
        (&import, 1, "missing.safetensors"),
        (&["export", "--namespace", "none", "--model-digest", &digest, missing], 1, "nothing is stored under none"),
        (&["export", "--namespace", ".n", "--model-digest", &digest, missing], 2, "namespace"),
        (&["export", "--namespace", "n", "--model-digest", "12", missing], 2, "64 hexadecimal digits"),
        (&["nonsense"], 2, "nonsense"),
    ];
    for (arguments, expected, says) in cases {
        let (code, _, err) = run(&store, arguments);
        assert!(code == Some(expected) && err.contains(says), "{arguments:?}: {code:?} {err}");
    }
}

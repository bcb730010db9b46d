//! The design's rules that neither the compiler nor a lint can hold: which crate may know which, where the effects and
//! the dangerous parts stand, and how large a file may grow.
//!
//! Every rule is a function from what it looks at to the faults it finds, so that the last tests can show each one a
//! fault.
#![allow(clippy::disallowed_methods, reason = "cargo tells its tests through the environment where it is")]
#![allow(clippy::panic, reason = "a test fails by panicking, in its helper functions too")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Which crates of ours each crate may depend on. One that is not listed may not exist.
const ARROWS: [(&str, &[&str]); 12] = [
    ("sluice-proto", &[]),
    ("sluice-core", &[]),
    ("sluice-kernels", &[]),
    // CUDA sources on a CPU: only tests may need it, and what only tests need is not counted here.
    ("sluice-cuda-shim", &[]),
    ("sluice-service", &["sluice-proto"]),
    ("sluice-inference", &["sluice-core", "sluice-kernels"]),
    ("sluice-tokenstore", &["sluice-kernels"]),
    ("sluice-client", &["sluice-proto", "sluice-core"]),
    (
        "sluice-server",
        &["sluice-core", "sluice-inference", "sluice-tokenstore", "sluice-proto", "sluice-service", "sluice-client"],
    ),
    ("sluice-retrieval", &["sluice-core", "sluice-kernels", "sluice-proto", "sluice-service"]),
    ("sluice-loadtest", &["sluice-client", "sluice-core", "sluice-proto"]),
    (
        "sluice-benches",
        &[
            "sluice-proto",
            "sluice-core",
            "sluice-kernels",
            "sluice-service",
            "sluice-inference",
            "sluice-tokenstore",
            "sluice-client",
            "sluice-server",
            "sluice-retrieval",
            "sluice-loadtest",
        ],
    ),
];

/// Crates that speak gRPC.
const ON_THE_WIRE: &[&str] =
    &["sluice-proto", "sluice-service", "sluice-client", "sluice-loadtest", "sluice-server", "sluice-retrieval"];
/// Crates that wait: for a socket, a signal or a timer.
const ASYNCHRONOUS: &[&str] =
    &["sluice-service", "sluice-client", "sluice-loadtest", "sluice-server", "sluice-retrieval", "sluice-benches"];
/// Crates with a `main`.
const WITH_BINARIES: &[&str] =
    &["sluice-server", "sluice-retrieval", "sluice-client", "sluice-loadtest", "sluice-tokenstore", "sluice-benches"];

/// A dependency (and those whose names begin with it and a dash) that stands in some crates only.
struct Confined {
    dependency: &'static str,
    to: &'static [&'static str],
    because: &'static str,
}

const WITH_TENSORS: &[&str] = &["sluice-inference", "sluice-benches"];

const CONFINED: [Confined; 9] = [
    Confined { dependency: "tonic", to: ON_THE_WIRE, because: "decisions and models know no wire" },
    Confined { dependency: "prost", to: ON_THE_WIRE, because: "decisions and models know no wire" },
    Confined { dependency: "tokio", to: ASYNCHRONOUS, because: "decisions and models do not wait" },
    // The benchmarks have candle's own BERT as a rival.
    Confined { dependency: "candle", to: WITH_TENSORS, because: "the engine sees a Backend, no tensors" },
    Confined { dependency: "tokenizers", to: &["sluice-inference"], because: "tokens are made in one place" },
    Confined { dependency: "hf-hub", to: &["sluice-inference"], because: "models are fetched in one place" },
    Confined { dependency: "cudarc", to: &["sluice-kernels"], because: "one crate reaches the device" },
    Confined { dependency: "anyhow", to: WITH_BINARIES, because: "libraries have narrow, typed errors" },
    Confined { dependency: "clap", to: WITH_BINARIES, because: "only a binary reads the command line" },
];

/// A word that may stand in part of a source tree only.
struct Placed {
    word: &'static str,
    within: &'static str,
    only_under: &'static [&'static str],
}

/// gRPC ends at a binary's `grpc` module. Its messages are also known where they are parsed once (`validate`) and where
/// the process is put together (`serve`). CUDA ends at the kernels' `cuda` module.
const PLACED: [Placed; 6] = [
    Placed { word: "tonic", within: "server/src", only_under: &["server/src/grpc", "server/src/serve"] },
    Placed {
        word: "sluice_proto",
        within: "server/src",
        only_under: &["server/src/grpc", "server/src/serve", "server/src/validate"],
    },
    // A cluster is spoken to over gRPC too.
    Placed {
        word: "tonic",
        within: "retrieval/src",
        only_under: &["retrieval/src/grpc", "retrieval/src/serve", "retrieval/src/qdrant"],
    },
    Placed { word: "qdrant_client", within: "retrieval/src", only_under: &["retrieval/src/qdrant"] },
    Placed {
        word: "sluice_proto",
        within: "retrieval/src",
        only_under: &["retrieval/src/grpc", "retrieval/src/serve", "retrieval/src/validate"],
    },
    Placed { word: "cudarc", within: "kernels/src", only_under: &["kernels/src/cuda"] },
];

/// What may follow the keyword where it opens something, as opposed to a word in a name or a sentence.
const UNSAFE_OPENS: [&str; 5] = ["{", "fn", "impl", "trait", "extern"];
/// Where it stands: the kernels, and the modules that map files into memory, one in a crate.
const UNSAFE_HOMES: [&str; 3] = ["kernels", "tokenstore/src/map", "retrieval/src/truth/environment"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "manager", "managers", "misc", "processor"];

/// Lines of a file. Beyond this a reader loses the thread, and a file has a second idea that wants its own.
const FILE_LINES_MAX: usize = 600;
/// Lines of a file before its tests.
const CODE_LINES_MAX: usize = 400;

#[test]
fn crates_depend_only_downwards() {
    assert_none(&arrow_faults(&members()));
}

#[test]
fn dependencies_stand_where_they_belong() {
    assert_none(&confinement_faults(&members()));
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let manifests: Vec<_> = members().into_iter().map(|member| (member.name, read(&member.manifest))).collect();
    assert_none(&lint_faults(&manifests));
}

#[test]
fn words_stand_where_they_belong() {
    assert_none(&sources().iter().flat_map(placement_faults).collect::<Vec<_>>());
}

#[test]
fn files_are_small_enough_to_read() {
    assert_none(&sources().iter().flat_map(length_faults).collect::<Vec<_>>());
}

#[test]
fn names_say_what_is_inside() {
    assert_none(&sources().iter().flat_map(name_faults).collect::<Vec<_>>());
}

#[test]
fn the_readme_begins_with_the_two_commands() {
    let path = workspace().join("README.md");
    assert!(path.is_file(), "README.md is missing: its first two `sh` blocks are the quickstart and the tests");
    assert_none(&readme_faults(&read(&path)));
}

/// A crate of the workspace.
struct Member {
    name: String,
    manifest: PathBuf,
    /// Names of what it is built from; what only its tests need is left out.
    dependencies: Vec<String>,
}

/// One Rust file, its path relative to the workspace and with forward slashes.
struct Source {
    path: String,
    text: String,
}

fn arrow_faults(members: &[Member]) -> Vec<String> {
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let mut faults = Vec::new();
    for Member { name, dependencies, .. } in members {
        let Some(allowed) = arrows.get(name.as_str()) else {
            faults.push(format!("{name} is no crate of the design"));
            continue;
        };
        let ours = dependencies.iter().filter(|dependency| dependency.starts_with("sluice-"));
        faults.extend(
            ours.filter(|dependency| !allowed.contains(&dependency.as_str()))
                .map(|dependency| format!("{name} must not depend on {dependency}; it may on {allowed:?}")),
        );
    }
    faults
}

fn confinement_faults(members: &[Member]) -> Vec<String> {
    let mut faults = Vec::new();
    for Member { name, dependencies, .. } in members {
        for Confined { dependency: confined, to, because } in CONFINED {
            let family = format!("{confined}-");
            let found = dependencies.iter().find(|found| *found == confined || found.starts_with(&family));
            if let Some(found) = found.filter(|_| !to.contains(&name.as_str())) {
                faults.push(format!("{name} must not depend on {found}: {because}"));
            }
        }
    }
    faults
}

fn lint_faults(manifests: &[(String, String)]) -> Vec<String> {
    manifests
        .iter()
        .filter(|(_, manifest)| !manifest.contains("[lints]\nworkspace = true"))
        .map(|(name, _)| format!("{name}: Cargo.toml lacks `[lints]` with `workspace = true`"))
        .collect()
}

fn placement_faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in code_lines(&source.text) {
        for Placed { word, within, only_under } in PLACED {
            let misplaced = source.is_under(within) && !only_under.iter().any(|place| source.is_under(place));
            if misplaced && has_word(line, word) {
                faults.push(format!("{}:{number}: `{word}` belongs under {only_under:?}", source.path));
            }
        }
        let unsafe_opens = UNSAFE_OPENS.iter().any(|next| line.contains(&["unsafe", next].join(" ")));
        if unsafe_opens && !UNSAFE_HOMES.iter().any(|home| source.is_under(home)) {
            faults.push(format!("{}:{number}: unsafe code belongs under {UNSAFE_HOMES:?}", source.path));
        }
    }
    faults
}

fn length_faults(source: &Source) -> Option<String> {
    let all = source.text.lines().count();
    let before_tests = lines_before_tests(&source.text);
    let tests_only = source.path.contains("/tests/") || source.path.ends_with("/tests.rs");
    if all > FILE_LINES_MAX {
        Some(format!("{}: {all} lines, at most {FILE_LINES_MAX}", source.path))
    } else if before_tests > CODE_LINES_MAX && !tests_only {
        Some(format!("{}: {before_tests} lines before its tests, at most {CODE_LINES_MAX}", source.path))
    } else {
        None
    }
}

fn name_faults(source: &Source) -> Vec<String> {
    let mut names: Vec<&str> = source.path.trim_end_matches(".rs").split('/').collect();
    let modules = code_lines(&source.text).filter_map(|(_, line)| {
        let (_, rest) = line.split_once("mod ")?;
        rest.split(|letter: char| !is_word(letter)).next()
    });
    names.extend(modules);
    let empty = names.into_iter().filter(|name| EMPTY_NAMES.contains(name));
    empty.map(|name| format!("{}: `{name}` says nothing about what is inside", source.path)).collect()
}

fn readme_faults(readme: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let blocks: Vec<&str> = readme.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    for (nth, begins) in ["cargo run ", "cargo test "].into_iter().enumerate() {
        match blocks.get(nth) {
            None => faults.push(format!("README.md: `sh` block {} is missing: `{begins}…`", nth + 1)),
            Some(block) if block.lines().count() != 1 || !block.starts_with(begins) => {
                faults.push(format!("README.md: `sh` block {} is not one line `{begins}…` but:\n{block}", nth + 1));
            }
            Some(_) => {}
        }
    }
    faults
}

impl Source {
    /// Whether this is `place` itself (`place.rs`) or a file below it.
    fn is_under(&self, place: &str) -> bool {
        self.path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }
}

/// Lines with their numbers, comments cut off.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

/// Lines before the test module at the end, or all.
fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let opens_tests = |index: &usize| {
        let after = lines[index + 1..].iter().find(|line| !line.starts_with('#'));
        lines[*index] == "#[cfg(test)]" && after.is_some_and(|line| line.starts_with("mod "))
    };
    (0..lines.len()).find(opens_tests).unwrap_or(lines.len())
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(char::is_alphanumeric)
    })
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn members() -> Vec<Member> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(workspace());
    let output = command.output().expect("cargo is there: it runs this test");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("metadata lists packages");
    packages.iter().map(member).collect()
}

fn member(package: &Value) -> Member {
    let text = |value: &Value| value.as_str().expect("metadata gives a string").to_owned();
    let dependencies = package["dependencies"].as_array().expect("metadata lists dependencies");
    let built_from = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
    Member {
        name: text(&package["name"]),
        manifest: text(&package["manifest_path"]).into(),
        dependencies: built_from.map(|dependency| text(&dependency["name"])).collect(),
    }
}

/// Every Rust file of the workspace, whether git knows it or not; build outputs and hidden folders left out.
fn sources() -> Vec<Source> {
    let root = workspace();
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace can be listed") {
            let path = entry.expect("a folder of the workspace can be listed").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            if path.is_dir() {
                let foreign = name.starts_with('.') || name == "target" || name == "node_modules";
                folders.extend((!foreign).then_some(path));
            } else if name.ends_with(".rs") {
                let relative = path.strip_prefix(&root).expect("the walk began at the root");
                sources.push(Source { path: relative.to_string_lossy().replace('\\', "/"), text: read(&path) });
            }
        }
    }
    assert!(sources.iter().any(|source| source.path == "server/tests/architecture.rs"), "the walk missed this file");
    sources
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

// Each rule is shown a fault and a right example: a rule that finds nothing anywhere would pass for ever.

#[test]
fn rules_on_crates_find_faults() {
    let cases: [(&str, &str, bool); 12] = [
        ("sluice-client", "sluice-core", true),
        ("sluice-core", "sluice-proto", false),
        ("sluice-server", "sluice-retrieval", false),
        ("sluice-shared", "serde", false),
        ("sluice-service", "tonic-health", true),
        ("sluice-inference", "tonic", false),
        ("sluice-tokenstore", "prost-types", false),
        ("sluice-core", "tokio-util", false),
        ("sluice-kernels", "tokio", false),
        ("sluice-server", "candle-nn", false),
        ("sluice-kernels", "cudarc", true),
        ("sluice-service", "anyhow", false),
    ];
    for (name, dependency, right) in cases {
        let member =
            Member { name: name.to_owned(), manifest: PathBuf::new(), dependencies: vec![dependency.to_owned()] };
        let members = [member];
        let faults = [arrow_faults(&members), confinement_faults(&members)].concat();
        assert_eq!(faults.len(), usize::from(!right), "{name} → {dependency}: {faults:?}");
    }
    assert_eq!(lint_faults(&[("a".into(), "[lints]\nworkspace = true\n".into()), ("b".into(), "".into())]).len(), 1);
}

#[test]
fn rules_on_files_find_faults() {
    let long = "let a = 1;\n".repeat(CODE_LINES_MAX + 1);
    let tested = format!("{}#[cfg(test)]\nmod tests {{}}\n", "let a = 1;\n".repeat(CODE_LINES_MAX));
    let too_long = "let a = 1;\n".repeat(FILE_LINES_MAX + 1);
    let cases: [(&str, &str, usize); 22] = [
        ("server/src/grpc.rs", "use tonic::Status;", 0),
        ("server/src/grpc/rerank.rs", "use tonic_types::ErrorDetails;", 0),
        ("server/src/engine.rs", "use tonic::Status;", 1),
        ("server/src/engine.rs", "use tonic_types::ErrorDetails;", 1),
        ("server/src/engine.rs", "// tonic stays out of here; a diatonic one too", 0),
        ("server/src/grpc_codes.rs", "use sluice_proto::rerank::v1 as wire;", 1),
        ("server/src/validate.rs", "use sluice_proto::rerank::v1 as wire;", 0),
        ("server/src/validate.rs", "use tonic::Status;", 1),
        ("server/tests/wire.rs", "use tonic::Status;", 0),
        ("core/src/rank.rs", concat!("let a = un", "safe { *p };"), 1),
        ("kernels/src/maxsim/avx2.rs", concat!("un", "safe fn dot() {}"), 0),
        ("tokenstore/src/map.rs", concat!("un", "safe { align_to() }"), 0),
        ("tokenstore/src/store.rs", concat!("un", "safe { align_to() }"), 1),
        ("core/src/rank.rs", "#![deny(unsafe_code)] // unsafe { }", 0),
        ("core/src/rank.rs", &long, 1),
        ("core/src/rank.rs", &tested, 0),
        ("core/src/rank/tests.rs", &long, 0),
        ("server/tests/wire.rs", &too_long, 1),
        ("server/src/utils.rs", "", 1),
        ("server/src/misc/queue.rs", "", 1),
        ("server/src/lib.rs", concat!("pub(crate) mod ", "helpers;"), 1),
        ("server/src/lib.rs", "mod queue; // not the utils", 0),
    ];
    for (path, text, expected) in cases {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        let mut faults = placement_faults(&source);
        faults.extend(length_faults(&source));
        faults.extend(name_faults(&source));
        assert_eq!(faults.len(), expected, "{path}, {:.60}: {faults:?}", text.escape_debug().to_string());
    }
}

#[test]
fn the_rule_on_the_readme_finds_faults() {
    let block = |line: &str| format!("words\n\n```sh\n{line}\n```\n");
    let right = block("cargo run --release") + &block("cargo test --workspace") + &block("a\nb");
    let cases: [(&str, usize); 5] = [
        (&right, 0),
        ("nothing", 2),
        (&block("cargo run --release"), 1),
        (&(block("cd x\ncargo run") + &block("cargo test --workspace")), 1),
        (&(block("cargo test --workspace") + &block("cargo run --release")), 2),
    ];
    for (readme, expected) in cases {
        assert_eq!(readme_faults(readme).len(), expected, "{readme}");
    }
}

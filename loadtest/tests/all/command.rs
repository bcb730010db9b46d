//! The `sluice-load` command as a process.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::fake::{Behaviour, Fake};

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn sluice_load(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-load"));
    command.args(arguments).env_remove("SLUICE_URL").env("SLUICE_TOKEN", "from-the-environment").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().expect("no signal ends it");
    Ran { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Every key of an object and of those inside it, as paths; lists by their first element.
fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found.push(path.clone());
                keys(value, &path, found);
            }
        }
        Value::Array(list) => list.iter().take(1).for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

fn latency_keys(of: &str) -> Vec<String> {
    let mut keys = vec![of.to_owned(), format!("{of}.count"), format!("{of}.max"), format!("{of}.mean")];
    for percentile in ["p50", "p90", "p95", "p99", "p999"] {
        keys.push(format!("{of}.{percentile}"));
        keys.extend(["value", "low", "high"].map(|bound| format!("{of}.{percentile}.{bound}")));
    }
    keys
}

fn figures_keys(of: &str) -> Vec<String> {
    let mut keys: Vec<String> = [
        "requests",
        "sent",
        "answered",
        "good",
        "good_share",
        "partial",
        "partial_reasons",
        "offered_per_second",
        "answered_per_second",
        "goodput_per_second",
        "goodput_per_second.value",
        "goodput_per_second.low",
        "goodput_per_second.high",
        "documents_per_second",
        "outcomes",
        "outcomes[].status",
        "outcomes[].reason",
        "outcomes[].count",
        "refusal_seconds",
    ]
    .map(|key| format!("{of}.{key}"))
    .to_vec();
    for times in ["latency_seconds", "service_seconds", "lag_seconds"] {
        keys.extend(latency_keys(&format!("{of}.{times}")));
    }
    keys
}

fn report_keys() -> Vec<String> {
    let mut expected: Vec<String> = [
        "schema",
        "server",
        "workload",
        "seconds",
        "elapsed_seconds",
        "interrupted",
        "generator",
        "generator.connections",
        "generator.in_flight_max",
        "generator.in_flight_peak",
        "generator.waited_for_a_slot",
        "generator.late_starts",
        "generator.late_after_seconds",
        "total",
        "classes",
        "classes[].class",
        "streams",
        "streams[].name",
        "streams[].class",
        "streams[].tenant",
        "streams[].deadline_seconds",
    ]
    .map(str::to_owned)
    .to_vec();
    expected.extend(["total", "classes[]", "streams[]"].into_iter().flat_map(figures_keys));
    expected.sort();
    expected
}

#[test]
fn json_has_the_documented_keys_and_no_others() {
    let fake = Fake::start(Behaviour::Answer);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("figures.json");
    let ran = sluice_load(&[
        "run",
        "--server",
        &fake.url,
        "--rate",
        "100",
        "--arrivals",
        "constant",
        "--duration",
        "400ms",
        "--warm-up",
        "100ms",
        "--documents",
        "4",
        "--document-tokens",
        "6",
        "--deadline",
        "5s",
        "--class",
        "interactive",
        "--method",
        "cross_encoder",
        "--model",
        "m",
        "--budget",
        "50ms",
        "--json",
        file.to_str().unwrap(),
    ]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    assert!(ran.stdout.contains("goodput/s") && ran.stdout.contains("p99.9"), "{}", ran.stdout);

    let json: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let mut found = Vec::new();
    keys(&json, "", &mut found);
    found.retain(|key| !key.starts_with("workload."));
    found.sort();
    assert_eq!(found, report_keys());
    assert_eq!((json["schema"].as_str(), json["total"]["requests"].as_u64()), (Some("sluice-load/run/1"), Some(30)));
    assert_eq!(json["workload"]["stream"][0]["deadline"], "5s");

    let seen = fake.seen();
    assert_eq!(seen.len(), 40);
    assert!(seen.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer from-the-environment")));
    let request = &seen[0].request;
    assert_eq!((request.documents.len(), request.model.as_str(), request.method, request.priority), (4, "m", 3, 1));
    assert_eq!(request.budget.unwrap().time.unwrap().nanos, 50_000_000);
}

#[test]
fn a_workload_file_is_sent_as_it_says() {
    let fake = Fake::start(Behaviour::Answer);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let workload = write(
        "workload.toml",
        "duration = \"10s\"\n[[stream]]\nname = \"chat\"\narrivals = { process = \"constant\", rate = 50 }\n\
         documents = 2\ntenant = \"acme\"\n[[stream]]\nname = \"nightly\"\n\
         arrivals = { process = \"closed\", callers = 2, think_time = \"20ms\" }\ndocuments = 5\nclass = \"bulk\"\n",
    );
    let texts = write("texts.txt", "one line\n\nanother line\n");
    let ran = sluice_load(&[
        "run",
        "--server",
        &fake.url,
        "--workload",
        &workload,
        "--duration",
        "400ms",
        "--texts",
        &texts,
        "--tenant-token",
        "acme=a=b",
    ]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    for name in ["chat", "nightly", "all bulk", "all standard"] {
        assert!(ran.stdout.contains(name), "{name} is missing:\n{}", ran.stdout);
    }
    let seen = fake.seen();
    let chat = seen.iter().filter(|seen| seen.authorization.as_deref() == Some("Bearer a=b"));
    assert_eq!(chat.filter(|seen| seen.request.documents.len() == 2).count(), 20);
    assert!(seen.iter().any(|seen| seen.request.documents.len() == 5));
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let fake = Fake::start(Behaviour::Refuse);
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.toml");
    std::fs::write(
        &bad,
        "duration = \"1s\"\n[[stream]]\nname = \"\"\narrivals = { process = \"poisson\", rate = 0 }\ndocuments = 0\n",
    )
    .unwrap();
    let no_toml = folder.path().join("none.toml");
    std::fs::write(&no_toml, "duration = 5\n").unwrap();
    let (bad, no_toml) = (bad.to_str().unwrap(), no_toml.to_str().unwrap());
    let url = fake.url.as_str();
    let cases: [(&[&str], i32, &[&str]); 11] = [
        (
            &["run", "--server", url, "--duration", "200ms", "--warm-up", "0s", "--rate", "50"],
            1,
            &["nothing was answered"],
        ),
        (&["run", "--server", "http://127.0.0.1:1"], 1, &["cannot reach"]),
        (&["run", "--server", "https://sluice"], 2, &["TLS is not supported"]),
        (&["run", "--duration", "soon"], 2, &["is no time"]),
        (&["run", "--rate=-1"], 2, &["stream[0].arrivals.rate"]),
        (&["run", "--rate", "0"], 2, &["stream[0].arrivals.rate"]),
        (&["run", "--workload", bad], 2, &["stream[0].name", "stream[0].arrivals.rate", "stream[0].documents"]),
        (&["run", "--workload", no_toml], 2, &["none.toml", "duration"]),
        (&["run", "--workload", "/nowhere/at/all.toml"], 2, &["cannot read"]),
        (&["run", "--workload", bad, "--rate", "5"], 2, &["cannot be used with"]),
        (&["run", "--server", url, "--tenant-token", "acme"], 2, &["NAME=TOKEN"]),
    ];
    for (arguments, code, parts) in cases {
        let ran = sluice_load(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        for part in parts {
            assert!(ran.stderr.contains(part), "{arguments:?}: {part:?} is missing: {}", ran.stderr);
        }
    }
}

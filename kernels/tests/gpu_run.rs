//! The packed GPU run, as far as it goes without a device: it asks for one, and says what is missing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]
#![allow(clippy::disallowed_methods, reason = "real processes are started")]
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use sluice_kernels::cuda::CudaDevice;
use tempfile::TempDir;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("benches/gpu")
}

/// A folder as `pack` makes it, with these programs in place of the binaries.
fn packed(gpu_tests: &str, maxsim_gpu: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["run", "rivals.py", "report.py", "encoder_report.py"] {
        fs::copy(sources().join(name), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("commit"), "0123456789ab\n").unwrap();
    for (name, text) in [("gpu-tests", gpu_tests), ("maxsim-gpu", maxsim_gpu)] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

fn run(folder: &TempDir, steps: &[&str]) -> (Option<i32>, String) {
    let output: Output = Command::new("bash").arg("run").args(steps).current_dir(folder.path()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// What maxsim_gpu would print, with times that are made up for the arithmetic of the report.
fn ours() -> Value {
    let case = |storage: &str, documents: u32, step: &str, seconds: f64| {
        let bytes = u64::from(documents) * 180 * if storage == "f16" { 256 } else { 132 };
        json!({"storage": storage, "documents": documents, "tokens": 180, "step": step, "kernel": "k", "bytes": bytes,
               "sets": 5, "seconds": seconds, "seconds_min": seconds, "seconds_max": seconds})
    };
    json!({
        "device": "no device", "l2_bytes": 1, "copy_bytes_per_second": 4e12,
        "cases": [case("f16", 1000, "mma", 32e-6), case("f16", 1000, "stream", 20e-6), case("f16", 10_000, "stream", 128e-6)],
    })
}

#[test]
fn without_a_device_the_run_says_so_and_ends_with_3() {
    if let Ok(device) = CudaDevice::open(0) {
        println!("skipped: there is a device ({})", device.name());
        return;
    }
    // The real test binary lies beside this one; cargo builds it under its own name.
    let beside = env::current_exe().unwrap();
    let built = fs::read_dir(beside.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let is_binary = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.strip_prefix("gpu-").is_some_and(|hash| hash.chars().all(|c| c.is_ascii_hexdigit()))
    };
    let newest = built.filter(is_binary).max_by_key(|path| path.metadata().unwrap().modified().unwrap());
    let Some(newest) = newest else {
        println!("skipped: the test `gpu` was not built");
        return;
    };
    let folder = packed(&format!("#!/bin/sh\nexec '{}' \"$@\"\n", newest.display()), "#!/bin/sh\nexit 1\n");
    let (status, text) = run(&folder, &[]);
    assert_eq!(status, Some(3), "{text}");
    assert!(text.contains("no usable CUDA device") && text.contains("a device is required: "), "{text}");
}

#[test]
fn every_step_is_run_and_a_failure_is_reported() {
    let sound = "#!/bin/sh\necho DeviceShape\nexit 0\n";
    let printed = format!("#!/bin/sh\ncat <<'EOF'\n{}\nEOF\n", ours());
    let folder = packed(sound, &printed);
    let (status, text) = run(&folder, &["conformance", "bench"]);
    assert_eq!(status, Some(0), "{text}");
    for part in ["==> conformance", "==> bench", "| maxsim/f16/10000x180 |", "passed; results are in results"] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    let report: Value = serde_json::from_slice(&fs::read(folder.path().join("results/report.json")).unwrap()).unwrap();
    assert_eq!((&report["scenario"], &report["commit"]), (&json!("maxsim_gpu"), &json!("0123456789ab")));

    // Asked for the device it answers, then its tests fail.
    let failing = "#!/bin/sh\necho DeviceShape\n[ \"$1\" = --exact ]\n";
    let (status, text) = run(&packed(failing, "#!/bin/sh\nexit 1\n"), &["conformance", "bench"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("FAILED: conformance\nFAILED: bench"), "{text}");
    assert_eq!(run(&packed(sound, sound), &["nothing"]).0, Some(2));

    // A device that is there and cannot be used is no missing device.
    let (status, text) = run(&packed("#!/bin/sh\necho the driver is ill\nexit 101\n", sound), &["conformance"]);
    assert!(status == Some(1) && text.contains("the device cannot be used:\n") && text.contains("is ill"), "{text}");
}

#[test]
fn what_the_time_does_not_suffice_for_is_left_out_and_a_hang_is_a_failure() {
    let sound = "#!/bin/sh\necho DeviceShape\nexit 0\n";
    let within = |folder: &TempDir, steps: &[&str]| {
        let mut command = Command::new("bash");
        command.arg("run").args(steps).current_dir(folder.path()).env("RUN_SECONDS", "1");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, text) = within(&packed(sound, "#!/bin/sh\nexec sleep 60\n"), &["bench"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("left out: bench: it took longer than the time that there was"), "{text}");
    let hanging = "#!/bin/sh\necho DeviceShape\n[ \"$1\" = --exact ] || exec sleep 60\n";
    let (status, text) = within(&packed(hanging, sound), &["conformance"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("FAILED: conformance"), "{text}");
}

#[test]
fn the_report_compares_with_the_copy_the_limit_and_the_rivals() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("ours.json"), ours().to_string()).unwrap();
    let rival = json!({"storage": "f16", "documents": 10_000, "tokens": 180, "rival": "a rival", "seconds": 256e-6});
    fs::write(at("rivals.json"), json!({"rows": [rival]}).to_string()).unwrap();
    let status = Command::new("python3")
        .arg("-B")
        .arg(sources().join("report.py"))
        .args([at("ours.json"), at("rivals.json")])
        .arg("abc")
        .arg(at("report.json"))
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let report: Value = serde_json::from_slice(&fs::read(at("report.json")).unwrap()).unwrap();
    let row = |case: &str, unit: &str, ours: f64, rival: &str, rival_value: f64, ratio: f64, target: Value| {
        json!({"case": case, "unit": unit, "ours": ours, "rival": rival, "rival_value": rival_value, "ratio": ratio,
               "target": target})
    };
    let (small, large) = ("maxsim/f16/1000x180", "maxsim/f16/10000x180");
    let expected = json!([
        row(small, "TB/s", 2.304, "device copy", 4.0, 0.576, Value::Null),
        row(small, "scorings/s", 50_000.0, "limit of 16 µs", 62_500.0, 0.8, json!(1.0)),
        row(small, "TB/s", 2.304, "ours, mma", 1.44, 1.6, Value::Null),
        row(large, "TB/s", 3.6, "device copy", 4.0, 0.9, json!(0.85)),
        row(large, "TB/s", 3.6, "a rival", 1.8, 2.0, Value::Null),
    ]);
    assert_eq!(report["rows"], expected);
    let table = String::from_utf8(status.stdout).unwrap();
    assert!(table.contains("0.85 met") && table.contains("1.0 MISSED"), "{table}");
}

/// The encoder's cases, and what encoder_gpu would print of them, with times that are made up.
fn encoder() -> (Value, Value) {
    let model = |name: &str, cases: &[(&str, Vec<u32>)]| {
        let cases: Vec<Value> = cases.iter().map(|(name, lengths)| json!({"name": name, "lengths": lengths})).collect();
        json!({"name": name, "hidden": 384, "layers": 6, "heads": 12, "intermediate": 1536, "check": [1], "cases": cases})
    };
    let plan = json!({"models": [
        model("MiniLM-L6", &[("100x256", vec![256; 100])]),
        model("BERT-base", &[("100x256", vec![256; 100]), ("100xnatural", vec![90; 100])]),
    ]});
    let measured = |name: &str, cases: &[(&str, f64)]| {
        let cases: Vec<Value> = cases.iter().map(|(name, seconds)| json!({"name": name, "seconds": seconds})).collect();
        let check = json!({"passed": true, "largest_distance": 1e-4, "pairs": 1, "logits": [0.5],
                           "pairs_whose_bits_depend_on_the_batch": 0});
        json!({"name": name, "backend": "cuda-f16", "check": check, "cases": cases})
    };
    let ours = json!({"device": "no device", "models": [
        measured("MiniLM-L6", &[("100x256", 1.2e-3)]),
        measured("BERT-base", &[("100x256", 1e-3), ("100xnatural", 1e-3)]),
    ]});
    (plan, ours)
}

#[test]
fn the_encoder_is_left_out_without_pytorch_and_compared_with_it() {
    let (plan, ours) = encoder();
    let sound = "#!/bin/sh\necho DeviceShape\nexit 0\n";
    let folder = packed(sound, sound);
    let script = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let binary = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("encoder_models.py", "import sys\nsys.exit(3)\n");
    let (status, text) = run(&folder, &["encoder"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("left out: encoder: python3 has no PyTorch"), "{text}");

    let write = "import pathlib, sys\nfolder = pathlib.Path(sys.argv[1])\nfolder.mkdir(parents=True)\n";
    script(
        "encoder_models.py",
        &format!("{write}(folder / 'cases.json').write_text('{plan}')\n(folder / 'MiniLM-L6').mkdir()\n"),
    );
    script("encoder_rivals.py", "import sys\nsys.exit(3)\n");
    binary("encoder-gpu", &format!("#!/bin/sh\ncat <<'EOF'\n{ours}\nEOF\n"));
    binary("encoder-ops-gpu", "#!/bin/sh\necho \"operations: $*\"\n");
    binary("sluice-benches", "#!/bin/sh\necho \"asked: $*\"\n");
    let (status, text) = run(&folder, &["encoder"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("| MiniLM-L6 | 100x256 | 1.200 |") && text.contains("0 of 1"), "{text}");
    assert!(
        text.contains("==> end-to-end-MiniLM-L6\nasked: end-to-end --device cuda --model results/models/MiniLM-L6 ")
    );
    assert!(text.contains("==> operations\noperations: --quick\n"), "{text}");
    assert!(!folder.path().join("results/models").exists(), "models are large");
    binary("sluice-benches", "#!/bin/sh\nexit 1\n");
    let (status, text) = run(&folder, &["encoder"]);
    assert!(status == Some(1) && text.contains("FAILED: end-to-end-MiniLM-L6"), "{text}");
    binary("sluice-benches", "#!/bin/sh\n");

    // What differs from PyTorch fails the run, and what encoder_gpu finds amiss too.
    let rivals = json!({"torch": "0", "device": "no device", "peak_flops": 8e14,
                        "models": [{"name": "BERT-base", "logits": [0.6], "rows": []}]});
    let write = "import pathlib, sys\nassert sys.argv[1] == '--compile'\npathlib.Path(sys.argv[3])";
    script("encoder_rivals.py", &format!("{write}.write_text('{rivals}')\n"));
    let (status, text) = run(&folder, &["encoder"]);
    assert!(status == Some(1) && text.contains("FAILED: encoder-report"), "{text}");
    binary("encoder-gpu", "#!/bin/sh\nexit 1\n");
    let (status, text) = run(&folder, &["encoder"]);
    assert!(status == Some(1) && text.contains("FAILED: encoder"), "{text}");
}

#[test]
fn the_encoders_report_compares_with_the_limit_the_peak_and_pytorch() {
    let (plan, ours) = encoder();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("cases.json"), plan.to_string()).unwrap();
    fs::write(at("ours.json"), ours.to_string()).unwrap();
    let rival = json!({"name": "100xnatural", "rival": "PyTorch, batches of 32", "seconds": 3e-3});
    let rivals = json!({"torch": "0", "peak_flops": 8e14,
                        "models": [{"name": "BERT-base", "logits": [0.5001], "rows": [rival]}]});
    fs::write(at("rivals.json"), rivals.to_string()).unwrap();
    let done = Command::new("python3")
        .arg("-B")
        .arg(sources().join("encoder_report.py"))
        .args([folder.path().to_path_buf(), at("ours.json"), at("rivals.json")])
        .arg("abc")
        .arg(at("report.json"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&fs::read(at("report.json")).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let row = |case: &str, rival: &str| {
        let found = rows.iter().find(|row| row["case"] == case && row["rival"] == rival);
        found.unwrap_or_else(|| panic!("no {case} beside {rival}: {rows:?}"))
    };
    assert_eq!(row("encoder/MiniLM-L6/100x256", "limit of 1.5 ms")["ratio"], json!(1.25));
    // 25,600 tokens of 2·(4·384² + 2·384·1536) FLOPs each and 4·384 for each of 256 keys, in 6 layers: 0.604 TFLOP, as
    // kernels' reference tables have it.
    let share = row("encoder/BERT-base/100x256", "measured peak");
    assert_eq!((&share["ours"], &share["target"]), (&json!(604.0), &json!(0.55)));
    let natural = row("encoder/BERT-base/100xnatural", "PyTorch, batches of 32");
    assert_eq!((&natural["ratio"], &natural["target"]), (&json!(3.0), &json!(2.0)));
    assert_eq!(rows.len(), 5, "{rows:?}");
}

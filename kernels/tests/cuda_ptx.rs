//! The committed PTX is what the sources compile to: by digests here, and byte by byte in `bash .ci/ptx`, which has the
//! compiler.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helper functions too")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn manifest() -> Value {
    serde_json::from_str(&read(&folder().join("ptx/manifest.json"))).unwrap()
}

/// What is compiled of a source, as kernels/cuda/compile.py puts it together.
fn unit(source: &str) -> String {
    let source = folder().join(source);
    let mut shared: Vec<PathBuf> = fs::read_dir(source.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cuh"))
        .collect();
    shared.sort();
    let parts = [folder().join("prelude.cu")].into_iter().chain(shared).chain([source]);
    parts
        .map(|part| {
            let name = part.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned();
            format!("#line 1 \"{name}\"\n{}", read(&part))
        })
        .collect()
}

#[test]
fn the_manifest_is_of_these_sources_and_these_files() {
    let manifest = manifest();
    let files = manifest["files"].as_object().unwrap();
    for (name, entry) in files {
        let source = entry["source"].as_str().unwrap();
        let stale = "`bash .ci/ptx --write` compiles it again";
        assert_eq!(entry["source_sha256"], digest(&unit(source)), "{source} has changed since {name}: {stale}");
        assert_eq!(entry["ptx_sha256"], digest(&read(&folder().join("ptx").join(name))), "{name} was edited: {stale}");
    }
    let found: BTreeSet<String> = fs::read_dir(folder().join("ptx"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "manifest.json")
        .collect();
    assert_eq!(found, files.keys().cloned().collect());
}

/// Only what is named here may spill.
fn spilled_bytes_max(kernel: &str) -> u64 {
    match kernel {
        // A few bytes, once for a row, are no harm where registers are documents on their way.
        _ if kernel.starts_with("maxsim_stream") => 32,
        // Explanations, and a step of the ladder that nobody takes: on sm_90 the assembler prefers more blocks.
        "maxsim_alignment_f16" | "maxsim_alignment_int8" | "maxsim_mma_int8_q32" => 104,
        _ => 0,
    }
}

/// Of a thread, so that a multiprocessor of 65,536 has as many blocks as the kernel was made for.
fn registers_max(kernel: &str) -> u64 {
    match kernel {
        // Four blocks of 64 threads, with some to spare.
        "encoder_attention_wide_d64" => 224,
        // Five of them, likewise.
        "encoder_attention_wide_d32" => 192,
        // Two blocks of 256 threads.
        _ => 128,
    }
}

#[test]
fn every_kernel_is_compiled_and_keeps_to_its_registers() {
    let manifest = manifest();
    let mut compiled = BTreeSet::new();
    for (name, entry) in manifest["files"].as_object().unwrap() {
        // For the generation that it is of, and for the newest where that has none of its own.
        let assembled = ["kernels", "kernels_on_sm_90"].into_iter().filter_map(|key| entry.get(key));
        for (kernel, used) in assembled.flat_map(|kernels| kernels.as_object().unwrap()) {
            let (registers, spilled) = (used["registers"].as_u64().unwrap(), used["spilled_bytes"].as_u64().unwrap());
            let (registers_max, spilled_max) = (registers_max(kernel), spilled_bytes_max(kernel));
            assert!(
                registers <= registers_max && spilled <= spilled_max,
                "{name}, {kernel}: {registers} registers, {spilled} bytes spilled"
            );
            compiled.insert(kernel.clone());
        }
    }
    let sources: BTreeSet<String> = sluice_cuda_shim::kernels()
        .into_iter()
        .filter(|name| !name.starts_with("selftest"))
        .map(str::to_owned)
        .collect();
    assert_eq!(compiled, sources, "the shim and the PTX have the same kernels");
}

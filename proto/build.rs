//! Compiles the `.proto` files with protox, so that a build needs no `protoc`.
#![allow(clippy::disallowed_methods, reason = "cargo talks to a build script through the environment")]

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 9] = [
    "sluice/model/v1/embedding.proto",
    "sluice/model/v1/model.proto",
    "sluice/model/v1/encode.proto",
    "sluice/rerank/v1/rerank.proto",
    "sluice/rerank/v1/token_store.proto",
    "sluice/retrieval/v1/collection.proto",
    "sluice/retrieval/v1/document.proto",
    "sluice/retrieval/v1/retrieval.proto",
    "sluice/retrieval/v1/search.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=sluice");

    let descriptors = protox::compile(FILES, [&root])?;
    fs::write(out.join("sluice.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // Vectors are read where they arrived, not copied into messages first.
    tonic_prost_build::configure().bytes(".sluice.model.v1.Embedding").compile_fds(descriptors)?;
    Ok(())
}

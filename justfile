# Shorthands. Each is a line that can be typed without `just`. What they build goes where cargo puts it (target/), or
# where CARGO_TARGET_DIR says.

# What there is.
default:
    @{{ just_executable() }} --list --unsorted

# Everything CI checks beside the tests; or some of it: `just check fmt clippy`.
check *NAMES:
    bash .ci/check {{ NAMES }}

# All tests; or those that match: `just test scheduler`.
test *FILTER:
    cargo test --workspace {{ FILTER }}

# What CI runs: checks and tests, with the default model required.
ci:
    bash .ci/run

# Rewrites the Rust sources and the wire as the checks want them.
fmt:
    cargo fmt --all
    bash .ci/tool buf format --write

# Serves the default model and reranks a bundled example through it; Ctrl-C ends it.
quickstart *FLAGS:
    cargo run --release -p sluice-server -- --quickstart {{ FLAGS }}

# Serves on 127.0.0.1:50051: `just serve --model NAME=SOURCE`, `just serve --config FILE`.
serve *FLAGS:
    cargo run --release -p sluice-server -- {{ FLAGS }}

# Runs a scenario beside its rivals: `just bench encoder`, `just bench encoder --json FILE`.
bench NAME *FLAGS:
    cargo run --release -p sluice-benches -- {{ NAME }} {{ FLAGS }}

# Packs the GPU run for a machine without cargo, and says what to type there.
gpu *FOLDER:
    bash benches/gpu/pack {{ FOLDER }}

# Whether clients of a release still work with this wire: `just buf-breaking v0.1.0`.
buf-breaking TAG:
    bash .ci/tool buf breaking --against '.git#tag={{ TAG }}'

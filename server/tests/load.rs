//! 64 callers at once against the running server: every request that is let in is answered, whole and right, or
//! cancelled; what callers counted is what the metrics say; and when they have left, nothing is left of them.
//!
//! A run has three rounds. In the first everybody waits for the answer, so that every figure has to be equal. In the
//! other two, one in five leaves midway and some are in a hurry; between those two, memory must not have grown.
//! `SLUICE_LOAD_SECONDS` is the time of the three together, for each backend; 6 if it is not set. The long run:
//!
//! ```text
//! SLUICE_LOAD_SECONDS=60 cargo test --workspace --test load -- --nocapture
//! ```
//!
//! The run against the default model is skipped, with a line that says so, where no source has it.
#![allow(clippy::disallowed_methods, reason = "starts real processes, and measures real time")]
#![allow(clippy::panic, clippy::print_stdout, reason = "a test fails by panicking, and shows figures")]

#[path = "load/caller.rs"]
mod caller;
mod common;
#[path = "load/tally.rs"]
mod tally;
#[path = "load/workload.rs"]
mod workload;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use caller::{Caller, Mix};
use common::{
    child::{PATIENCE, Ports, ServerProcess, script},
    prometheus::Metrics,
};
use sluice_inference::testing::default_model;
use tally::Tally;
use tokio::task::JoinSet;
use workload::Workload;

const CALLERS: u64 = 64;
const SEED: u64 = 0x51_1c_e0;
/// Memory that a process may hold at the end beyond what it held after a round of the same kind. What an allocator keeps
/// of peaks that do not recur falls under it; a leak of 1 KiB for each request of a long run would not.
const GROWTH_BYTES_MAX: u64 = 32 << 20;

/// Batches take about as long as those of a small model on a fast device.
const SCRIPT: &str = "max_tokens = 64\nbatch_tokens_max = 4096\nin_flight_batches_max = 2\n\
                      [service_time]\nper_batch = \"1ms\"\nper_token = \"500ns\"\njitter = 0.5\nseed = 7\n";

/// One run at a time: each of them would rather have the machine to itself.
static MACHINE: Mutex<()> = Mutex::new(());

#[test]
fn callers_against_the_scripted_backend() {
    let folder = tempfile::tempdir().expect("a folder");
    run("scripted", &script(folder.path(), SCRIPT), 20_000, Workload::scripted(SEED));
}

#[test]
fn callers_against_the_default_model() {
    // Says itself that it skips.
    let Some(model) = default_model() else { return };
    run("all-MiniLM-L6-v2", &model.path.display().to_string(), 800, Workload::short_texts(SEED));
}

fn seconds() -> f64 {
    match std::env::var("SLUICE_LOAD_SECONDS") {
        Ok(text) => {
            text.parse().ok().filter(|seconds| *seconds > 0.0).expect("SLUICE_LOAD_SECONDS is a number of seconds")
        }
        Err(_) => 6.0,
    }
}

/// `documents_max` bounds what is inside at a time: little enough that some are refused, and that a round ends soon
/// after its time.
fn run(name: &str, source: &str, documents_max: u32, workload: Workload) {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let mut process = ServerProcess::start_with(
        &["--model", &format!("{name}={source}"), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"],
        |command| {
            command.env("SLUICE_ADMISSION__DOCUMENTS_MAX", documents_max.to_string());
            // Longer than any queue may be: nobody who waits for an answer is to miss it for being slow.
            command.env("SLUICE_DEFAULT_DEADLINE", "2m").env("SLUICE_DRAIN__GRACE", "0s");
        },
    );
    let ports = process.serving();
    let round = Duration::from_secs_f64(seconds() / 3.0);
    let begin = Instant::now();
    let figures = runtime.block_on(async {
        let workload = Arc::new(workload.with_scores_of(ports.channel().await).await);
        let before = ports.at_rest().await;
        let tally = Arc::new(Tally::default());
        let mut memory = Vec::new();
        for (number, mix) in (1..).zip([Mix::Patient, Mix::Restless, Mix::Restless]) {
            callers(ports, &workload, &tally, (number, mix, round)).await;
            let metrics = ports.at_rest().await;
            let faults = tally.faults(&before, &metrics, mix);
            assert!(faults.is_empty(), "{name}, seed {SEED:#x}, round {number}:\n{}", faults.join("\n"));
            memory.push(process.resident_bytes());
        }
        let metrics = all_gone(ports).await;
        format!(
            "{name}, {CALLERS} callers, {:.1} s\n{}{}",
            begin.elapsed().as_secs_f64(),
            tally.figures(&before, &metrics),
            megabytes(&memory)
        )
    });
    println!("{figures}");
    runtime.shutdown_background();
    process.signal("TERM");
    assert_eq!(process.ended(PATIENCE).code(), Some(0));
    process.logged("stopped; every request was answered");
    let complaints: Vec<_> = process.log().into_iter().filter(|line| !line.contains("\"level\":\"INFO\"")).collect();
    assert_eq!(complaints, Vec::<String>::new(), "{name}: nothing went wrong");
}

/// One round: every caller over a connection of its own.
async fn callers(
    ports: Ports,
    workload: &Arc<Workload>,
    tally: &Arc<Tally>,
    (number, mix, time): (u64, Mix, Duration),
) {
    let until = Instant::now() + time;
    let mut callers = JoinSet::new();
    for id in 0..CALLERS {
        let caller =
            Caller::new(ports.channel().await, Arc::clone(workload), Arc::clone(tally), (number << 32 | id) ^ SEED);
        callers.spawn(caller.call(mix, until));
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("a caller found a fault");
    }
}

/// The connections of a round close behind it.
async fn all_gone(ports: Ports) -> Metrics {
    let begin = Instant::now();
    loop {
        let metrics = ports.at_rest().await;
        let open = metrics.sum("sluice_connections", &[]);
        if open <= 0.0 {
            return metrics;
        }
        assert!(begin.elapsed() < PATIENCE, "{open} connections are open, and nobody is there");
    }
}

/// The process's memory after each round, which must have stopped growing.
fn megabytes(memory: &[Option<u64>]) -> String {
    let [Some(patient), Some(middle), Some(end)] = *memory else {
        return "memory: not measured, this system does not say\n".to_owned();
    };
    assert!(end <= middle + GROWTH_BYTES_MAX, "memory grew from {middle} to {end} bytes within one round");
    let [patient, middle, end] = [patient, middle, end].map(|bytes| bytes >> 20);
    format!("memory after each round: {patient}, {middle}, {end} MiB\n")
}

//! How good and how fast the graph is, and from where on it beats the scan: the figures of ADR 0017.
//!
//! ```sh
//! cargo run --release -p sluice-retrieval --example dense_graph -- 200000        # synthetic, 384 components, clustered
//! cargo run --release -p sluice-retrieval --example dense_graph -- VECTORS QUERIES   # files of f32, rows of 384
//! ```
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock and its arguments")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement ends where something is wrong, and prints")]

use std::{env, fs, time::Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use roaring::RoaringBitmap;
use sluice_retrieval::{
    dense::{ExactDense, GraphDense, GraphOptions},
    identity::{DocId, Lsn},
    schema::Metric,
    vector_index::{Change, Hit, Never, VectorIndex},
};

const DIM: usize = 384;
const K: usize = 100;
/// Enough for the system's count of processor time, which moves in steps of some milliseconds.
const ROUNDS: usize = 30;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (vectors, queries) = match arguments.as_slice() {
        [vectors, queries] => (rows(vectors), rows(queries)),
        [count] => synthetic(count.parse().unwrap()),
        _ => synthetic(20_000),
    };
    let count = vectors.len();
    let options = GraphOptions { scanned_instead: 0, threads: 2, ..GraphOptions::default() };
    let graph = GraphDense::open(Metric::Cosine, DIM as u32, options.clone()).unwrap();
    graph.filled();
    let exact = ExactDense::new(Metric::Cosine, DIM as u32);
    let changes: Vec<_> = (0..).zip(&vectors).map(|(n, x)| Change::Insert(DocId(n), x.as_slice())).collect();
    let began = Instant::now();
    for (lsn, batch) in (1..).zip(changes.chunks(1_000)) {
        graph.apply(batch, Lsn(lsn)).unwrap();
    }
    let applied = began.elapsed();
    graph.settle();
    println!(
        "{count} vectors: applied in {:.2} s, linked in {:.1} s",
        applied.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    println!("memory: {} MiB in the index, the process had {} MiB at most", graph.bytes() >> 20, peak_mib());
    exact.apply(&changes, Lsn(1)).unwrap();

    let scan = mean(&exact, &queries, None);
    println!("scan of all: {:.3} ms, {:.0} ns a vector", scan * 1e3, scan * 1e9 / count as f64);
    let mut rng = SmallRng::seed_from_u64(1);
    for share in [1.0, 0.5, 0.3, 0.1, 0.03, 0.01] {
        let among: Option<RoaringBitmap> =
            (share < 1.0).then(|| (0..count as u32).filter(|_| rng.random_bool(share)).collect());
        let (graph_s, scan_s) = (mean(&graph, &queries, among.as_ref()), mean(&exact, &queries, among.as_ref()));
        let recall = recall(&graph, &exact, &queries, among.as_ref());
        println!(
            "{:5.1} % wanted: graph {:7.3} ms, recall@{K} {recall:.4}; scan {:7.3} ms; the graph is worth {:.0} vectors scanned",
            share * 100.0,
            graph_s * 1e3,
            scan_s * 1e3,
            graph_s / scan * count as f64,
        );
    }
}

fn found(index: &dyn VectorIndex<Vector = [f32]>, query: &[f32], among: Option<&RoaringBitmap>) -> Vec<Hit> {
    index.search(query, K, among, &Never).unwrap()
}

/// Seconds of a search, the mean over all rounds of ten queries.
fn mean(index: &dyn VectorIndex<Vector = [f32]>, queries: &[Vec<f32>], among: Option<&RoaringBitmap>) -> f64 {
    let began = Instant::now();
    let before = seconds(began);
    for query in (0..ROUNDS).flat_map(|_| &queries[..10]) {
        found(index, query, among);
    }
    (seconds(began) - before) / (ROUNDS * 10) as f64
}

/// Seconds of processor time that this thread has had, where the system says so, so that other processes disturb less;
/// seconds since `began` elsewhere.
fn seconds(began: Instant) -> f64 {
    let schedule = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = schedule.and_then(|schedule| schedule.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| began.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

fn recall(graph: &GraphDense, exact: &ExactDense, queries: &[Vec<f32>], among: Option<&RoaringBitmap>) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for query in queries.iter().take(200) {
        let best: RoaringBitmap = found(exact, query, among).iter().map(|hit| hit.document.0).collect();
        hits += found(graph, query, among).iter().filter(|hit| best.contains(hit.document.0)).count();
        all += best.len() as usize;
    }
    hits as f64 / all.max(1) as f64
}

fn rows(file: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(file).unwrap();
    let row = |row: &[u8]| row.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    bytes.chunks_exact(DIM * 4).map(row).collect()
}

/// Points around a hundred directions, at an angle of some 40°.
fn synthetic(count: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut rng = SmallRng::seed_from_u64(7);
    let centres: Vec<Vec<f32>> = (0..100).map(|_| (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    let mut point = || -> Vec<f32> {
        let centre = &centres[rng.random_range(0..centres.len())];
        centre.iter().map(|&x| x + rng.random_range(-0.8..0.8_f32)).collect()
    };
    let vectors = (0..count).map(|_| point()).collect();
    (vectors, (0..200).map(|_| point()).collect())
}

fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) >> 10
}

//! The graph against the exact index, and against crashes.

use std::{collections::BTreeMap, path::Path, thread};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tempfile::TempDir;

use super::*;
use crate::{
    dense::ExactDense,
    vector_index::{Never, VectorIndex},
};

const DIM: u32 = 32;

/// Small collections are searched by graph too.
fn options(folder: Option<&Path>) -> GraphOptions {
    GraphOptions { scanned_instead: 50, folder: folder.map(Path::to_owned), ..GraphOptions::default() }
}

/// Points around a hundred centres, as embeddings of texts lie.
fn vector(rng: &mut SmallRng) -> Vec<f32> {
    let mut centre = SmallRng::seed_from_u64(rng.random_range(0..100));
    (0..DIM).map(|_| centre.random_range(-1.0..1.0_f32) + rng.random_range(-0.5..0.5)).collect()
}

struct Both {
    graph: GraphDense,
    exact: ExactDense,
    live: BTreeMap<u32, Vec<f32>>,
    next: u32,
    lsn: u64,
}

impl Both {
    fn new(metric: Metric, options: GraphOptions) -> Self {
        let graph = GraphDense::open(metric, DIM, options).unwrap();
        Self { graph, exact: ExactDense::new(metric, DIM), live: BTreeMap::new(), next: 0, lsn: 0 }
    }

    fn change(&mut self, rng: &mut SmallRng, new: u32, gone: usize) {
        self.lsn += 1;
        let numbers: Vec<u32> = self.live.keys().copied().collect();
        let gone: Vec<u32> =
            (0..gone.min(numbers.len())).map(|_| numbers[rng.random_range(0..numbers.len())]).collect();
        let new: Vec<(u32, Vec<f32>)> = (self.next..self.next + new).map(|number| (number, vector(rng))).collect();
        self.next += new.len() as u32;
        let mut changes: Vec<_> = gone.iter().map(|number| Change::Remove(DocId(*number))).collect();
        changes.extend(new.iter().map(|(number, vector)| Change::Insert(DocId(*number), vector.as_slice())));
        self.graph.apply(&changes, Lsn(self.lsn)).unwrap();
        self.exact.apply(&changes, Lsn(self.lsn)).unwrap();
        for number in gone {
            self.live.remove(&number);
        }
        self.live.extend(new);
        assert_eq!((self.graph.len(), self.graph.applied()), (self.live.len(), Lsn(self.lsn)));
    }

    /// Share of the best `k` that the graph finds; what it finds is live, wanted and scored as the exact index does.
    fn recall(&self, rng: &mut SmallRng, k: usize, among: Option<&RoaringBitmap>) -> f64 {
        let (mut found, mut all) = (0, 0);
        for _ in 0..20 {
            let query = vector(rng);
            let exact = self.exact.search(&query, self.live.len(), among, &Never).unwrap();
            let scores: BTreeMap<DocId, f32> = exact.iter().map(|hit| (hit.document, hit.score)).collect();
            let hits = self.graph.search(&query, k, among, &Never).unwrap();
            assert!(hits.len() == k.min(exact.len()), "{} of {}", hits.len(), exact.len());
            assert!(hits.is_sorted_by(|a, b| a.score > b.score || a.score == b.score && a.document < b.document));
            assert!(hits.iter().all(|hit| scores.get(&hit.document) == Some(&hit.score)), "{hits:?}");
            let best: Vec<DocId> = exact.iter().take(k).map(|hit| hit.document).collect();
            found += hits.iter().filter(|hit| best.contains(&hit.document)).count();
            all += best.len();
        }
        found as f64 / all.max(1) as f64
    }
}

#[test]
fn finds_what_the_exact_index_finds_while_documents_come_and_go() {
    for (seed, metric) in [Metric::Cosine, Metric::Dot, Metric::Euclidean].into_iter().enumerate() {
        let mut rng = SmallRng::seed_from_u64(seed as u64);
        let mut both = Both::new(metric, options(None));
        both.graph.filled();
        both.change(&mut rng, 2_000, 0);
        let mut recalls = Vec::new();
        for _ in 0..6 {
            both.change(&mut rng, 300, 250);
            // Whatever is linked by now.
            recalls.push(both.recall(&mut rng, 10, None));
        }
        // A round's 200 hits are too few to tell 0.98 from chance.
        assert!(recalls.iter().sum::<f64>() / recalls.len() as f64 >= 0.98, "{metric:?}: {recalls:?}");
        both.graph.settle();
        let status = both.graph.status();
        assert_eq!((status.linked, status.fault.as_ref()), (both.live.len(), None), "{metric:?}");
        for (k, share) in [(100, 1.0), (1, 1.0), (10, 0.5), (100, 0.3), (10, 0.05), (10, 0.0)] {
            let among: Option<RoaringBitmap> =
                (share < 1.0).then(|| both.live.keys().copied().filter(|_| rng.random_bool(share)).collect());
            let recall = both.recall(&mut rng, k, among.as_ref());
            assert!(recall >= 0.98 || share == 0.0, "{metric:?} k {k}, {share} of all: {recall}");
        }
    }
}

#[test]
fn what_was_applied_is_found_before_it_is_linked() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut both = Both::new(Metric::Cosine, options(None));
    both.change(&mut rng, 500, 0);
    both.graph.settle();
    assert_eq!(both.graph.status().linked, 0);
    assert!((both.recall(&mut rng, 10, None) - 1.0).abs() < 1e-9);
}

#[test]
fn a_small_collection_has_no_graph() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut both = Both::new(Metric::Cosine, GraphOptions::default());
    both.graph.filled();
    both.change(&mut rng, 500, 0);
    both.graph.settle();
    assert_eq!(both.graph.status(), GraphStatus { vectors: 500, linked: 0, fault: None });
    assert!((both.recall(&mut rng, 10, None) - 1.0).abs() < 1e-9);
}

#[test]
fn a_graph_that_is_mostly_gone_is_made_anew() {
    let mut rng = SmallRng::seed_from_u64(4);
    let mut both = Both::new(Metric::Cosine, options(None));
    both.graph.filled();
    both.change(&mut rng, 6_000, 0);
    both.graph.settle();
    let numbers: Vec<u32> = both.live.keys().copied().filter(|number| number % 10 != 0).collect();
    let changes: Vec<_> = numbers.iter().map(|number| Change::Remove(DocId(*number))).collect();
    both.lsn += 1;
    both.graph.apply(&changes, Lsn(both.lsn)).unwrap();
    both.exact.apply(&changes, Lsn(both.lsn)).unwrap();
    both.live.retain(|number, _| number % 10 == 0);
    both.graph.settle();
    assert_eq!(both.graph.shared.engine().places(), 600);
    assert!(both.recall(&mut rng, 50, None) >= 0.98);
}

/// The index as it is opened again over the same folder, filled with what is live; how much of it was linked then.
fn reopen(both: &mut Both, options: GraphOptions) -> usize {
    both.graph = GraphDense::open(Metric::Cosine, DIM, options).unwrap();
    let changes: Vec<_> =
        both.live.iter().map(|(number, vector)| Change::Insert(DocId(*number), vector.as_slice())).collect();
    both.graph.apply(&changes, Lsn(both.lsn)).unwrap();
    let linked = both.graph.status().linked;
    both.graph.filled();
    both.graph.settle();
    assert_eq!(both.graph.status(), GraphStatus { vectors: both.live.len(), linked: both.live.len(), fault: None });
    linked
}

#[test]
fn a_kept_graph_of_any_moment_serves() {
    let mut rng = SmallRng::seed_from_u64(6);
    let folder = TempDir::new().unwrap();
    let mut both = Both::new(Metric::Cosine, options(Some(folder.path())));
    both.graph.filled();
    both.change(&mut rng, 1_000, 0);
    both.graph.settle();
    both.graph.flush().unwrap();
    // As when the process dies: what happened since is not on disk.
    both.change(&mut rng, 300, 200);
    both.graph.settle();
    let still: usize = both.live.keys().filter(|number| **number < 1_000).count();
    assert_eq!(reopen(&mut both, options(Some(folder.path()))), still);
    assert!(both.recall(&mut rng, 20, None) >= 0.98);
    // And once more, with what was gone when it was kept.
    both.change(&mut rng, 0, 100);
    both.graph.flush().unwrap();
    assert_eq!(reopen(&mut both, options(Some(folder.path()))), both.live.len());
    assert!(both.recall(&mut rng, 20, None) >= 0.98);
    both.graph.flush().unwrap();

    let other = GraphOptions { generation: 1, ..options(Some(folder.path())) };
    assert_eq!(reopen(&mut both, other), 0, "of another generation");
    let other = GraphOptions { connectivity: 8, ..options(Some(folder.path())) };
    assert_eq!(reopen(&mut both, other), 0, "of other settings");
}

#[test]
fn a_damaged_graph_is_made_anew() {
    let mut rng = SmallRng::seed_from_u64(8);
    let folder = TempDir::new().unwrap();
    let mut both = Both::new(Metric::Cosine, options(Some(folder.path())));
    both.graph.filled();
    both.change(&mut rng, 400, 0);
    for damage in 0..4 {
        both.graph.settle();
        both.graph.flush().unwrap();
        let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 2, "{files:?}");
        let graph = files.iter().find(|file| file.extension().unwrap() == "bin").unwrap();
        let description = folder.path().join("graph.txt");
        let (file, at) = match damage {
            0 => (graph, 1_000),
            1 => (&description, 3),
            2 => (&description, 120),
            _ => (graph, 0),
        };
        let mut bytes = std::fs::read(file).unwrap();
        if damage == 3 {
            bytes.truncate(bytes.len() / 2);
        } else {
            bytes[at] ^= 1;
        }
        std::fs::write(file, bytes).unwrap();
        assert_eq!(reopen(&mut both, options(Some(folder.path()))), 0, "damage {damage}");
        assert!(both.recall(&mut rng, 20, None) >= 0.98);
    }
}

#[test]
fn a_graph_that_cannot_be_loaded_is_made_anew_and_half_of_one_is_removed() {
    let mut rng = SmallRng::seed_from_u64(9);
    let folder = TempDir::new().unwrap();
    let mut both = Both::new(Metric::Cosine, options(Some(folder.path())));
    both.graph.filled();
    both.change(&mut rng, 400, 0);
    both.graph.settle();
    both.graph.flush().unwrap();
    // A folder where the file should be: the same graph is written once more, and cannot be named.
    let mut files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let graph = files.find(|file| file.extension().unwrap() == "bin").unwrap();
    std::fs::remove_file(&graph).unwrap();
    std::fs::create_dir_all(graph.join("full")).unwrap();
    both.graph.flush().unwrap_err();
    assert!(!folder.path().join("graph.new").exists());
    std::fs::remove_dir_all(&graph).unwrap();
    // A file that is as its line says, and no graph.
    let (bytes, description) = (vec![0; 4_096], folder.path().join("graph.txt"));
    let crc = format!("{:08x}", crc32fast::hash(&bytes));
    std::fs::write(folder.path().join(format!("graph-{crc}.bin")), &bytes).unwrap();
    let said = std::fs::read(&description).unwrap();
    let line_end = said.iter().position(|&byte| byte == b'\n').unwrap();
    let mut words: Vec<_> = std::str::from_utf8(&said[..line_end]).unwrap().split(' ').collect();
    let at = words.len() - 3;
    (words[at], words[at + 1]) = ("4096", &crc);
    std::fs::write(&description, [words.join(" ").as_bytes(), &said[line_end..]].concat()).unwrap();
    assert_eq!(reopen(&mut both, options(Some(folder.path()))), 0);
    assert!(both.recall(&mut rng, 20, None) >= 0.98);
}

#[test]
fn searches_and_changes_go_side_by_side() {
    let mut rng = SmallRng::seed_from_u64(9);
    let mut both = Both::new(Metric::Cosine, GraphOptions { threads: 2, ..options(None) });
    both.graph.filled();
    both.change(&mut rng, 1_000, 0);
    thread::scope(|scope| {
        let graph = &both.graph;
        for seed in 0..3 {
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(100 + seed);
                for _ in 0..300 {
                    let hits = graph.search(&vector(&mut rng), 10, None, &Never).unwrap();
                    assert_eq!(hits.len(), 10);
                }
            });
        }
        let mut rng = SmallRng::seed_from_u64(10);
        for step in 0..40_u32 {
            let new: Vec<_> = (0..50).map(|n| (1_000 + step * 50 + n, vector(&mut rng))).collect();
            let mut changes: Vec<_> = new.iter().map(|(n, x)| Change::Insert(DocId(*n), x.as_slice())).collect();
            changes.extend((0..20).map(|n| Change::Remove(DocId(step * 20 + n))));
            graph.apply(&changes, Lsn(u64::from(step) + 10)).unwrap();
        }
    });
    both.graph.settle();
    let status = both.graph.status();
    assert_eq!((status.vectors, status.linked, status.fault), (2_200, 2_200, None));
}

#[test]
fn what_is_no_vector_is_refused_and_a_search_can_be_stopped() {
    let graph = GraphDense::open(Metric::Cosine, DIM, options(None)).unwrap();
    let good = vec![1.0; DIM as usize];
    assert!(graph.apply(&[Change::Insert(DocId(1), &good[1..])], Lsn(1)).is_err());
    assert!(graph.search(&good[1..], 1, None, &Never).is_err());
    graph.apply(&[Change::Insert(DocId(1), &good)], Lsn(1)).unwrap();
    assert!(matches!(graph.search(&good, 1, None, &|| true), Err(IndexError::Stopped)));
}

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{cut::UNIT_ROWS, *};
use crate::tokens::Storage;

const H200: DeviceShape =
    DeviceShape { multiprocessors: 132, shared_bytes_per_block: 227 << 10, shared_bytes_per_multiprocessor: 228 << 10 };
const SMALL: DeviceShape =
    DeviceShape { multiprocessors: 3, shared_bytes_per_block: 99 << 10, shared_bytes_per_multiprocessor: 100 << 10 };

fn shape<'a>(storage: Storage, dim: usize, queries: &'a [QueryShape], lengths: &'a [u32]) -> Shape<'a> {
    Shape { storage, dim, queries, lengths, alignment: false }
}

/// Everything that has to hold for any plan.
fn check(shape: &Shape<'_>, device: &DeviceShape, plan: &LaunchPlan) {
    assert!(plan.shared_bytes <= device.shared_bytes_per_block && plan.block <= 1024 && plan.grid <= 0x7fff_ffff);
    assert!(plan.pitch as usize >= shape.storage.row_bytes(shape.dim) && plan.pitch.is_multiple_of(16));
    if let KernelName::Naive(_) = plan.kernel.name {
        let documents: Vec<u32> = plan.pairs.iter().map(|pair| pair.document).collect();
        assert_eq!(documents, (0..shape.lengths.len() as u32).collect::<Vec<_>>());
        return assert_eq!(plan.grid as usize, documents.len());
    }
    assert_eq!((plan.grid as usize, plan.warps.len()), (plan.blocks.len(), plan.blocks.len() * WARPS as usize + 1));
    assert_eq!(plan.warps.last().map(|&end| end as usize), Some(plan.pieces.len()));
    let firsts: Vec<u32> = shape
        .queries
        .iter()
        .scan(0, |end, query| {
            *end += query.documents;
            Some(*end - query.documents)
        })
        .collect();
    // Rows seen of each (chunk, document), pieces' outputs of each document, and who wrote which partials.
    let mut seen: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let mut outputs: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut written = vec![false; plan.partials];
    let mut scored = vec![0; shape.lengths.len()];
    for (index, block) in plan.blocks.iter().enumerate() {
        let query = &shape.queries[block.query as usize];
        let first = firsts[block.query as usize];
        assert_eq!(block.rows, (query.rows - block.first_row).min(plan.kernel.query_rows()));
        for piece in (0..WARPS as usize).flat_map(|warp| plan.pieces(index, warp)) {
            assert!((first..first + query.documents).contains(&piece.document), "{piece:?} of query {}", block.query);
            let length = shape.lengths[piece.document as usize];
            let rows = seen.entry((block.first_row, piece.document)).or_insert(0);
            assert_eq!(piece.rows.start, *rows, "{piece:?} follows the piece before it");
            assert!(piece.rows.end <= length && (!piece.rows.is_empty() || length == 0), "{piece:?}");
            assert!(piece.rows.end == length || piece.rows.end % UNIT_ROWS == 0, "{piece:?} ends inside a unit");
            *rows = piece.rows.end;
            if piece.cut {
                let at = (piece.output + block.first_row) as usize;
                for partial in &mut written[at..at + block.rows as usize] {
                    assert!(!std::mem::replace(partial, true), "partials of {piece:?} were written before");
                }
                if block.first_row == 0 {
                    outputs.entry(piece.document).or_default().push(piece.output);
                }
            } else {
                assert_eq!((piece.output, &piece.rows), (piece.document, &(0..length)));
                scored[piece.document as usize] += 1;
            }
        }
        for join in &plan.joins[block.joins.start as usize..block.joins.end as usize] {
            let mine = (0..WARPS as usize).flat_map(|warp| plan.pieces(index, warp));
            assert_eq!(mine.filter(|piece| piece.document == join.score).count(), join.pieces as usize, "{join:?}");
        }
    }
    for (&(first_row, document), &rows) in &seen {
        assert_eq!(rows, shape.lengths[document as usize], "document {document}, chunk at {first_row}");
    }
    let chunks = |rows: u32| rows.div_ceil(plan.kernel.query_rows()).max(1) as usize;
    let expected: usize = shape.queries.iter().map(|query| chunks(query.rows) * query.documents as usize).sum();
    assert_eq!(seen.len(), expected, "every chunk of a query sees each of its documents");
    let own: usize = plan.blocks.iter().map(|block| block.joins.len()).sum();
    assert_eq!(own..plan.joins.len(), plan.rest.start as usize..plan.rest.end as usize);
    for join in &plan.joins {
        let places: Vec<u32> = (0..join.pieces).map(|piece| join.partial + piece * join.stride).collect();
        assert_eq!(outputs.remove(&join.score), Some(places), "{join:?}");
        scored[join.score as usize] += 1;
    }
    assert!(outputs.is_empty(), "pieces that nobody joins: {outputs:?}");
    assert!(scored.iter().all(|&times| times == 1), "documents are scored once: {scored:?}");
    assert_eq!(plan.second.is_some(), !plan.rest.is_empty());
}

proptest! {
    #[test]
    fn every_row_is_scanned_once_and_every_document_scored_once(
        storage in prop::sample::select(vec![Storage::F16, Storage::Int8, Storage::F32]),
        step in prop::sample::select(Step::ALL.to_vec()),
        dim in prop::sample::select(vec![8_usize, 24, 128, 136, 384, 1024, 4096]),
        queries in prop::collection::vec((0_u32..140, 0_u32..40), 0..6),
        longest in prop::sample::select(vec![1_u32, 9, 200, 20_000]),
        small in any::<bool>(),
        alignment in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let queries: Vec<_> = queries.into_iter().map(|(rows, documents)| QueryShape { rows, documents }).collect();
        let documents: u32 = queries.iter().map(|query| query.documents).sum();
        let lengths: Vec<u32> = (0..documents).map(|i| (i ^ seed).wrapping_mul(2_654_435_761) % (longest + 1)).collect();
        let shape = Shape { storage, dim, queries: &queries, lengths: &lengths, alignment };
        let device = if small { SMALL } else { H200 };
        let mut plan = LaunchPlan::default();
        plan.rebuild(&shape, &device, step).unwrap();
        check(&shape, &device, &plan);
        // A plan that has been used before is the same plan.
        let mut again = plan.clone();
        again.rebuild(&shape, &device, step).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{plan:?}"));
    }

    #[test]
    fn shares_are_even(lengths in prop::collection::vec(0_u32..2000, 300..900)) {
        let queries = [QueryShape { rows: 32, documents: lengths.len() as u32 }];
        let plan = plan(&shape(Storage::F16, 128, &queries, &lengths), &H200).unwrap();
        prop_assert_eq!(plan.grid, 264);
        let total: u64 = lengths.iter().map(|&rows| units(rows)).sum();
        for block in 0..264 {
            let rows = |piece: &PlannedPiece| units(piece.rows.end - piece.rows.start);
            let load: u64 = (0..8).flat_map(|warp| plan.pieces(block, warp)).map(rows).sum();
            prop_assert!(load <= total * 3 / 2 / 264 + 2, "block {block} has {load} of {total} units");
        }
    }
}

/// Units of the fullest block over the mean.
fn imbalance(plan: &LaunchPlan) -> f64 {
    let load = |block| {
        (0..8).flat_map(move |warp| plan.pieces(block, warp)).map(|piece| f64::from(piece.rows.end - piece.rows.start))
    };
    let loads: Vec<f64> = (0..plan.grid as usize).map(|block| load(block).sum()).collect();
    loads.iter().copied().fold(0.0, f64::max) * loads.len() as f64 / loads.iter().sum::<f64>()
}

#[test]
fn usual_shapes_fill_the_device_in_one_launch() {
    for (documents, length, worst) in [(1000, 180, 1.06), (10_000, 180, 1.01), (1000, 300, 1.06), (10_000, 300, 1.01)] {
        let queries = [QueryShape { rows: 32, documents }];
        let lengths = vec![length; documents as usize];
        let plan = plan(&shape(Storage::F16, 128, &queries, &lengths), &H200).unwrap();
        assert_eq!((plan.grid, plan.second, plan.shared_bytes), (264, None, 8192), "{documents} × {length}");
        assert!(imbalance(&plan) < worst, "{documents} × {length}: {}", imbalance(&plan));
    }
    // A few long documents are cut over blocks, and joined by a second launch.
    let lengths = [8192; 10];
    let long = plan(&shape(Storage::F16, 128, &[QueryShape { rows: 32, documents: 10 }], &lengths), &H200).unwrap();
    assert_eq!((long.grid, long.second), (264, Some(("maxsim_join", 2))));
    assert!(imbalance(&long) < 1.1, "{}", imbalance(&long));
}

#[test]
fn kernels_are_chosen_by_shape() {
    let cases: [(Storage, usize, u32, bool, DeviceShape, &str, u32); 13] = [
        (Storage::F16, 128, 32, false, H200, "maxsim_stream_f16_q32_d128", 32 * 256),
        (Storage::F16, 128, 33, false, H200, "maxsim_stream_f16_q64_d128", 64 * 256),
        (Storage::F16, 384, 1, false, H200, "maxsim_stream_f16_q32", 32 * 768),
        (Storage::F16, 1024, 64, false, H200, "maxsim_stream_f16_q64", 64 * 2048),
        (Storage::F16, 1024, 64, false, SMALL, "maxsim_stream_f16_q32", 32 * 2048),
        (Storage::F16, 72, 8, false, H200, "maxsim_stream_f16_q32_gaps", 32 * 256),
        (Storage::F16, 4096, 8, false, H200, "maxsim_naive_f16", 0),
        (Storage::Int8, 128, 32, false, H200, "maxsim_stream_int8_q32_d128", 32 * 128),
        (Storage::Int8, 768, 1024, false, H200, "maxsim_stream_int8_q64", 64 * 768),
        (Storage::Int8, 40, 8, false, H200, "maxsim_stream_int8_q32_gaps", 32 * 128),
        (Storage::Int8, 128, 64, true, H200, "maxsim_alignment_int8", 32 * 128),
        (Storage::F16, 72, 8, true, H200, "maxsim_alignment_f16", 32 * 192),
        (Storage::F32, 128, 32, false, H200, "maxsim_naive_f32", 0),
    ];
    for (storage, dim, rows, alignment, device, expected, shared_bytes) in cases {
        let queries = [QueryShape { rows, documents: 1 }];
        let shape = Shape { alignment, ..shape(storage, dim, &queries, &[9]) };
        let plan = plan(&shape, &device).unwrap();
        assert_eq!((plan.kernel.name(), plan.shared_bytes), (expected, shared_bytes), "{shape:?}");
    }
}

#[test]
fn misfits_are_named() {
    let queries = [QueryShape { rows: 1, documents: 2 }];
    for (storage, dim, lengths, expected) in [
        (Storage::F16, 8, &[1][..], PlanError::Documents { expected: 2, found: 1 }),
        (Storage::F16, 0, &[1, 1], PlanError::NoDim),
        (Storage::Binary, 8, &[1, 1], PlanError::Storage(Storage::Binary)),
    ] {
        assert_eq!(plan(&shape(storage, dim, &queries, lengths), &H200).unwrap_err(), expected);
    }
    let huge = [QueryShape { rows: u32::MAX, documents: 2 }];
    let too_much = plan(&shape(Storage::F16, 8, &huge, &[1, 1]), &H200).unwrap_err();
    assert!(matches!(too_much, PlanError::TooMuch(_)), "{too_much}");
    let nothing = plan(&shape(Storage::F16, 8, &[], &[]), &H200).unwrap();
    assert_eq!((nothing.grid, nothing.program_bytes()), (0, 4));
}

//! Requests as a device serves them, with the device's memory emulated: what stays, what comes along, what is missing.

use half::f16;
use sluice_cuda_shim::{Launch, Memory, launch};
use sluice_kernels::{
    cuda::{
        maxsim::{
            Document, Layout, Query, Request, RequestError,
            batch::{Batch, Regions},
            document_bytes,
            plan::Step,
        },
        residency::{Counters, Residency},
    },
    tokens::{self, Storage, Tokens},
};

use crate::{
    case::Case,
    emulated::{Emulated, LARGE},
};

/// Vectors of a case's documents, as callers have them.
pub struct Owned {
    f32: Vec<f32>,
    f16: Vec<f16>,
    int8: (Vec<u8>, Vec<f32>),
    storage: Storage,
}

impl Owned {
    pub fn all(case: &Case) -> Vec<Self> {
        let own = |x: &Vec<f32>| Self {
            f32: x.clone(),
            f16: tokens::to_f16(x),
            int8: tokens::to_int8(x, case.dim).unwrap(),
            storage: case.storage,
        };
        case.documents.iter().map(own).collect()
    }

    pub fn tokens(&self) -> Tokens<'_> {
        match self.storage {
            Storage::F16 => Tokens::F16(&self.f16),
            Storage::Int8 => Tokens::Int8 { codes: &self.int8.0, scales: &self.int8.1 },
            _ => Tokens::F32(&self.f32),
        }
    }
}

pub fn queries(case: &Case) -> Vec<Query<'_>> {
    let shapes = case.queries.iter().zip(&case.shapes);
    shapes.map(|(rows, shape)| Query { rows, documents: shape.documents }).collect()
}

/// An arena that outlives requests.
struct Served {
    device: Emulated,
    layout: Layout,
    residency: Residency,
    batch: Batch,
    arena: Vec<u8>,
}

impl Served {
    fn new(case: &Case, arena_bytes: usize) -> Self {
        Self {
            device: LARGE,
            layout: Layout { storage: case.storage, dim: case.dim },
            residency: Residency::new(arena_bytes),
            batch: Batch::default(),
            arena: vec![0xff; arena_bytes],
        }
    }

    /// Does what `MaxSimDevice::score` does, copies and all.
    fn score(&mut self, request: &Request<'_>) -> Result<Vec<u32>, RequestError> {
        let device = (&self.device.shape, Step::Stream);
        self.batch.lay_out(self.layout, request, false, device, &mut self.residency)?;
        let mut memory = Memory::new();
        let upload = memory.alloc::<u8>(self.batch.upload_bytes());
        let results = memory.alloc::<f32>(self.batch.results_bytes() / 4);
        let arena = memory.alloc::<u8>(self.arena.len());
        let regions = Regions { arena: arena.address(), upload: upload.address(), results: results.address() };
        let mut staging = vec![0xff; self.batch.staging_bytes()];
        let launches = self.batch.fill(self.layout, request, &regions, &mut staging);
        memory.write(upload, &staging[..self.batch.upload_bytes()]);
        for keep in self.batch.keeps() {
            let bytes = &staging[keep.staged.clone()];
            self.arena[keep.offset..keep.offset + bytes.len()].copy_from_slice(bytes);
        }
        memory.write(arena, &self.arena);
        let plan = self.batch.plan();
        let mut run = |kernel, grid, shared_bytes| {
            let limits = self.device.limits;
            let request =
                Launch { kernel, grid: [grid, 1, 1], block: [plan.block, 1, 1], shared_bytes, limits, seed: 3 };
            launch(&request, &mut memory, &[launches.parameter.as_bytes()]).unwrap();
        };
        run(plan.kernel.name(), plan.grid, plan.shared_bytes as usize);
        if let Some(second) = launches.second {
            run(second.kernel, second.grid, 0);
        }
        let scores = &memory.read(results)[..request.documents.len()];
        Ok(scores.iter().map(|score| score.to_bits()).collect())
    }
}

#[test]
fn documents_score_the_same_bits_wherever_they_lie() {
    for (storage, dim) in [(Storage::F16, 128), (Storage::Int8, 128), (Storage::Int8, 40), (Storage::F32, 19)] {
        let case = Case::random(21, storage, dim, &[(9, &[33, 0, 7]), (2, &[5, 60])]);
        let (owned, queries) = (Owned::all(&case), queries(&case));
        let expected = LARGE.run(&case, Step::Stream).0.bits();
        let mut served = Served::new(&case, 1 << 16);
        let host: Vec<_> = owned.iter().map(|document| Document::Host(document.tokens())).collect();
        let keep: Vec<_> = (0..).zip(&owned).map(|(key, document)| Document::Keep(key, document.tokens())).collect();
        let resident: Vec<_> = (0..owned.len() as u64).map(Document::Resident).collect();
        let mixed = [host[0], keep[1], resident[2], keep[3], host[4]];
        for (documents, name) in
            [(&host[..], "host"), (&keep, "keep"), (&keep, "kept"), (&resident, "resident"), (&mixed, "mixed")]
        {
            let scores = served.score(&Request { queries: &queries, documents });
            assert_eq!(scores.as_ref(), Ok(&expected), "{name}, {storage:?}, dim {dim}");
        }
        let bytes: usize =
            case.lengths.iter().map(|&rows| document_bytes(served.layout, rows).max(1).next_multiple_of(256)).sum();
        let expected = Counters { hits: 13, misses: 5, evictions: 0, refusals: 0, documents: 5, bytes };
        assert_eq!(served.residency.counters(), expected, "{storage:?}, dim {dim}");
    }
}

#[test]
fn what_finds_no_room_is_scored_all_the_same() {
    let case = Case::random(22, Storage::F16, 128, &[(9, &[4, 4, 4, 4])]);
    let (owned, queries) = (Owned::all(&case), queries(&case));
    let expected = LARGE.run(&case, Step::Stream).0.bits();
    let mut served = Served::new(&case, 2 * 1024);
    let keep: Vec<_> = (0..).zip(&owned).map(|(key, document)| Document::Keep(key, document.tokens())).collect();
    for _ in 0..2 {
        let scores = served.score(&Request { queries: &queries, documents: &keep });
        assert_eq!(scores, Ok(expected.clone()));
        assert_eq!(served.residency.counters().documents, 2, "two fit");
    }
    // One of a key twice in a request is put there once.
    let twice = [keep[0], keep[0], keep[2], keep[2]];
    let scores = served.score(&Request { queries: &queries, documents: &twice }).unwrap();
    assert_eq!(scores, [expected[0], expected[0], expected[2], expected[2]]);
}

#[test]
fn requests_at_fault_change_nothing() {
    let case = Case::random(23, Storage::F16, 128, &[(9, &[4, 4])]);
    let (owned, queries) = (Owned::all(&case), queries(&case));
    let mut served = Served::new(&case, 1 << 14);
    let keep = Document::Keep(1, owned[0].tokens());
    let cases = [
        (keep, Document::Resident(7), RequestError::Missing { document: 1 }),
        (keep, Document::Host(Tokens::F32(&[0.0; 128])), RequestError::Storage { document: 1 }),
    ];
    for (first, second, expected) in cases {
        let documents = [first, second];
        let scores = served.score(&Request { queries: &queries, documents: &documents });
        assert_eq!(scores, Err(expected));
        assert_eq!(served.residency.counters().documents, 0);
    }
    let too_few = served.score(&Request { queries: &queries, documents: &[keep] });
    assert!(matches!(too_few, Err(RequestError::Plan(_))), "{too_few:?}");
    assert!(!served.residency.contains(1));
}

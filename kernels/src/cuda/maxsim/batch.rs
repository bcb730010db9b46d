//! A scoring on its way to the device: what goes where, in bytes. Pure, so that tests run it without one.
//!
//! | region | holds | lives |
//! |---|---|---|
//! | arena | documents that stay | with the device |
//! | upload | program, queries, documents that do not stay: one copy | until the next batch |
//! | results | scores, alignment; then what launches use between them | until the next batch |
//!
//! The host's staging memory is laid out as the upload, with the documents for the arena behind it.

use std::ops::Range;

use super::{
    arguments::{Placement, Rows, bytes_of},
    plan::{DeviceShape, LaunchPlan, Launches, PlanError, QueryShape, Shape, Step},
    query,
    request::{Document, Layout, Request, RequestError, document_bytes},
};
use crate::{
    cuda::residency::{Residency, Resident},
    shape,
    tokens::{Storage, Tokens},
};

/// Where the regions begin on the device.
#[derive(Clone, Copy, Debug)]
pub struct Regions {
    /// A multiple of 256, as are the others.
    pub arena: u64,
    /// [`Batch::upload_bytes`] of them.
    pub upload: u64,
    /// [`Batch::results_bytes`] of them.
    pub results: u64,
}

/// A copy from staging memory to the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Which key is resident by it.
    pub key: u64,
    /// Number of its document.
    pub document: usize,
    /// Bytes of the staging memory.
    pub staged: Range<usize>,
    /// Where they go, from the beginning of the arena.
    pub offset: usize,
}

/// A request, laid out. Kept and used again, it allocates nothing once it has seen its largest request.
#[derive(Debug, Default)]
pub struct Batch {
    plan: LaunchPlan,
    queries: Vec<QueryShape>,
    lengths: Vec<u32>,
    places: Vec<Place>,
    keeps: Vec<Keep>,
    query_rows: Vec<Rows>,
    document_rows: Vec<Rows>,
    upload_bytes: usize,
    staging_bytes: usize,
    alignment: bool,
}

/// Where a document begins.
#[derive(Clone, Copy, Debug)]
enum Place {
    Arena(usize),
    /// Also in staging memory.
    Upload(usize),
}

impl Batch {
    /// Plans a request and gives everything a place. Documents to keep get theirs in `residency`: they must be copied
    /// ([`keeps`](Self::keeps)) or taken back ([`take_back`](Self::take_back)).
    ///
    /// # Errors
    /// [`RequestError`]; `residency` then holds what it held.
    pub fn lay_out(
        &mut self,
        layout: Layout,
        request: &Request<'_>,
        alignment: bool,
        (device, step): (&DeviceShape, Step),
        residency: &mut Residency,
    ) -> Result<(), RequestError> {
        self.alignment = alignment;
        self.keeps.clear();
        self.read_queries(layout, request)?;
        self.read_documents(layout, request, residency)?;
        let shape = Shape {
            storage: layout.storage,
            dim: layout.dim,
            queries: &self.queries,
            lengths: &self.lengths,
            alignment,
        };
        self.plan.rebuild(&shape, device, step).map_err(RequestError::Plan)?;
        let mut at = aligned(self.plan.program_bytes());
        for query in &self.queries {
            let (rows, scales) = query::bytes(layout.storage, layout.dim, query.rows as usize);
            at += aligned(rows) + aligned(scales);
        }
        self.place_documents(layout, request, at, residency);
        Ok(())
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &LaunchPlan {
        &self.plan
    }

    /// Bytes of the upload, which is where staging memory begins.
    #[must_use]
    pub fn upload_bytes(&self) -> usize {
        self.upload_bytes
    }

    /// Bytes of staging memory.
    #[must_use]
    pub fn staging_bytes(&self) -> usize {
        self.staging_bytes
    }

    /// What goes from staging memory to the arena.
    #[must_use]
    pub fn keeps(&self) -> &[Keep] {
        &self.keeps
    }

    /// Forgets the documents that were to be kept: they have not been copied.
    pub fn take_back(&self, residency: &mut Residency) {
        for keep in &self.keeps {
            residency.remove(keep.key);
        }
    }

    /// Bytes of the results that are read back: scores, then the alignment's values and tokens.
    #[must_use]
    pub fn fetched_bytes(&self) -> usize {
        4 * (self.lengths.len() + 2 * self.plan.alignments)
    }

    /// Bytes of the results region.
    #[must_use]
    pub fn results_bytes(&self) -> usize {
        aligned(self.fetched_bytes()) + 4 * self.plan.partials * if self.alignment { 2 } else { 1 }
    }

    /// Fills staging memory, and returns what to launch.
    ///
    /// # Panics
    /// If the request is not the one that was laid out, or `staging` is shorter than
    /// [`staging_bytes`](Self::staging_bytes).
    pub fn fill(&mut self, layout: Layout, request: &Request<'_>, regions: &Regions, staging: &mut [u8]) -> Launches {
        let program_bytes = self.plan.program_bytes();
        let mut at = aligned(program_bytes);
        self.query_rows.clear();
        for query in request.queries {
            let (rows, scales) = query::bytes(layout.storage, layout.dim, query.rows.len() / layout.dim);
            let (begin, middle) = (at, at + aligned(rows));
            at = middle + aligned(scales);
            let (row_bytes, scale_bytes) = staging[begin..at].split_at_mut(middle - begin);
            query::encode(layout.storage, layout.dim, query.rows, &mut row_bytes[..rows], &mut scale_bytes[..scales])
                .expect("the request was laid out");
            let address = |offset: usize| regions.upload + offset as u64;
            let scales = if scales > 0 { address(middle) } else { 0 };
            self.query_rows.push(Rows { rows: address(begin), scales });
        }
        self.document_rows.clear();
        for (document, (&place, &rows)) in request.documents.iter().zip(self.places.iter().zip(&self.lengths)) {
            let begin = match place {
                Place::Arena(offset) => regions.arena + offset as u64,
                Place::Upload(offset) => {
                    let tokens = document.tokens().expect("only vectors are uploaded");
                    write_document(layout, tokens, &mut staging[offset..offset + document_bytes(layout, rows)]);
                    regions.upload + offset as u64
                }
            };
            let scales = begin + u64::from(rows) * query::pitch(layout.storage, layout.dim) as u64;
            let scales = if layout.storage == Storage::Int8 { scales } else { 0 };
            self.document_rows.push(Rows { rows: begin, scales });
        }
        for keep in &self.keeps {
            let tokens = request.documents[keep.document].tokens().expect("what is kept comes with its vectors");
            write_document(layout, tokens, &mut staging[keep.staged.clone()]);
        }
        let [scores, values, tokens, partials, partial_tokens] = self.results(regions.results);
        let placement = Placement {
            program: regions.upload,
            queries: &self.query_rows,
            documents: &self.document_rows,
            scores,
            partials,
            partial_tokens,
            alignment_values: values,
            alignment_tokens: tokens,
        };
        self.plan.encode(&placement, &mut staging[..program_bytes])
    }

    /// Addresses in the results region.
    fn results(&self, begin: u64) -> [u64; 5] {
        let values = begin + 4 * self.lengths.len() as u64;
        let tokens = values + 4 * self.plan.alignments as u64;
        let partials = begin + aligned(self.fetched_bytes()) as u64;
        let partial_tokens = partials + 4 * self.plan.partials as u64;
        if self.alignment { [begin, values, tokens, partials, partial_tokens] } else { [begin, 0, 0, partials, 0] }
    }

    fn read_queries(&mut self, layout: Layout, request: &Request<'_>) -> Result<(), RequestError> {
        shape::not_zero("dim", layout.dim)?;
        self.queries.clear();
        for query in request.queries {
            let rows = shape::rows("query", query.rows.len(), layout.dim)?;
            let rows = u32::try_from(rows).map_err(|_| RequestError::Plan(PlanError::TooMuch("query rows")))?;
            self.queries.push(QueryShape { rows, documents: query.documents });
        }
        Ok(())
    }

    fn read_documents(
        &mut self,
        layout: Layout,
        request: &Request<'_>,
        residency: &mut Residency,
    ) -> Result<(), RequestError> {
        self.lengths.clear();
        // First what is there, all of it: from now on nothing of the request makes room for the rest of it.
        residency.begin_batch();
        for (number, document) in request.documents.iter().enumerate() {
            let rows = match *document {
                Document::Resident(key) => {
                    residency.find(key).ok_or(RequestError::Missing { document: number })?.rows as usize
                }
                Document::Keep(_, tokens) | Document::Host(tokens) => {
                    if tokens.storage() != layout.storage {
                        return Err(RequestError::Storage { document: number });
                    }
                    tokens.rows(layout.dim)?
                }
            };
            self.lengths
                .push(u32::try_from(rows).map_err(|_| RequestError::Plan(PlanError::TooMuch("document rows")))?);
        }
        for document in request.documents {
            if let Document::Keep(key, _) = *document {
                // Not found is a miss, which is what it is; it is put there below.
                residency.find(key);
            }
        }
        Ok(())
    }

    fn place_documents(&mut self, layout: Layout, request: &Request<'_>, begin: usize, residency: &mut Residency) {
        self.places.clear();
        let mut upload = begin;
        for (number, (document, &rows)) in request.documents.iter().zip(&self.lengths).enumerate() {
            let bytes = document_bytes(layout, rows);
            let resident = match *document {
                Document::Resident(key) => residency.place(key),
                Document::Keep(key, _) => match residency.place(key) {
                    // Somebody else's rows under this key: what the request brings counts.
                    Some(Resident { rows: found, .. }) if found != rows => None,
                    Some(resident) => Some(resident),
                    None => residency.insert(key, rows, bytes).inspect(|resident| {
                        self.keeps.push(Keep { key, document: number, staged: 0..bytes, offset: resident.offset });
                    }),
                },
                Document::Host(_) => None,
            };
            self.places.push(match resident {
                Some(resident) => Place::Arena(resident.offset),
                None => {
                    upload += aligned(bytes);
                    Place::Upload(upload - aligned(bytes))
                }
            });
        }
        self.upload_bytes = upload;
        for keep in &mut self.keeps {
            keep.staged = upload..upload + keep.staged.len();
            upload = aligned(keep.staged.end);
        }
        self.staging_bytes = upload;
    }
}

/// Regions of a batch begin at multiples of this.
const REGION_ALIGNMENT: usize = 256;

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(REGION_ALIGNMENT)
}

/// Writes rows, padded with zeros, and scales. Devices are little-endian, as the hosts that CUDA runs on.
fn write_document(layout: Layout, tokens: Tokens<'_>, out: &mut [u8]) {
    let (components, scales): (&[u8], &[u8]) = match tokens {
        Tokens::F32(x) => (bytes_of(x), &[]),
        Tokens::F16(x) => (bytes_of(x), &[]),
        Tokens::Int8 { codes, scales } => (codes, bytes_of(scales)),
        Tokens::Binary(bits) => (bits, &[]),
    };
    let (rows, out_scales) = out.split_at_mut(out.len() - scales.len());
    out_scales.copy_from_slice(scales);
    let (row_bytes, pitch) = (layout.storage.row_bytes(layout.dim), query::pitch(layout.storage, layout.dim));
    if row_bytes == pitch {
        return rows.copy_from_slice(components);
    }
    for (row, out) in components.chunks_exact(row_bytes).zip(rows.chunks_exact_mut(pitch)) {
        out[..row_bytes].copy_from_slice(row);
        out[row_bytes..].fill(0);
    }
}

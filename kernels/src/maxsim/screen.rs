//! Floats at the speed of codes: which rows can be a query token's best at all is found with codes, and only those are
//! computed with floats.
//!
//! A chunk of rows is quantised as int8 documents are, and its similarities s with the query's codes are computed and
//! written down, a few kilobytes in the first cache level. With q̂ and d̂ for what the codes stand for,
//!
//! |⟨q, d⟩ − s| = |⟨q, d − d̂⟩ + ⟨q − q̂, d̂⟩| ≤ E = ‖q‖ · max ‖d − d̂‖ + ‖q − q̂‖ · max ‖d̂‖  (Cauchy and Schwarz),
//!
//! the maxima over the chunk's rows. So the best row has s ≥ max s − 2E, and s ≥ b − E where b is the best of the chunks
//! before. Rows that have are *candidates*; their similarities are computed from the stored values, and the largest one
//! is the result: within rounding, what computing all of them gives. For random directions there are two candidates in
//! 180 rows; where there are too many, or something is not finite or too large or small to bound, the chunk is computed
//! as if there were no screen.
//!
//! The norms are computed and rounded up; what rounding can do to the rest is in [`SLACK`].
//!
//! Worth it where codes are several times as fast as floats, that is with AVX-512's `vpdpbusd`, from 9 query tokens on:
//! for fewer, reading the documents is the bound.
#![allow(unsafe_code, reason = "raw rows and registers")]
#![allow(unsafe_op_in_unsafe_fn, reason = "functions of instructions; their contract is that the machine has them")]

mod code;

use std::{arch::x86_64::*, mem::MaybeUninit, ops::Range};

use super::{
    avx512,
    lanes::Noted,
    panel::Panel,
    tile::{Rows, Work},
};
use crate::{
    InstructionSet, Isa,
    tokens::{Storage, Tokens, quantize},
};

/// What the error of a query token's similarities depends on, besides the documents; infinite for query tokens that
/// are all zeros, and have no scale, and beyond the last one.
#[derive(Debug)]
pub(super) struct Bounds {
    /// ‖q‖, over the scale of the query token's codes.
    norms: Vec<f32>,
    /// ‖q − q̂‖, over the same.
    errors: Vec<f32>,
    /// 1, over the same.
    inverses: Vec<f32>,
}

/// Query tokens of which products with documents might overflow, or nothing is left of, are not screened.
const NORMS: Range<f64> = 1e-12..1e12;
/// Documents' norms in which squares neither overflow nor vanish.
const DOCUMENT_NORMS: Range<f32> = 1e-12..1e12;
/// Share of ‖q‖ · ‖d‖ by which rounding may move similarities: some roundings of 2⁻²⁴ beside the sum's.
const SLACK: f32 = 1e-5;
/// As much for each component, for the sums.
const SLACK_OF_COMPONENT: f32 = 1e-8;
/// By how much computed norms are increased.
const UP: f32 = 1.01;

impl Bounds {
    /// Of a query that can be screened.
    pub(super) fn new(query: &[f32], dim: usize) -> Option<Self> {
        let lanes = (query.len() / dim).next_multiple_of(LANES) + LANES;
        let infinite = || vec![f32::INFINITY; lanes];
        let mut bounds = Self { norms: infinite(), errors: infinite(), inverses: infinite() };
        let mut codes = vec![0; dim];
        for (token, row) in query.chunks_exact(dim).enumerate() {
            if row.iter().all(|&x| x == 0.0) {
                continue;
            }
            let scale = f64::from(quantize(row, 127, &mut codes));
            let components = row.iter().map(|&x| f64::from(x));
            let norm = components.clone().map(|x| x * x).sum::<f64>().sqrt();
            let rest = components.zip(&codes).map(|(x, &code)| x - f64::from(code) * scale);
            let error = rest.map(|x| x * x).sum::<f64>().sqrt();
            if !NORMS.contains(&norm) || scale == 0.0 {
                return None;
            }
            bounds.norms[token] = (norm / scale) as f32 * UP;
            bounds.errors[token] = (error / scale) as f32 * UP;
            bounds.inverses[token] = (1.0 / scale) as f32;
        }
        Some(bounds)
    }
}

/// Bytes of codes of a chunk.
const CODES: usize = 32 * 1024;
/// Rows of a chunk, at most, and what they are a multiple of: rows of a tile.
const ROWS_MAX: usize = 96;
const TILE: usize = 12;
/// Lanes of a panel.
const LANES: usize = Noted::<avx512::Zmm>::STRIDE;
/// The share of similarities that may be candidates, inverted: if there are more, all rows are computed.
const CANDIDATES: usize = 8;
/// Documents of fewer rows are not worth it.
const ROWS_MIN: usize = 24;

/// Rows of a chunk, if documents of this shape are screened on this machine.
pub(super) fn rows(isa: Isa, storage: Storage, [q_len, rows, dim]: [usize; 3]) -> Option<usize> {
    let floats = matches!(storage, Storage::F32 | Storage::F16);
    let fits = dim.is_multiple_of(16) && (64..=CODES / TILE).contains(&dim);
    let worth = q_len > 8 && rows >= ROWS_MIN;
    let able = isa.set() == InstructionSet::Avx512 && is_x86_feature_detected!("popcnt");
    (floats && fits && worth && able).then(|| (CODES / dim).min(ROWS_MAX) / TILE * TILE)
}

/// Room for a chunk's codes, and for what is found with them.
#[repr(C, align(64))]
pub(super) struct Scratch {
    codes: [MaybeUninit<u8>; CODES],
    similarities: [MaybeUninit<f32>; ROWS_MAX * LANES],
    scales: [f32; ROWS_MAX],
    candidates: [Candidates; ROWS_MAX],
}

/// A row of the chunk, and the lanes, one a bit, for which it may be the best.
#[derive(Clone, Copy)]
struct Candidates {
    row: u32,
    lanes: u32,
}

/// A chunk as codes.
#[derive(Clone, Copy)]
pub(super) struct Coded<'a> {
    document: Rows<'a>,
    first: usize,
    rows: usize,
    /// max ‖d − d̂‖ and max ‖d̂‖.
    error: f32,
    norm: f32,
}

/// What a panel is screened with, and where its results go.
pub(super) struct Screened<'a> {
    /// The whole query, `[q_len, dim]`.
    pub(super) query: &'a [f32],
    /// Its bounds.
    pub(super) bounds: &'a Bounds,
    /// The panel, as codes.
    pub(super) panel: Panel<'a>,
    /// Prefetched meanwhile: where the next chunk begins.
    pub(super) next: *const u8,
    /// Largest similarity so far, `[lanes]`.
    pub(super) values: &'a mut [f32],
    /// Whose it is, `[lanes]`.
    pub(super) tokens: &'a mut [u32],
}

impl Scratch {
    /// Room with nothing in it.
    pub(super) fn new() -> Self {
        Self {
            codes: [MaybeUninit::uninit(); CODES],
            similarities: [MaybeUninit::uninit(); ROWS_MAX * LANES],
            scales: [0.0; ROWS_MAX],
            candidates: [Candidates { row: 0, lanes: 0 }; ROWS_MAX],
        }
    }

    /// Quantises rows `range` of a document, at most as many as [`rows`] said; `None` if they cannot be bounded.
    pub(super) fn code<'a>(&mut self, isa: Isa, document: Rows<'a>, range: Range<usize>) -> Option<Coded<'a>> {
        assert_eq!(isa.set(), InstructionSet::Avx512);
        assert!(range.len() <= ROWS_MAX && range.len() * document.dim() <= CODES);
        // SAFETY: `isa` is proof of the instructions; codes and scales have room, as was just checked.
        let [error, norm] = unsafe {
            let codes = self.codes.as_mut_ptr().cast();
            match document.storage() {
                Storage::F32 => code::quantize::<false>(document, range.clone(), codes, &mut self.scales)?,
                _ => code::quantize::<true>(document, range.clone(), codes, &mut self.scales)?,
            }
        };
        let error = error.sqrt() * UP;
        let norm = norm.sqrt() * UP + error;
        if !DOCUMENT_NORMS.contains(&norm) {
            return None;
        }
        Some(Coded { document, first: range.start, rows: range.len(), error, norm })
    }

    /// Finds the best rows of the chunk for a panel's query tokens; `false`, with nothing written, if all rows have to be
    /// computed.
    pub(super) fn score(&mut self, isa: Isa, coded: Coded<'_>, screened: &mut Screened<'_>) -> bool {
        let Coded { document, rows, .. } = coded;
        let Panel { lanes, words: panel, .. } = screened.panel;
        let mut best = [f32::NEG_INFINITY; LANES];
        // SAFETY: `code` wrote that many codes.
        let codes = unsafe { std::slice::from_raw_parts(self.codes.as_ptr().cast::<u8>(), rows * document.dim()) };
        let tokens = Tokens::Int8 { codes, scales: &self.scales[..rows] };
        avx512::note(
            isa,
            Work {
                panel,
                lanes,
                rows: Rows::new(tokens, document.dim()),
                range: 0..rows,
                next: screened.next,
                // The next chunk may have more rows.
                ahead: document.row_bytes() * 5 / 4,
                values: &mut best[..lanes],
                tokens: &mut [],
                all: self.similarities.as_mut_ptr().cast(),
            },
        );
        // SAFETY: `note` has seen that `isa` is proof of the instructions; `rows` rows of similarities were just written.
        unsafe {
            let Some(limits) = limits(&coded, &best, screened) else { return false };
            let Some(found) = self.find(rows, lanes, &limits) else { return false };
            match document.storage() {
                Storage::F32 => settle::<false>(coded, &self.candidates[..found], screened),
                _ => settle::<true>(coded, &self.candidates[..found], screened),
            }
        }
        true
    }

    /// Writes down which similarities are at least their lane's limit; how many rows have some, unless there are too many.
    #[target_feature(enable = "avx512f,popcnt")]
    unsafe fn find(&mut self, rows: usize, lanes: usize, limits: &[__m512; 2]) -> Option<usize> {
        let similarities = self.similarities.as_ptr().cast::<f32>();
        // Beyond the panel's lanes nothing was written.
        let panel = if lanes == LANES { u32::MAX } else { (1 << lanes) - 1 };
        let (mut found, mut candidates) = (0, 0);
        for row in 0..rows {
            let at = similarities.add(row * LANES);
            let low = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(_mm512_loadu_ps(at), limits[0]);
            let high = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(_mm512_loadu_ps(at.add(16)), limits[1]);
            let lanes = (u32::from(low) | u32::from(high) << 16) & panel;
            self.candidates[found] = Candidates { row: row as u32, lanes };
            found += usize::from(lanes != 0);
            candidates += lanes.count_ones() as usize;
        }
        (candidates <= rows * lanes / CANDIDATES).then_some(found)
    }
}

/// The least similarity, in units of the query's scales, that may belong to a lane's best row.
#[target_feature(enable = "avx512f")]
unsafe fn limits(coded: &Coded<'_>, best: &[f32; LANES], screened: &mut Screened<'_>) -> Option<[__m512; 2]> {
    let slack = SLACK + SLACK_OF_COMPONENT * coded.document.dim() as f32;
    let error = _mm512_set1_ps(coded.error + slack * coded.norm);
    let norm = _mm512_set1_ps(coded.norm);
    let mut limits = [_mm512_set1_ps(f32::INFINITY); 2];
    let lanes = screened.panel.lanes;
    let infinite = |x| _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(_mm512_abs_ps(x), _mm512_set1_ps(f32::INFINITY));
    for (half, limit) in limits.iter_mut().enumerate().take(lanes.div_ceil(16)) {
        let token = screened.panel.first + 16 * half;
        let within = ((1_u32 << (lanes - 16 * half).min(16)) - 1) as __mmask16;
        let of = |bounds: &[f32]| _mm512_loadu_ps(bounds[token..][..16].as_ptr());
        let (norms, errors) = (of(&screened.bounds.norms), of(&screened.bounds.errors));
        let values = screened.values.as_mut_ptr().add(16 * half);
        let value = _mm512_maskz_loadu_ps(within, values);
        // Zeros: the first row's 0 is as good as any.
        let zeros = infinite(norms);
        let negative = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(zeros & within, value, _mm512_setzero_ps());
        _mm512_mask_storeu_ps(values, negative, _mm512_setzero_ps());
        let error = _mm512_fmadd_ps(norms, error, _mm512_mul_ps(errors, norm));
        let here = _mm512_fnmadd_ps(_mm512_set1_ps(2.0), error, _mm512_loadu_ps(best.as_ptr().add(16 * half)));
        let before = _mm512_fmsub_ps(value, of(&screened.bounds.inverses), error);
        let least = _mm512_max_ps(before, here);
        if infinite(least) & within & !zeros != 0 {
            return None;
        }
        *limit = _mm512_mask_mov_ps(least, zeros | !within, *limit);
    }
    Some(limits)
}

/// Computes the candidates, each row's in turn.
#[target_feature(enable = "avx512f,avx512vl,f16c")]
unsafe fn settle<const HALF: bool>(coded: Coded<'_>, candidates: &[Candidates], screened: &mut Screened<'_>) {
    let dim = coded.document.dim();
    for &Candidates { row, mut lanes } in candidates {
        let row = coded.first + row as usize;
        let at = coded.document.at(row);
        while lanes != 0 {
            let lane = lanes.trailing_zeros() as usize;
            lanes &= lanes - 1;
            let query = &screened.query[(screened.panel.first + lane) * dim..][..dim];
            let value = product::<HALF>(query, at);
            let best = &mut screened.values[lane];
            if value > *best {
                (*best, screened.tokens[lane]) = (value, row as u32);
            }
        }
    }
}

/// The dot product of a query token and a row.
#[target_feature(enable = "avx512f,avx512vl,f16c")]
unsafe fn product<const HALF: bool>(query: &[f32], row: *const u8) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 4];
    let whole = query.len() - query.len() % 64;
    for k in (0..whole).step_by(64) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let k = k + part * 16;
            *sum = _mm512_fmadd_ps(_mm512_loadu_ps(query.as_ptr().add(k)), code::load::<HALF>(row, k), *sum);
        }
    }
    for k in (whole..query.len()).step_by(16) {
        sums[0] = _mm512_fmadd_ps(_mm512_loadu_ps(query.as_ptr().add(k)), code::load::<HALF>(row, k), sums[0]);
    }
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::maxsim::kernel;

    fn rows_of_length_one(seed: u64, rows: usize, dim: usize) -> Vec<f32> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut x: Vec<f32> = (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        for row in x.chunks_exact_mut(dim) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        x
    }

    /// What a screen says of a first chunk: the candidates of 32 query tokens, or that there are too many.
    fn candidates(isa: Isa, rows: &[f32], dim: usize) -> Option<usize> {
        let query = rows_of_length_one(1, LANES, dim);
        let bounds = Bounds::new(&query, dim).unwrap();
        let panels = kernel::codes(&query, dim, isa);
        let chunk = super::rows(isa, Storage::F32, [LANES, ROWS_MIN, dim]).unwrap();
        let document = Rows::new(Tokens::F32(rows), dim);
        let mut scratch = Scratch::new();
        let coded = scratch.code(isa, document, 0..chunk.min(rows.len() / dim))?;
        let (mut values, mut tokens) = ([f32::NEG_INFINITY; LANES], [0; LANES]);
        let panel = panels.iter().next().unwrap();
        let (values, tokens, next) = (&mut values[..], &mut tokens[..], document.at(0));
        let mut screened = Screened { query: &query, bounds: &bounds, panel, next, values, tokens };
        if !scratch.score(isa, coded, &mut screened) {
            return None;
        }
        let rows = scratch.candidates.iter().take(chunk).take_while(|candidates| candidates.lanes != 0);
        Some(rows.map(|candidates| candidates.lanes.count_ones() as usize).sum())
    }

    #[test]
    fn few_rows_are_candidates_unless_they_are_all_alike() {
        let Some(isa) = Isa::of(InstructionSet::Avx512) else {
            println!("skipped: this machine has no avx512");
            return;
        };
        for dim in [64, 128, 384, 768] {
            let rows = rows_of_length_one(2, ROWS_MAX, dim);
            let found = candidates(isa, &rows, dim).unwrap();
            assert!((LANES..8 * LANES).contains(&found), "{dim}: {found}");
            assert_eq!(candidates(isa, &rows[..dim].repeat(ROWS_MAX), dim), None);
        }
        assert_eq!(candidates(isa, &[0.0; 64 * ROWS_MIN], 64), None);
        assert_eq!(candidates(isa, &[f32::NAN; 64 * ROWS_MIN], 64), None);
    }

    /// E of the module's documentation, row by row and token by token, beside the true difference.
    #[test]
    fn errors_are_within_their_bounds() {
        let Some(isa) = Isa::of(InstructionSet::Avx512) else {
            println!("skipped: this machine has no avx512");
            return;
        };
        for (dim, scale) in [(64, 1.0), (128, 1e-6), (384, 1e6), (1024, 1.0)] {
            let query = rows_of_length_one(3, 20, dim);
            let rows: Vec<f32> = rows_of_length_one(4, 24, dim).iter().map(|x| x * scale).collect();
            let bounds = Bounds::new(&query, dim).unwrap();
            let mut scratch = Scratch::new();
            let coded = scratch.code(isa, Rows::new(Tokens::F32(&rows), dim), 0..24).unwrap();
            let (query_codes, query_scales) = crate::tokens::to_int8(&query, dim).unwrap();
            for (token, q) in query.chunks_exact(dim).enumerate() {
                let error = bounds.norms[token] * coded.error + bounds.errors[token] * coded.norm;
                let error = f64::from(error) * f64::from(query_scales[token]);
                for (row, d) in rows.chunks_exact(dim).enumerate() {
                    let exact: f64 = q.iter().zip(d).map(|(&q, &d)| f64::from(q) * f64::from(d)).sum();
                    // SAFETY: `code` wrote the codes of 24 rows.
                    let code = |k: usize| f64::from(unsafe { scratch.codes[row * dim + k].assume_init() }) - 128.0;
                    let sum: f64 = (0..dim).map(|k| (f64::from(query_codes[token * dim + k]) - 128.0) * code(k)).sum();
                    let coded = sum * f64::from(query_scales[token]) * f64::from(scratch.scales[row]);
                    assert!((exact - coded).abs() <= error, "{dim}, {token} and {row}: {exact}, {coded} ± {error}");
                }
            }
        }
    }
}

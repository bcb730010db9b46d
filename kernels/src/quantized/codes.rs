//! Rows of activations as small integers.

#![allow(unsafe_code, reason = "codes are written through a pointer")]

use super::QuantizedLayer;
use crate::{
    aligned::Aligned,
    simd::{Kernel, Simd, load, registers},
};

/// The largest code.
const CODE_MAX: f32 = 255.0;

/// Quantised rows, in words of 32 bits: 4 codes of 8 bits, or 2 of 16, as a machine's instructions multiply them.
#[derive(Clone, Debug, Default)]
pub struct Codes {
    /// `[rows][words of a row]`; codes beyond `dim` meet weights of 0.
    words: Aligned<i32>,
    scales: Vec<f32>,
    /// Less `offset`, as codes are in their words.
    zeros: Vec<i32>,
    rows: usize,
    dim: usize,
    codes_of_a_word: usize,
    offset: i32,
}

impl Codes {
    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers of a row.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// What a step of one code is worth in that row, in numbers divided by their factors.
    #[must_use]
    pub fn scale(&self, row: usize) -> f32 {
        self.scales[row]
    }

    /// The code of 0 in that row.
    #[must_use]
    pub fn zero(&self, row: usize) -> i32 {
        self.zeros[row] + self.offset
    }

    /// One code, 0…255.
    #[must_use]
    pub fn code(&self, row: usize, k: usize) -> u8 {
        let word = self.words.as_slice()[row * self.row_words() + k / self.codes_of_a_word];
        let stored = word >> (32 / self.codes_of_a_word * (k % self.codes_of_a_word));
        stored.wrapping_add(self.offset) as u8
    }

    /// Words of a row: whole registers of the code that writes them.
    pub(super) fn row_words(&self) -> usize {
        self.dim.next_multiple_of(ROW_MULTIPLE) / self.codes_of_a_word
    }

    pub(super) fn codes_of_a_word(&self) -> usize {
        self.codes_of_a_word
    }

    pub(super) fn words(&self) -> &[i32] {
        self.words.as_slice()
    }

    /// Of each row.
    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Of each row, less what codes are stored less of.
    pub(super) fn zeros(&self) -> &[i32] {
        &self.zeros
    }
}

/// Rows are padded to this many codes: the lanes of the widest register.
const ROW_MULTIPLE: usize = 16;

pub(super) struct Quantize<'a> {
    pub(super) layer: &'a QuantizedLayer,
    pub(super) x: &'a [f32],
    pub(super) rows: usize,
    pub(super) codes: &'a mut Codes,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { layer, x, rows, codes } = self;
        let (dim, inverse_factors) = (layer.inputs(), layer.inverse_factors());
        codes.rows = rows;
        codes.dim = dim;
        codes.codes_of_a_word = layer.codes_of_a_word();
        codes.offset = S::CODE_OFFSET;
        let row_words = codes.row_words();
        codes.words.grow(rows * row_words);
        codes.scales.clear();
        codes.zeros.clear();
        let words = codes.words.as_mut_slice().chunks_exact_mut(row_words);
        for (row, words) in x.chunks_exact(dim).zip(words) {
            let (scale, zero) = quantize_row(simd, row, inverse_factors, words);
            codes.scales.push(scale);
            codes.zeros.push(zero - S::CODE_OFFSET);
        }
    }
}

/// Scale and zero of a row, whose codes go to `words`.
#[inline(always)]
fn quantize_row<S: Simd>(simd: S, row: &[f32], inverse_factors: &[f32], words: &mut [i32]) -> (f32, i32) {
    let Range { lo, hi, taint } = range(simd, row, inverse_factors);
    let range = hi - lo;
    // A range so small that its inverse is infinite is nothing.
    let inverse = if range > f32::MIN_POSITIVE { CODE_MAX / range } else { 0.0 };
    let zero = (-lo * inverse).round_ties_even();
    for (at, lanes) in registers::<S>(row.len()) {
        let x = even(simd, row, inverse_factors, at, lanes);
        let code = simd.fma(x, simd.splat(inverse), simd.splat(zero));
        let words = &mut words[at / S::CODES..][..S::LANES / S::CODES];
        // SAFETY: the slice has as many words as are written.
        unsafe { simd.store_codes(words.as_mut_ptr(), code) };
    }
    (range / CODE_MAX + taint, zero as i32)
}

/// What a row's numbers reach.
struct Range {
    /// At most 0.
    lo: f32,
    /// At least 0.
    hi: f32,
    /// NaN if one of them is NaN or ±∞, else 0.
    taint: f32,
}

/// Two registers side by side, so that neither waits for itself.
#[inline(always)]
fn range<S: Simd>(simd: S, row: &[f32], inverse_factors: &[f32]) -> Range {
    const CHAINS: usize = 2;
    let nothing = simd.splat(0.0);
    let (mut lo, mut hi, mut taint) = ([nothing; CHAINS], [nothing; CHAINS], [nothing; CHAINS]);
    let whole = row.len() / (CHAINS * S::LANES) * (CHAINS * S::LANES);
    for block in (0..whole).step_by(CHAINS * S::LANES) {
        for chain in 0..CHAINS {
            let x = even(simd, row, inverse_factors, block + chain * S::LANES, S::LANES);
            lo[chain] = simd.min(x, lo[chain]);
            hi[chain] = simd.max(x, hi[chain]);
            // 0 · x is NaN for NaN and ±∞.
            taint[chain] = simd.fma(x, nothing, taint[chain]);
        }
    }
    for (at, lanes) in registers::<S>(row.len() - whole) {
        let x = even(simd, row, inverse_factors, whole + at, lanes);
        lo[0] = simd.min(x, lo[0]);
        hi[0] = simd.max(x, hi[0]);
        taint[0] = simd.fma(x, nothing, taint[0]);
    }
    Range {
        lo: -simd.largest(simd.sub(nothing, simd.min(lo[0], lo[1]))),
        hi: simd.largest(simd.max(hi[0], hi[1])),
        taint: simd.sum(simd.add(taint[0], taint[1])),
    }
}

/// Some numbers of a row, divided by their columns' factors if there are any.
#[inline(always)]
fn even<S: Simd>(simd: S, row: &[f32], inverse_factors: &[f32], at: usize, lanes: usize) -> S::F32 {
    let x = load(simd, row, at, lanes);
    if inverse_factors.is_empty() { x } else { simd.mul(x, load(simd, inverse_factors, at, lanes)) }
}

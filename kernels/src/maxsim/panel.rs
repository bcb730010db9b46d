//! A query, packed for the tile.
//!
//! Query tokens are divided into panels of as many lanes as a tile has, a narrower panel taking the remainder. A panel is
//! `[1 + steps][lanes]` words of 4 bytes: what the lanes' sums start with, then for each step the components of every
//! query token. Lanes beyond the last query token are 0, and nobody looks at what comes of them.

use crate::tokens::quantize;

/// All panels of a query, for one kind of arithmetic.
#[derive(Debug)]
pub(super) struct Panels {
    /// The panels, end to end, from the word `start` on, where a cache line begins.
    words: Vec<u32>,
    start: usize,
    plan: Plan,
    /// Words of a lane: 1 + steps.
    depth: usize,
    /// What each query token's similarities are multiplied with in the end; empty where that is 1.
    scales: Vec<f32>,
}

/// One panel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    /// Its first query token.
    pub(super) first: usize,
    /// Query tokens, those included that fill it up.
    pub(super) lanes: usize,
    /// `[1 + steps][lanes]`.
    pub(super) words: &'a [u32],
}

const CACHE_LINE: usize = 64;

impl Panels {
    /// Of f32 components, one a step.
    pub(super) fn floats(query: &[f32], dim: usize, widths: &[usize]) -> Self {
        let mut panels = Self::zeros(query.len() / dim, dim, widths);
        panels.fill(query.len() / dim, |token, column| {
            for (word, x) in column[1..].iter_mut().zip(&query[token * dim..][..dim]) {
                *word = x.to_bits();
            }
        });
        panels
    }

    /// Of codes, `components` (4 of 8 bits, or 2 of 16) a step. Sums start at `−offset · Σ code`.
    pub(super) fn codes(query: &[f32], dim: usize, widths: &[usize], components: usize, offset: i32) -> Self {
        let mut panels = Self::zeros(query.len() / dim, dim.div_ceil(components), widths);
        let mut codes = vec![0_i8; dim];
        let mut scales = Vec::with_capacity(query.len() / dim);
        panels.fill(query.len() / dim, |token, column| {
            scales.push(quantize(&query[token * dim..][..dim], code_max(dim), &mut codes));
            let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
            column[0] = offset.wrapping_mul(sum).wrapping_neg().cast_unsigned();
            for (word, codes) in column[1..].iter_mut().zip(codes.chunks(components)) {
                *word = step(codes, 32 / components);
            }
        });
        panels.scales = scales;
        panels
    }

    /// The panels, from the first query token to the last.
    pub(super) fn iter(&self) -> impl Iterator<Item = Panel<'_>> {
        let words = &self.words[self.start..];
        self.plan.panels().map(move |(first, lanes)| {
            let words = &words[first * self.depth..][..lanes * self.depth];
            Panel { first, lanes, words }
        })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.plan.panels().count()
    }

    /// What query token `token`'s similarities are multiplied with in the end.
    pub(super) fn scale(&self, token: usize) -> f32 {
        self.scales.get(token).copied().unwrap_or(1.0)
    }

    fn zeros(q_len: usize, steps: usize, widths: &[usize]) -> Self {
        let (plan, depth) = (Plan::new(q_len, widths), 1 + steps);
        let words = vec![0_u32; plan.lanes() * depth + CACHE_LINE / size_of::<u32>()];
        // Only speed depends on what this finds.
        let start = words.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE / size_of::<u32>());
        Self { words, start, plan, depth, scales: Vec::new() }
    }

    /// Has `pack` write the words of each query token, which become its lane.
    fn fill(&mut self, q_len: usize, mut pack: impl FnMut(usize, &mut [u32])) {
        let mut column = vec![0_u32; self.depth];
        for (first, lanes) in self.plan.panels() {
            let panel = &mut self.words[self.start + first * self.depth..][..lanes * self.depth];
            for token in first..q_len.min(first + lanes) {
                pack(token, &mut column);
                for (row, &word) in panel.chunks_exact_mut(lanes).zip(&column) {
                    row[token - first] = word;
                }
            }
        }
    }
}

/// Lanes of the panels: `whole` panels of the widest, then one or two that take the remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    widest: usize,
    whole: usize,
    rest: [usize; 2],
}

impl Plan {
    /// For `q_len` query tokens and panels of `widths`, the widest first: as few lanes as possible.
    fn new(q_len: usize, widths: &[usize]) -> Self {
        let widest = widths.first().copied().unwrap_or(1);
        let (whole, rest) = (q_len / widest, q_len % widest);
        let one = |rest: usize| if rest == 0 { 0 } else { widths.iter().copied().rfind(|&w| w >= rest).unwrap_or(0) };
        let alone = [one(rest), 0];
        let pairs = widths.iter().filter(|&&width| width < rest).map(|&width| [width, one(rest - width)]);
        let rest = pairs.fold(alone, |best, pair| if pair[0] + pair[1] < best[0] + best[1] { pair } else { best });
        Self { widest, whole, rest }
    }

    fn lanes(self) -> usize {
        self.whole * self.widest + self.rest[0] + self.rest[1]
    }

    /// First query token and lanes of each panel.
    fn panels(self) -> impl Iterator<Item = (usize, usize)> {
        let whole = (0..self.whole).map(move |panel| (panel * self.widest, self.widest));
        let start = self.whole * self.widest;
        let rest = [(start, self.rest[0]), (start + self.rest[0], self.rest[1])];
        whole.chain(rest.into_iter().filter(|&(_, lanes)| lanes > 0))
    }
}

/// Codes of `bits` bits side by side, the first one least significant.
fn step(codes: &[i8], bits: usize) -> u32 {
    codes.iter().enumerate().fold(0, |word, (i, &code)| {
        let code = i32::from(code).cast_unsigned() & (u32::MAX >> (32 - bits));
        word | code << (i * bits)
    })
}

/// The largest code of a query: 127, or less where 32 bits could not take the sum over so many components.
fn code_max(dim: usize) -> u8 {
    (i32::MAX as usize / 128 / dim).clamp(1, 127) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_take_all_query_tokens_and_few_more() {
        for (q_len, expected) in [
            (0, &[][..]),
            (1, &[8]),
            (8, &[8]),
            (9, &[16]),
            (17, &[16, 8]),
            (24, &[16, 8]),
            (25, &[32]),
            (32, &[32]),
            (33, &[32, 8]),
            (48, &[32, 16]),
            (96, &[32, 32, 32]),
        ] {
            let plan = Plan::new(q_len, &[32, 16, 8]);
            let lanes: Vec<usize> = plan.panels().map(|(_, lanes)| lanes).collect();
            assert_eq!(lanes, expected, "{q_len} query tokens");
            assert_eq!(plan.lanes(), lanes.iter().sum());
        }
    }

    #[test]
    fn components_of_a_step_stand_together() {
        let query = [1.0, 2.0, 3.0, -4.0, 5.0, 6.0];
        let floats = Panels::floats(&query, 3, &[4]);
        let panel = floats.iter().next().unwrap();
        let words: Vec<f32> = panel.words.iter().copied().map(f32::from_bits).collect();
        assert_eq!(words, [0.0, 0.0, 0.0, 0.0, 1.0, -4.0, 0.0, 0.0, 2.0, 5.0, 0.0, 0.0, 3.0, 6.0, 0.0, 0.0]);
        assert_eq!(panel.words.as_ptr().align_offset(64), 0);

        let query = [127.0, -127.0, 1.0, 254.0, 2.0, -254.0];
        let bytes = Panels::codes(&query, 3, &[2], 4, 128);
        let words: Vec<u32> = bytes.iter().flat_map(|panel| panel.words.iter().copied()).collect();
        assert_eq!(words, [(-128_i32).cast_unsigned(), (-128_i32).cast_unsigned(), 0x0001_817f, 0x0081_017f]);
        assert_eq!((bytes.scale(0), bytes.scale(1)), (1.0, 2.0));
        let pairs = Panels::codes(&query, 3, &[2], 2, 0);
        let words: Vec<u32> = pairs.iter().flat_map(|panel| panel.words.iter().copied()).collect();
        assert_eq!(words, [0, 0, 0xff81_007f, 0x0001_007f, 1, 0x0000_ff81]);
    }

    #[test]
    fn no_sum_of_products_exceeds_32_bits() {
        for dim in [1, 128, 1024, 131_072, 132_200, 1 << 20, 1 << 23] {
            assert!(dim as i64 * 128 * i64::from(code_max(dim)) <= i64::from(i32::MAX), "{dim}");
        }
        assert_eq!((code_max(1024), code_max(131_072)), (127, 127));
    }
}

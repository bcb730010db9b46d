//! What this machine can do at most, for benchmarks to compare with.
//!
//! Each loop does the one thing that bounds a kind of kernel, on registers or straight from memory, and returns how many
//! operations that was, or what it read; the caller has the clock.
#![allow(unsafe_code, reason = "loops of bare instructions")]

use std::hint::black_box;

#[cfg(target_arch = "x86_64")]
use crate::InstructionSet;
use crate::Isa;

/// Independent sums of a round: enough to hide the latency of an addition behind the others.
const SUMS: usize = 12;

/// Does `rounds` rounds of independent f32 multiply-adds on registers; returns their operations, two each.
///
/// The fallback has separate multiplications and additions, as its kernels have.
#[must_use]
pub fn multiply_f32(isa: Isa, rounds: u64) -> u64 {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is proof of the instructions.
        InstructionSet::Avx512 => unsafe { x86::f32_avx512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx2 => unsafe { x86::f32_avx2(rounds) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        crate::InstructionSet::Neon => unsafe { arm::f32_neon(rounds) },
        _ => f32_portable(rounds),
    }
}

/// Does `rounds` rounds of independent products of codes on registers, summed in 32 bits; returns their operations, two
/// for each product. Codes have 8 bits; 16 on AVX2 and the fallback, whose kernels widen them.
#[must_use]
pub fn multiply_int8(isa: Isa, rounds: u64) -> u64 {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is proof of the instructions.
        InstructionSet::Avx512 => unsafe { x86::int8_avx512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx2 => unsafe { x86::int8_avx2(rounds) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        crate::InstructionSet::Neon => unsafe { arm::int8_neon(rounds) },
        _ => int8_portable(rounds),
    }
}

/// Reads all of `words` in order and returns their sum, wrapping.
#[must_use]
pub fn read(isa: Isa, words: &[u64]) -> u64 {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is proof of the instructions.
        InstructionSet::Avx512 => unsafe { x86::read_avx512(words) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx2 => unsafe { x86::read_avx2(words) },
        _ => sum(words),
    }
}

fn f32_portable(rounds: u64) -> u64 {
    let (mut sums, x) = ([[0.0_f32; 4]; SUMS], black_box([0.5_f32; 4]));
    for _ in 0..rounds {
        for sum in &mut sums {
            for (sum, x) in sum.iter_mut().zip(x) {
                *sum = *sum * x + x;
            }
        }
    }
    black_box(sums);
    rounds * (SUMS * 4 * 2) as u64
}

fn int8_portable(rounds: u64) -> u64 {
    let (mut sums, x) = ([[0_i32; 4]; SUMS], black_box([[3_i16, -5]; 4]));
    for _ in 0..rounds {
        let y = black_box([[7_i16, 2]; 4]);
        for sum in &mut sums {
            for ((sum, x), y) in sum.iter_mut().zip(x).zip(y) {
                *sum = sum.wrapping_add(i32::from(x[0]) * i32::from(y[0]) + i32::from(x[1]) * i32::from(y[1]));
            }
        }
    }
    black_box(sums);
    rounds * (SUMS * 4 * 2 * 2) as u64
}

#[inline(always)]
fn sum(words: &[u64]) -> u64 {
    /// Sums that do not wait for each other.
    const WORDS: usize = 64;
    let mut sums = [0_u64; WORDS];
    let (chunks, rest) = words.as_chunks::<WORDS>();
    for chunk in chunks {
        for (sum, &word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(word);
        }
    }
    sums.iter().chain(rest).fold(0, |all, &word| all.wrapping_add(word))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{SUMS, black_box, sum};

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_avx512(rounds: u64) -> u64 {
        let (mut sums, x) = ([_mm512_setzero_ps(); SUMS], black_box(_mm512_set1_ps(0.5)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, x);
            }
        }
        black_box(sums);
        rounds * (SUMS * 16 * 2) as u64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_avx2(rounds: u64) -> u64 {
        let (mut sums, x) = ([_mm256_setzero_ps(); SUMS], black_box(_mm256_set1_ps(0.5)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, x);
            }
        }
        black_box(sums);
        rounds * (SUMS * 8 * 2) as u64
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8_avx512(rounds: u64) -> u64 {
        let (mut sums, x) = ([_mm512_setzero_si512(); SUMS], black_box(_mm512_set1_epi8(3)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, x);
            }
        }
        black_box(sums);
        rounds * (SUMS * 64 * 2) as u64
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn int8_avx2(rounds: u64) -> u64 {
        let (mut sums, x) = ([_mm256_setzero_si256(); SUMS], black_box(_mm256_set1_epi16(3)));
        for _ in 0..rounds {
            for sum in &mut sums {
                // Without the barrier one product would do for all.
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, x));
            }
        }
        black_box(sums);
        rounds * (SUMS * 16 * 2) as u64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn read_avx512(words: &[u64]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 8];
        let (chunks, rest) = words.as_chunks::<64>();
        for chunk in chunks {
            for (sum, words) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
                // SAFETY: eight words of 8 bytes.
                let words = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
                *sum = _mm512_add_epi64(*sum, words);
            }
        }
        let all = sums.into_iter().fold(_mm512_setzero_si512(), |all, sum| _mm512_add_epi64(all, sum));
        sum(rest).wrapping_add(_mm512_reduce_add_epi64(all).cast_unsigned())
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2(words: &[u64]) -> u64 {
        sum(words)
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::{aarch64::*, asm};

    use super::{SUMS, black_box};

    #[target_feature(enable = "neon")]
    pub(super) fn f32_neon(rounds: u64) -> u64 {
        let (mut sums, x) = ([vdupq_n_f32(0.0); 2 * SUMS], black_box(vdupq_n_f32(0.5)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = vfmaq_f32(x, *sum, x);
            }
        }
        black_box(sums);
        rounds * (2 * SUMS * 4 * 2) as u64
    }

    #[target_feature(enable = "neon,dotprod")]
    pub(super) fn int8_neon(rounds: u64) -> u64 {
        let (mut sums, x) = ([vdupq_n_s32(0); 2 * SUMS], black_box(vdupq_n_s8(3)));
        for _ in 0..rounds {
            for sum in &mut sums {
                // SAFETY: the instruction works on these registers alone, and the caller has proof of it.
                unsafe {
                    asm!("sdot {sum:v}.4s, {x:v}.16b, {x:v}.16b", sum = inout(vreg) *sum, x = in(vreg) x,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
        rounds * (2 * SUMS * 16 * 2) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for isa in Isa::available() {
            for length in [0, 1, 63, 64, 65, 1000] {
                let words: Vec<u64> = (0..length).map(|i: u64| i.wrapping_mul(u64::MAX / 7)).collect();
                let expected = words.iter().fold(0_u64, |all, &word| all.wrapping_add(word));
                assert_eq!(read(isa, &words), expected, "{isa:?}, {length} words");
            }
        }
    }

    #[test]
    fn operations_grow_with_rounds() {
        for isa in Isa::available() {
            for operations in [multiply_f32, multiply_int8] {
                assert_eq!((operations(isa, 0), operations(isa, 6)), (0, 6 * operations(isa, 1)), "{isa:?}");
                assert!(operations(isa, 1) > 0);
            }
        }
    }
}

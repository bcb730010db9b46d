//! For any machine: arrays, which the compiler vectorises for what it may assume.

use half::f16;

use super::{Out, Rows, Simd, Tile, math};

/// No proof is needed.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 8;
type Lanes = [f32; LANES];
type Words = [i32; LANES];

#[inline(always)]
fn each<T: Copy, U>(a: [T; LANES], f: impl Fn(T) -> U) -> [U; LANES] {
    a.map(f)
}

#[inline(always)]
fn both<T: Copy, U: Copy, V>(a: [T; LANES], b: [U; LANES], f: impl Fn(T, U) -> V) -> [V; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// The two small integers of a word.
#[inline(always)]
fn halves(word: i32) -> [i32; 2] {
    [i32::from(word as i16), word >> 16]
}

impl Simd for Portable {
    const LANES: usize = LANES;
    const CODES: usize = 2;
    const NATIVE: bool = false;
    type F32 = Lanes;
    type I32 = Words;
    // 4 × 8 sums are 8 registers of 4 lanes, of the 16 that every x86-64 has.
    type Full = Tile<4, 1>;
    type Half = Tile<2, 1>;
    type Flat = Tile<1, 1>;

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Lanes {
        // SAFETY: good for all lanes, as the trait asks.
        unsafe { from.cast::<Lanes>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Lanes {
        // SAFETY: good for all lanes, as the trait asks.
        unsafe { from.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32_const)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Lanes) {
        // SAFETY: good for all lanes, as the trait asks.
        unsafe { to.cast::<Lanes>().write_unaligned(x) };
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Lanes {
        let mut x = [0.0; LANES];
        for (i, x) in x.iter_mut().enumerate().take(count) {
            // SAFETY: good for the first `count` lanes, as the trait asks.
            *x = unsafe { *from.add(i) };
        }
        x
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize, x: Lanes) {
        for (i, &x) in x.iter().enumerate().take(count) {
            // SAFETY: good for the first `count` lanes, as the trait asks.
            unsafe { *to.add(i) = x };
        }
    }

    #[inline(always)]
    fn first(self, a: Lanes, count: usize) -> Lanes {
        std::array::from_fn(|i| if i < count { a[i] } else { 0.0 })
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        both(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        both(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        both(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        both(a, b, |a, b| a / b)
    }

    /// Fused where every machine of the architecture can; a call into a library elsewhere would be far too slow.
    #[inline(always)]
    fn fma(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(
            |i| if cfg!(target_arch = "aarch64") { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] },
        )
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        both(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        both(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn abs(self, a: Lanes) -> Lanes {
        each(a, f32::abs)
    }

    /// By adding what leaves no room for a fraction: right for |a| < 2²², which is all that is asked.
    #[inline(always)]
    fn round(self, a: Lanes) -> Lanes {
        const ROUNDING: f32 = 12_582_912.0;
        each(a, |a| (a + ROUNDING) - ROUNDING)
    }

    #[inline(always)]
    fn scale(self, p: Lanes, n: Lanes) -> Lanes {
        both(p, n, math::scale)
    }

    #[inline(always)]
    fn sum(self, a: Lanes) -> f32 {
        let [a, b, c, d, e, f, g, h] = a;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    fn largest(self, a: Lanes) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |max, a| if a > max { a } else { max })
    }

    #[inline(always)]
    fn exp2(self, x: Lanes) -> Lanes {
        math::exp2(self, x)
    }

    #[inline(always)]
    fn gelu_erf(self, x: Lanes) -> Lanes {
        math::gelu_erf_by_exp(self, x)
    }

    #[inline(always)]
    fn zero_i32(self) -> Words {
        [0; LANES]
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Words {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> Words {
        // SAFETY: good for all lanes, as the trait asks.
        unsafe { from.cast::<Words>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, x: Words) {
        // SAFETY: good for all lanes, as the trait asks.
        unsafe { to.cast::<Words>().write_unaligned(x) };
    }

    #[inline(always)]
    fn sub_i32(self, a: Words, b: Words) -> Words {
        both(a, b, i32::wrapping_sub)
    }

    #[inline(always)]
    fn mul_i32(self, a: Words, b: Words) -> Words {
        both(a, b, i32::wrapping_mul)
    }

    #[inline(always)]
    fn to_f32(self, a: Words) -> Lanes {
        each(a, |a| a as f32)
    }

    #[inline(always)]
    fn dot(self, sum: Words, codes: Words, weights: Words) -> Words {
        std::array::from_fn(|i| {
            let ([a, b], [c, d]) = (halves(codes[i]), halves(weights[i]));
            sum[i].wrapping_add(a * c + b * d)
        })
    }

    #[inline(always)]
    unsafe fn store_codes(self, to: *mut i32, codes: Lanes) {
        let codes = self.round(self.min(self.max(codes, [0.0; LANES]), [255.0; LANES]));
        for i in 0..LANES / 2 {
            let word = codes[2 * i] as i32 | (codes[2 * i + 1] as i32) << 16;
            // SAFETY: good for `LANES / CODES` words, as the trait asks.
            unsafe { *to.add(i) = word };
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: Rows<f32>, factor: Lanes, to: Out) {
        for r in 0..LANES {
            for (k, factor) in factor.into_iter().enumerate() {
                // SAFETY: rows below the count are good for all lanes, and `to` for as many rows of as many.
                unsafe {
                    let x = if r < rows.count { *rows.first.add(r * rows.stride + k) * factor } else { 0.0 };
                    *to.first.add(k * to.stride + r) = x;
                }
            }
        }
    }

    /// Left to the machine.
    #[inline(always)]
    fn fetch(self, _: *const f32) {}

    /// Left to the machine.
    #[inline(always)]
    fn fetch_to_write(self, _: *const f32) {}
}

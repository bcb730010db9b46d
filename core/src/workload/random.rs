//! Drawn numbers that are the same on every machine.
//!
//! Integers and the four basic operations on `f64` are exact by definition; logarithms of a system's library are not,
//! and neither is a general-purpose generator from one version to the next.

/// SplitMix64 (Steele, Lea and Flood, *Fast splittable pseudorandom number generators*, 2014): 64 bits of state.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed made of several numbers, of which each change gives another one.
    #[must_use]
    pub fn seed(parts: &[u64]) -> u64 {
        parts.iter().fold(0, |seed, part| mix(seed ^ mix(part.wrapping_add(STEP))))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// From 0, inclusive, to 1, exclusive: a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to `limit`, exclusive; 0 if there is no such number. Off from uniform by less than `limit` / 2⁶⁴.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Lemire's multiplication, without its rejection step.
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    /// Exponential with mean 1, without a logarithm (von Neumann, *Various techniques used in connection with random
    /// digits*, 1951).
    ///
    /// Draws decrease until one does not. That the count of draws is even has probability e⁻ˣ given the first draw x, so
    /// such an x is the fraction of an exponential number, and each failure, of probability 1/e, adds 1.
    pub fn exponential(&mut self) -> f64 {
        let mut whole = 0.0;
        loop {
            let first = self.unit();
            let (mut last, mut draws) = (first, 1);
            loop {
                let next = self.unit();
                draws += 1;
                if next > last {
                    break;
                }
                last = next;
            }
            if draws % 2 == 0 {
                return whole + first;
            }
            whole += 1.0;
        }
    }
}

/// 2⁶⁴ divided by the golden ratio, made odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence() {
        // The first numbers of the reference implementation (splitmix64.c, Vigna, 2015) with state 1234567.
        let mut random = Random::new(1_234_567);
        let drawn: Vec<u64> = (0..5).map(|_| random.bits()).collect();
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(drawn, expected);
    }

    #[test]
    fn exponential_numbers_are_distributed_so() {
        // Of 100,000 draws, the share above x is e⁻ˣ within 5 standard deviations.
        let mut random = Random::new(3);
        let drawn: Vec<f64> = (0..100_000).map(|_| random.exponential()).collect();
        for x in [0.05_f64, 0.3, 0.7, 1.0, 1.5, 3.0, 5.0] {
            let above = drawn.iter().filter(|drawn| **drawn > x).count() as f64 / drawn.len() as f64;
            let expected = (-x).exp();
            let deviation = (expected * (1.0 - expected) / drawn.len() as f64).sqrt();
            assert!((above - expected).abs() < 5.0 * deviation, "above {x}: {above} for {expected}");
        }
    }

    #[test]
    fn numbers_below_a_limit_are_all_drawn() {
        let mut random = Random::new(9);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[random.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!(random.below(1), 0);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn each_part_of_a_seed_matters() {
        let seeds = [&[1, 2][..], &[2, 1], &[1, 3], &[0, 2], &[1], &[1, 2, 0]].map(Random::seed);
        for (n, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..n].contains(seed), "{n}");
        }
    }
}

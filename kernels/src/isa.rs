//! Which instructions this machine has, found out once.

use std::sync::OnceLock;

/// A family of instructions that kernels are written for. Later ones are faster where a machine has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstructionSet {
    /// Whatever the compiler makes of portable code.
    Fallback,
    /// aarch64: Advanced SIMD with the dot-product extension.
    Neon,
    /// x86-64: AVX2, FMA and F16C.
    Avx2,
    /// x86-64: AVX-512 F, BW, DQ, VL and VNNI, besides AVX2. A processor with AVX-512 and without VNNI counts as AVX2.
    Avx512,
}

impl InstructionSet {
    /// All of them, slowest first.
    pub const ALL: [Self; 4] = [Self::Fallback, Self::Neon, Self::Avx2, Self::Avx512];

    /// Its name in configuration and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_present(self) -> bool {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Self::Fallback => true,
            Self::Neon => false,
            Self::Avx2 => avx2,
            Self::Avx512 => {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn is_present(self) -> bool {
        match self {
            Self::Fallback => true,
            Self::Neon => {
                std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn is_present(self) -> bool {
        self == Self::Fallback
    }
}

/// The proof that this machine has an instruction set: there is no other way to one than asking the machine.
///
/// Kernels take it as an argument, so that a test or a measurement runs any set the machine has, and calling code
/// that was compiled for a set needs no further check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(InstructionSet);

impl Isa {
    /// The fastest that the machine has. The machine is asked once per process.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().unwrap_or(Self(InstructionSet::Fallback)))
    }

    /// Portable code, which every machine runs.
    #[must_use]
    pub fn fallback() -> Self {
        Self(InstructionSet::Fallback)
    }

    /// Proof for that set, if the machine has it.
    #[must_use]
    pub fn of(set: InstructionSet) -> Option<Self> {
        set.is_present().then_some(Self(set))
    }

    /// Everything that the machine has, slowest first; at least the fallback.
    pub fn available() -> impl Iterator<Item = Self> {
        InstructionSet::ALL.into_iter().filter_map(Self::of)
    }

    /// Which set it is.
    #[must_use]
    pub fn set(self) -> InstructionSet {
        self.0
    }

    /// Its name in configuration and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_available_and_no_worse_than_any() {
        let available: Vec<_> = Isa::available().collect();
        assert_eq!(available.first(), Some(&Isa::fallback()));
        assert!(available.is_sorted() && available.contains(&Isa::best()), "{available:?}");
        assert!(available.iter().all(|isa| *isa <= Isa::best()), "{available:?}");
    }
}

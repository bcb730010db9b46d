//! Compiled sources. `bash .ci/ptx --write` makes them anew, and `bash .ci/ptx` compares.
//!
//! PTX is an assembly that the driver translates for its device, when a unit is loaded; it keeps what it translated in
//! a cache of its own. These are of PTX ISA 8.0, which drivers know from CUDA 12.0 on (version 525).

use super::{encoder, maxsim::plan as maxsim};

/// Compute capability, major and minor.
pub type ComputeCapability = (i32, i32);

/// The least that there are kernels for: matrix instructions of these shapes, and `max.NaN`.
pub const OLDEST: ComputeCapability = (8, 0);

/// A source, compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// One of `kernels/cuda/maxsim`.
    MaxSim(maxsim::Unit),
    /// One of `kernels/cuda/encoder`.
    Encoder(encoder::Unit),
}

impl From<maxsim::Unit> for Unit {
    fn from(unit: maxsim::Unit) -> Self {
        Self::MaxSim(unit)
    }
}

impl From<encoder::Unit> for Unit {
    fn from(unit: encoder::Unit) -> Self {
        Self::Encoder(unit)
    }
}

/// The newest compilation of a unit that such a device runs; `None` below [`OLDEST`].
#[must_use]
pub fn ptx(unit: impl Into<Unit>, device: ComputeCapability) -> Option<&'static str> {
    let compiled: &[(ComputeCapability, &str)] = match unit.into() {
        Unit::MaxSim(maxsim::Unit::Naive) => &[((8, 0), include_str!("../../cuda/ptx/maxsim_naive.sm_80.ptx"))],
        Unit::MaxSim(maxsim::Unit::Mma) => &[((8, 0), include_str!("../../cuda/ptx/maxsim_mma.sm_80.ptx"))],
        Unit::MaxSim(maxsim::Unit::Stream) => &[
            ((9, 0), include_str!("../../cuda/ptx/maxsim_stream.sm_90.ptx")),
            ((8, 0), include_str!("../../cuda/ptx/maxsim_stream.sm_80.ptx")),
        ],
        Unit::Encoder(unit) => match unit {
            encoder::Unit::Norm => &[((8, 0), include_str!("../../cuda/ptx/encoder_norm.sm_80.ptx"))],
            encoder::Unit::Activate => &[((8, 0), include_str!("../../cuda/ptx/encoder_activate.sm_80.ptx"))],
            encoder::Unit::Product => &[((8, 0), include_str!("../../cuda/ptx/encoder_product.sm_80.ptx"))],
            encoder::Unit::Attention => &[((8, 0), include_str!("../../cuda/ptx/encoder_attention.sm_80.ptx"))],
            encoder::Unit::Sequence => &[((8, 0), include_str!("../../cuda/ptx/encoder_sequence.sm_80.ptx"))],
        },
    };
    compiled.iter().find(|(needed, _)| *needed <= device).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_the_newest_that_it_runs() {
        for (device, expected) in [
            ((7, 5), None),
            ((8, 0), Some(".target sm_80")),
            ((8, 9), Some(".target sm_80")),
            ((9, 0), Some(".target sm_90")),
            ((12, 0), Some(".target sm_90")),
        ] {
            let found = ptx(maxsim::Unit::Stream, device);
            assert_eq!(found.map(|text| text.contains(expected.unwrap_or("?"))), expected.map(|_| true), "{device:?}");
        }
        assert!(ptx(maxsim::Unit::Naive, (9, 0)).is_some_and(|text| text.contains("maxsim_naive_int8")));
    }
}

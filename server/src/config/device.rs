//! What computes.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What computes: `auto`, `cpu`, `cuda`, `cuda:N`, `cuda:N,M,…` or `cuda:all`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first CUDA device if it is usable, else the processor. What of a model no CUDA kernel computes, or does not
    /// fit, is computed on the processor too.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// CUDA devices by their numbers, as `CUDA_VISIBLE_DEVICES` counts them: at least one, none twice. Every model is on
    /// each of them. The server does not start without them.
    Cuda(Vec<usize>),
    /// Every CUDA device of the machine, of which there must be one.
    CudaAll,
}

/// A device that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDevice {
    /// It says nothing that is known.
    #[error("unknown device `{0}`, expected `auto`, `cpu`, `cuda`, `cuda:N`, `cuda:N,M,…` or `cuda:all`")]
    Unknown(String),
    /// It names a CUDA device twice.
    #[error("`{text}` names device {ordinal} twice")]
    Twice {
        /// What it says.
        text: String,
        /// Which device.
        ordinal: usize,
    },
}

impl FromStr for Device {
    type Err = InvalidDevice;

    fn from_str(text: &str) -> Result<Self, InvalidDevice> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(vec![0])),
            "cuda:all" => Ok(Self::CudaAll),
            other => {
                let unknown = || InvalidDevice::Unknown(other.to_owned());
                let list = other.strip_prefix("cuda:").ok_or_else(unknown)?;
                let ordinals: Option<Vec<usize>> = list.split(',').map(ordinal).collect();
                let ordinals = ordinals.ok_or_else(unknown)?;
                let mut seen = BTreeSet::new();
                match ordinals.iter().find(|ordinal| !seen.insert(**ordinal)) {
                    Some(&ordinal) => Err(InvalidDevice::Twice { text: other.to_owned(), ordinal }),
                    None => Ok(Self::Cuda(ordinals)),
                }
            }
        }
    }
}

/// A number as it is written: no sign, no space.
fn ordinal(digits: &str) -> Option<usize> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl TryFrom<String> for Device {
    type Error = InvalidDevice;

    fn try_from(text: String) -> Result<Self, InvalidDevice> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinals) if ordinals[..] == [0] => f.write_str("cuda"),
            Self::Cuda(ordinals) => {
                let ordinals: Vec<String> = ordinals.iter().map(ToString::to_string).collect();
                write!(f, "cuda:{}", ordinals.join(","))
            }
            Self::CudaAll => f.write_str("cuda:all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        let check = |text: &str, device: Device, shown: &str| {
            assert_eq!(text.parse(), Ok(device), "{text}");
            assert_eq!(text.parse::<Device>().map(|device| device.to_string()), Ok(shown.to_owned()));
        };
        check("auto", Device::Auto, "auto");
        check("cpu", Device::Cpu, "cpu");
        check("cuda", Device::Cuda(vec![0]), "cuda");
        check("cuda:0", Device::Cuda(vec![0]), "cuda");
        check("cuda:3", Device::Cuda(vec![3]), "cuda:3");
        check("cuda:0,1", Device::Cuda(vec![0, 1]), "cuda:0,1");
        check("cuda:3,0,2", Device::Cuda(vec![3, 0, 2]), "cuda:3,0,2");
        check("cuda:all", Device::CudaAll, "cuda:all");
        let unknown = [
            "",
            "CUDA",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda: 1",
            "cuda:1:2",
            "gpu",
            "cuda:99999999999999999999",
            "cuda:x",
            "cuda:0,",
            "cuda:,1",
            "cuda:0,,1",
            "cuda:0, 1",
            "cuda:0,x",
            "cuda:0,all",
            "cuda0,1",
            "0,1",
        ];
        for text in unknown {
            assert_eq!(text.parse::<Device>(), Err(InvalidDevice::Unknown(text.to_owned())), "{text}");
        }
        for (text, ordinal) in [("cuda:1,1", 1), ("cuda:0,2,1,2", 2), ("cuda:0,00", 0)] {
            assert_eq!(text.parse::<Device>(), Err(InvalidDevice::Twice { text: text.to_owned(), ordinal }));
        }
    }
}

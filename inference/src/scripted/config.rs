//! The file of a scripted model; documented at [`crate::model::load_scripted`].

use std::{num::NonZero, path::Path, time::Duration};

use serde::Deserialize;

use crate::load_error::LoadError;

/// Components of a vector that a file may ask for.
const DIM_MAX: u32 = 4096;
/// Longer is a mistake, and far below what arithmetic with it overflows at.
const PERIOD_MAX: Duration = Duration::from_secs(3600);
/// Room for the special tokens of a pair and one word of each text.
const MAX_TOKENS_MIN: u32 = 5;

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    pub(super) max_tokens: u32,
    pub(super) dim: u32,
    pub(super) batch_tokens_max: u32,
    pub(super) batch_sequences_max: u32,
    pub(super) in_flight_batches_max: u32,
    pub(super) devices: NonZero<u16>,
    pub(super) capabilities: Vec<Capability>,
    pub(super) poison: Option<String>,
    pub(super) service_time: ServiceTime,
    #[serde(rename = "fault")]
    pub(super) faults: Vec<Fault>,
    pub(super) load: Load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Capability {
    LateInteraction,
    Dense,
    CrossEncoder,
    EncodeTokens,
    EncodeDense,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ServiceTime {
    pub(super) per_batch: Period,
    pub(super) per_token: Period,
    pub(super) jitter: f64,
    pub(super) seed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) at_batch: u64,
    #[serde(default)]
    pub(super) device: Option<u16>,
    pub(super) kind: FaultKind,
    #[serde(default)]
    pub(super) when: Moment,
    #[serde(default = "once")]
    pub(super) repeat: u64,
    #[serde(default)]
    pub(super) sequences_above: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultKind {
    Failed,
    OutOfMemory,
    DeviceLost,
    Panic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Moment {
    Submit,
    #[default]
    Collect,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Load {
    pub(super) delay: Period,
}

/// A time such as "2ms", "1.5us", "1s" or "300ns".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Period(pub(super) Duration);

impl Default for Config {
    fn default() -> Self {
        use Capability::{CrossEncoder, Dense, EncodeDense, EncodeTokens, LateInteraction};
        Self {
            max_tokens: 512,
            dim: 16,
            batch_tokens_max: 16_384,
            batch_sequences_max: 256,
            in_flight_batches_max: 1,
            devices: NonZero::<u16>::MIN,
            capabilities: vec![LateInteraction, Dense, CrossEncoder, EncodeTokens, EncodeDense],
            poison: None,
            service_time: ServiceTime::default(),
            faults: Vec::new(),
            load: Load::default(),
        }
    }
}

impl Config {
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, LoadError> {
        let config = std::str::from_utf8(bytes)
            .map_err(|error| error.to_string())
            .and_then(|text| toml::from_str::<Self>(text).map_err(|error| error.to_string()))
            .and_then(|config| config.check().map(|()| config));
        config.map_err(|reason| LoadError::Parse { path: path.into(), reason })
    }

    fn check(&self) -> Result<(), String> {
        let rules = [
            (self.max_tokens >= MAX_TOKENS_MIN, format!("max_tokens is below {MAX_TOKENS_MIN}")),
            ((1..=DIM_MAX).contains(&self.dim), format!("dim is not between 1 and {DIM_MAX}")),
            (self.batch_tokens_max >= self.max_tokens, "batch_tokens_max is below max_tokens".to_owned()),
            (self.batch_sequences_max >= 1, "batch_sequences_max is 0".to_owned()),
            (self.in_flight_batches_max >= 1, "in_flight_batches_max is 0".to_owned()),
            (!self.capabilities.is_empty(), "capabilities is empty".to_owned()),
            ((0.0..=1.0).contains(&self.service_time.jitter), "jitter is not between 0 and 1".to_owned()),
            (
                self.faults.iter().all(|fault| fault.device.is_none_or(|device| device < self.devices.get())),
                "a fault strikes a device that there is not".to_owned(),
            ),
            (self.faults.iter().all(|fault| fault.at_batch >= 1), "at_batch counts from 1".to_owned()),
            (self.poison.as_ref().is_none_or(|word| is_word(word)), "poison is not one word".to_owned()),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, fault)) => Err(fault),
            None => Ok(()),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

fn once() -> u64 {
    1
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let units = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
        let seconds = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
        seconds
            .and_then(|(number, unit)| Some(number.trim().parse::<f64>().ok()? * unit))
            .filter(|seconds| (0.0..=PERIOD_MAX.as_secs_f64()).contains(seconds))
            .map(Duration::from_secs_f64)
            .map(Self)
            .ok_or_else(|| {
                format!("{text:?} is no time such as \"2ms\": a number and one of ns, us, ms, s, at most an hour")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("model.toml"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn periods() {
        let cases = [
            ("2ms", Some(Duration::from_millis(2))),
            ("1.5us", Some(Duration::from_nanos(1500))),
            ("300 ns", Some(Duration::from_nanos(300))),
            ("1s", Some(Duration::from_secs(1))),
            ("0s", Some(Duration::ZERO)),
            ("", None),
            ("s", None),
            ("5", None),
            ("-1s", None),
            ("nans", None),
            ("infs", None),
            ("1min", None),
            ("3600s", Some(Duration::from_secs(3600))),
            ("3601s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Period::try_from(text.to_owned()).ok().map(|period| period.0), expected, "{text:?}");
        }
    }

    #[test]
    fn an_empty_file_is_a_model() {
        let config = parse("").unwrap();
        assert_eq!((config.max_tokens, config.dim, config.capabilities.len()), (512, 16, 5));
    }

    #[test]
    fn everything_can_be_said() {
        let config = parse(
            r#"
            max_tokens = 64
            dim = 8
            batch_tokens_max = 128
            batch_sequences_max = 4
            in_flight_batches_max = 2
            devices = 2
            capabilities = ["dense", "encode_dense"]
            poison = "hemlock"
            [service_time]
            per_batch = "2ms"
            per_token = "1us"
            jitter = 0.25
            seed = 7
            [[fault]]
            at_batch = 3
            kind = "device_lost"
            [[fault]]
            at_batch = 5
            device = 1
            kind = "out_of_memory"
            when = "submit"
            repeat = 2
            [load]
            delay = "500ms"
            "#,
        )
        .unwrap();
        assert_eq!(config.capabilities, [Capability::Dense, Capability::EncodeDense]);
        assert_eq!(config.service_time.per_token.0, Duration::from_micros(1));
        assert_eq!((config.devices.get(), config.faults[0].device, config.faults[1].device), (2, None, Some(1)));
        assert_eq!(
            (config.faults[0].kind, config.faults[0].when, config.faults[0].repeat),
            (FaultKind::DeviceLost, Moment::Collect, 1)
        );
        assert_eq!(
            (config.faults[1].kind, config.faults[1].when, config.faults[1].repeat),
            (FaultKind::OutOfMemory, Moment::Submit, 2)
        );
        assert_eq!(config.load.delay.0, Duration::from_millis(500));
    }

    #[test]
    fn nonsense_is_named() {
        let cases = [
            ("max_token = 3", "unknown field `max_token`"),
            ("max_tokens = 4", "max_tokens is below 5"),
            ("dim = 0", "dim is not between"),
            ("batch_tokens_max = 511", "batch_tokens_max is below max_tokens"),
            ("batch_sequences_max = 0", "batch_sequences_max is 0"),
            ("in_flight_batches_max = 0", "in_flight_batches_max is 0"),
            ("capabilities = []", "capabilities is empty"),
            ("capabilities = [\"fly\"]", "unknown variant `fly`"),
            ("poison = \"two words\"", "poison is not one word"),
            ("[service_time]\njitter = 1.5", "jitter is not between 0 and 1"),
            ("[service_time]\njitter = nan", "jitter is not between 0 and 1"),
            ("[service_time]\nper_batch = \"soon\"", "is no time such as"),
            ("[[fault]]\nkind = \"failed\"", "missing field `at_batch`"),
            ("[[fault]]\nat_batch = 0\nkind = \"failed\"", "at_batch counts from 1"),
            ("[[fault]]\nat_batch = 1\nkind = \"fire\"", "unknown variant `fire`"),
            ("[load]\ndelay = 3", "invalid type"),
        ];
        for (text, expected) in cases {
            let error = parse(text).map(|_| ()).unwrap_err();
            assert!(error.starts_with("model.toml: ") && error.contains(expected), "{text:?}: {error}");
        }
    }
}

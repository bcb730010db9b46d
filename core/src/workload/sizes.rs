//! How many documents a request has, and how many tokens a document.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Random, check::Faults};

/// Values of a weighted list.
const VALUES_MAX: usize = 1_000;

/// Where a number of documents or of tokens is drawn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// Always the same.
    Fixed(u32),
    /// Between two numbers, both included.
    Between {
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
        /// Which are likely.
        shape: Shape,
    },
    /// Any of these.
    Weighted(Vec<Weighted>),
}

/// Which numbers of a range are likely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// All alike.
    #[default]
    Uniform,
    /// The n-th smallest 1/n times as likely as the smallest.
    Zipf,
}

/// A number and how likely it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// The number.
    pub value: u32,
    /// In proportion to the sum of all weights; default 1.
    #[serde(default = "one")]
    pub weight: u32,
}

impl Sizes {
    /// The largest number that can be drawn; `None` of an empty list.
    #[must_use]
    pub fn largest(&self) -> Option<u32> {
        match self {
            Self::Fixed(size) => Some(*size),
            Self::Between { max, .. } => Some(*max),
            Self::Weighted(values) => values.iter().map(|weighted| weighted.value).max(),
        }
    }

    pub(super) fn check(&self, key: &str, size_max: u32, faults: &mut Faults) {
        let range = format!("must be 1 to {size_max}");
        match self {
            Self::Fixed(size) => faults.require((1..=size_max).contains(size), key, &range),
            Self::Between { min, max, .. } => {
                faults.require((1..=size_max).contains(min), &format!("{key}.min"), &range);
                faults.require(*max <= size_max, &format!("{key}.max"), &range);
                faults.require(min <= max, &format!("{key}.max"), "must not be less than `min`");
            }
            Self::Weighted(values) => {
                let fits = (1..=VALUES_MAX).contains(&values.len());
                faults.require(fits, key, &format!("must have 1 to {VALUES_MAX} values"));
                for (index, weighted) in values.iter().enumerate() {
                    let fits = (1..=size_max).contains(&weighted.value);
                    faults.require(fits, &format!("{key}[{index}].value"), &range);
                }
                let likely = values.iter().any(|weighted| weighted.weight > 0);
                faults.require(likely || values.is_empty(), key, "must have a weight above 0");
            }
        }
    }
}

/// Sizes, ready to be drawn.
#[derive(Clone, Debug)]
pub(super) enum Sampler {
    Fixed(u32),
    Uniform {
        min: u32,
        count: u64,
    },
    /// `min + n` has the share between the n-th sum and the one before; the last sum is the total.
    Zipf {
        min: u32,
        sums: Vec<f64>,
    },
    /// Values with the sums of weights up to and with theirs.
    Weighted(Vec<(u32, u64)>),
}

impl Sampler {
    /// Of sizes that were checked.
    pub(super) fn new(sizes: &Sizes) -> Self {
        match sizes {
            Sizes::Fixed(size) => Self::Fixed(*size),
            Sizes::Between { min, max, shape: Shape::Uniform } => {
                Self::Uniform { min: *min, count: u64::from(max.saturating_sub(*min)) + 1 }
            }
            Sizes::Between { min, max, shape: Shape::Zipf } => {
                let count = max.saturating_sub(*min) + 1;
                Self::Zipf { min: *min, sums: running_sums((1..=count).map(|rank| 1.0 / f64::from(rank))) }
            }
            Sizes::Weighted(values) => {
                let sums = values.iter().scan(0, |sum, weighted| {
                    *sum += u64::from(weighted.weight);
                    Some((weighted.value, *sum))
                });
                Self::Weighted(sums.collect())
            }
        }
    }

    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform { min, count } => min + random.below(*count) as u32,
            Self::Zipf { min, sums } => {
                let point = random.unit() * sums.last().copied().unwrap_or_default();
                let rank = sums.partition_point(|sum| *sum <= point).min(sums.len().saturating_sub(1));
                min + rank as u32
            }
            Self::Weighted(values) => {
                let point = random.below(values.last().map_or(0, |(_, sum)| *sum));
                values[values.partition_point(|(_, sum)| *sum <= point)].0
            }
        }
    }
}

fn running_sums(weights: impl Iterator<Item = f64>) -> Vec<f64> {
    let sums = weights.scan(0.0, |sum, weight| {
        *sum += weight;
        Some(*sum)
    });
    sums.collect()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    min: u32,
    max: u32,
    #[serde(default)]
    shape: Shape,
}

impl Serialize for Sizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(size) => serializer.serialize_u32(*size),
            Self::Between { min, max, shape } => Range { min: *min, max: *max, shape: *shape }.serialize(serializer),
            Self::Weighted(values) => values.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizesVisitor)
    }
}

/// Tells the forms apart by their type, so that what is wrong inside one is said of that one.
struct SizesVisitor;

impl<'de> Visitor<'de> for SizesVisitor {
    type Value = Sizes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, { min, max } or a list of { value, weight }")
    }

    fn visit_u64<E: Error>(self, size: u64) -> Result<Sizes, E> {
        u32::try_from(size).map(Sizes::Fixed).map_err(|_| E::custom(format_args!("{size} is too large")))
    }

    fn visit_i64<E: Error>(self, size: i64) -> Result<Sizes, E> {
        u64::try_from(size)
            .map_err(|_| E::custom(format_args!("{size} is negative")))
            .and_then(|size| self.visit_u64(size))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sizes, A::Error> {
        let Range { min, max, shape } = Range::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Sizes::Between { min, max, shape })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sizes, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Sizes::Weighted(values))
    }
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sizes: &Sizes) -> Vec<u32> {
        let (sampler, mut random) = (Sampler::new(sizes), Random::new(1));
        (0..30_000).map(|_| sampler.draw(&mut random)).collect()
    }

    fn count(drawn: &[u32], size: u32) -> usize {
        drawn.iter().filter(|drawn| **drawn == size).count()
    }

    #[test]
    fn each_form_is_drawn_as_it_says() {
        // Expected counts of 30,000 draws; 5 standard deviations are at most 5 √(30,000 / 4) = 433.
        let uniform = Sizes::Between { min: 3, max: 5, shape: Shape::Uniform };
        let zipf = Sizes::Between { min: 10, max: 13, shape: Shape::Zipf };
        let weighted = |value, weight| Weighted { value, weight };
        let list = Sizes::Weighted(vec![weighted(7, 0), weighted(1, 1), weighted(100, 2), weighted(8, 0)]);
        let cases = [
            (Sizes::Fixed(4), vec![(4, 30_000)]),
            (uniform, vec![(3, 10_000), (4, 10_000), (5, 10_000)]),
            (zipf, vec![(10, 14_400), (11, 7_200), (12, 4_800), (13, 3_600)]),
            (list, vec![(1, 10_000), (100, 20_000)]),
        ];
        for (sizes, expected) in cases {
            let drawn = drawn(&sizes);
            let mut known = 0;
            for (size, expected) in expected {
                let found = count(&drawn, size);
                assert!(found.abs_diff(expected) < 433, "{sizes:?}: {found} of {size}, expected {expected}");
                known += found;
            }
            assert_eq!(known, drawn.len(), "{sizes:?} gave something else");
            assert!(drawn.iter().all(|size| *size <= sizes.largest().unwrap()));
        }
    }
}

//! Keys of the payload table, and how a range becomes few of them.
//!
//! ```text
//! field 2 | tag 1 | value …            | chunk 2        the documents `chunk << 16 ..` of that value
//!           0                                           … that have a value
//!           1       length 2 | bytes                    … equal to it: keywords, booleans, words
//!           16 + l  8 bytes >> 8 l                      … whose number begins so: level l = 0 to 7
//! ```
//!
//! Field 0 is no field: it holds the documents there are. All numbers are big-endian, so that LMDB's byte order is
//! theirs.
//!
//! A number (integer, float, datetime) becomes a `u64` in the same order, and is entered once for every length of its
//! beginning, in steps of 8 bits. A range then is at most 255 neighbouring beginnings at either end of each level,
//! whatever the number of distinct values (the prefix terms of Schindler and Diepenbroek, 2008, as Lucene had them).

use std::ops::{Bound, RangeInclusive};

use crate::payload::{Scalar, words};

/// Of the documents there are.
pub(super) const LIVE: u16 = 0;
const TAG_EXISTS: u8 = 0;
const TAG_EQUAL: u8 = 1;
const TAG_LEVEL: u8 = 16;
const LEVELS: u8 = 8;
const LEVEL_BITS: u32 = 8;
/// Bytes of the chunk at a key's end.
pub(super) const CHUNK_BYTES: usize = 2;

/// A key without its chunk.
pub(super) type Prefix = Vec<u8>;

/// The number of a payload field's keys, from its place in the schema.
pub(super) fn field_number(place: usize) -> u16 {
    u16::try_from(place + 1).expect("a schema has at most 64 payload fields")
}

/// Of the documents of the collection.
pub(super) fn live() -> Prefix {
    prefix(LIVE, TAG_EXISTS)
}

/// Of the documents that have a value in a field.
pub(super) fn exists(field: u16) -> Prefix {
    prefix(field, TAG_EXISTS)
}

/// Of the documents that have this value. Not for texts.
pub(super) fn equal(field: u16, value: &Scalar) -> Prefix {
    match (value, code(value)) {
        (_, Some(code)) => level(field, 0, code),
        (Scalar::Keyword(text), None) => word(field, text),
        (Scalar::Boolean(value), None) => word(field, if *value { "1" } else { "0" }),
        (_, None) => exists(field),
    }
}

/// Of the documents that have this word.
pub(super) fn word(field: u16, word: &str) -> Prefix {
    let mut key = prefix(field, TAG_EQUAL);
    let length = u16::try_from(word.len()).expect("keywords and words are shorter than a key");
    key.extend(length.to_be_bytes());
    key.extend(word.as_bytes());
    key
}

/// All keys under which a document with this value is entered.
pub(super) fn entries(field: u16, value: &Scalar, mut enter: impl FnMut(Prefix)) {
    match (value, code(value)) {
        (_, Some(code)) => (0..LEVELS).for_each(|at| enter(level(field, at, code >> (LEVEL_BITS * u32::from(at))))),
        (Scalar::Text(text), None) => words(text).for_each(|found| enter(word(field, &found))),
        (value, None) => enter(equal(field, value)),
    }
}

/// The prefixes, first and last, between which the documents of a range lie. Unordered where the bounds cross.
pub(super) fn range(field: u16, lower: &Bound<Scalar>, upper: &Bound<Scalar>) -> Vec<RangeInclusive<Prefix>> {
    let bound = |bound: &Bound<Scalar>, open: u64, step: fn(u64) -> Option<u64>| match bound {
        Bound::Unbounded => Some(open),
        Bound::Included(value) => code(value),
        Bound::Excluded(value) => code(value).and_then(step),
    };
    let lower = bound(lower, 0, |code| code.checked_add(1));
    let upper = bound(upper, u64::MAX, |code| code.checked_sub(1));
    let (Some(lower), Some(upper)) = (lower, upper) else { return Vec::new() };
    let spans = spans(lower, upper);
    spans.into_iter().map(|(at, first, last)| level(field, at, first)..=level(field, at, last)).collect()
}

/// Where a field's distinct values stand: keywords, booleans and words.
pub(super) fn values(field: u16) -> Prefix {
    prefix(field, TAG_EQUAL)
}

/// Where a field's distinct numbers stand.
pub(super) fn numbers(field: u16) -> Prefix {
    prefix(field, TAG_LEVEL)
}

/// The text in a key of [`values`], or `None` if it is none.
pub(super) fn text_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(5..key.len().checked_sub(CHUNK_BYTES)?)?).ok()
}

/// The code in a key of [`numbers`], or `None` if it is none.
pub(super) fn code_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(3..11)?.try_into().ok()?))
}

/// A number as a `u64` in the same order.
pub(super) fn code(value: &Scalar) -> Option<u64> {
    const SIGN: u64 = 1 << 63;
    let signed = |number: i64| number.cast_unsigned() ^ SIGN;
    match value {
        Scalar::Integer(number) => Some(signed(*number)),
        Scalar::Datetime(moment) => Some(signed(moment.0)),
        Scalar::Float(number) => {
            // Two zeros are one.
            let bits = if *number == 0.0 { 0 } else { number.to_bits() };
            Some(if bits & SIGN == 0 { bits | SIGN } else { !bits })
        }
        Scalar::Keyword(_) | Scalar::Boolean(_) | Scalar::Text(_) => None,
    }
}

/// The integer or moment of a code.
pub(super) fn signed_of(code: u64) -> i64 {
    (code ^ 1 << 63).cast_signed()
}

/// The float of a code.
pub(super) fn float_of(code: u64) -> f64 {
    f64::from_bits(if code & 1 << 63 == 0 { !code } else { code ^ 1 << 63 })
}

/// Beginnings of numbers, (level, first, last), that together are exactly `lower..=upper`.
fn spans(lower: u64, upper: u64) -> Vec<(u8, u64, u64)> {
    const LOW: u64 = (1 << LEVEL_BITS) - 1;
    let (mut first, mut last) = (lower, upper);
    let mut spans = Vec::new();
    for at in 0..LEVELS {
        if first > last {
            break;
        }
        if at == LEVELS - 1 || first >> LEVEL_BITS == last >> LEVEL_BITS {
            spans.push((at, first, last));
            break;
        }
        // What does not fill its beginning is taken value by value; the rest is whole beginnings, one level up.
        let (mut up_first, mut up_last) = (first >> LEVEL_BITS, last >> LEVEL_BITS);
        if first & LOW != 0 {
            spans.push((at, first, first | LOW));
            up_first += 1;
        }
        if last & LOW != LOW {
            spans.push((at, last & !LOW, last));
            // Above `first`'s beginning, hence not the lowest.
            up_last -= 1;
        }
        (first, last) = (up_first, up_last);
    }
    spans
}

fn prefix(field: u16, tag: u8) -> Prefix {
    let [high, low] = field.to_be_bytes();
    vec![high, low, tag]
}

fn level(field: u16, at: u8, beginning: u64) -> Prefix {
    let mut key = prefix(field, TAG_LEVEL + at);
    key.extend(beginning.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::payload::Datetime;

    #[test]
    fn codes_are_in_the_order_of_their_numbers() {
        let floats = [f64::MIN, -1.5, -f64::MIN_POSITIVE, 0.0, f64::MIN_POSITIVE, 0.1, 1.5, f64::MAX];
        let codes: Vec<_> = floats.iter().filter_map(|number| code(&Scalar::Float(*number))).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:x?}");
        assert!(codes.iter().zip(floats).all(|(code, number)| float_of(*code).to_bits() == number.to_bits()));
        assert_eq!(code(&Scalar::Float(-0.0)), code(&Scalar::Float(0.0)));
        let integers = [i64::MIN, -1, 0, 1, i64::MAX];
        let codes: Vec<_> = integers.iter().filter_map(|number| code(&Scalar::Integer(*number))).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:x?}");
        assert!(codes.iter().zip(integers).all(|(code, number)| signed_of(*code) == number));
        assert_eq!(code(&Scalar::Datetime(Datetime(7))), code(&Scalar::Integer(7)));
    }

    #[test]
    fn spans_are_exactly_the_range_and_few() {
        let seed = 7;
        let mut rng = SmallRng::seed_from_u64(seed);
        let within = |spans: &[(u8, u64, u64)], code: u64| {
            spans.iter().filter(|(at, first, last)| (*first..=*last).contains(&(code >> (8 * u32::from(*at))))).count()
        };
        for case in 0..2_000 {
            let mut draw = || rng.random::<u64>() >> rng.random_range(0..64);
            let (a, b) = (draw(), draw());
            let (lower, upper) = match case {
                0 => (0, u64::MAX),
                1 => (u64::MAX, u64::MAX),
                2 => (0, 0),
                _ => (a.min(b), a.max(b)),
            };
            let spans = spans(lower, upper);
            let edges = [lower, upper, lower.wrapping_sub(1), upper.wrapping_add(1), 0, u64::MAX, lower | 255, draw()];
            for probe in edges {
                let expected = usize::from((lower..=upper).contains(&probe));
                assert_eq!(within(&spans, probe), expected, "seed {seed}: {probe:x} in {lower:x}..={upper:x}");
            }
            let beginnings: u64 = spans.iter().map(|(_, first, last)| last - first + 1).sum();
            assert!(beginnings <= 2 * 255 * 8, "{lower:x}..={upper:x}: {beginnings} beginnings");
        }
        assert_eq!(super::spans(5, 4), Vec::new());
    }
}

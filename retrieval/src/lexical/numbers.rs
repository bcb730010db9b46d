//! Which document is which, segment by segment.

use std::{collections::HashMap, sync::Arc};

use roaring::RoaringBitmap;
use tantivy::{Searcher, SegmentReader, index::SegmentId};

use super::layout::NUMBER;

/// Documents of a segment by their place in it, and back.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// Number of the document at each place.
    numbers: Vec<u32>,
    /// Places in order of their numbers; empty where that is the order they are in, which is the usual case.
    by_number: Vec<u32>,
}

impl Numbers {
    fn of(reader: &SegmentReader) -> tantivy::Result<Self> {
        let column = reader.fast_fields().u64(NUMBER)?;
        let numbers: Vec<u32> =
            (0..reader.max_doc()).map(|place| column.first(place).map_or(u32::MAX, |number| number as u32)).collect();
        let mut by_number = Vec::new();
        if !numbers.is_sorted() {
            by_number.extend(0..numbers.len() as u32);
            by_number.sort_unstable_by_key(|&place| numbers[place as usize]);
        }
        Ok(Self { numbers, by_number })
    }

    pub(crate) fn number(&self, place: u32) -> u32 {
        self.numbers[place as usize]
    }

    /// Places of those documents, ascending. A number that was given twice, while a log was replayed, has two places.
    pub(crate) fn places(&self, among: &RoaringBitmap) -> Vec<u32> {
        let mut places = Vec::new();
        let mut from = 0;
        for number in among {
            from += self.partition(from, number);
            while from < self.numbers.len() && self.nth(from) == number {
                places.push(if self.by_number.is_empty() { from as u32 } else { self.by_number[from] });
                from += 1;
            }
            if from == self.numbers.len() {
                break;
            }
        }
        if !self.by_number.is_empty() {
            places.sort_unstable();
        }
        places
    }

    fn nth(&self, n: usize) -> u32 {
        if self.by_number.is_empty() { self.numbers[n] } else { self.numbers[self.by_number[n] as usize] }
    }

    /// How many from `from` on have a smaller number, by galloping: numbers that are asked for lie near each other.
    fn partition(&self, from: usize, number: u32) -> usize {
        let rest = self.numbers.len() - from;
        let mut reach = 1;
        while reach < rest && self.nth(from + reach - 1) < number {
            reach *= 2;
        }
        let (mut low, mut high) = (reach / 2, reach.min(rest));
        while low < high {
            let middle = low.midpoint(high);
            if self.nth(from + middle) < number { low = middle + 1 } else { high = middle }
        }
        low
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.numbers.capacity() + self.by_number.capacity()) * size_of::<u32>()
    }
}

/// Of all segments of a searcher, in its order.
#[derive(Debug, Default)]
pub(crate) struct AllNumbers {
    by_segment: Vec<Arc<Numbers>>,
    known: HashMap<SegmentId, Arc<Numbers>>,
}

impl AllNumbers {
    /// Reads those of segments that are new; what is known of the others is shared.
    pub(crate) fn of(searcher: &Searcher, before: &Self) -> tantivy::Result<Self> {
        let mut all = Self::default();
        for reader in searcher.segment_readers() {
            let numbers = match before.known.get(&reader.segment_id()) {
                Some(numbers) => Arc::clone(numbers),
                None => Arc::new(Numbers::of(reader)?),
            };
            all.by_segment.push(Arc::clone(&numbers));
            all.known.insert(reader.segment_id(), numbers);
        }
        Ok(all)
    }

    /// The largest number there is.
    pub(crate) fn largest(&self) -> Option<u32> {
        self.by_segment.iter().filter_map(|numbers| numbers.numbers.iter().max()).max().copied()
    }

    pub(crate) fn segment(&self, ordinal: usize) -> &Numbers {
        &self.by_segment[ordinal]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.by_segment.iter().map(|numbers| numbers.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_whatever_the_order() {
        let ascending = Numbers { numbers: vec![2, 3, 5, 8, 13, 13, 40], by_number: Vec::new() };
        let shuffled = Numbers { numbers: vec![13, 2, 40, 3, 8, 5, 13], by_number: vec![1, 3, 5, 4, 0, 6, 2] };
        for (among, first, second) in [
            (&[][..], &[][..], &[][..]),
            (&[2, 40], &[0, 6], &[1, 2]),
            (&[1, 3, 4, 13, 99], &[1, 4, 5], &[0, 3, 6]),
            (&[0, 2, 3, 5, 8, 13, 40, 41], &[0, 1, 2, 3, 4, 5, 6], &[0, 1, 2, 3, 4, 5, 6]),
        ] {
            let among: RoaringBitmap = among.iter().copied().collect();
            assert_eq!(ascending.places(&among), first, "{among:?}");
            assert_eq!(shuffled.places(&among), second, "{among:?}");
        }
    }
}

//! Documents without a score.

use std::fmt;

use sluice_client::{DocumentSource, RerankResult};

/// How many there are, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unscored {
    pub missing: usize,
    pub stale: usize,
    /// A budget was spent before.
    pub budget: usize,
    /// For a reason that a later server has and we do not know.
    pub unknown: usize,
}

impl Unscored {
    pub(crate) fn among(results: &[RerankResult]) -> Self {
        let mut found = Self::default();
        for result in results.iter().filter(|result| result.unscored) {
            match result.source() {
                DocumentSource::NoneMissing => found.missing += 1,
                DocumentSource::NoneStale => found.stale += 1,
                DocumentSource::NoneBudget => found.budget += 1,
                _ => found.unknown += 1,
            }
        }
        found
    }

    pub(crate) fn total(self) -> usize {
        self.missing + self.stale + self.budget + self.unknown
    }
}

/// `2 not stored, 1 stored from another text`.
impl fmt::Display for Unscored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.missing, "not stored"),
            (self.stale, "stored from another text"),
            (self.budget, "beyond the budget"),
            (self.unknown, "for an unknown reason"),
        ];
        for (n, (count, reason)) in parts.into_iter().filter(|(count, _)| *count > 0).enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_by_reason() {
        let result = |unscored, source: DocumentSource| RerankResult {
            unscored,
            source: source.into(),
            ..RerankResult::default()
        };
        let results = [
            result(false, DocumentSource::Stored),
            result(true, DocumentSource::NoneMissing),
            result(true, DocumentSource::NoneStale),
            result(true, DocumentSource::NoneMissing),
            result(true, DocumentSource::NoneBudget),
            RerankResult { source: 99, ..result(true, DocumentSource::Text) },
        ];
        let found = Unscored::among(&results);
        assert_eq!(found, Unscored { missing: 2, stale: 1, budget: 1, unknown: 1 });
        assert_eq!(found.total(), 5);
        assert_eq!(
            found.to_string(),
            "2 not stored, 1 stored from another text, 1 beyond the budget, 1 for an unknown reason"
        );
        assert_eq!(Unscored::among(&results[..1]).total(), 0);
    }
}

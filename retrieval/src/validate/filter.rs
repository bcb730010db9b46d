//! Filters on the wire → filters.

use std::ops::Bound;

use sluice_proto::retrieval::v1 as wire;

use super::{Faults, at};
use crate::{
    filter::Filter,
    payload::{PayloadKind, Scalar, words},
    schema::Schema,
};

impl Faults {
    /// `None` and what is wrong with it.
    pub(super) fn filter(&mut self, path: &str, filter: wire::Filter, schema: &Schema) -> Option<Filter> {
        let before = self.0.len();
        let parsed = self.condition(path, filter, schema, 1)?;
        if self.0.len() > before {
            return None;
        }
        parsed.check(schema).map_err(|fault| self.add(path, fault.to_string())).ok()?;
        Some(parsed)
    }

    fn condition(&mut self, path: &str, filter: wire::Filter, schema: &Schema, depth: usize) -> Option<Filter> {
        use wire::filter::Condition;

        if depth > Filter::DEPTH_MAX {
            self.add(path, format!("is nested deeper than {}", Filter::DEPTH_MAX));
            return None;
        }
        match filter.condition {
            Some(Condition::AllOf(list)) => self.all(&at(path, "all_of"), list, schema, depth).map(Filter::And),
            Some(Condition::AnyOf(list)) => self.all(&at(path, "any_of"), list, schema, depth).map(Filter::Or),
            Some(Condition::Not(filter)) => {
                let filter = self.condition(&at(path, "not"), *filter, schema, depth + 1)?;
                Some(Filter::Not(Box::new(filter)))
            }
            Some(Condition::Match(condition)) => self.matching(&at(path, "match"), condition, schema),
            Some(Condition::Range(condition)) => self.range(&at(path, "range"), condition, schema),
            Some(Condition::Exists(condition)) => {
                self.filtered_kind(&at(path, "exists"), &condition.field, schema)?;
                Some(Filter::Exists { field: condition.field })
            }
            Some(Condition::Ids(condition)) => {
                self.count(at(path, "ids.ids"), condition.ids.len(), Filter::SIZE_MAX);
                Some(Filter::Ids(condition.ids))
            }
            None => {
                self.add(path, "must have a condition");
                None
            }
        }
    }

    fn all(&mut self, path: &str, list: wire::FilterList, schema: &Schema, depth: usize) -> Option<Vec<Filter>> {
        let filters = list.filters.into_iter().enumerate();
        let parsed: Vec<_> = filters
            .map(|(index, filter)| self.condition(&format!("{path}.filters[{index}]"), filter, schema, depth + 1))
            .collect();
        parsed.into_iter().collect()
    }

    fn matching(&mut self, path: &str, condition: wire::MatchCondition, schema: &Schema) -> Option<Filter> {
        let wire::MatchCondition { field, values } = condition;
        let kind = self.filtered_kind(path, &field, schema)?;
        self.count(at(path, "values"), values.len(), Filter::SIZE_MAX);
        let scalars: Vec<_> = values
            .into_iter()
            .enumerate()
            .map(|(index, value)| self.scalar(&format!("{path}.values[{index}]"), value, Some(kind)))
            .collect();
        let scalars: Vec<Scalar> = scalars.into_iter().collect::<Option<_>>()?;
        if kind != PayloadKind::Text {
            return Some(Filter::MatchAny { field, values: scalars });
        }
        let mut texts = Vec::with_capacity(scalars.len());
        for (index, scalar) in scalars.into_iter().enumerate() {
            let Scalar::Text(text) = scalar else { return None };
            if words(&text).next().is_none() {
                self.add(format!("{path}.values[{index}]"), "has no words");
            }
            texts.push(Filter::Words { field: field.clone(), text });
        }
        Some(Filter::Or(texts))
    }

    fn range(&mut self, path: &str, condition: wire::RangeCondition, schema: &Schema) -> Option<Filter> {
        let wire::RangeCondition { field, gt, gte, lt, lte } = condition;
        let kind = self.filtered_kind(path, &field, schema)?;
        if !kind.is_ordered() {
            self.add(at(path, "field"), format!("{field} is a {}, which has no ranges", kind.name()));
            return None;
        }
        if [&gt, &gte, &lt, &lte].iter().all(|bound| bound.is_none()) {
            self.add(path, "must have a bound");
        }
        let lower = self.bound(path, kind, ("gt", gt), ("gte", gte))?;
        let upper = self.bound(path, kind, ("lt", lt), ("lte", lte))?;
        Some(Filter::Range { field, lower, upper })
    }

    fn bound(
        &mut self,
        path: &str,
        kind: PayloadKind,
        (exclusive, excluded): (&str, Option<wire::PayloadValue>),
        (inclusive, included): (&str, Option<wire::PayloadValue>),
    ) -> Option<Bound<Scalar>> {
        match (excluded, included) {
            (None, None) => Some(Bound::Unbounded),
            (Some(value), None) => self.scalar(&at(path, exclusive), value, Some(kind)).map(Bound::Excluded),
            (None, Some(value)) => self.scalar(&at(path, inclusive), value, Some(kind)).map(Bound::Included),
            (Some(_), Some(_)) => {
                self.add(at(path, inclusive), format!("must not be set together with {exclusive}"));
                None
            }
        }
    }

    /// What a field that is filtered on holds.
    fn filtered_kind(&mut self, path: &str, field: &str, schema: &Schema) -> Option<PayloadKind> {
        let kind = schema.payload_field(field).map(|field| field.kind);
        if kind.is_none() {
            self.add(at(path, "field"), format!("{field:?} is no payload field of the schema"));
        }
        kind
    }
}

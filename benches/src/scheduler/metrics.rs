//! A page of Prometheus' text format, as far as sums need it.

/// The samples of a page: name with labels, value.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// Lines that are no samples, such as an answer's headers and comments, mean nothing.
    pub(super) fn parse(page: &str) -> Self {
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            let known = !line.starts_with('#') && name.starts_with("sluice_");
            known.then(|| Some((name.to_owned(), value.parse().ok()?)))?
        };
        Self(page.lines().filter_map(sample).collect())
    }

    /// The sum of a name's samples whose labels contain `label`, such as `event="cancelled"`; an empty one is in all.
    pub(super) fn sum(&self, name: &str, label: &str) -> f64 {
        self.of(name, label).sum()
    }

    /// The largest of them; `None` of none.
    pub(super) fn largest(&self, name: &str, label: &str) -> Option<f64> {
        self.of(name, label).max_by(f64::total_cmp)
    }

    /// The least bound of a histogram's buckets that holds so large a part of its samples, and their number; `None` of
    /// none, and where the last bucket alone does.
    pub(super) fn quantile(&self, name: &str, part: f64) -> Option<(f64, f64)> {
        let bucket = format!("{name}_bucket{{");
        let bound = |name: &str| name.split("le=\"").nth(1)?.split('"').next()?.parse::<f64>().ok();
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (name, count) in self.0.iter().filter(|(name, _)| name.starts_with(&bucket)) {
            let Some(bound) = bound(name) else { continue };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, *count)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let (bound, _) = buckets.into_iter().find(|(_, count)| *count >= part * all)?;
        bound.is_finite().then_some((bound, all))
    }

    fn of<'a>(&'a self, name: &'a str, label: &'a str) -> impl Iterator<Item = f64> + 'a {
        let named = move |sample: &&(String, f64)| {
            let rest = sample.0.strip_prefix(name);
            rest.is_some_and(|labels| (labels.is_empty() || labels.starts_with('{')) && labels.contains(label))
        };
        self.0.iter().filter(named).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_bucket_of_all_labels() {
        let page = "sluice_t_bucket{rpc=\"a\",le=\"0.1\"} 5\nsluice_t_bucket{rpc=\"a\",le=\"0.5\"} 9\n\
                    sluice_t_bucket{rpc=\"a\",le=\"+Inf\"} 10\nsluice_t_bucket{rpc=\"b\",le=\"0.1\"} 10\n\
                    sluice_t_bucket{rpc=\"b\",le=\"0.5\"} 10\nsluice_t_bucket{rpc=\"b\",le=\"+Inf\"} 10\n";
        let metrics = Metrics::parse(page);
        for (part, expected) in [(0.5, Some(0.1)), (0.75, Some(0.1)), (0.95, Some(0.5)), (0.99, None)] {
            assert_eq!(metrics.quantile("sluice_t", part).map(|(bound, _)| bound), expected, "{part}");
        }
        assert_eq!(metrics.quantile("sluice_none", 0.5), None);
    }

    #[test]
    fn samples_are_found_by_name_and_label() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# TYPE sluice_units_total counter\nsluice_units_total{event=\"a\"} 3\n\
                    sluice_units_total{event=\"b\"} 4\nsluice_units 9\nother 1\n";
        let metrics = Metrics::parse(page);
        let cases = [
            ("sluice_units_total", "", 7.0),
            ("sluice_units_total", "event=\"b\"", 4.0),
            ("sluice_units", "", 9.0),
            ("sluice_unit", "", 0.0),
            ("other", "", 0.0),
        ];
        for (name, label, expected) in cases {
            assert_eq!(metrics.sum(name, label), expected, "{name} {label}");
        }
        assert_eq!(metrics.largest("sluice_units_total", ""), Some(4.0));
        assert_eq!(metrics.largest("sluice_none", ""), None);
    }
}

//! A strict reader of Prometheus' text format 0.0.4, and of our rules for names.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Labels in the order of their names.
pub type Labels = BTreeMap<String, String>;

/// Everything that a process has to say.
#[derive(Debug, Default, PartialEq)]
pub struct Metrics {
    pub families: BTreeMap<String, Family>,
}

/// The samples of one name.
#[derive(Debug, Default, PartialEq)]
pub struct Family {
    pub help: String,
    pub kind: String,
    /// Full name (with a histogram's suffix), labels, value; in the order of both.
    pub samples: Vec<(String, Labels, f64)>,
}

impl Metrics {
    /// Reads a whole page. Every name has one HELP, one TYPE and then its samples, and nothing else is there.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        let mut metrics = Self::default();
        let mut current = None;
        for line in text.lines().filter(|line| !line.is_empty()) {
            metrics.line(line, &mut current).map_err(|fault| format!("{line:?}: {fault}"))?;
        }
        for (name, family) in &mut metrics.families {
            family.check(name).map_err(|fault| format!("{name}: {fault}"))?;
            // The order of series means nothing, and differs from page to page.
            family.samples.sort_by(|(name, labels, _), (other, others, _)| (name, labels).cmp(&(other, others)));
        }
        Ok(metrics)
    }

    fn line(&mut self, line: &str, current: &mut Option<String>) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
            let family = Family { help: help.to_owned(), ..Family::default() };
            if self.families.insert(name.to_owned(), family).is_some() {
                return Err("a second HELP".to_owned());
            }
            *current = Some(name.to_owned());
            return Ok(());
        }
        let name = current.as_deref().ok_or("no HELP before it")?;
        let family = self.families.get_mut(name).ok_or("no HELP before it")?;
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (typed, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            if typed != name || !family.kind.is_empty() {
                return Err(format!("TYPE is not the one of {name}"));
            }
            family.kind = kind.to_owned();
            return Ok(());
        }
        if family.kind.is_empty() {
            return Err("no TYPE before it".to_owned());
        }
        family.samples.push(sample(line)?);
        Ok(())
    }

    /// The sum of a name's samples that carry all of these labels; 0 if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |found: &Labels| labels.iter().all(|(key, value)| found.get(*key).is_some_and(|it| it == value));
        let family = name.strip_suffix("_count").filter(|base| self.families.contains_key(*base)).unwrap_or(name);
        let samples = self.families.get(family).into_iter().flat_map(|family| &family.samples);
        samples.filter(|(full, found, _)| full == name && carries(found)).map(|(_, _, value)| value).sum()
    }

    /// The same for what counts things.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels) as u64
    }

    /// What does not fit a process with nothing in flight: every gauge of work is at zero, and what came in has left.
    pub fn faults_at_rest(&self) -> Vec<String> {
        const AT_ZERO: [&str; 7] = [
            "sluice_requests_in_flight",
            "sluice_admitted_documents",
            "sluice_admitted_tokens",
            "sluice_admitted_bytes",
            "sluice_queue_units",
            "sluice_queue_tokens",
            "sluice_batches_in_flight",
        ];
        let of = |event: &str| self.count("sluice_units_total", &[("event", event)]);
        let pairs = [
            (
                "admitted = Σ finished",
                self.count("sluice_admitted_total", &[]),
                self.count("sluice_finished_total", &[]),
            ),
            (
                "enqueued = Σ dispatched, cancelled, expired",
                of("enqueued"),
                of("dispatched") + of("cancelled") + of("expired"),
            ),
        ];
        let gauges = self.families.iter().filter(|(name, _)| AT_ZERO.contains(&name.as_str()));
        let samples = gauges.flat_map(|(_, family)| &family.samples).filter(|(_, _, value)| *value != 0.0);
        let unequal = pairs.into_iter().filter(|(_, left, right)| left != right);
        samples
            .map(|(name, labels, value)| format!("{name}{labels:?} is {value}"))
            .chain(unequal.map(|(sum, left, right)| format!("{sum}: {left} and {right}")))
            .collect()
    }

    /// The values of a label among a name's samples.
    pub fn values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let samples = self.families.get(name).into_iter().flat_map(|family| &family.samples);
        samples.filter_map(|(_, labels, _)| labels.get(label).map(String::as_str)).collect()
    }
}

impl Family {
    fn check(&self, name: &str) -> Result<(), String> {
        if !name.starts_with("sluice_") || !is_name(name) {
            return Err("not a name of ours".to_owned());
        }
        if self.help.trim().is_empty() {
            return Err("HELP is empty".to_owned());
        }
        if self.samples.is_empty() {
            return Err("no samples".to_owned());
        }
        if name.ends_with("_total") != (self.kind == "counter") {
            return Err(format!("a {} of that name", self.kind));
        }
        let mut seen = BTreeSet::new();
        if let Some((full, labels, _)) = self.samples.iter().find(|(full, labels, _)| !seen.insert((full, labels))) {
            return Err(format!("{full}{labels:?} twice"));
        }
        match self.kind.as_str() {
            "counter" => self.plain(name, |value| value >= 0.0 && value.fract() == 0.0),
            "gauge" => self.plain(name, f64::is_finite),
            "histogram" => self.histogram(name),
            other => Err(format!("the type {other}")),
        }
    }

    fn plain(&self, name: &str, allowed: impl Fn(f64) -> bool) -> Result<(), String> {
        match self.samples.iter().find(|(full, _, value)| full != name || !allowed(*value)) {
            Some(sample) => Err(format!("the sample {sample:?}")),
            None => Ok(()),
        }
    }

    /// Each series has ascending buckets up to +Inf, counts that do not fall, a sum and that count.
    fn histogram(&self, name: &str) -> Result<(), String> {
        let mut series: BTreeMap<Labels, (Vec<(f64, f64)>, Option<f64>, Option<f64>)> = BTreeMap::new();
        for (full, labels, value) in &self.samples {
            let mut labels = labels.clone();
            let le = labels.remove("le");
            let entry = series.entry(labels).or_default();
            match (full.strip_prefix(name), le) {
                (Some("_bucket"), Some(le)) => entry.0.push((number(&le)?, *value)),
                (Some("_sum"), None) => entry.1 = Some(*value),
                (Some("_count"), None) => entry.2 = Some(*value),
                _ => return Err(format!("the sample {full}")),
            }
        }
        for (labels, (buckets, sum, count)) in series {
            let ascending = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
            let last = buckets.last().copied().unwrap_or_default();
            if !ascending || last.0 != f64::INFINITY || Some(last.1) != count || buckets.len() < 2 {
                return Err(format!("buckets {buckets:?} of {labels:?}, count {count:?}"));
            }
            if sum.is_none_or(|sum| !sum.is_finite() || (count == Some(0.0) && sum != 0.0)) {
                return Err(format!("sum {sum:?} of {labels:?}"));
            }
        }
        Ok(())
    }
}

/// `name{label="value",…} value`
fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let end = line.find(|c: char| !is_name_letter(c)).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err(format!("{name:?} is no name"));
    }
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without value")?;
            let (value, after) = quoted(after)?;
            if !is_name(label) || label.contains(':') || labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("the label {label:?}"));
            }
            match (after.strip_prefix(','), after.strip_prefix('}')) {
                (Some(more), _) => rest = more,
                (_, Some(end)) => {
                    rest = end;
                    break;
                }
                _ => return Err("labels that do not end".to_owned()),
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok((name.to_owned(), labels, number(value)?))
}

/// A label's value up to its closing quote, unescaped, and what comes after.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                other => return Err(format!("the escape {other:?}")),
            },
            letter => value.push(letter),
        }
    }
    Err("a value that does not end".to_owned())
}

fn number(text: &str) -> Result<f64, String> {
    let value = match text {
        "+Inf" => Ok(f64::INFINITY),
        text => text.parse().map_err(|_| format!("{text:?} is no number")),
    }?;
    if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) { Ok(value) } else { Err(text.to_owned()) }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| is_name_letter(c) && !c.is_ascii_digit()) && text.chars().all(is_name_letter)
}

fn is_name_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':')
}

/// `GET /metrics`.
///
/// # Errors
/// If nobody answers, or not with 200 and the text format.
pub fn scrape(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let head = head.to_lowercase();
    if head.starts_with("http/1.1 200 ") && head.contains("content-type: text/plain; version=0.0.4") {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other(head))
    }
}

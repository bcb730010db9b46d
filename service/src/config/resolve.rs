//! From merged layers to a value, finding every fault on the way.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::{
    ConfigFault,
    path::{KeyPath, Step},
    tree::Tree,
};

/// What came of a configuration.
pub(super) struct Resolved<C> {
    /// The value, without what did not load; `None` if the rest does not make one.
    pub(super) value: Option<C>,
    /// What did not load.
    pub(super) faults: Vec<ConfigFault>,
    /// Keys that are not in `value` although they were set.
    pub(super) set_aside: Vec<String>,
}

/// Loads what can be loaded of `tree`.
///
/// Each attempt stops at its first fault. That value is then removed and another attempt made, until one
/// succeeds or the root itself is at fault: as many attempts as faults, which are few. `report_missing`
/// is off when a whole layer could not be read, so that nobody knows what is missing.
pub(super) fn resolve<C: Serialize + DeserializeOwned>(tree: &mut Tree, report_missing: bool) -> Resolved<C> {
    let mut resolution = Resolution { report_missing, ..Resolution::default() };
    let value = loop {
        match resolution.attempt(tree) {
            Ok(value) => break Some(value),
            Err(Verdict::Retry) => {}
            Err(Verdict::GiveUp) => break None,
        }
    };
    resolution.report_unknown(tree, value.as_ref());
    let set_aside = resolution.removed.iter().map(KeyPath::to_string).collect();
    Resolved { value, faults: resolution.faults, set_aside }
}

/// How to go on after an attempt failed.
enum Verdict {
    Retry,
    GiveUp,
}

#[derive(Default)]
struct Resolution {
    report_missing: bool,
    faults: Vec<ConfigFault>,
    /// What was set aside.
    removed: BTreeSet<KeyPath>,
    /// What no field took, in any attempt: a later one may not get that far.
    unknown: BTreeSet<KeyPath>,
    /// What was said of a value before its other reading was tried.
    first_words: BTreeMap<KeyPath, ConfigFault>,
}

impl Resolution {
    fn attempt<C: DeserializeOwned>(&mut self, tree: &mut Tree) -> Result<C, Verdict> {
        let mut ignored = Vec::new();
        let mut ignore = |path: serde_ignored::Path<'_>| ignored.push(KeyPath::from(&path));
        let values = Value::Table(tree.without(&self.removed));
        let outcome = serde_path_to_error::deserialize(serde_ignored::Deserializer::new(values, &mut ignore));
        self.unknown.extend(ignored.iter().map(|path| tree.locate(path, &self.removed)));
        outcome.map_err(|error| {
            let at = tree.locate(&KeyPath::from(error.path()), &self.removed);
            self.judge(tree, at, error.inner().message())
        })
    }

    /// Decides what to do about the value at `at`, of which serde says `message`.
    fn judge(&mut self, tree: &mut Tree, at: KeyPath, message: &str) -> Verdict {
        let missing = missing_field(message).map(|field| at.key(field));
        let key = missing.as_ref().unwrap_or(&at);
        let message = if missing.is_some() { "missing, and there is no default" } else { message };
        let fault = ConfigFault { key: key.to_string(), source: tree.source(&at), message: message.into() };

        if let Some(spelled) = tree.take_spelling(&at) {
            self.first_words.insert(spelled, fault);
            return Verdict::Retry;
        }
        // What was said of a value read as TOML fits it better than what is said of it read as text.
        let before = self.first_words.keys().find(|spelled| at.is_within(spelled)).cloned();
        let (at, fault) = match before {
            Some(spelled) => {
                let fault = self.first_words.remove(&spelled).unwrap_or(fault);
                (spelled, fault)
            }
            None => (at, fault),
        };
        // What is missing because it was set aside has been reported as what it was.
        let expected = missing.is_some_and(|key| !self.report_missing || self.removed.contains(&key));
        if !expected {
            self.faults.push(fault);
        }
        if at.is_root() || !self.removed.insert(at) { Verdict::GiveUp } else { Verdict::Retry }
    }

    fn report_unknown<C: Serialize>(&mut self, tree: &Tree, value: Option<&C>) {
        let known = value.and_then(|value| Table::try_from(value).ok());
        // A value that was read in two ways may have been unknown inside in one of them.
        for path in self.unknown.iter().filter(|path| tree.contains(path)) {
            let siblings = known.as_ref().and_then(|known| keys_at(known, &path.parent()));
            let message = match siblings {
                Some(keys) if !keys.is_empty() => format!("unknown key, expected one of: {}", keys.join(", ")),
                _ => "unknown key".into(),
            };
            self.faults.push(ConfigFault { key: path.to_string(), source: tree.source(path), message });
        }
    }
}

/// The name of the field, if that is what serde says.
fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// The keys of the table at `path`, where that is a table.
fn keys_at<'a>(root: &'a Table, path: &KeyPath) -> Option<Vec<&'a str>> {
    let table = path.steps().iter().try_fold(root, |table, step| match step {
        Step::Key(key) => table.get(key)?.as_table(),
        Step::Index(_) => None,
    })?;
    Some(table.keys().map(String::as_str).collect())
}

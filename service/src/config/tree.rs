//! The merged layers, each value with who set it.

use std::collections::{BTreeMap, BTreeSet};

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    ConfigFault, ConfigFile, Source,
    fault::is_within,
    path::{KeyPath, Step},
};

/// Merged layers.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Table,
    /// Who set what: every value of the file, with its line, and the topmost value of every other setting.
    sources: BTreeMap<KeyPath, Source>,
    /// Environment values whose text was read as TOML, with the text itself: see
    /// [`take_spelling`](Self::take_spelling).
    spellings: BTreeMap<KeyPath, String>,
}

impl Tree {
    /// Reads the file. One that is not TOML counts as empty, and makes a fault of each of its errors; the
    /// second value is then false.
    pub(super) fn from_file(file: &ConfigFile, faults: &mut Vec<ConfigFault>) -> (Self, bool) {
        let (spanned, mut errors) = DeTable::parse_recoverable(&file.text);
        let root = if errors.is_empty() {
            // The spans are not needed in the values, and a number may still be out of range.
            toml::from_str::<Table>(&file.text).map_err(|error| errors.push(error)).ok()
        } else {
            None
        };
        let source = |offset: usize| {
            let line = 1 + file.text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
            Source::File { path: file.path.clone(), line }
        };
        faults.extend(errors.iter().map(|error| ConfigFault {
            key: "(file)".into(),
            source: source(error.span().map_or(0, |span| span.start)),
            message: format!("not TOML: {}", error.message()),
        }));
        let Some(root) = root else { return (Self::default(), false) };

        let mut sources = BTreeMap::new();
        record_lines(&KeyPath::default(), spanned.get_ref(), &source, &mut sources);
        (Self { root, sources, spellings: BTreeMap::new() }, true)
    }

    /// Sets every value of `table`, leaving the rest.
    pub(super) fn overlay_table(&mut self, table: &Table, source: &Source, faults: &mut Vec<ConfigFault>) {
        for (key, value) in table {
            self.overlay(&KeyPath::default().key(key), value, source, faults);
        }
    }

    /// Sets one value. A table is merged into a table; anything else replaces what was there.
    pub(super) fn overlay(&mut self, path: &KeyPath, value: &Value, source: &Source, faults: &mut Vec<ConfigFault>) {
        if let Value::Table(table) = value {
            for (key, value) in table {
                self.overlay(&path.key(key), value, source, faults);
            }
            // An empty table says something only where there was none.
            if !table.is_empty() || get(&self.root, path).is_some_and(Value::is_table) {
                return;
            }
        }
        self.make_tables(&path.parent(), path, faults);
        self.forget(path);
        if let Some(Step::Key(key)) = path.steps().last() {
            table_at(&mut self.root, &path.parent()).insert(key.clone(), value.clone());
            self.sources.insert(path.clone(), source.clone());
        }
    }

    /// Sets one value whose `text` may also be meant literally.
    pub(super) fn overlay_spelled(
        &mut self,
        path: &KeyPath,
        (value, text): (&Value, &str),
        source: &Source,
        faults: &mut Vec<ConfigFault>,
    ) {
        self.overlay(path, value, source, faults);
        // A table was merged, key by key: no text could stand for it.
        if !value.is_table() {
            self.spellings.insert(path.clone(), text.to_owned());
        }
    }

    /// If what is at `path`, or what it is inside of, was read from text as TOML: puts the text itself in
    /// its place, once, and returns where.
    pub(super) fn take_spelling(&mut self, path: &KeyPath) -> Option<KeyPath> {
        let at = self.spellings.keys().find(|spelled| path.is_within(spelled))?.clone();
        let text = self.spellings.remove(&at)?;
        let Step::Key(key) = at.steps().last()? else { return None };
        table_at(&mut self.root, &at.parent()).insert(key.clone(), Value::String(text));
        Some(at)
    }

    /// The merged values, but for those at `removed`.
    pub(super) fn without(&self, removed: &BTreeSet<KeyPath>) -> Table {
        prune_table(&KeyPath::default(), &self.root, removed)
    }

    /// Where in this tree something is that was at `path` of the tree [`without`](Self::without) `removed`:
    /// what is gone from an array moved the rest of it. Ends where the tree does.
    pub(super) fn locate(&self, path: &KeyPath, removed: &BTreeSet<KeyPath>) -> KeyPath {
        let mut at = KeyPath::default();
        for step in path.steps() {
            let next = match step {
                Step::Key(_) => at.step(step.clone()),
                Step::Index(index) => {
                    let mut kept = (0..).filter(|&original| !removed.contains(&at.index(original)));
                    kept.nth(*index).map_or_else(|| at.clone(), |original| at.index(original))
                }
            };
            if get(&self.root, &next).is_none() {
                break;
            }
            at = next;
        }
        at
    }

    /// Whether something is there.
    pub(super) fn contains(&self, path: &KeyPath) -> bool {
        get(&self.root, path).is_some()
    }

    /// Who set what is at `path`: the closest setting around it, else any inside it.
    pub(super) fn source(&self, path: &KeyPath) -> Source {
        let around =
            self.sources.iter().filter(|(set, _)| path.is_within(set)).max_by_key(|(set, _)| set.steps().len());
        let inside = || self.sources.iter().find(|(set, _)| !path.is_root() && set.is_within(path));
        around.or_else(inside).map(|(_, source)| source.clone()).unwrap_or_default()
    }

    /// [`source`](Self::source) by a path as it is displayed.
    pub(super) fn source_of_key(&self, key: &str) -> Source {
        let named = |set: &KeyPath| set.to_string();
        let around = self.sources.iter().filter(|(set, _)| is_within(key, &named(set)));
        let inside = || self.sources.iter().find(|(set, _)| is_within(&named(set), key));
        let closest = around.max_by_key(|(set, _)| set.steps().len());
        closest.or_else(inside).map(|(_, source)| source.clone()).unwrap_or_default()
    }

    /// Makes a table of everything on the way to `path`, which is about to be set inside. What another
    /// layer has there instead is at fault.
    fn make_tables(&mut self, path: &KeyPath, target: &KeyPath, faults: &mut Vec<ConfigFault>) {
        let mut at = KeyPath::default();
        for step in path.steps() {
            at = at.step(step.clone());
            if get(&self.root, &at).is_some_and(|value| !value.is_table()) {
                let message = format!("expected a table, because `{target}` is set as well");
                faults.push(ConfigFault { key: at.to_string(), source: self.source(&at), message });
                self.forget(&at);
                if let Step::Key(key) = step {
                    table_at(&mut self.root, &at.parent()).insert(key.clone(), Value::Table(Table::new()));
                }
            }
        }
    }

    /// Drops what is known of a value that is about to be replaced.
    fn forget(&mut self, path: &KeyPath) {
        self.sources.retain(|set, _| !set.is_within(path));
        self.spellings.retain(|set, _| !set.is_within(path));
    }
}

/// The value at `path`, if there is one. The root itself is none.
fn get<'a>(root: &'a Table, path: &KeyPath) -> Option<&'a Value> {
    let (first, rest) = path.steps().split_first()?;
    let Step::Key(key) = first else { return None };
    rest.iter().try_fold(root.get(key)?, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(*index),
    })
}

/// The table at `path`, made where it is missing.
fn table_at<'a>(root: &'a mut Table, path: &KeyPath) -> &'a mut Table {
    path.steps().iter().fold(root, |table, step| {
        let Step::Key(key) = step else { return table };
        let entry = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
        if !entry.is_table() {
            *entry = Value::Table(Table::new());
        }
        entry.as_table_mut().expect("it was made a table just now")
    })
}

fn prune_table(path: &KeyPath, table: &Table, removed: &BTreeSet<KeyPath>) -> Table {
    let kept = table.iter().map(|(key, value)| (key, path.key(key), value));
    kept.filter(|(_, at, _)| !removed.contains(at))
        .map(|(key, at, value)| (key.clone(), prune(&at, value, removed)))
        .collect()
}

fn prune(path: &KeyPath, value: &Value, removed: &BTreeSet<KeyPath>) -> Value {
    match value {
        Value::Table(table) => Value::Table(prune_table(path, table, removed)),
        Value::Array(array) => {
            let kept = array.iter().enumerate().map(|(index, value)| (path.index(index), value));
            Value::Array(
                kept.filter(|(at, _)| !removed.contains(at)).map(|(at, value)| prune(&at, value, removed)).collect(),
            )
        }
        other => other.clone(),
    }
}

/// Notes the line of every value of the file.
fn record_lines(
    path: &KeyPath,
    table: &DeTable<'_>,
    source: &impl Fn(usize) -> Source,
    sources: &mut BTreeMap<KeyPath, Source>,
) {
    for (key, value) in table {
        let at = path.key(key.get_ref().as_ref());
        sources.insert(at.clone(), source(key.span().start));
        record_value(&at, value.get_ref(), source, sources);
    }
}

fn record_value(
    path: &KeyPath,
    value: &DeValue<'_>,
    source: &impl Fn(usize) -> Source,
    sources: &mut BTreeMap<KeyPath, Source>,
) {
    match value {
        DeValue::Table(table) => record_lines(path, table, source, sources),
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                let at = path.index(index);
                sources.insert(at.clone(), source(value.span().start));
                record_value(&at, value.get_ref(), source, sources);
            }
        }
        _ => {}
    }
}

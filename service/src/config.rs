//! Configuration: a TOML file, overruled by the environment, overruled by flags.
//!
//! The layers are merged once, at start, and every fault is reported together, with the place it came
//! from: whoever fixes a configuration should need one attempt, not one per mistake. To that end a value
//! that does not load is set aside and loading goes on without it, until what is left loads.
//!
//! A configuration type derives `Serialize` and `Deserialize`, with `#[serde(default)]` where a default
//! exists. It needs no `deny_unknown_fields`: an unknown key is a fault already, and this way all of them
//! are found. `flatten` and `untagged` hide from serde which key is at fault, so they are best avoided.

pub mod bytes;
pub mod duration;
mod environment;
mod fault;
mod path;
mod resolve;
mod secret;
mod tree;

use std::path::PathBuf;

use serde::{Serialize, de::DeserializeOwned};

pub use environment::own_variables;
use fault::is_within;
pub use fault::{ConfigFault, ConfigFaults, Source};
pub use secret::Secret;
use tree::Tree;

/// Where configuration comes from, weakest first.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The configuration file, if one was named.
    pub file: Option<ConfigFile>,
    /// The process's environment. `SLUICE_SERVER__LISTEN` sets `server.listen`: `__` separates levels and
    /// names are lower-cased. A variable with the prefix that matches no key is a fault; one without it is
    /// ignored, and so is what Kubernetes injects for a Service whose name starts with `sluice`.
    pub environment: Vec<(String, String)>,
    /// What the command line says, as the table that a file would have said it with.
    pub flags: toml::Table,
}

/// A configuration file, as read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Named in faults; not opened.
    pub path: PathBuf,
    /// Its text, which should be TOML.
    pub text: String,
}

/// Loads a configuration from its layers.
///
/// # Errors
///
/// Every fault there is: bad TOML, unknown keys, wrong types, missing values.
pub fn load<C: Serialize + DeserializeOwned>(layers: &Layers) -> Result<C, ConfigFaults> {
    load_and_check(layers, |_| Vec::new())
}

/// Loads a configuration, and reports what `check` finds in it together with what does not load.
///
/// Where something does not load, `check` sees the default in its place, and what it says about that key
/// is dropped. It is not called if no value can be had at all, or if the file is not TOML: it would
/// complain of values that the file does give.
///
/// # Errors
///
/// Every fault there is, by key.
pub fn load_and_check<C: Serialize + DeserializeOwned>(
    layers: &Layers,
    check: impl FnOnce(&C) -> Vec<ConfigFault>,
) -> Result<C, ConfigFaults> {
    let mut faults = Vec::new();
    let (mut tree, file_is_whole) = match &layers.file {
        Some(file) => Tree::from_file(file, &mut faults),
        None => (Tree::default(), true),
    };
    environment::overlay(&mut tree, &layers.environment, &mut faults);
    tree.overlay_table(&layers.flags, &Source::Flag, &mut faults);

    let resolved = resolve::resolve::<C>(&mut tree, file_is_whole);
    faults.extend(resolved.faults);
    if let Some(value) = resolved.value.as_ref().filter(|_| file_is_whole) {
        let mut found = check(value);
        found.retain(|fault| !resolved.set_aside.iter().any(|key| touches(key, &fault.key)));
        for fault in &mut found {
            fault.source = tree.source_of_key(&fault.key);
        }
        faults.extend(found);
    }
    match resolved.value {
        Some(value) if faults.is_empty() => Ok(value),
        _ => {
            faults.sort_by(|a, b| a.key.cmp(&b.key));
            Err(ConfigFaults(faults))
        }
    }
}

/// Whether one of two keys is, or contains, the other.
fn touches(a: &str, b: &str) -> bool {
    is_within(a, b) || is_within(b, a)
}

/// The whole configuration as TOML, for `--print-config`. Loading it gives the same value again.
///
/// # Panics
///
/// If `config` is of a type that TOML cannot hold, such as a map with keys that are not strings: a fault
/// of the type, whatever its value.
pub fn render<C: Serialize>(config: &C) -> String {
    toml::to_string_pretty(config).expect("what is loaded from TOML can be written as TOML")
}

#[cfg(test)]
mod tests;

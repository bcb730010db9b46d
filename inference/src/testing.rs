//! For tests of this workspace that need the real default model.

#![allow(clippy::disallowed_methods, reason = "tests are their own rim")]

use std::{
    env,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use crate::{
    resolve::{HubSettings, ModelFolder, Resolver, SilentProgress},
    source::Source,
};

/// Set to anything, it turns the absence of the default model from a skip into a failure.
pub const REQUIRE_MODEL: &str = "SLUICE_REQUIRE_MODEL";

/// The default model, from a cache that all tests of a user share; fetched the first time. `None`, with a
/// line on standard error, where no source has it: the test is then to be skipped.
///
/// # Panics
/// Instead of `None` if `SLUICE_REQUIRE_MODEL` is set.
#[must_use]
pub fn default_model() -> Option<ModelFolder> {
    static MODEL: OnceLock<Option<ModelFolder>> = OnceLock::new();
    MODEL.get_or_init(resolve).clone()
}

// A test's skips and failures are for whoever runs it.
#[expect(clippy::panic, clippy::print_stderr)]
fn resolve() -> Option<ModelFolder> {
    let hub = HubSettings::from_variables(|name| env::var(name).ok());
    match Resolver::new(cache(), Arc::new(SilentProgress)).with_hub(hub).resolve(&Source::Default) {
        Ok(folder) => Some(folder),
        Err(error) if env::var_os(REQUIRE_MODEL).is_some() => panic!("{REQUIRE_MODEL} is set, and {error}"),
        Err(error) => {
            eprintln!("skipped, for want of the default model: {error}");
            None
        }
    }
}

/// `sluice/models` in the user's cache folder: outside the workspace, so that a fresh clone finds it.
fn cache() -> PathBuf {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    user.unwrap_or_else(env::temp_dir).join(Path::new("sluice/models"))
}

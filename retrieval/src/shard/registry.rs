//! Which collections and aliases there are, in an environment of its own.

use std::{collections::BTreeMap, path::Path};

use crate::truth::{NameTable, NameTables, StorageError};

/// Bytes that names may take: some thousands of them, with room to spare.
const MAP_BYTES: u64 = 16 << 20;
/// The number that the next collection's folder will have.
const NEXT: &str = "next";

/// Names, durable when a call returns.
#[derive(Debug)]
pub(super) struct Registry {
    tables: NameTables,
}

impl Registry {
    pub(super) fn open(folder: &Path) -> Result<Self, StorageError> {
        Ok(Self { tables: NameTables::open(folder, MAP_BYTES)? })
    }

    /// Folder numbers by name.
    pub(super) fn collections(&self) -> Result<BTreeMap<String, u64>, StorageError> {
        let rows = self.tables.rows(NameTable::Collections)?;
        rows.into_iter().map(|(name, number)| Ok((name, parse(&number)?))).collect()
    }

    /// Collections by alias.
    pub(super) fn aliases(&self) -> Result<BTreeMap<String, String>, StorageError> {
        self.tables.rows(NameTable::Aliases)
    }

    /// A number that no folder has had, also not one that a crash left behind.
    pub(super) fn next_number(&self) -> Result<u64, StorageError> {
        let next = self.tables.rows(NameTable::Counters)?.get(NEXT).map_or(Ok(1), |number| parse(number))?;
        self.tables.change(|change| change.put(NameTable::Counters, NEXT, &(next + 1).to_string()))?;
        Ok(next)
    }

    pub(super) fn put(&self, name: &str, number: u64) -> Result<(), StorageError> {
        self.tables.change(|change| change.put(NameTable::Collections, name, &number.to_string()))
    }

    /// Takes a collection away, and its aliases with it.
    pub(super) fn remove(&self, name: &str) -> Result<(), StorageError> {
        let aliases = self.aliases()?;
        self.tables.change(|change| {
            change.remove(NameTable::Collections, name)?;
            let mut aliases = aliases.iter().filter(|(_, of)| *of == name);
            aliases.try_for_each(|(alias, _)| change.remove(NameTable::Aliases, alias))
        })
    }

    pub(super) fn put_alias(&self, alias: &str, name: &str) -> Result<(), StorageError> {
        self.tables.change(|change| change.put(NameTable::Aliases, alias, name))
    }

    pub(super) fn remove_alias(&self, alias: &str) -> Result<(), StorageError> {
        self.tables.change(|change| change.remove(NameTable::Aliases, alias))
    }
}

fn parse(number: &str) -> Result<u64, StorageError> {
    number.parse().map_err(|_| StorageError::Corrupt { expected: "the number of a collection's folder" })
}

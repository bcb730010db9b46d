//! Tables of names, in an environment of their own: what a shard knows of its collections.

use std::{collections::BTreeMap, fs, path::Path};

use heed::RwTxn;

use super::{
    StorageError, Table,
    environment::Environment,
    error::{corrupt, disk},
    sync_folder,
};

/// One table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NameTable {
    /// Numbers of folders by collection.
    Collections,
    /// Collections by alias.
    Aliases,
    /// Numbers by what they count.
    Counters,
}

/// Small tables of text by text. A change is durable when it returns.
#[derive(Debug)]
pub(crate) struct NameTables {
    environment: Environment,
    tables: [Table; 3],
}

/// Changes that are made together.
pub(crate) struct NameChange<'t> {
    names: &'t NameTables,
    txn: RwTxn<'t>,
}

impl NameTables {
    /// Opens the tables in a folder, creating both where there is none.
    pub(crate) fn open(folder: &Path, map_bytes: u64) -> Result<Self, StorageError> {
        fs::create_dir_all(folder).map_err(disk("create", folder))?;
        let environment = Environment::open(folder, map_bytes)?;
        let tables = environment.tables(["collections", "aliases", "counters"])?;
        sync_folder(folder)?;
        folder.parent().map_or(Ok(()), sync_folder)?;
        Ok(Self { environment, tables })
    }

    /// All of a table.
    pub(crate) fn rows(&self, table: NameTable) -> Result<BTreeMap<String, String>, StorageError> {
        let txn = self.environment.read()?;
        let rows = self.table(table).iter(&txn).map_err(|error| self.environment.fault(error))?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| corrupt("a name"));
        rows.map(|row| {
            let (key, value) = row.map_err(|error| self.environment.fault(error))?;
            Ok((text(key)?, text(value)?))
        })
        .collect()
    }

    /// Makes changes, all or none.
    pub(crate) fn change(
        &self,
        make: impl FnOnce(&mut NameChange<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut change = NameChange { names: self, txn: self.environment.write()? };
        make(&mut change)?;
        self.environment.commit(change.txn)
    }

    fn table(&self, table: NameTable) -> Table {
        let [collections, aliases, counters] = self.tables;
        match table {
            NameTable::Collections => collections,
            NameTable::Aliases => aliases,
            NameTable::Counters => counters,
        }
    }
}

impl NameChange<'_> {
    pub(crate) fn put(&mut self, table: NameTable, key: &str, value: &str) -> Result<(), StorageError> {
        let written = self.names.table(table).put(&mut self.txn, key.as_bytes(), value.as_bytes());
        written.map_err(|error| self.names.environment.fault(error))
    }

    pub(crate) fn remove(&mut self, table: NameTable, key: &str) -> Result<(), StorageError> {
        let removed = self.names.table(table).delete(&mut self.txn, key.as_bytes());
        removed.map(drop).map_err(|error| self.names.environment.fault(error))
    }
}

//! All collections of a data directory, by name and by alias.
//!
//! ```text
//! LOCK                    held by the one process that has the directory open
//! registry/data.mdb       names, aliases, and the number of each collection's folder
//! collections/000001/     a collection, see [`crate::collection`]
//! ```
//!
//! A collection is there once the registry says so, in one transaction: a folder that it does not know is what a crash
//! left of a creation or a drop, and is removed at the next start. A collection never takes over another's folder.

mod leftovers;
mod registry;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use self::registry::Registry;
use crate::{
    collection::{Collection, CollectionOptions, OpenError, OpenFollowers, SnapshotError, SnapshotManifest, restore},
    identity::{NameError, check_name},
    schema::{Schema, SchemaFault},
    truth::{DiskError, StorageError, disk, sync_folder},
};

/// Bounds of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardOptions {
    /// Collections. Each has threads, an address space of its map's bound, and open files.
    pub collections_max: usize,
    /// Of each collection.
    pub collection: CollectionOptions,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self { collections_max: 64, collection: CollectionOptions::default() }
    }
}

/// Something about collections as a whole could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Another process has the directory open, or this one has already.
    #[error("{} is open already", folder.display())]
    Locked {
        /// The data directory.
        folder: PathBuf,
    },
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A schema is not good.
    #[error("schema: {0}")]
    Schema(#[from] SchemaFault),
    /// There is a collection or an alias of this name.
    #[error("{name} is there already")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is no collection, and no alias, of this name.
    #[error("there is no {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// As many collections as there may be.
    #[error("{max} collections are there already")]
    TooMany {
        /// The bound.
        max: usize,
    },
    /// A collection did not open.
    #[error("{name}: {fault}")]
    Open {
        /// Which.
        name: String,
        /// Why.
        fault: OpenError,
    },
    /// A snapshot was not taken or restored.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The registry could not be read or written.
    #[error("registry: {0}")]
    Storage(#[from] StorageError),
    /// The system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The collections of a data directory. Shared between threads by reference; collections close when it is dropped and
/// nobody has them any more.
pub struct Shard {
    folder: PathBuf,
    options: ShardOptions,
    followers: Box<dyn Fn(&Path, &Schema) -> Followers + Send + Sync>,
    registry: Registry,
    open: RwLock<Names>,
    /// Held while collections come, go or change their names.
    changing: Mutex<()>,
    /// Locked for as long as the shard is open.
    _lock: File,
}

/// The indexes of a collection: see [`OpenFollowers`].
type Followers = Result<Vec<(crate::collection::Leg, Arc<dyn crate::collection::Follower>)>, OpenError>;

#[derive(Default)]
struct Names {
    collections: BTreeMap<String, Arc<Collection>>,
    aliases: BTreeMap<String, String>,
}

/// A collection as it is listed.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its other names, ascending.
    pub aliases: Vec<String>,
    /// The collection.
    pub collection: Arc<Collection>,
}

impl Shard {
    /// Opens all collections of a data directory, creating it where there is none. `followers` opens the indexes of a
    /// collection.
    ///
    /// # Errors
    /// [`ShardError`]: also where a single collection does not open, rather than without it.
    pub fn open(
        folder: &Path,
        options: ShardOptions,
        followers: impl Fn(&Path, &Schema) -> Followers + Send + Sync + 'static,
    ) -> Result<Self, ShardError> {
        Self::open_rebuilding(folder, options, &[], followers)
    }

    /// The same, with the indexes of these collections (or aliases) thrown away first: they are filled anew from the truth
    /// beside the first searches.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`ShardError::Unknown`] for one that is not there, and then nothing is thrown away.
    pub fn open_rebuilding(
        folder: &Path,
        options: ShardOptions,
        rebuild: &[String],
        followers: impl Fn(&Path, &Schema) -> Followers + Send + Sync + 'static,
    ) -> Result<Self, ShardError> {
        fs::create_dir_all(folder).map_err(disk("create", folder))?;
        let path = folder.join("LOCK");
        let lock = File::create(&path).map_err(disk("create", &path))?;
        lock.try_lock().map_err(|refused| match refused {
            TryLockError::WouldBlock => ShardError::Locked { folder: folder.to_owned() },
            TryLockError::Error(source) => disk("lock", &path)(source).into(),
        })?;
        let registry = Registry::open(&folder.join("registry"))?;
        let shard = Self {
            folder: folder.to_owned(),
            options,
            followers: Box::new(followers),
            registry,
            open: RwLock::default(),
            changing: Mutex::default(),
            _lock: lock,
        };
        shard.remove_strays()?;
        let mut names = Names { collections: BTreeMap::new(), aliases: shard.registry.aliases()? };
        let numbers = shard.registry.collections()?;
        shard.remove_indexes(&numbers, &names.aliases, rebuild)?;
        for (name, number) in numbers {
            let opened = Collection::open(&shard.collection_folder(number), options.collection, shard.followers());
            let collection = opened.map_err(|fault| ShardError::Open { name: name.clone(), fault })?;
            names.collections.insert(name, Arc::new(collection));
        }
        *shard.open.write().unwrap_or_else(PoisonError::into_inner) = names;
        Ok(shard)
    }

    /// The collection of a name or an alias.
    ///
    /// # Errors
    /// [`ShardError::Unknown`].
    pub fn collection(&self, name: &str) -> Result<Arc<Collection>, ShardError> {
        let names = self.names();
        let name = names.aliases.get(name).map_or(name, String::as_str);
        names.collections.get(name).cloned().ok_or_else(|| unknown(name))
    }

    /// All collections, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let names = self.names();
        let aliases = |of: &str| {
            let aliases = names.aliases.iter().filter(|(_, name)| *name == of);
            aliases.map(|(alias, _)| alias.clone()).collect()
        };
        let listed = names.collections.iter();
        listed
            .map(|(name, collection)| Listed {
                name: name.clone(),
                aliases: aliases(name),
                collection: Arc::clone(collection),
            })
            .collect()
    }

    /// Creates an empty collection. It is durable when this returns.
    ///
    /// # Errors
    /// [`ShardError`].
    pub fn create(&self, name: &str, schema: &Schema) -> Result<Arc<Collection>, ShardError> {
        schema.check()?;
        self.add(name, |folder| Ok(Collection::create(folder, schema, self.options.collection, self.followers())))
    }

    /// Makes a new collection from a snapshot. Its indexes are filled beside its first searches.
    ///
    /// # Errors
    /// [`ShardError`]; then there is no such collection.
    pub fn restore(&self, name: &str, snapshot: &Path) -> Result<Arc<Collection>, ShardError> {
        self.add(name, |folder| {
            restore(snapshot, folder)?;
            Ok(Collection::open(folder, self.options.collection, self.followers()))
        })
    }

    /// Copies a collection as it is now into a new folder, while it is written and searched.
    ///
    /// # Errors
    /// [`ShardError`].
    pub fn snapshot(&self, name: &str, folder: &Path) -> Result<SnapshotManifest, ShardError> {
        Ok(self.collection(name)?.snapshot(folder)?)
    }

    fn add(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> Result<Result<Collection, OpenError>, ShardError>,
    ) -> Result<Arc<Collection>, ShardError> {
        check_name(name)?;
        let _changing = self.changing();
        {
            let names = self.names();
            if names.collections.contains_key(name) || names.aliases.contains_key(name) {
                return Err(ShardError::Exists { name: name.to_owned() });
            }
            if names.collections.len() >= self.options.collections_max {
                return Err(ShardError::TooMany { max: self.options.collections_max });
            }
        }
        let number = self.registry.next_number()?;
        let folder = self.collection_folder(number);
        let parent = self.folder.join("collections");
        fs::create_dir_all(&parent).map_err(disk("create", &parent))?;
        let made = make(&folder).and_then(|made| {
            let collection = made.map_err(|fault| ShardError::Open { name: name.to_owned(), fault })?;
            sync_folder(&parent)?;
            sync_folder(&self.folder)?;
            self.registry.put(name, number)?;
            Ok(Arc::new(collection))
        });
        match made {
            Ok(collection) => {
                self.names_mut().collections.insert(name.to_owned(), Arc::clone(&collection));
                Ok(collection)
            }
            Err(fault) => {
                // The registry does not know it: what cannot be removed now is removed at the next start.
                let _ = fs::remove_dir_all(&folder);
                Err(fault)
            }
        }
    }

    /// Drops a collection and its aliases. Searches that have it go on over what it was; writes that wait are refused or
    /// are gone with it.
    ///
    /// # Errors
    /// [`ShardError::Unknown`], also for an alias; [`ShardError::Storage`].
    pub fn drop_collection(&self, name: &str) -> Result<(), ShardError> {
        let _changing = self.changing();
        if !self.names().collections.contains_key(name) {
            return Err(unknown(name));
        }
        self.registry.remove(name)?;
        let collection = {
            let mut names = self.names_mut();
            names.aliases.retain(|_, of| of != name);
            names.collections.remove(name)
        };
        if let Some(collection) = collection {
            collection.close();
            // It is dropped already: what cannot be removed now is removed at the next start. Maps outlive the names.
            let _ = fs::remove_dir_all(collection.folder());
        }
        Ok(())
    }

    /// Gives a collection another name, in place of what the alias meant before. In one step: a search finds the old or
    /// the new.
    ///
    /// # Errors
    /// [`ShardError::Unknown`] where there is no such collection, [`ShardError::Exists`] where a collection has that
    /// name.
    pub fn set_alias(&self, alias: &str, name: &str) -> Result<(), ShardError> {
        check_name(alias)?;
        let _changing = self.changing();
        {
            let names = self.names();
            if names.collections.contains_key(alias) {
                return Err(ShardError::Exists { name: alias.to_owned() });
            }
            if !names.collections.contains_key(name) {
                return Err(unknown(name));
            }
        }
        self.registry.put_alias(alias, name)?;
        self.names_mut().aliases.insert(alias.to_owned(), name.to_owned());
        Ok(())
    }

    /// Takes an alias away.
    ///
    /// # Errors
    /// [`ShardError::Unknown`].
    pub fn drop_alias(&self, alias: &str) -> Result<(), ShardError> {
        let _changing = self.changing();
        if !self.names().aliases.contains_key(alias) {
            return Err(unknown(alias));
        }
        self.registry.remove_alias(alias)?;
        self.names_mut().aliases.remove(alias);
        Ok(())
    }

    /// Closes all collections: what waits to be written is written first.
    pub fn close(&self) {
        let collections: Vec<_> = self.names().collections.values().cloned().collect();
        collections.iter().for_each(|collection| collection.close());
    }

    fn collection_folder(&self, number: u64) -> PathBuf {
        self.folder.join("collections").join(format!("{number:06}"))
    }

    fn followers(&self) -> &OpenFollowers<'_> {
        &*self.followers
    }

    fn names(&self) -> std::sync::RwLockReadGuard<'_, Names> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn names_mut(&self) -> std::sync::RwLockWriteGuard<'_, Names> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("folder", &self.folder).field("options", &self.options).finish_non_exhaustive()
    }
}

fn unknown(name: &str) -> ShardError {
    ShardError::Unknown { name: name.chars().take(64).collect() }
}

#[cfg(test)]
mod tests;

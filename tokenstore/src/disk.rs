//! Every change that the store makes to files, so that a test can let the n-th of them fail.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::DiskError;

/// An open file and where it lies, for errors.
#[derive(Debug)]
pub(crate) struct StoreFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

impl StoreFile {
    /// Opens an existing file, to read, or to read and write.
    pub(crate) fn open(path: PathBuf, write: bool) -> Result<Self, DiskError> {
        match OpenOptions::new().read(true).write(write).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(DiskError { action: "open", path, source }),
        }
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> Result<u64, DiskError> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(|source| self.error("look at", source))
    }

    /// Fills `buffer` from `at` on, with zeros where the file has ended: a hole and what was never written are alike.
    pub(crate) fn read_zero_filled(&self, buffer: &mut [u8], at: u64) -> Result<(), DiskError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.error("read", source)),
            }
        }
        buffer[filled..].fill(0);
        Ok(())
    }

    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> DiskError {
        DiskError { action, path: self.path.clone(), source }
    }
}

/// Changes files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) faults: std::sync::Arc<faults::Faults>,
}

impl Disk {
    /// Creates a file that does not exist.
    pub(crate) fn create(&self, path: &Path) -> Result<StoreFile, DiskError> {
        let open = || OpenOptions::new().read(true).write(true).create_new(true).open(path);
        self.step("create", path, open).map(|file| StoreFile { file, path: path.to_owned() })
    }

    /// Creates a folder with those above it, where it does not exist.
    pub(crate) fn create_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.step("create", path, || fs::create_dir_all(path))
    }

    /// Writes all of `bytes` at `at`.
    pub(crate) fn write(&self, file: &StoreFile, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        #[cfg(test)]
        if self.faults.tears_next() {
            file.file.write_all_at(&bytes[..bytes.len() / 2], at).map_err(|source| file.error("write", source))?;
        }
        self.step("write", &file.path, || file.file.write_all_at(bytes, at))
    }

    /// Returns when what was written is durable, the file's length included.
    pub(crate) fn sync(&self, file: &StoreFile) -> Result<(), DiskError> {
        self.step("sync", &file.path, || file.file.sync_data())
    }

    /// Returns when the names in a folder are durable.
    pub(crate) fn sync_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.step("sync", path, || File::open(path)?.sync_all())
    }

    /// Makes a file shorter, or longer by a hole.
    pub(crate) fn resize(&self, file: &StoreFile, bytes: u64) -> Result<(), DiskError> {
        self.step("resize", &file.path, || file.file.set_len(bytes))
    }

    /// Puts a file in the place of another.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.step("rename", from, || fs::rename(from, to))
    }

    /// Removes a file; one that is not there is removed.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.step("remove", path, || match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }

    fn step<T>(&self, action: &'static str, path: &Path, run: impl FnOnce() -> io::Result<T>) -> Result<T, DiskError> {
        #[cfg(test)]
        let run = || self.faults.around(run);
        run().map_err(|source| DiskError { action, path: path.to_owned(), source })
    }
}

#[cfg(test)]
pub(crate) mod faults {
    //! Failures at the n-th change.

    use std::{io, sync::Mutex};

    /// How a change fails.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Fault {
        /// Nothing happened.
        Refused,
        /// A write wrote half, anything else nothing.
        Torn,
        /// It happened, and was reported as failed.
        Misreported,
    }

    /// Which changes fail.
    #[derive(Debug, Default)]
    pub(crate) struct Faults(Mutex<State>);

    #[derive(Debug, Default)]
    struct State {
        /// Changes until the first failing one; `None`: none fails.
        left: Option<usize>,
        /// Changes that fail from then on.
        failing: usize,
        fault: Option<Fault>,
    }

    impl Faults {
        /// Lets `failing` changes fail after `left` have not.
        pub(crate) fn arm(&self, fault: Fault, left: usize, failing: usize) {
            *self.0.lock().unwrap() = State { left: Some(left), failing, fault: Some(fault) };
        }

        /// Lets all further changes happen; says whether one had failed.
        pub(crate) fn disarm(&self) -> bool {
            let state = std::mem::take(&mut *self.0.lock().unwrap());
            state.left.is_none() && state.fault.is_some()
        }

        pub(super) fn tears_next(&self) -> bool {
            let state = self.0.lock().unwrap();
            let next_fails = matches!(state.left, None | Some(0)) && state.failing > 0;
            next_fails && state.fault == Some(Fault::Torn)
        }

        pub(super) fn around<T>(&self, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
            let mut state = self.0.lock().unwrap();
            let Some(fault) = state.fault else { return run() };
            match state.left {
                Some(left @ 1..) => {
                    state.left = Some(left - 1);
                    return run();
                }
                _ if state.failing == 0 => return run(),
                _ => {}
            }
            state.left = None;
            state.failing -= 1;
            drop(state);
            if fault == Fault::Misreported {
                run()?;
            }
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
    }
}

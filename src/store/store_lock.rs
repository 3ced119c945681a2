//! One broker per store: the file `lock` keeps others out, the file `abort` tells of a stop that was none.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::file::{OpenMode, StoreFiles};

const LOCK: &str = "lock";
const ABORT: &str = "abort";

/// Why the store cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("store {} is in use{}", root.display(), holder(*pid))]
    InUse {
        root: PathBuf,
        /// Process that uses it, if it has told.
        pid: Option<u32>,
    },
    #[error("cannot lock store {}", root.display())]
    Io { root: PathBuf, source: io::Error },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

/// The right to a store directory; ends when it is dropped.
///
/// Two locks, as neither suffices. `flock` on the directory keeps out every other Telstar broker, also one
/// of this process. An `fcntl` lock on the file `lock` keeps out a Java broker; it alone would not do, since
/// it excludes other processes only and is lost as soon as this one closes any handle of that file. For
/// that reason the file is touched only after the directory is ours.
#[derive(Debug)]
pub struct StoreLock {
    _dir: File,
    _file: File,
}

impl StoreLock {
    /// Locks the directory `root`, creating it where needed.
    pub fn acquire(root: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { root: root.to_owned(), source };
        let in_use = || LockError::InUse { root: root.to_owned(), pid: read_pid(root) };

        fs::create_dir_all(root).map_err(failed)?;
        let dir = File::open(root).map_err(failed)?;
        match dir.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use()),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let path = root.join(LOCK);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(failed)?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => return Err(in_use()),
            Err(errno) => return Err(failed(errno.into())),
        }
        file.write_all(b"lock").map_err(failed)?;
        Ok(Self { _dir: dir, _file: file })
    }
}

/// The process id in `abort`, which a running broker keeps there.
fn read_pid(root: &Path) -> Option<u32> {
    fs::read_to_string(root.join(ABORT)).ok()?.trim().parse().ok()
}

/// The file `abort`: there while a broker runs, so finding it at start means that the last stop was none.
#[derive(Debug)]
pub struct AbortFile;

impl AbortFile {
    /// Whether the last run ended without a clean stop.
    pub fn exists(files: &dyn StoreFiles, root: &Path) -> io::Result<bool> {
        Ok(files.stat(&root.join(ABORT))?.is_some())
    }

    /// Marks the store as running, durably; before the first write to it.
    pub fn create(files: &dyn StoreFiles, root: &Path) -> io::Result<()> {
        files.create_dir_all(root)?;
        let file = files.open(&root.join(ABORT), OpenMode::CreateMissing)?;
        file.set_len(0)?;
        file.write_all_at(std::process::id().to_string().as_bytes(), 0)?;
        file.sync()?;
        files.sync_dir(root)
    }

    /// Marks the store as cleanly stopped; after the last write to it.
    pub fn remove(files: &dyn StoreFiles, root: &Path) -> io::Result<()> {
        files.remove_file(&root.join(ABORT))?;
        files.sync_dir(root)
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::DiskFiles;
    use super::*;

    #[test]
    fn second_broker_of_the_process_is_kept_out_and_told_who_holds_the_store() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("store");
        let lock = StoreLock::acquire(&root).unwrap();
        AbortFile::create(&DiskFiles, &root).unwrap();
        for _ in 0..2 {
            let error = StoreLock::acquire(&root).unwrap_err();
            let pid = std::process::id();
            assert!(error.to_string().ends_with(&format!("is in use by process {pid}")), "{error}");
        }
        assert_eq!(fs::read(root.join(LOCK)).unwrap(), b"lock");
        drop(lock);
        drop(StoreLock::acquire(&root).unwrap());
    }

    #[test]
    fn abort_file_is_there_while_running() {
        let root = tempfile::tempdir().unwrap();
        assert!(!AbortFile::exists(&DiskFiles, root.path()).unwrap());
        AbortFile::create(&DiskFiles, root.path()).unwrap();
        assert!(AbortFile::exists(&DiskFiles, root.path()).unwrap());
        AbortFile::remove(&DiskFiles, root.path()).unwrap();
        assert!(!AbortFile::exists(&DiskFiles, root.path()).unwrap());
    }
}

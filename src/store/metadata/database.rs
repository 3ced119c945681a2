//! What tables are kept in: sled, or for tests memory that forgets what was not flushed.

use std::path::Path;

#[cfg(any(test, feature = "testing"))]
use crate::store::memory_metadata::{MemoryMetadata, MemoryTree};

/// A database. Cheap to clone; the clones are the same database.
#[derive(Clone, Debug)]
pub(super) enum Database {
    Sled(sled::Db),
    #[cfg(any(test, feature = "testing"))]
    Memory(MemoryMetadata),
}

impl Database {
    pub fn flush(&self) -> sled::Result<()> {
        match self {
            Self::Sled(db) => db.flush().map(|_bytes| ()),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(memory) => memory.flush(),
        }
    }

    pub fn open_tree(&self, name: &str) -> sled::Result<Tree> {
        match self {
            Self::Sled(db) => db.open_tree(name).map(Tree::Sled),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(memory) => Ok(Tree::Memory(memory.tree(name))),
        }
    }
}

/// Byte keys to byte values, ordered by key.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Sled(sled::Tree),
    #[cfg(any(test, feature = "testing"))]
    Memory(MemoryTree),
}

/// One entry of a [`Tree`].
pub(super) type Entry = (sled::IVec, sled::IVec);

/// Writes that are kept or lost together; of two to the same key the later one holds.
pub(super) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

impl Tree {
    pub fn get(&self, key: &[u8]) -> sled::Result<Option<sled::IVec>> {
        match self {
            Self::Sled(tree) => tree.get(key),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(tree) => Ok(tree.get(key).map(sled::IVec::from)),
        }
    }

    pub fn insert(&self, key: &[u8], value: Vec<u8>) -> sled::Result<()> {
        match self {
            Self::Sled(tree) => tree.insert(key, value).map(|_before| ()),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(tree) => tree.apply(vec![(key.to_vec(), Some(value))]),
        }
    }

    /// Whether there was such an entry.
    pub fn remove(&self, key: &[u8]) -> sled::Result<bool> {
        match self {
            Self::Sled(tree) => Ok(tree.remove(key)?.is_some()),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(tree) => {
                let was_there = tree.get(key).is_some();
                tree.apply(vec![(key.to_vec(), None)]).map(|()| was_there)
            }
        }
    }

    pub fn apply(&self, batch: Batch) -> sled::Result<()> {
        match self {
            Self::Sled(tree) => {
                let mut writes = sled::Batch::default();
                for (key, value) in batch {
                    match value {
                        Some(value) => writes.insert(key, value),
                        None => writes.remove(key),
                    }
                }
                tree.apply_batch(writes)
            }
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(tree) => tree.apply(batch),
        }
    }

    pub fn scan_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = sled::Result<Entry>> + use<> {
        match self {
            Self::Sled(tree) => Scan::Sled(Box::new(tree.scan_prefix(prefix))),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(tree) => Scan::Memory(tree.scan_prefix(prefix).into_iter()),
        }
    }
}

enum Scan {
    Sled(Box<sled::Iter>),
    #[cfg(any(test, feature = "testing"))]
    Memory(std::vec::IntoIter<(Vec<u8>, Vec<u8>)>),
}

impl Iterator for Scan {
    type Item = sled::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Sled(entries) => entries.next(),
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(entries) => entries.next().map(|(key, value)| Ok((key.into(), value.into()))),
        }
    }
}

/// Whether a database lies in `dir`.
pub(super) fn is_there(dir: &Path) -> bool {
    dir.join("db").exists()
}

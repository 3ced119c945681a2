//! One tree: byte keys to records behind a schema version.

use std::marker::PhantomData;

use bincode::error::DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::MetadataError;
use super::database::{Batch, Database, Tree};

/// Something a table holds. The version changes with the fields, and old versions stay readable or are refused.
pub trait Record: Serialize + DeserializeOwned {
    const VERSION: u8 = 1;

    /// Reads what an earlier version of this record stored; `None` when there is no way to.
    fn read_earlier(_version: u8, _encoded: &[u8]) -> Option<Result<Self, DecodeError>> {
        None
    }
}

/// Reads one record, as it is encoded behind its version.
pub(super) fn decode_record<V: DeserializeOwned>(encoded: &[u8]) -> Result<V, DecodeError> {
    let read = bincode::serde::decode_from_slice(encoded, bincode::config::standard());
    read.map(|(value, _bytes)| value)
}

impl Record for String {}
impl Record for u64 {}

/// A tree whose values are all of one kind.
#[derive(Debug)]
pub struct Table<V> {
    tree: Tree,
    name: Box<str>,
    value: PhantomData<fn(V) -> V>,
}

impl<V: Record> Table<V> {
    pub(super) fn open(db: &Database, name: &str) -> Result<Self, MetadataError> {
        let tree =
            db.open_tree(name).map_err(|source| MetadataError::Database { tree: name.to_owned(), source })?;
        Ok(Self { tree, name: name.into(), value: PhantomData })
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<V>, MetadataError> {
        match self.tree.get(key).map_err(|source| self.failed(source))? {
            Some(stored) => self.decode(key, &stored).map(Some),
            None => Ok(None),
        }
    }

    pub fn put(&self, key: &[u8], value: &V) -> Result<(), MetadataError> {
        let encoded = self.encode(value)?;
        self.tree.insert(key, encoded).map_err(|source| self.failed(source))
    }

    /// Writes all or, after a crash, none of them.
    pub fn put_all(&self, entries: impl IntoIterator<Item = (Vec<u8>, V)>) -> Result<(), MetadataError> {
        let encoded = |(key, value)| Ok((key, Some(self.encode(&value)?)));
        let batch = entries.into_iter().map(encoded).collect::<Result<Batch, MetadataError>>()?;
        self.tree.apply(batch).map_err(|source| self.failed(source))
    }

    /// Returns whether there was something to delete.
    pub fn delete(&self, key: &[u8]) -> Result<bool, MetadataError> {
        self.tree.remove(key).map_err(|source| self.failed(source))
    }

    /// Deletes what `condemned` picks among the keys that begin with `prefix`; returns how many.
    pub fn delete_where(
        &self,
        prefix: &[u8],
        mut condemned: impl FnMut(&[u8]) -> bool,
    ) -> Result<usize, MetadataError> {
        let mut batch = Batch::new();
        for entry in self.tree.scan_prefix(prefix) {
            let (key, _) = entry.map_err(|source| self.failed(source))?;
            if condemned(&key) {
                batch.push((key.to_vec(), None));
            }
        }
        let deleted = batch.len();
        self.tree.apply(batch).map_err(|source| self.failed(source))?;
        Ok(deleted)
    }

    /// Entries whose keys begin with `prefix`, in the order of the keys.
    pub fn scan(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(sled::IVec, V), MetadataError>> + use<'_, V> {
        self.tree.scan_prefix(prefix).map(|entry| {
            let (key, stored) = entry.map_err(|source| self.failed(source))?;
            let value = self.decode(&key, &stored)?;
            Ok((key, value))
        })
    }

    /// The parts of a key joined by zero bytes; none of them may contain one.
    pub fn join_key(&self, parts: &[&str]) -> Result<Vec<u8>, MetadataError> {
        if parts.iter().any(|part| part.contains('\0')) {
            return Err(self.malformed_key(parts.join("\\0").as_bytes()));
        }
        Ok(parts.join("\0").into_bytes())
    }

    pub fn malformed_key(&self, key: &[u8]) -> MetadataError {
        MetadataError::MalformedKey { tree: self.tree_name(), key: printable(key) }
    }

    fn encode(&self, value: &V) -> Result<Vec<u8>, MetadataError> {
        let mut encoded = vec![V::VERSION];
        bincode::serde::encode_into_std_write(value, &mut encoded, bincode::config::standard())
            .map_err(|source| MetadataError::UnencodableValue { tree: self.tree_name(), source })?;
        Ok(encoded)
    }

    fn decode(&self, key: &[u8], stored: &[u8]) -> Result<V, MetadataError> {
        let Some((&version, encoded)) = stored.split_first() else {
            return Err(MetadataError::EmptyValue { tree: self.tree_name(), key: printable(key) });
        };
        let read = match version {
            current if current == V::VERSION => Some(decode_record(encoded)),
            earlier => V::read_earlier(earlier, encoded),
        };
        match read {
            Some(Ok(value)) => Ok(value),
            Some(Err(source)) => {
                Err(MetadataError::UndecodableValue { tree: self.tree_name(), key: printable(key), source })
            }
            None => {
                Err(MetadataError::UnknownVersion { tree: self.tree_name(), key: printable(key), version })
            }
        }
    }

    fn failed(&self, source: sled::Error) -> MetadataError {
        MetadataError::Database { tree: self.tree_name(), source }
    }

    fn tree_name(&self) -> String {
        self.name.to_string()
    }

    #[cfg(test)]
    pub(super) fn raw(&self) -> &Tree {
        &self.tree
    }
}

fn printable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

//! Tables of plain text: run-time settings of the broker, and what the name server keeps for others.

use super::MetadataError;
use super::table::Table;

/// Text by text.
#[derive(Debug)]
pub struct KeyValueTable {
    table: Table<String>,
}

impl KeyValueTable {
    pub(super) fn new(table: Table<String>) -> Self {
        Self { table }
    }

    pub fn get(&self, key: &str) -> Result<Option<String>, MetadataError> {
        self.table.get(key.as_bytes())
    }

    pub fn put(&self, key: &str, value: &str) -> Result<(), MetadataError> {
        self.table.put(key.as_bytes(), &value.to_owned())
    }

    pub fn delete(&self, key: &str) -> Result<bool, MetadataError> {
        self.table.delete(key.as_bytes())
    }

    /// Everything, sorted by key.
    pub fn all(&self) -> Result<Vec<(String, String)>, MetadataError> {
        let read = |entry: Result<(sled::IVec, String), MetadataError>| {
            let (key, value) = entry?;
            match std::str::from_utf8(&key) {
                Ok(key) => Ok((key.to_owned(), value)),
                Err(_) => Err(self.table.malformed_key(&key)),
            }
        };
        self.table.scan(&[]).map(read).collect()
    }
}

/// One setting that the name server keeps for others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KvConfig {
    pub namespace: String,
    pub key: String,
    pub value: String,
}

/// Text by namespace and key. Owner: the name server.
#[derive(Debug)]
pub struct KvConfigTable {
    table: Table<String>,
}

impl KvConfigTable {
    pub(super) fn new(table: Table<String>) -> Self {
        Self { table }
    }

    pub fn get(&self, namespace: &str, key: &str) -> Result<Option<String>, MetadataError> {
        self.table.get(&self.table.join_key(&[namespace, key])?)
    }

    pub fn put(&self, config: &KvConfig) -> Result<(), MetadataError> {
        self.table.put(&self.table.join_key(&[&config.namespace, &config.key])?, &config.value)
    }

    pub fn delete(&self, namespace: &str, key: &str) -> Result<bool, MetadataError> {
        self.table.delete(&self.table.join_key(&[namespace, key])?)
    }

    pub fn of_namespace(&self, namespace: &str) -> Result<Vec<KvConfig>, MetadataError> {
        self.scan(&self.table.join_key(&[namespace, ""])?)
    }

    pub fn all(&self) -> Result<Vec<KvConfig>, MetadataError> {
        self.scan(&[])
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<KvConfig>, MetadataError> {
        let read = |entry: Result<(sled::IVec, String), MetadataError>| {
            let (stored, value) = entry?;
            let (namespace, key) = std::str::from_utf8(&stored)
                .ok()
                .and_then(|stored| stored.split_once('\0'))
                .ok_or_else(|| self.table.malformed_key(&stored))?;
            Ok(KvConfig { namespace: namespace.to_owned(), key: key.to_owned(), value })
        };
        self.table.scan(prefix).map(read).collect()
    }
}

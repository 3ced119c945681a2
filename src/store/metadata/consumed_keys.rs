//! Which unique keys groups have marked as consumed, and when.

use super::MetadataError;
use super::table::Table;
use crate::types::GroupName;

/// One key that a group has marked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumedKey {
    pub group: GroupName,
    pub key: Box<str>,
    pub marked_at_ms: i64,
}

/// Owner: the consumed keys.
///
/// ```text
/// key   │ group │ 0 │ unique key │
/// value │ when it was marked, ms since 1970, as u64 │
/// ```
#[derive(Debug)]
pub struct ConsumedKeyTable {
    table: Table<u64>,
}

impl ConsumedKeyTable {
    pub(super) fn new(table: Table<u64>) -> Self {
        Self { table }
    }

    /// Writes all or, after a crash, none of them. No key may contain a zero byte.
    pub fn put_all(&self, group: &GroupName, keys: &[&str], marked_at_ms: i64) -> Result<(), MetadataError> {
        let entry = |key: &&str| Ok((self.table.join_key(&[group, key])?, marked_at_ms.max(0) as u64));
        self.table.put_all(keys.iter().map(entry).collect::<Result<Vec<_>, MetadataError>>()?)
    }

    /// Sorted by group and key.
    pub fn all(&self) -> Result<Vec<ConsumedKey>, MetadataError> {
        let read = |entry: Result<(sled::IVec, u64), MetadataError>| {
            let (stored, marked_at_ms) = entry?;
            let (group, key) = std::str::from_utf8(&stored)
                .ok()
                .and_then(|stored| stored.split_once('\0'))
                .ok_or_else(|| self.table.malformed_key(&stored))?;
            Ok(ConsumedKey { group: group.into(), key: key.into(), marked_at_ms: marked_at_ms as i64 })
        };
        self.table.scan(&[]).map(read).collect()
    }

    pub fn delete(&self, group: &GroupName, key: &str) -> Result<(), MetadataError> {
        self.table.delete(&self.table.join_key(&[group, key])?).map(|_was_there| ())
    }
}

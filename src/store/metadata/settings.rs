//! Tables of topic and group settings, their versions, and what groups are forbidden.

use std::marker::PhantomData;

use super::MetadataError;
use super::records::{SubscriptionGroupRecord, TopicRecord};
use super::table::{Record, Table};
use crate::protocol::data_version::DataVersion;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::protocol::topic_config::TopicConfig;
use crate::types::{GroupName, TopicName};

/// Settings by topic name. Owner: the topics.
pub type TopicTable = VersionedTable<TopicConfig, TopicRecord>;
/// Settings by group name. Owner: the subscription groups.
pub type SubscriptionGroupTable = VersionedTable<SubscriptionGroupConfig, SubscriptionGroupRecord>;
/// Versions by the name of the table they belong to.
pub type DataVersionTable = Table<DataVersion>;

/// Settings that know their name.
pub trait Named {
    fn name(&self) -> &str;
}

impl Named for TopicConfig {
    fn name(&self) -> &str {
        &self.topic_name
    }
}

impl Named for SubscriptionGroupConfig {
    fn name(&self) -> &str {
        &self.group_name
    }
}

/// Settings `C` by name, stored as `R`, with one version for all of them.
#[derive(Debug)]
pub struct VersionedTable<C, R> {
    table: Table<R>,
    versions: DataVersionTable,
    version_key: &'static str,
    config: PhantomData<fn(C) -> C>,
}

impl<C, R> VersionedTable<C, R>
where
    C: Named + From<R>,
    R: Record + for<'a> From<&'a C>,
{
    pub(super) fn new(table: Table<R>, versions: DataVersionTable, version_key: &'static str) -> Self {
        Self { table, versions, version_key, config: PhantomData }
    }

    pub fn get(&self, name: &str) -> Result<Option<C>, MetadataError> {
        Ok(self.table.get(name.as_bytes())?.map(C::from))
    }

    /// All settings, sorted by name.
    pub fn all(&self) -> Result<Vec<C>, MetadataError> {
        self.table.scan(&[]).map(|entry| entry.map(|(_key, record)| C::from(record))).collect()
    }

    pub fn put(&self, config: &C) -> Result<(), MetadataError> {
        self.table.put(config.name().as_bytes(), &R::from(config))
    }

    pub fn put_all(&self, configs: &[C]) -> Result<(), MetadataError> {
        self.table.put_all(configs.iter().map(|config| (config.name().as_bytes().to_vec(), R::from(config))))
    }

    /// Returns whether the name was known.
    pub fn delete(&self, name: &str) -> Result<bool, MetadataError> {
        self.table.delete(name.as_bytes())
    }

    /// The version of the table, all zeros before the first change.
    pub fn version(&self) -> Result<DataVersion, MetadataError> {
        Ok(self.versions.get(self.version_key.as_bytes())?.unwrap_or_default())
    }

    pub fn put_version(&self, version: DataVersion) -> Result<(), MetadataError> {
        self.versions.put(self.version_key.as_bytes(), &version)
    }
}

/// What a group may not do with a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forbidden {
    pub group: GroupName,
    pub topic: TopicName,
    /// Bit 1 (value 2): writing; bit 2 (value 4): reading.
    pub bits: i32,
}

/// Bits of [`Forbidden`] by group and topic. Owner: the subscription groups.
#[derive(Debug)]
pub struct ForbiddenTable {
    table: Table<i32>,
}

impl ForbiddenTable {
    pub(super) fn new(table: Table<i32>) -> Self {
        Self { table }
    }

    /// Zero where nothing is forbidden.
    pub fn get(&self, group: &GroupName, topic: &TopicName) -> Result<i32, MetadataError> {
        Ok(self.table.get(&self.table.join_key(&[group, topic])?)?.unwrap_or(0))
    }

    pub fn all(&self) -> Result<Vec<Forbidden>, MetadataError> {
        let forbidden = |entry: Result<(sled::IVec, i32), MetadataError>| {
            let (key, bits) = entry?;
            let (group, topic) = std::str::from_utf8(&key)
                .ok()
                .and_then(|key| key.split_once('\0'))
                .ok_or_else(|| self.table.malformed_key(&key))?;
            Ok(Forbidden { group: group.into(), topic: topic.into(), bits })
        };
        self.table.scan(&[]).map(forbidden).collect()
    }

    /// Replaces the bits; zero bits delete the entry.
    pub fn put(&self, forbidden: &Forbidden) -> Result<(), MetadataError> {
        let key = self.table.join_key(&[&forbidden.group, &forbidden.topic])?;
        if forbidden.bits == 0 {
            return self.table.delete(&key).map(|_existed| ());
        }
        self.table.put(&key, &forbidden.bits)
    }

    /// Returns how many entries the group had.
    pub fn delete_group(&self, group: &GroupName) -> Result<usize, MetadataError> {
        let prefix = self.table.join_key(&[group, ""])?;
        self.table.delete_where(&prefix, |_key| true)
    }
}

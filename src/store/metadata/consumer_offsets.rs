//! How far each group has consumed each message queue.
//!
//! ```text
//! key │ group │ 0 │ topic │ 0 │ queue id (4, big-endian) │
//! ```

use super::MetadataError;
use super::settings::DataVersionTable;
use super::table::Table;
use crate::protocol::data_version::DataVersion;
use crate::types::{GroupName, QueueId, QueueOffset, TopicName};

const VERSION_KEY: &[u8] = b"consumer_offsets";

/// The next queue offset that `group` will consume of one queue.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConsumerOffset {
    pub group: GroupName,
    pub topic: TopicName,
    pub queue_id: QueueId,
    pub offset: QueueOffset,
}

/// Consumer offsets by group, topic and queue. Owner: the consumer offsets.
#[derive(Debug)]
pub struct ConsumerOffsetTable {
    table: Table<QueueOffset>,
    versions: DataVersionTable,
}

impl ConsumerOffsetTable {
    pub(super) fn new(table: Table<QueueOffset>, versions: DataVersionTable) -> Self {
        Self { table, versions }
    }

    pub fn get(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue_id: QueueId,
    ) -> Result<Option<QueueOffset>, MetadataError> {
        self.table.get(&self.key(group, topic, queue_id)?)
    }

    /// All offsets, sorted by group, topic and queue.
    pub fn all(&self) -> Result<Vec<ConsumerOffset>, MetadataError> {
        self.scan(&[])
    }

    pub fn of_group(&self, group: &GroupName) -> Result<Vec<ConsumerOffset>, MetadataError> {
        self.scan(&self.table.join_key(&[group, ""])?)
    }

    /// Writes all of `offsets`, or after a crash none of them.
    pub fn put_all(&self, offsets: &[ConsumerOffset]) -> Result<(), MetadataError> {
        let mut entries = Vec::with_capacity(offsets.len());
        for offset in offsets {
            entries.push((self.key(&offset.group, &offset.topic, offset.queue_id)?, offset.offset));
        }
        self.table.put_all(entries)
    }

    /// Returns how many offsets the group had.
    pub fn delete_group(&self, group: &GroupName) -> Result<usize, MetadataError> {
        self.table.delete_where(&self.table.join_key(&[group, ""])?, |_key| true)
    }

    /// Returns how many offsets the topic had. Looks at every key.
    pub fn delete_topic(&self, topic: &TopicName) -> Result<usize, MetadataError> {
        self.table.delete_where(&[], |key| topic_of(key) == Some(topic.as_bytes()))
    }

    /// Returns how many offsets the group had in the topic.
    pub fn delete_group_topic(&self, group: &GroupName, topic: &TopicName) -> Result<usize, MetadataError> {
        self.table.delete_where(&self.table.join_key(&[group, topic, ""])?, |_key| true)
    }

    pub fn version(&self) -> Result<DataVersion, MetadataError> {
        Ok(self.versions.get(VERSION_KEY)?.unwrap_or_default())
    }

    pub fn put_version(&self, version: DataVersion) -> Result<(), MetadataError> {
        self.versions.put(VERSION_KEY, &version)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<ConsumerOffset>, MetadataError> {
        let read = |entry: Result<(sled::IVec, QueueOffset), MetadataError>| {
            let (key, offset) = entry?;
            parse(&key, offset).ok_or_else(|| self.table.malformed_key(&key))
        };
        self.table.scan(prefix).map(read).collect()
    }

    fn key(&self, group: &GroupName, topic: &TopicName, queue_id: QueueId) -> Result<Vec<u8>, MetadataError> {
        let mut key = self.table.join_key(&[group, topic, ""])?;
        key.extend_from_slice(&queue_id.0.to_be_bytes());
        Ok(key)
    }
}

fn topic_of(key: &[u8]) -> Option<&[u8]> {
    let (names, _queue_id) = key.split_last_chunk::<4>()?;
    names.strip_suffix(b"\0")?.splitn(2, |&byte| byte == 0).nth(1)
}

fn parse(key: &[u8], offset: QueueOffset) -> Option<ConsumerOffset> {
    let (names, queue_id) = key.split_last_chunk::<4>()?;
    let (group, topic) = std::str::from_utf8(names).ok()?.strip_suffix('\0')?.split_once('\0')?;
    Some(ConsumerOffset {
        group: group.into(),
        topic: topic.into(),
        queue_id: QueueId(u32::from_be_bytes(*queue_id)),
        offset,
    })
}

//! How far the replay of each dead letter queue is.

use serde::{Deserialize, Serialize};

use super::MetadataError;
use super::table::{Record, Table};
use crate::types::{GroupName, QueueId, QueueOffset};

/// One replay, as it was ordered and as far as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplayRecord {
    pub group: GroupName,
    /// Messages a second.
    pub rate: u32,
    /// Names and values that a message must have.
    pub filter: Vec<(String, String)>,
    /// To the topics they were first sent to, for every group; otherwise to the retry topic of this group alone.
    pub to_origin: bool,
    pub state: ReplayState,
    pub queues: Vec<ReplayedQueue>,
    pub replayed: u64,
    /// Messages that the filter left out, or that are gone.
    pub passed_over: u64,
    pub started_at_ms: i64,
    pub ended_at_ms: Option<i64>,
}

impl Record for ReplayRecord {}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ReplayState {
    Running,
    Done,
    Stopped,
    Failed { cause: String },
}

/// What is still to be replayed of a queue: `[next, end)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplayedQueue {
    pub queue_id: QueueId,
    pub next: QueueOffset,
    pub end: QueueOffset,
}

/// Replays by group, one each. Owner: the dead letter replay.
#[derive(Debug)]
pub struct ReplayTable {
    table: Table<ReplayRecord>,
}

impl ReplayTable {
    pub(super) fn new(table: Table<ReplayRecord>) -> Self {
        Self { table }
    }

    /// Sorted by group.
    pub fn all(&self) -> Result<Vec<ReplayRecord>, MetadataError> {
        self.table.scan(&[]).map(|entry| entry.map(|(_group, record)| record)).collect()
    }

    pub fn put(&self, record: &ReplayRecord) -> Result<(), MetadataError> {
        self.table.put(record.group.as_bytes(), record)
    }
}

//! How far the replay of each dead letter queue is.

use bincode::error::DecodeError;
use serde::{Deserialize, Serialize};

use super::MetadataError;
use super::table::{Record, Table, decode_record};
use crate::types::{GroupName, QueueId, QueueOffset};

/// One replay, as it was ordered and as far as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplayRecord {
    pub group: GroupName,
    /// Messages a second.
    pub rate: u32,
    /// Names and values that a message must have.
    pub filter: Vec<(String, String)>,
    /// SQL92 condition that a message must satisfy as well.
    pub condition: Option<String>,
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

impl Record for ReplayRecord {
    const VERSION: u8 = 2;

    fn read_earlier(version: u8, encoded: &[u8]) -> Option<Result<Self, DecodeError>> {
        (version == 1).then(|| decode_record::<UnconditionalReplay>(encoded).map(Self::from))
    }
}

/// Version 1 of a [`ReplayRecord`]: there were no conditions.
#[derive(Serialize, Deserialize)]
struct UnconditionalReplay {
    group: GroupName,
    rate: u32,
    filter: Vec<(String, String)>,
    to_origin: bool,
    state: ReplayState,
    queues: Vec<ReplayedQueue>,
    replayed: u64,
    passed_over: u64,
    started_at_ms: i64,
    ended_at_ms: Option<i64>,
}

impl From<UnconditionalReplay> for ReplayRecord {
    fn from(earlier: UnconditionalReplay) -> Self {
        Self {
            group: earlier.group,
            rate: earlier.rate,
            filter: earlier.filter,
            condition: None,
            to_origin: earlier.to_origin,
            state: earlier.state,
            queues: earlier.queues,
            replayed: earlier.replayed,
            passed_over: earlier.passed_over,
            started_at_ms: earlier.started_at_ms,
            ended_at_ms: earlier.ended_at_ms,
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::metadata::Metadata;

    impl Record for UnconditionalReplay {}

    #[test]
    fn replay_of_the_first_version_is_read_and_has_no_condition() {
        let metadata = Metadata::temporary().unwrap();
        let earlier = UnconditionalReplay {
            group: "g".into(),
            rate: 50,
            filter: vec![("tag".into(), "t".into())],
            to_origin: true,
            state: ReplayState::Running,
            queues: vec![ReplayedQueue { queue_id: QueueId(0), next: QueueOffset(3), end: QueueOffset(9) }],
            replayed: 2,
            passed_over: 1,
            started_at_ms: 7,
            ended_at_ms: None,
        };
        metadata.table("replays").unwrap().put(b"g", &earlier).unwrap();
        let read = metadata.replays().unwrap().all().unwrap().remove(0);
        assert_eq!(read, earlier.into());
        let conditional = ReplayRecord { condition: Some("a = 1".into()), ..read };
        metadata.replays().unwrap().put(&conditional).unwrap();
        assert_eq!(metadata.replays().unwrap().all().unwrap(), [conditional]);
    }
}

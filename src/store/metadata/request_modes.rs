//! How groups take topics: by pull or by pop, where somebody said so.

use super::MetadataError;
use super::table::Table;
use crate::protocol::body::assignment::{MessageRequestMode, SetMessageRequestModeRequestBody};
use crate::types::{GroupName, TopicName};

/// The number of clients to share with, behind the bit of pop. Owner: the subscription groups.
///
/// ```text
/// value │ mode: 0 pull, 1 pop (lowest bit) │ pop share number as i32 (the 32 bits above) │
/// ```
#[derive(Debug)]
pub struct RequestModeTable {
    table: Table<u64>,
}

impl RequestModeTable {
    pub(super) fn new(table: Table<u64>) -> Self {
        Self { table }
    }

    pub fn put(&self, mode: &SetMessageRequestModeRequestBody) -> Result<(), MetadataError> {
        let pop = u64::from(mode.mode == MessageRequestMode::Pop);
        let share = u64::from(mode.pop_share_queue_num.cast_unsigned());
        self.table.put(&self.key(&mode.consumer_group, &mode.topic)?, &(share << 1 | pop))
    }

    /// Sorted by group and topic.
    pub fn all(&self) -> Result<Vec<SetMessageRequestModeRequestBody>, MetadataError> {
        let read = |entry: Result<(sled::IVec, u64), MetadataError>| {
            let (key, value) = entry?;
            let (group, topic) = std::str::from_utf8(&key)
                .ok()
                .and_then(|key| key.split_once('\0'))
                .ok_or_else(|| self.table.malformed_key(&key))?;
            Ok(SetMessageRequestModeRequestBody {
                consumer_group: group.into(),
                topic: topic.into(),
                mode: if value & 1 == 1 { MessageRequestMode::Pop } else { MessageRequestMode::Pull },
                pop_share_queue_num: ((value >> 1) as u32).cast_signed(),
            })
        };
        self.table.scan(&[]).map(read).collect()
    }

    /// Returns how many modes the group had.
    pub fn delete_group(&self, group: &GroupName) -> Result<usize, MetadataError> {
        self.table.delete_where(&self.table.join_key(&[group, ""])?, |_key| true)
    }

    fn key(&self, group: &GroupName, topic: &TopicName) -> Result<Vec<u8>, MetadataError> {
        self.table.join_key(&[group, topic])
    }
}

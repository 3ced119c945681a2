//! What is kept of a timer message.
//!
//! ```text
//!   due time 8 │ queue offset 8 │ physical offset 8 │ hash of topic and unique key 4 │ hash of topic 4
//! ```

use std::fmt;
use std::str::FromStr;

use bytes::{Buf, BufMut};

use crate::store::index_file::hash_of;
use crate::types::{PhysicalOffset, QueueOffset};

pub const ENTRY_BYTES: usize = 32;

/// What a timer message is known by, in the order of delivery.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct TimerKey {
    /// Wall time to deliver at, milliseconds.
    pub due_ms: i64,
    /// Of its record in the timer topic.
    pub queue_offset: QueueOffset,
}

impl TimerKey {
    pub const MIN: TimerKey = TimerKey { due_ms: i64::MIN, queue_offset: QueueOffset(0) };

    /// The first key behind this one.
    pub fn next(self) -> Self {
        Self { queue_offset: self.queue_offset.advance(1), ..self }
    }

    /// The first key of a due time.
    pub fn at(due_ms: i64) -> Self {
        Self { due_ms, queue_offset: QueueOffset(0) }
    }
}

/// `due:offset`, as properties hold it.
impl fmt::Display for TimerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.due_ms, self.queue_offset)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a timer message is named by due time and queue offset, as 1700000000000:42")]
pub struct TimerKeyError;

impl FromStr for TimerKey {
    type Err = TimerKeyError;

    fn from_str(text: &str) -> Result<Self, TimerKeyError> {
        let (due_ms, offset) = text.split_once(':').ok_or(TimerKeyError)?;
        let due_ms = due_ms.parse().map_err(|_| TimerKeyError)?;
        Ok(Self { due_ms, queue_offset: QueueOffset(offset.parse().map_err(|_| TimerKeyError)?) })
    }
}

/// A pending timer message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerEntry {
    pub key: TimerKey,
    pub physical_offset: PhysicalOffset,
    /// Of the real topic and the unique key, as the key index makes it.
    pub name_hash: u32,
    /// Of the real topic, see [`topic_hash`].
    pub topic_hash: u32,
}

impl TimerEntry {
    pub fn put(&self, bytes: &mut Vec<u8>) {
        bytes.put_i64(self.key.due_ms);
        bytes.put_u64(self.key.queue_offset.0);
        bytes.put_u64(self.physical_offset.0);
        bytes.put_u32(self.name_hash);
        bytes.put_u32(self.topic_hash);
    }

    /// Reads as many bytes as [`put`](Self::put) writes.
    pub fn get(mut bytes: &[u8]) -> Self {
        Self {
            key: TimerKey { due_ms: bytes.get_i64(), queue_offset: QueueOffset(bytes.get_u64()) },
            physical_offset: PhysicalOffset(bytes.get_u64()),
            name_hash: bytes.get_u32(),
            topic_hash: bytes.get_u32(),
        }
    }
}

/// A timer message needs no delivery any more: it is delivered, recalled, or stored anew under another offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    pub key: TimerKey,
    pub topic_hash: u32,
}

/// What one record of the log means for timers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerRecord {
    /// Where in the log it lies.
    pub at: PhysicalOffset,
    pub settles: Option<Settled>,
    pub adds: Option<TimerEntry>,
}

/// Tells topics apart where their names have no room.
pub fn topic_hash(topic: &str) -> u32 {
    hash_of(topic, "")
}

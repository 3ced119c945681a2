//! What came since the last manifest, in the order of the log.
//!
//! ```text
//!   crc of what follows 4 │ kind 4 │ payload 32
//! ```
//!
//! A mark ends each batch; what lies behind the last whole mark was not promised and does not count.

use bytes::{Buf, BufMut};

use super::entry::{ENTRY_BYTES, Settled, TimerEntry, TimerKey};
use crate::types::{PhysicalOffset, QueueOffset};

pub const STEP_BYTES: usize = 8 + ENTRY_BYTES;

const ADDED: u32 = 1;
const SETTLED: u32 = 2;
const MARK: u32 = 3;

/// One step of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalStep {
    Added(TimerEntry),
    Settled(Settled),
    /// Everything that the log tells of timers below this position stands before.
    Mark(PhysicalOffset),
}

impl JournalStep {
    pub fn put(&self, bytes: &mut Vec<u8>) {
        let mut step = Vec::with_capacity(STEP_BYTES);
        match self {
            Self::Added(entry) => {
                step.put_u32(ADDED);
                entry.put(&mut step);
            }
            Self::Settled(settled) => {
                step.put_u32(SETTLED);
                step.put_i64(settled.key.due_ms);
                step.put_u64(settled.key.queue_offset.0);
                step.put_u32(settled.topic_hash);
            }
            Self::Mark(through) => {
                step.put_u32(MARK);
                step.put_u64(through.0);
            }
        }
        step.resize(STEP_BYTES - 4, 0);
        bytes.put_u32(crc32fast::hash(&step));
        bytes.extend_from_slice(&step);
    }

    fn get(mut bytes: &[u8]) -> Option<Self> {
        let crc = bytes.get_u32();
        if crc != crc32fast::hash(bytes) {
            return None;
        }
        match bytes.get_u32() {
            ADDED => Some(Self::Added(TimerEntry::get(bytes))),
            SETTLED => {
                let key = TimerKey { due_ms: bytes.get_i64(), queue_offset: QueueOffset(bytes.get_u64()) };
                Some(Self::Settled(Settled { key, topic_hash: bytes.get_u32() }))
            }
            MARK => Some(Self::Mark(PhysicalOffset(bytes.get_u64()))),
            _ => None,
        }
    }
}

/// What of a journal counts.
#[derive(Debug, Default)]
pub struct JournalContent {
    pub steps: Vec<JournalStep>,
    /// The last mark; `None` in a journal without any.
    pub through: Option<PhysicalOffset>,
    /// Where the next step is written.
    pub len_bytes: u64,
}

impl JournalContent {
    pub fn read(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        let mut steps = Vec::new();
        for (number, step) in bytes.chunks_exact(STEP_BYTES).map(JournalStep::get).enumerate() {
            match step {
                None => break,
                Some(JournalStep::Mark(through)) => {
                    content.steps.append(&mut steps);
                    content.through = Some(through);
                    content.len_bytes = (number as u64 + 1) * STEP_BYTES as u64;
                }
                Some(step) => steps.push(step),
            }
        }
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> TimerEntry {
        let key = TimerKey { due_ms: n as i64 * 10, queue_offset: QueueOffset(n) };
        TimerEntry { key, physical_offset: PhysicalOffset(n * 100), name_hash: 7, topic_hash: 8 }
    }

    #[test]
    fn steps_count_up_to_the_last_whole_mark() {
        let settled = Settled { key: entry(1).key, topic_hash: 8 };
        let steps = [
            JournalStep::Added(entry(1)),
            JournalStep::Mark(PhysicalOffset(150)),
            JournalStep::Added(entry(2)),
            JournalStep::Settled(settled),
            JournalStep::Mark(PhysicalOffset(300)),
            JournalStep::Added(entry(3)),
        ];
        let mut bytes = Vec::new();
        steps.iter().for_each(|step| step.put(&mut bytes));
        for cut in 0..=bytes.len() {
            let read = JournalContent::read(&bytes[..cut]);
            let (through, len) = match cut / STEP_BYTES {
                0..2 => (None, 0),
                2..5 => (Some(150), 1),
                _ => (Some(300), 3),
            };
            assert_eq!((read.through.map(|at| at.0), read.steps.len()), (through, len), "cut at {cut}");
        }
        let read = JournalContent::read(&bytes);
        assert_eq!(read.steps, [steps[0], steps[2], steps[3]]);
        assert_eq!(read.len_bytes, 5 * STEP_BYTES as u64, "the next step overwrites what does not count");
        bytes[3 * STEP_BYTES + 20] ^= 1;
        assert_eq!(JournalContent::read(&bytes).through, Some(PhysicalOffset(150)), "damage ends it");
    }
}

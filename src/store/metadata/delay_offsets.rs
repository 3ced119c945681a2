//! How far each delay level is delivered, in the table of marks.

use super::MetadataError;
use super::key_values::KeyValueTable;
use crate::types::QueueOffset;

const PREFIX: &str = "delivered of delay level ";

/// The next queue offset to deliver, by delay level; the first level is 1. Owner: the delay scheduler.
#[derive(Debug)]
pub struct DelayOffsetTable {
    marks: KeyValueTable,
}

impl DelayOffsetTable {
    pub(super) fn new(marks: KeyValueTable) -> Self {
        Self { marks }
    }

    pub fn get(&self, level: usize) -> Result<Option<QueueOffset>, MetadataError> {
        let saved = self.marks.get(&key(level))?;
        Ok(saved.and_then(|saved| saved.parse().ok()).map(QueueOffset))
    }

    pub fn put(&self, level: usize, next: QueueOffset) -> Result<(), MetadataError> {
        self.marks.put(&key(level), &next.to_string())
    }

    /// Every level that was ever kept, in no order that means anything.
    pub fn all(&self) -> Result<Vec<(usize, QueueOffset)>, MetadataError> {
        let read = |(key, next): (String, String)| {
            Some((key.strip_prefix(PREFIX)?.parse().ok()?, QueueOffset(next.parse().ok()?)))
        };
        Ok(self.marks.all()?.into_iter().filter_map(read).collect())
    }
}

fn key(level: usize) -> String {
    format!("{PREFIX}{level}")
}

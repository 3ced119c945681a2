//! Transactions that were open when the log was last accounted for, and up to where that was.
//!
//! What is kept may be ahead of the position, never behind it: whoever reads the log on from there finds the rest.

use serde::{Deserialize, Serialize};

use super::MetadataError;
use super::key_values::KeyValueTable;
use super::table::{Record, Table};
use crate::protocol::transaction::{Decision, TransactionKey};
use crate::types::{GroupName, PhysicalOffset, QueueOffset};

const READ_TO: &str = "transactions are accounted for up to";

/// A half as it is kept between two starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptHalf {
    pub offset: QueueOffset,
    pub at: PhysicalOffset,
    pub key: TransactionKey,
    pub group: GroupName,
    pub stored_at_ms: i64,
    /// When its producer is asked next.
    pub due_ms: i64,
    /// How often a producer was asked.
    pub checks: u32,
    /// What ends it is in the log.
    pub ended: Option<Decision>,
}

#[derive(Serialize, Deserialize, Debug)]
pub struct KeptHalfRecord {
    at: PhysicalOffset,
    key: u64,
    group: GroupName,
    stored_at_ms: i64,
    due_ms: i64,
    checks: u32,
    /// 0 open, 1 committed, 2 rolled back, 3 given up.
    ended: u8,
}

impl Record for KeptHalfRecord {}

/// Open halves by queue offset. Owner: the transaction checker.
#[derive(Debug)]
pub struct OpenHalfTable {
    halves: Table<KeptHalfRecord>,
    marks: KeyValueTable,
}

impl OpenHalfTable {
    pub(super) fn new(halves: Table<KeptHalfRecord>, marks: KeyValueTable) -> Self {
        Self { halves, marks }
    }

    /// All of them, in the order they began.
    pub fn all(&self) -> Result<Vec<KeptHalf>, MetadataError> {
        let entry = |entry: Result<(sled::IVec, KeptHalfRecord), MetadataError>| {
            let (key, record) = entry?;
            let offset: [u8; 8] = key.as_ref().try_into().map_err(|_| self.halves.malformed_key(&key))?;
            Ok(KeptHalf {
                offset: QueueOffset(u64::from_be_bytes(offset)),
                at: record.at,
                key: TransactionKey(record.key),
                group: record.group,
                stored_at_ms: record.stored_at_ms,
                due_ms: record.due_ms,
                checks: record.checks,
                ended: [None, Some(Decision::Commit), Some(Decision::Rollback), Some(Decision::GiveUp)]
                    .get(usize::from(record.ended))
                    .copied()
                    .flatten(),
            })
        };
        self.halves.scan(&[]).map(entry).collect()
    }

    /// Every record of the log below is accounted for; `None` before the first time.
    pub fn read_to(&self) -> Result<Option<PhysicalOffset>, MetadataError> {
        let mark = self.marks.get(READ_TO)?;
        Ok(mark.and_then(|mark| mark.parse().ok()).map(PhysicalOffset))
    }

    /// Call when everything that was true there is kept.
    pub fn set_read_to(&self, position: PhysicalOffset) -> Result<(), MetadataError> {
        self.marks.put(READ_TO, &position.to_string())
    }

    pub fn keep(&self, halves: &[KeptHalf]) -> Result<(), MetadataError> {
        self.halves.put_all(halves.iter().map(|half| {
            let ended = match half.ended {
                None => 0,
                Some(Decision::Commit) => 1,
                Some(Decision::Rollback) => 2,
                Some(Decision::GiveUp) => 3,
            };
            let record = KeptHalfRecord {
                at: half.at,
                key: half.key.0,
                group: half.group.clone(),
                stored_at_ms: half.stored_at_ms,
                due_ms: half.due_ms,
                checks: half.checks,
                ended,
            };
            (key(half.offset), record)
        }))
    }

    pub fn forget(&self, offset: QueueOffset) -> Result<(), MetadataError> {
        self.halves.delete(&key(offset)).map(|_was_there| ())
    }
}

/// Big-endian, so that the order of the keys is that of the offsets.
fn key(offset: QueueOffset) -> Vec<u8> {
    offset.0.to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::Metadata;
    use super::*;

    fn half(offset: u64, ended: Option<Decision>) -> KeptHalf {
        KeptHalf {
            offset: QueueOffset(offset),
            at: PhysicalOffset(offset * 100),
            key: TransactionKey::of("U"),
            group: "pg".into(),
            stored_at_ms: 5,
            due_ms: 6_005,
            checks: 2,
            ended,
        }
    }

    #[test]
    fn halves_come_back_as_they_were_in_their_order() {
        let table = Metadata::temporary().unwrap().open_halves().unwrap();
        assert_eq!((table.all().unwrap(), table.read_to().unwrap()), (vec![], None));
        let ended = [None, Some(Decision::Commit), Some(Decision::Rollback), Some(Decision::GiveUp)];
        let halves: Vec<_> =
            ended.into_iter().zip([1, 2, 255, 256]).map(|(ended, n)| half(n, ended)).collect();
        table.keep(&halves.iter().rev().cloned().collect::<Vec<_>>()).unwrap();
        assert_eq!(table.all().unwrap(), halves);
        table.forget(QueueOffset(255)).unwrap();
        table.set_read_to(PhysicalOffset(7)).unwrap();
        assert_eq!(table.all().unwrap().len(), 3);
        assert_eq!(table.read_to().unwrap(), Some(PhysicalOffset(7)));
    }
}

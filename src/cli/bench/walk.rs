//! Walks the records of an answer, with no more work than an honest count needs: whose instrument costs more than the server
//! measures itself.
//!
//! Looked at are length, magic and queue offset of each record. A message is counted once: offsets go up, and stay
//! within what was asked for and is passed. They may leave gaps, where messages are deleted or do not match; how
//! many messages were passed is told beside how many came.

use std::ops::Range;

use crate::protocol::message::{RecordError, RecordGlance};

/// The records of an answer to a pull, back to back.
#[derive(Clone)]
pub struct Records<'a> {
    pub queue_id: i32,
    pub bytes: &'a [u8],
    /// Queue offsets that may be among them.
    pub offsets: Range<i64>,
}

/// Why the records of an answer cannot be counted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an answer to a pull of queue {queue_id} is damaged at byte {at} of its records: {fault}")]
pub struct DamagedAnswer {
    queue_id: i32,
    at: usize,
    fault: Fault,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("queue offset {found}, where [{}, {}) is left of what was asked for", .left.start, .left.end)]
    Offset { found: i64, left: Range<i64> },
}

impl<'a> Records<'a> {
    /// How many there are; none are counted of an answer that is damaged.
    pub fn count(self) -> Result<u64, DamagedAnswer> {
        let mut count = 0;
        self.for_each(|_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Looks at each of them.
    pub fn for_each(
        self,
        mut look: impl FnMut(RecordGlance<'a>) -> Result<(), RecordError>,
    ) -> Result<(), DamagedAnswer> {
        let Self { queue_id, bytes, offsets: mut left } = self;
        let mut at = 0;
        let damaged = |at, fault| DamagedAnswer { queue_id, at, fault };
        while at < bytes.len() {
            let record = RecordGlance::of(&bytes[at..]).map_err(|error| damaged(at, error.into()))?;
            let found = record.queue_offset().0 as i64;
            if !left.contains(&found) {
                return Err(damaged(at, Fault::Offset { found, left }));
            }
            look(record).map_err(|error| damaged(at, error.into()))?;
            left.start = found + 1;
            at += record.total_len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::WallMs;
    use crate::protocol::message::PendingMessage;
    use crate::types::{PhysicalOffset, QueueId, QueueOffset};

    fn record(queue_offset: u64) -> Vec<u8> {
        let message = PendingMessage {
            topic: "orders".into(),
            queue_id: QueueId(3),
            flag: 0,
            sys_flag: 0,
            born_at_ms: 0,
            born_host: ([10, 0, 0, 9], 50_000).into(),
            store_host: ([10, 0, 0, 1], 10_911).into(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: Bytes::from(queue_offset.to_string()),
            properties: Bytes::from_static(b"TAGS\x01a"),
            extra_properties: Bytes::new(),
        };
        let mut record = vec![0; message.record_len()];
        message.encode_into(&mut record, QueueOffset(queue_offset), PhysicalOffset(0), WallMs(0));
        record
    }

    fn count(bytes: &[u8]) -> Result<u64, DamagedAnswer> {
        Records { queue_id: 3, bytes, offsets: 10..20 }.count()
    }

    fn told(bytes: &[u8]) -> String {
        count(bytes).unwrap_err().to_string()
    }

    #[test]
    fn each_record_is_counted_once_and_gaps_are_not() {
        assert_eq!(count(&[]), Ok(0));
        assert_eq!(count(&[record(10), record(11), record(19)].concat()), Ok(3));
        let wanted = "queue offset 11, where [12, 20) is left of what was asked for";
        assert!(told(&[record(10), record(11), record(11)].concat()).ends_with(wanted));
        assert!(
            told(&[record(12), record(11)].concat())
                .ends_with("11, where [13, 20) is left of what was asked for")
        );
        for outside in [9, 20, u64::MAX] {
            assert!(told(&record(outside)).contains("where [10, 20) is left"), "{outside}");
        }
    }

    #[test]
    fn bodies_are_seen_where_they_lie() {
        let bytes = [record(10), record(15)].concat();
        let mut seen = Vec::new();
        let walked = Records { queue_id: 3, bytes: &bytes, offsets: 10..20 }.for_each(|record| {
            seen.push(record.body()?);
            Ok(())
        });
        assert_eq!((walked, seen), (Ok(()), vec![&b"10"[..], b"15"]));
    }

    #[test]
    fn answer_cut_anywhere_is_an_error_unless_between_two_records() {
        let (first, both) = (record(10).len(), [record(10), record(11)].concat());
        for len in 1..both.len() {
            if len == first {
                assert_eq!(count(&both[..len]), Ok(1));
                continue;
            }
            let at = if len < first { 0 } else { first };
            let wanted = format!(
                "an answer to a pull of queue 3 is damaged at byte {at} of its records: record is cut off"
            );
            assert!(told(&both[..len]).starts_with(&wanted), "{len}: {}", told(&both[..len]));
        }
    }

    #[test]
    fn damaged_head_is_an_error_that_says_what_is_wrong() {
        let damaged = |at: usize, with: u32| {
            let mut bytes = [record(10), record(11)].concat();
            let at = record(10).len() + at;
            bytes[at..at + 4].copy_from_slice(&with.to_be_bytes());
            told(&bytes)
        };
        assert!(damaged(0, 0).ends_with("record says it has 0 bytes, its fields say otherwise"));
        assert!(damaged(0, u32::MAX).contains("record says it has 4294967295 bytes"));
        assert!(damaged(0, 1_000).contains("record is cut off"));
        assert!(damaged(4, 7).ends_with("no record begins with magic 0x00000007"));
    }
}

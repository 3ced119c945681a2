//! Units of a compacted log's index, in the form of RocketMQ's batch consume queue (`BatchConsumeQueue`,
//! `SparseConsumeQueue`). All numbers are big-endian.
//!
//! ```text
//!  0 │ position 8 │ size 4 │ tags code 8 │ stored at 8 │ queue offset 8 │ batch size 2 │ compact offset 4 │ reserved 4 │
//! ```

use bytes::{Buf, BufMut};

use crate::types::QueueOffset;

/// RocketMQ: `BatchConsumeQueue.CQ_STORE_UNIT_SIZE`.
pub const UNIT_BYTES: usize = 46;
/// RocketMQ: `BatchConsumeQueue.INVALID_POS`.
const NO_COMPACT_OFFSET: i32 = -1;

/// Where a message lies in a compacted log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactedUnit {
    /// Counted over the segments by their names.
    pub position: u64,
    pub size_bytes: u32,
    pub tags_code: i64,
    pub stored_at_ms: i64,
    pub queue_offset: QueueOffset,
}

impl CompactedUnit {
    /// What Java writes behind the last unit of a segment that is full (`putEndPositionInfo`).
    pub fn end_mark() -> [u8; UNIT_BYTES] {
        encode(-1, 0, 0, 0, 0, 0)
    }

    pub fn encode(&self) -> [u8; UNIT_BYTES] {
        let Self { position, size_bytes, tags_code, stored_at_ms, queue_offset } = *self;
        encode(position as i64, size_bytes as i32, tags_code, stored_at_ms, queue_offset.0 as i64, 1)
    }

    /// `None` for what was never written, and for the end mark. RocketMQ: `SparseConsumeQueue.recover`.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < UNIT_BYTES {
            return None;
        }
        let (position, size) = (bytes.get_i64(), bytes.get_i32());
        let (tags_code, stored_at_ms) = (bytes.get_i64(), bytes.get_i64());
        let (queue_offset, batch_size) = (bytes.get_i64(), bytes.get_i16());
        let is_unit = size > 0 && batch_size > 0;
        is_unit.then_some(())?;
        Some(Self {
            position: u64::try_from(position).ok()?,
            size_bytes: size as u32,
            tags_code,
            stored_at_ms,
            queue_offset: QueueOffset(u64::try_from(queue_offset).ok()?),
        })
    }

    /// Position behind the message.
    pub fn end(&self) -> u64 {
        self.position + u64::from(self.size_bytes)
    }
}

fn encode(
    position: i64,
    size: i32,
    tags_code: i64,
    stored_at_ms: i64,
    queue_offset: i64,
    batch_size: i16,
) -> [u8; UNIT_BYTES] {
    let mut unit = [0; UNIT_BYTES];
    let mut dst = &mut unit[..];
    dst.put_i64(position);
    dst.put_i32(size);
    dst.put_i64(tags_code);
    dst.put_i64(stored_at_ms);
    dst.put_i64(queue_offset);
    dst.put_i16(batch_size);
    dst.put_i32(NO_COMPACT_OFFSET);
    dst.put_i32(0);
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_has_the_bytes_of_java() {
        let unit = CompactedUnit {
            position: 0x0102,
            size_bytes: 0x0304,
            tags_code: -2,
            stored_at_ms: 0x0506,
            queue_offset: QueueOffset(0x0708),
        };
        let expected = [
            &[0, 0, 0, 0, 0, 0, 1, 2][..],
            &[0, 0, 3, 4],
            &[255, 255, 255, 255, 255, 255, 255, 254],
            &[0, 0, 0, 0, 0, 0, 5, 6],
            &[0, 0, 0, 0, 0, 0, 7, 8],
            &[0, 1],
            &[255, 255, 255, 255],
            &[0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(unit.encode()[..], expected);
        assert_eq!(CompactedUnit::decode(&expected), Some(unit));
    }

    #[test]
    fn neither_zeros_nor_an_end_mark_are_units() {
        assert_eq!(CompactedUnit::decode(&[0; UNIT_BYTES]), None);
        assert_eq!(CompactedUnit::decode(&CompactedUnit::end_mark()), None);
        assert_eq!(CompactedUnit::decode(&[]), None);
        assert_eq!(CompactedUnit::end_mark()[..12], [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0]);
    }
}

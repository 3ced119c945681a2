//! One unit of a consume queue.

use crate::types::PhysicalOffset;

/// Length of a unit. RocketMQ: `ConsumeQueue.CQ_STORE_UNIT_SIZE`.
pub const UNIT_BYTES: usize = 20;

/// Where one message lies in the commit log, and how to tell whether it is wanted without reading it.
///
/// ```text
/// 0                   8           12                   20
/// │ physical offset   │ size      │ tags code          │   big-endian
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumeQueueUnit {
    pub physical_offset: PhysicalOffset,
    /// Bytes of the record, 1 to 0x7FFFFFFF.
    pub size_bytes: u32,
    /// Hash of the tag, 0 without one. In the topic of delay levels: the time to deliver at, in milliseconds.
    pub tags_code: i64,
}

impl ConsumeQueueUnit {
    /// Takes the place of units before the first one of a queue that does not begin at 0.
    pub const FILLER: Self =
        Self { physical_offset: PhysicalOffset(0), size_bytes: 0x7FFF_FFFF, tags_code: 0 };

    /// In place of the tags code: no message has this number any more, pulls pass it. No hash, no time and no
    /// address of RocketMQ's `consumequeue_ext` looks like it. Position and size are those of a record nearby, so
    /// that positions keep rising and RocketMQ finds one.
    pub const GAP_TAGS: i64 = i64::MIN + (1 << 62);

    /// Whether the message of this number is lost: its record was damaged.
    pub fn is_gap(&self) -> bool {
        self.tags_code == Self::GAP_TAGS
    }

    pub fn is_filler(&self) -> bool {
        self.physical_offset.0 == 0 && self.size_bytes == Self::FILLER.size_bytes
    }

    /// Where the message ends in the commit log.
    pub fn end(&self) -> PhysicalOffset {
        self.physical_offset.advance(u64::from(self.size_bytes))
    }

    pub fn encode(&self) -> [u8; UNIT_BYTES] {
        let mut bytes = [0; UNIT_BYTES];
        bytes[..8].copy_from_slice(&self.physical_offset.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size_bytes.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    /// `None` for a unit that was never written: Java wants an offset of at least 0 and a size above 0.
    pub fn decode(bytes: &[u8; UNIT_BYTES]) -> Option<Self> {
        let (offset, rest) = bytes.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let tags_code = rest.first_chunk::<8>()?;
        let offset = u64::try_from(i64::from_be_bytes(*offset)).ok()?;
        let size_bytes = u32::try_from(i32::from_be_bytes(*size)).ok().filter(|&size| size > 0)?;
        Some(Self {
            physical_offset: PhysicalOffset(offset),
            size_bytes,
            tags_code: i64::from_be_bytes(*tags_code),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_java() {
        let unit = ConsumeQueueUnit {
            physical_offset: PhysicalOffset(0x0102_0304_0506_0708),
            size_bytes: 0x0A0B_0C0D,
            tags_code: -2,
        };
        let bytes =
            [1, 2, 3, 4, 5, 6, 7, 8, 0x0A, 0x0B, 0x0C, 0x0D, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE];
        assert_eq!(unit.encode(), bytes);
        assert_eq!(ConsumeQueueUnit::decode(&bytes), Some(unit));
        assert_eq!(ConsumeQueueUnit::FILLER.encode()[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF]);
    }

    #[test]
    fn unwritten_and_negative_units_are_none() {
        assert_eq!(ConsumeQueueUnit::decode(&[0; UNIT_BYTES]), None);
        assert_eq!(ConsumeQueueUnit::decode(&[0xFF; UNIT_BYTES]), None);
    }
}

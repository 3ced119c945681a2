//! Damage in the middle of the commit log: where the next whole entry lies.
//!
//! Records carry their own physical offset, and store times do not fall, so that a record is known wherever it is
//! met. What a damaged entry says of its length is tried first; otherwise the bytes behind it are searched.

use std::fmt;
use std::path::PathBuf;

use crate::clock::WallMs;
use crate::protocol::message::{EntryHead, MAGIC_V1, MAGIC_V2, RecordError, RecordView};
use crate::types::PhysicalOffset;

/// What all magics of records begin with, and where in a record.
const MAGIC_BEGIN: [u8; 3] = [0xDA, 0xA3, 0x20];
const AT_MAGIC: usize = 4;

/// A file and a position within it, as people look for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub path: PathBuf,
    pub at_byte: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.path.display(), self.at_byte)
    }
}

/// Bytes `[at, next)` of the log that are no whole entry, with whole ones behind them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedEntry {
    pub at: PhysicalOffset,
    pub next: PhysicalOffset,
    pub place: Place,
    pub source: RecordError,
}

/// The bytes of a segment, as far as they are to be looked at.
#[derive(Clone, Copy)]
pub struct SegmentBytes<'a> {
    pub base: PhysicalOffset,
    pub bytes: &'a [u8],
    /// Length of the segment, which a blank fills up.
    pub segment_len: usize,
    /// Records stored before this are leftovers.
    pub not_before: WallMs,
}

impl SegmentBytes<'_> {
    /// Position of the next whole entry behind the damaged one at `position`, within these bytes.
    pub fn next_whole(&self, position: usize) -> Option<usize> {
        self.next_whole_by_length(position).or_else(|| self.find_record(position + 1..self.bytes.len()))
    }

    /// Behind the entry at `position`, if something whole begins there.
    pub fn next_whole_by_length(&self, position: usize) -> Option<usize> {
        let Ok(EntryHead::Record { len }) = EntryHead::parse(self.bytes.get(position..)?) else {
            return None;
        };
        let next = position.checked_add(len)?;
        let rest = self.bytes.get(next..)?;
        let is_blank =
            matches!(EntryHead::parse(rest), Ok(EntryHead::Blank { len }) if next + len == self.segment_len);
        (is_blank || self.is_record(next)).then_some(next)
    }

    /// The first whole record that begins in `range`.
    pub fn find_record(&self, range: std::ops::Range<usize>) -> Option<usize> {
        let mut from = range.start;
        let end = (range.end + AT_MAGIC + MAGIC_BEGIN.len()).min(self.bytes.len());
        while from + AT_MAGIC < end {
            let found = memchr::memmem::find(&self.bytes[from + AT_MAGIC..end], &MAGIC_BEGIN)?;
            if self.is_record(from + found) {
                return Some(from + found);
            }
            from += found + 1;
        }
        None
    }

    /// Whether a whole record of this place, and not a leftover, begins at `position`.
    pub fn is_record(&self, position: usize) -> bool {
        let Some(bytes) = self.bytes.get(position..) else { return false };
        let magic = bytes
            .get(AT_MAGIC..AT_MAGIC + 4)
            .map(|magic| u32::from_be_bytes([magic[0], magic[1], magic[2], magic[3]]));
        matches!(magic, Some(MAGIC_V1 | MAGIC_V2))
            && RecordView::parse(bytes).is_ok_and(|record| {
                record.physical_offset() == self.base.advance(position as u64)
                    && record.stored_at_ms() >= self.not_before.0
                    && record.verify_crc().is_ok()
            })
    }
}

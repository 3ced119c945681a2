//! What the files of a segment hold when nobody remembers it.

use std::io;

use super::dirs::{CompactedDirs, Part};
use super::segment::{SealedEnds, Segment, SegmentWriter, key_of};
use super::unit::{CompactedUnit, UNIT_BYTES};
use crate::protocol::message::{EntryHead, RecordView};
use crate::protocol::properties::{self, names as property};
use crate::store::mapped_file::MappedFile;
use crate::types::QueueOffset;

/// How much of what was written is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SegmentCheck {
    /// The kernel has kept what the last process wrote: only its very last writes may not be whole.
    #[default]
    Tail,
    /// The power may have failed: every message that was not sealed is looked at.
    Whole,
}

/// What a segment was found to be.
pub enum Found {
    /// It holds no message.
    Empty,
    Sound {
        segment: Segment,
        writer: Option<SegmentWriter>,
    },
    /// Only these messages of it are whole.
    Torn {
        units: Vec<CompactedUnit>,
    },
}

pub fn look(dirs: &CompactedDirs, base: u64, check: SegmentCheck) -> io::Result<Found> {
    let open = |part| match dirs.files.stat(&dirs.path(part, base))? {
        Some(stat) if stat.len_bytes > 0 => dirs.files.open_map(&dirs.path(part, base)).map(Some),
        // A process that died between making and lengthening a file.
        Some(_) | None => Ok(None),
    };
    let Some(log) = open(Part::Log)? else { return Ok(Found::Empty) };
    let bytes = log.bytes(0..log.len());
    let Some(index) = open(Part::Index)? else {
        let units = walk(bytes, 0, base, None).units;
        return Ok(Found::Torn { units });
    };
    let listed = Listed { base, bytes: index.bytes(0..index.len()) };
    let count = listed.count();
    let last = count.checked_sub(1).and_then(|last| listed.unit(last));
    let is_whole = |last: &CompactedUnit| {
        let record = bytes.get((last.position - base) as usize..).map(RecordView::parse);
        record.is_some_and(|record| {
            record.is_ok_and(|record| {
                record.queue_offset() == last.queue_offset && record.total_len() == last.size_bytes as usize
            })
        })
    };
    let is_sound = last.as_ref().is_none_or(is_whole);
    let end = last.filter(|_| is_sound).map_or(0, |last| (last.end() - base) as usize);
    if end > 0 && is_blank(bytes, end) {
        let ends = SealedEnds { log_end: end, units: count };
        return Ok(Found::Sound { segment: sealed(base, log, index, ends), writer: None });
    }
    if check == SegmentCheck::Whole || !is_sound {
        let Walked { units, end } = walk(bytes, 0, base, None);
        let agrees = units.len() == count && (0..count).all(|n| listed.unit(n) == units.get(n).copied());
        let rest = index.bytes(count * UNIT_BYTES..index.len());
        let ends_there = [&bytes[end..], rest].iter().all(|rest| rest.iter().all(|byte| *byte == 0));
        if !agrees || !ends_there {
            return Ok(Found::Torn { units });
        }
    }
    // What was written to the log and not to the index.
    let unlisted = walk(bytes, end, base, last.map(|last| last.queue_offset));
    let index_end = (count + unlisted.units.len()) * UNIT_BYTES;
    if index_end + UNIT_BYTES > index.len() {
        let units = walk(bytes, 0, base, None).units;
        return Ok(Found::Torn { units });
    }
    let log_end = unlisted.end.max(end);
    let (log, _) = log.into_halves(log_end);
    let (mut index, _) = index.into_halves(count * UNIT_BYTES);
    let text: Vec<u8> = unlisted.units.iter().flat_map(CompactedUnit::encode).collect();
    index.write(count * UNIT_BYTES, &text)?;
    index.publish(index_end);
    let writer = SegmentWriter::of(base, log, index);
    Ok(Found::Sound { segment: writer.segment(), writer: Some(writer) })
}

fn sealed(base: u64, log: MappedFile, index: MappedFile, ends: SealedEnds) -> Segment {
    let (log, index) = (log.into_halves(ends.log_end).1, index.into_halves(ends.units * UNIT_BYTES).1);
    Segment { base, sealed: Some(ends), log, index }
}

/// Whether a blank reaches from here to the end.
pub fn is_blank(bytes: &[u8], at: usize) -> bool {
    matches!(EntryHead::parse(&bytes[at..]), Ok(EntryHead::Blank { len }) if at + len == bytes.len())
}

/// The index as it lies there.
struct Listed<'a> {
    base: u64,
    bytes: &'a [u8],
}

impl Listed<'_> {
    fn unit(&self, number: usize) -> Option<CompactedUnit> {
        let unit = CompactedUnit::decode(self.bytes.get(number * UNIT_BYTES..)?)?;
        (unit.position >= self.base).then_some(unit)
    }

    /// Units from the beginning on.
    fn count(&self) -> usize {
        let (mut from, mut to) = (0, self.bytes.len() / UNIT_BYTES);
        while from < to {
            let middle = from + (to - from) / 2;
            if self.unit(middle).is_some() { from = middle + 1 } else { to = middle }
        }
        from
    }
}

/// Whole messages, one behind the other.
#[derive(Debug, Default)]
pub struct Walked {
    pub units: Vec<CompactedUnit>,
    /// Where the last of them ends in the file.
    pub end: usize,
}

/// The whole messages from `from` on, with numbers above `after`.
pub fn walk(bytes: &[u8], from: usize, base: u64, after: Option<QueueOffset>) -> Walked {
    let mut walked = Walked { units: Vec::new(), end: from };
    let mut after = after;
    while let Some(Ok(record)) = bytes.get(walked.end..).map(RecordView::parse) {
        let is_next = after.is_none_or(|after| record.queue_offset() > after);
        // No checksum covers the properties; those that were torn end in zeros, or lack their key.
        let is_whole =
            record.verify_crc().is_ok() && !record.properties().contains(&0) && key_of(&record).is_some();
        if !is_next || !is_whole {
            break;
        }
        after = Some(record.queue_offset());
        walked.units.push(CompactedUnit {
            position: base + walked.end as u64,
            size_bytes: record.total_len() as u32,
            tags_code: properties::tags_code(properties::get(record.properties(), property::TAGS)),
            stored_at_ms: record.stored_at_ms(),
            queue_offset: record.queue_offset(),
        });
        walked.end += record.total_len();
    }
    walked
}

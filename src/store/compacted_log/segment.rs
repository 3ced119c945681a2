//! One segment: a file with records and a file that says where each of them lies. Records follow each other as in the
//! commit log, and a blank fills the end:
//!
//! ```text
//! compactionLog/TOPIC/QUEUE/00000000000104857460    record │ record │ … │ blank │ zeros
//! compactionCq/TOPIC/QUEUE/00000000000104857460     unit   │ unit   │ … │ end mark │ zeros
//! ```
//!
//! The blank is written when everything before it is on disk: a segment that has one is sealed, and is believed.

use std::io;

use bytes::Bytes;

use super::dirs::{CompactedDirs, CompactedSizes, Part, create_sparse};
use super::unit::{CompactedUnit, UNIT_BYTES};
use crate::protocol::message::{EntryHead, HEAD_BYTES, RecordView};
use crate::protocol::properties::{self, names as property};
use crate::store::mapped_file::{MapReader, MapWriter};
use crate::types::QueueOffset;

/// What can be read of a segment. Cheap to clone; it stays readable when its files are replaced.
#[derive(Clone, Debug)]
pub struct Segment {
    pub base: u64,
    /// `None`: it is not sealed, and ends where its maps do.
    pub(super) sealed: Option<SealedEnds>,
    pub(super) log: MapReader,
    pub(super) index: MapReader,
}

/// Where the messages of a sealed segment end, before blank and end mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedEnds {
    pub(super) log_end: usize,
    pub(super) units: usize,
}

impl Segment {
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    pub fn units(&self) -> usize {
        self.sealed.map_or_else(|| self.index.published() / UNIT_BYTES, |ends| ends.units)
    }

    pub fn unit(&self, number: usize) -> Option<CompactedUnit> {
        let at = number * UNIT_BYTES;
        CompactedUnit::decode(self.index.bytes(at..at + UNIT_BYTES)?)
    }

    pub fn first(&self) -> Option<CompactedUnit> {
        self.unit(0)
    }

    pub fn last(&self) -> Option<CompactedUnit> {
        self.unit(self.units().checked_sub(1)?)
    }

    /// Number of the first unit that `is_before` is not true of; it must be true of all before that.
    pub fn search(&self, mut is_before: impl FnMut(&CompactedUnit) -> bool) -> usize {
        let (mut from, mut to) = (0, self.units());
        while from < to {
            let middle = from + (to - from) / 2;
            match self.unit(middle) {
                Some(unit) if is_before(&unit) => from = middle + 1,
                _ => to = middle,
            }
        }
        from
    }

    /// The bytes that a unit names.
    pub fn record(&self, unit: &CompactedUnit) -> Option<Bytes> {
        let at = usize::try_from(unit.position.checked_sub(self.base)?).ok()?;
        self.log.slice(at..at + unit.size_bytes as usize)
    }

    /// As [`record`](Self::record), in place, and only if it is the message that the unit means.
    pub fn view(&self, unit: &CompactedUnit) -> Option<RecordView<'_>> {
        let at = usize::try_from(unit.position.checked_sub(self.base)?).ok()?;
        let record = RecordView::parse(self.log.bytes(at..at + unit.size_bytes as usize)?).ok()?;
        (record.queue_offset() == unit.queue_offset).then_some(record)
    }

    /// Bytes of messages.
    pub fn used_bytes(&self) -> u64 {
        self.sealed.map_or_else(|| self.log.published(), |ends| ends.log_end) as u64
    }

    /// Length of the file that holds them.
    pub fn len_bytes(&self) -> u64 {
        self.log.len() as u64
    }

    /// Makes what it holds durable; waits for the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.log.flush(0..self.log.published())?;
        self.index.flush(0..self.index.published())
    }
}

/// The write half of a segment.
#[derive(Debug)]
pub struct SegmentWriter {
    base: u64,
    log: MapWriter,
    index: MapWriter,
}

/// One message to be appended.
#[derive(Clone, Debug)]
pub struct KeyedRecord {
    pub record: Bytes,
    pub queue_offset: QueueOffset,
    pub tags_code: i64,
    pub stored_at_ms: i64,
}

impl SegmentWriter {
    /// Makes the files of a segment that begins at `base`, long enough for a record of `first_len`.
    pub fn create(
        dirs: &CompactedDirs,
        path: impl Fn(&CompactedDirs, Part) -> std::path::PathBuf,
        base: u64,
        sizes: CompactedSizes,
        first_len: usize,
    ) -> io::Result<Self> {
        let len = sizes.segment_bytes.max((first_len + HEAD_BYTES) as u64);
        let log_path = path(dirs, Part::Log);
        let log = create_sparse(&*dirs.files, &log_path, len)?;
        let index = create_sparse(&*dirs.files, &path(dirs, Part::Index), sizes.index_bytes);
        let index = index.inspect_err(|_| {
            // The first error is the one to report; a log without an index is known as such at the next start.
            let _ = dirs.files.remove_file(&log_path);
        })?;
        Ok(Self { base, log: log.into_halves(0).0, index: index.into_halves(0).0 })
    }

    /// Of halves of files that exist.
    pub(super) fn of(base: u64, log: MapWriter, index: MapWriter) -> Self {
        Self { base, log, index }
    }

    /// Anew over the files of a segment, with maps of its own, to seal it while others read it.
    pub fn reopen(dirs: &CompactedDirs, segment: &Segment) -> io::Result<Self> {
        let open = |part| dirs.files.open_map(&dirs.path(part, segment.base));
        let log = open(Part::Log)?.into_halves(segment.log.published()).0;
        let index = open(Part::Index)?.into_halves(segment.index.published()).0;
        Ok(Self { base: segment.base, log, index })
    }

    /// The read half.
    pub fn segment(&self) -> Segment {
        Segment { base: self.base, sealed: None, log: self.log.reader(), index: self.index.reader() }
    }

    /// Where the next segment begins.
    pub fn next_base(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    fn fits(&self, log_end: usize, index_end: usize, len: usize) -> bool {
        // As in Java: there is always room for a blank, and for an end mark.
        log_end + len + HEAD_BYTES <= self.log.len() && index_end + UNIT_BYTES < self.index.len()
    }

    /// Appends as many of `records` as there is room for, all of them visible at once, and returns how many. After an
    /// error none is.
    pub fn append(&mut self, records: &[KeyedRecord]) -> io::Result<usize> {
        let (log_begin, index_begin) = (self.log.published(), self.index.published());
        let (mut bytes, mut units) = (Vec::new(), Vec::new());
        let mut count = 0;
        for keyed in records {
            let at = log_begin + bytes.len();
            if !self.fits(at, index_begin + units.len(), keyed.record.len()) {
                break;
            }
            let unit = CompactedUnit {
                position: self.base + at as u64,
                size_bytes: keyed.record.len() as u32,
                tags_code: keyed.tags_code,
                stored_at_ms: keyed.stored_at_ms,
                queue_offset: keyed.queue_offset,
            };
            // A copy: the message lives on when its segment of the commit log does not.
            bytes.extend_from_slice(&keyed.record);
            units.extend_from_slice(&unit.encode());
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        self.log.write(log_begin, &bytes)?;
        self.index.write(index_begin, &units)?;
        self.log.publish(log_begin + bytes.len());
        self.index.publish(index_begin + units.len());
        Ok(count)
    }

    /// Makes what it holds durable, and then says so by a blank. Nobody else may have a read half of these maps.
    pub fn seal(mut self) -> io::Result<Segment> {
        let mut segment = self.segment();
        segment.sync()?;
        let (log_end, index_end) = (self.log.published(), self.index.published());
        let mut blank = [0; HEAD_BYTES];
        EntryHead::put_blank(&mut blank, self.log.len() - log_end);
        self.log.write(log_end, &blank)?;
        self.index.write(index_end, &CompactedUnit::end_mark())?;
        self.log.publish(log_end + HEAD_BYTES);
        self.index.publish(index_end + UNIT_BYTES);
        segment.sync()?;
        segment.sealed = Some(SealedEnds { log_end, units: index_end / UNIT_BYTES });
        Ok(segment)
    }
}

/// What a message is known by. RocketMQ: the whole text of its property KEYS.
pub fn key_of<'a>(record: &RecordView<'a>) -> Option<&'a str> {
    properties::get(record.properties(), property::KEYS).filter(|key| !key.trim().is_empty())
}

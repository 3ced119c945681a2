//! The latest messages of one queue by key: what a topic with `cleanup.policy=COMPACTION` keeps.
//!
//! Messages are copied here from the commit log, byte for byte and in the order of their queue, so that they outlive
//! it. Those that are not the latest of their key go when their segment is rewritten (`rewrite.rs`); the segment that is
//! appended to is left as it is. Queue offsets stay, so a queue has gaps.
//!
//! The files are those of a Java broker, which reads them, as this reads Java's (`CompactionStore`, `CompactionLog`).
//! What the commit log still has is derived from it and can be copied again; what it has no longer is kept here alone.

mod dirs;
mod latest_keys;
mod opening;
mod pull;
mod rewrite;
mod segment;
mod swap;
mod unit;
mod verify;
mod work;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
pub use dirs::{COMPACTION_DIR, CompactedDirs, CompactedSizes, INDEX_DIR, LOG_DIR, Part};
use opening::Found;
pub use opening::SegmentCheck;
pub use pull::pull_compacted;
pub use rewrite::{Rewrite, Rewritten};
use segment::SegmentWriter;
pub use segment::{KeyedRecord, Segment, key_of};
use swap::Swap;
use tracing::warn;
pub use unit::CompactedUnit;
pub use verify::{CompactedReport, verify_compacted};
use work::WorkWriter;

use super::consume_queue::TimeBoundary;
use crate::types::QueueOffset;

/// Why a compacted log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum CompactedError {
    #[error("cannot use compacted segments in {}: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
    #[error("compacted segment {} begins at message {first}, but the one before it ends with {last}; with both away, what the commit log still has is copied again", path.display())]
    Overlap { path: PathBuf, first: QueueOffset, last: QueueOffset },
}

/// What of a queue the commit log has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueBounds {
    pub log_from: QueueOffset,
    /// The number its next message gets; `None`: not known.
    pub end: Option<QueueOffset>,
}

/// See the [module](self). One owner appends.
#[derive(Debug)]
pub struct CompactedLog {
    dirs: CompactedDirs,
    sizes: CompactedSizes,
    /// Oldest first.
    segments: Vec<Segment>,
    /// Of the last segment, while there is room.
    writer: Option<SegmentWriter>,
    copied_to: QueueOffset,
    /// What is remembered of it can be true up to here: it was there, whole, when it was opened.
    remembered_to: Option<QueueOffset>,
}

impl CompactedLog {
    /// Opens what there is. Messages that are not in the queue go: the commit log has lost them.
    pub fn open(
        dirs: CompactedDirs,
        sizes: CompactedSizes,
        check: SegmentCheck,
        queue: QueueBounds,
    ) -> Result<Self, CompactedError> {
        let at = dirs.dir(Part::Log).to_owned();
        let loaded = load(&dirs, sizes, check, queue).map_err(|source| io_error(&at, source))?;
        let Loaded { segments, writer, is_whole } = loaded;
        let mut last = None;
        for segment in &segments {
            let first = segment.first().map(|unit| unit.queue_offset);
            if let (Some(first), Some(last)) = (first, last)
                && first <= last
            {
                return Err(CompactedError::Overlap {
                    path: dirs.path(Part::Log, segment.base),
                    first,
                    last,
                });
            }
            last = segment.last().map(|unit| unit.queue_offset).or(last);
        }
        let copied_to = last.map_or(QueueOffset(0), |last| last.advance(1));
        let remembered_to = last.filter(|_| is_whole);
        Ok(Self { dirs, sizes, segments, writer, copied_to, remembered_to })
    }

    /// The first message that is there.
    pub fn min_offset(&self) -> Option<QueueOffset> {
        self.segments.iter().find_map(Segment::first).map(|unit| unit.queue_offset)
    }

    /// Every message before this one was copied, or has gone since.
    pub fn copied_to(&self) -> QueueOffset {
        self.copied_to
    }

    /// Messages before `offset` are not to be copied: they have no key, or are lost.
    pub fn pass(&mut self, offset: QueueOffset) {
        self.copied_to = self.copied_to.max(offset);
    }

    /// Messages that are there.
    pub fn records(&self) -> usize {
        self.segments.iter().map(Segment::units).sum()
    }

    pub fn used_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::used_bytes).sum()
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub fn dirs(&self) -> &CompactedDirs {
        &self.dirs
    }

    pub fn sizes(&self) -> CompactedSizes {
        self.sizes
    }

    /// Appends messages behind those that are there; their numbers rise. After an error a part of them may be there.
    pub fn append(&mut self, mut records: &[KeyedRecord]) -> Result<(), CompactedError> {
        while let Some(first) = records.first() {
            debug_assert!(first.queue_offset >= self.copied_to, "messages are copied once, in order");
            let at = self.dirs.dir(Part::Log);
            let appended = match &mut self.writer {
                Some(writer) => writer.append(records).map_err(|source| io_error(at, source))?,
                None => 0,
            };
            if let Some(last) = records[..appended].last() {
                self.copied_to = last.queue_offset.advance(1);
            } else {
                self.roll(first.record.len())?;
            }
            records = &records[appended..];
        }
        Ok(())
    }

    fn roll(&mut self, first_len: usize) -> Result<(), CompactedError> {
        let base = self.next_base();
        let dirs = &self.dirs;
        let path = |dirs: &CompactedDirs, part: Part| dirs.path(part, base);
        let writer =
            dirs.create().and_then(|()| SegmentWriter::create(dirs, path, base, self.sizes, first_len));
        let writer = writer.map_err(|source| io_error(dirs.dir(Part::Log), source))?;
        self.segments.push(writer.segment());
        self.writer = Some(writer);
        Ok(())
    }

    fn next_base(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.base + last.len_bytes())
    }

    /// The segments that can be rewritten, and where the first behind them begins.
    pub fn closed(&self) -> (Vec<Segment>, u64) {
        // The newest stays, and with it the last message: by that a start knows what is copied.
        match self.segments.split_last() {
            Some((newest, closed)) => (closed.to_vec(), newest.base),
            None => (Vec::new(), 0),
        }
    }

    /// Whether it can be that it was compacted up to `position`. A topic of its name may have been, before this one; and
    /// where messages were copied again, those are to be looked at again.
    pub fn can_be_compacted_to(&self, position: QueueOffset) -> bool {
        self.remembered_to.is_some_and(|remembered_to| position <= remembered_to)
    }

    /// Puts what a rewriting has made in the place of what it was made of.
    pub fn replace(&mut self, rewritten: Vec<Segment>, boundary: u64) {
        self.remembered_to = Some(QueueOffset(u64::MAX));
        let behind = self.segments.iter().position(|segment| segment.base >= boundary);
        let replaced = behind.unwrap_or(self.segments.len());
        self.segments.splice(..replaced, rewritten);
    }

    /// Shows `look` the messages from `from` on, in order, until it breaks.
    pub fn walk(&self, from: QueueOffset, mut look: impl FnMut(&Segment, CompactedUnit) -> ControlFlow<()>) {
        let begins = self
            .segments
            .partition_point(|segment| segment.last().is_none_or(|last| last.queue_offset < from));
        for segment in &self.segments[begins..] {
            let first = segment.search(|unit| unit.queue_offset < from);
            for unit in (first..segment.units()).filter_map(|number| segment.unit(number)) {
                if look(segment, unit).is_break() {
                    return;
                }
            }
        }
    }

    /// The messages from `from` on, up to `max` of them.
    pub fn read(&self, from: QueueOffset, max: usize) -> Vec<Bytes> {
        let mut records = Vec::new();
        self.walk(from, |segment, unit| {
            if records.len() == max {
                return ControlFlow::Break(());
            }
            records.extend(segment.view(&unit).and_then(|_| segment.record(&unit)));
            ControlFlow::Continue(())
        });
        records
    }

    /// The first message at or behind `from`.
    pub fn first_from(&self, from: QueueOffset) -> Option<CompactedUnit> {
        let mut first = None;
        self.walk(from, |_, unit| {
            first = Some(unit);
            ControlFlow::Break(())
        });
        first
    }

    /// The message a time stands for; `None` when it is none that is copied, but what lies behind (LOWER) or before (UPPER).
    pub fn offset_by_time(&self, timestamp_ms: i64, boundary: TimeBoundary) -> Option<QueueOffset> {
        let is_before = |unit: &CompactedUnit| match boundary {
            TimeBoundary::Lower => unit.stored_at_ms < timestamp_ms,
            TimeBoundary::Upper => unit.stored_at_ms <= timestamp_ms,
        };
        let after =
            self.segments.partition_point(|segment| segment.last().is_none_or(|last| is_before(&last)));
        let number = self.segments.get(after).map(|segment| segment.search(is_before));
        let found = match (boundary, number) {
            (TimeBoundary::Lower, Some(number)) => self.segments[after].unit(number),
            (TimeBoundary::Upper, Some(number)) if number > 0 => self.segments[after].unit(number - 1),
            (TimeBoundary::Upper, _) => self.segments[..after].iter().rev().find_map(Segment::last),
            (TimeBoundary::Lower, None) => None,
        };
        found.map(|unit| unit.queue_offset)
    }

    /// Removes its files.
    pub fn destroy(self) -> io::Result<()> {
        self.dirs.remove_all()
    }
}

impl KeyedRecord {
    /// The message of a unit, to be written again.
    fn of(unit: &CompactedUnit, record: Bytes) -> Self {
        let CompactedUnit { queue_offset, tags_code, stored_at_ms, .. } = *unit;
        Self { record, queue_offset, tags_code, stored_at_ms }
    }
}

/// What the files of a log hold.
struct Loaded {
    segments: Vec<Segment>,
    writer: Option<SegmentWriter>,
    is_whole: bool,
}

/// What of the files is whole and in the queue.
fn load(
    dirs: &CompactedDirs,
    sizes: CompactedSizes,
    check: SegmentCheck,
    queue: QueueBounds,
) -> io::Result<Loaded> {
    swap::finish(dirs)?;
    let bases = dirs.bases(Part::Log)?;
    for base in dirs.bases(Part::Index)?.into_iter().filter(|base| !bases.contains(base)) {
        let path = dirs.path(Part::Index, base);
        warn!(path = %path.display(), "index of a compacted segment that is not there is removed");
        dirs.files.remove_file(&path)?;
    }
    let is_below = |unit: &CompactedUnit| queue.end.is_none_or(|end| unit.queue_offset < end);
    let (mut segments, mut writer, mut torn, mut gone) = (Vec::new(), None, Vec::new(), Vec::new());
    // The first message that may be missing.
    let mut next = queue.log_from;
    for base in bases {
        let found = opening::look(dirs, base, check)?;
        let (first, is_sealed) = match &found {
            Found::Empty => (None, false),
            Found::Sound { segment, .. } => (segment.first(), segment.is_sealed()),
            Found::Torn { units, .. } => (units.first().copied(), false),
        };
        let Some(first) = first.filter(is_below) else {
            gone.push(base);
            continue;
        };
        // What was lost before it is copied again from the log, and then it has to be as well.
        let follows = first.queue_offset <= next || next < queue.log_from;
        if check == SegmentCheck::Whole && !is_sealed && !follows {
            gone.push(base);
            continue;
        }
        let units = match found {
            Found::Sound { segment, writer: own } => {
                let last = segment.last().unwrap_or(first);
                if is_below(&last) {
                    next = last.queue_offset.advance(1);
                    segments.push(segment);
                    writer = own;
                    continue;
                }
                (0..segment.units()).filter_map(|number| segment.unit(number)).collect()
            }
            Found::Torn { units, .. } => units,
            Found::Empty => Vec::new(),
        };
        let units: Vec<CompactedUnit> = units.into_iter().take_while(is_below).collect();
        next = units.last().map_or(next, |last| last.queue_offset.advance(1));
        torn.push((base, units));
    }
    if torn.is_empty() && gone.is_empty() {
        return Ok(Loaded { segments, writer, is_whole: true });
    }

    // Written anew rather than cut, so that nothing behind the end can ever be taken for a message.
    swap::prepare(dirs)?;
    let mut swap = Swap { go: gone, come: Vec::new() };
    for (base, units) in torn {
        let path = dirs.path(Part::Log, base);
        warn!(path = %path.display(), messages = units.len(), "compacted segment is written anew, without what is not whole or not in the queue");
        let log = dirs.files.open_map(&path)?;
        let sizes = CompactedSizes {
            segment_bytes: log.len() as u64,
            index_bytes: sizes.index_bytes.max((units.len() as u64 + 2) * unit::UNIT_BYTES as u64),
        };
        let mut work = WorkWriter::new(dirs, sizes, base, u64::MAX);
        for unit in &units {
            let at = (unit.position - base) as usize;
            let record = Bytes::copy_from_slice(log.bytes(at..at + unit.size_bytes as usize));
            work.push(KeyedRecord::of(unit, record))?;
        }
        swap.go.push(base);
        for segment in work.finish()? {
            swap.come.push(segment.base);
            segments.push(segment);
        }
    }
    swap::commit(dirs, &swap)?;
    segments.sort_by_key(|segment| segment.base);
    let is_newest =
        |writer: &SegmentWriter| segments.last().is_some_and(|last| last.base == writer.segment().base);
    let writer = writer.filter(is_newest);
    Ok(Loaded { segments, writer, is_whole: false })
}

fn io_error(dir: &Path, source: io::Error) -> CompactedError {
    CompactedError::Io { dir: dir.to_owned(), source }
}

#[cfg(test)]
mod tests;

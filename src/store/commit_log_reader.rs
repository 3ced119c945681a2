//! The read half of the commit log: cheap to clone, sees `[min_offset, published)`.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::damage::{DamagedEntry, Place, SegmentBytes};
use super::mapped_file::MapReader;
use super::segment::{SegmentDir, SegmentError};
use crate::clock::WallMs;
use crate::kill_point;
use crate::protocol::message::{EntryHead, RecordError, RecordView};
use crate::types::PhysicalOffset;

/// Bytes in the log that should be an entry and are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("commit log is damaged at {offset}")]
pub struct LogDamage {
    pub offset: PhysicalOffset,
    pub source: RecordError,
}

/// One file of the log, for retention.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    pub base: PhysicalOffset,
    pub len_bytes: u64,
    pub modified_at: WallMs,
    pub path: PathBuf,
}

/// What both halves share; the appender alone changes it.
#[derive(Debug)]
pub(super) struct SharedLog {
    pub dir: SegmentDir,
    pub segments: ArcSwap<SegmentList>,
    pub published: AtomicU64,
    /// Names have changed since the directory was last synced.
    pub names_unsynced: AtomicBool,
    /// A prepared segment waits for the appender.
    pub segment_waits: AtomicBool,
}

/// Read halves of all segments; they follow each other without a gap and have one length.
#[derive(Clone, Debug)]
pub(super) struct SegmentList {
    pub first: PhysicalOffset,
    pub segment_bytes: u64,
    pub maps: Vec<MapReader>,
}

impl SegmentList {
    /// The segment of `offset`: its number in the list, its base, and the position within it.
    fn locate(&self, offset: PhysicalOffset) -> Option<Located<'_>> {
        let from_first = offset.0.checked_sub(self.first.0)?;
        let index = (from_first / self.segment_bytes) as usize;
        let map = self.maps.get(index)?;
        let base = self.base(index);
        Some(Located { map, base, position: (offset.0 - base.0) as usize })
    }

    /// Everything from `from` to `end` or the end of the segment; `None` when that is nothing.
    pub fn bytes_between(&self, from: PhysicalOffset, end: PhysicalOffset) -> Option<&[u8]> {
        entry_bytes(&self.locate(from)?, end)
    }

    pub fn base(&self, index: usize) -> PhysicalOffset {
        self.first.advance(index as u64 * self.segment_bytes)
    }
}

struct Located<'a> {
    map: &'a MapReader,
    base: PhysicalOffset,
    position: usize,
}

/// Reads what is published; clones read the same log.
#[derive(Clone, Debug)]
pub struct CommitLogReader {
    pub(super) shared: Arc<SharedLog>,
}

impl CommitLogReader {
    /// End of what may be read.
    pub fn published(&self) -> PhysicalOffset {
        PhysicalOffset(self.shared.published.load(Ordering::Acquire))
    }

    /// First byte that is still there.
    pub fn min_offset(&self) -> PhysicalOffset {
        self.shared.segments.load().first
    }

    /// Length of every segment.
    pub fn segment_bytes(&self) -> u64 {
        self.shared.dir.segment_bytes
    }

    /// The `len` bytes at `offset`, as a slice of the map. `None` when they are deleted, not published, or
    /// not all in one segment.
    pub fn read(&self, offset: PhysicalOffset, len: usize) -> Option<Bytes> {
        if offset.0.checked_add(len as u64)? > self.published().0 {
            return None;
        }
        let segments = self.shared.segments.load();
        let Located { map, position, .. } = segments.locate(offset)?;
        map.slice(position..position + len)
    }

    /// Whatever is published from `offset` on, up to `max_len` bytes and the end of its segment; for
    /// replication. `None` when `offset` is deleted or nothing is there yet.
    pub fn read_up_to(&self, offset: PhysicalOffset, max_len: usize) -> Option<Bytes> {
        let published = self.published();
        let segments = self.shared.segments.load();
        let Located { map, base, position } = segments.locate(offset)?;
        let end = (published.0.checked_sub(base.0)? as usize).min(map.len()).min(position + max_len);
        if position >= end { None } else { map.slice(position..end) }
    }

    /// The record at `offset`, whole. `None` when there is none.
    pub fn read_record(&self, offset: PhysicalOffset) -> Option<Bytes> {
        let len = self.with_record(offset, |record| record.total_len())?;
        self.read(offset, len)
    }

    /// Lets `look` see the record at `offset` in place. `None` when there is none.
    pub fn with_record<T>(
        &self,
        offset: PhysicalOffset,
        look: impl FnOnce(RecordView<'_>) -> T,
    ) -> Option<T> {
        let published = self.published();
        let segments = self.shared.segments.load();
        let located = segments.locate(offset)?;
        RecordView::parse(entry_bytes(&located, published)?).ok().map(look)
    }

    /// When the record at `offset` was stored.
    pub fn store_time_at(&self, offset: PhysicalOffset) -> Option<WallMs> {
        self.with_record(offset, |record| WallMs(record.stored_at_ms()))
    }

    /// Shows `look` every record from `from` on, until the published position or until `max_bytes` are
    /// passed, and returns where to go on. Steps over blanks; begins at the minimum if `from` is deleted.
    pub fn for_each_record(
        &self,
        from: PhysicalOffset,
        max_bytes: u64,
        mut look: impl FnMut(PhysicalOffset, RecordView<'_>),
    ) -> Result<PhysicalOffset, LogDamage> {
        self.walk_records(from, max_bytes, |offset, record| {
            look(offset, record);
            ControlFlow::Continue(())
        })
    }

    /// As [`for_each_record`](Self::for_each_record), until `look` breaks: then the way goes on with that record.
    pub fn walk_records(
        &self,
        from: PhysicalOffset,
        max_bytes: u64,
        mut look: impl FnMut(PhysicalOffset, RecordView<'_>) -> ControlFlow<()>,
    ) -> Result<PhysicalOffset, LogDamage> {
        let published = self.published();
        let segments = self.shared.segments.load();
        let start = from.max(segments.first);
        let mut offset = start;
        while offset < published && offset.0 - start.0 < max_bytes {
            let Some(located) = segments.locate(offset) else { break };
            let Some(bytes) = entry_bytes(&located, published) else { break };
            let damage = |source| LogDamage { offset, source };
            match EntryHead::parse(bytes).map_err(damage)? {
                EntryHead::Blank { .. } => offset = located.base.advance(segments.segment_bytes),
                EntryHead::Record { len } => {
                    if look(offset, RecordView::parse(bytes).map_err(damage)?).is_break() {
                        break;
                    }
                    offset = offset.advance(len as u64);
                }
            }
        }
        Ok(offset)
    }

    /// Where reading goes on behind the damaged entry at `offset`: at the next whole record, or where there is none
    /// at the next segment or the published position.
    pub fn pass_damage(&self, LogDamage { offset, source }: LogDamage) -> DamagedEntry {
        let published = self.published();
        let segments = self.shared.segments.load();
        let behind = segments.locate(offset).and_then(|located| {
            let from = located.base;
            let bytes = segments.bytes_between(from, published)?;
            let segment_len = segments.segment_bytes as usize;
            let segment = SegmentBytes { base: from, bytes, segment_len, not_before: WallMs(i64::MIN) };
            let next_segment = from.advance(segments.segment_bytes).min(published);
            let next = segment.next_whole(located.position);
            Some(next.map_or(next_segment, |position| from.advance(position as u64)))
        });
        let next = behind.unwrap_or(published);
        DamagedEntry { at: offset, next, place: self.place_of(offset), source }
    }

    /// The file that holds `offset`, and where in it.
    pub fn place_of(&self, offset: PhysicalOffset) -> Place {
        let at_byte = offset.0 % self.segment_bytes();
        Place { path: self.shared.dir.path(PhysicalOffset(offset.0 - at_byte)), at_byte }
    }

    /// Makes `[from, to)` durable, and the names of its files. Called beside the appender's writes.
    pub fn flush(&self, from: PhysicalOffset, to: PhysicalOffset) -> Result<(), SegmentError> {
        self.for_each_part(from, to, |base, map, range| {
            let flushed = kill_point::fail("log.flush").and_then(|()| map.flush(range));
            flushed.map_err(|source| SegmentError::Io { path: self.shared.dir.path(base), source })
        })?;
        if self.shared.names_unsynced.swap(false, Ordering::AcqRel) {
            let synced = self.shared.dir.sync();
            if synced.is_err() {
                self.shared.names_unsynced.store(true, Ordering::Release);
            }
            return synced;
        }
        Ok(())
    }

    /// Has the disk begin with `[from, to)`, so that a [`flush`](Self::flush) has less to wait for. Promises nothing. An
    /// error is as one of a flush: no later one need tell of it.
    pub fn begin_write(&self, from: PhysicalOffset, to: PhysicalOffset) -> Result<(), SegmentError> {
        self.for_each_part(from, to, |base, map, range| {
            map.begin_write(range)
                .map_err(|source| SegmentError::Io { path: self.shared.dir.path(base), source })
        })
    }

    /// Whether the disk has done what was begun of `[from, to)`; true where nobody can tell.
    pub fn is_written(&self, from: PhysicalOffset, to: PhysicalOffset) -> bool {
        self.for_each_part(from, to, |_, map, range| map.is_written(range).then_some(()).ok_or(())).is_ok()
    }

    /// What the segments have of `[from, to)`, oldest first, until `part` fails.
    fn for_each_part<E>(
        &self,
        from: PhysicalOffset,
        to: PhysicalOffset,
        mut part: impl FnMut(PhysicalOffset, &MapReader, Range<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        let segments = self.shared.segments.load_full();
        let mut at = from.max(segments.first);
        while let Some(located) = (at < to).then(|| segments.locate(at)).flatten() {
            let end = ((to.0 - located.base.0) as usize).min(located.map.published());
            if located.position < end {
                part(located.base, located.map, located.position..end)?;
            }
            at = located.base.advance(segments.segment_bytes);
        }
        Ok(())
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Result<Vec<SegmentInfo>, SegmentError> {
        let list = self.shared.segments.load_full();
        let mut infos = Vec::with_capacity(list.maps.len());
        for index in 0..list.maps.len() {
            let base = list.base(index);
            let path = self.shared.dir.path(base);
            match self.shared.dir.files.stat(&path) {
                Ok(Some(stat)) => {
                    let (len_bytes, modified_at) = (stat.len_bytes, stat.modified_at);
                    infos.push(SegmentInfo { base, len_bytes, modified_at, path });
                }
                Ok(None) => {} // deleted since the list was loaded
                Err(source) => return Err(SegmentError::Io { path, source }),
            }
        }
        Ok(infos)
    }
}

/// Everything below `published` from the located position to the end of its segment; `None` when that is
/// nothing.
fn entry_bytes<'a>(located: &Located<'a>, published: PhysicalOffset) -> Option<&'a [u8]> {
    let end = (published.0.checked_sub(located.base.0)? as usize).min(located.map.len());
    if located.position >= end { None } else { located.map.bytes(located.position..end) }
}

//! The commit log: every message of every topic, one behind the other, in segments of one length.
//!
//! ```text
//!  segment 0                          segment 1
//!  │ record │ record │ … │ blank ···· │ record │ record │ 0 0 0 …
//!                          8 bytes, then undefined      └ published
//! ```
//!
//! A record never crosses a segment, and leaves room for the blank behind it: it is placed where its
//! length + 8 fits. [`CommitLogAppender`] is the write half and has no twin; [`CommitLogReader`] sees what
//! is published; [`SegmentPreparer`] makes the next segment on another thread, ahead of need.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arc_swap::ArcSwap;
use tracing::{info, warn};

pub use super::commit_log_reader::{CommitLogReader, LogDamage, SegmentInfo};
use super::commit_log_reader::{SegmentList, SharedLog};
use super::mapped_file::MapWriter;
use super::retired_segments::RetiredSegments;
use super::segment::{MadeSegment, Segment, SegmentDir, SegmentError};
use crate::clock::WallMs;
use crate::kill_point;
use crate::protocol::message::{EntryHead, HEAD_BYTES, PendingMessage, RecordError, RecordView};
use crate::protocol::properties::MAX_PROPERTIES_BYTES;
use crate::types::{PhysicalOffset, QueueOffset};

/// Longest topic a record can hold, bytes: a V2 length is a signed 16-bit number.
pub const MAX_TOPIC_BYTES: usize = i16::MAX as usize;

/// What is gathered before it is written, bytes: it stays in the cache of one core.
const GATHER_BYTES: usize = 256 * 1024;

/// The largest page that a machine has.
const PAGE_BYTES: usize = 64 * 1024;
/// How far the log is zeroed further, bytes, while the disk has nothing to do,
const ZERO_AT_REST_BYTES: usize = 512 * 1024;
/// and at how many bytes of zeros left.
const ZEROS_LEFT_BYTES: usize = 256 * 1024;
/// How far the log is zeroed ahead when each write is flushed, bytes, where it was not at rest.
const ZERO_AHEAD_BYTES: usize = 1024 * 1024;
static ZEROS: [u8; ZERO_AHEAD_BYTES] = [0; ZERO_AHEAD_BYTES];

/// Why nothing was stored. After every one of them the log is usable; [`AppendError::Write`] takes back whatever
/// was not written yet, see [`CommitLogAppender::end`].
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("topic has {len_bytes} bytes")]
    TopicTooLong { len_bytes: usize },
    #[error("properties have {len_bytes} bytes")]
    PropertiesTooLong { len_bytes: usize },
    #[error("batch of {len_bytes} bytes does not fit a segment")]
    TooLarge { len_bytes: usize },
    #[error("disk is full, no new segment")]
    DiskFull,
    #[error("cannot begin a new segment")]
    Segment { source: SegmentError },
    #[error("cannot write to segment {base}")]
    Write { base: PhysicalOffset, source: io::Error },
    #[error("raw bytes begin at {found}, the log ends at {expected}")]
    NotAtEnd { expected: PhysicalOffset, found: PhysicalOffset },
}

/// Where a batch went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    /// First byte of the first record.
    pub start: PhysicalOffset,
    /// Behind the last record.
    pub end: PhysicalOffset,
    /// First byte of each record.
    pub positions: Vec<PhysicalOffset>,
    pub stored_at: WallMs,
}

/// Where an opened log goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogTail {
    /// Behind the last entry.
    pub end: PhysicalOffset,
    /// Where the last record begins; `None` in an empty log.
    pub last_record: Option<PhysicalOffset>,
    /// Store time of the last record.
    pub last_stored_at: WallMs,
}

/// The write half of the commit log. Records are gathered in memory and written together: by
/// [`publish`](Self::publish), or before that when they are many.
#[derive(Debug)]
pub struct CommitLogAppender {
    shared: Arc<SharedLog>,
    current: MapWriter,
    current_base: PhysicalOffset,
    tail: LogTail,
    /// Records behind `written`, all of the present segment.
    gathered: Vec<u8>,
    /// The tail of what is in the file.
    written: LogTail,
    /// See [`zero_ahead`](Self::zero_ahead).
    zeroes_ahead: bool,
    /// Up to this position of the present segment its blocks have been written before.
    zeroed_to: usize,
    prepared: Receiver<MadeSegment>,
}

/// Makes the next segment while the appender fills the present one.
#[derive(Debug)]
pub struct SegmentPreparer {
    dir: SegmentDir,
    prepared: SyncSender<MadeSegment>,
}

impl SegmentPreparer {
    /// Makes a segment unless one is waiting already; returns whether it did.
    pub fn prepare_next(&mut self, reader: &CommitLogReader) -> Result<bool, SegmentError> {
        if reader.shared.segment_waits.load(Ordering::Acquire) {
            return Ok(false);
        }
        let made = self.dir.make("prepared")?;
        reader.shared.segment_waits.store(true, Ordering::Release);
        // The channel holds one, and the flag has told that it is empty; without an appender it is closed.
        Ok(self.prepared.try_send(made).is_ok())
    }
}

/// The three parts of an open log.
#[derive(Debug)]
pub struct CommitLog {
    pub appender: CommitLogAppender,
    pub reader: CommitLogReader,
    pub preparer: SegmentPreparer,
}

impl CommitLog {
    /// Puts the loaded segments to work. `tail` comes from [`recovery`](super::recovery), which leaves
    /// no segment behind it.
    pub fn start(dir: SegmentDir, mut segments: Vec<Segment>, tail: LogTail) -> Result<Self, SegmentError> {
        let is_new = segments.is_empty();
        if is_new {
            segments.push(dir.install(dir.make("writer")?, floor(tail.end, dir.segment_bytes))?);
            dir.sync()?;
        }
        let first = segments[0].base;
        let mut maps = Vec::with_capacity(segments.len());
        let mut current = None;
        for Segment { base, file } in segments {
            let end = tail.end.0.saturating_sub(base.0).min(dir.segment_bytes);
            let (writer, reader) = file.into_halves(end as usize);
            maps.push(reader);
            current = Some((base, writer));
        }
        let (current_base, current) = current.expect("a segment was pushed if there was none");
        let segments = SegmentList { first, segment_bytes: dir.segment_bytes, maps };
        let shared = Arc::new(SharedLog {
            dir: dir.clone(),
            segments: ArcSwap::from_pointee(segments),
            published: AtomicU64::new(tail.end.0),
            names_unsynced: AtomicBool::new(false),
            segment_waits: AtomicBool::new(false),
        });
        let (sender, prepared) = sync_channel(1);
        Ok(Self {
            reader: CommitLogReader { shared: Arc::clone(&shared) },
            appender: CommitLogAppender {
                shared,
                current,
                current_base,
                tail,
                gathered: Vec::new(),
                written: tail,
                zeroes_ahead: false,
                zeroed_to: 0,
                prepared,
            },
            preparer: SegmentPreparer { dir, prepared: sender },
        })
    }
}

impl CommitLogAppender {
    /// End of the log, published or not. An error of [`publish`](Self::publish) or of an append may move it back:
    /// what was appended beyond it since the last publication is not stored.
    pub fn end(&self) -> PhysicalOffset {
        self.tail.end
    }

    /// End, last record and its time, for the check point of a clean stop.
    pub fn tail(&self) -> LogTail {
        self.tail
    }

    pub fn reader(&self) -> CommitLogReader {
        CommitLogReader { shared: Arc::clone(&self.shared) }
    }

    /// Writes messages of one queue with consecutive queue offsets, all into one segment. Readers see them
    /// after [`publish`](Self::publish). The store time is `now`, or that of the last record if it is later.
    pub fn append(
        &mut self,
        messages: &[PendingMessage],
        first_queue_offset: QueueOffset,
        now: WallMs,
    ) -> Result<Appended, AppendError> {
        let mut len_bytes = 0;
        for message in messages {
            check_lengths(message)?;
            len_bytes += message.record_len();
        }
        self.make_room(len_bytes)?;

        let stored_at = now.max(self.tail.last_stored_at);
        let start = self.tail.end;
        let mut positions = Vec::with_capacity(messages.len());
        let mut at = start;
        for (message, queue_offset) in messages.iter().zip(first_queue_offset.0..) {
            let begin = self.gathered.len();
            self.gathered.resize(begin + message.record_len(), 0);
            message.encode_into(&mut self.gathered[begin..], QueueOffset(queue_offset), at, stored_at);
            positions.push(at);
            at = at.advance((self.gathered.len() - begin) as u64);
        }
        let end = at;
        let last_record = positions.last().copied().or(self.tail.last_record);
        self.tail = LogTail { end, last_record, last_stored_at: stored_at };
        if self.gathered.len() >= GATHER_BYTES {
            self.write_gathered()?;
        }
        Ok(Appended { start, end, positions, stored_at })
    }

    /// Writes bytes of a master's log at the same position; they may end in mid-record and may cross a
    /// segment. Readers see them after [`publish_whole_entries`](Self::publish_whole_entries).
    pub fn append_raw(&mut self, at: PhysicalOffset, mut bytes: &[u8]) -> Result<(), AppendError> {
        if at != self.tail.end {
            return Err(AppendError::NotAtEnd { expected: self.tail.end, found: at });
        }
        self.write_gathered()?;
        while !bytes.is_empty() {
            if self.room() == 0 {
                self.next_segment()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.room()));
            let position = self.position();
            let base = self.current_base;
            self.current.write(position, now).map_err(|source| AppendError::Write { base, source })?;
            // Final, though the global position holds readers back until the record is whole.
            self.current.publish(position + now.len());
            self.tail.end = self.tail.end.advance(now.len() as u64);
            self.written = self.tail;
            bytes = later;
        }
        Ok(())
    }

    /// Shows readers what [`append_raw`](Self::append_raw) has written, up to the last whole entry, and
    /// returns the published position. Bytes that are no entry are an error; what lies before them is shown.
    pub fn publish_whole_entries(&mut self) -> Result<PhysicalOffset, LogDamage> {
        let list = self.shared.segments.load_full();
        let mut at = self.published();
        let mut damage = None;
        while at < self.tail.end {
            let Some(bytes) = list.bytes_between(at, self.tail.end) else { break };
            let len = match EntryHead::parse(bytes) {
                Ok(EntryHead::Record { len } | EntryHead::Blank { len }) => len,
                Err(RecordError::Cut { .. }) => break,
                Err(source) => {
                    damage = Some(LogDamage { offset: at, source });
                    break;
                }
            };
            if bytes.len() < len {
                break;
            }
            if let Ok(record) = RecordView::parse(bytes) {
                self.tail.last_record = Some(at);
                self.tail.last_stored_at = self.tail.last_stored_at.max(WallMs(record.stored_at_ms()));
            }
            at = at.advance(len as u64);
        }
        self.written = self.tail;
        self.shared.published.store(at.0, Ordering::Release);
        damage.map_or(Ok(at), Err)
    }

    /// Writes what is gathered, shows readers everything appended, and returns the published position. After an
    /// error what could be written is shown, and the rest is taken back.
    pub fn publish(&mut self) -> Result<PhysicalOffset, AppendError> {
        let written = self.write_gathered();
        self.current.publish(self.position());
        self.shared.published.store(self.tail.end.0, Ordering::Release);
        kill_point::reach("log.published");
        written.map(|()| self.tail.end)
    }

    /// Whether what is written from now on is flushed at once. Then the log is zeroed ahead, a MiB at a time: blocks that
    /// are preallocated and were never written cost each flush a change of the file system's own records, about as long
    /// again as the flush itself.
    pub fn zero_ahead(&mut self, on: bool) {
        self.zeroes_ahead = on;
    }

    /// Zeroes ahead before that is due, and has the disk begin with it: for whoever has just flushed, so that the next flush
    /// finds the disk done.
    pub fn zero_ahead_at_rest(&mut self) {
        if !self.zeroes_ahead || !self.gathered.is_empty() || self.written.end < self.current_base {
            return;
        }
        let end = (self.written.end.0 - self.current_base.0) as usize;
        if self.zeroed_to > end + ZEROS_LEFT_BYTES {
            return;
        }
        let from = self.zeroed_to.max(end);
        let to = self.current.len().min((from + ZERO_AT_REST_BYTES).next_multiple_of(PAGE_BYTES));
        if from < to && self.current.write(from, &ZEROS[..to - from]).is_ok() {
            self.zeroed_to = to;
            // Zeros that are lost are zeros; the first page may have records that are not on disk.
            let whole = from.next_multiple_of(PAGE_BYTES).min(to)..to;
            let _ = self.current.begin_write(whole);
        }
    }

    /// Zeroes what follows `end` when nothing but preallocated blocks do.
    fn zero_behind(&mut self, end: usize) {
        if !self.zeroes_ahead || end <= self.zeroed_to {
            return;
        }
        let len = ZERO_AHEAD_BYTES.min(self.current.len() - end);
        // It only makes flushes faster: an error that matters comes again with the records.
        if self.current.write(end, &ZEROS[..len]).is_ok() {
            self.zeroed_to = end + len;
        }
    }

    /// Writes what is gathered, or takes it back.
    fn write_gathered(&mut self) -> Result<(), AppendError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let position = (self.written.end.0 - self.current_base.0) as usize;
        self.zero_behind(position + self.gathered.len());
        kill_point::reach("log.gathered");
        let written = self.current.write(position, &self.gathered);
        kill_point::reach("log.written");
        let written = written.map_err(|source| {
            // Whole records may be there, and a recovery would take them for stored: also those behind the first, when
            // the next append ends where they begin. A full disk takes zeros as far as it has taken records; one that
            // does not has the next append or, at the worst, a refused message shows up.
            self.gathered.fill(0);
            let _ = self.current.write(position, &self.gathered);
            match source {
                source if is_full(&source) => AppendError::DiskFull,
                source => AppendError::Write { base: self.current_base, source },
            }
        });
        self.gathered.clear();
        self.gathered.shrink_to(2 * GATHER_BYTES); // a large message does not keep its room
        match written {
            Ok(()) => self.written = self.tail,
            Err(_) => self.tail = self.written,
        }
        written
    }

    /// Deletes whole segments below `offset`, oldest first, at most `max_segments` and never the last.
    /// Returns how many. Waits for the disk.
    pub fn delete_before(
        &mut self,
        offset: PhysicalOffset,
        max_segments: usize,
    ) -> Result<usize, SegmentError> {
        let mut retired = self.retire_before(offset, max_segments);
        let count = retired.len();
        while retired.remove_oldest()? {}
        Ok(count)
    }

    /// As [`delete_before`](Self::delete_before), but the files are left to the caller: readers only lose sight
    /// of the segments, and slices in flight keep their maps.
    pub fn retire_before(&mut self, offset: PhysicalOffset, max_segments: usize) -> RetiredSegments {
        let list = self.shared.segments.load_full();
        let below = (0..list.maps.len() - 1)
            .take_while(|index| list.base(index + 1) <= offset && list.base(index + 1) <= self.published())
            .take(max_segments)
            .count();
        if below == 0 {
            return RetiredSegments::default();
        }
        self.shared.segments.store(Arc::new(SegmentList {
            first: list.base(below),
            segment_bytes: list.segment_bytes,
            maps: list.maps[below..].to_vec(),
        }));
        info!(segments = below, min_offset = %list.base(below), "segments leave the log");
        let gone = (0..below).map(|index| (list.base(index), list.maps[index].clone()));
        RetiredSegments::new(Arc::clone(&self.shared), gone)
    }

    /// Cuts the log at `offset`, which must lie behind an entry. What is appended from there on replaces
    /// what was. The owner has first saved a check point at or below it. Slices that readers hold keep the old bytes: the cut segment is replaced by a copy of its
    /// kept part. `last_record` is what the shorter log ends with. After an error the log must be opened anew.
    pub fn truncate_to(
        &mut self,
        offset: PhysicalOffset,
        last_record: Option<PhysicalOffset>,
    ) -> Result<(), SegmentError> {
        let list = self.shared.segments.load_full();
        // What cannot be written is taken back: it lies at the end.
        let _ = self.write_gathered();
        if offset >= self.tail.end {
            return Ok(());
        }
        if offset < list.first {
            return self.reset_to(offset);
        }
        let dir = self.shared.dir.clone();
        let kept = ((offset.0 - list.first.0) / list.segment_bytes) as usize;
        let base = list.base(kept);
        let kept_bytes = (offset.0 - base.0) as usize;
        let mut made = dir.make("writer")?;
        let old = &list.maps[kept];
        // Raw bytes that were never published are dropped with the rest.
        let readable = kept_bytes.min(old.published());
        if let Some(bytes) = old.bytes(0..readable) {
            made.file_mut().bytes_mut(0..readable).copy_from_slice(bytes);
        }
        made.file_mut()
            .flush(0..readable)
            .map_err(|source| SegmentError::Io { path: dir.path(base), source })?;
        // From the end backwards, so that a crash in between leaves a log without a gap.
        for index in (kept + 1..list.maps.len()).rev() {
            dir.remove(list.base(index))?;
        }
        let segment = dir.install(made, base)?;
        dir.sync()?;
        let (writer, reader) = segment.file.into_halves(readable);
        let mut maps = list.maps[..kept].to_vec();
        maps.push(reader);
        let end = base.advance(readable as u64);
        self.replace(SegmentList { maps, ..*list }, writer, LogTail { end, last_record, ..self.tail });
        Ok(())
    }

    /// Throws everything away and begins an empty log at the start of the segment that would hold
    /// `offset`; what a new follower does before it copies. After an error the log must be opened anew.
    pub fn reset_to(&mut self, offset: PhysicalOffset) -> Result<(), SegmentError> {
        self.gathered.clear();
        let list = self.shared.segments.load_full();
        let dir = self.shared.dir.clone();
        let base = floor(offset, dir.segment_bytes);
        let made = dir.make("writer")?;
        for index in (0..list.maps.len()).rev() {
            dir.remove(list.base(index))?;
        }
        let segment = dir.install(made, base)?;
        dir.sync()?;
        let (writer, reader) = segment.file.into_halves(0);
        let fresh = SegmentList { first: base, segment_bytes: dir.segment_bytes, maps: vec![reader] };
        self.replace(fresh, writer, LogTail { end: base, last_record: None, ..self.tail });
        Ok(())
    }

    fn replace(&mut self, list: SegmentList, current: MapWriter, tail: LogTail) {
        self.current_base = list.base(list.maps.len() - 1);
        self.current = current;
        self.zeroed_to = 0;
        self.tail = tail;
        self.written = tail;
        self.shared.published.store(tail.end.0, Ordering::Release);
        self.shared.segments.store(Arc::new(list));
    }

    /// Goes to the next segment when `len_bytes` and a blank behind them do not fit the present one.
    fn make_room(&mut self, len_bytes: usize) -> Result<(), AppendError> {
        if len_bytes + HEAD_BYTES > self.current.len() {
            return Err(AppendError::TooLarge { len_bytes });
        }
        if len_bytes + HEAD_BYTES <= self.room() {
            return Ok(());
        }
        self.next_segment()
    }

    /// Begins a new segment; what is left of the present one becomes a blank.
    fn next_segment(&mut self) -> Result<(), AppendError> {
        self.write_gathered()?;
        let base = self.current_base.advance(self.current.len() as u64);
        let segment = self.take_segment(base).map_err(|source| match source {
            SegmentError::Io { source, .. } if is_full(&source) => AppendError::DiskFull,
            source => AppendError::Segment { source },
        })?;

        let (position, room) = (self.position(), self.room());
        if room > 0 {
            let mut blank = [0; HEAD_BYTES];
            EntryHead::put_blank(&mut blank, room);
            let old = self.current_base;
            self.current
                .write(position, &blank)
                .map_err(|source| AppendError::Write { base: old, source })?;
        }
        kill_point::reach("log.blank_written");
        // The global position still holds readers back; here it only frees the old write half.
        self.current.publish(self.current.len());
        let (writer, reader) = segment.file.into_halves(0);
        let list = self.shared.segments.load_full();
        let mut maps = list.maps.clone();
        maps.push(reader);
        self.shared.names_unsynced.store(true, Ordering::Release);
        self.shared.segments.store(Arc::new(SegmentList { maps, ..*list }));
        self.current = writer;
        self.current_base = base;
        self.zeroed_to = 0;
        self.tail.end = base;
        self.written = self.tail;
        Ok(())
    }

    /// The prepared segment, or one made here and now.
    fn take_segment(&mut self, base: PhysicalOffset) -> Result<Segment, SegmentError> {
        let Ok(made) = self.prepared.try_recv() else {
            let made = self.shared.dir.make("writer")?;
            warn!(%base, "segment was not prepared in time");
            return self.shared.dir.install(made, base);
        };
        let installed = self.shared.dir.install(made, base);
        kill_point::reach("log.segment_installed");
        // Only now, as the preparer may reuse the name that the file had until it was installed.
        self.shared.segment_waits.store(false, Ordering::Release);
        installed
    }

    fn published(&self) -> PhysicalOffset {
        PhysicalOffset(self.shared.published.load(Ordering::Relaxed)) // written by this half alone
    }

    /// Position of the end within the present segment.
    fn position(&self) -> usize {
        (self.tail.end.0 - self.current_base.0) as usize
    }

    fn room(&self) -> usize {
        self.current.len() - self.position()
    }
}

fn check_lengths(message: &PendingMessage) -> Result<(), AppendError> {
    match (message.topic.len(), message.properties_len()) {
        (len_bytes, _) if len_bytes > MAX_TOPIC_BYTES => Err(AppendError::TopicTooLong { len_bytes }),
        (_, len_bytes) if len_bytes > MAX_PROPERTIES_BYTES => {
            Err(AppendError::PropertiesTooLong { len_bytes })
        }
        _ => Ok(()),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Base of the segment that holds `offset` in a log that began at 0.
fn floor(offset: PhysicalOffset, segment_bytes: u64) -> PhysicalOffset {
    PhysicalOffset(offset.0 - offset.0 % segment_bytes)
}

#[cfg(test)]
pub(super) mod tests;

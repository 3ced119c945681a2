//! What is true of the commit log after a stop, clean or not.
//!
//! Recovery finds a position it may trust, and verifies every entry from there on (magic, lengths, own physical
//! offset, body CRC). Where to begin:
//!
//! 1. At the dispatched position of the check point, if the record it names ends exactly there.
//! 2. At the start of that position's segment, if it does not: the disk has lost something.
//! 3. Without a position (a store of RocketMQ's, or none at all): at the newest segment whose first message
//!    is older than the check point's times, or the first segment; the rule of RocketMQ.
//!
//! An entry that fails, with none behind it that is whole, is a torn tail: the log is cut there. So it is where power
//! may have failed and the entry was not known to be flushed: of what was written, any block may be lacking, and what
//! is left is to be the beginning of what was stored. Any other entry that fails, with whole records behind it, is
//! damage: it is reported and stays, and so do they (see [`damage`](super::damage)).
//!
//! After a clean stop of Telstar the position is the end of the log, so nothing is left to verify.

use std::ops::Range;

use tracing::{error, info, warn};

use super::commit_log::{CommitLog, LogTail};
use super::damage::{DamagedEntry, Place, SegmentBytes};
use super::recovery_progress::RecoveryProgress;
use super::segment::{Segment, SegmentDir, SegmentError};
use super::store_check_point::StoreCheckPoint;
use crate::clock::WallMs;
use crate::protocol::message::{EntryHead, HEAD_BYTES, RecordError, RecordView};
use crate::types::PhysicalOffset;

/// Unit in which the tail is searched for leftovers.
const PAGE_BYTES: usize = 4096;
/// Verified between two reports of progress.
const PROGRESS_BYTES: u64 = 1 << 20;

/// How the last run ended, told by the file `abort`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastStop {
    Clean,
    /// The process was killed, and the machine ran on: what was written is there, flushed or not.
    Killed,
    /// Power may have failed.
    Unclean,
}

/// What recovery found and did. Everything below `log_end` is on disk afterwards.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    pub log_start: PhysicalOffset,
    pub log_end: PhysicalOffset,
    /// From here everything derived from the log has to be derived again; not above `log_end`. What was
    /// derived from bytes at or above `log_end` is void.
    pub dispatch_from: PhysicalOffset,
    /// Bytes that were verified.
    pub scanned_bytes: u64,
    /// Bytes behind the end that were not zero, and are now.
    pub cut_bytes: u64,
    /// What is damaged between whole records, oldest first.
    pub damaged: Vec<DamagedEntry>,
}

/// Opens the log of `dir` and makes it whole. `progress` is told how far it is.
pub fn open_commit_log(
    dir: SegmentDir,
    check_point: &StoreCheckPoint,
    last_stop: LastStop,
    progress: &RecoveryProgress,
) -> Result<(CommitLog, Recovered), SegmentError> {
    let mut segments = dir.load()?;
    let from = match check_point.dispatched {
        Some(tail) => begin_at(&segments, tail),
        None => begin_by_time(&segments, check_point.min_time()),
    };
    let log = LoadedLog { dir: &dir, segments: &segments };
    progress.begin(log.written_from(from.end)?.iter().map(|range| range.end - range.start).sum());
    // A clean stop of Telstar leaves nothing behind the position it noted.
    let clean_end =
        (last_stop == LastStop::Clean && check_point.dispatched == Some(from)).then_some(from.end);
    let flushed = check_point.dispatched.map_or(from.end, |tail| tail.end);
    let may_lack_blocks = (last_stop == LastStop::Unclean).then_some(flushed);
    let (tail, damaged) = log.scan(from, clean_end, may_lack_blocks, progress)?;
    let log_start = segments.first().map_or(tail.end, |segment| segment.base);
    let recovered = Recovered {
        log_start,
        log_end: tail.end,
        dispatch_from: from.end,
        scanned_bytes: tail.end.0 - from.end.0,
        cut_bytes: cut(&dir, &mut segments, tail.end, last_stop)?,
        damaged,
    };
    if last_stop != LastStop::Clean {
        flush(&dir, &segments, from.end, tail.end)?;
    }
    for DamagedEntry { at, next, place, source } in &recovered.damaged {
        let len_bytes = next.0 - at.0;
        error!(position = at.0, len_bytes, %place, error = %source, "log is damaged between whole records; it is passed over");
    }
    let Recovered { log_start, log_end, dispatch_from, scanned_bytes, cut_bytes, .. } = recovered;
    match cut_bytes {
        0 => info!(%log_start, %log_end, %dispatch_from, scanned_bytes, "commit log recovered"),
        _ => {
            warn!(%log_start, %log_end, %dispatch_from, scanned_bytes, cut_bytes, "commit log recovered, its tail was torn")
        }
    }
    Ok((CommitLog::start(dir, segments, tail)?, recovered))
}

/// The check point's position, or the start of its segment if the log does not bear it out.
fn begin_at(segments: &[Segment], dispatched: LogTail) -> LogTail {
    let is_true = match dispatched.last_record {
        Some(at) => ends_at(segments, at, dispatched.end),
        None => segments.iter().any(|segment| segment.base == dispatched.end),
    };
    if is_true {
        return dispatched;
    }
    let at_or_below = segments.iter().rev().find(|segment| segment.base <= dispatched.end);
    let end = at_or_below.or(segments.first()).map(|segment| segment.base).unwrap_or_default();
    LogTail { end, last_record: None, last_stored_at: WallMs(0) }
}

/// Whether a record lies at `at` and ends, with the blank that may follow it, at `end`.
fn ends_at(segments: &[Segment], at: PhysicalOffset, end: PhysicalOffset) -> bool {
    let Some(Ok(Verified::Record { next, .. })) = verify(segments, at) else { return false };
    next == end || matches!(verify(segments, next), Some(Ok(Verified::Blank { next })) if next == end)
}

/// Start of the newest segment whose first message was stored by `time`; of the first if there is none.
fn begin_by_time(segments: &[Segment], time: WallMs) -> LogTail {
    let is_old = |segment: &&Segment| match verify(segments, segment.base) {
        Some(Ok(Verified::Record { stored_at, .. })) => stored_at.0 != 0 && stored_at <= time,
        _ => false,
    };
    let begin = segments.iter().rev().find(is_old).or(segments.first());
    LogTail { end: begin.map(|segment| segment.base).unwrap_or_default(), ..LogTail::default() }
}

/// The segments between loading and use.
#[derive(Clone, Copy)]
struct LoadedLog<'a> {
    dir: &'a SegmentDir,
    segments: &'a [Segment],
}

impl LoadedLog<'_> {
    /// Goes from entry to entry, past what is damaged between whole ones.
    fn scan(
        &self,
        from: LogTail,
        clean_end: Option<PhysicalOffset>,
        may_lack_blocks: Option<PhysicalOffset>,
        progress: &RecoveryProgress,
    ) -> Result<(LogTail, Vec<DamagedEntry>), SegmentError> {
        let (mut tail, mut damaged) = (from, Vec::new());
        let mut told = from.end;
        while let Some(entry) = verify(self.segments, tail.end) {
            match entry {
                Ok(Verified::Blank { next }) => tail.end = next,
                Ok(Verified::Record { next, stored_at }) => {
                    let last_stored_at = tail.last_stored_at.max(stored_at);
                    tail = LogTail { end: next, last_record: Some(tail.end), last_stored_at };
                }
                Err(_) if clean_end == Some(tail.end) && self.is_unwritten(tail.end) => break,
                Err(source) => {
                    let Some(next) = self.next_whole(tail)? else { break };
                    if may_lack_blocks.is_some_and(|from| tail.end >= from) {
                        break;
                    }
                    let at_byte = tail.end.0 % self.dir.segment_bytes;
                    let path = self.dir.path(PhysicalOffset(tail.end.0 - at_byte));
                    damaged.push(DamagedEntry { at: tail.end, next, place: Place { path, at_byte }, source });
                    tail.end = next;
                }
            }
            if tail.end.0 - told.0 >= PROGRESS_BYTES {
                told = tail.end;
                progress.verified(told.0 - from.end.0);
            }
        }
        Ok((tail, damaged))
    }

    fn is_unwritten(&self, at: PhysicalOffset) -> bool {
        let Some((segment, position)) = locate(self.segments, at) else { return true };
        let end = (position + HEAD_BYTES).min(segment.file.len());
        segment.file.bytes(position..end).iter().all(|byte| *byte == 0)
    }

    /// The next whole entry behind the one that is none at the end of `tail`; holes are not read.
    fn next_whole(&self, tail: LogTail) -> Result<Option<PhysicalOffset>, SegmentError> {
        let Some((damaged, position)) = locate(self.segments, tail.end) else { return Ok(None) };
        // What follows on by length is no leftover, whatever the clock did.
        if let Some(next) = bytes_of(damaged, WallMs(i64::MIN)).next_whole_by_length(position) {
            return Ok(Some(damaged.base.advance(next as u64)));
        }
        for range in self.written_from(tail.end.advance(1))? {
            let Some((segment, begin)) = locate(self.segments, PhysicalOffset(range.start)) else { continue };
            let end = begin + (range.end - range.start) as usize;
            if let Some(found) = bytes_of(segment, tail.last_stored_at).find_record(begin..end) {
                return Ok(Some(segment.base.advance(found as u64)));
            }
        }
        Ok(None)
    }

    /// Positions from `at` on that were ever written.
    fn written_from(&self, at: PhysicalOffset) -> Result<Vec<Range<u64>>, SegmentError> {
        let mut ranges = Vec::new();
        for segment in self.segments {
            let len = segment.file.len() as u64;
            let begin = at.0.saturating_sub(segment.base.0).min(len);
            if begin < len {
                ranges.extend(
                    self.dir
                        .written(segment.base, begin..len)?
                        .into_iter()
                        .map(|range| segment.base.0 + range.start..segment.base.0 + range.end),
                );
            }
        }
        Ok(ranges)
    }
}

fn bytes_of(segment: &Segment, not_before: WallMs) -> SegmentBytes<'_> {
    let segment_len = segment.file.len();
    SegmentBytes { base: segment.base, bytes: segment.file.bytes(0..segment_len), segment_len, not_before }
}

/// An entry that is what it says, and where the next one begins.
enum Verified {
    Record { next: PhysicalOffset, stored_at: WallMs },
    Blank { next: PhysicalOffset },
}

/// The entry at `at`, or why it is none; `None` behind the last segment.
fn verify(segments: &[Segment], at: PhysicalOffset) -> Option<Result<Verified, RecordError>> {
    let (segment, position) = locate(segments, at)?;
    Some(verify_entry(segment.file.bytes(position..segment.file.len()), at))
}

/// The entry that `bytes`, the rest of a segment, begin with.
fn verify_entry(bytes: &[u8], at: PhysicalOffset) -> Result<Verified, RecordError> {
    match EntryHead::parse(bytes)? {
        EntryHead::Blank { len } if len == bytes.len() => {
            Ok(Verified::Blank { next: at.advance(len as u64) })
        }
        EntryHead::Blank { len } => Err(RecordError::Length { total_len: len as u32 }),
        EntryHead::Record { len } => {
            let record = RecordView::parse(bytes)?;
            if record.physical_offset() != at {
                return Err(RecordError::Elsewhere { physical_offset: record.physical_offset() });
            }
            record.verify_crc()?;
            Ok(Verified::Record { next: at.advance(len as u64), stored_at: WallMs(record.stored_at_ms()) })
        }
    }
}

/// The segment that holds `at`, and the position within it.
fn locate(segments: &[Segment], at: PhysicalOffset) -> Option<(&Segment, usize)> {
    let index = segments.partition_point(|segment| segment.base <= at).checked_sub(1)?;
    let segment = &segments[index];
    let position = (at.0 - segment.base.0) as usize;
    (position < segment.file.len()).then_some((segment, position))
}

/// Removes the segments behind `end` and zeroes the rest of the one that holds it, so that no leftover can
/// be taken for a record after the next crash. Returns how many bytes were not zero.
fn cut(
    dir: &SegmentDir,
    segments: &mut Vec<Segment>,
    end: PhysicalOffset,
    last_stop: LastStop,
) -> Result<u64, SegmentError> {
    let mut cut_bytes = 0;
    // From the end backwards, so that a crash in between leaves no gap.
    while let Some(last) = segments.pop_if(|last| last.base > end) {
        if last.file.bytes(0..HEAD_BYTES) != [0; HEAD_BYTES] {
            cut_bytes += last.file.len() as u64;
        }
        dir.remove(last.base)?;
    }
    dir.sync()?;
    let Some(last) = segments.last_mut() else { return Ok(cut_bytes) };
    let position = (end.0 - last.base.0) as usize;
    let head_end = (position + HEAD_BYTES).min(last.file.len());
    if last_stop == LastStop::Clean && last.file.bytes(position..head_end).iter().all(|byte| *byte == 0) {
        return Ok(cut_bytes);
    }
    let zeroed_to = zero(dir, last, position)?;
    cut_bytes += (zeroed_to - position) as u64;
    flush_segment(dir, last, position, zeroed_to)?;
    Ok(cut_bytes)
}

/// Zeroes everything from `position` on that is not zero; returns the end of the last such byte.
fn zero(dir: &SegmentDir, segment: &mut Segment, position: usize) -> Result<usize, SegmentError> {
    let mut zeroed_to = position;
    // The rest of a preallocated segment was never touched, and is not read.
    for range in dir.written(segment.base, position as u64..segment.file.len() as u64)? {
        let mut at = range.start as usize;
        while at < range.end as usize {
            let end = (at + PAGE_BYTES).min(range.end as usize);
            if let Some(last) = segment.file.bytes(at..end).iter().rposition(|byte| *byte != 0) {
                zeroed_to = at + last + 1;
                segment.file.bytes_mut(at..zeroed_to).fill(0);
            }
            at = end;
        }
    }
    Ok(zeroed_to)
}

/// What a crashed process has written may still be in memory only.
fn flush(
    dir: &SegmentDir,
    segments: &[Segment],
    from: PhysicalOffset,
    to: PhysicalOffset,
) -> Result<(), SegmentError> {
    for segment in segments {
        let len = segment.file.len();
        let [start, end] = [from, to].map(|at| (at.0.saturating_sub(segment.base.0) as usize).min(len));
        flush_segment(dir, segment, start, end)?;
    }
    Ok(())
}

fn flush_segment(dir: &SegmentDir, segment: &Segment, start: usize, end: usize) -> Result<(), SegmentError> {
    let flushed = segment.file.flush(start..end);
    flushed.map_err(|source| SegmentError::Io { path: dir.path(segment.base), source })
}

#[cfg(test)]
mod tests;

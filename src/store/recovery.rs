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
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::commit_log::tests::{bodies, message};
    use super::super::file::StoreFiles;
    use super::super::memory_files::MemoryFiles;
    use super::*;
    use crate::protocol::message::PendingMessage;
    use crate::types::QueueOffset;

    const SEGMENT_BYTES: u64 = 4096;

    fn dir(files: &MemoryFiles) -> SegmentDir {
        let files = Arc::new(files.clone());
        SegmentDir { files, dir: PathBuf::from("/commitlog"), segment_bytes: SEGMENT_BYTES }
    }

    fn open(files: &MemoryFiles, check_point: &StoreCheckPoint, stop: LastStop) -> (CommitLog, Recovered) {
        open_commit_log(dir(files), check_point, stop, &RecoveryProgress::default()).unwrap()
    }

    fn dispatched(tail: LogTail) -> StoreCheckPoint {
        StoreCheckPoint { dispatched: Some(tail), ..StoreCheckPoint::default() }
    }

    fn append(log: &mut CommitLog, bodies: &[&str]) {
        for body in bodies {
            log.appender.append(&[message(body)], QueueOffset(0), WallMs(1000)).unwrap();
        }
        log.appender.publish().unwrap();
    }

    fn flush_all(log: &CommitLog) {
        log.reader.flush(PhysicalOffset(0), log.reader.published()).unwrap();
    }

    #[test]
    fn clean_stop_leaves_nothing_to_verify() {
        let files = MemoryFiles::new();
        let (mut log, recovered) = open(&files, &StoreCheckPoint::default(), LastStop::Clean);
        assert_eq!(recovered, Recovered::default());
        append(&mut log, &["a", "b"]);
        flush_all(&log);
        let tail = log.appender.tail();
        let (log, recovered) = open(&files, &dispatched(tail), LastStop::Clean);
        assert_eq!(log.appender.tail(), tail);
        let end = tail.end;
        let log_start = PhysicalOffset(0);
        let expected = Recovered { log_start, log_end: end, dispatch_from: end, ..Recovered::default() };
        assert_eq!(recovered, expected);
        assert_eq!(bodies(&log.reader), ["a", "b"]);
    }

    #[test]
    fn torn_tail_is_cut_and_zeroed() {
        let files = MemoryFiles::new();
        let (mut log, _) = open(&files, &StoreCheckPoint::default(), LastStop::Clean);
        append(&mut log, &["kept"]);
        flush_all(&log);
        let tail = log.appender.tail();
        append(&mut log, &["t".repeat(1500).as_str(), "behind"]);
        drop(log);
        // The first half of the torn record reaches the disk, and the head of the one behind it.
        let mut torn = files.open_map(&PathBuf::from("/commitlog/00000000000000000000")).unwrap();
        torn.bytes_mut(800..1400).fill(0);
        let end = (tail.end.0 as usize) + message(&"t".repeat(1500)).record_len() + 60;
        torn.bytes_mut(end..end + 100).fill(0);
        drop(torn);
        let (mut log, recovered) = open(&files, &dispatched(tail), LastStop::Unclean);
        assert_eq!((recovered.log_end, recovered.dispatch_from), (tail.end, tail.end));
        assert!(recovered.cut_bytes > 1500, "{recovered:?}");
        append(&mut log, &["t".repeat(1500).as_str()]);
        let (log, recovered) = open(&files, &dispatched(tail), LastStop::Unclean);
        assert_eq!(recovered.cut_bytes, 0, "what was cut does not come back behind a record of equal length");
        assert_eq!(bodies(&log.reader).len(), 2);
    }

    /// Writes over what is stored, as a failing disk does.
    fn rot(files: &MemoryFiles, segment: u64, range: Range<usize>) {
        let path = dir(files).path(PhysicalOffset(segment));
        let mut map = files.open_map(&path).unwrap();
        map.bytes_mut(range).fill(0x5A);
        map.flush(0..map.len()).unwrap();
    }

    #[test]
    fn damage_between_whole_records_is_named_and_everything_behind_it_stays() {
        let len = message("x").record_len();
        // A body, a magic, a length, two records in one, and the first record of the next segment.
        for (rotten, lost) in [
            (88..89, 0..1),
            (4..8, 0..1),
            (0..4, 0..1),
            (len - 9..len + 9, 0..2),
            (len * 2 + 20..len * 2 + 30, 2..3),
        ] {
            let files = MemoryFiles::new();
            let (mut log, _) = open(&files, &StoreCheckPoint::default(), LastStop::Clean);
            append(&mut log, &["0", "1", "2", "3"]);
            append(&mut log, &[&"y".repeat(3900), "4"]);
            flush_all(&log);
            let tail = log.appender.tail();
            drop(log);
            rot(&files, 0, rotten.clone());
            let (log, recovered) = open(&files, &StoreCheckPoint::default(), LastStop::Killed);
            assert_eq!((log.appender.tail(), recovered.cut_bytes), (tail, 0), "{rotten:?}");
            let [damaged] = &recovered.damaged[..] else { panic!("{rotten:?}: {recovered:?}") };
            assert_eq!((damaged.at.0, damaged.next.0), ((lost.start * len) as u64, (lost.end * len) as u64));
            assert_eq!(damaged.place.at_byte, damaged.at.0);
            assert!(damaged.place.path.ends_with("00000000000000000000"));
        }
    }

    #[test]
    fn leftovers_of_a_log_that_was_cut_are_no_records() {
        let files = MemoryFiles::new();
        let (mut log, _) = open(&files, &StoreCheckPoint::default(), LastStop::Clean);
        append(&mut log, &["a", "bb", "c", "d"]);
        let old = log.reader.read(PhysicalOffset(0), log.reader.published().0 as usize).unwrap();
        drop(log);
        // RocketMQ cuts without zeros: behind a newer, shorter record the older ones come to light.
        let files = MemoryFiles::new();
        let (mut log, _) = open(&files, &StoreCheckPoint::default(), LastStop::Clean);
        append(&mut log, &["a"]);
        log.appender.append(&[message("b")], QueueOffset(1), WallMs(2000)).unwrap();
        let end = log.appender.publish().unwrap();
        drop(log);
        let mut map = files.open_map(&dir(&files).path(PhysicalOffset(0))).unwrap();
        map.bytes_mut(end.0 as usize..old.len()).copy_from_slice(&old[end.0 as usize..]);
        drop(map);
        let (log, recovered) = open(&files, &StoreCheckPoint::default(), LastStop::Unclean);
        assert_eq!((recovered.log_end, recovered.damaged.len()), (end, 0));
        assert_eq!(bodies(&log.reader), ["a", "b"]);
    }

    #[test]
    fn store_of_rocketmq_is_scanned_from_the_segment_its_times_vouch_for() {
        let files = MemoryFiles::new();
        let (mut log, _) = open(&files, &StoreCheckPoint::default(), LastStop::Clean);
        let body = "x".repeat(3000);
        for stored_at in [10_000, 20_000, 30_000] {
            log.appender.append(&[message(&body)], QueueOffset(0), WallMs(stored_at)).unwrap();
        }
        let end = log.appender.publish().unwrap();
        drop(log);
        for (time, from) in [(0, 0), (13_000, 0), (22_999, 0), (23_000, 1), (40_000, 2)] {
            let (physic_at, logics_at) = (WallMs(time), WallMs(time + 1));
            let check_point = StoreCheckPoint { physic_at, logics_at, ..StoreCheckPoint::default() };
            let (log, recovered) = open(&files, &check_point, LastStop::Unclean);
            assert_eq!((recovered.log_end, recovered.dispatch_from.0), (end, from * SEGMENT_BYTES));
            assert_eq!(log.appender.tail().last_stored_at, WallMs(30_000));
        }
    }

    #[test]
    fn position_that_the_log_does_not_bear_out_costs_a_scan_of_its_segment() {
        let files = MemoryFiles::new();
        let (mut log, _) = open(&files, &StoreCheckPoint::default(), LastStop::Clean);
        append(&mut log, &["a", "b"]);
        let tail = log.appender.tail();
        drop(log);
        for wrong in [
            LogTail { end: PhysicalOffset(50), ..tail },
            LogTail { end: PhysicalOffset(1 << 40), ..tail },
            LogTail { last_record: None, ..tail },
            LogTail { last_record: Some(PhysicalOffset(1 << 40)), ..tail },
        ] {
            let (log, recovered) = open(&files, &dispatched(wrong), LastStop::Clean);
            assert_eq!((recovered.log_end, recovered.dispatch_from), (tail.end, PhysicalOffset(0)));
            assert_eq!(bodies(&log.reader), ["a", "b"]);
        }
    }

    /// What may happen to a log, in any order.
    #[derive(Clone, Debug)]
    enum Step {
        Append { body_lens: Vec<usize>, now: i64 },
        Publish,
        Prepare,
        FlushAndCheckPoint,
        Truncate { record: usize },
        Delete { record: usize },
        Restart,
        Crash { seed: u64 },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (prop::collection::vec(0usize..900, 1..4), 0i64..100)
                .prop_map(|(body_lens, now)| Step::Append { body_lens, now }),
            4 => Just(Step::Publish),
            2 => Just(Step::Prepare),
            2 => Just(Step::FlushAndCheckPoint),
            1 => (0usize..40).prop_map(|record| Step::Truncate { record }),
            1 => (0usize..40).prop_map(|record| Step::Delete { record }),
            1 => Just(Step::Restart),
            1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        ]
    }

    /// The log as a list: where each record begins and ends, and what it says.
    #[derive(Default)]
    struct Model {
        records: Vec<(u64, u64, Bytes)>,
        end: u64,
        min: u64,
        flushed: u64,
        made: usize,
    }

    impl Model {
        /// The naive form of the placement rule.
        fn append(&mut self, messages: &[PendingMessage]) -> u64 {
            let len: u64 = messages.iter().map(|message| message.record_len() as u64).sum();
            let left = SEGMENT_BYTES - self.end % SEGMENT_BYTES;
            if len + 8 > left {
                self.end += left;
            }
            let start = self.end;
            for message in messages {
                let end = self.end + message.record_len() as u64;
                self.records.push((self.end, end, message.body.clone()));
                self.end = end;
            }
            start
        }

        fn truncate(&mut self, end: u64) {
            self.records.retain(|record| record.1 <= end);
            self.end = end;
            self.flushed = self.flushed.min(end);
        }

        fn visible(&self) -> Vec<(u64, Bytes)> {
            let visible = self.records.iter().filter(|record| record.0 >= self.min);
            visible.map(|(start, _, body)| (*start, body.clone())).collect()
        }
    }

    fn visible(log: &CommitLog) -> Vec<(u64, Bytes)> {
        let mut found = Vec::new();
        let (mut at, mut last_stored_at) = (PhysicalOffset(0), 0);
        loop {
            let next = log.reader.for_each_record(at, 500, |offset, record| {
                // Recovery has seen those of which only the body is damaged, too.
                if record.verify_crc().is_ok() {
                    found.push((offset.0, Bytes::copy_from_slice(record.body())));
                }
                assert!(record.stored_at_ms() >= last_stored_at);
                last_stored_at = record.stored_at_ms();
                assert_eq!(log.reader.read_record(offset).unwrap(), record.bytes());
            });
            let next = next.unwrap_or_else(|damage| log.reader.pass_damage(damage).next);
            if next == at {
                return found;
            }
            at = next;
        }
    }

    proptest! {
        /// Invariants: placement follows the naive rule; published records are seen, in order and whole;
        /// a restart loses nothing; a crash loses nothing below the flushed position, and what is left is a
        /// prefix of what was appended; store time never goes back.
        #[test]
        fn log_behaves_like_a_list(steps in prop::collection::vec(any_step(), 1..60)) {
            let files = MemoryFiles::new();
            let mut check_point = StoreCheckPoint::default();
            let (mut log, _) = open(&files, &check_point, LastStop::Clean);
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Append { body_lens, now } => {
                        let messages: Vec<_> = body_lens.iter().map(|len| {
                            model.made += 1;
                            message(&format!("{:0len$}", model.made))
                        }).collect();
                        let appended = log.appender.append(&messages, QueueOffset(5), WallMs(now)).unwrap();
                        prop_assert_eq!(appended.start.0, model.append(&messages));
                        prop_assert_eq!(appended.end.0, model.end);
                    }
                    Step::Publish => _ = log.appender.publish().unwrap(),
                    Step::Prepare => _ = log.preparer.prepare_next(&log.reader).unwrap(),
                    Step::FlushAndCheckPoint => {
                        log.appender.publish().unwrap();
                        log.reader.flush(PhysicalOffset(model.flushed), log.reader.published()).unwrap();
                        model.flushed = model.end;
                        check_point = dispatched(log.appender.tail());
                    }
                    Step::Truncate { record } => {
                        log.appender.publish().unwrap();
                        let Some((start, ..)) = model.records.get(record).cloned() else { continue };
                        if start >= model.min {
                            // As the owner does: no check point beyond the cut.
                            check_point = StoreCheckPoint::default();
                            log.appender.truncate_to(PhysicalOffset(start), None).unwrap();
                            model.truncate(start);
                        }
                    }
                    Step::Delete { record } => {
                        let Some((start, ..)) = model.records.get(record).cloned() else { continue };
                        log.appender.delete_before(PhysicalOffset(start), 10).unwrap();
                        let min = log.reader.min_offset().0;
                        prop_assert!(min <= start.max(model.min) && min >= model.min);
                        model.min = min;
                    }
                    Step::Restart => {
                        log.appender.publish().unwrap();
                        flush_all(&log);
                        model.flushed = model.end;
                        drop(log);
                        let (reopened, recovered) = open(&files, &check_point, LastStop::Clean);
                        prop_assert_eq!((recovered.log_end.0, recovered.cut_bytes), (model.end, 0));
                        log = reopened;
                    }
                    Step::Crash { seed } => {
                        drop(log);
                        files.crash_torn(seed);
                        let (reopened, recovered) = open(&files, &check_point, LastStop::Unclean);
                        let end = recovered.log_end.0;
                        prop_assert!(end >= model.flushed, "{:?} lost flushed {}", recovered, model.flushed);
                        prop_assert!(recovered.damaged.is_empty(), "{:?}", recovered);
                        // A deletion is not durable at once.
                        prop_assert!(recovered.log_start.0 <= model.min);
                        model.min = recovered.log_start.0;
                        model.truncate(end);
                        model.flushed = end;
                        log = reopened;
                        prop_assert_eq!(visible(&log), model.visible());
                    }
                }
                if log.reader.published() == log.appender.end() {
                    prop_assert_eq!(visible(&log), model.visible());
                }
            }
        }
    }

    #[test]
    fn new_log_on_a_full_disk_is_an_error() {
        let files = MemoryFiles::new();
        let dir = dir(&files);
        files.fail_next(super::super::memory_files::FileOperation::Create, std::io::ErrorKind::StorageFull);
        let progress = RecoveryProgress::default();
        let error =
            open_commit_log(dir, &StoreCheckPoint::default(), LastStop::Clean, &progress).unwrap_err();
        assert!(matches!(error, SegmentError::Io { .. }));
        assert!(files.list(&PathBuf::from("/commitlog/next")).unwrap().is_empty());
    }
}

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::commit_log::AppendError;
use super::super::commit_log::tests::{bodies, message};
use super::super::file::StoreFiles;
use super::super::memory_files::{FileOperation, MemoryFiles};
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
fn nothing_comes_back_of_a_write_that_failed_in_its_middle() {
    let files = MemoryFiles::new();
    let (mut log, _) = open(&files, &StoreCheckPoint::default(), LastStop::Clean);
    let mut stored = vec!["before"];
    append(&mut log, &stored);
    for (is_full, next) in [(false, None), (true, None), (false, Some("n")), (true, Some("o"))] {
        for body in ["a", "b", "c", "d"] {
            log.appender.append(&[message(body)], QueueOffset(0), WallMs(1000)).unwrap();
        }
        match is_full {
            true => files.fail_always(FileOperation::Write, io::ErrorKind::StorageFull),
            false => files.fail_next(FileOperation::Write, io::ErrorKind::StorageFull),
        }
        assert!(matches!(log.appender.publish(), Err(AppendError::DiskFull)));
        files.fail_nothing();
        // What is as long as the first ends where the second, which may be there, begins.
        append(&mut log, next.as_slice());
        stored.extend(next);
        drop(log);
        let recovered;
        (log, recovered) = open(&files, &StoreCheckPoint::default(), LastStop::Killed);
        assert_eq!(bodies(&log.reader), stored, "full: {is_full}");
        assert_eq!((recovered.damaged, recovered.cut_bytes), (Vec::new(), 0));
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
    let error = open_commit_log(dir, &StoreCheckPoint::default(), LastStop::Clean, &progress).unwrap_err();
    assert!(matches!(error, SegmentError::Io { .. }));
    assert!(files.list(&PathBuf::from("/commitlog/next")).unwrap().is_empty());
}

use std::path::PathBuf;
use std::thread;

use bytes::Bytes;

use super::super::file::StoreFiles;
use super::super::memory_files::{FileOperation, MemoryFiles};
use super::super::recovery::{LastStop, open_commit_log};
use super::super::recovery_progress::RecoveryProgress;
use super::super::store_check_point::StoreCheckPoint;
use super::*;
use crate::types::QueueId;

const SEGMENT_BYTES: u64 = 4096;

pub(in super::super) fn message(body: &str) -> PendingMessage {
    PendingMessage {
        topic: "T".into(),
        queue_id: QueueId(0),
        flag: 0,
        sys_flag: 0,
        born_at_ms: 1,
        born_host: "10.0.0.9:50000".parse().unwrap(),
        store_host: "10.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: Bytes::copy_from_slice(body.as_bytes()),
        properties: Bytes::new(),
        extra_properties: Bytes::new(),
    }
}

pub(in super::super) fn bodies(reader: &CommitLogReader) -> Vec<String> {
    let mut bodies = Vec::new();
    let seen = reader.for_each_record(PhysicalOffset(0), u64::MAX, |_, record| {
        bodies.push(String::from_utf8(record.body().to_vec()).unwrap());
    });
    assert_eq!(seen.unwrap(), reader.published());
    bodies
}

fn new_log(files: &MemoryFiles) -> CommitLog {
    let dir = PathBuf::from("/commitlog");
    let dir = SegmentDir { files: Arc::new(files.clone()), dir, segment_bytes: SEGMENT_BYTES };
    open_commit_log(dir, &StoreCheckPoint::default(), LastStop::Clean, &RecoveryProgress::default())
        .unwrap()
        .0
}

fn append(log: &mut CommitLog, body: &str) -> Result<Appended, AppendError> {
    let appended = log.appender.append(&[message(body)], QueueOffset(0), WallMs(1000))?;
    log.appender.publish()?;
    Ok(appended)
}

#[test]
fn batch_gets_consecutive_queue_offsets_and_one_store_time() {
    let mut log = new_log(&MemoryFiles::new());
    let batch = [message("a"), message("bb"), message("ccc")];
    let appended = log.appender.append(&batch, QueueOffset(7), WallMs(1000)).unwrap();
    assert!(log.reader.read(PhysicalOffset(0), 8).is_none(), "not yet published");
    log.appender.publish().unwrap();
    let positions: Vec<_> = appended.positions.iter().map(|at| at.0).collect();
    assert_eq!(positions, [0, 93, 187]);
    for (at, queue_offset) in appended.positions.iter().zip(7..) {
        let fields = |record: RecordView<'_>| (record.queue_offset().0, record.physical_offset());
        assert_eq!(log.reader.with_record(*at, fields), Some((queue_offset, *at)));
        assert_eq!(log.reader.store_time_at(*at), Some(WallMs(1000)));
    }
    let earlier = log.appender.append(&batch, QueueOffset(10), WallMs(500)).unwrap();
    assert_eq!(earlier.stored_at, WallMs(1000), "store time never goes back");
}

#[test]
fn record_leaves_room_for_the_blank() {
    let fits = SEGMENT_BYTES as usize - 92 - 8;
    let mut log = new_log(&MemoryFiles::new());
    append(&mut log, &"x".repeat(fits)).unwrap();
    let next = append(&mut log, "next").unwrap();
    assert_eq!(next.start, PhysicalOffset(SEGMENT_BYTES));
    let blank = log.reader.read(PhysicalOffset(SEGMENT_BYTES - 8), 8).unwrap();
    assert_eq!(&blank[..], [0, 0, 0, 8, 0xCB, 0xD4, 0x31, 0x94]);
    let error = append(&mut log, &"x".repeat(fits + 1)).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }));
    assert_eq!(bodies(&log.reader).len(), 2);
}

#[test]
fn full_disk_at_rollover_stores_nothing_and_leaves_the_log_usable() {
    let files = MemoryFiles::new();
    let mut log = new_log(&files);
    append(&mut log, &"a".repeat(3000)).unwrap();
    files.set_capacity(Some(SEGMENT_BYTES + 10));
    let end = log.appender.end();
    assert!(matches!(append(&mut log, &"b".repeat(3000)), Err(AppendError::DiskFull)));
    assert!(log.preparer.prepare_next(&log.reader).is_err());
    assert_eq!(log.appender.end(), end);
    append(&mut log, "small ones still fit").unwrap();
    files.set_capacity(None);
    append(&mut log, &"c".repeat(3000)).unwrap();
    assert_eq!(bodies(&log.reader).len(), 3);
    files.fail_next(FileOperation::Create, io::ErrorKind::Other);
    assert!(matches!(append(&mut log, &"d".repeat(3000)), Err(AppendError::Segment { .. })));
}

#[test]
fn impossible_lengths_are_refused() {
    let mut log = new_log(&MemoryFiles::new());
    let long = PendingMessage { properties: vec![1; 32_768].into(), ..message("") };
    let error = log.appender.append(&[message("a"), long], QueueOffset(0), WallMs(0)).unwrap_err();
    assert!(matches!(error, AppendError::PropertiesTooLong { len_bytes: 32_768 }));
    assert_eq!(log.appender.end(), PhysicalOffset(0));
}

#[test]
fn prepared_segment_is_used_once() {
    let files = MemoryFiles::new();
    let mut log = new_log(&files);
    assert!(log.preparer.prepare_next(&log.reader).unwrap());
    assert!(!log.preparer.prepare_next(&log.reader).unwrap());
    append(&mut log, &"a".repeat(3000)).unwrap();
    files.fail_next(FileOperation::Create, io::ErrorKind::StorageFull);
    append(&mut log, &"b".repeat(3000)).unwrap();
    assert!(log.preparer.prepare_next(&log.reader).is_err(), "the failure was still waiting");
    assert!(log.preparer.prepare_next(&log.reader).unwrap());
}

#[test]
fn zeroing_ahead_never_touches_what_is_stored() {
    let mut log = new_log(&MemoryFiles::new());
    let mut sent = Vec::new();
    for n in 0..40 {
        log.appender.zero_ahead(n % 3 != 1);
        if n % 4 != 2 {
            log.appender.zero_ahead_at_rest();
        }
        let body = format!("{n} {}", "x".repeat(n * 37 % 900));
        append(&mut log, &body).unwrap();
        sent.push(body);
        assert_eq!(bodies(&log.reader), sent);
    }
}

#[test]
fn failed_directory_sync_is_tried_again() {
    let files = MemoryFiles::new();
    let mut log = new_log(&files);
    append(&mut log, &"a".repeat(3000)).unwrap();
    append(&mut log, &"b".repeat(3000)).unwrap();
    let (from, to) = (log.reader.published(), log.reader.published());
    files.fail_next(FileOperation::Sync, io::ErrorKind::Other);
    assert!(log.reader.flush(from, to).is_err());
    log.reader.flush(from, to).unwrap();
    files.crash();
    assert!(files.stat(&PathBuf::from("/commitlog/00000000000000004096")).unwrap().is_some());
}

#[test]
fn deletion_takes_whole_segments_and_never_the_last() {
    let mut log = new_log(&MemoryFiles::new());
    for body in ["a", "b", "c", "d"] {
        append(&mut log, &body.repeat(3000)).unwrap();
    }
    let slice = log.reader.read_record(PhysicalOffset(0)).unwrap();
    assert_eq!(log.appender.delete_before(PhysicalOffset(2 * SEGMENT_BYTES + 1), 1).unwrap(), 1);
    assert_eq!(log.reader.min_offset(), PhysicalOffset(SEGMENT_BYTES));
    assert_eq!(log.reader.read(PhysicalOffset(0), 8), None);
    assert_eq!(&slice[88..90], b"aa", "a slice in flight keeps its map");
    assert_eq!(log.appender.delete_before(PhysicalOffset(u64::MAX), 10).unwrap(), 2);
    assert_eq!(bodies(&log.reader), ["d".repeat(3000)]);
    assert_eq!(log.reader.segments().unwrap().len(), 1);
}

#[test]
fn truncation_does_not_change_what_readers_hold() {
    let mut log = new_log(&MemoryFiles::new());
    append(&mut log, "kept").unwrap();
    let cut = append(&mut log, "gone").unwrap().start;
    append(&mut log, &"x".repeat(3900)).unwrap();
    let slice = log.reader.read_record(cut).unwrap();
    log.appender.truncate_to(cut, Some(PhysicalOffset(0))).unwrap();
    assert_eq!(log.reader.published(), cut);
    append(&mut log, "anew").unwrap();
    assert_eq!(RecordView::parse(&slice).unwrap().body(), b"gone");
    assert_eq!(bodies(&log.reader), ["kept", "anew"]);
    log.appender.reset_to(PhysicalOffset(5 * SEGMENT_BYTES + 9)).unwrap();
    assert_eq!(append(&mut log, "far").unwrap().start, PhysicalOffset(5 * SEGMENT_BYTES));
    assert_eq!(bodies(&log.reader), ["far"]);
}

#[test]
fn follower_shows_whole_entries_only() {
    let (mut master, mut follower) = (new_log(&MemoryFiles::new()), new_log(&MemoryFiles::new()));
    for body in ["a", "b", "c"] {
        append(&mut master, &body.repeat(1700)).unwrap();
    }
    let mut seen = Vec::new();
    loop {
        let at = follower.appender.end();
        let Some(bytes) = master.reader.read_up_to(at, 700) else { break };
        follower.appender.append_raw(at, &bytes).unwrap();
        let published = follower.appender.publish_whole_entries().unwrap();
        assert!(published <= follower.appender.end());
        seen = bodies(&follower.reader);
    }
    assert_eq!(seen, bodies(&master.reader));
    assert_eq!(follower.appender.tail(), master.appender.tail());
    let end = follower.appender.end();
    let error = follower.appender.append_raw(PhysicalOffset(1), b"x").unwrap_err();
    assert!(matches!(error, AppendError::NotAtEnd { expected, .. } if expected == end));
    follower.appender.append_raw(end, &[1; 100]).unwrap();
    assert_eq!(follower.appender.publish_whole_entries().unwrap_err().offset, end);
    assert_eq!(follower.reader.published(), end);
    follower.appender.truncate_to(end, None).unwrap();
    append(&mut follower, "promoted").unwrap();
    assert_eq!(bodies(&follower.reader).len(), 4);
}

#[test]
fn readers_and_flusher_run_beside_the_appender() {
    const RECORDS: u64 = 3000;
    let mut log = new_log(&MemoryFiles::new());
    thread::scope(|scope| {
        for is_flusher in [false, false, true] {
            let reader = log.reader.clone();
            scope.spawn(move || {
                let (mut at, mut next) = (PhysicalOffset(0), 0);
                while next < RECORDS {
                    let from = at;
                    let seen = reader.for_each_record(from, 1000, |offset, record| {
                        assert_eq!((record.queue_offset().0, record.physical_offset()), (next, offset));
                        record.verify_crc().unwrap();
                        next += 1;
                    });
                    at = seen.unwrap();
                    if is_flusher {
                        reader.flush(from, at).unwrap();
                    }
                }
            });
        }
        let mut preparer = log.preparer;
        let reader = log.reader.clone();
        scope.spawn(move || {
            while reader.published().0 < RECORDS * 90 {
                preparer.prepare_next(&reader).unwrap();
                thread::yield_now();
            }
        });
        for number in 0..RECORDS {
            let body = "b".repeat(number as usize % 50);
            log.appender.append(&[message(&body)], QueueOffset(number), WallMs(1)).unwrap();
            log.appender.publish().unwrap();
        }
    });
}

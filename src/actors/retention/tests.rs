use std::io;

use super::*;
use crate::actors::broker_settings::SettingValues;
use crate::actors::compactor::CopiesSecured;
use crate::actors::consumer_offsets::{CommitOffset, Losses, OffsetsConfig, QueryLosses};
use crate::actors::offset_table::OffsetKey;
use crate::actors::timer_scheduler::TimersMoved;
use crate::actors::topic_queue::{Dispatched, QueryExtent, QueueParts};
use crate::clock::{ManualClock, WallMs};
use crate::store::consume_queue::{ConsumeQueue, ConsumeQueueUnit};
use crate::store::file::StoreFiles;
use crate::store::memory_files::{FileOperation, MemoryFiles};
use crate::store::metadata::Metadata;
use crate::testing::log::{SEGMENT_BYTES, TestLog, message, queue_of, settle, topic_table};
use crate::testing::{Taken, fake_mailbox, fake_sink};
use crate::types::{PhysicalOffset, QueueOffset};

const HOUR_MS: i64 = 3_600_000;

struct Bench {
    files: MemoryFiles,
    clock: Arc<ManualClock>,
    topics: TopicTable,
    retention: Addr<Retention>,
    log: CommitLogReader,
    offsets: Addr<ConsumerOffsets>,
    refusals: Taken<RefuseWrites>,
    trims: Taken<TrimKeyIndex>,
}

/// A log of three segments, one message each, written in hours 0, 1 and 2. It is hour 2, and expired
/// segments go at any hour.
async fn start() -> Bench {
    tokio::time::pause();
    let mut log = TestLog::new();
    let clock = ManualClock::at(WallMs(2 * HOUR_MS));
    let metadata = Metadata::temporary().unwrap();
    let offsets = ConsumerOffsets::load(metadata.clone(), OffsetsConfig::default(), clock.clone());
    let offsets = offsets.unwrap().start();
    let parts = QueueParts { losses: Some(offsets.clone().recipient()), ..log.queue_parts() };
    let topics = topic_table(&[("T", 1), ("idle", 1)], &parts);
    let mut units = Vec::new();
    for n in 0..3 {
        log.files.set_now(WallMs(n * HOUR_MS));
        let appended = log.append(message("T", &"x".repeat(10_000)), n as u64);
        units.push(TestLog::unit(&appended, 0));
        log.reader.flush(appended.start, appended.end).unwrap();
    }
    let queue = queue_of(&topics, "T", 0);
    let dispatched = Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 1 };
    queue.send(dispatched).await.unwrap();
    let TestLog { files, mut appender, reader, .. } = log;
    let (retires, _) = fake_mailbox()
        .answers(move |retire: &RetireSegmentsBefore| {
            Ok(appender.retire_before(retire.offset, retire.max_segments))
        })
        .start();
    let (refuse, refusals) = fake_sink::<RefuseWrites>();
    let (trim, trims) = fake_sink::<TrimKeyIndex>();
    let positions = Progress::default();
    positions.set_dispatched(reader.published());
    let rules = RetentionRules { delete_hours: (0..24).collect(), ..RetentionRules::default() };
    let retention = Retention::new(RetentionParts {
        events: crate::actors::extensions::stream::EventTap::default(),
        files: Arc::new(files.clone()),
        root: PathBuf::from("/"),
        log: reader.clone(),
        positions,
        topics: topics.clone(),
        queue_files: ConsumeQueueConfig { segment_units: 8, max_unwritten_units: 0 },
        consumers: ConsumerGroupTable::default(),
        offsets: offsets.clone(),
        delivered: metadata.delay_offsets().unwrap(),
        oldest_half: OldestHalf::default(),
        timers: fake_mailbox().answers(|_: &MoveTimers| TimersMoved { oldest: None }).start().0,
        copies: fake_mailbox().answers(|_: &SecureCopies| CopiesSecured { oldest_unsecured: None }).start().0,
        retires,
        refusals: refuse,
        key_index: Some(trim),
        rules,
        clock: clock.clone(),
        interval: Duration::from_secs(10),
        mailbox_capacity: 16,
    })
    .start();
    let bench = Bench { files, clock, topics, retention, log: reader, offsets, refusals, trims };
    bench.round().await;
    bench
}

impl Bench {
    async fn round(&self) {
        self.retention.send(RetentionDue).await.unwrap();
        self.done().await;
    }

    /// Waits until everything is decided, removed and counted. The clock of the runtime stands still but for that.
    async fn done(&self) {
        settle().await;
        while self.retention.send(ObserveRetention).await.unwrap().busy {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn commit(&self, group: &str, topic: &str, offset: u64) {
        let key = OffsetKey { group: group.into(), topic: topic.into(), queue_id: QueueId(0) };
        self.offsets
            .send(CommitOffset { key, offset: QueueOffset(offset), awaited: false })
            .await
            .unwrap()
            .unwrap();
    }

    async fn losses(&self) -> Losses {
        self.offsets.send(QueryLosses).await.unwrap()
    }

    /// Writes units of a queue that is not started: their numbers, and where their messages lie.
    fn derive(&self, topic: &str, units: &[(u64, u64)]) {
        let dir = queue_dir(&PathBuf::from("/consumequeue"), &topic.into(), QueueId(0));
        let files = Arc::new(self.files.clone());
        let mut queue = ConsumeQueue::open(
            files,
            dir,
            ConsumeQueueConfig { segment_units: 8, max_unwritten_units: 0 },
            None,
        )
        .unwrap();
        for (number, position) in units {
            let unit = ConsumeQueueUnit {
                physical_offset: PhysicalOffset(*position),
                size_bytes: 100,
                tags_code: 0,
            };
            queue.append(QueueOffset(*number), &[unit]).unwrap();
        }
    }

    fn segment_files(&self) -> usize {
        let listed = self.files.list(&PathBuf::from("/commitlog")).unwrap();
        listed.iter().filter(|entry| !entry.stat.is_dir).count()
    }

    /// Makes the disk so full, with what lies on it now.
    fn fill(&self, used_ratio: f64) {
        self.files.set_capacity(None);
        let space = self.files.space(&PathBuf::from("/")).unwrap();
        let used = space.total_bytes - space.available_bytes;
        self.files.set_capacity(Some((used as f64 / used_ratio) as u64));
    }
}

#[actix::test]
async fn expired_segments_go_and_what_was_derived_from_them() {
    let mut bench = start().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(0), "nothing is old enough");
    bench.clock.set(WallMs(73 * HOUR_MS));
    bench.round().await;
    let log_min = PhysicalOffset(2 * SEGMENT_BYTES);
    assert_eq!(bench.log.min_offset(), log_min);
    assert_eq!(bench.trims.next().await.log_min, log_min);
    let extent = queue_of(&bench.topics, "T", 0).send(QueryExtent).await.unwrap();
    assert_eq!((extent.min.0, extent.max.0), (2, 3));
    let idle = bench.topics.get("idle").unwrap();
    assert_eq!(idle.started_queues().count(), 0, "no queue is started to be told");
}

#[actix::test]
async fn file_that_cannot_be_removed_is_tried_again_before_anything_else_goes() {
    let mut bench = start().await;
    bench.files.fail_next(FileOperation::Remove, io::ErrorKind::PermissionDenied);
    bench.clock.set(WallMs(72 * HOUR_MS));
    bench.round().await;
    assert_eq!(bench.trims.next().await.log_min, PhysicalOffset(SEGMENT_BYTES));
    assert_eq!(bench.segment_files(), 3, "it left the log, and is still there");
    bench.clock.set(WallMs(73 * HOUR_MS));
    bench.round().await;
    assert_eq!(bench.segment_files(), 2);
    assert_eq!(bench.log.min_offset(), PhysicalOffset(SEGMENT_BYTES));
    bench.round().await;
    assert_eq!(bench.trims.next().await.log_min, PhysicalOffset(2 * SEGMENT_BYTES));
    assert_eq!(bench.segment_files(), 1);
}

#[actix::test]
async fn writes_are_refused_once_the_disk_is_full_and_taken_again() {
    let mut bench = start().await;
    assert!(bench.refusals.try_recv().is_err());
    bench.fill(0.95);
    bench.round().await;
    let RefuseWrites(cause) = bench.refusals.next().await;
    assert!(cause.as_deref().is_some_and(|cause| cause.contains("95.0 %")), "{cause:?}");
    bench.fill(0.95);
    bench.round().await;
    assert!(bench.refusals.try_recv().is_err(), "the writer knows");
    bench.files.set_capacity(None);
    bench.round().await;
    assert_eq!(bench.refusals.next().await.0, None);
}

#[actix::test]
async fn writes_are_taken_again_soon_after_there_is_room() {
    let mut bench = start().await;
    bench.fill(0.95);
    bench.round().await;
    assert!(bench.refusals.next().await.0.is_some());
    bench.files.set_capacity(None);
    tokio::time::advance(Duration::from_millis(1_001)).await;
    bench.done().await;
    assert!(
        bench.refusals.try_recv().is_ok_and(|RefuseWrites(cause)| cause.is_none()),
        "nobody asked for it"
    );
}

#[actix::test]
async fn consumed_segments_go_when_the_disk_fills_and_the_others_stay() {
    let bench = start().await;
    bench.commit("slow", "T", 1).await;
    bench.commit("fast", "T", 3).await;
    bench.fill(0.89);
    bench.round().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(SEGMENT_BYTES), "what the slow group has done with");
    bench.fill(0.89);
    bench.round().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(SEGMENT_BYTES));
    assert_eq!(bench.losses().await, Losses::new());
}

#[actix::test]
async fn idle_queue_holds_what_its_group_has_not_consumed_and_is_not_started() {
    let bench = start().await;
    // As after a restart: the queue has files, and nobody has asked for it yet.
    bench.derive("idle", &[(0, SEGMENT_BYTES + 100), (1, 2 * SEGMENT_BYTES + 100)]);
    bench.commit("slow", "idle", 0).await;
    bench.fill(0.89);
    bench.round().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(SEGMENT_BYTES), "its first message is in the second");
    bench.fill(0.89);
    bench.round().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(SEGMENT_BYTES));
    // The disk is full now, and one message of the group's goes.
    bench.fill(0.95);
    bench.round().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(2 * SEGMENT_BYTES));
    let lost = (("slow".into(), "idle".into()), 1);
    assert_eq!(bench.losses().await, Losses::from([lost]));
    assert_eq!(bench.topics.get("idle").unwrap().started_queues().count(), 0);
}

#[actix::test]
async fn full_disk_takes_unconsumed_messages_one_segment_at_a_time_and_says_so() {
    let bench = start().await;
    bench.commit("slow", "T", 0).await;
    bench.fill(0.89);
    bench.round().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(0));
    bench.fill(0.95);
    bench.round().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(SEGMENT_BYTES));
    assert_eq!(bench.losses().await, Losses::from([(("slow".into(), "T".into()), 1)]));
}

#[actix::test]
async fn expired_messages_are_counted_for_who_had_not_consumed_them() {
    let bench = start().await;
    bench.commit("slow", "T", 1).await;
    bench.clock.set(WallMs(73 * HOUR_MS));
    bench.round().await;
    assert_eq!(bench.losses().await, Losses::from([(("slow".into(), "T".into()), 1)]));
}

#[actix::test]
async fn expired_segments_go_on_request_whatever_the_hour() {
    let bench = start().await;
    let settings = SettingValues { delete_when: Vec::new(), ..SettingValues::default() };
    bench.retention.send(SettingsChanged { settings: Arc::new(settings) }).await.unwrap();
    bench.clock.set(WallMs(73 * HOUR_MS));
    bench.round().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(0));
    let expired = bench.retention.send(DeleteExpiredNow).await.unwrap().unwrap();
    assert_eq!((expired.count, bench.log.min_offset()), (2, PhysicalOffset(2 * SEGMENT_BYTES)));
    let none = bench.retention.send(DeleteExpiredNow).await.unwrap().unwrap();
    assert_eq!(none.count, 0);
}

#[actix::test]
async fn queues_are_trimmed_on_request_and_idle_ones_only_if_they_have_files_to_lose() {
    let bench = start().await;
    bench.clock.set(WallMs(73 * HOUR_MS));
    bench.round().await;
    bench.derive("idle", &[(0, 0), (1, 100)]);
    let trimmed = bench.retention.send(TrimQueuesNow).await.unwrap().unwrap();
    assert_eq!(trimmed.told, 1, "the one that was started");
    let old: Vec<_> = (0..9).map(|n| (n, n * 100)).collect();
    bench.derive("idle", &old);
    let trimmed = bench.retention.send(TrimQueuesNow).await.unwrap().unwrap();
    assert_eq!(trimmed.told, 2);
    let extent = queue_of(&bench.topics, "idle", 0).send(QueryExtent).await.unwrap();
    assert_eq!((extent.min.0, extent.max.0), (9, 9), "the numbering stays");
    let files = bench.files.list(&PathBuf::from("/consumequeue/idle/0")).unwrap();
    assert_eq!(files.len(), 1);
}

#[actix::test]
async fn altered_settings_count_at_once() {
    let bench = start().await;
    let settings = SettingValues {
        file_reserved: Duration::from_secs(3_600),
        delete_when: (0..24).collect(),
        ..SettingValues::default()
    };
    let settings = Arc::new(settings);
    bench.retention.send(SettingsChanged { settings }).await.unwrap();
    bench.done().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(2 * SEGMENT_BYTES));
}

#[actix::test]
async fn looks_again_in_its_interval() {
    let bench = start().await;
    bench.clock.set(WallMs(73 * HOUR_MS));
    tokio::time::advance(Duration::from_secs(11)).await;
    bench.done().await;
    assert_eq!(bench.log.min_offset(), PhysicalOffset(2 * SEGMENT_BYTES));
}

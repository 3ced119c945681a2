use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use actix::Addr;
use tokio::time::advance;

use super::*;
use crate::actors::topic_queue::{Dispatched, QueueParts, TopicQueue};
use crate::store::commit_log::LogTail;
use crate::store::consume_queue::{ConsumeQueue, queue_dir};
use crate::store::memory_files::{FileOperation, MemoryFiles};
use crate::store::metadata::Metadata;
use crate::store::recovery::{LastStop, open_commit_log};
use crate::store::recovery_progress::RecoveryProgress;
use crate::store::segment::SegmentDir;
use crate::testing::log::{SEGMENT_BYTES, TestLog, message, settle};
use crate::testing::{Taken, fake_mailbox, fake_sink};
use crate::types::{QueueId, QueueOffset};

const ROOT: &str = "/store";

/// A dispatcher that is given its plans by the test; each is taken once, as the real one forgets the queues
/// it has named.
#[derive(Clone, Default)]
struct Plans(Arc<Mutex<Plan>>);

/// What the dispatcher would say: how far it is, and the queues it touched.
type Plan = (Option<LogTail>, Vec<Addr<TopicQueue>>);

impl Plans {
    fn set(&self, dispatched: Option<LogTail>, queues: &[&Addr<TopicQueue>]) {
        *self.0.lock().unwrap() = (dispatched, queues.iter().map(|queue| (*queue).clone()).collect());
    }

    fn take(&self) -> CheckPointPlan {
        let (dispatched, queues) = &mut *self.0.lock().unwrap();
        CheckPointPlan { dispatched: *dispatched, queues: std::mem::take(queues) }
    }
}

struct Bench {
    log: CommitLogParts,
    queues: QueueParts,
    plans: Plans,
    progress: Progress,
    flusher: Addr<Flusher>,
}

/// What is left of the log when the preparer belongs to the flusher.
struct CommitLogParts {
    files: MemoryFiles,
    appender: crate::store::commit_log::CommitLogAppender,
    reader: CommitLogReader,
}

fn start() -> Bench {
    start_with(|_| {})
}

fn start_with(change: impl FnOnce(&mut FlusherParts)) -> Bench {
    let log = TestLog::new();
    let queues = log.queue_parts();
    let TestLog { files, appender, reader, preparer } = log;
    let (check_point_file, check_point) = CheckPointFile::open(&files, Path::new(ROOT)).unwrap();
    let plans = Plans::default();
    let progress = Progress::default();
    let taken = plans.clone();
    let mut parts = FlusherParts {
        files: Arc::new(files.clone()),
        file_system: Arc::new(files.clone()),
        flush: LogFlush::new(reader.clone(), progress.clone()),
        log: reader.clone(),
        preparer,
        check_point_file,
        check_point,
        known: KnownDerived::open(&Metadata::temporary().unwrap()).unwrap(),
        dispatcher: fake_mailbox().answers(move |_: &BeginCheckPoint| taken.take()).start().0,
        dispatch: fake_sink().0,
        failed: fake_sink().0,
        key_index: None,
        timers: None,
        progress: progress.clone(),
        config: FlusherConfig::default(),
    };
    change(&mut parts);
    let flusher = Flusher::new(parts).start();
    Bench { log: CommitLogParts { files, appender, reader }, queues, plans, progress, flusher }
}

impl Bench {
    fn queue(&self, queue_id: u32) -> Addr<TopicQueue> {
        TopicQueue::new("T".into(), QueueId(queue_id), false, Arc::new(self.queues.clone())).start()
    }

    /// Stores one message and gives `queue` its unit.
    async fn store(&mut self, queue: &Addr<TopicQueue>, number: u64) {
        let now = crate::clock::WallMs(1_000);
        let message = message("T", "x");
        let appended = self.log.appender.append(&[message], QueueOffset(number), now).unwrap();
        self.log.appender.publish().unwrap();
        let units = vec![TestLog::unit(&appended, 0)];
        let first = QueueOffset(number);
        queue.send(Dispatched { first, units, last_stored_at_ms: 1_000 }).await.unwrap();
    }

    async fn check_point(&self) -> Result<(), String> {
        self.flusher.send(CheckPointNow).await.unwrap()
    }

    fn fail_sync(&self) {
        self.log.files.fail_next(FileOperation::Sync, ErrorKind::Other);
    }

    /// What a start after a power failure finds: what the check point claims, where the log ends, and how many
    /// units the queues still have.
    fn after_power_failure(&self, queue_ids: &[u32]) -> (Option<LogTail>, PhysicalOffset, Vec<u64>) {
        let files = &self.log.files;
        files.crash();
        let (_, check_point) = CheckPointFile::open(files, Path::new(ROOT)).unwrap();
        let dir = SegmentDir {
            files: Arc::new(files.clone()),
            dir: PathBuf::from("/commitlog"),
            segment_bytes: SEGMENT_BYTES,
        };
        let (log, _) =
            open_commit_log(dir, &check_point, LastStop::Unclean, &RecoveryProgress::default()).unwrap();
        let claimed = check_point.dispatched.map(|tail| tail.end);
        let units = |queue_id: &u32| {
            let dir = queue_dir(&self.queues.consume_queue_root, &"T".into(), QueueId(*queue_id));
            let config = self.queues.config.units;
            let queue = ConsumeQueue::open(Arc::new(files.clone()), dir, config, claimed).unwrap();
            queue.max_offset().0
        };
        (check_point.dispatched, log.appender.end(), queue_ids.iter().map(units).collect())
    }
}

#[actix::test]
async fn published_messages_are_on_disk_once_flushed() {
    let mut bench = start();
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    let end = bench.log.reader.published();
    assert_eq!(bench.flusher.send(FlushNow).await.unwrap(), Ok(LogFlushed { up_to: end }));
    assert_eq!(bench.progress.flushed(), end);
    bench.store(&queue, 1).await;
    assert_eq!(bench.after_power_failure(&[]), (None, end, Vec::new()));
}

#[actix::test]
async fn all_who_wait_share_a_flush_and_are_told_how_far_it_went() {
    let (dispatch, mut woken) = fake_sink::<LogPublished>();
    let mut bench = start_with(|parts| parts.dispatch = dispatch);
    let (waiting, mut told) = fake_sink::<LogFlushed>();
    let (other, mut other_told) = fake_sink::<LogFlushed>();
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    let end = bench.log.reader.published();
    let (waiting, other) = (Arc::new(waiting), Arc::new(other));
    bench.flusher.do_send(FlushWanted { tell: vec![waiting.clone(), other] });
    bench.flusher.do_send(FlushWanted { tell: vec![waiting] });
    assert_eq!(told.next().await, LogFlushed { up_to: end });
    assert_eq!(other_told.next().await, LogFlushed { up_to: end });
    assert!(told.try_recv().is_err(), "told once");
    woken.recv().await.expect("the dispatcher may have waited");
    assert_eq!(bench.after_power_failure(&[]).1, end);
}

/// A flusher with someone to tell of a failed disk.
fn start_watched() -> (Bench, Taken<DiskFailed>) {
    let (failed, failures) = fake_sink::<DiskFailed>();
    (start_with(|parts| parts.failed = failed), failures)
}

#[actix::test]
async fn after_a_failed_flush_nothing_is_claimed_any_more() {
    let (mut bench, mut failures) = start_watched();
    let (waiting, mut told) = fake_sink::<LogFlushed>();
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    bench.plans.set(Some(bench.log.appender.tail()), &[&queue]);
    bench.fail_sync();
    bench.flusher.do_send(FlushWanted { tell: vec![Arc::new(waiting)] });
    let failed = failures.next().await;
    assert!(failed.cause.contains("00000000000000000000"), "{failed:?} names the file");
    // The disk would take it now, and might say so of pages that the kernel has given up.
    assert!(bench.flusher.send(FlushNow).await.unwrap().is_err());
    assert!(bench.check_point().await.is_err());
    assert!(told.try_recv().is_err() && failures.try_recv().is_err());
    assert_eq!(bench.progress.flushed(), PhysicalOffset(0));
    assert_eq!(bench.after_power_failure(&[]).0, None);
}

#[actix::test]
async fn everything_a_check_point_claims_survives_a_power_failure() {
    let mut bench = start();
    let (a, b) = (bench.queue(0), bench.queue(1));
    bench.store(&a, 0).await;
    bench.store(&b, 0).await;
    let tail = bench.log.appender.tail();
    bench.plans.set(Some(tail), &[&a, &b]);
    bench.check_point().await.unwrap();
    bench.store(&a, 1).await;
    assert_eq!(bench.after_power_failure(&[0, 1]), (Some(tail), tail.end, vec![1, 1]));
}

#[actix::test]
async fn check_point_file_that_cannot_be_written_is_tried_again() {
    let mut bench = start();
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    let tail = bench.log.appender.tail();
    bench.plans.set(Some(tail), &[&queue]);
    bench.log.files.fail_next(FileOperation::Write, ErrorKind::Other);
    assert!(bench.check_point().await.is_err());
    bench.check_point().await.unwrap();
    assert_eq!(bench.after_power_failure(&[0]), (Some(tail), tail.end, vec![1]));
}

#[actix::test]
async fn failed_sync_of_a_queue_ends_the_process_and_keeps_the_old_check_point() {
    let (mut bench, mut failures) = start_watched();
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    bench.plans.set(Some(bench.log.appender.tail()), &[&queue]);
    bench.flusher.send(FlushNow).await.unwrap().unwrap();
    bench.fail_sync();
    assert!(bench.check_point().await.is_err());
    failures.next().await;
    assert!(bench.check_point().await.is_err());
    assert_eq!(bench.after_power_failure(&[]).0, None);
}

#[actix::test]
async fn queue_that_cannot_be_flushed_costs_the_others_nothing() {
    tokio::time::pause();
    let mut bench = start();
    let (a, b) = (bench.queue(0), bench.queue(1));
    bench.store(&a, 0).await;
    bench.log.files.fail_next(FileOperation::Create, ErrorKind::StorageFull);
    bench.store(&b, 0).await;
    let tail = bench.log.appender.tail();
    bench.plans.set(Some(tail), &[&a, &b]);
    bench.check_point().await.expect_err("a unit is not written");
    bench.check_point().await.expect_err("nor now, though the dispatcher names the queue no more");
    advance(Duration::from_secs(2)).await;
    settle().await;
    bench.check_point().await.unwrap();
    assert_eq!(bench.after_power_failure(&[0, 1]), (Some(tail), tail.end, vec![1, 1]));
}

#[actix::test]
async fn key_index_is_flushed_before_and_its_failure_keeps_the_old_check_point() {
    let fails = Arc::new(Mutex::new(true));
    let failing = fails.clone();
    let (key_index, mut flushes) = fake_mailbox()
        .answers(move |_: &FlushKeyIndex| match *failing.lock().unwrap() {
            true => Err("no".to_owned()),
            false => Ok(KnownIndex::default()),
        })
        .start();
    let mut bench = start_with(|parts| parts.key_index = Some(key_index));
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    let tail = bench.log.appender.tail();
    bench.plans.set(Some(tail), &[&queue]);
    assert_eq!(bench.check_point().await, Err("no".to_owned()));
    *fails.lock().unwrap() = false;
    bench.check_point().await.unwrap();
    flushes.next().await;
    assert_eq!(bench.after_power_failure(&[0]), (Some(tail), tail.end, vec![1]));
}

#[actix::test]
async fn check_point_asked_for_twice_is_true_for_both() {
    let mut bench = start();
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    let tail = bench.log.appender.tail();
    bench.plans.set(Some(tail), &[&queue]);
    let first = bench.flusher.send(CheckPointNow);
    let second = bench.flusher.send(CheckPointNow);
    actix_rt::spawn(first);
    second.await.unwrap().unwrap();
    assert_eq!(bench.after_power_failure(&[0]), (Some(tail), tail.end, vec![1]));
}

#[actix::test]
async fn nothing_is_claimed_while_the_dispatcher_waits_for_room() {
    let mut bench = start();
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    bench.plans.set(None, &[]);
    bench.check_point().await.unwrap();
    assert_eq!(bench.after_power_failure(&[]).0, None);
}

#[actix::test]
async fn queue_that_was_deleted_meanwhile_is_no_hindrance() {
    let mut bench = start();
    let (a, gone) = (bench.queue(0), bench.queue(1));
    bench.store(&a, 0).await;
    gone.send(crate::actors::topic_queue::DeleteQueue).await.unwrap();
    settle().await;
    let tail = bench.log.appender.tail();
    bench.plans.set(Some(tail), &[&gone, &a]);
    bench.check_point().await.unwrap();
    assert_eq!(bench.after_power_failure(&[0]), (Some(tail), tail.end, vec![1]));
}

#[actix::test]
async fn log_is_flushed_and_check_points_are_taken_in_their_intervals() {
    tokio::time::pause();
    let mut bench = start();
    let queue = bench.queue(0);
    bench.store(&queue, 0).await;
    let tail = bench.log.appender.tail();
    bench.plans.set(Some(tail), &[&queue]);
    advance(Duration::from_millis(510)).await;
    settle().await;
    assert_eq!(bench.progress.flushed(), tail.end);
    let saved = || CheckPointFile::open(&bench.log.files, Path::new(ROOT)).unwrap().1.dispatched;
    assert_eq!(saved(), None);
    advance(Duration::from_millis(4_500)).await;
    // The files are synced on another thread, which knows nothing of our clock.
    for _ in 0..1_000 {
        settle().await;
        if saved().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(saved(), Some(tail));
}

#[actix::test]
async fn next_segment_is_made_once_half_of_this_one_is_used() {
    tokio::time::pause();
    let mut bench = start();
    let files = bench.log.files.clone();
    let made = || {
        let listed = files.list(Path::new("/commitlog")).unwrap();
        let dirs = listed.iter().filter(|entry| entry.stat.is_dir);
        dirs.map(|dir| files.list(&Path::new("/commitlog").join(&dir.name)).unwrap().len()).sum::<usize>()
    };
    advance(Duration::from_millis(510)).await;
    settle().await;
    assert_eq!(made(), 0, "an idle store holds one");
    let large = "x".repeat(SEGMENT_BYTES as usize * 2 / 3);
    bench.log.appender.append(&[message("T", &large)], QueueOffset(0), Default::default()).unwrap();
    bench.log.appender.publish().unwrap();
    advance(Duration::from_millis(510)).await;
    settle().await;
    assert_eq!(made(), 1);
    bench.log.files.fail_next(FileOperation::Create, ErrorKind::StorageFull);
    bench.log.appender.append(&[message("T", &large)], QueueOffset(1), Default::default()).unwrap();
}

#[actix::test]
async fn check_point_of_more_queues_than_are_synced_singly_keeps_all_of_them() {
    let mut bench = start();
    let queue_ids: Vec<u32> = (0..2 * FILES_SYNCED_SINGLY as u32).collect();
    let queues: Vec<_> = queue_ids.iter().map(|queue_id| bench.queue(*queue_id)).collect();
    for queue in &queues {
        bench.store(queue, 0).await;
    }
    let tail = bench.log.appender.tail();
    bench.plans.set(Some(tail), &queues.iter().collect::<Vec<_>>());
    bench.check_point().await.unwrap();
    assert_eq!(bench.after_power_failure(&queue_ids), (Some(tail), tail.end, vec![1; queues.len()]));
}

#[actix::test]
async fn check_point_that_takes_long_is_taken_less_often_and_still_in_time() {
    tokio::time::pause();
    let (key_index, mut flushes) = fake_mailbox()
        .answers(|_: &FlushKeyIndex| Ok(KnownIndex::default()))
        .busy_for(Duration::from_secs(3))
        .start();
    let _bench = start_with(|parts| parts.key_index = Some(key_index));
    advance(Duration::from_millis(5_001)).await;
    flushes.next().await;
    for _ in 0..18 {
        advance(Duration::from_secs(1)).await;
        settle().await;
    }
    assert!(flushes.try_recv().is_err(), "ten times three seconds after the first would be next");
    for _ in 0..3 {
        advance(Duration::from_secs(1)).await;
        settle().await;
    }
    flushes.try_recv().expect("the fourth interval is the last to wait for");
}

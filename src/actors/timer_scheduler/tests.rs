use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::actors::commit_log_writer::AppendBatch;
use crate::actors::topic_queue::QueueParts;
use crate::clock::ManualClock;
use crate::protocol::message::RecordView;
use crate::protocol::names::TIMER_TOPIC;
use crate::protocol::properties::PropertyList;
use crate::store::timers::{TimerDir, TimerKey, open_timers};
use crate::testing::log::{TestLog, answer, message_with, settle, store_host, topic_table};
use crate::testing::{CLOCK_BEGINS, RuntimeClock, Taken, fake_sink, pass};
use crate::types::QueueOffset;

const TOPICS: [(&str, u32); 2] = [(TIMER_TOPIC, 1), ("T", 2)];

struct Bench {
    log: TestLog,
    topics: TopicTable,
    clock: SharedClock,
    progress: Progress,
    scheduler: Addr<TimerScheduler>,
    /// What the queues ask of the writer; the test answers.
    appends: Taken<AppendBatch>,
    /// Of the timer topic.
    next_offset: u64,
}

fn start() -> Bench {
    start_at(RuntimeClock::shared())
}

fn start_at(clock: SharedClock) -> Bench {
    let log = TestLog::new();
    let (writer, appends) = fake_sink::<AppendBatch>();
    let topics = topic_table(&TOPICS, &QueueParts { writer, ..log.queue_parts() });
    let progress = Progress::default();
    let scheduler = start_scheduler(&log, &topics, &progress, clock.clone(), None);
    scheduler.do_send(StartDelivery);
    Bench { log, topics, clock, progress, scheduler, appends, next_offset: 0 }
}

fn start_scheduler(
    log: &TestLog,
    topics: &TopicTable,
    progress: &Progress,
    clock: SharedClock,
    java: Option<JavaTimers>,
) -> Addr<TimerScheduler> {
    let dir = TimerDir::new(Arc::new(log.files.clone()), PathBuf::from("/timer"));
    let scheduler = TimerScheduler::new(TimerSchedulerParts {
        pending: open_timers(dir, PhysicalOffset(0), log.reader.published()).unwrap().pending,
        log: log.reader.clone(),
        topics: topics.clone(),
        progress: progress.clone(),
        java,
        flush: FlushMode::Async,
        store_host: store_host(),
        clock,
        mailbox_capacity: 64,
    });
    scheduler.start()
}

impl Bench {
    /// Stores a message for queue 1 of T that is due in `delay_ms`, and has the scheduler told.
    async fn later(&mut self, body: &str, delay_ms: i64) -> TimerNews {
        let due = (self.clock.now().0 + delay_ms).to_string();
        let slot = timer::slot_of(self.clock.now().0 + delay_ms).to_string();
        let pairs = [
            ("UNIQ_KEY", body),
            ("TIMER_DELIVER_MS", &due),
            ("TIMER_OUT_MS", &slot),
            ("REAL_TOPIC", "T"),
            ("REAL_QID", "1"),
        ];
        self.stored(message_with(TIMER_TOPIC, body, &pairs)).await
    }

    /// Appends a record as the writer does, and has the scheduler told as the dispatcher does.
    async fn stored(&mut self, message: PendingMessage) -> TimerNews {
        let offset = self.next_offset;
        self.next_offset += u64::from(&*message.topic == TIMER_TOPIC);
        let at = self.log.append_at(message, offset, self.clock.now()).start;
        let record = self.log.reader.read_record(at).unwrap();
        let news = TimerNews::of(at, &RecordView::parse(&record).unwrap()).unwrap();
        self.scheduler.send(TimersDispatched(vec![news.clone()])).await.unwrap();
        news
    }

    /// What is stored next by the scheduler; nothing, if nothing is due.
    async fn sent(&mut self) -> Option<AppendBatch> {
        settle().await;
        self.appends.try_recv().ok()
    }

    /// Answers a batch, and has the scheduler told of its records.
    async fn store(&mut self, batch: AppendBatch) {
        let messages: Vec<_> = batch.sends.iter().flat_map(|send| send.to_vec()).collect();
        answer(batch, Ok(()));
        for message in messages {
            self.stored(message).await;
        }
        settle().await;
    }

    async fn pass(&self, ms: u64) {
        pass(Duration::from_millis(ms)).await;
    }

    async fn pending(&self) -> i64 {
        self.scheduler.send(CountTimers).await.unwrap().total
    }
}

fn bodies(batch: &AppendBatch) -> Vec<Bytes> {
    batch.sends.iter().map(|send| send[0].body.clone()).collect()
}

#[actix::test]
async fn message_comes_to_its_real_queue_at_its_time_and_not_before() {
    tokio::time::pause();
    let mut bench = start();
    let news = bench.later("x", 1_500).await;
    bench.pass(1_490).await;
    assert!(bench.sent().await.is_none(), "not yet");
    bench.pass(20).await;
    let batch = bench.sent().await.unwrap();
    let message = &batch.sends[0][0];
    assert_eq!((&*message.topic, message.queue_id.0, &message.body[..]), ("T", 1, &b"x"[..]));
    let properties = PropertyList::decode(&message.properties);
    for name in ["TIMER_OUT_MS", "TIMER_ENQUEUE_MS", "TIMER_DEQUEUE_MS", "REAL_TOPIC", "REAL_QID", "UNIQ_KEY"]
    {
        assert!(properties.get(name).is_some(), "{name} is what consumers of a Java broker see");
    }
    assert_eq!(properties.get("WAIT"), Some("false"));
    assert_eq!(properties.get("TIMER_SETTLES"), Some(news.adds.unwrap().key.to_string().as_str()));
    assert_eq!(bench.pending().await, 1, "until the log says that it is delivered");
    bench.store(batch).await;
    assert_eq!(bench.pending().await, 0);
    bench.pass(5_000).await;
    assert!(bench.sent().await.is_none(), "delivered once");
}

#[actix::test]
async fn nothing_is_delivered_before_everything_stored_is_dispatched() {
    tokio::time::pause();
    let mut bench = start();
    bench.scheduler = start_scheduler(&bench.log, &bench.topics, &bench.progress, bench.clock.clone(), None);
    let first = bench.later("x", 10).await;
    let settled = Settled { key: first.adds.unwrap().key, topic_hash: 0 };
    bench.pass(1_000).await;
    assert!(bench.sent().await.is_none());
    let news = TimerNews { at: first.at.advance(9), settles: Some(settled), adds: None, ..first };
    bench.scheduler.send(TimersDispatched(vec![news])).await.unwrap();
    bench.scheduler.send(StartDelivery).await.unwrap();
    bench.pass(1_000).await;
    assert!(bench.sent().await.is_none(), "the log says that it was delivered");
}

#[actix::test]
async fn clock_that_jumps_decides_by_what_it_shows() {
    tokio::time::pause();
    let clock = ManualClock::at(CLOCK_BEGINS);
    let mut bench = start_at(clock.clone());
    bench.later("x", 60_000).await;
    clock.advance_ms(-3_600_000);
    bench.pass(70_000).await;
    assert!(bench.sent().await.is_none(), "the clock went back");
    clock.set(CLOCK_BEGINS);
    clock.advance_ms(60_000);
    bench.pass(500).await;
    assert_eq!(bodies(&bench.sent().await.unwrap()), ["x"], "noticed soon");
}

#[actix::test]
async fn refused_delivery_is_tried_again() {
    tokio::time::pause();
    let mut bench = start();
    bench.later("x", 10).await;
    bench.pass(20).await;
    answer(bench.sent().await.unwrap(), Err(Refusal::NotWritable { cause: "full".into() }));
    bench.pass(900).await;
    assert!(bench.sent().await.is_none(), "there is a pause");
    bench.pass(300).await;
    assert_eq!(bodies(&bench.sent().await.unwrap()), ["x"]);
}

#[actix::test]
async fn message_without_a_topic_is_settled_in_the_log() {
    tokio::time::pause();
    let mut bench = start();
    let pairs = [
        ("TIMER_DELIVER_MS", "1700000000010"),
        ("TIMER_OUT_MS", "1"),
        ("REAL_TOPIC", "gone"),
        ("REAL_QID", "0"),
    ];
    bench.stored(message_with(TIMER_TOPIC, "x", &pairs)).await;
    bench.pass(20).await;
    let batch = bench.sent().await.unwrap();
    assert_eq!(&*batch.sends[0][0].topic, TIMER_TOPIC);
    bench.store(batch).await;
    assert_eq!(bench.pending().await, 0);
}

#[actix::test]
async fn recalled_message_is_settled_before_it_is_answered() {
    tokio::time::pause();
    let mut bench = start();
    let due_ms = bench.later("x", 5_000).await.adds.unwrap().key.due_ms;
    bench.later("kept", 5_000).await;
    let name = |key: &str| TimerName { topic: "T".into(), unique_key: key.into() };
    let recall = |key| RecallTimer { name: name(key), due_ms };
    let unknown = bench.scheduler.send(recall("other")).await.unwrap();
    assert!(matches!(unknown, Err(Refusal::NothingToRecall { .. })));
    let answered = actix_rt::spawn(bench.scheduler.send(recall("x")));
    let batch = bench.sent().await.unwrap();
    assert!(!answered.is_finished());
    let twice = bench.scheduler.send(recall("x")).await.unwrap();
    assert!(matches!(twice, Err(Refusal::NothingToRecall { .. })), "it is being recalled");
    bench.store(batch).await;
    answered.await.unwrap().unwrap().unwrap();
    bench.pass(5_010).await;
    assert_eq!(bodies(&bench.sent().await.unwrap()), ["kept"]);
}

#[actix::test]
async fn message_comes_though_its_recall_could_not_be_stored() {
    tokio::time::pause();
    let mut bench = start();
    let due_ms = bench.later("x", 5_000).await.adds.unwrap().key.due_ms;
    let name = TimerName { topic: "T".into(), unique_key: "x".into() };
    let answered = actix_rt::spawn(bench.scheduler.send(RecallTimer { name, due_ms }));
    answer(bench.sent().await.unwrap(), Err(Refusal::NotWritable { cause: "full".into() }));
    assert!(matches!(answered.await.unwrap().unwrap(), Err(Refusal::NotWritable { .. })));
    bench.pass(5_010).await;
    assert_eq!(bodies(&bench.sent().await.unwrap()), ["x"]);
}

#[actix::test]
async fn java_recalls_and_rolls_by_name_and_slot() {
    tokio::time::pause();
    let mut bench = start();
    let first = bench.later("a", 5_000).await;
    bench.later("b", 5_000).await;
    let slot = first.slot_ms.to_string();
    let recall = [("TIMER_DEL_UNIQKEY", "Ta"), ("TIMER_OUT_MS", &slot), ("REAL_TOPIC", "T")];
    bench.stored(message_with(TIMER_TOPIC, "0", &recall)).await;
    assert_eq!(bench.pending().await, 1);
    let roll = [
        ("UNIQ_KEY", "b"),
        ("TIMER_OUT_MS", &slot),
        ("TIMER_DELAY_MS", "5000"),
        ("REAL_TOPIC", "T"),
        ("REAL_QID", "1"),
        ("TIMER_ROLL_TIMES", "1"),
    ];
    bench.stored(message_with(TIMER_TOPIC, "b", &roll)).await;
    assert_eq!(bench.pending().await, 1, "it takes the place of the older record");
}

#[actix::test]
async fn what_java_has_delivered_is_not_delivered_again() {
    tokio::time::pause();
    let mut bench = start();
    let java = JavaTimers { read_ms: CLOCK_BEGINS.0 + 2_000, queue_offset: QueueOffset(2) };
    bench.scheduler =
        start_scheduler(&bench.log, &bench.topics, &bench.progress, bench.clock.clone(), Some(java));
    bench.scheduler.do_send(StartDelivery);
    bench.later("delivered", 1_500).await;
    bench.later("in a later slot", 4_000).await;
    bench.later("not read by java", 1_500).await;
    bench.pass(4_010).await;
    let mut seen = Vec::new();
    while let Some(batch) = bench.sent().await {
        seen.extend(bodies(&batch));
        bench.store(batch).await;
    }
    assert_eq!(seen, ["not read by java", "in a later slot"]);
}

#[actix::test]
async fn messages_before_a_position_are_stored_anew_and_come_at_their_time() {
    tokio::time::pause();
    let mut bench = start();
    bench.later("old", 9_000).await;
    let young = bench.later("young", 9_000).await;
    let moved = bench.scheduler.send(MoveTimers { before: young.at }).await.unwrap();
    assert_eq!(moved.oldest, Some(PhysicalOffset(0)), "it lies there until the new record is stored");
    let batch = bench.sent().await.unwrap();
    assert_eq!(bodies(&batch), ["old"]);
    bench.store(batch).await;
    let moved = bench.scheduler.send(MoveTimers { before: young.at }).await.unwrap();
    assert_eq!(moved.oldest, Some(young.at));
    assert!(bench.sent().await.is_none(), "once");
    bench.pass(9_010).await;
    let mut seen = Vec::new();
    while let Some(batch) = bench.sent().await {
        seen.extend(bodies(&batch));
        bench.store(batch).await;
    }
    assert_eq!(seen, ["young", "old"]);
    assert_eq!(bench.pending().await, 0);
}

#[actix::test]
async fn list_goes_by_time_topic_and_key_page_by_page() {
    let mut bench = start();
    for (body, delay_ms) in [("c", 30_000), ("a", 10_000), ("b", 20_000)] {
        bench.later(body, delay_ms).await;
    }
    let now_ms = bench.clock.now().0;
    let everything = TimerFilter { to_ms: i64::MAX, topic: None, key: None };
    let list = async |from, filter: &TimerFilter, max| {
        let page =
            bench.scheduler.send(ListTimers { from, filter: filter.clone(), max }).await.unwrap().unwrap();
        (page.found.iter().map(|found| found.unique_key.clone()).collect::<Vec<_>>(), page.next)
    };
    let (found, next) = list(TimerKey::MIN, &everything, 2).await;
    assert_eq!(found, ["a", "b"]);
    assert_eq!(list(next.unwrap(), &everything, 2).await, (vec!["c".to_owned()], None));
    let early = TimerFilter { to_ms: now_ms + 15_000, ..everything.clone() };
    assert_eq!(list(TimerKey::MIN, &early, 9).await.0, ["a"]);
    let of_key = TimerFilter { key: Some("b".into()), ..everything.clone() };
    assert_eq!(list(TimerKey::MIN, &of_key, 9).await.0, ["b"]);
    let of_topic = TimerFilter { topic: Some("other".into()), ..everything };
    assert_eq!(list(TimerKey::MIN, &of_topic, 9).await.0, [""; 0]);
}

#[actix::test]
async fn saved_timers_are_there_after_a_restart() {
    let mut bench = start();
    bench.later("x", 3_600_000).await;
    let through = bench.log.reader.published();
    bench.scheduler.send(SaveTimers { through }).await.unwrap().unwrap();
    let dir = TimerDir::new(Arc::new(bench.log.files.clone()), PathBuf::from("/timer"));
    let opened = open_timers(dir, through, through).unwrap();
    assert!(!opened.is_missing);
    assert_eq!(opened.pending.count(), 1);
}

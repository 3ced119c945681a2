use bytes::Bytes;

use super::*;
use crate::actors::commit_log_writer::AppendBatch;
use crate::actors::topic_queue::{Dispatched, QueueParts};
use crate::clock::ManualClock;
use crate::store::metadata::Metadata;
use crate::testing::log::{TestLog, answer, message_with, queue_of, settle, store_host, topic_table};
use crate::testing::{CLOCK_BEGINS, RuntimeClock, Taken, fake_sink, pass};
use crate::types::QueueOffset;

const TOPICS: [(&str, u32); 2] = [(SCHEDULE_TOPIC, 18), ("T", 2)];
/// Level 1: 1 s.
const LEVEL_1: QueueId = QueueId(0);

struct Bench {
    log: TestLog,
    topics: TopicTable,
    metadata: Metadata,
    clock: SharedClock,
    scheduler: Addr<DelayScheduler>,
    /// What the queues ask of the writer; the test answers.
    appends: Taken<AppendBatch>,
    scheduled: u64,
}

fn start() -> Bench {
    start_at(RuntimeClock::shared())
}

fn start_at(clock: SharedClock) -> Bench {
    let log = TestLog::new();
    let (writer, appends) = fake_sink::<AppendBatch>();
    let parts = QueueParts { writer, ..log.queue_parts() };
    let topics = topic_table(&TOPICS, &parts);
    let metadata = Metadata::temporary().unwrap();
    let scheduler = start_scheduler(&log, &topics, &metadata, clock.clone());
    Bench { log, topics, metadata, clock, scheduler, appends, scheduled: 0 }
}

fn start_scheduler(
    log: &TestLog,
    topics: &TopicTable,
    metadata: &Metadata,
    clock: SharedClock,
) -> Addr<DelayScheduler> {
    let scheduler = DelayScheduler::new(DelaySchedulerParts {
        flush: FlushMode::Async,
        log: log.reader.clone(),
        topics: topics.clone(),
        delivered: metadata.delay_offsets().unwrap(),
        delay_levels: DelayLevels::default(),
        store_host: store_host(),
        clock,
        mailbox_capacity: 64,
        save_interval: Duration::from_secs(5),
    });
    let scheduler = scheduler.start();
    scheduler.do_send(StartDelivery);
    scheduler
}

fn bodies(batch: &AppendBatch) -> Vec<Bytes> {
    batch.sends.iter().map(|send| send[0].body.clone()).collect()
}

impl Bench {
    /// Stores a message of level 1 for a queue of T, and has queue and scheduler told, as the dispatcher does.
    async fn delay(&mut self, body: &str, real_queue: &str) {
        let scheduled = self.delay_untold(body, real_queue).await;
        self.scheduler.send(scheduled).await.unwrap();
    }

    async fn delay_untold(&mut self, body: &str, real_queue: &str) -> UnitsScheduled {
        let pairs = [("REAL_TOPIC", "T"), ("REAL_QID", real_queue), ("DELAY", "1"), ("KEYS", "k")];
        let message = message_with(SCHEDULE_TOPIC, body, &pairs);
        let now = self.clock.now();
        let appended = self.log.append_at(message, self.scheduled, now);
        let first = QueueOffset(self.scheduled);
        self.scheduled += 1;
        let units = vec![TestLog::unit(&appended, now.0 + 1_000)];
        let dispatched = Dispatched { first, units: units.clone(), last_stored_at_ms: now.0 };
        queue_of(&self.topics, SCHEDULE_TOPIC, 0).send(dispatched).await.unwrap();
        UnitsScheduled { queue_id: LEVEL_1, first, units }
    }

    /// What is delivered next; nothing, if nothing is due.
    async fn delivered(&mut self) -> Option<AppendBatch> {
        settle().await;
        self.appends.try_recv().ok()
    }

    async fn pass(&self, ms: u64) {
        pass(Duration::from_millis(ms)).await;
    }

    fn mark(&self) -> Option<String> {
        self.metadata.delay_offsets().unwrap().get(1).unwrap().map(|offset| offset.to_string())
    }
}

fn property_of(message: &PendingMessage, name: &str) -> Option<String> {
    PropertyList::decode(&message.properties).get(name).map(str::to_owned)
}

#[actix::test]
async fn due_message_is_stored_in_its_real_queue_as_it_was_sent() {
    tokio::time::pause();
    let mut bench = start();
    bench.delay("later", "1").await;
    bench.pass(990).await;
    assert!(bench.delivered().await.is_none(), "not yet");
    bench.pass(20).await;
    let batch = bench.delivered().await.unwrap();
    let message = &batch.sends[0][0];
    assert_eq!((&*message.topic, message.queue_id, &message.body[..]), ("T", QueueId(1), &b"later"[..]));
    assert_eq!(property_of(message, "KEYS").as_deref(), Some("k"));
}

#[actix::test]
async fn delivered_offset_moves_only_once_the_message_is_stored() {
    tokio::time::pause();
    let mut bench = start();
    bench.delay("a", "0").await;
    bench.pass(1_010).await;
    let batch = bench.delivered().await.unwrap();
    bench.scheduler.send(SaveNow).await.unwrap();
    assert_eq!(bench.mark(), None, "under way");
    answer(batch, Ok(()));
    settle().await;
    bench.scheduler.send(SaveNow).await.unwrap();
    assert_eq!(bench.mark().as_deref(), Some("1"));
    bench.pass(60_000).await;
    assert!(bench.delivered().await.is_none(), "delivered once");
}

#[actix::test]
async fn delivered_offset_is_saved_in_its_interval() {
    tokio::time::pause();
    let mut bench = start();
    bench.delay("a", "0").await;
    bench.pass(1_010).await;
    answer(bench.delivered().await.unwrap(), Ok(()));
    bench.pass(5_000).await;
    assert_eq!(bench.mark().as_deref(), Some("1"));
}

#[actix::test]
async fn refused_delivery_is_tried_again_in_order() {
    tokio::time::pause();
    let mut bench = start();
    bench.delay("a", "0").await;
    bench.delay("b", "0").await;
    bench.pass(1_010).await;
    let first = bench.delivered().await.unwrap();
    answer(first, Err(Refusal::NotWritable { cause: "full".into() }));
    // The other waits in the queue behind it, and is refused as well.
    if let Some(second) = bench.delivered().await {
        answer(second, Err(Refusal::NotWritable { cause: "full".into() }));
    }
    bench.pass(900).await;
    assert!(bench.delivered().await.is_none(), "there is a pause");
    bench.pass(200).await;
    let mut seen = Vec::new();
    while let Some(batch) = bench.delivered().await {
        seen.extend(bodies(&batch));
        answer(batch, Ok(()));
    }
    assert_eq!(seen, ["a", "b"]);
    bench.scheduler.send(SaveNow).await.unwrap();
    assert_eq!(bench.mark().as_deref(), Some("2"));
}

#[actix::test]
async fn restart_goes_on_behind_what_was_delivered() {
    tokio::time::pause();
    let mut bench = start();
    for body in ["a", "b", "c"] {
        bench.delay(body, "0").await;
    }
    bench.metadata.delay_offsets().unwrap().put(1, QueueOffset(1)).unwrap();
    // The first one has lost its power.
    bench.scheduler = start_scheduler(&bench.log, &bench.topics, &bench.metadata, bench.clock.clone());
    while bench.delivered().await.is_some() {}
    bench.pass(1_010).await;
    let mut seen = Vec::new();
    while let Some(batch) = bench.delivered().await {
        seen.push(bodies(&batch));
        answer(batch, Ok(()));
    }
    assert!(seen.concat().ends_with(&["b".into(), "c".into()]), "{seen:?}");
}

#[actix::test]
async fn more_than_fits_memory_is_read_from_the_queue() {
    tokio::time::pause();
    let mut bench = start();
    bench.delay("a", "0").await;
    // The dispatcher's word of these is lost on the way: the gap is read from the queue.
    bench.delay_untold("b", "0").await;
    bench.delay_untold("c", "0").await;
    bench.delay("d", "0").await;
    bench.pass(1_010).await;
    let mut seen = Vec::new();
    while let Some(batch) = bench.delivered().await {
        seen.extend(bodies(&batch));
        answer(batch, Ok(()));
    }
    assert_eq!(seen, ["a", "b", "c", "d"]);
}

#[actix::test]
async fn clock_that_jumps_back_delivers_rather_than_waits() {
    tokio::time::pause();
    let clock = ManualClock::at(CLOCK_BEGINS);
    let mut bench = start_at(clock.clone());
    clock.advance_ms(3_600_000);
    bench.delay("a", "0").await;
    assert!(bench.delivered().await.is_none());
    clock.set(CLOCK_BEGINS);
    bench.pass(1_010).await;
    assert_eq!(bodies(&bench.delivered().await.unwrap()), ["a"]);
}

#[actix::test]
async fn clock_that_steps_back_a_little_makes_nothing_come_early() {
    tokio::time::pause();
    let clock = ManualClock::at(CLOCK_BEGINS);
    let mut bench = start_at(clock.clone());
    bench.delay("a", "0").await;
    clock.advance_ms(-5_000);
    bench.pass(1_010).await;
    assert!(bench.delivered().await.is_none());
    clock.advance_ms(6_000);
    bench.pass(260).await;
    assert_eq!(bodies(&bench.delivered().await.unwrap()), ["a"], "a clock that was set forward is noticed");
}

#[actix::test]
async fn message_that_is_gone_or_belongs_nowhere_is_passed_over() {
    tokio::time::pause();
    let mut bench = start();
    bench.delay("no such queue", "7").await;
    bench.delay("no queue at all", "").await;
    bench.delay("b", "0").await;
    bench.pass(1_010).await;
    let batch = bench.delivered().await.unwrap();
    assert_eq!(bodies(&batch), ["b"]);
    answer(batch, Ok(()));
    settle().await;
    bench.scheduler.send(SaveNow).await.unwrap();
    assert_eq!(bench.mark().as_deref(), Some("3"));
}

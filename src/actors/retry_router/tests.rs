use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::advance;

use super::*;
use crate::actors::commit_log_writer::{AppendBatch, BatchAppended};
use crate::actors::testing::log::{TestLog, message_with, queue_of, settle, topic_table};
use crate::actors::testing::{CLOCK_BEGINS, RuntimeClock, fake_mailbox, fake_sink};
use crate::actors::topic_queue::{Dispatched, QueueParts};
use crate::clock::ManualClock;
use crate::store::metadata::Metadata;

const TOPICS: [(&str, u32); 4] = [(SCHEDULE_TOPIC, 18), ("T", 2), ("%RETRY%g", 1), ("%DLQ%g", 1)];
/// Level 1: 1 s.
const LEVEL_1: QueueId = QueueId(0);

struct Bench {
    log: TestLog,
    topics: TopicTable,
    metadata: Metadata,
    clock: SharedClock,
    router: Addr<RetryRouter>,
    /// What the queues ask of the writer; the test answers.
    appends: UnboundedReceiver<AppendBatch>,
    ensured: UnboundedReceiver<EnsureTopic>,
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
    let (router, ensured) = start_router(&log, &topics, &metadata, clock.clone());
    Bench { log, topics, metadata, clock, router, appends, ensured, scheduled: 0 }
}

fn start_router(
    log: &TestLog,
    topics: &TopicTable,
    metadata: &Metadata,
    clock: SharedClock,
) -> (Addr<RetryRouter>, UnboundedReceiver<EnsureTopic>) {
    let known = topics.clone();
    let (ensure_topic, ensured) = fake_mailbox(move |ensure: &EnsureTopic| {
        let hint = String::new();
        let topic = ensure.config.topic_name.clone();
        known.get(&topic).ok_or(Refusal::TopicUnknown { topic, hint })
    });
    let router = RetryRouter::new(RetryRouterParts {
        flush: FlushMode::Async,
        log: log.reader.clone(),
        topics: topics.clone(),
        ensure_topic,
        delivered: metadata.delay_offsets().unwrap(),
        delay_levels: DelayLevels::default(),
        store_host: crate::actors::testing::log::store_host(),
        clock,
        mailbox_capacity: 64,
        save_interval: Duration::from_secs(5),
    });
    let router = router.start();
    router.do_send(StartDelivery);
    (router, ensured)
}

fn answer(batch: AppendBatch, outcome: Result<(), Refusal>) {
    let first = batch.first_queue_offset;
    let stored = |n: usize| StoredSend {
        first_queue_offset: first.advance(n as u64),
        physical_offsets: vec![PhysicalOffset(0)],
        end: PhysicalOffset(1),
        stored_at_ms: 1,
    };
    let count = batch.sends.len();
    let next = if outcome.is_ok() { first.advance(count as u64) } else { first };
    let outcomes = (0..count).map(|n| outcome.clone().map(|()| stored(n))).collect();
    batch.reply_to.do_send(BatchAppended { outcomes, next_queue_offset: next, stored_bytes: 1 });
}

fn bodies(batch: &AppendBatch) -> Vec<Bytes> {
    batch.sends.iter().map(|send| send[0].body.clone()).collect()
}

impl Bench {
    /// Stores a message of level 1 for a queue of T, and has queue and router told, as the dispatcher does.
    async fn delay(&mut self, body: &str, real_queue: &str) {
        let scheduled = self.delay_untold(body, real_queue).await;
        self.router.send(scheduled).await.unwrap();
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
        advance(Duration::from_millis(ms)).await;
        settle().await;
    }

    fn mark(&self) -> Option<String> {
        self.metadata.delay_offsets().unwrap().get(1).unwrap().map(|offset| offset.to_string())
    }

    /// Stores a message that a consumer may send back.
    fn consumed(&mut self, reconsume_times: i32, pairs: &[(&str, &str)]) -> PhysicalOffset {
        let message = PendingMessage { reconsume_times, ..message_with("T", "again", pairs) };
        self.log.append(message, 0).start
    }

    /// Sends a message back; returns what is stored for it.
    async fn sent_back(&mut self, back: SendBackMessage) -> PendingMessage {
        let answered = self.router.send(back);
        let answered = actix_rt::spawn(answered);
        let batch = self.appends.recv().await.unwrap();
        let stored = batch.sends[0][0].clone();
        assert!(!answered.is_finished(), "answered once it is stored");
        answer(batch, Ok(()));
        answered.await.unwrap().unwrap().unwrap();
        stored
    }
}

fn back(offset: PhysicalOffset) -> SendBackMessage {
    SendBackMessage {
        group: "g".into(),
        offset,
        delay_level: 0,
        max_reconsume_times: 16,
        retry_queue_nums: 1,
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
    bench.router.send(SaveNow).await.unwrap();
    assert_eq!(bench.mark(), None, "under way");
    answer(batch, Ok(()));
    settle().await;
    bench.router.send(SaveNow).await.unwrap();
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
    bench.router.send(SaveNow).await.unwrap();
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
    let (router, ensured) = start_router(&bench.log, &bench.topics, &bench.metadata, bench.clock.clone());
    (bench.router, bench.ensured) = (router, ensured); // the first one has lost its power
    while bench.delivered().await.is_some() {}
    bench.pass(1_010).await;
    let mut seen = Vec::new();
    while let Some(batch) = bench.delivered().await {
        seen.push(bodies(&batch));
        answer(batch, Ok(()));
    }
    assert!(seen.concat().ends_with(&["b".into(), "c".into()]), "{seen:?}");
}

#[test]
fn units_that_come_before_the_level_has_begun_are_read_later() {
    let unit = ConsumeQueueUnit { physical_offset: PhysicalOffset(1), size_bytes: 1, tags_code: 0 };
    let extent = QueueExtent { min: QueueOffset(50), max: QueueOffset(101), ..QueueExtent::default() };
    let mut level = Level::default();
    level.take(QueueOffset(101), &[unit]);
    level.begin(Some(QueueOffset(101)), extent);
    assert!(level.more, "the extent was told before the unit was dispatched");
    for (saved, next, more) in
        [(None, 50, true), (Some(60), 60, true), (Some(999), 101, false), (Some(1), 50, true)]
    {
        let mut level = Level::default();
        level.begin(saved.map(QueueOffset), extent);
        assert_eq!((level.next.0, level.saved.0, level.more), (next, next, more), "{saved:?}");
    }
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
    bench.router.send(SaveNow).await.unwrap();
    assert_eq!(bench.mark().as_deref(), Some("3"));
}

#[actix::test]
async fn send_back_climbs_the_ladder_of_delay_levels() {
    let mut bench = start();
    for (reconsume_times, asked, level) in [(0, 0, 3), (1, 0, 4), (15, 0, 18), (3, 5, 5), (0, 99, 18)] {
        let offset = bench.consumed(reconsume_times, &[("TAGS", "a")]);
        let stored = bench.sent_back(SendBackMessage { delay_level: asked, ..back(offset) }).await;
        let case = format!("{reconsume_times} times, asked for {asked}");
        assert_eq!((&*stored.topic, stored.queue_id), (SCHEDULE_TOPIC, QueueId(level - 1)), "{case}");
        assert_eq!(property_of(&stored, "DELAY"), Some(level.to_string()), "{case}");
        assert_eq!(property_of(&stored, "REAL_TOPIC").as_deref(), Some("%RETRY%g"));
        assert_eq!(property_of(&stored, "REAL_QID").as_deref(), Some("0"));
        assert_eq!(property_of(&stored, "RETRY_TOPIC").as_deref(), Some("T"));
        assert_eq!(property_of(&stored, "TAGS").as_deref(), Some("a"));
        let id = offset_message_id(stored.store_host, offset);
        assert_eq!(property_of(&stored, "ORIGIN_MESSAGE_ID"), Some(id));
        assert_eq!((stored.reconsume_times, &stored.body[..]), (reconsume_times + 1, &b"again"[..]));
        assert_eq!(&*bench.ensured.recv().await.unwrap().config.topic_name, "%RETRY%g");
    }
}

#[actix::test]
async fn origin_of_a_message_is_kept_through_every_round() {
    let mut bench = start();
    let pairs = [("RETRY_TOPIC", "first"), ("ORIGIN_MESSAGE_ID", "0A")];
    let offset = bench.consumed(1, &pairs);
    let stored = bench.sent_back(back(offset)).await;
    assert_eq!(property_of(&stored, "RETRY_TOPIC").as_deref(), Some("first"));
    assert_eq!(property_of(&stored, "ORIGIN_MESSAGE_ID").as_deref(), Some("0A"));
}

#[actix::test]
async fn message_tried_too_often_or_given_up_is_dead() {
    let mut bench = start();
    for (reconsume_times, delay_level) in [(16, 0), (20, 3), (0, -1)] {
        let offset = bench.consumed(reconsume_times, &[]);
        let stored = bench.sent_back(SendBackMessage { delay_level, ..back(offset) }).await;
        let case = format!("{reconsume_times} times, asked for {delay_level}");
        assert_eq!((&*stored.topic, stored.queue_id), ("%DLQ%g", QueueId(0)), "{case}");
        assert_eq!(property_of(&stored, "DELAY").as_deref(), Some("0"));
        assert_eq!(property_of(&stored, "RETRY_TOPIC").as_deref(), Some("T"));
        assert_eq!(&*bench.ensured.recv().await.unwrap().config.topic_name, "%DLQ%g");
    }
}

#[actix::test]
async fn send_back_of_nothing_or_without_a_topic_is_refused() {
    let bench = start();
    let nothing = bench.router.send(back(PhysicalOffset(4_096))).await.unwrap();
    assert!(matches!(nothing, Err(Refusal::Failed(_))));
    let mut bench = bench;
    let offset = bench.consumed(0, &[]);
    let unknown = SendBackMessage { group: "other".into(), ..back(offset) };
    let refused = bench.router.send(unknown).await.unwrap();
    assert!(matches!(refused, Err(Refusal::TopicUnknown { .. })));
}

#[actix::test]
async fn refused_store_refuses_the_send_back() {
    let mut bench = start();
    let offset = bench.consumed(0, &[]);
    let answered = actix_rt::spawn(bench.router.send(back(offset)));
    answer(bench.appends.recv().await.unwrap(), Err(Refusal::NotWritable { cause: "full".into() }));
    let answered = answered.await.unwrap().unwrap();
    assert!(matches!(answered, Err(Refusal::NotWritable { .. })));
}

#[actix::test]
async fn client_that_retries_itself_too_often_gets_its_message_into_the_dead_letter_queue() {
    let mut bench = start();
    let (recipient, mut told) = fake_sink::<MessageStored>();
    let send = SendRequest {
        messages: vec![message_with("%RETRY%g", "x", &[("TAGS", "a")])],
        promise: Promise::Stored,
        reply: SendReply::Actor { recipient, token: 9 },
    };
    bench.router.send(SendToDeadLetterQueue { group: "g".into(), send }).await.unwrap().unwrap();
    let batch = bench.appends.recv().await.unwrap();
    let message = &batch.sends[0][0];
    assert_eq!((&*message.topic, message.queue_id), ("%DLQ%g", QueueId(0)));
    assert_eq!(property_of(message, "TAGS").as_deref(), Some("a"));
    answer(batch, Ok(()));
    assert_eq!(told.recv().await.unwrap().token, 9, "who sent it is told");
}

#[test]
fn level_takes_units_that_follow_on_and_reads_the_others_later() {
    let unit =
        |n: u64| ConsumeQueueUnit { physical_offset: PhysicalOffset(n), size_bytes: 1, tags_code: n as i64 };
    let units = |range: std::ops::Range<u64>| range.map(unit).collect::<Vec<_>>();
    let mut level = Level { begun: true, next: QueueOffset(5), ..Level::default() };
    level.take(QueueOffset(3), &units(3..7));
    assert_eq!(level.known, units(5..7), "those before are delivered");
    level.take(QueueOffset(7), &units(7..8));
    level.take(QueueOffset(6), &units(6..8));
    assert_eq!((level.known.len(), level.more), (3, false));
    level.take(QueueOffset(10), &units(10..11));
    assert_eq!((level.known.len(), level.more), (3, true), "a gap");
    assert_eq!(level.due(6, Duration::from_secs(1)), 2);
    level.advance(2);
    assert_eq!((level.next, level.known.len()), (QueueOffset(7), 1));
    let mut level = Level { begun: true, ..Level::default() };
    level.take(QueueOffset(0), &units(0..KNOWN_UNITS as u64 + 10));
    assert_eq!((level.known.len(), level.more), (KNOWN_UNITS, true));
    assert_eq!(level.due(i64::MAX, Duration::ZERO), IN_FLIGHT, "a round has its bounds");
}

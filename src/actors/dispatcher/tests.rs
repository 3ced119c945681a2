use std::task::Poll;

use futures::poll;

use super::*;
use crate::actors::topic_queue::{QueryExtent, QueueParts, ReadUnits};
use crate::protocol::attributes::FLUSH_DISK_TYPE;
use crate::protocol::data_version::DataVersion;
use crate::protocol::message::PendingMessage;
use crate::protocol::topic_config::TopicConfig;
use crate::store::commit_log::Appended;
use crate::store::derived_check::{Missing, MissingQueues};
use crate::testing::log::{
    TestLog, message, message_with, positions, queue_of, settle, topic_entry, topic_table, topic_table_of,
};
use crate::testing::{CLOCK_BEGINS, Taken, fake_sink, full_mailbox};

struct Bench {
    log: TestLog,
    topics: TopicTable,
    progress: Progress,
    dispatcher: Addr<Dispatcher>,
    indexed: Taken<IndexEntries>,
    scheduled: Taken<UnitsScheduled>,
}

fn start(topics: &[(&str, u32)]) -> Bench {
    start_with(topics, |_| {}, |_| {})
}

fn start_with(
    topics: &[(&str, u32)],
    change_queues: impl FnOnce(&mut QueueParts),
    change: impl FnOnce(&mut DispatcherParts),
) -> Bench {
    let log = TestLog::new();
    let mut queues = log.queue_parts();
    change_queues(&mut queues);
    let topics = topic_table(topics, &queues);
    start_on(log, topics, change)
}

fn start_on(log: TestLog, topics: TopicTable, change: impl FnOnce(&mut DispatcherParts)) -> Bench {
    let (key_index, indexed) = fake_sink::<IndexEntries>();
    let (delays, scheduled) = fake_sink::<UnitsScheduled>();
    let progress = Progress::default();
    let mut parts = DispatcherParts {
        flush: FlushMode::Async,
        log: log.reader.clone(),
        signal: PublishedSignal::default(),
        topics: topics.clone(),
        key_index: Some(key_index),
        scheduled: Some(delays),
        transactions: None,
        timers: None,
        delay_levels: DelayLevels::default(),
        progress: progress.clone(),
        catch_up: None,
        damaged: Damaged::new(),
        mailbox_capacity: 64,
    };
    change(&mut parts);
    let dispatcher = Dispatcher::new(parts, LogTail::default()).start();
    Bench { log, topics, progress, dispatcher, indexed, scheduled }
}

/// A topic whose messages must be on disk before they are consumed.
fn safe_topic(name: &str) -> TopicConfig {
    let mut config = TopicConfig::new(name, 1);
    config.attributes.insert(FLUSH_DISK_TYPE.into(), "SYNC_FLUSH".into());
    config
}

fn to(topic: &str, queue_id: u32) -> PendingMessage {
    PendingMessage { queue_id: QueueId(queue_id), ..message(topic, "x") }
}

fn starts(appended: &[Appended]) -> Vec<PhysicalOffset> {
    appended.iter().map(|appended| appended.start).collect()
}

impl Bench {
    async fn dispatch_all(&self) {
        self.dispatcher.send(DispatchTo(self.log.reader.published())).await.unwrap();
    }

    async fn positions(&self, topic: &str, queue_id: u32) -> Vec<PhysicalOffset> {
        positions(&queue_of(&self.topics, topic, queue_id)).await
    }

    async fn plan(&self) -> CheckPointPlan {
        self.dispatcher.send(BeginCheckPoint).await.unwrap()
    }
}

#[actix::test]
async fn units_reach_their_queues_in_log_order() {
    let mut bench = start(&[("A", 2), ("B", 1)]);
    let mut by_queue: HashMap<(&str, u32), Vec<PhysicalOffset>> = HashMap::default();
    for (topic, queue_id) in [("A", 0), ("B", 0), ("A", 1), ("A", 0), ("B", 0), ("A", 0)] {
        let stored = by_queue.entry((topic, queue_id)).or_default();
        stored.push(bench.log.append(to(topic, queue_id), stored.len() as u64).start);
    }
    bench.dispatch_all().await;
    for ((topic, queue_id), stored) in by_queue {
        assert_eq!(bench.positions(topic, queue_id).await, stored, "{topic} {queue_id}");
    }
    assert_eq!(bench.progress.dispatched(), bench.log.reader.published());
}

#[actix::test]
async fn full_queue_holds_everything_back_and_nothing_is_lost() {
    let mut bench = start_with(&[("A", 1), ("B", 1)], |queues| queues.config.mailbox_capacity = 1, |_| {});
    let (a, b) = (queue_of(&bench.topics, "A", 0), queue_of(&bench.topics, "B", 0));
    settle().await;
    let mut stored = vec![bench.log.append(to("A", 0), 0)];
    bench.log.append(to("B", 0), 0);
    // The dispatcher has its turn before the queues, whose mailboxes are full by then.
    bench.dispatcher.do_send(LogPublished);
    let plan = bench.dispatcher.send(BeginCheckPoint);
    for topic in ["A", "B"] {
        let entry = bench.topics.get(topic).unwrap();
        while entry.queue(QueueId(0)).unwrap().try_send(QueryExtent).is_ok() {}
    }
    let plan = plan.await.unwrap();
    assert!(plan.dispatched.is_none() && plan.queues.is_empty(), "nothing may be claimed yet");
    assert_eq!(bench.progress.dispatched(), PhysicalOffset(0));
    for n in 1..4 {
        stored.push(bench.log.append(to("A", 0), n));
    }
    bench.dispatch_all().await;
    assert_eq!(positions(&a).await, starts(&stored));
    assert_eq!(positions(&b).await.len(), 1);
    let plan = bench.plan().await;
    assert_eq!(plan.dispatched, Some(bench.log.appender.tail()));
    assert_eq!(plan.queues.len(), 2);
}

#[actix::test]
async fn handed_over_means_to_the_last_recipient() {
    let full = full_mailbox(IndexEntries::default).await;
    let mut bench = start_with(&[("A", 1)], |_| {}, |parts| parts.key_index = Some(full));
    bench.log.append(message_with("A", "x", &[("KEYS", "k")]), 0);
    let mut waiting = Box::pin(bench.dispatcher.send(DispatchTo(bench.log.reader.published())));
    settle().await;
    assert!(matches!(poll!(&mut waiting), Poll::Pending), "the key index has not taken its entries");
    assert_eq!(bench.positions("A", 0).await.len(), 1);
    assert!(bench.plan().await.dispatched.is_none());
}

#[actix::test]
async fn waiting_for_a_position_ends_when_it_is_published_and_handed_over() {
    let mut bench = start(&[("A", 1)]);
    let end = PhysicalOffset(message("A", "x").record_len() as u64);
    let mut waiting = Box::pin(bench.dispatcher.send(DispatchTo(end)));
    settle().await;
    assert!(matches!(poll!(&mut waiting), Poll::Pending));
    assert_eq!(bench.log.append(to("A", 0), 0).end, end);
    bench.dispatcher.do_send(LogPublished);
    waiting.await.unwrap();
    assert_eq!(bench.positions("A", 0).await.len(), 1);
}

#[actix::test]
async fn messages_of_unknown_topics_are_passed_over() {
    let log = TestLog::new();
    let queues = log.queue_parts();
    let (publisher, topics) = TopicTable::new(TopicMap::default());
    let mut bench = start_on(log, topics, |_| {});
    bench.log.append(to("A", 0), 0);
    bench.log.append(to("A", 0), 1);
    bench.dispatch_all().await;
    assert_eq!(bench.progress.dispatched(), bench.log.reader.published());
    let entry = Arc::new(topic_entry(TopicConfig::new("A", 1), &queues));
    publisher.publish(TopicMap {
        data_version: DataVersion::default(),
        topics: [("A".into(), entry)].into_iter().collect(),
    });
    let known = bench.log.append(to("A", 0), 0);
    bench.dispatch_all().await;
    assert_eq!(bench.positions("A", 0).await, [known.start]);
}

#[actix::test]
async fn messages_of_queues_the_topic_lost_are_passed_over() {
    let mut bench = start(&[("A", 1)]);
    bench.log.append(to("A", 5), 0);
    let stored = bench.log.append(to("A", 0), 0);
    bench.dispatch_all().await;
    assert_eq!(bench.positions("A", 0).await, [stored.start]);
}

#[actix::test]
async fn numbers_that_begin_again_make_a_batch_of_their_own() {
    let mut bench = start(&[("A", 1)]);
    let stored: Vec<_> = [0, 1, 0, 1, 2].map(|n| bench.log.append(to("A", 0), n)).into();
    bench.dispatch_all().await;
    let expected = [stored[0].start, stored[1].start, stored[4].start];
    assert_eq!(bench.positions("A", 0).await, expected, "the queue knows units 0 and 1");
}

#[actix::test]
async fn check_point_names_the_queues_touched_since_the_last() {
    let mut bench = start(&[("A", 2)]);
    bench.log.append(to("A", 0), 0);
    bench.dispatch_all().await;
    let plan = bench.plan().await;
    assert_eq!(plan.dispatched, Some(bench.log.appender.tail()));
    assert!(plan.queues == [queue_of(&bench.topics, "A", 0)]);
    assert!(bench.plan().await.queues.is_empty());
    bench.log.append(to("A", 1), 0);
    bench.dispatch_all().await;
    assert!(bench.plan().await.queues == [queue_of(&bench.topics, "A", 1)]);
}

#[actix::test]
async fn delayed_messages_carry_their_due_time_and_go_to_the_delay_scheduler() {
    let mut bench = start(&[(SCHEDULE_TOPIC, 18)]);
    let stored = bench.log.append(to(SCHEDULE_TOPIC, 2), 0);
    bench.dispatch_all().await;
    let scheduled = bench.scheduled.next().await;
    let due = CLOCK_BEGINS.0 + 10_000; // level 3
    assert_eq!((scheduled.queue_id, scheduled.first), (QueueId(2), QueueOffset(0)));
    assert_eq!(scheduled.units, [TestLog::unit(&stored, due)]);
    assert_eq!(bench.positions(SCHEDULE_TOPIC, 2).await, [stored.start]);
}

#[actix::test]
async fn timer_messages_and_those_that_settle_them_go_to_the_timer_scheduler() {
    let (timers, mut news) = fake_sink::<TimersDispatched>();
    let mut bench = start_with(&[(TIMER_TOPIC, 1), ("A", 1)], |_| {}, |parts| parts.timers = Some(timers));
    let pairs =
        [("TIMER_DELIVER_MS", "7400"), ("TIMER_OUT_MS", "7000"), ("REAL_TOPIC", "A"), ("UNIQ_KEY", "U")];
    let stored = bench.log.append(message_with(TIMER_TOPIC, "x", &pairs), 5).start;
    bench.log.append(message_with("A", "ordinary", &[("KEYS", "k")]), 0);
    let delivered = bench.log.append(message_with("A", "x", &[("TIMER_SETTLES", "7400:5")]), 1).start;
    bench.dispatch_all().await;
    let TimersDispatched(news) = news.recv().await.unwrap();
    assert_eq!(news.iter().map(|news| news.at).collect::<Vec<_>>(), [stored, delivered]);
    let added = news[0].adds.unwrap();
    assert_eq!((added.key.to_string().as_str(), added.physical_offset), ("7400:5", stored));
    assert_eq!(news[1].settles.unwrap().key, added.key);
    assert_eq!(news[1].adds, None);
}

#[actix::test]
async fn unique_key_every_word_of_keys_and_the_tag_are_indexed() {
    let mut bench = start(&[("A", 1)]);
    let pairs = [("KEYS", "k1  k2"), ("UNIQ_KEY", "U"), ("TAGS", "t")];
    let stored = bench.log.append(message_with("A", "x", &pairs), 0);
    bench.log.append(to("A", 0), 1);
    bench.dispatch_all().await;
    let entry = |key| IndexEntry {
        hash: hash_of("A", key),
        physical_offset: stored.start,
        stored_at_ms: CLOCK_BEGINS.0,
    };
    let entries = ["U", "k1", "k2", "T#t"].map(entry);
    assert_eq!(bench.indexed.next().await.0, entries);
    assert!(bench.indexed.try_recv().is_err(), "no entries, no message");
}

#[actix::test]
async fn half_messages_of_old_stores_are_indexed_and_never_consumed() {
    let mut bench = start(&[("A", 1)]);
    let keyed = |transaction: TransactionType| PendingMessage {
        sys_flag: transaction.set_in(0),
        ..message_with("A", "x", &[("KEYS", "k")])
    };
    bench.log.append(keyed(TransactionType::Prepared), 0);
    bench.log.append(keyed(TransactionType::Rollback), 0);
    bench.dispatch_all().await;
    assert_eq!(bench.indexed.next().await.0.len(), 1, "what was rolled back is not found");
    assert_eq!(bench.positions("A", 0).await, []);
}

#[actix::test]
async fn log_longer_than_a_turn_is_worked_off_without_being_told_again() {
    let mut bench = start_with(&[("A", 1)], |queues| queues.config.units.segment_units = 1000, |_| {});
    let large = "x".repeat(10_000);
    let count = TURN_BYTES / 10_000 + 50;
    for n in 0..count {
        bench.log.append(message("A", &large), n);
    }
    bench.dispatcher.do_send(LogPublished);
    bench.dispatcher.send(DispatchTo(bench.log.reader.published())).await.unwrap();
    assert_eq!(bench.positions("A", 0).await.len() as u64, count);
}

/// A record of one of the test messages, as it would lie at `at`.
fn record_at(at: PhysicalOffset, queue_offset: u64) -> Vec<u8> {
    let message = to("A", 0);
    let mut record = vec![0; message.record_len()];
    message.encode_into(&mut record, QueueOffset(queue_offset), at, CLOCK_BEGINS);
    record
}

#[actix::test]
async fn damaged_record_is_passed_over_and_its_number_becomes_a_gap() {
    let mut bench = start(&[("A", 1)]);
    let first = bench.log.append(to("A", 0), 0);
    // Of the second neither magic nor length is left, of the fourth the length.
    let mut second = record_at(first.end, 1);
    second[..8].fill(0x77);
    bench.log.appender.append_raw(first.end, &second).unwrap();
    bench.log.appender.publish().unwrap();
    let third = bench.log.append(to("A", 0), 2);
    let mut fourth = record_at(third.end, 3);
    fourth[0] = 0x7F;
    bench.log.appender.append_raw(third.end, &fourth).unwrap();
    bench.log.appender.publish().unwrap();
    let fifth = bench.log.append(to("A", 0), 4);
    bench.dispatch_all().await;
    let units =
        queue_of(&bench.topics, "A", 0).send(ReadUnits { offset: QueueOffset(0), max: 9 }).await.unwrap();
    let found: Vec<_> = units.iter().map(|unit| (!unit.is_gap()).then_some(unit.physical_offset)).collect();
    assert_eq!(found, [Some(first.start), None, Some(third.start), None, Some(fifth.start)]);
    assert_eq!(bench.progress.damaged(), 2);
    assert_eq!(bench.plan().await.dispatched, Some(bench.log.appender.tail()));
}

#[actix::test]
async fn damage_at_the_end_holds_up_nothing() {
    let mut bench = start(&[("A", 1)]);
    let first = bench.log.append(to("A", 0), 0);
    bench.log.appender.append_raw(first.end, &[1; 100]).unwrap();
    bench.log.appender.publish().unwrap();
    bench.dispatch_all().await;
    let next = bench.log.append(to("A", 0), 1);
    bench.dispatch_all().await;
    assert_eq!(bench.positions("A", 0).await, [first.start, next.start]);
}

#[actix::test]
async fn record_that_recovery_found_damaged_becomes_a_gap_and_is_not_indexed() {
    let damaged = message_with("A", "x", &[("KEYS", "k")]).record_len() as u64;
    let change = |parts: &mut DispatcherParts| parts.damaged = Damaged::from([PhysicalOffset(damaged)]);
    let mut bench = start_with(&[("A", 1)], |_| {}, change);
    for n in 0..3 {
        bench.log.append(message_with("A", "x", &[("KEYS", "k")]), n);
    }
    bench.dispatch_all().await;
    let units =
        queue_of(&bench.topics, "A", 0).send(ReadUnits { offset: QueueOffset(0), max: 9 }).await.unwrap();
    assert_eq!(units.iter().map(|unit| unit.is_gap()).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(bench.indexed.next().await.0.len(), 2);
}

#[actix::test]
async fn only_what_is_missing_is_derived_again_and_no_check_point_is_taken_before() {
    let mut log = TestLog::new();
    let stored: Vec<_> = ["A", "B", "A", "A"].into_iter().map(|topic| log.append(to(topic, 0), 0)).collect();
    let until = stored[3].start;
    let queues = MissingQueues::Some([(("A".into(), QueueId(0)), stored[1].start)].into());
    let missing = Missing { queues, index_from: None, ..Missing::default() };
    let topics = topic_table(&[("A", 1), ("B", 1)], &log.queue_parts());
    let bench = start_on(log, topics, |parts| parts.catch_up = CatchUp::of(&missing, until));
    assert_eq!(bench.plan().await.dispatched, None, "what is claimed already lies beyond");
    bench.dispatch_all().await;
    // The first record is of an earlier topic of that name; the last two have one number.
    assert_eq!(bench.positions("A", 0).await, [stored[2].start]);
    assert_eq!(bench.positions("B", 0).await, []);
    assert!(bench.plan().await.dispatched.is_some());
}

#[actix::test]
async fn what_must_be_on_disk_before_it_is_consumed_waits_and_so_does_what_lies_behind() {
    let log = TestLog::new();
    let topics = topic_table_of([safe_topic("safe"), TopicConfig::new("plain", 1)], &log.queue_parts());
    let mut bench = start_on(log, topics, |_| {});
    let before = bench.log.append(to("plain", 0), 0);
    let safe = bench.log.append(to("safe", 0), 0);
    let behind = bench.log.append(to("plain", 0), 1);
    bench.dispatcher.send(LogPublished).await.unwrap();
    assert_eq!(bench.positions("plain", 0).await, starts(std::slice::from_ref(&before)));
    assert!(bench.positions("safe", 0).await.is_empty());
    assert_eq!(bench.progress.dispatched(), safe.start);
    bench.progress.set_flushed(safe.end);
    bench.dispatcher.send(LogPublished).await.unwrap();
    assert_eq!(bench.positions("safe", 0).await, starts(&[safe]));
    assert_eq!(
        bench.positions("plain", 0).await,
        starts(&[before, behind]),
        "nobody waits for what is plain"
    );
}

#[actix::test]
async fn broker_that_promises_the_disk_shows_nothing_before() {
    let mut bench = start_with(&[("A", 1)], |_| {}, |parts| parts.flush = FlushMode::Sync);
    let first = bench.log.append(to("A", 0), 0);
    bench.log.append(to("A", 0), 1);
    bench.progress.set_flushed(first.end);
    bench.dispatcher.send(LogPublished).await.unwrap();
    assert_eq!(bench.positions("A", 0).await, starts(&[first]));
}

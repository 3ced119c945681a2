use super::*;
use crate::actors::commit_log_writer::AppendBatch;
use crate::actors::flusher::LogFlushed;
use crate::actors::topic_queue::{Dispatched, QueueParts};
use crate::protocol::body::dead_letters as body;
use crate::testing::log::{TestLog, answer, message_with, settle, store_host, topic_table};
use crate::testing::{RuntimeClock, Taken, fake_mailbox, fake_sink};
use crate::types::PhysicalOffset;

struct Bench {
    log: TestLog,
    topics: TopicTable,
    metadata: Metadata,
    /// What the queues ask of the writer; the test answers.
    appends: Taken<AppendBatch>,
}

impl Bench {
    /// A dead letter queue of group g with `count` messages, every other of them with the tag `even`.
    async fn new(count: usize) -> Self {
        let mut log = TestLog::new();
        let (writer, appends) = fake_sink::<AppendBatch>();
        let topics =
            topic_table(&[("%DLQ%g", 1), ("%RETRY%g", 1)], &QueueParts { writer, ..log.queue_parts() });
        let mut units = Vec::new();
        for n in 0..count {
            let tag = if n % 2 == 0 { "even" } else { "odd" };
            let message = message_with("%DLQ%g", &n.to_string(), &[("TAGS", tag), ("RETRY_TOPIC", "T")]);
            let at = log.append(PendingMessage { reconsume_times: 16, ..message }, n as u64);
            let size_bytes = (at.end.0 - at.start.0) as u32;
            units.push(ConsumeQueueUnit { physical_offset: at.start, size_bytes, tags_code: 0 });
        }
        let queue = topics.get("%DLQ%g").unwrap().queue(QueueId(0)).unwrap().clone();
        queue.send(Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 1 }).await.unwrap();
        Self { log, topics, metadata: Metadata::temporary().unwrap(), appends }
    }

    fn start(&self) -> Addr<DeadLetterReplay> {
        let known = self.topics.clone();
        let (ensure_topic, _) = fake_mailbox()
            .answers(move |ensure: &EnsureTopic| {
                Ok(known.get(&ensure.config.topic_name).expect("the test has the topic"))
            })
            .start();
        let replay = DeadLetterReplay::load(DeadLetterReplayParts {
            log: self.log.reader.clone(),
            topics: self.topics.clone(),
            ensure_topic,
            metadata: self.metadata.clone(),
            filter_rules: FilterRules::default(),
            store_host: store_host(),
            clock: RuntimeClock::shared(),
            mailbox_capacity: 64,
        });
        replay.unwrap().start()
    }

    /// Answers the sends of the next append; returns their bodies.
    async fn stored(&mut self) -> Vec<String> {
        let batch = self.appends.next().await;
        let messages = batch.sends.iter().flatten();
        let bodies = messages
            .map(|message| {
                assert_eq!((&*message.topic, message.reconsume_times), ("%RETRY%g", 0));
                String::from_utf8(message.body.to_vec()).unwrap()
            })
            .collect();
        let disk = batch.flushed_to.clone().expect("a replay waits for the disk");
        answer(batch, Ok(()));
        settle().await;
        disk.send(LogFlushed { up_to: PhysicalOffset(1) }).await.unwrap();
        bodies
    }
}

fn order(rate: u32) -> StartReplay {
    let order = ReplayOrder { group: "g".into(), rate, ..ReplayOrder::default() };
    StartReplay { order, retry_queue_nums: 1 }
}

async fn progress(replay: &Addr<DeadLetterReplay>) -> ReplayProgress {
    replay.send(ListReplays { group: None }).await.unwrap().remove(0)
}

/// Waits until the replay is no longer running.
async fn ended(replay: &Addr<DeadLetterReplay>) -> ReplayProgress {
    loop {
        let progress = progress(replay).await;
        if progress.state != body::ReplayState::Running {
            return progress;
        }
        tokio::time::advance(Duration::from_millis(10)).await;
        settle().await;
    }
}

#[actix::test]
async fn what_the_filter_wants_is_consumed_again_by_the_group() {
    tokio::time::pause();
    let mut bench = Bench::new(4).await;
    let replay = bench.start();
    let mut wanted = order(1_000);
    wanted.order.filter = [("tag".to_owned(), "even".to_owned())].into();
    let begun = replay.send(wanted).await.unwrap().unwrap();
    assert_eq!((begun.state, begun.left), (body::ReplayState::Running, 4));
    let mut bodies = bench.stored().await;
    if bodies.len() < 2 {
        bodies.extend(bench.stored().await);
    }
    assert_eq!(bodies, ["0", "2"]);
    let done = ended(&replay).await;
    assert_eq!((done.state, done.replayed, done.passed_over), (body::ReplayState::Done, 2, 2));
}

#[actix::test]
async fn start_goes_on_where_the_broker_was_ended() {
    tokio::time::pause();
    let mut bench = Bench::new(3).await;
    let queue = ReplayedQueue { queue_id: QueueId(0), next: QueueOffset(1), end: QueueOffset(3) };
    let mut left = ReplayJob::new(order(1).order, vec![queue], 1, &FilterRules::default()).unwrap().record;
    left.replayed = 1;
    bench.metadata.replays().unwrap().put(&left).unwrap();
    let replay = bench.start();
    assert_eq!(bench.stored().await, ["1"]);
    assert_eq!(bench.stored().await, ["2"]);
    assert_eq!(ended(&replay).await.replayed, 3);
    // What is done stays known, and is not begun again.
    let kept = bench.metadata.replays().unwrap().all().unwrap().remove(0);
    assert_eq!((kept.state, kept.replayed), (ReplayState::Done, 3));
}

#[actix::test]
async fn condition_holds_after_a_restart_as_well() {
    tokio::time::pause();
    let mut bench = Bench::new(4).await;
    let queue = ReplayedQueue { queue_id: QueueId(0), next: QueueOffset(1), end: QueueOffset(4) };
    let ordered = ReplayOrder { condition: Some("TAGS = 'odd'".into()), ..order(1).order };
    let left = ReplayJob::new(ordered, vec![queue], 1, &FilterRules::default()).unwrap().record;
    bench.metadata.replays().unwrap().put(&left).unwrap();
    let replay = bench.start();
    assert_eq!(bench.stored().await, ["1"]);
    assert_eq!(bench.stored().await, ["3"]);
    let done = ended(&replay).await;
    assert_eq!((done.replayed, done.passed_over), (2, 1));
    let mut wrong = order(1);
    wrong.order.condition = Some("TAGS =".into());
    let refused = replay.send(wrong).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("column 7"), "{refused}");
    assert_eq!(progress(&replay).await.state, body::ReplayState::Done, "nothing was begun");
}

#[actix::test]
async fn message_counts_as_replayed_no_earlier_than_it_is_on_disk() {
    tokio::time::pause();
    let mut bench = Bench::new(1).await;
    let replay = bench.start();
    replay.send(order(1)).await.unwrap().unwrap();
    let batch = bench.appends.next().await;
    let disk = batch.flushed_to.clone().expect("a replay waits for the disk");
    answer(batch, Ok(()));
    settle().await;
    // A client would have been told long ago that the disk is late.
    tokio::time::advance(Duration::from_secs(600)).await;
    settle().await;
    let saved = || bench.metadata.replays().unwrap().all().unwrap().remove(0);
    assert_eq!((progress(&replay).await.replayed, saved().replayed), (0, 0));
    assert!(bench.appends.is_empty(), "nor is it sent again");
    disk.send(LogFlushed { up_to: PhysicalOffset(1) }).await.unwrap();
    assert_eq!(ended(&replay).await.replayed, 1);
    assert_eq!(saved().replayed, 1);
}

#[actix::test]
async fn second_order_waits_for_the_first_unless_that_is_stopped() {
    let bench = Bench::new(2).await;
    let replay = bench.start();
    replay.send(order(1)).await.unwrap().unwrap();
    let refused = replay.send(order(1)).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("is running, 2 messages are left"), "{refused}");
    let stopped = replay.send(StopReplay { group: "g".into() }).await.unwrap().unwrap();
    assert_eq!((stopped.state, stopped.left), (body::ReplayState::Stopped, 2));
    assert!(replay.send(StopReplay { group: "g".into() }).await.unwrap().is_err());
    replay.send(order(1)).await.unwrap().unwrap();
    let mut nobody = order(1);
    nobody.order.group = "nobody".into();
    assert!(matches!(replay.send(nobody).await.unwrap(), Err(Refusal::NotFound(_))));
}

#[actix::test]
async fn refused_messages_are_tried_again_and_the_others_are_not() {
    tokio::time::pause();
    let mut bench = Bench::new(2).await;
    let replay = bench.start();
    replay.send(order(1_000)).await.unwrap().unwrap();
    answer(bench.appends.next().await, Err(Refusal::NotWritable { cause: "full".into() }));
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        bodies.extend(bench.stored().await);
    }
    bodies.sort();
    assert_eq!(bodies, ["0", "1"]);
    assert_eq!(ended(&replay).await.replayed, 2);
}

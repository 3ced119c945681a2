use super::*;
use crate::actors::commit_log_writer::AppendBatch;
use crate::actors::topic_queue::{Promise, QueueParts, SendReply};
use crate::testing::log::{TestLog, answer, message_with, store_host, topic_table};
use crate::testing::{CLOCK_BEGINS, RuntimeClock, Taken, fake_mailbox, fake_sink};

const TOPICS: [(&str, u32); 5] =
    [(SCHEDULE_TOPIC, 18), (TIMER_TOPIC, 1), ("T", 2), ("%RETRY%g", 1), ("%DLQ%g", 1)];

struct Bench {
    log: TestLog,
    router: Addr<RetryRouter>,
    /// What the queues ask of the writer; the test answers.
    appends: Taken<AppendBatch>,
    ensured: Taken<EnsureTopic>,
}

fn start() -> Bench {
    let log = TestLog::new();
    let (writer, appends) = fake_sink::<AppendBatch>();
    let topics = topic_table(&TOPICS, &QueueParts { writer, ..log.queue_parts() });
    let known = topics.clone();
    let (ensure_topic, ensured) = fake_mailbox()
        .answers(move |ensure: &EnsureTopic| {
            let hint = String::new();
            let topic = ensure.config.topic_name.clone();
            known.get(&topic).ok_or(Refusal::TopicUnknown { topic, hint })
        })
        .start();
    let router = RetryRouter::new(RetryRouterParts {
        events: crate::actors::extensions::stream::EventTap::default(),
        flush: FlushMode::Async,
        log: log.reader.clone(),
        topics,
        ensure_topic,
        delay_levels: DelayLevels::default(),
        timer_delay_max: Some(Duration::from_secs(3_600)),
        clock: RuntimeClock::shared(),
        store_host: store_host(),
        mailbox_capacity: 64,
    });
    Bench { log, router: router.start(), appends, ensured }
}

impl Bench {
    /// Stores a message that a consumer may send back.
    fn consumed(&mut self, reconsume_times: i32, pairs: &[(&str, &str)]) -> PhysicalOffset {
        let message = PendingMessage { reconsume_times, ..message_with("T", "again", pairs) };
        self.log.append(message, 0).start
    }

    /// Sends a message back; returns what is stored for it.
    async fn sent_back(&mut self, back: SendBackMessage) -> PendingMessage {
        let answered = self.router.send(back);
        let answered = actix_rt::spawn(answered);
        let batch = self.appends.next().await;
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
        policy: GroupRetryPolicy::default(),
        client: "10.0.0.9@7".into(),
    }
}

fn property_of(message: &PendingMessage, name: &str) -> Option<String> {
    PropertyList::decode(&message.properties).get(name).map(str::to_owned)
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
        assert_eq!(&*bench.ensured.next().await.config.topic_name, "%RETRY%g");
    }
}

#[actix::test]
async fn policy_of_the_group_decides_when() {
    let mut bench = start();
    let policy: GroupRetryPolicy = serde_json::from_str(
        r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":60000,"max":7200000,"multiplier":2}}"#,
    )
    .unwrap();
    // Eight minutes are a level; 16 are none, and 64 are more than timers may wait.
    for (reconsume_times, topic, level) in
        [(0, SCHEDULE_TOPIC, 5), (3, SCHEDULE_TOPIC, 12), (6, SCHEDULE_TOPIC, 18)]
    {
        let offset = bench.consumed(reconsume_times, &[]);
        let stored = bench.sent_back(SendBackMessage { policy: policy.clone(), ..back(offset) }).await;
        assert_eq!((&*stored.topic, stored.queue_id), (topic, QueueId(level - 1)), "{reconsume_times} times");
    }
    let offset = bench.consumed(4, &[("DELAY", "5")]);
    let stored = bench.sent_back(SendBackMessage { policy: policy.clone(), ..back(offset) }).await;
    assert_eq!((&*stored.topic, stored.queue_id), (TIMER_TOPIC, QueueId(0)));
    let due_ms: i64 = property_of(&stored, "TIMER_OUT_MS").unwrap().parse().unwrap();
    let waits_ms = due_ms - CLOCK_BEGINS.0;
    assert!((959_000..=970_000).contains(&waits_ms), "{waits_ms}");
    assert_eq!(
        (property_of(&stored, "DELAY"), property_of(&stored, "REAL_TOPIC")),
        (None, Some("%RETRY%g".into()))
    );
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
        assert_eq!(property_of(&stored, "DLQ_ORIGIN_TOPIC").as_deref(), Some("T"));
        let id = offset_message_id(stored.store_host, offset);
        assert_eq!(property_of(&stored, "DLQ_ORIGIN_MESSAGE_ID"), Some(id));
        assert_eq!(property_of(&stored, "DLQ_CLIENT").as_deref(), Some("10.0.0.9@7"));
        assert_eq!(property_of(&stored, "DLQ_RETRIES"), Some(reconsume_times.to_string()));
        let reason = property_of(&stored, "DLQ_REASON").unwrap();
        assert_eq!(reason.contains("gave it up"), delay_level < 0, "{reason}");
        let dlq = bench.ensured.next().await.config;
        assert_eq!((&*dlq.topic_name, dlq.perm.is_readable()), ("%DLQ%g", true));
    }
}

#[test]
fn cause_is_left_out_where_there_is_no_room_for_it() {
    let noted = |len_bytes: usize| {
        let mut properties = PropertyList::default();
        properties.set("a", "x".repeat(len_bytes));
        with_cause(properties, 100, DeathCause::GivenUp, "c", 3).get(property::DLQ_REASON).is_some()
    };
    assert!(noted(MAX_PROPERTIES_BYTES - 300));
    assert!(!noted(MAX_PROPERTIES_BYTES - 150));
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
    answer(bench.appends.next().await, Err(Refusal::NotWritable { cause: "full".into() }));
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
        reply: SendReply::Actor { recipient, token: 9, told_late: false },
    };
    let cause = DeathCause::GivenUpInOrder;
    let dead = SendToDeadLetterQueue { group: "g".into(), send, cause, client: "c".into() };
    bench.router.send(dead).await.unwrap().unwrap();
    let batch = bench.appends.next().await;
    let message = &batch.sends[0][0];
    assert_eq!((&*message.topic, message.queue_id), ("%DLQ%g", QueueId(0)));
    assert_eq!(property_of(message, "TAGS").as_deref(), Some("a"));
    assert_eq!(property_of(message, "DLQ_CLIENT").as_deref(), Some("c"));
    answer(batch, Ok(()));
    assert_eq!(told.next().await.token, 9, "who sent it is told");
}

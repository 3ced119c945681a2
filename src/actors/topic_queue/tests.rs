mod pulls;

use std::sync::atomic::{AtomicI32, Ordering};

use tokio::time::advance;

use super::*;
use crate::actors::commit_log_writer::{BatchAppended, StoredSend};
use crate::actors::flusher::LogFlushed;
use crate::actors::request::{ClientLink, ClientName, Kept, Replies, ReplyTo};
use crate::clock::{ManualClock, WallMs};
use crate::filter::{FilterRules, SqlFilter};
use crate::protocol::attributes::FLUSH_DISK_TYPE;
use crate::protocol::frame::HeaderCodec;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::topic_config::TopicConfig;
use crate::store::file::OpenMode;
use crate::store::memory_files::FileOperation;
use crate::store::message_filter::{MessageFilter, TagFilter};
use crate::testing::log::topic_table_of;
use crate::testing::log::{TestLog, message, message_with, positions, settle, topic_entry};
use crate::testing::{FakeClient, Taken, fake_client, fake_mailbox, fake_sink, full_mailbox};
use crate::types::FlushMode;

const FOUND: ResponseCode = ResponseCode::SUCCESS;
const NOT_FOUND: ResponseCode = ResponseCode::PULL_NOT_FOUND;
const RETRY: ResponseCode = ResponseCode::PULL_RETRY_IMMEDIATELY;
const MOVED: ResponseCode = ResponseCode::PULL_OFFSET_MOVED;

struct Bench {
    log: TestLog,
    parts: QueueParts,
    queue: Addr<TopicQueue>,
    batches: Taken<AppendBatch>,
    link: Arc<ClientLink>,
    client: FakeClient,
}

fn start() -> Bench {
    start_with(|_| {})
}

fn start_with(change: impl FnOnce(&mut QueueParts)) -> Bench {
    let log = TestLog::new();
    let mut parts = log.queue_parts();
    let (writer, batches) = fake_sink::<AppendBatch>();
    parts.writer = writer;
    change(&mut parts);
    let queue = TopicQueue::new("T".into(), QueueId(0), false, Arc::new(parts.clone())).start();
    let (link, client) = fake_client();
    Bench { log, parts, queue, batches, link, client }
}

fn reply_to() -> ReplyTo {
    static NEXT: AtomicI32 = AtomicI32::new(1);
    let opaque = NEXT.fetch_add(1, Ordering::Relaxed);
    ReplyTo { opaque, codec: HeaderCodec::Json, one_way: false, cost_bytes: 256, is_send: true }
}

fn send_by(link: &Arc<ClientLink>, body: &str) -> SendRequest {
    let reply = SendReply::Client {
        link: link.clone(),
        to: reply_to(),
        queue_id: QueueId(0),
        unique_key: None,
        recall_handle: None,
    };
    SendRequest { messages: vec![message("T", body)], promise: Promise::Stored, reply }
}

/// Answers as the writer does, refusing the sends whose numbers are in `refused`.
fn answer(batch: AppendBatch, refused: &[usize]) {
    let mut next = batch.first_queue_offset;
    let mut outcomes = Vec::new();
    for (n, messages) in batch.sends.iter().enumerate() {
        if refused.contains(&n) {
            outcomes.push(Err(Refusal::MessageIllegal { what: "no".into() }));
            continue;
        }
        outcomes.push(Ok(StoredSend {
            first_queue_offset: next,
            physical_offsets: vec![PhysicalOffset(next.0 * 100)],
            end: PhysicalOffset(next.0 * 100 + 100),
            stored_at_ms: 1,
        }));
        next = next.advance(messages.len() as u64);
    }
    let stored_bytes = 100 * (next.0 - batch.first_queue_offset.0);
    batch.reply_to.do_send(BatchAppended { outcomes, next_queue_offset: next, stored_bytes });
}

fn tagged(tag: &str) -> MessageFilter {
    MessageFilter::Tags(Arc::new(TagFilter::new([tag.to_owned()])))
}

fn condition(source: &str) -> MessageFilter {
    MessageFilter::Sql(Arc::new(SqlFilter::compile(source, &FilterRules::default()).unwrap()))
}

impl Bench {
    fn send(&self, bodies: &[&str]) {
        let sends = bodies.iter().map(|body| send_by(&self.link, body)).collect();
        self.queue.do_send(SendMessages(sends));
    }

    /// Stores messages with these tags and tells the queue of them; the first has number `first`.
    async fn dispatch(&mut self, first: u64, tags: &[&str]) {
        let dispatched = self.store(first, tags);
        self.queue.send(dispatched).await.unwrap();
    }

    /// What the dispatcher would hand over of messages that lie anywhere in the log.
    fn units(&self, first: u64, count: u64) -> Dispatched {
        let unit =
            |n| ConsumeQueueUnit { physical_offset: PhysicalOffset(n * 200), size_bytes: 200, tags_code: 0 };
        Dispatched {
            first: QueueOffset(first),
            units: (first..first + count).map(unit).collect(),
            last_stored_at_ms: 1,
        }
    }

    fn store(&mut self, first: u64, tags: &[&str]) -> Dispatched {
        let units = tags
            .iter()
            .zip(first..)
            .map(|(tag, n)| {
                let message = message_with("T", &format!("body {n}"), &[("TAGS", tag)]);
                let code = crate::protocol::properties::tags_code(Some(tag));
                TestLog::unit(&self.log.append(message, n), code)
            })
            .collect();
        Dispatched { first: QueueOffset(first), units, last_stored_at_ms: 1 }
    }

    fn pull(&self, from: i64) -> PullMessages {
        PullMessages {
            link: self.link.clone(),
            to: reply_to(),
            from,
            max_messages: 32,
            filter: MessageFilter::All,
            hold: None,
            suggested_broker_id: 0,
            group: "g".into(),
        }
    }

    fn held(&self, from: i64, seconds: u64) -> PullMessages {
        PullMessages { hold: Some(Duration::from_secs(seconds)), ..self.pull(from) }
    }

    async fn pulled(&mut self, pull: PullMessages) -> (ResponseCode, i64) {
        self.queue.send(pull).await.unwrap();
        self.pulled_reply().await
    }

    /// Code and next offset of the pull answered next.
    async fn pulled_reply(&mut self) -> (ResponseCode, i64) {
        match self.client.replies.recv().await.unwrap().content {
            ReplyContent::Pulled(pulled) => (pulled.code, pulled.header.next_begin_offset),
            other => panic!("no answer to a pull: {other:?}"),
        }
    }

    async fn is_silent(&mut self) -> bool {
        self.queue.send(QueryExtent).await.unwrap();
        settle().await;
        self.client.replies.try_recv().is_err()
    }

    /// Queue offset of the send answered next, or the code of its refusal.
    async fn stored(&mut self) -> Result<u64, ResponseCode> {
        match self.client.replies.recv().await.unwrap().content {
            ReplyContent::Stored(stored) => Ok(stored.queue_offset.0),
            ReplyContent::Refused(refusal) => Err(refusal.code()),
            other => panic!("no answer to a send: {other:?}"),
        }
    }
}

#[actix::test]
async fn numbers_are_consecutive_across_refused_sends() {
    let mut bench = start();
    bench.send(&["a", "refused", "b"]);
    let batch = bench.batches.next().await;
    assert_eq!((batch.first_queue_offset, batch.sends.len()), (QueueOffset(0), 3));
    answer(batch, &[1]);
    let fates = [bench.stored().await, bench.stored().await, bench.stored().await];
    assert_eq!(fates, [Ok(0), Err(ResponseCode::MESSAGE_ILLEGAL), Ok(1)]);
    bench.send(&["c"]);
    assert_eq!(bench.batches.next().await.first_queue_offset, QueueOffset(2));
}

#[actix::test]
async fn one_append_is_in_flight_and_what_arrives_meanwhile_makes_the_next() {
    let mut bench = start();
    bench.send(&["a"]);
    let first = bench.batches.next().await;
    bench.send(&["b"]);
    bench.send(&["c", "d"]);
    assert!(bench.is_silent().await);
    assert!(bench.batches.try_recv().is_err(), "the writer has one batch of this queue");
    answer(first, &[]);
    let second = bench.batches.next().await;
    assert_eq!((second.first_queue_offset, second.sends.len()), (QueueOffset(1), 3));
}

impl Bench {
    fn send_as(&self, promise: Promise, body: &str) {
        self.queue.do_send(SendMessages(vec![SendRequest { promise, ..send_by(&self.link, body) }]));
    }

    fn flushed(&self, up_to: u64) {
        self.queue.do_send(LogFlushed { up_to: PhysicalOffset(up_to) });
    }

    /// Queue offset of the send answered next, and whether its promise was kept.
    async fn kept(&mut self) -> (u64, Kept) {
        match self.client.replies.recv().await.unwrap().content {
            ReplyContent::Stored(stored) => (stored.queue_offset.0, stored.kept),
            other => panic!("no answer of success: {other:?}"),
        }
    }
}

#[actix::test]
async fn send_that_is_promised_the_disk_is_answered_when_it_is_there() {
    let mut bench = start();
    bench.send_as(Promise::OnDisk, "a");
    let batch = bench.batches.next().await;
    assert!(batch.flushed_to.is_some());
    answer(batch, &[]);
    assert!(bench.is_silent().await);
    // The queue goes on meanwhile, and who waits for nothing is answered.
    bench.send_as(Promise::OnDisk, "b");
    answer(bench.batches.next().await, &[]);
    bench.send_as(Promise::StoredAndFlushing, "c");
    let batch = bench.batches.next().await;
    assert!(batch.flushed_to.is_some(), "consumers wait for the disk, though the sender does not");
    answer(batch, &[]);
    assert_eq!(bench.kept().await, (2, Kept::Promised));
    bench.flushed(100);
    assert_eq!(bench.kept().await, (0, Kept::Promised));
    assert!(bench.is_silent().await);
    bench.flushed(300);
    assert_eq!(bench.kept().await, (1, Kept::Promised));
    bench.send_as(Promise::Stored, "d");
    assert!(bench.batches.next().await.flushed_to.is_none());
}

#[actix::test]
async fn late_disk_is_told_once_and_the_message_counts_as_stored() {
    tokio::time::pause();
    let mut bench = start();
    bench.send_as(Promise::OnDisk, "a");
    answer(bench.batches.next().await, &[]);
    assert!(bench.is_silent().await);
    advance(Duration::from_secs(3)).await;
    bench.send_as(Promise::OnDisk, "b");
    answer(bench.batches.next().await, &[]);
    assert!(bench.is_silent().await);
    advance(Duration::from_millis(2_100)).await;
    assert_eq!(bench.kept().await, (0, Kept::InMemory));
    assert!(bench.is_silent().await, "the other has its own five seconds");
    bench.flushed(200);
    assert_eq!(bench.kept().await, (1, Kept::Promised));
    advance(Duration::from_secs(10)).await;
    assert!(bench.is_silent().await);
}

#[actix::test]
async fn deleted_queue_still_answers_those_who_wait_for_the_disk() {
    let mut bench = start();
    bench.send_as(Promise::OnDisk, "a");
    answer(bench.batches.next().await, &[]);
    bench.queue.send(DeleteQueue).await.unwrap();
    bench.flushed(100);
    assert_eq!(bench.kept().await, (0, Kept::Promised));
    settle().await;
    assert!(!bench.queue.connected(), "then it ends");
}

#[actix::test]
async fn stricter_of_broker_and_topic_decides() {
    let entry = |flush: &str| {
        let mut config = TopicConfig::new("T", 1);
        config.attributes.insert(FLUSH_DISK_TYPE.into(), flush.into());
        topic_entry(config, &TestLog::new().queue_parts())
    };
    let (plain, safe) = (entry("ASYNC_FLUSH"), entry("SYNC_FLUSH"));
    assert_eq!(Promise::of(FlushMode::Async, &plain, true), Promise::Stored);
    assert_eq!(Promise::of(FlushMode::Async, &safe, true), Promise::OnDisk);
    assert_eq!(Promise::of(FlushMode::Sync, &plain, true), Promise::OnDisk);
    assert_eq!(Promise::of(FlushMode::Sync, &plain, false), Promise::StoredAndFlushing);
}

#[actix::test]
async fn one_append_takes_no_more_than_its_bytes_and_one_send() {
    let mut bench = start_with(|parts| parts.config.max_append_bytes = 200);
    bench.send(&["a", "b", "c", "d", "e"]); // 92 bytes each
    let mut sizes = Vec::new();
    for _ in 0..2 {
        let batch = bench.batches.next().await;
        sizes.push((batch.first_queue_offset.0, batch.sends.len()));
        answer(batch, &[]);
    }
    assert_eq!(sizes, [(0, 3), (3, 2)]);
}

#[actix::test]
async fn replies_of_one_turn_to_one_connection_leave_as_one_message() {
    let mut bench = start();
    let (replies, mut one) = fake_sink::<Replies>();
    let (link, _client) = fake_client();
    let other = Arc::new(ClientLink {
        client: ClientName::default(),
        replies,
        calls: link.calls.clone(),
        watches: link.watches.clone(),
        closes: link.closes.clone(),
        ..*link
    });
    let sends = vec![send_by(&other, "a"), send_by(&bench.link, "b"), send_by(&other, "c")];
    bench.queue.do_send(SendMessages(sends));
    answer(bench.batches.next().await, &[]);
    assert_eq!(one.recv().await.unwrap().0.len(), 2);
    assert_eq!(bench.stored().await, Ok(1));
    assert!(one.try_recv().is_err());
}

#[actix::test]
async fn full_writer_refuses_every_waiting_send_as_busy() {
    let queue = Arc::new(fake_sink::<BatchAppended>().0);
    let filling = move || AppendBatch {
        sends: Vec::new(),
        first_queue_offset: QueueOffset(0),
        reply_to: queue.clone(),
        flushed_to: None,
        sender_waits: false,
    };
    let full = full_mailbox(filling).await;
    let mut bench = start_with(|parts| {
        parts.writer = full;
        parts.config.max_append_bytes = 1;
    });
    // Every sender has one slot beyond the capacity; this takes the queue's.
    bench.send(&["a"]);
    settle().await;
    let outcomes = vec![Err(Refusal::MessageIllegal { what: "no".into() })];
    bench.queue.do_send(BatchAppended { outcomes, next_queue_offset: QueueOffset(0), stored_bytes: 0 });
    assert_eq!(bench.stored().await, Err(ResponseCode::MESSAGE_ILLEGAL));
    bench.send(&["b", "c", "d"]);
    bench.queue.send(QueryExtent).await.unwrap();
    settle().await;
    for _ in 0..3 {
        let refused = bench.client.replies.try_recv().expect("nobody waits for what was refused");
        assert!(matches!(refused.content, ReplyContent::Refused(Refusal::Busy { .. })));
    }
}

#[actix::test]
async fn too_many_waiting_sends_are_refused_as_busy_with_nothing_stored() {
    let mut bench = start_with(|parts| parts.config.max_waiting_sends = 2);
    bench.send(&["in work"]);
    let batch = bench.batches.next().await;
    bench.send(&["b", "c"]);
    bench.send(&["too many"]);
    assert_eq!(bench.stored().await, Err(ResponseCode::SYSTEM_BUSY));
    answer(batch, &[]);
    assert_eq!(bench.stored().await, Ok(0));
    let next = bench.batches.next().await;
    assert_eq!(next.sends.iter().map(|send| send[0].body.clone()).collect::<Vec<_>>(), ["b", "c"]);
}

#[actix::test]
async fn actors_are_told_the_fate_of_their_sends() {
    let mut bench = start();
    let (recipient, mut told) = fake_sink::<MessageStored>();
    let reply = SendReply::Actor { recipient, token: 17, told_late: false };
    bench.queue.do_send(SendMessages(vec![SendRequest {
        messages: vec![message("T", "a")],
        promise: Promise::Stored,
        reply,
    }]));
    answer(bench.batches.next().await, &[0]);
    let stored = told.next().await;
    assert_eq!((stored.token, stored.outcome.is_err()), (17, true));
}

#[actix::test]
async fn messages_are_counted_also_when_dispatch_is_quicker_than_the_answer() {
    let mut bench = start();
    bench.send(&["a", "b"]);
    let batch = bench.batches.next().await;
    bench.dispatch(0, &["x", "x"]).await;
    answer(batch, &[]);
    bench.stored().await.unwrap();
    let puts = bench.parts.counters.read().puts;
    assert_eq!((puts.messages, puts.bytes), (2, 200));
    bench.send(&["c"]);
    assert_eq!(bench.batches.next().await.first_queue_offset, QueueOffset(2));
}

#[actix::test]
async fn units_dispatched_twice_are_ignored() {
    let mut bench = start();
    let first = bench.store(0, &["a", "b"]);
    let again = Dispatched { units: first.units.clone(), ..first };
    let both = first.units.iter().map(|unit| unit.physical_offset).collect::<Vec<_>>();
    bench.queue.send(first).await.unwrap();
    bench.queue.send(bench.held(2, 15)).await.unwrap();
    bench.queue.send(again).await.unwrap();
    assert!(bench.is_silent().await, "nothing new has arrived");
    assert_eq!(positions(&bench.queue).await, both);
    bench.dispatch(2, &["c"]).await;
    assert_eq!(bench.pulled_reply().await, (FOUND, 3));
}

#[actix::test]
async fn deleted_queue_answers_holds_and_every_send() {
    let mut bench = start();
    bench.dispatch(0, &["a"]).await;
    bench.queue.send(bench.held(1, 15)).await.unwrap();
    bench.send(&["in work"]);
    let batch = bench.batches.next().await;
    bench.send(&["waiting"]);
    bench.queue.send(DeleteQueue).await.unwrap();
    let unknown = Err(ResponseCode::TOPIC_NOT_EXIST);
    assert_eq!(bench.stored().await, unknown, "the hold");
    assert_eq!(bench.stored().await, unknown, "the waiting send");
    answer(batch, &[]);
    assert_eq!(bench.stored().await, Ok(1), "what the writer has is told as it comes");
    settle().await;
    assert!(!bench.queue.connected());
    let dir = bench.parts.consume_queue_root.join("T/0");
    assert!(bench.log.files.list(&dir).unwrap().is_empty());
}

#[actix::test]
async fn units_that_could_not_be_written_hold_back_the_check_point_until_they_are() {
    tokio::time::pause();
    let mut bench = start();
    bench.dispatch(0, &["a"]).await;
    assert!(bench.queue.send(TakeUnflushed).await.unwrap().is_ok());
    let (b, c) = (bench.store(1, &["b"]), bench.store(2, &["c"]));
    bench.log.files.fail_next(FileOperation::Write, std::io::ErrorKind::StorageFull);
    bench.queue.send(b).await.unwrap();
    bench.queue.send(c).await.unwrap();
    bench.queue.send(TakeUnflushed).await.unwrap().expect_err("units are missing on disk");
    advance(Duration::from_millis(1_100)).await;
    settle().await;
    assert_eq!(positions(&bench.queue).await.len(), 3, "what came later does not wait another round");
    assert!(bench.queue.send(TakeUnflushed).await.unwrap().is_ok());
}

#[actix::test]
async fn numbers_whose_units_could_not_be_written_are_given_to_nobody_else() {
    tokio::time::pause();
    let mut bench = start();
    // As after a start: the messages are in the log, and the queue has none of their units.
    bench.log.files.fail_always(FileOperation::Write, std::io::ErrorKind::StorageFull);
    let (a, b) = (bench.units(0, 2), bench.units(2, 1));
    bench.queue.send(a).await.unwrap();
    bench.queue.send(b).await.unwrap();
    bench.send(&["too early"]);
    assert_eq!(bench.stored().await, Err(ResponseCode::SYSTEM_ERROR));
    assert_eq!(bench.pulled(bench.pull(3)).await, (NOT_FOUND, 3), "what is not written yet is not gone");
    bench.log.files.fail_nothing();
    advance(Duration::from_millis(1_100)).await;
    settle().await;
    bench.send(&["now"]);
    answer(bench.batches.next().await, &[]);
    assert_eq!(bench.stored().await, Ok(3));
}

#[actix::test]
async fn queue_that_cannot_be_opened_refuses_with_the_cause() {
    let mut bench = start_with(|parts| {
        let dir = parts.consume_queue_root.join("T/0");
        parts.files.create_dir_all(&dir).unwrap();
        for name in ["00000000000000000000", "00000000000000000480"] {
            let file = parts.files.open(&dir.join(name), OpenMode::CreateNew).unwrap();
            file.set_len(160).unwrap();
        }
    });
    bench.send(&["a"]);
    assert_eq!(bench.stored().await, Err(ResponseCode::SYSTEM_ERROR));
    bench.queue.send(bench.held(0, 15)).await.unwrap();
    let refused = bench.client.replies.recv().await.unwrap();
    assert!(matches!(refused.content, ReplyContent::Refused(Refusal::StoreFailed { .. })));
    assert!(bench.batches.try_recv().is_err());
    assert!(bench.queue.send(TakeUnflushed).await.unwrap().is_ok(), "nothing is missing yet");
    bench.dispatch(0, &["a"]).await;
    bench.queue.send(TakeUnflushed).await.unwrap().expect_err("no check point may claim the unit");
}

#[actix::test]
async fn questions_about_the_queue_are_answered_from_units_and_log() {
    let mut bench = start();
    let empty = bench.queue.send(QueryExtent).await.unwrap();
    assert_eq!(empty, QueueExtent { begins_young: true, ..QueueExtent::default() });
    let mut units = Vec::new();
    for (n, at) in [1_000, 2_000, 2_000, 3_000].into_iter().enumerate() {
        let appended = bench.log.append_at(message("T", "x"), n as u64, crate::clock::WallMs(at));
        units.push(TestLog::unit(&appended, 0));
    }
    let dispatched = Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 3_000 };
    bench.queue.send(dispatched).await.unwrap();
    for (timestamp_ms, upper, expected) in
        [(0, false, 0), (2_000, false, 1), (2_000, true, 2), (2_500, false, 3), (9_000, false, 4)]
    {
        let search = SearchOffsetByTime { timestamp_ms, upper };
        assert_eq!(bench.queue.send(search).await.unwrap().unwrap().0, expected, "{timestamp_ms} {upper}");
    }
    assert_eq!(bench.queue.send(QueryStoredAt { offset: QueueOffset(3) }).await.unwrap(), Some(3_000));
    assert_eq!(bench.queue.send(QueryStoredAt { offset: QueueOffset(4) }).await.unwrap(), None);
    let records = bench.queue.send(ReadRecords { offset: QueueOffset(1), max: 2 }).await.unwrap();
    assert_eq!(records.len(), 2);
    let extent = bench.queue.send(QueryExtent).await.unwrap();
    assert_eq!((extent.max.0, extent.last_stored_at_ms), (4, Some(3_000)));
}

#[actix::test]
async fn messages_pulled_count_for_their_group() {
    let (stats, mut counted) = fake_mailbox::<CountTraffic>().answers(|_| ()).start();
    let mut bench = start_with(|parts| parts.stats = stats);
    assert!(matches!(counted.next().await.of, TrafficOf::TopicPuts(topic) if &*topic == "T"));
    bench.dispatch(0, &["a", "b"]).await;
    bench.pulled(bench.pull(0)).await;
    bench.pulled(bench.pull(1)).await;
    let CountTraffic { of, traffic } = counted.next().await;
    assert!(matches!(of, TrafficOf::GroupGets { group, .. } if &*group == "g"));
    assert_eq!(traffic.read().messages, 3);
    assert!(counted.try_recv().is_err(), "told once");
    bench.pulled(bench.pull(2)).await;
    assert_eq!(bench.parts.counters.read().gets_missed, 1);
}

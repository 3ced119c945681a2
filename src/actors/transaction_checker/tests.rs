use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::time::advance;

use super::*;
use crate::actors::broker_settings::SettingValues;
use crate::actors::commit_log_writer::{AppendBatch, BatchAppended, StoredSend};
use crate::actors::request::ClientLink;
use crate::actors::topic_queue::QueueParts;
use crate::protocol::message::StoredMessage;
use crate::protocol::names::{HALF_TOPIC, OP_TOPIC, TRANSACTION_CHECK_MAX_TIME_TOPIC};
use crate::protocol::properties::{self, names as property};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::transaction::{TransactionFact, half_properties};
use crate::store::metadata::Metadata;
use crate::testing::log::{TestLog, message_with, settle, store_host, topic_table};
use crate::testing::{FakeClient, RuntimeClock, Taken, fake_client, fake_mailbox, fake_sink, pass};
use crate::types::{QueueId, TopicName};

const GIVEN_UP: &str = TRANSACTION_CHECK_MAX_TIME_TOPIC;
const TOPICS: [(&str, u32); 4] = [(HALF_TOPIC, 1), (OP_TOPIC, 1), (GIVEN_UP, 1), ("T", 2)];

/// The producer of group `pg`, while there is one.
type PresentProducer = Rc<RefCell<Option<Arc<ClientLink>>>>;

/// A checker over queues whose appends the test carries out, and a producer of group `pg`.
struct Bench {
    log: TestLog,
    topics: TopicTable,
    metadata: Metadata,
    progress: Progress,
    clock: SharedClock,
    checker: Addr<TransactionChecker>,
    appends: Taken<AppendBatch>,
    waiting: VecDeque<AppendBatch>,
    producer: PresentProducer,
    link: Arc<ClientLink>,
    client: FakeClient,
    halves: u64,
}

impl Bench {
    fn start() -> Self {
        Self::start_with(true)
    }

    fn start_with(has_producer: bool) -> Self {
        tokio::time::pause();
        let log = TestLog::new();
        let (writer, appends) = fake_sink::<AppendBatch>();
        let topics = topic_table(&TOPICS, &QueueParts { writer, ..log.queue_parts() });
        let metadata = Metadata::temporary().unwrap();
        let (progress, clock) = (Progress::default(), RuntimeClock::shared());
        let (link, client) = fake_client();
        let producer = PresentProducer::new(RefCell::new(has_producer.then(|| link.clone())));
        let checker = start_checker(&log, &topics, &metadata, &progress, clock.clone(), producer.clone());
        let waiting = VecDeque::new();
        Self {
            log,
            topics,
            metadata,
            progress,
            clock,
            checker,
            appends,
            waiting,
            producer,
            link,
            client,
            halves: 0,
        }
    }

    /// As after a crash: what the checker had in memory is gone.
    fn restart(&mut self) {
        let clock = self.clock.clone();
        let producer = self.producer.clone();
        self.checker =
            start_checker(&self.log, &self.topics, &self.metadata, &self.progress, clock, producer);
    }

    /// Stores a half message; what the dispatcher would tell of it is returned.
    fn half_untold(&mut self, pairs: &[(&str, &str)]) -> (QueueOffset, PhysicalOffset, TransactionFact) {
        let offset = self.halves;
        self.halves += 1;
        let key = format!("U{offset}");
        let own = [("UNIQ_KEY", &*key), ("PGROUP", "pg"), ("TRAN_MSG", "true")];
        let pairs: Vec<_> = own.iter().chain(pairs).copied().collect();
        let message = PendingMessage {
            extra_properties: half_properties(&key, "T", QueueId(1)).into(),
            ..message_with(HALF_TOPIC, "hello", &pairs)
        };
        let appended = self.log.append_at(message, offset, self.clock.now());
        (QueueOffset(offset), appended.start, fact_at(&self.log, appended.start).unwrap())
    }

    async fn half(&mut self) -> (QueueOffset, PhysicalOffset) {
        let (offset, at, fact) = self.half_untold(&[]);
        self.checker.send(TransactionFacts(vec![fact])).await.unwrap();
        (offset, at)
    }

    fn end(
        &self,
        (half, half_at): (QueueOffset, PhysicalOffset),
        decision: Decision,
    ) -> actix_rt::task::JoinHandle<Result<TransactionEnded, Refusal>> {
        let end = EndTransaction { half, half_at, group: "pg".into(), decision, is_asked: false };
        let ended = self.checker.send(end);
        actix_rt::spawn(async move { ended.await.unwrap() })
    }

    /// The next append that some queue asks for; nothing, if none does.
    async fn append_asked(&mut self) -> Option<AppendBatch> {
        settle().await;
        while let Ok(batch) = self.appends.try_recv() {
            self.waiting.push_back(batch);
        }
        self.waiting.pop_front()
    }

    /// Stores everything that is asked for, and tells of it; returns topics and bodies.
    async fn store_all(&mut self) -> Vec<(TopicName, String)> {
        let mut stored = Vec::new();
        while let Some(batch) = self.append_asked().await {
            stored.extend(self.store(batch).await);
        }
        stored
    }

    async fn store(&mut self, batch: AppendBatch) -> Vec<(TopicName, String)> {
        let (mut stored, mut outcomes, mut facts) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = batch.first_queue_offset;
        for message in batch.sends.into_iter().flatten() {
            let body = String::from_utf8(message.body.to_vec()).unwrap();
            stored.push((message.topic.clone(), body));
            let appended = self.log.append_at(message, next.0, self.clock.now());
            facts.extend(fact_at(&self.log, appended.start));
            outcomes.push(Ok(StoredSend {
                first_queue_offset: next,
                physical_offsets: vec![appended.start],
                end: appended.end,
                stored_at_ms: self.clock.now().0,
            }));
            next = next.advance(1);
        }
        batch.reply_to.do_send(BatchAppended { outcomes, next_queue_offset: next, stored_bytes: 1 });
        settle().await;
        self.checker.send(TransactionFacts(facts)).await.unwrap();
        stored
    }

    async fn pass(&self, ms: u64) {
        pass(Duration::from_millis(ms)).await;
    }

    /// A producer of the group is there from now on.
    async fn join(&self) {
        *self.producer.borrow_mut() = Some(self.link.clone());
        self.checker.send(ProducerJoined { group: "pg".into() }).await.unwrap();
        settle().await;
    }

    async fn state(&self) -> TransactionCheckerState {
        self.checker.send(Observe).await.unwrap()
    }

    /// Brings everything to disk, and keeps what is open.
    async fn save(&self) {
        let end = self.log.reader.published();
        self.progress.set_dispatched(end);
        self.progress.set_flushed(end);
        self.checker.send(SaveTransactions { dispatched: end }).await.unwrap();
    }
}

fn start_checker(
    log: &TestLog,
    topics: &TopicTable,
    metadata: &Metadata,
    progress: &Progress,
    clock: SharedClock,
    producer: PresentProducer,
) -> Addr<TransactionChecker> {
    let plan = HalvesPlan {
        files: Arc::new(log.files.clone()),
        consume_queue_root: "/consumequeue".into(),
        units: log.queue_parts().config.units,
        metadata: metadata.clone(),
        log: log.reader.clone(),
        until: log.reader.published(),
        timeout: Duration::from_secs(6),
    };
    let known = topics.clone();
    let checker = TransactionChecker::new(
        restore(&plan).unwrap(),
        TransactionCheckerParts {
            events: crate::actors::extensions::stream::EventTap::default(),
            oldest: OldestHalf::default(),
            log: log.reader.clone(),
            topics: topics.clone(),
            ensure_topic: fake_mailbox()
                .answers(move |ensure: &EnsureTopic| {
                    Ok(known.get(&ensure.config.topic_name).expect("it is there"))
                })
                .start()
                .0,
            producers: fake_mailbox()
                .answers(move |pick: &PickProducer| {
                    producer.borrow().clone().filter(|_| &*pick.group == "pg")
                })
                .start()
                .0,
            producer_joins: fake_sink().0,
            settings: SettingsTable::fixed(SettingValues::default()),
            kept: metadata.open_halves().unwrap(),
            progress: progress.clone(),
            flush: FlushMode::Async,
            broker_name: "broker-a".into(),
            store_host: store_host(),
            clock,
            mailbox_capacity: 64,
            save_interval: Duration::from_secs(5),
        },
    )
    .start();
    checker.do_send(StartChecks);
    checker
}

fn fact_at(log: &TestLog, at: PhysicalOffset) -> Option<TransactionFact> {
    log.reader.with_record(at, |record| TransactionFact::of(at, &record)).flatten()
}

fn code(outcome: Result<TransactionEnded, Refusal>) -> Option<ResponseCode> {
    outcome.err().map(|refusal| refusal.code())
}

#[actix::test]
async fn commit_is_answered_once_the_message_is_stored_where_it_belongs() {
    let mut bench = Bench::start();
    let half = bench.half().await;
    let ended = bench.end(half, Decision::Commit);
    let batch = bench.append_asked().await.unwrap();
    let message = batch.sends[0][0].clone();
    assert_eq!((&*message.topic, message.queue_id), ("T", QueueId(1)));
    assert_eq!(message.prepared_transaction_offset, half.1.0 as i64);
    assert!(!ended.is_finished(), "nothing is stored yet");
    bench.store(batch).await;
    assert_eq!(ended.await.unwrap().unwrap(), TransactionEnded::AsAsked);
    bench.pass(200).await;
    assert_eq!(bench.store_all().await, [(OP_TOPIC.into(), "0,".to_owned())]);
    assert_eq!((bench.state().await.known, bench.state().await.committed), (0, 1));
}

#[actix::test]
async fn rollback_is_answered_once_the_log_says_so_and_nothing_else_is_stored() {
    let mut bench = Bench::start();
    let half = bench.half().await;
    let ended = bench.end(half, Decision::Rollback);
    let batch = bench.append_asked().await.unwrap();
    assert!(!ended.is_finished());
    assert_eq!(bench.store(batch).await, [(OP_TOPIC.into(), "0,".to_owned())]);
    ended.await.unwrap().unwrap();
    bench.pass(60_000).await;
    assert!(bench.store_all().await.is_empty() && bench.client.calls.try_recv().is_err());
    assert_eq!((bench.state().await.known, bench.state().await.rolled_back), (0, 1));
}

#[actix::test]
async fn first_final_decision_wins_and_its_repetition_is_told_the_same() {
    let mut bench = Bench::start();
    let half = bench.half().await;
    let decisions = [Decision::Commit, Decision::Commit, Decision::Rollback];
    let ended: Vec<_> = decisions.into_iter().map(|decision| bench.end(half, decision)).collect();
    assert_eq!(bench.store_all().await.len(), 1);
    let mut codes = Vec::new();
    for ended in ended {
        codes.push(code(ended.await.unwrap()));
    }
    let late = Some(ResponseCode::ILLEGAL_OPERATION);
    assert_eq!(codes, [None, None, late], "under way");
    bench.pass(200).await;
    bench.store_all().await;
    assert_eq!(bench.state().await.known, 0);
    assert_eq!(code(bench.end(half, Decision::Rollback).await.unwrap()), late, "settled");
    assert_eq!(code(bench.end(half, Decision::Commit).await.unwrap()), None);
}

#[actix::test]
async fn producer_may_be_faster_than_the_dispatcher() {
    let mut bench = Bench::start();
    let (offset, at, fact) = bench.half_untold(&[]);
    let ended = bench.end((offset, at), Decision::Commit);
    let batch = bench.append_asked().await.unwrap();
    bench.checker.send(TransactionFacts(vec![fact])).await.unwrap();
    bench.store(batch).await;
    ended.await.unwrap().unwrap();
    assert_eq!(bench.state().await.committed, 1);
}

#[actix::test]
async fn refused_ending_leaves_the_half_open_to_another_decision() {
    let mut bench = Bench::start();
    let half = bench.half().await;
    let ended = bench.end(half, Decision::Commit);
    let batch = bench.append_asked().await.unwrap();
    let refusal = Refusal::NotWritable { cause: "full".into() };
    let next_queue_offset = batch.first_queue_offset;
    batch.reply_to.do_send(BatchAppended {
        outcomes: vec![Err(refusal)],
        next_queue_offset,
        stored_bytes: 0,
    });
    assert_eq!(code(ended.await.unwrap()), Some(ResponseCode::SERVICE_NOT_AVAILABLE));
    let ended = bench.end(half, Decision::Rollback);
    bench.store_all().await;
    ended.await.unwrap().unwrap();
}

#[actix::test]
async fn wrong_names_of_a_transaction_are_refused() {
    let mut bench = Bench::start();
    let (half, half_at) = bench.half().await;
    let good =
        EndTransaction { half, half_at, group: "pg".into(), decision: Decision::Commit, is_asked: false };
    let bad = [
        ("group", EndTransaction { group: "other".into(), ..good.clone() }),
        ("offset", EndTransaction { half: QueueOffset(9), ..good.clone() }),
        ("position", EndTransaction { half_at: PhysicalOffset(3), ..good }),
    ];
    for (what, end) in bad {
        let refusal = bench.checker.send(end).await.unwrap().unwrap_err();
        assert_eq!(refusal.code(), ResponseCode::SYSTEM_ERROR, "{what}: {refusal}");
    }
    assert_eq!(bench.state().await.open, 1);
}

#[actix::test]
async fn producer_is_asked_in_its_time_and_given_up_after_the_last_check() {
    let mut bench = Bench::start();
    let half = bench.half().await;
    bench.pass(5_900).await;
    assert!(bench.client.calls.try_recv().is_err(), "6 s are its own");
    bench.pass(200).await;
    let call = bench.client.calls.try_recv().unwrap();
    assert_eq!((call.code, call.timeout), (RequestCode::CHECK_TRANSACTION_STATE.as_i32(), None));
    let field = |name: &str| call.fields.iter().find(|(found, _)| found == name).unwrap().1.clone();
    assert_eq!(field("tranStateTableOffset"), half.0.to_string());
    assert_eq!(field("commitLogOffset"), half.1.to_string());
    assert_eq!((field("transactionId"), field("msgId")), ("U0".to_owned(), "U0".to_owned()));
    let shown = StoredMessage::decode(&call.body).unwrap();
    assert_eq!((&*shown.topic, shown.queue_id, &shown.body[..]), ("T", QueueId(1), &b"hello"[..]));
    assert_eq!(properties::get(&shown.properties, property::TRANSACTION_CHECK_TIMES), Some("1"));

    bench.save().await;
    bench.pass(3_600_000).await;
    let mut asked = 1;
    while bench.client.calls.try_recv().is_ok() {
        asked += 1;
    }
    assert_eq!(asked, 15, "within an hour, and no more");
    assert_eq!(bench.store_all().await, [(GIVEN_UP.into(), "hello".to_owned())]);
    bench.pass(200).await;
    assert_eq!(bench.store_all().await, [(OP_TOPIC.into(), "0,".to_owned())]);
    assert_eq!((bench.state().await.known, bench.state().await.given_up), (0, 1));
}

#[actix::test]
async fn half_that_asks_for_time_gets_it_and_decides_late_only_when_asked() {
    let mut bench = Bench::start();
    let (offset, at, fact) = bench.half_untold(&[("CHECK_IMMUNITY_TIME_IN_SECONDS", "60")]);
    bench.checker.send(TransactionFacts(vec![fact])).await.unwrap();
    bench.pass(59_000).await;
    assert!(bench.client.calls.try_recv().is_err());
    bench.pass(2_000).await;
    assert!(bench.client.calls.try_recv().is_ok());
    let late = bench.end((offset, at), Decision::Commit).await.unwrap();
    assert_eq!(code(late), Some(ResponseCode::ILLEGAL_OPERATION));
    let end = EndTransaction {
        half: offset,
        half_at: at,
        group: "pg".into(),
        decision: Decision::Commit,
        is_asked: true,
    };
    let ended = actix_rt::spawn(bench.checker.send(end));
    bench.store_all().await;
    ended.await.unwrap().unwrap().unwrap();
}

#[actix::test]
async fn transaction_without_a_producer_is_kept_and_shown_as_such() {
    let mut bench = Bench::start_with(false);
    bench.half().await;
    bench.save().await;
    bench.pass(3_600_000).await;
    let page = bench.checker.send(ListTransactions { max: 9, ..Default::default() }).await.unwrap();
    let info = &page.transactions[0];
    assert_eq!((info.checks, info.unattended, &*info.topic, &*info.transaction_id), (0, true, "T", "U0"));
    assert!(bench.append_asked().await.is_none(), "it is not given up");
    bench.pass(72 * 3_600_000).await;
    assert_eq!(bench.store_all().await[0].0, TopicName::from(GIVEN_UP), "as old as messages become");
}

#[actix::test]
async fn producer_that_joins_is_asked_at_once_what_nobody_could_tell() {
    let mut bench = Bench::start_with(false);
    for _ in 0..100 {
        bench.half().await;
    }
    bench.pass(10_000).await;
    assert!(bench.client.calls.is_empty());
    bench.join().await;
    advance(Duration::from_millis(2)).await; // long before the next round
    settle().await;
    let first = bench.client.calls.len();
    assert!((1..100).contains(&first), "{first} in the first turns: the rate has its bound");
    bench.pass(200).await;
    assert_eq!(bench.client.calls.len(), 100);
    let page = bench.checker.send(ListTransactions { max: 1, ..Default::default() }).await.unwrap();
    assert_eq!((page.transactions[0].checks, page.transactions[0].unattended), (1, false));
}

#[actix::test]
async fn many_are_asked_for_in_turns() {
    let mut bench = Bench::start();
    for _ in 0..100 {
        bench.half().await;
    }
    advance(Duration::from_millis(6_001)).await;
    settle().await;
    let mut asked = 0;
    while bench.client.calls.try_recv().is_ok() {
        asked += 1;
    }
    assert!((1..100).contains(&asked), "{asked} in one turn");
    bench.pass(400).await;
    while bench.client.calls.try_recv().is_ok() {
        asked += 1;
    }
    assert_eq!(asked, 100);
}

#[actix::test]
async fn restart_knows_what_was_open_and_what_had_ended() {
    let mut bench = Bench::start();
    let (open, committed, kept) = (bench.half().await, bench.half().await, bench.half().await);
    bench.pass(6_100).await;
    bench.save().await;
    let ended = bench.end(committed, Decision::Commit);
    bench.store_all().await; // the op message is not written yet
    ended.await.unwrap().unwrap();
    let later = bench.half().await;
    bench.restart();
    assert_eq!(bench.state().await.open, 3);
    let settled = bench.end(committed, Decision::Rollback).await.unwrap();
    assert_eq!(code(settled), Some(ResponseCode::ILLEGAL_OPERATION));
    bench.pass(200).await;
    // The one that lost its power runs on in this test, and writes one too.
    let op = (TopicName::from(OP_TOPIC), "1,".to_owned());
    assert_eq!(bench.store_all().await, [op.clone(), op], "written at last");
    let page = bench.checker.send(ListTransactions { max: 9, ..Default::default() }).await.unwrap();
    let shown: Vec<_> = page.transactions.iter().map(|info| (info.half_offset, info.checks)).collect();
    assert_eq!(shown, [(open.0.0, 1), (kept.0.0, 1), (later.0.0, 0)], "with their checks");
}

#[actix::test]
async fn half_that_is_told_behind_a_saving_is_read_from_the_log_again() {
    let mut bench = Bench::start();
    bench.half().await;
    let dispatched = bench.log.reader.published();
    let saved = bench.checker.send(SaveTransactions { dispatched });
    // The dispatcher goes on before the checker has its turn.
    let (_, _, fact) = bench.half_untold(&[]);
    bench.checker.do_send(TransactionFacts(vec![fact]));
    let end = bench.log.reader.published();
    bench.progress.set_dispatched(end);
    bench.progress.set_flushed(end);
    saved.await.unwrap();
    bench.restart();
    assert_eq!(bench.state().await.open, 2);
}

#[actix::test]
async fn what_is_kept_waits_until_the_log_is_on_disk() {
    let mut bench = Bench::start();
    let half = bench.half().await;
    bench.save().await;
    let before = bench.metadata.open_halves().unwrap().read_to().unwrap();
    let ended = bench.end(half, Decision::Rollback);
    bench.store_all().await;
    ended.await.unwrap().unwrap();
    bench.progress.set_dispatched(bench.log.reader.published());
    bench.pass(20_000).await;
    assert_eq!(bench.metadata.open_halves().unwrap().all().unwrap().len(), 1, "the rollback may be lost");
    assert_eq!(bench.metadata.open_halves().unwrap().read_to().unwrap(), before);
    bench.progress.set_flushed(bench.log.reader.published());
    bench.pass(1_000).await;
    assert_eq!(bench.metadata.open_halves().unwrap().all().unwrap(), []);
    assert_eq!(bench.metadata.open_halves().unwrap().read_to().unwrap(), Some(bench.log.reader.published()));
}

#[actix::test]
async fn operator_decides_and_what_was_given_up_is_checked_again() {
    let mut bench = Bench::start_with(false);
    let (half, _) = bench.half().await;
    let unknown = EndByHand { half: QueueOffset(7), decision: Decision::Commit };
    assert!(bench.checker.send(unknown).await.unwrap().is_err());
    let ended = actix_rt::spawn(bench.checker.send(EndByHand { half, decision: Decision::Commit }));
    assert_eq!(bench.store_all().await[0].0, TopicName::from("T"));
    ended.await.unwrap().unwrap().unwrap();

    let (_, at) = bench.half().await;
    let half = bench.log.reader.read_record(at).unwrap();
    let given_up = HalfMessage::decode(&half).unwrap().given_up();
    let at = bench.log.append(given_up, 0).start;
    let resumed = actix_rt::spawn(bench.checker.send(ResumeHalf { at }));
    let batch = bench.append_asked().await.unwrap();
    assert_eq!(batch.sends[0][0].topic, TopicName::from(HALF_TOPIC));
    bench.store(batch).await;
    resumed.await.unwrap().unwrap().unwrap();
}

#[actix::test]
async fn list_is_cut_into_pages_and_filtered() {
    let mut bench = Bench::start();
    for _ in 0..5 {
        bench.half().await;
    }
    let list = |from: u64, group: Option<&str>| ListTransactions {
        from: QueueOffset(from),
        group: group.map(Into::into),
        max: 3,
        ..Default::default()
    };
    let first = bench.checker.send(list(0, None)).await.unwrap();
    assert_eq!((first.transactions.len(), first.next, first.open), (3, Some(QueueOffset(3)), 5));
    let second = bench.checker.send(list(3, Some("pg"))).await.unwrap();
    assert_eq!((second.transactions.len(), second.next), (2, None));
    assert_eq!(bench.checker.send(list(0, Some("other"))).await.unwrap().transactions, []);
    let by_id = ListTransactions { transaction_id: Some("U4".into()), max: 9, ..Default::default() };
    assert_eq!(bench.checker.send(by_id).await.unwrap().transactions[0].half_offset, 4);
}

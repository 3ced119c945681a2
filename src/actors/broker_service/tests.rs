mod dedup;
mod disk_trouble;
mod replies;
mod retries;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::actors::broker_plan::{BrokerPlan, CompactionPlan};
use crate::actors::broker_settings::SettingValues;
use crate::actors::broker_tree::BrokerTree;
use crate::actors::commit_log_writer::BusyRules;
use crate::actors::flusher::FlusherConfig;
use crate::actors::request::ClientLink;
use crate::actors::requests::send::TimerRules;
use crate::actors::threads::Threads;
use crate::actors::topic_queue::{DeleteQueue, Promise, QueryExtent, TopicQueueConfig};
use crate::filter::FilterRules;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::message::StoredMessage;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::topic_config::TopicConfig;
use crate::store::compacted_log::CompactedSizes;
use crate::store::index_file::IndexFileConfig;
use crate::store::memory_files::MemoryFiles;
use crate::store::metadata::Metadata;
use crate::store::recovery_progress::RecoveryProgress;
use crate::store::retention::RetentionRules;
use crate::testing::log::{TestLog, message, settle, store_host, topic_entry};
use crate::testing::{FakeClient, RequestBuilder, RuntimeClock, fake_client, fake_sink, request};
use crate::types::FlushMode;

fn plan() -> BrokerPlan {
    BrokerPlan {
        flight_recorder: 0,
        flush: FlushMode::Async,
        cluster: "C1".into(),
        broker_name: "broker-a".into(),
        advertised: store_host(),
        name_servers: Vec::new(),
        root: PathBuf::from("/store"),
        settings: SettingValues::default(),
        mixed_message_types: false,
        register_interval: Duration::from_secs(30),
        register_timeout: Duration::from_secs(3),
        expiry: Duration::from_secs(120),
        trace_topic: None,
        commit_log_segment_bytes: 1 << 20,
        filter: FilterRules::default(),
        open_queue_files: 64,
        queue: TopicQueueConfig::default(),
        backlog_percent: 100,
        key_index: Some(IndexFileConfig { slots: 64, entries: 256 }),
        flusher: FlusherConfig::default(),
        offsets_flush_interval: Duration::from_secs(5),
        offsets_flush_mode: FlushMode::Async,
        retention: RetentionRules::default(),
        retention_interval: Duration::from_secs(10),
        max_body_bytes: 4_096,
        delay_levels: DelayLevels::default(),
        timers: TimerRules::default(),
        compaction: CompactionPlan {
            interval: Duration::from_secs(900),
            sizes: CompactedSizes { segment_bytes: 4_096, index_bytes: 460 },
            memory_bytes: 1 << 20,
        },
        extensions: Vec::new(),
        http: None,
        mailbox_capacity: 1_024,
        writer_mailbox_capacity: 1_024,
        busy_writer: BusyRules::default(),
        dial: None,
    }
}

/// A whole broker over a disk in memory, asked without a socket.
struct Bench {
    tree: BrokerTree,
    threads: Threads,
    link: Arc<ClientLink>,
    client: FakeClient,
}

impl Bench {
    async fn start(plan: BrokerPlan, files: &MemoryFiles, metadata: &Metadata) -> Self {
        let threads = Threads::start(1, FlushMode::Async);
        let files = Arc::new(files.clone());
        let (clock, recovery) = (RuntimeClock::shared(), RecoveryProgress::default());
        let failed = fake_sink().0;
        let tree = BrokerTree::start(plan, &threads, files, metadata.clone(), failed, clock, &recovery).await;
        let (link, client) = fake_client();
        Self { tree: tree.unwrap(), threads, link, client }
    }

    async fn start_new() -> Self {
        Self::start(plan(), &MemoryFiles::new(), &Metadata::temporary().unwrap()).await
    }

    /// Serves requests as those of one read; returns what is answered, in the order of the answers.
    async fn ask(&mut self, requests: Vec<RequestBuilder>) -> Vec<Reply> {
        let count = requests.len();
        let mut requests: Vec<_> = requests.into_iter().map(|builder| builder.from(&self.link)).collect();
        let mut replies = Vec::new();
        self.tree.service.serve(&mut requests, &mut replies);
        while replies.len() < count {
            replies.push(self.client.replies.recv().await.unwrap());
        }
        replies
    }

    async fn code(&mut self, request: RequestBuilder) -> ResponseCode {
        match self.ask(vec![request]).await.remove(0).content {
            ReplyContent::Stored(_) => ResponseCode::SUCCESS,
            ReplyContent::Pulled(pulled) => pulled.code,
            ReplyContent::Answer(answer) => answer.code,
            ReplyContent::Refused(refusal) => refusal.code(),
            ReplyContent::Silence => panic!("every request is answered"),
        }
    }

    /// Bodies of a queue, from its beginning on, waiting until there are some.
    async fn bodies(&mut self, topic: &str) -> Vec<String> {
        let pull = request(RequestCode::PULL_MESSAGE)
            .field("consumerGroup", "g")
            .field("topic", topic)
            .field("queueId", 0)
            .field("queueOffset", 0)
            .field("maxMsgNums", 32)
            .field("sysFlag", 6)
            .field("subscription", "*")
            .field("suspendTimeoutMillis", 10_000);
        let ReplyContent::Pulled(pulled) = self.ask(vec![pull]).await.remove(0).content else {
            panic!("the pull is answered")
        };
        let stored = StoredMessage::decode_all(pulled.records.concat().into());
        stored.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
    }

    async fn stop(self) {
        self.tree.stop().await;
        self.threads.stop();
    }
}

fn send(topic: &str, body: &str) -> RequestBuilder {
    request(RequestCode::SEND_MESSAGE_V2)
        .field("a", "pg")
        .field("b", topic)
        .field("c", "TBW102")
        .field("d", 4)
        .field("e", 0)
        .body(body.to_owned())
}

#[actix::test]
async fn sends_of_one_read_are_stored_in_order_and_pulled_again() {
    let mut bench = Bench::start_new().await;
    assert_eq!(bench.code(send("T", "first")).await, ResponseCode::SUCCESS, "the topic is made");
    let replies = bench.ask(vec![send("T", "a"), send("T", ""), send("T", "b"), send("T", "c")]).await;
    let fates: Vec<_> = replies
        .iter()
        .map(|reply| match &reply.content {
            ReplyContent::Stored(stored) => Ok(stored.queue_offset.0),
            ReplyContent::Refused(refusal) => Err(refusal.code()),
            other => panic!("no answer to a send: {other:?}"),
        })
        .collect();
    assert_eq!(fates, [Err(ResponseCode::MESSAGE_ILLEGAL), Ok(1), Ok(2), Ok(3)]);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen = bench.bodies("T").await; // dispatch may be a message behind
    }
    assert_eq!(seen, ["first", "a", "b", "c"]);
    bench.stop().await;
}

#[actix::test]
async fn what_was_stored_is_there_after_a_restart() {
    let (files, metadata) = (MemoryFiles::new(), Metadata::temporary().unwrap());
    let mut bench = Bench::start(plan(), &files, &metadata).await;
    bench.code(send("T", "kept")).await;
    bench.stop().await;
    let mut bench = Bench::start(plan(), &files, &metadata).await;
    assert_eq!(bench.bodies("T").await, ["kept"]);
    assert_eq!(bench.code(send("T", "more")).await, ResponseCode::SUCCESS);
    bench.stop().await;
}

#[actix::test]
async fn topics_are_made_by_sends_only_if_they_may() {
    let settings = SettingValues { auto_create_topic: false, ..SettingValues::default() };
    let plan = BrokerPlan { settings, ..plan() };
    let mut bench = Bench::start(plan, &MemoryFiles::new(), &Metadata::temporary().unwrap()).await;
    assert_eq!(bench.code(send("T", "x")).await, ResponseCode::TOPIC_NOT_EXIST);
    assert!(bench.tree.topics.get("T").is_none());
    bench.stop().await;
}

#[actix::test]
async fn one_way_requests_are_done_without_anything_to_write() {
    let mut bench = Bench::start_new().await;
    let requests = vec![
        send("T", "new topic").one_way(),
        send("T", "").one_way(),
        request(RequestCode::from_i32(99_999)).one_way(),
        request(RequestCode::PULL_MESSAGE).one_way(),
    ];
    for reply in bench.ask(requests).await {
        assert!(reply.to.one_way && reply.to.cost_bytes > 0, "its bytes are free again: {reply:?}");
    }
    bench.stop().await;
}

#[actix::test]
async fn draining_broker_takes_no_sends_and_answers_the_rest() {
    let mut bench = Bench::start_new().await;
    bench.code(send("T", "before")).await;
    bench.tree.service.gate.stop();
    assert_eq!(bench.code(send("T", "after")).await, ResponseCode::SERVICE_NOT_AVAILABLE);
    assert_eq!(bench.bodies("T").await, ["before"]);
    bench.stop().await;
}

#[actix::test]
async fn unknown_requests_are_named_as_such() {
    let mut bench = Bench::start_new().await;
    let unknown = bench.code(request(RequestCode::from_i32(99_999))).await;
    assert_eq!(unknown, ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    bench.stop().await;
}

#[actix::test]
async fn message_that_its_consumer_retried_too_often_is_dead() {
    let mut bench = Bench::start_new().await;
    let retry = |times: i32, body: &str| send("%RETRY%g", body).field("j", times).field("l", 3);
    assert_eq!(bench.code(retry(3, "once more")).await, ResponseCode::SUCCESS);
    assert!(bench.tree.topics.get("%DLQ%g").is_none());
    assert_eq!(bench.code(retry(4, "too often")).await, ResponseCode::SUCCESS);
    assert!(bench.tree.topics.get("%DLQ%g").is_some());
    assert_eq!(bench.bodies("%RETRY%g").await, ["once more"]);
    assert_eq!(bench.bodies("%DLQ%g").await, ["too often"]);
    bench.stop().await;
}

/// A queue's entry and a client's sends for it, without a broker.
struct Door {
    entry: TopicEntry,
    link: Arc<ClientLink>,
    _replies: UnboundedReceiver<Reply>,
}

impl Door {
    fn new(change: impl FnOnce(&mut TopicQueueConfig)) -> Self {
        let mut parts = TestLog::new().queue_parts();
        change(&mut parts.config);
        let (link, client) = fake_client();
        Self { entry: topic_entry(TopicConfig::new("T", 1), &parts), link, _replies: client.replies }
    }

    /// Hands two sends over and returns the codes they are refused with at once.
    fn refused(&self, queue_id: u32) -> Vec<ResponseCode> {
        let send = |opaque| SendRequest {
            messages: vec![message("T", "x")],
            promise: Promise::Stored,
            reply: SendReply::Client {
                link: self.link.clone(),
                to: ReplyTo { opaque, ..request(RequestCode::SEND_MESSAGE).from(&self.link).reply_to() },
                queue_id: QueueId(0),
                unique_key: None,
                recall_handle: None,
            },
        };
        let mut replies = Vec::new();
        hand_over(&self.entry, QueueId(queue_id), vec![send(1), send(2)], &mut replies);
        let code = |reply: &Reply| match &reply.content {
            ReplyContent::Refused(refusal) => refusal.code(),
            other => panic!("it is refused: {other:?}"),
        };
        replies.iter().map(code).collect()
    }
}

#[actix::test]
async fn queue_that_cannot_take_sends_refuses_every_one_of_them() {
    let door = Door::new(|config| config.mailbox_capacity = 1);
    assert_eq!(door.refused(7), [ResponseCode::INVALID_PARAMETER; 2], "there is no such queue");
    let queue = door.entry.queue(QueueId(0)).unwrap();
    settle().await;
    while queue.try_send(QueryExtent).is_ok() {}
    assert_eq!(door.refused(0), [ResponseCode::SYSTEM_BUSY; 2], "full");
    settle().await;
    queue.send(DeleteQueue).await.unwrap();
    settle().await;
    assert_eq!(door.refused(0), [ResponseCode::TOPIC_NOT_EXIST; 2], "gone");
}

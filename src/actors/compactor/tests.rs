use std::path::{Path, PathBuf};

use super::*;
use crate::actors::flusher::LogFlushed;
use crate::actors::request::{ClientLink, ReplyContent};
use crate::actors::topic_queue::{
    CompactionParts, DeleteQueue, Dispatched, LocateOffset, PullMessages, QueryCompacted, QueryExtent,
    QueueParts, SearchOffsetByTime,
};
use crate::protocol::attributes::CLEANUP_POLICY;
use crate::protocol::message::StoredMessage;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::topic_config::TopicConfig;
use crate::store::compacted_log::{CompactedSizes, SegmentCheck};
use crate::store::file::StoreFiles;
use crate::store::memory_files::FileOperation;
use crate::store::message_filter::MessageFilter;
use crate::testing::log::{TestLog, message_with, queue_of, settle, topic_table_of};
use crate::testing::{FakeClient, RuntimeClock, fake_client, fake_mailbox, request};

/// A compacted topic T of one queue on a log in memory, and who compacts it.
struct Bench {
    log: TestLog,
    topics: TopicTable,
    queue: Addr<TopicQueue>,
    compactor: Addr<Compactor>,
    link: Arc<ClientLink>,
    client: FakeClient,
    next: u64,
}

impl Bench {
    fn new() -> Self {
        Self::over(TestLog::new(), 0)
    }

    fn over(log: TestLog, next: u64) -> Self {
        log.files.create_dir_all(Path::new("/store")).unwrap();
        let config = TopicConfig {
            attributes: [(CLEANUP_POLICY.to_owned(), "COMPACTION".to_owned())].into(),
            ..TopicConfig::new("T", 1)
        };
        let compaction = CompactionParts {
            root: PathBuf::from("/store"),
            // Three messages a file.
            sizes: CompactedSizes { segment_bytes: 8_192, index_bytes: 4 * 46 },
            check: SegmentCheck::Tail,
        };
        let parts = QueueParts { compaction: Some(compaction), ..log.queue_parts() };
        let topics = topic_table_of([config, TopicConfig::new("plain", 1)], &parts);
        let flush = fake_mailbox()
            .answers(|_: &FlushNow| Ok(LogFlushed { up_to: PhysicalOffset(u64::MAX) }))
            .start()
            .0;
        let compactor = Compactor::new(CompactorParts {
            topics: topics.clone(),
            positions: CompactionPositions::open(Arc::new(log.files.clone()), Path::new("/store")).unwrap(),
            flush,
            clock: RuntimeClock::shared(),
            interval: Duration::from_secs(3600),
            memory_bytes: 1 << 20,
            mailbox_capacity: 16,
        })
        .start();
        let (link, client) = fake_client();
        Self { queue: queue_of(&topics, "T", 0), log, topics, compactor, link, client, next }
    }

    /// Stores a message as the dispatcher hands it over.
    async fn store(&mut self, key: &str, body: &str) {
        let at = self.log.append(message_with("T", body, &[("KEYS", key)]), self.next);
        let units = vec![TestLog::unit(&at, 0)];
        let dispatched = Dispatched { first: QueueOffset(self.next), units, last_stored_at_ms: 1 };
        self.queue.send(dispatched).await.unwrap();
        self.next += 1;
    }

    async fn store_all(&mut self, messages: &[(&str, &str)]) {
        for (key, body) in messages {
            self.store(key, body).await;
        }
    }

    /// What a pull is answered with: code, next offset, offsets of the messages.
    async fn pull(&mut self, from: i64) -> (ResponseCode, i64, Vec<u64>) {
        let to = request(RequestCode::PULL_MESSAGE).from(&self.link).reply_to();
        let pull = PullMessages {
            link: self.link.clone(),
            to,
            from,
            max_messages: 32,
            filter: MessageFilter::All,
            hold: None,
            suggested_broker_id: 0,
            group: "g".into(),
        };
        self.queue.send(pull).await.unwrap();
        match self.client.replies.recv().await.unwrap().content {
            ReplyContent::Pulled(pulled) => {
                let records = pulled.records.concat();
                let messages = StoredMessage::decode_all(records.into());
                let offsets = messages.iter().map(|message| message.queue_offset.0).collect();
                (pulled.code, pulled.header.next_begin_offset, offsets)
            }
            other => panic!("no answer to a pull: {other:?}"),
        }
    }
}

const SEVEN: [(&str, &str); 7] =
    [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("a", "3"), ("b", "2"), ("d", "1")];

#[actix::test]
async fn queue_shows_the_latest_of_each_key_once_it_was_compacted() {
    let mut bench = Bench::new();
    bench.store_all(&SEVEN).await;
    assert_eq!(bench.pull(0).await, (ResponseCode::SUCCESS, 7, vec![0, 1, 2, 3, 4, 5, 6]));
    bench.compactor.send(CompactionDue).await.unwrap();
    // The newest file, with the last message, stays as it is.
    assert_eq!(bench.pull(0).await, (ResponseCode::SUCCESS, 7, vec![3, 4, 5, 6]));
    assert_eq!(bench.pull(4).await, (ResponseCode::SUCCESS, 7, vec![4, 5, 6]));
    assert_eq!(bench.pull(-1).await.0, ResponseCode::SUCCESS);
    assert_eq!(bench.pull(7).await, (ResponseCode::PULL_NOT_FOUND, 7, vec![]));
    assert_eq!(bench.pull(9).await, (ResponseCode::PULL_OFFSET_MOVED, 7, vec![]));
    let extent = bench.queue.send(QueryExtent).await.unwrap();
    assert_eq!((extent.min, extent.max), (QueueOffset(3), QueueOffset(7)));
    let begin = bench.queue.send(SearchOffsetByTime { timestamp_ms: 0, upper: false }).await.unwrap();
    assert_eq!(begin.unwrap(), QueueOffset(3));
    let observed =
        bench.compactor.send(ObserveCompactor { topic: "T".into(), queue_id: QueueId(0) }).await.unwrap();
    assert_eq!((observed.compacted_to, observed.is_busy), (Some(QueueOffset(5)), false));
    assert!(observed.compacted_at.is_some());
}

#[actix::test]
async fn nothing_is_rewritten_without_news_and_other_topics_never() {
    let mut bench = Bench::new();
    bench.store_all(&SEVEN).await;
    bench.compactor.send(CompactionDue).await.unwrap();
    bench.log.files.fail_always(FileOperation::Create, std::io::ErrorKind::Other);
    bench.compactor.send(CompactionDue).await.unwrap();
    assert_eq!(bench.pull(0).await.2, [3, 4, 5, 6]);
    let plain = queue_of(&bench.topics, "plain", 0);
    assert_eq!(plain.send(QueryCompacted).await.unwrap().unwrap(), None);
}

#[actix::test]
async fn rewriting_that_the_disk_refuses_is_done_later() {
    let mut bench = Bench::new();
    bench.store_all(&SEVEN).await;
    for after in 0..8 {
        bench.log.files.fail_after(FileOperation::Sync, after, std::io::ErrorKind::Other);
        bench.compactor.send(CompactionDue).await.unwrap();
        bench.log.files.fail_nothing();
        let shown = bench.pull(0).await.2;
        assert!(shown == [0, 1, 2, 3, 4, 5, 6] || shown == [3, 4, 5, 6], "{after}: {shown:?}");
    }
    bench.compactor.send(CompactionDue).await.unwrap();
    assert_eq!(bench.pull(0).await.2, [3, 4, 5, 6]);
}

#[actix::test]
async fn nothing_is_compacted_while_the_log_cannot_be_brought_to_disk() {
    let mut bench = Bench::new();
    bench.store_all(&SEVEN).await;
    let compactor = Compactor::new(CompactorParts {
        topics: bench.topics.clone(),
        positions: CompactionPositions::open(Arc::new(bench.log.files.clone()), Path::new("/store")).unwrap(),
        flush: fake_mailbox().answers(|_: &FlushNow| Err("the disk is gone".to_owned())).start().0,
        clock: RuntimeClock::shared(),
        interval: Duration::from_secs(3600),
        memory_bytes: 1 << 20,
        mailbox_capacity: 16,
    })
    .start();
    compactor.send(CompactionDue).await.unwrap();
    assert_eq!(bench.pull(0).await.2.len(), 7);
}

#[actix::test]
async fn log_is_kept_until_its_messages_are_copied_and_on_disk() {
    let mut bench = Bench::new();
    bench.store_all(&SEVEN).await;
    let third = bench.queue.send(LocateOffset { offset: QueueOffset(2) }).await.unwrap().unwrap();
    bench.log.files.fail_always(FileOperation::Write, std::io::ErrorKind::StorageFull);
    bench.log.files.fail_always(FileOperation::Create, std::io::ErrorKind::StorageFull);
    let secured = bench.compactor.send(SecureCopies).await.unwrap();
    assert_eq!(secured.oldest_unsecured, Some(PhysicalOffset(0)), "nothing of it may go");
    assert_eq!(bench.pull(2).await.2, [2, 3, 4, 5, 6], "it is read from the log meanwhile");
    bench.log.files.fail_nothing();
    bench.log.files.fail_next(FileOperation::Sync, std::io::ErrorKind::Other);
    let secured = bench.compactor.send(SecureCopies).await.unwrap();
    assert_eq!(secured.oldest_unsecured, Some(PhysicalOffset(0)));
    assert_eq!(bench.compactor.send(SecureCopies).await.unwrap().oldest_unsecured, None);
    let located = bench.queue.send(LocateOffset { offset: QueueOffset(2) }).await.unwrap().unwrap();
    assert!(third.is_some() && located.is_none(), "nobody needs the log for what is copied");
}

#[actix::test]
async fn copies_are_read_by_the_next_start_and_what_is_missing_is_copied_again() {
    let mut bench = Bench::new();
    bench.store_all(&SEVEN).await;
    bench.compactor.send(SecureCopies).await.unwrap();
    bench.compactor.send(CompactionDue).await.unwrap();
    bench.store("a", "4").await;
    let Bench { log, next, .. } = bench;
    log.files.remove_dir_all(Path::new("/consumequeue")).unwrap();
    let mut bench = Bench::over(log, next);
    assert_eq!(bench.pull(0).await.2, [3, 4, 5, 6, 7]);
    bench.store("a", "5").await;
    assert_eq!(bench.pull(0).await.2, [3, 4, 5, 6, 7, 8], "numbers go on behind what is there");

    let Bench { log, next, .. } = bench;
    log.files.remove_dir_all(Path::new("/store/compaction")).unwrap();
    let mut bench = Bench::over(log, next);
    assert_eq!(bench.pull(0).await.2, [8], "as far as the queue reaches");
    settle().await;
    let figures = bench.queue.send(QueryCompacted).await.unwrap().unwrap().unwrap();
    assert_eq!((figures.copied_to, figures.segments), (QueueOffset(0), 0));
    bench.compactor.send(SecureCopies).await.unwrap();
    let figures = bench.queue.send(QueryCompacted).await.unwrap().unwrap().unwrap();
    assert_eq!((figures.copied_to, figures.records), (QueueOffset(9), 1));
}

#[actix::test]
async fn topic_that_is_deleted_takes_its_copies_along_and_begins_anew() {
    let mut bench = Bench::new();
    bench.store_all(&SEVEN).await;
    bench.compactor.send(CompactionDue).await.unwrap();
    bench.queue.send(DeleteQueue).await.unwrap();
    settle().await;
    let Bench { log, .. } = bench;
    let left = log.files.list(Path::new("/store/compaction/compactionLog/T")).unwrap();
    assert!(left.is_empty(), "{left:?}");
    // One of its name, with more messages than the position that is remembered of the first.
    let mut bench = Bench::over(log, 0);
    bench.store_all(&SEVEN).await;
    bench.store_all(&SEVEN).await;
    bench.compactor.send(CompactionDue).await.unwrap();
    assert_eq!(bench.pull(0).await.2, [6, 8, 10, 11, 12, 13]);
}

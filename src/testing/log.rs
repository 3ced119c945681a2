//! A store in memory for tests of actors: a commit log with small segments, what is written to it, and the
//! topics whose queues stand on it.
//!
//! ```
//! use telstar::actors::topic_queue::QueryExtent;
//! use telstar::testing::log::{TestLog, message, queue_of, topic_table};
//!
//! # #[actix::main]
//! # async fn main() {
//! let mut log = TestLog::new();
//! let stored = log.append(message("orders", "pay 7"), 0);
//! assert_eq!(log.reader.published(), stored.end);
//! // A real queue over it, which knows nothing of the message before it is dispatched.
//! let topics = topic_table(&[("orders", 1)], &log.queue_parts());
//! let extent = queue_of(&topics, "orders", 0).send(QueryExtent).await.unwrap();
//! assert_eq!(extent.min, extent.max);
//! # }
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;

pub use super::settle;
use super::{CLOCK_BEGINS, fake_sink};
use crate::actors::broker_stats::{CountTraffic, StoreCounters};
use crate::actors::commit_log_writer::{AppendBatch, BatchAppended, StoredSend};
use crate::actors::extensions::stream::EventTap;
use crate::actors::message_expiry::MessageExpiry;
use crate::actors::topic_queue::{QueueParts, ReadUnits, TopicQueue, TopicQueueConfig};
use crate::actors::topic_table::{TopicEntry, TopicMap, TopicTable};
use crate::clock::WallMs;
use crate::error::Refusal;
use crate::protocol::data_version::DataVersion;
use crate::protocol::message::PendingMessage;
use crate::protocol::properties;
use crate::protocol::topic_config::TopicConfig;
use crate::store::commit_log::{
    Appended, CommitLog, CommitLogAppender, CommitLogReader, LogTail, SegmentPreparer,
};
use crate::store::consume_queue::{ConsumeQueueConfig, ConsumeQueueUnit};
use crate::store::memory_files::MemoryFiles;
use crate::store::segment::SegmentDir;
use crate::types::{PhysicalOffset, QueueId, QueueOffset};

/// Length of a segment of the log.
pub const SEGMENT_BYTES: u64 = 16 * 1024;

/// Where the broker of the tests is reached.
pub fn store_host() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 10_911))
}

/// A message for queue 0 of `topic`.
pub fn message(topic: &str, body: &str) -> PendingMessage {
    PendingMessage {
        topic: topic.into(),
        queue_id: QueueId(0),
        flag: 0,
        sys_flag: 0,
        born_at_ms: 1,
        born_host: SocketAddr::from(([10, 0, 0, 9], 50_000)),
        store_host: store_host(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: Bytes::copy_from_slice(body.as_bytes()),
        properties: Bytes::new(),
        extra_properties: Bytes::new(),
    }
}

/// A message with properties.
pub fn message_with(topic: &str, body: &str, pairs: &[(&str, &str)]) -> PendingMessage {
    PendingMessage { properties: properties::encode(pairs.iter().copied()), ..message(topic, body) }
}

/// An empty log in memory, in its parts.
pub struct TestLog {
    /// The disk it is on.
    pub files: MemoryFiles,
    /// Its write half.
    pub appender: CommitLogAppender,
    /// Its read half.
    pub reader: CommitLogReader,
    /// Who makes its next segments.
    pub preparer: SegmentPreparer,
}

impl Default for TestLog {
    fn default() -> Self {
        Self::new()
    }
}

impl TestLog {
    /// An empty log, with segments of [`SEGMENT_BYTES`].
    pub fn new() -> Self {
        let files = MemoryFiles::new();
        let dir = SegmentDir {
            files: Arc::new(files.clone()),
            dir: PathBuf::from("/commitlog"),
            segment_bytes: SEGMENT_BYTES,
        };
        let segments = dir.load().expect("memory is readable");
        let log = CommitLog::start(dir, segments, LogTail::default()).expect("memory takes a segment");
        Self { files, appender: log.appender, reader: log.reader, preparer: log.preparer }
    }

    /// Stores a message at [`CLOCK_BEGINS`], published.
    pub fn append(&mut self, message: PendingMessage, queue_offset: u64) -> Appended {
        self.append_at(message, queue_offset, CLOCK_BEGINS)
    }

    /// Stores a message at a time, published.
    pub fn append_at(&mut self, message: PendingMessage, queue_offset: u64, at: WallMs) -> Appended {
        let appended = self.appender.append(&[message], QueueOffset(queue_offset), at);
        self.appender.publish().expect("memory takes bytes");
        appended.expect("there is room")
    }

    /// The unit of a message stored as `appended`.
    pub fn unit(appended: &Appended, tags_code: i64) -> ConsumeQueueUnit {
        let size_bytes = (appended.end.0 - appended.start.0) as u32;
        ConsumeQueueUnit { physical_offset: appended.start, size_bytes, tags_code }
    }

    /// What queues are made of. Nobody takes appends or counters.
    pub fn queue_parts(&self) -> QueueParts {
        let units = ConsumeQueueConfig { segment_units: 8, max_unwritten_units: 0 };
        QueueParts {
            files: Arc::new(self.files.clone()),
            consume_queue_root: PathBuf::from("/consumequeue"),
            log: self.reader.clone(),
            writer: fake_sink::<AppendBatch>().0,
            store_host: store_host(),
            config: TopicQueueConfig { units, ..TopicQueueConfig::default() },
            counters: Arc::new(StoreCounters::default()),
            stats: fake_sink::<CountTraffic>().0,
            expiry: MessageExpiry::default(),
            losses: None,
            events: EventTap::default(),
            compaction: None,
            pace: Arc::default(),
        }
    }
}

/// Topics with as many queues as they are given, over `parts`.
pub fn topic_table(topics: &[(&str, u32)], parts: &QueueParts) -> TopicTable {
    let configs = topics.iter().map(|(name, queues)| TopicConfig::new(*name, *queues));
    topic_table_of(configs, parts)
}

/// Topics of these settings, over `parts`.
pub fn topic_table_of(configs: impl IntoIterator<Item = TopicConfig>, parts: &QueueParts) -> TopicTable {
    let topics = configs
        .into_iter()
        .map(|config| (config.topic_name.clone(), Arc::new(topic_entry(config, parts))))
        .collect();
    TopicTable::new(TopicMap { data_version: DataVersion::default(), topics }).1
}

/// A topic whose queues stand on `parts`.
pub fn topic_entry(config: TopicConfig, parts: &QueueParts) -> TopicEntry {
    let parts = Arc::new(parts.clone());
    TopicEntry::new(
        config,
        None,
        Arc::new(move |topic, id| {
            TopicQueue::new(topic.name().clone(), id, topic.is_compacted(), parts.clone()).start()
        }),
    )
}

/// The actor of a queue.
pub fn queue_of(topics: &TopicTable, topic: &str, queue_id: u32) -> Addr<TopicQueue> {
    let entry = topics.get(topic).expect("the topic exists");
    entry.queue(QueueId(queue_id)).expect("the queue exists").clone()
}

/// Answers a queue as the writer does.
pub fn answer(batch: AppendBatch, outcome: Result<(), Refusal>) {
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

/// Positions of the units of a queue, in order.
pub async fn positions(queue: &Addr<TopicQueue>) -> Vec<PhysicalOffset> {
    let units = queue.send(ReadUnits { offset: QueueOffset(0), max: 1000 }).await;
    units.expect("the queue lives").iter().map(|unit| unit.physical_offset).collect()
}

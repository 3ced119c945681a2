//! The topics of this broker as everybody reads them: an immutable snapshot, published by the `Topics` actor
//! alone. A lookup costs a hash and no lock.

use std::fmt;
use std::sync::{Arc, OnceLock};

use actix::Addr;
use arc_swap::{ArcSwap, Guard};

use super::dedup_window::DedupWindow;
use super::topic_queue::TopicQueue;
use crate::collections::HashMap;
use crate::protocol::attributes::{
    BODY_FILTER, DEDUP_WINDOW_MS, FLUSH_DISK_TYPE, RETENTION_MS, is_compacted,
};
use crate::protocol::data_version::DataVersion;
use crate::protocol::topic_config::TopicConfig;
use crate::types::{FlushMode, QueueId, TopicName};

/// Starts the actor of one message queue; made by the root, which knows what a queue needs.
pub type QueueStarter = Arc<dyn Fn(&TopicEntry, QueueId) -> Addr<TopicQueue> + Send + Sync>;

/// One topic: its settings, and the actors of its queues, each started when first asked for.
pub struct TopicEntry {
    pub config: TopicConfig,
    /// What the topic asks for; the broker may be stricter.
    pub flush: FlushMode,
    /// Whether conditions may look into its bodies.
    pub body_filter: bool,
    retention_ms: Option<i64>,
    is_compacted: bool,
    queues: Vec<Arc<OnceLock<Addr<TopicQueue>>>>,
    dedup_window_ms: Option<i64>,
    /// Started with the first send that has to be looked for in it.
    pub dedup_window: Arc<OnceLock<Addr<DedupWindow>>>,
    starter: QueueStarter,
}

impl TopicEntry {
    /// An entry for `config`. Queues that `previous` has started are kept, also those beyond the new queue
    /// count: they are there again when the count grows.
    pub fn new(config: TopicConfig, previous: Option<&TopicEntry>, starter: QueueStarter) -> Self {
        let mut queues = previous.map(|entry| entry.queues.clone()).unwrap_or_default();
        let wanted = config.read_queue_nums.max(config.write_queue_nums) as usize;
        queues.resize_with(queues.len().max(wanted), Default::default);
        let flush = match config.attributes.get(FLUSH_DISK_TYPE).map(String::as_str) {
            Some("SYNC_FLUSH") => FlushMode::Sync,
            _ => FlushMode::Async,
        };
        let retention_ms = config.attributes.get(RETENTION_MS).and_then(|text| text.parse().ok());
        let body_filter = config.attributes.get(BODY_FILTER).is_some_and(|kind| kind == "JSON");
        let dedup_window_ms = config.attributes.get(DEDUP_WINDOW_MS).and_then(|text| text.parse().ok());
        let dedup_window = previous.map(|entry| entry.dedup_window.clone()).unwrap_or_default();
        let is_compacted = is_compacted(&config.attributes);
        Self {
            config,
            flush,
            body_filter,
            retention_ms,
            is_compacted,
            queues,
            dedup_window_ms,
            dedup_window,
            starter,
        }
    }

    pub fn name(&self) -> &TopicName {
        &self.config.topic_name
    }

    /// How long its messages are shown, if that is not left to the log.
    pub fn retention_ms(&self) -> Option<i64> {
        self.retention_ms
    }

    /// For how long a message that is sent again is stored only once; `None`: not at all.
    pub fn dedup_window_ms(&self) -> Option<i64> {
        self.dedup_window_ms
    }

    /// Whether of each key only the latest message is kept.
    pub fn is_compacted(&self) -> bool {
        self.is_compacted
    }

    /// The actor of a queue, if it was started.
    pub fn started_queue(&self, id: QueueId) -> Option<&Addr<TopicQueue>> {
        self.queues.get(id.0 as usize)?.get()
    }

    /// The actor of a queue, started now if it was not; `None` for an id that the topic never had.
    pub fn queue(&self, id: QueueId) -> Option<&Addr<TopicQueue>> {
        let cell = self.queues.get(id.0 as usize)?;
        Some(cell.get_or_init(|| (self.starter)(self, id)))
    }

    /// The queues that were started so far.
    pub fn started_queues(&self) -> impl Iterator<Item = (QueueId, &Addr<TopicQueue>)> {
        let queues = self.queues.iter().enumerate();
        queues.filter_map(|(id, cell)| Some((QueueId(id as u32), cell.get()?)))
    }

    /// `max(read, write)`: the queues that clients may name.
    pub fn queue_nums(&self) -> u32 {
        self.config.read_queue_nums.max(self.config.write_queue_nums)
    }
}

impl fmt::Debug for TopicEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicEntry").field("config", &self.config).finish_non_exhaustive()
    }
}

/// All topics at one moment.
#[derive(Clone, Default, Debug)]
pub struct TopicMap {
    /// Rises with every change; name servers compare it.
    pub data_version: DataVersion,
    pub topics: HashMap<TopicName, Arc<TopicEntry>>,
}

/// The read half of the topics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TopicTable(Arc<ArcSwap<TopicMap>>);

/// The write half; one exists, and the `Topics` actor has it.
#[derive(Debug)]
pub struct TopicTablePublisher(Arc<ArcSwap<TopicMap>>);

impl TopicTable {
    pub fn new(map: TopicMap) -> (TopicTablePublisher, TopicTable) {
        let shared = Arc::new(ArcSwap::from_pointee(map));
        (TopicTablePublisher(shared.clone()), TopicTable(shared))
    }

    /// The snapshot of now.
    pub fn load(&self) -> Guard<Arc<TopicMap>> {
        self.0.load()
    }

    /// The snapshot of now, to be kept across waits.
    pub fn load_full(&self) -> Arc<TopicMap> {
        self.0.load_full()
    }

    pub fn get(&self, topic: &str) -> Option<Arc<TopicEntry>> {
        self.0.load().topics.get(topic).cloned()
    }
}

impl TopicTablePublisher {
    pub fn publish(&self, map: TopicMap) {
        self.0.store(Arc::new(map));
    }

    pub fn load(&self) -> Guard<Arc<TopicMap>> {
        self.0.load()
    }
}

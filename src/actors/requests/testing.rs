//! What the tests of request handlers stand on: real owners over a store in memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use actix::Addr;
use serde::de::DeserializeOwned;

use super::progress::ProgressSources;
use crate::actors::broker_settings::{SettingValues, SettingsTable};
use crate::actors::broker_stats::{BrokerStats, BrokerStatsConfig, CountTraffic, StoreCounters};
use crate::actors::commit_log_writer::AppendBatch;
use crate::actors::consumer_group::{ConsumerHeartbeat, ObserveGroup};
use crate::actors::consumer_groups::{
    ConsumerDirectory, ConsumerGroupTable, ConsumerGroups, ConsumerGroupsConfig,
};
use crate::actors::consumer_offsets::{
    CommitOffset, ConsumerOffsets, OffsetsConfig, PendingResets, QueryOffset,
};
use crate::actors::extensions::stream::EventTap;
use crate::actors::membership::Member;
use crate::actors::message_expiry::MessageExpiry;
use crate::actors::offset_table::OffsetKey;
use crate::actors::request::{Answered, ClientLink};
use crate::actors::subscription_groups::{GroupSettings, SubscriptionGroups, SubscriptionGroupsConfig};
use crate::actors::topic_queue::{Dispatched, QueueParts, TopicQueue, TopicQueueConfig};
use crate::actors::topic_table::{QueueStarter, TopicEntry, TopicMap, TopicTable};
use crate::error::Refusal;
use crate::protocol::body::heartbeat::ConsumerData;
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::command::Language;
use crate::protocol::data_version::DataVersion;
use crate::protocol::fastjson;
use crate::protocol::topic_config::TopicConfig;
use crate::store::commit_log::{CommitLog, LogTail};
use crate::store::consume_queue::{ConsumeQueueConfig, ConsumeQueueUnit};
use crate::store::memory_files::MemoryFiles;
use crate::store::metadata::Metadata;
use crate::store::segment::SegmentDir;
use crate::testing::{RuntimeClock, fake_sink};
use crate::types::{BrokerName, PhysicalOffset, QueueId, QueueOffset};

/// A broker's owners, without its ports.
pub struct TestStore {
    pub topics: TopicTable,
    pub offsets: Addr<ConsumerOffsets>,
    pub resets: PendingResets,
    pub groups: GroupSettings,
    pub groups_actor: Addr<SubscriptionGroups>,
    pub consumers: ConsumerGroupTable,
    pub directory: ConsumerDirectory,
    pub settings: SettingsTable,
    pub stats: Addr<BrokerStats>,
    broker_name: BrokerName,
}

impl TestStore {
    /// Topics with as many queues as they are given.
    pub async fn start(topics: &[(&str, u32)]) -> Self {
        let clock = RuntimeClock::shared();
        let metadata = Metadata::temporary().unwrap();
        let starter = queue_starter();
        let entry = |(name, queues): &(&str, u32)| {
            let config = TopicConfig::new(*name, *queues);
            ((*name).into(), Arc::new(TopicEntry::new(config, None, starter.clone())))
        };
        let map =
            TopicMap { data_version: DataVersion::default(), topics: topics.iter().map(entry).collect() };
        let settings = SettingsTable::fixed(SettingValues { sql_filter: true, ..SettingValues::default() });
        let config = SubscriptionGroupsConfig::default();
        let loaded = SubscriptionGroups::load(metadata.clone(), settings.clone(), config, clock.clone());
        let (groups, group_table) = loaded.unwrap();
        let groups_actor = groups.start();
        let loaded = ConsumerOffsets::load(metadata, OffsetsConfig::default(), clock.clone()).unwrap();
        let (directory, consumers) = ConsumerGroups::new(ConsumerGroupsConfig::default());
        let stats_config = BrokerStatsConfig { mailbox_capacity: 64, utc_offset_ms: 0 };
        Self {
            topics: TopicTable::new(map).1,
            resets: loaded.pending_resets(),
            offsets: loaded.start(),
            groups: GroupSettings::new(group_table, groups_actor.clone().recipient()),
            groups_actor,
            directory: ConsumerDirectory::new(consumers.clone(), directory.start().recipient()),
            consumers,
            settings,
            stats: BrokerStats::new(stats_config, clock, Arc::default()).start(),
            broker_name: "broker-a".into(),
        }
    }

    pub fn progress(&self) -> ProgressSources<'_> {
        ProgressSources {
            offsets: &self.offsets,
            topics: &self.topics,
            groups: self.groups.table(),
            consumers: &self.consumers,
            stats: &self.stats,
            settings: &self.settings,
            broker_name: &self.broker_name,
        }
    }

    pub async fn commit(&self, group: &str, topic: &str, queue_id: u32, offset: u64) {
        let key = key(group, topic, queue_id);
        let commit = CommitOffset { key, offset: QueueOffset(offset), awaited: true };
        self.offsets.send(commit).await.unwrap().unwrap();
    }

    pub async fn offset(&self, group: &str, topic: &str, queue_id: u32) -> Option<u64> {
        let query = QueryOffset { key: key(group, topic, queue_id) };
        self.offsets.send(query).await.unwrap().map(|offset| offset.0)
    }

    /// Makes an empty queue hold `count` units; their records are not in the log.
    pub async fn dispatch(&self, topic: &str, queue_id: u32, count: u64) {
        let unit =
            |n| ConsumeQueueUnit { physical_offset: PhysicalOffset(n * 100), size_bytes: 100, tags_code: 0 };
        let entry = self.topics.get(topic).unwrap();
        let units = (0..count).map(unit).collect();
        let dispatched = Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 1 };
        entry.queue(QueueId(queue_id)).unwrap().send(dispatched).await.unwrap();
    }

    /// Has the client subscribe to everything in `topics`.
    pub async fn subscribe(&self, group: &str, link: &Arc<ClientLink>, topics: &[&str]) {
        self.subscribe_as(group, link, Language::JAVA, topics).await;
    }

    pub async fn subscribe_as(
        &self,
        group: &str,
        link: &Arc<ClientLink>,
        language: Language,
        topics: &[&str],
    ) {
        let subscription = |topic: &&str| SubscriptionData::parse(*topic, "*").unwrap();
        let heartbeat = ConsumerHeartbeat {
            link: link.clone(),
            member: Member { client_id: "c".into(), language, version: 479 },
            consumer: ConsumerData {
                group_name: group.into(),
                subscription_data_set: topics.iter().map(subscription).collect(),
                ..ConsumerData::default()
            },
            fingerprint: 0,
            without_subscriptions: false,
            notify: true,
        };
        self.directory.open(&group.into()).await.unwrap().address.send(heartbeat).await.unwrap();
        self.settle(group).await;
    }

    /// Lets the group do what is due.
    pub async fn settle(&self, group: &str) {
        let handle = self.consumers.get(group).unwrap();
        for _ in 0..4 {
            handle.address.send(ObserveGroup).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

fn key(group: &str, topic: &str, queue_id: u32) -> OffsetKey {
    OffsetKey { group: group.into(), topic: topic.into(), queue_id: QueueId(queue_id) }
}

/// Starts queues over an empty log in memory.
fn queue_starter() -> QueueStarter {
    let parts = Arc::new(queue_parts());
    Arc::new(move |topic, id| {
        TopicQueue::new(topic.name().clone(), id, topic.is_compacted(), parts.clone()).start()
    })
}

/// What queues over an empty log in memory are made of. Nobody takes appends or counters.
pub fn queue_parts() -> QueueParts {
    let files = Arc::new(MemoryFiles::new());
    let dir = SegmentDir { files: files.clone(), dir: PathBuf::from("/commitlog"), segment_bytes: 1 << 16 };
    let segments = dir.load().unwrap();
    let log = CommitLog::start(dir, segments, LogTail::default()).unwrap().reader;
    let config = TopicQueueConfig {
        units: ConsumeQueueConfig { segment_units: 100, max_unwritten_units: 3 },
        ..TopicQueueConfig::default()
    };
    QueueParts {
        files,
        consume_queue_root: PathBuf::from("/consumequeue"),
        log,
        writer: fake_sink::<AppendBatch>().0,
        store_host: SocketAddr::from(([10, 0, 0, 1], 10_911)),
        config,
        counters: Arc::new(StoreCounters::default()),
        stats: fake_sink::<CountTraffic>().0,
        expiry: MessageExpiry::default(),
        losses: None,
        events: EventTap::default(),
        compaction: None,
        pace: Arc::default(),
    }
}

/// The refusal that a test expects.
pub fn refusal(answered: Answered) -> Refusal {
    answered.expect_err("the request is refused")
}

/// One field of an answer.
pub fn field(answered: Answered, name: &str) -> String {
    let answer = answered.unwrap().expect("the request is answered");
    let found = answer.fields.into_iter().find(|(field, _)| *field == name);
    found.expect("the answer has the field").1
}

/// The body of an answer.
pub fn body<T: DeserializeOwned>(answered: Answered) -> T {
    let answer = answered.unwrap().expect("the request is answered");
    fastjson::from_slice(&answer.body).unwrap()
}

//! The topics between two lives of their actor: read from the disk before it starts.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::info;

use super::{Topics, TopicsConfig, TopicsPeers, default_topic, system_topics};
use crate::actors::topic_table::{QueueStarter, TopicEntry, TopicMap, TopicTable, TopicTablePublisher};
use crate::clock::SharedClock;
use crate::collections::HashMap;
use crate::protocol::names::DEFAULT_TOPIC;
use crate::protocol::topic_config::TopicConfig;
use crate::store::metadata::{self, Metadata, MetadataError};

/// The topics as they were stored, with the system topics, before their actor runs.
pub struct LoadedTopics {
    pub table: TopicTable,
    publisher: TopicTablePublisher,
    stored: metadata::TopicTable,
}

impl LoadedTopics {
    /// Reads every topic. The data version rises once per start, so that name servers look again.
    pub fn load(
        metadata: &Metadata,
        config: &TopicsConfig,
        starter: &QueueStarter,
        clock: &SharedClock,
    ) -> Result<Self, MetadataError> {
        let stored = metadata.topics()?;
        let mut configs = system_topics(config);
        // A stored topic wins, also over a system topic: it came from the files of a Java broker. What sends
        // inherit is a setting, though, and the settings decide.
        configs.extend(stored.all()?.into_iter().filter(|topic| &*topic.topic_name != DEFAULT_TOPIC));
        configs.extend(config.auto_create.then(|| default_topic(config.default_queue_nums)));
        let entry = |config: TopicConfig| {
            (config.topic_name.clone(), Arc::new(TopicEntry::new(config, None, starter.clone())))
        };
        let topics: HashMap<_, _> = configs.into_iter().map(entry).collect();
        let version = stored.version()?;
        let data_version = version.next(version.state_version, clock.now());
        stored.put_version(data_version)?;
        info!(topics = topics.len(), "topics loaded");
        let (publisher, table) = TopicTable::new(TopicMap { data_version, topics });
        Ok(Self { table, publisher, stored })
    }

    pub fn into_actor(
        self,
        metadata: Metadata,
        config: TopicsConfig,
        peers: TopicsPeers,
        clock: SharedClock,
    ) -> Topics {
        Topics {
            metadata,
            table: self.stored,
            publisher: self.publisher,
            rules: Arc::new(config.rules.clone()),
            config,
            peers,
            clock,
            waiting: VecDeque::new(),
            committing: false,
        }
    }
}

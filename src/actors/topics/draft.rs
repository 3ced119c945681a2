//! What a batch of changes makes of the topics. Pure: nothing is stored, started or published here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::AutoCreateTopic;
use super::unknown::unknown_topic;
use crate::actors::not_there;
use crate::actors::topic_table::{QueueStarter, TopicEntry, TopicMap};
use crate::clock::WallMs;
use crate::error::Refusal;
use crate::protocol::attributes::{MESSAGE_TYPE, RETENTION_MS, is_compacted};
use crate::protocol::names::{self, OwnNames};
use crate::protocol::topic_config::{self, AutoCreation, Permission, TopicConfig};
use crate::types::{BrokerName, TopicName};

/// Most queues of one topic. Each costs memory before it holds anything, so a slip of the hand is refused.
pub const MAX_QUEUE_NUMS: u32 = 65_536;

/// What may be created, and by which names this broker goes.
#[derive(Clone, Debug)]
pub struct TopicRules {
    pub cluster: String,
    pub broker: BrokerName,
    /// Whether a topic may take messages of every type.
    pub mixed_message_type: bool,
}

impl TopicRules {
    pub fn own_names(&self) -> OwnNames<'_> {
        OwnNames { cluster: &self.cluster, broker: &self.broker }
    }
}

/// The topics of a snapshot with changes on top, which are all stored or none.
pub struct Draft {
    base: Arc<TopicMap>,
    rules: Arc<TopicRules>,
    starter: QueueStarter,
    /// `None`: deleted.
    changes: BTreeMap<TopicName, Option<Arc<TopicEntry>>>,
    removed: Vec<Arc<TopicEntry>>,
    version_raised: bool,
}

impl Draft {
    pub fn new(base: Arc<TopicMap>, rules: Arc<TopicRules>, starter: QueueStarter) -> Self {
        Self { base, rules, starter, changes: BTreeMap::new(), removed: Vec::new(), version_raised: false }
    }

    pub fn get(&self, topic: &str) -> Option<&Arc<TopicEntry>> {
        match self.changes.get(topic) {
            Some(changed) => changed.as_ref(),
            None => self.base.topics.get(topic),
        }
    }

    pub fn is_unchanged(&self) -> bool {
        self.changes.is_empty() && !self.version_raised
    }

    /// Makes a new version though no topic changes.
    pub fn raise_version(&mut self) {
        self.version_raised = true;
    }

    /// The settings that are new or altered.
    pub fn altered(&self) -> impl Iterator<Item = &TopicConfig> {
        self.changes.values().flatten().map(|entry| &entry.config)
    }

    pub fn deleted(&self) -> impl Iterator<Item = &TopicName> {
        self.changes.iter().filter(|(_, entry)| entry.is_none()).map(|(topic, _)| topic)
    }

    /// The entries of deleted topics; their queues are still there.
    pub fn take_removed(&mut self) -> Vec<Arc<TopicEntry>> {
        std::mem::take(&mut self.removed)
    }

    /// The snapshot after the changes.
    pub fn into_map(self, now: WallMs) -> TopicMap {
        let mut topics = self.base.topics.clone();
        for (topic, entry) in self.changes {
            match entry {
                Some(entry) => topics.insert(topic, entry),
                None => topics.remove(&topic),
            };
        }
        let version = self.base.data_version;
        TopicMap { data_version: version.next(version.state_version, now), topics }
    }

    /// Creates a topic or replaces its settings. The attributes of `asked` carry signs.
    pub fn create(&mut self, asked: TopicConfig) -> Result<Arc<TopicEntry>, Refusal> {
        let current = self.get(&asked.topic_name).map(|entry| &entry.config);
        let config = self.altered_config(current, asked)?;
        Ok(self.put(config))
    }

    /// As [`Draft::create`] for each; a refusal of one leaves all as they were. Returns how many.
    pub fn create_all(&mut self, asked: Vec<TopicConfig>) -> Result<usize, Refusal> {
        let mut configs: BTreeMap<TopicName, TopicConfig> = BTreeMap::new();
        let count = asked.len();
        for asked in asked {
            let earlier = configs.get(&asked.topic_name);
            let current = earlier.or_else(|| self.get(&asked.topic_name).map(|entry| &entry.config));
            let config = self.altered_config(current, asked)?;
            configs.insert(config.topic_name.clone(), config);
        }
        for config in configs.into_values() {
            self.put(config);
        }
        Ok(count)
    }

    /// The topic that a producer sends to, made after the example of the default topic if it is not there.
    /// RocketMQ: `AbstractSendMessageProcessor.msgCheck`.
    pub fn auto_create(&mut self, asked: AutoCreateTopic) -> Result<Arc<TopicEntry>, Refusal> {
        if let Some(entry) = self.get(&asked.topic) {
            return Ok(entry.clone());
        }
        names::check_topic(&asked.topic)?;
        not_there::check_topic_name(&asked.topic)?;
        let creation = AutoCreation {
            topic: asked.topic.clone(),
            client_queue_nums: asked.client_queue_nums,
            topic_sys_flag: asked.topic_sys_flag,
        };
        let example = self.get(&asked.default_topic);
        let created = example.and_then(|example| topic_config::auto_created(creation, &example.config));
        match created {
            Some(config) => Ok(self.put(config)),
            None if names::is_retry_topic(&asked.topic) => {
                let retry = TopicConfig::new(asked.topic, 1);
                Ok(self.put(TopicConfig { topic_sys_flag: asked.topic_sys_flag, ..retry }))
            }
            None => Err(unknown_topic(&asked.topic, &self.base)),
        }
    }

    /// The topic of that name, created as asked if it is not there. For topics of the broker's own making,
    /// whose names only it may choose.
    pub fn ensure(&mut self, config: TopicConfig) -> Arc<TopicEntry> {
        match self.get(&config.topic_name) {
            Some(entry) => entry.clone(),
            None => self.put(config),
        }
    }

    pub fn set_permission(
        &mut self,
        topic: &TopicName,
        perm: Permission,
    ) -> Result<Arc<TopicEntry>, Refusal> {
        names::check_not_system_topic(topic, self.rules.own_names())?;
        check_permission(perm)?;
        let entry = self.get(topic).ok_or_else(|| unknown_topic(topic, &self.base))?;
        let config = TopicConfig { perm, ..entry.config.clone() };
        Ok(self.put(config))
    }

    /// Sets what automatically created topics inherit; `None` ends their creation. The default topic stays
    /// then, since it may hold messages, and lets nobody inherit.
    pub fn set_default_topic(&mut self, config: Option<TopicConfig>) {
        let current = self.get(names::DEFAULT_TOPIC).map(|entry| entry.config.clone());
        let closed = current.map(|config| config.with_perm(Permission::READ_WRITE));
        if let Some(config) = config.or(closed) {
            self.put(config);
        }
    }

    /// Deletes a topic, and with it the retry topics of its popped messages. Returns whether it was there.
    pub fn delete(&mut self, topic: &TopicName) -> Result<bool, Refusal> {
        if topic.trim().is_empty() {
            names::check_topic(topic)?;
        }
        names::check_not_system_topic(topic, self.rules.own_names())?;
        let suffix = format!("+{topic}");
        let derived = |name: &&TopicName| names::is_retry_topic(name) && name.ends_with(&suffix);
        let derived: Vec<TopicName> = self.base.topics.keys().filter(derived).cloned().collect();
        for retry_topic in &derived {
            self.remove(retry_topic);
        }
        Ok(self.remove(topic))
    }

    fn altered_config(
        &self,
        current: Option<&TopicConfig>,
        asked: TopicConfig,
    ) -> Result<TopicConfig, Refusal> {
        names::check_topic(&asked.topic_name)?;
        names::check_not_system_topic(&asked.topic_name, self.rules.own_names())?;
        not_there::check_topic(&asked)?;
        check_permission(asked.perm)?;
        check_queue_nums("readQueueNums", asked.read_queue_nums)?;
        check_queue_nums("writeQueueNums", asked.write_queue_nums)?;
        let mixed = asked
            .attributes
            .iter()
            .any(|(key, value)| key.strip_prefix('+') == Some(MESSAGE_TYPE) && value == "MIXED");
        if mixed && !self.rules.mixed_message_type {
            return Err(Refusal::MixedMessageType { topic: asked.topic_name });
        }
        let config =
            TopicConfig::altered(current, asked).map_err(|error| Refusal::Attribute(error.to_string()))?;
        match is_compacted(&config.attributes) && config.attributes.contains_key(RETENTION_MS) {
            true => Err(Refusal::KeptByKeyAndAge { topic: config.topic_name }),
            false => Ok(config),
        }
    }

    /// Settings that are there already change nothing, so nobody is told of them.
    fn put(&mut self, config: TopicConfig) -> Arc<TopicEntry> {
        let current = self.get(&config.topic_name);
        if let Some(same) = current.filter(|entry| entry.config == config) {
            return same.clone();
        }
        let topic = config.topic_name.clone();
        let entry = Arc::new(TopicEntry::new(config, current.map(Arc::as_ref), self.starter.clone()));
        self.changes.insert(topic, Some(entry.clone()));
        entry
    }

    fn remove(&mut self, topic: &TopicName) -> bool {
        let Some(entry) = self.get(topic).cloned() else { return false };
        self.changes.insert(topic.clone(), None);
        self.removed.push(entry);
        true
    }
}

fn check_permission(perm: Permission) -> Result<(), Refusal> {
    if perm.is_valid() {
        return Ok(());
    }
    let allowed = "2 (write), 4 (read) or 6 (both)".to_owned();
    Err(Refusal::OutOfRange { what: "perm", value: perm.0.into(), allowed })
}

fn check_queue_nums(what: &'static str, value: u32) -> Result<(), Refusal> {
    if value <= MAX_QUEUE_NUMS {
        return Ok(());
    }
    Err(Refusal::OutOfRange { what, value: value.into(), allowed: format!("0 to {MAX_QUEUE_NUMS}") })
}

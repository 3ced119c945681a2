//! The topics that every broker has from the start.
//!
//! RocketMQ: `TopicConfigManager.init`. They are made anew at each start and never stored, so that a broker
//! that is given another name leaves none behind.

use crate::protocol::names::{self, *};
use crate::protocol::topic_config::{Permission, TopicConfig};
use crate::types::TopicName;

use super::TopicsConfig;

/// Queues of [`BENCHMARK_TOPIC`]; they cost nothing until somebody sends there.
const BENCHMARK_QUEUE_NUMS: u32 = 1024;
const CLUSTER_QUEUE_NUMS: u32 = 16;
/// One queue per delay level; with fewer levels there are as many as Java makes.
const SCHEDULE_QUEUE_NUMS: u32 = 18;
const REVIVE_QUEUE_NUMS: u32 = 8;

/// All of them but the default topic.
pub fn system_topics(config: &TopicsConfig) -> Vec<TopicConfig> {
    let cluster = &config.rules.cluster;
    let broker = &config.rules.broker;
    let single = [SELF_TEST_TOPIC, OFFSET_MOVED_TOPIC, HALF_TOPIC, OP_TOPIC]
        .into_iter()
        .chain([ROCKSDB_HALF_TOPIC, ROCKSDB_OP_TOPIC, TIMER_TOPIC])
        .map(|name| TopicConfig::new(name, 1));
    let mut topics: Vec<TopicConfig> = single.collect();
    topics.extend([
        TopicConfig::new(BENCHMARK_TOPIC, BENCHMARK_QUEUE_NUMS),
        TopicConfig::new(SCHEDULE_TOPIC, SCHEDULE_QUEUE_NUMS.max(config.delay_levels)),
        TopicConfig::new(cluster.as_str(), CLUSTER_QUEUE_NUMS).with_perm(Permission::READ_WRITE_INHERIT),
        TopicConfig::new(broker.as_str(), 1).with_perm(Permission::READ_WRITE_INHERIT),
        TopicConfig::new(names::reply_topic(cluster), 1),
        TopicConfig::new(revive_topic(cluster), REVIVE_QUEUE_NUMS),
        TopicConfig::new(sync_member_topic(broker), 1).with_perm(Permission::INHERIT),
    ]);
    topics.extend(config.trace_topic.clone().map(|topic| TopicConfig::new(topic, 1)));
    topics
}

/// What automatically created topics inherit.
pub fn default_topic(queue_nums: u32) -> TopicConfig {
    TopicConfig::new(DEFAULT_TOPIC, queue_nums).with_perm(Permission::READ_WRITE_INHERIT)
}

fn revive_topic(cluster: &str) -> TopicName {
    format!("{SYSTEM_TOPIC_PREFIX}REVIVE_LOG_{cluster}").into()
}

fn sync_member_topic(broker: &str) -> TopicName {
    format!("{SYSTEM_TOPIC_PREFIX}SYNC_BROKER_MEMBER_{broker}").into()
}

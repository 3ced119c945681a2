//! The settings files of a Java broker, as far as Telstar shares them: names, places and content.
//!
//! ```text
//! ROOT/config/topics.json              {"dataVersion":…,"topicConfigTable":{TOPIC:…}}
//!             subscriptionGroup.json   {"dataVersion":…,"forbiddenTable":{GROUP:{TOPIC:bits}},
//!                                       "subscriptionGroupTable":{GROUP:…}}
//!             consumerOffset.json      {"dataVersion":…,"offsetTable":{"TOPIC@GROUP":{QUEUE:offset}}}
//!             delayOffset.json         {"dataVersion":…,"offsetTable":{LEVEL:offset}}
//! ```
//!
//! RocketMQ: `TopicConfigManager`, `SubscriptionGroupManager`, `ConsumerOffsetManager`, `ScheduleMessageService`,
//! `ConfigManager`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::protocol::body::offsets::DelayOffsetSerializeWrapper;
use crate::protocol::data_version::DataVersion;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::protocol::topic_config::TopicConfig;

/// One file, by the type of its content.
pub trait JavaConfig: Serialize + DeserializeOwned {
    const FILE_NAME: &'static str;
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicsJson {
    pub data_version: DataVersion,
    pub topic_config_table: BTreeMap<String, TopicConfig>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupJson {
    pub data_version: DataVersion,
    pub forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    pub subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerOffsetJson {
    pub data_version: DataVersion,
    /// `TOPIC@GROUP` → queue id → next offset.
    pub offset_table: BTreeMap<String, BTreeMap<i64, i64>>,
}

impl JavaConfig for TopicsJson {
    const FILE_NAME: &'static str = "topics.json";
}

impl JavaConfig for SubscriptionGroupJson {
    const FILE_NAME: &'static str = "subscriptionGroup.json";
}

impl JavaConfig for ConsumerOffsetJson {
    const FILE_NAME: &'static str = "consumerOffset.json";
}

impl JavaConfig for DelayOffsetSerializeWrapper {
    const FILE_NAME: &'static str = "delayOffset.json";
}

/// Where the file lies in the data directory `root`.
pub fn path_of<C: JavaConfig>(root: &Path) -> PathBuf {
    config_dir(root).join(C::FILE_NAME)
}

/// Where Java keeps what the file held before.
pub fn backup_of(path: &Path) -> PathBuf {
    path.with_extension("json.bak")
}

pub fn config_dir(root: &Path) -> PathBuf {
    root.join("config")
}

//! The consumer groups' settings as everybody reads them: an immutable snapshot, published by the
//! `SubscriptionGroups` actor alone. A lookup costs a hash and no lock.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::collections::HashMap;
use crate::protocol::body::assignment::SetMessageRequestModeRequestBody;
use crate::protocol::data_version::DataVersion;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::types::{GroupName, TopicName};

/// Bit of what a group may not do with a topic: read. RocketMQ: `PermName.INDEX_PERM_READ`, as a shift.
pub const FORBID_READ: i32 = 1 << 2;

/// The settings of all groups at one moment.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct GroupMap {
    /// Rises with every change; slaves and tools compare it.
    pub data_version: DataVersion,
    pub groups: HashMap<GroupName, Arc<SubscriptionGroupConfig>>,
    /// Bits of what groups may not do with topics; see [`FORBID_READ`].
    pub forbidden: HashMap<GroupName, HashMap<TopicName, i32>>,
    /// How groups take topics, where it was set; by pull otherwise.
    pub request_modes: HashMap<GroupName, HashMap<TopicName, SetMessageRequestModeRequestBody>>,
}

impl GroupMap {
    pub fn get(&self, group: &str) -> Option<&Arc<SubscriptionGroupConfig>> {
        self.groups.get(group)
    }

    pub fn forbidden(&self, group: &str, topic: &str) -> i32 {
        self.forbidden.get(group).and_then(|topics| topics.get(topic)).copied().unwrap_or(0)
    }

    /// How the group takes the topic, if somebody said so.
    pub fn request_mode(&self, group: &str, topic: &str) -> Option<&SetMessageRequestModeRequestBody> {
        self.request_modes.get(group)?.get(topic)
    }

    /// Whether the group is forbidden to read the topic.
    pub fn is_read_forbidden(&self, group: &str, topic: &str) -> bool {
        self.forbidden(group, topic) & FORBID_READ != 0
    }
}

/// The read half of the settings of groups. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GroupTable(Arc<ArcSwap<GroupMap>>);

/// The write half; one exists, and the `SubscriptionGroups` actor has it.
#[derive(Debug)]
pub struct GroupTablePublisher(Arc<ArcSwap<GroupMap>>);

impl GroupTable {
    pub fn new(map: GroupMap) -> (GroupTablePublisher, GroupTable) {
        let shared = Arc::new(ArcSwap::from_pointee(map));
        (GroupTablePublisher(shared.clone()), GroupTable(shared))
    }

    /// The snapshot of now.
    pub fn load(&self) -> Guard<Arc<GroupMap>> {
        self.0.load()
    }

    pub fn get(&self, group: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        self.0.load().get(group).cloned()
    }
}

impl GroupTablePublisher {
    pub fn publish(&self, map: GroupMap) {
        self.0.store(Arc::new(map));
    }
}

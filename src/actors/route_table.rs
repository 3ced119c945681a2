//! The rules of a name server: which topics are on which brokers, which brokers are there, and when they count
//! as gone. Pure: no actor, no clock, no socket.
//!
//! RocketMQ: `RouteInfoManager`. Where Java leaks an address that moved to another broker name, here one
//! address belongs to one broker.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem;

use serde_json::Value;

use super::request::ConnectionId;
use crate::clock::WallMs;
use crate::collections::HashMap;
use crate::protocol::body::registration::TopicConfigSerializeWrapper;
use crate::protocol::body::route::{BrokerData, QueueData};
use crate::protocol::data_version::DataVersion;
use crate::protocol::topic_config::{Permission, TopicConfig};
use crate::types::{BrokerName, TopicName};

/// Silence after which a broker that named no time of its own is dropped, ms.
/// RocketMQ: `RouteInfoManager.DEFAULT_BROKER_CHANNEL_EXPIRED_TIME`.
pub const DEFAULT_BROKER_TIMEOUT_MS: i64 = 120_000;

/// Id of the master of a broker name.
pub const MASTER_ID: i64 = 0;

/// What a broker says of itself (103).
#[derive(Clone, Debug)]
pub struct BrokerRegistration {
    pub cluster: String,
    pub broker_name: BrokerName,
    pub broker_addr: String,
    pub broker_id: i64,
    pub ha_server_addr: String,
    pub zone_name: Option<String>,
    /// Its own silence limit, ms.
    pub timeout_ms: Option<i64>,
    /// Absent: an old broker, whose slaves never speak for it.
    pub enable_acting_master: Option<bool>,
    pub filter_servers: Vec<String>,
    pub topics: TopicConfigSerializeWrapper,
    /// The connection it came by; its end is the end of the broker.
    pub connection: Option<ConnectionId>,
}

/// What became of a registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegistrationOutcome {
    /// Taken; a slave is told its master.
    Registered { master: Option<MasterAddress> },
    /// Ignored: a live broker of the same id, under another address, has a newer state version.
    Outdated,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MasterAddress {
    pub addr: String,
    pub ha_server_addr: String,
}

/// The first registration of a broker held one topic only: a change that overtook the full table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the first registration of a broker needs its full topic table")]
pub struct FullTableMissing;

/// Brokers and clusters, as clients see them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Brokers {
    pub by_name: BTreeMap<BrokerName, BrokerData>,
    pub clusters: BTreeMap<String, BTreeSet<BrokerName>>,
    /// By broker address.
    pub filter_servers: BTreeMap<String, Vec<String>>,
}

/// One topic on all its brokers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TopicQueues {
    pub queues: BTreeMap<BrokerName, QueueData>,
    /// Parts of the mapping of a static topic, by broker name.
    pub mappings: BTreeMap<String, Value>,
}

/// A broker that was heard of lately.
#[derive(Clone, PartialEq, Debug)]
struct LiveBroker {
    broker_name: BrokerName,
    last_update: WallMs,
    timeout_ms: i64,
    data_version: DataVersion,
    connection: Option<ConnectionId>,
    ha_server_addr: String,
}

/// What changed since it was last asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteChanges {
    pub topics: HashSet<TopicName>,
    pub brokers: bool,
}

/// How the write permission of a broker is changed (205, 327).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WritePermChange {
    Wipe,
    /// Sets read and write; other bits are lost, as in Java.
    Add,
}

/// All a name server knows.
#[derive(Debug, Default)]
pub struct RouteTable {
    topics: HashMap<TopicName, TopicQueues>,
    brokers: Brokers,
    /// By address.
    live: HashMap<String, LiveBroker>,
    changes: RouteChanges,
}

impl RouteTable {
    pub fn brokers(&self) -> &Brokers {
        &self.brokers
    }

    pub fn topic(&self, topic: &str) -> Option<&TopicQueues> {
        self.topics.get(topic)
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    pub fn is_live(&self, broker_addr: &str) -> bool {
        self.live.contains_key(broker_addr)
    }

    pub fn live_count(&self) -> usize {
        self.live.len()
    }

    /// What changed since the last call; whoever publishes asks after every operation.
    pub fn take_changes(&mut self) -> RouteChanges {
        mem::take(&mut self.changes)
    }

    /// Takes a registration, whole or of changed topics. With `drop_missing_topics` a topic that the broker
    /// no longer names is removed from it; Java's default keeps it.
    pub fn register(
        &mut self,
        registration: BrokerRegistration,
        drop_missing_topics: bool,
        now: WallMs,
    ) -> Result<RegistrationOutcome, FullTableMissing> {
        let known_addr = self.addr_of(&registration.broker_name, registration.broker_id);
        if known_addr.is_none() && registration.topics.topic_config_table.len() == 1 {
            return Err(FullTableMissing);
        }
        if let Some(other) = known_addr.filter(|addr| *addr != registration.broker_addr)
            && let Some(live) = self.live.get(other)
            && live.data_version.state_version > registration.topics.data_version.state_version
        {
            self.live.remove(&registration.broker_addr);
            return Ok(RegistrationOutcome::Outdated);
        }
        self.release_addr(&registration);
        let is_first = self.enter_broker(&registration);
        let data_version = registration.topics.data_version;
        let is_new_version =
            self.live.get(&registration.broker_addr).is_none_or(|live| live.data_version != data_version);
        self.enter_topics(&registration, is_first || is_new_version, drop_missing_topics);
        self.live.insert(
            registration.broker_addr.clone(),
            LiveBroker {
                broker_name: registration.broker_name.clone(),
                last_update: now,
                timeout_ms: registration.timeout_ms.unwrap_or(DEFAULT_BROKER_TIMEOUT_MS),
                data_version,
                connection: registration.connection,
                ha_server_addr: registration.ha_server_addr,
            },
        );
        let master = match registration.broker_id {
            MASTER_ID => None,
            _ => self.master_of(&registration.broker_name),
        };
        Ok(RegistrationOutcome::Registered { master })
    }

    fn addr_of(&self, broker_name: &str, broker_id: i64) -> Option<&str> {
        let addrs = &self.brokers.by_name.get(broker_name)?.broker_addrs;
        addrs.get(&broker_id).map(String::as_str)
    }

    /// One address has one name and one id: a slave that became master, or a broker that was renamed,
    /// gives up what it was.
    fn release_addr(&mut self, registration: &BrokerRegistration) {
        let addr = &registration.broker_addr;
        if let Some(live) = self.live.get(addr)
            && live.broker_name != registration.broker_name
        {
            let former = live.broker_name.clone();
            self.live.remove(addr);
            self.remove_addr(&former, addr);
        }
        if let Some(broker) = self.brokers.by_name.get_mut(&registration.broker_name) {
            broker.broker_addrs.retain(|id, known| known != addr || *id == registration.broker_id);
        }
    }

    /// Enters name, cluster and address; says whether this id of the broker was not known.
    fn enter_broker(&mut self, registration: &BrokerRegistration) -> bool {
        let BrokerRegistration { cluster, broker_name, broker_addr, .. } = registration;
        let known = self.brokers.by_name.get(broker_name);
        let before = known.cloned();
        let mut broker = before.clone().unwrap_or_else(|| BrokerData {
            broker_name: broker_name.clone(),
            cluster: cluster.clone(),
            ..BrokerData::default()
        });
        if broker.cluster != *cluster {
            leave_cluster(&mut self.brokers.clusters, &broker.cluster, broker_name);
            broker.cluster = cluster.clone();
        }
        broker.enable_acting_master = registration.enable_acting_master.unwrap_or(false);
        broker.zone_name = registration.zone_name.clone();
        let replaced = broker.broker_addrs.insert(registration.broker_id, broker_addr.clone());
        if let Some(replaced) = replaced.as_ref().filter(|replaced| *replaced != broker_addr) {
            // Whoever had this id is gone; its silence must not take the new one along.
            self.live.remove(replaced);
            self.changes.brokers |= self.brokers.filter_servers.remove(replaced).is_some();
        }
        let is_first = replaced.is_none();
        let is_changed = before.as_ref() != Some(&broker);
        if is_changed {
            self.brokers.by_name.insert(broker_name.clone(), broker);
        }
        let joined = self.brokers.clusters.entry(cluster.clone()).or_default().insert(broker_name.clone());
        self.changes.brokers |= is_changed | joined | self.enter_filter_servers(registration);
        is_first
    }

    fn enter_filter_servers(&mut self, registration: &BrokerRegistration) -> bool {
        let BrokerRegistration { broker_addr, filter_servers, .. } = registration;
        let table = &mut self.brokers.filter_servers;
        if filter_servers.is_empty() {
            return table.remove(broker_addr).is_some();
        }
        table.insert(broker_addr.clone(), filter_servers.clone()).as_ref() != Some(filter_servers)
    }

    /// Only the master, or of new brokers the lowest id while there is no master, speaks for the queues. With
    /// an unchanged data version only topics that are not known of this broker are taken: what an
    /// administrator wiped stays wiped.
    fn enter_topics(&mut self, registration: &BrokerRegistration, is_changed: bool, drop_missing: bool) {
        let broker_name = &registration.broker_name;
        let Some(broker) = self.brokers.by_name.get(broker_name) else { return };
        let lowest = broker.broker_addrs.keys().next() == Some(&registration.broker_id);
        let is_master = registration.broker_id == MASTER_ID;
        let acts_for_master = !is_master && lowest && registration.enable_acting_master.is_some();
        if !is_master && !acts_for_master {
            return;
        }
        let read_only = acts_for_master && broker.enable_acting_master;
        let wrapper = &registration.topics;
        if drop_missing && wrapper.topic_queue_mapping_info_map.is_empty() {
            self.remove_topics_of(broker_name, |topic| !wrapper.topic_config_table.contains_key(topic));
        }
        for (topic, config) in &wrapper.topic_config_table {
            let queues = &mut self.topics.entry(topic.clone()).or_default().queues;
            if !is_changed && queues.contains_key(broker_name) {
                continue;
            }
            let queue = queue_data(broker_name, config, read_only);
            if queues.get(broker_name) != Some(&queue) {
                queues.insert(broker_name.clone(), queue);
                self.changes.topics.insert(topic.clone());
            }
        }
        if is_changed {
            for (topic, mapping) in &wrapper.topic_queue_mapping_info_map {
                let Some((name, entry)) = self.topics.get_key_value(topic.as_str()) else { continue };
                if entry.mappings.get(broker_name.as_str()) == Some(mapping) {
                    continue;
                }
                self.changes.topics.insert(name.clone());
                if let Some(entry) = self.topics.get_mut(topic.as_str()) {
                    entry.mappings.insert(broker_name.to_string(), mapping.clone());
                }
            }
        }
    }

    fn master_of(&self, broker_name: &str) -> Option<MasterAddress> {
        let addr = self.addr_of(broker_name, MASTER_ID)?;
        let live = self.live.get(addr)?;
        Some(MasterAddress { addr: addr.to_owned(), ha_server_addr: live.ha_server_addr.clone() })
    }

    /// A broker says goodbye (104). Unknown ones are no error.
    pub fn unregister(&mut self, broker_name: &str, broker_addr: &str) {
        if self.live.get(broker_addr).is_some_and(|live| live.broker_name.as_str() == broker_name) {
            self.live.remove(broker_addr);
        }
        self.remove_addr(broker_name, broker_addr);
    }

    /// The connection that brokers registered by is closed: they are gone at once. One that has come back by
    /// another connection stays. Gives back their addresses.
    pub fn connection_closed(&mut self, connection: ConnectionId) -> Vec<String> {
        self.drop_live(|live| live.connection == Some(connection)).into_iter().map(|(addr, _)| addr).collect()
    }

    /// Drops brokers that were silent for too long; gives back their addresses and connections.
    pub fn expire(&mut self, now: WallMs) -> Vec<(String, Option<ConnectionId>)> {
        self.drop_live(|live| live.last_update.0.saturating_add(live.timeout_ms) < now.0)
    }

    fn drop_live(&mut self, is_gone: impl Fn(&LiveBroker) -> bool) -> Vec<(String, Option<ConnectionId>)> {
        let gone = self.live.iter().filter(|(_, live)| is_gone(live));
        let mut gone: Vec<_> = gone.map(|(addr, live)| (addr.clone(), live.clone())).collect();
        gone.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (addr, live) in &gone {
            self.live.remove(addr);
            self.remove_addr(&live.broker_name, addr);
        }
        gone.into_iter().map(|(addr, live)| (addr, live.connection)).collect()
    }

    /// Removes an address; the last one takes broker, cluster and queues along. When slaves remain that may
    /// act for their master, nothing can be written until it is back.
    fn remove_addr(&mut self, broker_name: &str, addr: &str) {
        self.changes.brokers |= self.brokers.filter_servers.remove(addr).is_some();
        let Some(broker) = self.brokers.by_name.get_mut(broker_name) else { return };
        let before = broker.broker_addrs.len();
        broker.broker_addrs.retain(|_, known| known != addr);
        if broker.broker_addrs.len() == before {
            return;
        }
        self.changes.brokers = true;
        if broker.broker_addrs.is_empty() {
            let cluster = broker.cluster.clone();
            self.brokers.by_name.remove(broker_name);
            leave_cluster(&mut self.brokers.clusters, &cluster, broker_name);
            self.remove_topics_of(broker_name, |_| true);
        } else if broker.enable_acting_master && !broker.broker_addrs.contains_key(&MASTER_ID) {
            self.alter_perms(broker_name, |perm| perm.without(Permission::WRITE));
        }
    }

    fn remove_topics_of(&mut self, broker_name: &str, is_gone: impl Fn(&TopicName) -> bool) {
        let changes = &mut self.changes.topics;
        self.topics.retain(|topic, entry| {
            if is_gone(topic) && entry.queues.remove(broker_name).is_some() {
                entry.mappings.remove(broker_name);
                changes.insert(topic.clone());
            }
            !entry.queues.is_empty()
        });
    }

    /// Gives back how many topics the broker has, altered or not.
    fn alter_perms(&mut self, broker_name: &str, alter: impl Fn(Permission) -> Permission) -> usize {
        let mut count = 0;
        for (topic, entry) in &mut self.topics {
            let Some(queue) = entry.queues.get_mut(broker_name) else { continue };
            count += 1;
            let perm = alter(queue.perm);
            if perm != queue.perm {
                queue.perm = perm;
                self.changes.topics.insert(topic.clone());
            }
        }
        count
    }

    /// What is known of a broker's data version; the question itself is a sign of life (322).
    pub fn query_data_version(&mut self, broker_addr: &str, now: WallMs) -> Option<DataVersion> {
        self.refresh(broker_addr, now);
        self.live.get(broker_addr).map(|live| live.data_version)
    }

    /// A sign of life (904). Unknown brokers are not made known by it.
    pub fn refresh(&mut self, broker_addr: &str, now: WallMs) {
        if let Some(live) = self.live.get_mut(broker_addr) {
            live.last_update = now;
        }
    }

    /// Changes the write permission of all topics of a broker, until it registers a changed data version.
    /// Gives back the number of its topics.
    pub fn change_write_perm(&mut self, broker_name: &str, change: WritePermChange) -> usize {
        self.alter_perms(broker_name, |perm| match change {
            WritePermChange::Wipe => perm.without(Permission::WRITE),
            WritePermChange::Add => Permission::READ_WRITE,
        })
    }

    /// Forgets a topic (216), on the brokers of `cluster` only if one is named. It is back with the next changed
    /// registration of a broker that still has it.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(entry) = self.topics.get_mut(topic) else { return };
        match cluster {
            None => entry.queues.clear(),
            Some(cluster) => {
                let names = self.brokers.clusters.get(cluster);
                entry.queues.retain(|broker, _| !names.is_some_and(|names| names.contains(broker)));
            }
        }
        if entry.queues.is_empty() {
            self.topics.remove(topic);
        }
        self.changes.topics.insert(topic.into());
    }

    /// Enters queues of a topic by hand (217), up to the first of an unknown broker. Gives back that broker.
    pub fn register_topic(&mut self, topic: &TopicName, queues: Vec<QueueData>) -> Result<(), BrokerName> {
        if let Some(unknown) =
            queues.iter().find(|queue| !self.brokers.by_name.contains_key(&queue.broker_name))
        {
            return Err(unknown.broker_name.clone());
        }
        if queues.is_empty() {
            return Ok(());
        }
        let entry = self.topics.entry(topic.clone()).or_default();
        entry.queues.extend(queues.into_iter().map(|queue| (queue.broker_name.clone(), queue)));
        self.changes.topics.insert(topic.clone());
        Ok(())
    }
}

fn queue_data(broker_name: &BrokerName, config: &TopicConfig, read_only: bool) -> QueueData {
    QueueData {
        broker_name: broker_name.clone(),
        perm: if read_only { config.perm.without(Permission::WRITE) } else { config.perm },
        read_queue_nums: config.read_queue_nums,
        topic_sys_flag: config.topic_sys_flag,
        write_queue_nums: config.write_queue_nums,
    }
}

fn leave_cluster(clusters: &mut BTreeMap<String, BTreeSet<BrokerName>>, cluster: &str, broker_name: &str) {
    if let Some(names) = clusters.get_mut(cluster) {
        names.remove(broker_name);
        if names.is_empty() {
            clusters.remove(cluster);
        }
    }
}

#[cfg(test)]
pub(super) mod fixtures;
#[cfg(test)]
mod tests;

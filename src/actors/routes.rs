//! The routes as everybody reads them: published by the name server alone, read without a hop and without a
//! lock.
//!
//! Topics lie in shards, so that publishing one topic of 50,000 copies a few hundred handles. The answer to a
//! route query is kept with its topic, valid for one version of the brokers.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;

use super::name_server_settings::NameServerSettings;
use super::route_table::{Brokers, MASTER_ID, RouteChanges, RouteTable, TopicQueues};
use crate::collections::HashMap;
use crate::protocol::body::route::{BrokerData, BrokerMemberGroup, ClusterInfo, TopicList, TopicRouteData};
use crate::protocol::fastjson;
use crate::protocol::header::GetRoute;
use crate::types::TopicName;

const SHARDS: usize = 256;

/// Namespace of the order of ordered topics: topic to `broker:queues;…`.
/// RocketMQ: `NamesrvUtil.NAMESPACE_ORDER_TOPIC_CONFIG`.
pub const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";

/// Its routes are never shown with an acting master. RocketMQ: `TopicValidator.SYNC_BROKER_MEMBER_GROUP_PREFIX`.
const SYNC_BROKER_MEMBER_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";

/// Settings kept for others: namespace, key, value.
pub type KvConfigs = BTreeMap<String, BTreeMap<String, String>>;

type Shard = HashMap<TopicName, Arc<PublishedTopic>>;

/// A topic as published.
#[derive(Debug)]
struct PublishedTopic {
    queues: TopicQueues,
    /// Filled by whoever asks first; two that do so at once write the same.
    answer: ArcSwapOption<CachedAnswer>,
}

#[derive(Debug)]
struct CachedAnswer {
    surroundings_version: u64,
    json: Bytes,
}

/// What all routes depend on.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Rises with every change of them.
    version: u64,
    pub brokers: Brokers,
    pub kv_configs: KvConfigs,
    pub settings: NameServerSettings,
}

#[derive(Debug)]
struct Shared {
    shards: Vec<ArcSwap<Shard>>,
    surroundings: ArcSwap<Surroundings>,
}

/// The read half. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Routes(Arc<Shared>);

/// The write half; the name server has it.
#[derive(Debug)]
pub struct RoutePublisher(Arc<Shared>);

/// Makes both halves, without a topic.
pub fn routes(settings: NameServerSettings, kv_configs: KvConfigs) -> (RoutePublisher, Routes) {
    let surroundings = Surroundings { version: 0, brokers: Brokers::default(), kv_configs, settings };
    let shards = (0..SHARDS).map(|_| ArcSwap::default()).collect();
    let shared = Arc::new(Shared { shards, surroundings: ArcSwap::from_pointee(surroundings) });
    (RoutePublisher(shared.clone()), Routes(shared))
}

fn shard_of(topic: &str) -> usize {
    crc32fast::hash(topic.as_bytes()) as usize % SHARDS
}

impl RoutePublisher {
    /// Publishes what `changes` names, as it is in `table` now. Brokers come first: a topic is never seen
    /// before its broker.
    pub fn publish(&mut self, table: &RouteTable, changes: RouteChanges) {
        if changes.brokers {
            self.alter(|surroundings| surroundings.brokers = table.brokers().clone());
        }
        let mut by_shard: HashMap<usize, HashSet<TopicName>> = HashMap::default();
        for topic in changes.topics {
            by_shard.entry(shard_of(&topic)).or_default().insert(topic);
        }
        for (number, topics) in by_shard {
            let mut shard = Shard::clone(&self.0.shards[number].load());
            for topic in topics {
                match table.topic(&topic).cloned() {
                    Some(queues) => shard
                        .insert(topic, Arc::new(PublishedTopic { queues, answer: ArcSwapOption::default() })),
                    None => shard.remove(&topic),
                };
            }
            self.0.shards[number].store(Arc::new(shard));
        }
    }

    /// Publishes altered settings or key values.
    pub fn alter(&mut self, change: impl FnOnce(&mut Surroundings)) {
        let mut surroundings = Surroundings::clone(&self.0.surroundings.load());
        surroundings.version += 1;
        change(&mut surroundings);
        self.0.surroundings.store(Arc::new(surroundings));
    }

    pub fn surroundings(&self) -> Arc<Surroundings> {
        self.0.surroundings.load_full()
    }
}

/// What is known of a topic that a route was asked for.
#[derive(Clone, PartialEq, Debug)]
pub enum RouteAnswer {
    /// TopicRouteData as JSON.
    Route(Bytes),
    /// The topic is here, but no queue can be read or written.
    NoPermission,
    Unknown,
}

impl Routes {
    pub fn surroundings(&self) -> Arc<Surroundings> {
        self.0.surroundings.load_full()
    }

    fn topic(&self, topic: &str) -> Option<Arc<PublishedTopic>> {
        self.0.shards[shard_of(topic)].load().get(topic).cloned()
    }

    pub fn contains(&self, topic: &str) -> bool {
        self.0.shards[shard_of(topic)].load().contains_key(topic)
    }

    /// The route of a topic (105).
    pub fn route(&self, query: &GetRoute) -> RouteAnswer {
        let Some(topic) = self.topic(&query.topic) else { return RouteAnswer::Unknown };
        let surroundings = self.0.surroundings.load();
        let zone = query.zone_name.as_deref().filter(|zone| query.zone_mode && !zone.is_empty());
        if zone.is_none()
            && let Some(cached) = topic.answer.load().as_ref()
            && cached.surroundings_version == surroundings.version
        {
            return RouteAnswer::Route(cached.json.clone());
        }
        if !topic.queues.queues.values().any(|queue| queue.perm.is_readable() || queue.perm.is_writable()) {
            return RouteAnswer::NoPermission;
        }
        let mut route = route_data(&query.topic, &topic.queues, &surroundings);
        if let Some(zone) = zone {
            keep_zone(&mut route, zone);
        }
        if route.broker_datas.is_empty() || route.queue_datas.is_empty() {
            return RouteAnswer::Unknown;
        }
        // Plain structs with text keys always have a JSON form.
        let json = Bytes::from(fastjson::to_vec(&route).unwrap_or_default());
        if zone.is_none() {
            let cached = CachedAnswer { surroundings_version: surroundings.version, json: json.clone() };
            topic.answer.store(Some(Arc::new(cached)));
        }
        RouteAnswer::Route(json)
    }

    /// Shows topics to `visit` until it says that it has found what it looks for.
    pub fn find_topic(&self, mut visit: impl FnMut(&TopicName) -> bool) {
        for shard in &self.0.shards {
            if shard.load().keys().any(&mut visit) {
                return;
            }
        }
    }

    /// All topics that `wanted` picks, sorted.
    pub fn topics_where(&self, wanted: impl Fn(&TopicName, &TopicQueues) -> bool) -> TopicList {
        let mut topic_list = Vec::new();
        for shard in &self.0.shards {
            let shard = shard.load();
            let picked = shard.iter().filter(|(topic, published)| wanted(topic, &published.queues));
            topic_list.extend(picked.map(|(topic, _)| topic.clone()));
        }
        topic_list.sort_unstable();
        TopicList { broker_addr: None, topic_list }
    }

    /// Topics of a cluster (224); none for an unknown one.
    pub fn topics_of_cluster(&self, cluster: &str) -> TopicList {
        let surroundings = self.0.surroundings.load();
        let Some(names) = surroundings.brokers.clusters.get(cluster) else { return TopicList::default() };
        self.topics_where(|_, topic| names.iter().any(|name| topic.queues.contains_key(name)))
    }

    /// Names of clusters and brokers, and the address of a broker that knows more (304).
    pub fn system_topics(&self) -> TopicList {
        let brokers = &self.0.surroundings.load().brokers;
        let mut topic_list = Vec::new();
        for (cluster, names) in &brokers.clusters {
            topic_list.push(TopicName::from(cluster.as_str()));
            topic_list.extend(names.iter().map(|name| TopicName::from(name.as_str())));
        }
        let mut addrs = brokers.by_name.values().flat_map(|broker| broker.broker_addrs.values());
        TopicList { broker_addr: addrs.next().cloned(), topic_list }
    }

    /// All brokers and clusters (106).
    pub fn cluster_info(&self) -> ClusterInfo {
        let brokers = &self.0.surroundings.load().brokers;
        let by_name = brokers.by_name.iter().map(|(name, broker)| (name.to_string(), broker.clone()));
        let clusters = brokers.clusters.iter();
        ClusterInfo {
            broker_addr_table: by_name.collect(),
            cluster_addr_table: clusters
                .map(|(cluster, names)| (cluster.clone(), names.iter().cloned().collect()))
                .collect(),
        }
    }

    /// The addresses that share a broker name (901); without addresses when it is unknown.
    pub fn member_group(&self, cluster: &str, broker_name: &str) -> BrokerMemberGroup {
        let brokers = &self.0.surroundings.load().brokers;
        let known = brokers.by_name.get(broker_name);
        BrokerMemberGroup {
            broker_addrs: known.map(|broker| broker.broker_addrs.clone()).unwrap_or_default(),
            broker_name: broker_name.into(),
            cluster: cluster.to_owned(),
        }
    }
}

fn route_data(topic: &str, published: &TopicQueues, surroundings: &Surroundings) -> TopicRouteData {
    let brokers = &surroundings.brokers;
    let known = published.queues.keys().filter_map(|name| brokers.by_name.get(name));
    let mut route = TopicRouteData {
        broker_datas: known.cloned().collect(),
        queue_datas: published.queues.values().cloned().collect(),
        ..TopicRouteData::default()
    };
    if !brokers.filter_servers.is_empty() {
        let addrs = route.broker_datas.iter().flat_map(|broker| broker.broker_addrs.values());
        route.filter_server_table = addrs
            .filter_map(|addr| Some((addr.clone(), brokers.filter_servers.get(addr)?.clone())))
            .collect();
    }
    if !published.mappings.is_empty() {
        route.topic_queue_mapping_by_broker = Some(published.mappings.clone());
    }
    if surroundings.settings.order_message_enable {
        let orders = surroundings.kv_configs.get(ORDER_TOPIC_CONFIG);
        route.order_topic_conf = orders.and_then(|orders| orders.get(topic)).cloned();
    }
    if surroundings.settings.support_acting_master && !topic.starts_with(SYNC_BROKER_MEMBER_PREFIX) {
        show_acting_masters(&mut route);
    }
    route
}

/// Shows the lowest slave as master where there is none and nothing can be written.
fn show_acting_masters(route: &mut TopicRouteData) {
    let TopicRouteData { broker_datas, queue_datas, .. } = route;
    for broker in broker_datas {
        let queue = queue_datas.iter().find(|queue| queue.broker_name == broker.broker_name);
        let can_act = broker.enable_acting_master && queue.is_some_and(|queue| !queue.perm.is_writable());
        if !can_act || broker.broker_addrs.contains_key(&MASTER_ID) {
            continue;
        }
        if let Some((_, addr)) = broker.broker_addrs.pop_first() {
            broker.broker_addrs.insert(MASTER_ID, addr);
        }
    }
}

/// Keeps brokers of `zone`, and those without a master: reading from afar is better than not at all.
/// RocketMQ: `ZoneRouteRPCHook`.
fn keep_zone(route: &mut TopicRouteData, zone: &str) {
    let in_zone = |broker: &BrokerData| {
        let same = broker.zone_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(zone));
        same || !broker.broker_addrs.contains_key(&MASTER_ID)
    };
    let (kept, removed): (Vec<_>, Vec<_>) = route.broker_datas.drain(..).partition(in_zone);
    let removed_name = |name: &str| removed.iter().any(|broker| broker.broker_name.as_str() == name);
    route.queue_datas.retain(|queue| !removed_name(&queue.broker_name));
    route
        .filter_server_table
        .retain(|addr, _| !removed.iter().any(|b| b.broker_addrs.values().any(|a| a == addr)));
    route.broker_datas = kept;
}

#[cfg(test)]
mod tests;

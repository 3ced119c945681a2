//! The first steps of a start: settings, groups, clients, topics, figures, and the link to the name servers.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;

use super::StartError;
use super::ground::Ground;
use crate::actors::actor_list::ActorList;
use crate::actors::broker_plan::BrokerPlan;
use crate::actors::broker_settings::{BrokerSettings, BrokerSettingsConfig, SettingsTable};
use crate::actors::broker_stats::{BrokerStats, BrokerStatsConfig, StoreCounters};
use crate::actors::consumed_keys::ConsumedKeys;
use crate::actors::consumer_group::ConsumerGroupConfig;
use crate::actors::consumer_groups::{ConsumerGroupTable, ConsumerGroups, ConsumerGroupsConfig};
use crate::actors::consumer_offsets::{ConsumerOffsets, OffsetsConfig, PendingResets};
use crate::actors::group_table::GroupTable;
use crate::actors::message_expiry::MessageExpiry;
use crate::actors::name_server_link::{NameServerLink, NameServerLinkConfig};
use crate::actors::producers::{Producers, ProducersConfig};
use crate::actors::read_queues::{ReadQueues, ReadQueuesConfig};
use crate::actors::send_gate::{BrokerPermission, SendGate};
use crate::actors::subscription_groups::{SubscriptionGroups, SubscriptionGroupsConfig};
use crate::actors::threads::Thread;
use crate::actors::topic_queue::{QueueParts, TopicQueue};
use crate::actors::topic_table::{QueueStarter, TopicEntry, TopicTable};
use crate::actors::topics::{LoadedTopics, QueueFiles, TopicRules, Topics, TopicsConfig, TopicsPeers};
use crate::client::{ConnectOptions, Servers};
use crate::store::compacted_log::{COMPACTION_DIR, INDEX_DIR, LOG_DIR};
use crate::store::consume_queue::list_queues;
use crate::store::file::StoreFiles;
use crate::store::known_derived::KnownDerived;
use crate::types::{FlushMode, QueueId, TopicName};

/// What is allowed.
pub struct Administration {
    /// Started when those whom it tells of changes are there.
    pub settings: BrokerSettings,
    pub settings_table: SettingsTable,
    pub groups: Addr<SubscriptionGroups>,
    pub group_table: GroupTable,
}

/// Who is there, and how far each group is.
pub struct Clients {
    pub offsets: Addr<ConsumerOffsets>,
    pub consumed_keys: Addr<ConsumedKeys>,
    pub resets: PendingResets,
    pub consumers: Addr<ConsumerGroups>,
    pub consumer_table: ConsumerGroupTable,
    pub producers: Addr<Producers>,
    pub read_queues: Addr<ReadQueues>,
}

/// Those who decide what there is; everyone behind them asks.
pub struct Owners {
    pub administration: Administration,
    pub clients: Clients,
    pub topics: Addr<Topics>,
}

/// What is known of topics.
pub struct KnownTopics {
    pub table: TopicTable,
    pub rules: TopicRules,
    pub expiry: MessageExpiry,
    /// Set once, when the writer is there: queues that are asked for earlier wait for it.
    pub queue_parts: Arc<OnceLock<Arc<QueueParts>>>,
}

/// Topics as they were stored, before their actor is started.
pub struct StoredTopics {
    loaded: LoadedTopics,
    config: TopicsConfig,
    starter: QueueStarter,
}

/// What is counted.
pub struct Figures {
    pub counters: Arc<StoreCounters>,
    pub stats: Addr<BrokerStats>,
}

impl Ground<'_> {
    pub fn start_administration(&self) -> Result<Administration, StartError> {
        let config = BrokerSettingsConfig {
            initial: self.plan.settings.clone(),
            fixed: fixed_settings(&self.plan),
            mailbox_capacity: self.plan.mailbox_capacity,
        };
        let (settings, settings_table) =
            BrokerSettings::load(self.metadata.clone(), config, self.clock.clone())?;
        let (groups, group_table) = SubscriptionGroups::load(
            self.metadata.clone(),
            settings_table.clone(),
            SubscriptionGroupsConfig::default(),
            self.clock.clone(),
        )?;
        let groups = self.threads.actors.start_on(&self.threads.groups, "", move || groups);
        Ok(Administration { settings, settings_table, groups, group_table })
    }

    pub fn start_clients(&self, groups: &GroupTable) -> Result<Clients, StartError> {
        let config = OffsetsConfig {
            flush_interval: self.plan.offsets_flush_interval,
            flush_mode: self.plan.offsets_flush_mode,
            ..OffsetsConfig::default()
        };
        let offsets = ConsumerOffsets::load(self.metadata.clone(), config, self.clock.clone())?;
        let resets = offsets.pending_resets();
        let offsets = self.threads.actors.start_on(&self.threads.offsets, "", move || offsets);
        let consumed_keys = ConsumedKeys::load(
            self.metadata.clone(),
            groups.clone(),
            self.clock.clone(),
            self.plan.mailbox_capacity,
        )?;
        let consumed_keys = self.threads.actors.start_on(&self.threads.offsets, "", move || consumed_keys);
        let members = &self.threads.members;
        let (consumers, consumer_table) = ConsumerGroups::new(ConsumerGroupsConfig {
            group: ConsumerGroupConfig {
                filter: self.plan.filter,
                events: self.events.clone(),
                ..ConsumerGroupConfig::default()
            },
            ..ConsumerGroupsConfig::default()
        });
        let consumers = self.threads.actors.start_on(members, "", move || consumers);
        let producers =
            self.threads.actors.start_on(members, "", move || Producers::new(ProducersConfig::default()));
        let name_servers = self.plan.name_servers.join(";");
        let connect = ConnectOptions { dial: self.plan.dial.clone(), ..ConnectOptions::default() };
        let servers = Servers::new(&name_servers, connect, self.plan.register_timeout);
        let read_queues = self
            .threads
            .actors
            .start_on(members, "", move || ReadQueues::new(servers, ReadQueuesConfig::default()));
        Ok(Clients { offsets, consumed_keys, resets, consumers, consumer_table, producers, read_queues })
    }

    pub fn load_topics(&self, settings: &SettingsTable) -> Result<(StoredTopics, KnownTopics), StartError> {
        let queue_parts: Arc<OnceLock<Arc<QueueParts>>> = Arc::new(OnceLock::new());
        let recorded = self.threads.actors.recording(self.plan.flight_recorder);
        let starter = queue_starter(queue_parts.clone(), self.threads.workers.clone(), recorded);
        let rules = TopicRules {
            cluster: self.plan.cluster.clone(),
            broker: self.plan.broker_name.clone(),
            mixed_message_type: self.plan.mixed_message_types,
        };
        let current = settings.load();
        let config = TopicsConfig {
            rules: rules.clone(),
            auto_create: current.auto_create_topic,
            permission: current.permission,
            default_queue_nums: current.default_topic_queue_nums,
            trace_topic: self.plan.trace_topic.clone(),
            delay_levels: self.plan.delay_levels.max_level() as u32,
            registration_wait_max: Duration::from_secs(3),
            mailbox_capacity: self.plan.mailbox_capacity,
        };
        let loaded = LoadedTopics::load(&self.metadata, &config, &starter, &self.clock)?;
        let table = loaded.table.clone();
        let expiry = MessageExpiry::new(table.clone(), self.clock.clone());
        let known = KnownTopics { table, rules, expiry, queue_parts };
        Ok((StoredTopics { loaded, config, starter }, known))
    }

    pub fn start_figures(&self) -> Figures {
        let counters = Arc::new(StoreCounters::default());
        let config = BrokerStatsConfig {
            mailbox_capacity: 64 * 1024,
            utc_offset_ms: chrono::Local::now().offset().local_minus_utc() as i64 * 1000,
        };
        let parts = (self.clock.clone(), counters.clone());
        let stats = self.threads.actors.start_on(&self.threads.members, "", move || {
            let (clock, counters) = parts;
            BrokerStats::new(config, clock, counters)
        });
        Figures { counters, stats }
    }

    /// Nothing is registered before [`RegisterAll`](crate::actors::name_server_link::RegisterAll).
    pub fn start_link(
        &self,
        gate: &SendGate,
        settings: &SettingsTable,
        table: TopicTable,
    ) -> Addr<NameServerLink> {
        let plan = &self.plan;
        let mut config = NameServerLinkConfig::master(
            plan.name_servers.clone(),
            &plan.cluster,
            &plan.broker_name,
            &plan.advertised.to_string(),
        );
        config.register_period = plan.register_interval;
        config.register_timeout = plan.register_timeout;
        config.heartbeat_timeout = plan.expiry;
        config.dial = plan.dial.clone();
        config.broker_permission = BrokerPermission::new(settings.clone(), gate.clone());
        config.ha_server_addr =
            SocketAddr::new(plan.advertised.ip(), plan.advertised.port().saturating_add(1)).to_string();
        self.threads.actors.start_on(&self.threads.members, "", move || NameServerLink::new(config, table))
    }

    pub fn start_topics(
        &self,
        stored: StoredTopics,
        link: &Addr<NameServerLink>,
        offsets: &Addr<ConsumerOffsets>,
    ) -> Result<Addr<Topics>, StartError> {
        let StoredTopics { loaded, config, starter } = stored;
        let peers = TopicsPeers {
            starter,
            files: Arc::new(DiskQueueFiles {
                files: self.files.clone(),
                consume_queue_root: self.consume_queue_root(),
                compaction_root: self.plan.root.join(COMPACTION_DIR),
                known: KnownDerived::open(&self.metadata)?,
            }),
            registrar: Some(link.clone().recipient()),
            deletions: vec![offsets.clone().recipient()],
            events: self.events.clone(),
        };
        let (metadata, clock) = (self.metadata.clone(), self.clock.clone());
        Ok(self
            .threads
            .actors
            .start_on(&self.threads.settings, "", move || loaded.into_actor(metadata, config, peers, clock)))
    }
}

/// Queue files on disk, for the topics.
struct DiskQueueFiles {
    files: Arc<dyn StoreFiles>,
    consume_queue_root: PathBuf,
    compaction_root: PathBuf,
    known: KnownDerived,
}

impl QueueFiles for DiskQueueFiles {
    fn delete_topic(&self, topic: &TopicName) -> io::Result<()> {
        // First what is known of them, or the next start would miss them.
        self.known.forget_topic(topic).map_err(io::Error::other)?;
        self.files.remove_dir_all(&self.consume_queue_root.join(topic.as_str()))?;
        [LOG_DIR, INDEX_DIR].iter().try_for_each(|dir| {
            self.files.remove_dir_all(&self.compaction_root.join(dir).join(topic.as_str()))
        })
    }

    fn topics(&self) -> io::Result<Vec<TopicName>> {
        let listed = list_queues(&*self.files, &self.consume_queue_root).map_err(io::Error::other)?;
        Ok(listed.into_keys().collect())
    }
}

/// Starts queues on the workers in turn. Actors that start before `parts` are known may ask for queues already; such a
/// queue holds its worker until they are.
fn queue_starter(
    parts: Arc<OnceLock<Arc<QueueParts>>>,
    workers: Vec<Thread>,
    actors: ActorList,
) -> QueueStarter {
    let next = AtomicUsize::new(0);
    Arc::new(move |topic: &TopicEntry, queue_id: QueueId| {
        let worker = &workers[next.fetch_add(1, Ordering::Relaxed) % workers.len()];
        let (parts, name, is_compacted) = (parts.clone(), topic.name().clone(), topic.is_compacted());
        actors.start_on(worker, format!("{name}/{}", queue_id.0), move || {
            TopicQueue::new(name, queue_id, is_compacted, parts.wait().clone())
        })
    })
}

/// What the broker was started with, under the names mqadmin shows.
fn fixed_settings(plan: &BrokerPlan) -> BTreeMap<&'static str, String> {
    let listen_port = plan.advertised.port();
    [
        ("brokerClusterName", plan.cluster.clone()),
        ("brokerIP1", plan.advertised.ip().to_string()),
        ("brokerIP2", plan.advertised.ip().to_string()),
        ("brokerId", "0".to_owned()),
        ("brokerName", plan.broker_name.to_string()),
        ("brokerRole", "ASYNC_MASTER".to_owned()),
        ("flushDiskType", flush_disk_type(plan.flush).to_owned()),
        ("haListenPort", listen_port.saturating_add(1).to_string()),
        ("listenPort", listen_port.to_string()),
        ("mappedFileSizeCommitLog", plan.commit_log_segment_bytes.to_string()),
        ("maxMessageSize", plan.max_body_bytes.to_string()),
        ("namesrvAddr", plan.name_servers.join(";")),
        ("storePathRootDir", show(&plan.root)),
        ("storePathCommitLog", show(&plan.root.join("commitlog"))),
        ("traceTopicEnable", plan.trace_topic.is_some().to_string()),
    ]
    .into()
}

fn flush_disk_type(mode: FlushMode) -> &'static str {
    match mode {
        FlushMode::Async => "ASYNC_FLUSH",
        FlushMode::Sync => "SYNC_FLUSH",
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::requests::testing::queue_parts;
    use crate::actors::topic_queue::QueryExtent;
    use crate::protocol::topic_config::TopicConfig;
    use crate::types::QueueOffset;

    #[actix::test]
    async fn queue_that_is_asked_for_early_waits_for_its_parts() {
        let (parts, worker) = (Arc::new(OnceLock::new()), Arbiter::new());
        let starter =
            queue_starter(parts.clone(), vec![Thread::Arbiter(worker.handle())], ActorList::default());
        let orders = TopicEntry::new(TopicConfig::new("orders", 1), None, starter.clone());
        let queue = starter(&orders, QueueId(0));
        let extent = queue.send(QueryExtent);
        assert!(parts.set(Arc::new(queue_parts())).is_ok());
        assert_eq!(extent.await.unwrap().max, QueueOffset(0));
        worker.stop();
    }
}

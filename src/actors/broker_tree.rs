//! Starts and stops the actors of a broker: who is made before whom, and who ends after whom.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;
use thiserror::Error;
use tracing::{info, warn};

use super::broker_plan::BrokerPlan;
use super::broker_service::BrokerService;
use super::broker_settings::{BrokerSettings, BrokerSettingsConfig};
use super::broker_stats::{BrokerStats, BrokerStatsConfig, StoreCounters};
use super::commit_log_writer::{CommitLogWriter, PublishedSignal};
use super::consumer_group::ConsumerGroupConfig;
use super::consumer_groups::{ConsumerDirectory, ConsumerGroups, ConsumerGroupsConfig};
use super::consumer_offsets::{ConsumerOffsets, OffsetsConfig};
use super::dead_letter_replay::{DeadLetterReplay, DeadLetterReplayParts};
use super::dedup_window::{DedupStarter, DedupWindowParts};
use super::delay_scheduler::{DelayScheduler, DelaySchedulerParts, StartDelivery};
use super::dispatcher::{CatchUp, DispatchTo, Dispatcher, DispatcherParts};
use super::facts::{FactsSource, Progress};
use super::flusher::{DiskFailed, Flusher, FlusherParts};
use super::key_index::KeyIndex;
use super::message_expiry::MessageExpiry;
use super::name_server_link::{NameServerLink, NameServerLinkConfig, RegisterAll, Unregister};
use super::producers::{Producers, ProducersConfig};
use super::read_queues::{ReadQueues, ReadQueuesConfig};
use super::requests::pull::PullOwners;
use super::requests::send::SendRules;
use super::requests::timers::TimerOwners;
use super::retention::{Retention, RetentionParts};
use super::retry_router::{RetryRouter, RetryRouterParts};
use super::router::BrokerRouter;
use super::send_gate::{BrokerPermission, SendGate};
use super::settling::Settling;
use super::subscription_groups::{GroupSettings, SubscriptionGroups, SubscriptionGroupsConfig};
use super::threads::Threads;
use super::timer_scheduler::{TimerScheduler, TimerSchedulerParts};
use super::topic_queue::{ContinueAt, QueryKnown, QueueParts, TopicQueue, WakeHolds};
use super::topic_table::{QueueStarter, TopicTable};
use super::topics::{LoadedTopics, QueueFiles, TopicRules, Topics, TopicsConfig, TopicsPeers};
use super::transaction_checker::{
    HalvesPlan, OldestHalf, StartChecks, TransactionChecker, TransactionCheckerParts, restore,
};
use crate::client::{ConnectOptions, Servers};
use crate::clock::SharedClock;
use crate::store::consume_queue::list_queues;
use crate::store::file::StoreFiles;
use crate::store::java_import::JavaTimers;
use crate::store::known_derived::KnownDerived;
use crate::store::metadata::{Metadata, MetadataError};
use crate::store::opening::{OpenError, OpenedStore, StorePlan, open_store};
use crate::store::recovery_progress::RecoveryProgress;
use crate::store::store_lock::AbortFile;
use crate::types::{FlushMode, QueueId, QueueOffset, TopicName};

/// Between two looks at how far deriving has come.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

/// Why a broker did not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot use the store in {}: {source}", root.display())]
    Files { root: PathBuf, source: io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    JavaStore(#[from] crate::store::java_import::JavaImportError),
    #[error("{0} ended while the broker started")]
    ActorEnded(&'static str),
}

/// A running broker.
pub struct BrokerTree {
    pub service: Arc<BrokerService>,
    pub topics: TopicTable,
    gate: SendGate,
    settling: Settling,
    link: Addr<NameServerLink>,
    files: Arc<dyn StoreFiles>,
    root: PathBuf,
}

/// Queue files on disk, for the topics.
struct DiskQueueFiles {
    files: Arc<dyn StoreFiles>,
    consume_queue_root: PathBuf,
    known: KnownDerived,
}

impl QueueFiles for DiskQueueFiles {
    fn delete_topic(&self, topic: &TopicName) -> io::Result<()> {
        // First what is known of them, or the next start would miss them.
        self.known.forget_topic(topic).map_err(io::Error::other)?;
        self.files.remove_dir_all(&self.consume_queue_root.join(topic.as_str()))
    }

    fn topics(&self) -> io::Result<Vec<TopicName>> {
        let listed = list_queues(&*self.files, &self.consume_queue_root).map_err(io::Error::other)?;
        Ok(listed.into_keys().collect())
    }
}

impl BrokerTree {
    /// Opens the store and starts every actor. Returns once all that was stored is readable; nothing listens yet.
    pub async fn start(
        plan: BrokerPlan,
        threads: &Threads,
        files: Arc<dyn StoreFiles>,
        metadata: Metadata,
        failed: Recipient<DiskFailed>,
        clock: SharedClock,
        recovery: &RecoveryProgress,
    ) -> Result<Self, StartError> {
        let root = plan.root.clone();
        let at_root = |source| StartError::Files { root: root.clone(), source };
        crate::store::java_import::import_once(&*files, &root, &metadata)?;

        // -- the store
        let known = KnownDerived::open(&metadata)?;
        let store_plan = StorePlan {
            files: files.clone(),
            root: root.clone(),
            segment_bytes: plan.commit_log_segment_bytes,
            units: plan.queue.units,
            key_index: plan.key_index,
        };
        // Away from this thread, which answers clients meanwhile.
        let opening = {
            let recovery = recovery.clone();
            tokio::task::spawn_blocking(move || (open_store(&store_plan, &known, &recovery), known))
        };
        let (opened, known) = opening.await.map_err(|_| StartError::ActorEnded("the recovery"))?;
        let OpenedStore {
            log,
            recovered,
            check_point_file,
            check_point,
            key_index,
            timers,
            missing,
            derive_from,
        } = opened?;
        let reader = log.reader.clone();
        // A start that was refused before has left the store as cleanly stopped as it was.
        AbortFile::create(&*files, &root).map_err(at_root)?;

        // -- settings and topics
        let gate = SendGate::default();
        let settings_config = BrokerSettingsConfig {
            initial: plan.settings.clone(),
            fixed: fixed_settings(&plan),
            mailbox_capacity: plan.mailbox_capacity,
        };
        let (settings, settings_table) =
            BrokerSettings::load(metadata.clone(), settings_config, clock.clone())?;
        let (groups, group_table) = SubscriptionGroups::load(
            metadata.clone(),
            settings_table.clone(),
            SubscriptionGroupsConfig::default(),
            clock.clone(),
        )?;
        let groups = SubscriptionGroups::start_in_arbiter(&threads.groups.handle(), move |_| groups);
        let offsets_config = OffsetsConfig {
            flush_interval: plan.offsets_flush_interval,
            flush_mode: plan.offsets_flush_mode,
            ..OffsetsConfig::default()
        };
        let offsets = ConsumerOffsets::load(metadata.clone(), offsets_config, clock.clone())?;
        let resets = offsets.pending_resets();
        let offsets = ConsumerOffsets::start_in_arbiter(&threads.offsets.handle(), move |_| offsets);
        let (consumers, consumer_table) = ConsumerGroups::new(ConsumerGroupsConfig {
            group: ConsumerGroupConfig { filter: plan.filter, ..ConsumerGroupConfig::default() },
            ..ConsumerGroupsConfig::default()
        });
        let consumers = ConsumerGroups::start_in_arbiter(&threads.members.handle(), move |_| consumers);
        let producers = Producers::start_in_arbiter(&threads.members.handle(), |_| {
            Producers::new(ProducersConfig::default())
        });
        let read_queues = {
            let name_servers = plan.name_servers.join(";");
            let servers = Servers::new(&name_servers, ConnectOptions::default(), plan.register_timeout);
            ReadQueues::start_in_arbiter(&threads.members.handle(), move |_| {
                ReadQueues::new(servers, ReadQueuesConfig::default())
            })
        };
        let queue_parts: Arc<OnceLock<QueueParts>> = Arc::new(OnceLock::new());
        let starter = queue_starter(queue_parts.clone(), threads.worker_handles());
        let rules = TopicRules {
            cluster: plan.cluster.clone(),
            broker: plan.broker_name.clone(),
            mixed_message_type: plan.mixed_message_types,
        };
        let current = settings_table.load();
        let topics_config = TopicsConfig {
            rules: rules.clone(),
            auto_create: current.auto_create_topic,
            permission: current.permission,
            default_queue_nums: current.default_topic_queue_nums,
            trace_topic: plan.trace_topic.clone(),
            delay_levels: plan.delay_levels.max_level() as u32,
            registration_wait_max: Duration::from_secs(3),
            mailbox_capacity: plan.mailbox_capacity,
        };
        drop(current);
        let loaded = LoadedTopics::load(&metadata, &topics_config, &starter, &clock)?;
        let table = loaded.table.clone();
        let expiry = MessageExpiry::new(table.clone(), clock.clone());

        // -- counters
        let counters = Arc::new(StoreCounters::default());
        let stats_config = BrokerStatsConfig {
            mailbox_capacity: 64 * 1024,
            utc_offset_ms: chrono::Local::now().offset().local_minus_utc() as i64 * 1000,
        };
        let stats = {
            let (clock, counters) = (clock.clone(), counters.clone());
            BrokerStats::start_in_arbiter(&threads.members.handle(), move |_| {
                BrokerStats::new(stats_config, clock, counters)
            })
        };

        // -- the way of a message, from its end to its beginning
        let key_index = key_index.map(|index| {
            let capacity = plan.mailbox_capacity;
            KeyIndex::start_in_arbiter(&threads.index.handle(), move |_| KeyIndex::new(index, capacity))
        });
        let link = {
            let advertised = plan.advertised.to_string();
            let mut config = NameServerLinkConfig::master(
                plan.name_servers.clone(),
                &plan.cluster,
                &plan.broker_name,
                &advertised,
            );
            config.register_period = plan.register_interval;
            config.register_timeout = plan.register_timeout;
            config.heartbeat_timeout = plan.expiry;
            config.broker_permission = BrokerPermission::new(settings_table.clone(), gate.clone());
            config.ha_server_addr =
                SocketAddr::new(plan.advertised.ip(), plan.advertised.port().saturating_add(1)).to_string();
            let table = table.clone();
            NameServerLink::start_in_arbiter(&threads.members.handle(), move |_| {
                NameServerLink::new(config, table)
            })
        };
        let topics = {
            let peers = TopicsPeers {
                starter,
                files: Arc::new(DiskQueueFiles {
                    files: files.clone(),
                    consume_queue_root: root.join("consumequeue"),
                    known: KnownDerived::open(&metadata)?,
                }),
                registrar: Some(link.clone().recipient()),
                deletions: vec![offsets.clone().recipient()],
            };
            let (metadata, clock) = (metadata.clone(), clock.clone());
            Topics::start_in_arbiter(&threads.settings.handle(), move |_| {
                loaded.into_actor(metadata, topics_config, peers, clock)
            })
        };
        let retry_router = {
            let parts = RetryRouterParts {
                log: reader.clone(),
                topics: table.clone(),
                ensure_topic: topics.clone().recipient(),
                delay_levels: plan.delay_levels.clone(),
                timer_delay_max: plan.timers.enabled.then_some(plan.timers.max_delay),
                clock: clock.clone(),
                flush: plan.flush,
                store_host: plan.advertised,
                mailbox_capacity: plan.mailbox_capacity,
            };
            let handle = &threads.worker_handles()[0];
            RetryRouter::start_in_arbiter(handle, move |_| RetryRouter::new(parts))
        };
        let delays = {
            let parts = DelaySchedulerParts {
                log: reader.clone(),
                topics: table.clone(),
                delivered: metadata.delay_offsets()?,
                delay_levels: plan.delay_levels.clone(),
                flush: plan.flush,
                store_host: plan.advertised,
                clock: clock.clone(),
                mailbox_capacity: plan.mailbox_capacity,
                save_interval: plan.offsets_flush_interval,
            };
            let handle = &threads.worker_handles()[0];
            DelayScheduler::start_in_arbiter(handle, move |_| DelayScheduler::new(parts))
        };
        let signal = PublishedSignal::default();
        let progress = Progress::default();
        progress.set_flushed(recovered.log_end);
        let halves_plan = HalvesPlan {
            files: files.clone(),
            consume_queue_root: root.join("consumequeue"),
            units: plan.queue.units,
            metadata: metadata.clone(),
            log: reader.clone(),
            until: derive_from.end,
            timeout: settings_table.load().transaction_timeout,
        };
        let oldest_half = OldestHalf::default();
        let transactions = {
            let halves = tokio::task::spawn_blocking(move || restore(&halves_plan));
            let halves = halves.await.map_err(|_| StartError::ActorEnded("reading transactions"))??;
            let parts = TransactionCheckerParts {
                oldest: oldest_half.clone(),
                log: reader.clone(),
                topics: table.clone(),
                ensure_topic: topics.clone().recipient(),
                producers: producers.clone().recipient(),
                producer_joins: producers.clone().recipient(),
                settings: settings_table.clone(),
                kept: metadata.open_halves()?,
                progress: progress.clone(),
                flush: plan.flush,
                broker_name: plan.broker_name.clone(),
                store_host: plan.advertised,
                clock: clock.clone(),
                mailbox_capacity: plan.mailbox_capacity,
                save_interval: plan.offsets_flush_interval,
            };
            let workers = threads.worker_handles();
            let handle = &workers[workers.len() - 1];
            TransactionChecker::start_in_arbiter(handle, move |_| TransactionChecker::new(halves, parts))
        };
        let timers = {
            let parts = TimerSchedulerParts {
                pending: timers,
                log: reader.clone(),
                topics: table.clone(),
                progress: progress.clone(),
                java: JavaTimers::imported(&metadata)?,
                flush: plan.flush,
                store_host: plan.advertised,
                clock: clock.clone(),
                mailbox_capacity: plan.mailbox_capacity,
            };
            TimerScheduler::start_in_arbiter(&threads.timers.handle(), move |_| TimerScheduler::new(parts))
        };
        let dispatcher = {
            let parts = DispatcherParts {
                log: reader.clone(),
                signal: signal.clone(),
                topics: table.clone(),
                key_index: key_index.clone().map(Addr::recipient),
                scheduled: Some(delays.clone().recipient()),
                transactions: Some(transactions.clone().recipient()),
                timers: Some(timers.clone().recipient()),
                delay_levels: plan.delay_levels.clone(),
                flush: plan.flush,
                progress: progress.clone(),
                catch_up: CatchUp::of(&missing, recovered.dispatch_from),
                damaged: recovered.damaged.iter().map(|damaged| damaged.at).collect(),
                mailbox_capacity: plan.mailbox_capacity,
            };
            Dispatcher::start_in_arbiter(&threads.dispatcher_handle(), move |_| {
                Dispatcher::new(parts, derive_from)
            })
        };
        let flusher = {
            let parts = FlusherParts {
                files: files.clone(),
                log: reader.clone(),
                preparer: log.preparer,
                failed,
                dispatch: dispatcher.clone().recipient(),
                check_point_file,
                check_point,
                known: KnownDerived::open(&metadata)?,
                dispatcher: dispatcher.clone().recipient(),
                key_index: key_index.clone().map(Addr::recipient),
                timers: Some(timers.clone().recipient()),
                progress: progress.clone(),
                config: plan.flusher,
            };
            let flushed = recovered.log_end;
            Flusher::start_in_arbiter(&threads.flusher_handle(), move |_| Flusher::new(parts, flushed))
        };
        let writer = {
            let (appender, dispatcher) = (log.appender, dispatcher.clone().recipient());
            let flusher = flusher.clone().recipient();
            let (clock, capacity) = (clock.clone(), plan.writer_mailbox_capacity);
            CommitLogWriter::start_in_arbiter(&threads.writer.handle(), move |_| {
                CommitLogWriter::new(appender, dispatcher, flusher, signal, clock, capacity)
            })
        };
        let set = queue_parts.set(QueueParts {
            files: files.clone(),
            consume_queue_root: root.join("consumequeue"),
            log: reader.clone(),
            writer: writer.clone().recipient(),
            store_host: plan.advertised,
            config: plan.queue,
            truncate_at: None,
            counters,
            stats: stats.clone().recipient(),
            expiry: expiry.clone(),
            losses: Some(offsets.clone().recipient()),
        });
        debug_assert!(set.is_ok(), "set once, before any queue starts");

        // -- what was stored and not derived yet
        let mut deriving = Box::pin(dispatcher.send(DispatchTo(recovered.log_end)));
        let derived = loop {
            match tokio::time::timeout(PROGRESS_PAUSE, &mut deriving).await {
                Ok(derived) => break derived,
                Err(_still_under_way) => {
                    recovery.derived(progress.dispatched().0.saturating_sub(derive_from.end.0));
                }
            }
        };
        derived.map_err(|_| StartError::ActorEnded("the dispatcher"))?;
        continue_numbers(&missing.numbers, &table, &known).await?;
        delays.send(StartDelivery).await.map_err(|_| StartError::ActorEnded("the delay scheduler"))?;
        transactions
            .send(StartChecks)
            .await
            .map_err(|_| StartError::ActorEnded("the transaction checker"))?;
        timers.send(StartDelivery).await.map_err(|_| StartError::ActorEnded("the timer scheduler"))?;

        let retention = {
            let parts = RetentionParts {
                files: files.clone(),
                root: root.clone(),
                log: reader.clone(),
                topics: table.clone(),
                queue_files: plan.queue.units,
                positions: progress.clone(),
                consumers: consumer_table.clone(),
                offsets: offsets.clone(),
                delivered: metadata.delay_offsets()?,
                oldest_half,
                timers: timers.clone().recipient(),
                retires: writer.clone().recipient(),
                refusals: writer.clone().recipient(),
                key_index: key_index.clone().map(Addr::recipient),
                rules: plan.retention.clone(),
                clock: clock.clone(),
                interval: plan.retention_interval,
                mailbox_capacity: plan.mailbox_capacity,
            };
            Retention::start_in_arbiter(&threads.settings.handle(), move |_| Retention::new(parts))
        };
        let replays = {
            let replays = DeadLetterReplay::load(DeadLetterReplayParts {
                log: reader.clone(),
                topics: table.clone(),
                ensure_topic: topics.clone().recipient(),
                metadata: metadata.clone(),
                filter_rules: plan.filter,
                store_host: plan.advertised,
                clock: clock.clone(),
                mailbox_capacity: plan.mailbox_capacity,
            })?;
            DeadLetterReplay::start_in_arbiter(&threads.settings.handle(), move |_| replays)
        };
        let settings = {
            let settings = settings.tell(topics.clone().recipient()).tell(retention.clone().recipient());
            BrokerSettings::start_in_arbiter(&threads.settings.handle(), move |_| settings)
        };

        let settling = Settling {
            writer,
            dispatcher,
            flusher,
            delays,
            transactions: transactions.clone(),
            offsets: offsets.clone(),
            metadata,
        };
        let router = BrokerRouter {
            topics: table.clone(),
            ensure_topic: topics.clone().recipient(),
            broker_addr: plan.advertised.to_string(),
            topics_actor: topics,
            topic_rules: rules,
            settings: settings_table.clone(),
            settings_actor: settings,
            stats,
            transactions,
            facts: FactsSource {
                progress,
                log: reader.clone(),
                files: files.clone(),
                root: root.clone(),
                started_at: clock.now(),
                writer_capacity: plan.writer_mailbox_capacity,
            },
            key_index,
            retention,
            expiry,
            retry_router,
            timers: TimerOwners {
                scheduler: timers.clone(),
                dispatcher: settling.dispatcher.clone(),
                log: reader.clone(),
                rules: plan.timers.clone(),
            },
            pulls: PullOwners {
                settings: settings_table.clone(),
                groups: GroupSettings::new(group_table, groups.clone().recipient()),
                consumers: consumer_table.clone(),
                offsets: offsets.clone(),
                resets,
                filter_rules: plan.filter,
            },
            replays,
            dedup: DedupStarter {
                parts: DedupWindowParts {
                    log: reader.clone(),
                    store_host: plan.advertised,
                    clock: clock.clone(),
                    mailbox_capacity: plan.queue.mailbox_capacity,
                },
                thread: threads.worker_handles()[0].clone(),
            },
            read_queues: read_queues.recipient(),
            consumers: ConsumerDirectory::new(consumer_table, consumers.recipient()),
            producers,
            groups_actor: groups,
            gate: gate.clone(),
            settling: settling.clone(),
            log: reader,
            delay_levels: plan.delay_levels.clone(),
            clock,
        };
        let send_rules = SendRules::new(
            plan.max_body_bytes,
            plan.advertised,
            &plan.cluster,
            plan.delay_levels.clone(),
            plan.timers.clone(),
            plan.flush,
        );
        let service = Arc::new(BrokerService::new(Arc::new(router), Arc::new(send_rules), gate.clone()));
        Ok(Self { service, topics: table, gate, settling, link, files, root })
    }

    /// Registers with the name servers: clients find this broker from now on. Returns when those that answer have it.
    pub async fn register(&self) {
        match self.link.send(RegisterAll).await {
            Ok(registered) => info!(?registered, "registered with the name servers"),
            Err(_) => warn!("the link with the name servers has ended"),
        }
    }

    /// Keeps what there is of the queues now: retention may have been there since their last check point.
    async fn note_queues(&self) {
        let mut queues = Vec::new();
        for entry in self.topics.load_full().topics.values() {
            for (_, queue) in entry.started_queues() {
                // What is not known anew stays known as it was.
                queues.extend(queue.send(QueryKnown).await.ok().and_then(Result::ok));
            }
        }
        let saved = KnownDerived::open(&self.settling.metadata).and_then(|known| known.save(&queues, None));
        if let Err(error) = saved {
            warn!(%error, "the next start may derive queues again that are whole");
        }
    }

    /// Ends the broker so that the next start has nothing to check. Listeners have stopped before.
    pub async fn stop(self) {
        self.gate.stop();
        // A link that ended already has nothing left to do.
        let _ = self.link.send(Unregister).await;
        for entry in self.topics.load().topics.values() {
            for (_, queue) in entry.started_queues() {
                queue.do_send(WakeHolds);
            }
        }
        match self.settling.settle().await {
            Ok(()) => {
                self.note_queues().await;
                if let Err(error) = AbortFile::remove(&*self.files, &self.root) {
                    warn!(%error, "the next start will check the log: the file abort cannot be removed");
                }
            }
            Err(cause) => warn!(cause, "the next start will check the log"),
        }
    }
}

/// Lets queues go on with their numbers where their files, derived anew, may not tell.
async fn continue_numbers(
    numbers: &[(TopicName, QueueId, QueueOffset)],
    topics: &TopicTable,
    known: &KnownDerived,
) -> Result<(), StartError> {
    let (mut continued, mut gone) = (Vec::new(), Vec::new());
    for (topic, queue_id, next) in numbers {
        let entry = topics.get(topic);
        let Some(queue) = entry.as_ref().and_then(|entry| entry.queue(*queue_id)) else {
            gone.push((topic, *queue_id));
            continue;
        };
        match queue.send(ContinueAt { next: *next }).await {
            Ok(Ok(known)) => continued.push(known),
            Ok(Err(error)) => {
                warn!(%topic, queue_id = queue_id.0, error, "queue cannot go on with its numbers yet")
            }
            Err(_) => return Err(StartError::ActorEnded("a queue")),
        }
    }
    if !numbers.is_empty() {
        known.forget(gone)?;
        known.save(&continued, None)?;
    }
    Ok(())
}

/// Starts queues on the workers in turn. Actors that start before `parts` are known may ask for queues already; such a
/// queue holds its worker until they are.
fn queue_starter(parts: Arc<OnceLock<QueueParts>>, workers: Vec<ArbiterHandle>) -> QueueStarter {
    let next = AtomicUsize::new(0);
    Arc::new(move |topic: &TopicName, queue_id: QueueId| {
        let worker = &workers[next.fetch_add(1, Ordering::Relaxed) % workers.len()];
        let (parts, topic) = (parts.clone(), topic.clone());
        TopicQueue::start_in_arbiter(worker, move |_| TopicQueue::new(topic, queue_id, parts.wait().clone()))
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
    use super::super::requests::testing::queue_parts;
    use super::super::topic_queue::QueryExtent;
    use super::*;
    use crate::types::QueueOffset;

    #[actix::test]
    async fn queue_that_is_asked_for_early_waits_for_its_parts() {
        let (parts, worker) = (Arc::new(OnceLock::new()), Arbiter::new());
        let starter = queue_starter(parts.clone(), vec![worker.handle()]);
        let queue = starter(&"orders".into(), QueueId(0));
        let extent = queue.send(QueryExtent);
        assert!(parts.set(queue_parts()).is_ok());
        assert_eq!(extent.await.unwrap().max, QueueOffset(0));
        worker.stop();
    }
}

//! Starts and stops the actors of a broker: who is made before whom, and who ends after whom.

mod extensions;
mod ground;
mod log_line;
mod owners;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use actix::prelude::*;
use extensions::{ExtensionGround, RunningExtensions};
use ground::Ground;
use log_line::{Deliveries, LogLine, LogOwnership, LogView, Underived};
use owners::{KnownTopics, Owners};
use thiserror::Error;
use tracing::{info, warn};

use super::broker_plan::BrokerPlan;
use super::broker_service::BrokerService;
use super::broker_stats::BrokerStats;
use super::compactor::{Compactor, StopCompacting};
use super::consumer_groups::ConsumerDirectory;
use super::dead_letter_replay::DeadLetterReplay;
use super::dedup_window::{DedupStarter, DedupWindowParts};
use super::extensions::delivery_screen::DeliveryScreen;
use super::extensions::hook_table::HookTable;
use super::extensions::hooks::{ExtensionError, ExtensionPlan};
use super::extensions::stream::EventTap;
use super::facts::{FactsSource, Progress};
use super::flusher::DiskFailed;
use super::name_server_link::{NameServerLink, RegisterAll, Unregister};
use super::requests::pull::PullOwners;
use super::requests::send::SendRules;
use super::requests::timers::TimerOwners;
use super::retention::Retention;
use super::router::BrokerRouter;
use super::send_gate::SendGate;
use super::settling::Settling;
use super::subscription_groups::GroupSettings;
use super::threads::Threads;
use super::topic_queue::{QueryKnown, WakeHolds};
use super::topic_table::TopicTable;
use crate::clock::SharedClock;
use crate::store::commit_log::CommitLog;
use crate::store::file::StoreFiles;
use crate::store::known_derived::KnownDerived;
use crate::store::metadata::{Metadata, MetadataError};
use crate::store::opening::{OpenError, OpenedStore};
use crate::store::recovery_progress::RecoveryProgress;
use crate::store::store_lock::AbortFile;

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
    #[error("extension {name} cannot start: {error}")]
    Extension { name: &'static str, error: ExtensionError },
    #[error("cannot listen on {addr}: {source}")]
    Http { addr: SocketAddr, source: io::Error },
    #[error("{0} ended while the broker started")]
    ActorEnded(&'static str),
}

/// A running broker.
pub struct BrokerTree {
    pub service: Arc<BrokerService>,
    pub topics: TopicTable,
    pub facts: FactsSource,
    pub extensions: RunningExtensions,
    gate: SendGate,
    settling: Settling,
    compactor: Addr<Compactor>,
    link: Addr<NameServerLink>,
    files: Arc<dyn StoreFiles>,
    root: PathBuf,
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
        let ground = Ground { plan, threads, files, metadata, clock, events: EventTap::default() };
        let (store, known) = ground.open_store(recovery).await?;
        let OpenedStore { log, file_system, recovered, check_point_file, check_point, .. } = store;
        let CommitLog { appender, reader, preparer } = log;
        let underived = Underived {
            recovered,
            missing: store.missing,
            from: store.derive_from,
            compacted: store.compacted,
        };

        // Who decides what there is.
        let gate = SendGate::default();
        let administration = ground.start_administration()?;
        let clients = ground.start_clients(&administration.group_table)?;
        let (stored, topics) = ground.load_topics(&administration.settings_table)?;
        let figures = ground.start_figures();
        let key_index = ground.start_key_index(store.key_index);
        let link = ground.start_link(&gate, &administration.settings_table, topics.table.clone());
        let topics_actor = ground.start_topics(stored, &link, &clients.offsets)?;
        let owners = Owners { administration, clients, topics: topics_actor };

        // The way of a message, from its end to its beginning.
        let (table, progress) = (topics.table.clone(), Progress::default());
        let log = LogView { reader, topics: table, progress, key_index, file_system };
        log.progress.set_flushed(underived.recovered.log_end);
        let deliveries = ground.start_deliveries(&log, &owners, store.timers, underived.from.end).await?;
        let owned = LogOwnership { appender, preparer, check_point_file, check_point };
        let line = ground.start_log_line(&log, &deliveries, &underived, owned, failed)?;
        ground.open_queues(&log, &line, &topics, &figures, &owners.clients.offsets, underived.compacted);

        // What was stored and not derived yet; then those who look after what is there.
        ground.derive(&log, &line, &underived, (recovery, &known)).await?;
        let compactor = ground.start_compactor(&log, &line).await?;
        deliveries.begin().await?;
        let retention = ground.start_retention(&log, &line, &deliveries, &compactor, &owners.clients)?;
        let replays = ground.start_replays(&log, &owners.topics)?;

        let society = Society {
            owners,
            topics,
            log,
            deliveries,
            line,
            compactor,
            retention,
            replays,
            stats: figures.stats,
        };
        let (mut tree, ground, plans) = society.into_tree(ground, gate, link);
        tree.extensions = ground.start(plans).await?;
        Ok(tree)
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
    pub async fn stop(mut self) {
        self.gate.stop();
        // A link that ended already has nothing left to do.
        let _ = self.link.send(Unregister).await;
        for entry in self.topics.load().topics.values() {
            for (_, queue) in entry.started_queues() {
                queue.do_send(WakeHolds);
            }
        }
        std::mem::take(&mut self.extensions).stop().await;
        let settled = self.settling.settle().await;
        // A compactor that ended has nothing to finish.
        let _ = self.compactor.send(StopCompacting).await;
        match settled {
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

/// Everyone who was started.
struct Society {
    owners: Owners,
    topics: KnownTopics,
    log: LogView,
    deliveries: Deliveries,
    line: LogLine,
    compactor: Addr<Compactor>,
    retention: Addr<Retention>,
    replays: Addr<DeadLetterReplay>,
    stats: Addr<BrokerStats>,
}

impl Society {
    /// Starts the settings, whose listeners are all there now, and makes the tables that requests are served by.
    /// Extensions, which need them, come last.
    fn into_tree(
        self,
        ground: Ground<'_>,
        gate: SendGate,
        link: Addr<NameServerLink>,
    ) -> (BrokerTree, ExtensionGround, Vec<ExtensionPlan>) {
        let Self { owners, topics, log, deliveries, line, compactor, retention, replays, stats } = self;
        let Owners { administration, clients, topics: topics_actor } = owners;
        let Ground { plan, threads, files, metadata, clock, events } = ground;
        let (groups, hooks) = (administration.group_table.clone(), HookTable::default());
        let screen = {
            let (hooks, capacity) = (hooks.clone(), plan.queue.mailbox_capacity);
            threads.actors.start_on(&threads.members, "", move || DeliveryScreen::new(hooks, capacity))
        };
        let settings = administration.settings;
        let settings = settings.tell(topics_actor.clone().recipient()).tell(retention.clone().recipient());
        let settings = threads.actors.start_on(&threads.settings, "", move || settings);
        let settling = Settling {
            writer: line.writer,
            dispatcher: line.dispatcher,
            flusher: line.flusher,
            delays: deliveries.delays,
            transactions: deliveries.transactions.clone(),
            offsets: clients.offsets.clone(),
            metadata,
            progress: log.progress.clone(),
        };
        let facts = FactsSource {
            progress: log.progress,
            log: log.reader.clone(),
            files: files.clone(),
            root: plan.root.clone(),
            started_at: clock.now(),
            writer_capacity: plan.writer_mailbox_capacity,
        };
        let router = BrokerRouter {
            actors: threads.actors.clone(),
            topics: topics.table.clone(),
            ensure_topic: topics_actor.clone().recipient(),
            broker_addr: plan.advertised.to_string(),
            topics_actor,
            topic_rules: topics.rules,
            settings: administration.settings_table.clone(),
            settings_actor: settings,
            stats,
            transactions: deliveries.transactions,
            facts: facts.clone(),
            key_index: log.key_index,
            retention,
            expiry: topics.expiry,
            retry_router: deliveries.retry_router,
            timers: TimerOwners {
                scheduler: deliveries.timers,
                dispatcher: settling.dispatcher.clone(),
                log: log.reader.clone(),
                rules: plan.timers.clone(),
            },
            pulls: PullOwners {
                settings: administration.settings_table,
                groups: GroupSettings::new(
                    administration.group_table,
                    administration.groups.clone().recipient(),
                ),
                consumers: clients.consumer_table.clone(),
                offsets: clients.offsets,
                resets: clients.resets,
                filter_rules: plan.filter,
                hooks: hooks.clone(),
                screen: screen.recipient(),
            },
            replays,
            consumed_keys: clients.consumed_keys,
            dedup: DedupStarter {
                parts: DedupWindowParts {
                    log: log.reader.clone(),
                    store_host: plan.advertised,
                    clock: clock.clone(),
                    mailbox_capacity: plan.queue.mailbox_capacity,
                },
                thread: threads.workers[0].clone(),
                actors: threads.actors.clone(),
            },
            read_queues: clients.read_queues.recipient(),
            consumers: ConsumerDirectory::new(clients.consumer_table, clients.consumers.recipient()),
            producers: clients.producers,
            groups_actor: administration.groups,
            gate: gate.clone(),
            settling: settling.clone(),
            hooks: hooks.clone(),
            events: events.clone(),
            log: log.reader,
            delay_levels: plan.delay_levels.clone(),
            clock: clock.clone(),
        };
        let send_rules = SendRules::new(
            plan.max_body_bytes,
            plan.advertised,
            &plan.cluster,
            plan.delay_levels,
            plan.timers,
            plan.flush,
        );
        let service = Arc::new(BrokerService::new(Arc::new(router), Arc::new(send_rules), gate.clone()));
        let extensions = ExtensionGround {
            service: service.clone(),
            topics: topics.table.clone(),
            groups,
            clock,
            doors: threads.workers[0].clone(),
            peer: plan.advertised,
            events,
            hooks,
            http: plan.http,
            threads: threads.extensions.clone(),
            gates: threads.members.clone(),
            actors: threads.actors.clone(),
        };
        let tree = BrokerTree {
            service,
            topics: topics.table,
            facts,
            extensions: RunningExtensions::default(),
            gate,
            settling,
            compactor,
            link,
            files,
            root: plan.root,
        };
        (tree, extensions, plan.extensions)
    }
}

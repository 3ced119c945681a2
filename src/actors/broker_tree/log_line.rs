//! The steps of a start around the log: who delivers what waits in it, who writes, flushes and derives, who keeps house.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tracing::warn;

use super::StartError;
use super::ground::Ground;
use super::owners::{Clients, Figures, KnownTopics, Owners};
use crate::actors::aside::aside;
use crate::actors::backlog_pace::BacklogPace;
use crate::actors::commit_log_writer::{
    BusyWriter, CommitLogWriter, FlushAtRest, Helpers, PublishedSignal, WriteHalf,
};
use crate::actors::compactor::{Compactor, CompactorParts, SecureCopies};
use crate::actors::consumer_offsets::ConsumerOffsets;
use crate::actors::dead_letter_replay::{DeadLetterReplay, DeadLetterReplayParts};
use crate::actors::delay_scheduler::{DelayScheduler, DelaySchedulerParts, StartDelivery};
use crate::actors::dispatcher::{CatchUp, DispatchTo, Dispatcher, DispatcherParts};
use crate::actors::facts::Progress;
use crate::actors::flusher::{DiskFailed, Flusher, FlusherParts};
use crate::actors::key_index::KeyIndex;
use crate::actors::log_flush::LogFlush;
use crate::actors::retention::{Retention, RetentionParts};
use crate::actors::retry_router::{RetryRouter, RetryRouterParts};
use crate::actors::threads::Threads;
use crate::actors::timer_scheduler::{TimerScheduler, TimerSchedulerParts};
use crate::actors::topic_queue::{CompactionParts, ContinueAt, QueueParts};
use crate::actors::topic_table::TopicTable;
use crate::actors::topics::Topics;
use crate::actors::transaction_checker::{
    HalvesPlan, OldestHalf, StartChecks, TransactionChecker, TransactionCheckerParts, restore,
};
use crate::store::commit_log::{CommitLogAppender, CommitLogReader, LogTail, SegmentPreparer};
use crate::store::compacted_log::SegmentCheck;
use crate::store::compaction_positions::CompactionPositions;
use crate::store::derived_check::Missing;
use crate::store::file::FileSystem;
use crate::store::java_import::JavaTimers;
use crate::store::key_index::KeyIndex as KeyIndexFiles;
use crate::store::known_derived::KnownDerived;
use crate::store::open_files::OpenFiles;
use crate::store::recovery::Recovered;
use crate::store::recovery_progress::RecoveryProgress;
use crate::store::store_check_point::{CheckPointFile, StoreCheckPoint};
use crate::store::timers::PendingTimers;
use crate::types::{PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Between two looks at how far deriving has come.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

/// What those around the log share.
pub struct LogView {
    pub reader: CommitLogReader,
    pub topics: TopicTable,
    pub progress: Progress,
    pub key_index: Option<Addr<KeyIndex>>,
    /// That of the consume queues.
    pub file_system: Arc<dyn FileSystem>,
}

/// Who sends again what waits in the log.
pub struct Deliveries {
    pub retry_router: Addr<RetryRouter>,
    pub delays: Addr<DelayScheduler>,
    pub transactions: Addr<TransactionChecker>,
    pub oldest_half: OldestHalf,
    pub timers: Addr<TimerScheduler>,
}

impl Deliveries {
    /// From here on what waits in the log is delivered.
    pub async fn begin(&self) -> Result<(), StartError> {
        let ended = StartError::ActorEnded;
        self.delays.send(StartDelivery).await.map_err(|_| ended("the delay scheduler"))?;
        self.transactions.send(StartChecks).await.map_err(|_| ended("the transaction checker"))?;
        self.timers.send(StartDelivery).await.map_err(|_| ended("the timer scheduler"))
    }
}

/// The way of a message behind its queue.
pub struct LogLine {
    pub writer: Addr<CommitLogWriter>,
    pub flusher: Addr<Flusher>,
    pub dispatcher: Addr<Dispatcher>,
}

/// What is to be derived from the log.
pub struct Underived {
    pub recovered: Recovered,
    pub missing: Missing,
    /// Where deriving goes on.
    pub from: LogTail,
    /// How much of compacted logs is believed.
    pub compacted: SegmentCheck,
}

/// What of the opened store has one owner.
pub struct LogOwnership {
    pub appender: CommitLogAppender,
    pub preparer: SegmentPreparer,
    pub check_point_file: CheckPointFile,
    pub check_point: StoreCheckPoint,
}

impl Ground<'_> {
    pub fn start_key_index(&self, files: Option<KeyIndexFiles>) -> Option<Addr<KeyIndex>> {
        let capacity = self.plan.mailbox_capacity;
        files.map(|index| {
            self.threads.actors.start_on(&self.threads.index, "", move || KeyIndex::new(index, capacity))
        })
    }

    pub async fn start_deliveries(
        &self,
        log: &LogView,
        owners: &Owners,
        timers: PendingTimers,
        halves_until: PhysicalOffset,
    ) -> Result<Deliveries, StartError> {
        let retry_router = self.start_retry_router(log, &owners.topics);
        let delays = self.start_delays(log)?;
        let oldest_half = OldestHalf::default();
        let transactions = self.start_transactions(log, owners, halves_until, oldest_half.clone()).await?;
        let timers = self.start_timers(log, timers)?;
        Ok(Deliveries { retry_router, delays, transactions, oldest_half, timers })
    }

    fn start_retry_router(&self, log: &LogView, topics: &Addr<Topics>) -> Addr<RetryRouter> {
        let parts = RetryRouterParts {
            events: self.events.clone(),
            log: log.reader.clone(),
            topics: log.topics.clone(),
            ensure_topic: topics.clone().recipient(),
            delay_levels: self.plan.delay_levels.clone(),
            timer_delay_max: self.plan.timers.enabled.then_some(self.plan.timers.max_delay),
            clock: self.clock.clone(),
            flush: self.plan.flush,
            store_host: self.plan.advertised,
            mailbox_capacity: self.plan.mailbox_capacity,
        };
        self.threads.actors.start_on(&self.threads.workers[0], "", move || RetryRouter::new(parts))
    }

    fn start_delays(&self, log: &LogView) -> Result<Addr<DelayScheduler>, StartError> {
        let parts = DelaySchedulerParts {
            log: log.reader.clone(),
            topics: log.topics.clone(),
            delivered: self.metadata.delay_offsets()?,
            delay_levels: self.plan.delay_levels.clone(),
            flush: self.plan.flush,
            store_host: self.plan.advertised,
            clock: self.clock.clone(),
            mailbox_capacity: self.plan.mailbox_capacity,
            save_interval: self.plan.offsets_flush_interval,
        };
        let handle = &self.threads.workers[0];
        Ok(self.threads.actors.start_on(handle, "", move || DelayScheduler::new(parts)))
    }

    async fn start_transactions(
        &self,
        log: &LogView,
        owners: &Owners,
        halves_until: PhysicalOffset,
        oldest: OldestHalf,
    ) -> Result<Addr<TransactionChecker>, StartError> {
        let settings = &owners.administration.settings_table;
        let halves_plan = HalvesPlan {
            files: self.files.clone(),
            consume_queue_root: self.consume_queue_root(),
            units: self.plan.queue.units,
            metadata: self.metadata.clone(),
            log: log.reader.clone(),
            until: halves_until,
            timeout: settings.load().transaction_timeout,
        };
        let halves = aside(move || restore(&halves_plan));
        let halves = halves.await.map_err(|_| StartError::ActorEnded("reading transactions"))??;
        let producers = &owners.clients.producers;
        let parts = TransactionCheckerParts {
            events: self.events.clone(),
            oldest,
            log: log.reader.clone(),
            topics: log.topics.clone(),
            ensure_topic: owners.topics.clone().recipient(),
            producers: producers.clone().recipient(),
            producer_joins: producers.clone().recipient(),
            settings: settings.clone(),
            kept: self.metadata.open_halves()?,
            progress: log.progress.clone(),
            flush: self.plan.flush,
            broker_name: self.plan.broker_name.clone(),
            store_host: self.plan.advertised,
            clock: self.clock.clone(),
            mailbox_capacity: self.plan.mailbox_capacity,
            save_interval: self.plan.offsets_flush_interval,
        };
        let workers = &self.threads.workers;
        let handle = &workers[workers.len() - 1];
        Ok(self.threads.actors.start_on(handle, "", move || TransactionChecker::new(halves, parts)))
    }

    fn start_timers(
        &self,
        log: &LogView,
        pending: PendingTimers,
    ) -> Result<Addr<TimerScheduler>, StartError> {
        let parts = TimerSchedulerParts {
            pending,
            log: log.reader.clone(),
            topics: log.topics.clone(),
            progress: log.progress.clone(),
            java: JavaTimers::imported(&self.metadata)?,
            flush: self.plan.flush,
            store_host: self.plan.advertised,
            clock: self.clock.clone(),
            mailbox_capacity: self.plan.mailbox_capacity,
        };
        let handle = &self.threads.timers;
        Ok(self.threads.actors.start_on(handle, "", move || TimerScheduler::new(parts)))
    }

    /// Dispatcher, flusher and writer, each knowing the one before.
    pub fn start_log_line(
        &self,
        log: &LogView,
        deliveries: &Deliveries,
        underived: &Underived,
        owned: LogOwnership,
        failed: Recipient<DiskFailed>,
    ) -> Result<LogLine, StartError> {
        let LogOwnership { appender, preparer, check_point_file, check_point } = owned;
        let signal = PublishedSignal::default();
        let dispatcher = {
            let parts = DispatcherParts {
                log: log.reader.clone(),
                signal: signal.clone(),
                topics: log.topics.clone(),
                key_index: log.key_index.clone().map(Addr::recipient),
                scheduled: Some(deliveries.delays.clone().recipient()),
                transactions: Some(deliveries.transactions.clone().recipient()),
                timers: Some(deliveries.timers.clone().recipient()),
                delay_levels: self.plan.delay_levels.clone(),
                flush: self.plan.flush,
                progress: log.progress.clone(),
                catch_up: CatchUp::of(&underived.missing, underived.recovered.dispatch_from),
                damaged: underived.recovered.damaged.iter().map(|damaged| damaged.at).collect(),
                mailbox_capacity: self.plan.mailbox_capacity,
            };
            let from = underived.from;
            self.threads.actors.start_on(&self.threads.dispatcher, "", move || Dispatcher::new(parts, from))
        };
        let flush = LogFlush::new(log.reader.clone(), log.progress.clone());
        let flusher = {
            let parts = FlusherParts {
                files: self.files.clone(),
                file_system: log.file_system.clone(),
                log: log.reader.clone(),
                flush: flush.clone(),
                preparer,
                failed,
                dispatch: dispatcher.clone().recipient(),
                check_point_file,
                check_point,
                known: KnownDerived::open(&self.metadata)?,
                dispatcher: dispatcher.clone().recipient(),
                key_index: log.key_index.clone().map(Addr::recipient),
                timers: Some(deliveries.timers.clone().recipient()),
                progress: log.progress.clone(),
                config: self.plan.flusher,
            };
            self.threads.actors.start_on(&self.threads.flusher, "", move || Flusher::new(parts))
        };
        let writer = {
            let (dispatcher, flusher) = (dispatcher.clone().recipient(), flusher.clone().recipient());
            let clock = self.clock.clone();
            let (rules, capacity) = (self.plan.busy_writer, self.plan.writer_mailbox_capacity);
            let at_rest = FlushAtRest::new(flush, flusher.clone(), dispatcher.clone(), signal.clone());
            let half = WriteHalf::new(appender, dispatcher, flusher, signal, clock);
            let Threads { actors, writer: thread, lone_writer, .. } = &self.threads;
            let helpers = lone_writer.as_ref().map(|_| Helpers {
                busy: actors.start_on(thread, "", move || BusyWriter::new(rules, capacity)),
                at_rest,
            });
            let thread = lone_writer.as_ref().unwrap_or(thread);
            actors.start_on(thread, "", move || CommitLogWriter::new(half, helpers, rules, capacity))
        };
        Ok(LogLine { writer, flusher, dispatcher })
    }

    /// Queues that were asked for go on from here.
    pub fn open_queues(
        &self,
        log: &LogView,
        line: &LogLine,
        topics: &KnownTopics,
        figures: &Figures,
        offsets: &Addr<ConsumerOffsets>,
        compacted: SegmentCheck,
    ) {
        let limit = self.plan.open_queue_files;
        let files = OpenFiles::new(self.files.clone(), log.file_system.clone(), limit);
        let set = topics.queue_parts.set(Arc::new(QueueParts {
            files: Arc::new(files),
            consume_queue_root: self.consume_queue_root(),
            log: log.reader.clone(),
            writer: line.writer.clone().recipient(),
            store_host: self.plan.advertised,
            config: self.plan.queue,
            counters: figures.counters.clone(),
            stats: figures.stats.clone().recipient(),
            expiry: topics.expiry.clone(),
            losses: Some(offsets.clone().recipient()),
            events: self.events.clone(),
            compaction: Some(CompactionParts {
                root: self.plan.root.clone(),
                sizes: self.plan.compaction.sizes,
                check: compacted,
            }),
            pace: Arc::new(BacklogPace::new(self.plan.backlog_percent, self.threads.workers.len())),
        }));
        debug_assert!(set.is_ok(), "set once, before any queue starts");
    }

    /// Has everything derived that was stored and is not yet.
    pub async fn derive(
        &self,
        log: &LogView,
        line: &LogLine,
        underived: &Underived,
        (recovery, known): (&RecoveryProgress, &KnownDerived),
    ) -> Result<(), StartError> {
        let mut deriving = Box::pin(line.dispatcher.send(DispatchTo(underived.recovered.log_end)));
        let derived = loop {
            match tokio::time::timeout(PROGRESS_PAUSE, &mut deriving).await {
                Ok(derived) => break derived,
                Err(_still_under_way) => {
                    recovery.derived(log.progress.dispatched().0.saturating_sub(underived.from.end.0));
                }
            }
        };
        derived.map_err(|_| StartError::ActorEnded("the dispatcher"))?;
        continue_numbers(&underived.missing.numbers, &log.topics, known).await
    }

    /// Opens compacted logs before anything new is stored: what they have beyond their queue is lost then.
    pub async fn start_compactor(
        &self,
        log: &LogView,
        line: &LogLine,
    ) -> Result<Addr<Compactor>, StartError> {
        let root = &self.plan.root;
        let at_root = |source| StartError::Files { root: root.clone(), source };
        let parts = CompactorParts {
            topics: log.topics.clone(),
            positions: CompactionPositions::open(self.files.clone(), root).map_err(at_root)?,
            flush: line.flusher.clone().recipient(),
            clock: self.clock.clone(),
            interval: self.plan.compaction.interval,
            memory_bytes: self.plan.compaction.memory_bytes,
            mailbox_capacity: self.plan.mailbox_capacity,
        };
        let handle = &self.threads.settings;
        let compactor = self.threads.actors.start_on(handle, "", move || Compactor::new(parts));
        compactor.send(SecureCopies).await.map_err(|_| StartError::ActorEnded("the compactor"))?;
        Ok(compactor)
    }

    pub fn start_retention(
        &self,
        log: &LogView,
        line: &LogLine,
        deliveries: &Deliveries,
        compactor: &Addr<Compactor>,
        clients: &Clients,
    ) -> Result<Addr<Retention>, StartError> {
        let parts = RetentionParts {
            events: self.events.clone(),
            files: self.files.clone(),
            root: self.plan.root.clone(),
            log: log.reader.clone(),
            topics: log.topics.clone(),
            queue_files: self.plan.queue.units,
            positions: log.progress.clone(),
            consumers: clients.consumer_table.clone(),
            offsets: clients.offsets.clone(),
            delivered: self.metadata.delay_offsets()?,
            oldest_half: deliveries.oldest_half.clone(),
            timers: deliveries.timers.clone().recipient(),
            copies: compactor.clone().recipient(),
            retires: line.writer.clone().recipient(),
            refusals: line.writer.clone().recipient(),
            key_index: log.key_index.clone().map(Addr::recipient),
            rules: self.plan.retention.clone(),
            clock: self.clock.clone(),
            interval: self.plan.retention_interval,
            mailbox_capacity: self.plan.mailbox_capacity,
        };
        Ok(self.threads.actors.start_on(&self.threads.settings, "", move || Retention::new(parts)))
    }

    pub fn start_replays(
        &self,
        log: &LogView,
        topics: &Addr<Topics>,
    ) -> Result<Addr<DeadLetterReplay>, StartError> {
        let replays = DeadLetterReplay::load(DeadLetterReplayParts {
            log: log.reader.clone(),
            topics: log.topics.clone(),
            ensure_topic: topics.clone().recipient(),
            metadata: self.metadata.clone(),
            filter_rules: self.plan.filter,
            store_host: self.plan.advertised,
            clock: self.clock.clone(),
            mailbox_capacity: self.plan.mailbox_capacity,
        })?;
        Ok(self.threads.actors.start_on(&self.threads.settings, "", move || replays))
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

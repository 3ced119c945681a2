//! Deletes what is too old, and stops writes before the disk is full.
//!
//! - Owns: a schedule; whether writes are refused; segments that left the log and whose files are still there.
//! - Takes: [`RetentionDue`], [`DeleteExpiredNow`], [`TrimQueuesNow`], [`ObserveRetention`], [`SettingsChanged`].
//! - Sends: [`RetireSegmentsBefore`] and [`RefuseWrites`] to the writer; [`LogTrimmed`] to started queues,
//!   [`TrimKeyIndex`]; [`QuerySlowest`] before anything goes early, [`MessagesGone`] for queues that nobody started;
//!   [`MoveTimers`], [`SecureCopies`].
//! - Fails: a disk that cannot be asked is logged; nothing is deleted and nothing refused for it. A file that cannot
//!   be removed is tried again in the next round, and nothing else leaves the log until it is gone.
//! - Invariants: the log is trimmed before what was derived from it; files go oldest first, one at a time, with a
//!   pause between them, on a thread that no message passes through; what a live group has not consumed goes
//!   before its time only when the disk is full.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use chrono::{Local, TimeZone, Timelike};
use futures::future::join_all;
use tracing::{info, warn};

use super::aside::aside;
use super::broker_settings::SettingsChanged;
use super::commit_log_writer::{RefuseWrites, RetireSegmentsBefore};
use super::compactor::SecureCopies;
use super::consumer_groups::ConsumerGroupTable;
use super::consumer_offsets::{
    ConsumerOffsets, ListConsumedQueues, MessagesGone, QuerySlowest, SlowestOffset,
};
use super::context::{Context, observed};
use super::extensions::events::{BrokerEvent, EventKind};
use super::extensions::stream::EventTap;
use super::facts::Progress;
use super::key_index::TrimKeyIndex;
use super::timer_scheduler::MoveTimers;
use super::topic_queue::{LocateOffset, LogTrimmed, TopicQueue};
use super::topic_table::TopicTable;
use super::transaction_checker::OldestHalf;
use crate::clock::{SharedClock, WallMs};
use crate::error::Refusal;
use crate::protocol::names::SCHEDULE_TOPIC;
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::{ConsumeQueueConfig, ConsumeQueueError, QueueGlance, queue_dir};
use crate::store::file::StoreFiles;
use crate::store::metadata::DelayOffsetTable;
use crate::store::retention::{RetentionDecision, RetentionFacts, RetentionRules, decide};
use crate::store::retired_segments::RetiredSegments;
use crate::types::{PhysicalOffset, QueueId, TopicName};

/// Longest wait between two looks at a disk that fills or is full: room is made in time, and writes are taken again
/// soon after there is some.
const TIGHT_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two files: removing a large one makes others wait for the disk. RocketMQ:
/// `deleteCommitLogFilesInterval`.
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// Looks at ages and room now. Losing it delays deletion until the next one.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct RetentionDue;

/// Deletes what is expired, whatever the hour. Answered when it has left the log; the files follow.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<SegmentsExpired, Refusal>")]
pub struct DeleteExpiredNow;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentsExpired {
    pub count: usize,
}

/// Trims the files of all queues to what the log still has, also those that nobody has used since the start.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Result<QueuesTrimmed, Refusal>")]
pub struct TrimQueuesNow;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueuesTrimmed {
    /// Queues that were told; an idle one with nothing to delete is not.
    pub told: usize,
}

/// Asks for the state, for tests and administration.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "RetentionObserved")]
pub struct ObserveRetention;

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetentionObserved {
    pub refusing: bool,
    /// Something is being decided, removed or counted.
    pub busy: bool,
    /// Files that are still to be removed; not known while one is.
    pub files_left: usize,
}

/// What retention is made of.
pub struct RetentionParts {
    pub files: Arc<dyn StoreFiles>,
    pub root: PathBuf,
    pub queue_files: ConsumeQueueConfig,
    pub log: CommitLogReader,
    pub positions: Progress,
    pub topics: TopicTable,
    pub consumers: ConsumerGroupTable,
    pub offsets: Addr<ConsumerOffsets>,
    /// How far delayed messages are delivered.
    pub delivered: DelayOffsetTable,
    /// Where transactions that nobody has settled begin.
    pub oldest_half: OldestHalf,
    /// Stores messages anew that wait for their time, before their part of the log goes.
    pub timers: Recipient<MoveTimers>,
    /// Brings to disk what compacted topics keep of the log.
    pub copies: Recipient<SecureCopies>,
    pub retires: Recipient<RetireSegmentsBefore>,
    pub refusals: Recipient<RefuseWrites>,
    pub key_index: Option<Recipient<TrimKeyIndex>>,
    pub rules: RetentionRules,
    pub clock: SharedClock,
    /// Where extensions are told of segments that are gone.
    pub events: EventTap,
    pub interval: Duration,
    pub mailbox_capacity: usize,
}

pub struct Retention {
    parts: RetentionParts,
    progress: GroupProgress,
    refusing: bool,
    /// The disk fills.
    tight: bool,
    /// A deletion is being decided.
    deciding: bool,
    retired: RetiredSegments,
    /// A file is being removed, or the pause after it runs.
    removing: bool,
    /// Counts of lost messages under way.
    counting: usize,
    next_round: Option<SpawnHandle>,
}

impl Retention {
    pub fn new(parts: RetentionParts) -> Self {
        let progress = GroupProgress {
            files: parts.files.clone(),
            queues_dir: parts.root.join("consumequeue"),
            queue_files: parts.queue_files,
            topics: parts.topics.clone(),
            offsets: parts.offsets.clone(),
        };
        Self {
            parts,
            progress,
            refusing: false,
            tight: false,
            deciding: false,
            retired: RetiredSegments::default(),
            removing: false,
            counting: 0,
            next_round: None,
        }
    }

    /// Looks at everything once, and does what there is to do; answered with how many segments left the log.
    fn round(
        &mut self,
        asked: bool,
        ctx: &mut Context<Self>,
    ) -> ResponseActFuture<Self, Result<usize, String>> {
        let decision = match self.look(asked) {
            Ok(decision) => decision,
            Err(error) => {
                warn!(error, "retention cannot look at the store");
                return Box::pin(actix::fut::ready(Err(error)));
            }
        };
        self.refuse_writes(decision.refuse_writes.clone());
        if std::mem::replace(&mut self.tight, decision.tight) != decision.tight {
            self.schedule(ctx);
        }
        self.expire_topics();
        if self.removing || !self.retired.is_empty() {
            // Their room is not free yet, and more of them would not make it so.
            self.remove_files(ctx);
            return Box::pin(actix::fut::ready(Ok(0)));
        }
        let idle = decision.expired_before.is_none() && decision.early.is_none();
        if idle || std::mem::replace(&mut self.deciding, true) {
            return Box::pin(actix::fut::ready(Ok(0)));
        }
        let log_min = self.parts.log.min_offset();
        let retired = self.retire(decision).into_actor(self).map(move |retired, this, ctx| {
            this.deciding = false;
            let count = retired.len();
            if count > 0 {
                this.retired.append(retired);
                this.trim_derived(log_min, ctx);
                this.remove_files(ctx);
            }
            Ok(count)
        });
        Box::pin(retired)
    }

    fn look(&self, asked: bool) -> Result<RetentionDecision, String> {
        let parts = &self.parts;
        let space = parts.files.space(&parts.root).map_err(|error| error.to_string())?;
        let segments = parts.log.segments().map_err(|error| error.to_string())?;
        let now = parts.clock.now();
        let hour = Local.timestamp_millis_opt(now.0).single().map_or(0, |local| local.hour());
        let facts = RetentionFacts { now, hour, asked, space, published: parts.log.published() };
        Ok(decide(&parts.rules, facts, &segments))
    }

    fn refuse_writes(&mut self, cause: Option<String>) {
        if cause.is_some() == self.refusing {
            return;
        }
        self.refusing = cause.is_some();
        match &cause {
            Some(cause) => warn!(cause, "writes are refused from now on"),
            None => info!("writes are taken again"),
        }
        // The writer must hear it even when it is busy.
        self.parts.refusals.do_send(RefuseWrites(cause));
    }

    /// Takes out of the log what may go.
    fn retire(&self, decision: RetentionDecision) -> impl Future<Output = RetiredSegments> + 'static {
        let parts = &self.parts;
        let (retires, progress) = (parts.retires.clone(), self.progress.clone());
        let max_segments = parts.rules.max_segments;
        let query = QuerySlowest {
            online: parts.consumers.online().iter().map(|view| view.group.clone()).collect(),
            committed_since: WallMs(
                parts.clock.now().0.saturating_sub(parts.rules.max_age.as_millis() as i64),
            ),
        };
        let delivered = self.delivered();
        let oldest_half = parts.oldest_half.clone();
        let (timers, copies) = (parts.timers.clone(), parts.copies.clone());
        // What is not dispatched yet is in no queue, and so looks consumed to whoever asks the queues.
        let log_end = parts.positions.dispatched();
        async move {
            let consumed_to = match &decision.early {
                Some(_) => {
                    let consumed_to = progress.consumed_to(query, delivered, log_end).await;
                    oldest_half.get().map_or(consumed_to, |oldest| oldest.min(consumed_to))
                }
                None => PhysicalOffset(0),
            };
            let of_early = decision.early.map(|early| early.before);
            let wanted = decision.expired_before.max(of_early).unwrap_or_default();
            // Without an answer nothing may go.
            let waiting = timers.send(MoveTimers { before: wanted }).await;
            let movable = waiting.map_or(PhysicalOffset(0), |moved| moved.oldest.unwrap_or(wanted));
            let secured = copies.send(SecureCopies).await;
            let copied =
                secured.map_or(PhysicalOffset(0), |secured| secured.oldest_unsecured.unwrap_or(wanted));
            let movable = movable.min(copied);
            let decision = decision.sparing(movable);
            let consumed_to = consumed_to.min(movable);
            let Some(deletion) = decision.deletion(consumed_to) else { return RetiredSegments::default() };
            if let Some(cause) = deletion.early {
                warn!(before = deletion.before.0, consumed_to = consumed_to.0, %cause, "segments go before their time");
            }
            let retire = RetireSegmentsBefore { offset: deletion.before, max_segments };
            // The writer ends with the broker.
            retires.send(retire).await.flatten().unwrap_or_default()
        }
    }

    /// Delayed messages that wait for their time are not consumed, whoever has an offset.
    fn delivered(&self) -> Vec<SlowestOffset> {
        let levels = self.parts.topics.get(SCHEDULE_TOPIC).map_or(0, |entry| entry.queue_nums());
        let of_level = |queue: u32| {
            let saved = self.parts.delivered.get(queue as usize + 1);
            let offset = saved.unwrap_or_else(|error| {
                warn!(level = queue + 1, %error, "a delay level cannot be asked how far it is");
                None
            });
            SlowestOffset {
                topic: SCHEDULE_TOPIC.into(),
                queue_id: QueueId(queue),
                offset: offset.unwrap_or_default(),
            }
        };
        (0..levels).map(of_level).collect()
    }

    /// Trims what was derived from messages between `old_min` and where the log begins now.
    fn trim_derived(&mut self, old_min: PhysicalOffset, ctx: &mut Context<Self>) {
        let log_min = self.parts.log.min_offset();
        for entry in self.parts.topics.load().topics.values() {
            for (_, queue) in entry.started_queues() {
                // A queue that is not told now is told after the next deletion.
                let _ = queue.try_send(LogTrimmed { log_min });
            }
        }
        if let Some(index) = &self.parts.key_index {
            let _ = index.try_send(TrimKeyIndex { log_min });
        }
        let progress = self.progress.clone();
        let told = async move { progress.tell_losses_of_idle_queues(old_min, log_min).await };
        self.counting += 1;
        ctx.spawn(told.into_actor(self).map(|(), this, _| this.counting -= 1));
    }

    /// Lets topics with a retention of their own say what they lose by it, though nobody asks them.
    fn expire_topics(&self) {
        let log_min = self.parts.log.min_offset();
        for entry in self.parts.topics.load().topics.values().filter(|entry| entry.retention_ms().is_some()) {
            for (_, queue) in entry.started_queues() {
                let _ = queue.try_send(LogTrimmed { log_min });
            }
        }
    }

    /// Removes the files of retired segments, one by one.
    fn remove_files(&mut self, ctx: &mut Context<Self>) {
        if self.retired.is_empty() || std::mem::replace(&mut self.removing, true) {
            return;
        }
        let mut retired = std::mem::take(&mut self.retired);
        let removal = aside(move || {
            let removed = retired.remove_oldest();
            (retired, removed)
        });
        ctx.spawn(removal.into_actor(self).map(|removal, this, ctx| {
            let Ok((mut retired, removed)) = removal else {
                // The thread could not run: the files are found again at the next start.
                this.removing = false;
                return;
            };
            // What was retired meanwhile lies behind.
            retired.append(std::mem::take(&mut this.retired));
            this.retired = retired;
            match removed {
                Ok(_) => {
                    info!(
                        log_min = this.parts.log.min_offset().0,
                        left = this.retired.len(),
                        "expired segment deleted"
                    );
                    this.parts.events.tell(EventKind::SegmentDeleted, || BrokerEvent::SegmentDeleted {
                        log_begins: this.parts.log.min_offset(),
                    });
                    ctx.run_later(REMOVAL_PAUSE, |this, ctx| {
                        this.removing = false;
                        this.remove_files(ctx);
                    });
                }
                Err(error) => {
                    this.removing = false;
                    let left = this.retired.len();
                    warn!(%error, left, "expired segments cannot be removed, trying again in the next round");
                }
            }
        }));
    }

    fn interval(&self) -> Duration {
        if self.tight { self.parts.interval.min(TIGHT_INTERVAL) } else { self.parts.interval }
    }

    /// Makes the next round come after the present interval.
    fn schedule(&mut self, ctx: &mut Context<Self>) {
        if let Some(earlier) = self.next_round.take() {
            ctx.cancel_future(earlier);
        }
        self.next_round = Some(ctx.run_later(self.interval(), |this, ctx| {
            this.next_round = None;
            this.begin_round(ctx);
            this.schedule(ctx);
        }));
    }

    fn begin_round(&mut self, ctx: &mut Context<Self>) {
        let round = self.round(false, ctx);
        ctx.spawn(round.map(|_, _, _| ()));
    }
}

/// How far groups are, in terms of the log. Cheap to clone.
#[derive(Clone)]
struct GroupProgress {
    files: Arc<dyn StoreFiles>,
    queues_dir: PathBuf,
    queue_files: ConsumeQueueConfig,
    topics: TopicTable,
    offsets: Addr<ConsumerOffsets>,
}

impl GroupProgress {
    /// Everything below is consumed by every group that lives; the end of what is dispatched if there is none.
    async fn consumed_to(
        &self,
        query: QuerySlowest,
        delivered: Vec<SlowestOffset>,
        log_end: PhysicalOffset,
    ) -> PhysicalOffset {
        // Without an answer nothing counts as consumed.
        let Ok(mut slowest) = self.offsets.send(query).await else { return PhysicalOffset(0) };
        slowest.extend(delivered);
        let (mut started, mut idle) = (Vec::new(), Vec::new());
        for at in slowest {
            match self.queue(&at.topic, at.queue_id) {
                Some(Some(queue)) => started.push((queue, at.offset)),
                Some(None) => idle.push(at),
                None => {} // the topic is gone, and what it held is nobody's
            }
        }
        let located =
            join_all(started.iter().map(|(queue, offset)| queue.send(LocateOffset { offset: *offset })))
                .await;
        let of_started = located.into_iter().map(|located| match located {
            Ok(Ok(position)) => position.unwrap_or(log_end),
            Ok(Err(_)) | Err(_) => PhysicalOffset(0),
        });
        let consumed_to = of_started.min().unwrap_or(log_end);
        let this = self.clone();
        let of_idle = aside(move || {
            let located = idle.iter().map(|at| {
                let position =
                    this.glance(&at.topic, at.queue_id).and_then(|mut queue| queue.locate(at.offset));
                position.unwrap_or(Some(PhysicalOffset(0))).unwrap_or(log_end)
            });
            located.min().unwrap_or(log_end)
        });
        consumed_to.min(of_idle.await.unwrap_or_default())
    }

    /// Tells whose messages between two beginnings of the log were lost, of queues that nobody has started: those
    /// cannot tell.
    async fn tell_losses_of_idle_queues(&self, old_min: PhysicalOffset, log_min: PhysicalOffset) {
        let Ok(mut queues) = self.offsets.send(ListConsumedQueues).await else { return };
        queues.retain(|(topic, queue_id)| matches!(self.queue(topic, *queue_id), Some(None)));
        let this = self.clone();
        let told = aside(move || {
            for (topic, queue_id) in queues {
                let ends = this
                    .glance(&topic, queue_id)
                    .and_then(|mut queue| Ok((queue.first_at(old_min)?, queue.first_at(log_min)?)));
                match ends {
                    Ok((from, to)) if to > from => {
                        this.offsets.do_send(MessagesGone { topic, queue_id, from, to });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        warn!(%topic, %queue_id, %error, "deleted messages of an idle queue cannot be counted")
                    }
                }
            }
        });
        // A thread that could not run leaves them out of the count.
        let _ = told.await;
    }

    /// Has every queue trimmed that is started or has something to delete; returns how many.
    async fn trim_queues(&self, log_min: PhysicalOffset) -> usize {
        let topics = self.topics.load_full();
        let mut idle = Vec::new();
        let mut told = Vec::new();
        for (topic, entry) in &topics.topics {
            for queue_id in (0..entry.queue_nums()).map(QueueId) {
                match entry.started_queue(queue_id) {
                    Some(queue) => told.push(queue.clone()),
                    None => idle.push((topic.clone(), queue_id)),
                }
            }
        }
        let this = self.clone();
        let deletable = aside(move || {
            idle.retain(|(topic, queue_id)| {
                let deletable =
                    this.glance(topic, *queue_id).and_then(|mut queue| queue.has_deletable_file(log_min));
                deletable.unwrap_or(true) // its owner says what is wrong
            });
            idle
        });
        for (topic, queue_id) in deletable.await.unwrap_or_default() {
            told.extend(topics.topics.get(&topic).and_then(|entry| entry.queue(queue_id)).cloned());
        }
        join_all(told.iter().map(|queue| queue.send(LogTrimmed { log_min }))).await;
        told.len()
    }

    /// The actor of a queue if it was started; `None` without such a queue.
    fn queue(&self, topic: &TopicName, queue_id: QueueId) -> Option<Option<Addr<TopicQueue>>> {
        let entry = self.topics.get(topic)?;
        (queue_id.0 < entry.queue_nums()).then(|| entry.started_queue(queue_id).cloned())
    }

    fn glance(&self, topic: &TopicName, queue_id: QueueId) -> Result<QueueGlance, ConsumeQueueError> {
        QueueGlance::at(self.files.clone(), queue_dir(&self.queues_dir, topic, queue_id), self.queue_files)
    }
}

impl Actor for Retention {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
        self.begin_round(ctx);
        self.schedule(ctx);
    }
}

observed!(Retention);

impl Handler<RetentionDue> for Retention {
    type Result = ();

    fn handle(&mut self, _: RetentionDue, ctx: &mut Self::Context) {
        self.begin_round(ctx);
    }
}

impl Handler<DeleteExpiredNow> for Retention {
    type Result = ResponseActFuture<Self, Result<SegmentsExpired, Refusal>>;

    fn handle(&mut self, _: DeleteExpiredNow, ctx: &mut Self::Context) -> Self::Result {
        let round = self.round(true, ctx);
        Box::pin(round.map(|count, _, _| match count {
            Ok(count) => Ok(SegmentsExpired { count }),
            Err(error) => Err(Refusal::Failed(format!("nothing was deleted: {error}"))),
        }))
    }
}

impl Handler<TrimQueuesNow> for Retention {
    type Result = ResponseFuture<Result<QueuesTrimmed, Refusal>>;

    fn handle(&mut self, _: TrimQueuesNow, _: &mut Self::Context) -> Self::Result {
        let (progress, log_min) = (self.progress.clone(), self.parts.log.min_offset());
        Box::pin(async move { Ok(QueuesTrimmed { told: progress.trim_queues(log_min).await }) })
    }
}

impl Handler<ObserveRetention> for Retention {
    type Result = RetentionObserved;

    fn handle(&mut self, _: ObserveRetention, _: &mut Self::Context) -> RetentionObserved {
        let busy = self.deciding || self.removing || self.counting > 0;
        RetentionObserved { refusing: self.refusing, busy, files_left: self.retired.len() }
    }
}

impl Handler<SettingsChanged> for Retention {
    type Result = ();

    fn handle(&mut self, changed: SettingsChanged, ctx: &mut Self::Context) {
        let settings = &changed.settings;
        let rules = &mut self.parts.rules;
        rules.max_age = settings.file_reserved;
        rules.delete_hours = settings.delete_when.iter().map(|hour| u32::from(*hour)).collect();
        rules.warn_ratio = f64::from(settings.disk_max_used_percent) / 100.0;
        rules.force_ratio = f64::from(settings.disk_clean_forcibly_percent) / 100.0;
        rules.refuse_ratio = f64::from(settings.disk_full_percent) / 100.0;
        self.begin_round(ctx);
    }
}

#[cfg(test)]
mod tests;

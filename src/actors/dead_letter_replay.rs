//! Has the messages of dead letter queues consumed again, as fast as was ordered.
//!
//! - Owns: the replays, one for each group, and the sled tree that says how far they are.
//! - Takes: [`StartReplay`], [`ListReplays`], [`StopReplay`]; [`MessageStored`] for its own sends.
//! - Sends: [`QueryExtent`] and [`ReadUnits`] to dead letter queues, [`SendMessages`](super::topic_queue::SendMessages)
//!   to retry topics and to the topics the messages came from; [`EnsureTopic`] for retry topics.
//! - Fails: what is refused is tried again after a pause; a replay whose dead letter queue is gone has failed, and
//!   says so; progress that cannot be saved ends a replay.
//! - Invariants: progress is saved, and durable, only for messages that are on disk; a crash repeats the batch that
//!   was under way, and loses nothing. The dead letter queue itself stays as it is.
//!
//! Saving blocks for an fsync, so this actor lives on an arbiter that no message passes through.

mod job;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use futures::future;
use job::{NextBatch, ReplayJob, Replayed, dead_letters_of, queue_in_turn};
use tracing::{info, warn};

use super::context::{Context, observed};
use super::own_sends::{OwnSends, copy_of};
use super::topic_queue::{MessageStored, QueryExtent, QueueExtent, ReadUnits};
use super::topic_table::TopicTable;
use super::topics::EnsureTopic;
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::filter::FilterRules;
use crate::protocol::body::dead_letters::{ReplayOrder, ReplayProgress};
use crate::protocol::message::{PendingMessage, StoredMessage};
use crate::protocol::names;
use crate::protocol::topic_config::TopicConfig;
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::store::metadata::{Metadata, MetadataError, ReplayState, ReplayTable, ReplayedQueue};
use crate::types::{FlushMode, GroupName, QueueId, QueueOffset};

/// Fastest replay, messages a second.
pub const RATE_MAX: u32 = 100_000;
/// Pause before what was refused is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Begins a replay of what is in the dead letter queue now. Losing it loses the wish.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<ReplayProgress, Refusal>")]
pub struct StartReplay {
    pub order: ReplayOrder,
    /// Queues of the group's retry topic, where there is none yet.
    pub retry_queue_nums: u32,
}

/// The last replay of each group, or of one.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Vec<ReplayProgress>")]
pub struct ListReplays {
    pub group: Option<GroupName>,
}

/// Ends the replay of a group; what is replayed stays so.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<ReplayProgress, Refusal>")]
pub struct StopReplay {
    pub group: GroupName,
}

/// Time for the next batch of a group.
#[derive(Message)]
#[rtype(result = "()")]
struct BatchDue {
    group: GroupName,
    /// Which of the replays of this process is meant: one that was ordered anew has a timer of its own.
    run: u64,
}

/// What the replay is made of.
pub struct DeadLetterReplayParts {
    pub log: CommitLogReader,
    pub topics: TopicTable,
    pub ensure_topic: Recipient<EnsureTopic>,
    pub metadata: Metadata,
    /// What conditions of replays may be.
    pub filter_rules: FilterRules,
    pub store_host: SocketAddr,
    pub clock: SharedClock,
    pub mailbox_capacity: usize,
}

struct Running {
    job: ReplayJob,
    run: u64,
}

pub struct DeadLetterReplay {
    parts: DeadLetterReplayParts,
    stored: ReplayTable,
    replays: BTreeMap<GroupName, Running>,
    sends: OwnSends,
    runs: u64,
}

impl DeadLetterReplay {
    /// Reads how far the replays are. What was stored must be readable when the actor starts.
    pub fn load(parts: DeadLetterReplayParts) -> Result<Self, MetadataError> {
        let stored = parts.metadata.replays()?;
        let rules = parts.filter_rules;
        let resumed = |record| Running { job: ReplayJob::resumed(record, &rules), run: 0 };
        let replays =
            stored.all()?.into_iter().map(|record| (record.group.clone(), resumed(record))).collect();
        // Progress claims nothing that a loss of power could take back.
        let sends = OwnSends::new(parts.topics.clone(), FlushMode::Sync);
        Ok(Self { parts, stored, replays, sends, runs: 0 })
    }

    /// Makes the state of a replay durable.
    fn save(&mut self, group: &GroupName) -> Result<(), Refusal> {
        let Some(running) = self.replays.get(group) else { return Ok(()) };
        self.stored
            .put(&running.job.record)
            .and_then(|()| self.parts.metadata.flush())
            .map_err(|error| Refusal::NotSaved { what: "the progress of a replay", cause: error.to_string() })
    }

    fn end(&mut self, group: &GroupName, state: ReplayState) {
        let now_ms = self.parts.clock.now().0;
        let Some(running) = self.replays.get_mut(group) else { return };
        running.job.end(state, now_ms);
        let record = &running.job.record;
        info!(%group, state = ?record.state, replayed = record.replayed, passed_over = record.passed_over, "replay of dead letters ended");
        if let Err(refusal) = self.save(group) {
            warn!(%group, %refusal, "end of a replay is not durable; the next start goes on with it");
        }
    }

    /// Reads the next batch and stores it.
    fn replay(&mut self, group: GroupName, run: u64, ctx: &mut Context<Self>) {
        let Some(running) = self.replays.get(&group).filter(|running| running.run == run) else { return };
        if !running.job.is_running() {
            return;
        }
        let Some(batch) = running.job.next() else {
            return self.end(&group, ReplayState::Done);
        };
        let entry = self.parts.topics.get(&dead_letters_of(&group));
        let Some(queue) = entry.as_ref().and_then(|entry| entry.queue(batch.queue_id).cloned()) else {
            let cause = "its dead letter queue was deleted meanwhile".to_owned();
            return self.end(&group, ReplayState::Failed { cause });
        };
        let read = async move {
            let extent = queue.send(QueryExtent).await.unwrap_or_default();
            let from = batch.from.max(extent.min);
            let units = queue.send(ReadUnits { offset: from, max: batch.max }).await.unwrap_or_default();
            (extent, units)
        };
        let replayed = read.into_actor(self).then(move |(extent, units), actor, ctx| {
            actor.store(&group, batch, extent, &units, ctx).into_actor(actor).map(
                move |outcomes, actor, ctx| {
                    actor.take(group, run, batch.queue_id, &outcomes, ctx);
                },
            )
        });
        ctx.spawn(replayed);
    }

    /// Stores the messages of some units; resolves to what became of each.
    fn store(
        &mut self,
        group: &GroupName,
        batch: NextBatch,
        extent: QueueExtent,
        units: &[ConsumeQueueUnit],
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Vec<Replayed>> + use<> {
        let mut stores = Vec::with_capacity(units.len());
        if let Some(running) = self.replays.get_mut(group) {
            running.job.begins_at(batch.queue_id, extent.min);
            let from = batch.from.max(extent.min);
            let left = running.job.next().filter(|next| next.queue_id == batch.queue_id);
            let left = left.map_or(0, |next| next.max as usize);
            for (unit, n) in units.iter().take(left).zip(0..) {
                let offset = from.advance(n);
                let message = match running.job.is_done(offset) {
                    true => Err(Replayed::Stored),
                    false => {
                        replayed_message(&running.job, &self.parts, unit, offset).ok_or(Replayed::PassedOver)
                    }
                };
                stores.push(message.map(|message| self.sends.store(message, ctx.address().recipient())));
            }
        }
        let group = group.clone();
        future::join_all(stores.into_iter().map(move |store| {
            let group = group.clone();
            async move {
                match store {
                    Err(known) => known,
                    Ok(store) => match store.await {
                        Ok(_) => Replayed::Stored,
                        Err(Refusal::TopicUnknown { topic, .. }) => {
                            warn!(%group, %topic, "dead letter passed over: its topic is gone");
                            Replayed::PassedOver
                        }
                        Err(refusal) => {
                            warn!(%group, %refusal, "dead letter cannot be replayed, trying again");
                            Replayed::Refused
                        }
                    },
                }
            }
        }))
    }

    fn take(
        &mut self,
        group: GroupName,
        run: u64,
        queue_id: QueueId,
        outcomes: &[Replayed],
        ctx: &mut Context<Self>,
    ) {
        let Some(running) = self.replays.get_mut(&group).filter(|running| running.run == run) else { return };
        running.job.take(queue_id, outcomes);
        let stored = outcomes.iter().filter(|outcome| **outcome == Replayed::Stored).count();
        let mut pause = running.job.pause(stored);
        // Nothing to read is trouble with the queue: it was said to go on.
        if outcomes.contains(&Replayed::Refused) || (outcomes.is_empty() && running.job.next().is_some()) {
            pause = pause.max(RETRY_PAUSE);
        }
        if let Err(refusal) = self.save(&group) {
            return self.end(&group, ReplayState::Failed { cause: refusal.to_string() });
        }
        ctx.notify_later(BatchDue { group, run }, pause);
    }

    fn next_run(&mut self) -> u64 {
        self.runs += 1;
        self.runs
    }
}

/// The message of a unit as it goes on; `None` when it is gone, or not wanted.
fn replayed_message(
    job: &ReplayJob,
    parts: &DeadLetterReplayParts,
    unit: &ConsumeQueueUnit,
    offset: QueueOffset,
) -> Option<PendingMessage> {
    let record = parts.log.read(unit.physical_offset, unit.size_bytes as usize)?;
    let dead = StoredMessage::decode(&record).ok().filter(|dead| job.wants(dead))?;
    let topic = job.target_of(&dead)?;
    let queues = parts.topics.get(&topic).map_or(1, |entry| entry.config.write_queue_nums);
    Some(PendingMessage {
        reconsume_times: 0,
        properties: job.properties_of(&dead).encode(),
        ..copy_of(&dead, topic, queue_in_turn(offset, queues), parts.store_host)
    })
}

impl Actor for DeadLetterReplay {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
        let left: Vec<_> = self.replays.iter().filter(|(_, running)| running.job.is_running()).collect();
        for (group, running) in left {
            info!(%group, replayed = running.job.record.replayed, "replay of dead letters goes on");
            ctx.notify(BatchDue { group: group.clone(), run: running.run });
        }
    }
}

observed!(DeadLetterReplay);

impl Handler<BatchDue> for DeadLetterReplay {
    type Result = ();

    fn handle(&mut self, BatchDue { group, run }: BatchDue, ctx: &mut Self::Context) {
        self.replay(group, run, ctx);
    }
}

impl Handler<MessageStored> for DeadLetterReplay {
    type Result = ();

    fn handle(&mut self, stored: MessageStored, _: &mut Self::Context) {
        self.sends.settle(stored);
    }
}

impl Handler<ListReplays> for DeadLetterReplay {
    type Result = MessageResult<ListReplays>;

    fn handle(&mut self, list: ListReplays, _: &mut Self::Context) -> Self::Result {
        let is_meant = |group: &GroupName| list.group.as_ref().is_none_or(|wanted| wanted == group);
        let meant = self.replays.iter().filter(|(group, _)| is_meant(group));
        MessageResult(meant.map(|(_, running)| running.job.progress()).collect())
    }
}

impl Handler<StopReplay> for DeadLetterReplay {
    type Result = Result<ReplayProgress, Refusal>;

    fn handle(&mut self, StopReplay { group }: StopReplay, _: &mut Self::Context) -> Self::Result {
        let running = self.replays.get(&group);
        if running.is_none_or(|running| !running.job.is_running()) {
            return Err(Refusal::NotFound(format!(
                "no replay of the dead letters of group {group} is running"
            )));
        }
        self.end(&group, ReplayState::Stopped);
        Ok(self.replays[&group].job.progress())
    }
}

impl Handler<StartReplay> for DeadLetterReplay {
    type Result = ResponseActFuture<Self, Result<ReplayProgress, Refusal>>;

    fn handle(&mut self, start: StartReplay, _: &mut Self::Context) -> Self::Result {
        let StartReplay { order, retry_queue_nums } = start;
        let group = order.group.clone();
        let dead = dead_letters_of(&group);
        let Some(entry) = self.parts.topics.get(&dead) else {
            let refusal = Refusal::NotFound(format!(
                "group {group} has no dead letter queue on this broker: nothing of it died here"
            ));
            return Box::pin(fut::ready(Err(refusal)));
        };
        let ensure = self.parts.ensure_topic.clone();
        let retry = TopicConfig::new(names::retry_topic(&group), retry_queue_nums.max(1));
        let extents = async move {
            ensure.send(EnsureTopic { config: retry }).await.map_err(|_| Refusal::ShuttingDown)??;
            let mut queues = Vec::new();
            for queue_id in (0..entry.config.read_queue_nums).map(QueueId) {
                let Some(queue) = entry.queue(queue_id) else { continue };
                let extent = queue.send(QueryExtent).await.map_err(|_| Refusal::ShuttingDown)?;
                queues.push(ReplayedQueue { queue_id, next: extent.min, end: extent.max });
            }
            Ok(queues)
        };
        Box::pin(extents.into_actor(self).map(move |queues: Result<Vec<ReplayedQueue>, Refusal>, actor, ctx| {
            let running = actor.replays.get(&group).filter(|running| running.job.is_running());
            if let Some(running) = running {
                let left = running.job.progress().left;
                return Err(Refusal::Failed(format!(
                    "a replay of the dead letters of group {group} is running, {left} messages are left; wait for it, or stop it first"
                )));
            }
            let (rules, now_ms) = (actor.parts.filter_rules, actor.parts.clock.now().0);
            let job = ReplayJob::new(order, queues?, now_ms, &rules)
                .map_err(|error| Refusal::ConditionMalformed { error: error.to_string() })?;
            let progress = job.progress();
            let run = actor.next_run();
            info!(%group, messages = progress.left, rate = progress.order.rate, "replay of dead letters begins");
            let before = actor.replays.insert(group.clone(), Running { job, run });
            if let Err(refusal) = actor.save(&group) {
                // Nothing was begun.
                match before {
                    Some(before) => actor.replays.insert(group, before),
                    None => actor.replays.remove(&group),
                };
                return Err(refusal);
            }
            ctx.notify(BatchDue { group, run });
            Ok(progress)
        }))
    }
}

#[cfg(test)]
mod tests;

//! Messages that wait for a delay level, and come to their real topics when they are due.
//!
//! - Owns: how far each delay level is delivered; the few units that are due next.
//! - Takes: [`StartDelivery`], [`UnitsScheduled`] from the dispatcher, [`MessageStored`] for its own sends, [`SaveNow`].
//! - Sends: [`SendMessages`](super::topic_queue::SendMessages) to queues, [`QueryExtent`] and [`ReadUnits`] to those of
//!   the delay levels.
//! - Fails: a delivery that is refused is tried again after a pause; a message that is gone, or whose topic is, is
//!   skipped with a line in the log.
//! - Invariants: a level is delivered in its order; its offset moves only when the message is stored in its real
//!   topic, so a crash repeats at most what was under way and loses nothing.

mod level;

use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use level::{KNOWN_UNITS, Level};
use tracing::{error, warn};

use super::context::{Context, observed};
use super::dispatcher::UnitsScheduled;
use super::own_sends::{OwnSends, copy_of};
use super::topic_queue::{MessageStored, QueryExtent, ReadUnits};
use super::topic_table::TopicTable;
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::kill_point;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::message::{PendingMessage, StoredMessage};
use crate::protocol::names::SCHEDULE_TOPIC;
use crate::protocol::properties::{PropertyList, names as property};
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::store::metadata::DelayOffsetTable;
use crate::types::{FlushMode, QueueId, TopicName};

/// Pause before a refused delivery is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Longest sleep: a clock that was set forward is noticed after that.
const LONGEST_SLEEP_MS: i64 = 250;

/// Everything stored is dispatched: delivery may begin. Before, the queues of the levels may lack units that were
/// there when the broker stopped, and where a level was left would seem to lie beyond its end.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct StartDelivery;

/// Keeps the delivered offsets now; answers when they are in the metadata.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct SaveNow;

/// What the scheduler is made of.
pub struct DelaySchedulerParts {
    pub log: CommitLogReader,
    pub topics: TopicTable,
    pub delivered: DelayOffsetTable,
    pub delay_levels: DelayLevels,
    pub flush: FlushMode,
    pub store_host: SocketAddr,
    pub clock: SharedClock,
    pub mailbox_capacity: usize,
    /// Between two savings of delivered offsets.
    pub save_interval: Duration,
}

pub struct DelayScheduler {
    parts: DelaySchedulerParts,
    levels: Vec<Level>,
    timer: Option<SpawnHandle>,
    sends: OwnSends,
}

impl DelayScheduler {
    pub fn new(parts: DelaySchedulerParts) -> Self {
        let levels = (0..parts.delay_levels.max_level()).map(|_| Level::default()).collect();
        let sends = OwnSends::new(parts.topics.clone(), parts.flush);
        Self { parts, levels, timer: None, sends }
    }

    /// Finds where each level was left.
    fn load(&mut self, ctx: &mut Context<Self>) {
        let Some(schedule) = self.parts.topics.get(SCHEDULE_TOPIC) else { return };
        for level in 0..self.levels.len() {
            let saved = self.parts.delivered.get(level + 1).ok().flatten();
            let Some(queue) = schedule.queue(QueueId(level as u32)).cloned() else { continue };
            let extent = async move { queue.send(QueryExtent).await.unwrap_or_default() };
            ctx.spawn(extent.into_actor(self).map(move |extent, scheduler, ctx| {
                scheduler.levels[level].begin(saved, extent);
                scheduler.read_more(level, ctx);
            }));
        }
    }

    /// Reads on where memory ends.
    fn read_more(&mut self, level: usize, ctx: &mut Context<Self>) {
        let state = &mut self.levels[level];
        if !state.begun || !state.more || state.reading || !state.known.is_empty() {
            self.set_timer(ctx);
            return;
        }
        let queue = self
            .parts
            .topics
            .get(SCHEDULE_TOPIC)
            .and_then(|topic| topic.queue(QueueId(level as u32)).cloned());
        let Some(queue) = queue else { return };
        state.reading = true;
        state.more = false;
        let offset = state.next;
        let read = async move {
            queue.send(ReadUnits { offset, max: KNOWN_UNITS as u32 }).await.unwrap_or_default()
        };
        ctx.spawn(read.into_actor(self).map(move |units, scheduler, ctx| {
            let state = &mut scheduler.levels[level];
            state.reading = false;
            let whole = units.len() == KNOWN_UNITS;
            state.take(offset, &units);
            state.more |= whole;
            scheduler.deliver(level, ctx);
        }));
    }

    /// Rings when the earliest unit is due.
    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let fronts = self.levels.iter().filter(|level| !level.delivering);
        let earliest = fronts.filter_map(|level| level.known.front()).map(|unit| unit.tags_code).min();
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if let Some(earliest) = earliest {
            let delay_ms = earliest.saturating_sub(self.parts.clock.now().0).clamp(1, LONGEST_SLEEP_MS);
            let timer = ctx.run_later(Duration::from_millis(delay_ms as u64), |scheduler, ctx| {
                scheduler.timer = None;
                for level in 0..scheduler.levels.len() {
                    scheduler.deliver(level, ctx);
                }
            });
            self.timer = Some(timer);
        }
    }

    /// Delivers what is due of a level; one round at a time.
    fn deliver(&mut self, level: usize, ctx: &mut Context<Self>) {
        let longest = self.parts.delay_levels.delay(level + 1);
        let due = match &self.levels[level] {
            state if state.delivering => return,
            state => state.due(self.parts.clock.now().0, longest),
        };
        if due == 0 {
            self.read_more(level, ctx);
            return;
        }
        let units: Vec<_> = self.levels[level].known.iter().take(due).copied().collect();
        let mut stored = Vec::with_capacity(due);
        for unit in units {
            match self.due_message(&unit) {
                Some(message) => stored.push(Some(self.sends.store(message, ctx.address().recipient()))),
                None => {
                    let position = unit.physical_offset.0;
                    warn!(
                        level = level + 1,
                        position, "delayed message skipped: it is gone, or names no topic"
                    );
                    stored.push(None);
                }
            }
        }
        self.levels[level].delivering = true;
        let round = async move {
            let mut done = 0;
            for outcome in stored {
                if let Some(outcome) = outcome {
                    match outcome.await {
                        Ok(_) => {}
                        // It has nowhere to go.
                        Err(Refusal::TopicUnknown { topic, .. }) => {
                            warn!(%topic, "delayed message dropped: its topic is gone");
                        }
                        Err(refusal) => return (done, Some(refusal)),
                    }
                }
                done += 1;
            }
            (done, None)
        };
        ctx.spawn(round.into_actor(self).map(move |(done, refusal), scheduler, ctx| {
            scheduler.levels[level].advance(done);
            match refusal {
                None => {
                    scheduler.levels[level].delivering = false;
                    scheduler.deliver(level, ctx);
                }
                Some(refusal) => {
                    warn!(level = level + 1, %refusal, "delayed message cannot be delivered, trying again");
                    ctx.run_later(RETRY_PAUSE, move |scheduler, ctx| {
                        scheduler.levels[level].delivering = false;
                        scheduler.deliver(level, ctx);
                    });
                }
            }
        }));
    }

    /// The delayed message as it goes to its real topic; `None` when it is gone or belongs nowhere.
    fn due_message(&self, unit: &ConsumeQueueUnit) -> Option<PendingMessage> {
        if unit.is_gap() {
            return None;
        }
        let record = self.parts.log.read(unit.physical_offset, unit.size_bytes as usize)?;
        let stored = StoredMessage::decode(&record).ok()?;
        let properties = PropertyList::decode(&stored.properties);
        let topic = TopicName::from(properties.get(property::REAL_TOPIC)?);
        let queue_id = QueueId(properties.get(property::REAL_QUEUE_ID)?.parse().ok()?);
        Some(PendingMessage {
            // The properties are stored as they are, DELAY included, as clients know it from RocketMQ.
            properties: stored.properties.clone(),
            ..copy_of(&stored, topic, queue_id, self.parts.store_host)
        })
    }

    fn save(&mut self) {
        for (number, level) in self.levels.iter_mut().enumerate() {
            if level.saved == level.next {
                continue;
            }
            match self.parts.delivered.put(number + 1, level.next) {
                Ok(()) => {
                    level.saved = level.next;
                    kill_point::reach("delay.saved");
                }
                Err(error) => {
                    error!(%error, "delivered offset of a delay level cannot be kept, trying again")
                }
            }
        }
    }
}

impl Actor for DelayScheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
        ctx.run_interval(self.parts.save_interval, |scheduler, _| scheduler.save());
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.save();
    }
}

observed!(DelayScheduler);

impl Handler<StartDelivery> for DelayScheduler {
    type Result = ();

    fn handle(&mut self, _: StartDelivery, ctx: &mut Self::Context) {
        self.load(ctx);
    }
}

impl Handler<UnitsScheduled> for DelayScheduler {
    type Result = ();

    fn handle(&mut self, scheduled: UnitsScheduled, ctx: &mut Self::Context) {
        let level = scheduled.queue_id.0 as usize;
        if let Some(state) = self.levels.get_mut(level) {
            let was_idle = state.known.is_empty();
            state.take(scheduled.first, &scheduled.units);
            if was_idle {
                self.read_more(level, ctx);
            }
        }
    }
}

impl Handler<MessageStored> for DelayScheduler {
    type Result = ();

    fn handle(&mut self, stored: MessageStored, _: &mut Self::Context) {
        kill_point::reach("delay.delivery_stored");
        self.sends.settle(stored);
    }
}

impl Handler<SaveNow> for DelayScheduler {
    type Result = ();

    fn handle(&mut self, _: SaveNow, _: &mut Self::Context) {
        self.save();
    }
}

#[cfg(test)]
mod tests;

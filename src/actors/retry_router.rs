//! Messages that come again later: what consumers send back, and what waits for a delay level.
//!
//! - Owns: how far each delay level is delivered; the few units that are due next.
//! - Takes: [`StartDelivery`], [`SendBackMessage`], [`SendToDeadLetterQueue`], [`UnitsScheduled`] from the dispatcher,
//!   [`MessageStored`] for its own sends, [`SaveNow`].
//! - Sends: [`SendMessages`] to queues, [`QueryExtent`] and [`ReadUnits`] to those of the delay levels;
//!   [`EnsureTopic`] for retry topics and dead letter queues.
//! - Fails: a delivery that is refused is tried again after a pause; a message that is gone, or whose topic is, is
//!   skipped with a line in the log.
//! - Invariants: a level is delivered in its order; its offset moves only when the message is stored in its real
//!   topic, so a crash repeats at most what was under way and loses nothing.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::commit_log_writer::StoredSend;
use super::dispatcher::UnitsScheduled;
use super::topic_queue::{
    MessageStored, Promise, QueryExtent, QueueExtent, ReadUnits, SendMessages, SendReply, SendRequest,
};
use super::topic_table::TopicTable;
use super::topics::EnsureTopic;
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::message::{PendingMessage, StoredMessage};
use crate::protocol::message_id::offset_message_id;
use crate::protocol::names::{self, SCHEDULE_TOPIC};
use crate::protocol::properties::{PropertyList, names as property};
use crate::protocol::topic_config::TopicConfig;
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::store::metadata::DelayOffsetTable;
use crate::types::{FlushMode, GroupName, PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Units of one level kept in memory; the rest is read when these are delivered.
const KNOWN_UNITS: usize = 4096;
/// Deliveries of one level under way.
const IN_FLIGHT: usize = 256;
/// Pause before a refused delivery is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Level of the first retry: the third, 10 s.
const FIRST_RETRY_LEVEL: i32 = 3;

/// Consumes a message later, or never again: request 36. Losing it makes the client send the message itself.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct SendBackMessage {
    pub group: GroupName,
    pub offset: PhysicalOffset,
    /// Negative: to the dead letter queue; 0: the ladder; n: that level.
    pub delay_level: i32,
    pub max_reconsume_times: i32,
    pub retry_queue_nums: u32,
}

/// A message that a client sends to a retry topic itself has been tried too often: it goes to the dead
/// letter queue instead.
#[derive(Message)]
#[rtype(result = "Result<(), Refusal>")]
pub struct SendToDeadLetterQueue {
    pub group: GroupName,
    pub send: SendRequest,
}

/// Everything stored is dispatched: delivery may begin. Before, the queues of the levels may lack units that were
/// there when the broker stopped, and where a level was left would seem to lie beyond its end.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct StartDelivery;

/// Keeps the delivered offsets now; answers when they are in the metadata.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct SaveNow;

/// What the router is made of.
pub struct RetryRouterParts {
    pub log: CommitLogReader,
    pub topics: TopicTable,
    pub ensure_topic: Recipient<EnsureTopic>,
    pub delivered: DelayOffsetTable,
    pub delay_levels: DelayLevels,
    pub flush: FlushMode,
    pub store_host: SocketAddr,
    pub clock: SharedClock,
    pub mailbox_capacity: usize,
    /// Between two savings of delivered offsets.
    pub save_interval: Duration,
}

pub struct RetryRouter {
    parts: RetryRouterParts,
    levels: Vec<Level>,
    timer: Option<SpawnHandle>,
    waiting: HashMap<u64, oneshot::Sender<Result<StoredSend, Refusal>>>,
    next_token: u64,
    next_queue: u32,
}

/// One delay level: a queue of the schedule topic, read in its order.
#[derive(Debug, Default)]
struct Level {
    /// It is known where the level was left.
    begun: bool,
    /// Next offset to deliver.
    next: QueueOffset,
    saved: QueueOffset,
    /// Units from `next` on, as far as they are in memory.
    known: VecDeque<ConsumeQueueUnit>,
    /// There may be units beyond the known ones.
    more: bool,
    reading: bool,
    delivering: bool,
}

impl Level {
    /// Goes on where the level was left.
    fn begin(&mut self, saved: Option<QueueOffset>, extent: QueueExtent) {
        self.begun = true;
        self.next = saved.unwrap_or(extent.min).clamp(extent.min, extent.max);
        self.saved = self.next;
        // Units that came before may be newer than the extent.
        self.more |= self.next < extent.max;
    }

    /// Takes units that begin at `first`; those that do not follow on are read later.
    fn take(&mut self, first: QueueOffset, units: &[ConsumeQueueUnit]) {
        if !self.begun {
            self.more = true;
            return;
        }
        let end = self.next.advance(self.known.len() as u64);
        let Some(skip) = end.0.checked_sub(first.0).filter(|skip| *skip <= units.len() as u64) else {
            self.more |= first > end;
            return;
        };
        if self.more && first > self.next {
            return; // the gap before is read first
        }
        let room = KNOWN_UNITS.saturating_sub(self.known.len());
        let fresh = &units[skip as usize..];
        self.known.extend(fresh.iter().take(room));
        self.more |= fresh.len() > room;
    }

    /// Delivered units at the front.
    fn advance(&mut self, count: usize) {
        self.known.drain(..count.min(self.known.len()));
        self.next = self.next.advance(count as u64);
    }

    /// How many units at the front are due.
    fn due(&self, now_ms: i64, longest: Duration) -> usize {
        let is_due = |unit: &&ConsumeQueueUnit| {
            // Further away than the level can mean: the clock went back.
            unit.tags_code <= now_ms || unit.tags_code > now_ms + longest.as_millis() as i64
        };
        self.known.iter().take(IN_FLIGHT).take_while(is_due).count()
    }
}

impl RetryRouter {
    pub fn new(parts: RetryRouterParts) -> Self {
        let levels = (0..parts.delay_levels.max_level()).map(|_| Level::default()).collect();
        Self { parts, levels, timer: None, waiting: HashMap::new(), next_token: 0, next_queue: 0 }
    }

    /// Finds where each level was left.
    fn load(&mut self, ctx: &mut Context<Self>) {
        let Some(schedule) = self.parts.topics.get(SCHEDULE_TOPIC) else { return };
        for level in 0..self.levels.len() {
            let saved = self.parts.delivered.get(level + 1).ok().flatten();
            let Some(queue) = schedule.queue(QueueId(level as u32)).cloned() else { continue };
            let extent = async move { queue.send(QueryExtent).await.unwrap_or_default() };
            ctx.spawn(extent.into_actor(self).map(move |extent, router, ctx| {
                router.levels[level].begin(saved, extent);
                router.read_more(level, ctx);
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
        ctx.spawn(read.into_actor(self).map(move |units, router, ctx| {
            let state = &mut router.levels[level];
            state.reading = false;
            let whole = units.len() == KNOWN_UNITS;
            state.take(offset, &units);
            state.more |= whole;
            router.deliver(level, ctx);
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
            let delay_ms = earliest.saturating_sub(self.parts.clock.now().0).clamp(1, 3_600_000);
            let timer = ctx.run_later(Duration::from_millis(delay_ms as u64), |router, ctx| {
                router.timer = None;
                for level in 0..router.levels.len() {
                    router.deliver(level, ctx);
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
                Some(message) => stored.push(Some(self.store(message, ctx))),
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
                if let Some(outcome) = outcome
                    && let Err(refusal) = outcome.await
                {
                    return (done, Some(refusal));
                }
                done += 1;
            }
            (done, None)
        };
        ctx.spawn(round.into_actor(self).map(move |(done, refusal), router, ctx| {
            router.levels[level].advance(done);
            match refusal {
                None => {
                    router.levels[level].delivering = false;
                    router.deliver(level, ctx);
                }
                Some(refusal) => {
                    warn!(level = level + 1, %refusal, "delayed message cannot be delivered, trying again");
                    ctx.run_later(RETRY_PAUSE, move |router, ctx| {
                        router.levels[level].delivering = false;
                        router.deliver(level, ctx);
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
            ..self.copy_of(&stored, topic, queue_id)
        })
    }

    /// A message like `stored`, for another queue.
    fn copy_of(&self, stored: &StoredMessage, topic: TopicName, queue_id: QueueId) -> PendingMessage {
        PendingMessage {
            topic,
            queue_id,
            flag: stored.flag,
            sys_flag: stored.sys_flag,
            born_at_ms: stored.born_at_ms,
            born_host: stored.born_host,
            store_host: self.parts.store_host,
            reconsume_times: stored.reconsume_times,
            prepared_transaction_offset: 0,
            body: stored.body.clone(),
            properties: Bytes::new(),
            extra_properties: Bytes::new(),
        }
    }

    /// Stores a message in its queue; resolves when it is stored or refused.
    fn store(
        &mut self,
        message: PendingMessage,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<StoredSend, Refusal>> + use<> {
        let token = self.next_token;
        self.next_token += 1;
        let (waiting, stored) = oneshot::channel();
        let topic = message.topic.clone();
        let entry = self.parts.topics.get(&topic);
        let queue = entry.as_ref().and_then(|entry| entry.queue(message.queue_id));
        let promise =
            entry.as_ref().map_or_else(Promise::default, |entry| Promise::of(self.parts.flush, entry, true));
        let send = SendRequest {
            messages: vec![message],
            promise,
            reply: SendReply::Actor { recipient: ctx.address().recipient(), token },
        };
        let sent = match queue {
            Some(queue) => queue.try_send(SendMessages(vec![send])).map_err(|error| match error {
                SendError::Full(_) => Refusal::Busy { actor: "the queue", waiting: 0 },
                SendError::Closed(_) => Refusal::ShuttingDown,
            }),
            None => Err(Refusal::TopicUnknown { topic, hint: "it was deleted meanwhile".into() }),
        };
        if sent.is_ok() {
            self.waiting.insert(token, waiting);
        }
        async move {
            match sent {
                // A message of a topic that is gone has nowhere to go.
                Err(Refusal::TopicUnknown { topic, .. }) => {
                    warn!(%topic, "delayed message dropped: its topic is gone");
                    Ok(StoredSend {
                        first_queue_offset: QueueOffset(0),
                        physical_offsets: Vec::new(),
                        end: PhysicalOffset(0),
                        stored_at_ms: 0,
                    })
                }
                Err(refusal) => Err(refusal),
                Ok(()) => stored.await.unwrap_or(Err(Refusal::ShuttingDown)),
            }
        }
    }

    /// The copy that a send-back stores: under the retry topic, by way of the schedule topic, or dead.
    fn returned(&mut self, back: &SendBackMessage, stored: &StoredMessage, dead: bool) -> PendingMessage {
        let mut properties = PropertyList::decode(&stored.properties);
        if properties.get(property::RETRY_TOPIC).is_none() {
            properties.set(property::RETRY_TOPIC, stored.topic.as_str());
        }
        if properties.get(property::ORIGIN_MESSAGE_ID).is_none() {
            let id = offset_message_id(stored.store_host, stored.physical_offset);
            properties.set(property::ORIGIN_MESSAGE_ID, id);
        }
        properties.set(property::WAIT, "false");
        let (topic, queue_id) = if dead {
            properties.set(property::DELAY, "0");
            (names::dead_letter_queue(&back.group), QueueId(0))
        } else {
            let asked = match back.delay_level {
                0 => FIRST_RETRY_LEVEL + stored.reconsume_times,
                level => level,
            };
            let level = (asked.max(1) as usize).min(self.parts.delay_levels.max_level());
            let queue = self.next_queue % back.retry_queue_nums.max(1);
            self.next_queue = self.next_queue.wrapping_add(1);
            properties.set(property::DELAY, level.to_string());
            properties.set(property::REAL_TOPIC, names::retry_topic(&back.group).as_str());
            properties.set(property::REAL_QUEUE_ID, queue.to_string());
            (TopicName::from(SCHEDULE_TOPIC), QueueId(level.saturating_sub(1) as u32))
        };
        PendingMessage {
            reconsume_times: stored.reconsume_times + 1,
            properties: properties.encode(),
            ..self.copy_of(stored, topic, queue_id)
        }
    }

    fn save(&mut self) {
        for (number, level) in self.levels.iter_mut().enumerate() {
            if level.saved == level.next {
                continue;
            }
            match self.parts.delivered.put(number + 1, level.next) {
                Ok(()) => level.saved = level.next,
                Err(error) => {
                    error!(%error, "delivered offset of a delay level cannot be kept, trying again")
                }
            }
        }
    }
}

impl Actor for RetryRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
        ctx.run_interval(self.parts.save_interval, |router, _| router.save());
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.save();
    }
}

impl Handler<StartDelivery> for RetryRouter {
    type Result = ();

    fn handle(&mut self, _: StartDelivery, ctx: &mut Self::Context) {
        self.load(ctx);
    }
}

impl Handler<UnitsScheduled> for RetryRouter {
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

impl Handler<MessageStored> for RetryRouter {
    type Result = ();

    fn handle(&mut self, stored: MessageStored, _: &mut Self::Context) {
        if let Some(waiting) = self.waiting.remove(&stored.token) {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(stored.outcome);
        }
    }
}

impl Handler<SaveNow> for RetryRouter {
    type Result = ();

    fn handle(&mut self, _: SaveNow, _: &mut Self::Context) {
        self.save();
    }
}

impl Handler<SendBackMessage> for RetryRouter {
    type Result = ResponseActFuture<Self, Result<(), Refusal>>;

    fn handle(&mut self, back: SendBackMessage, _: &mut Self::Context) -> Self::Result {
        let stored =
            self.parts.log.read_record(back.offset).and_then(|record| StoredMessage::decode(&record).ok());
        let Some(stored) = stored else {
            let refusal = Refusal::Failed(format!(
                "look message by offset failed, {}: no message is stored there, or it has expired",
                back.offset
            ));
            return Box::pin(fut::ready(Err(refusal)));
        };
        let dead = back.delay_level < 0 || stored.reconsume_times >= back.max_reconsume_times;
        let topic = if dead {
            TopicConfig::new(names::dead_letter_queue(&back.group), 1)
        } else {
            TopicConfig::new(names::retry_topic(&back.group), back.retry_queue_nums.max(1))
        };
        let ensured = self.parts.ensure_topic.send(EnsureTopic { config: topic });
        let stored = ensured.into_actor(self).then(move |ensured, router, ctx| {
            let returned = match ensured {
                Ok(Ok(_)) => Ok(router.returned(&back, &stored, dead)),
                Ok(Err(refusal)) => Err(refusal),
                Err(_) => Err(Refusal::ShuttingDown),
            };
            let stored = returned.map(|message| router.store(message, ctx));
            async move { stored?.await }.into_actor(router)
        });
        Box::pin(stored.map(|outcome, _, _| outcome.map(|_| ())))
    }
}

impl Handler<SendToDeadLetterQueue> for RetryRouter {
    type Result = ResponseActFuture<Self, Result<(), Refusal>>;

    fn handle(
        &mut self,
        SendToDeadLetterQueue { group, mut send }: SendToDeadLetterQueue,
        _: &mut Self::Context,
    ) -> Self::Result {
        let topic = names::dead_letter_queue(&group);
        let ensured =
            self.parts.ensure_topic.send(EnsureTopic { config: TopicConfig::new(topic.clone(), 1) });
        Box::pin(ensured.into_actor(self).map(move |ensured, _, _| {
            let entry = ensured.map_err(|_| Refusal::ShuttingDown)??;
            for message in &mut send.messages {
                let mut properties = PropertyList::decode(&message.properties);
                properties.set(property::DELAY, "-1");
                message.properties = properties.encode();
                message.topic = topic.clone();
                message.queue_id = QueueId(0);
            }
            let queue = entry.queue(QueueId(0)).ok_or(Refusal::ShuttingDown)?;
            queue
                .try_send(SendMessages(vec![send]))
                .map_err(|_| Refusal::Busy { actor: "the queue", waiting: 0 })
        }))
    }
}

#[cfg(test)]
mod tests;

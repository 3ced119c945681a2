//! Messages that consumers send back: to be consumed again later, or never.
//!
//! - Owns: nothing but its own sends under way.
//! - Takes: [`SendBackMessage`], [`SendToDeadLetterQueue`], [`MessageStored`] for its own sends.
//! - Sends: [`SendMessages`] to queues of the schedule topic and to dead letter queues; [`EnsureTopic`] for these and
//!   for retry topics.
//! - Fails: what cannot be stored is refused, and the client sends the message itself.
//! - Invariants: a message that was taken back comes again or is in the dead letter queue of its group; there it says
//!   why, who gave it up, and where it came from.

mod fate;

use std::net::SocketAddr;
use std::time::Duration;

use actix::prelude::*;
pub use fate::DeathCause;
use fate::{Failure, Fate, Wait};

use super::context::{Context, observed};
use super::extensions::events::{BrokerEvent, EventKind};
use super::extensions::stream::EventTap;
use super::own_sends::{OwnSends, copy_of};
use super::topic_queue::{MessageStored, SendMessages, SendRequest};
use super::topic_table::TopicTable;
use super::topics::EnsureTopic;
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::message::{PendingMessage, StoredMessage};
use crate::protocol::message_id::offset_message_id;
use crate::protocol::names::{self, SCHEDULE_TOPIC, TIMER_TOPIC};
use crate::protocol::properties::{MAX_PROPERTIES_BYTES, PropertyList, names as property};
use crate::protocol::subscription_group_config::GroupRetryPolicy;
use crate::protocol::timer::slot_of;
use crate::protocol::topic_config::TopicConfig;
use crate::store::commit_log::CommitLogReader;
use crate::types::{FlushMode, GroupName, PhysicalOffset, QueueId, TopicName};

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
    pub policy: GroupRetryPolicy,
    /// Who sends it back, as people know it.
    pub client: String,
}

/// A message that a client sends to a retry topic itself has been tried too often: it goes to the dead
/// letter queue instead.
#[derive(Message)]
#[rtype(result = "Result<(), Refusal>")]
pub struct SendToDeadLetterQueue {
    pub group: GroupName,
    pub send: SendRequest,
    pub cause: DeathCause,
    /// Who sends it, as people know it.
    pub client: String,
}

/// What the router is made of.
pub struct RetryRouterParts {
    pub log: CommitLogReader,
    pub topics: TopicTable,
    pub ensure_topic: Recipient<EnsureTopic>,
    pub delay_levels: DelayLevels,
    /// How long timer messages may wait; `None`: there are none.
    pub timer_delay_max: Option<Duration>,
    pub clock: SharedClock,
    pub flush: FlushMode,
    pub store_host: SocketAddr,
    /// Where extensions are told of the dead.
    pub events: EventTap,
    pub mailbox_capacity: usize,
}

pub struct RetryRouter {
    parts: RetryRouterParts,
    sends: OwnSends,
    next_queue: u32,
}

impl RetryRouter {
    pub fn new(parts: RetryRouterParts) -> Self {
        let sends = OwnSends::new(parts.topics.clone(), parts.flush);
        Self { parts, sends, next_queue: 0 }
    }

    /// The copy that a send-back stores: under the retry topic, by way of the schedule topic, or dead.
    fn returned(&mut self, back: &SendBackMessage, stored: &StoredMessage, fate: Fate) -> PendingMessage {
        let mut properties = PropertyList::decode(&stored.properties);
        if properties.get(property::RETRY_TOPIC).is_none() {
            properties.set(property::RETRY_TOPIC, stored.topic.as_str());
        }
        if properties.get(property::ORIGIN_MESSAGE_ID).is_none() {
            let id = offset_message_id(stored.store_host, stored.physical_offset);
            properties.set(property::ORIGIN_MESSAGE_ID, id);
        }
        properties.set(property::WAIT, "false");
        properties.remove(property::TIMER_SETTLES); // said by the delivery, not by what comes again
        let (topic, queue_id) = match fate {
            Fate::Dead(cause) => {
                properties.set(property::DELAY, "0");
                properties = with_cause(properties, 0, cause, &back.client, stored.reconsume_times);
                (names::dead_letter_queue(&back.group), QueueId(0))
            }
            Fate::Later(wait) => {
                let queue = self.next_queue % back.retry_queue_nums.max(1);
                self.next_queue = self.next_queue.wrapping_add(1);
                properties.set(property::REAL_TOPIC, names::retry_topic(&back.group).as_str());
                properties.set(property::REAL_QUEUE_ID, queue.to_string());
                self.wait(wait, &mut properties)
            }
        };
        PendingMessage {
            reconsume_times: stored.reconsume_times + 1,
            properties: properties.encode(),
            ..copy_of(stored, topic, queue_id, self.parts.store_host)
        }
    }
}

impl RetryRouter {
    fn tell_death(&self, group: &GroupName, cause: DeathCause) {
        self.parts.events.tell(EventKind::MessageDeadLettered, || BrokerEvent::MessageDeadLettered {
            group: group.clone(),
            reason: cause.to_string(),
        });
    }

    /// Where a message waits: among the timer messages where its wait is no level's, if these may wait so long.
    fn wait(&self, wait: Wait, properties: &mut PropertyList) -> (TopicName, QueueId) {
        let level = match wait {
            Wait::For(delay) if self.parts.timer_delay_max.is_some_and(|max| delay <= max) => {
                let due_ms = self.parts.clock.now().0.saturating_add(delay.as_millis() as i64);
                properties.remove(property::DELAY);
                properties.set(property::TIMER_OUT_MS, slot_of(due_ms).to_string());
                properties.set(property::TIMER_DUE_MS, due_ms.to_string());
                return (TopicName::from(TIMER_TOPIC), QueueId(0));
            }
            Wait::For(delay) => self.parts.delay_levels.level_from(delay),
            Wait::Level(level) => level,
        };
        properties.set(property::DELAY, level.to_string());
        (TopicName::from(SCHEDULE_TOPIC), QueueId(level.saturating_sub(1) as u32))
    }
}

/// The properties of a message that is dead, with why. RocketMQ: `DLQ_ORIGIN_TOPIC`, `DLQ_ORIGIN_MESSAGE_ID`; the rest is
/// ours. Properties that are nearly as long as they may be stay as they are: the message matters more.
fn with_cause(
    properties: PropertyList,
    extra_bytes: usize,
    cause: DeathCause,
    client: &str,
    retries: i32,
) -> PropertyList {
    let mut noted = properties.clone();
    let origins = [
        (property::DLQ_ORIGIN_TOPIC, property::RETRY_TOPIC),
        (property::DLQ_ORIGIN_MESSAGE_ID, property::ORIGIN_MESSAGE_ID),
    ];
    for (name, known) in origins {
        if let Some(origin) = properties.get(known) {
            noted.set(name, origin);
        }
    }
    noted.set(property::DLQ_REASON, cause.to_string());
    noted.set(property::DLQ_CLIENT, client);
    noted.set(property::DLQ_RETRIES, retries.to_string());
    if noted.encode().len() + extra_bytes <= MAX_PROPERTIES_BYTES { noted } else { properties }
}

impl Actor for RetryRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.parts.mailbox_capacity);
    }
}

observed!(RetryRouter);

impl Handler<MessageStored> for RetryRouter {
    type Result = ();

    fn handle(&mut self, stored: MessageStored, _: &mut Self::Context) {
        self.sends.settle(stored);
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
        let failure = Failure {
            retries: stored.reconsume_times,
            asked_level: back.delay_level,
            max_retries: back.max_reconsume_times,
            policy: &back.policy,
        };
        let fate = failure.fate(&self.parts.delay_levels);
        let death = match fate {
            Fate::Dead(cause) => Some((back.group.clone(), cause)),
            Fate::Later(_) => None,
        };
        let topic = match fate {
            Fate::Dead(_) => TopicConfig::new(names::dead_letter_queue(&back.group), 1),
            Fate::Later(_) => TopicConfig::new(names::retry_topic(&back.group), back.retry_queue_nums.max(1)),
        };
        let ensured = self.parts.ensure_topic.send(EnsureTopic { config: topic });
        let stored = ensured.into_actor(self).then(move |ensured, router, ctx| {
            let returned = match ensured {
                Ok(Ok(_)) => Ok(router.returned(&back, &stored, fate)),
                Ok(Err(refusal)) => Err(refusal),
                Err(_) => Err(Refusal::ShuttingDown),
            };
            let stored = returned.map(|message| router.sends.store(message, ctx.address().recipient()));
            async move { stored?.await }.into_actor(router)
        });
        Box::pin(stored.map(|outcome, router, _| {
            if let (Ok(_), Some((group, cause))) = (&outcome, death) {
                router.tell_death(&group, cause);
            }
            outcome.map(|_| ())
        }))
    }
}

impl Handler<SendToDeadLetterQueue> for RetryRouter {
    type Result = ResponseActFuture<Self, Result<(), Refusal>>;

    fn handle(
        &mut self,
        SendToDeadLetterQueue { group, mut send, cause, client }: SendToDeadLetterQueue,
        _: &mut Self::Context,
    ) -> Self::Result {
        let topic = names::dead_letter_queue(&group);
        let ensured =
            self.parts.ensure_topic.send(EnsureTopic { config: TopicConfig::new(topic.clone(), 1) });
        Box::pin(ensured.into_actor(self).map(move |ensured, router, _| {
            let entry = ensured.map_err(|_| Refusal::ShuttingDown)??;
            for message in &mut send.messages {
                let mut properties = PropertyList::decode(&message.properties);
                properties.set(property::DELAY, "-1");
                let extra_bytes = message.extra_properties.len();
                let properties = with_cause(properties, extra_bytes, cause, &client, message.reconsume_times);
                message.properties = properties.encode();
                message.topic = topic.clone();
                message.queue_id = QueueId(0);
            }
            let queue = entry.queue(QueueId(0)).ok_or(Refusal::ShuttingDown)?;
            queue
                .try_send(SendMessages(vec![send]))
                .map_err(|_| Refusal::Busy { actor: "the queue", waiting: 0 })?;
            router.tell_death(&group, cause);
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

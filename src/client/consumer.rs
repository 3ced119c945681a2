//! One member of a consumer group: heartbeats, its share of the queues, long polling, consumer offsets.
//!
//! The consumer is driven by its user: everything happens inside [`Consumer::next`], but for the pulls, which
//! run ahead a little. A message counts as consumed when the next one is asked for.

mod membership;
mod offsets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::error::ClientError;
use super::pull_loop::{Pulled, PulledWhat};
use super::remoting::{Call, ConnectOptions, ServerRequest};
use super::route;
use super::servers::Servers;
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::header::UnregisterClient;
use crate::protocol::message::StoredMessage;
use crate::protocol::names;
use crate::protocol::request_code::RequestCode;
use crate::types::{ClientId, GroupName, MessageQueue, TopicName};

const HEARTBEAT: Duration = Duration::from_secs(30);
const COMMIT: Duration = Duration::from_secs(5);
const REBALANCE: Duration = Duration::from_secs(20);
/// While some list could not be had.
const REBALANCE_UNSETTLED: Duration = Duration::from_secs(1);
/// Answers that may wait to be consumed, over all queues.
const PULLED_AHEAD: usize = 16;

/// Where a queue begins for which the group has no offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConsumeFrom {
    /// With the oldest message.
    First,
    /// With the next message that is stored.
    Last,
    /// The first message stored at or after this time, ms since 1970.
    TimestampMs(i64),
}

/// What a consumer is to its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Shares the queues with the others; the group's offsets are kept.
    Member,
    /// Reads every queue by itself and leaves nothing behind: no heartbeat, no offsets, no retry topic.
    Reader,
}

/// What to consume, and as whom.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// The consumer group.
    pub group: GroupName,
    /// Whether it shares the messages of the group.
    pub membership: Membership,
    /// Its name in the group; no two members have the same.
    pub client_id: ClientId,
    /// Its version must be set: milliseconds since 1970.
    pub subscription: SubscriptionData,
    /// Where it begins when the group has no offset yet.
    pub from: ConsumeFrom,
}

/// A message as it was pulled.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    /// Where it lies.
    pub queue: MessageQueue,
    /// The message, as it is stored.
    pub message: StoredMessage,
}

/// A queue this member holds.
struct Held {
    holding: u64,
    addr: String,
    /// The next offset to consume.
    next: i64,
    /// What the broker has been told.
    committed: Option<i64>,
    pulls: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pulls.abort();
    }
}

/// Something pulled that is not consumed yet.
struct Waiting {
    queue: MessageQueue,
    holding: u64,
    /// `None`: nothing for the user up to `next`.
    message: Option<StoredMessage>,
    /// The queue is consumed up to here once this is.
    next: i64,
}

/// A member of a consumer group.
pub struct Consumer {
    servers: Servers,
    options: ConsumerOptions,
    /// The topic and, for a member, the retry topic of the group.
    subscriptions: Vec<SubscriptionData>,
    /// Every broker that got a heartbeat.
    brokers: BTreeSet<String>,
    held: BTreeMap<MessageQueue, Held>,
    holdings: u64,
    waiting: VecDeque<Waiting>,
    /// The message handed out last; consumed when the next is asked for.
    handed_out: Option<(MessageQueue, u64, i64)>,
    pulled: mpsc::Receiver<Pulled>,
    pulled_to: mpsc::Sender<Pulled>,
    members_changed: mpsc::Receiver<()>,
    heartbeat: Interval,
    commit: Interval,
    rebalance: Interval,
    last_failure: Option<ClientError>,
}

impl Consumer {
    /// Joins the group. The topic must exist.
    pub async fn join(
        name_servers: &str,
        options: ConsumerOptions,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        Self::join_over(name_servers, options, ConnectOptions::default(), timeout).await
    }

    /// As [`join`](Self::join), connecting as `connect` says; what servers ask is answered here.
    #[doc(hidden)]
    pub async fn join_over(
        name_servers: &str,
        options: ConsumerOptions,
        connect: ConnectOptions,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let (notify, members_changed) = mpsc::channel(1);
        let on_request = move |request: ServerRequest| {
            if request.command.head.code == RequestCode::NOTIFY_CONSUMER_IDS_CHANGED.as_i32() {
                // One notice waiting is as good as many.
                let _ = notify.try_send(());
            }
        };
        let connect = ConnectOptions { on_request: Some(Arc::new(on_request)), ..connect };
        let (pulled_to, pulled) = mpsc::channel(PULLED_AHEAD);
        let retry = SubscriptionData {
            topic: names::retry_topic(&options.group),
            sub_string: "*".to_owned(),
            sub_version: options.subscription.sub_version,
            ..SubscriptionData::default()
        };
        let mut subscriptions = vec![options.subscription.clone()];
        if options.membership == Membership::Member {
            subscriptions.push(retry);
        }
        let mut consumer = Self {
            servers: Servers::new(name_servers, connect, timeout),
            subscriptions,
            options,
            brokers: BTreeSet::new(),
            held: BTreeMap::new(),
            holdings: 0,
            waiting: VecDeque::new(),
            handed_out: None,
            pulled,
            pulled_to,
            members_changed,
            heartbeat: every(HEARTBEAT),
            commit: every(COMMIT),
            rebalance: every(REBALANCE),
            last_failure: None,
        };
        let route = consumer.servers.route(&consumer.options.subscription.topic).await?;
        consumer.brokers.extend(route::all_addrs(&route));
        consumer.check_expression().await?;
        consumer.send_heartbeats().await?;
        consumer.share_queues().await;
        Ok(consumer)
    }

    /// How many queues this member holds.
    pub fn held_queues(&self) -> usize {
        self.held.len()
    }

    /// What went wrong last, once; the consumer goes on trying.
    pub fn take_failure(&mut self) -> Option<ClientError> {
        self.last_failure.take()
    }

    /// The next message, in no order but that of each queue; `None` to look at
    /// [`take_failure`](Self::take_failure). May be cancelled: nothing is lost.
    pub async fn next(&mut self) -> Option<ReceivedMessage> {
        self.settle();
        loop {
            while let Some(Waiting { queue, holding, message, next }) = self.waiting.pop_front() {
                match message {
                    Some(message) => {
                        self.handed_out = Some((queue.clone(), holding, next));
                        return Some(ReceivedMessage { queue, message });
                    }
                    None => self.advance(&queue, holding, next),
                }
            }
            tokio::select! {
                biased;
                _ = self.heartbeat.tick() => self.keep_alive().await,
                _ = self.commit.tick() => self.commit_offsets().await,
                _ = self.rebalance.tick() => self.share_queues().await,
                Some(()) = self.members_changed.recv() => self.share_queues().await,
                Some(pulled) = self.pulled.recv() => self.take(pulled),
            }
            if self.last_failure.is_some() {
                return None;
            }
        }
    }

    /// Commits what is consumed and leaves the group, so that others take over at once. The message handed out
    /// last counts only after [`settle`](Self::settle).
    pub async fn leave(mut self) -> Result<(), ClientError> {
        if self.options.membership == Membership::Reader {
            return Ok(());
        }
        let mut outcome = self.commit_and_wait().await;
        self.held.clear();
        let header = UnregisterClient {
            client_id: self.options.client_id.clone(),
            producer_group: None,
            consumer_group: Some(self.options.group.to_string()),
        };
        for addr in self.brokers.clone() {
            let left =
                self.servers.call(&addr, Call::new(RequestCode::UNREGISTER_CLIENT).header(&header)).await;
            outcome = outcome.and(left.map(|_| ()));
        }
        outcome
    }

    /// Counts the message handed out last as consumed.
    pub fn settle(&mut self) {
        if let Some((queue, holding, next)) = self.handed_out.take() {
            self.advance(&queue, holding, next);
        }
    }

    fn advance(&mut self, queue: &MessageQueue, holding: u64, next: i64) {
        if let Some(held) = self.held.get_mut(queue).filter(|held| held.holding == holding) {
            held.next = next;
        }
    }

    fn take(&mut self, pulled: Pulled) {
        let Pulled { queue, holding, what } = pulled;
        if self.held.get(&queue).is_none_or(|held| held.holding != holding) {
            return; // another member has the queue now
        }
        let mut put = |message, next| {
            self.waiting.push_back(Waiting { queue: queue.clone(), holding, message, next });
        };
        match what {
            PulledWhat::Messages { messages, next } => {
                for message in messages {
                    let after = message.queue_offset.0 as i64 + 1;
                    put(Some(message), after);
                }
                put(None, next);
            }
            PulledWhat::Moved { next } => put(None, next),
            PulledWhat::Failed(error) => {
                // A broken connection does not come back: another is opened when the queue is held anew.
                if matches!(error, ClientError::Closed { .. } | ClientError::TimedOut { .. }) {
                    self.held.remove(&queue);
                    self.rebalance.reset_after(REBALANCE_UNSETTLED);
                }
                self.last_failure = Some(error);
            }
        }
    }

    /// The topic it consumes.
    pub fn topic(&self) -> &TopicName {
        &self.options.subscription.topic
    }

    /// The consumer group it is a member of.
    pub fn group(&self) -> &GroupName {
        &self.options.group
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

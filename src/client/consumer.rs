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
///
/// ```
/// use telstar::client::ConsumeFrom;
/// use telstar::clock::{Clock, SystemClock};
///
/// let an_hour_ago = ConsumeFrom::TimestampMs(SystemClock.now().0 - 3_600_000);
/// assert_ne!(an_hour_ago, ConsumeFrom::Last);
/// ```
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
///
/// ```
/// use std::time::Duration;
/// use telstar::client::*;
/// use telstar::clock::SystemClock;
/// use telstar::protocol::SubscriptionData;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = telstar::Broker::builder().start()?;
/// let name_server = broker.name_server().expect("it is one, too").to_string();
/// let timeout = Duration::from_secs(20);
/// let servers = Servers::new(&name_server, ConnectOptions::default(), timeout);
/// let mut shop = Producer::new(servers, "shop".into(), SystemClock::shared());
/// # let order = OutgoingMessage {
/// #     topic: "orders".into(), body: "pay 7".into(), properties: Vec::new(), queue_id: None,
/// # };
/// shop.send(order).await?;
/// // Two who look at everything, and take nothing from anybody.
/// for client_id in ["one", "two"] {
///     let options = ConsumerOptions {
///         group: "lookers".into(),
///         membership: Membership::Reader,
///         client_id: client_id.into(),
///         subscription: SubscriptionData { sub_version: 1, ..SubscriptionData::parse("orders", "*")? },
///         from: ConsumeFrom::First,
///     };
///     let mut reader = Consumer::join(&name_server, options, timeout).await?;
///     assert_eq!(reader.next().await.expect("a message").message.body, "pay 7");
/// }
/// # broker.stop()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Shares the queues with the others; the group's offsets are kept.
    Member,
    /// Reads every queue by itself and leaves nothing behind: no heartbeat, no offsets, no retry topic.
    Reader,
}

/// What to consume, and as whom.
///
/// ```
/// use telstar::client::{ConsumeFrom, ConsumerOptions, Membership};
/// use telstar::clock::{Clock, SystemClock};
/// use telstar::protocol::{SubscriptionData, TAG};
///
/// let options = ConsumerOptions {
///     group: "bank".into(),
///     membership: Membership::Member,
///     client_id: format!("127.0.0.1@{}", std::process::id()).into(),
///     subscription: SubscriptionData {
///         sub_version: SystemClock.now().0,
///         ..SubscriptionData::build("orders", "paid", TAG)?
///     },
///     from: ConsumeFrom::First,
/// };
/// // A second one of this program.
/// let other = ConsumerOptions { client_id: format!("{}-2", options.client_id).into(), ..options.clone() };
/// assert_ne!(options.client_id, other.client_id);
/// # Ok::<(), telstar::protocol::SubscriptionError>(())
/// ```
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
///
/// ```
/// use telstar::client::ReceivedMessage;
///
/// fn line(ReceivedMessage { queue, message }: &ReceivedMessage) -> String {
///     let text = String::from_utf8_lossy(&message.body);
///     format!("{}/{} at {}: {text}", queue.topic, queue.queue_id, message.queue_offset)
/// }
/// # use telstar::testing::{Scenario, calls::*};
/// # #[actix::main]
/// # async fn main() {
/// # let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// # let mut shop = broker.client("shop");
/// # shop.succeed(send_to("orders", 0, "pay 7")).await;
/// # let message = shop.pull(pull_from("bank", "orders", 0, 0)).await.remove(0);
/// # let queue = telstar::types::MessageQueue { topic: "orders".into(), broker_name: "b".into(), queue_id: 0 };
/// # let received = ReceivedMessage { queue, message };
/// assert_eq!(line(&received), "orders/0 at 0: pay 7"); // of what `Consumer::next` returns
/// # }
/// ```
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
///
/// ```
/// use std::time::Duration;
/// use telstar::client::*;
/// use telstar::protocol::SubscriptionData;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = telstar::Broker::builder().set("broker.default_queue_nums", 2).start()?;
/// let name_server = broker.name_server().expect("it is one, too").to_string();
/// let timeout = Duration::from_secs(20);
/// let servers = Servers::new(&name_server, ConnectOptions::default(), timeout);
/// # let clock = telstar::clock::SystemClock::shared();
/// let mut shop = Producer::new(servers, "shop".into(), clock);
/// let order = OutgoingMessage {
///     topic: "orders".into(), body: "pay 7".into(), properties: Vec::new(), queue_id: None,
/// };
/// shop.send(order.clone()).await?;
/// shop.send(order).await?;
///
/// let options = ConsumerOptions {
///     group: "bank".into(),
///     membership: Membership::Member,
///     client_id: "bank-1".into(),
///     subscription: SubscriptionData { sub_version: 1, ..SubscriptionData::parse("orders", "*")? },
///     from: ConsumeFrom::First,
/// };
/// let mut bank = Consumer::join(&name_server, options.clone(), timeout).await?;
/// assert_eq!(bank.held_queues(), 3); // it is alone: those of the topic, and the one of its retry topic
/// let first = bank.next().await.expect("no failure");
/// bank.settle();
/// bank.leave().await?;
///
/// let mut again = Consumer::join(&name_server, options, timeout).await?;
/// let second = again.next().await.expect("no failure");
/// assert_ne!(first.message.physical_offset, second.message.physical_offset); // the group goes on
/// # again.leave().await?;
/// # broker.stop()?;
/// # Ok(())
/// # }
/// ```
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

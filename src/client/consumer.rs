//! One member of a consumer group: heartbeats, its share of the queues, long polling, consumer offsets.
//!
//! The consumer is driven by its user: everything happens inside [`Consumer::next`], but for the pulls, which
//! run ahead a little. A message counts as consumed when the next one is asked for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::error::ClientError;
use super::pull_loop::{PullLoop, Pulled, PulledWhat};
use super::rebalance;
use super::remoting::{Call, ConnectOptions, ServerRequest};
use super::route::{self, QueueAt};
use super::servers::Servers;
use crate::protocol::body::connections::ConsumerIdList;
use crate::protocol::body::heartbeat::{ConsumeFromWhere, ConsumerData, HeartbeatData};
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::fastjson;
use crate::protocol::header::{
    ConsumerGroupHeader, OffsetResponse, QueryConsumerOffset, QueueHeader, SearchOffset, UnregisterClient,
    UpdateConsumerOffset,
};
use crate::protocol::message::StoredMessage;
use crate::protocol::names;
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
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
    First,
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
    pub group: GroupName,
    pub membership: Membership,
    pub client_id: ClientId,
    /// Its version must be set: milliseconds since 1970.
    pub subscription: SubscriptionData,
    pub from: ConsumeFrom,
}

/// A message as it was pulled.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    pub queue: MessageQueue,
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
    brokers: HashSet<String>,
    held: HashMap<MessageQueue, Held>,
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
        let (notify, members_changed) = mpsc::channel(1);
        let on_request = move |request: ServerRequest| {
            if request.command.head.code == RequestCode::NOTIFY_CONSUMER_IDS_CHANGED.as_i32() {
                // One notice waiting is as good as many.
                let _ = notify.try_send(());
            }
        };
        let connect = ConnectOptions { on_request: Some(Arc::new(on_request)), ..ConnectOptions::default() };
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
            brokers: HashSet::new(),
            held: HashMap::new(),
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

    async fn keep_alive(&mut self) {
        if let Err(error) = self.send_heartbeats().await {
            self.last_failure = Some(error);
        }
    }

    async fn send_heartbeats(&mut self) -> Result<(), ClientError> {
        if self.options.membership == Membership::Reader {
            return Ok(());
        }
        let heartbeat = HeartbeatData {
            client_id: self.options.client_id.clone(),
            consumer_data_set: vec![ConsumerData {
                consume_from_where: match self.options.from {
                    ConsumeFrom::First => ConsumeFromWhere::FirstOffset,
                    ConsumeFrom::Last => ConsumeFromWhere::LastOffset,
                    ConsumeFrom::TimestampMs(_) => ConsumeFromWhere::Timestamp,
                },
                group_name: self.options.group.clone(),
                subscription_data_set: self.subscriptions.clone(),
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        };
        let body = Bytes::from(fastjson::to_vec(&heartbeat)?);
        for addr in self.brokers.clone() {
            self.servers.call(&addr, Call::new(RequestCode::HEART_BEAT).body(body.clone())).await?;
        }
        Ok(())
    }

    /// Takes the queues that fall to this member and gives the others up. What cannot be found out now leaves
    /// everything as it is.
    async fn share_queues(&mut self) {
        let mut settled = true;
        for subscription in self.subscriptions.clone() {
            if let Err(error) = self.share_queues_of(&subscription).await {
                settled = false;
                self.last_failure = Some(error);
            }
        }
        self.rebalance.reset_after(if settled { REBALANCE } else { REBALANCE_UNSETTLED });
    }

    async fn share_queues_of(&mut self, subscription: &SubscriptionData) -> Result<(), ClientError> {
        let topic = &subscription.topic;
        let Some(route) = self.servers.find_route(topic).await? else {
            // The retry topic appears when the group is first heard of; it is looked for again later.
            return Ok(());
        };
        let unheard: Vec<String> =
            route::all_addrs(&route).into_iter().filter(|addr| self.brokers.insert(addr.clone())).collect();
        if !unheard.is_empty() {
            self.send_heartbeats().await?;
        }
        let queues = route::read_queues(topic, &route);
        let all = queues.iter().map(|queue| queue.queue.clone()).collect();
        let share = match (self.options.membership, queues.first()) {
            (Membership::Member, Some(any)) => {
                let members = self.members(&any.addr).await?;
                rebalance::average(all, members, &self.options.client_id)
            }
            _ => all,
        };

        let of_topic = self.held.keys().filter(|queue| queue.topic == *topic);
        let given_up: Vec<MessageQueue> = of_topic.filter(|queue| !share.contains(queue)).cloned().collect();
        for queue in given_up {
            self.commit_queue(&queue).await;
            self.waiting.retain(|waiting| waiting.queue != queue);
            self.held.remove(&queue);
        }
        for queue in queues.into_iter().filter(|queue| share.contains(&queue.queue)) {
            if !self.held.contains_key(&queue.queue) {
                self.hold(queue, subscription).await?;
            }
        }
        Ok(())
    }

    /// Clients of the group, as one of the topic's brokers knows them; all brokers get all heartbeats.
    async fn members(&mut self, addr: &str) -> Result<Vec<ClientId>, ClientError> {
        let header = ConsumerGroupHeader { consumer_group: self.options.group.clone() };
        let call = Call::new(RequestCode::GET_CONSUMER_LIST_BY_GROUP).header(&header);
        Ok(self.servers.call(addr, call).await?.json::<ConsumerIdList>()?.consumer_id_list)
    }

    async fn hold(&mut self, at: QueueAt, subscription: &SubscriptionData) -> Result<(), ClientError> {
        let next = self.first_offset(&at).await?;
        let QueueAt { queue, addr } = at;
        self.holdings += 1;
        let pulls = PullLoop {
            connection: self.servers.connection(&addr).await?,
            group: self.options.group.clone(),
            membership: self.options.membership,
            subscription: subscription.clone(),
            queue: queue.clone(),
            holding: self.holdings,
            next,
            to: self.pulled_to.clone(),
        };
        let pulls = tokio::spawn(pulls.run()).abort_handle();
        self.held.insert(queue, Held { holding: self.holdings, addr, next, committed: None, pulls });
        Ok(())
    }

    /// Where the group goes on in a queue, or begins.
    async fn first_offset(&mut self, at: &QueueAt) -> Result<i64, ClientError> {
        let QueueAt { queue, addr } = at;
        if self.options.membership == Membership::Member {
            let header = QueryConsumerOffset {
                consumer_group: self.options.group.clone(),
                topic: queue.topic.clone(),
                queue_id: queue.queue_id,
                set_zero_if_not_found: Some(false),
            };
            let call = Call::new(RequestCode::QUERY_CONSUMER_OFFSET).header(&header);
            let answer = self.servers.ask(addr, call).await?;
            if answer.code != ResponseCode::QUERY_NOT_FOUND {
                return Ok(answer.success()?.header::<OffsetResponse>()?.offset);
            }
        }
        let (topic, queue_id) = (queue.topic.clone(), queue.queue_id);
        let is_retry = names::is_retry_topic(&topic);
        let call = match self.options.from {
            ConsumeFrom::Last if !is_retry => {
                Call::new(RequestCode::GET_MAX_OFFSET).header(&QueueHeader { topic, queue_id })
            }
            ConsumeFrom::TimestampMs(timestamp) if !is_retry => {
                let header = SearchOffset { topic, queue_id, timestamp, boundary_type: None };
                Call::new(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP).header(&header)
            }
            _ => Call::new(RequestCode::GET_MIN_OFFSET).header(&QueueHeader { topic, queue_id }),
        };
        Ok(self.servers.call(addr, call).await?.header::<OffsetResponse>()?.offset)
    }

    async fn commit_offsets(&mut self) {
        for queue in self.held.keys().cloned().collect::<Vec<_>>() {
            self.commit_queue(&queue).await;
        }
    }

    /// Tells the broker of a queue how far it is consumed, if that is news. Nobody waits for an answer.
    async fn commit_queue(&mut self, queue: &MessageQueue) {
        let Some((addr, call, next)) = self.commit_call(queue) else { return };
        let sent = match self.servers.connection(&addr).await {
            Ok(connection) => connection.one_way(call).await,
            Err(error) => Err(error),
        };
        match (sent, self.held.get_mut(queue)) {
            (Ok(()), Some(held)) => held.committed = Some(next),
            (Ok(()), None) => {}
            (Err(error), _) => self.last_failure = Some(error),
        }
    }

    async fn commit_and_wait(&mut self) -> Result<(), ClientError> {
        for queue in self.held.keys().cloned().collect::<Vec<_>>() {
            if let Some((addr, call, _)) = self.commit_call(&queue) {
                self.servers.call(&addr, call).await?;
            }
        }
        Ok(())
    }

    /// `None` when there is no news, or nobody wants any.
    fn commit_call(&self, queue: &MessageQueue) -> Option<(String, Call, i64)> {
        if self.options.membership == Membership::Reader {
            return None;
        }
        let held = self.held.get(queue).filter(|held| held.committed != Some(held.next))?;
        let header = UpdateConsumerOffset {
            consumer_group: self.options.group.clone(),
            topic: queue.topic.clone(),
            queue_id: Some(queue.queue_id),
            commit_offset: Some(held.next),
        };
        let call = Call::new(RequestCode::UPDATE_CONSUMER_OFFSET).header(&header);
        Some((held.addr.clone(), call, held.next))
    }

    /// The topic it consumes.
    pub fn topic(&self) -> &TopicName {
        &self.options.subscription.topic
    }

    pub fn group(&self) -> &GroupName {
        &self.options.group
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

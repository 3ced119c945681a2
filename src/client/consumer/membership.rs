//! What a member does for its place in the group: heartbeats, and its share of the queues.

use bytes::Bytes;

use super::{ConsumeFrom, Consumer, Held, Membership, REBALANCE, REBALANCE_UNSETTLED};
use crate::client::error::ClientError;
use crate::client::pull_loop::PullLoop;
use crate::client::rebalance;
use crate::client::remoting::Call;
use crate::client::route::{self, QueueAt};
use crate::protocol::body::connections::ConsumerIdList;
use crate::protocol::body::heartbeat::{
    CheckClientRequestBody, ConsumeFromWhere, ConsumerData, HeartbeatData,
};
use crate::protocol::body::subscription::SubscriptionData;
use crate::protocol::fastjson;
use crate::protocol::header::ConsumerGroupHeader;
use crate::protocol::request_code::RequestCode;
use crate::types::{ClientId, MessageQueue};

impl Consumer {
    /// Asks a broker whether the expression compiles: otherwise nothing would ever match, and nobody would know.
    pub(super) async fn check_expression(&mut self) -> Result<(), ClientError> {
        if self.options.subscription.is_tag_type() {
            return Ok(());
        }
        let body = fastjson::to_vec(&CheckClientRequestBody {
            client_id: self.options.client_id.clone(),
            group: self.options.group.clone(),
            namespace: None,
            subscription_data: self.options.subscription.clone(),
        })?;
        match self.brokers.iter().next().cloned() {
            Some(addr) => {
                let call = Call::new(RequestCode::CHECK_CLIENT_CONFIG).body(body);
                self.servers.call(&addr, call).await.map(|_| ())
            }
            None => Ok(()),
        }
    }

    pub(super) async fn keep_alive(&mut self) {
        if let Err(error) = self.send_heartbeats().await {
            self.last_failure = Some(error);
        }
    }

    pub(super) async fn send_heartbeats(&mut self) -> Result<(), ClientError> {
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
    pub(super) async fn share_queues(&mut self) {
        let mut settled = true;
        for subscription in self.subscriptions.clone() {
            if let Err(error) = self.share_queues_of(&subscription).await {
                settled = false;
                self.last_failure = Some(error);
            }
        }
        self.rebalance.reset_after(if settled { REBALANCE } else { REBALANCE_UNSETTLED });
    }

    pub(super) async fn share_queues_of(
        &mut self,
        subscription: &SubscriptionData,
    ) -> Result<(), ClientError> {
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
    pub(super) async fn members(&mut self, addr: &str) -> Result<Vec<ClientId>, ClientError> {
        let header = ConsumerGroupHeader { consumer_group: self.options.group.clone() };
        let call = Call::new(RequestCode::GET_CONSUMER_LIST_BY_GROUP).header(&header);
        Ok(self.servers.call(addr, call).await?.json::<ConsumerIdList>()?.consumer_id_list)
    }

    pub(super) async fn hold(
        &mut self,
        at: QueueAt,
        subscription: &SubscriptionData,
    ) -> Result<(), ClientError> {
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
}

//! Requests about membership: heartbeats, who is there, queue locks.

use actix::{Addr, Recipient};
use futures::future;
use tracing::debug;

use crate::actors::broker_settings::SettingsTable;
use crate::actors::consumer_group::{ConsumerHeartbeat, LeaveGroup, LockQueues, UnlockQueues, ViewMember};
use crate::actors::consumer_groups::{ConsumerDirectory, ConsumerGroupTable};
use crate::actors::membership::{GroupSubscription, Member};
use crate::actors::producers::{
    LeaveProducerGroup, ProducerHeartbeat, Producers, QueryAllProducers, QueryProducers, connection_body,
};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::requests::pull::{check_filter, check_switched_on, no_filter};
use crate::actors::subscription_groups::GroupSettings;
use crate::actors::topic_table::TopicTable;
use crate::actors::topics::EnsureTopic;
use crate::error::Refusal;
use crate::filter::FilterRules;
use crate::protocol::body::connections::{ConsumerConnection, ConsumerIdList, ProducerConnection};
use crate::protocol::body::heartbeat::{CheckClientRequestBody, ConsumerData, HeartbeatData};
use crate::protocol::body::lock::{LockBatchRequestBody, LockBatchResponseBody};
use crate::protocol::header::{ConsumerGroupHeader, ProducerGroupHeader, UnregisterClient};
use crate::protocol::names;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::protocol::topic_config::TopicConfig;
use crate::types::GroupName;

/// `topicSysFlag` of a retry topic whose group is in unit mode. RocketMQ: `TopicSysFlag.FLAG_UNIT_SUB`.
const UNIT_SUBSCRIPTION: i32 = 1 << 1;

/// Whom a heartbeat concerns.
pub struct HeartbeatPeers<'a> {
    pub settings: &'a SettingsTable,
    pub groups: &'a GroupSettings,
    pub consumers: &'a ConsumerDirectory,
    pub producers: &'a Addr<Producers>,
    pub topics: &'a TopicTable,
    pub ensure_topic: &'a Recipient<EnsureTopic>,
}

/// HEART_BEAT (34). Answered when every group of the client is registered, and its retry topic with it.
pub async fn heartbeat(request: &Request, peers: &HeartbeatPeers<'_>) -> Answered {
    let data: HeartbeatData = request.json_body("HEART_BEAT", "the heartbeat of a client")?;
    request.from.client.learn(&data.client_id);
    let head = &request.command.head;
    let member = Member { client_id: data.client_id.clone(), language: head.language, version: head.version };
    let groups: Vec<_> = data.producer_data_set.into_iter().map(|producer| producer.group_name).collect();
    if !groups.is_empty() {
        let link = request.from.clone();
        let heartbeat =
            ProducerHeartbeat { link, member: member.clone(), groups, received_at: request.received_at };
        peers.producers.send(heartbeat).await?;
    }
    let (fingerprint, without_sub) = (data.heartbeat_fingerprint, data.without_sub);
    // Only V2 may leave subscriptions out.
    let without_sub = without_sub && fingerprint != 0;
    let beats = data
        .consumer_data_set
        .into_iter()
        .map(|consumer| beat(request, peers, &member, consumer, fingerprint, without_sub));
    let fingerprint_changed = future::try_join_all(beats).await?.contains(&true);
    // A V1 client does not look; Java tells it that everything is new.
    let send_everything = fingerprint == 0 || fingerprint_changed;
    Ok(Some(
        Answer::success()
            .with_field("IS_SUPPORT_HEART_BEAT_V2", "true")
            .with_field("IS_SUB_CHANGE", send_everything.to_string()),
    ))
}

/// Takes the heartbeat for one consumer group. Returns whether a V2 client should send everything again.
async fn beat(
    request: &Request,
    peers: &HeartbeatPeers<'_>,
    member: &Member,
    consumer: ConsumerData,
    fingerprint: i32,
    without_subscriptions: bool,
) -> Result<bool, Refusal> {
    let group = consumer.group_name.clone();
    let config = match peers.groups.find_or_create(&group).await {
        Ok(config) => config,
        Err(refusal) if refusal.code() == ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST => {
            // As in Java the client is not told here; its pulls are refused with the cause.
            debug!(%group, client_id = %member.client_id, %refusal, "heartbeat of a group that must not be");
            return Ok(false);
        }
        Err(refusal) => return Err(refusal),
    };
    ensure_retry_topic(request, peers, &config, consumer.unit_mode).await?;
    let heartbeat = ConsumerHeartbeat {
        link: request.from.clone(),
        member: member.clone(),
        consumer,
        fingerprint,
        without_subscriptions,
        notify: peers.settings.load().notify_members && config.notify_consumer_ids_changed_enable,
    };
    let handle = peers.consumers.open(&group).await?;
    Ok(handle.address.send(heartbeat).await?.fingerprint_changed)
}

/// For a member that is known, a look at the table is enough. For a new one the owner of the topics is asked,
/// who answers when the name servers know the retry topic.
async fn ensure_retry_topic(
    request: &Request,
    peers: &HeartbeatPeers<'_>,
    config: &SubscriptionGroupConfig,
    unit_mode: bool,
) -> Result<(), Refusal> {
    let topic = names::retry_topic(&config.group_name);
    let view = peers.consumers.table().view(&config.group_name);
    let known = view.is_some_and(|view| view.members.iter().any(|known| known.link.id == request.from.id));
    if known && peers.topics.get(&topic).is_some() {
        return Ok(());
    }
    let queue_nums = u32::try_from(config.retry_queue_nums).unwrap_or(0);
    let topic_sys_flag = if unit_mode { UNIT_SUBSCRIPTION } else { 0 };
    let config = TopicConfig { topic_sys_flag, ..TopicConfig::new(topic, queue_nums) };
    peers.ensure_topic.send(EnsureTopic { config }).await??;
    Ok(())
}

/// UNREGISTER_CLIENT (35).
pub async fn unregister_client(
    request: &Request,
    consumers: &ConsumerGroupTable,
    producers: &Addr<Producers>,
) -> Answered {
    let asked: UnregisterClient = request.header("UNREGISTER_CLIENT")?;
    let connection = request.from.id;
    let named = |group: Option<String>| group.filter(|group| !group.trim().is_empty()).map(GroupName::from);
    if let Some(group) = named(asked.producer_group) {
        producers.send(LeaveProducerGroup { group, connection }).await?;
    }
    if let Some(handle) = named(asked.consumer_group).and_then(|group| consumers.get(&group)) {
        handle.address.send(LeaveGroup { connection }).await?;
    }
    Ok(Some(Answer::success()))
}

/// GET_CONSUMER_LIST_BY_GROUP (38).
pub async fn consumer_list(request: &Request, consumers: &ConsumerGroupTable) -> Answered {
    let ConsumerGroupHeader { consumer_group: group } = request.header("GET_CONSUMER_LIST_BY_GROUP")?;
    let view = consumers.view(&group).ok_or(Refusal::NoConsumer { group })?;
    Ok(Some(Answer::json(&ConsumerIdList { consumer_id_list: view.client_ids().to_vec() })))
}

/// GET_CONSUMER_CONNECTION_LIST (203).
pub async fn consumer_connections(request: &Request, consumers: &ConsumerGroupTable) -> Answered {
    let ConsumerGroupHeader { consumer_group: group } = request.header("GET_CONSUMER_CONNECTION_LIST")?;
    let view = consumers.view(&group).ok_or(Refusal::GroupOffline { group })?;
    let connection = |known: &ViewMember| connection_body(&known.member, &known.link);
    let subscriptions = view.subscriptions.iter();
    Ok(Some(Answer::json(&ConsumerConnection {
        connection_set: view.members.iter().map(connection).collect(),
        consume_from_where: view.attributes.consume_from_where,
        consume_type: view.attributes.consume_type,
        message_model: view.attributes.message_model,
        subscription_table: subscriptions.map(|(topic, known)| (topic.clone(), known.data.clone())).collect(),
    })))
}

/// LOCK_BATCH_MQ (41): the queues that the client holds now, which may be none.
pub async fn lock_queues(request: &Request, consumers: &ConsumerDirectory) -> Answered {
    let asked: LockBatchRequestBody = request.json_body("LOCK_BATCH_MQ", "a set of message queues")?;
    let handle = consumers.open(&asked.consumer_group).await?;
    let lock = LockQueues { client_id: asked.client_id, queues: asked.mq_set };
    let lock_ok_mq_set = handle.address.send(lock).await?;
    Ok(Some(Answer::json(&LockBatchResponseBody { lock_ok_mq_set })))
}

/// UNLOCK_BATCH_MQ (42).
pub async fn unlock_queues(request: &Request, consumers: &ConsumerGroupTable) -> Answered {
    let asked: LockBatchRequestBody = request.json_body("UNLOCK_BATCH_MQ", "a set of message queues")?;
    if let Some(handle) = consumers.get(&asked.consumer_group) {
        handle.address.send(UnlockQueues { client_id: asked.client_id, queues: asked.mq_set }).await?;
    }
    Ok(Some(Answer::success()))
}

/// CHECK_CLIENT_CONFIG (46): whether this broker can filter by the client's expression.
pub async fn check_client_config(
    request: &Request,
    settings: &SettingsTable,
    topics: &TopicTable,
    rules: &FilterRules,
) -> Answered {
    if request.command.body.is_empty() {
        return Ok(Some(Answer::success()));
    }
    let asked: CheckClientRequestBody = request.json_body("CHECK_CLIENT_CONFIG", "a subscription")?;
    let subscription = GroupSubscription::new(asked.subscription_data, None, rules);
    // Tags that name nothing were never refused here, and pulls say so.
    let filter = subscription.filter.map_err(|fault| no_filter(&fault))?;
    match topics.get(&subscription.data.topic) {
        Some(topic) => check_filter(&filter, &topic, &settings.load())?,
        // The pull will find it, or refuse.
        None => check_switched_on(&filter, &settings.load())?,
    }
    Ok(Some(Answer::success()))
}

/// GET_PRODUCER_CONNECTION_LIST (204).
pub async fn producer_connections(request: &Request, producers: &Addr<Producers>) -> Answered {
    let ProducerGroupHeader { producer_group: group } = request.header("GET_PRODUCER_CONNECTION_LIST")?;
    let connection_set = producers.send(QueryProducers { group: group.clone() }).await?;
    if connection_set.is_empty() {
        return Err(Refusal::NoProducer { group });
    }
    Ok(Some(Answer::json(&ProducerConnection { connection_set })))
}

/// GET_ALL_PRODUCER_INFO (328).
pub async fn all_producers(_: &Request, producers: &Addr<Producers>) -> Answered {
    Ok(Some(Answer::json(&producers.send(QueryAllProducers).await?)))
}

#[cfg(test)]
mod tests;

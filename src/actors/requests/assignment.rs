//! Requests about who consumes which queue, and how: QUERY_ASSIGNMENT (400), SET_MESSAGE_REQUEST_MODE (401),
//! GET_ALL_MESSAGE_REQUEST_MODE (402).

use std::collections::BTreeSet;

use actix::{Addr, Recipient};
use tracing::debug;

use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::group_table::GroupTable;
use crate::actors::read_queues::ListReadQueues;
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::subscription_groups::{SetRequestMode, SubscriptionGroups};
use crate::actors::topic_table::TopicTable;
use crate::actors::topics::unknown_topic;
use crate::client::rebalance::AssignmentStrategy;
use crate::error::Refusal;
use crate::protocol::attributes::ASSIGNMENT_ROOMS;
use crate::protocol::body::assignment::{
    MessageQueueAssignment, MessageRequestMode, MessageRequestModeSerializeWrapper,
    QueryAssignmentRequestBody, QueryAssignmentResponseBody, SetMessageRequestModeRequestBody,
};
use crate::protocol::body::heartbeat::MessageModel;
use crate::protocol::names;
use crate::types::MessageQueue;

/// Whom an assignment concerns.
pub struct AssignmentPeers<'a> {
    pub groups: &'a GroupTable,
    pub consumers: &'a ConsumerGroupTable,
    pub queues: &'a Recipient<ListReadQueues>,
}

/// QUERY_ASSIGNMENT (400). An answer without assignments leaves a client with the queues it has: the topic or the group
/// is not known, or the strategy is one that clients alone know.
pub async fn query_assignment(request: &Request, peers: &AssignmentPeers<'_>) -> Answered {
    let asked: QueryAssignmentRequestBody =
        request.json_body("QUERY_ASSIGNMENT", "whom and what an assignment is for")?;
    let share = share_of(&asked, peers).await?;
    let assigned = |queue| MessageQueueAssignment { message_queue: queue, mode: MessageRequestMode::Pull };
    let message_queue_assignments = share.map(|share| share.into_iter().map(assigned).collect());
    Ok(Some(Answer::json(&QueryAssignmentResponseBody { message_queue_assignments })))
}

async fn share_of(
    asked: &QueryAssignmentRequestBody,
    peers: &AssignmentPeers<'_>,
) -> Result<Option<Vec<MessageQueue>>, Refusal> {
    let Some(queues) = peers.queues.send(ListReadQueues { topic: asked.topic.clone() }).await? else {
        return Ok(None);
    };
    if asked.message_model == MessageModel::Broadcasting {
        return Ok(Some(queues.to_vec()));
    }
    let group = &asked.consumer_group;
    let Some(view) = peers.consumers.view(group) else { return Ok(None) };
    let config = peers.groups.get(group);
    let rooms =
        config.and_then(|config| config.attributes.get(ASSIGNMENT_ROOMS).cloned()).unwrap_or_default();
    let rooms: BTreeSet<String> = rooms.split(';').map(|room| room.trim().to_owned()).collect();
    let Some(strategy) = AssignmentStrategy::named(&asked.strategy_name, &rooms) else {
        debug!(%group, strategy = asked.strategy_name, "assignment by a strategy that is not known here");
        return Ok(None);
    };
    Ok(Some(strategy.share_sorted(queues.to_vec(), view.client_ids(), &asked.client_id)))
}

/// SET_MESSAGE_REQUEST_MODE (401).
pub async fn set_request_mode(
    request: &Request,
    topics: &TopicTable,
    table: &GroupTable,
    groups: &Addr<SubscriptionGroups>,
) -> Answered {
    let asked: SetMessageRequestModeRequestBody =
        request.json_body("SET_MESSAGE_REQUEST_MODE", "how a group is to take a topic")?;
    let SetMessageRequestModeRequestBody { topic, consumer_group: group, mode, .. } = &asked;
    if names::is_retry_topic(topic) {
        return Err(Refusal::NoPermission {
            what: format!("setting how retry topic {topic} is taken"),
            remedy: "set it for the topic that the group subscribes to; its retries follow",
        });
    }
    if topics.get(topic).is_none() {
        return Err(unknown_topic(topic, &topics.load()));
    }
    if table.get(group).is_none() {
        return Err(Refusal::GroupNeverSeen { group: group.clone() });
    }
    if *mode == MessageRequestMode::Pop {
        return Err(Refusal::NotSupported {
            what: "taking a topic by POP",
            instead: "leave the mode at PULL; the group shares the queues among its members as before",
        });
    }
    groups.send(SetRequestMode(asked)).await??;
    Ok(Some(Answer::success()))
}

/// GET_ALL_MESSAGE_REQUEST_MODE (402).
pub async fn all_request_modes(_: &Request, table: &GroupTable) -> Answered {
    let mut body = MessageRequestModeSerializeWrapper::default();
    for mode in table.load().request_modes.values().flat_map(|topics| topics.values()) {
        let of_topic = body.message_request_mode_map.entry(mode.topic.clone()).or_default();
        of_topic.insert(mode.consumer_group.clone(), mode.clone());
    }
    Ok(Some(Answer::json(&body)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::actors::consumer_group::ConsumerHeartbeat;
    use crate::actors::membership::Member;
    use crate::actors::request::ClientLink;
    use crate::actors::requests::testing::{TestStore, body, refusal};
    use crate::actors::subscription_groups::AlterGroups;
    use crate::protocol::body::heartbeat::ConsumerData;
    use crate::protocol::body::subscription::SubscriptionData;
    use crate::protocol::command::Language;
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;
    use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
    use crate::testing::{fake_client, fake_mailbox, request};

    /// Queues 0 and 1 of T on two brokers; no other topic is known.
    fn queues() -> Recipient<ListReadQueues> {
        let answer = |asked: &ListReadQueues| {
            let queue = |broker: &str, queue_id| MessageQueue {
                broker_name: broker.into(),
                queue_id,
                topic: "T".into(),
            };
            let all = [queue("r1@a", 0), queue("r1@a", 1), queue("r2@b", 0), queue("r2@b", 1)];
            (asked.topic.as_str() == "T").then(|| Arc::from(all))
        };
        fake_mailbox().answers(answer).start().0
    }

    async fn join(store: &TestStore, client_id: &str, link: &Arc<ClientLink>) {
        let heartbeat = ConsumerHeartbeat {
            link: link.clone(),
            member: Member { client_id: client_id.into(), language: Language::JAVA, version: 479 },
            consumer: ConsumerData {
                group_name: "g".into(),
                subscription_data_set: vec![SubscriptionData::parse("T", "*").unwrap()],
                ..ConsumerData::default()
            },
            fingerprint: 0,
            without_subscriptions: false,
            notify: false,
        };
        store.directory.open(&"g".into()).await.unwrap().address.send(heartbeat).await.unwrap();
    }

    async fn ask(store: &TestStore, asked: QueryAssignmentRequestBody) -> Option<Vec<String>> {
        let (link, _client) = fake_client();
        let queues = queues();
        let peers =
            AssignmentPeers { groups: store.groups.table(), consumers: &store.consumers, queues: &queues };
        let request = request(RequestCode::QUERY_ASSIGNMENT).json(&asked).from(&link);
        let answer: QueryAssignmentResponseBody = body(query_assignment(&request, &peers).await);
        let place = |assigned: MessageQueueAssignment| {
            assert_eq!(assigned.mode, MessageRequestMode::Pull);
            format!("{}/{}", assigned.message_queue.broker_name, assigned.message_queue.queue_id)
        };
        answer.message_queue_assignments.map(|assigned| assigned.into_iter().map(place).collect())
    }

    fn asked(client_id: &str, strategy: &str) -> QueryAssignmentRequestBody {
        QueryAssignmentRequestBody {
            client_id: client_id.into(),
            consumer_group: "g".into(),
            message_model: MessageModel::Clustering,
            strategy_name: strategy.into(),
            topic: "T".into(),
        }
    }

    fn places(places: &[&str]) -> Option<Vec<String>> {
        Some(places.iter().map(|place| place.to_string()).collect())
    }

    #[actix::test]
    async fn members_share_the_queues_of_all_brokers() {
        let store = TestStore::start(&[("T", 2)]).await;
        assert_eq!(ask(&store, asked("c1", "AVG")).await, None, "nobody is there");
        let clients = [fake_client(), fake_client()];
        join(&store, "c2", &clients[0].0).await;
        join(&store, "c1", &clients[1].0).await;
        assert_eq!(ask(&store, asked("c1", "AVG")).await, places(&["r1@a/0", "r1@a/1"]));
        assert_eq!(ask(&store, asked("c2", "AVG_BY_CIRCLE")).await, places(&["r1@a/1", "r2@b/1"]));
        assert_eq!(ask(&store, asked("stranger", "AVG")).await, places(&[]));
        assert_eq!(ask(&store, asked("c1", "CONFIG")).await, None);
        let unknown = QueryAssignmentRequestBody { topic: "U".into(), ..asked("c1", "AVG") };
        assert_eq!(ask(&store, unknown).await, None);
        let broadcast =
            QueryAssignmentRequestBody { message_model: MessageModel::Broadcasting, ..asked("c9", "AVG") };
        assert_eq!(ask(&store, broadcast).await.unwrap().len(), 4);
    }

    #[actix::test]
    async fn rooms_are_an_attribute_of_the_group() {
        let store = TestStore::start(&[("T", 2)]).await;
        let (link, _client) = fake_client();
        join(&store, "c1", &link).await;
        assert_eq!(ask(&store, asked("c1", "MACHINE_ROOM")).await, places(&[]));
        let config = SubscriptionGroupConfig {
            attributes: [("+assignment.rooms".to_owned(), "r2; r9".to_owned())].into(),
            ..SubscriptionGroupConfig::new("g")
        };
        store.groups_actor.send(AlterGroups { configs: vec![config] }).await.unwrap().unwrap();
        assert_eq!(ask(&store, asked("c1", "MACHINE_ROOM")).await, places(&["r2@b/0", "r2@b/1"]));
    }

    #[actix::test]
    async fn mode_is_kept_shown_and_forgotten_with_the_group() {
        let store = TestStore::start(&[("T", 2), ("%RETRY%g", 1)]).await;
        let (link, _client) = fake_client();
        let set = async |group: &str, topic: &str, mode| {
            let body = SetMessageRequestModeRequestBody {
                consumer_group: group.into(),
                mode,
                pop_share_queue_num: -1,
                topic: topic.into(),
            };
            let request = request(RequestCode::SET_MESSAGE_REQUEST_MODE).json(&body).from(&link);
            set_request_mode(&request, &store.topics, store.groups.table(), &store.groups_actor).await
        };
        let code = async |group, topic, mode| refusal(set(group, topic, mode).await).code();
        use MessageRequestMode::{Pop, Pull};
        assert_eq!(code("g", "T", Pull).await, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
        store.groups.find_or_create(&"g".into()).await.unwrap();
        assert_eq!(code("g", "U", Pull).await, ResponseCode::TOPIC_NOT_EXIST);
        assert_eq!(code("g", "%RETRY%g", Pull).await, ResponseCode::NO_PERMISSION);
        assert_eq!(code("g", "T", Pop).await, ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
        set("g", "T", Pull).await.unwrap();
        let shown = async || {
            let request = request(RequestCode::GET_ALL_MESSAGE_REQUEST_MODE).from(&link);
            let all = all_request_modes(&request, store.groups.table()).await;
            body::<MessageRequestModeSerializeWrapper>(all).message_request_mode_map
        };
        assert_eq!(shown().await["T"]["g"].pop_share_queue_num, -1);
        let delete = crate::actors::subscription_groups::DeleteGroup { group: "g".into() };
        store.groups_actor.send(delete).await.unwrap().unwrap();
        assert!(shown().await.is_empty());
    }
}

//! Requests about consumer groups: their settings, and which groups and topics belong together.

use std::sync::Arc;

use actix::Addr;

use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::consumer_offsets::{
    ConsumerOffsets, DeleteGroupOffsets, ListGroupsOfTopic, ListTopicsOfGroup,
};
use crate::actors::group_table::{GroupMap, GroupTable};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::subscription_groups::{
    AlterGroups, DeleteGroup, ForbidReading, GroupSettings, SubscriptionGroups,
};
use crate::actors::topic_table::TopicTable;
use crate::actors::topics::unknown_topic;
use crate::error::Refusal;
use crate::protocol::body::connections::{GroupList, QuerySubscriptionResponseBody};
use crate::protocol::body::route::TopicList;
use crate::protocol::body::settings::{GroupForbidden, SubscriptionGroupList, SubscriptionGroupWrapper};
use crate::protocol::data_version::DataVersion;
use crate::protocol::fastjson;
use crate::protocol::header::{
    self, GetAllGroupConfig, GetAllGroupConfigResponse, GroupAndTopic, GroupForbiddenHeader, GroupHeader,
    TopicHeader,
};
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::types::GroupName;

/// Most groups in one page of all settings. RocketMQ: `splitMetadataSize`.
const PAGE_MAX: usize = 2_000;

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP (200).
pub async fn alter_group(request: &Request, groups: &Addr<SubscriptionGroups>) -> Answered {
    const NAME: &str = "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP";
    let config: SubscriptionGroupConfig = request.json_body(NAME, "the settings of a group")?;
    groups.send(AlterGroups { configs: vec![config] }).await??;
    Ok(Some(Answer::success()))
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST (225): all or none.
pub async fn alter_groups(request: &Request, groups: &Addr<SubscriptionGroups>) -> Answered {
    const NAME: &str = "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST";
    let body: SubscriptionGroupList = request.json_body(NAME, "a list of group settings")?;
    groups.send(AlterGroups { configs: body.group_config_list }).await??;
    Ok(Some(Answer::success()))
}

/// GET_ALL_SUBSCRIPTIONGROUP_CONFIG (201): everything, or a page of it.
pub async fn all_group_configs(request: &Request, table: &GroupTable) -> Answered {
    let asked: GetAllGroupConfig = request.header("GET_ALL_SUBSCRIPTIONGROUP_CONFIG")?;
    let map = table.load();
    let response = GetAllGroupConfigResponse { total_group_num: map.groups.len() as i32 };
    Ok(Some(Answer::header(&response).with_json(&page(&map, &asked))))
}

/// DELETE_SUBSCRIPTIONGROUP (207). To delete what is not there is a success, as in Java.
pub async fn delete_group(
    request: &Request,
    groups: &Addr<SubscriptionGroups>,
    offsets: &Addr<ConsumerOffsets>,
) -> Answered {
    let asked: header::DeleteGroup = request.header("DELETE_SUBSCRIPTIONGROUP")?;
    groups.send(DeleteGroup { group: asked.group_name.clone() }).await??;
    if asked.clean_offset {
        offsets.send(DeleteGroupOffsets { group: asked.group_name }).await??;
    }
    Ok(Some(Answer::success()))
}

/// GET_SUBSCRIPTIONGROUP_CONFIG (352). As in Java, to ask for a group may create it.
pub async fn group_config(request: &Request, groups: &GroupSettings) -> Answered {
    let GroupHeader { group } = request.header("GET_SUBSCRIPTIONGROUP_CONFIG")?;
    Ok(Some(Answer::json(&*groups.find_or_create(&group).await?)))
}

/// QUERY_TOPICS_BY_CONSUMER (343): the topics in which the group has offsets.
pub async fn topics_of_group(
    request: &Request,
    offsets: &Addr<ConsumerOffsets>,
    broker_addr: &str,
) -> Answered {
    let GroupHeader { group } = request.header("QUERY_TOPICS_BY_CONSUMER")?;
    let topic_list = offsets.send(ListTopicsOfGroup { group }).await?;
    Ok(Some(Answer::json(&TopicList { broker_addr: Some(broker_addr.to_owned()), topic_list })))
}

/// QUERY_TOPIC_CONSUME_BY_WHO (300): groups that subscribe to the topic now, or have offsets in it.
pub async fn groups_of_topic(
    request: &Request,
    offsets: &Addr<ConsumerOffsets>,
    consumers: &ConsumerGroupTable,
) -> Answered {
    let TopicHeader { topic } = request.header("QUERY_TOPIC_CONSUME_BY_WHO")?;
    let online = consumers.online().into_iter().filter(|view| view.subscription(&topic).is_some());
    let mut group_list: Vec<_> = online.map(|view| view.group.clone()).collect();
    group_list.extend(offsets.send(ListGroupsOfTopic { topic }).await?);
    group_list.sort();
    group_list.dedup();
    Ok(Some(Answer::json(&GroupList { group_list })))
}

/// QUERY_SUBSCRIPTION_BY_CONSUMER (345). Without `subscriptionData` the group is offline or does not want the topic.
pub async fn subscription_of_group(request: &Request, consumers: &ConsumerGroupTable) -> Answered {
    let GroupAndTopic { group, topic } = request.header("QUERY_SUBSCRIPTION_BY_CONSUMER")?;
    let subscription_data = consumers.subscription(&group, &topic).map(|known| known.data.clone());
    Ok(Some(Answer::json(&QuerySubscriptionResponseBody { group, subscription_data, topic })))
}

/// UPDATE_AND_GET_GROUP_FORBIDDEN (353): whether the group may read the topic, from now on if the request says so.
pub async fn group_forbidden(
    request: &Request,
    groups: &Addr<SubscriptionGroups>,
    topics: &TopicTable,
) -> Answered {
    let asked: GroupForbiddenHeader = request.header("UPDATE_AND_GET_GROUP_FORBIDDEN")?;
    let GroupForbiddenHeader { group, topic, readable } = asked;
    if readable.is_some() && topics.get(&topic).is_none() {
        return Err(unknown_topic(&topic, &topics.load()));
    }
    let forbid = readable.map(|readable| !readable);
    let answer = groups.send(ForbidReading { group: group.clone(), topic: topic.clone(), forbid }).await??;
    Ok(Some(Answer::json(&GroupForbidden { group, readable: Some(!answer.forbidden), topic })))
}

/// A client that asks for no page gets everything. One whose copy is of another version starts over.
fn page(map: &GroupMap, asked: &GetAllGroupConfig) -> SubscriptionGroupWrapper {
    let mut groups: Vec<_> = map.groups.iter().collect();
    groups.sort_by_key(|(group, _)| *group);
    let paged = asked.group_seq.is_some() || asked.max_group_num.is_some();
    let (start, len) = if paged {
        let copy =
            asked.data_version.as_deref().and_then(|text| fastjson::from_str::<DataVersion>(text).ok());
        let start = if copy == Some(map.data_version) { asked.group_seq.unwrap_or(0) } else { 0 };
        let len = usize::try_from(asked.max_group_num.unwrap_or(i32::MAX)).unwrap_or(0);
        (usize::try_from(start).unwrap_or(0), len.min(PAGE_MAX))
    } else {
        (0, groups.len())
    };
    let page: Vec<_> = groups.into_iter().skip(start).take(len).collect();
    let forbidden = page.iter().filter_map(|(group, _)| {
        let topics = map.forbidden.get(*group)?;
        Some(((*group).clone(), topics.iter().map(|(topic, bits)| (topic.clone(), *bits)).collect()))
    });
    SubscriptionGroupWrapper {
        data_version: map.data_version,
        forbidden_table: forbidden.collect(),
        subscription_group_table: page
            .iter()
            .map(|(group, config)| ((*group).clone(), SubscriptionGroupConfig::clone(config)))
            .collect(),
    }
}

/// The settings of a group that a request is about; it is not created by being asked about.
pub(super) fn known_group(
    groups: &GroupTable,
    group: &GroupName,
) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
    groups.get(group).ok_or_else(|| Refusal::GroupNeverSeen { group: group.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::requests::testing::{TestStore, body, refusal};
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;
    use crate::testing::{fake_client, request};

    #[actix::test]
    async fn created_group_is_found_listed_and_deleted_with_its_offsets() {
        let store = TestStore::start(&[("T", 1)]).await;
        let (link, _client) = fake_client();
        let config = SubscriptionGroupConfig { retry_max_times: 5, ..SubscriptionGroupConfig::new("orders") };
        let create = request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).json(&config).from(&link);
        alter_group(&create, &store.groups_actor).await.unwrap();
        let get = request(RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG).field("group", "orders").from(&link);
        let found: SubscriptionGroupConfig = body(group_config(&get, &store.groups).await);
        assert_eq!(found, config);
        store.commit("orders", "T", 0, 3).await;
        let delete = |clean| {
            request(RequestCode::DELETE_SUBSCRIPTIONGROUP)
                .field("groupName", "orders")
                .field("cleanOffset", clean)
                .from(&link)
        };
        delete_group(&delete(false), &store.groups_actor, &store.offsets).await.unwrap();
        assert_eq!(store.offset("orders", "T", 0).await, Some(3));
        delete_group(&delete(true), &store.groups_actor, &store.offsets).await.unwrap();
        assert_eq!(store.offset("orders", "T", 0).await, None);
        assert!(store.groups.find("orders").is_none());
    }

    #[actix::test]
    async fn body_that_cannot_be_read_is_refused_by_name() {
        let store = TestStore::start(&[]).await;
        let (link, _client) = fake_client();
        let create = request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).body("{").from(&link);
        let refused = refusal(alter_group(&create, &store.groups_actor).await);
        let expected = "request UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: the body is not the settings of a group";
        assert!(refused.to_string().starts_with(expected), "{refused}");
        let empty = request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).body("{}").from(&link);
        let refused = refusal(alter_group(&empty, &store.groups_actor).await);
        assert_eq!(refused.code(), ResponseCode::INVALID_PARAMETER);
    }

    #[actix::test]
    async fn groups_and_topics_find_each_other() {
        let store = TestStore::start(&[("T", 1)]).await;
        let (link, _client) = fake_client();
        store.commit("old", "T", 0, 3).await;
        store.subscribe("online", &link, &["T"]).await;
        store.subscribe("elsewhere", &link, &["U"]).await;
        let who = request(RequestCode::QUERY_TOPIC_CONSUME_BY_WHO).field("topic", "T").from(&link);
        let list: GroupList = body(groups_of_topic(&who, &store.offsets, &store.consumers).await);
        assert_eq!(list.group_list, ["old".into(), "online".into()]);
        let which = request(RequestCode::QUERY_TOPICS_BY_CONSUMER).field("group", "old").from(&link);
        let list: TopicList = body(topics_of_group(&which, &store.offsets, "10.0.0.1:10911").await);
        assert_eq!(list.topic_list, ["T".into()]);
        assert_eq!(list.broker_addr.as_deref(), Some("10.0.0.1:10911"));
        let asked = |group: &str| {
            request(RequestCode::QUERY_SUBSCRIPTION_BY_CONSUMER)
                .field("group", group)
                .field("topic", "T")
                .from(&link)
        };
        let found: QuerySubscriptionResponseBody =
            body(subscription_of_group(&asked("online"), &store.consumers).await);
        assert_eq!(found.subscription_data.unwrap().sub_string, "*");
        let found: QuerySubscriptionResponseBody =
            body(subscription_of_group(&asked("old"), &store.consumers).await);
        assert_eq!(found.subscription_data, None);
    }

    #[test]
    fn pages_follow_the_version_of_the_copy() {
        let groups = ["a", "b", "c"].map(|name| (name.into(), SubscriptionGroupConfig::new(name).into()));
        let map = GroupMap {
            data_version: DataVersion { counter: 7, state_version: 0, timestamp: 9 },
            groups: groups.into_iter().collect(),
            forbidden: std::iter::once(("b".into(), std::iter::once(("T".into(), 4)).collect())).collect(),
            request_modes: Default::default(),
        };
        let names = |group_seq, data_version: &str, max_group_num| {
            let data_version = Some(data_version.to_owned());
            let page = page(&map, &GetAllGroupConfig { group_seq, data_version, max_group_num });
            let names: String = page.subscription_group_table.keys().map(|name| name.to_string()).collect();
            (names, page.forbidden_table.len())
        };
        let version = r#"{"counter":7,"stateVersion":0,"timestamp":9}"#;
        assert_eq!(names(None, "", None), ("abc".to_owned(), 1));
        assert_eq!(names(Some(0), "", Some(2)), ("ab".to_owned(), 1));
        assert_eq!(names(Some(2), version, Some(2)), ("c".to_owned(), 0));
        assert_eq!(names(Some(2), "{}", Some(1)), ("a".to_owned(), 0));
    }

    #[actix::test]
    async fn reading_is_forbidden_and_allowed_again() {
        let store = TestStore::start(&[("T", 1)]).await;
        let (link, _client) = fake_client();
        let ask = async |topic: &str, readable: Option<bool>| {
            let asked = request(RequestCode::UPDATE_AND_GET_GROUP_FORBIDDEN).field("group", "g");
            let asked = asked.field("topic", topic);
            let asked = match readable {
                Some(readable) => asked.field("readable", readable),
                None => asked,
            };
            group_forbidden(&asked.from(&link), &store.groups_actor, &store.topics).await
        };
        let readable = async |change| body::<GroupForbidden>(ask("T", change).await).readable;
        assert_eq!(readable(None).await, Some(true));
        assert_eq!(readable(Some(false)).await, Some(false));
        assert!(store.groups.table().load().is_read_forbidden("g", "T"));
        assert_eq!(readable(None).await, Some(false));
        assert_eq!(readable(Some(true)).await, Some(true));
        assert_eq!(refusal(ask("U", Some(false)).await).code(), ResponseCode::TOPIC_NOT_EXIST);
    }
}

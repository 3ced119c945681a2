//! Requests to the name server. Questions are answered from the published routes; only changes go to the actor.

use actix::dev::ToEnvelope;
use actix::prelude::*;

use crate::actors::context::Context;
use crate::actors::name_server::{
    AlterSettings, ChangeWritePerm, DeleteKvConfig, DeleteTopic, NameServer, PutKvConfig, QueryDataVersion,
    RefreshBroker, RegisterBroker, RegisterTopic, UnregisterBroker,
};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::route_hint::no_route;
use crate::actors::route_table::{BrokerRegistration, RegistrationOutcome, WritePermChange};
use crate::actors::routes::{ORDER_TOPIC_CONFIG, RouteAnswer, Routes};
use crate::error::Refusal;
use crate::protocol::body::registration::{RegisterBrokerBody, RegistrationForm, body_crc32};
use crate::protocol::body::route::{GetBrokerMemberGroupResponseBody, KVTable, TopicRouteData};
use crate::protocol::data_version::DataVersion;
use crate::protocol::header::{
    AddWritePermResponse, BrokerHeartbeat, BrokerIdentity, BrokerMemberGroupHeader, BrokerNameHeader,
    ClusterHeader, GetRoute, KvConfigKey, KvConfigResponse, KvNamespace, NameServerTopic,
    PutKvConfig as PutKvConfigHeader, QueryDataVersionResponse, RegisterBroker as RegisterBrokerHeader,
    RegisterBrokerResponse, WipeWritePermResponse,
};
use crate::protocol::properties_text;
use crate::store::metadata::KvConfig;

/// Bits of a topic's system flag. RocketMQ: `TopicSysFlag`.
const FLAG_UNIT: i32 = 1;
const FLAG_UNIT_SUB: i32 = 1 << 1;

/// Asks the name server; its end is a refusal, not a panic.
async fn ask<M>(name_server: &Addr<NameServer>, message: M) -> Result<M::Result, Refusal>
where
    NameServer: Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
    Context<NameServer>: ToEnvelope<NameServer, M>,
{
    name_server.send(message).await.map_err(|_| Refusal::ShuttingDown)
}

fn success() -> Answered {
    Ok(Some(Answer::success()))
}

/// GET_ROUTEINFO_BY_TOPIC (105). Numbers as keys are quoted for every client: all of them read that.
pub async fn get_route(request: &Request, routes: &Routes) -> Answered {
    let query: GetRoute = request.header("GET_ROUTEINFO_BY_TOPIC")?;
    match routes.route(&query) {
        RouteAnswer::Route(json) => Ok(Some(Answer::success().with_body(json))),
        answer => Err(no_route(routes, &query, &answer)),
    }
}

/// GET_BROKER_CLUSTER_INFO (106).
pub async fn get_cluster_info(_request: &Request, routes: &Routes) -> Answered {
    Ok(Some(Answer::json(&routes.cluster_info())))
}

/// GET_ALL_TOPIC_LIST_FROM_NAMESERVER (206).
pub async fn get_all_topics(_request: &Request, routes: &Routes) -> Answered {
    if !routes.surroundings().settings.enable_all_topic_list {
        return Err(Refusal::SwitchedOff { setting: "enableAllTopicList" });
    }
    Ok(Some(Answer::json(&routes.topics_where(|_, _| true))))
}

/// GET_TOPICS_BY_CLUSTER (224).
pub async fn get_topics_of_cluster(request: &Request, routes: &Routes) -> Answered {
    let ClusterHeader { cluster } = request.header("GET_TOPICS_BY_CLUSTER")?;
    refuse_unless_topic_lists_are_on(routes)?;
    Ok(Some(Answer::json(&routes.topics_of_cluster(&cluster))))
}

/// GET_SYSTEM_TOPIC_LIST_FROM_NS (304).
pub async fn get_system_topics(_request: &Request, routes: &Routes) -> Answered {
    Ok(Some(Answer::json(&routes.system_topics())))
}

/// GET_UNIT_TOPIC_LIST (311).
pub async fn get_unit_topics(_request: &Request, routes: &Routes) -> Answered {
    topics_by_flag(routes, |flag| flag & FLAG_UNIT != 0)
}

/// GET_HAS_UNIT_SUB_TOPIC_LIST (312).
pub async fn get_unit_sub_topics(_request: &Request, routes: &Routes) -> Answered {
    topics_by_flag(routes, |flag| flag & FLAG_UNIT_SUB != 0)
}

/// GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST (313).
pub async fn get_unit_sub_ununit_topics(_request: &Request, routes: &Routes) -> Answered {
    topics_by_flag(routes, |flag| flag & FLAG_UNIT == 0 && flag & FLAG_UNIT_SUB != 0)
}

/// By the flag of the topic's first queues, as Java does.
fn topics_by_flag(routes: &Routes, wanted: impl Fn(i32) -> bool) -> Answered {
    refuse_unless_topic_lists_are_on(routes)?;
    let topics = routes.topics_where(|_, topic| {
        topic.queues.values().next().is_some_and(|queue| wanted(queue.topic_sys_flag))
    });
    Ok(Some(Answer::json(&topics)))
}

fn refuse_unless_topic_lists_are_on(routes: &Routes) -> Result<(), Refusal> {
    match routes.surroundings().settings.enable_topic_list {
        true => Ok(()),
        false => Err(Refusal::SwitchedOff { setting: "enableTopicList" }),
    }
}

/// PUT_KV_CONFIG (100).
pub async fn put_kv_config(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let PutKvConfigHeader { namespace, key, value } = request.header("PUT_KV_CONFIG")?;
    ask(name_server, PutKvConfig { config: KvConfig { namespace, key, value } }).await??;
    success()
}

/// GET_KV_CONFIG (101).
pub async fn get_kv_config(request: &Request, routes: &Routes) -> Answered {
    let KvConfigKey { namespace, key } = request.header("GET_KV_CONFIG")?;
    let surroundings = routes.surroundings();
    match surroundings.kv_configs.get(&namespace).and_then(|configs| configs.get(&key)) {
        Some(value) => Ok(Some(Answer::header(&KvConfigResponse { value: value.clone() }))),
        None => Err(Refusal::NotFound(format!("No config item, Namespace: {namespace} Key: {key}"))),
    }
}

/// DELETE_KV_CONFIG (102).
pub async fn delete_kv_config(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let KvConfigKey { namespace, key } = request.header("DELETE_KV_CONFIG")?;
    ask(name_server, DeleteKvConfig { namespace, key }).await??;
    success()
}

/// GET_KVLIST_BY_NAMESPACE (219).
pub async fn get_kv_configs(request: &Request, routes: &Routes) -> Answered {
    let KvNamespace { namespace } = request.header("GET_KVLIST_BY_NAMESPACE")?;
    match routes.surroundings().kv_configs.get(&namespace) {
        Some(configs) => Ok(Some(Answer::json(&KVTable { table: configs.clone() }))),
        None => Err(Refusal::NotFound(format!("No config item, Namespace: {namespace}"))),
    }
}

/// WIPE_WRITE_PERM_OF_BROKER (205).
pub async fn wipe_write_perm(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let BrokerNameHeader { broker_name } = request.header("WIPE_WRITE_PERM_OF_BROKER")?;
    let count = ask(name_server, ChangeWritePerm { broker_name, change: WritePermChange::Wipe }).await?;
    Ok(Some(Answer::header(&WipeWritePermResponse { wipe_topic_count: count as i32 })))
}

/// ADD_WRITE_PERM_OF_BROKER (327).
pub async fn add_write_perm(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let BrokerNameHeader { broker_name } = request.header("ADD_WRITE_PERM_OF_BROKER")?;
    let count = ask(name_server, ChangeWritePerm { broker_name, change: WritePermChange::Add }).await?;
    Ok(Some(Answer::header(&AddWritePermResponse { add_topic_count: count as i32 })))
}

/// DELETE_TOPIC_IN_NAMESRV (216).
pub async fn delete_topic(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let NameServerTopic { topic, cluster_name } = request.header("DELETE_TOPIC_IN_NAMESRV")?;
    let cluster = cluster_name.filter(|cluster| !cluster.is_empty());
    ask(name_server, DeleteTopic { topic, cluster }).await?;
    success()
}

/// REGISTER_TOPIC_IN_NAMESRV (217).
pub async fn register_topic(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let NameServerTopic { topic, .. } = request.header("REGISTER_TOPIC_IN_NAMESRV")?;
    let route: TopicRouteData = request.json_body("REGISTER_TOPIC_IN_NAMESRV", "a topic route")?;
    ask(name_server, RegisterTopic { topic, queues: route.queue_datas }).await?;
    success()
}

/// UPDATE_NAMESRV_CONFIG (318).
pub async fn update_config(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let text = String::from_utf8_lossy(&request.command.body);
    let changes = properties_text::parse(&text).map_err(|error| Refusal::Body {
        request: "UPDATE_NAMESRV_CONFIG",
        expected: "properties text",
        error: error.to_string(),
    })?;
    ask(name_server, AlterSettings { changes }).await??;
    success()
}

/// GET_NAMESRV_CONFIG (319).
pub async fn get_config(_request: &Request, routes: &Routes) -> Answered {
    Ok(Some(Answer::success().with_body(routes.surroundings().settings.text().into())))
}

/// REGISTER_BROKER (103).
pub async fn register_broker(request: &Request, routes: &Routes, name_server: &Addr<NameServer>) -> Answered {
    let header: RegisterBrokerHeader = request.header("REGISTER_BROKER")?;
    let registration = registration(request, header)?;
    let register = RegisterBroker { registration, from: request.from.clone() };
    let master = match ask(name_server, register).await?? {
        RegistrationOutcome::Registered { master } => master,
        RegistrationOutcome::Outdated => return success(),
    };
    let (master_addr, ha_server_addr) = master.map(|master| (master.addr, master.ha_server_addr)).unzip();
    let answer = Answer::header(&RegisterBrokerResponse { ha_server_addr, master_addr });
    let surroundings = routes.surroundings();
    let orders = surroundings.kv_configs.get(ORDER_TOPIC_CONFIG);
    match orders.filter(|_| surroundings.settings.return_order_topic_config_to_broker) {
        Some(table) => Ok(Some(answer.with_json(&KVTable { table: table.clone() }))),
        None => Ok(Some(answer)),
    }
}

fn registration(request: &Request, header: RegisterBrokerHeader) -> Result<BrokerRegistration, Refusal> {
    let body = &request.command.body;
    let computed = body_crc32(body);
    if header.body_crc32 != 0 && header.body_crc32 != computed {
        return Err(Refusal::ChecksumMismatch { computed, stated: header.body_crc32 });
    }
    let form =
        RegistrationForm { broker_version: request.command.head.version, compressed: header.compressed };
    let body = RegisterBrokerBody::decode(body, form).map_err(|error| Refusal::Body {
        request: "REGISTER_BROKER",
        expected: "the registration of a broker",
        error: with_sources(&error),
    })?;
    Ok(BrokerRegistration {
        cluster: header.cluster_name,
        broker_name: header.broker_name,
        broker_addr: header.broker_addr,
        broker_id: header.broker_id,
        ha_server_addr: header.ha_server_addr,
        zone_name: header.zone_name,
        timeout_ms: header.heartbeat_timeout_ms,
        enable_acting_master: header.enable_acting_master,
        filter_servers: body.filter_server_list,
        topics: body.topic_config_serialize_wrapper,
        connection: Some(request.from.id),
    })
}

/// The text of an error with those it comes from.
fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// UNREGISTER_BROKER (104).
pub async fn unregister_broker(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let BrokerIdentity { broker_name, broker_addr, .. } = request.header("UNREGISTER_BROKER")?;
    ask(name_server, UnregisterBroker { broker_name, broker_addr }).await?;
    success()
}

/// QUERY_DATA_VERSION (322).
pub async fn query_data_version(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let BrokerIdentity { broker_addr, .. } = request.header("QUERY_DATA_VERSION")?;
    let asked: DataVersion = request.json_body("QUERY_DATA_VERSION", "a data version")?;
    let known = ask(name_server, QueryDataVersion { broker_addr }).await?;
    let answer = Answer::header(&QueryDataVersionResponse { changed: known != Some(asked) });
    Ok(Some(match known {
        Some(known) => answer.with_json(&known),
        None => answer,
    }))
}

/// BROKER_HEARTBEAT (904).
pub async fn broker_heartbeat(request: &Request, name_server: &Addr<NameServer>) -> Answered {
    let BrokerHeartbeat { broker_addr, .. } = request.header("BROKER_HEARTBEAT")?;
    ask(name_server, RefreshBroker { broker_addr }).await?;
    success()
}

/// GET_BROKER_MEMBER_GROUP (901).
pub async fn get_broker_member_group(request: &Request, routes: &Routes) -> Answered {
    let BrokerMemberGroupHeader { cluster_name, broker_name } = request.header("GET_BROKER_MEMBER_GROUP")?;
    let group = routes.member_group(&cluster_name, &broker_name);
    Ok(Some(Answer::json(&GetBrokerMemberGroupResponseBody { broker_member_group: Some(group) })))
}

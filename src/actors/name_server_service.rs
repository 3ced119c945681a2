//! What a name server's port serves: questions from the published routes, changes through the actor.

use std::sync::Arc;

use actix::prelude::*;

use super::actor_list::ActorList;
use super::broker_service::finish;
use super::connection::Service;
use super::name_server::NameServer;
use super::request::{Answered, Reply, Request};
use super::requests::actors::list_actors;
use super::requests::name_server as requests;
use super::routes::Routes;
use crate::error::Refusal;
use crate::protocol::request_code::RequestCode;

/// Serves the port of a name server.
#[derive(Clone)]
pub struct NameServerService {
    parts: Arc<Parts>,
}

struct Parts {
    routes: Routes,
    name_server: Addr<NameServer>,
    actors: ActorList,
}

impl NameServerService {
    pub fn new(routes: Routes, name_server: Addr<NameServer>, actors: ActorList) -> Self {
        Self { parts: Arc::new(Parts { routes, name_server, actors }) }
    }
}

impl Service for NameServerService {
    fn serve(&self, received: &mut Vec<Request>, _: &mut Vec<Reply>) {
        for request in received.drain(..) {
            let parts = self.parts.clone();
            actix_rt::spawn(async move {
                let answered = parts.answer(&request).await;
                finish(request, answered);
            });
        }
    }
}

impl Parts {
    async fn answer(&self, request: &Request) -> Answered {
        let Self { routes, name_server, actors } = self;
        let code = request.command.head.code;
        match RequestCode::from_i32(code) {
            RequestCode::GET_ROUTEINFO_BY_TOPIC => requests::get_route(request, routes).await,
            RequestCode::GET_BROKER_CLUSTER_INFO => requests::get_cluster_info(request, routes).await,
            RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => {
                requests::get_all_topics(request, routes).await
            }
            RequestCode::GET_TOPICS_BY_CLUSTER => requests::get_topics_of_cluster(request, routes).await,
            RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_NS => requests::get_system_topics(request, routes).await,
            RequestCode::GET_UNIT_TOPIC_LIST => requests::get_unit_topics(request, routes).await,
            RequestCode::GET_HAS_UNIT_SUB_TOPIC_LIST => requests::get_unit_sub_topics(request, routes).await,
            RequestCode::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => {
                requests::get_unit_sub_ununit_topics(request, routes).await
            }
            RequestCode::PUT_KV_CONFIG => requests::put_kv_config(request, name_server).await,
            RequestCode::GET_KV_CONFIG => requests::get_kv_config(request, routes).await,
            RequestCode::DELETE_KV_CONFIG => requests::delete_kv_config(request, name_server).await,
            RequestCode::GET_KVLIST_BY_NAMESPACE => requests::get_kv_configs(request, routes).await,
            RequestCode::WIPE_WRITE_PERM_OF_BROKER => requests::wipe_write_perm(request, name_server).await,
            RequestCode::ADD_WRITE_PERM_OF_BROKER => requests::add_write_perm(request, name_server).await,
            RequestCode::DELETE_TOPIC_IN_NAMESRV => requests::delete_topic(request, name_server).await,
            RequestCode::REGISTER_TOPIC_IN_NAMESRV => requests::register_topic(request, name_server).await,
            RequestCode::UPDATE_NAMESRV_CONFIG => requests::update_config(request, name_server).await,
            RequestCode::GET_NAMESRV_CONFIG => requests::get_config(request, routes).await,
            RequestCode::REGISTER_BROKER => requests::register_broker(request, routes, name_server).await,
            RequestCode::UNREGISTER_BROKER => requests::unregister_broker(request, name_server).await,
            RequestCode::QUERY_DATA_VERSION => requests::query_data_version(request, name_server).await,
            RequestCode::BROKER_HEARTBEAT => requests::broker_heartbeat(request, name_server).await,
            RequestCode::GET_BROKER_MEMBER_GROUP => requests::get_broker_member_group(request, routes).await,
            RequestCode::LIST_ACTORS => list_actors(request, actors).await,
            _ => Err(Refusal::UnknownRequest { code }),
        }
    }
}

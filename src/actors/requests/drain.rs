//! Draining: the broker takes no new messages and serves its consumers, until it is stopped or told otherwise.

use std::collections::BTreeSet;

use actix::Addr;
use tracing::info;

use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::producers::{Producers, QueryAllProducers};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::send_gate::SendGate;
use crate::actors::settling::Settling;
use crate::actors::topics::{RegisterAnew, Topics};
use crate::error::Refusal;
use crate::protocol::body::drain::DrainStatus;
use crate::protocol::header::{DrainBroker, HeaderError};

/// Whom a drain concerns.
pub struct DrainPeers<'a> {
    pub gate: &'a SendGate,
    pub topics: &'a Addr<Topics>,
    pub settling: &'a Settling,
    pub producers: &'a Addr<Producers>,
    pub consumers: &'a ConsumerGroupTable,
}

/// DRAIN_BROKER (29001). Sends are refused first, then the name servers are told that the broker is read-only, then
/// everything is brought to disk. A restart ends a drain.
pub async fn drain_broker(request: &Request, peers: &DrainPeers<'_>) -> Answered {
    const NAME: &str = "DRAIN_BROKER";
    let asked: DrainBroker = request.header(NAME)?;
    let drain = match asked.action.as_str() {
        "drain" => Some(true),
        "undo" => Some(false),
        "show" => None,
        _ => {
            let (value, expected) = (asked.action, "drain, undo or show");
            let error = HeaderError::NotA { field: "action", value, expected };
            return Err(Refusal::FieldIllegal { request: NAME, error });
        }
    };
    if let Some(drain) = drain.filter(|drain| peers.gate.drain(*drain)) {
        info!(drain, peer = %request.from.peer, "drain changed");
        peers.topics.send(RegisterAnew).await.map_err(|_| Refusal::ShuttingDown)??;
    }
    let draining = !peers.gate.is_open();
    let settled = if draining { peers.settling.settle().await } else { Err("sends are taken".to_owned()) };
    let producers = peers.producers.send(QueryAllProducers).await.map_err(|_| Refusal::ShuttingDown)?;
    let producers: BTreeSet<_> = producers.data.values().flatten().map(|info| &info.client_id).collect();
    let online = peers.consumers.online();
    let consumers: BTreeSet<_> = online.iter().flat_map(|view| view.client_ids()).collect();
    Ok(Some(Answer::json(&DrainStatus {
        draining,
        settled: settled.is_ok(),
        unsettled: settled.err(),
        producers: producers.len(),
        consumers: consumers.len(),
    })))
}

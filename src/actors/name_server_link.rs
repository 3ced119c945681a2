//! The link with the name servers: makes this broker and its topics known to all of them, and keeps them so.
//!
//! - Owns: one [`NameServerConnection`] per configured name server.
//! - Takes: [`RegisterTopics`], [`RegisterAll`], [`Unregister`].
//! - Sends: [`Register`] and [`Leave`] to its connections.
//! - Fails: a name server that is down is logged once and gets the full table when it is back; nobody waits
//!   for it.
//! - Invariants: a registration is answered when every name server that is up knows it, or after
//!   `register_timeout`; once unregistered, this broker does not register again.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::future::join_all;
use tracing::warn;

use super::context::{Context, observed};
use super::name_server_connection::{Change, Leave, NameServerConnection, Register};
use super::send_gate::BrokerPermission;
use super::topic_table::TopicTable;
use super::topics::RegisterTopics;
use crate::client::remoting::Dial;
use crate::protocol::topic_config::Permission;
use crate::types::BrokerName;

/// Tells every name server the full table, as [`RegisterTopics`]; answered with how many took it.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Registered")]
pub struct RegisterAll;

/// How many of the configured name servers know this broker now.
#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    pub known_by: usize,
    pub configured: usize,
}

/// Says goodbye to every name server (104). The broker is about to stop; losing it costs nothing but time, as
/// name servers notice the closed connection.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct Unregister;

/// What this broker says of itself, and how it keeps in touch.
#[derive(Clone, Debug)]
pub struct NameServerLinkConfig {
    /// Addresses of all name servers, "host:port".
    pub name_servers: Vec<String>,
    pub cluster: String,
    pub broker_name: BrokerName,
    /// Where clients reach this broker, "host:port".
    pub broker_addr: String,
    /// 0 is the master.
    pub broker_id: i64,
    /// Where slaves reach it, "host:port".
    pub ha_server_addr: String,
    /// Masks the permissions of all topics. Default: read and write.
    pub broker_permission: BrokerPermission,
    /// Silence after which name servers drop this broker. Default 120 s.
    pub heartbeat_timeout: Duration,
    /// How often name servers are asked what they know. Default 30 s, as Java.
    pub register_period: Duration,
    /// How long a name server may take to answer. Default 3 s.
    pub register_timeout: Duration,
    /// Wait before the second attempt to connect; doubles with each. Default 500 ms.
    pub reconnect_min: Duration,
    /// Longest wait between attempts. Default 5 s.
    pub reconnect_max: Duration,
    /// Messages that may wait, here and at each connection. Default 1024.
    pub mailbox_capacity: usize,
    /// How they are reached. Default: by sockets.
    pub dial: Option<Dial>,
}

impl NameServerLinkConfig {
    /// The defaults for the master `broker_name` of `cluster` at `broker_addr`.
    pub fn master(name_servers: Vec<String>, cluster: &str, broker_name: &str, broker_addr: &str) -> Self {
        Self {
            name_servers,
            cluster: cluster.to_owned(),
            broker_name: broker_name.into(),
            broker_addr: broker_addr.to_owned(),
            broker_id: super::route_table::MASTER_ID,
            ha_server_addr: broker_addr.to_owned(),
            broker_permission: Permission::READ_WRITE.into(),
            heartbeat_timeout: Duration::from_secs(120),
            register_period: Duration::from_secs(30),
            register_timeout: Duration::from_secs(3),
            reconnect_min: Duration::from_millis(500),
            reconnect_max: Duration::from_secs(5),
            mailbox_capacity: 1024,
            dial: None,
        }
    }
}

pub struct NameServerLink {
    topics: TopicTable,
    connections: Vec<Addr<NameServerConnection>>,
    config: Arc<NameServerLinkConfig>,
}

impl NameServerLink {
    pub fn new(config: NameServerLinkConfig, topics: TopicTable) -> Self {
        Self { topics, connections: Vec::new(), config: Arc::new(config) }
    }

    /// Tells all; gives back how many know it when all have answered or the time is up.
    fn tell(&self, change: &Change) -> ResponseFuture<Registered> {
        let configured = self.connections.len();
        let answers = self.connections.iter().map(|connection| {
            let answer = connection.send(Register { change: change.clone() });
            let answer = tokio::time::timeout(self.config.register_timeout, answer);
            async { matches!(answer.await, Ok(Ok(known)) if known.is_known) }
        });
        let answers = join_all(answers.collect::<Vec<_>>());
        Box::pin(async move {
            let known_by = answers.await.into_iter().filter(|is_known| *is_known).count();
            Registered { known_by, configured }
        })
    }
}

impl Actor for NameServerLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
        if self.config.name_servers.is_empty() {
            warn!("no name server is configured: clients cannot find this broker");
        }
        for name_server in &self.config.name_servers {
            let connection =
                NameServerConnection::new(name_server.clone(), self.config.clone(), self.topics.clone());
            self.connections.push(ctx.actors().start(name_server, connection));
        }
    }
}

observed!(NameServerLink);

impl Handler<RegisterTopics> for NameServerLink {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, register: RegisterTopics, _ctx: &mut Self::Context) -> Self::Result {
        let RegisterTopics { data_version, changed } = register;
        // Nothing says "this topic is gone" but the table without it.
        let change = match changed.is_empty() {
            true => Change::WholeTable,
            false => Change::Topics { data_version, changed: changed.into() },
        };
        let told = self.tell(&change);
        Box::pin(async move {
            told.await;
        })
    }
}

impl Handler<RegisterAll> for NameServerLink {
    type Result = ResponseFuture<Registered>;

    fn handle(&mut self, _: RegisterAll, _ctx: &mut Self::Context) -> Self::Result {
        self.tell(&Change::WholeTable)
    }
}

impl Handler<Unregister> for NameServerLink {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Unregister, _ctx: &mut Self::Context) -> Self::Result {
        let left =
            join_all(self.connections.iter().map(|connection| connection.send(Leave)).collect::<Vec<_>>());
        Box::pin(async move {
            left.await;
        })
    }
}

#[cfg(test)]
mod tests;

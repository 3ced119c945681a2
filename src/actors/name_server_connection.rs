//! One name server: keeps it connected and informed.
//!
//! - Owns: the connection to it, and what it still has to be told.
//! - Takes: [`Register`], [`Leave`], `ConnectDue`, `CheckDue`.
//! - Sends: 103, 104 and 322 to the name server.
//! - Fails: whatever goes wrong with the connection closes it; it is opened again after a while, longer each
//!   time, and the full table is told first.
//! - Invariants: one request is under way at a time, so the name server hears of changes in their order; what
//!   arrives meanwhile makes one request; a change is never told before the full table.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::context::{Context, observed};
use super::name_server_link::NameServerLinkConfig;
use super::topic_table::TopicTable;
use crate::client::{Call, ClientError, ConnectOptions, RemotingConnection, Response};
use crate::protocol::body::registration::{RegisterBrokerBody, TopicConfigSerializeWrapper, body_crc32};
use crate::protocol::data_version::DataVersion;
use crate::protocol::fastjson;
use crate::protocol::header::{BrokerIdentity, QueryDataVersionResponse, RegisterBroker};
use crate::protocol::request_code::RequestCode;
use crate::protocol::response_code::ResponseCode;
use crate::protocol::topic_config::{Permission, TopicConfig};
use crate::types::TopicName;

/// What the name server is to be told.
#[derive(Clone, Debug)]
pub enum Change {
    WholeTable,
    Topics { data_version: DataVersion, changed: Arc<[TopicConfig]> },
}

/// Tells the name server; answered when it knows, or is found to be down.
#[derive(Message, Debug)]
#[rtype(result = "Known")]
pub struct Register {
    pub change: Change,
}

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    pub is_known: bool,
}

/// Says goodbye (104); nothing is told after it.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct Leave;

/// Time to try again.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct ConnectDue;

/// Time to ask the name server what it knows (322).
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct CheckDue;

enum State {
    /// Waiting for the next attempt.
    Down,
    Connecting,
    Up {
        connection: RemotingConnection,
        is_busy: bool,
    },
    /// Said goodbye.
    Left,
}

/// What is to be told, and who waits for it.
#[derive(Default)]
struct Untold {
    whole_table: bool,
    data_version: DataVersion,
    changed: BTreeMap<TopicName, TopicConfig>,
    waiters: Vec<oneshot::Sender<Known>>,
}

/// What a request under way was for.
enum Purpose {
    Tell(Untold),
    Check,
}

pub struct NameServerConnection {
    name_server: String,
    state: State,
    /// Number of the connection, to tell an old one's end from the present one's.
    generation: u64,
    untold: Untold,
    is_check_due: bool,
    reconnect_after: Duration,
    /// Being down is worth one line in the log, not one per attempt.
    is_down_logged: bool,
    topics: TopicTable,
    config: Arc<NameServerLinkConfig>,
}

impl NameServerConnection {
    pub fn new(name_server: String, config: Arc<NameServerLinkConfig>, topics: TopicTable) -> Self {
        Self {
            name_server,
            state: State::Down,
            generation: 0,
            untold: Untold::default(),
            is_check_due: false,
            reconnect_after: config.reconnect_min,
            is_down_logged: false,
            topics,
            config,
        }
    }

    fn connect(&mut self, ctx: &mut Context<Self>) {
        self.state = State::Connecting;
        let name_server = self.name_server.clone();
        let connect_timeout = self.config.register_timeout;
        let options =
            ConnectOptions { connect_timeout, dial: self.config.dial.clone(), ..Default::default() };
        let connecting = async move { RemotingConnection::connect(&name_server, &options).await };
        ctx.spawn(connecting.into_actor(self).map(|connected, this, ctx| match connected {
            Ok(connection) => this.came_up(connection, ctx),
            Err(error) => this.went_down(&error.to_string(), ctx),
        }));
    }

    fn came_up(&mut self, connection: RemotingConnection, ctx: &mut Context<Self>) {
        if matches!(self.state, State::Left) {
            return;
        }
        if self.generation > 0 {
            ctx.count_restart();
        }
        self.generation += 1;
        let generation = self.generation;
        // Its own handle, or the connection would end with ours and nobody would hear why.
        let watched = connection.clone();
        let closed = async move { watched.closed().await };
        ctx.spawn(closed.into_actor(self).map(move |cause, this, ctx| {
            if this.generation == generation {
                this.went_down(&cause, ctx);
            }
        }));
        self.state = State::Up { connection, is_busy: false };
        self.untold.whole_table = true;
        self.tell_next(ctx);
    }

    /// Everybody who waits is told so, and the next attempt comes after a while.
    fn went_down(&mut self, cause: &str, ctx: &mut Context<Self>) {
        if matches!(self.state, State::Left | State::Down) {
            return;
        }
        if !mem::replace(&mut self.is_down_logged, true) {
            warn!(
                name_server = self.name_server,
                cause, "name server is down, trying again until it is back"
            );
        }
        self.generation += 1;
        if let State::Up { connection, .. } = mem::replace(&mut self.state, State::Down) {
            connection.close();
        }
        mem::take(&mut self.untold).answer(false);
        ctx.notify_later(ConnectDue, self.reconnect_after);
        self.reconnect_after = (2 * self.reconnect_after).min(self.config.reconnect_max);
    }

    /// Sends the next request, if none is under way and there is something to say.
    fn tell_next(&mut self, ctx: &mut Context<Self>) {
        let State::Up { connection, is_busy: false } = &self.state else { return };
        let connection = connection.clone();
        let (call, purpose) = if self.untold.whole_table || !self.untold.changed.is_empty() {
            let untold = mem::take(&mut self.untold);
            (self.registration(&untold), Purpose::Tell(untold))
        } else if mem::take(&mut self.is_check_due) {
            (self.version_check(), Purpose::Check)
        } else {
            return;
        };
        let generation = self.generation;
        let timeout = self.config.register_timeout;
        self.state = State::Up { connection: connection.clone(), is_busy: true };
        let called = async move { connection.call(call, timeout).await };
        ctx.spawn(called.into_actor(self).map(move |answered, this, ctx| {
            this.answered(answered, purpose, generation, ctx);
        }));
    }

    fn answered(
        &mut self,
        answered: Result<Response, ClientError>,
        purpose: Purpose,
        generation: u64,
        ctx: &mut Context<Self>,
    ) {
        let is_present = self.generation == generation;
        if let State::Up { is_busy, .. } = &mut self.state
            && is_present
        {
            *is_busy = false;
        }
        match (answered, purpose) {
            (Ok(response), Purpose::Tell(untold)) if response.code == ResponseCode::SUCCESS => {
                self.told(untold);
            }
            (Ok(response), Purpose::Tell(untold)) => self.refused(&response, untold),
            (Ok(response), Purpose::Check) => {
                let known = response.header::<QueryDataVersionResponse>();
                self.untold.whole_table |= known.map_or(true, |known| known.changed);
            }
            (Err(error), purpose) => {
                if let Purpose::Tell(untold) = purpose {
                    untold.answer(false);
                }
                if is_present {
                    self.went_down(&error.to_string(), ctx);
                }
            }
        }
        self.tell_next(ctx);
    }

    fn told(&mut self, untold: Untold) {
        if untold.whole_table {
            self.reconnect_after = self.config.reconnect_min;
            if mem::take(&mut self.is_down_logged) {
                info!(name_server = self.name_server, "name server is back and knows this broker");
            }
        }
        untold.answer(true);
    }

    /// A change that is refused is told again with the whole table: the name server may have forgotten us.
    fn refused(&mut self, response: &Response, untold: Untold) {
        let remark = response.remark.as_deref().unwrap_or_default();
        warn!(name_server = self.name_server, code = %response.code, remark, "registration refused");
        if untold.whole_table {
            untold.answer(false);
        } else {
            self.untold.whole_table = true;
            self.untold.waiters.extend(untold.waiters);
        }
    }

    /// The registration (103) of the whole table, or of what changed.
    fn registration(&self, untold: &Untold) -> Call {
        let (data_version, mut topic_config_table) = if untold.whole_table {
            let map = self.topics.load();
            let configs = map.topics.iter().map(|(name, entry)| (name.clone(), entry.config.clone()));
            (map.data_version, configs.collect())
        } else {
            (untold.data_version, untold.changed.clone())
        };
        let masked = self.config.broker_permission.get();
        if !masked.allows(Permission::READ_WRITE) {
            for config in topic_config_table.values_mut() {
                config.perm = Permission(config.perm.0 & masked.0);
            }
        }
        let wrapper = TopicConfigSerializeWrapper { data_version, topic_config_table, ..Default::default() };
        let body = RegisterBrokerBody { topic_config_serialize_wrapper: wrapper, ..Default::default() };
        // Plain structs with text keys always have a JSON form.
        let body = Bytes::from(fastjson::to_vec(&body).unwrap_or_default());
        let config = &self.config;
        let header = RegisterBroker {
            broker_name: config.broker_name.clone(),
            broker_addr: config.broker_addr.clone(),
            cluster_name: config.cluster.clone(),
            ha_server_addr: config.ha_server_addr.clone(),
            broker_id: config.broker_id,
            heartbeat_timeout_ms: Some(config.heartbeat_timeout.as_millis() as i64),
            enable_acting_master: Some(false),
            compressed: false,
            body_crc32: body_crc32(&body),
            zone_name: None,
        };
        Call::new(RequestCode::REGISTER_BROKER).header(&header).body(body)
    }

    fn version_check(&self) -> Call {
        let data_version = self.topics.load().data_version;
        let body = fastjson::to_vec(&data_version).unwrap_or_default();
        Call::new(RequestCode::QUERY_DATA_VERSION).header(&self.identity()).body(body)
    }

    fn identity(&self) -> BrokerIdentity {
        BrokerIdentity {
            broker_name: self.config.broker_name.clone(),
            broker_addr: self.config.broker_addr.clone(),
            cluster_name: self.config.cluster.clone(),
            broker_id: self.config.broker_id,
        }
    }
}

impl Untold {
    fn add(&mut self, change: Change, waiter: oneshot::Sender<Known>) {
        self.waiters.push(waiter);
        match change {
            Change::WholeTable => self.whole_table = true,
            Change::Topics { data_version, changed } => {
                self.data_version = data_version;
                self.changed.extend(changed.iter().map(|config| (config.topic_name.clone(), config.clone())));
            }
        }
    }

    fn answer(self, is_known: bool) {
        for waiter in self.waiters {
            // Whoever stopped waiting does not care.
            let _ = waiter.send(Known { is_known });
        }
    }
}

impl Actor for NameServerConnection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
        ctx.run_interval(self.config.register_period, |_, ctx| ctx.notify(CheckDue));
        self.connect(ctx);
    }
}

observed!(NameServerConnection, NameServerConnection::facts);

impl NameServerConnection {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        let state = match &self.state {
            State::Down => "down",
            State::Connecting => "connecting",
            State::Up { .. } => "up",
            State::Left => "left",
        };
        json!({ "state": state, "connections": self.generation })
    }
}

impl Handler<Register> for NameServerConnection {
    type Result = ResponseFuture<Known>;

    fn handle(&mut self, Register { change }: Register, ctx: &mut Self::Context) -> Self::Result {
        if matches!(self.state, State::Down | State::Left) {
            return Box::pin(async { Known { is_known: false } });
        }
        let (waiter, known) = oneshot::channel();
        self.untold.add(change, waiter);
        self.tell_next(ctx);
        Box::pin(known.map(|known| known.unwrap_or(Known { is_known: false })))
    }
}

impl Handler<Leave> for NameServerConnection {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Leave, _ctx: &mut Self::Context) -> Self::Result {
        mem::take(&mut self.untold).answer(false);
        let call = Call::new(RequestCode::UNREGISTER_BROKER).header(&self.identity());
        let timeout = self.config.register_timeout;
        match mem::replace(&mut self.state, State::Left) {
            State::Up { connection, .. } => Box::pin(async move {
                // If it is not heard, the closed connection is.
                let _ = connection.call(call, timeout).await;
                connection.close();
            }),
            State::Down | State::Connecting | State::Left => Box::pin(async {}),
        }
    }
}

impl Handler<ConnectDue> for NameServerConnection {
    type Result = ();

    fn handle(&mut self, _: ConnectDue, ctx: &mut Self::Context) {
        if matches!(self.state, State::Down) {
            self.connect(ctx);
        }
    }
}

impl Handler<CheckDue> for NameServerConnection {
    type Result = ();

    fn handle(&mut self, _: CheckDue, ctx: &mut Self::Context) {
        self.is_check_due = true;
        self.tell_next(ctx);
    }
}

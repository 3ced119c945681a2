//! The name server: which topics are on which brokers, and which brokers are alive.
//!
//! - Owns: the route table, the settings kept for others (tree `kv_configs`), its own changed settings (tree
//!   `name_server_settings`), and the write half of [`Routes`], which answers all questions without a hop.
//! - Takes: [`RegisterBroker`], [`UnregisterBroker`], [`QueryDataVersion`], [`RefreshBroker`],
//!   [`ChangeWritePerm`], [`DeleteTopic`], [`RegisterTopic`], [`PutKvConfig`], [`DeleteKvConfig`],
//!   [`AlterSettings`], [`ConnectionClosed`], `ExpiryDue`, [`Observe`].
//! - Sends: [`WatchConnection`] to the connections of brokers, [`CloseConnection`] to those of silent ones.
//! - Fails: a setting that cannot be written to disk is an error reply and is not taken; routes are in memory
//!   only and come back with the brokers.
//! - Invariants: a request is answered after its effect is published; a broker whose connection is closed has
//!   no route; nothing is kept of a broker that is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::prelude::*;
use serde::Serialize;
use tracing::{info, warn};

use super::context::{Context, observed};
use super::name_server_settings::{NameServerPlace, NameServerSettings};
use super::request::{ClientLink, CloseConnection, ConnectionClosed, ConnectionId, WatchConnection};
use super::route_table::{BrokerRegistration, RegistrationOutcome, RouteTable, WritePermChange};
use super::routes::{KvConfigs, RoutePublisher, Routes, routes};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::body::route::QueueData;
use crate::protocol::data_version::DataVersion;
use crate::protocol::properties_text::Properties;
use crate::store::metadata::{KeyValueTable, KvConfig, KvConfigTable, Metadata, MetadataError};
use crate::types::{BrokerName, TopicName};

/// Takes the registration of a broker (103). Losing it delays a topic until the next one, 30 s at most.
#[derive(Message, Debug)]
#[rtype(result = "Result<RegistrationOutcome, Refusal>")]
pub struct RegisterBroker {
    pub registration: BrokerRegistration,
    /// The connection it came by, to be watched.
    pub from: Arc<ClientLink>,
}

/// A broker says goodbye (104). Losing it leaves the broker to its silence limit.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct UnregisterBroker {
    pub broker_name: BrokerName,
    pub broker_addr: String,
}

/// Asks for the data version that is known of a broker, and counts as a sign of life (322).
#[derive(Message, Debug)]
#[rtype(result = "Option<DataVersion>")]
pub struct QueryDataVersion {
    pub broker_addr: String,
}

/// A sign of life (904). Losing one is forgiven, losing all of them for the silence limit is not.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct RefreshBroker {
    pub broker_addr: String,
}

/// Changes the write permission of a broker's topics (205, 327); answered with their number.
#[derive(Message, Debug)]
#[rtype(result = "usize")]
pub struct ChangeWritePerm {
    pub broker_name: BrokerName,
    pub change: WritePermChange,
}

/// Forgets a topic (216).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct DeleteTopic {
    pub topic: TopicName,
    pub cluster: Option<String>,
}

/// Enters a topic by hand (217).
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct RegisterTopic {
    pub topic: TopicName,
    pub queues: Vec<QueueData>,
}

/// Keeps a setting for others (100); on disk when answered.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct PutKvConfig {
    pub config: KvConfig,
}

/// Forgets a setting kept for others (102); unknown ones are no error.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct DeleteKvConfig {
    pub namespace: String,
    pub key: String,
}

/// Changes settings of the name server, all or none (318); on disk when answered.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct AlterSettings {
    pub changes: Properties,
}

/// Time to look for silent brokers.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
struct ExpiryDue;

/// What there is, for tests and administration.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "NameServerObserved")]
pub struct Observe;

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct NameServerObserved {
    pub topics: usize,
    pub broker_names: usize,
    pub live_brokers: usize,
    pub watched_connections: usize,
}

/// How a name server is made.
#[derive(Clone, Debug)]
pub struct NameServerConfig {
    /// Messages that may wait. Default 1024.
    pub mailbox_capacity: usize,
    pub place: NameServerPlace,
}

/// Where changed settings are kept; without it they are forgotten at the end.
#[derive(Debug)]
struct Disk {
    kv_configs: KvConfigTable,
    settings: KeyValueTable,
    metadata: Metadata,
}

pub struct NameServer {
    table: RouteTable,
    publisher: RoutePublisher,
    /// Connections that tell us when they close, by number.
    watched: BTreeMap<ConnectionId, Arc<ClientLink>>,
    disk: Option<Disk>,
    clock: SharedClock,
    config: NameServerConfig,
}

impl NameServer {
    /// A name server with what `metadata` holds, and the read half of its routes.
    pub fn open(
        config: NameServerConfig,
        metadata: Option<Metadata>,
        clock: SharedClock,
    ) -> Result<(Self, Routes), MetadataError> {
        let mut kv_configs = KvConfigs::new();
        let mut settings = NameServerSettings::at(&config.place);
        let disk = match metadata {
            None => None,
            Some(metadata) => Some(Disk {
                kv_configs: metadata.kv_configs()?,
                settings: metadata.name_server_settings()?,
                metadata,
            }),
        };
        if let Some(disk) = &disk {
            for KvConfig { namespace, key, value } in disk.kv_configs.all()? {
                kv_configs.entry(namespace).or_default().insert(key, value);
            }
            // One by one: a key that a later version refuses must not take the others along.
            for (key, value) in disk.settings.all()? {
                match settings.altered(&[(key, value)].into()) {
                    Ok(altered) => settings = altered,
                    Err(refusal) => warn!(%refusal, "stored setting of the name server ignored"),
                }
            }
        }
        let (publisher, routes) = routes(settings, kv_configs);
        let table = RouteTable::default();
        Ok((Self { table, publisher, watched: BTreeMap::new(), disk, clock, config }, routes))
    }

    fn publish(&mut self) {
        let changes = self.table.take_changes();
        self.publisher.publish(&self.table, changes);
    }

    /// Asks a connection to tell when it closes. `false`: it is closed already.
    fn watch(&mut self, link: &Arc<ClientLink>, ctx: &Context<Self>) -> bool {
        if self.watched.contains_key(&link.id) {
            return true;
        }
        let watch = || WatchConnection { watcher: ctx.address().recipient() };
        match link.watches.try_send(watch()) {
            Ok(()) => {}
            Err(SendError::Closed(_)) => return false,
            // One such message per connection cannot flood it.
            Err(SendError::Full(_)) => link.watches.do_send(watch()),
        }
        self.watched.insert(link.id, link.clone());
        true
    }

    fn drop_connection(&mut self, id: ConnectionId) {
        self.watched.remove(&id);
        for broker_addr in self.table.connection_closed(id) {
            info!(broker_addr, "broker gone: its connection is closed");
        }
        self.publish();
    }
}

impl Disk {
    fn put(&self, config: &KvConfig) -> Result<(), MetadataError> {
        self.kv_configs.put(config)?;
        self.metadata.flush()
    }

    fn delete(&self, namespace: &str, key: &str) -> Result<(), MetadataError> {
        self.kv_configs.delete(namespace, key)?;
        self.metadata.flush()
    }

    fn put_settings(&self, changes: &[(&str, &str)]) -> Result<(), MetadataError> {
        for (key, value) in changes {
            self.settings.put(key, value)?;
        }
        self.metadata.flush()
    }
}

fn not_kept(error: MetadataError) -> Refusal {
    Refusal::NotSaved { what: "a setting of the name server", cause: error.to_string() }
}

impl Actor for NameServer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
        ctx.notify_later(ExpiryDue, self.publisher.surroundings().settings.scan_interval);
    }
}

observed!(NameServer);

impl Handler<RegisterBroker> for NameServer {
    type Result = Result<RegistrationOutcome, Refusal>;

    fn handle(
        &mut self,
        RegisterBroker { registration, from }: RegisterBroker,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        let BrokerRegistration { broker_name, broker_addr, broker_id, .. } = &registration;
        let (name, addr, id) = (broker_name.clone(), broker_addr.clone(), *broker_id);
        let is_new = !self.table.is_live(&addr);
        let drop_missing = self.publisher.surroundings().settings.delete_topic_with_broker_registration;
        let outcome = self.table.register(registration, drop_missing, self.clock.now());
        let outcome = outcome.map_err(|error| Refusal::RegistrationRefused {
            cause: format!("{error}, and {name} ({id}) at {addr} came with one topic"),
        })?;
        if matches!(outcome, RegistrationOutcome::Registered { .. }) && is_new {
            info!(broker_name = %name, broker_id = id, broker_addr = addr, "broker registered");
        }
        if self.watch(&from, ctx) {
            self.publish();
        } else {
            self.drop_connection(from.id);
        }
        Ok(outcome)
    }
}

impl Handler<UnregisterBroker> for NameServer {
    type Result = ();

    fn handle(
        &mut self,
        UnregisterBroker { broker_name, broker_addr }: UnregisterBroker,
        _ctx: &mut Self::Context,
    ) {
        self.table.unregister(&broker_name, &broker_addr);
        info!(%broker_name, broker_addr, "broker gone: it said goodbye");
        self.publish();
    }
}

impl Handler<QueryDataVersion> for NameServer {
    type Result = Option<DataVersion>;

    fn handle(&mut self, query: QueryDataVersion, _ctx: &mut Self::Context) -> Self::Result {
        self.table.query_data_version(&query.broker_addr, self.clock.now())
    }
}

impl Handler<RefreshBroker> for NameServer {
    type Result = ();

    fn handle(&mut self, refresh: RefreshBroker, _ctx: &mut Self::Context) {
        self.table.refresh(&refresh.broker_addr, self.clock.now());
    }
}

impl Handler<ChangeWritePerm> for NameServer {
    type Result = usize;

    fn handle(
        &mut self,
        ChangeWritePerm { broker_name, change }: ChangeWritePerm,
        _ctx: &mut Self::Context,
    ) -> usize {
        let topics = self.table.change_write_perm(&broker_name, change);
        info!(%broker_name, ?change, topics, "write permission of a broker changed");
        self.publish();
        topics
    }
}

impl Handler<DeleteTopic> for NameServer {
    type Result = ();

    fn handle(&mut self, DeleteTopic { topic, cluster }: DeleteTopic, _ctx: &mut Self::Context) {
        self.table.delete_topic(&topic, cluster.as_deref());
        self.publish();
    }
}

impl Handler<RegisterTopic> for NameServer {
    type Result = ();

    fn handle(&mut self, RegisterTopic { topic, queues }: RegisterTopic, _ctx: &mut Self::Context) {
        // Java answers success in either case.
        if let Err(broker_name) = self.table.register_topic(&topic, queues) {
            warn!(%topic, %broker_name, "topic not entered: one of its brokers is unknown");
        }
        self.publish();
    }
}

impl Handler<PutKvConfig> for NameServer {
    type Result = Result<(), Refusal>;

    fn handle(&mut self, PutKvConfig { config }: PutKvConfig, _ctx: &mut Self::Context) -> Self::Result {
        if let Some(disk) = &self.disk {
            disk.put(&config).map_err(not_kept)?;
        }
        let KvConfig { namespace, key, value } = config;
        self.publisher.alter(|surroundings| {
            surroundings.kv_configs.entry(namespace).or_default().insert(key, value);
        });
        Ok(())
    }
}

impl Handler<DeleteKvConfig> for NameServer {
    type Result = Result<(), Refusal>;

    fn handle(
        &mut self,
        DeleteKvConfig { namespace, key }: DeleteKvConfig,
        _ctx: &mut Self::Context,
    ) -> Self::Result {
        if let Some(disk) = &self.disk {
            disk.delete(&namespace, &key).map_err(not_kept)?;
        }
        self.publisher.alter(|surroundings| {
            // An emptied namespace stays known until the restart, as in Java.
            if let Some(configs) = surroundings.kv_configs.get_mut(&namespace) {
                configs.remove(&key);
            }
        });
        Ok(())
    }
}

impl Handler<AlterSettings> for NameServer {
    type Result = Result<(), Refusal>;

    fn handle(&mut self, AlterSettings { changes }: AlterSettings, _ctx: &mut Self::Context) -> Self::Result {
        let former = self.publisher.surroundings();
        let altered = former.settings.altered(&changes)?;
        let changed = altered.changes_since(&former.settings);
        if let Some(disk) = &self.disk {
            disk.put_settings(&changed).map_err(not_kept)?;
        }
        for (key, value) in changed {
            info!(key, value, "setting of the name server changed");
        }
        self.publisher.alter(|surroundings| surroundings.settings = altered);
        Ok(())
    }
}

impl Handler<ConnectionClosed> for NameServer {
    type Result = ();

    fn handle(&mut self, closed: ConnectionClosed, _ctx: &mut Self::Context) {
        self.drop_connection(closed.id);
    }
}

impl Handler<ExpiryDue> for NameServer {
    type Result = ();

    fn handle(&mut self, _: ExpiryDue, ctx: &mut Self::Context) {
        for (broker_addr, connection) in self.table.expire(self.clock.now()) {
            warn!(broker_addr, "broker gone: it was silent for too long");
            // It has to notice, or it would go on as if it were known.
            if let Some(link) = connection.and_then(|id| self.watched.get(&id)) {
                link.closes.do_send(CloseConnection { cause: "the broker was silent for too long" });
            }
        }
        self.publish();
        ctx.notify_later(ExpiryDue, self.publisher.surroundings().settings.scan_interval);
    }
}

impl Handler<Observe> for NameServer {
    type Result = NameServerObserved;

    fn handle(&mut self, _: Observe, _ctx: &mut Self::Context) -> NameServerObserved {
        NameServerObserved {
            topics: self.table.topic_count(),
            broker_names: self.table.brokers().by_name.len(),
            live_brokers: self.table.live_count(),
            watched_connections: self.watched.len(),
        }
    }
}

#[cfg(test)]
mod tests;

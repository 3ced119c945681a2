//! Producers: which connections produce for which group.
//!
//! - Owns: the members of all producer groups.
//! - Takes: [`ProducerHeartbeat`], [`LeaveProducerGroup`], [`ConnectionClosed`], [`QueryProducers`],
//!   [`QueryAllProducers`], [`PickProducer`], [`FindProducer`], [`WatchProducers`].
//! - Sends: [`ProducerJoined`] to who watches; [`WatchConnection`] to the connection of a new producer;
//!   [`CloseConnection`] to that of a silent one.
//! - Fails: a connection that is gone when it should be watched has left.
//! - Invariants: a connection is watched once, however many groups it produces for; a group without members is
//!   not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;
use tracing::{debug, info};

use super::context::{Context, observed};
use super::membership::Member;
use super::request::{ClientLink, CloseConnection, ConnectionClosed, ConnectionId, WatchConnection};
use crate::clock::WallMs;
use crate::collections::HashMap;
use crate::protocol::body::connections::{Connection, ProducerInfo, ProducerTableInfo};
use crate::types::{ClientId, GroupName};

/// A client says for which groups it produces. Losing it leaves the client to its next one, in 30 s.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct ProducerHeartbeat {
    pub link: Arc<ClientLink>,
    pub member: Member,
    pub groups: Vec<GroupName>,
    pub received_at: WallMs,
}

/// A producer leaves a group of its own accord. Losing it leaves it to the connection's end.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct LeaveProducerGroup {
    pub group: GroupName,
    pub connection: ConnectionId,
}

/// The connections of a group; empty when nobody produces for it.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Vec<Connection>")]
pub struct QueryProducers {
    pub group: GroupName,
}

/// The connections of all groups.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "ProducerTableInfo")]
pub struct QueryAllProducers;

/// Any producer of a group, another one every time: it is asked how a transaction ended.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Option<Arc<ClientLink>>")]
pub struct PickProducer {
    pub group: GroupName,
}

/// Asks to be told of every producer that joins, for as long as the broker lives. Losing it would leave whoever asks to
/// its own rounds; it is sent once, when the broker starts.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct WatchProducers {
    pub watcher: Recipient<ProducerJoined>,
}

/// A connection produces for a group from now on. Losing it costs whoever waits for a producer its next round.
#[derive(Message, Clone, PartialEq, Eq, Debug)]
#[rtype(result = "()")]
pub struct ProducerJoined {
    pub group: GroupName,
}

/// The connection of the client that calls itself so; `None`: no producer does.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Option<Arc<ClientLink>>")]
pub struct FindProducer {
    pub client_id: ClientId,
}

/// Time to look for silent producers.
#[derive(Message)]
#[rtype(result = "()")]
struct ScanDue;

#[derive(Clone, Copy, Debug)]
pub struct ProducersConfig {
    /// A producer that is silent for longer has left. Default 120 s.
    pub member_lifetime: Duration,
    /// Between two looks for silent producers. Default 10 s.
    pub scan_interval: Duration,
    pub mailbox_capacity: usize,
}

impl Default for ProducersConfig {
    fn default() -> Self {
        Self {
            member_lifetime: Duration::from_secs(120),
            scan_interval: Duration::from_secs(10),
            mailbox_capacity: 8_192,
        }
    }
}

struct Producer {
    member: Member,
    link: Arc<ClientLink>,
    seen_at: Instant,
    seen_wall: WallMs,
}

#[derive(Default)]
struct Group {
    producers: BTreeMap<ConnectionId, Producer>,
    picked: Option<ConnectionId>,
}

impl Group {
    /// The producer after the one picked last.
    fn pick(&mut self) -> Option<Arc<ClientLink>> {
        let after = self.picked.and_then(|last| {
            self.producers.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded)).next()
        });
        let (connection, producer) = after.or_else(|| self.producers.first_key_value())?;
        self.picked = Some(*connection);
        Some(producer.link.clone())
    }
}

pub struct Producers {
    groups: HashMap<GroupName, Group>,
    /// In how many groups a connection is.
    connections: BTreeMap<ConnectionId, usize>,
    watchers: Vec<Recipient<ProducerJoined>>,
    config: ProducersConfig,
}

impl Producers {
    pub fn new(config: ProducersConfig) -> Self {
        Self { groups: HashMap::default(), connections: BTreeMap::new(), watchers: Vec::new(), config }
    }

    fn watch(&self, link: &Arc<ClientLink>, ctx: &mut Context<Self>) {
        let connection = link.id;
        let asked =
            link.watches.send(WatchConnection { watcher: ctx.address().recipient() }).into_actor(self);
        ctx.spawn(asked.map(move |asked, producers, _| {
            if asked.is_err() {
                producers.close(connection);
            }
        }));
    }

    fn leave(&mut self, name: &GroupName, connection: ConnectionId, cause: &'static str) {
        let Some(group) = self.groups.get_mut(name) else { return };
        let Some(producer) = group.producers.remove(&connection) else { return };
        info!(group = %name, client_id = %producer.member.client_id, cause, "producer left");
        if group.producers.is_empty() {
            self.groups.remove(name);
        }
        if let Some(groups) = self.connections.get_mut(&connection) {
            *groups -= 1;
            // The connection is still watched; its end finds nothing to do.
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        if self.connections.remove(&connection).is_none_or(|groups| groups == 0) {
            return;
        }
        let of_connection = |(name, group): (&GroupName, &Group)| {
            group.producers.contains_key(&connection).then(|| name.clone())
        };
        let groups: Vec<_> = self.groups.iter().filter_map(of_connection).collect();
        for group in groups {
            self.leave(&group, connection, "connection closed");
        }
    }
}

impl Actor for Producers {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
        ctx.notify_later(ScanDue, self.config.scan_interval);
    }
}

observed!(Producers);

impl Handler<ProducerHeartbeat> for Producers {
    type Result = ();

    fn handle(&mut self, heartbeat: ProducerHeartbeat, ctx: &mut Self::Context) {
        let ProducerHeartbeat { link, member, groups, received_at } = heartbeat;
        for name in groups {
            let producer = Producer {
                member: member.clone(),
                link: link.clone(),
                seen_at: Instant::now(),
                seen_wall: received_at,
            };
            let group = self.groups.entry(name.clone()).or_default();
            if group.producers.insert(link.id, producer).is_some() {
                continue;
            }
            info!(group = %name, client_id = %member.client_id, peer = %link.peer, "producer joined");
            if !self.connections.contains_key(&link.id) {
                self.watch(&link, ctx);
            }
            *self.connections.entry(link.id).or_default() += 1;
            for watcher in &self.watchers {
                // One that is busy finds the producer by itself.
                let _ = watcher.try_send(ProducerJoined { group: name.clone() });
            }
        }
    }
}

impl Handler<WatchProducers> for Producers {
    type Result = ();

    fn handle(&mut self, WatchProducers { watcher }: WatchProducers, _: &mut Self::Context) {
        self.watchers.push(watcher);
    }
}

impl Handler<LeaveProducerGroup> for Producers {
    type Result = ();

    fn handle(&mut self, leave: LeaveProducerGroup, _: &mut Self::Context) {
        self.leave(&leave.group, leave.connection, "unregistered");
    }
}

impl Handler<ConnectionClosed> for Producers {
    type Result = ();

    fn handle(&mut self, closed: ConnectionClosed, _: &mut Self::Context) {
        self.close(closed.id);
    }
}

impl Handler<ScanDue> for Producers {
    type Result = ();

    fn handle(&mut self, _: ScanDue, ctx: &mut Self::Context) {
        let now = Instant::now();
        let lifetime = self.config.member_lifetime;
        let mut silent = Vec::new();
        for (name, group) in &self.groups {
            let expired =
                group.producers.values().filter(|producer| now.duration_since(producer.seen_at) > lifetime);
            silent.extend(expired.map(|producer| (name.clone(), producer.link.clone())));
        }
        for (group, link) in silent {
            self.leave(&group, link.id, "silent for too long");
            if link
                .closes
                .try_send(CloseConnection { cause: "a producer sent no heartbeat in time" })
                .is_err()
            {
                debug!(%group, peer = %link.peer, "connection of a silent producer not closed");
            }
        }
        ctx.notify_later(ScanDue, self.config.scan_interval);
    }
}

impl Handler<QueryProducers> for Producers {
    type Result = Vec<Connection>;

    fn handle(&mut self, query: QueryProducers, _: &mut Self::Context) -> Self::Result {
        let producers = self.groups.get(&query.group).into_iter().flat_map(|group| group.producers.values());
        producers.map(|producer| connection_body(&producer.member, &producer.link)).collect()
    }
}

impl Handler<QueryAllProducers> for Producers {
    type Result = MessageResult<QueryAllProducers>;

    fn handle(&mut self, _: QueryAllProducers, _: &mut Self::Context) -> Self::Result {
        let info = |producer: &Producer| ProducerInfo {
            client_id: producer.member.client_id.clone(),
            language: Some(producer.member.language.name().to_owned()),
            last_update_timestamp: producer.seen_wall.0,
            remote_ip: format!("/{}", producer.link.peer),
            version: producer.member.version,
        };
        let of_group = |(name, group): (&GroupName, &Group)| {
            (name.clone(), group.producers.values().map(info).collect())
        };
        MessageResult(ProducerTableInfo { data: self.groups.iter().map(of_group).collect() })
    }
}

impl Handler<PickProducer> for Producers {
    type Result = Option<Arc<ClientLink>>;

    fn handle(&mut self, pick: PickProducer, _: &mut Self::Context) -> Self::Result {
        self.groups.get_mut(&pick.group)?.pick()
    }
}

impl Handler<FindProducer> for Producers {
    type Result = Option<Arc<ClientLink>>;

    fn handle(&mut self, find: FindProducer, _: &mut Self::Context) -> Self::Result {
        // A client that reconnects is here twice until its old connection is closed: the newer one is alive.
        let producers = self.groups.values().flat_map(|group| group.producers.values());
        let known = producers.filter(|producer| producer.member.client_id == find.client_id);
        known.max_by_key(|producer| producer.seen_at).map(|producer| producer.link.clone())
    }
}

/// A member as admin tools see it.
pub fn connection_body(member: &Member, link: &ClientLink) -> Connection {
    Connection {
        client_addr: link.peer.to_string(),
        client_id: member.client_id.clone(),
        language: Some(member.language.name().to_owned()),
        version: member.version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::Language;
    use crate::testing::{CLOCK_BEGINS, fake_client, fake_sink};

    fn start() -> Addr<Producers> {
        Producers::new(ProducersConfig::default()).start()
    }

    async fn beat(producers: &Addr<Producers>, link: &Arc<ClientLink>, groups: &[&str]) {
        let heartbeat = ProducerHeartbeat {
            link: link.clone(),
            member: Member { client_id: "c".into(), language: Language::JAVA, version: 479 },
            groups: groups.iter().map(|group| (*group).into()).collect(),
            received_at: CLOCK_BEGINS,
        };
        producers.send(heartbeat).await.unwrap();
    }

    async fn count(producers: &Addr<Producers>, group: &str) -> usize {
        producers.send(QueryProducers { group: group.into() }).await.unwrap().len()
    }

    #[actix::test]
    async fn closed_connection_leaves_all_its_groups() {
        let producers = start();
        let (link, client) = fake_client();
        beat(&producers, &link, &["a", "b"]).await;
        beat(&producers, &link, &["a", "b"]).await;
        let all = producers.send(QueryAllProducers).await.unwrap();
        assert_eq!(all.data.len(), 2);
        assert_eq!(all.data[&GroupName::from("a")][0].remote_ip, format!("/{}", link.peer));
        assert_eq!(client.close().await, 1);
        assert_eq!((count(&producers, "a").await, count(&producers, "b").await), (0, 0));
    }

    #[actix::test]
    async fn producer_leaves_the_group_it_names() {
        let producers = start();
        let (link, client) = fake_client();
        beat(&producers, &link, &["a", "b"]).await;
        producers.send(LeaveProducerGroup { group: "a".into(), connection: link.id }).await.unwrap();
        assert_eq!((count(&producers, "a").await, count(&producers, "b").await), (0, 1));
        beat(&producers, &link, &["a"]).await;
        assert_eq!(client.close().await, 1);
        assert_eq!((count(&producers, "a").await, count(&producers, "b").await), (0, 0));
    }

    #[actix::test]
    async fn silent_producer_is_closed() {
        tokio::time::pause();
        let producers = start();
        let (link, mut client) = fake_client();
        beat(&producers, &link, &["a"]).await;
        for _ in 0..14 {
            tokio::time::advance(Duration::from_millis(10_010)).await;
            count(&producers, "a").await;
        }
        assert!(client.closes.recv().await.is_some());
        assert_eq!(count(&producers, "a").await, 0);
    }

    #[actix::test]
    async fn producers_are_picked_in_turn() {
        let producers = start();
        let clients: Vec<_> = (0..2).map(|_| fake_client()).collect();
        for (link, _) in &clients {
            beat(&producers, link, &["a"]).await;
        }
        let mut picked = Vec::new();
        for _ in 0..3 {
            picked.push(producers.send(PickProducer { group: "a".into() }).await.unwrap().unwrap().id);
        }
        assert_eq!(picked, [clients[0].0.id, clients[1].0.id, clients[0].0.id]);
        assert!(producers.send(PickProducer { group: "b".into() }).await.unwrap().is_none());
    }

    #[actix::test]
    async fn who_watches_is_told_of_each_producer_once() {
        let producers = start();
        let (watcher, mut told) = fake_sink::<ProducerJoined>();
        producers.send(WatchProducers { watcher }).await.unwrap();
        let (link, _client) = fake_client();
        beat(&producers, &link, &["a"]).await;
        beat(&producers, &link, &["a", "b"]).await;
        for group in ["a", "b"] {
            assert_eq!(told.recv().await, Some(ProducerJoined { group: group.into() }));
        }
        assert!(told.is_empty());
    }

    #[actix::test]
    async fn client_is_found_by_what_it_calls_itself() {
        let producers = start();
        let (old, _old_client) = fake_client();
        let (new, _new_client) = fake_client();
        beat(&producers, &old, &["a"]).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        beat(&producers, &new, &["b"]).await;
        let find = |client_id: &str| producers.send(FindProducer { client_id: client_id.into() });
        assert_eq!(find("c").await.unwrap().map(|link| link.id), Some(new.id), "the newer connection");
        assert!(find("nobody").await.unwrap().is_none());
    }
}

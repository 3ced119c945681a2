//! One consumer group: its members, what it subscribes to, and who of it consumes which queue in order.
//!
//! - Owns: the membership of the group, its queue locks, and the [`GroupView`] that everybody reads.
//! - Takes: [`ConsumerHeartbeat`], [`LeaveGroup`], [`ConnectionClosed`], [`LockQueues`], [`UnlockQueues`],
//!   [`ListMembers`], [`ListLocks`], [`ObserveGroup`].
//! - Sends: [`CallClient`] (40, one-way) to all members when they must share the queues anew;
//!   [`WatchConnection`] to the connection of a new member; [`CloseConnection`] to that of a silent one.
//! - Fails: a notice that a connection cannot take now is lost, and that member shares anew by itself within 20 s;
//!   a connection that is gone when it should be watched has left.
//! - Invariants: the view is published before the heartbeat that changed it is answered, and before anybody is
//!   notified of it; changes that come close together make one round of notices; a group without members is
//!   offline, whatever it knew before.
//!
//! Started when the first of its members comes, and kept: it is small, and the next heartbeat finds it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, info};

use super::context::{Context, observed};
use super::extensions::events::{BrokerEvent, EventKind};
use super::extensions::stream::EventTap;
use super::membership::{
    Beat, GroupAttributes, GroupSubscription, Member, MemberAccount, Membership, Subscriptions,
};
use super::queue_locks::{HeldLock, QueueLocks};
use super::request::{
    CallClient, ClientLink, CloseConnection, ConnectionClosed, ConnectionId, WatchConnection,
};
use crate::filter::FilterRules;
use crate::protocol::body::heartbeat::{ConsumerData, MessageModel};
use crate::protocol::request_code::RequestCode;
use crate::types::{ClientId, GroupName, MessageQueue};

/// A member says that it is there, and what it wants. Losing it leaves the client to its next one, in 30 s.
#[derive(Message, Debug)]
#[rtype(result = "HeartbeatTaken")]
pub struct ConsumerHeartbeat {
    pub link: Arc<ClientLink>,
    pub member: Member,
    pub consumer: ConsumerData,
    /// Heartbeat V2: hash of what the client subscribes to; 0 for V1.
    pub fingerprint: i32,
    /// Heartbeat V2: only a sign of life, the subscriptions are left out.
    pub without_subscriptions: bool,
    /// Whether settings let members of this group be told of each other.
    pub notify: bool,
}

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeartbeatTaken {
    /// A V2 client should send everything again.
    pub fingerprint_changed: bool,
}

/// A member leaves of its own accord. Losing it leaves it to the connection's end.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub struct LeaveGroup {
    pub connection: ConnectionId,
}

/// Asks for queues to be consumed in order; the reply names those that the client holds now. Losing it costs a
/// round: clients ask every 20 s.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Vec<MessageQueue>")]
pub struct LockQueues {
    pub client_id: ClientId,
    pub queues: Vec<MessageQueue>,
}

/// Gives queues up. Losing it keeps others from them for 60 s.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct UnlockQueues {
    pub client_id: ClientId,
    pub queues: Vec<MessageQueue>,
}

/// Every member as it shows itself. Losing it leaves who asked without an answer.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Vec<MemberAccount>")]
pub struct ListMembers;

/// The queue locks in force. Losing it leaves who asked without an answer, and the locks as they are.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "Vec<HeldLock>")]
pub struct ListLocks;

/// Asks for the state, for tests and administration.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "GroupObserved")]
pub struct ObserveGroup;

#[derive(MessageResponse, Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupObserved {
    pub members: usize,
    pub locks: usize,
}

/// Time to look for silent members.
#[derive(Message)]
#[rtype(result = "()")]
struct ScanDue;

/// Time to tell the members to share the queues anew.
#[derive(Message)]
#[rtype(result = "()")]
struct NotifyDue;

/// A member as others see it.
#[derive(Clone, Debug)]
pub struct ViewMember {
    pub member: Member,
    pub link: Arc<ClientLink>,
}

/// A group that is online, at one moment. Has at least one member.
#[derive(Clone, Debug)]
pub struct GroupView {
    pub group: GroupName,
    pub attributes: GroupAttributes,
    pub subscriptions: Subscriptions,
    /// In the order in which their connections were opened.
    pub members: Vec<ViewMember>,
    /// Sorted when first asked for: all members ask after each change, and see the same.
    client_ids: OnceLock<Vec<ClientId>>,
}

impl GroupView {
    pub fn subscription(&self, topic: &str) -> Option<&Arc<GroupSubscription>> {
        self.subscriptions.get(topic)
    }

    pub fn is_broadcasting(&self) -> bool {
        self.attributes.message_model == MessageModel::Broadcasting
    }

    /// Sorted, and each once: a client whose old connection is not closed yet counts as one.
    pub fn client_ids(&self) -> &[ClientId] {
        self.client_ids.get_or_init(|| {
            let mut ids: Vec<_> = self.members.iter().map(|known| known.member.client_id.clone()).collect();
            ids.sort();
            ids.dedup();
            ids
        })
    }

    /// The client id of the member that has the connection.
    pub fn name_of(&self, link: &ClientLink) -> Option<String> {
        let known = self.members.iter().find(|known| known.link.id == link.id)?;
        Some(known.member.client_id.to_string())
    }

    /// The connection of a client; of two the newer one.
    pub fn find(&self, client_id: &ClientId) -> Option<&ViewMember> {
        self.members.iter().rev().find(|known| known.member.client_id == *client_id)
    }
}

/// The view of one group; empty while nobody of it is there.
pub type SharedView = Arc<ArcSwapOption<GroupView>>;

#[derive(Clone, Debug)]
pub struct ConsumerGroupConfig {
    /// A member that is silent for longer has left. Default 120 s.
    pub member_lifetime: Duration,
    /// Between two looks for silent members. Default 10 s.
    pub scan_interval: Duration,
    /// Changes within this time after a round of notices make one more round. Default 10 ms, and longer for a large
    /// group: see `NOTICE_COST`.
    pub notify_gap: Duration,
    /// What conditions of members may be.
    pub filter: FilterRules,
    /// Where it is told who comes and goes.
    pub events: EventTap,
    pub mailbox_capacity: usize,
}

impl Default for ConsumerGroupConfig {
    fn default() -> Self {
        Self {
            member_lifetime: Duration::from_secs(120),
            scan_interval: Duration::from_secs(10),
            notify_gap: Duration::from_millis(10),
            filter: FilterRules::default(),
            events: EventTap::default(),
            mailbox_capacity: 4_096,
        }
    }
}

/// What a notice to one member costs, about: it asks for the list of all members and shares the queues anew. Rounds are as
/// far apart as they cost, or a thousand members that come together would be told of each other a million times.
const NOTICE_COST: Duration = Duration::from_micros(200);

/// Why a member is no longer there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Departure {
    /// It said so, and has settled what it held.
    Unregistered,
    ConnectionClosed,
    /// It sent no heartbeat for too long.
    Silent,
}

pub struct ConsumerGroup {
    group: GroupName,
    membership: Membership,
    links: BTreeMap<ConnectionId, Arc<ClientLink>>,
    /// Connections that will tell of their end; some may have left before it.
    watched: HashSet<ConnectionId>,
    locks: QueueLocks,
    view: SharedView,
    config: ConsumerGroupConfig,
    /// As the last heartbeat brought it.
    notify: bool,
    notify_due: bool,
    notified_at: Option<Instant>,
    scanning: bool,
}

impl ConsumerGroup {
    pub fn new(group: GroupName, view: SharedView, config: ConsumerGroupConfig) -> Self {
        Self {
            group,
            membership: Membership::new(config.filter),
            links: BTreeMap::new(),
            watched: HashSet::new(),
            locks: QueueLocks::default(),
            view,
            config,
            notify: true,
            notify_due: false,
            notified_at: None,
            scanning: false,
        }
    }

    fn publish(&self) {
        if self.membership.is_empty() {
            self.view.store(None);
            return;
        }
        let view_member = |(connection, member): (ConnectionId, &Member)| {
            Some(ViewMember { member: member.clone(), link: self.links.get(&connection)?.clone() })
        };
        self.view.store(Some(Arc::new(GroupView {
            group: self.group.clone(),
            attributes: self.membership.attributes(),
            subscriptions: self.membership.subscriptions().clone(),
            members: self.membership.members().filter_map(view_member).collect(),
            client_ids: OnceLock::new(),
        })));
    }

    /// Has the members told, at once or together with what else changes in the gap.
    fn notify_soon(&mut self, ctx: &mut Context<Self>) {
        let broadcasting = self.membership.attributes().message_model == MessageModel::Broadcasting;
        if self.notify_due || !self.notify || broadcasting || self.membership.is_empty() {
            return;
        }
        self.notify_due = true;
        let gap = self.config.notify_gap.max(NOTICE_COST * self.links.len() as u32);
        let since = self.notified_at.map_or(gap, |at| at.elapsed());
        match gap.checked_sub(since).filter(|rest| !rest.is_zero()) {
            Some(rest) => {
                ctx.notify_later(NotifyDue, rest);
            }
            // Handled after the messages that wait now.
            None => ctx.notify(NotifyDue),
        }
    }

    fn watch(&mut self, link: &Arc<ClientLink>, ctx: &mut Context<Self>) {
        let connection = link.id;
        if !self.watched.insert(connection) {
            return;
        }
        let watcher = ctx.address().recipient();
        let asked = link.watches.send(WatchConnection { watcher }).into_actor(self);
        ctx.spawn(asked.map(move |asked, group, ctx| {
            if asked.is_err() {
                group.watched.remove(&connection);
                group.leave(connection, Departure::ConnectionClosed, ctx);
            }
        }));
    }

    fn leave(&mut self, connection: ConnectionId, cause: Departure, ctx: &mut Context<Self>) {
        if let Some(member) = self.membership.leave(connection) {
            self.without(connection, &member, cause);
            self.publish();
            self.notify_soon(ctx);
        }
        self.links.remove(&connection);
    }

    /// A connection is no member any more. A client has left with the last one of its.
    fn without(&mut self, connection: ConnectionId, member: &Member, cause: Departure) {
        let peer = self.links.get(&connection).map(|link| tracing::field::display(link.peer));
        let client_id = &member.client_id;
        info!(group = %self.group, %client_id, peer, ?cause, "consumer left");
        if self.connections_of(client_id) > 0 {
            return;
        }
        match cause {
            Departure::Unregistered => self.locks.release(client_id),
            Departure::ConnectionClosed | Departure::Silent => self.locks.orphan(client_id),
        }
        self.config.events.tell(EventKind::ConsumerLeft, || BrokerEvent::ConsumerLeft {
            group: self.group.clone(),
            client_id: client_id.clone(),
        });
    }

    fn connections_of(&self, client_id: &ClientId) -> usize {
        self.membership.members().filter(|(_, member)| member.client_id == *client_id).count()
    }
}

impl Actor for ConsumerGroup {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
    }
}

observed!(ConsumerGroup, ConsumerGroup::facts);

impl ConsumerGroup {
    /// For who looks at the actors.
    fn facts(&self) -> Value {
        json!({
            "members": self.membership.members().count(),
            "connections": self.links.len(),
            "noticeDue": self.notify_due,
        })
    }
}

impl Handler<ConsumerHeartbeat> for ConsumerGroup {
    type Result = HeartbeatTaken;

    fn handle(&mut self, heartbeat: ConsumerHeartbeat, ctx: &mut Self::Context) -> Self::Result {
        let ConsumerHeartbeat { link, member, consumer, fingerprint, without_subscriptions, notify } =
            heartbeat;
        let (client_id, peer) = (member.client_id.clone(), link.peer);
        let beat = Beat {
            connection: link.id,
            member,
            attributes: GroupAttributes {
                consume_type: consumer.consume_type,
                message_model: consumer.message_model,
                consume_from_where: consumer.consume_from_where,
            },
            subscriptions: (!without_subscriptions).then_some(consumer.subscription_data_set),
            fingerprint,
        };
        self.notify = notify;
        let outcome = self.membership.beat(beat, Instant::now());
        if outcome.joined {
            info!(group = %self.group, %client_id, peer = %link.peer, "consumer joined");
            self.watch(&link, ctx);
            self.links.insert(link.id, link);
        }
        if outcome.changed {
            self.publish();
        }
        if outcome.joined && self.connections_of(&client_id) == 1 {
            self.config.events.tell(EventKind::ConsumerJoined, || BrokerEvent::ConsumerJoined {
                group: self.group.clone(),
                client_id,
                peer,
            });
        }
        if outcome.joined || outcome.topics_changed {
            self.notify_soon(ctx);
        }
        if !std::mem::replace(&mut self.scanning, true) {
            ctx.notify_later(ScanDue, self.config.scan_interval);
        }
        HeartbeatTaken { fingerprint_changed: outcome.fingerprint_changed }
    }
}

impl Handler<LeaveGroup> for ConsumerGroup {
    type Result = ();

    fn handle(&mut self, leave: LeaveGroup, ctx: &mut Self::Context) {
        self.leave(leave.connection, Departure::Unregistered, ctx);
    }
}

impl Handler<ConnectionClosed> for ConsumerGroup {
    type Result = ();

    fn handle(&mut self, closed: ConnectionClosed, ctx: &mut Self::Context) {
        self.watched.remove(&closed.id);
        self.leave(closed.id, Departure::ConnectionClosed, ctx);
    }
}

impl Handler<NotifyDue> for ConsumerGroup {
    type Result = ();

    fn handle(&mut self, _: NotifyDue, _: &mut Self::Context) {
        self.notify_due = false;
        self.notified_at = Some(Instant::now());
        for link in self.links.values() {
            let call = CallClient {
                code: RequestCode::NOTIFY_CONSUMER_IDS_CHANGED.as_i32(),
                fields: vec![("consumerGroup".to_owned(), self.group.to_string())],
                body: Bytes::new(),
                timeout: None,
            };
            if link.calls.try_send(call).is_err() {
                debug!(group = %self.group, peer = %link.peer, "notice of changed members not taken");
            }
        }
    }
}

impl Handler<ScanDue> for ConsumerGroup {
    type Result = ();

    fn handle(&mut self, _: ScanDue, ctx: &mut Self::Context) {
        let expired = self.membership.expire(self.config.member_lifetime, Instant::now());
        for (connection, member) in &expired {
            self.without(*connection, member, Departure::Silent);
            let Some(link) = self.links.remove(connection) else { continue };
            if link
                .closes
                .try_send(CloseConnection { cause: "a consumer sent no heartbeat in time" })
                .is_err()
            {
                debug!(group = %self.group, peer = %link.peer, "connection of a silent consumer not closed");
            }
        }
        if !expired.is_empty() {
            self.publish();
            // Java leaves the others to their own clock here; sharing at once loses nothing.
            self.notify_soon(ctx);
        }
        self.scanning = !self.membership.is_empty();
        if self.scanning {
            ctx.notify_later(ScanDue, self.config.scan_interval);
        }
    }
}

impl Handler<LockQueues> for ConsumerGroup {
    type Result = Vec<MessageQueue>;

    fn handle(&mut self, lock: LockQueues, _: &mut Self::Context) -> Self::Result {
        self.locks.lock(&lock.client_id, lock.queues, Instant::now())
    }
}

impl Handler<UnlockQueues> for ConsumerGroup {
    type Result = ();

    fn handle(&mut self, unlock: UnlockQueues, _: &mut Self::Context) {
        self.locks.unlock(&unlock.client_id, &unlock.queues);
    }
}

impl Handler<ListMembers> for ConsumerGroup {
    type Result = Vec<MemberAccount>;

    fn handle(&mut self, _: ListMembers, _: &mut Self::Context) -> Self::Result {
        self.membership.accounts(Instant::now())
    }
}

impl Handler<ListLocks> for ConsumerGroup {
    type Result = Vec<HeldLock>;

    fn handle(&mut self, _: ListLocks, _: &mut Self::Context) -> Self::Result {
        self.locks.list(Instant::now())
    }
}

impl Handler<ObserveGroup> for ConsumerGroup {
    type Result = GroupObserved;

    fn handle(&mut self, _: ObserveGroup, _: &mut Self::Context) -> Self::Result {
        GroupObserved { members: self.links.len(), locks: self.locks.held(Instant::now()) }
    }
}

#[cfg(test)]
mod tests;

//! Consumer groups: the directory of the actors of all groups that ever had a member.
//!
//! - Owns: which actor serves which group, the write half of the [`ConsumerGroupTable`].
//! - Takes: [`OpenGroup`].
//! - Sends: nothing; it starts the groups, beside itself.
//! - Fails: never.
//! - Invariants: a group has one actor, for as long as the process lives; a group is published before anybody
//!   is handed it.

use std::sync::Arc;

use actix::prelude::*;
use arc_swap::{ArcSwap, Guard};
use futures::channel::oneshot;

use super::actor_list::ActorList;
use super::consumer_group::{ConsumerGroup, ConsumerGroupConfig, GroupView, SharedView};
use super::context::{Context, observed};
use super::membership::GroupSubscription;
use super::request::ClientLink;
use crate::collections::HashMap;
use crate::error::Refusal;
use crate::types::GroupName;

/// Asks for the actor of a group, which is started if it is not there. Losing it refuses the request behind it.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<GroupHandle, Refusal>")]
pub struct OpenGroup {
    pub group: GroupName,
}

/// Ends a turn: the groups started in it are published at once, and handed out.
#[derive(Message)]
#[rtype(result = "()")]
struct PublishDue;

/// How a group is reached. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GroupHandle {
    pub address: Addr<ConsumerGroup>,
    view: SharedView,
}

impl GroupHandle {
    /// `None` while the group is offline.
    pub fn view(&self) -> Option<Arc<GroupView>> {
        self.view.load_full()
    }
}

type Handles = HashMap<GroupName, GroupHandle>;

/// The groups as everybody finds them: a lookup costs a hash and no lock. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ConsumerGroupTable(Arc<ArcSwap<Handles>>);

impl ConsumerGroupTable {
    pub fn get(&self, group: &str) -> Option<GroupHandle> {
        self.load().get(group).cloned()
    }

    /// The group as it is now; `None` while it is offline.
    pub fn view(&self, group: &str) -> Option<Arc<GroupView>> {
        self.load().get(group)?.view()
    }

    /// Who has the connection, as people know it: the client id, or the address of one that is no member.
    pub fn name_of(&self, group: &str, link: &ClientLink) -> String {
        let name = self.view(group).and_then(|view| view.name_of(link));
        name.unwrap_or_else(|| link.peer.to_string())
    }

    /// What a group that is online wants of a topic.
    pub fn subscription(&self, group: &str, topic: &str) -> Option<Arc<GroupSubscription>> {
        self.view(group)?.subscription(topic).cloned()
    }

    /// Every group that is online.
    pub fn online(&self) -> Vec<Arc<GroupView>> {
        self.load().values().filter_map(GroupHandle::view).collect()
    }

    fn load(&self) -> Guard<Arc<Handles>> {
        self.0.load()
    }
}

/// Finds groups for whoever serves a request, starting them where they are needed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConsumerDirectory {
    table: ConsumerGroupTable,
    opens: Recipient<OpenGroup>,
}

impl ConsumerDirectory {
    pub fn new(table: ConsumerGroupTable, opens: Recipient<OpenGroup>) -> Self {
        Self { table, opens }
    }

    pub fn table(&self) -> &ConsumerGroupTable {
        &self.table
    }

    pub async fn open(&self, group: &GroupName) -> Result<GroupHandle, Refusal> {
        if let Some(handle) = self.table.get(group) {
            return Ok(handle);
        }
        let opened = self.opens.send(OpenGroup { group: group.clone() }).await;
        opened.unwrap_or(Err(Refusal::ShuttingDown))
    }
}

#[derive(Clone, Debug)]
pub struct ConsumerGroupsConfig {
    pub group: ConsumerGroupConfig,
    pub mailbox_capacity: usize,
}

impl Default for ConsumerGroupsConfig {
    fn default() -> Self {
        Self { group: ConsumerGroupConfig::default(), mailbox_capacity: 8_192 }
    }
}

pub struct ConsumerGroups {
    /// What is published, or about to be at the end of this turn.
    groups: Handles,
    table: ConsumerGroupTable,
    config: ConsumerGroupsConfig,
    /// Groups that were started in this turn, and who asked for them.
    waiting: Vec<(oneshot::Sender<GroupHandle>, GroupHandle)>,
}

impl ConsumerGroups {
    /// The directory and its read half, which others need before the actor runs.
    pub fn new(config: ConsumerGroupsConfig) -> (Self, ConsumerGroupTable) {
        let table = ConsumerGroupTable::default();
        (Self { groups: Handles::default(), table: table.clone(), config, waiting: Vec::new() }, table)
    }

    fn start_group(&mut self, group: GroupName, actors: &ActorList) -> GroupHandle {
        let view = SharedView::default();
        let actor = ConsumerGroup::new(group.clone(), view.clone(), self.config.group.clone());
        let address = actors.start(group.as_str(), actor);
        let handle = GroupHandle { address, view };
        self.groups.insert(group, handle.clone());
        handle
    }
}

impl Actor for ConsumerGroups {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
    }
}

observed!(ConsumerGroups);

impl Handler<OpenGroup> for ConsumerGroups {
    type Result = ResponseFuture<Result<GroupHandle, Refusal>>;

    fn handle(&mut self, OpenGroup { group }: OpenGroup, ctx: &mut Self::Context) -> Self::Result {
        if let Some(handle) = self.table.get(&group) {
            return Box::pin(async move { Ok(handle) });
        }
        let started = self.groups.get(&group).cloned();
        let handle = started.unwrap_or_else(|| self.start_group(group, ctx.actors()));
        if self.waiting.is_empty() {
            // Handled after the messages that wait now: many new groups cost one copy of the table.
            ctx.notify(PublishDue);
        }
        let (opener, opened) = oneshot::channel();
        self.waiting.push((opener, handle));
        Box::pin(async move { opened.await.map_err(|_| Refusal::ShuttingDown) })
    }
}

impl Handler<PublishDue> for ConsumerGroups {
    type Result = ();

    fn handle(&mut self, _: PublishDue, _: &mut Self::Context) {
        self.table.0.store(Arc::new(self.groups.clone()));
        for (opener, handle) in self.waiting.drain(..) {
            // Who asked may be gone; the group stays.
            let _ = opener.send(handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn group_is_started_once_and_published_before_it_is_handed_out() {
        let (groups, table) = ConsumerGroups::new(ConsumerGroupsConfig::default());
        let directory = ConsumerDirectory::new(table.clone(), groups.start().recipient());
        let (group, other) = (GroupName::from("g"), GroupName::from("h"));
        assert!(table.get("g").is_none());
        let opened =
            futures::future::join3(directory.open(&group), directory.open(&group), directory.open(&other));
        let (first, second, third) = opened.await;
        assert_eq!(first.unwrap().address, second.unwrap().address);
        assert_eq!(table.get("h").unwrap().address, third.unwrap().address);
        assert!(table.view("g").is_none() && table.online().is_empty());
    }
}

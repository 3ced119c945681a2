//! Subscription groups: the settings of every consumer group, and the snapshot of them that everybody reads.
//!
//! - Owns: the sled trees of groups, of what they are forbidden and of how they take topics, the write half of the
//!   [`GroupTable`]; nobody else writes any of them.
//! - Takes: [`FindOrCreateGroup`], [`AlterGroups`], [`DeleteGroup`], [`ForbidReading`], [`SetRequestMode`].
//! - Sends: nothing; every request is answered by its reply.
//! - Fails: settings that cannot be saved refuse the changes they came with, and the snapshot stays as it was.
//! - Invariants: a change that was asked for is flushed and published before it is answered, all of it or none; a
//!   group that came into being by itself is published at the end of the turn and flushed within a second: a
//!   crash may lose it, and its next heartbeat or pull brings it back. Every change raises the data version.
//!
//! Flushing blocks for an fsync, so this actor lives on an arbiter that no message passes through.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tracing::{error, info};

use super::aside::aside;
use super::broker_settings::SettingsTable;
use super::context::{Context, observed};
use super::group_table::{FORBID_READ, GroupMap, GroupTable, GroupTablePublisher};
use super::not_there;
use crate::clock::SharedClock;
use crate::collections::HashMap;
use crate::error::Refusal;
use crate::protocol::body::assignment::SetMessageRequestModeRequestBody;
use crate::protocol::data_version::DataVersion;
use crate::protocol::names::{self, SYSTEM_GROUPS};
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::store::metadata::{
    Forbidden, ForbiddenTable, Metadata, MetadataError, RequestModeTable, SubscriptionGroupTable,
};
use crate::types::{GroupName, TopicName};

/// How long a group that came into being by itself may wait to be made durable.
const FLUSH_DELAY: Duration = Duration::from_secs(1);

/// Asks for the settings of a group, to be created with defaults if it may be. See [`GroupSettings`].
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Arc<SubscriptionGroupConfig>, Refusal>")]
pub struct FindOrCreateGroup {
    pub group: GroupName,
}

/// Creates these groups or replaces their settings, all or none; the attributes carry signs. Losing it loses the
/// wish.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<GroupsAltered, Refusal>")]
pub struct AlterGroups {
    pub configs: Vec<SubscriptionGroupConfig>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupsAltered {
    pub count: usize,
}

/// Deletes the settings of a group, and what it was forbidden. Its offsets belong to somebody else.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<GroupDeleted, Refusal>")]
pub struct DeleteGroup {
    pub group: GroupName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupDeleted {
    pub existed: bool,
}

/// Forbids a group to read a topic, or allows it again; `None` only asks.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<ReadingForbidden, Refusal>")]
pub struct ForbidReading {
    pub group: GroupName,
    pub topic: TopicName,
    pub forbid: Option<bool>,
}

/// How it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadingForbidden {
    pub forbidden: bool,
}

/// Sets how a group takes a topic. Losing it loses the wish.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<(), Refusal>")]
pub struct SetRequestMode(pub SetMessageRequestModeRequestBody);

/// Ends a turn: what came into being in it is published at once.
#[derive(Message)]
#[rtype(result = "()")]
struct PublishDue;

#[derive(Message)]
#[rtype(result = "()")]
struct FlushDue;

/// Finds the settings of groups for whoever serves a request: in the snapshot, and only for a new group by a
/// message. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    table: GroupTable,
    creates: Recipient<FindOrCreateGroup>,
}

impl GroupSettings {
    pub fn new(table: GroupTable, creates: Recipient<FindOrCreateGroup>) -> Self {
        Self { table, creates }
    }

    pub fn table(&self) -> &GroupTable {
        &self.table
    }

    pub fn find(&self, group: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        self.table.get(group)
    }

    /// The settings of a group, created now with defaults if that is allowed.
    pub async fn find_or_create(&self, group: &GroupName) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
        if let Some(config) = self.find(group) {
            return Ok(config);
        }
        let created = self.creates.send(FindOrCreateGroup { group: group.clone() }).await;
        created.unwrap_or(Err(Refusal::ShuttingDown))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct SubscriptionGroupsConfig {
    pub mailbox_capacity: usize,
}

impl Default for SubscriptionGroupsConfig {
    fn default() -> Self {
        Self { mailbox_capacity: 8_192 }
    }
}

pub struct SubscriptionGroups {
    metadata: Metadata,
    stored: SubscriptionGroupTable,
    stored_forbidden: ForbiddenTable,
    stored_modes: RequestModeTable,
    /// What is published, or about to be at the end of this turn.
    map: GroupMap,
    publisher: GroupTablePublisher,
    settings: SettingsTable,
    clock: SharedClock,
    config: SubscriptionGroupsConfig,
    unpublished: bool,
    unflushed: bool,
}

impl SubscriptionGroups {
    /// Reads every group. Others need the table before the actor runs.
    pub fn load(
        metadata: Metadata,
        settings: SettingsTable,
        config: SubscriptionGroupsConfig,
        clock: SharedClock,
    ) -> Result<(Self, GroupTable), MetadataError> {
        let stored = metadata.subscription_groups()?;
        let stored_forbidden = metadata.forbidden()?;
        let system_groups = SYSTEM_GROUPS.map(SubscriptionGroupConfig::new);
        // A stored group wins: somebody altered a system group.
        let configs = system_groups.into_iter().chain(stored.all()?);
        let groups = configs.map(|config| (config.group_name.clone(), Arc::new(config))).collect();
        let mut forbidden: HashMap<GroupName, HashMap<TopicName, i32>> = HashMap::default();
        for Forbidden { group, topic, bits } in stored_forbidden.all()? {
            forbidden.entry(group).or_default().insert(topic, bits);
        }
        let stored_modes = metadata.request_modes()?;
        let mut request_modes: HashMap<GroupName, HashMap<_, _>> = HashMap::default();
        for mode in stored_modes.all()? {
            let of_group = request_modes.entry(mode.consumer_group.clone()).or_default();
            of_group.insert(mode.topic.clone(), mode);
        }
        let map = GroupMap { data_version: stored.version()?, groups, forbidden, request_modes };
        info!(groups = map.groups.len(), "subscription groups loaded");
        let (publisher, table) = GroupTable::new(map.clone());
        let groups = Self {
            metadata,
            stored,
            stored_forbidden,
            stored_modes,
            map,
            publisher,
            settings,
            clock,
            config,
            unpublished: false,
            unflushed: false,
        };
        Ok((groups, table))
    }

    fn create(&mut self, group: &GroupName) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
        if !self.settings.load().auto_create_group && !names::is_system_group(group) {
            return Err(Refusal::GroupUnknown { group: group.clone() });
        }
        names::check_group(group)
            .map_err(|error| Refusal::GroupNotCreatable { group: group.clone(), error })?;
        let config = SubscriptionGroupConfig::new(group.clone());
        let version = self.next_version();
        self.stored.put(&config).and_then(|()| self.stored.put_version(version)).map_err(not_saved)?;
        let config = Arc::new(config);
        self.map.groups.insert(group.clone(), config.clone());
        self.map.data_version = version;
        info!(%group, "subscription group created by its first request");
        Ok(config)
    }

    fn next_version(&self) -> DataVersion {
        let version = self.map.data_version;
        version.next(version.state_version, self.clock.now())
    }

    /// Writes by `write`, makes it durable, and publishes `map`.
    fn commit(
        &mut self,
        mut map: GroupMap,
        write: impl FnOnce(&Self) -> Result<(), MetadataError>,
    ) -> Result<(), Refusal> {
        map.data_version = self.next_version();
        write(self)
            .and_then(|()| self.stored.put_version(map.data_version))
            .and_then(|()| self.metadata.flush())
            .map_err(not_saved)?;
        self.map = map;
        self.unflushed = false;
        self.publish();
        Ok(())
    }

    fn publish(&mut self) {
        self.unpublished = false;
        self.publisher.publish(self.map.clone());
    }

    fn flush(&mut self) {
        if !self.unflushed {
            return;
        }
        match self.metadata.flush() {
            Ok(()) => self.unflushed = false,
            Err(error) => error!(%error, "new subscription groups not durable yet"),
        }
    }
}

fn not_saved(error: MetadataError) -> Refusal {
    error!(%error, "subscription groups not saved");
    Refusal::NotSaved { what: "the table of subscription groups", cause: error.to_string() }
}

impl Actor for SubscriptionGroups {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.config.mailbox_capacity);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.flush();
    }
}

observed!(SubscriptionGroups);

impl Handler<PublishDue> for SubscriptionGroups {
    type Result = ();

    fn handle(&mut self, _: PublishDue, _: &mut Self::Context) {
        if self.unpublished {
            self.publish();
        }
    }
}

impl Handler<FlushDue> for SubscriptionGroups {
    type Result = ();

    fn handle(&mut self, _: FlushDue, ctx: &mut Self::Context) {
        // On another thread: the first request of a group that comes meanwhile does not wait for the disk. What is
        // written meanwhile is flushed by the next.
        self.unflushed = false;
        let metadata = self.metadata.clone();
        let flushing = aside(move || metadata.flush()).into_actor(self);
        ctx.spawn(flushing.map(|flushed, groups, ctx| {
            let failed = match flushed {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(panicked) => panicked.to_string(),
            };
            error!(error = failed, "new subscription groups not durable yet");
            if !std::mem::replace(&mut groups.unflushed, true) {
                ctx.notify_later(FlushDue, FLUSH_DELAY);
            }
        }));
    }
}

impl Handler<FindOrCreateGroup> for SubscriptionGroups {
    type Result = Result<Arc<SubscriptionGroupConfig>, Refusal>;

    fn handle(&mut self, find: FindOrCreateGroup, ctx: &mut Self::Context) -> Self::Result {
        if let Some(config) = self.map.get(&find.group) {
            return Ok(config.clone());
        }
        let config = self.create(&find.group)?;
        if !std::mem::replace(&mut self.unpublished, true) {
            // Handled after the messages that wait now: many new groups cost one copy of the map.
            ctx.notify(PublishDue);
        }
        if !std::mem::replace(&mut self.unflushed, true) {
            ctx.notify_later(FlushDue, FLUSH_DELAY);
        }
        Ok(config)
    }
}

impl Handler<AlterGroups> for SubscriptionGroups {
    type Result = Result<GroupsAltered, Refusal>;

    fn handle(&mut self, alter: AlterGroups, _: &mut Self::Context) -> Self::Result {
        let mut map = self.map.clone();
        let mut changed = Vec::with_capacity(alter.configs.len());
        for asked in alter.configs {
            names::check_group(&asked.group_name)?;
            not_there::check_group(&asked.attributes)?;
            let current = map.get(&asked.group_name).map(|config| &**config);
            let config = SubscriptionGroupConfig::altered(current, asked)
                .map_err(|error| Refusal::Attribute(error.to_string()))?;
            map.groups.insert(config.group_name.clone(), Arc::new(config.clone()));
            changed.push(config);
        }
        self.commit(map, |groups| groups.stored.put_all(&changed))?;
        for config in &changed {
            info!(group = %config.group_name, consume_enable = config.consume_enable,
                retry_max_times = config.retry_max_times, "subscription group altered");
        }
        Ok(GroupsAltered { count: changed.len() })
    }
}

impl Handler<DeleteGroup> for SubscriptionGroups {
    type Result = Result<GroupDeleted, Refusal>;

    fn handle(&mut self, delete: DeleteGroup, _: &mut Self::Context) -> Self::Result {
        let DeleteGroup { group } = delete;
        let mut map = self.map.clone();
        let existed = map.groups.remove(&group).is_some();
        map.forbidden.remove(&group);
        map.request_modes.remove(&group);
        self.commit(map, |groups| {
            groups.stored.delete(&group)?;
            groups.stored_modes.delete_group(&group)?;
            groups.stored_forbidden.delete_group(&group).map(|_count| ())
        })?;
        info!(%group, existed, "subscription group deleted");
        Ok(GroupDeleted { existed })
    }
}

impl Handler<ForbidReading> for SubscriptionGroups {
    type Result = Result<ReadingForbidden, Refusal>;

    fn handle(&mut self, forbid: ForbidReading, _: &mut Self::Context) -> Self::Result {
        let ForbidReading { group, topic, forbid } = forbid;
        let bits = self.map.forbidden(&group, &topic);
        let wanted = match forbid {
            Some(true) => bits | FORBID_READ,
            Some(false) => bits & !FORBID_READ,
            None => bits,
        };
        if wanted != bits {
            let mut map = self.map.clone();
            map.forbidden.entry(group.clone()).or_default().insert(topic.clone(), wanted);
            let entry = Forbidden { group, topic, bits: wanted };
            self.commit(map, |groups| groups.stored_forbidden.put(&entry))?;
        }
        Ok(ReadingForbidden { forbidden: wanted & FORBID_READ != 0 })
    }
}

impl Handler<SetRequestMode> for SubscriptionGroups {
    type Result = Result<(), Refusal>;

    fn handle(&mut self, SetRequestMode(mode): SetRequestMode, _: &mut Self::Context) -> Self::Result {
        let mut map = self.map.clone();
        let of_group = map.request_modes.entry(mode.consumer_group.clone()).or_default();
        of_group.insert(mode.topic.clone(), mode.clone());
        self.commit(map, |groups| groups.stored_modes.put(&mode))?;
        info!(group = %mode.consumer_group, topic = %mode.topic, mode = ?mode.mode, "request mode set");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::broker_settings::SettingValues;
    use crate::protocol::response_code::ResponseCode;
    use crate::testing::RuntimeClock;

    fn load(metadata: &Metadata, auto_create_group: bool) -> (SubscriptionGroups, GroupTable) {
        let settings = SettingsTable::fixed(SettingValues { auto_create_group, ..SettingValues::default() });
        let config = SubscriptionGroupsConfig::default();
        SubscriptionGroups::load(metadata.clone(), settings, config, RuntimeClock::shared()).unwrap()
    }

    fn start(metadata: &Metadata, auto_create_group: bool) -> (Addr<SubscriptionGroups>, GroupSettings) {
        let (groups, table) = load(metadata, auto_create_group);
        let groups = groups.start();
        (groups.clone(), GroupSettings::new(table, groups.recipient()))
    }

    #[actix::test]
    async fn system_groups_are_there_at_the_start() {
        let (_, table) = load(&Metadata::temporary().unwrap(), true);
        for group in SYSTEM_GROUPS {
            assert!(table.get(group).is_some(), "{group}");
        }
        assert_eq!(table.load().data_version.counter, 0);
    }

    #[actix::test]
    async fn new_group_has_defaults_and_is_found_again() {
        let metadata = Metadata::temporary().unwrap();
        let (_, settings) = start(&metadata, true);
        let created = settings.find_or_create(&"orders".into()).await.unwrap();
        assert_eq!(*created, SubscriptionGroupConfig::new("orders"));
        settings.find_or_create(&"billing".into()).await.unwrap();
        settings.find_or_create(&"orders".into()).await.unwrap();
        assert_eq!(settings.table().load().data_version.counter, 2);
        let (_, table) = load(&metadata, true);
        assert!(table.get("orders").is_some() && table.get("billing").is_some());
    }

    #[actix::test]
    async fn groups_are_not_created_when_they_must_not_be() {
        let (_, settings) = start(&Metadata::temporary().unwrap(), false);
        let refused = async |group: &str| settings.find_or_create(&group.into()).await.unwrap_err();
        let refusal = refused("orders").await;
        assert_eq!(refusal.code(), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
        assert!(settings.find_or_create(&"CID_RMQ_SYS_REVIVE_GROUP".into()).await.is_ok());
        let (_, settings) = start(&Metadata::temporary().unwrap(), true);
        let refusal = settings.find_or_create(&"or ders".into()).await.unwrap_err();
        assert_eq!(refusal.code(), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
        assert!(refusal.to_string().contains("contains illegal characters"), "{refusal}");
    }

    #[actix::test]
    async fn alteration_is_durable_published_and_all_or_nothing() {
        let metadata = Metadata::temporary().unwrap();
        let (groups, settings) = start(&metadata, true);
        let altered =
            SubscriptionGroupConfig { retry_max_times: 3, ..SubscriptionGroupConfig::new("orders") };
        groups.send(AlterGroups { configs: vec![altered.clone()] }).await.unwrap().unwrap();
        assert_eq!(settings.find("orders").as_deref(), Some(&altered));
        let bad = vec![SubscriptionGroupConfig::new("orders"), SubscriptionGroupConfig::new("a b")];
        let refusal = groups.send(AlterGroups { configs: bad }).await.unwrap().unwrap_err();
        assert_eq!(refusal.code(), ResponseCode::INVALID_PARAMETER);
        assert_eq!(settings.find("orders").as_deref(), Some(&altered));
        let (_, table) = load(&metadata, true);
        assert_eq!(table.get("orders").as_deref(), Some(&altered));
        assert_eq!(table.load().data_version, settings.table().load().data_version);
    }

    #[actix::test]
    async fn deleted_group_is_forgotten_with_what_it_was_forbidden() {
        let metadata = Metadata::temporary().unwrap();
        let (groups, settings) = start(&metadata, true);
        settings.find_or_create(&"orders".into()).await.unwrap();
        let forbid = |forbid| ForbidReading { group: "orders".into(), topic: "T".into(), forbid };
        assert!(groups.send(forbid(Some(true))).await.unwrap().unwrap().forbidden);
        assert!(settings.table().load().is_read_forbidden("orders", "T"));
        assert!(groups.send(DeleteGroup { group: "orders".into() }).await.unwrap().unwrap().existed);
        assert!(!groups.send(DeleteGroup { group: "orders".into() }).await.unwrap().unwrap().existed);
        assert!(!groups.send(forbid(None)).await.unwrap().unwrap().forbidden);
        let (_, table) = load(&metadata, true);
        assert!(table.get("orders").is_none() && !table.load().is_read_forbidden("orders", "T"));
    }
}

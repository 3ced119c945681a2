//! Who belongs to a consumer group, and what the group subscribes to.
//!
//! A member is a connection that sent a heartbeat. The attributes and the subscriptions of the group are those of
//! the last heartbeat: members that do not subscribe to the same topics overwrite each other, as in Java, and
//! clients rely on all of a group subscribing alike. RocketMQ: `ConsumerGroupInfo`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::request::ConnectionId;
use crate::collections::HashMap;
use crate::filter::{FilterError, FilterRules, SqlFilter};
use crate::protocol::body::heartbeat::{ConsumeFromWhere, ConsumeType, MessageModel};
use crate::protocol::body::subscription::{SQL92, SubscriptionData};
use crate::protocol::command::Language;
use crate::store::message_filter::{MessageFilter, TagFilter};
use crate::types::{ClientId, TopicName};

/// What a group wants of a topic, with the filter that is made of it once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSubscription {
    pub data: SubscriptionData,
    pub filter: Result<MessageFilter, FilterFault>,
}

/// Why there is no filter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterFault {
    #[error("the SQL92 condition is wrong at {0}")]
    Malformed(#[from] FilterError),
    /// Java code that a filter server would run.
    #[error("the subscription is by a class")]
    Class,
    #[error("the expression is of type {kind:?}")]
    UnknownKind { kind: String },
}

impl GroupSubscription {
    /// `known` is what the group subscribed to so far: a filter of the same text is shared.
    pub fn new(data: SubscriptionData, known: Option<&Self>, rules: &FilterRules) -> Self {
        let data = data.with_codes();
        let filter = match known {
            Some(known) if known.data.filters_like(&data) => known.filter.clone(),
            _ => Self::filter_of(&data, rules),
        };
        Self { data, filter }
    }

    fn filter_of(data: &SubscriptionData, rules: &FilterRules) -> Result<MessageFilter, FilterFault> {
        if data.class_filter_mode {
            return Err(FilterFault::Class);
        }
        if data.is_every_tag() {
            return Ok(MessageFilter::All);
        }
        if data.is_tag_type() {
            return Ok(MessageFilter::Tags(Arc::new(TagFilter::new(data.tags_set.iter().cloned()))));
        }
        if data.expression_type != SQL92 {
            return Err(FilterFault::UnknownKind { kind: data.expression_type.clone() });
        }
        Ok(MessageFilter::Sql(Arc::new(SqlFilter::compile(&data.sub_string, rules)?)))
    }
}

/// Subscriptions by topic.
pub type Subscriptions = HashMap<TopicName, Arc<GroupSubscription>>;

/// What every member of a group should agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupAttributes {
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    pub consume_from_where: ConsumeFromWhere,
}

/// One member, as it introduced itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub client_id: ClientId,
    pub language: Language,
    pub version: i32,
}

/// A heartbeat of one member.
#[derive(Clone, Debug)]
pub struct Beat {
    pub connection: ConnectionId,
    pub member: Member,
    pub attributes: GroupAttributes,
    /// `None`: only a sign of life.
    pub subscriptions: Option<Vec<SubscriptionData>>,
    /// Heartbeat V2: hash of what the client subscribes to; 0 for V1.
    pub fingerprint: i32,
}

/// What a heartbeat changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BeatOutcome {
    /// The connection is a new member.
    pub joined: bool,
    /// A topic came or went: the members must share the queues anew.
    pub topics_changed: bool,
    /// Something that others see is different.
    pub changed: bool,
    /// For a V2 client: the broker does not hold what the client thinks it holds, so it should send everything.
    pub fingerprint_changed: bool,
}

#[derive(Debug)]
struct Seen {
    member: Member,
    at: Instant,
    subscribed: Expressions,
}

/// What one member subscribes to: topic and expression.
pub type Expressions = BTreeMap<TopicName, String>;

/// A member as it shows itself, for people to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberAccount {
    pub connection: ConnectionId,
    pub member: Member,
    pub silent_for: Duration,
    pub subscribed: Expressions,
}

/// The members of one group.
#[derive(Debug, Default)]
pub struct Membership {
    filter_rules: FilterRules,
    members: BTreeMap<ConnectionId, Seen>,
    attributes: GroupAttributes,
    subscriptions: Subscriptions,
    /// Of the last V2 heartbeat with subscriptions or without.
    fingerprint: Option<i32>,
}

impl Membership {
    /// Nobody yet; conditions of those who come are compiled by `filter_rules`.
    pub fn new(filter_rules: FilterRules) -> Self {
        Self { filter_rules, ..Self::default() }
    }

    pub fn beat(&mut self, beat: Beat, now: Instant) -> BeatOutcome {
        let mut outcome = BeatOutcome::default();
        if beat.fingerprint != 0 {
            let known = self.fingerprint.replace(beat.fingerprint);
            // A sign of life stands on what was said before: if that is not here, it must be said again.
            let nothing_said = known.is_none() && beat.subscriptions.is_none();
            outcome.fingerprint_changed =
                nothing_said || known.is_some_and(|known| known != beat.fingerprint);
        }
        let subscribed = beat.subscriptions.as_ref().map(|all| {
            all.iter().map(|data| (data.topic.clone(), data.sub_string.clone())).collect::<Expressions>()
        });
        match self.members.get_mut(&beat.connection) {
            Some(seen) => {
                seen.at = now;
                seen.subscribed = subscribed.unwrap_or_else(|| std::mem::take(&mut seen.subscribed));
                if seen.member != beat.member {
                    seen.member = beat.member;
                    outcome.changed = true;
                }
            }
            None => {
                let subscribed = subscribed.unwrap_or_default();
                self.members.insert(beat.connection, Seen { member: beat.member, at: now, subscribed });
                outcome.joined = true;
            }
        }
        if self.attributes != beat.attributes {
            self.attributes = beat.attributes;
            outcome.changed = true;
        }
        if let Some(subscriptions) = beat.subscriptions {
            let (topics_changed, replaced) = self.subscribe(subscriptions);
            outcome.topics_changed = topics_changed;
            outcome.changed |= replaced;
        }
        outcome.changed |= outcome.joined | outcome.topics_changed;
        outcome
    }

    /// Returns whether a topic came or went, and whether the subscription of one was replaced.
    fn subscribe(&mut self, asked: Vec<SubscriptionData>) -> (bool, bool) {
        let known = self.subscriptions.len();
        self.subscriptions.retain(|topic, _| asked.iter().any(|data| data.topic == *topic));
        let mut topics_changed = self.subscriptions.len() != known;
        let mut replaced = false;
        for data in asked {
            match self.subscriptions.get(&data.topic) {
                Some(known) if data.sub_version <= known.data.sub_version => continue,
                Some(_) => replaced = true,
                None => topics_changed = true,
            }
            let topic = data.topic.clone();
            let known = self.subscriptions.get(&topic).map(Arc::as_ref);
            let subscription = GroupSubscription::new(data, known, &self.filter_rules);
            self.subscriptions.insert(topic, Arc::new(subscription));
        }
        (topics_changed, replaced)
    }

    /// Takes a member out. With the last one the group forgets what it subscribed to.
    pub fn leave(&mut self, connection: ConnectionId) -> Option<Member> {
        let left = self.members.remove(&connection)?;
        if self.members.is_empty() {
            *self = Self::new(self.filter_rules);
        }
        Some(left.member)
    }

    /// Takes out the members that were silent for longer than `lifetime`.
    pub fn expire(&mut self, lifetime: Duration, now: Instant) -> Vec<(ConnectionId, Member)> {
        let silent = |(connection, seen): (&ConnectionId, &Seen)| {
            (now.duration_since(seen.at) > lifetime).then_some(*connection)
        };
        let silent: Vec<_> = self.members.iter().filter_map(silent).collect();
        silent.into_iter().filter_map(|connection| Some((connection, self.leave(connection)?))).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// By connection, in the order of their numbers.
    pub fn members(&self) -> impl Iterator<Item = (ConnectionId, &Member)> {
        self.members.iter().map(|(connection, seen)| (*connection, &seen.member))
    }

    /// Every member with what it said of itself, by connection.
    pub fn accounts(&self, now: Instant) -> Vec<MemberAccount> {
        let account = |(connection, seen): (&ConnectionId, &Seen)| MemberAccount {
            connection: *connection,
            member: seen.member.clone(),
            silent_for: now.duration_since(seen.at),
            subscribed: seen.subscribed.clone(),
        };
        self.members.iter().map(account).collect()
    }

    pub fn attributes(&self) -> GroupAttributes {
        self.attributes
    }

    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(120);

    fn member(client_id: &str) -> Member {
        Member { client_id: client_id.into(), language: Language::JAVA, version: 479 }
    }

    fn subscription(topic: &str, tags: &str, sub_version: i64) -> SubscriptionData {
        SubscriptionData { sub_version, ..SubscriptionData::parse(topic, tags).unwrap() }
    }

    fn beat(connection: u64, subscriptions: Vec<SubscriptionData>) -> Beat {
        Beat {
            connection: ConnectionId(connection),
            member: member(&format!("c{connection}")),
            attributes: GroupAttributes::default(),
            subscriptions: Some(subscriptions),
            fingerprint: 0,
        }
    }

    fn tags(membership: &Membership, topic: &str) -> String {
        membership.subscriptions()[topic].data.sub_string.clone()
    }

    #[test]
    fn first_heartbeat_joins_and_the_next_changes_nothing() {
        let mut membership = Membership::default();
        let now = Instant::now();
        let outcome = membership.beat(beat(1, vec![subscription("T", "*", 1)]), now);
        assert!(outcome.joined && outcome.topics_changed && outcome.changed);
        let outcome = membership.beat(beat(1, vec![subscription("T", "*", 1)]), now);
        assert_eq!(outcome, BeatOutcome::default());
    }

    #[test]
    fn larger_version_replaces_without_new_sharing() {
        let mut membership = Membership::default();
        let now = Instant::now();
        membership.beat(beat(1, vec![subscription("T", "A", 5)]), now);
        membership.beat(beat(1, vec![subscription("T", "B", 4)]), now);
        assert_eq!(tags(&membership, "T"), "A");
        let outcome = membership.beat(beat(1, vec![subscription("T", "B", 6)]), now);
        assert!(outcome.changed && !outcome.topics_changed);
        assert_eq!(tags(&membership, "T"), "B");
    }

    #[test]
    fn topic_missing_from_the_new_set_is_gone() {
        let mut membership = Membership::default();
        let now = Instant::now();
        membership.beat(beat(1, vec![subscription("T", "*", 1), subscription("U", "*", 1)]), now);
        let outcome = membership.beat(beat(2, vec![subscription("U", "*", 1)]), now);
        assert!(outcome.joined && outcome.topics_changed);
        assert_eq!(
            membership.subscriptions().keys().collect::<Vec<_>>(),
            ["U"].map(TopicName::from).iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn sign_of_life_keeps_subscriptions_and_asks_for_them_when_there_are_none() {
        let mut membership = Membership::default();
        let now = Instant::now();
        let full = |fingerprint| Beat { fingerprint, ..beat(1, vec![subscription("T", "*", 1)]) };
        let life = |fingerprint| Beat { subscriptions: None, ..full(fingerprint) };
        assert!(membership.beat(life(7), now).fingerprint_changed);
        assert!(!membership.beat(full(7), now).fingerprint_changed);
        assert!(!membership.beat(life(7), now).fingerprint_changed);
        assert_eq!(membership.subscriptions().len(), 1);
        assert!(membership.beat(life(8), now).fingerprint_changed);
    }

    #[test]
    fn silent_members_expire_and_the_last_takes_everything_with_it() {
        let mut membership = Membership::default();
        let began = Instant::now();
        membership.beat(beat(1, vec![subscription("T", "*", 1)]), began);
        membership.beat(beat(2, vec![subscription("T", "*", 1)]), began + Duration::from_secs(60));
        assert_eq!(membership.expire(LIFETIME, began + LIFETIME), []);
        let expired = membership.expire(LIFETIME, began + LIFETIME + Duration::from_millis(1));
        assert_eq!(expired, [(ConnectionId(1), member("c1"))]);
        assert_eq!(membership.leave(ConnectionId(1)), None);
        assert_eq!(membership.leave(ConnectionId(2)), Some(member("c2")));
        assert!(membership.is_empty() && membership.subscriptions().is_empty());
    }

    fn filtered(data: SubscriptionData) -> Result<MessageFilter, FilterFault> {
        GroupSubscription::new(data, None, &FilterRules::default()).filter
    }

    #[test]
    fn a_filter_is_made_of_every_known_kind_and_a_fault_of_others() {
        let of =
            |expression: &str, kind: &str| filtered(SubscriptionData::build("T", expression, kind).unwrap());
        assert_eq!(of("*", "TAG"), Ok(MessageFilter::All));
        assert!(matches!(of("A || B", "TAG"), Ok(MessageFilter::Tags(_))));
        assert!(matches!(of("a > 1", "SQL92"), Ok(MessageFilter::Sql(_))));
        assert!(matches!(of("a >", "SQL92"), Err(FilterFault::Malformed(error)) if error.column == 4));
        assert_eq!(of("a", "XPATH"), Err(FilterFault::UnknownKind { kind: "XPATH".into() }));
        let class = SubscriptionData { class_filter_mode: true, ..subscription("T", "Filter.java", 1) };
        assert_eq!(filtered(class), Err(FilterFault::Class));
    }

    #[test]
    fn a_filter_is_compiled_once_for_all_heartbeats_that_bring_its_text() {
        let mut membership = Membership::default();
        let now = Instant::now();
        let mut compiled = |expression: &str, sub_version| {
            let data = SubscriptionData::build("T", expression, "SQL92").unwrap();
            membership.beat(beat(1, vec![SubscriptionData { sub_version, ..data }]), now);
            match &membership.subscriptions()["T"].filter {
                Ok(MessageFilter::Sql(filter)) => filter.clone(),
                other => panic!("no filter of SQL: {other:?}"),
            }
        };
        let first = compiled("a > 1", 1);
        assert!(Arc::ptr_eq(&first, &compiled("a > 1", 2)));
        assert_eq!(compiled("a > 2", 3).source(), "a > 2");
    }

    proptest! {
        /// Against a plain set of members with the second they were last seen, and a map of topic versions.
        #[test]
        fn behaves_like_plain_maps(
            steps in prop::collection::vec((0..4u8, 0..4u64, prop::collection::btree_map(0..3u8, 0..4i64, 0..3), 0..100u64), 1..50),
        ) {
            let mut membership = Membership::default();
            let mut members: BTreeMap<u64, u64> = BTreeMap::new();
            let mut topics: BTreeMap<String, i64> = BTreeMap::new();
            let (began, mut second) = (Instant::now(), 0);
            for (kind, connection, asked, wait) in steps {
                second += wait;
                let now = began + Duration::from_secs(second);
                let asked: BTreeMap<String, i64> = asked.into_iter().map(|(topic, version)| (format!("T{topic}"), version)).collect();
                match kind {
                    0 => {
                        let left = membership.leave(ConnectionId(connection)).is_some();
                        prop_assert_eq!(left, members.remove(&connection).is_some());
                    }
                    1 => {
                        let expired: BTreeSet<u64> = membership.expire(LIFETIME, now).into_iter().map(|(id, _)| id.0).collect();
                        let expected: BTreeSet<u64> = members.iter().filter(|(_, at)| second - **at > 120).map(|(id, _)| *id).collect();
                        prop_assert_eq!(&expired, &expected);
                        members.retain(|id, _| !expired.contains(id));
                    }
                    _ => {
                        let data = asked.iter().map(|(topic, version)| subscription(topic, "*", *version)).collect();
                        let outcome = membership.beat(beat(connection, data), now);
                        prop_assert_eq!(outcome.joined, members.insert(connection, second).is_none());
                        let same_topics = asked.keys().eq(topics.keys());
                        prop_assert_eq!(outcome.topics_changed, !same_topics);
                        topics = asked.into_iter().map(|(topic, version)| {
                            let known = topics.get(&topic).copied().unwrap_or(i64::MIN);
                            (topic, known.max(version))
                        }).collect();
                    }
                }
                if members.is_empty() {
                    topics.clear();
                }
                let found: BTreeMap<String, i64> = membership.subscriptions().iter()
                    .map(|(topic, known)| (topic.to_string(), known.data.sub_version)).collect();
                prop_assert_eq!(&found, &topics);
                prop_assert!(membership.members().map(|(id, _)| id.0).eq(members.keys().copied()));
            }
        }
    }
}

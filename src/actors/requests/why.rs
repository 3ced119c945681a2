//! The request that asks what became of a message. It gathers what the log and the owners know; what that means is said
//! by [`message_story`].

use std::collections::BTreeSet;

use actix::Addr;
use futures::future;

use super::offsets::{extent_of, queue_of};
use crate::actors::consumer_group::ListLocks;
use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::consumer_offsets::{ConsumerOffsets, ListGroupsOfTopic, QueryOffset};
use crate::actors::group_table::GroupTable;
use crate::actors::key_index::{KeyIndex, QueryKey};
use crate::actors::membership::GroupSubscription;
use crate::actors::message_expiry::MessageExpiry;
use crate::actors::message_story::{self, Evidence, GroupEvidence, Matching};
use crate::actors::offset_table::OffsetKey;
use crate::actors::queue_locks::HeldLock;
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::timer_scheduler::{ListTimers, TimerFilter, TimerScheduler};
use crate::actors::topic_table::TopicTable;
use crate::actors::transaction_checker::{ListTransactions, TransactionChecker};
use crate::clock::SharedClock;
use crate::error::Refusal;
use crate::protocol::body::story::MessageStory;
use crate::protocol::body::transactions::TransactionInfo;
use crate::protocol::delay_level::DelayLevels;
use crate::protocol::header::ExplainMessage;
use crate::protocol::message::StoredMessage;
use crate::protocol::message_id::{offset_message_id, parse_offset_message_id};
use crate::protocol::names::{
    HALF_TOPIC, SCHEDULE_TOPIC, TIMER_TOPIC, TRANSACTION_CHECK_MAX_TIME_TOPIC, dead_letter_queue, retry_topic,
};
use crate::protocol::properties::{self, names as property};
use crate::protocol::timer::TimerProperties;
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::store::timers::TimerKey;
use crate::types::{GroupName, PhysicalOffset, TopicName};

/// Where copies of a message lie that is not there for consumers.
const BACKSTAGE: [&str; 4] = [SCHEDULE_TOPIC, TIMER_TOPIC, HALF_TOPIC, TRANSACTION_CHECK_MAX_TIME_TOPIC];
/// Copies in one topic that are told of, the newest.
const COPIES_MAX: usize = 64;
/// Groups that are told of when none is named.
const GROUPS_MAX: usize = 64;

/// Whom the request asks.
pub struct StorySources<'a> {
    pub log: &'a CommitLogReader,
    pub expiry: &'a MessageExpiry,
    pub key_index: Option<&'a Addr<KeyIndex>>,
    pub topics: &'a TopicTable,
    pub groups: &'a GroupTable,
    pub consumers: &'a ConsumerGroupTable,
    pub offsets: &'a Addr<ConsumerOffsets>,
    pub timers: &'a Addr<TimerScheduler>,
    pub transactions: &'a Addr<TransactionChecker>,
    pub delay_levels: &'a DelayLevels,
    pub clock: &'a SharedClock,
}

/// EXPLAIN_MESSAGE (29002). Ours.
pub async fn explain_message(request: &Request, sources: &StorySources<'_>) -> Answered {
    let asked: ExplainMessage = request.header("EXPLAIN_MESSAGE")?;
    let mut copies = sources.copies(&asked).await?;
    copies.retain(|copy| !sources.expiry.hides(&copy.topic, copy.stored_at_ms));
    let topic = asked.topic.clone().or_else(|| copies.iter().find_map(real_topic));
    let groups = match (asked.consumer_group.clone(), &topic) {
        (Some(group), _) => vec![group],
        (None, Some(topic)) => sources.groups_of(topic).await?,
        (None, None) => Vec::new(),
    };
    let gathered = future::try_join_all(groups.iter().map(|group| sources.group(group, &copies))).await?;
    let evidence = Evidence {
        now: sources.clock.now(),
        timer_is_pending: sources.is_timer_pending(&copies).await?,
        transaction: sources.open_transaction(&copies).await?,
        copies,
        delay_levels: sources.delay_levels,
        groups: gathered.into_iter().flatten().collect(),
    };
    let story = message_story::tell(&evidence)
        .unwrap_or_else(|| MessageStory { verdict: sources.why_unknown(&asked), ..MessageStory::default() });
    Ok(Some(Answer::json(&story)))
}

impl StorySources<'_> {
    /// Every copy of the message, in the order of the log.
    async fn copies(&self, asked: &ExplainMessage) -> Result<Vec<StoredMessage>, Refusal> {
        let placed = parse_offset_message_id(&asked.message_id)
            .ok()
            .and_then(|(_, at)| self.read(at))
            // A unique key may look like the id of a place.
            .filter(|copy| is_named(copy, &asked.message_id));
        let unique_key = match &placed {
            Some(copy) => copy.text(property::UNIQ_KEY).to_owned(),
            None => asked.message_id.clone(),
        };
        let mut copies: Vec<StoredMessage> = placed.into_iter().collect();
        if !unique_key.is_empty() {
            let topic = asked.topic.clone().or_else(|| copies.first().and_then(real_topic));
            for topic in self.topics_to_search(topic, asked.consumer_group.as_ref()).await? {
                copies.extend(self.find(topic, &unique_key).await?);
            }
        }
        copies.sort_by_key(|copy| copy.physical_offset);
        copies.dedup_by_key(|copy| copy.physical_offset);
        Ok(copies)
    }

    fn read(&self, at: PhysicalOffset) -> Option<StoredMessage> {
        StoredMessage::decode(&self.log.read_record(at)?).ok()
    }

    /// Where copies may lie: with a topic, there and wherever its messages go; otherwise everywhere.
    async fn topics_to_search(
        &self,
        topic: Option<TopicName>,
        group: Option<&GroupName>,
    ) -> Result<BTreeSet<TopicName>, Refusal> {
        let mut search: BTreeSet<TopicName> = BACKSTAGE.into_iter().map(TopicName::from).collect();
        match topic {
            None => search.extend(self.topics.load().topics.keys().cloned()),
            Some(topic) => {
                let groups = match group {
                    Some(group) => vec![group.clone()],
                    None => self.groups_of(&topic).await?,
                };
                search.extend(groups.iter().flat_map(|group| [retry_topic(group), dead_letter_queue(group)]));
                search.insert(topic);
            }
        }
        Ok(search)
    }

    async fn find(&self, topic: TopicName, unique_key: &str) -> Result<Vec<StoredMessage>, Refusal> {
        let index = self.key_index.ok_or(Refusal::NotSupported {
            what: "finding a message by the id its producer gave it",
            instead: "the key index is switched off on this broker (store.index_enabled); ids of places work",
        })?;
        let query = QueryKey {
            topic: topic.clone(),
            key: unique_key.to_owned(),
            begin_ms: 0,
            end_ms: i64::MAX,
            before: None,
            max: COPIES_MAX,
        };
        let found = index.send(query).await?;
        let copies = found.positions.into_iter().filter_map(|at| self.read(at));
        Ok(copies.filter(|copy| copy.topic == topic && copy.text(property::UNIQ_KEY) == unique_key).collect())
    }

    /// The groups that consume a topic, or did.
    async fn groups_of(&self, topic: &TopicName) -> Result<Vec<GroupName>, Refusal> {
        let mut groups: BTreeSet<_> =
            self.offsets.send(ListGroupsOfTopic { topic: topic.clone() }).await?.into_iter().collect();
        let online = self.consumers.online().into_iter().filter(|view| view.subscription(topic).is_some());
        groups.extend(online.map(|view| view.group.clone()));
        Ok(groups.into_iter().take(GROUPS_MAX).collect())
    }

    /// How a group stands to the copy it would find; `None` when nothing is there for it.
    async fn group(
        &self,
        group: &GroupName,
        copies: &[StoredMessage],
    ) -> Result<Option<GroupEvidence>, Refusal> {
        let Some(copy) = message_story::current(copies, Some(group)) else { return Ok(None) };
        let key = OffsetKey { group: group.clone(), topic: copy.topic.clone(), queue_id: copy.queue_id };
        let extent = match queue_of(self.topics, &copy.topic, copy.queue_id.0 as i32) {
            Some(queue) => extent_of(&queue).await,
            None => Default::default(),
        };
        let view = self.consumers.view(group);
        let subscription = view.as_ref().and_then(|view| view.subscription(&copy.topic)).cloned();
        let config = self.groups.get(group);
        let forbidden = self.groups.load().is_read_forbidden(group, &copy.topic);
        Ok(Some(GroupEvidence {
            group: group.clone(),
            exists: config.is_some() || view.is_some(),
            may_consume: !forbidden && config.is_none_or(|config| config.consume_enable),
            members: view.as_ref().map(|view| view.client_ids().to_vec()).unwrap_or_default(),
            broadcasting: view.as_ref().is_some_and(|view| view.is_broadcasting()),
            matching: match &subscription {
                Some(subscription) => self.matching(subscription, copy),
                None => Matching::Unknown,
            },
            subscription: subscription.map(|known| known.data.sub_string.clone()),
            offset: self.offsets.send(QueryOffset { key }).await?,
            extent,
            lock: self.lock(group, copy).await?,
        }))
    }

    async fn is_timer_pending(&self, copies: &[StoredMessage]) -> Result<bool, Refusal> {
        let Some(copy) = copies.iter().rev().find(|copy| &*copy.topic == TIMER_TOPIC) else {
            return Ok(false);
        };
        let Some(due_ms) = TimerProperties::of(&copy.properties).due_ms() else { return Ok(false) };
        let from = TimerKey { due_ms, queue_offset: copy.queue_offset };
        let filter = TimerFilter { to_ms: due_ms.saturating_add(1), topic: None, key: None };
        let page = self.timers.send(ListTimers { from, filter, max: 1 }).await??;
        Ok(page.found.iter().any(|found| found.entry.physical_offset == copy.physical_offset))
    }

    /// What is open of the transaction that the message is part of.
    async fn open_transaction(&self, copies: &[StoredMessage]) -> Result<Option<TransactionInfo>, Refusal> {
        let Some(half) = copies.iter().rev().find(|copy| &*copy.topic == HALF_TOPIC) else { return Ok(None) };
        let first = ListTransactions { from: half.queue_offset, max: 1, ..ListTransactions::default() };
        let open = self.transactions.send(first).await?.transactions;
        Ok(open.into_iter().find(|open| open.physical_offset == half.physical_offset.0))
    }

    async fn lock(&self, group: &GroupName, copy: &StoredMessage) -> Result<Option<HeldLock>, Refusal> {
        let Some(handle) = self.consumers.get(group) else { return Ok(None) };
        let locks = handle.address.send(ListLocks).await?;
        let is_ours =
            |lock: &HeldLock| lock.queue.topic == copy.topic && lock.queue.queue_id == copy.queue_id.0 as i32;
        Ok(locks.into_iter().find(is_ours))
    }

    fn matching(&self, subscription: &GroupSubscription, copy: &StoredMessage) -> Matching {
        let unit = ConsumeQueueUnit {
            physical_offset: copy.physical_offset,
            size_bytes: 0,
            tags_code: properties::tags_code(copy.property(property::TAGS)),
        };
        match &subscription.filter {
            Ok(filter) if filter.look_at(self.log, &unit).matches => Matching::Matches,
            Ok(_) => Matching::Differs,
            Err(fault) => Matching::Faulty(fault.to_string()),
        }
    }

    /// What to think of a message that is not found.
    fn why_unknown(&self, asked: &ExplainMessage) -> String {
        let begins = self.log.store_time_at(self.log.min_offset());
        let since = begins.map_or("holds no message yet".to_owned(), |at| {
            format!("holds what was stored since {}", crate::client::calendar::format_ms(at.0))
        });
        let topic = match &asked.topic {
            Some(topic) if self.topics.get(topic).is_none() => format!(" It has no topic {topic}."),
            Some(topic) => format!(" It was looked for in topic {topic} and where messages of it go."),
            None => String::new(),
        };
        format!(
            "This broker has no message with the id {}: it was never stored here, or has expired; the broker {since}.{topic}",
            asked.message_id
        )
    }
}

fn is_named(copy: &StoredMessage, id: &str) -> bool {
    offset_message_id(copy.store_host, copy.physical_offset).eq_ignore_ascii_case(id)
}

/// The topic that a copy is for in the end.
fn real_topic(copy: &StoredMessage) -> Option<TopicName> {
    let named = [property::RETRY_TOPIC, property::REAL_TOPIC].map(|name| copy.text(name));
    let named = named.into_iter().find(|topic| !topic.is_empty() && !topic.starts_with('%'));
    Some(named.map_or_else(|| copy.topic.clone(), TopicName::from))
}

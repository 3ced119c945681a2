//! DESCRIBE_GROUP (29210): where a group stands in each queue, and why.

use std::collections::BTreeSet;
use std::collections::HashMap;

use futures::future;
use tokio::time::Instant;

use super::offsets::extent_of;
use super::progress::ProgressSources;
use crate::actors::consumer_group::{ListLocks, ListMembers};
use crate::actors::consumer_offsets::{ListTopicsOfGroup, QueryMoves, QueryTopicOffsets};
use crate::actors::group_diagnosis::{GroupFacts, QueueRights};
use crate::actors::membership::MemberAccount;
use crate::actors::queue_locks::HeldLock;
use crate::actors::request::{Answer, Answered, ConnectionId, Request};
use crate::actors::topic_queue::{PulledLast, QueryPulledLast, ReadUnits};
use crate::actors::topic_table::TopicEntry;
use crate::clock::WallMs;
use crate::error::Refusal;
use crate::protocol::body::group_why::{
    GroupDescription, LastPull, MemberDescription, QueueDescription, QueueHolder, StandsAt,
};
use crate::protocol::header::GroupHeader;
use crate::protocol::message::StoredMessage;
use crate::protocol::message_id::offset_message_id;
use crate::protocol::names;
use crate::protocol::properties::names as property;
use crate::store::commit_log::CommitLogReader;
use crate::types::{GroupName, MessageQueue, QueueId, QueueOffset, TopicName};

/// Whom a description asks.
pub struct GroupWitnesses<'a> {
    pub progress: ProgressSources<'a>,
    pub log: &'a CommitLogReader,
    pub now: WallMs,
}

/// What is known of the group, gathered before its queues are looked at.
struct Gathered {
    facts: GroupFacts,
    locks: HashMap<MessageQueue, HeldLock>,
    names: HashMap<ConnectionId, String>,
}

/// DESCRIBE_GROUP (29210).
pub async fn describe_group(request: &Request, witnesses: &GroupWitnesses<'_>) -> Answered {
    let GroupHeader { group } = request.header("DESCRIBE_GROUP")?;
    let sources = &witnesses.progress;
    if sources.groups.get(&group).is_none() {
        return Err(Refusal::GroupNeverSeen { group });
    }
    let gathered = gather(&group, sources).await?;
    let view = sources.consumers.view(&group);
    let mut topics: BTreeSet<TopicName> =
        sources.offsets.send(ListTopicsOfGroup { group: group.clone() }).await?.into_iter().collect();
    topics.extend(view.iter().flat_map(|view| view.subscriptions.keys().cloned()));
    let mut queues = Vec::new();
    for entry in topics.iter().filter_map(|topic| sources.topics.get(topic)) {
        queues.extend(describe_topic(&group, &entry, &gathered, witnesses).await?);
    }
    let dead = sources.topics.get(&names::dead_letter_queue(&group));
    let dead_letters = match dead.as_ref().and_then(|entry| entry.queue(QueueId(0)).cloned()) {
        Some(queue) => {
            let extent = extent_of(&queue).await;
            extent.max.0 - extent.min.0
        }
        None => 0,
    };
    Ok(Some(Answer::json(&GroupDescription {
        group,
        broker_name: sources.broker_name.clone(),
        problems: gathered.facts.problems(),
        members: gathered.facts.members,
        queues,
        dead_letters,
    })))
}

async fn gather(group: &GroupName, sources: &ProgressSources<'_>) -> Result<Gathered, Refusal> {
    let config = sources.groups.get(group);
    let (mut members, mut locks) = (Vec::new(), Vec::new());
    if let Some(handle) = sources.consumers.get(group) {
        members = handle.address.send(ListMembers).await?;
        locks = handle.address.send(ListLocks).await?;
    }
    let view = sources.consumers.view(group);
    let addr_of = |id: ConnectionId| {
        let known = view.as_ref()?.members.iter().find(|known| known.link.id == id)?;
        Some(known.link.peer.to_string())
    };
    let describe = |account: &MemberAccount| MemberDescription {
        client_id: account.member.client_id.to_string(),
        addr: addr_of(account.connection).unwrap_or_default(),
        language: account.member.language.name().to_owned(),
        version: account.member.version,
        silent_for_ms: account.silent_for.as_millis() as u64,
        subscriptions: account.subscribed.clone(),
    };
    let name = |account: &MemberAccount| (account.connection, account.member.client_id.to_string());
    Ok(Gathered {
        facts: GroupFacts {
            consume_enabled: config.is_none_or(|config| config.consume_enable),
            broadcasting: view.as_ref().is_some_and(|view| view.is_broadcasting()),
            members: members.iter().map(describe).collect(),
        },
        locks: locks.into_iter().map(|lock| (lock.queue.clone(), lock)).collect(),
        names: members.iter().map(name).collect(),
    })
}

async fn describe_topic(
    group: &GroupName,
    entry: &TopicEntry,
    gathered: &Gathered,
    witnesses: &GroupWitnesses<'_>,
) -> Result<Vec<QueueDescription>, Refusal> {
    let sources = &witnesses.progress;
    let topic = entry.name().clone();
    let offsets =
        sources.offsets.send(QueryTopicOffsets { group: group.clone(), topic: topic.clone() }).await?;
    let moves = sources.offsets.send(QueryMoves { group: group.clone(), topic: topic.clone() }).await?;
    let rights = QueueRights {
        readable: entry.config.perm.is_readable() && sources.settings.load().permission.is_readable(),
        forbidden: sources.groups.load().is_read_forbidden(group, &topic),
        subscribed: sources.consumers.subscription(group, &topic).is_some(),
    };
    let described = (0..entry.config.read_queue_nums).map(QueueId).filter_map(|queue_id| {
        let queue = entry.queue(queue_id)?.clone();
        let (topic, group) = (topic.clone(), group.clone());
        let consumer_offset = offsets.get(&queue_id).copied();
        let moved_ago_ms = moves.get(&queue_id).map(|at| witnesses.now.since_ms(*at).max(0) as u64);
        Some(async move {
            let extent = extent_of(&queue).await;
            let pulled = queue.send(QueryPulledLast { group }).await.ok().flatten();
            let next = consumer_offset.unwrap_or(extent.min).max(extent.min);
            let units = queue.send(ReadUnits { offset: next, max: 1 }).await.unwrap_or_default();
            let stands_at = units.first().and_then(|unit| {
                let record = witnesses.log.read(unit.physical_offset, unit.size_bytes as usize)?;
                stands_at(&StoredMessage::decode(&record).ok()?, next, witnesses.now)
            });
            let held = gathered.locks.get(&sources.message_queue(&topic, queue_id));
            let mut described = QueueDescription {
                queue_id: queue_id.0,
                topic,
                min_offset: extent.min.0,
                max_offset: extent.max.0,
                consumer_offset: consumer_offset.map(|offset| offset.0),
                lag: extent.max.0.saturating_sub(next.0),
                held: held.map(|lock| QueueHolder {
                    client_id: lock.owner.to_string(),
                    for_ms: lock.held_for.as_millis() as u64,
                    renewed_ago_ms: lock.renewed_ago.as_millis() as u64,
                }),
                last_pull: pulled.map(|pulled| last_pull(&pulled, gathered)),
                moved_ago_ms,
                stands_at,
                ..QueueDescription::default()
            };
            let cause = gathered.facts.cause(&described, rights);
            (described.stuck, described.cause) = (cause.stuck, cause.text);
            described
        })
    });
    Ok(future::join_all(described).await)
}

fn last_pull(pulled: &PulledLast, gathered: &Gathered) -> LastPull {
    let name = gathered.names.get(&pulled.connection).cloned();
    LastPull {
        by: name.unwrap_or_else(|| pulled.peer.to_string()),
        ago_ms: Instant::now().duration_since(pulled.at).as_millis() as u64,
        offset: pulled.offset,
    }
}

fn stands_at(message: &StoredMessage, offset: QueueOffset, now: WallMs) -> Option<StandsAt> {
    let value_of = |name| message.text(name).to_owned();
    let offset_message_id = offset_message_id(message.store_host, message.physical_offset);
    let message_id = match value_of(property::UNIQ_KEY) {
        none if none.is_empty() => offset_message_id.clone(),
        key => key,
    };
    Some(StandsAt {
        offset: offset.0,
        message_id,
        offset_message_id,
        keys: value_of(property::KEYS),
        tag: value_of(property::TAGS),
        stored_at_ms: message.stored_at_ms,
        age_ms: now.since_ms(WallMs(message.stored_at_ms)).max(0) as u64,
        retries: message.reconsume_times,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::consumer_group::LockQueues;
    use crate::actors::requests::testing::{TestStore, body, refusal};
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;
    use crate::testing::log::TestLog;
    use crate::testing::{CLOCK_BEGINS, fake_client, request};

    async fn describe(store: &TestStore, group: &str) -> Answered {
        let (link, _client) = fake_client();
        let log = TestLog::new();
        let witnesses = GroupWitnesses { progress: store.progress(), log: &log.reader, now: CLOCK_BEGINS };
        let request = request(RequestCode::DESCRIBE_GROUP).field("group", group).from(&link);
        describe_group(&request, &witnesses).await
    }

    #[actix::test]
    async fn every_queue_says_who_holds_it_and_why_it_stands() {
        let store = TestStore::start(&[("T", 2), ("old", 1)]).await;
        assert_eq!(refusal(describe(&store, "g").await).code(), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
        store.groups.find_or_create(&"g".into()).await.unwrap();
        store.dispatch("T", 0, 5).await;
        store.dispatch("old", 0, 2).await;
        store.commit("g", "old", 0, 1).await;
        store.commit("g", "T", 0, 3).await;
        let alone: GroupDescription = body(describe(&store, "g").await);
        assert_eq!(alone.problems.len(), 1, "{:?}", alone.problems);
        assert!(alone.queues.iter().filter(|queue| queue.lag > 0).all(|queue| queue.stuck));

        let (link, _client) = fake_client();
        store.subscribe("g", &link, &["T"]).await;
        let queue = MessageQueue { broker_name: "broker-a".into(), queue_id: 0, topic: "T".into() };
        let lock = LockQueues { client_id: "c".into(), queues: vec![queue] };
        store.consumers.get("g").unwrap().address.send(lock).await.unwrap();
        let described: GroupDescription = body(describe(&store, "g").await);
        assert!(described.problems.is_empty());
        let member = &described.members[0];
        assert_eq!((member.client_id.as_str(), member.subscriptions["T"].as_str()), ("c", "*"));
        let of = |topic: &str, id: u32| {
            let is_meant = |queue: &&QueueDescription| queue.topic.as_str() == topic && queue.queue_id == id;
            described.queues.iter().find(is_meant).unwrap()
        };
        assert_eq!((of("T", 0).lag, of("T", 0).held.as_ref().unwrap().client_id.as_str()), (2, "c"));
        assert!(of("T", 0).cause.starts_with("held in order by c for 0 s, which has not pulled it since"));
        assert_eq!((of("T", 1).lag, of("T", 1).stuck), (0, false));
        assert!(of("old", 0).cause.starts_with("no member subscribes to topic old now"));
    }
}

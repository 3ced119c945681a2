//! Requests about progress: how far groups are behind, and setting them back or forth.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::Addr;
use futures::future;

use super::groups::known_group;
use super::offsets::{extent_of, queue_of};
use crate::actors::broker_stats::{BrokerStats, ViewStats};
use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::consumer_offsets::{
    CloneOffsets, ConsumerOffsets, ListTopicsOfGroup, QueryTopicOffsets, ResetOffsets,
};
use crate::actors::group_table::GroupTable;
use crate::actors::offset_table::QueueOffsets;
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::topic_queue::{QueryStoredAt, SearchOffsetByTime, TopicQueue, WakeHolds};
use crate::actors::topic_table::{TopicEntry, TopicTable};
use crate::actors::topics::unknown_topic;
use crate::error::Refusal;
use crate::protocol::body::offsets::ResetOffsetBody;
use crate::protocol::body::stats::{ConsumeStats, ConsumeStatsList, OffsetWrapper};
use crate::protocol::fastjson;
use crate::protocol::header::{BrokerConsumeStatsHeader, CloneGroupOffset, ConsumeStatsHeader, ResetOffset};
use crate::types::{BrokerName, GroupName, MessageQueue, QueueId, QueueOffset, TopicName};

/// Where progress is read.
pub struct ProgressSources<'a> {
    pub offsets: &'a Addr<ConsumerOffsets>,
    pub topics: &'a TopicTable,
    pub groups: &'a GroupTable,
    pub consumers: &'a ConsumerGroupTable,
    pub stats: &'a Addr<BrokerStats>,
    pub broker_name: &'a BrokerName,
}

impl ProgressSources<'_> {
    /// The topics of a group's offsets, without those that are gone and those that the group, being online,
    /// does not want any more.
    async fn topics_of(&self, group: &GroupName) -> Result<Vec<Arc<TopicEntry>>, Refusal> {
        let topics = self.offsets.send(ListTopicsOfGroup { group: group.clone() }).await?;
        Ok(self.wanted(group, topics))
    }

    fn wanted(&self, group: &GroupName, topics: Vec<TopicName>) -> Vec<Arc<TopicEntry>> {
        let view = self.consumers.view(group).filter(|view| !view.subscriptions.is_empty());
        let wanted = |topic: &TopicName| view.as_ref().is_none_or(|view| view.subscription(topic).is_some());
        topics.iter().filter(|topic| wanted(topic)).filter_map(|topic| self.topics.get(topic)).collect()
    }

    /// How far a group is in the first `queue_nums` queues of a topic.
    async fn in_topic(
        &self,
        group: &GroupName,
        entry: &TopicEntry,
        queue_nums: u32,
    ) -> Result<ConsumeStats, Refusal> {
        let topic = entry.name().clone();
        let query = QueryTopicOffsets { group: group.clone(), topic: topic.clone() };
        let offsets = self.offsets.send(query).await?;
        let rows = (0..queue_nums).filter_map(|id| {
            let queue = entry.queue(QueueId(id))?.clone();
            let offset = offsets.get(&QueueId(id)).copied().unwrap_or_default();
            let key = MessageQueue {
                broker_name: self.broker_name.clone(),
                queue_id: id as i32,
                topic: topic.clone(),
            };
            Some(async move { (key, in_queue(&queue, offset).await) })
        });
        let offset_table = future::join_all(rows).await.into_iter().collect();
        let gets = ViewStats { name: "GROUP_GET_NUMS".to_owned(), key: format!("{topic}@{group}") };
        // Nothing counted yet is no failure here.
        let consume_tps = self.stats.send(gets).await?.map_or(0.0, |stats| stats.stats_minute.tps);
        Ok(ConsumeStats { consume_tps, offset_table })
    }
}

async fn in_queue(queue: &Addr<TopicQueue>, consumer_offset: QueueOffset) -> OffsetWrapper {
    let extent = extent_of(queue).await;
    let last_timestamp = match consumer_offset.0.checked_sub(1) {
        Some(consumed) => queue.send(QueryStoredAt { offset: QueueOffset(consumed) }).await.ok().flatten(),
        None => None,
    };
    OffsetWrapper {
        broker_offset: extent.max.0 as i64,
        consumer_offset: consumer_offset.0 as i64,
        last_timestamp: last_timestamp.unwrap_or(0),
        // Which messages are with consumers is not counted.
        pull_offset: consumer_offset.0 as i64,
    }
}

/// GET_CONSUME_STATS (208): of the topics asked for, or of all that the group has offsets in.
pub async fn consume_stats(request: &Request, sources: &ProgressSources<'_>) -> Answered {
    let asked: ConsumeStatsHeader = request.header("GET_CONSUME_STATS")?;
    let group = asked.consumer_group;
    let named = |text: Option<String>| -> Vec<TopicName> {
        let text = text.unwrap_or_default();
        text.split(';').map(str::trim).filter(|topic| !topic.is_empty()).map(TopicName::from).collect()
    };
    let topics = [named(asked.topic_list), named(asked.topic)].into_iter().find(|topics| !topics.is_empty());
    let entries = match topics {
        Some(topics) => sources.wanted(&group, topics),
        None => sources.topics_of(&group).await?,
    };
    let mut stats = ConsumeStats::default();
    for entry in entries {
        let of_topic = sources.in_topic(&group, &entry, entry.config.read_queue_nums).await?;
        stats.consume_tps += of_topic.consume_tps;
        stats.offset_table.extend(of_topic.offset_table.0);
    }
    with_raw_keys(&stats)
}

/// GET_BROKER_CONSUME_STATS (317): all groups, topic by topic.
pub async fn broker_consume_stats(
    request: &Request,
    sources: &ProgressSources<'_>,
    broker_addr: &str,
) -> Answered {
    let asked: BrokerConsumeStatsHeader = request.header("GET_BROKER_CONSUME_STATS")?;
    let mut groups: Vec<GroupName> = sources.groups.load().groups.keys().cloned().collect();
    groups.sort();
    let mut list = ConsumeStatsList { broker_addr: broker_addr.to_owned(), ..ConsumeStatsList::default() };
    for group in groups {
        let mut of_group = Vec::new();
        for entry in sources.topics_of(&group).await? {
            if asked.is_order && !entry.config.order {
                continue;
            }
            let stats = sources.in_topic(&group, &entry, entry.config.write_queue_nums).await?;
            let rows = stats.offset_table.values();
            list.total_diff += rows.map(|row| row.broker_offset - row.consumer_offset).sum::<i64>();
            of_group.push(stats);
        }
        list.consume_stats_list.push(BTreeMap::from([(group, of_group)]));
    }
    with_raw_keys(&list)
}

/// INVOKE_BROKER_TO_RESET_OFFSET (222). The offsets hold at once; consumers, now or later, jump to them with their
/// next pull, and what they commit until then counts for nothing.
pub async fn reset_offset(request: &Request, sources: &ProgressSources<'_>) -> Answered {
    let asked: ResetOffset = request.header("INVOKE_BROKER_TO_RESET_OFFSET")?;
    let entry = sources.topics.get(&asked.topic);
    let entry = entry.ok_or_else(|| unknown_topic(&asked.topic, &sources.topics.load()))?;
    known_group(sources.groups, &asked.group)?;
    let ids: Vec<i32> = match asked.queue_id {
        all if all < 0 => (0..entry.config.read_queue_nums as i32).collect(),
        one => vec![one],
    };
    let mut queues = Vec::with_capacity(ids.len());
    for id in ids {
        let queue = queue_of(sources.topics, &asked.topic, id).ok_or_else(|| Refusal::QueueOutOfRange {
            topic: asked.topic.clone(),
            queue_id: id,
            queues: entry.queue_nums(),
        })?;
        queues.push((QueueId(id as u32), queue));
    }
    if queues.is_empty() {
        return Err(Refusal::NothingToReset { topic: asked.topic });
    }
    let targets = queues
        .iter()
        .map(|(id, queue)| async { Ok::<_, Refusal>((*id, reset_target(&asked, *id, queue).await?)) });
    let offsets: QueueOffsets = future::try_join_all(targets).await?.into_iter().collect();
    let reset =
        ResetOffsets { group: asked.group.clone(), topic: asked.topic.clone(), offsets: offsets.clone() };
    sources.offsets.send(reset).await?;
    // A pull that is held would keep its consumer from the reset until the hold ends.
    let wakes = queues.iter().map(|(_, queue)| queue.send(WakeHolds));
    future::join_all(wakes).await;
    let row = |(id, offset): (QueueId, QueueOffset)| {
        let queue = MessageQueue {
            broker_name: sources.broker_name.clone(),
            queue_id: id.0 as i32,
            topic: asked.topic.clone(),
        };
        (queue, offset.0 as i64)
    };
    with_raw_keys(&ResetOffsetBody { offset_table: offsets.into_iter().map(row).collect() })
}

/// One queue may be set to an offset; otherwise the time decides.
async fn reset_target(
    asked: &ResetOffset,
    id: QueueId,
    queue: &Addr<TopicQueue>,
) -> Result<QueueOffset, Refusal> {
    let explicit = asked.offset.filter(|offset| asked.queue_id >= 0 && *offset != -1);
    if explicit.is_none() && asked.timestamp >= 0 {
        return queue.send(SearchOffsetByTime { timestamp_ms: asked.timestamp, upper: false }).await?;
    }
    let extent = extent_of(queue).await;
    let Some(offset) = explicit else { return Ok(extent.max) };
    let target =
        u64::try_from(offset).ok().filter(|offset| (extent.min.0..=extent.max.0 + 1).contains(offset));
    target.map(QueueOffset).ok_or_else(|| Refusal::ResetOutOfRange {
        topic: asked.topic.clone(),
        queue_id: id.0 as i32,
        offset,
        min: extent.min.0,
        max: extent.max.0,
    })
}

/// CLONE_GROUP_OFFSET (314): of one topic, or of all. A topic that the source group, being online, does not want
/// any more is left out unless `offline` is set.
pub async fn clone_group_offset(request: &Request, sources: &ProgressSources<'_>) -> Answered {
    let asked: CloneGroupOffset = request.header("CLONE_GROUP_OFFSET")?;
    let topics = match asked.topic.filter(|topic| !topic.trim().is_empty()) {
        Some(topic) => vec![topic],
        None => sources.offsets.send(ListTopicsOfGroup { group: asked.src_group.clone() }).await?,
    };
    let entries = if asked.offline {
        topics.iter().filter_map(|topic| sources.topics.get(topic)).collect()
    } else {
        sources.wanted(&asked.src_group, topics)
    };
    for entry in entries {
        let (from, to) = (asked.src_group.clone(), asked.dest_group.clone());
        sources.offsets.send(CloneOffsets { from, to, topic: entry.name().clone() }).await?;
    }
    Ok(Some(Answer::success()))
}

/// Java's tools read message queues as keys only when they are raw objects.
fn with_raw_keys(body: &impl serde::Serialize) -> Answered {
    let body = fastjson::to_vec_java(body).map_err(|error| Refusal::Failed(error.to_string()))?;
    Ok(Some(Answer::success().with_body(body.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::requests::testing::{TestStore, body, refusal};
    use crate::actors::testing::{RequestBuilder, fake_client, request};
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;

    fn key(topic: &str, queue_id: i32) -> MessageQueue {
        MessageQueue { broker_name: "broker-a".into(), queue_id, topic: topic.into() }
    }

    async fn stats(store: &TestStore, asked: RequestBuilder) -> ConsumeStats {
        let (link, _client) = fake_client();
        body(consume_stats(&asked.from(&link), &store.progress()).await)
    }

    fn of_group() -> RequestBuilder {
        request(RequestCode::GET_CONSUME_STATS).field("consumerGroup", "g")
    }

    #[actix::test]
    async fn consume_stats_cover_the_topics_of_the_groups_offsets() {
        let store = TestStore::start(&[("T", 2), ("%RETRY%g", 1), ("U", 1)]).await;
        store.dispatch("T", 0, 10).await;
        store.commit("g", "T", 0, 8).await;
        store.commit("g", "%RETRY%g", 0, 0).await;
        store.commit("g", "gone", 0, 4).await;
        let found = stats(&store, of_group()).await;
        let row = found.offset_table[&key("T", 0)];
        assert_eq!((row.broker_offset, row.consumer_offset, row.pull_offset), (10, 8, 8));
        assert_eq!(
            found.offset_table.keys().cloned().collect::<Vec<_>>(),
            [key("%RETRY%g", 0), key("T", 0), key("T", 1)]
        );

        let named = stats(&store, of_group().field("topic", "T").field("topicList", "U;")).await;
        assert_eq!(named.offset_table.keys().cloned().collect::<Vec<_>>(), [key("U", 0)]);
    }

    #[actix::test]
    async fn topics_that_an_online_group_left_are_not_shown() {
        let store = TestStore::start(&[("T", 1), ("U", 1)]).await;
        store.commit("g", "T", 0, 8).await;
        store.commit("g", "U", 0, 8).await;
        let (link, client) = fake_client();
        store.subscribe("g", &link, &["T"]).await;
        assert_eq!(stats(&store, of_group()).await.offset_table.len(), 1);
        client.close().await;
        store.settle("g").await;
        assert_eq!(stats(&store, of_group()).await.offset_table.len(), 2);
    }

    #[actix::test]
    async fn broker_stats_sum_up_what_is_behind() {
        let store = TestStore::start(&[("T", 1)]).await;
        store.groups.find_or_create(&"g".into()).await.unwrap();
        store.dispatch("T", 0, 10).await;
        store.commit("g", "T", 0, 8).await;
        let (link, _client) = fake_client();
        let list = async |is_order: bool| -> ConsumeStatsList {
            let asked = request(RequestCode::GET_BROKER_CONSUME_STATS).field("isOrder", is_order).from(&link);
            body(broker_consume_stats(&asked, &store.progress(), "10.0.0.1:10911").await)
        };
        assert_eq!(list(false).await.total_diff, 2);
        assert_eq!(list(true).await.total_diff, 0);
    }

    fn reset() -> RequestBuilder {
        request(RequestCode::INVOKE_BROKER_TO_RESET_OFFSET).field("group", "g").field("topic", "T")
    }

    #[actix::test]
    async fn reset_to_the_end_holds_all_queues() {
        let store = TestStore::start(&[("T", 2)]).await;
        store.groups.find_or_create(&"g".into()).await.unwrap();
        store.dispatch("T", 0, 10).await;
        store.commit("g", "T", 0, 3).await;
        let (link, _client) = fake_client();
        let answered = reset_offset(&reset().field("timestamp", -1).from(&link), &store.progress()).await;
        let offsets: ResetOffsetBody = body(answered);
        assert_eq!(offsets.offset_table.0, BTreeMap::from([(key("T", 0), 10), (key("T", 1), 0)]));
        assert!(store.resets.any());
        store.commit("g", "T", 0, 4).await;
        assert_eq!(store.offset("g", "T", 0).await, Some(10));
    }

    #[actix::test]
    async fn reset_outside_the_queue_is_refused_with_its_range() {
        let store = TestStore::start(&[("T", 1)]).await;
        store.dispatch("T", 0, 10).await;
        let (link, _client) = fake_client();
        let asked = |queue_id, offset| reset().field("queueId", queue_id).field("offset", offset).from(&link);
        let refused = refusal(reset_offset(&asked(0, 12), &store.progress()).await);
        assert_eq!(refused.code(), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
        store.groups.find_or_create(&"g".into()).await.unwrap();
        let refused = refusal(reset_offset(&asked(0, 12), &store.progress()).await);
        assert!(
            refused
                .to_string()
                .starts_with("Target offset 12 of topic T, queue 0, not in consume queue range [0-10]")
        );
        let refused = refusal(reset_offset(&asked(7, 0), &store.progress()).await);
        assert_eq!(refused.code(), ResponseCode::INVALID_PARAMETER);
        let answered = reset_offset(&asked(0, 11), &store.progress()).await;
        let offsets: ResetOffsetBody = body(answered);
        assert_eq!(offsets.offset_table.0, BTreeMap::from([(key("T", 0), 11)]));
    }

    #[actix::test]
    async fn clone_copies_one_topic_or_all() {
        let store = TestStore::start(&[("T", 1), ("U", 1)]).await;
        store.commit("g", "T", 0, 8).await;
        store.commit("g", "U", 0, 9).await;
        let (link, _client) = fake_client();
        let asked =
            |to: &str| request(RequestCode::CLONE_GROUP_OFFSET).field("srcGroup", "g").field("destGroup", to);
        clone_group_offset(&asked("h").field("topic", "T").from(&link), &store.progress()).await.unwrap();
        assert_eq!((store.offset("h", "T", 0).await, store.offset("h", "U", 0).await), (Some(8), None));
        clone_group_offset(&asked("i").from(&link), &store.progress()).await.unwrap();
        assert_eq!((store.offset("i", "T", 0).await, store.offset("i", "U", 0).await), (Some(8), Some(9)));
    }
}

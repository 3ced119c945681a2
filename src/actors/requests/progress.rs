//! Requests about progress: how far groups are behind, and copying it from one to another.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::Addr;
use futures::future;

use super::offsets::{extent_of, queue_of};
use crate::actors::broker_settings::SettingsTable;
use crate::actors::broker_stats::{BrokerStats, ViewStats};
use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::consumer_offsets::{
    CloneOffsets, ConsumerOffsets, ListAllOffsets, ListGroupsOfTopic, ListTopicsOfGroup, QueryTopicOffsets,
};
use crate::actors::group_table::GroupTable;
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::topic_queue::{QueryStoredAt, TopicQueue};
use crate::actors::topic_table::{TopicEntry, TopicTable};
use crate::actors::topics::unknown_topic;
use crate::clock::WallMs;
use crate::error::Refusal;
use crate::protocol::body::offsets::{ConsumerOffsetSerializeWrapper, QueryCorrectionOffsetBody};
use crate::protocol::body::stats::{
    ConsumeStats, ConsumeStatsList, OffsetWrapper, QueryConsumeTimeSpanBody, QueueTimeSpan,
};
use crate::protocol::fastjson;
use crate::protocol::header::{
    BrokerConsumeStatsHeader, CloneGroupOffset, ConsumeStatsHeader, CorrectionOffsetHeader, GroupAndTopic,
};
use crate::types::{BrokerName, GroupName, MessageQueue, QueueId, QueueOffset, TopicName};

/// Where progress is read.
pub struct ProgressSources<'a> {
    pub offsets: &'a Addr<ConsumerOffsets>,
    pub topics: &'a TopicTable,
    pub groups: &'a GroupTable,
    pub consumers: &'a ConsumerGroupTable,
    pub stats: &'a Addr<BrokerStats>,
    pub settings: &'a SettingsTable,
    pub broker_name: &'a BrokerName,
}

impl ProgressSources<'_> {
    /// The topics of a group's offsets, without those that are gone and those that the group, being online,
    /// does not want any more.
    async fn topics_of(&self, group: &GroupName) -> Result<Vec<Arc<TopicEntry>>, Refusal> {
        let topics = self.offsets.send(ListTopicsOfGroup { group: group.clone() }).await?;
        Ok(self.wanted(group, topics))
    }

    /// How clients call a queue of this broker.
    pub(super) fn message_queue(&self, topic: &TopicName, id: QueueId) -> MessageQueue {
        MessageQueue { broker_name: self.broker_name.clone(), queue_id: id.0 as i32, topic: topic.clone() }
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
            let key = self.message_queue(&topic, QueueId(id));
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

/// QUERY_CONSUME_TIME_SPAN (303): when the messages of each queue were stored, and those that the group is at.
pub async fn consume_time_span(request: &Request, sources: &ProgressSources<'_>) -> Answered {
    let GroupAndTopic { group, topic } = request.header("QUERY_CONSUME_TIME_SPAN")?;
    let entry = sources.topics.get(&topic).ok_or_else(|| unknown_topic(&topic, &sources.topics.load()))?;
    let offsets = sources.offsets.send(QueryTopicOffsets { group, topic: topic.clone() }).await?;
    let spans = (0..entry.config.write_queue_nums).filter_map(|id| {
        let queue = entry.queue(QueueId(id))?.clone();
        let message_queue = sources.message_queue(&topic, QueueId(id));
        let offset = offsets.get(&QueueId(id)).copied().unwrap_or_default();
        Some(async move { time_span(&queue, message_queue, offset, request.received_at).await })
    });
    let consume_time_span_set = future::join_all(spans).await;
    Ok(Some(Answer::json(&QueryConsumeTimeSpanBody { consume_time_span_set })))
}

/// A time that nothing stands for is -1, as in Java.
async fn time_span(
    queue: &Addr<TopicQueue>,
    message_queue: MessageQueue,
    consumer_offset: QueueOffset,
    now: WallMs,
) -> QueueTimeSpan {
    let extent = extent_of(queue).await;
    let stored_at = async |offset: Option<u64>| match offset {
        Some(offset) => queue.send(QueryStoredAt { offset: QueueOffset(offset) }).await.ok().flatten(),
        None => None,
    };
    let oldest = stored_at(Some(extent.min.0)).await;
    let consumed = match consumer_offset.0.checked_sub(1) {
        Some(last) => stored_at(Some(last)).await,
        None => oldest,
    };
    let next = stored_at(Some(consumer_offset.0).filter(|next| *next < extent.max.0)).await;
    QueueTimeSpan {
        consume_time_stamp: consumed.unwrap_or(-1),
        delay_time: next.map_or(0, |next| now.0 - next),
        max_time_stamp: stored_at(extent.max.0.checked_sub(1)).await.unwrap_or(-1),
        message_queue,
        min_time_stamp: oldest.unwrap_or(-1),
    }
}

/// QUERY_CORRECTION_OFFSET (308): by queue the smallest offset of all groups but those named, or the largest number
/// where the group to compare is behind it.
pub async fn correction_offset(request: &Request, sources: &ProgressSources<'_>) -> Answered {
    let asked: CorrectionOffsetHeader = request.header("QUERY_CORRECTION_OFFSET")?;
    let topic = asked.topic;
    let left_out = asked.filter_groups.unwrap_or_default();
    let left_out: Vec<&str> = left_out.split(',').map(str::trim).collect();
    let of_group = async |group: GroupName| {
        sources.offsets.send(QueryTopicOffsets { group, topic: topic.clone() }).await
    };
    let mut smallest: BTreeMap<QueueId, QueueOffset> = BTreeMap::new();
    for group in sources.offsets.send(ListGroupsOfTopic { topic: topic.clone() }).await? {
        if left_out.contains(&&*group) {
            continue;
        }
        for (queue_id, offset) in of_group(group).await? {
            // What lies before the queue says nothing about it.
            let queue = queue_of(sources.topics, &topic, queue_id.0 as i32);
            let begins = match queue {
                Some(queue) => extent_of(&queue).await.min,
                None => QueueOffset(0),
            };
            if offset >= begins {
                let known = smallest.entry(queue_id).or_insert(offset);
                *known = offset.min(*known);
            }
        }
    }
    let compared = of_group(asked.compare_group).await?;
    let row = |(queue_id, offset): (QueueId, QueueOffset)| {
        let is_behind = compared.get(&queue_id).is_some_and(|compared| *compared < offset);
        (queue_id.0 as i32, if is_behind { i64::MAX } else { offset.0 as i64 })
    };
    let correction_offsets = smallest.into_iter().map(row).collect();
    Ok(Some(Answer::json(&QueryCorrectionOffsetBody { correction_offsets })))
}

/// GET_ALL_CONSUMER_OFFSET (43): of every group, as slaves copy them.
pub async fn all_consumer_offsets(_: &Request, offsets: &Addr<ConsumerOffsets>) -> Answered {
    let all = offsets.send(ListAllOffsets).await??;
    let mut body = ConsumerOffsetSerializeWrapper {
        data_version: all.version,
        ..ConsumerOffsetSerializeWrapper::default()
    };
    for (key, offset) in all.offsets {
        let queues = body.offset_table.entry(format!("{}@{}", key.topic, key.group)).or_default();
        queues.insert(key.queue_id.0 as i32, offset.0 as i64);
    }
    Ok(Some(Answer::json(&body)))
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
        sources.offsets.send(CloneOffsets { from, to, topic: entry.name().clone() }).await??;
    }
    Ok(Some(Answer::success()))
}

/// Java's tools read message queues as keys only when they are raw objects.
pub(super) fn with_raw_keys(body: &impl serde::Serialize) -> Answered {
    let body = fastjson::to_vec_java(body).map_err(|error| Refusal::Failed(error.to_string()))?;
    Ok(Some(Answer::success().with_body(body.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::requests::testing::{TestStore, body, refusal};
    use crate::actors::topic_queue::Dispatched;
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;
    use crate::testing::log::{TestLog, message, queue_of as queue, topic_table};
    use crate::testing::{RequestBuilder, fake_client, request};

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

    #[actix::test]
    async fn time_span_tells_when_queues_and_progress_were_stored() {
        let (mut store, mut log) = (TestStore::start(&[]).await, TestLog::new());
        store.topics = topic_table(&[("T", 2)], &log.queue_parts());
        let stored = [1_000, 2_000, 3_000].map(|at| log.append_at(message("T", "x"), 0, WallMs(at)));
        let units = stored.iter().map(|stored| TestLog::unit(stored, 0)).collect();
        let dispatched = Dispatched { first: QueueOffset(0), units, last_stored_at_ms: 3_000 };
        queue(&store.topics, "T", 0).send(dispatched).await.unwrap();
        store.commit("g", "T", 0, 2).await;
        let (link, _client) = fake_client();
        let asked = |topic| {
            request(RequestCode::QUERY_CONSUME_TIME_SPAN)
                .field("group", "g")
                .field("topic", topic)
                .from(&link)
        };
        let request = asked("T");
        let told: QueryConsumeTimeSpanBody = body(consume_time_span(&request, &store.progress()).await);
        let spans: Vec<_> = told
            .consume_time_span_set
            .iter()
            .map(|span| (span.min_time_stamp, span.max_time_stamp, span.consume_time_stamp, span.delay_time))
            .collect();
        assert_eq!(spans, [(1_000, 3_000, 2_000, request.received_at.0 - 3_000), (-1, -1, -1, 0)]);
        assert_eq!(told.consume_time_span_set[1].message_queue, key("T", 1));
        let refused = refusal(consume_time_span(&asked("U"), &store.progress()).await);
        assert_eq!(refused.code(), ResponseCode::TOPIC_NOT_EXIST);
    }

    #[actix::test]
    async fn correction_is_the_slowest_group_that_counts() {
        let store = TestStore::start(&[("T", 2)]).await;
        for (group, queue_id, offset) in
            [("a", 0, 5), ("b", 0, 3), ("left-out", 0, 1), ("a", 1, 4), ("c", 1, 2)]
        {
            store.commit(group, "T", queue_id, offset).await;
        }
        let (link, _client) = fake_client();
        let asked = request(RequestCode::QUERY_CORRECTION_OFFSET)
            .field("topic", "T")
            .field("compareGroup", "b")
            .field("filterGroups", "left-out,c");
        let told: QueryCorrectionOffsetBody =
            body(correction_offset(&asked.from(&link), &store.progress()).await);
        assert_eq!(told.correction_offsets, [(0, 3), (1, 4)].into());
        let asked = request(RequestCode::QUERY_CORRECTION_OFFSET)
            .field("topic", "T")
            .field("compareGroup", "left-out")
            .field("filterGroups", "left-out");
        let told: QueryCorrectionOffsetBody =
            body(correction_offset(&asked.from(&link), &store.progress()).await);
        assert_eq!(told.correction_offsets, [(0, i64::MAX), (1, 2)].into());
    }

    #[actix::test]
    async fn all_offsets_are_told_by_topic_and_group() {
        let store = TestStore::start(&[("T", 2)]).await;
        store.commit("g", "T", 1, 7).await;
        store.commit("h", "U", 0, 8).await;
        let (link, _client) = fake_client();
        let asked = request(RequestCode::GET_ALL_CONSUMER_OFFSET).from(&link);
        let told: ConsumerOffsetSerializeWrapper = body(all_consumer_offsets(&asked, &store.offsets).await);
        let table = [("T@g".to_owned(), [(1, 7)].into()), ("U@h".to_owned(), [(0, 8)].into())];
        assert_eq!(told.offset_table, table.into());
    }
}

//! Requests about offsets: how far a group is, and where a queue begins and ends.

use actix::Addr;

use crate::actors::consumer_offsets::{CommitOffset, ConsumerOffsets, QueryOffset};
use crate::actors::group_table::GroupTable;
use crate::actors::offset_table::{Committed, OffsetKey};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::topic_queue::{QueryExtent, QueryStoredAt, QueueExtent, SearchOffsetByTime, TopicQueue};
use crate::actors::topic_table::TopicTable;
use crate::actors::topics::unknown_topic;
use crate::error::Refusal;
use crate::protocol::header::{
    HeaderError, OffsetResponse, QueryConsumerOffset, QueueHeader, SearchOffset, TimestampResponse,
    UpdateConsumerOffset,
};
use crate::types::{QueueId, QueueOffset, TopicName};

/// QUERY_CONSUMER_OFFSET (14). A group without an offset begins at 0 where the queue is young, however its
/// clients are configured; elsewhere they decide.
pub async fn query_consumer_offset(
    request: &Request,
    offsets: &Addr<ConsumerOffsets>,
    topics: &TopicTable,
) -> Answered {
    let asked: QueryConsumerOffset = request.header("QUERY_CONSUMER_OFFSET")?;
    let unknown = Refusal::OffsetUnknown {
        group: asked.consumer_group.clone(),
        topic: asked.topic.clone(),
        queue_id: asked.queue_id,
    };
    let Ok(queue_id) = u32::try_from(asked.queue_id) else { return Err(unknown) };
    let key =
        OffsetKey { group: asked.consumer_group, topic: asked.topic.clone(), queue_id: QueueId(queue_id) };
    if let Some(offset) = offsets.send(QueryOffset { key }).await? {
        return answer_offset(offset);
    }
    let may_begin = asked.set_zero_if_not_found != Some(false);
    match queue_of(topics, &asked.topic, asked.queue_id) {
        Some(queue) if may_begin && extent_of(&queue).await.begins_young => answer_offset(QueueOffset(0)),
        _ => Err(unknown),
    }
}

/// UPDATE_CONSUMER_OFFSET (15). The offset is taken as it is: a smaller one goes back, one beyond the end is
/// corrected by the next pull.
pub async fn update_consumer_offset(
    request: &Request,
    offsets: &Addr<ConsumerOffsets>,
    groups: &GroupTable,
    topics: &TopicTable,
) -> Answered {
    const NAME: &str = "UPDATE_CONSUMER_OFFSET";
    let asked: UpdateConsumerOffset = request.header(NAME)?;
    if groups.get(&asked.consumer_group).is_none() {
        return Err(Refusal::GroupNeverSeen { group: asked.consumer_group });
    }
    if topics.get(&asked.topic).is_none() {
        return Err(unknown_topic(&asked.topic, &topics.load()));
    }
    let queue_id = not_negative(NAME, "queueId", asked.queue_id.map(i64::from))?;
    let queue_id = u32::try_from(queue_id).unwrap_or(u32::MAX);
    let offset = QueueOffset(not_negative(NAME, "commitOffset", asked.commit_offset)?);
    let key = OffsetKey { group: asked.consumer_group, topic: asked.topic, queue_id: QueueId(queue_id) };
    let awaited = !request.command.is_one_way();
    let committed = offsets.send(CommitOffset { key, offset, awaited }).await??;
    Ok(Some(match committed.outcome {
        Committed::Stored => Answer::success(),
        Committed::IgnoredForReset => Answer::success().with_remark("Offset has been previously reset"),
    }))
}

/// SEARCH_OFFSET_BY_TIMESTAMP (29).
pub async fn search_offset(request: &Request, topics: &TopicTable) -> Answered {
    let asked: SearchOffset = request.header("SEARCH_OFFSET_BY_TIMESTAMP")?;
    let upper = asked.boundary_type.is_some_and(|boundary| boundary.eq_ignore_ascii_case("UPPER"));
    let Some(queue) = queue_of(topics, &asked.topic, asked.queue_id) else {
        return answer_offset(QueueOffset(0));
    };
    answer_offset(queue.send(SearchOffsetByTime { timestamp_ms: asked.timestamp, upper }).await??)
}

/// GET_MAX_OFFSET (30); 0 for a queue that is not there.
pub async fn max_offset(request: &Request, topics: &TopicTable) -> Answered {
    let asked: QueueHeader = request.header("GET_MAX_OFFSET")?;
    answer_offset(asked_extent(&asked, topics).await.max)
}

/// GET_MIN_OFFSET (31); 0 for a queue that is not there.
pub async fn min_offset(request: &Request, topics: &TopicTable) -> Answered {
    let asked: QueueHeader = request.header("GET_MIN_OFFSET")?;
    answer_offset(asked_extent(&asked, topics).await.min)
}

/// GET_EARLIEST_MSG_STORETIME (32); -1 for a queue that is empty or not there.
pub async fn earliest_store_time(request: &Request, topics: &TopicTable) -> Answered {
    let asked: QueueHeader = request.header("GET_EARLIEST_MSG_STORETIME")?;
    let stored_at = match queue_of(topics, &asked.topic, asked.queue_id) {
        Some(queue) => queue.send(QueryStoredAt { offset: extent_of(&queue).await.min }).await?,
        None => None,
    };
    Ok(Some(Answer::header(&TimestampResponse { timestamp: stored_at.unwrap_or(-1) })))
}

/// The actor of a queue, if the topic has one of this number.
pub(super) fn queue_of(topics: &TopicTable, topic: &TopicName, queue_id: i32) -> Option<Addr<TopicQueue>> {
    let id = QueueId(u32::try_from(queue_id).ok()?);
    let entry = topics.get(topic)?;
    if id.0 >= entry.queue_nums() {
        return None;
    }
    entry.queue(id).cloned()
}

/// A queue whose topic was deleted this moment is empty.
pub(super) async fn extent_of(queue: &Addr<TopicQueue>) -> QueueExtent {
    queue.send(QueryExtent).await.unwrap_or_default()
}

async fn asked_extent(asked: &QueueHeader, topics: &TopicTable) -> QueueExtent {
    match queue_of(topics, &asked.topic, asked.queue_id) {
        Some(queue) => extent_of(&queue).await,
        None => QueueExtent::default(),
    }
}

fn answer_offset(offset: QueueOffset) -> Answered {
    Ok(Some(Answer::header(&OffsetResponse { offset: offset.0 as i64 })))
}

/// A field that Java checks by itself, after group and topic.
fn not_negative(request: &'static str, field: &'static str, value: Option<i64>) -> Result<u64, Refusal> {
    let value = value.ok_or(Refusal::FieldIllegal { request, error: HeaderError::Missing { field } })?;
    u64::try_from(value).map_err(|_| Refusal::FieldIllegal {
        request,
        error: HeaderError::NotA { field, value: value.to_string(), expected: "0 or more" },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::consumer_offsets::ResetOffsets;
    use crate::actors::group_table::GroupMap;
    use crate::actors::requests::testing::{TestStore, field, refusal};
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;
    use crate::testing::{RequestBuilder, fake_client, request};

    fn of_queue(code: RequestCode, topic: &str, queue_id: i32) -> RequestBuilder {
        request(code).field("consumerGroup", "g").field("topic", topic).field("queueId", queue_id)
    }

    fn groups() -> GroupTable {
        let config = crate::protocol::subscription_group_config::SubscriptionGroupConfig::new("g");
        GroupTable::new(GroupMap {
            groups: std::iter::once(("g".into(), config.into())).collect(),
            ..GroupMap::default()
        })
        .1
    }

    #[actix::test]
    async fn group_without_offset_begins_at_zero_where_the_queue_is_young() {
        let store = TestStore::start(&[("T", 2)]).await;
        let (link, _client) = fake_client();
        let query = async |asked: RequestBuilder| {
            query_consumer_offset(&asked.from(&link), &store.offsets, &store.topics).await
        };
        let asked = |queue_id| of_queue(RequestCode::QUERY_CONSUMER_OFFSET, "T", queue_id);
        assert_eq!(field(query(asked(0)).await, "offset"), "0");
        for refused in [asked(0).field("setZeroIfNotFound", "false"), asked(2), asked(-1)] {
            let refused = refusal(query(refused).await);
            assert_eq!(refused.code(), ResponseCode::QUERY_NOT_FOUND);
            assert!(
                refused
                    .to_string()
                    .starts_with("Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first")
            );
        }
        let unknown = of_queue(RequestCode::QUERY_CONSUMER_OFFSET, "U", 0);
        assert_eq!(refusal(query(unknown).await).code(), ResponseCode::QUERY_NOT_FOUND);
        store.commit("g", "T", 0, 7).await;
        assert_eq!(field(query(asked(0).field("setZeroIfNotFound", "false")).await, "offset"), "7");
    }

    #[actix::test]
    async fn commit_is_checked_in_the_order_of_java() {
        let store = TestStore::start(&[("T", 1)]).await;
        let (link, _client) = fake_client();
        let groups = groups();
        let update = async |asked: RequestBuilder| {
            update_consumer_offset(&asked.from(&link), &store.offsets, &groups, &store.topics).await
        };
        let code = RequestCode::UPDATE_CONSUMER_OFFSET;
        let stranger = request(code).field("consumerGroup", "h").field("topic", "U");
        assert_eq!(refusal(update(stranger).await).code(), ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST);
        let unknown = request(code).field("consumerGroup", "g").field("topic", "U");
        assert_eq!(refusal(update(unknown).await).code(), ResponseCode::TOPIC_NOT_EXIST);
        let incomplete = refusal(update(of_queue(code, "T", 0)).await);
        assert_eq!(incomplete.code(), ResponseCode::INVALID_PARAMETER);
        assert_eq!(
            incomplete.to_string(),
            "request UPDATE_CONSUMER_OFFSET: the header field commitOffset is missing"
        );
        let negative = of_queue(code, "T", 0).field("commitOffset", -5);
        assert_eq!(refusal(update(negative).await).code(), ResponseCode::INVALID_PARAMETER);
        let answer = update(of_queue(code, "T", 0).field("commitOffset", 5)).await.unwrap().unwrap();
        assert_eq!((answer.code, answer.remark), (ResponseCode::SUCCESS, None));
        assert_eq!(store.offset("g", "T", 0).await, Some(5));
    }

    #[actix::test]
    async fn commit_during_a_reset_is_ignored_with_a_remark() {
        let store = TestStore::start(&[("T", 1)]).await;
        let (link, _client) = fake_client();
        let offsets = [(QueueId(0), QueueOffset(2))].into();
        store
            .offsets
            .send(ResetOffsets { group: "g".into(), topic: "T".into(), offsets })
            .await
            .unwrap()
            .unwrap();
        let asked =
            of_queue(RequestCode::UPDATE_CONSUMER_OFFSET, "T", 0).field("commitOffset", 9).from(&link);
        let answered = update_consumer_offset(&asked, &store.offsets, &groups(), &store.topics).await;
        let answer = answered.unwrap().unwrap();
        assert_eq!(answer.remark.as_deref(), Some("Offset has been previously reset"));
        assert_eq!(store.offset("g", "T", 0).await, Some(2));
    }

    #[actix::test]
    async fn extents_of_queues_that_are_there_and_that_are_not() {
        let store = TestStore::start(&[("T", 1)]).await;
        store.dispatch("T", 0, 5).await;
        let (link, _client) = fake_client();
        let asked = |code, topic| of_queue(code, topic, 0).from(&link);
        let max = max_offset(&asked(RequestCode::GET_MAX_OFFSET, "T"), &store.topics).await;
        assert_eq!(field(max, "offset"), "5");
        let max = max_offset(&asked(RequestCode::GET_MAX_OFFSET, "U"), &store.topics).await;
        assert_eq!(field(max, "offset"), "0");
        let min = min_offset(&asked(RequestCode::GET_MIN_OFFSET, "T"), &store.topics).await;
        assert_eq!(field(min, "offset"), "0");
        let earliest = asked(RequestCode::GET_EARLIEST_MSG_STORETIME, "U");
        assert_eq!(field(earliest_store_time(&earliest, &store.topics).await, "timestamp"), "-1");
        let search =
            of_queue(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, "U", 0).field("timestamp", 1).from(&link);
        assert_eq!(field(search_offset(&search, &store.topics).await, "offset"), "0");
        let incomplete =
            request(RequestCode::SEARCH_OFFSET_BY_TIMESTAMP).field("topic", "T").field("queueId", "x");
        let refused = refusal(search_offset(&incomplete.from(&link), &store.topics).await);
        assert!(
            refused.to_string().contains("SEARCH_OFFSET_BY_TIMESTAMP: the header field queueId"),
            "{refused}"
        );
    }
}

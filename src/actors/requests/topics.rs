//! Requests about topics: creation, deletion, settings, offsets of their queues.

use actix::{Addr, MailboxError};
use futures::future;

use crate::actors::broker_stats::{BrokerStats, ViewStats};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::topic_queue::{QueryExtent, QueueExtent};
use crate::actors::topic_table::{TopicEntry, TopicMap, TopicTable};
use crate::actors::topics::{
    CreateTopic, CreateTopics, DeleteTopic, DeleteUnusedFiles, TopicRules, Topics, is_system_topic,
    unknown_topic,
};
use crate::error::Refusal;
use crate::protocol::attributes::{Attributes, parse_change};
use crate::protocol::body::registration::TopicConfigSerializeWrapper;
use crate::protocol::body::route::TopicList;
use crate::protocol::body::settings::{CreateTopicListRequestBody, TopicConfigAndQueueMapping};
use crate::protocol::body::stats::{TopicOffset, TopicStatsTable};
use crate::protocol::data_version::DataVersion;
use crate::protocol::fastjson;
use crate::protocol::header::{self, GetAllTopicConfig, GetAllTopicConfigResponse, HeaderError, TopicHeader};
use crate::protocol::names::SYSTEM_TOPICS;
use crate::protocol::topic_config::{Permission, TopicConfig, TopicFilterType};
use crate::types::{BrokerName, MessageQueue, QueueId, TopicName};

/// Most topics in one page of all settings. RocketMQ: `splitMetadataSize`.
const PAGE_MAX: usize = 2_000;

/// UPDATE_AND_CREATE_TOPIC (17). Answered when the name servers know.
pub async fn create_topic(request: &Request, topics: &Addr<Topics>) -> Answered {
    const NAME: &str = "UPDATE_AND_CREATE_TOPIC";
    let config = asked_config(request.header(NAME)?, NAME)?;
    topics.send(CreateTopic { config }).await.map_err(gone)??;
    Ok(Some(Answer::success()))
}

/// UPDATE_AND_CREATE_TOPIC_LIST (18): all or none.
pub async fn create_topics(request: &Request, topics: &Addr<Topics>) -> Answered {
    let body: CreateTopicListRequestBody =
        request.json_body("UPDATE_AND_CREATE_TOPIC_LIST", "a list of topic settings")?;
    topics.send(CreateTopics { configs: body.topic_config_list }).await.map_err(gone)??;
    Ok(Some(Answer::success()))
}

/// DELETE_TOPIC_IN_BROKER (215). To delete what is not there is a success, as in Java.
pub async fn delete_topic(request: &Request, topics: &Addr<Topics>) -> Answered {
    let TopicHeader { topic } = request.header("DELETE_TOPIC_IN_BROKER")?;
    topics.send(DeleteTopic { topic }).await.map_err(gone)??;
    Ok(Some(Answer::success()))
}

/// GET_ALL_TOPIC_CONFIG (21): everything, or a page of it.
pub async fn all_topic_configs(request: &Request, table: &TopicTable) -> Answered {
    let asked: GetAllTopicConfig = request.header("GET_ALL_TOPIC_CONFIG")?;
    let map = table.load();
    let response = GetAllTopicConfigResponse { total_topic_num: map.topics.len() as i32 };
    Ok(Some(Answer::header(&response).with_json(&page(&map, &asked))))
}

/// GET_TOPIC_CONFIG (351).
pub async fn topic_config(request: &Request, table: &TopicTable) -> Answered {
    let TopicHeader { topic } = request.header("GET_TOPIC_CONFIG")?;
    let map = table.load();
    let entry = map.topics.get(&topic).ok_or_else(|| unknown_topic(&topic, &map))?;
    let body = TopicConfigAndQueueMapping { topic_config: entry.config.clone(), mapping_detail: None };
    Ok(Some(Answer::json(&body)))
}

/// GET_TOPIC_STATS_INFO (202): the extents of all queues.
pub async fn topic_stats(
    request: &Request,
    table: &TopicTable,
    stats: &Addr<BrokerStats>,
    broker_name: &BrokerName,
) -> Answered {
    let TopicHeader { topic } = request.header("GET_TOPIC_STATS_INFO")?;
    let entry = table.get(&topic).ok_or_else(|| unknown_topic(&topic, &table.load()))?;
    let queues = (0..entry.queue_nums()).filter_map(|id| entry.queue(QueueId(id)));
    let extents = future::join_all(queues.map(|queue| queue.send(QueryExtent))).await;
    let extents = extents.into_iter().collect::<Result<Vec<_>, _>>().map_err(gone)?;
    let put = ViewStats { name: "TOPIC_PUT_NUMS".to_owned(), key: topic.to_string() };
    // Nothing counted yet is no failure here.
    let put_tps = stats.send(put).await.map_err(gone)?.map_or(0.0, |stats| stats.stats_minute.tps);
    let body = stats_table(&entry, broker_name, &extents, put_tps);
    let body = fastjson::to_vec_java(&body).map_err(|error| Refusal::Failed(error.to_string()))?;
    Ok(Some(Answer::success().with_body(body.into())))
}

/// GET_SYSTEM_TOPIC_LIST_FROM_BROKER (305): the topics of the broker itself, and the names kept for it.
pub async fn system_topic_list(_: &Request, table: &TopicTable, rules: &TopicRules) -> Answered {
    let map = table.load();
    let own = map.topics.keys().filter(|topic| is_system_topic(topic, rules)).cloned();
    let mut topic_list: Vec<TopicName> = own.chain(SYSTEM_TOPICS.map(TopicName::from)).collect();
    topic_list.sort();
    topic_list.dedup();
    Ok(Some(Answer::json(&TopicList { topic_list, ..TopicList::default() })))
}

/// CLEAN_UNUSED_TOPIC (316).
pub async fn clean_unused_topics(_: &Request, topics: &Addr<Topics>) -> Answered {
    topics.send(DeleteUnusedFiles).await.map_err(gone)??;
    Ok(Some(Answer::success()))
}

fn asked_config(asked: header::CreateTopic, request: &'static str) -> Result<TopicConfig, Refusal> {
    let not_a = |field, value: &str, expected| {
        let error = HeaderError::NotA { field, value: value.to_owned(), expected };
        Refusal::Header { request, error }
    };
    let topic_filter_type = match asked.topic_filter_type.as_str() {
        "SINGLE_TAG" => TopicFilterType::SingleTag,
        "MULTI_TAG" => TopicFilterType::MultiTag,
        other => return Err(not_a("topicFilterType", other, "SINGLE_TAG or MULTI_TAG")),
    };
    let queue_nums = |field, value: i32| {
        u32::try_from(value).map_err(|_| not_a(field, &value.to_string(), "a number of queues"))
    };
    let attributes = match &asked.attributes {
        Some(change) => parse_change(change).map_err(|error| Refusal::Attribute(error.to_string()))?,
        None => Attributes::new(),
    };
    Ok(TopicConfig {
        read_queue_nums: queue_nums("readQueueNums", asked.read_queue_nums)?,
        write_queue_nums: queue_nums("writeQueueNums", asked.write_queue_nums)?,
        attributes,
        order: asked.order,
        perm: Permission(asked.perm),
        topic_filter_type,
        topic_name: asked.topic,
        topic_sys_flag: asked.topic_sys_flag,
    })
}

/// A client that asks for no page gets everything. One whose copy is of another version starts over.
fn page(map: &TopicMap, asked: &GetAllTopicConfig) -> TopicConfigSerializeWrapper {
    let mut topics: Vec<_> = map.topics.iter().collect();
    topics.sort_by_key(|(topic, _)| *topic);
    let paged = asked.topic_seq.is_some() || asked.max_topic_num.is_some();
    let (start, len) = if paged {
        let copy =
            asked.data_version.as_deref().and_then(|text| fastjson::from_str::<DataVersion>(text).ok());
        let start = if copy == Some(map.data_version) { asked.topic_seq.unwrap_or(0) } else { 0 };
        let len = asked.max_topic_num.unwrap_or(i32::MAX);
        (usize::try_from(start).unwrap_or(0), usize::try_from(len).unwrap_or(0).min(PAGE_MAX))
    } else {
        (0, topics.len())
    };
    let page = topics.into_iter().skip(start).take(len);
    TopicConfigSerializeWrapper {
        data_version: map.data_version,
        topic_config_table: page.map(|(topic, entry)| (topic.clone(), entry.config.clone())).collect(),
        ..TopicConfigSerializeWrapper::default()
    }
}

/// `extents` by queue id, from 0.
fn stats_table(
    entry: &TopicEntry,
    broker_name: &BrokerName,
    extents: &[QueueExtent],
    topic_put_tps: f64,
) -> TopicStatsTable {
    let row = |(id, extent): (usize, &QueueExtent)| {
        let queue = MessageQueue {
            broker_name: broker_name.clone(),
            queue_id: id as i32,
            topic: entry.name().clone(),
        };
        let offsets = TopicOffset {
            last_update_timestamp: extent.last_stored_at_ms.unwrap_or(0),
            max_offset: extent.max.0 as i64,
            min_offset: extent.min.0 as i64,
        };
        (queue, offsets)
    };
    TopicStatsTable { offset_table: extents.iter().enumerate().map(row).collect(), topic_put_tps }
}

/// Owners live as long as the broker does.
fn gone(_: MailboxError) -> Refusal {
    Refusal::ShuttingDown
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::response_code::ResponseCode;
    use crate::types::QueueOffset;

    fn entry(config: TopicConfig) -> Arc<TopicEntry> {
        Arc::new(TopicEntry::new(config, None, Arc::new(|_, _| unreachable!("no queue is started here"))))
    }

    fn map(topics: &[&str]) -> TopicMap {
        let topics = topics.iter().map(|name| ((*name).into(), entry(TopicConfig::new(*name, 1)))).collect();
        TopicMap { data_version: DataVersion { counter: 7, state_version: 0, timestamp: 9 }, topics }
    }

    fn asked(topic: &str) -> header::CreateTopic {
        header::CreateTopic {
            topic: topic.into(),
            default_topic: "TBW102".into(),
            read_queue_nums: 3,
            write_queue_nums: 4,
            perm: 6,
            topic_filter_type: "SINGLE_TAG".into(),
            topic_sys_flag: 0,
            order: true,
            attributes: Some("+message.type=FIFO".into()),
        }
    }

    #[test]
    fn header_becomes_settings_with_signed_attributes() {
        let config = asked_config(asked("T"), "R").unwrap();
        assert_eq!((config.read_queue_nums, config.write_queue_nums, config.order), (3, 4, true));
        assert_eq!(config.attributes["+message.type"], "FIFO");
    }

    #[test]
    fn malformed_settings_are_refused_by_field() {
        let refused = |asked| asked_config(asked, "R").unwrap_err();
        let filter = header::CreateTopic { topic_filter_type: "TWO_TAGS".into(), ..asked("T") };
        assert_eq!(
            refused(filter).to_string(),
            "request R: the header field topicFilterType is \"TWO_TAGS\", which is not SINGLE_TAG or MULTI_TAG"
        );
        let negative = header::CreateTopic { read_queue_nums: -1, ..asked("T") };
        assert!(refused(negative).to_string().contains("readQueueNums"));
        let unsigned = header::CreateTopic { attributes: Some("message.type=FIFO".into()), ..asked("T") };
        assert_eq!(refused(unsigned).code(), ResponseCode::SYSTEM_ERROR);
    }

    #[test]
    fn topic_stats_have_raw_keys() {
        let extents = [
            QueueExtent {
                min: QueueOffset(2),
                max: QueueOffset(10),
                last_stored_at_ms: Some(1_700),
                ..Default::default()
            },
            QueueExtent::default(),
        ];
        let table = stats_table(&entry(TopicConfig::new("T", 2)), &"broker-a".into(), &extents, 0.5);
        assert_eq!(
            String::from_utf8(fastjson::to_vec_java(&table).unwrap()).unwrap(),
            r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"lastUpdateTimestamp":1700,"maxOffset":10,"minOffset":2},{"brokerName":"broker-a","queueId":1,"topic":"T"}:{"lastUpdateTimestamp":0,"maxOffset":0,"minOffset":0}},"topicPutTps":0.5}"#
        );
    }

    #[test]
    fn pages_follow_the_version_of_the_copy() {
        let map = map(&["a", "b", "c", "d"]);
        let names = |topic_seq, data_version: &str, max_topic_num| {
            let data_version = Some(data_version.to_owned());
            let page = page(&map, &GetAllTopicConfig { topic_seq, data_version, max_topic_num });
            page.topic_config_table.keys().map(|name| name.to_string()).collect::<String>()
        };
        let version = r#"{"counter":7,"stateVersion":0,"timestamp":9}"#;
        let older = r#"{"counter":6,"stateVersion":0,"timestamp":9}"#;
        assert_eq!(names(None, "", None), "abcd");
        assert_eq!(names(Some(0), "", Some(2)), "ab");
        assert_eq!(names(Some(2), version, Some(2)), "cd");
        assert_eq!(names(Some(3), version, Some(10)), "d");
        assert_eq!(names(Some(4), version, Some(2)), "");
        assert_eq!(names(Some(2), older, Some(3)), "abc");
        assert_eq!(names(Some(-1), "not json", Some(-1)), "");
    }
}

//! Requests for single messages: by position, by key, and back to be consumed later.

use actix::Addr;
use bytes::{Bytes, BytesMut};

use crate::actors::key_index::{KeyIndex, QueryKey};
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::retry_router::{RetryRouter, SendBackMessage};
use crate::error::Refusal;
use crate::protocol::header::{QueryMessage, QueryMessageResponse, SendBack, ViewMessage};
use crate::protocol::message::RecordView;
use crate::protocol::properties::{self, names as property};
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::store::commit_log::CommitLogReader;
use crate::types::PhysicalOffset;

/// Messages that a query for a unique key is answered with, whatever it asks for (RocketMQ:
/// `defaultQueryMaxNum`).
const UNIQUE_KEY_MAX: i32 = 32;
/// Messages of one answer (RocketMQ: `maxMsgsNumBatch`).
const QUERY_MAX: i32 = 64;
/// Bytes of one answer; the first message is returned whatever its size.
const QUERY_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Clients before this ignore the maximum they send (V3_4_9).
const MAX_RECONSUME_SINCE: i32 = 121;

/// VIEW_MESSAGE_BY_ID (33): the record at a physical offset.
pub async fn view_message(request: &Request, log: &CommitLogReader) -> Answered {
    let ViewMessage { offset } = request.header("VIEW_MESSAGE_BY_ID")?;
    let record = position(offset).and_then(|offset| log.read_record(offset));
    let record = record.ok_or_else(|| {
        Refusal::Failed(format!(
            "can not find message by the offset, {offset}: none begins there, or it has expired"
        ))
    })?;
    Ok(Some(Answer::success().with_body(record)))
}

/// QUERY_MESSAGE (12): messages with a key, or with a unique key.
pub async fn query_message(
    request: &Request,
    log: &CommitLogReader,
    key_index: Option<&Addr<KeyIndex>>,
) -> Answered {
    let query: QueryMessage = request.header("QUERY_MESSAGE")?;
    let index = key_index.ok_or(Refusal::NotSupported {
        what: "finding messages by key",
        instead: "the key index is switched off on this broker (store.index_enabled)",
    })?;
    let max =
        if query.unique_key_query { UNIQUE_KEY_MAX } else { query.max_num.clamp(1, QUERY_MAX) } as usize;
    let lookup = QueryKey {
        topic: query.topic.clone(),
        key: query.key.clone(),
        begin_ms: query.begin_timestamp,
        end_ms: query.end_timestamp,
        max,
    };
    let found = index.send(lookup).await.map_err(|_| Refusal::ShuttingDown)?;
    let mut body = BytesMut::new();
    for record in found.positions.iter().filter_map(|at| log.read_record(*at)) {
        // Equal hashes bring strangers along.
        let wanted = RecordView::parse(&record)
            .is_ok_and(|view| view.topic() == &*query.topic && has_key(&view, &query.key));
        if wanted && (body.is_empty() || body.len() + record.len() <= QUERY_MAX_BYTES) {
            body.extend_from_slice(&record); // few and old: one body is simpler than slices
        }
    }
    if body.is_empty() {
        return Err(Refusal::NotFound(format!(
            "can not find message, maybe time range not correct: topic {} has none with key {} there",
            query.topic, query.key
        )));
    }
    let (at_ms, at) = found.last_update.unwrap_or((0, PhysicalOffset(0)));
    let header =
        QueryMessageResponse { index_last_update_timestamp: at_ms, index_last_update_phyoffset: at.0 as i64 };
    Ok(Some(Answer::header(&header).with_body(Bytes::from(body))))
}

fn has_key(record: &RecordView<'_>, key: &str) -> bool {
    properties::pairs(record.properties()).any(|(name, value)| match name {
        property::UNIQ_KEY => value == key,
        property::KEYS => value.split(' ').any(|word| word == key),
        _ => false,
    })
}

/// CONSUMER_SEND_MSG_BACK (36): the message comes again later, or goes to the dead letter queue.
pub async fn send_back(
    request: &Request,
    group: &SubscriptionGroupConfig,
    router: &Addr<RetryRouter>,
) -> Answered {
    let back: SendBack = request.header("CONSUMER_SEND_MSG_BACK")?;
    if group.retry_queue_nums <= 0 {
        // Nothing may come again in this group: the message is given up, as its settings say.
        return Ok(Some(Answer::success()));
    }
    let asked = back.max_reconsume_times.filter(|_| request.command.head.version >= MAX_RECONSUME_SINCE);
    let offset = position(back.offset).ok_or_else(|| {
        Refusal::Failed(format!("look message by offset failed, {}: positions are not negative", back.offset))
    })?;
    let send_back = SendBackMessage {
        group: back.group,
        offset,
        delay_level: back.delay_level,
        max_reconsume_times: asked.unwrap_or(group.retry_max_times),
        retry_queue_nums: group.retry_queue_nums.unsigned_abs(),
    };
    router.send(send_back).await.map_err(|_| Refusal::ShuttingDown)??;
    Ok(Some(Answer::success()))
}

fn position(offset: i64) -> Option<PhysicalOffset> {
    u64::try_from(offset).ok().map(PhysicalOffset)
}

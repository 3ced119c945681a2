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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use actix::Actor;

    use super::*;
    use crate::actors::dispatcher::{IndexEntries, IndexEntry};
    use crate::actors::request::ClientLink;
    use crate::actors::requests::testing::{field, refusal};
    use crate::actors::testing::log::{TestLog, message_with};
    use crate::actors::testing::{FakeClient, RequestBuilder, fake_client, request};
    use crate::protocol::message::StoredMessage;
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;
    use crate::store::index_file::IndexFileConfig;
    use crate::store::key_index::{KeyIndex as IndexFiles, hash_of};

    struct Bench {
        log: TestLog,
        index: Addr<KeyIndex>,
        link: Arc<ClientLink>,
        _client: FakeClient,
    }

    fn start() -> Bench {
        let log = TestLog::new();
        let config = IndexFileConfig { slots: 64, entries: 256 };
        let files = IndexFiles::open(Arc::new(log.files.clone()), PathBuf::from("/index"), config, None);
        let index = KeyIndex::new(files.unwrap(), 64).start();
        let (link, _client) = fake_client();
        Bench { log, index, link, _client }
    }

    impl Bench {
        /// Stores a message and indexes it under `indexed`.
        async fn store(&mut self, body: &str, pairs: &[(&str, &str)], indexed: &[&str]) -> PhysicalOffset {
            let physical_offset = self.log.append(message_with("T", body, pairs), 0).start;
            let entry =
                |key: &&str| IndexEntry { hash: hash_of("T", key), physical_offset, stored_at_ms: 1_000 };
            self.index.send(IndexEntries(indexed.iter().map(entry).collect())).await.unwrap();
            physical_offset
        }

        async fn query(&self, builder: RequestBuilder) -> Answered {
            query_message(&builder.from(&self.link), &self.log.reader, Some(&self.index)).await
        }

        async fn bodies(&self, builder: RequestBuilder) -> Vec<Bytes> {
            let answer = self.query(builder).await.unwrap().unwrap();
            StoredMessage::decode_all(answer.body).into_iter().map(|message| message.body).collect()
        }
    }

    fn query(key: &str) -> RequestBuilder {
        request(RequestCode::QUERY_MESSAGE).field("topic", "T").field("key", key)
    }

    #[actix::test]
    async fn message_is_viewed_at_its_position_and_nowhere_else() {
        let mut bench = start();
        bench.store("first", &[], &[]).await;
        let at = bench.store("second", &[], &[]).await;
        let view =
            |offset: i64| request(RequestCode::VIEW_MESSAGE_BY_ID).field("offset", offset).from(&bench.link);
        let answer = view_message(&view(at.0 as i64), &bench.log.reader).await.unwrap().unwrap();
        assert_eq!(StoredMessage::decode(&answer.body).unwrap().body, "second");
        for offset in [at.0 as i64 + 1, 1 << 40, -1] {
            let refused = refusal(view_message(&view(offset), &bench.log.reader).await);
            assert_eq!(refused.code(), ResponseCode::SYSTEM_ERROR, "{offset}");
        }
    }

    #[actix::test]
    async fn messages_are_found_by_every_key_and_strangers_left_out() {
        let mut bench = start();
        bench.store("a", &[("KEYS", "k1 k2"), ("UNIQ_KEY", "U")], &["k1", "k2", "U"]).await;
        // As if its keys had the hash of k1.
        bench.store("stranger", &[("KEYS", "k11 other")], &["k1"]).await;
        bench.store("b", &[("KEYS", "k1")], &["k1"]).await;
        assert_eq!(bench.bodies(query("k1")).await, ["b", "a"], "newest first");
        assert_eq!(bench.bodies(query("k2")).await, ["a"]);
        assert_eq!(bench.bodies(query("U").field("_UNIQUE_KEY_QUERY", true)).await, ["a"]);
        assert_eq!(field(bench.query(query("k2")).await, "indexLastUpdateTimestamp"), "1000");
    }

    #[actix::test]
    async fn as_many_are_found_as_asked_for() {
        let mut bench = start();
        for n in 0..70 {
            bench.store(&n.to_string(), &[("KEYS", "k")], &["k"]).await;
        }
        for (asked, count) in [("3", 3), ("0", 1), ("-5", 1), ("1000", QUERY_MAX as usize)] {
            assert_eq!(bench.bodies(query("k").field("maxNum", asked)).await.len(), count, "{asked}");
        }
    }

    #[actix::test]
    async fn nothing_found_is_no_error_and_no_index_is_said_so() {
        let bench = start();
        assert_eq!(refusal(bench.query(query("none")).await).code(), ResponseCode::QUERY_NOT_FOUND);
        let without = query_message(&query("k").from(&bench.link), &bench.log.reader, None).await;
        assert_eq!(refusal(without).code(), ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    }
}

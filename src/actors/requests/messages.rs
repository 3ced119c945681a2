//! Requests for single messages: by position, by key, by queue, and back to be consumed later.

use actix::Addr;
use bytes::Bytes;

use super::offsets::{extent_of, queue_of};
use crate::actors::consumer_groups::ConsumerGroupTable;
use crate::actors::key_index::{KeyIndex, QueryKey};
use crate::actors::message_expiry::MessageExpiry;
use crate::actors::request::{Answer, Answered, Request};
use crate::actors::retry_router::{RetryRouter, SendBackMessage};
use crate::actors::topic_queue::ReadUnits;
use crate::actors::topic_table::TopicTable;
use crate::actors::topics::unknown_topic;
use crate::error::Refusal;
use crate::protocol::body::stats::{ConsumeQueueData, QueryConsumeQueueResponseBody};
use crate::protocol::header::{QueryConsumeQueue, QueryMessage, QueryMessageResponse, SendBack, ViewMessage};
use crate::protocol::message::RecordView;
use crate::protocol::properties::{self, names as property};
use crate::protocol::subscription_group_config::SubscriptionGroupConfig;
use crate::store::commit_log::CommitLogReader;
use crate::store::consume_queue::ConsumeQueueUnit;
use crate::store::key_index::tag_key;
use crate::types::{PhysicalOffset, QueueOffset};

/// Messages that a query for a unique key is answered with, whatever it asks for (RocketMQ:
/// `defaultQueryMaxNum`).
const UNIQUE_KEY_MAX: i32 = 32;
/// Messages of one answer (RocketMQ: `maxMsgsNumBatch`).
const QUERY_MAX: i32 = 64;
/// Bytes of one answer; the first message is returned whatever its size.
const QUERY_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Messages that are looked at for one answer.
const CANDIDATES_MAX: usize = 16 * 1024;
/// Units of one answer.
const UNITS_MAX: i32 = 1_024;
/// Clients before this ignore the maximum they send (V3_4_9).
const MAX_RECONSUME_SINCE: i32 = 121;

/// VIEW_MESSAGE_BY_ID (33): the record at a physical offset.
pub async fn view_message(request: &Request, log: &CommitLogReader, expiry: &MessageExpiry) -> Answered {
    let ViewMessage { offset } = request.header("VIEW_MESSAGE_BY_ID")?;
    let record = position(offset).and_then(|offset| log.read_record(offset));
    let record = record.filter(|record| is_shown(record, expiry));
    let record = record.ok_or_else(|| {
        Refusal::Failed(format!(
            "can not find message by the offset, {offset}: none begins there, or it has expired"
        ))
    })?;
    Ok(Some(Answer::success().with_body(record)))
}

/// Whether a record is young enough for its topic.
fn is_shown(record: &Bytes, expiry: &MessageExpiry) -> bool {
    RecordView::parse(record).is_ok_and(|view| !expiry.hides(view.topic(), view.stored_at_ms()))
}

/// QUERY_MESSAGE (12): messages with a key, a unique key or a tag, newest first.
pub async fn query_message(
    request: &Request,
    log: &CommitLogReader,
    expiry: &MessageExpiry,
    key_index: Option<&Addr<KeyIndex>>,
) -> Answered {
    let query: QueryMessage = request.header("QUERY_MESSAGE")?;
    let index = key_index.ok_or(Refusal::NotSupported {
        what: "finding messages by key",
        instead: "the key index is switched off on this broker (store.index_enabled)",
    })?;
    let max =
        if query.unique_key_query { UNIQUE_KEY_MAX } else { query.max_num.clamp(1, QUERY_MAX) } as usize;
    let wanted = WantedMessage::from(&query)?;
    let mut lookup = QueryKey {
        topic: query.topic.clone(),
        key: if wanted.by_tag { tag_key(&query.key) } else { query.key.clone() },
        // The index rounds times down to seconds.
        begin_ms: query.begin_timestamp.saturating_sub(999),
        end_ms: query.end_timestamp,
        before: wanted.before,
        max,
    };
    let mut records: Vec<Bytes> = Vec::new();
    let mut body_bytes = 0;
    let mut last_update = None;
    // Equal hashes bring strangers along, and rounded times neighbours; what they took up is asked for again.
    'looking: for _ in 0..CANDIDATES_MAX / max {
        let found = index.send(lookup.clone()).await.map_err(|_| Refusal::ShuttingDown)?;
        last_update = found.last_update;
        let exhausted = found.positions.len() < max;
        lookup.before = found.positions.last().copied();
        let candidates = found.positions.into_iter().filter_map(|at| log.read_record(at));
        for record in candidates.filter(|record| wanted.is(record) && is_shown(record, expiry)) {
            let is_first = records.is_empty();
            body_bytes += record.len();
            if !is_first && body_bytes > QUERY_MAX_BYTES {
                break 'looking;
            }
            records.push(record);
            if records.len() == max {
                break 'looking;
            }
        }
        if exhausted {
            break;
        }
    }
    if records.is_empty() {
        return Err(Refusal::NotFound(format!(
            "can not find message, maybe time range not correct: topic {} has none with {} {} there",
            query.topic,
            if wanted.by_tag { "tag" } else { "key" },
            query.key
        )));
    }
    let (at_ms, at) = last_update.unwrap_or((0, PhysicalOffset(0)));
    let header =
        QueryMessageResponse { index_last_update_timestamp: at_ms, index_last_update_phyoffset: at.0 as i64 };
    // Few and old: one body is simpler than slices.
    Ok(Some(Answer::header(&header).with_body(records.concat().into())))
}

/// What the messages of an answer have in common, as the records themselves tell.
struct WantedMessage<'a> {
    query: &'a QueryMessage,
    by_tag: bool,
    /// They lie below this position.
    before: Option<PhysicalOffset>,
}

impl<'a> WantedMessage<'a> {
    fn from(query: &'a QueryMessage) -> Result<Self, Refusal> {
        let by_tag = match query.index_type.as_deref() {
            None | Some("" | "K" | "U") => false,
            Some("T") => true,
            Some(other) => {
                return Err(Refusal::Failed(format!(
                    "request QUERY_MESSAGE: the header field indexType is {other:?}, which is not K (key), U (unique key) or T (tag)"
                )));
            }
        };
        let last_key = query.last_key.as_deref().filter(|last| !last.is_empty());
        let before = last_key.map(|last| {
            let at = last.rsplit('@').next().and_then(|at| at.parse().ok());
            at.map(PhysicalOffset).ok_or_else(|| {
                Refusal::Failed(format!(
                    "request QUERY_MESSAGE: the header field lastKey is {last:?}, which does not end in @ and a physical offset"
                ))
            })
        });
        Ok(Self { query, by_tag, before: before.transpose()? })
    }

    fn is(&self, record: &[u8]) -> bool {
        let Self { query, .. } = self;
        RecordView::parse(record).is_ok_and(|view| {
            view.topic() == &*query.topic
                && (query.begin_timestamp..=query.end_timestamp).contains(&view.stored_at_ms())
                && self.has_key(&view)
        })
    }

    fn has_key(&self, record: &RecordView<'_>) -> bool {
        let key = &*self.query.key;
        properties::pairs(record.properties()).any(|(name, value)| match name {
            property::TAGS => self.by_tag && value == key,
            property::UNIQ_KEY => !self.by_tag && value == key,
            property::KEYS => !self.by_tag && value.split(' ').any(|word| word == key),
            _ => false,
        })
    }
}

/// QUERY_CONSUME_QUEUE (321): units of a queue as they are stored, and what the group, if one is named, subscribes to.
pub async fn query_consume_queue(
    request: &Request,
    topics: &TopicTable,
    consumers: &ConsumerGroupTable,
) -> Answered {
    let asked: QueryConsumeQueue = request.header("QUERY_CONSUME_QUEUE")?;
    let entry = topics.get(&asked.topic).ok_or_else(|| unknown_topic(&asked.topic, &topics.load()))?;
    let queue = queue_of(topics, &asked.topic, asked.queue_id).ok_or_else(|| Refusal::QueueOutOfRange {
        topic: asked.topic.clone(),
        queue_id: asked.queue_id,
        queues: entry.queue_nums(),
    })?;
    let extent = extent_of(&queue).await;
    let mut body = QueryConsumeQueueResponseBody {
        max_queue_index: extent.max.0 as i64,
        min_queue_index: extent.min.0 as i64,
        ..QueryConsumeQueueResponseBody::default()
    };
    if let Some(group) = asked.consumer_group.filter(|group| !group.is_empty()) {
        body.subscription_data = consumers.subscription(&group, &asked.topic).map(|known| known.data.clone());
        body.filter_data = Some(match body.subscription_data {
            // What Java's bloom filters knew; there are none here.
            Some(_) => "null".to_owned(),
            None => format!("{group}@{} is not online!", asked.topic),
        });
    }
    let offset = u64::try_from(asked.index).map_or(QueueOffset(u64::MAX), QueueOffset);
    if !(extent.min..extent.max).contains(&offset) {
        return Err(Refusal::NotFound(format!(
            "Index {} of queue {} of topic {} is not exist: the queue holds [{}, {})",
            asked.index, asked.queue_id, asked.topic, extent.min, extent.max
        )));
    }
    let max = asked.count.clamp(1, UNITS_MAX) as u32;
    let unit = |unit: ConsumeQueueUnit| ConsumeQueueData {
        physic_offset: unit.physical_offset.0 as i64,
        physic_size: unit.size_bytes as i32,
        tags_code: unit.tags_code,
        // `eval`, as in Java, is about units of the extended queue only.
        ..ConsumeQueueData::default()
    };
    body.queue_data = queue.send(ReadUnits { offset, max }).await?.into_iter().map(unit).collect();
    Ok(Some(Answer::json(&body)))
}

/// CONSUMER_SEND_MSG_BACK (36): the message comes again later, or goes to the dead letter queue.
pub async fn send_back(
    request: &Request,
    group: &SubscriptionGroupConfig,
    consumers: &ConsumerGroupTable,
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
        client: consumers.name_of(&back.group, &request.from),
        group: back.group,
        offset,
        delay_level: back.delay_level,
        max_reconsume_times: asked.unwrap_or(group.retry_max_times),
        retry_queue_nums: group.retry_queue_nums.unsigned_abs(),
        policy: group.group_retry_policy.clone(),
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

    use super::*;
    use crate::actors::dispatcher::{IndexEntries, IndexEntry};
    use crate::actors::request::ClientLink;
    use crate::actors::requests::testing::{TestStore, body, field, refusal};
    use crate::protocol::message::StoredMessage;
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;
    use crate::store::index_file::IndexFileConfig;
    use crate::store::key_index::{KeyIndex as IndexFiles, hash_of};
    use crate::testing::log::{TestLog, message_with};
    use crate::testing::{CLOCK_BEGINS, FakeClient, RequestBuilder, fake_client, request};

    struct Bench {
        log: TestLog,
        index: Addr<KeyIndex>,
        expiry: MessageExpiry,
        link: Arc<ClientLink>,
        _client: FakeClient,
    }

    fn start() -> Bench {
        let log = TestLog::new();
        let config = IndexFileConfig { slots: 64, entries: 256 };
        let files = IndexFiles::open(Arc::new(log.files.clone()), PathBuf::from("/index"), config, None);
        let index = KeyIndex::new(files.unwrap(), 64).start();
        let (link, _client) = fake_client();
        Bench { log, index, expiry: MessageExpiry::default(), link, _client }
    }

    impl Bench {
        /// Stores a message and indexes it under `indexed`.
        async fn store(&mut self, body: &str, pairs: &[(&str, &str)], indexed: &[&str]) -> PhysicalOffset {
            let physical_offset = self.log.append(message_with("T", body, pairs), 0).start;
            // As the index reads it back: rounded down to seconds from the first entry on.
            let stored_at_ms = CLOCK_BEGINS.0 - 600;
            let entry = |key: &&str| IndexEntry { hash: hash_of("T", key), physical_offset, stored_at_ms };
            self.index.send(IndexEntries(indexed.iter().map(entry).collect())).await.unwrap();
            physical_offset
        }

        async fn query(&self, builder: RequestBuilder) -> Answered {
            query_message(&builder.from(&self.link), &self.log.reader, &self.expiry, Some(&self.index)).await
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
        let answer = view_message(&view(at.0 as i64), &bench.log.reader, &MessageExpiry::default())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(StoredMessage::decode(&answer.body).unwrap().body, "second");
        for offset in [at.0 as i64 + 1, 1 << 40, -1] {
            let refused =
                refusal(view_message(&view(offset), &bench.log.reader, &MessageExpiry::default()).await);
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
        let updated = field(bench.query(query("k2")).await, "indexLastUpdateTimestamp");
        assert_eq!(updated, (CLOCK_BEGINS.0 - 600).to_string());
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
    async fn strangers_do_not_use_up_what_was_asked_for() {
        let mut bench = start();
        bench.store("old", &[("KEYS", "k")], &["k"]).await;
        bench.store("wanted", &[("KEYS", "k")], &["k"]).await;
        for n in 0..5 {
            bench.store(&format!("stranger {n}"), &[("KEYS", "x")], &["k"]).await;
        }
        assert_eq!(bench.bodies(query("k").field("maxNum", 1)).await, ["wanted"]);
        assert_eq!(bench.bodies(query("k").field("maxNum", 2)).await, ["wanted", "old"]);
    }

    #[actix::test]
    async fn tags_are_a_kind_of_key_of_their_own() {
        let mut bench = start();
        bench.store("tagged", &[("TAGS", "A"), ("KEYS", "k")], &["T#A", "k"]).await;
        bench.store("keyed", &[("KEYS", "A")], &["A"]).await;
        assert_eq!(bench.bodies(query("A").field("indexType", "T")).await, ["tagged"]);
        assert_eq!(bench.bodies(query("A").field("indexType", "K")).await, ["keyed"]);
        assert_eq!(bench.bodies(query("A")).await, ["keyed"]);
        let refused = refusal(bench.query(query("T#A")).await);
        assert_eq!(refused.code(), ResponseCode::QUERY_NOT_FOUND, "no key, though of that hash");
        let refused = refusal(bench.query(query("A").field("indexType", "X")).await);
        assert!(refused.to_string().contains("indexType is \"X\""), "{refused}");
    }

    #[actix::test]
    async fn last_key_goes_on_behind_it() {
        let mut bench = start();
        let mut at = Vec::new();
        for body in ["a", "b", "c"] {
            at.push(bench.store(body, &[("KEYS", "k")], &["k"]).await);
        }
        let last_key = format!("1000@T@K@k@U@{}", at[2]);
        assert_eq!(bench.bodies(query("k").field("lastKey", last_key)).await, ["b", "a"]);
        let refused = refusal(bench.query(query("k").field("lastKey", "1000@T@K@k@U@?")).await);
        assert!(refused.to_string().contains("lastKey"), "{refused}");
    }

    #[actix::test]
    async fn times_are_exact_to_the_millisecond() {
        let mut bench = start();
        bench.store("a", &[("KEYS", "k")], &["k"]).await;
        let stored_at = CLOCK_BEGINS.0;
        let between =
            |begin: i64, end: i64| query("k").field("beginTimestamp", begin).field("endTimestamp", end);
        assert_eq!(bench.bodies(between(stored_at, stored_at)).await, ["a"]);
        for (begin, end) in [(stored_at + 1, i64::MAX), (0, stored_at - 1)] {
            let refused = refusal(bench.query(between(begin, end)).await);
            assert_eq!(refused.code(), ResponseCode::QUERY_NOT_FOUND, "{begin}..={end}");
        }
    }

    #[actix::test]
    async fn units_are_shown_with_the_subscription_of_the_group() {
        let store = TestStore::start(&[("T", 1)]).await;
        store.dispatch("T", 0, 5).await;
        let (link, _client) = fake_client();
        store.subscribe("g", &link, &["T"]).await;
        let asked = |index: i64| {
            request(RequestCode::QUERY_CONSUME_QUEUE)
                .field("topic", "T")
                .field("queueId", 0)
                .field("index", index)
                .field("count", 2)
        };
        let show = async |asked: RequestBuilder| {
            query_consume_queue(&asked.from(&link), &store.topics, &store.consumers).await
        };
        let shown: QueryConsumeQueueResponseBody = body(show(asked(3)).await);
        assert_eq!((shown.min_queue_index, shown.max_queue_index), (0, 5));
        let units: Vec<_> =
            shown.queue_data.iter().map(|unit| (unit.physic_offset, unit.physic_size)).collect();
        assert_eq!(units, [(300, 100), (400, 100)]);
        assert_eq!((shown.filter_data, shown.subscription_data), (None, None));

        let of_group = async |group| {
            let shown: QueryConsumeQueueResponseBody =
                body(show(asked(0).field("consumerGroup", group)).await);
            (shown.filter_data.unwrap(), shown.subscription_data.map(|data| data.sub_string))
        };
        assert_eq!(of_group("g").await, ("null".to_owned(), Some("*".to_owned())));
        assert_eq!(of_group("h").await, ("h@T is not online!".to_owned(), None));

        for index in [-1, 5] {
            let refused = refusal(show(asked(index)).await);
            assert!(refused.to_string().contains("the queue holds [0, 5)"), "{refused}");
        }
        let code = async |asked| refusal(show(asked).await).code();
        assert_eq!(code(asked(0).field("queueId", 7)).await, ResponseCode::INVALID_PARAMETER);
        assert_eq!(code(asked(0).field("topic", "U")).await, ResponseCode::TOPIC_NOT_EXIST);
    }

    #[actix::test]
    async fn nothing_found_is_no_error_and_no_index_is_said_so() {
        let bench = start();
        assert_eq!(refusal(bench.query(query("none")).await).code(), ResponseCode::QUERY_NOT_FOUND);
        let without =
            query_message(&query("k").from(&bench.link), &bench.log.reader, &MessageExpiry::default(), None)
                .await;
        assert_eq!(refusal(without).code(), ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    }
}

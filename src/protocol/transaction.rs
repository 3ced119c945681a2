//! Transactions as records of the log tell of them, byte for byte RocketMQ's (`TransactionalMessageBridge`).
//!
//! ```text
//! half     │ topic HALF_TOPIC, queue 0; its real topic and queue in REAL_TOPIC and REAL_QID; transaction bits 0
//! ending   │ the message in its real topic, transaction bits COMMIT, prepared offset: position of the half;
//!          │ or given up, in TRANS_CHECK_MAX_TIME_TOPIC, prepared offset likewise (Java leaves that 0)
//! op       │ topic OP_TOPIC, queue 0, tag d; body: queue offsets of settled halves, "17,18,"
//! ```
//!
//! The ending itself says which half it ends, so a message and the fact that its half is settled are one record: there
//! is no moment between the two. The op message repeats it, for Java and for those who have read past the ending.

use std::time::Duration;

use bytes::Bytes;

use super::message::{PendingMessage, RecordView, StoredMessage};
use super::names::{HALF_TOPIC, OP_TOPIC, TRANSACTION_CHECK_MAX_TIME_TOPIC};
use super::properties::{self, PropertyList, names as property};
use super::sys_flag::TransactionType;
use crate::types::{GroupName, PhysicalOffset, QueueId, QueueOffset, TopicName};

/// Tag of an op message that names settled halves (RocketMQ: `TransactionalMessageUtil.REMOVE_TAG`).
const SETTLED_TAG: &str = "d";
/// Largest body of an op message (RocketMQ: `transactionOpMsgMaxSize`), bytes.
pub const OP_BODY_MAX_BYTES: usize = 4096;

/// How a transaction may end.
///
/// ```
/// use telstar::protocol::Decision;
/// use telstar::testing::{Scenario, calls::*};
///
/// # #[actix::main]
/// # async fn main() {
/// let broker = Scenario::begin().await.broker("broker").topic("orders", 1).start().await;
/// let mut shop = broker.client("shop");
/// for (body, decision) in [("pay 7", Decision::Rollback), ("pay 8", Decision::Commit)] {
///     let half = shop.succeed(send_to("orders", 0, body).half("shop")).await;
///     shop.succeed(end_transaction("shop", &half, decision)).await;
/// }
/// let paid = shop.pull(pull_from("bank", "orders", 0, 0)).await;
/// assert_eq!((paid.len(), &paid[0].body[..]), (1, &b"pay 8"[..]));
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Its message can be consumed.
    Commit,
    /// Its message is forgotten.
    Rollback,
    /// Nobody could tell: kept for people to look at, in a topic of the broker's.
    GiveUp,
}

impl Decision {
    /// The word for what has happened.
    #[doc(hidden)]
    pub fn done(self) -> &'static str {
        match self {
            Self::Commit => "committed",
            Self::Rollback => "rolled back",
            Self::GiveUp => "given up after its last check",
        }
    }
}

/// Hash of a transaction's unique key (FNV-1a). It is kept on disk, so it never changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TransactionKey(pub u64);

impl TransactionKey {
    pub fn of(unique_key: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        Self(unique_key.bytes().fold(0xCBF2_9CE4_8422_2325, step))
    }

    fn of_properties(text: &[u8]) -> Self {
        Self::of(properties::get(text, property::UNIQ_KEY).unwrap_or_default())
    }
}

/// What one record says of transactions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionFact {
    /// Where the record lies.
    pub at: PhysicalOffset,
    pub what: Told,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// A transaction has begun.
    Begun(HalfRecord),
    /// The half at `half_at` has ended, and `at` is its ending.
    Ended { half_at: PhysicalOffset, key: TransactionKey, decision: Decision },
    /// These halves, by their queue offsets, are settled in one way or the other.
    Settled(Vec<QueueOffset>),
}

/// What is kept in memory of a half message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HalfRecord {
    pub offset: QueueOffset,
    pub key: TransactionKey,
    pub group: GroupName,
    pub stored_at_ms: i64,
    /// How long the producer asks not to be checked.
    pub immunity: Option<Duration>,
    /// What an earlier owner, a Java broker, has checked.
    pub checks: u32,
}

impl HalfRecord {
    pub fn of(record: &RecordView<'_>) -> Self {
        let mut half = Self {
            offset: record.queue_offset(),
            key: TransactionKey::of(""),
            group: GroupName::default(),
            stored_at_ms: record.stored_at_ms(),
            immunity: None,
            checks: 0,
        };
        for (name, value) in properties::pairs(record.properties()) {
            match name {
                property::UNIQ_KEY => half.key = TransactionKey::of(value),
                property::PRODUCER_GROUP => half.group = value.into(),
                property::CHECK_IMMUNITY_TIME_IN_SECONDS => {
                    half.immunity = value.parse().ok().map(Duration::from_secs)
                }
                property::TRANSACTION_CHECK_TIMES => half.checks = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        half
    }
}

impl TransactionFact {
    /// What the record at `at` says; nothing, as nearly every record does.
    pub fn of(at: PhysicalOffset, record: &RecordView<'_>) -> Option<Self> {
        let what = match record.topic() {
            HALF_TOPIC => Told::Begun(HalfRecord::of(record)),
            OP_TOPIC => Told::Settled(settled_halves(record)?),
            TRANSACTION_CHECK_MAX_TIME_TOPIC => ended(record, Decision::GiveUp)?,
            _ if TransactionType::of(record.sys_flag()) == TransactionType::Commit => {
                ended(record, Decision::Commit)?
            }
            _ => return None,
        };
        Some(Self { at, what })
    }
}

fn ended(record: &RecordView<'_>, decision: Decision) -> Option<Told> {
    let half_at = PhysicalOffset(u64::try_from(record.prepared_transaction_offset()).ok()?);
    // Copies of a committed message, a retry for one, keep its bits and say 0; the key tells them from a half at 0.
    Some(Told::Ended { half_at, key: TransactionKey::of_properties(record.properties()), decision })
}

fn settled_halves(record: &RecordView<'_>) -> Option<Vec<QueueOffset>> {
    if properties::get(record.properties(), property::TAGS) != Some(SETTLED_TAG) {
        return None;
    }
    let body = str::from_utf8(record.body()).ok()?;
    Some(body.split(',').filter_map(|offset| offset.trim().parse().ok()).map(QueueOffset).collect())
}

/// What is added to the properties of a message that becomes a half.
pub fn half_properties(unique_key: &str, real_topic: &str, real_queue: QueueId) -> Vec<u8> {
    let mut text = Vec::with_capacity(64 + unique_key.len() + real_topic.len());
    properties::push(&mut text, property::REAL_TOPIC, real_topic);
    properties::push(&mut text, property::REAL_QUEUE_ID, &real_queue.to_string());
    properties::push(&mut text, property::TRANSACTION_ID, unique_key);
    text
}

/// A half message as it lies in the log.
#[derive(Clone, Debug)]
pub struct HalfMessage {
    stored: StoredMessage,
    record: HalfRecord,
    pub real_topic: TopicName,
    pub real_queue: QueueId,
}

impl HalfMessage {
    /// `None` when the record is no half message, or belongs nowhere.
    pub fn decode(record: &Bytes) -> Option<Self> {
        let stored = StoredMessage::decode(record).ok().filter(|stored| *stored.topic == *HALF_TOPIC)?;
        let half = HalfRecord::of(&RecordView::parse(record).ok()?);
        let real_topic = TopicName::from(stored.property(property::REAL_TOPIC)?);
        let real_queue = stored.property(property::REAL_QUEUE_ID)?.parse().ok()?;
        Some(Self { stored, record: half, real_topic, real_queue: QueueId(real_queue) })
    }

    pub fn property(&self, name: &str) -> Option<&str> {
        self.stored.property(name)
    }

    /// What is kept of it in memory.
    pub fn record(&self) -> &HalfRecord {
        &self.record
    }

    pub fn offset(&self) -> QueueOffset {
        self.stored.queue_offset
    }

    pub fn body_len(&self) -> usize {
        self.stored.body.len()
    }

    pub fn stored_at_ms(&self) -> i64 {
        self.stored.stored_at_ms
    }

    /// The message as its consumers get it: with its properties, TRAN_MSG included, but for those that say where it goes, as
    /// in Java.
    pub fn committed(&self) -> PendingMessage {
        let stored = &self.stored;
        let is_kept =
            |(name, _): &(&str, &str)| ![property::REAL_TOPIC, property::REAL_QUEUE_ID].contains(name);
        PendingMessage {
            sys_flag: TransactionType::Commit.set_in(stored.sys_flag),
            prepared_transaction_offset: stored.physical_offset.0 as i64,
            properties: properties::encode(properties::pairs(&stored.properties).filter(is_kept)),
            ..self.copy(self.real_topic.clone(), self.real_queue)
        }
    }

    /// The message as it is kept for people, when nobody could tell how it ends.
    pub fn given_up(&self) -> PendingMessage {
        PendingMessage {
            prepared_transaction_offset: self.stored.physical_offset.0 as i64,
            ..self.copy(TRANSACTION_CHECK_MAX_TIME_TOPIC.into(), QueueId(0))
        }
    }

    fn copy(&self, topic: TopicName, queue_id: QueueId) -> PendingMessage {
        let stored = &self.stored;
        PendingMessage {
            topic,
            queue_id,
            flag: stored.flag,
            sys_flag: stored.sys_flag,
            born_at_ms: stored.born_at_ms,
            born_host: stored.born_host,
            store_host: stored.store_host,
            reconsume_times: stored.reconsume_times,
            prepared_transaction_offset: 0,
            body: stored.body.clone(),
            properties: stored.properties.clone(),
            extra_properties: Bytes::new(),
        }
    }

    /// The record that a producer is shown when it is asked for the `checks`-th time: under its real topic.
    pub fn shown_to_producer(&self, checks: u32) -> Bytes {
        let mut properties = PropertyList::decode(&self.stored.properties);
        properties.set(property::TRANSACTION_CHECK_TIMES, checks.to_string());
        let copy = self.copy(self.real_topic.clone(), self.real_queue);
        let message = PendingMessage { properties: properties.encode(), ..copy };
        let mut record = vec![0; message.record_len()];
        let StoredMessage { queue_offset, physical_offset, stored_at_ms, .. } = self.stored;
        message.encode_into(&mut record, queue_offset, physical_offset, crate::clock::WallMs(stored_at_ms));
        record.into()
    }
}

/// A message of [`TRANSACTION_CHECK_MAX_TIME_TOPIC`] as a half that is checked anew; `None` when it is none.
pub fn half_again(given_up: &Bytes) -> Option<PendingMessage> {
    let stored = StoredMessage::decode(given_up).ok()?;
    if *stored.topic != *TRANSACTION_CHECK_MAX_TIME_TOPIC {
        return None;
    }
    let mut properties = PropertyList::decode(&stored.properties);
    properties.get(property::REAL_TOPIC)?;
    properties.set(property::TRANSACTION_CHECK_TIMES, "0");
    Some(PendingMessage {
        topic: HALF_TOPIC.into(),
        queue_id: QueueId(0),
        flag: stored.flag,
        sys_flag: stored.sys_flag,
        born_at_ms: stored.born_at_ms,
        born_host: stored.born_host,
        store_host: stored.store_host,
        reconsume_times: stored.reconsume_times,
        prepared_transaction_offset: 0,
        body: stored.body,
        properties: properties.encode(),
        extra_properties: Bytes::new(),
    })
}

/// The op message that says `halves` are settled.
pub fn op_message(
    halves: &[QueueOffset],
    host: std::net::SocketAddr,
    now: crate::clock::WallMs,
) -> PendingMessage {
    let mut body = String::with_capacity(halves.len() * 8);
    for half in halves {
        body.push_str(&half.to_string());
        body.push(',');
    }
    PendingMessage {
        topic: OP_TOPIC.into(),
        queue_id: QueueId(0),
        flag: 0,
        sys_flag: 0,
        born_at_ms: now.0,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: body.into(),
        properties: properties::encode([(property::TAGS, SETTLED_TAG)]),
        extra_properties: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMs;

    const HOST: ([u8; 4], u16) = ([10, 0, 0, 1], 10_911);

    fn record(message: &PendingMessage, offset: u64, at: u64) -> Bytes {
        let mut bytes = vec![0; message.record_len()];
        message.encode_into(&mut bytes, QueueOffset(offset), PhysicalOffset(at), WallMs(77));
        bytes.into()
    }

    fn half() -> PendingMessage {
        let pairs = [("UNIQ_KEY", "U1"), ("PGROUP", "pg"), ("TRAN_MSG", "true")];
        let properties = properties::encode(
            pairs.into_iter().chain([("CHECK_IMMUNITY_TIME_IN_SECONDS", "9"), ("REAL_QID", "3")]),
        );
        PendingMessage {
            body: "hello".into(),
            properties,
            extra_properties: half_properties("U1", "orders", QueueId(3)).into(),
            topic: HALF_TOPIC.into(),
            ..op_message(&[], HOST.into(), WallMs(1))
        }
    }

    fn fact_of(record: &Bytes, at: u64) -> Option<Told> {
        let view = RecordView::parse(record).unwrap();
        TransactionFact::of(PhysicalOffset(at), &view).map(|fact| fact.what)
    }

    #[test]
    fn half_tells_who_began_it_and_when_it_may_be_checked() {
        let Some(Told::Begun(begun)) = fact_of(&record(&half(), 5, 1_000), 1_000) else { panic!("a half") };
        assert_eq!((begun.offset, &*begun.group), (QueueOffset(5), "pg"));
        assert_eq!((begun.key, begun.stored_at_ms), (TransactionKey::of("U1"), 77));
        assert_eq!((begun.immunity, begun.checks), (Some(Duration::from_secs(9)), 0));
    }

    #[test]
    fn both_endings_name_their_half() {
        let half = HalfMessage::decode(&record(&half(), 5, 1_000)).unwrap();
        let key = TransactionKey::of("U1");
        for (message, decision) in [(half.committed(), Decision::Commit), (half.given_up(), Decision::GiveUp)]
        {
            let told = fact_of(&record(&message, 0, 2_000), 2_000);
            assert_eq!(told, Some(Told::Ended { half_at: PhysicalOffset(1_000), key, decision }));
        }
        let committed = half.committed();
        let names: Vec<_> = properties::pairs(&committed.properties).map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["UNIQ_KEY", "PGROUP", "TRAN_MSG", "CHECK_IMMUNITY_TIME_IN_SECONDS", "__transactionId__"]
        );
        assert_eq!((&*committed.topic, committed.queue_id), ("orders", QueueId(3)));
        assert_eq!(TransactionType::of(committed.sys_flag), TransactionType::Commit);
        assert_eq!(properties::get(&committed.properties, "TRAN_MSG"), Some("true"), "as Java stores it");
    }

    #[test]
    fn op_message_names_settled_halves_in_every_form_java_wrote() {
        let op = op_message(&[QueueOffset(17), QueueOffset(18)], HOST.into(), WallMs(1));
        assert_eq!(&op.body[..], b"17,18,");
        let told = |body: &'static str| {
            fact_of(&record(&PendingMessage { body: body.into(), ..op.clone() }, 0, 9), 9)
        };
        assert_eq!(told("17,18,"), Some(Told::Settled(vec![QueueOffset(17), QueueOffset(18)])));
        assert_eq!(told("17"), Some(Told::Settled(vec![QueueOffset(17)])), "before 5.0");
        let other = PendingMessage { properties: properties::encode([("TAGS", "x")]), ..op.clone() };
        assert_eq!(fact_of(&record(&other, 0, 9), 9), None);
    }

    #[test]
    fn ordinary_messages_say_nothing() {
        let plain = PendingMessage { topic: "orders".into(), ..half() };
        assert_eq!(fact_of(&record(&plain, 0, 9), 9), None);
    }

    #[test]
    fn producer_is_shown_the_message_where_it_belongs() {
        let half = HalfMessage::decode(&record(&half(), 5, 1_000)).unwrap();
        let shown = StoredMessage::decode(&half.shown_to_producer(2)).unwrap();
        assert_eq!((&*shown.topic, shown.queue_id), ("orders", QueueId(3)));
        assert_eq!((shown.queue_offset, shown.physical_offset), (QueueOffset(5), PhysicalOffset(1_000)));
        assert_eq!(properties::get(&shown.properties, "TRANSACTION_CHECK_TIMES"), Some("2"));
        assert_eq!(&shown.body[..], b"hello");
    }

    #[test]
    fn given_up_half_can_be_checked_again() {
        let half = HalfMessage::decode(&record(&half(), 5, 1_000)).unwrap();
        let again = half_again(&record(&half.given_up(), 0, 3_000)).unwrap();
        let Some(Told::Begun(begun)) = fact_of(&record(&again, 6, 4_000), 4_000) else { panic!("a half") };
        assert_eq!((begun.key, begun.checks), (TransactionKey::of("U1"), 0));
        assert!(half_again(&record(&half.committed(), 0, 3_000)).is_none());
    }
}
